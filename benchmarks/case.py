"""One run of one program: what it is asked to do, its clock, and how it says that it cannot or must not count."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass, field
from typing import Literal

Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = ("small", "medium", "large")
Found = dict[str, object]
"""What a program computed, to be compared with what the oracle expects. Keys are those of `suite`."""

STALLED_SECONDS = 1.5
"""How long a program with a deliberate bug may do nothing at all before it has failed."""


class CheckFailed(Exception):
    """The program saw with its own eyes that its result is wrong: no time may be printed."""


class NotSupported(Exception):
    """The implementation has no such feature, or cannot run at this size. Says why."""


def cpu_seconds() -> float:
    """CPU seconds of this process, all threads, and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass
class Case:
    """One run. `args` are those of the oracle's table; `bug` names a deliberate mistake, "" for none.

    The program calls `start` before it makes its first actor and `stop` when the last one has ended; what it does
    outside of the two is not timed. `extra` takes what else it has to tell, as JSON values.
    """

    name: str
    line: str
    args: tuple[int, ...]
    variant: str = "def"
    bug: str = ""
    deadline: float = 600.0
    """Seconds after which the driver ends the worker."""
    extra: dict[str, object] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0

    @property
    def patience(self) -> float:
        """Seconds to wait for the program's own actors: then there is time left to say what did not come."""
        return STALLED_SECONDS if self.bug else 0.8 * self.deadline

    def start(self) -> None:
        """Begin the timed region."""
        self._cpu0 = cpu_seconds()
        self._wall0 = time.perf_counter()

    def stop(self) -> None:
        """End the timed region."""
        self.wall = time.perf_counter() - self._wall0
        self.cpu = cpu_seconds() - self._cpu0
