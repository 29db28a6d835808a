"""How the body of a frame is read: by the types that its channel's target takes, and nothing else. Pure.

A body that does not fit as a whole is read message by message: those that fit are delivered, the others refused. So one
message of an unknown type does not take others with it, and no frame can make more than its own bytes.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Union

import msgspec
from msgspec import Meta, Raw

from understudy.actors.delivery import CHAIN_LIMIT
from understudy.actors.remote.items import Control
from understudy.actors.remote.link import Hop, Unreadable
from understudy.transports.links.wire import ASK, ASK_CHAINED, RELIABLE, TELL

ELEMENTS: Final = 32_768
"""Messages, replies or items of one body, at most: more than the 64 KiB hold after which a frame is not added to."""
_Many: Final = Meta(max_length=ELEMENTS)
_Id = Annotated[int, Meta(ge=0)]
read_items: Final = msgspec.msgpack.Decoder(Annotated[list[Control], _Many]).decode
read_replies: Final = msgspec.msgpack.Decoder(Annotated[list[tuple[_Id, Raw]], _Many]).decode
read_bye: Final = msgspec.msgpack.Decoder(tuple[str, str]).decode
_Chain = Annotated[tuple[Hop, ...], Meta(max_length=CHAIN_LIMIT + 1)]


def _shape(kind: int, message: Any) -> Any:
    """The type of one element of a body. Any: a type form, for which 3.11 has no precise type."""
    if kind == TELL:
        return message
    if kind == RELIABLE:
        return tuple[_Id, message]
    return tuple[_Id, float, message] if kind == ASK else tuple[_Id, float, message, _Chain]


def _decoder(kind: int, message: Any) -> msgspec.msgpack.Decoder[Any]:
    shape: Any = list.__class_getitem__(_shape(kind, message))
    return msgspec.msgpack.Decoder(Annotated[shape, _Many])


_ROUGH: Final = {kind: _decoder(kind, Raw) for kind in (TELL, ASK, ASK_CHAINED, RELIABLE)}


class Bad:
    """What of a body was refused: how many messages, the ids of those that are requests, why (the first one's)."""

    __slots__ = ("count", "ids", "reason")

    def __init__(self) -> None:
        self.count = 0
        self.ids: list[int] = []
        self.reason = ""

    def add(self, kind: int, element: Any, error: Exception) -> None:
        """One message was refused."""
        self.count += 1
        self.reason = self.reason or (str(error) or type(error).__name__)[:300]
        if kind in (ASK, ASK_CHAINED):
            self.ids.append(element[0])


class Reader:
    """Reads bodies for one link. Decoders are made once for each set of types, `MOST` of them are kept."""

    MOST: Final = 1_000

    def __init__(self) -> None:
        self._decoders: dict[tuple[int, tuple[type, ...]], msgspec.msgpack.Decoder[Any]] = {}  # kind 0: one message

    def _decoder(self, kind: int, types: tuple[type, ...]) -> msgspec.msgpack.Decoder[Any]:
        decoder = self._decoders.get((kind, types))
        if decoder is None:
            if len(self._decoders) >= self.MOST:
                self._decoders.clear()
            message: Any = Union[types]  # noqa: UP007  # of as many as there are
            made: msgspec.msgpack.Decoder[Any] = _decoder(kind, message) if kind else msgspec.msgpack.Decoder(message)
            decoder = self._decoders[kind, types] = made
        return decoder

    def read(self, kind: int, types: tuple[type, ...], body: memoryview | bytes) -> list[Any]:
        """The elements of a body. Raises one of `UNREADABLE`."""
        if not types:
            raise ValueError("no message type is taken there")
        elements: list[Any] = self._decoder(kind, types).decode(body)
        return elements

    def salvage(self, kind: int, types: tuple[type, ...], body: memoryview | bytes) -> tuple[list[Any], Bad]:
        """The elements that can be read, and what of the others is known. Raises one of `UNREADABLE`."""
        good: list[Any] = []
        bad = Bad()
        decode = self._decoder(0, types).decode if types else _no_type
        for element in rough(kind, body):
            try:
                raw = element if kind == TELL else element[1] if kind == RELIABLE else element[2]
                value = decode(raw)
            except Exception as error:  # also what a `__post_init__` raises
                bad.add(kind, element, error)
                if kind == RELIABLE:
                    good.append((element[0], Unreadable(bad.reason)))
                continue
            good.append(_put(kind, element, value))
        return good, bad


# Any: what it would be
def _no_type(raw: Raw) -> Any:
    raise ValueError("no message type is taken there")


def rough(kind: int, body: memoryview | bytes) -> list[Any]:
    """The elements of a body, messages unread. Raises one of `UNREADABLE`."""
    elements: list[Any] = _ROUGH[kind].decode(body)
    return elements


def _put(kind: int, element: Any, value: Any) -> Any:
    """The element with its message read."""
    if kind == TELL:
        return value
    if kind == RELIABLE:
        return element[0], value
    return (*element[:2], value, *element[3:])
