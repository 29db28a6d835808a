"""Live inspection: what one actor, or all, are doing now, seen from outside and at no cost until somebody asks.

An inspection is a snapshot of plain values; it keeps nothing of the actor alive. It asks nothing of the actor, so a
handler that hangs is inspected as well as any other, with the line it hangs at. Compare OTP's `process_info` and
`sys:get_status`, the latter of which has to wait for the process. A handler that blocks the event loop itself cannot
be seen from the loop: that is the watchdog's matter.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from understudy.actors.cell import Cell, Watcher
from understudy.actors.delivery import START
from understudy.actors.errors import UsageError
from understudy.actors.lifecycle import GONE, Exit, LifeState
from understudy.actors.mailbox import MailboxStatistics
from understudy.actors.refs import Ref
from understudy.actors.stacks import AwaitPoint, Handled, await_stack, deliveries, message_of, suspended_on
from understudy.actors.telemetry import path_of

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel

NAMED: Final = 100
"""Children, and watchers, that an inspection names; it counts all."""
TREE_LIMIT: Final = 1_000


class RunningHandler(Struct, frozen=True):
    """One message being handled.

    `message` is the name of its type, "on_start" for the start of an incarnation. `sender` is a path, "" for code
    outside of actors. `left` are the seconds until its asker stops waiting (negative when that is over), None for a
    `tell`. `running` is True for a handler that runs in this moment (it, or whom it called, is inspecting); `at`,
    `stack` and `waits_for` then say nothing. For one that waits, `at` is the innermost line of the user's code, `stack`
    the whole await stack as text, `waits_for` the paths of actors whose answer (or end) it waits for.
    """

    message: str
    sender: str
    left: float | None
    running: bool
    at: AwaitPoint | None = None
    stack: str = ""
    waits_for: tuple[str, ...] = ()


class Inspection(Struct, frozen=True):
    """One actor, now.

    `incarnation` counts from 1; `restarts` are the incarnations before this one. `supervisor` is the path of who
    decides about a failure, "" for nobody. `last_exit` is how the incarnation before, or an ended one, ended. `timers`
    counts those set and not yet due, `next_timer` are the seconds until the first. `children` and `watchers` name the
    first 100; the counts count all; a watcher that is no actor has no name.
    """

    path: str
    state: LifeState
    incarnation: int
    restarts: int
    mailbox: MailboxStatistics
    handlers: tuple[RunningHandler, ...]
    supervisor: str
    last_exit: Exit | None
    timers: int
    next_timer: float | None
    child_count: int
    children: tuple[str, ...]
    watcher_count: int
    watchers: tuple[str, ...]

    def text(self) -> str:
        """The inspection as a person reads it, with the whole await stacks."""
        box = self.mailbox
        lines = [
            f"{self.path} #{self.incarnation} {self.state}",
            f"  mailbox {box.work}/{box.limit}, control {box.control}, senders waiting {box.waiting},"
            f" dropped {box.dropped}; timers {self.timers}; children {self.child_count}",
        ]
        if self.last_exit is not None:
            lines.append(f"  restarts {self.restarts}, last exit {self.last_exit}")
        for handler in self.handlers:
            lines.append(f"  {_headline(handler)}")
            lines += [f"    {line}" for line in handler.stack.splitlines()]
        return "\n".join(lines)


class TreeInspection(Struct, frozen=True):
    """All actors, each before its children, in the order they were started; `left_out` did not fit the limit."""

    actors: tuple[Inspection, ...]
    left_out: int

    def text(self) -> str:
        """One line an actor, indented by its depth."""
        lines = [_row(each) for each in self.actors]
        return "\n".join([*lines, f"and {self.left_out:,} more"] if self.left_out else lines)


def _headline(handler: RunningHandler) -> str:
    where = "running" if handler.running else f"waits at {handler.at}" if handler.at is not None else "waits"
    asked = f" from {handler.sender}" if handler.sender else ""
    left = "" if handler.left is None else f", {handler.left:.3g} s left"
    return f"{handler.message}{asked}{left}: {where}{_for(handler)}"


def _for(handler: RunningHandler) -> str:
    return f" for {', '.join(handler.waits_for)}" if handler.waits_for else ""


def _row(each: Inspection) -> str:
    depth = each.path.count("/")
    doing = "; ".join(_headline(handler) for handler in each.handlers)
    waiting = f", {each.mailbox.work} waiting" if each.mailbox.work else ""
    return f"{'  ' * depth}{each.path} #{each.incarnation} {each.state}{waiting}{f': {doing}' if doing else ''}"


# -- taking one ------------------------------------------------------------------------------------------------


def cell_of(kernel: Kernel, to: Ref[Any] | str) -> Cell:
    """The cell of an actor, by ref or by path (or unambiguous ending of one).

    Raises `UsageError` for an unknown name, the ref of a pool and a ref of another system, `SpecError` for an
    ambiguous name, `WrongLoop` from another thread.
    """
    kernel.check_thread()
    if isinstance(to, str):
        found = kernel.registry.find(to)
        if found is None:
            raise UsageError(f"no actor {to!r} in this system")
        return found
    cell = to._cell
    if cell.kernel is not kernel:
        raise UsageError(f"{to!r} is an actor of another system")
    if to.path != cell.path:  # every use of such a ref picks another member
        raise UsageError(f"{to.path!r} is a pool; name one member, as {cell.path!r}")
    return cell


def inspect_cell(cell: Cell) -> Inspection:
    """See `Inspection`."""
    now = cell.kernel.loop.time()
    life = cell.life
    timers = [timer.when for timer in life.timers or () if timer.call is not None] if life is not None else []
    children = cell.children or {}
    watchers = cell.watchers or {}
    return Inspection(
        path=cell.path,
        state=cell.state,
        incarnation=cell.number,
        restarts=max(0, cell.number - 1),
        mailbox=_mailbox_of(cell),
        handlers=tuple(_handlers(cell, now)),
        supervisor=_supervisor_of(cell),
        last_exit=None if cell.exit is GONE else cell.exit,
        timers=len(timers),
        next_timer=max(0.0, min(timers) - now) if timers else None,
        child_count=len(children),
        children=tuple(child.path for child, _ in zip(children.values(), range(NAMED), strict=False)),
        watcher_count=len(watchers),
        watchers=tuple(_path_of(watcher) for watcher, _ in zip(watchers, range(NAMED), strict=False)),
    )


def inspect_all(kernel: Kernel, limit: int = TREE_LIMIT) -> TreeInspection:
    """Every actor, at most `limit`. Raises `UsageError` for a limit below 1, `WrongLoop` from another thread."""
    kernel.check_thread()
    if limit < 1:
        raise UsageError(f"inspect_tree: limit {limit!r}; at least 1")
    found: list[Inspection] = []
    stack = [cell for cell in kernel.registry if cell.parent is None][::-1]
    while stack and len(found) < limit:
        cell = stack.pop()
        found.append(inspect_cell(cell))
        stack.extend(reversed(list((cell.children or {}).values())))
    return TreeInspection(tuple(found), max(0, len(kernel.registry) - len(found)))


def _path_of(watcher: Cell | Watcher) -> str:
    return watcher.path if isinstance(watcher, Cell) else ""


def _mailbox_of(cell: Cell) -> MailboxStatistics:
    return MailboxStatistics(cell.waiting, 0, 0, 0, cell.limit) if cell.mailbox is None else cell.mailbox.statistics()


def _supervisor_of(cell: Cell) -> str:
    """The actor that was told to decide about the cell's exits; its parent, if it was told through a function."""
    if cell.on_exit is None:
        return ""
    own = getattr(getattr(cell.on_exit, "__self__", None), "_cell", None)
    if isinstance(own, Cell):
        return own.path
    return cell.parent.path if cell.parent is not None else ""


def _handlers(cell: Cell, now: float) -> Iterator[RunningHandler]:
    """What is being handled, the longest first; what runs in this moment last."""
    if cell.life is None:
        return
    tasks = cell.life.tasks or {}
    for envelope, task in tasks.items():
        yield _handler(envelope, suspended_on(task), cell, now)
    if cell.running > len(tasks):  # in its first step, which leads here
        for running, handled in deliveries(sys._getframe()):
            if running is cell and handled is not None and (isinstance(handled, tuple) or handled not in tasks):
                yield _handler(handled, None, cell, now)


# What a coroutine is has no common type.
def _handler(handled: Handled, suspended: Any, cell: Cell, now: float) -> RunningHandler:
    name = message_name(message_of(handled))
    deadline = None if isinstance(handled, tuple) else handled.deadline
    left = None if deadline is None else deadline - now
    sender = path_of((handled[1] if isinstance(handled, tuple) else handled.sender) or "")
    if suspended is None:
        return RunningHandler(name, sender, left, running=True)
    stack = await_stack(suspended)
    actors = tuple(path for path in stack.actors if path != cell.path)
    return RunningHandler(name, sender, left, False, stack.point, stack.text, actors)


def message_name(message: object) -> str:
    """The name of a message's type; "on_start" for what a life begins with."""
    return "on_start" if message is START else type(message).__name__
