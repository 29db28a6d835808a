"""The kinds of links that we ship, as the conformance suite uses them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from understudy.actors.remote.nodes import Nodes
from understudy.transports.links.addresses import parse
from understudy.transports.links.keys import LinkSecret
from understudy.transports.links.network import Network, Redial
from understudy.transports.links.pipes import Hub
from understudy.transports.links.ports import Factory, Listening, Port, SocketPort, Tls
from understudy.transports.links.sockets import Timing
from understudy.transports.testing.link_kit import Down

SECRET = LinkSecret(b"correct horse battery staple")
REDIAL = Redial(first=0.01, cap=0.2)
TIMING = Timing()


class _Ear(asyncio.Protocol):
    """Hands everything on, and knows the transport."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self.transport: asyncio.Transport | None = None
        for name in ("data_received", "eof_received", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(inner, name))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.inner.connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.inner.connection_lost(error)


class CutPort:
    """A port whose dialled connections can be ended under the link's feet."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._ears: list[_Ear] = []
        self.mode = port.mode

    def __str__(self) -> str:
        return str(self._port)

    def own_digest(self) -> bytes:
        return self._port.own_digest()

    def seen_digest(self, transport: asyncio.BaseTransport) -> bytes:
        return self._port.seen_digest(transport)

    async def listen(self, make: Factory) -> Listening:
        return await self._port.listen(make)

    async def dial(self, make: Factory) -> None:
        def heard() -> asyncio.Protocol:
            self._ears = [ear for ear in self._ears if ear.transport is not None]
            self._ears.append(_Ear(make()))
            return self._ears[-1]

        await self._port.dial(heard)

    def cut(self) -> None:
        for ear in self._ears:
            if ear.transport is not None:
                ear.transport.abort()


async def network(
    nodes: Nodes, listen: tuple[Port, ...], join: tuple[tuple[str, Port], ...], **options: Any
) -> Network:
    """A network of a node, started, that is quick to dial again."""
    settings = {"timing": TIMING, "redial": REDIAL, "dice": random.Random(0), **options}
    made = Network(nodes, SECRET, listen=listen, join=join, **settings)
    await made.start()
    return made


def port(address: str, tls: Tls | None = None, *, listens: bool = False) -> SocketPort:
    return SocketPort(parse(address), SECRET, tls, listens=listens)


class HubWires:
    """Links within the process."""

    def __init__(self, hub: Hub | None = None) -> None:
        self.hub = hub or Hub()

    async def up(self, nodes: Nodes, to: tuple[str, ...]) -> Down:
        join = tuple((name, self.hub.port(nodes.name, name)) for name in to)
        return (await network(nodes, (self.hub.port(nodes.name),), join)).aclose

    async def cut(self, one: str, other: str) -> None:
        self.hub.cut(one, other)


class StreamWires:
    """Links over sockets: `address` is where a node listens, by its name; `tls` for those who listen, and who dial."""

    def __init__(self, address: str, tls: tuple[Tls, Tls] | None = None) -> None:
        self._address = address
        self._tls = tls or (None, None)
        self._at: dict[str, str] = {}
        self._dialled: dict[frozenset[str], CutPort] = {}

    async def up(self, nodes: Nodes, to: tuple[str, ...]) -> Down:
        listens = port(self._address.format(name=nodes.name), self._tls[0], listens=True)
        join = tuple((name, self._dial(nodes.name, name)) for name in to)
        made = await network(nodes, (listens,), join)
        self._at[nodes.name] = made.listening[0]
        return made.aclose

    def _dial(self, here: str, there: str) -> CutPort:
        dials = self._dialled[frozenset((here, there))] = CutPort(port(self._at[there], self._tls[1]))
        return dials

    async def cut(self, one: str, other: str) -> None:
        self._dialled[frozenset((one, other))].cut()


def tcp() -> StreamWires:
    return StreamWires("tcp://127.0.0.1:0")


def unix(folder: Path) -> StreamWires:
    return StreamWires(f"unix://{folder}/{{name}}")


def tls(cert: Path, key: Path, ca: Path) -> StreamWires:
    return StreamWires("tls://127.0.0.1:0", (Tls(cert, key), Tls(ca=ca)))
