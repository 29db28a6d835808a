"""What a process takes of the CPU, start-up included."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cpu_seconds(*argv: str, compiled: Path) -> float:
    """User and system time of `python ARGV`, which must end with 0; its output goes nowhere.

    Byte code is kept in the folder `compiled`, as an installation keeps it: the first call there takes longer.
    """
    files = [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
    environ = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled), "PYTHONDONTWRITEBYTECODE": ""}
    child = os.posix_spawn(sys.executable, [sys.executable, *argv], environ, file_actions=files)
    _, status, used = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, argv
    return used.ru_utime + used.ru_stime
