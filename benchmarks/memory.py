"""What a process holds: pages, bytes on the heap, objects the collector knows, and how long it needs to look at them;
and how long its machine kept it waiting.

Standard library and CPython on Linux; what a platform cannot tell is None.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable


def rss_bytes() -> int:
    """Resident bytes now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rss_peak_kb() -> int:
    """The most KiB that were ever resident in this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_rss_peak() -> bool:
    """Forget the peak of this process so far, for `rss_peak_bytes`. Whether that can be done here."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return False
    return True


def rss_peak_bytes() -> int:
    """The most bytes that were resident since the peak was last forgotten."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def kept_waiting_ms(pid: int | None = None) -> float:
    """Milliseconds that the main thread of a process (default: this one) was ready to run so far, and was not run.

    0.0 where the system does not tell.
    """
    try:
        with open(f"/proc/{'self' if pid is None else pid}/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e6
    except (OSError, IndexError, ValueError):
        return 0.0


class _MallInfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def heap_bytes() -> int | None:
    """Bytes in use, exactly: blocks of Python's allocator and of the C library's. None where neither can tell.

    Free blocks, and pages nobody uses any more, do not count: unlike RSS this does not depend on what ran before.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    mallinfo2.restype = _MallInfo
    info = mallinfo2()
    small = _small_blocks()
    return None if small is None else small + int(info.uordblks) + int(info.hblkhd)


def _small_blocks() -> int | None:
    """What CPython says about its allocator goes to the C stream of standard error; read it from there."""
    tell: Callable[[], None] | None = getattr(sys, "_debugmallocstats", None)
    if tell is None:
        return None
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)
            try:
                tell()
            finally:
                os.dup2(kept, 2)
            file.seek(0)
            text = file.read().decode("ascii", "replace")
    finally:
        os.close(kept)
    found = re.search(r"# bytes in allocated blocks\s*=\s*([\d,]+)", text)
    return int(found[1].replace(",", "")) if found else None


def full_collection_ms(times: int = 3) -> float:
    """The quickest of `times` full collections, by the collector's own callbacks."""
    spans: list[float] = []
    began = 0.0

    def hear(phase: str, info: dict[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.perf_counter()
        elif info["generation"] == 2:
            spans.append(time.perf_counter() - began)

    gc.callbacks.append(hear)
    try:
        for _ in range(times):
            gc.collect()
    finally:
        gc.callbacks.remove(hear)
    return min(spans) * 1e3


def tracked_objects() -> int:
    """How many objects the collector looks at."""
    return len(gc.get_objects())
