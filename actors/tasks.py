"""The current task of a loop, for a moment another: the one place that touches private names of asyncio.

An ask of an idle actor runs the handler at once, on the stack of the asker. `asyncio.current_task()` must be a task of
its own there, or scopes and timeouts of the handler would cancel the asker. asyncio has no public way to say so. What
is relied on is tried when this module is imported; if it is not as expected, `asks_inline` is False, every ask takes
the queue, and a warning says so: slower, and the same result.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

log = logging.getLogger("understudy.actors")

# From the loop to the task that is current in it. Values are typed as asyncio types them.
_Table = dict[Any, Any]


def find_table() -> _Table | None:
    """Asyncio's table of current tasks, after trying it; None, and a warning, when it is not as expected."""
    try:
        table: Any = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # a name without a promise
        _try(table)
    except (AttributeError, TypeError, AssertionError, RuntimeError) as error:
        log.warning("asyncio's current tasks are not as expected (%r); every ask takes the queue", error)
        return None
    found: _Table = table
    return found


def _try(table: _Table) -> None:
    loop: Any = object()  # any object will do for a key, and no loop runs while a module is imported
    one: Any = object()
    asyncio.tasks._enter_task(loop, one)
    try:
        _expect(table.get(loop) is one, "a task that was entered is in the table")
        other = table[loop] = object()
        _expect(asyncio.current_task(loop) is other, "the task in the table is current")
        table[loop] = one
    finally:
        with contextlib.suppress(RuntimeError):
            asyncio.tasks._leave_task(loop, one)
        if isinstance(table, dict):
            table.pop(loop, None)
    flag = getattr(asyncio.Future, "_asyncio_future_blocking", None)
    _expect(flag is not None, "a future says whether it is awaited")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def release(waiting: object) -> None:
    """Take the mark of being awaited off what a coroutine has just yielded outside of its task (rule 6).

    Two callees may await one future before either is adopted by its task; the mark belongs to one `yield`.
    """
    if getattr(waiting, "_asyncio_future_blocking", None):
        waiting._asyncio_future_blocking = False  # type: ignore[attr-defined]  # as above


def hold(waiting: object) -> None:
    """Put the mark back, just before the task that adopts the coroutine yields it."""
    if getattr(waiting, "_asyncio_future_blocking", None) is not None:
        waiting._asyncio_future_blocking = True  # type: ignore[attr-defined]  # as above


CURRENT: _Table | None = find_table()
"""The table, or None."""
