"""A bad network between two nodes, for tests: a TCP proxy that does to frames and bytes what a seed says.

    async with System(desk, name="a", listen="tcp://127.0.0.1:0") as a, Proxy(a.listening[0], seed=7) as proxy:
        async with System(name="b", join={"a": proxy.address}) as b:
            await b.joined("a")
            proxy.cut()                               # as a router does that starts again
            proxy.hold()                              # the connection stays, nothing goes through
            proxy.weather = Weather(flip=0.01)        # one frame in a hundred has a flipped bit
            proxy.heal()
            await b.joined("a")

It knows where the frames of a link without TLS begin and end; of anything else each piece that arrives is taken for
one. What a proxy did is in `counts`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from msgspec import Struct
from msgspec.structs import asdict

from understudy.actors.errors import UsageError
from understudy.transports.links.addresses import parse
from understudy.transports.links.wire import FRAME_BODY, HEAD, HEADER, MAGIC

HIGH: Final = 1 << 18
"""Bytes kept of one direction from which on nothing more is read: 256 KiB."""


class Weather(Struct, frozen=True):
    """What happens to each frame, as probabilities: it is dropped, sent twice, swapped with the next one, has a bit
    flipped, loses its end, or the connection is cut behind it. `delay`: seconds that each takes at most (0), in order.
    `rate`: bytes a second that go through, None for all. Raises `UsageError` for what is no probability or time.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    swap: float = 0.0
    flip: float = 0.0
    truncate: float = 0.0
    cut: float = 0.0
    delay: float = 0.0
    rate: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = 1.0 if name not in ("delay", "rate") else 1e9
            if name == "rate" and value is None:
                continue
            if not (isinstance(value, int | float) and 0.0 <= value <= most) or (name == "rate" and not value):
                raise UsageError(f"Weather: {name} is {value!r}; a number from 0 to {most:g}")


FAIR: Final = Weather()


class Proxy:
    """See the module. `target`: where the node listens, "tcp://host:port"; `seed` draws what `weather` says."""

    def __init__(self, target: str, *, seed: int = 0, weather: Weather = FAIR) -> None:
        at = parse(target)
        if at.scheme == "unix":
            raise UsageError(f"Proxy: {target!r} is no address of TCP")
        self._scheme, self._host, self._port = at.scheme, at.host, at.port
        self.seed = seed
        self.weather = weather
        self.counts: Counter[str] = Counter()
        self.address = ""
        self.rejecting = False
        self.holds_there = self.holds_back = False
        self._made = 0
        self._pairs: dict[_Pair, None] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.address = f"{self._scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for pair in list(self._pairs):
            pair.end()
        await asyncio.gather(*(pair.dialling for pair in list(self._pairs)), return_exceptions=True)
        self._pairs.clear()

    @property
    def connections(self) -> int:
        """Those there are."""
        return len(self._pairs)

    # -- what one does to it -----------------------------------------------------------------------------------

    def cut(self) -> None:
        """End all connections at once."""
        for pair in list(self._pairs):
            self.counts["cut"] += 1
            pair.end()

    def hold(self, *, there: bool = True, back: bool = True) -> None:
        """Keep all connections and let nothing through: `there`, from who dials, and `back`. New ones as well."""
        self.holds_there, self.holds_back = there, back
        self.counts["held"] += 1
        self._look()

    def reject(self) -> None:
        """End all connections, and every new one at once."""
        self.rejecting = True
        self.cut()

    def heal(self) -> None:
        """Let everything through, from now on; what was held comes late."""
        self.weather = FAIR
        self.rejecting = self.holds_there = self.holds_back = False
        self._look()

    def _look(self) -> None:
        for pair in list(self._pairs):
            for way in (pair.there, pair.back):
                way.look()

    # -- connections -------------------------------------------------------------------------------------------

    def _accept(self) -> asyncio.Protocol:
        self._made += 1
        pair = _Pair(self, self._made)
        self._pairs[pair] = None
        return pair.dialler

    async def dial(self, pair: _Pair) -> None:
        """Connect the other half of a pair."""
        try:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.create_connection(lambda: pair.listener, self._host, self._port), 5.0)
        except OSError:
            pair.end()

    def forget(self, pair: _Pair) -> None:
        """A pair has ended."""
        self._pairs.pop(pair, None)


class _Pair:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, number: int) -> None:
        self.proxy = proxy
        self.ended = False
        self.dialling: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dialler, self.listener = _Half(self), _Half(self)
        self.there = _Way(self, self.dialler, self.listener, f"{proxy.seed}:{number}:there", lambda: proxy.holds_there)
        self.back = _Way(self, self.listener, self.dialler, f"{proxy.seed}:{number}:back", lambda: proxy.holds_back)
        self.dialler.gives, self.listener.gives = self.there, self.back

    def met(self, half: _Half) -> None:
        """One half is connected."""
        if self.ended or (half is self.dialler and self.proxy.rejecting):
            self.proxy.counts["rejected"] += not self.ended
            self.end()
        elif half is self.dialler:
            self.dialling = asyncio.ensure_future(self.proxy.dial(self))
        for way in (self.there, self.back):
            way.look()

    def end(self, *, politely: bool = False) -> None:
        """End both halves; `politely`: when what they were given is sent."""
        self.ended = True
        self.proxy.forget(self)
        for way in (self.there, self.back):
            way.end()
        for half in (self.dialler, self.listener):
            if half.transport is not None:
                half.transport.close() if politely else half.transport.abort()

    def closed(self, way: _Way) -> None:
        """One half was closed from outside: what it has sent arrives before that is known."""
        way.finish()


class _Half(asyncio.Protocol):
    """One end of a pair."""

    gives: _Way

    def __init__(self, pair: _Pair) -> None:
        self.pair = pair
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pair.met(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.gives.take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.transport = None
        if not self.pair.ended:
            self.pair.closed(self.gives)


class _Way:
    """One direction: pieces that wait for their time, the first first."""

    def __init__(self, pair: _Pair, source: _Half, sink: _Half, seed: str, held: Callable[[], bool]) -> None:
        self._pair = pair
        self._source, self._sink = source, sink
        self._dice = random.Random(seed)
        self._held = held
        self._part = bytearray()
        self._swapped = b""
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._finished = self._cut = False
        self._loop = asyncio.get_running_loop()

    def take(self, data: bytes) -> None:
        """Bytes came."""
        self._part += data
        while (size := _piece(self._part)) > 0:
            piece = bytes(self._part[:size])
            del self._part[:size]
            self._fate(piece)
        self.look()

    def _fate(self, piece: bytes) -> None:
        """What becomes of a piece."""
        weather, dice, counts = self._pair.proxy.weather, self._dice, self._pair.proxy.counts
        counts["frames"] += 1
        for name in ("drop", "flip", "truncate", "duplicate", "swap", "cut"):
            if dice.random() >= getattr(weather, name):
                continue
            counts[name] += 1
            if name == "drop":
                return
            if name == "swap" and not self._swapped:
                self._swapped = piece
                return
            if name == "cut":
                self._cut = True
            piece = _changed(name, piece, dice)
        self._put(piece, weather)
        if self._swapped:
            piece, self._swapped = self._swapped, b""
            self._put(piece, weather)

    def _put(self, piece: bytes, weather: Weather) -> None:
        now = self._loop.time()
        self._free_at = max(now + weather.delay * self._dice.random(), self._free_at)
        if weather.rate is not None:
            self._free_at += len(piece) / weather.rate
        self._queue.append((self._free_at, piece))
        self._size += len(piece)

    def finish(self) -> None:
        """Nothing more comes."""
        self._finished = True
        self.look()

    def end(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()

    def look(self) -> None:
        """Send what may be sent now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sink, now = self._sink.transport, self._loop.time()
        while self._queue and sink is not None and not self._held() and self._queue[0][0] <= now:
            _, piece = self._queue.popleft()
            self._size -= len(piece)
            sink.write(piece)
        if self._queue and sink is not None and not self._held():
            self._timer = self._loop.call_at(self._queue[0][0], self.look)
        elif (self._cut or self._finished) and not self._held():
            self._pair.end(politely=True)
            return
        source = self._source.transport
        if source is not None and not source.is_closing():
            source.pause_reading() if self._held() or self._size > HIGH else source.resume_reading()


def _piece(part: bytearray) -> int:
    """The bytes of the first frame, 0 when it is not complete; of what is no frame, all."""
    if not part:
        return 0
    if part[0] != MAGIC:
        return len(part)
    if len(part) < HEAD:
        return 0
    length: int = HEADER.unpack_from(part)[4]
    if length > FRAME_BODY:
        return len(part)
    return HEAD + length if len(part) >= HEAD + length else 0


def _changed(name: str, piece: bytes, dice: random.Random) -> bytes:
    if name == "duplicate":
        return piece * 2
    if name == "truncate":
        return piece[: dice.randrange(len(piece))]
    if name == "flip":
        changed = bytearray(piece)
        changed[dice.randrange(len(piece))] ^= 1 << dice.randrange(8)
        return bytes(changed)
    return piece
