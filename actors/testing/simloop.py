"""An event loop with virtual time: it never sleeps, and jumps to the next timer when nothing is ready.

    def test_backs_off() -> None:
        run(main)                      # a minute of back-off in a millisecond

Time is an integer number of nanoseconds. Callbacks run in the order they were scheduled, timers in the order of their
times and, within one time, in the order they were set; tasks, futures and anyio's cancel scopes hash to the order they
were made in, so sets of them have one order too. Functions for threads (`run_in_executor`, `asyncio.to_thread`,
`anyio.to_thread`) run in this thread, a fixed virtual latency later. What would leave the process raises `Escape` with
the place that called it. A loop in which nothing is ready and nothing is due raises `Deadlock`, one that goes on
without time passing `Livelock`; both say what each actor and task awaits.

What is patched while such a loop runs, and what is not caught, is told in `outside`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, TypeVarTuple

from understudy.actors.stacks import await_stack, suspended_on
from understudy.actors.testing.identity import SimFuture, SimTask
from understudy.actors.testing.outside import WALL, Escape, inside, refuse, thread_of

if TYPE_CHECKING:
    import contextvars

    from understudy.actors.scheduling import Simulation

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

THREAD_SECONDS: Final = 0.001
"""Virtual seconds that a function given to a thread takes."""
IDLE_STEPS: Final = 100_000
"""Callbacks within one instant of virtual time before `Livelock` is raised."""
SECOND: Final = 1_000_000_000
_COMPACT_FROM: Final = 64
_BURIALS: Final = 3
"""How often the tasks of a killed process are cancelled: some go on after the first time."""
_SHOWN: Final = 40
"""Tasks that a `Deadlock` lists."""

__all__ = ["Deadlock", "Escape", "Livelock", "SimClock", "SimLoop", "run"]


class Deadlock(AssertionError):
    """Every task waits, and no timer will ever wake one. The text lists the tasks and where each waits."""


class ProcessKilled(Exception):
    """`SimLoop.kill` ended the run."""


class Livelock(AssertionError):
    """Callbacks follow callbacks and time does not pass. The text lists the tasks."""


class SimLoop(asyncio.BaseEventLoop):
    """See the module. Time begins at `start` seconds (0). `idle_steps`: callbacks in one instant before `Livelock`.

    `steps` counts callbacks. `simulation`, if there is one, drives every kernel that is entered in this loop.
    """

    virtual = True
    """Time is not the machine's; see `watchdog.is_real`."""

    task_class = SimTask

    # What the base class keeps under names without a promise; both are tried in tests on every supported Python.
    _ready: deque[asyncio.Handle]
    _stopping: bool

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
        self._idle_steps = idle_steps
        self._mark = 0
        self._thread = get_ident()
        self.killed = False
        self._unheard: list[asyncio.Handle] = []
        self.steps = 0
        self.simulation = simulation
        self.failures: list[dict[str, Any]] = []
        """Contexts of the exception handler: exceptions that nobody retrieved. Filled by `World.run`."""
        self.set_task_factory(self._make_task)

    # -- identity ------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        """A number that no other task, future or scope of this loop has."""
        self._made += 1
        return self._made

    # As asyncio types task factories: a coroutine or generator of anything.
    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        if more.get("name") is None:
            self._names += 1
            more["name"] = f"task-{self._names}"
        return SimTask(coro, loop=loop, **more)

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

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_later`."""
        return self._set(_not_before((self._now / SECOND) + max(delay, 0.0)), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `asyncio.loop.call_at`."""
        return self._set(_not_before(when), callback, args, context)

    def _set(
        self, when: int, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]  # of every BaseEventLoop
        timer = asyncio.TimerHandle(when / SECOND, callback, args, self, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, timer))
        timer._scheduled = True  # type: ignore[attr-defined]  # so that cancelling it is told to us
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self._cancelled += 1
        if self._cancelled > _COMPACT_FROM and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    # -- the loop ------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready, timers = self._ready, self._timers
        if not ready:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)[2]._scheduled = False  # type: ignore[attr-defined]  # see `_set`
                self._cancelled -= 1
            if timers:
                if timers[0][0] > self._now:
                    self._now = timers[0][0]
                    self._mark = self.steps
            elif not self._stopping:
                raise Deadlock(f"nothing is ready at {self.time():g} s, and no timer is set; {self.waiting()}")
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # type: ignore[attr-defined]  # see `_set`
            if timer.cancelled():
                self._cancelled -= 1
            else:
                ready.append(timer)
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

    def kill(self) -> None:
        """End everything at this moment: no other callback runs, and `run_until_complete` raises `ProcessKilled`."""
        self.killed = True
        self._unheard = list(self._ready)
        self._ready.clear()
        self._timers.clear()
        self._cancelled = 0
        self.stop()

    def bury(self) -> None:
        """After `kill`: let every task end, cancelled. What they do has to be kept from having effects before."""
        self.killed = False
        self._mark = self.steps
        for _ in range(_BURIALS):
            left = sorted(asyncio.all_tasks(self), key=hash)
            for task in left:
                task.cancel()
            self._ready.extend(self._unheard)  # a task that was about to be woken hears of its end in no other way
            self._unheard = []
            if left:
                with contextlib.suppress(Deadlock, Livelock):
                    self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.run_until_complete(self.shutdown_asyncgens())

    def end(self) -> None:
        """Cancel what is left, and let it end. Raises `Livelock` for what does not."""
        for _ in range(_BURIALS):  # the last act of some is to start another
            left = sorted(asyncio.all_tasks(self), key=hash)
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            for task in left:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.call_exception_handler({"message": "ended with an error", "exception": error, "task": task})
        self.run_until_complete(self.shutdown_asyncgens())

    def left(self) -> list[str]:
        """Names of the tasks that have not ended, in the order they were made."""
        return [task.get_name() for task in sorted(asyncio.all_tasks(self), key=hash)]

    def waiting(self) -> str:
        """What each task that has not ended waits for, in the order they were made."""
        tasks = sorted(asyncio.all_tasks(self), key=hash)
        lines = [line for task in tasks if (line := _line_of(task))]
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
        """Run `func` in this thread, `THREAD_SECONDS` later, with no loop running as in a thread of its own."""
        future: asyncio.Future[T] = self.create_future()
        self.call_later(THREAD_SECONDS, _run_in_thread, future, func, args)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    def _refuse(self, *args: object, **more: object) -> NoReturn:
        refuse("a socket, pipe, process or signal was asked of the simulated loop")

    async def _refuse_later(self, *args: object, **more: object) -> NoReturn:
        refuse("a socket, pipe, process or signal was asked of the simulated loop")

    add_reader = remove_reader = add_writer = remove_writer = add_signal_handler = remove_signal_handler = _refuse
    getaddrinfo = getnameinfo = create_connection = create_server = create_datagram_endpoint = _refuse_later
    create_unix_connection = create_unix_server = connect_accepted_socket = start_tls = sendfile = _refuse_later
    sock_recv = sock_recv_into = sock_recvfrom = sock_sendall = sock_sendto = sock_connect = sock_accept = _refuse_later
    sock_sendfile = connect_read_pipe = connect_write_pipe = subprocess_exec = subprocess_shell = _refuse_later


def _not_before(when: float) -> int:
    """The first nanosecond whose `time()` is not before `when`: who set a timer for then compares floats."""
    nanoseconds = round(when * SECOND)
    return nanoseconds if nanoseconds / SECOND >= when else nanoseconds + 1


def _run_in_thread(future: asyncio.Future[T], func: Callable[..., T], args: tuple[Any, ...]) -> None:
    if future.done():
        return
    try:
        with thread_of(future.get_loop()):
            result = func(*args)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # as a worker thread hands it over
        future.set_exception(error)
    else:
        future.set_result(result)


def _line_of(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    handler = suspended_on(task)
    if handler is None and task.get_name() == "understudy-worker":
        return ""  # it waits for work, as it should
    stack = await_stack(handler if handler is not None else coroutine)
    asked = f" (asks {', '.join(stack.actors)})" if stack.actors else ""
    who = getattr(handler, "__qualname__", "") or task.get_name()
    return f"{who} at {stack.point}{asked}" if stack.point is not None else f"{who}: {coroutine!r}"


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

    The garbage collector rests meanwhile: finalisers run where the reference went, the same in every run.
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

    `before_end` is called when main has returned, before what is left is cancelled.
    """
    loop.set_debug(debug)
    try:
        task = loop.create_task(main(), name="main")
        try:
            result = loop.run_until_complete(task)
        except RuntimeError:
            if loop.killed:
                raise ProcessKilled from None
            raise
        before_end()
        return result
    finally:
        try:
            if not loop.killed:
                loop.end()
        finally:
            if not loop.killed:
                loop.close()
