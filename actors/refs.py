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
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from msgspec import Struct

from understudy.actors.cell import CHAIN_LIMIT, Envelope, current
from understudy.actors.errors import ActorStopped, AskTimeout, CallCycle, MailboxFull, NotHandled, UsageError
from understudy.actors.lifecycle import GONE
from understudy.actors.messages import Asks

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar as DefaultTypeVar
else:
    from typing_extensions import TypeVar as DefaultTypeVar

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.timers import Timer

Mr = DefaultTypeVar("Mr", contravariant=True, default=Any)
T = TypeVar("T")

ASK_SECONDS = 5.0
SEND_SECONDS = 5.0

RefusedReason = Literal["full", "dead", "unknown"]


class Refused(Struct, frozen=True):
    """The message was not taken; it is a dead letter. Falsy.

    `full`: no room in the mailbox; `dead`: the address is stopped or stopping; `unknown`: no handler for its type.
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
        cell = self.cell()
        delivery = current()
        return cell.kernel.post(cell, Envelope(message, "" if delivery is None else delivery.cell.path))

    def tell_threadsafe(self, message: Mr) -> None:
        """Deliver soon, from any thread. A refusal shows only as a dead letter."""
        delivery = current()
        sender = "" if delivery is None else delivery.cell.path
        kernel = self._cell.kernel
        kernel.loop.call_soon_threadsafe(self._deliver, message, sender, context=kernel.context.copy())

    def _deliver(self, message: Mr, sender: str) -> None:
        cell = self.cell()
        cell.kernel.post(cell, Envelope(message, sender))

    async def send(self, message: Mr, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Deliver as soon as there is room, within `timeout` seconds. Never raises for a full mailbox."""
        cell = self.cell()
        delivery = current()
        envelope = Envelope(message, "" if delivery is None else delivery.cell.path)
        return await cell.kernel.post_when_room(cell, envelope, timeout)

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
        cell = self.cell()
        kernel = cell.kernel
        kernel.check_thread()
        envelope = _request(cell, message, ASK_SECONDS if timeout is None else timeout, on_restart == "fail")
        reply, deadline = envelope.reply, envelope.deadline
        assert reply is not None  # noqa: S101  # _request made both
        assert deadline is not None  # noqa: S101
        seconds = max(0.0, deadline - kernel.loop.time())
        if not seconds:
            raise AskTimeout(cell.path, seconds)
        timer: Timer | None = None
        try:
            posted = kernel.post(cell, envelope, quiet=True)
            if not posted and posted.reason == "full":
                posted = await kernel.post_when_room(cell, envelope, seconds)
            if not posted and not reply.done():
                raise _refusal(cell, posted, message)
            timer = kernel.timers.at(deadline, lambda: envelope.fail(AskTimeout(cell.path, seconds)))
            result: T = await reply
            return result
        except asyncio.CancelledError:
            if cancel:
                kernel.cancel_request(cell, envelope)
            if reply.done() and not reply.cancelled():
                reply.exception()  # both came at once; nobody else will look
            raise
        finally:
            if timer is not None:
                timer.cancel()


def check_seconds(where: str, seconds: float) -> None:
    """Raise `UsageError` for a time that is not a number or has no end: every wait has a deadline."""
    if not -inf < seconds < inf:
        raise UsageError(f"{where} of {seconds!r} seconds; it must have an end")


def _request(cell: Cell, message: object, timeout: float, fail_fast: bool) -> Envelope:
    kernel = cell.kernel
    delivery = current()
    check_seconds(f"{cell.path}: timeout", timeout)
    deadline = kernel.loop.time() + timeout
    chain: tuple[str, ...] = ()
    sender = ""
    if delivery is not None:
        sender = delivery.cell.path
        chain = (*delivery.envelope.chain, sender)
        if delivery.envelope.deadline is not None:
            deadline = min(deadline, delivery.envelope.deadline)
        if len(chain) > CHAIN_LIMIT or (cell.path in chain and cell.running >= cell.concurrency):
            raise CallCycle(cell.path, (*chain[chain.index(cell.path) if cell.path in chain else 0 :], cell.path))
    kernel.some_fail_fast = kernel.some_fail_fast or fail_fast
    if fail_fast and (cell.state == "failed" or (cell.state == "starting" and cell.exit is not GONE)):
        raise ActorStopped(cell.path, cell.exit)
    return Envelope(message, sender, kernel.loop.create_future(), deadline, chain, fail_fast)


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
