"""Whether a task is inside an anyio cancel scope: the one place that reads a private name of anyio.

A handler that leaves a scope open would make the next handler on the same worker a victim of that scope's
cancellation. anyio has no public question for it, so its table of task states is read, after a self-test at
import. If the table is not as expected, every worker that ran a suspending handler is taken for dirty: slower,
and correct.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("understudy.actors")


# anyio's TaskState has no public type.
def _find_table() -> Mapping[asyncio.Task[Any], Any] | None:
    try:
        from anyio._backends import _asyncio as backend

        states: Mapping[asyncio.Task[Any], Any] = backend._task_states
        if "cancel_scope" not in backend.TaskState.__slots__:
            raise AttributeError("TaskState.cancel_scope")
    except (ImportError, AttributeError) as error:  # pragma: no cover - another anyio than was tried
        log.warning("anyio's task table is not as expected (%s); workers are not reused", error)
        return None
    return states


_states = _find_table()


def inside_open_scope(task: asyncio.Task[Any]) -> bool:
    """True when code that has ended on `task` left a cancel scope open, or when that cannot be known."""
    if _states is None:
        return True
    state = _states.get(task)
    return state is not None and state.cancel_scope is not None
