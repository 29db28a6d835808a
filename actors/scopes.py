"""Whether a task is inside an anyio cancel scope: the one place that reads a private name of anyio.

A handler that leaves a scope open would make the next handler on the same worker a victim of that scope's
cancellation. anyio has no public question for it, so its table of task states is read, after a self-test when the
first worker is made (not at import: anyio's backend takes longer to load than all of ours). If the table is not as
expected, every worker is taken for dirty: slower, and correct.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Container, Mapping
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

log = logging.getLogger("understudy.actors")

# anyio's TaskState has no public type.
_Table = Mapping[ReferenceType[asyncio.Task[Any]], Any]


@functools.cache
def _find_table() -> _Table | None:
    try:
        from anyio._backends import _asyncio as backend

        states: Any = backend._task_states  # a name without a promise, so nothing is known of it
        if not isinstance(states, WeakKeyDictionary) or "cancel_scope" not in backend.TaskState.__slots__:
            raise AttributeError("TaskState.cancel_scope")
        table: _Table = states.data  # type: ignore[attr-defined]  # of every WeakKeyDictionary, undocumented
    except (ImportError, AttributeError) as error:  # pragma: no cover - another anyio than was tried
        log.warning("anyio's task table is not as expected (%s); workers are not reused", error)
        return None
    return table


class _Everything:
    """In place of a table that is not known: after the first question, before which nothing has run, holds every key.

    So a new worker runs one handler, and is then taken for dirty.
    """

    __slots__ = ("_asked",)

    def __init__(self) -> None:
        self._asked = False

    def __contains__(self, key: object) -> bool:
        asked, self._asked = self._asked, True
        return asked


class ScopeProbe:
    """Asks the same question about one task again and again, cheaply.

    A task whose `key` is not in `table` has never entered a scope; only for another one `dirty` needs to be asked.
    """

    __slots__ = ("_known", "_task", "key", "table")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self.key = ref(task)
        self._known = _find_table()
        self.table: Container[ReferenceType[asyncio.Task[Any]]] = _Everything() if self._known is None else self._known

    def inside_open_scope(self) -> bool:
        """True when code that has ended on the task left a cancel scope open, or when that cannot be known."""
        if self._known is None:
            return True
        state = self._known.get(self.key)
        return state is not None and state.cancel_scope is not None

    def dirty(self) -> bool:
        """Whether code that has ended on the task left it cancelled, or inside an open scope."""
        return bool(self._task.cancelling()) or self.inside_open_scope()
