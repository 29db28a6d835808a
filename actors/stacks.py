"""Where code stands: the await stack of a suspended handler, and the actor on whose behalf a thread's frames run.

Both look from outside, at what Python keeps anyway; nothing is recorded while messages are handled.

A suspended handler's coroutine is held by the generator `_adopt` (or `adopt`) in which its worker waits. From there on
the stack is what `cr_await`, `ag_await` and `gi_yieldfrom` lead to. What these do not show (the generator behind an
`asend`, the future behind an iterator, the tasks that `asyncio.wait` waits for) is asked of the garbage collector,
which knows what refers to what without disturbing it: reading `f_locals` of a frame keeps its variables alive.

The actor of running frames is told by the variables of the innermost frame of the dispatcher that has one: `cell`,
or the `life` or `envelope` that know it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import AsyncGeneratorType, CellType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

from msgspec import Struct

from understudy.actors.cell import Cell
from understudy.actors.delivery import Envelope

DISPATCHERS: Final = frozenset({"understudy.actors.loop", "understudy.actors.steps", "understudy.actors.workers"})
"""Modules whose frames know the cell that they run for, and what it handles."""
CALLERS: Final = DISPATCHERS | {"understudy.actors.endings"}
"""Modules from which actors are called: their handlers, and `on_stop`."""
ADOPTERS: Final = frozenset({"_adopt", "adopt"})
"""Generators of these modules that hold a suspended handler."""
STEPS: Final = 200
"""Frames that one walk looks at."""
TASKS: Final = 16
"""Tasks waited for that one walk follows."""

_OURS: Final = "understudy"
_LIBRARIES: Final = frozenset({*sys.stdlib_module_names, "anyio", "sniffio", "uvloop", "msgspec", _OURS}) - {"__main__"}
_SITES: Final = ("site-packages", "dist-packages")
# What a coroutine awaits has no common type.
_Awaited = Any
# What is handled: an envelope, or a bare message and its sender.
Handled = Envelope | tuple[Any, Any]


class AwaitPoint(Struct, frozen=True):
    """A line at which a handler waits."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


class AwaitStack(Struct, frozen=True):
    """Where a coroutine waits.

    `point` is the innermost frame of the user's own code (not of the standard library, anyio, understudy, or of a
    package the handler does not belong to); the innermost of all if there is none. `text` is the whole stack, the
    handler first, then that of each task it waits for. `actors` are the paths of actors whose answer or end it waits
    for.
    """

    point: AwaitPoint | None
    text: str
    actors: tuple[str, ...]


# -- suspended -------------------------------------------------------------------------------------------------


def suspended_on(task: asyncio.Task[Any]) -> _Awaited:
    """The coroutine of the handler that a worker waits in; None when the worker runs, or waits in no handler."""
    link: _Awaited = task.get_coro()
    for _ in range(STEPS):
        if isinstance(link, GeneratorType) and link.gi_code.co_name in ADOPTERS:
            held = _held_by(link) if not link.gi_running else ()
            return next((each for each in held if isinstance(each, CoroutineType | GeneratorType)), None)
        if link is None:
            return None
        link = _awaited_by(link)
    return None


def await_stack(coroutine: _Awaited) -> AwaitStack:
    """Where a suspended coroutine waits. Looks at 200 frames and 16 tasks at most."""
    walk = _Walk()
    walk.follow(coroutine)
    main = len(walk.frames)
    lines = walk.render(0)
    for task in walk.tasks:  # grows while it is walked
        begin = len(walk.frames)
        walk.follow(task.get_coro())
        lines += [f"waits for task {task.get_name()}:\n", *walk.render(begin)]
    return AwaitStack(_point(walk.frames[:main]), "".join(lines), tuple(walk.actors))


class _Walk:
    def __init__(self) -> None:
        self.frames: list[tuple[FrameType, int]] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.actors: dict[str, None] = {}
        self._left = STEPS

    def follow(self, awaited: _Awaited) -> None:
        while awaited is not None and self._left > 0:
            self._left -= 1
            frame = _frame_of(awaited)
            if frame is not None:
                if _module(frame) not in DISPATCHERS:
                    self.frames.append((frame, frame.f_lineno))
                    self._look_around(awaited, _module(frame))
            elif isinstance(awaited, asyncio.Future):
                self._await_future(awaited)
                return
            awaited = _awaited_by(awaited)

    def _look_around(self, awaited: _Awaited, module: str) -> None:
        """What the variables of a library's frame say: the tasks that it waits for, the actor that was asked."""
        if module.rpartition(".")[0] == "understudy.actors":
            for each in _held_by(awaited):
                if isinstance(each, Cell):
                    self.actors[each.path] = None
        elif module.partition(".")[0] in ("asyncio", "anyio"):
            for each in _held_by(awaited):
                self._take_tasks(each)
                self._take_tasks(getattr(each, "_tasks", None))  # a task group, of asyncio or of anyio

    def _take_tasks(self, value: object) -> None:
        if isinstance(value, asyncio.Task):
            if len(self.tasks) < TASKS and value not in self.tasks and not value.done():
                self.tasks.append(value)
        elif isinstance(value, set | list | tuple):
            for each in list(value)[:TASKS]:
                if isinstance(each, asyncio.Task):
                    self._take_tasks(each)

    def _await_future(self, future: asyncio.Future[Any]) -> None:
        self._take_tasks(future)
        self._take_tasks(getattr(future, "_children", None))  # of `asyncio.gather`

    def render(self, begin: int) -> list[str]:
        frames = self.frames[begin:]
        if not frames:
            return ["  (at its beginning, or running)\n"]
        return traceback.StackSummary.from_list(
            [traceback.FrameSummary(f.f_code.co_filename, line, f.f_code.co_name) for f, line in frames]
        ).format()


def _held_by(link: _Awaited) -> list[Any]:
    """What it refers to: for a coroutine or generator that is suspended, among other things its variables."""
    held = gc.get_referents(link)
    for shared in [each for each in held if isinstance(each, CellType)]:  # variables shared with an inner function
        try:
            held.append(shared.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return held


def _frame_of(awaited: _Awaited) -> FrameType | None:
    for name in ("cr_frame", "ag_frame", "gi_frame"):
        frame = getattr(awaited, name, None)
        if isinstance(frame, FrameType):
            return frame
    return None


def _awaited_by(link: _Awaited) -> _Awaited:
    """What a link of the chain waits for; None at its end, and for one that runs."""
    if isinstance(link, CoroutineType):
        return None if link.cr_running else link.cr_await
    if isinstance(link, AsyncGeneratorType):
        return link.ag_await  # `ag_running` is True from `asend` to its end, also while that waits
    if isinstance(link, GeneratorType):
        return None if link.gi_running else link.gi_yieldfrom
    if isinstance(link, asyncio.Future):
        return None
    # An iterator over one of these: `asend`, `athrow`, `anext`, `__await__` of a coroutine, of a future.
    kinds = (CoroutineType, AsyncGeneratorType, GeneratorType, asyncio.Future)
    held = _held_by(link)
    found = next((each for each in held if isinstance(each, kinds)), None)
    return found if found is not None else next((each for each in held if hasattr(each, "throw")), None)


def _point(frames: list[tuple[FrameType, int]]) -> AwaitPoint | None:
    """The innermost frame of the user's own code, else of understudy's (an agent), else of any."""
    home = next((_root(f) for f, _ in frames if _root(f) not in _LIBRARIES), "")
    inner = frames[::-1]
    users = (each for each in inner if _is_users(each[0], home))
    ours = (each for each in inner if _root(each[0]) == _OURS)
    chosen = next(users, None) or next(ours, None) or next(iter(inner), None)
    if chosen is None:
        return None
    frame, line = chosen
    return AwaitPoint(frame.f_code.co_filename, line, frame.f_code.co_qualname)


def _is_users(frame: FrameType, home: str) -> bool:
    root = _root(frame)
    if root in _LIBRARIES:
        return False
    return root == home or not any(site in frame.f_code.co_filename for site in _SITES)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _root(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


# -- running ---------------------------------------------------------------------------------------------------


def deliveries(frame: FrameType | None) -> Iterator[tuple[Cell, Handled | None]]:
    """The cells that the frames of a thread run on behalf of, innermost first, with what each handles (if known).

    `frame` is the thread's innermost. An actor that asks another may stand behind it.
    """
    seen: list[Cell] = []
    while frame is not None:
        if _module(frame) in CALLERS:
            values = frame.f_locals
            cell = _cell_in(values)
            if cell is not None and cell not in seen:
                seen.append(cell)
                yield cell, _handled_in(values, cell)
        frame = frame.f_back


def _cell_in(values: Mapping[str, object]) -> Cell | None:
    cell = values.get("cell")
    if isinstance(cell, Cell):
        return cell
    life = values.get("life") or getattr(values.get("envelope"), "life", None)
    cell = getattr(life, "cell", None)
    return cell if isinstance(cell, Cell) else None


def _handled_in(values: Mapping[str, object], cell: Cell) -> Handled | None:
    """What a life says that it handles comes before a variable, which may be left over from the message before."""
    current: Handled | None = getattr(cell.life, "current", None)
    if current is not None:
        return current
    envelope = values.get("envelope")
    return envelope if isinstance(envelope, Envelope) else None


def message_of(handled: Handled) -> object:
    """The message that is handled."""
    message: object = handled[0] if isinstance(handled, tuple) else handled.message
    return message


def innermost(frame: FrameType | None, last: int = 50) -> str:
    """The stack of a thread as text, up to where the actor was called; at most `last` frames."""
    frames: list[traceback.FrameSummary] = []
    while frame is not None and len(frames) < last:
        if _module(frame) in CALLERS and frames:
            break
        frames.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name))
        frame = frame.f_back
    return "".join(traceback.StackSummary.from_list(frames[::-1]).format())
