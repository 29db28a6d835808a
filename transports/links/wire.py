"""Frames: how they are put together and taken apart. Pure: no socket, no clock. `docs/wire.md` tells it byte by byte.

`Outgoing` encodes each message where it is sent, so that one that cannot be written fails there; messages of one turn
of the loop for one channel share a frame, and all frames of a turn are one write.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Packed
from typing import Any, Final, Literal
from zlib import crc32

import msgspec

from understudy.actors.errors import UnderstudyError, UsageError
from understudy.actors.remote.link import ENCODE, SMALL, Lane

MAGIC: Final = 0xD7
VERSION: Final = 1
HEADER: Final = Packed("!BBBBIQI")
CHECK: Final = Packed("!I")
HEAD: Final = HEADER.size + CHECK.size
"""Bytes of a header: 24."""

HELLO, CHALLENGE, PROOF, READY, REFUSE = 1, 2, 3, 4, 5
TELL, ASK, ASK_CHAINED, REPLY, CONTROL, RELIABLE, PING, PONG, BYE = 16, 17, 18, 19, 20, 21, 22, 23, 24
HANDSHAKE: Final = frozenset((HELLO, CHALLENGE, PROOF, READY, REFUSE))
TALK: Final = frozenset((TELL, ASK, ASK_CHAINED, REPLY, CONTROL, RELIABLE, PING, PONG, BYE))

HANDSHAKE_BODY: Final = 4_096
FRAME_BODY: Final = 1 << 20
"""Bytes that a frame's body has at most: 1 MiB, as NATS has it."""
_BATCH: Final = 1 << 16
"""Bytes after which a frame of several messages is not added to."""
LENT: Final = 64
"""Messages that one lane may take at once."""
_ARRAY: Final = b"\xdd\0\0\0\0"
_BLANK: Final = bytes(HEAD)

Fault = Literal["magic", "version", "kind", "flags", "size", "number", "checksum", "truncated"]


class WireError(UnderstudyError):
    """What came is no frame. The connection cannot go on. `fault` is what the counter is called."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault: Fault = fault


class Incoming:
    """Takes bytes, gives frames: `feed` calls `take(kind, channel, body)` for each that is complete.

    `limit` is the most bytes that a body may have; `kinds` those that may come now. What is kept of a frame that is
    not complete is bounded by them. Raises `WireError`; afterwards nothing is to be fed.
    """

    __slots__ = ("_last", "_need", "_rest", "kinds", "limit")

    def __init__(self) -> None:
        self.limit = HANDSHAKE_BODY
        self.kinds: frozenset[int] = HANDSHAKE
        self._rest = bytearray()
        self._need = HEAD
        self._last = 0

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and is not complete."""
        return bool(self._rest)

    def feed(self, data: bytes, take: Callable[[int, int, memoryview], bool]) -> None:
        """Take what was received. `take` returns False when nothing more is wanted."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data, self._rest = bytes(self._rest), bytearray()
        view = memoryview(data)
        position, end, need = 0, len(view), HEAD
        while end - position >= HEAD:
            need = HEAD
            magic, version, kind, flags, length, number, channel = HEADER.unpack_from(view, position)
            if magic != MAGIC or version != VERSION or flags or kind not in self.kinds or length > self.limit:
                raise self._fault(magic, version, kind, flags, length)
            if number != self._last + 1:
                raise WireError("number", f"frame {number} after frame {self._last}")
            need = HEAD + length
            if end - position < need:
                break
            body = view[position + HEAD : position + need]
            check = crc32(body, crc32(view[position : position + HEADER.size]))
            if check != CHECK.unpack_from(view, position + HEADER.size)[0]:
                raise WireError("checksum", f"frame {number}: what came is not what was sent")
            self._last = number
            position += need
            if not take(kind, channel, body):
                return
            need = HEAD
        if position < end:
            self._rest = bytearray(view[position:])
        self._need = need

    def _fault(self, magic: int, version: int, kind: int, flags: int, length: int) -> WireError:
        if magic != MAGIC:
            return WireError("magic", f"a frame begins with byte {magic:#x}, not {MAGIC:#x}")
        if version != VERSION:
            return WireError("version", f"a frame of version {version}; this side speaks {VERSION}")
        if flags:
            return WireError("flags", f"flags {flags:#x} mean nothing in version {VERSION}")
        if kind not in self.kinds:
            return WireError("kind", f"a frame of kind {kind} may not come now")
        return WireError("size", f"a body of {length} bytes; the limit is {self.limit}")


class Outgoing:
    """Frames that wait for the next write. `limit`: bytes of a body that the other side takes.

    Of the frame that is open, `kind`, `channel`, `count` of its values and the place `stop`, behind which no value
    begins and which leaves room for one of `SMALL` bytes, are open to the link, which puts small values in by itself.
    `kind` is 0 when none is open. `lane`: who was lent the end of it; what it wrote is not in `count` yet.
    """

    __slots__ = ("_number", "_start", "buffer", "channel", "count", "kind", "lane", "limit", "stop")

    def __init__(self) -> None:
        self.limit = HANDSHAKE_BODY
        self.buffer = bytearray()
        self.lane: Lane | None = None
        self.kind = self.channel = self.count = self.stop = self._number = 0
        self._start = -1

    def frame(self, kind: int, body: bytes) -> None:
        """Add a frame with a body that is written already."""
        self._end()
        start = len(self.buffer)
        self.buffer += _BLANK
        self.buffer += body
        self._seal(start, kind, 0)

    # Any: whatever can be written
    def add(self, kind: int, channel: int, value: Any) -> None:
        """Add a value to the frame of this kind and channel that is open, or to a new one.

        Raises `UsageError` for what cannot be written or is too big; then nothing was added.
        """
        if self.lane is not None:
            self.gather()
        buffer = self.buffer
        if kind != self.kind or channel != self.channel or len(buffer) > self.stop:
            self._begin(kind, channel)
        mark = len(buffer)
        try:
            ENCODE(value, buffer, -1)
        except BaseException as error:
            del buffer[mark:]
            raise self._unwritable(kind, value, error) from error
        size = len(buffer) - mark
        if size + 5 > self.limit:
            del buffer[mark:]
            name = type(_message(kind, value)).__qualname__
            raise UsageError(f"{name}: {size} bytes; a frame takes {self.limit - 5}")
        if len(buffer) - self._start - HEAD > self.limit:
            self._split(kind, channel, mark)
        self.count += 1

    def _split(self, kind: int, channel: int, mark: int) -> None:
        """The value that was added last is the first of another frame."""
        last = self.buffer[mark:]
        del self.buffer[mark:]
        self._begin(kind, channel)
        self.buffer += last

    def _unwritable(self, kind: int, value: Any, error: BaseException) -> BaseException:
        if not isinstance(error, (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)):
            return error
        name = type(_message(kind, value)).__qualname__
        return UsageError(f"{name} cannot be sent to another node: {error}")

    def _begin(self, kind: int, channel: int) -> None:
        self._end()
        self.kind, self.channel, self._start = kind, channel, len(self.buffer)
        self.stop = self._start + min(_BATCH, HEAD + self.limit - SMALL - len(_ARRAY))
        self.buffer += _BLANK
        self.buffer += _ARRAY

    def lend(self, kind: int, channel: int, lane: Lane, most: int) -> int:
        """Let `lane` write up to `most` messages to the frame of this kind and channel, if it is open; how many."""
        if self.lane is not None:
            self.gather()
        mark = len(self.buffer)
        if kind != self.kind or channel != self.channel or mark > self.stop:
            return 0
        most = min(most, LENT, (self.limit - (mark - self._start - HEAD)) // SMALL)
        if most > 0:
            self.lane, lane.buffer, lane.lent, lane.left = lane, self.buffer, most, most
        return max(most, 0)

    def gather(self) -> None:
        """Take back what was lent."""
        if self.lane is not None:
            self.count += self.lane.gather()
            self.lane = None

    def _end(self) -> None:
        self.gather()
        start = self._start
        if start < 0:
            return
        if self.count:
            CHECK.pack_into(self.buffer, start + HEAD + 1, self.count)
            self._seal(start, self.kind, self.channel)
        else:  # what it was begun for could not be written
            del self.buffer[start:]
        self._start, self.kind, self.count = -1, 0, 0

    def _seal(self, start: int, kind: int, channel: int) -> None:
        buffer = self.buffer
        self._number += 1
        body = start + HEAD
        HEADER.pack_into(buffer, start, MAGIC, VERSION, kind, 0, len(buffer) - body, self._number, channel)
        with memoryview(buffer) as view:
            check = crc32(view[body:], crc32(view[start : start + HEADER.size]))
        CHECK.pack_into(buffer, start + HEADER.size, check)

    def take(self) -> bytearray:
        """What is to be written now; it is the caller's."""
        self._end()
        taken, self.buffer = self.buffer, bytearray()
        return taken


# Any: whatever was to be written
def _message(kind: int, value: Any) -> Any:
    """The message, reply or item itself, without what is sent beside it."""
    if kind in (ASK, ASK_CHAINED):
        return value[2] if kind == ASK else value[3]
    return value[1] if kind in (REPLY, RELIABLE) else value
