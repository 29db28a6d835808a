"""What a disk does wrong, as values: frozen, codable as JSON, addressed by the nth write to the journal.

A *write* is a transaction of the journal's owner: one `JournalStore.write` or `set_meta`, counted from 1 over the whole
simulated world, across restarts of the process. Reads, and words that others post to the inbox, have no number. So a
sweep over N = 1, 2, 3 … until a fault does not fire any more (see `SimDisk.fired`) meets every cut there is.

Of several faults for one write the first of this order decides: `KillBefore`, `DiskError`, `TornWrite`, `LostWrites`,
`KillAfter`. `SlowDisk` adds to whatever else happens.
"""

from __future__ import annotations

from typing import TypeAlias

from understudy.actors.errors import UsageError
from understudy.actors.testing.faults import Fault


class _DiskFault(Fault, frozen=True):
    """Base: `write` counts from 1. Raises `UsageError` for a number that cannot be."""

    write: int

    def __post_init__(self) -> None:
        if self.write < 1:
            raise UsageError(f"{type(self).__name__}: write is {self.write}; writes count from 1")
        for name in ("keep", "seconds"):
            if not getattr(self, name, 0) >= 0:
                raise UsageError(f"{type(self).__name__}: {name} is {getattr(self, name)}; it may not be negative")


class DiskError(_DiskFault, frozen=True):
    """The write is refused with `JournalFailed`, and nothing of it is kept. Without `once`, so is every later one."""

    once: bool = True


class TornWrite(_DiskFault, frozen=True):
    """The process dies in the middle of the write, with `keep` of its rows in the log and no mark of a commit.

    Whoever opens the journal next finds and drops them: a transaction is whole or not there (as in SQLite, where
    frames of the log count only with the commit frame behind them). `SimDisk.discarded` counts what was dropped.
    """

    keep: int = 0


class LostWrites(_DiskFault, frozen=True):
    """A power cut right after the write, which was not acknowledged yet.

    Of the writes that were not flushed the first `keep` survive. With durability "full" there are none to lose.
    """

    keep: int = 0


class SlowDisk(_DiskFault, frozen=True):
    """The write takes `seconds` of virtual time more. Past 30 s the store gives up, as the one in SQLite does."""

    seconds: float


class KillBefore(_DiskFault, frozen=True):
    """The process ends when the write is about to begin: nothing of it is kept."""


class KillAfter(_DiskFault, frozen=True):
    """The process ends when the write is in the journal and before anybody hears of it."""


DiskFault: TypeAlias = DiskError | TornWrite | LostWrites | SlowDisk | KillBefore | KillAfter
"""Any of them; as a type for `msgspec.json.decode` it tells them apart by `$`."""
