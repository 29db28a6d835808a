"""The home task: one task for as long as an incarnation lives, in which its `lifespan` is entered and left.

Handlers have a task each, so a task group, a cancel scope or a session that was opened in one cannot be closed in
another. What an actor keeps open from start to stop is therefore entered here, before `on_start`, and left here,
after `on_stop`. The base context of the incarnation is the home's: context variables that the lifespan sets are seen
by its handlers, and no handler can change them for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from understudy.actors.delivery import DELIVERY, START, Envelope
from understudy.actors.errors import UnderstudyError
from understudy.actors.kit import kit_of
from understudy.actors.lifecycle import ALIVE, Exit
from understudy.actors.tasks import new_task
from understudy.actors.telemetry import log

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.cell import Cell
    from understudy.actors.delivery import Life
    from understudy.actors.kernel import Kernel

Wait = Callable[[Sequence[asyncio.Future[None]], float | None], Awaitable[bool]]
"""Whether all are done within so many seconds, whatever is cancelled meanwhile."""


class Home:
    """See the module. The task never raises: how it ended is in `_error`."""

    __slots__ = ("_actor", "_cell", "_entered", "_error", "_kernel", "_leave", "_leaving", "_life", "_task")

    def __init__(self, kernel: Kernel, cell: Cell, life: Life, actor: Actor[Any]) -> None:
        self._kernel = kernel
        self._cell = cell
        self._life = life
        self._actor = actor
        self._error: BaseException | None = None
        self._leaving = False
        self._entered: asyncio.Future[bool] = kernel.loop.create_future()
        self._leave: asyncio.Future[None] = kernel.loop.create_future()
        base = life.base = kernel.context.copy()
        base.run(DELIVERY.set, Envelope(START, None, life))
        name = f"understudy-lifespan-{cell.path}"
        self._task = new_task(self._run(), kernel.loop, context=base, name=name)
        self._task.add_done_callback(self._ended, context=kernel.context)

    async def entered(self) -> None:
        """Wait until the lifespan is entered. Raises what it raised instead."""
        if not await asyncio.shield(self._entered):
            error = self._error
            raise UnderstudyError("lifespan: it ended before it was entered") if error is None else error

    async def _run(self) -> None:
        try:
            async with self._actor.lifespan():
                if not self._entered.done():
                    self._entered.set_result(True)
                await self._leave
        except (KeyboardInterrupt, SystemExit) as error:
            self._error = error
            self._kernel.interrupt(error)
        except BaseException as error:  # how it ends is told by `_ended`, and to whoever waits for it
            self._error = error

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The task is over, asked for or not; it may have been cancelled before its first step."""
        error = self._error
        cut = task.cancelled() or isinstance(error, asyncio.CancelledError)
        if cut:
            error = self._error = UnderstudyError("its task was cancelled")
        if not self._entered.done():
            self._entered.set_result(False)  # the start fails, and tells
        elif not self._leaving and self._cell.life is self._life and self._cell.state in ALIVE:
            exit = Exit("error" if self._life.ready else "start", f"lifespan: {_text_of(error)}")
            self._kernel.telemetry.crash(self._cell, self._life.number, exit, None, error)
            self._kernel.end(self._cell, self._life, exit)
        elif error is not None and not cut:
            path = self._cell.path
            log.error("%s: lifespan raised %r on leaving", path, error, exc_info=error, extra={"path": path})

    async def leave(self, wait: Wait, seconds: float, grace: float) -> bool:
        """Leave the lifespan within `seconds`, else cancel it; False if it is still there `grace` seconds later."""
        entered = self._entered.done() and not self._task.done()
        self._leaving = True
        if entered and seconds > 0:
            if not self._leave.done():
                self._leave.set_result(None)
            if await wait([self._task], seconds):
                return True
            path = self._cell.path
            log.error("%s: lifespan was not left within %g s", path, seconds, extra={"path": path})
        self._task.cancel()
        return await wait([self._task], grace)


def _text_of(error: BaseException | None) -> str:
    """A group with one error inside reads as that error: task groups wrap whatever happens in them."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if error is None:
        return "it ended before the actor did"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= 400 else f"{text[:399]}…"


async def enter(kernel: Kernel, cell: Cell, life: Life, actor: Actor[Any]) -> None:
    """Make the home task of an incarnation that is starting, and enter its lifespan there."""
    home = kit_of(life).home = Home(kernel, cell, life, actor)
    await home.entered()
