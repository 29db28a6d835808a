"""A node written from `docs/wire.md` alone: frames, bodies and the dialer's handshake, without a line of the product.

Tests use it to say what no honest node says, and to check that the page is enough to write one. msgpack itself is the
only thing that is not made here.
"""

import asyncio
import hashlib
import hmac
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec

HELLO, CHALLENGE, PROOF, READY, REFUSE = 1, 2, 3, 4, 5
TELL, ASK, ASK_CHAINED, REPLY, CONTROL, RELIABLE, PING, PONG, BYE = 16, 17, 18, 19, 20, 21, 22, 23, 24
OPEN, OPENED, CLOSED, CREDIT, DROPPED, FAIL, CANCEL = 1, 2, 3, 4, 5, 6, 7
WATCH, UNWATCH, ENDED, FIND, FOUND, ACKED, WANT = 8, 9, 10, 11, 12, 13, 14

pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode
_HEADER = struct.Struct("!BBBBIQI")
SECONDS = 30.0


def frame(
    kind: int, body: bytes = b"", *, number: int, channel: int = 0, magic: int = 0xD7, version: int = 1, flags: int = 0
) -> bytes:
    """One frame, with its checksum."""
    header = _HEADER.pack(magic, version, kind, flags, len(body), number, channel)
    return b"".join((header, struct.pack("!I", zlib.crc32(body, zlib.crc32(header))), body))


def frames(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, number, channel and body of the frames in some bytes."""
    while data:
        magic, version, kind, flags, length, number, channel = _HEADER.unpack_from(data)
        assert (magic, version, flags) == (0xD7, 1, 0)
        body = data[24 : 24 + length]
        assert zlib.crc32(body, zlib.crc32(data[:20])) == struct.unpack_from("!I", data, 20)[0]
        yield kind, number, channel, body
        data = data[24 + length :]


def code(secret: bytes, role: bytes, *parts: bytes) -> bytes:
    """What a side shows to prove that it knows the secret."""
    key = hmac.digest(secret, b"understudy link 1", hashlib.sha256)
    text = b"".join(struct.pack("!I", len(part)) + part for part in (role, *parts))
    return hmac.digest(key, text, hashlib.sha256)


def hello(
    name: str, epoch: int, session: int, *, nonce: bytes | None = None, versions: tuple[int, ...] = (1,),
    limits: tuple[int, int] = (1 << 20, 1_000),
) -> bytes:  # fmt: skip
    """The body of HELLO."""
    return pack((versions, name, epoch, session, os.urandom(32) if nonce is None else nonce, "hmac", limits))


class Refused(Exception):
    """The other side sent REFUSE: its reason."""


class WirePeer:
    """A dialer. What it is told is in `heard`, as (kind, channel, value), when it reads at all."""

    def __init__(self, address: str, secret: bytes, name: str = "peer", epoch: int = 1) -> None:
        self.address, self.secret, self.name, self.epoch = address, secret, name, epoch
        self.number = 0
        self.connected = False
        self.heard: list[tuple[int, int, Any]] = []
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def connect(self) -> None:
        """Open a connection, and say nothing."""
        host, port = self.address.removeprefix("tcp://").rsplit(":", 1)
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        self.connected = True
        self.number = 0

    async def join(
        self, session: int = 1, *, secret: bytes | None = None, limits: tuple[int, int] = (1 << 20, 1_000)
    ) -> "WirePeer":
        """Connect, and do the handshake. Raises `Refused`."""
        await self.connect()
        said = hello(self.name, self.epoch, session, limits=limits)
        self.send(HELLO, said)
        kind, _, challenge = await self.read()
        if kind == REFUSE:
            raise Refused(challenge[0])
        raw = self.raw
        self.send(PROOF, pack((code(secret or self.secret, b"dialer", said, raw),)))
        kind, _, ready = await self.read()
        if kind == REFUSE:
            raise Refused(ready[0])
        assert ready[0] == code(self.secret, b"listener", said, raw)
        return self

    def put(self, kind: int, body: bytes = b"", channel: int = 0) -> bytes:
        """The next frame."""
        self.number += 1
        return frame(kind, body, number=self.number, channel=channel)

    def send(self, kind: int, body: bytes = b"", channel: int = 0) -> None:
        """Send a frame."""
        self.write(self.put(kind, body, channel))

    def control(self, *items: Any) -> None:
        """Send items."""
        self.send(CONTROL, pack(items))

    def write(self, data: bytes) -> None:
        """Send bytes, whatever they are."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the kernel has taken most of it."""
        await asyncio.wait_for(self._writer.drain(), SECONDS)

    async def read(self) -> tuple[int, int, Any]:
        """The next frame. Raises `EOFError` (`IncompleteReadError`) at the end."""
        async with asyncio.timeout(SECONDS):
            header = await self._reader.readexactly(24)
            length = struct.unpack_from("!I", header, 4)[0]
            self.raw = await self._reader.readexactly(length)
        kind, _, channel, body = next(frames(header + self.raw))
        return kind, channel, unpack(body) if body else None

    async def until(self, kind: int, tag: int | None = None) -> Any:
        """Read up to a frame of this kind; for CONTROL, an item with this tag."""
        while True:
            found, channel, value = await self.read()
            self.heard.append((found, channel, value))
            if found == kind and tag is None:
                return value
            if found == kind == CONTROL:
                for item in value:
                    if item[0] == tag:
                        return item

    async def synced(self) -> None:
        """Wait until the node has read all that was sent: it answers a PING in order."""
        self.send(PING)
        await self.until(PONG)

    async def ended(self) -> None:
        """Read until the other side has closed the connection."""
        try:
            while True:
                kind, channel, value = await self.read()
                self.heard.append((kind, channel, value))
        except (EOFError, ConnectionError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def abort(self) -> None:
        """Hang up without a goodbye, if there is a connection."""
        if self.connected:
            self._writer.transport.abort()
