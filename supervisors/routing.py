"""Who gets the next message: pools of like children, and routes by the type of a message.

Which member was chosen is an outcome, journalled with the work it gets; the choice itself is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from understudy.actors.cell import Cell, current_life, path_of
from understudy.actors.errors import ActorStopped, NotHandled
from understudy.actors.lifecycle import GONE
from understudy.actors.messages import Asks
from understudy.actors.refs import SEND_SECONDS, Ref, Refused, T
from understudy.actors.telemetry import DeadLetter, LetterReason
from understudy.supervisors.specs import Spread

Load = Callable[[Cell], int]
"""How busy a member is; messages waiting and running are added to it."""


class Pool:
    """Members behind one name. `load` adds what the mailbox does not show (runs an agent has)."""

    def __init__(self, name: str, find: Callable[[], Sequence[Cell]], spread: Spread, load: Load | None = None) -> None:
        self.name = name
        self.spread: Spread = spread
        self._find = find
        self._load = load
        self._last = -1

    def pick(self) -> Cell:
        """The member that is next: one that runs, if any does, else one that will be restarted.

        Equals take turns. Raises `ActorStopped` when there is none at all.
        """
        members = self._find()
        if not members:
            raise ActorStopped(self.name, GONE)
        able = [n for n, cell in enumerate(members) if cell.state in ("running", "starting", "new")]
        able = able or [n for n, cell in enumerate(members) if cell.state == "failed"] or list(range(len(members)))
        if self.spread == "least_busy":
            busy = {n: self._busy(members[n]) for n in able}
            able = [n for n in able if busy[n] == min(busy.values())]
        self._last = min(able, key=lambda n: (n - self._last - 1) % len(members))
        return members[self._last]

    def _busy(self, cell: Cell) -> int:
        return cell.waiting + cell.running + (self._load(cell) if self._load is not None else 0)


class PoolRef(Ref[Any]):
    """The address of a pool: each message goes to the member that is next."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.pick())
        self._pool = pool

    @property
    def path(self) -> str:
        """The pool's name."""
        return self._pool.name

    def cell(self) -> Cell:
        """The next member. Raises `ActorStopped` when there is none."""
        return self._pool.pick()

    def tell(self, message: Any) -> Literal[True] | Refused:
        """Deliver to the next member; `dead` without any."""
        try:
            return Ref[Any](self.cell()).tell(message)
        except ActorStopped:
            return _refused(self._cell, self.path, "dead", message)

    async def send(self, message: Any, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Deliver to the next member, waiting for room; `dead` without any."""
        try:
            return await Ref[Any](self.cell()).send(message, timeout=timeout)
        except ActorStopped:
            return _refused(self._cell, self.path, "dead", message)

    async def ask(
        self,
        message: Asks[Any, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """Ask the next member. Raises `ActorStopped` when there is none."""
        member = Ref[Any](self.cell())
        reply: T = await member.ask(message, timeout=timeout, cancel=cancel, on_restart=on_restart, wait=wait)
        return reply

    def _deliver(self, message: Any, sender: Cell | None) -> None:
        self.tell(message)


class RouteRef(Ref[Any]):
    """The address of a supervisor: each message goes where its routes say."""

    __slots__ = ("_refs",)

    def __init__(self, cell: Cell, refs: Mapping[type, Ref[Any]]) -> None:
        super().__init__(cell)
        self._refs = refs

    def tell(self, message: Any) -> Literal[True] | Refused:
        """Deliver by route; `unknown` without one."""
        ref = self._refs.get(type(message))
        return ref.tell(message) if ref is not None else _refused(self._cell, self.path, "unknown", message)

    def _deliver(self, message: Any, sender: Cell | None) -> None:
        self.tell(message)

    async def send(self, message: Any, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Deliver by route as soon as there is room."""
        ref = self._refs.get(type(message))
        if ref is None:
            return _refused(self._cell, self.path, "unknown", message)
        return await ref.send(message, timeout=timeout)

    async def ask(
        self,
        message: Asks[Any, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """Ask by route. Raises `NotHandled` without one."""
        ref = self._refs.get(type(message))
        if ref is None:
            raise NotHandled(self.path, type(message), tuple(sorted(t.__name__ for t in self._refs)))
        reply: T = await ref.ask(message, timeout=timeout, cancel=cancel, on_restart=on_restart, wait=wait)
        return reply


def _refused(cell: Cell, path: str, reason: Literal["dead", "unknown"], message: object) -> Refused:
    life = current_life()
    sender = path_of(None if life is None else life.cell)
    lost: LetterReason = "stopped" if reason == "dead" else "unknown"
    cell.kernel.telemetry.dead(DeadLetter(path, sender, lost, message))
    return Refused(reason, path)
