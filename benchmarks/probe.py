"""How late the event loop is under load: something small is asked every 10 ms, and timed from when it was due."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from benchmarks.case import Case

EVERY = 0.010
"""Seconds between two asks."""


async def turn() -> None:
    """What a plain loop and a peer are asked: one turn of the event loop."""
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def probed(case: Case, ask: Callable[[], Awaitable[object]] = turn) -> AsyncIterator[None]:
    """Probe while the block runs; `probe_ms_p50`, `probe_ms_p99` and `probes`, how many there were, go to `extra`.

    What is still under way at the end counts with the time that it took so far.
    """
    late: list[float] = []
    due = 0.0

    async def probe() -> None:
        nonlocal due
        due = time.perf_counter() + EVERY
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await ask()
            now = time.perf_counter()
            late.append(now - due)
            due = max(due + EVERY, now)

    task = asyncio.get_running_loop().create_task(probe())
    try:
        yield
    finally:
        if (open_since := time.perf_counter() - due) > 0 and due:
            late.append(open_since)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    late.sort()
    for share in (50, 99):
        case.extra[f"probe_ms_p{share}"] = round(late[len(late) * share // 100] * 1e3, 3) if late else None
    case.extra["probes"] = len(late)
