"""Restart intensity: how many restarts are normal before a supervisor gives up. OTP's sliding window, in float seconds.

Each restart asks the window once. The window drops the restarts that are older than `within` (one exactly
`within` old is kept), adds this one, and refuses when more than `restarts` are left. So `Intensity(0)` refuses
the first restart. A group restart is one restart; a retry of a failed start is another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from math import isfinite

from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.supervisors.checks import check_count, check_number


class Intensity(Struct, frozen=True):
    """At most `restarts` (default 3) restarts within any `within` seconds (default 5). Raises `SpecError`.

    Sustained, that is a restart each `within / restarts` seconds; at once, a burst of `restarts`.
    """

    restarts: int = 3
    within: float = 5.0

    def __post_init__(self) -> None:
        check_count("Intensity.restarts", self.restarts)
        check_number("Intensity.within", self.within, above=True, unit="seconds")

    @property
    def sustained(self) -> float:
        """Restarts per second that may go on for ever."""
        return self.restarts / self.within

    @property
    def burst(self) -> int:
        """Restarts that may come at once."""
        return self.restarts

    def __str__(self) -> str:
        return f"{self.restarts} restart{'' if self.restarts == 1 else 's'} in {self.within:g} s"


class RestartWindow:
    """The restarts that still count: at most `restarts` + 1 stamps, so memory is bounded. Not thread-safe.

    Stamps are seconds of one monotonic clock that never goes back. They mean nothing in another process: who
    stores a `snapshot` stores the clock's reading with it and shifts the stamps before `restore`.
    """

    __slots__ = ("_stamps", "intensity")

    def __init__(self, intensity: Intensity) -> None:
        self.intensity = intensity
        self._stamps: deque[float] = deque(maxlen=intensity.restarts + 1)

    def admit(self, now: float) -> bool:
        """Count a restart at `now`; False when it is one too many and the supervisor must give up.

        A refused restart counts too. O(1) amortised. Raises `UsageError` if `now` is before the last restart.
        """
        if self._stamps and now < self._stamps[-1]:
            raise UsageError(f"restart at {now!r} is before the last one at {self._stamps[-1]!r}")
        self._drop(now)
        self._stamps.append(now)
        return len(self._stamps) <= self.intensity.restarts

    def count(self, now: float) -> int:
        """Restarts within the window that ends at `now`; saturates at `restarts` + 1. O(1) amortised.

        Forgets what is older, so a `now` before the last one asked with may count too few.
        """
        self._drop(now)
        return len(self._stamps)

    def snapshot(self) -> tuple[float, ...]:
        """The stamps that may still count, oldest first."""
        return tuple(self._stamps)

    def restore(self, stamps: Iterable[float]) -> None:
        """Replace the content by a `snapshot`. Raises `UsageError` unless finite and ascending."""
        given = tuple(stamps)
        if not all(map(isfinite, given)) or any(a > b for a, b in pairwise(given)):
            raise UsageError(f"restart stamps must be finite and ascending, got {given!r}")
        self._stamps.clear()
        self._stamps.extend(given)

    def _drop(self, now: float) -> None:
        stamps, within = self._stamps, self.intensity.within
        while stamps and now - stamps[0] > within:
            stamps.popleft()
