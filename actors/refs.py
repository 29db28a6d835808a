"""Refs: how a message is sent. A ref is an address; it stays good across restarts and says so when it is not.

- `tell` delivers at the call and never waits; its result is True, or a falsy `Refused`.
- `send` waits for room in the mailbox, at most `timeout` seconds (default 5).
- `ask` waits for the reply. Nothing is sent until it is awaited or made a task; every failure is raised there.

A ref belongs to one event loop. From another thread only `tell_threadsafe` may be used.
"""

from __future__ import annotations

import asyncio
import sys
from math import inf
from threading import get_ident
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct

from understudy.actors.cell import IDLE, QUEUED, Cell
from understudy.actors.delivery import CHAIN_LIMIT, DELIVERY, Envelope, Life, current_life, fenced
from understudy.actors.errors import ActorStopped, AskTimeout, CallCycle, MailboxFull, NotHandled, UsageError
from understudy.actors.lifecycle import GONE
from understudy.actors.loop import PENDING, QUEUE
from understudy.actors.messages import Asks
from understudy.actors.scheduling import turn

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar as DefaultTypeVar
else:
    from typing_extensions import TypeVar as DefaultTypeVar

Mr = DefaultTypeVar("Mr", contravariant=True, default=Any)
T = TypeVar("T")

ASK_SECONDS = 5.0
SEND_SECONDS = 5.0

RefusedReason = Literal["full", "dead", "unknown", "no-connection", "unconfirmed"]


class Refused(Struct, frozen=True):
    """The message was not taken; it is a dead letter. Falsy.

    `full`: no room in the mailbox; `dead`: the address is stopped or stopping; `unknown`: no handler for its type;
    `no-connection`: its node is not connected; `unconfirmed`: of a reliable send, it is on its way and may yet arrive.
    """

    reason: RefusedReason
    path: str

    def __bool__(self) -> bool:
        return False


class Ref(Generic[Mr]):
    """The address of an actor that takes messages of type `Mr`."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __repr__(self) -> str:
        return f"<Ref {self._cell.path}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ref) and type(other) is type(self) and other._cell is self._cell

    def __hash__(self) -> int:
        return hash(id(self._cell))

    @property
    def path(self) -> str:
        """The address, as "audit/inspector/2"."""
        return self._cell.path

    def cell(self) -> Cell:
        """The cell that the next message goes to. For the kernel and for supervisors."""
        return self._cell

    def tell(self, message: Mr) -> Literal[True] | Refused:
        """Deliver now, without a reply. Raises `WrongLoop` from another thread."""
        cell = self._cell
        record = DELIVERY.get()
        sender: Cell | None = None
        if record is not None:
            life: Any = record if type(record) is Life else record.life  # type: ignore[union-attr]  # else an envelope
            if life.fenced:
                raise fenced(life)
            sender = life.cell
        # The short way, for an address that takes the message and has room: what `Kernel.post` does, without asking.
        if type(message) in cell.door:
            dispatcher = cell.kernel.dispatcher
            if get_ident() == dispatcher.thread:
                if cell.status == IDLE:
                    if dispatcher.wake is not None:
                        dispatcher.rouse()
                    cell.status = QUEUED
                    box = cell.mailbox  # kept when it has lost something; what waits is in one place, which is bounded
                    if box is None:
                        cell.first = (message, sender)
                    else:
                        box.work.append((message, sender))
                    dispatcher.ready.append(cell)
                    return True
                box = cell.mailbox
                if box is not None:
                    if box.waiting is None and len(box.work) < box.limit:
                        box.work.append((message, sender))
                        return True
                elif cell.first is None:
                    cell.first = (message, sender)
                    return True
        return cell.kernel.post(cell, (message, sender))

    def tell_threadsafe(self, message: Mr) -> None:
        """Deliver soon, from any thread. A refusal shows only as a dead letter."""
        life = current_life()
        kernel = self._cell.kernel
        sender = None if life is None else life.cell
        kernel.loop.call_soon_threadsafe(self._deliver, message, sender, context=kernel.context.copy())

    def _deliver(self, message: Mr, sender: Cell | None) -> None:
        cell = self.cell()
        cell.kernel.post(cell, (message, sender))

    async def send(
        self, message: Mr, *, timeout: float = SEND_SECONDS, reliable: bool = False
    ) -> Literal[True] | Refused:
        """Deliver as soon as there is room, within `timeout` seconds. Never raises for a full mailbox.

        `reliable` concerns actors of other nodes: True means that it is in the mailbox there, once, however often the
        connection was lost; see docs/nodes.md.
        """
        cell = self._cell
        if reliable and cell.far is not None:
            return await cell.far.send_surely(message, timeout)
        if timeout is not SEND_SECONDS:
            check_seconds(cell, timeout)
        box = cell.mailbox
        if cell.first is None and (
            cell.far is None if box is None else box.waiting is None and len(box.work) < box.limit
        ):
            return self.tell(message)
        life = current_life()
        return await cell.kernel.post_when_room(cell, (message, None if life is None else life.cell), timeout)

    async def post(self, message: Mr, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Send a durable message: True when it is committed, as the journal's profile says, and then it is handled.

        Also by a later process, in which an actor of this path is started. Waits for room `timeout` seconds (default
        5): at most `mailbox_limit` durable messages wait for an actor. `Refused` as `send`; it is no dead letter then.

        Raises `UsageError` without a journal, for a name that nobody chose, and in a handler that is journalled itself
        (see `ActorContext.post`); `JournalError` when it is not known whether it was accepted. The same holds for one
        that is cancelled.
        """
        cell = self.post_to(message)
        office = cell.kernel.office
        if office is None or get_ident() != cell.kernel.thread:
            office = cell.kernel.the_office(cell.path)
        told = office.accept(cell, message)
        return await (told if told is not None else office.post(cell, message, timeout))

    def kinds(self) -> tuple[type, ...] | None:
        """The message types it takes; None while they are not known, before the first start."""
        table = self._cell.table
        return None if table is None else tuple(table)

    def post_to(self, message: Mr) -> Cell:
        """The cell that a durable message goes to."""
        return self._cell

    async def ask(
        self,
        message: Asks[Mr, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """Send and wait for the reply, `timeout` seconds at most (default 5) and never past the asker's own deadline.

        `cancel=True` also ends the handler when this ask is cancelled. `on_restart="fail"` does not wait while
        the target is down between two incarnations. `wait` concerns agents only (see `AgentRef`).

        Raises `AskTimeout`, `ActorStopped` (with the handler's exception as its cause), `MailboxFull`, `NotHandled`,
        `CallCycle`.
        """
        cell = self._cell
        kernel = cell.kernel
        dispatcher = kernel.dispatcher
        if get_ident() != dispatcher.thread:
            kernel.check_thread()
        clock = kernel.now  # called in one go it would be looked for among the methods first
        now = clock()
        if timeout is None:
            deadline = now + ASK_SECONDS
        else:
            check_seconds(cell, timeout)
            deadline = now + timeout
        record = DELIVERY.get()
        envelope = (
            Envelope(message, None, None, deadline) if record is None else _request(cell, record, message, deadline)
        )
        if on_restart == "fail":  # also of one that is stepped at once: it may be put into the stash
            envelope.fail_fast = kernel.some_fail_fast = True
        if cell.status == IDLE and now < envelope.deadline:  # type: ignore[operator]  # it was given one
            if dispatcher.left <= 0 or now > dispatcher.until:
                await dispatcher.give_turn()
                current_life()  # it may have ended meanwhile, and then sends nothing
                if kernel.now() >= envelope.deadline:  # type: ignore[operator]  # as above
                    raise AskTimeout(cell.path, deadline - now)
            if cell.status == IDLE:
                result: Any = dispatcher.step(cell, envelope)
                if result is not QUEUE:
                    return result if result is not PENDING else await _reply(cell, envelope, now, cancel)  # type: ignore[no-any-return]
        return await _queued(cell, envelope, now, cancel)  # type: ignore[no-any-return]


async def _queued(cell: Cell, envelope: Envelope, now: float, cancel: bool) -> Any:
    """Ask through the mailbox."""
    kernel = cell.kernel
    check_cycle(cell, envelope)
    if envelope.fail_fast and (cell.state == "failed" or (cell.state == "starting" and cell.exit is not GONE)):
        raise ActorStopped(cell.path, cell.exit)
    assert envelope.deadline is not None  # noqa: S101  # a request has one
    seconds = max(0.0, envelope.deadline - now)
    if not seconds:
        raise AskTimeout(cell.path, seconds)
    envelope.reply = kernel.loop.create_future()
    posted = kernel.post(cell, envelope, quiet=True)
    if not posted and posted.reason == "full":
        try:
            posted = await kernel.post_when_room(cell, envelope, seconds)
        except asyncio.CancelledError:
            envelope.reply.cancel()  # it may have been given room in the same moment
            raise
    if not posted and not envelope.reply.done():
        raise _refusal(cell, posted, envelope.message)
    return await _reply(cell, envelope, now, cancel)


async def _reply(cell: Cell, envelope: Envelope, now: float, cancel: bool) -> Any:
    """Wait for the reply of a request that was accepted."""
    kernel, deadline = cell.kernel, envelope.deadline
    reply = getattr(envelope.reply, "asked", envelope.reply)  # a handler that goes on may have put it into the stash
    assert reply is not None  # noqa: S101  # a request that waits has both
    assert deadline is not None  # noqa: S101
    if reply.done() and not _cancelled():  # it was stepped at once
        return reply.result()
    # An ask that was stepped inside another one with the same deadline comes here first; it times out second, as ever.
    rank = len(envelope.chain)
    timer = kernel.timers.at(deadline, lambda: envelope.fail(AskTimeout(cell.path, deadline - now)), rank=rank)
    try:
        if reply.done():
            await turn()
        return await reply
    except asyncio.CancelledError:
        if cancel:
            kernel.cancel_request(cell, envelope)
        if reply.done() and not reply.cancelled():
            reply.exception()  # both came at once; nobody else will look
        raise
    finally:
        timer.cancel()


def _cancelled() -> bool:
    """Whether the task is about to be told that it was cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _request(cell: Cell, record: Envelope | Life, message: object, deadline: float) -> Envelope:
    """A request from inside a handler: it takes on the chain and the deadline of what is being handled."""
    if isinstance(record, Life):  # what a `def` handler left behind: it serves no asker
        if record.fenced:
            raise fenced(record)
        return Envelope(message, record.cell, None, deadline)
    life = record.life
    assert life is not None  # noqa: S101  # it was delivered
    if life.fenced:
        raise fenced(life)
    if record.deadline is not None and record.deadline < deadline:
        deadline = record.deadline
    chain = (*record.chain, record)
    if len(chain) > CHAIN_LIMIT:
        raise CallCycle(cell.path, (*_paths(chain), cell.path))
    return Envelope(message, life.cell, None, deadline, chain)


def _paths(chain: tuple[Envelope, ...]) -> list[str]:
    return [where for each in chain if (where := each.where)]


def check_cycle(cell: Cell, envelope: Envelope) -> None:
    """Raise `CallCycle` when the target is busy with a request of the same chain."""
    chain, life = envelope.chain, cell.life
    if not chain or life is None or cell.running < cell.concurrency:
        return
    for n, each in enumerate(chain):
        if each is life.current or (life.tasks is not None and each in life.tasks):
            raise CallCycle(cell.path, (*_paths(chain[n:]), cell.path))


def check_seconds(where: Cell | str, seconds: float, what: str = "timeout") -> None:
    """Raise `UsageError` for a time that is not a number or has no end: every wait has a deadline."""
    if not -inf < seconds < inf:
        path = where if isinstance(where, str) else where.path
        raise UsageError(f"{path}: {what} of {seconds!r} seconds; it must have an end")


def _refusal(cell: Cell, refused: Refused, message: object) -> Exception:
    if refused.reason == "full":
        return MailboxFull(cell.path, cell.limit)
    if refused.reason == "unknown":
        return NotHandled(cell.path, type(message), cell.takes())
    return ActorStopped(cell.path, cell.exit)


class Key(Generic[T]):
    """A typed address by name, here or on another node: `Key("counter", Add | Total)`."""

    __slots__ = ("accepts", "name")

    # `accepts` is a type form such as `Add | Total`; there is no precise type for those before TypeForm.
    def __init__(self, name: str, accepts: Any) -> None:
        self.name = name
        self.accepts = accepts
