"""How a system reaches other nodes: what users give, checked, and made into a network. Sockets are imported lazily."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from understudy.actors.agents.driver import AgentActor
from understudy.actors.clock import Clock, Dice
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.store import JournalStore
from understudy.actors.kernel import Kernel
from understudy.actors.refs import Ref, check_seconds
from understudy.actors.remote.nodes import Nodes, Rules, check_node_name
from understudy.actors.remote.refs import FarRef
from understudy.supervisors.keeping import Keeper

if TYPE_CHECKING:
    from understudy.transports.links.allow import Allow
    from understudy.transports.links.keys import LinkSecret
    from understudy.transports.links.network import Network
    from understudy.transports.links.ports import Port, Tls

JOIN_SECONDS: Final = 10.0

Given = bytes | str | PathLike[str]
"""A secret, or the file that holds it (a `Path`)."""
Place = "str | Port"
Listen = Any
"""An address ("tcp://host:port", "tls://…", "unix:///path"), a `Port`, or several. Any: the types are imported late."""
Join = Any
"""Addresses, or a mapping of node names to addresses."""


class Reach(Struct, frozen=True):
    """What was given. Addresses are texts, or ports already."""

    name: str
    listen: tuple[Any, ...]
    join: tuple[tuple[str, Any], ...]
    secret: Any
    tls: Any
    rules: Rules


def reach(
    name: str | None,
    listen: Listen,
    join: Join,
    secret: Given | None,
    tls: Tls | None,
    allow: Mapping[str, Allow] | None,
) -> Reach | None:
    """What was given, checked as far as it can be before the start; None for a system without other nodes.

    Raises `SpecError`.
    """
    listens = _places(listen, "listen")
    joins = _joins(join)
    if not listens and not joins and name is None:
        for what, value in (("secret", secret), ("tls", tls), ("allow", allow)):
            if value is not None:
                raise SpecError(f"{what}= without listen= or join=")
        return None
    chosen = check_node_name(name if name is not None else _host_name())
    if chosen in dict(joins):
        raise SpecError(f"join: {chosen!r} is this node itself")
    from understudy.transports.links.allow import AllowList

    return Reach(chosen, listens, joins, secret, tls, AllowList(allow))


def _host_name() -> str:
    return "".join(each if each.isalnum() or each in "-_." else "-" for each in platform.node())[:64] or "node"


def _places(given: Any, what: str) -> tuple[Any, ...]:
    if isinstance(given, str) or hasattr(given, "dial"):
        given = (given,)
    if not isinstance(given, Sequence):
        raise SpecError(f"{what}={given!r}: an address, or several")
    return tuple(given)


def _joins(given: Any) -> tuple[tuple[str, Any], ...]:
    if isinstance(given, Mapping):
        return tuple((check_node_name(name), place) for name, place in given.items())
    return tuple(("", place) for place in _places(given, "join"))


def network_of(reach: Reach, nodes: Nodes, journal: str | None, dice: Dice) -> Network:
    """The network of a system; `journal`: the path of its journal. Raises `SpecError`."""
    from understudy.transports.links.keys import LinkSecret, link_secret
    from understudy.transports.links.network import Network

    ready = all(not isinstance(place, str) for place in (*reach.listen, *(place for _, place in reach.join)))
    secret = link_secret(reach.secret, journal=journal, make=bool(reach.listen))
    if secret is None and ready:  # within one process
        secret = LinkSecret(b"within one process")
    return Network(
        nodes,
        _needed(secret),
        listen=tuple(_port(place, secret, reach.tls, listens=True) for place in reach.listen),
        join=tuple((name, _port(place, secret, reach.tls, listens=False)) for name, place in reach.join),
        dice=dice,
    )


def _needed(secret: LinkSecret | None) -> LinkSecret:
    from understudy.transports.links.keys import SOURCES

    if secret is None:
        raise SpecError(f"no secret, so no peer could be known; {SOURCES}")
    return secret


def _port(place: Any, secret: Any, tls: Any, *, listens: bool) -> Port:
    from understudy.transports.links.addresses import parse
    from understudy.transports.links.ports import SocketPort

    if not isinstance(place, str):
        port: Port = place
        return port
    return SocketPort(parse(place), _needed(secret), tls, listens=listens)


class Reaching:
    """The part of a system that is a node among others."""

    kernel: Kernel
    journal: Journal
    network: Network | None = None
    _clock: Clock
    _dice: Dice
    _journal_at: PathLike[str] | str | JournalStore | None
    _reach: Reach | None

    def _running(self) -> None:
        raise NotImplementedError

    async def _connect(self, stack: AsyncExitStack) -> None:
        """Be a node among others, if it is to be one."""
        reach = self._reach
        if reach is None:
            return
        file = fspath(self._journal_at) if isinstance(self._journal_at, str | PathLike) else None
        epoch = max(int(self._clock.wall() * 1e6), int(self.journal.kept.get("node_epoch", "0")) + 1)
        await self.journal.store.set_meta({"node_epoch": str(epoch)})
        nodes = self.kernel.nodes = Nodes(self.kernel, reach.name, epoch, self._reachable, reach.rules)
        self.network = network_of(reach, nodes, file, self._dice)
        stack.push_async_callback(self.network.aclose)
        await self.network.start()

    def _far(self, path: str) -> Ref[Any] | None:
        """The address "node/path"; None when no such node is known."""
        cell = None if self.kernel.nodes is None else self.kernel.nodes.cell(path)
        return None if cell is None else FarRef(cell)

    def _reachable(self, path: str) -> Ref[Any] | None:
        """What another node may address by this path: no supervisor itself, and of agents only their addresses."""
        found = self._local_ref(path)
        if found is None or type(found) is not Ref:
            return found
        kind = found.cell().kind
        return None if kind is None or issubclass(kind, AgentActor | Keeper) else found

    def _local_ref(self, name: str) -> Ref[Any] | None:
        raise NotImplementedError

    @property
    def listening(self) -> tuple[str, ...]:
        """Where this node listens, with the ports it was given."""
        return () if self.network is None else self.network.listening

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the nodes that are connected, sorted."""
        return () if self.kernel.nodes is None else self.kernel.nodes.connected_names

    async def joined(self, *names: str, timeout: float = JOIN_SECONDS) -> None:
        """Wait until these nodes are connected. Raises `TimeoutError` after `timeout` (default 10) seconds."""
        nodes = self._nodes()
        check_seconds("joined", timeout, "joined")
        try:
            async with asyncio.timeout(timeout):
                for name in names:
                    await nodes.when(name, up=True)
        except TimeoutError:
            missing = ", ".join(name for name in names if name not in nodes.connected_names)
            raise TimeoutError(f"not connected within {timeout:g} s: {missing}") from None

    async def find(self, name: str, *, timeout: float = JOIN_SECONDS) -> Ref[Any]:
        """The address of an actor by path or short name: of this node, else of the one other node that has it.

        Raises `UsageError` when nobody has it, when several do, or when a node does not answer within `timeout`
        (default 10) seconds.
        """
        self._running()
        found = self._local_ref(name)
        if found is not None:
            return found
        return FarRef(await self._nodes().find(name, timeout))

    def _nodes(self) -> Nodes:
        self._running()
        if self.kernel.nodes is None:
            raise UsageError("this system is no node; give System(name=...) and listen= or join=")
        return self.kernel.nodes
