"""A link over a stream of bytes: TCP, TLS, a Unix socket, or a pipe within the process.

It is an `asyncio.Protocol`: the handshake first, then frames. Whatever breaks the frames ends this connection alone,
with a counted reason. Everything sent in one turn of the loop is one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.actors.remote.items import Control
from understudy.actors.remote.link import ENCODE, SMALL, Hears, Hop, Lane
from understudy.actors.remote.peer import UNREADABLE
from understudy.actors.telemetry import one_line
from understudy.transports.links.handshake import Dialer, Listener, Peer, Refusal
from understudy.transports.links.reading import Reader, read_bye, read_items, read_replies, rough
from understudy.transports.links.wire import (
    ASK,
    ASK_CHAINED,
    BYE,
    CONTROL,
    FRAME_BODY,
    PING,
    PONG,
    RELIABLE,
    REPLY,
    TALK,
    TELL,
    Incoming,
    Outgoing,
    WireError,
)

CROWDED: Final = 1 << 20
"""Bytes that wait to be written, from which on no further message is taken."""
STUCK: Final = 1 << 24
"""Bytes that wait to be written, from which on the other side is given up: it does not read."""
STRIKES: Final = 100
"""Bodies that cannot be read, after which a connection is given up."""
_NAMES: Final = {"hmac": "the handshake"}


class Timing(Struct, frozen=True):
    """Seconds. `handshake`: how long one may take. `heartbeat`: after so long a silence the other side is asked
    whether it is there; after three of them it is given up.
    """

    handshake: float = 5.0
    heartbeat: float = 5.0


class Harbour(Protocol):
    """Whose connections these are."""

    def met(self, link: SocketLink) -> None:
        """There is a connection; the handshake begins."""
        ...

    def arrived(self, link: SocketLink, peer: Peer) -> Hears | Refusal:
        """A handshake has ended well: who hears the link, or why there is none after all."""
        ...

    def left(self, link: SocketLink, reason: str) -> None:
        """A connection has ended, whatever it was."""
        ...

    def count(self, reason: str) -> None:
        """Something was refused."""
        ...

    def broke(self, error: Exception) -> None:
        """What came made this node's own code raise."""
        ...


class SocketLink(asyncio.BufferedProtocol, asyncio.Protocol):
    """See the module, and `Link`. `refusal` says why a handshake failed.

    `space` is where asyncio puts what it reads, of all links of a node in turn: made anew for each read, as it does for
    other protocols, its 256 KiB come from the system and go back to it. Other loops call `data_received`.
    """

    def __init__(
        self,
        harbour: Harbour,
        begin: Callable[[asyncio.BaseTransport], Dialer | Listener],
        loop: asyncio.AbstractEventLoop,
        timing: Timing,
        context: Context,
        space: memoryview,
        when_idle: Callable[[Callable[[], None]], bool] | None = None,
    ) -> None:
        self.name = ""
        self.epoch = 0
        self.peer: Peer | None = None
        self.refusal: Refusal | None = None
        self.reason = ""
        self._harbour = harbour
        self._make = begin
        self._loop = loop
        self._timing = timing
        self._context = context
        self._space = space
        self._when_idle = when_idle
        self._in = Incoming()
        self._out = Outgoing()
        self._reader = Reader()
        self._hears: Hears | None = None
        self.crowded = self._armed = self._paused = self._held = False
        self._heard_of = self._missed = self._strikes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.received = self.sent = 0

    # -- the connection ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        stream = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._transport: asyncio.Transport | None = stream
        self._harbour.met(self)
        self._handshake = self._make(stream)
        self._timer = self._loop.call_later(self._timing.handshake, self._too_late, context=self._context)
        self._say(self._handshake.start())

    def _too_late(self) -> None:
        seconds = self._timing.handshake
        self._say(self._handshake.refuse(Refusal("time", f"the handshake took more than {seconds:g} s")))
        self._refused()

    def _say(self, frames: list[tuple[int, bytes]]) -> None:
        for kind, body in frames:
            self._out.frame(kind, body)
        if frames:
            self._write()

    def _greet(self, kind: int, body: memoryview) -> bool:
        handshake = self._handshake
        self._say(handshake.receive(kind, bytes(body)))
        if handshake.refusal is not None:
            self._refused()
            return False
        if handshake.peer is not None:
            return self._arrive(handshake.peer)
        return True

    def _refused(self) -> None:
        self.refusal = self._handshake.refusal
        assert self.refusal is not None  # noqa: S101  # looked at before
        self._end(f"refused: {self.refusal.reason}: {self.refusal.text}", count=self.refusal.reason)

    def _arrive(self, peer: Peer) -> bool:
        self.name, self.epoch, self.peer = peer.name, peer.epoch, peer
        self._in.kinds, self._in.limit = TALK, FRAME_BODY
        self._out.limit = min(FRAME_BODY, peer.limits.frame)
        hears = self._harbour.arrived(self, peer)
        if isinstance(hears, Refusal):
            self.refusal = hears
            self.close(hears.reason, hears.text)
            self._harbour.count(hears.reason)
            return False
        self._hears = hears
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._timing.heartbeat, self._beat, context=self._context)
        return self._transport is not None

    def _beat(self) -> None:
        """Ask a silent side whether it is there, and give it up in the end."""
        seconds = self._timing.heartbeat
        if self.received != self._heard_of:
            self._heard_of, self._missed = self.received, 0
        else:
            self._missed += not self._held
            if self._missed >= 3:
                self._end(f"nothing was heard of it for {seconds * 3:g} s", count="silent")
                return
            self._out.frame(PING, b"")
            self._arm()
        self._timer = self._loop.call_later(seconds, self._beat, context=self._context)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._space

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self.data_received(bytes(self._space[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.received += len(data)
        try:
            self._in.feed(data, self._take if self._hears is not None else self._take_any)
        except WireError as error:
            self._end(f"what came is no frame: {error}", count=error.fault)
        except Exception as error:  # a mistake of ours: it costs this connection, and no other
            self._harbour.broke(error)
            self._end(f"what came could not be dealt with: {type(error).__name__}: {error}")

    def _take_any(self, kind: int, channel: int, body: memoryview) -> bool:
        return self._take(kind, channel, body) if self._hears is not None else self._greet(kind, body)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        if self._in.partial:
            self._end("it ended within a frame", count="truncated")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        why = f"the connection was lost: {exc}" if exc is not None else "the other side closed the connection"
        self._end(why, lost=True)

    def _end(self, reason: str, count: str = "", *, lost: bool = False) -> None:
        """End the connection, and tell once. `lost`: the transport has ended; that of TLS cannot be asked any more."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self.reason = self.reason or reason
        if self._timer is not None:
            self._timer.cancel()
        if self._paused:
            transport.abort()
        elif not lost:
            transport.close()
            if transport.get_write_buffer_size():  # it may never read that
                self._loop.call_later(self._timing.handshake, transport.abort, context=self._context)
        if count:
            self._harbour.count(count)
        hears, self._hears = self._hears, None
        if hears is not None:
            hears.lost(reason)
        self._harbour.left(self, reason)

    def close(self, reason: str, detail: str = "") -> None:
        """See `Link`."""
        if self._transport is None:
            return
        self._out.frame(BYE, msgspec.msgpack.encode((reason, detail)))
        self._write()
        self._hears = None
        self._end(f"closed: {reason}")

    # -- writing -----------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        if not self._armed and not self._paused:
            self._armed = True
            if self._when_idle is None or not self._when_idle(self._flush):
                self._loop.call_soon(self._flush, context=self._context)

    def _flush(self) -> None:
        """Write, at the end of this turn of the loop or when no actor of this node has anything to do."""
        if not self._armed:
            return
        self._armed = False
        if self._transport is None or self._paused:
            return
        self._write()
        if self.crowded:
            self.crowded = False
            if self._hears is not None:
                self._hears.uncrowded()

    def _write(self) -> None:
        data = self._out.take()
        self.sent += len(data)
        if self._transport is not None:
            self._transport.write(data)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused = True

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._paused, self._armed = False, True
        self._flush()

    # Any: messages, replies and what stands beside them
    def _add(self, kind: int, channel: int, value: Any, *, now: bool = False) -> None:
        out = self._out
        if out.lane is not None:
            out.gather()
        buffer = out.buffer
        mark = len(buffer)
        if out.kind == kind and out.channel == channel and mark <= out.stop and out.count:
            try:  # there is something in the frame that is open, so the write is under way
                ENCODE(value, buffer, -1)
            except BaseException:
                del buffer[mark:]  # below, it is told why
            else:
                if len(buffer) - mark <= SMALL:
                    out.count += 1
                    return
                del buffer[mark:]
        if self._transport is None:
            return
        out.add(kind, channel, value)
        if now:
            self._armed = not self._paused
            self._flush()
        elif not self._armed:
            self._arm()
        waiting = len(self._out.buffer)
        if waiting > CROWDED:
            self.crowded = True
            if waiting > STUCK and self._paused:
                self._loop.call_soon(self._stuck, context=self._context)  # who sends is not told in the middle of it

    def _stuck(self) -> None:
        self._end(f"it does not read: {STUCK:,} bytes wait for it", count="stuck")

    def tell(self, channel: int, message: Any) -> None:
        """See `Link`."""
        self._add(TELL, channel, message)

    def lend(self, channel: int, lane: Lane, most: int) -> int:
        """See `Link`."""
        if self._transport is None or self.crowded:
            return 0
        return self._out.lend(TELL, channel, lane, most)

    def tell_surely(self, channel: int, number: int, message: Any) -> None:
        """See `Link`."""
        self._add(RELIABLE, channel, (number, message))

    def ask(
        self, channel: int, id: int, seconds: float, message: Any, chain: tuple[Hop, ...], *, now: bool = False
    ) -> None:
        """See `Link`."""
        if chain:
            self._add(ASK_CHAINED, channel, (id, seconds, message, chain), now=now)
        else:
            self._add(ASK, channel, (id, seconds, message), now=now)

    def reply(self, id: int, value: Any) -> None:
        """See `Link`."""
        self._add(REPLY, 0, (id, value))

    def control(self, item: Control) -> None:
        """See `Link`."""
        if len(self._out.buffer) > STUCK:  # what came in one turn may ask for a lot
            self._stuck()
        try:
            self._add(CONTROL, 0, item)
        except UsageError as error:  # over what the other side takes: without it nothing goes on there
            self._end(f"{type(item).__name__} cannot be told: {error}", count="untold")

    # -- reading -----------------------------------------------------------------------------------------------

    def _take(self, kind: int, channel: int, body: memoryview) -> bool:
        """Read one frame; whether the connection goes on."""
        try:
            if kind in (TELL, ASK, ASK_CHAINED, RELIABLE):
                self._messages(kind, channel, body)
            elif kind == REPLY:
                self._heard().replied(read_replies(body))
            elif kind == CONTROL:
                self._heard().heard(read_items(body))
            elif kind == PING:
                self._out.frame(PONG, b"")
                self._arm()
                if len(self._out.buffer) > STUCK:
                    self._stuck()
            elif kind == BYE:
                reason, detail = read_bye(body)
                self._end(f"it said goodbye: {one_line(reason, 50)}{': ' * bool(detail)}{one_line(detail, 300)}")
        except UNREADABLE as error:
            self._strike(f"a body of kind {kind} is not what it should be: {error}")
        return self._hears is not None

    def _heard(self) -> Hears:
        assert self._hears is not None  # noqa: S101  # frames are taken only while there is one
        return self._hears

    def _strike(self, what: str) -> None:
        self._harbour.count("body")
        self._strikes += 1
        if self._strikes >= STRIKES:
            self._end(f"{STRIKES} frames could not be read; the last: {what}")

    def _messages(self, kind: int, channel: int, body: memoryview | bytes) -> None:
        hears = self._heard()
        types = hears.takes(channel)
        if types is None:
            hears.unread(channel, kind, bytes(body))
            return
        try:
            elements = self._reader.read(kind, types, body)
        except Exception:  # also what a `__post_init__` raises
            elements, bad = self._reader.salvage(kind, types, body)
            self._harbour.count("message")
            if kind != RELIABLE:  # those are refused by their numbers
                hears.refused(channel, bad.count, tuple(bad.ids), bad.reason)
        if not elements or self._hears is None:
            return
        if kind == TELL:
            hears.told(channel, elements, len(body))
        elif kind == RELIABLE:
            hears.told_surely(channel, elements, len(body))
        else:
            hears.asked(channel, elements, len(body))

    def reread(self, channel: int, kind: int, body: bytes) -> None:
        """See `Link`."""
        if self._hears is not None:
            self._take(kind, channel, memoryview(body))

    def ids(self, kind: int, body: bytes) -> tuple[int, ...]:
        """See `Link`."""
        if kind not in (ASK, ASK_CHAINED):
            return ()
        try:
            return tuple(element[0] for element in rough(kind, body))
        except UNREADABLE:
            return ()

    def hold(self, *, hold: bool) -> None:
        """See `Link`."""
        if self._transport is None or hold is self._held:
            return
        self._held = hold
        if hold:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
