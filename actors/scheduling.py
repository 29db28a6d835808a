"""Whose turn it is, and for how long: clocks and counts of dispatch, and the one place that a simulation decides."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from understudy.actors.clock import Clock, Dice, Ids
    from understudy.actors.kernel import Kernel
    from understudy.actors.telemetry import Addressed

TURN: Final = 32
"""Messages of one turn; then timers, I/O and cancellation are served. What is due waits for two turns at most (the rest
of the one it falls into, and what was ready before it in the next), so that a timer is late by 64 messages."""
TURN_SECONDS: Final = 0.001
LOOK: Final = 4
"""Messages after which the clock is looked at."""


class Scheduler(Protocol):
    """The one place that decides order, for a simulation. Production has none.

    Addressed by actor path: permuting tasks alone does not reach most orders.
    """

    def next_ready(self, ready: Sequence[Addressed]) -> int:
        """The index of the ready actor that is served next; -1 for none of them before the loop has had a turn."""
        ...

    def inline(self, path: str) -> bool:
        """Whether an ask of an idle actor may be served at once."""
        ...

    def end_turn(self, handled: int) -> bool:
        """Whether to give the event loop a turn now, after `handled` messages."""
        ...

    def next_timer(self, due: Sequence[float]) -> int:
        """The index of the timer, among those due together, that fires first."""
        ...


class Simulation(Protocol):
    """What a simulated event loop, as its attribute `simulation`, brings to every kernel that is entered in it."""

    @property
    def clock(self) -> Clock:
        """For nodes that were given none."""
        ...

    @property
    def ids(self) -> Ids:
        """As `clock`."""
        ...

    @property
    def dice(self) -> Dice:
        """As `clock`."""
        ...

    def enter(self, kernel: Kernel) -> None:
        """Take a kernel over, before it has a dispatcher and addresses."""
        ...


def simulation_of(loop: asyncio.AbstractEventLoop) -> Simulation | None:
    """What drives the kernels of a simulated loop; None for every other loop."""
    found: Simulation | None = getattr(loop, "simulation", None)
    return found


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of turns: real seconds (uvloop's own time stands still within a turn), or a virtual loop's."""
    real = type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__.startswith("uvloop")
    return time.monotonic if real else loop.time


def now_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of deadlines: `loop.time`, or what it calls."""
    return time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time


@types.coroutine
def turn() -> Generator[None, None, None]:
    """One turn of the event loop."""
    yield
