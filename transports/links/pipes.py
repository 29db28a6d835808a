"""Connections within one process and one event loop: two transports, and bytes that go from one to the other.

For nodes of one process, and for simulations: a `Hub` has a say in when bytes arrive, and whether. What is said on them
is what is said on sockets, byte for byte.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from understudy.actors.errors import SpecError
from understudy.transports.links.greetings import Mode
from understudy.transports.links.ports import Factory, Listening

HIGH: Final = 1 << 18
"""Bytes under way from which on the writer is told to pause: 256 KiB."""

Delay = Callable[[str, str, int], float | None]
"""Seconds that bytes take from one name to another (their number is given); None: the connection is cut."""


class PipeTransport(asyncio.Transport):
    """One end. `other` gets what is written, in order."""

    other: PipeTransport

    def __init__(self, hub: Hub, name: str, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": name})
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self.name = name
        self.protocol = protocol
        self._closing = False
        self._reading = True
        self._lost = False
        self._under_way = 0
        self._waiting: deque[bytes] = deque()
        self._paused = False
        self._last = 0.0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send bytes."""
        if self._closing or not data:
            return
        sent = bytes(data)
        self._under_way += len(sent)
        if self._under_way > HIGH and not self._paused:
            self._paused = True
            self.protocol.pause_writing()
        self._send(lambda: self._arrive(sent), len(sent))

    def _send(self, arrive: Callable[[], None], size: int) -> None:
        seconds = self._hub.delay(self.name, self.other.name, size)
        if seconds is None:
            self._loop.call_soon(self.abort)
            return
        now = self._loop.time()
        self._last = max(self._last, now + seconds)
        if self._last <= now:
            self._loop.call_soon(arrive)
        else:
            self._loop.call_at(self._last, arrive)

    def _arrive(self, data: bytes) -> None:
        other = self.other
        if other._lost:
            return
        other._waiting.append(data)
        other._pour()

    def _pour(self) -> None:
        while self._reading and self._waiting and not self._lost:
            data = self._waiting.popleft()
            self.other._took(len(data))
            self.protocol.data_received(data)

    def _took(self, size: int) -> None:
        self._under_way -= size
        if self._paused and self._under_way <= HIGH // 2 and not self._lost:
            self._paused = False
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        """Give nothing to the protocol."""
        self._reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self._reading = True
        self._loop.call_soon(self._pour)

    def get_write_buffer_size(self) -> int:
        """None: what was written is on its way."""
        return 0

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self._closing

    def close(self) -> None:
        """End it when what was written has arrived."""
        if self._closing:
            return
        self._closing = True
        self._send(self.other._hang_up, 0)
        self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        """End it now; what is under way is lost."""
        self._closing = True
        self._loop.call_soon(self._lose, ConnectionResetError("cut"))
        self._loop.call_soon(self.other._lose, ConnectionResetError("cut"))

    def _hang_up(self) -> None:
        if not self._lost:
            self.protocol.eof_received()
            self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._waiting.clear()
            self._hub.pipes.pop(self, None)
            self.protocol.connection_lost(error)


class Hub:
    """Where the nodes of one process meet. `delay`: see `Delay`; default: bytes arrive in the next turn of the loop."""

    def __init__(self, delay: Delay | None = None) -> None:
        self.delay: Delay = delay or (lambda sender, receiver, size: 0.0)
        self.listeners: dict[str, Factory] = {}
        self.pipes: dict[PipeTransport, None] = {}

    def port(self, here: str, there: str | None = None) -> HubPort:
        """Where the node `here` listens; or, with `there`, dials that one."""
        return HubPort(self, here, there)

    def cut(self, one: str, other: str) -> None:
        """End the connections between two nodes."""
        for pipe in list(self.pipes):
            if (pipe.name, pipe.other.name) in ((one, other), (other, one)):
                pipe.abort()


class _Open:
    def __init__(self, hub: Hub, name: str) -> None:
        self.address = f"hub:{name}"
        self._hub = hub
        self._name = name

    async def aclose(self) -> None:
        """See `Listening`."""
        self._hub.listeners.pop(self._name, None)


class HubPort:
    """A port of a hub; see `Port`."""

    mode: Mode = "hmac"

    def __init__(self, hub: Hub, here: str, there: str | None) -> None:
        self._hub = hub
        self._here = here
        self._there = there

    def __str__(self) -> str:
        return f"hub:{self._there or self._here}"

    def own_digest(self) -> bytes:
        """See `Port`."""
        return b""

    def seen_digest(self, transport: asyncio.BaseTransport) -> bytes:
        """See `Port`."""
        return b""

    async def listen(self, make: Factory) -> Listening:
        """See `Port`."""
        if self._here in self._hub.listeners:
            raise SpecError(f"hub: {self._here!r} listens already")
        self._hub.listeners[self._here] = make
        return _Open(self._hub, self._here)

    async def dial(self, make: Factory) -> None:
        """See `Port`."""
        assert self._there is not None  # noqa: S101  # a port to dial has one
        hub = self._hub
        theirs = hub.listeners.get(self._there)
        seconds = hub.delay(self._here, self._there, 0)
        if theirs is None or seconds is None:
            raise ConnectionRefusedError(f"nobody listens at {self}")
        if seconds:
            await asyncio.sleep(seconds)
        here, there = PipeTransport(hub, self._here, make()), PipeTransport(hub, self._there, theirs())
        here.other, there.other = there, here
        hub.pipes[here] = hub.pipes[there] = None
        there.protocol.connection_made(there)
        here.protocol.connection_made(here)
