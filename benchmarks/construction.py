"""C13: what an agent with one tool costs to make, measured the same for all: batches, and then one that is traced."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import TypeVar

from benchmarks.case import Case

T = TypeVar("T")


def measure(case: Case, make: Callable[[int], T]) -> list[T]:
    """The agents of the last batch. `make(i)` makes the agent number i; times and bytes of one go to `extra`."""
    n, batches = case.args
    make(0)
    spans: list[float] = []
    agents: list[T] = []
    case.start()
    for _ in range(batches):
        began = time.process_time()
        agents = [make(i) for i in range(n)]
        spans.append((time.process_time() - began) / n)
    case.stop()
    case.extra["us_per_agent"] = round(statistics.median(spans) * 1e6, 2)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        traced = [make(i) for i in range(n)]
        gc.collect()
        case.extra["bytes_per_agent"] = round((tracemalloc.get_traced_memory()[0] - before) / n)
        del traced
    finally:
        tracemalloc.stop()
    return agents
