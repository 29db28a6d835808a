"""Messages that arrive once, and in order, across lost links: numbered, kept until acknowledged, sent again.

Numbers count from 1 for each sender node and target path, without gaps (as in Pekko's reliable delivery). The receiver
takes number n when it has taken n - 1, passes over what it has taken, and acknowledges cumulatively when a message is
in the mailbox. The promise holds within one epoch of both nodes: a message of a former epoch of either is not sent
again, because nobody knows whether it was taken; its sender is told `no-connection`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal

from understudy.actors.errors import UsageError
from understudy.actors.refs import Refused, RefusedReason, check_seconds
from understudy.actors.remote.far import FarCell
from understudy.actors.remote.items import Acked, Want
from understudy.actors.remote.link import Unreadable
from understudy.actors.remote.peer import ADDRESSES

if TYPE_CHECKING:
    from understudy.actors.remote.inlets import Inlet
    from understudy.actors.remote.peer import Peer
    from understudy.actors.remote.session import Session

KEPT: Final = 1_000
"""Messages for one address that are not acknowledged, at most."""
_Told = asyncio.Future[Literal[True] | Refused]


class _Kept:
    """One message. `number` is 0 until it is first sent; `settled`: its sender was told."""

    __slots__ = ("message", "number", "told")

    def __init__(self, message: Any, told: _Told) -> None:
        self.message = message
        self.told = told
        self.number = 0

    def settle(self, how: Literal[True] | Refused) -> None:
        """Tell the sender, once."""
        if not self.told.done():
            self.told.set_result(how)


class Outbox:
    """Messages from here for one address, the oldest first. `_sent` of those kept are on the present link.

    A message gets its number when it is first sent: until then it can be refused here without a gap.
    """

    def __init__(self, cell: FarCell) -> None:
        self._cell = cell
        self._epoch = cell.peer.epoch
        self._next = 1
        self._kept: deque[_Kept] = deque()
        self._sent = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, message: Any) -> _Told:
        """Keep a message, and send it when it can be."""
        told: _Told = self._cell.kernel.loop.create_future()
        self._kept.append(_Kept(message, told))
        self.pump()
        return told

    def pump(self) -> None:
        """Send what has not been sent on the present link, as far as there is room, once the types are known there."""
        cell = self._cell
        while self._sent < len(self._kept):
            kept = self._kept[self._sent]
            reason = cell.way(type(kept.message), waiting=False)
            if reason in ("full", "no-connection") or (reason is None and cell.tags is None):
                return
            if reason is not None and not kept.number:
                del self._kept[self._sent]
                kept.settle(Refused(reason, cell.path))
                continue
            self._send(kept)  # what was sent before may have been taken: the receiver knows

    def _send(self, kept: _Kept) -> None:
        cell = self._cell
        link = cell.peer.link
        assert link is not None  # noqa: S101  # looked at by `way`
        try:
            link.tell_surely(cell.channel, kept.number or self._next, kept.message)
        except UsageError as error:  # it is bigger than a frame
            del self._kept[self._sent]
            if not kept.told.done():
                kept.told.set_exception(error)
            return
        if not kept.number:
            kept.number, self._next = self._next, self._next + 1
        cell.sent += 1
        self._sent += 1

    def acked(self, number: int) -> bool:
        """The receiver has taken all up to `number`; False when that was never sent."""
        if number >= self._next:
            return False
        while self._kept and 0 < self._kept[0].number <= number:
            self._first(True)
        return True

    def refused(self, number: int, reason: RefusedReason) -> bool:
        """The receiver does not take this one; it goes on with the next. False when it was never sent."""
        for kept in self._kept:
            if kept.number == number:
                kept.settle(Refused(reason, self._cell.path))
                return True
        return number < self._next

    def _first(self, how: Literal[True] | Refused) -> None:
        self._kept.popleft().settle(how)
        self._sent = max(0, self._sent - 1)

    def give_up(self, reason: RefusedReason) -> None:
        """Nothing that is kept will be taken; the receiver is told to go on behind it."""
        if not self._kept:
            return
        while self._kept:
            self._first(Refused(reason, self._cell.path))
        link = self._cell.peer.link
        if link is not None:
            link.control(Want(self._cell.label, self._next))

    def disconnected(self) -> None:
        """The link is lost: everything is to be sent again."""
        self._sent = 0

    def connected(self) -> None:
        """There is a link: of the same epoch of the peer, or what is kept is given up and numbers begin anew."""
        if self._cell.peer.epoch != self._epoch:
            if self._epoch:  # else it was kept for whichever epoch is the first
                while self._kept:
                    self._first(Refused("no-connection", self._cell.path))
            self._epoch, self._next = self._cell.peer.epoch, 1
        self.pump()


class Sure:
    """The outboxes of one node, and what it has taken from others."""

    def __init__(self) -> None:
        self._outboxes: dict[FarCell, Outbox] = {}
        self._taken: dict[str, tuple[int, dict[str, int]]] = {}

    async def send(self, cell: FarCell, message: Any, timeout: float) -> Literal[True] | Refused:
        """True when the receiver has taken it. When the time is over before that it stays on its way: `unconfirmed`."""
        check_seconds(cell, timeout)
        cell.peer.check_writable(message)
        outbox = self._outboxes.get(cell)
        if outbox is None:
            outbox = self._outboxes[cell] = Outbox(cell)
            cell.outbox = outbox
        if len(outbox) >= KEPT:
            return Refused("full", cell.path)
        told = outbox.put(message)
        done, _ = await asyncio.wait([told], timeout=timeout)
        return told.result() if done else Refused("unconfirmed", cell.path)

    def connected(self, peer: Peer) -> None:
        """There is a link to a peer."""
        epoch, _ = self._taken.get(peer.name, (0, {}))
        if epoch != peer.epoch:
            self._taken[peer.name] = peer.epoch, {}
        for cell, outbox in self._outboxes.items():
            if cell.peer is peer:
                outbox.connected()

    def received(self, session: Session, inlet: Inlet, messages: list[tuple[int, Any]]) -> None:
        """Take those that are next."""
        taken = self._taken[session.peer.name][1]
        path = inlet.path
        for number, message in messages:
            last = taken.get(path, 0)
            if not last and not self._room(session, path):
                inlet.skipped(1)
            elif number <= last:
                inlet.skipped(1)
                session.link.control(Acked(path, last))
            elif number == last + 1:
                taken[path] = number
                if type(message) is Unreadable:
                    inlet.refuse(number, message.reason)
                else:
                    inlet.take(message, number)
            else:
                session.nodes.count(session.peer, "gap")
                inlet.skipped(1)
        inlet.give()

    def _room(self, session: Session, path: str) -> bool:
        """Whether another path may be known by which a peer sends surely. No node addresses more than these."""
        taken = self._taken[session.peer.name][1]
        if path in taken or len(taken) < ADDRESSES:
            return True
        session.nodes.note(session.peer, "many", f"reliable messages for more than {ADDRESSES} addresses")
        return False

    def acked(self, session: Session, item: Acked) -> None:
        """A peer has taken messages."""
        cell = session.peer.known(item.path)
        outbox = None if cell is None else cell.outbox
        if outbox is None:
            known = False
        elif item.refused:
            known = outbox.refused(item.number, item.refused)
        else:
            known = outbox.acked(item.number)
        if not known:
            session.nodes.count(session.peer, "acked")

    def wanted(self, session: Session, item: Want) -> None:
        """A peer has given up what came before."""
        taken = self._taken[session.peer.name][1]
        if self._room(session, item.path):
            taken[item.path] = max(taken.get(item.path, 0), item.first - 1)
