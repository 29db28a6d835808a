"""The links of one node: it listens, dials, dials again after a while, and knows every connection there is."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from msgspec import Struct

from understudy.actors.clock import Dice
from understudy.actors.delivery import DELIVERY
from understudy.actors.remote.link import Hears
from understudy.actors.remote.nodes import NOTED, Nodes
from understudy.actors.telemetry import log
from understudy.transports.links.greetings import Limits, Me, Peer, Refusal
from understudy.transports.links.handshake import Dialer, Listener
from understudy.transports.links.keys import LinkSecret
from understudy.transports.links.ports import Listening, Port
from understudy.transports.links.sockets import SocketLink, Timing
from understudy.transports.links.wire import FRAME_BODY

READ: Final = 1 << 16
"""Bytes that one read brings at most."""
CONNECTIONS: Final = 1_000
"""Connections of one node at most, those in a handshake included."""
HALF_OPEN: Final = 64
"""Connections that others have made and not proven who they are, at most."""
FIRST: Final = 0.05
CAP: Final = 5.0
LOOK_AGAIN: Final = 60.0
"""Seconds after which a node that was this one, or was connected another way, is dialled again at the latest."""
_VERDICTS: Final[Mapping[str, str]] = {
    "self": "this is the same node",
    "stale": "a later start, or a newer connection, of this node is known",
    "twice": "there is another connection, which stays",
    "many": "too many nodes",
    "held": "too much of what it sent waits for room in mailboxes",
}


class Redial(Struct, frozen=True):
    """Seconds between two attempts: `first`, doubled after each that failed up to `cap`, times 0.8 to 1.2."""

    first: float = FIRST
    cap: float = CAP

    def seconds(self, failures: int, dice: Dice) -> float:
        """How long to wait after so many failures in a row."""
        return min(self.cap, self.first * 2.0 ** min(failures, 30)) * (0.8 + 0.4 * dice.random())


class _Attempt:
    """One connection that is dialled. `ended` is done when it is over."""

    def __init__(self, ended: asyncio.Future[str]) -> None:
        self.ended = ended
        self.link: SocketLink | None = None


class Network:
    """See the module; implements `Harbour`. Made of objects only; `join` maps the names of nodes ("" for one whose
    name is not known beforehand, with its number) to where they listen.
    """

    def __init__(
        self,
        nodes: Nodes,
        secret: LinkSecret,
        *,
        listen: tuple[Port, ...] = (),
        join: tuple[tuple[str, Port], ...] = (),
        timing: Timing | None = None,
        redial: Redial | None = None,
        dice: Dice,
    ) -> None:
        self.nodes = nodes
        self.counts: Counter[str] = Counter()
        self.listening: tuple[str, ...] = ()
        self._secret = secret
        self._listen = listen
        self._join = join
        self._timing = timing or Timing()
        self._redial = redial or Redial()
        self._dice = dice
        self._links: dict[SocketLink, None] = {}
        self._half_open: weakref.WeakSet[SocketLink] = weakref.WeakSet()  # also of TLS that never gets so far
        self._attempts: dict[SocketLink, _Attempt] = {}
        self._ours: dict[SocketLink, int] = {}
        self._servers: list[Listening] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._sessions = 0
        self._closing = False
        self._space = memoryview(bytearray(READ))
        self._context = contextvars.copy_context()
        self._context.run(DELIVERY.set, None)

    # -- in and out --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen everywhere, and begin to dial. Raises `SpecError`, `OSError`; then nothing is left open."""
        try:
            for port in self._listen:
                self._servers.append(await port.listen(lambda port=port: self._accept(port)))  # type: ignore[misc]
        except BaseException:
            await self.aclose()
            raise
        self.listening = tuple(server.address for server in self._servers)
        for name, port in self._join:
            if name:
                self.nodes.peer(name)
            self._tasks.append(asyncio.create_task(self._keep(name, port), name=f"understudy-dial-{port}"))

    async def aclose(self) -> None:
        """Dial and listen no more, and end every connection."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for server in self._servers:
            await server.aclose()
        self.nodes.close()
        for link in list(self._links):
            link.close("shutdown", f"node {self.nodes.name} stops")

    # -- who connects ------------------------------------------------------------------------------------------

    def _me(self, session: int) -> Me:
        return Me(self.nodes.name, self.nodes.epoch, session, (1,), Limits(FRAME_BODY))

    def _accept(self, port: Port) -> asyncio.Protocol:
        if self._closing or len(self._links) >= CONNECTIONS or len(self._half_open) >= HALF_OPEN:
            self.count("full")
            return _Closed()

        def begin(_: asyncio.BaseTransport) -> Listener:
            return Listener(self._secret, self._me(0), port.mode, port.own_digest(), self._admit_dialler)

        link = self._link(begin)
        self._half_open.add(link)
        return link

    def _link(self, begin: Callable[[asyncio.BaseTransport], Dialer | Listener]) -> SocketLink:
        loop, idle = asyncio.get_running_loop(), self.nodes.kernel.dispatcher.when_idle
        return SocketLink(self, begin, loop, self._timing, self._context, self._space, idle)

    def met(self, link: SocketLink) -> None:
        """See `Harbour`."""
        self._links[link] = None

    def _admit_dialler(self, peer: Peer) -> Refusal | None:
        return self._admit(peer, peer.name)

    def _admit(self, peer: Peer, dialler: str) -> Refusal | None:
        verdict = self.nodes.admit(peer.name, peer.epoch, dialler, peer.session)
        return None if verdict is None else _refusal(verdict, peer.name)

    def arrived(self, link: SocketLink, peer: Peer) -> Hears | Refusal:
        """See `Harbour`."""
        self._half_open.discard(link)
        dialler = self.nodes.name if link in self._attempts else peer.name
        hears = self.nodes.connected(link, dialler, peer.session)
        return _refusal(hears, peer.name) if isinstance(hears, str) else hears

    def left(self, link: SocketLink, reason: str) -> None:
        """See `Harbour`."""
        self._links.pop(link, None)
        half_open = link in self._half_open
        self._half_open.discard(link)
        attempt = self._attempts.pop(link, None)
        if attempt is not None and not attempt.ended.done():
            attempt.ended.set_result(reason)
        if half_open and not self._closing:
            self._report(f"a connection was refused: {reason}")

    def count(self, reason: str) -> None:
        """See `Harbour`."""
        self.counts[reason] += 1

    def broke(self, error: Exception) -> None:
        """See `Harbour`."""
        self.count("error")
        if self.counts["error"] <= NOTED:
            log.error("links: what came made this node raise; it is a mistake here", exc_info=error)

    def _report(self, text: str) -> None:
        self.counts["reported"] += 1
        if (many := self.counts["reported"]) <= NOTED:
            log.warning("links: %s%s", text, "; the next ones are only counted" if many == NOTED else "")

    # -- whom we connect to ------------------------------------------------------------------------------------

    async def _keep(self, name: str, port: Port) -> None:
        """Have a connection, and another when it is lost, until the node stops."""
        failures, told = 0, ""
        while True:
            peer, reason = await self._once(name, port)
            if peer is not None and peer.refusal is None and peer.peer is not None:
                failures, told = 0, ""
            elif reason != told:
                told = reason
                log.warning("links: %s cannot be joined: %s; trying again", port, reason, extra={"address": str(port)})
            if peer is not None and peer.refusal is not None:
                await self._put_off(peer.refusal, peer.name)
            await asyncio.sleep(self._redial.seconds(failures, self._dice))
            failures += 1

    async def _put_off(self, refusal: Refusal, name: str) -> None:
        """Do not dial oneself, or a node that is connected, again and again. A refusal proves nothing: look later."""
        if refusal.reason == "self":
            await asyncio.sleep(LOOK_AGAIN)
        elif name in self.nodes.connected_names:
            with suppress(TimeoutError):
                await self.nodes.wait(name, up=False, seconds=LOOK_AGAIN)

    async def _once(self, name: str, port: Port) -> tuple[SocketLink | None, str]:
        """One connection, from dialling to its end: the link, and why it ended."""
        if name and name in self.nodes.connected_names:
            await self.nodes.when(name, up=False)
        ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        attempt = _Attempt(ended)
        self._sessions += 1
        me = self._me(self._sessions)

        def admit(peer: Peer) -> Refusal | None:
            if attempt.link is not None:
                attempt.link.name = peer.name
            if name and peer.name != name:
                return Refusal("name", f"{port} is node {peer.name!r}, not {name!r}")
            return self._admit(Peer(peer.name, peer.epoch, me.session, peer.version, peer.limits), me.name)

        def make() -> SocketLink:
            link = attempt.link = self._link(
                lambda transport: Dialer(self._secret, me, port.mode, port.seen_digest(transport), admit)
            )
            self._attempts[link] = attempt
            return link

        try:
            async with asyncio.timeout(self._timing.handshake):
                await port.dial(make)
            reason = await ended
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no connection within {self._timing.handshake:g} s"
            if attempt.link is not None:
                self._links.pop(attempt.link, None)
                self._attempts.pop(attempt.link, None)
            return None, reason
        return attempt.link, reason


class _Closed(asyncio.Protocol):
    """A connection that is not taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _refusal(verdict: str, name: str) -> Refusal:
    if verdict in ("many", "held"):
        return Refusal("full", _VERDICTS[verdict])
    reason = "self" if verdict == "self" else "stale"
    return Refusal(reason, f"node {name!r}: {_VERDICTS[verdict]}")  # type: ignore[arg-type]  # one of both
