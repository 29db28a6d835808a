"""What one link brings: messages and requests of a peer for actors of this node, and its watches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from understudy.actors.cell import Cell
from understudy.actors.delivery import Envelope
from understudy.actors.errors import AskTimeout, UnderstudyError
from understudy.actors.messages import Down, tag_of
from understudy.actors.refs import Ref
from understudy.actors.remote import items
from understudy.actors.remote.inlets import OVERHEAD, FarSender, Inlet
from understudy.actors.remote.items import FIRST_CREDIT, LONGEST_NAME, Control, Fail, said
from understudy.actors.remote.link import Link, Request

if TYPE_CHECKING:
    from understudy.actors.remote.nodes import Nodes
    from understudy.actors.remote.peer import Peer

CHANNELS: Final = 10_000
"""Channels of one link at most."""
WATCHES: Final = 10_000
"""Watches of one link at most."""
HELD: Final = 1 << 26
"""Bytes of memory for messages of one peer that wait, for room in mailboxes or for the start of an actor, at most (and
what one read brings more): 64 MiB, each message with `OVERHEAD`.
"""
EARLY: Final = 256
"""Frames of one channel that wait until its actor has started."""
_SWEEP: Final = 1_000
"""Requests at work from which on those whose time is over are looked for."""


class _Sentinel:
    """Watches an actor for a peer."""

    __slots__ = ("_id", "_session")

    def __init__(self, session: Session, id: int) -> None:
        self._session = session
        self._id = id

    def told(self, cell: Cell, down: Down) -> None:
        """The notice: send it on."""
        self._session.tell_end(self._id, down)


class Session:
    """See the module; implements `Hears`. `serving` are the requests at work, by id; `tasks` those asked of a ref."""

    def __init__(self, nodes: Nodes, peer: Peer, link: Link) -> None:
        self.nodes = nodes
        self.peer = peer
        self.link = link
        self.closed = False
        self.serving: dict[int, Envelope] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        # A sender is a cell or None wherever it is looked at only for its path, which this has.
        self.sender: Any = FarSender(peer.name)
        self._inlets: dict[int, Inlet] = {}
        self._starting: dict[Cell, tuple[asyncio.Future[None], Callable[[object], None], list[Inlet]]] = {}
        self._sentinels: dict[int, tuple[Cell, _Sentinel]] = {}
        self._acks: dict[str, int] = {}
        self._sweep = _SWEEP

    def _resolve(self, name: str) -> Ref[Any] | None:
        """What the peer means by a path or name; None when there is none that it may reach."""
        try:
            ref = self.nodes.resolve(name)
        except UnderstudyError:
            return None
        rules = self.nodes.rules
        if ref is None or rules is None or rules.reaches(self.peer.name, ref.path):
            return ref
        self.nodes.note(self.peer, "forbidden", f"it may not reach {ref.path!r}")
        return None

    # -- what comes --------------------------------------------------------------------------------------------

    def takes(self, channel: int) -> tuple[type, ...] | None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        if inlet is None or not inlet.open:
            return None
        return inlet.kinds()

    def told(self, channel: int, messages: list[Any], size: int) -> None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        if inlet is not None:
            inlet.size = size // len(messages)
            inlet.told(messages)

    def told_surely(self, channel: int, messages: list[tuple[int, Any]], size: int) -> None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        if inlet is not None:
            inlet.size = size // len(messages)
            self.nodes.sure.received(self, inlet, messages)

    def asked(self, channel: int, requests: list[Request], size: int) -> None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        if inlet is not None:
            inlet.size = size // len(requests)
            inlet.asked(requests)

    def weigh(self, size: int) -> None:
        """Bytes wait, or (negative) do not any more. Too many, and nothing more is read of this peer, on any link."""
        peer = self.peer
        peer.held += size
        if peer.link is None:
            return
        if peer.held > HELD:
            peer.link.hold(hold=True)
        elif peer.held * 2 < HELD:
            peer.link.hold(hold=False)

    def serve(self, id: int, envelope: Envelope) -> bool:
        """Note a request that is at work; False, and counted, for an id that is at work already."""
        if id in self.serving or id in self.tasks:
            self.nodes.note(self.peer, "repeated", f"request {id} is at work already")
            return False
        self.serving[id] = envelope
        if len(self.serving) >= self._sweep:
            self._expire()
        return True

    def _expire(self) -> None:
        """Forget requests whose time is over: in a mailbox, they are dropped without a word."""
        now = self.nodes.kernel.now()
        for each in [each for each in self.serving.values() if each.deadline is not None and each.deadline <= now]:
            each.fail(AskTimeout("", 0.0))
        self._sweep = max(_SWEEP, 2 * len(self.serving))

    def uncrowded(self) -> None:
        """See `Hears`."""
        self.peer.uncrowded()

    def unread(self, channel: int, kind: int, body: bytes) -> None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        if inlet is None or inlet.open or len(inlet.early) >= EARLY:
            self.nodes.note(self.peer, "unread", f"a frame of channel {channel}, which leads nowhere")
            for id in self.link.ids(kind, body):
                self.link.control(Fail(id, "stopped", "", "gone", "no such actor"))
            return
        inlet.wait(len(body) + OVERHEAD, lambda: self.link.reread(channel, kind, body))

    def refused(self, channel: int, count: int, ids: tuple[int, ...], reason: str) -> None:
        """See `Hears`."""
        inlet = self._inlets.get(channel)
        target = inlet.path if inlet is not None else ""
        names = tuple(sorted(tag_of(kind) for kind in (self.takes(channel) or ())))
        self.nodes.note(self.peer, "refused", f"{target}: {count} messages: {reason}")
        for id in ids:
            self.link.control(Fail(id, "refused", target, detail=said(reason), names=names))
        if inlet is not None:
            inlet.skipped(count)
            if count > len(ids):
                self.link.control(items.Dropped(channel, count - len(ids), said(reason)))
            inlet.give()

    def replied(self, replies: list[tuple[int, msgspec.Raw]]) -> None:
        """See `Hears`."""
        self.peer.replied(replies)

    def heard(self, items: list[Control]) -> None:
        """See `Hears`."""
        for item in items:
            _HEARD[type(item)](self, item)
            if self.closed:
                return

    def lost(self, reason: str) -> None:
        """See `Hears`."""
        if not self.closed:
            self.nodes.lost(self, reason)

    def reject(self, path: str, number: int, why: Literal["full", "dead", "unknown"]) -> None:
        """A numbered message is in no mailbox, and will not be."""
        if not self.closed:
            self.link.control(items.Acked(path, number, why))

    def acknowledge(self, path: str, number: int) -> None:
        """A numbered message is in a mailbox; the peer is told once a turn."""
        if self.closed:
            return
        if not self._acks:
            self.nodes.kernel.loop.call_soon(self._send_acks, context=self.nodes.kernel.context)
        self._acks[path] = number

    def _send_acks(self) -> None:
        acks, self._acks = self._acks, {}
        if not self.closed:
            for path, number in acks.items():
                self.link.control(items.Acked(path, number))

    # -- items -------------------------------------------------------------------------------------------------

    def open(self, item: items.Open) -> None:
        """A channel for an actor of this node."""
        channel = item.channel
        if channel in self._inlets:
            self.nodes.note(self.peer, "repeated", f"channel {channel} is open already")
            return
        if len(self._inlets) >= CHANNELS:
            self.nodes.note(self.peer, "many", f"more than {CHANNELS} channels")
            self.link.control(items.Closed(channel, "many", f"{CHANNELS} channels are open"))
            return
        ref = self._resolve(item.path)
        if ref is None:
            self.link.control(items.Closed(channel, "unknown", "no such actor"))
            return
        inlet = self._inlets[channel] = Inlet(self, channel, item.path, ref)
        if inlet.kinds() is not None:
            inlet.begin(FIRST_CREDIT)
            return
        self._await_start(inlet)

    def _await_start(self, inlet: Inlet) -> None:
        cell = inlet.cell
        started = self.nodes.kernel.when_started(cell)
        known = self._starting.get(cell)
        if known is not None and known[0] is started:
            known[2].append(inlet)
            return
        waiting = [inlet]

        def begin(_: object) -> None:
            if (now := self._starting.get(cell)) is not None and now[0] is started:
                del self._starting[cell]
            for each in waiting:
                self._begin(each)

        self._starting[cell] = started, begin, waiting
        started.add_done_callback(begin)

    def _begin(self, inlet: Inlet) -> None:
        if self.closed or self._inlets.get(inlet.channel) is not inlet:
            return
        if inlet.kinds() is None:
            self.shut(inlet, "dead", str(inlet.cell.exit))
        else:
            inlet.begin(FIRST_CREDIT)

    def shut(self, inlet: Inlet, reason: items.Lost, detail: str) -> None:
        """A channel leads nowhere any more."""
        if self._inlets.pop(inlet.channel, None) is not None:
            inlet.open = False  # no credit for a number that may be given again
            self.link.control(items.Closed(inlet.channel, reason, said(detail)))
            for again in inlet.take_early():
                again()

    def cancel(self, item: items.Cancel) -> None:
        """An asker was cancelled."""
        if item.id not in self.tasks and item.id not in self.serving:
            self.nodes.count(self.peer, "gone")
        task = self.tasks.get(item.id)
        if task is not None:
            task.cancel()
        envelope = self.serving.pop(item.id, None)
        if envelope is not None and envelope.life is not None:
            self.nodes.kernel.cancel_request(envelope.life.cell, envelope)
        elif envelope is not None:
            envelope.cancelled = True

    def watch(self, item: items.Watch) -> None:
        """A peer watches an actor of this node."""
        if item.id in self._sentinels:
            self.nodes.note(self.peer, "repeated", f"watch {item.id} is known already")
            return
        if len(self._sentinels) >= WATCHES:
            self.nodes.note(self.peer, "many", f"more than {WATCHES} watches")
            self.link.control(items.Ended(item.id, 0, "error", f"{WATCHES} actors are watched already", False))
            return
        ref = self._resolve(item.path)
        try:
            cell = ref.cell() if ref is not None else None
        except UnderstudyError:
            cell = None
        if cell is None or (cell.life is None and cell.state in ("failed", "stopped")):
            gone = cell is None or cell.state == "stopped"
            exit = ("gone", "") if cell is None or gone else (cell.exit.kind, cell.exit.detail)
            number = 0 if cell is None else cell.number
            self.link.control(items.Ended(item.id, number, exit[0], said(exit[1]), not gone))
            return
        sentinel = _Sentinel(self, item.id)
        self._sentinels[item.id] = cell, sentinel
        cell.watch(sentinel)

    def unwatch(self, item: items.Unwatch) -> None:
        """A peer does not any more."""
        found = self._sentinels.pop(item.id, None)
        if found is None:
            self.nodes.count(self.peer, "gone")
        else:
            found[0].unwatch(found[1])

    def tell_end(self, id: int, down: Down) -> None:
        """An actor that the peer watches has ended."""
        if self._sentinels.pop(id, None) is not None:
            self.link.control(items.Ended(id, down.incarnation, down.kind, said(down.detail), down.restarting))

    def find(self, item: items.Find) -> None:
        """A peer looks for a name."""
        ref = self._resolve(item.name)
        path = "" if ref is None or len(ref.path) > LONGEST_NAME else ref.path
        self.link.control(items.Found(item.id, path))

    # -- ends --------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """The link is lost: nobody waits for replies any more, and nobody watches."""
        self.closed = True
        for cell, sentinel in self._sentinels.values():
            cell.unwatch(sentinel)
        self._sentinels.clear()
        for started, begin, _ in self._starting.values():
            started.remove_done_callback(begin)
        self._starting.clear()
        for inlet in self._inlets.values():
            inlet.take_early()
        self._inlets.clear()
        self.serving.clear()
        for task in list(self.tasks.values()):  # an agent's run goes by its `on_abandon`
            task.cancel()


def _to_peer(name: str) -> Any:
    return lambda session, item: getattr(session.peer, name)(item)


_HEARD: Final[dict[type, Any]] = {
    items.Open: Session.open,
    items.Cancel: Session.cancel,
    items.Watch: Session.watch,
    items.Unwatch: Session.unwatch,
    items.Find: Session.find,
    items.Opened: lambda session, item: session.peer.opened(item),
    items.Closed: lambda session, item: session.peer.closed(item),
    items.Credit: lambda session, item: session.peer.credited(item),
    items.Dropped: lambda session, item: session.peer.dropped(item),
    items.Fail: lambda session, item: session.peer.failed(item),
    items.Ended: lambda session, item: session.peer.ended(item),
    items.Found: lambda session, item: session.peer.found(item),
    items.Acked: lambda session, item: session.nodes.sure.acked(session, item),
    items.Want: lambda session, item: session.nodes.sure.wanted(session, item),
}
"""What is done with each item. Checked to be complete by `tests/actors/remote`."""
