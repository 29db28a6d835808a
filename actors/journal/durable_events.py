"""Events of plain actors with declared state and of durable messages. They are in the streams `@actors/N`.

All actors of a node share one stream, so that what one has sent is never in the journal without what made it send it.
It begins with what there is to know (`ActorsKept`), so whatever is older can be removed: see `actors.durable.segments`.
"""

from __future__ import annotations

from msgspec import Struct

from understudy.actors.journal.event import Event

ACTORS = "@actors/"
"""What the name of such a stream begins with; its number follows, counted from 1."""


class Sent(Struct, frozen=True, gc=False, array_like=True):
    """One durable message. `id` counts from 1 in a journal; `body` is its JSON, `tag` its type's; `by` and `to` paths.

    `by` is "" for code outside of actors.
    """

    id: int
    to: str
    by: str
    tag: str
    body: str


class Handled(Struct, frozen=True, gc=False, array_like=True):
    """What handlers of one actor that ended well have changed, all or nothing.

    `state` is its new state as JSON, "" when it is as it was; `consumed` the messages that are done with; `sent` what
    the handlers sent.
    """

    actor: str
    state: str = ""
    consumed: tuple[int, ...] = ()
    sent: tuple[Sent, ...] = ()


class Tried(Struct, frozen=True, gc=False, array_like=True):
    """A durable message was handled in vain: `tries` times by now, last with `error`. `dead`: it is not tried again."""

    id: int
    to: str
    tries: int
    error: str = ""
    dead: bool = False


class ActorsWorked(Event, frozen=True):
    """What was accepted from outside of handlers (`sent`), and what handlers did, in one moment."""

    sent: tuple[Sent, ...] = ()
    handled: tuple[Handled, ...] = ()
    tried: tuple[Tried, ...] = ()


class ActorsKept(Event, frozen=True):
    """What there is to know of all actors when a stream begins; several in a row, the last one with `more` False.

    `next` is the id of the next message. `states`: path and JSON. `waiting`: messages that are accepted and not
    consumed, oldest first; `tried`: those among them, and among `dead`, that were handled in vain.
    """

    next: int
    states: tuple[tuple[str, str], ...] = ()
    waiting: tuple[Sent, ...] = ()
    dead: tuple[Sent, ...] = ()
    tried: tuple[Tried, ...] = ()
    more: bool = False
