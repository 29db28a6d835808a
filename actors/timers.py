"""One heap of timers for one event loop, so that the order of expired timers is ours to decide.

Stable: timers that are due together fire in the order they were set, unless a `Scheduler` picks otherwise.
Cancelled timers stay in the heap until they come up or make up half of it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Sequence
from typing import Final

from understudy.actors.telemetry import log

_COMPACT_FROM: Final = 64


class Timer:
    """A timer that was set. `cancel` is idempotent."""

    __slots__ = ("_timers", "call", "when")

    def __init__(self, timers: Timers, when: float, call: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Never fire."""
        if self.call is not None:
            self.call = None
            self._timers.note_cancelled()


class Timers:
    """See the module. `pick` chooses among timers that are due together (an index); None takes the first.

    Calls are made in `context`, not in that of whoever set the timer. One that raises is logged; the others fire.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pick: Callable[[Sequence[float]], int] | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._loop = loop
        self._pick = pick
        self._context = context
        self._heap: list[tuple[float, int, int, Timer]] = []
        self._sequence = 0
        self._cancelled = 0
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0.0

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call `call` in `seconds` (at least 0) of the loop's time."""
        return self.at(self._loop.time() + max(0.0, seconds), call)

    def at(self, when: float, call: Callable[[], None], *, rank: int = 0) -> Timer:
        """Call `call` when the loop's time reaches `when`; after those of a lower `rank` that are due then, too."""
        timer = Timer(self, when, call)
        self._sequence += 1
        heapq.heappush(self._heap, (when, rank, self._sequence, timer))
        self._arm()
        return timer

    def note_cancelled(self) -> None:
        """A timer was cancelled; drop the dead ones when they are many."""
        self._cancelled += 1
        if self._cancelled >= _COMPACT_FROM and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[3].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Forget all timers."""
        self._heap.clear()
        self._cancelled = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        when = self._heap[0][0]
        if self._handle is not None:
            if self._armed <= when:
                return
            self._handle.cancel()
        self._armed = when
        self._handle = self._loop.call_at(when, self._fire, context=self._context)

    def _fire(self) -> None:
        self._handle = None
        due: list[tuple[float, int, int, Timer]] = []
        now = self._loop.time()
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap))
        while due:
            index = self._pick([entry[0] for entry in due]) if self._pick and len(due) > 1 else 0
            timer = due.pop(index)[3]
            call, timer.call = timer.call, None
            if call is not None:
                _run(call)
            elif self._cancelled:
                self._cancelled -= 1
        if self._heap:
            self._arm()


def _run(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        log.exception("a timer's call %r raised", call)
