"""Suspend and resume an actor, and look into it between two messages: OTP's `sys:suspend`, `resume`, `get_state`.

- A suspended actor begins no further work; messages wait in its mailbox, whose bounds hold, and asks keep their
  deadlines. The message in hand ends first. Its control lane is served (down notices, timers, `peek`) and so is a
  stop. OTP serves system messages alone; here the lane is bounded and not kept over a restart, so that what waits in
  it could be lost.
- Suspending is of an incarnation: a restart comes back running, as a new process does in OTP. Suspending twice and
  resuming one that runs change nothing.
- `suspend` is all or nothing: one that is cancelled or runs out of time leaves the actor running, unless another
  `suspend` of it goes on or has succeeded.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from understudy.actors.cell import Cell
from understudy.actors.delivery import Notice, current_life
from understudy.actors.errors import ActorStopped, AskTimeout, MailboxFull, UsageError
from understudy.actors.lifecycle import ALIVE, Exit
from understudy.actors.mailbox import CONTROL_LIMIT
from understudy.actors.refs import check_seconds

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel

T = TypeVar("T")

SUSPEND_SECONDS: Final = 5.0
"""As the default of OTP's `sys` functions."""


class Peek:
    """What `peek` puts into the control lane: a function for the actor, and where its outcome goes."""

    __slots__ = ("_fn", "outcome")

    def __init__(self, fn: Callable[[Any], object], outcome: asyncio.Future[tuple[object, Exception | None]]) -> None:
        self._fn = fn
        self.outcome = outcome

    # As a handler is called: with the actor, and the message.
    @staticmethod
    def serve(actor: object, peek: Peek) -> None:
        """Call the function; its error is the caller's and not the actor's. Nothing when nobody waits any more."""
        if peek.outcome.done():
            return
        value: object = None
        failed: Exception | None = None
        try:
            value = peek._fn(actor)
            if inspect.iscoroutine(value):
                value.close()
                raise UsageError(f"peek: {peek._fn!r} returned a coroutine; give a plain function")
        except Exception as error:
            failed = error
        except asyncio.CancelledError as error:  # nobody cancelled the caller, nor the actor
            failed = UsageError(f"peek: {peek._fn!r} raised {error!r}")
        if not peek.outcome.done():  # the function itself may have ended the wait
            peek.outcome.set_result((value, failed))


class _Hold:
    """One suspension: how many `suspend` calls wait for it, whether one has succeeded; `over` when it ends.

    `exit` is that of the incarnation, if it ended first: when those who wait are served, there may be another.
    """

    __slots__ = ("exit", "over", "settled", "waiting")

    def __init__(self, over: asyncio.Future[None]) -> None:
        self.over = over
        self.exit: Exit | None = None
        self.settled = False
        self.waiting = 0


class Suspensions:
    """The suspended actors of one kernel, and the looks into actors that are under way."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._holds: dict[Cell, _Hold] = {}
        self._peeks: dict[Cell, dict[Peek, None]] = {}

    @property
    def any(self) -> bool:
        """Whether there is something to cut off."""
        return bool(self._holds or self._peeks)

    def cut_off(self, cell: Cell) -> None:
        """The present incarnation has ended: so have its suspension, and all looks into it. For `endings`."""
        hold = self._holds.pop(cell, None)
        if hold is not None:
            hold.exit = cell.exit
            _resolve(hold.over)
        for peek in self._peeks.pop(cell, ()):
            if not peek.outcome.done():
                peek.outcome.set_result((None, ActorStopped(cell.path, cell.exit)))

    async def suspend(self, cell: Cell, timeout: float = SUSPEND_SECONDS) -> None:
        """Let the message in hand end, then serve the control lane only; returns when nothing runs any more.

        One that is starting is suspended when it has started. `timeout` in seconds covers both.

        Raises `AskTimeout` when the handler in hand takes longer, `ActorStopped` for an actor that has no incarnation
        or whose incarnation ends meanwhile, `UsageError` from a handler of the actor itself (which would wait for
        itself) and when somebody else resumed it before it stood still, `WrongLoop` from another thread.
        """
        self._check("suspend", cell, timeout)
        until = self._kernel.loop.time() + timeout
        await self._started(cell, timeout)
        if cell.state == "running":
            cell.advance("suspend")
            self._holds[cell] = _Hold(self._kernel.loop.create_future())
        hold = self._holds.get(cell) if cell.state == "suspended" else None
        if hold is None:
            raise ActorStopped(cell.path, cell.exit)
        hold.waiting += 1
        try:
            await self._stand_still(cell, hold, until, timeout)
            hold.settled = True
        finally:
            hold.waiting -= 1
            if not hold.settled and not hold.waiting and self._holds.get(cell) is hold:
                self._resume(cell)

    async def _started(self, cell: Cell, timeout: float) -> None:
        if cell.state != "starting":
            return
        try:
            async with asyncio.timeout(timeout):
                await self._kernel.wait_started(cell)
        except TimeoutError:
            raise AskTimeout(cell.path, timeout) from None

    async def _stand_still(self, cell: Cell, hold: _Hold, until: float, timeout: float) -> None:
        loop, life = self._kernel.loop, cell.life
        while cell.state == "suspended" and not hold.over.done():
            if not cell.running:
                return
            left = until - loop.time()
            if left <= 0:
                raise AskTimeout(cell.path, timeout)
            idle = self._kernel.when_idle(cell)
            await asyncio.wait([idle, hold.over], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if hold.exit is None and cell.life is life and cell.state in ALIVE:
            raise UsageError(f"{cell.path} was resumed before its handler had ended")
        raise ActorStopped(cell.path, hold.exit or cell.exit)

    def resume(self, cell: Cell) -> None:
        """Go on with the work that waits, in order. Nothing for one that is not suspended.

        Raises `ActorStopped` for a stopped address, `WrongLoop` from another thread.
        """
        self._kernel.check_thread()
        current_life()
        if cell.state in ("stopping", "stopped"):
            raise ActorStopped(cell.path, cell.exit)
        if cell.state == "suspended":
            self._resume(cell)

    def _resume(self, cell: Cell) -> None:
        hold = self._holds.pop(cell, None)
        if hold is not None:
            _resolve(hold.over)
        if cell.state == "suspended":
            cell.advance("resume")
            self._kernel.come_back(cell)

    async def peek(self, cell: Cell, fn: Callable[[Any], T], timeout: float = SUSPEND_SECONDS) -> T:
        """Call the plain function `fn` with the actor object between two messages, and return what it returns.

        It overtakes work and is served by a suspended actor, too. It runs in the event loop; do not block. An error
        it raises is raised here and does not concern the actor, whose fields are as `fn` left them. With concurrency
        above 1 other handlers may be suspended in the middle.

        Raises `AskTimeout` when no turn comes within `timeout` seconds (a handler hangs), `ActorStopped` for an actor
        that has no incarnation or whose incarnation ends before the turn, `MailboxFull` when the control lane is full,
        `UsageError` for a coroutine function and from a handler of the actor itself, `WrongLoop` from another thread.
        """
        self._check("peek", cell, timeout)
        if inspect.iscoroutinefunction(fn):
            raise UsageError(f"peek: {fn!r} is a coroutine function; give a plain one")
        if cell.state not in ALIVE:
            raise ActorStopped(cell.path, cell.exit)
        peek = Peek(fn, self._kernel.loop.create_future())
        envelope = Notice(peek)
        if not cell.box().put_control(envelope):
            raise MailboxFull(cell.path, CONTROL_LIMIT)
        self._peeks.setdefault(cell, {})[peek] = None
        self._kernel.wake(cell)
        try:
            done, _ = await asyncio.wait([peek.outcome], timeout=timeout)
        finally:
            peek.outcome.cancel()
            self._forget(cell, peek)
            if cell.mailbox is not None:  # who looks at a hung actor again and again must not fill the lane
                cell.mailbox.withdraw_control(lambda waiting: waiting is envelope)
        if not done:
            raise AskTimeout(cell.path, timeout)
        value, error = peek.outcome.result()
        if error is not None:
            try:
                raise error
            finally:
                del error, peek, done  # the error has this frame, which must not have the error
        return value  # type: ignore[return-value]  # it came from `fn`, through a future of objects

    def _forget(self, cell: Cell, peek: Peek) -> None:
        peeks = self._peeks.get(cell)
        if peeks is not None:
            peeks.pop(peek, None)
            if not peeks:
                del self._peeks[cell]

    def _check(self, what: str, cell: Cell, timeout: float) -> None:
        self._kernel.check_thread()
        check_seconds(f"{what} {cell.path}", timeout)
        life = current_life()
        if life is not None and life is cell.life:
            raise UsageError(f"{what} {cell.path}: a handler of the actor itself would wait for itself")


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
