"""What a process takes of the CPU, start-up included."""

from __future__ import annotations

import os
import sys


def cpu_seconds(*argv: str) -> float:
    """User and system time of `python ARGV`, which must end with 0; its output goes nowhere."""
    files = [(os.POSIX_SPAWN_OPEN, out, os.devnull, os.O_WRONLY, 0) for out in (1, 2)]
    child = os.posix_spawn(sys.executable, [sys.executable, *argv], os.environ, file_actions=files)
    _, status, used = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, argv
    return used.ru_utime + used.ru_stime
