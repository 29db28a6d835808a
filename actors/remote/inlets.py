"""The receiving end of a channel: who gets its messages, and how many more may be sent.

A channel may be ahead of its receiver's mailbox by `WINDOW` messages: those that found it full wait in its queue for
room, in order, and no credit is given while more than half a window does. So what a peer can make this node hold is
bounded, and a slow actor stops only those who send to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from understudy.actors.cell import Cell
from understudy.actors.delivery import Entry, Envelope
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    CallCycle,
    MailboxFull,
    NotHandled,
    UsageError,
)
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import tag_of
from understudy.actors.refs import Ref, check_cycle
from understudy.actors.remote.items import Credit, Dropped, Fail, Opened, said
from understudy.actors.remote.link import Link, Request
from understudy.actors.tasks import new_task

if TYPE_CHECKING:
    from understudy.actors.remote.session import Session

LONGEST: Final = 366 * 86_400.0
"""Seconds that a request may take; also what a deadline that is no number becomes."""
OVERHEAD: Final = 600
"""Bytes of memory that a message takes beside its own, while it waits for room: measured with an empty one."""
REQUESTS: Final = 10_000
"""Requests of one link that pools and agents work on at once, at most."""
WINDOW: Final = 1_000
"""Messages that a channel may have sent, and its receiver not yet put into a mailbox."""


class FarSender:
    """Who sent what came over a link, as far as it is known: the node."""

    __slots__ = ("path",)

    def __init__(self, node: str) -> None:
        self.path = f"{node}/"


class FarReply:
    """The reply of a request that came over a link, in place of a future."""

    __slots__ = ("_id", "_open", "_session", "_target")

    def __init__(self, session: Session, id: int, target: str) -> None:
        self._session = session
        self._id = id
        self._target = target
        self._open = True

    def done(self) -> bool:
        """Whether it was given, or nobody waits any more."""
        return not self._open or self._session.closed

    def cancelled(self) -> bool:
        """Never: who asked may be gone, which is `done`."""
        return False

    def cancel(self) -> None:
        """Give nothing."""
        self._close()

    def _close(self) -> Link | None:
        if not self._open:
            return None
        self._open = False
        self._session.serving.pop(self._id, None)
        return None if self._session.closed else self._session.link

    def set_result(self, value: object) -> None:
        """Send the reply."""
        link = self._close()
        if link is None:
            return
        try:
            link.reply(self._id, value)
        except UsageError as error:
            link.control(Fail(self._id, "reply", self._target, detail=said(str(error))))

    def set_exception(self, error: BaseException) -> None:
        """Send why there is none."""
        link = self._close()
        if link is not None:
            link.control(failure(self._id, self._target, error))


def failure(id: int, target: str, error: BaseException) -> Fail:
    """An error as it travels."""
    if isinstance(error, ActorStopped):
        return Fail(id, "stopped", target, error.exit.kind, said(error.exit.detail))
    if isinstance(error, NotHandled):
        return Fail(id, "unknown", target, names=error.accepts)
    if isinstance(error, MailboxFull):
        return Fail(id, "full", target, limit=error.limit)
    if isinstance(error, AskTimeout):
        return Fail(id, "expired", target)
    if isinstance(error, CallCycle):
        return Fail(id, "cycle", target, names=error.cycle)
    return Fail(id, "stopped", target, "error", said(f"{type(error).__name__}: {error}"))


class Inlet:
    """One channel's receiver: an actor, or whatever a ref of this node stands for (a pool, an agent, routes)."""

    __slots__ = (
        "_acks",
        "_allowed",
        "_allowed_kinds",
        "_early_size",
        "_kept",
        "_known",
        "_over",
        "_received",
        "_ref",
        "_session",
        "_weight",
        "channel",
        "early",
        "open",
        "path",
        "plain",
        "size",
    )

    def __init__(self, session: Session, channel: int, path: str, ref: Ref[Any]) -> None:
        self._session = session
        self.channel = channel
        self.path = path
        self._ref = ref
        self.plain = type(ref) is Ref
        self._received = 0
        self._allowed = 0
        self._kept: deque[Entry] = deque()
        self._acks: deque[tuple[Entry, int]] = deque()
        self._weight = 0
        self._known: tuple[type, ...] | None = None
        self._allowed_kinds: tuple[type, ...] = ()
        self.open = False
        self.size = 0
        self.early: list[Callable[[], None]] = []
        self._early_size = self._over = 0

    @property
    def cell(self) -> Cell:
        """The cell that the next message goes to."""
        return self._ref.cell()

    def kinds(self) -> tuple[type, ...] | None:
        """What it takes from this peer; None while that is not known."""
        nodes = self._session.nodes
        kinds = nodes.takes(self._ref)
        if kinds is None or nodes.rules is None:
            return kinds
        if kinds is not self._known:
            peer, path = self._session.peer.name, self._ref.path
            self._known = kinds
            self._allowed_kinds = tuple(kind for kind in kinds if nodes.rules.allows(peer, path, tag_of(kind)))
        return self._allowed_kinds

    def begin(self, first: int) -> None:
        """Say what it takes."""
        kinds = self.kinds() or ()
        self.open = True
        self._allowed = max(first, WINDOW)
        tags = tuple(sorted(tag_of(kind) for kind in kinds))
        self._session.link.control(Opened(self.channel, self._allowed, tags, self.cell.limit))
        for again in self.take_early():
            again()

    def wait(self, size: int, again: Callable[[], None]) -> None:
        """A frame came before the actor has started."""
        self.early.append(again)
        self._early_size += size
        self._session.weigh(size)

    def take_early(self) -> list[Callable[[], None]]:
        """What came before the actor has started; it waits no more."""
        early, self.early = self.early, []
        size, self._early_size = self._early_size, 0
        if size:
            self._session.weigh(-size)
        return early

    # -- messages ----------------------------------------------------------------------------------------------

    def told(self, messages: list[Any]) -> None:
        """Deliver messages."""
        self._received += len(messages)
        if self.plain:
            sender = self._session.sender
            self._post([(message, sender) for message in messages])
        else:
            refused = [told.reason for message in messages if not (told := self._ref.tell(message))]
            if refused:
                self._lost(len(refused), refused[0])
        self.give()

    def _post(self, entries: list[Entry]) -> None:
        """Put entries into the mailbox, or let them wait for room; those of an actor that has stopped are lost."""
        cell = self._ref._cell
        kernel = cell.kernel
        if cell.state in ("stopping", "stopped"):
            for entry in entries:
                kernel.lose(cell, entry, "stopped")
            self._lost(sum(1 for entry in entries if type(entry) is tuple), "dead")
            return
        if self._kept:
            self._hold(entries)
        elif cell.overflow != "refuse":
            for entry in entries:
                kernel.post(cell, entry)
        elif (taken := kernel.post_all(cell, entries)) < len(entries):
            self._hold(entries[taken:])
            cell.box().wait_in_bulk(self)

    # -- what waits for room (`Bulk`) --------------------------------------------------------------------------

    def _hold(self, entries: list[Entry]) -> None:
        self._kept.extend(entries)
        weight = (self.size + OVERHEAD) * len(entries)
        self._weight += weight
        self._session.weigh(weight)

    def pour(self, room: int) -> bool:
        """See `Bulk`."""
        held = self._kept
        many = min(room, len(held))
        work = self._ref._cell.box().work
        weight = self._weight if many == len(held) else self._weight * many // len(held)
        if not self._acks:
            work.extend(islice(held, many))
            for _ in range(many):
                held.popleft()
        else:
            for _ in range(many):
                entry = held.popleft()
                work.append(entry)
                if self._acks and self._acks[0][0] is entry:
                    self._session.acknowledge(self.path, self._acks.popleft()[1])
        self._weight -= weight
        self._session.weigh(-weight)
        self.give()
        return bool(held)

    def held(self) -> Sequence[Entry]:
        """See `Bulk`."""
        return self._kept

    def lost(self) -> None:
        """See `Bulk`."""
        held, self._kept = self._kept, deque()
        cell = self._ref._cell
        for entry in held:
            cell.kernel.lose(cell, entry, "stopped")
        acks, self._acks = self._acks, deque()
        for _, number in acks:
            self._session.reject(self.path, number, "dead")
        self._session.weigh(-self._weight)
        self._weight = 0

    def take(self, message: Any, number: int) -> None:
        """Deliver one message of those that are acknowledged: when it is in the mailbox."""
        self._received += 1
        if not self.plain:
            told = self._ref.tell(message)
            if not told:
                self._lost(1, told.reason)
                self._session.reject(self.path, number, "full" if told.reason == "full" else "dead")
            self._session.acknowledge(self.path, number)
            return
        entry = message, self._session.sender
        before = len(self._kept)
        self._post([entry])
        if len(self._kept) > before:
            self._acks.append((entry, number))
        else:
            self._session.acknowledge(self.path, number)

    def refuse(self, number: int, why: str) -> None:
        """One message of those that are acknowledged cannot be read; those behind it can."""
        self._received += 1
        self._lost(1, why)
        self._session.reject(self.path, number, "unknown")
        if not self._acks:
            self._session.acknowledge(self.path, number)

    def skipped(self, count: int) -> None:
        """Messages came that are not delivered: their places are free again."""
        self._received += count
        self.give()

    def _lost(self, count: int, reason: str) -> None:
        if not self._session.closed:
            self._session.link.control(Dropped(self.channel, count, said(reason)))
            if reason == "dead":
                self._session.shut(self, "dead", str(self.cell.exit))

    def give(self) -> None:
        """Give credit, if it is time to."""
        if self._session.closed or not self.open:
            return
        if self._received > max(self._allowed, self._over):
            self._over = self._received
            more = f"{self._received - self._allowed} messages more than it may send"
            self._session.nodes.note(self._session.peer, "credit", f"{self.path}: {more}")
        held = len(self._kept)
        allowed = self._received + WINDOW - held
        if held * 2 <= WINDOW and (allowed - self._allowed) * 2 >= WINDOW - held:
            self._allowed = allowed
            self._session.link.control(Credit(self.channel, allowed))

    # -- requests ----------------------------------------------------------------------------------------------

    def asked(self, requests: list[Request]) -> None:
        """Deliver requests."""
        self._received += len(requests)
        session = self._session
        if not self.plain:
            for request in requests:
                self._ask_ref(request[0], request[1] if request[1] < LONGEST else LONGEST, request[2])
            self.give()
            return
        cell = self._ref._cell
        now, sender = session.nodes.kernel.now(), session.sender
        entries: list[Entry] = []
        for request in requests:
            id, seconds = request[0], request[1]
            if seconds <= 0.0:
                session.link.control(Fail(id, "expired", self.path))
                continue
            chain = session.nodes.chain_of(request[3]) if len(request) == 4 else ()
            # A deadline that is no number is none of those below the longest.
            deadline = now + (seconds if seconds < LONGEST else LONGEST)
            reply: Any = FarReply(session, id, self.path)
            envelope = Envelope(request[2], sender, None, deadline, chain, reply)
            if session.serve(id, envelope) and (not chain or self._free_of_cycles(cell, envelope)):
                entries.append(envelope)
        self._post(entries)
        self.give()

    @staticmethod
    def _free_of_cycles(cell: Cell, envelope: Envelope) -> bool:
        try:
            check_cycle(cell, envelope)
        except CallCycle as error:
            envelope.fail(error)
            return False
        return True

    def _ask_ref(self, id: int, seconds: float, message: Any) -> None:
        """A pool, an agent or routes: ask them as anybody here would, in a task of its own."""
        session = self._session
        if id in session.tasks or id in session.serving:
            session.nodes.note(session.peer, "repeated", f"request {id} is at work already")
            return
        if len(session.tasks) >= REQUESTS:
            session.link.control(Fail(id, "full", self.path, limit=REQUESTS))
            return
        size = self.size
        session.weigh(size)
        task = new_task(
            self._answer(id, seconds, message), session.nodes.kernel.loop, context=session.nodes.kernel.context.copy()
        )
        session.tasks[id] = task

        def done(_: object) -> None:
            session.tasks.pop(id, None)
            session.weigh(-size)

        task.add_done_callback(done)

    async def _answer(self, id: int, seconds: float, message: Any) -> None:
        reply = FarReply(self._session, id, self.path)
        try:
            value = await self._ref.ask(message, timeout=seconds)
        except Exception as error:
            reply.set_exception(error)
        except asyncio.CancelledError:
            reply.set_exception(ActorStopped(self.path, Exit("killed", "the asker cancelled it")))
            raise
        else:
            reply.set_result(value)
