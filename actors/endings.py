"""How an incarnation ends, and how an address does.

Order: no further message begins; running handlers finish within the deadline, else are cancelled, else fenced;
children stop, last started first; `on_stop` runs, the `lifespan` is left; the life is cut off; names are released;
then notices and the signals of links go out.
Every wait has a deadline, so every end ends. The work is done in tasks of its own: cancelling who waits for an end
does not undo it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.delivery import CLOSED, DELIVERY, START, Envelope, Life
from understudy.actors.errors import ActorStopped
from understudy.actors.kit import home_of
from understudy.actors.lifecycle import ALIVE, SHUTDOWN, Exit, IllegalTransition
from understudy.actors.messages import Down
from understudy.actors.tasks import new_task
from understudy.actors.telemetry import log

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel

CANCEL_GRACE: Final = 1.0
"""Seconds a cancelled handler has to end before it is fenced."""


class Endings:
    """The ends of one kernel's actors, and the notices about them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._reapers: dict[asyncio.Task[None], None] = {}

    # -- one incarnation -----------------------------------------------------------------------------------

    def end_incarnation(self, cell: Cell, life: Life, exit: Exit) -> None:
        """End the present incarnation because of `exit`; what follows is its supervisor's decision."""
        cell.advance("fail")
        cell.exit = exit
        if cell.quiet or self._is_idle(cell, life, None):
            self._ended(cell, life, exit)
        else:
            self.reap(cell, lambda: self._end_life(cell, life, exit))

    def halt(self, cell: Cell, exit: Exit, deadline: float | None = None) -> None:
        """End the present incarnation on purpose, and keep its address for the next one.

        The state is `failed` at once, so that no further message begins; a running handler has `deadline` seconds
        (default: the child's `shutdown`; none while it starts, or with `cancel_on_stop`), then it is cancelled, then
        fenced (`killed`). The mailbox is kept, and so are, below it, the addresses of supervised children, which are
        halted too, last started first. `on_exit` is told when all that is done. Nothing happens without a life.
        """
        life = cell.life
        if cell.state not in ALIVE or life is None:
            return
        patience = _patience(cell, deadline)
        cell.advance("fail")
        cell.exit = exit
        if cell.running or cell.children or _on_stop_of(life) is not None or home_of(life) is not None:
            keep = cell.on_exit is not None
            self.reap(cell, lambda: self._end_life(cell, life, exit, patience, keep=keep))
        else:
            self._ended(cell, life, exit)

    async def _end_life(self, cell: Cell, life: Life, exit: Exit, patience: float = 0.0, *, keep: bool = False) -> None:
        if not await self._quiesce(cell, life, patience) and exit.expected:
            exit = Exit("killed", str(exit))
            if cell.state == "failed":
                cell.exit = exit
        await self._wind_up(cell, life, exit, keep=keep)
        self._ended(cell, life, exit)

    def _ended(self, cell: Cell, life: Life, exit: Exit) -> None:
        self._cut_off(cell, life, exit)
        if cell.state != "failed":
            return  # a stop came meanwhile, and goes on from here
        if cell.started is not None:
            _resolve(cell.started)
        if cell.on_exit is None:
            cell.state = "stopping"  # as the table says, without the question
            self.release(cell, exit)
            return
        self._fail_fast(cell, exit)
        cell.on_exit(cell, life.number, exit)
        if self._kernel.links.owed:
            self._kernel.links.signal(cell)

    def _cut_off(self, cell: Cell, life: Life, exit: Exit) -> None:
        """From here on every framework call made from this life raises `Fenced`; what it had asked for is undone."""
        life.fenced = True
        more = life.more
        if more is not None:
            life.end_timers()
        cell.life = None
        if cell.waits is not None:
            cell.idle = None
        if self._kernel.suspensions.any:
            self._kernel.suspensions.cut_off(cell)
        if more is not None:
            for target in more.watching or ():
                target.unwatch(cell)
            more.watching = None
        life.context = None
        if life.tasks is None:
            life.actor = None  # what is left of the life, in a context somewhere, does not keep the actor alive
        if cell.mailbox is not None:
            cell.mailbox.clear_control()
        if more is not None and more.kit is not None:
            more.kit.end(cell, life, exit)

    def _fail_fast(self, cell: Cell, exit: Exit) -> None:
        if not self._kernel.some_fail_fast or not cell.waiting:
            return
        for envelope in cell.box().withdraw(lambda entry: isinstance(entry, Envelope) and entry.fail_fast):
            if isinstance(envelope, Envelope):
                envelope.fail(ActorStopped(cell.path, exit))
            self._kernel.letter(cell, envelope, "stopped")

    async def _quiesce(self, cell: Cell, life: Life, seconds: float) -> bool:
        """Wait for running handlers `seconds`, then cancel them, then fence. False when fenced."""
        if await self._idle_within(cell, seconds):
            return True
        life.cancel()
        if await self._idle_within(cell, CANCEL_GRACE):
            return True
        self._fence(cell, life)
        return False

    def _fence(self, cell: Cell, life: Life) -> None:
        if life.fenced:
            return
        life.fenced = True
        self._kernel.fenced_handlers += 1
        text = f"{cell.path} #{life.number} ignores cancellation; it was fenced"
        log.error(text, extra={"path": cell.path, "incarnation": life.number})
        self._kernel.telemetry.flight(cell, "fenced", f"#{life.number}")
        for envelope in life.tasks or ():
            if envelope.message is not START:
                envelope.fail(ActorStopped(cell.path, Exit("killed", str(cell.exit))))
            if envelope.message is not START and not envelope.durable:
                self._kernel.letter(cell, envelope, "failed", "killed")

    async def _idle_within(self, cell: Cell, seconds: float) -> bool:
        if cell.running and seconds > 0:
            await self._wait([self._kernel.when_idle(cell)], seconds)
        return cell.running == 0

    async def _wind_up(self, cell: Cell, life: Life, exit: Exit, *, keep: bool = False) -> None:
        """Children, `on_stop`, `lifespan`, each with its deadline. `keep` the addresses of supervised children."""
        together = life.actor is not None and life.actor.stops_together
        if keep and not together:
            await self._halt_children(cell, exit)
        else:
            await self._stop_children(cell, exit, together=together)
        actor = _on_stop_of(life)
        if actor is not None and not life.fenced:
            await self._run_on_stop(cell, life, actor, exit)
        home = home_of(life)
        if home is not None and not await home.leave(self._wait, 0.0 if life.fenced else cell.shutdown, CANCEL_GRACE):
            self._fence(cell, life)

    async def _run_on_stop(self, cell: Cell, life: Life, actor: Actor[Any], exit: Exit) -> None:
        context = (life.base or self._kernel.context).copy()
        context.run(DELIVERY.set, Envelope(START, None, life))
        work = self._say_goodbye(cell, actor, exit)
        task = new_task(work, self._kernel.loop, context=context, name=f"understudy-on-stop-{cell.path}")
        if not await self._wait([task], cell.shutdown):
            log.error("%s: on_stop did not end within %g s", cell.path, cell.shutdown, extra={"path": cell.path})
            task.cancel()
            if not await self._wait([task], CANCEL_GRACE):
                self._fence(cell, life)

    async def _stop_children(self, cell: Cell, exit: Exit, *, together: bool = False) -> None:
        """Release the addresses below, last started first: one after another, or `together` within their deadlines."""
        why = exit if exit.kind == "shutdown" else SHUTDOWN
        if together:
            for child in reversed(list(cell.children.values())):
                self.begin_stop(child, why)
        while cell.children:  # the last of a dict is found slowly when many were deleted behind it: hence the list
            for child in reversed(list(cell.children.values())):
                self.begin_stop(child, why)
                if child.stopped is not None and not child.stopped.done():
                    await self._wait([child.stopped], None)

    async def _halt_children(self, cell: Cell, exit: Exit) -> None:
        """End the incarnations below, last started first, and keep their addresses; without a supervisor they stop."""
        for child in reversed(list(cell.children.values())):
            if child.on_exit is None:
                self.begin_stop(child, exit if exit.kind == "shutdown" else SHUTDOWN)
            self.halt(child, exit if exit.kind == "shutdown" else SHUTDOWN)
            while child.life is not None and child.reaper is not None:
                await self._wait([child.reaper], None)
                turn = self._kernel.loop.create_future()
                self._kernel.loop.call_soon(_resolve, turn)
                await self._wait([turn], None)  # a reaper that was cancelled unbegun is begun again by now

    async def _say_goodbye(self, cell: Cell, actor: Actor[Any], exit: Exit) -> None:
        try:
            await actor.on_stop(exit)
        except (KeyboardInterrupt, SystemExit) as error:
            self._kernel.interrupt(error)
        except asyncio.CancelledError:
            pass  # told already
        except BaseException as error:  # the end goes on whatever `on_stop` does
            log.error("%s: on_stop raised %r", cell.path, error, exc_info=error, extra={"path": cell.path})

    # -- one address ---------------------------------------------------------------------------------------

    async def stop(self, cell: Cell, exit: Exit, *, deadline: float | None = None) -> None:
        """See `Kernel.stop`."""
        self.begin_stop(cell, exit, deadline)
        if cell.stopped is not None and not cell.stopped.done():
            await asyncio.shield(cell.stopped)

    def begin_stop(self, cell: Cell, exit: Exit, deadline: float | None = None) -> None:
        """Begin a stop, once."""
        if cell.state in ("stopping", "stopped"):
            return
        patience = _patience(cell, deadline)
        life, before = cell.life, cell.reaper
        cell.advance("stop")
        cell.exit, cell.door = exit, CLOSED
        if self._is_idle(cell, life, before):  # nothing to wait for: no task, no future
            if life is not None:
                self._cut_off(cell, life, exit)
            self.release(cell, exit)
            return
        cell.stopped = self._kernel.loop.create_future()
        self.reap(cell, lambda: self._stop(cell, exit, patience, before))

    @staticmethod
    def _is_idle(cell: Cell, life: Life | None, before: asyncio.Task[None] | None) -> bool:
        if cell.running or cell.children or (before is not None and not before.done()):
            return False
        return life is None or (_on_stop_of(life) is None and home_of(life) is None)

    async def _stop(self, cell: Cell, exit: Exit, patience: float, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await self._wait([before], None)
            life = cell.life
            if life is not None:
                if not await self._quiesce(cell, life, patience):
                    exit = Exit("killed", str(exit))
                await self._wind_up(cell, life, exit)
                self._cut_off(cell, life, exit)
            else:
                await self._stop_children(cell, exit)  # those a halt has kept
        finally:
            self.release(cell, exit)

    def release(self, cell: Cell, exit: Exit) -> None:
        """The last of an address: free its name, lose its mailbox, and only then tell the watchers."""
        kernel = self._kernel
        if cell.state != "stopping":
            raise IllegalTransition(cell.state, "end")
        cell.state = "stopped"
        cell.exit, cell.door = exit, CLOSED
        kernel.forget(cell)
        waits = cell.waits
        if waits is not None:
            waits.reaper = None
            _resolve(waits.started)
        if cell.first is not None or cell.mailbox is not None:
            for entry in cell.box().drain():
                kernel.lose(cell, entry, "stopped")
            cell.mailbox = None
        kernel.telemetry.flight(cell, "stopped", exit)
        if waits is not None and waits.watchers:
            self.notify(cell, restarting=False)
        if kernel.links.owed:
            kernel.links.signal(cell)
        if kernel.on_released is not None:
            kernel.on_released(cell, exit)
        parent = cell.parent
        if parent is not None and parent.kind is not None and parent.kind._hears_children:
            above = parent.life
            if above is not None and above.actor is not None:
                above.actor._child_released(cell)
        if waits is not None:
            _resolve(waits.stopped)

    # -- notices and tasks ---------------------------------------------------------------------------------

    def notify(self, cell: Cell, *, restarting: bool) -> None:
        """Send every watcher its one notice."""
        if cell.watchers:
            self.tell_watchers(cell, Down(cell.path, cell.number, cell.exit.kind, cell.exit.detail, restarting))

    def tell_watchers(self, cell: Cell, notice: Down) -> None:
        """Send every watcher its one notice, which is this one."""
        for watcher in cell.take_watchers():
            if not isinstance(watcher, Cell):
                watcher.told(cell, notice)
            elif watcher.life is not None:  # as many as it has watches, so the lane need not be bounded
                message = watcher.life.watching.pop(cell, None) if watcher.life.watching is not None else None
                self._kernel.control(watcher, notice if message is None else message, bounded=False, about=cell)

    def reap(self, cell: Cell | None, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry out an end in a task of its own, outside of any delivery; begin again if it was cancelled unbegun."""
        name = f"understudy-end-{cell.path}" if cell is not None else "understudy-end"
        context = self._kernel.context.copy()
        task = new_task(work(), self._kernel.loop, name=name, context=context)
        self._reapers[task] = None
        if cell is not None:
            cell.reaper = task

        def ended(task: asyncio.Task[None]) -> None:
            self._reapers.pop(task, None)
            if task.cancelled():
                self.reap(cell, work)

        task.add_done_callback(ended)

    async def _wait(self, futures: Sequence[asyncio.Future[None]], seconds: float | None) -> bool:
        """Whether all are done within `seconds`. Goes on waiting when cancelled: an end is not undone."""
        loop = self._kernel.loop
        until = None if seconds is None else loop.time() + seconds
        while True:
            try:
                left = None if until is None else max(0.0, until - loop.time())
                _, pending = await asyncio.wait(futures, timeout=left)
                return not pending
            except asyncio.CancelledError:
                continue

    async def join(self) -> None:
        """Wait until nothing is ending any more."""
        while self._reapers:
            await self._wait(list(self._reapers), None)


def _patience(cell: Cell, deadline: float | None) -> float:
    """Seconds a running handler has before it is cancelled."""
    life = cell.life
    if cell.state == "starting" or (life is not None and life.actor is not None and life.actor.cancel_on_stop):
        return 0.0
    return cell.shutdown if deadline is None else deadline


def _on_stop_of(life: Life) -> Actor[Any] | None:
    """The actor, if it started and has an `on_stop` of its own."""
    actor = life.actor
    return actor if actor is not None and life.ready and type(actor).on_stop is not Actor.on_stop else None


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
