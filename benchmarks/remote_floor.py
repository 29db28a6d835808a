"""The floor under what goes over a socket: the frames of the product between two processes, and nothing else.

An `asyncio.Protocol` at each end of one TCP connection on loopback. Everything is as in the product's format: header
of 24 bytes with the number of the frame and a CRC-32 of header and body, bodies in MessagePack, messages as maps with
a tag; what is sent in one turn of the loop goes into frames of 64 KiB at most and out with one write; number and CRC of
what comes are checked. There are no actors, refs, names, time limits or credit. A request is a future that its caller
awaits.

`python -m benchmarks.remote_floor LOOP SIZE` is the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from struct import Struct as Layout
from typing import Final, cast
from zlib import crc32

import msgspec

from benchmarks.case import Case
from benchmarks.remote import TEXTS, Echo, Other, Tally, loop_kind, serve

HEAD: Final = Layout(">BBBBIQI")
"""Magic, version, kind, flags, length of the body, number of the frame, channel; the CRC comes behind."""
CRC: Final = Layout(">I")
HEAD_BYTES: Final = HEAD.size + CRC.size
MAGIC: Final = 0xD7
TELL, ASK, REPLY = 16, 17, 19
FRAME_BYTES: Final = 65_536
SECONDS: Final = 5.0
"""What a request says that it has."""


class Ping(msgspec.Struct, frozen=True, tag=True, tag_field="$"):
    """Answered with its text."""

    number: int
    text: bytes


class Note(msgspec.Struct, frozen=True, tag=True, tag_field="$"):
    """Not answered."""

    number: int
    text: bytes


class Count(msgspec.Struct, frozen=True, tag=True, tag_field="$"):
    """Answered with what was handled."""


Item = Note | tuple[int, float, Ping | Count] | tuple[int, bytes | Tally]
encode: Final = msgspec.msgpack.Encoder().encode
notes: Final = msgspec.msgpack.Decoder(list[Note]).decode
requests: Final = msgspec.msgpack.Decoder(list[tuple[int, float, Ping | Count]]).decode
replies: Final = msgspec.msgpack.Decoder(list[tuple[int, bytes | tuple[int, int, int]]]).decode


def digest() -> str:
    """BLAKE2b, 8 bytes, of the bytes of this file, in hex: which floor a ratio refers to."""
    return blake2b(Path(__file__).read_bytes(), digest_size=8).hexdigest()


class BadFrame(Exception):
    """What came is not what was sent."""


class End(asyncio.Protocol):
    """One end of the connection."""

    def __init__(self, size: int) -> None:
        self.echo = Echo(size)
        self.room = max(1, FRAME_BYTES // (size + 40))
        """Messages in a frame."""
        self.loop = asyncio.get_running_loop()
        self.out: list[Item] = []
        """What was sent in this turn, all of one kind."""
        self.kind = 0
        self.frames: list[bytes] = []
        self.sent = self.heard = self.wire = 0
        self.rest = b""
        self.ids = 0
        self.waiting: dict[int, asyncio.Future[bytes | tuple[int, int, int]]] = {}
        self.paused: asyncio.Future[None] | None = None
        self.closed: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(exc or ConnectionResetError("closed"))

    def pause_writing(self) -> None:
        self.paused = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.paused is not None:
            self.paused.set_result(None)
            self.paused = None

    # -- out -------------------------------------------------------------------------------------------------

    def put(self, kind: int, item: Item) -> None:
        """Send with what else is sent in this turn."""
        out = self.out
        if not out:
            if not self.frames:
                self.loop.call_soon(self.flush)
        elif kind != self.kind or len(out) >= self.room:
            self.seal()
        self.kind = kind
        self.out.append(item)

    def seal(self) -> None:
        """Make a frame of what there is."""
        body = encode(self.out)
        self.out = []
        self.sent += 1
        head = HEAD.pack(MAGIC, 1, self.kind, 0, len(body), self.sent, 1)
        self.frames += (head, CRC.pack(crc32(body, crc32(head))), body)

    def flush(self) -> None:
        self.seal()
        data = b"".join(self.frames)
        self.frames.clear()
        self.wire += len(data)
        self.transport.write(data)

    def ask(self, message: Ping | Count) -> Awaitable[bytes | tuple[int, int, int]]:
        self.ids = number = self.ids + 1
        self.waiting[number] = future = self.loop.create_future()
        self.put(ASK, (number, SECONDS, message))
        return future

    # -- in --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.wire += len(data)
        if self.rest:
            data = self.rest + data
        at, end = 0, len(data)
        view = memoryview(data)
        while end - at >= HEAD_BYTES:
            magic, version, kind, _, length, number, _ = HEAD.unpack_from(data, at)
            last = at + HEAD_BYTES + length
            if last > end:
                break
            body = view[at + HEAD_BYTES : last]
            self.heard += 1
            (sum_of_it,) = CRC.unpack_from(data, at + HEAD.size)
            if (magic, version, number) != (MAGIC, 1, self.heard):
                raise BadFrame(f"frame {number} of version {version} where {self.heard} was due")
            if sum_of_it != crc32(body, crc32(view[at : at + HEAD.size])):
                raise BadFrame(f"frame {number}: damaged")
            self.take(kind, body)
            at = last
        self.rest = data[at:] if at < end else b""

    def take(self, kind: int, body: memoryview) -> None:
        if kind == REPLY:
            waiting = self.waiting
            for number, value in replies(body):
                waiting.pop(number).set_result(value)
        elif kind == ASK:
            for number, _, message in requests(body):
                self.put(REPLY, (number, self.answer(message)))
        else:
            hear = self.echo.hear
            for note in notes(body):
                hear(note.number, note.text)

    def answer(self, message: Ping | Count) -> bytes | Tally:
        if isinstance(message, Count):
            return self.echo.tally()
        self.echo.hear(message.number, message.text)
        return message.text


class Far:
    """See `remote.Far`."""

    def __init__(self, end: End, other: Other) -> None:
        self.end = end
        self.cpu_seconds: Callable[[], float] = other.cpu_seconds

    def ask(self, number: int, text: bytes) -> Awaitable[bytes]:
        return self.end.ask(Ping(number, text))  # type: ignore[return-value]  # the answer to this one

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        end = self.end
        put, room = end.put, end.room
        for number in range(count):
            put(TELL, Note(number, texts[number % TEXTS]))
            if number % room == 0:  # a frame is full: let it go out
                await asyncio.sleep(0)
                if end.paused is not None:
                    await end.paused

    async def tally(self) -> Tally:
        said = await self.end.ask(Count())
        assert isinstance(said, list | tuple)
        return Tally(*said)

    def wire_bytes(self) -> int:
        return self.end.wire


@contextlib.asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Far]:
    """The other process, and a connection to it."""
    size = case.args[-1]
    with Other("benchmarks.remote_floor", loop_kind(), size) as other:
        loop = asyncio.get_running_loop()
        _, end = await loop.create_connection(lambda: End(size), "127.0.0.1", other.where)
        try:
            yield Far(end, other)
        finally:
            end.transport.close()
            await end.closed


async def _serve(size: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: End(size), "127.0.0.1", 0)
    async with server:
        await serve(server.sockets[0].getsockname()[1])


if __name__ == "__main__":
    from benchmarks.worker import runner_of

    with runner_of(sys.argv[1])() as runner:
        runner.run(_serve(int(sys.argv[2])))
