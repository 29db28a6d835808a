"""Where the tasks of a simulated loop stand: the lines of its deadlock and livelock reports."""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Final

from understudy.actors.cell import Cell
from understudy.actors.stacks import DISPATCHERS, _awaited_by, _frame_of, await_stack, suspended_on

WORKER: Final = "understudy-worker"
"""Name of the tasks in which handlers run."""
_KIT: Final = "understudy.actors.testing."
_DEPTH: Final = 8
"""Coroutines of a handler that are searched for its actor."""

# What a coroutine awaits has no common type.
_Awaited = Any


def line_of(task: asyncio.Task[Any]) -> str:
    """Who waits where: `desk/clerk (Clerk.open) at file:line function (asks desk/bank)`; "" for an idle worker.

    A handler is named by its actor's path and its own name, another task by its name.
    """
    coroutine = task.get_coro()
    handler = suspended_on(task)
    if handler is None and task.get_name() == WORKER:
        return ""  # it waits for work, as it should
    stack = await_stack(handler if handler is not None else coroutine)
    asked = f" (asks {', '.join(stack.actors)})" if stack.actors else ""
    who = _who(handler) if handler is not None else task.get_name()
    return f"{who} at {stack.point}{asked}" if stack.point is not None else f"{who}: {coroutine!r}"


def _who(handler: _Awaited) -> str:
    """Path and name of a suspended handler: the first frame that is not of dispatch or the kit, and its actor."""
    path = name = ""
    link = handler
    for _ in range(_DEPTH):
        frame = _frame_of(link)
        if frame is None or (path and name):
            break
        path = path or _path(link)
        module = str(frame.f_globals.get("__name__", ""))
        if not name and module not in DISPATCHERS and not module.startswith(_KIT):
            name = frame.f_code.co_qualname
        link = _awaited_by(link)
    name = name or str(getattr(handler, "__qualname__", handler))
    return f"{path} ({name})" if path else name


def _path(link: _Awaited) -> str:
    """Of the actor among the variables of a coroutine or generator, "" if there is none."""
    for held in gc.get_referents(link):
        for cell in (held, getattr(held, "cell", None), getattr(held, "_cell", None)):
            if isinstance(cell, Cell):
                return cell.path
    return ""
