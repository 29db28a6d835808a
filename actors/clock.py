"""Time and randomness as they are passed in, never reached for.

Two clocks, kept apart: `monotonic()` for intervals (never jumps) and `wall()` for what people and other
processes see (seconds since the epoch, may jump). Tests and the simulation supply their own.
"""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, in seconds."""

    def monotonic(self) -> float:
        """Never goes back; for deadlines and durations."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch; for records and expiry."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # The clock of the stock event loop, itself and not a method that calls it: every happening is stamped with it.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class Ids(Protocol):
    """A source of names for runs."""

    def run(self) -> str:
        """A short name, lower-case hexadecimal, not used before in this node."""
        ...


class RandomIds:
    """Ids of 8 hexadecimal digits from the system's entropy; the store refuses the rare repeat."""

    def run(self) -> str:
        """See `Ids.run`."""
        return os.urandom(4).hex()

    def trace(self) -> str:
        """A trace id: 32 hexadecimal digits. Of ids that have none, traces are made from the run's name."""
        return os.urandom(16).hex()


class Dice(Protocol):
    """A source of jitter."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...


def system_dice() -> Dice:
    """Jitter from the standard generator, seeded by the system."""
    import random  # late: a command that only looks starts without it

    return random.Random()
