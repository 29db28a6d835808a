"""Back-off: how long to wait before a restart.

    d_n = min(cap, first · factor^n) · u,   u uniform in [1 - jitter, 1 + jitter]

n counts the failures since the last healthy period, not this one: the first restart waits `first`. A life of at
least `healthy` seconds is a healthy period. The jitter comes after the cap, as in Pekko: a delay can exceed
`cap` by the factor 1 + jitter. The caller draws the randomness and records the delay.

    n = backoff.failures_after(child.failures, ran_for)   # ran_for: seconds the life lasted that just ended
    delay = backoff.delay(n, random.random())
    child.failures = n + 1
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.checks import check_number

_MANY: Final = 10**9
"""More failures than this grow no further: `float ** int` refuses integers beyond the range of float."""


class Backoff(Struct, frozen=True):
    """Growing delays between restarts, in seconds. Raises `SpecError` when a value makes no sense.

    `first`: the delay after the first failure, default 0.2; 0 restarts at once, always. `factor` >= 1: growth per
    failure, default 2. `cap` >= first: the longest delay before jitter, default 30. `jitter` in [0, 1): half-width
    of the random factor, default 0.1; 0 makes delays exact. `healthy` > 0: a life this long starts the count
    anew; default (first + cap) / 2, which is Pekko's: long enough that a child that always dies is not forgiven.
    """

    first: float = 0.2
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.1
    healthy: float | None = None

    def __post_init__(self) -> None:
        check_number("Backoff.first", self.first, unit="seconds")
        check_number("Backoff.factor", self.factor, least=1.0)
        check_number("Backoff.cap", self.cap, unit="seconds")
        check_number("Backoff.jitter", self.jitter)
        if self.jitter >= 1:
            raise SpecError(f"Backoff.jitter must be < 1, got {self.jitter!r}")
        if self.cap < self.first:
            raise SpecError(f"Backoff.cap must be >= first ({self.first:g}), got {self.cap!r}")
        if self.healthy is not None:
            check_number("Backoff.healthy", self.healthy, above=True, unit="seconds")

    @property
    def healthy_after(self) -> float:
        """Seconds of life after which the failures are forgiven: `healthy`, or its default."""
        return (self.first + self.cap) / 2 if self.healthy is None else self.healthy

    def delay(self, failures: int, u: float) -> float:
        """Seconds to wait when `failures` failures came before this one. `u` is uniform in [0, 1).

        Lies in [d·(1-jitter), d·(1+jitter)) with d = min(cap, first·factor^failures); safe for any `failures`.
        Raises `UsageError` for negative failures or `u` outside [0, 1).
        """
        if failures < 0 or not 0.0 <= u < 1.0:
            raise UsageError(f"delay needs failures >= 0 and 0 <= u < 1, got {failures!r} and {u!r}")
        return self._grown(failures) * (1.0 - self.jitter + 2.0 * self.jitter * u)

    def failures_after(self, previous: int, ran_for: float) -> int:
        """The failures that still count when a life of `ran_for` seconds ends: `previous`, or 0 if it was healthy."""
        return 0 if ran_for >= self.healthy_after else previous

    def _grown(self, failures: int) -> float:
        if self.first == 0:
            return 0.0
        try:
            return min(self.cap, self.first * self.factor ** min(failures, _MANY))
        except OverflowError:
            return self.cap
