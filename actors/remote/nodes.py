"""The nodes that one node knows: who is connected, who may connect, where names lead.

A node has a name and an *epoch*, which grows with each start of its process. Two nodes have one link at most. When both
dial at once, the link that the node with the smaller name dialled stays; both sides find the same one.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from msgspec import Struct

from understudy.actors.delivery import CHAIN_LIMIT, Envelope
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.messages import Down, Exited, Message, Tick
from understudy.actors.refs import Ref
from understudy.actors.remote.far import FarCell, FarHop
from understudy.actors.remote.link import Hop, Link
from understudy.actors.remote.peer import Peer
from understudy.actors.remote.session import HELD, Session
from understudy.actors.remote.sure import Sure
from understudy.actors.telemetry import LineLimit, log, one_line

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PEERS: Final = 1_000
"""Nodes that one node knows at most."""
NOTED: Final = 100
"""Times that one kind of refusal by one peer is logged; it is counted always."""
_NOTICES: Final = frozenset((Down, Exited, Tick))
"""What only the runtime says. A peer cannot say it."""

Verdict = Literal["self", "stale", "twice", "many", "held"]


class Rules(Protocol):
    """What peers may reach."""

    def reaches(self, peer: str, target: str) -> bool:
        """Whether a peer may reach the actor with this path."""
        ...

    def allows(self, peer: str, target: str, tag: str) -> bool:
        """Whether it may send it messages with this tag."""
        ...


class NodeChange(Struct, frozen=True):
    """A node was connected (`up`), or its link was lost, and why."""

    node: str
    epoch: int
    up: bool
    reason: str = ""


def check_node_name(name: str) -> str:
    """The name. Raises `SpecError` for one that is none."""
    if not NAME.fullmatch(name):
        raise SpecError(f"node name {name!r}: 1 to 64 letters, digits, '-', '_' and '.', the first a letter or digit")
    return name


class Nodes:
    """See the module. `resolve` finds an address of this node by path or name; `rules`: what peers may reach."""

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        epoch: int,
        resolve: Callable[[str], Ref[Any] | None],
        rules: Rules | None = None,
    ) -> None:
        self.kernel = kernel
        self.name = check_node_name(name)
        self.epoch = epoch
        self.resolve = resolve
        self.rules = rules
        self.sure = Sure()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.listeners: list[Callable[[NodeChange], None]] = []
        self._peers: dict[str, Peer] = {}
        self._sessions: dict[str, Session] = {}
        self._dialled: dict[str, tuple[str, int]] = {}
        self._changed: dict[str, list[asyncio.Future[None]]] = {}
        self._kinds: dict[type, tuple[type, ...]] = {}
        self._lines = LineLimit()
        self._id = 0

    # -- names -------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A number that this node gives once."""
        self._id += 1
        return self._id

    def peer(self, name: str) -> Peer:
        """A node by name, connected or not (yet)."""
        peer = self._peers.get(name)
        if peer is None:
            check_node_name(name)
            if len(self._peers) >= PEERS:
                raise SpecError(f"node {name}: {PEERS} nodes are known already")
            peer = self._peers[name] = Peer(self, self.kernel, name)
        return peer

    def knows(self, name: str) -> bool:
        """Whether such a node was ever connected, or is expected."""
        return name in self._peers

    def cell(self, path: str) -> FarCell | None:
        """The address behind "node/path"; None when no such node is known."""
        node, _, name = path.partition("/")
        return self._peers[node].cell(name) if name and node in self._peers else None

    @property
    def connected_names(self) -> tuple[str, ...]:
        """The nodes that are connected, sorted."""
        return tuple(sorted(self._sessions))

    @property
    def peers(self) -> tuple[Peer, ...]:
        """All nodes that are known."""
        return tuple(self._peers.values())

    async def find(self, name: str, seconds: float) -> FarCell:
        """The address that one of the connected nodes has under this name. Raises `UsageError`."""
        peers = [peer for peer in self._peers.values() if peer.link is not None]
        answers = await asyncio.gather(*(peer.find(name, seconds) for peer in peers), return_exceptions=True)
        found: list[FarCell] = []
        wrong: list[str] = []
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, BaseException):
                wrong.append(f"{peer.name} did not answer within {seconds:g} s")
            elif answer.path:
                found.append(peer.cell(answer.path))
            elif answer.detail:
                wrong.append(f"{peer.name}: {answer.detail}")
        if len(found) == 1 and not wrong:
            return found[0]
        paths = ", ".join(cell.path for cell in found)
        known = f"several have it: {paths}" if len(found) > 1 else "; ".join(wrong) or "nobody has it"
        raise UsageError(f"no actor {name!r}: {known}")

    def takes(self, ref: Ref[Any]) -> tuple[type, ...] | None:
        """The message types that a peer may send to a ref."""
        if type(ref) is not Ref:
            kinds = ref.kinds()
            return None if kinds is None else _messages(kinds)
        actor = ref._cell.kind
        if actor is None:
            return None
        known = self._kinds.get(actor)
        if known is None:
            known = self._kinds[actor] = _messages(tuple(actor.handlers))
        return known

    def chain_of(self, hops: tuple[Hop, ...]) -> tuple[Envelope, ...]:
        """Who waits for a request that came over a link, as far as known; ours are the envelopes."""
        chain: list[Envelope] = []
        for hop in hops:
            ours = self._ours(hop) if hop[0] == self.name and hop[1] == self.epoch else None
            chain.extend(ours if ours is not None else (FarHop(None, hop=hop),))
        return tuple(chain[:CHAIN_LIMIT])

    def _ours(self, hop: Hop) -> tuple[Envelope, ...] | None:
        for peer in self._peers.values():
            chain = peer.chain_of(hop[2])
            if chain is not None:
                return chain
        return None

    # -- links -------------------------------------------------------------------------------------------------

    def admit(self, name: str, epoch: int, dialler: str, session: int) -> Verdict | None:
        """Why a node may not be connected now; None when it may. `session` counts the links that `dialler` dialled."""
        if name == self.name:
            return "self"
        peer = self._peers.get(name)
        if peer is None:
            return "many" if len(self._peers) >= PEERS else None
        if epoch < peer.epoch:
            return "stale"
        if peer.held > HELD:
            return "held"
        known = self._dialled.get(name)
        if known is None or name not in self._sessions or epoch > peer.epoch:
            return None
        if known[0] == dialler:
            return None if session > known[1] else "stale"
        return None if dialler < known[0] else "twice"

    def connected(self, link: Link, dialler: str, session: int) -> Session | Verdict:
        """There is a link, which `admit` let through: what hears it. A former link of the same node is closed."""
        verdict = self.admit(link.name, link.epoch, dialler, session)
        if verdict is not None:
            return verdict
        former = self._sessions.get(link.name)
        if former is not None:
            former.link.close("replaced", "another connection of this node took its place")
            self.lost(former, "replaced by another connection")
        peer = self.peer(link.name)
        hears = self._sessions[link.name] = Session(self, peer, link)
        self._dialled[link.name] = dialler, session
        peer.connect(link)
        self.sure.connected(peer)
        self._tell(NodeChange(peer.name, peer.epoch, True))
        return hears

    def lost(self, session: Session, reason: str) -> None:
        """A link is lost."""
        peer = session.peer
        if self._sessions.get(peer.name) is session:
            del self._sessions[peer.name]
        session.end()
        if peer.link is session.link:
            peer.disconnect(reason)
            self._tell(NodeChange(peer.name, peer.epoch, False, reason))

    def close(self) -> None:
        """Say goodbye to everybody."""
        for session in list(self._sessions.values()):
            session.link.close("shutdown", f"node {self.name} stops")
            self.lost(session, f"this node ({self.name}) stops")

    # -- what happens ------------------------------------------------------------------------------------------

    def count(self, peer: Peer, what: str) -> int:
        """Count something that a peer did and that led to nothing; how often it was."""
        self.counts[peer.name, what] += 1
        return self.counts[peer.name, what]

    def note(self, peer: Peer, what: str, text: str) -> None:
        """Count something that a peer did and was refused, and log the first hundred."""
        many = self.count(peer, what)
        if many <= NOTED:
            last = "; the next ones are only counted" if many == NOTED else ""
            extra = {"node": peer.name, "refused": what}
            log.warning("node %s: %s: %s%s", peer.name, what, one_line(text), last, extra=extra)

    def _tell(self, change: NodeChange) -> None:
        admitted = self._lines.admit(change.node, self.kernel.now())
        if admitted is not None:
            self._lines.evict()
            extra = {"node": change.node, "epoch": change.epoch, "left_out": admitted[0]}
            if change.up:
                log.info("node %s is connected", change.node, extra=extra)
            else:
                reason = one_line(change.reason)
                log.warning("node %s is not connected any more: %s", change.node, reason, extra=extra)
        for waiter in self._changed.pop(change.node, ()):
            if not waiter.done():
                waiter.set_result(None)
        for listener in list(self.listeners):
            try:
                listener(change)
            except Exception:
                log.exception("a listener of nodes raised")

    async def wait(self, name: str, *, up: bool, seconds: float) -> None:
        """Wait until a node is connected, or is not. Raises `TimeoutError`."""
        async with asyncio.timeout(seconds):
            await self.when(name, up=up)

    async def when(self, name: str, *, up: bool) -> None:
        """As `wait`, for as long as it takes."""
        while (name in self._sessions) is not up:
            waiter: asyncio.Future[None] = self.kernel.loop.create_future()
            self._changed.setdefault(name, []).append(waiter)
            try:
                await waiter
            finally:
                waiters = self._changed.get(name, [])
                if waiter in waiters:
                    waiters.remove(waiter)


def _messages(kinds: tuple[type, ...]) -> tuple[type, ...]:
    return tuple(kind for kind in kinds if issubclass(kind, Message) and kind not in _NOTICES)
