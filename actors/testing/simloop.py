"""An event loop with virtual time: it never sleeps, and jumps to the next timer when nothing is ready.

    def test_backs_off() -> None:
        run(main)                      # a minute of back-off in a millisecond

Time is an integer number of nanoseconds. Callbacks run in the order they were scheduled, timers in the order of their
times and, within one time, in the order they were set; tasks, futures and anyio's cancel scopes hash to the order they
were made in, so sets of them have one order too. Functions for threads (`run_in_executor`, `asyncio.to_thread`,
`anyio.to_thread`) run in this thread, a fixed virtual latency later; as in a thread, they run also when nobody waits
for them any more. What would leave the process raises `Escape` with the place that called it. A loop in which nothing
is ready and nothing is due raises `Deadlock`, one that goes on without time passing `Livelock`; both say what each
actor and task awaits.

`run` is the short way. `asyncio.Runner(loop_factory=SimLoop)`, and whatever else runs a given loop, does as well; then
entropy begins anew with each call into the loop. What is patched while such a loop runs, and what is not caught, is
told in `outside`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar, TypeVarTuple

from understudy.actors.errors import UsageError
from understudy.actors.testing.edges import NoOutside
from understudy.actors.testing.identity import Generators, SimFuture, SimTask, for_future, order_of, unseen
from understudy.actors.testing.outside import WALL, Escape, in_thread, inside, refuse, thread_of
from understudy.actors.testing.standing import line_of

if TYPE_CHECKING:
    import contextvars

    from understudy.actors.scheduling import Simulation

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Watch = Callable[[int, deque[asyncio.Handle]], None]
"""See `SimLoop.watch`."""
THREAD_SECONDS: Final = 0.001
"""Virtual seconds that a function given to a thread takes."""
IDLE_STEPS: Final = 100_000
"""Callbacks within one instant of virtual time before `Livelock` is raised."""
SECOND: Final = 1_000_000_000
ENDINGS: Final = 10
"""Rounds in which what is left is cancelled; what one round of cleaning up begins, the next one ends."""
_COMPACT_FROM: Final = 64
_BURIALS: Final = 3
"""How often the tasks of a killed process are cancelled: some go on after the first time."""
_SHOWN: Final = 40
"""Tasks that a `Deadlock` lists."""
_EAGER: Final = getattr(asyncio, "eager_task_factory", None)  # of Python 3.12

__all__ = ["Deadlock", "Escape", "Livelock", "SimClock", "SimLoop", "run"]


class Deadlock(AssertionError):
    """Every task waits, and no timer will ever wake one. The text lists the tasks and where each waits."""


class ProcessKilled(Exception):
    """`SimLoop.kill` ended the run."""


class Livelock(AssertionError):
    """Callbacks follow callbacks and time does not pass. The text lists the tasks."""


class SimLoop(NoOutside):
    """See the module. Time begins at `start` seconds (0). `idle_steps`: callbacks in one instant before `Livelock`.

    `steps` counts callbacks. `simulation`, if there is one, drives every kernel that is entered in this loop.
    """

    virtual = True
    """Time is not the machine's; see `watchdog.is_real`."""

    task_class = SimTask

    # What the base class keeps under names without a promise; all are tried in tests on every supported Python.
    _ready: deque[asyncio.Handle]
    _stopping: bool
    _closed: bool
    _debug: bool
    # The protocol of task factories differs between versions of Python.
    _task_factory: Any

    def __init__(
        self, *, start: float = 0.0, idle_steps: int = IDLE_STEPS, simulation: Simulation | None = None
    ) -> None:
        super().__init__()
        self._now = round(start * SECOND)
        self._clock_resolution = 1e-9
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._sequence = 0
        self._cancelled = 0
        self._made = 0
        self._names = 0
        self._threads = 0
        self._idle_steps = idle_steps
        self._mark = 0
        self._thread = get_ident()
        self.killed = False
        self._asyncgens = Generators()
        self._unheard: list[asyncio.Handle] = []
        self.steps = 0
        self.simulation = simulation
        self.failures: list[dict[str, Any]] = []
        """Contexts of the exception handler: among others exceptions that nobody retrieved."""
        self.watch: Watch | None = None
        """Called with the nanoseconds and what is about to run, before each round of callbacks."""
        self.held_up = False

    # -- identity ------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A number that no other task, future or scope of this loop has."""
        self._made += 1
        return self._made

    def next_name(self) -> str:
        """Of a task that was given none."""
        self._names += 1
        return f"task-{self._names}"

    # As asyncio types tasks: a coroutine or generator of anything; the rest differs between versions of Python.
    def create_task(  # type: ignore[override]
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None, **more: Any
    ) -> asyncio.Task[Any]:
        """See `asyncio.loop.create_task`. Tasks that a task factory makes have no stable hash, but for eager ones."""
        self._check_closed()
        factory = self._task_factory
        if factory is None:
            return SimTask(coro, loop=self, name=name, context=context, **more)
        if factory is _EAGER:
            return SimTask(coro, loop=self, name=name, context=context, **{"eager_start": True, **more})
        if context is not None:
            more["context"] = context
        task: asyncio.Task[Any] = factory(self, coro, **more)
        if name is not None:
            task.set_name(name)
        return task

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a stable hash."""
        return SimFuture(loop=self)

    # -- time ----------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._now / SECOND

    @property
    def nanoseconds(self) -> int:
        """Virtual nanoseconds."""
        return self._now

    def hold_up(self, seconds: float) -> None:
        """Let time pass at once, as if the running callback had blocked the loop for so long."""
        self._now += round(seconds * SECOND)
        self._mark = self.steps
        self.held_up = True

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_later`. Exact: ten delays of 0.1 s are 1,000,000,000 ns."""
        if delay == math.inf:
            return self._never(callback, args, context)
        return self._set(self._now + _not_before(delay), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`. At the first nanosecond at which `time()` is not below `when`."""
        if when == math.inf:
            return self._never(callback, args, context)
        return self._set(_not_before(when), callback, args, context)

    def _set(
        self, when: int, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        self._check_closed()
        timer = asyncio.TimerHandle(when / SECOND, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        timer._scheduled = True  # type: ignore[attr-defined]  # so that cancelling it is told to us
        return timer

    def _never(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        """A timer for the end of time, which nothing waits for in vain: a loop with nothing else is in a deadlock."""
        self._check_closed()
        return asyncio.TimerHandle(math.inf, callback, args, self, context)

    def _check_closed(self) -> None:
        if self._closed:
            raise RuntimeError("Event loop is closed")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        if not handle._scheduled:  # type: ignore[attr-defined]  # it has fired
            return
        self._cancelled += 1
        if self._cancelled > _COMPACT_FROM and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2]._cancelled]
            heapq.heapify(self._timers)
            self._cancelled = 0

    # -- the loop ------------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon`."""
        if self._debug or self._closed:
            return super().call_soon(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def run_forever(self) -> None:
        """See `asyncio.loop.run_forever`. Nothing outside is reached meanwhile."""
        with inside():
            super().run_forever()

    def _run_once(self) -> None:
        ready = self._ready
        if not ready and not self._stopping:
            self._advance()
        timers = self._timers
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # type: ignore[attr-defined]  # see `_set`
            if timer._cancelled:
                self._cancelled -= 1
            else:
                ready.append(timer)
        if self.watch is not None:
            self.watch(self._now, ready)
        count = len(ready)
        self.steps += count
        if self.steps - self._mark > self._idle_steps:
            self._mark = self.steps  # what cleans up gets as many
            raise Livelock(f"{self._idle_steps:,} callbacks at {self.time():g} s and no end; {self.waiting()}")
        for _ in range(count):
            if not ready:
                return  # killed
            handle = ready.popleft()
            if not handle._cancelled:  # `cancelled()` costs a call per callback
                handle._run()  # as every loop of asyncio does

    def _advance(self) -> None:
        """Go to the next timer. Raises `Deadlock` when there is none."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)[2]._scheduled = False  # type: ignore[attr-defined]  # see `_set`
            self._cancelled -= 1
        if not timers:
            raise Deadlock(f"nothing is ready at {self.time():g} s, and no timer is set; {self.waiting()}")
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._mark = self.steps

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """See `asyncio.loop.default_exception_handler`. Kept in `failures`, and logged."""
        self.failures.append(context)
        super().default_exception_handler(context)

    def kill(self) -> None:
        """End everything at this moment: no other callback runs, and `run_until_complete` raises `RuntimeError`."""
        self.killed = True
        self._unheard = list(self._ready)
        self._ready.clear()
        self._ready = deque()  # what the running callback still asks for waits for `bury`
        self._timers.clear()
        self._cancelled = self._threads = 0
        self.stop()

    def bury(self) -> None:
        """After `kill`: let every task end, cancelled. What they do has to be kept from having effects before."""
        self.killed = False
        self._mark = self.steps
        for _ in range(_BURIALS):
            with contextlib.suppress(Deadlock, Livelock):
                if not self._cancel_all():
                    break
        self.run_until_complete(self.shutdown_asyncgens())

    def end(self) -> None:
        """Cancel what is left and let it end, in `ENDINGS` rounds at most; then what threads do, then generators.

        Exceptions that nobody retrieved go to the exception handler. Raises `Livelock` and `Deadlock` for what does
        not end.
        """
        for _ in range(ENDINGS):
            left = self._cancel_all()
            for task in left:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.call_exception_handler({"message": "ended with an error", "exception": error, "task": task})
            if not left:
                break
        if self._threads:
            self.run_until_complete(self.shutdown_default_executor())
        if len(self._asyncgens):
            self.run_until_complete(self.shutdown_asyncgens())
        for task in unseen(self):
            error = task.exception()  # from now on it has been asked for
            message = "Task exception was never retrieved"
            self.call_exception_handler({"message": message, "exception": error, "task": task})

    def _cancel_all(self) -> list[asyncio.Task[Any]]:
        """Cancel every task, and wait until they have ended. Those there were."""
        left = sorted(asyncio.all_tasks(self), key=order_of)
        for task in left:
            task.cancel()
        self._ready.extend(self._unheard)  # of a killed one: who was about to be woken hears of its end in no other way
        self._unheard = []
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        return left

    def left(self) -> list[str]:
        """Names of the tasks that have not ended, in the order they were made."""
        return [task.get_name() for task in sorted(asyncio.all_tasks(self), key=order_of)]

    def waiting(self) -> str:
        """What each actor and task that has not ended waits for, in the order they were made."""
        tasks = sorted(asyncio.all_tasks(self), key=order_of)
        lines = [line for task in tasks if (line := line_of(task))]
        more = f"; and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return f"waiting: {'; '.join(lines[:_SHOWN]) or 'nobody'}{more}"

    # -- what is outside -----------------------------------------------------------------------------------

    def _process_events(self, event_list: object) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.loop.call_soon_threadsafe`. Raises `Escape` in another thread: real time is not simulated."""
        if get_ident() != self._thread:
            refuse("another thread called into the simulated loop")
        return self.call_soon(callback, *args, context=context)

    # The base declares executor and function with types of its own that differ between versions of Python.
    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run `func` in this thread, `THREAD_SECONDS` later, with no loop running as in a thread of its own.

        Once asked for it runs, as in a thread: a cancelled future only drops its result. Raises `Escape` for a pool of
        processes.
        """
        self._check_closed()
        if type(executor).__module__ == "concurrent.futures.process":
            refuse("a pool of processes was asked for")
        future: asyncio.Future[T] = self.create_future()
        self._threads += 1
        self.call_later(THREAD_SECONDS, self._run_in_thread, future, func, args)
        return future

    def _run_in_thread(self, future: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
        self._threads -= 1
        try:
            with thread_of(self):
                result = func(*args)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # as a worker thread hands it over
            if not future.done():
                future.set_exception(for_future(error))
        else:
            if not future.done():
                future.set_result(result)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait until every function that was given to a thread has run."""
        while self._threads:  # noqa: ASYNC110  # each of them is a timer that is set
            await asyncio.sleep(THREAD_SECONDS)


def _not_before(when: float) -> int:
    """The first nanosecond whose `time()` is not before `when`: who set a timer for then compares floats."""
    nanoseconds = round(when * SECOND)
    return nanoseconds if nanoseconds / SECOND >= when else nanoseconds + 1


class SimClock:
    """The clocks of a simulated node: monotonic time is the running loop's, the wall clock `start` plus it."""

    def __init__(self, start: float = WALL) -> None:
        self._start = start

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._start + self.monotonic()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or back. Monotonic time goes on."""
        self._start += seconds


def run(main: Callable[[], Coroutine[Any, Any, T]], *, debug: bool = False, loop: SimLoop | None = None) -> T:
    """Run `main()` to its end in a loop of its own. Raises what it raises, `Deadlock`, `Livelock` and `Escape`.

    `UsageError` where a loop is running already. The garbage collector rests meanwhile: finalisers run where the
    reference went, the same in every run. Exceptions that nobody retrieved are logged, as asyncio does, and kept in
    `loop.failures`.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with inside():
            return run_in(loop or SimLoop(), main, debug=debug)
    finally:
        if collecting:
            gc.enable()


def run_in(
    loop: SimLoop,
    main: Callable[[], Coroutine[Any, Any, T]],
    *,
    debug: bool = False,
    before_end: Callable[[], None] = lambda: None,
) -> T:
    """`run` in a given loop, which is closed. As `asyncio.Runner` does, without its signal handler.

    `before_end` is called when main has returned, before what is left is cancelled. What goes wrong while that ends
    is raised if main did well, else noted in what main raised. A loop that was killed is left as it is (`bury`), and
    `ProcessKilled` raised.
    """
    try:
        _check_free()
    except UsageError:
        loop.close()
        raise
    loop.set_debug(debug)
    try:
        task = loop.create_task(main(), name="main")
        try:
            result: T = loop.run_until_complete(task)
            before_end()
        except BaseException as error:
            if loop.killed:
                raise ProcessKilled from None
            _end_after(loop, error)
            raise
        loop.end()
        return result
    finally:
        if not loop.killed:
            loop.close()


def _check_free() -> None:
    if asyncio._get_running_loop() is not None or in_thread():
        raise UsageError("a simulated run cannot begin inside a running loop, nor in a function for one of its threads")


def _end_after(loop: SimLoop, error: BaseException) -> None:
    try:
        loop.end()
    except Exception as also:
        error.add_note(f"and while what was left was cancelled: {type(also).__name__}: {also}")
