"""What a node needs of a connection to another one, and what it offers to it. Implemented in `transports`.

A link is made when both sides know who the other is. Whatever is sent over one link in one order for one channel
arrives in that order, or the link is lost; nothing arrives twice. A lost link never comes back: the next connection is
another link. Everything here is called in the event loop of the node.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

from understudy.actors.remote.items import Control

Hop = tuple[str, int, int, str]
"""One request of a chain that began elsewhere: node, its epoch, the id of the ask there, the path of who asked."""


# Any: a message of a type that the channel's target takes
Request = tuple[int, float, Any] | tuple[int, float, Any, tuple[Hop, ...]]
"""An ask as it arrives: its id, the seconds left of its deadline, the message, who waits for it, the first first."""


ENCODE: Final = msgspec.msgpack.Encoder().encode_into
"""How messages are written."""
SMALL: Final = 2_048
"""Bytes of a message that may be written to a lane."""


class Lane:
    """A place in the frame that is open, where one address writes its messages itself; see `Link.lend`.

    `left` messages of at most `SMALL` bytes may be written to the end of `buffer`, each takes one off. 0: none is lent.
    """

    __slots__ = ("buffer", "left", "lent", "unused")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.left = self.lent = self.unused = 0

    def gather(self) -> int:
        """The link takes the place back: how many messages were written."""
        written = self.lent - self.left
        self.unused += self.left
        self.left = self.lent = 0
        return written

    def settle(self) -> int:
        """The address writes no more: how many of the messages it was lent, since the last time, it has not used."""
        unused = self.unused + self.left
        self.lent -= self.left
        self.left = self.unused = 0
        return unused


class Unreadable(Struct, frozen=True):
    """In place of a numbered message that could not be read: its number is used up."""

    reason: str


class Link(Protocol):
    """One connection. `name` and `epoch` are the other node's; `crowded`: more waits to be written than should, and
    nothing but replies and control is to be sent now.

    What cannot be written raises `UsageError` naming the field, and a message over the limit of a frame, too; nothing
    was sent then.
    """

    name: str
    epoch: int
    crowded: bool

    # Any: a message or a reply of any type that can be written
    def tell(self, channel: int, message: Any) -> None:
        """Send a message."""
        ...

    def lend(self, channel: int, lane: Lane, most: int) -> int:
        """Let the address of `channel`, whose message was told last, write up to `most` more to `lane` itself.

        How many it may; 0: none. Whatever else is sent or written takes the place back.
        """
        ...

    def tell_surely(self, channel: int, number: int, message: Any) -> None:
        """Send a message that is acknowledged and repeated by its number."""
        ...

    def ask(
        self, channel: int, id: int, seconds: float, message: Any, chain: tuple[Hop, ...], *, now: bool = False
    ) -> None:
        """Send a request. `now`: at once with all that was sent before, and not at the end of the turn of the loop."""
        ...

    def reply(self, id: int, value: Any) -> None:
        """Send a reply."""
        ...

    def control(self, item: Control) -> None:
        """Send an item."""
        ...

    def reread(self, channel: int, kind: int, body: bytes) -> None:
        """Read a frame that came when the types of its channel were not known; see `Hears.unread`."""
        ...

    def ids(self, kind: int, body: bytes) -> tuple[int, ...]:
        """The requests in a frame that is not going to be read."""
        ...

    def hold(self, *, hold: bool) -> None:
        """Stop to read, or go on: the peer has made this node keep too much."""
        ...

    def close(self, reason: str, detail: str = "") -> None:
        """End it; the other side is told why, if it still listens. `lost` is not called. Idempotent."""
        ...


class Hears(Protocol):
    """Who is told what comes over a link."""

    def takes(self, channel: int) -> tuple[type, ...] | None:
        """The message types of a channel's target; None while they are not known, or when it leads nowhere."""
        ...

    def told(self, channel: int, messages: list[Any], size: int) -> None:
        """Messages came; `size`: their bytes."""
        ...

    def told_surely(self, channel: int, messages: list[tuple[int, Any]], size: int) -> None:
        """Numbered messages came; an `Unreadable` in place of one that could not be read."""
        ...

    def asked(self, channel: int, requests: list[Request], size: int) -> None:
        """Requests came."""
        ...

    def unread(self, channel: int, kind: int, body: bytes) -> None:
        """A frame of messages came whose types are not known (yet), see `takes`. Give it to `reread` when they are."""
        ...

    def refused(self, channel: int, count: int, ids: tuple[int, ...], reason: str) -> None:
        """Messages of a channel could not be read: their types are not taken, or a field is wrong."""
        ...

    def replied(self, replies: list[tuple[int, msgspec.Raw]]) -> None:
        """Replies came; each is read as its request says."""
        ...

    def heard(self, items: list[Control]) -> None:
        """Items came."""
        ...

    def uncrowded(self) -> None:
        """The link was `crowded`, and is not any more."""
        ...

    def lost(self, reason: str) -> None:
        """The link is lost. Called once, and nothing afterwards."""
        ...
