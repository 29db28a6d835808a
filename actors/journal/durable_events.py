"""Events of plain actors with declared state and of durable messages. They are in the streams `@actors/N`.

All actors of a node share one stream, so that what one has sent is never in the journal without what made it send it.
It begins with what there is to know (`ActorsKept`), so whatever is older can be removed: see `actors.durable.segments`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from understudy.actors.journal.event import Event

ACTORS: Final = "@actors/"
"""What the name of such a stream begins with; its number follows, counted from 1."""


TEXT: Final = 1_000
"""Characters that bodies are written together in, as far as they are shorter: a text of 1 KiB is stored apart."""


class Sent(Struct, frozen=True, gc=False):
    """One durable message. `id` counts from 1 in a journal; `body` is its JSON, `tag` its type's; `by` and `to` paths.

    `by` is "" for code outside of actors.
    """

    id: int
    to: str
    by: str
    tag: str
    body: str


class Batch(Struct, frozen=True, gc=False, array_like=True):
    """Messages of one sender to one actor, of one type: as `Sent`, with one id each, and their bodies in lines.

    JSON as it is written here has no line ends, so several short ones are one text: it is written and read faster.
    """

    to: str
    by: str
    tag: str
    ids: tuple[int, ...]
    bodies: tuple[str, ...]


def packed(messages: Iterable[Sent]) -> tuple[Batch, ...]:
    """Messages as they are written."""
    groups: dict[tuple[str, str, str], list[Sent]] = {}
    for sent in messages:
        key = (sent.to, sent.by, sent.tag)
        group = groups.get(key)
        if group is None:
            groups[key] = [sent]
        else:
            group.append(sent)
    return tuple([_batch(key, group) for key, group in groups.items()])


def _batch(key: tuple[str, str, str], group: list[Sent]) -> Batch:
    if len(group) == 1:
        return Batch(*key, (group[0].id,), (group[0].body,))
    texts: list[str] = []
    lines: list[str] = []
    size = 0
    for sent in group:
        body = sent.body
        size += len(body) + 1
        if size > TEXT and lines:
            texts.append("\n".join(lines))
            lines, size = [], len(body)
        lines.append(body)
    texts.append("\n".join(lines))
    return Batch(*key, tuple([sent.id for sent in group]), tuple(texts))


def unpacked(batches: Iterable[Batch]) -> Iterator[Sent]:
    """Messages as they were sent, those of a batch in their order. Raises `ValueError` for a batch that is none."""
    for batch in batches:
        lines = [line for text in batch.bodies for line in text.split("\n")]
        for id, body in zip(batch.ids, lines, strict=True):
            yield Sent(id, batch.to, batch.by, batch.tag, body)


class Handled(Struct, frozen=True, gc=False, array_like=True):
    """What handlers of one actor that ended well have changed, all or nothing.

    `state` is its new state as JSON, "" when it is as it was; `consumed` the messages that are done with; `sent` what
    the handlers sent.
    """

    actor: str
    state: str = ""
    consumed: tuple[int, ...] = ()
    sent: tuple[Batch, ...] = ()


class Tried(Struct, frozen=True, gc=False, array_like=True):
    """A durable message was handled in vain: `tries` times by now, last with `error`. `dead`: it is not tried again."""

    id: int
    to: str
    tries: int
    error: str = ""
    dead: bool = False


class ActorsWorked(Event, frozen=True):
    """What was accepted from outside of handlers (`sent`), and what handlers did, in one moment."""

    sent: tuple[Batch, ...] = ()
    handled: tuple[Handled, ...] = ()
    tried: tuple[Tried, ...] = ()


class ActorsKept(Event, frozen=True):
    """What there is to know of all actors when a stream begins; several in a row, the last one with `more` False.

    `next` is the id of the next message. `states`: path and JSON. `waiting`: messages that are accepted and not
    consumed, oldest first; `tried`: those among them, and among `dead`, that were handled in vain.
    """

    next: int
    states: tuple[tuple[str, str], ...] = ()
    waiting: tuple[Batch, ...] = ()
    dead: tuple[Batch, ...] = ()
    tried: tuple[Tried, ...] = ()
    more: bool = False
