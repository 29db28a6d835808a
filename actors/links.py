"""Links: two incarnations that end together (Erlang's links).

A link is between incarnations, not addresses: the next incarnation has none. When one ends, whatever the reason but
`normal`, the other ends at once, with the same reason: `shutdown` as `shutdown`, anything else as `error`, and the
detail names the link ("linked a/b: error(...)"). One that traps exits (`trap_exits = True`) goes on and is sent an
`Exited` instead, for `normal` too. The signal goes out after the names of the ended one are free. Each link signals
once, and a ring of links ends once: both sides forget the link before the signal is sent.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from understudy.actors.delivery import Notice
from understudy.actors.errors import ActorStopped
from understudy.actors.kit import kit_of
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Exited

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.delivery import Life


class _Signal(NamedTuple):
    """To one incarnation: that incarnation `number` of `source` ended."""

    target: Cell
    life: Life
    source: Cell
    number: int
    exit: Exit


class Links:
    """The signals of one kernel. `owed` holds those of incarnations that ended and whose names are not free yet."""

    def __init__(self) -> None:
        self.owed: dict[Cell, list[_Signal]] = {}
        self._queue: deque[_Signal] = deque()
        self._busy = False

    def sever(self, cell: Cell, life: Life, exit: Exit) -> None:
        """Take all links of an incarnation that ended; `signal` sends what follows."""
        kit = kit_of(life)
        for other in kit.links:
            theirs = other.life
            if theirs is not None and theirs.kit is not None and theirs.kit.links.pop(cell, self) is None:
                signal = _Signal(other, theirs, cell, life.number, exit)
                self.owed.setdefault(cell, []).append(signal)
        kit.links.clear()

    def signal(self, cell: Cell) -> None:
        """Send what the end of `cell`'s incarnation owes."""
        self._queue.extend(self.owed.pop(cell, ()))
        self._send()

    def gone(self, cell: Cell, life: Life, target: Cell) -> None:
        """Signal that there was nothing to link with."""
        exit = Exit("gone", "" if target.state == "stopped" else f"between two incarnations: {target.exit}")
        self._queue.append(_Signal(cell, life, target, target.number, exit))
        self._send()

    def _send(self) -> None:
        """One after another: a long chain of links must not be a deep recursion."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._queue:
                _receive(self._queue.popleft())
        finally:
            self._busy = False


def _receive(signal: _Signal) -> None:
    cell, life, exit = signal.target, signal.life, signal.exit
    if cell.life is not life:
        return
    if getattr(life.actor if life.actor is not None else cell.factory, "trap_exits", False):
        notice = Exited(signal.source.path, signal.number, exit.kind, exit.detail)
        cell.kernel.control(cell, notice, bounded=False, about=signal.source)
    elif exit.kind != "normal":
        cell.kernel.end(cell, life, _passed_on(exit, signal.source.path))


def _passed_on(exit: Exit, path: str) -> Exit:
    detail = exit.detail if exit.detail.startswith("linked ") else f"linked {path}: {exit}"
    return Exit("shutdown" if exit.kind == "shutdown" else "error", detail)


def link(cell: Cell, target: Cell) -> None:
    """Link the present incarnations of two cells. Idempotent; a link with itself is nothing."""
    life = cell.life
    if life is None:
        raise ActorStopped(cell.path, cell.exit)
    if target is cell:
        return
    if target.life is None:
        cell.kernel.links.gone(cell, life, target)
        return
    kit_of(life).links[target] = None
    kit_of(target.life).links[cell] = None


def unlink(cell: Cell, target: Cell) -> None:
    """Take a link back; afterwards no signal over it arrives, also none that was on its way."""
    for one, other in ((cell, target), (target, cell)):
        if one.life is not None and one.life.kit is not None:
            one.life.kit.links.pop(other, None)
    if cell.mailbox is not None:
        cell.mailbox.withdraw_control(
            lambda waiting: isinstance(waiting, Notice) and waiting.about is target and type(waiting.message) is Exited
        )
