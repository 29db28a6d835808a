"""The current task of a loop, for a moment another, and how deep its stack is: what touches private names of asyncio.

An ask of an idle actor runs the handler at once, on the stack of the asker. `asyncio.current_task()` must be a task of
its own there, or scopes and timeouts of the handler would cancel the asker. asyncio has no public way to say so. What
is relied on is tried when this module is imported; if it is not as expected, `asks_inline` is False, every ask takes
the queue, and a warning says so: slower, and the same result.

The handler also finds the frames of the asker below its own. A `RecursionError` of a handler must be its own fault, so
an ask is stepped at once only when what drives its coroutines (the loop, or a stepper of ours) is at most 16 frames
away. Walking there would cost half an ask: a fresh frame is made into an object for each. So one frame is looked at
that lies beyond the driver when a few coroutines await one another; only when its code is not known, they are walked.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
from asyncio import base_events, events, runners
from collections.abc import Callable, Coroutine
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

T = TypeVar("T")

log = logging.getLogger("understudy.actors")

# From the loop to the task that is current in it. Values are typed as asyncio types them.
_Table = dict[Any, Any]


def new_task(
    work: Coroutine[Any, Any, T],
    loop: asyncio.AbstractEventLoop,
    *,
    name: str | None = None,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    """A task made past the user's task factory; of the loop's own class, if a simulated loop has one."""
    kind: type[asyncio.Task[T]] = getattr(loop, "task_class", asyncio.Task)
    return kind(work, loop=loop, name=name, context=context)


def find_table() -> _Table | None:
    """Asyncio's table of current tasks, after trying it; None, and a warning, when it is not as expected."""
    try:
        table: Any = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # a name without a promise
        _try(table)
    except Exception as error:  # however it differs: it may not keep anybody from importing this
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

# -- how deep ----------------------------------------------------------------------------------------------------

FRAMES: Final = 16
"""Frames that an asker may have on the stack for its ask to be stepped there."""
ROOM: Final = 48
"""Frames that must be left to send anything at all."""

DRIVERS: Final[dict[int, CodeType]] = {}
"""Codes of what drives coroutines, by id: a code object is hashed by its contents. See `note_driver`."""


def note_driver(*functions: Callable[..., Any]) -> None:
    """Say that these drive coroutines, or are called by what does, and are never called by themselves in between."""
    for function in functions:
        note_code(function.__code__)


def note_code(code: CodeType) -> None:
    """`note_driver`, for the code of a function."""
    DRIVERS[id(code)] = code


def near_driver(frame: FrameType | None) -> bool:
    """Whether a driver, or the end of the stack, is at most 16 frames from this one.

    Raises `RecursionError`, before anything has happened, when there is no room to send a message.
    """
    depth = 0
    while frame is not None and depth < FRAMES:
        if id(frame.f_code) in DRIVERS:
            return True
        frame, depth = frame.f_back, depth + 1
    near = frame is None
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    if depth + ROOM > sys.getrecursionlimit():
        raise RecursionError("too little of the stack is left to send a message")
    return near


def _code_of(holder: object, name: str) -> CodeType | None:
    """Of a private function, which may not be there."""
    code: CodeType | None = getattr(getattr(holder, name, None), "__code__", None)
    return code


HANDLE: Final = _code_of(events.Handle, "_run")
"""What runs a step of a task in asyncio's own loop."""
for _code in (HANDLE, *(_code_of(base_events.BaseEventLoop, name) for name in ("_run_once", "run_forever"))):
    if _code is not None:
        note_code(_code)
note_driver(base_events.BaseEventLoop.run_until_complete, runners.Runner.run, runners.run)


def want_room(frames: int = 16) -> None:
    """Raise `RecursionError` unless so many more frames fit on the stack."""
    if frames:
        want_room(frames - 1)
