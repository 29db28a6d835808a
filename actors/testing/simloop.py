"""An event loop with virtual time: it never sleeps, and jumps to the next timer when nothing is ready.

    def test_backs_off() -> None:
        run(main)                      # a minute of back-off in a millisecond

Deterministic for code that uses no threads, no sockets and no hash order of its own: callbacks run in the order they
were scheduled, timers in the order of their times. `run_in_executor` runs its function in this thread, a fixed virtual
latency later. A loop in which nothing is ready and nothing is due raises `Deadlock` instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

STALL_SECONDS: Final = 0.5
"""Real seconds that foreign threads have to make something ready before `Deadlock` is raised."""
THREAD_SECONDS: Final = 0.001
"""Virtual seconds that a function given to `run_in_executor` takes."""


class Deadlock(AssertionError):
    """Every task waits, and no timer will ever wake one. The text lists the tasks."""


class _VirtualSelector(selectors.DefaultSelector):
    """Passes time instead of waiting for it. Real file descriptors are looked at, never waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.stalled: Callable[[], str] = str

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is not None:
            self.now += max(timeout, 0.0)
            return []
        ready = super().select(STALL_SECONDS)
        if not ready:
            raise Deadlock(self.stalled())
        return ready


class SimLoop(asyncio.SelectorEventLoop):
    """See the module. Time begins at 0."""

    virtual = True
    """Time is not the machine's; see `watchdog.is_real`."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        self._virtual.stalled = self._describe

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual.now

    # The base declares executor and function with types of its own that differ between versions of Python.
    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Run `func` in this thread, a virtual millisecond later."""
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            if future.done():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(THREAD_SECONDS, call)
        return future

    def _describe(self) -> str:
        lines = sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks(self))
        return f"nothing is ready at {self.time():g} s, and no timer is set; waiting: {'; '.join(lines)}"


class SimClock:
    """The clocks of a simulated node: monotonic time is the running loop's, the wall clock `start` plus it."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start

    def monotonic(self) -> float:
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return self._start + self.monotonic()


def run(main: Callable[[], Coroutine[Any, Any, T]], *, debug: bool = False) -> T:
    """Run `main()` to its end in a loop of its own. Raises what it raises, and `Deadlock`."""
    with asyncio.Runner(loop_factory=SimLoop, debug=debug) as runner:
        return runner.run(main())
