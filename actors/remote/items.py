"""What two nodes tell each other beside messages: the items of a link's control frames. Values only.

An item that speaks of a channel means the channel of the direction it says: `Open` and `Want` come from the
sender of its messages, `Opened`, `Closed`, `Credit`, `Acked` and `Dropped` from their receiver.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

FIRST_CREDIT: Final = 64
"""Messages that may be sent on a channel before the receiver has said how many it takes."""

LONGEST_NAME: Final = 1_024
"""Characters of a path or name that a peer asks for, at most."""
LONGEST_TEXT: Final = 1_000
"""Characters of a text for people, at most."""

Channel = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(max_length=LONGEST_NAME)]
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]

Lost = Literal["unknown", "dead", "many"]
"""Why a channel leads nowhere: no such name, or none that this peer may reach; it has stopped; too many channels."""
Failure = Literal["stopped", "unknown", "full", "expired", "cycle", "reply", "refused"]
"""How an ask failed at the other node."""


class Item(Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """Base of all items."""


class Open(Item, frozen=True, tag=1):
    """The frames of `channel` are for the actor `path` of your node."""

    channel: Channel
    path: Name


class Opened(Item, frozen=True, tag=2):
    """It takes messages with these tags; `allowed` may be sent on the channel, counted from its opening."""

    channel: Channel
    allowed: Count
    takes: tuple[str, ...]
    limit: Count


class Closed(Item, frozen=True, tag=3):
    """The channel leads nowhere (any more). What was sent on it and not handled is a dead letter here."""

    channel: Channel
    reason: Lost
    detail: Text = ""


class Credit(Item, frozen=True, tag=4):
    """`allowed` messages may be sent on the channel by now, counted from its opening."""

    channel: Channel
    allowed: Count


class Dropped(Item, frozen=True, tag=5):
    """`count` messages of the channel were refused, which the sender had been told were taken."""

    channel: Channel
    count: Count
    reason: Text


class Fail(Item, frozen=True, tag=6):
    """The ask `id` failed. `exit` and `detail` say why its target ended, `names` are what it takes, or the cycle."""

    id: Count
    kind: Failure
    target: Name
    exit: Text = ""
    detail: Text = ""
    names: tuple[str, ...] = ()
    limit: Count = 0


class Cancel(Item, frozen=True, tag=7):
    """The asker of `id` was cancelled, and wants its handler to end."""

    id: Count


class Watch(Item, frozen=True, tag=8):
    """Tell the end of the present incarnation of `path`, once."""

    id: Count
    path: Name


class Unwatch(Item, frozen=True, tag=9):
    """Forget the watch `id`."""

    id: Count


class Ended(Item, frozen=True, tag=10):
    """The one notice of the watch `id`."""

    id: Count
    incarnation: Count
    kind: Text
    detail: Text
    restarting: bool


class Find(Item, frozen=True, tag=11):
    """Is there an actor of this path or short name?"""

    id: Count
    name: Name


class Found(Item, frozen=True, tag=12):
    """Its path; "" when there is none. `detail` says why, if there is something to say."""

    id: Count
    path: Name
    detail: Text = ""


class Acked(Item, frozen=True, tag=13):
    """Of the reliable messages for `path`, all up to `number` are taken; with `refused`, this one alone is not."""

    path: Name
    number: Count
    refused: Literal["", "full", "dead", "unknown"] = ""


class Want(Item, frozen=True, tag=14):
    """I hold reliable messages for `path` from `first` on: all before are acknowledged."""

    path: Name
    first: Count


def said(text: str) -> str:
    """A text for people as it may travel: cut, and without what UTF-8 cannot write."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode()


Control = (
    Open | Opened | Closed | Credit | Dropped | Fail | Cancel | Watch | Unwatch | Ended | Find | Found | Acked | Want
)
