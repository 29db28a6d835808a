"""Who gets the next message: pools of like children, and routes by the type of a message.

Which member was chosen is an outcome, journalled with the work it gets; the choice itself is here.

A pool's members are those of its paths that have not stopped (one that did is taken off, one that came back is taken
in). One that runs is preferred to one that is to be restarted, except by `consistent_hash`: there a key waits for its
own member, so that its order is kept. Without any member a message is a dead letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from understudy.actors.cell import Cell
from understudy.actors.clock import Dice, system_dice
from understudy.actors.delivery import current_life, path_of
from understudy.actors.errors import ActorStopped, NotHandled, UsageError
from understudy.actors.lifecycle import GONE
from understudy.actors.messages import Asks
from understudy.actors.refs import SEND_SECONDS, Ref, Refused, T
from understudy.actors.telemetry import DeadLetter, LetterReason
from understudy.supervisors.hashing import Ring
from understudy.supervisors.specs import By, Spread

Load = Callable[[Cell], int]
"""How busy a member is; messages waiting and running are added to it."""

_ABLE: Final = frozenset({"running", "starting", "new"})
_LATER: Final = frozenset({"failed", "suspended"})
"""States of a member that keeps what it is sent until it goes on."""


class Pool:
    """Members behind one name.

    `find` gives those there are; with `size`, the number there should be, it is asked only when some are missing.
    `load` adds what the mailbox does not show (runs an agent has). `by`: see `Route`, for each message type; messages
    of a type without one take turns. `dice` is for `random`.
    """

    def __init__(
        self,
        name: str,
        find: Callable[[], Sequence[Cell]],
        spread: Spread,
        load: Load | None = None,
        *,
        size: int | None = None,
        by: Mapping[type, By] | None = None,
        dice: Dice | None = None,
    ) -> None:
        self.name = name
        self.spread: Spread = spread
        self._find = find
        self._size = size
        self._load = load
        self._by = dict(by or {})
        self._dice = dice or system_dice()
        self._last = -1
        self._known: list[Cell] = []
        self._ring: Ring | None = None
        self._ringed: dict[str, Cell] = {}

    def pick(self, message: object = None) -> Cell:
        """The member that is next for `message`. Raises `ActorStopped` when there is none at all."""
        if len(self._known) != self._size:
            self._look()
        chosen = self._choose(message)
        if chosen is None or chosen.state in ("stopping", "stopped"):
            self._look()
            chosen = self._choose(message)
        if chosen is None:
            ending = self._find()
            if not ending:
                raise ActorStopped(self.name, GONE)
            chosen = ending[0]
        return chosen

    def members(self) -> tuple[Cell, ...]:
        """All that have not stopped, in the order of their names' numbers."""
        self._look()
        return tuple(self._known)

    def _look(self) -> None:
        known = [cell for cell in self._find() if cell.state not in ("stopping", "stopped")]
        if known != self._known:
            self._known, self._ring = known, None

    def _choose(self, message: object) -> Cell | None:
        if not self._known:
            return None
        key = self._key(message) if self.spread == "consistent_hash" else None
        if key is not None:
            return self._owner(key)
        if self.spread == "least_busy":
            return self._least_busy()
        if self.spread == "random":
            return self._any()
        return self._next()

    def _next(self) -> Cell:
        """The next in turn that runs, else the next that will."""
        known, count = self._known, len(self._known)
        later = -1
        for step in range(1, count + 1):
            place = (self._last + step) % count
            state = known[place].state
            if state in _ABLE:
                self._last = place
                return known[place]
            if later < 0 and state in _LATER:
                later = place
        self._last = later if later >= 0 else (self._last + 1) % count
        return known[self._last]

    def _least_busy(self) -> Cell:
        """Equals take turns."""
        known = self._known
        able = [n for n, cell in enumerate(known) if cell.state in _ABLE] or list(range(len(known)))
        busy = {n: self._busy(known[n]) for n in able}
        least = min(busy.values())
        able = [n for n in able if busy[n] == least]
        self._last = min(able, key=lambda n: (n - self._last - 1) % len(known))
        return known[self._last]

    def _any(self) -> Cell:
        cell = self._known[int(self._dice.random() * len(self._known))]
        if cell.state in _ABLE:
            return cell
        able = [cell for cell in self._known if cell.state in _ABLE] or self._known
        return able[int(self._dice.random() * len(able))]

    def _key(self, message: object) -> bytes | None:
        by = self._by.get(type(message))
        if by is None:
            return None
        try:
            return msgspec.msgpack.encode(getattr(message, by) if isinstance(by, str) else by(message))
        except Exception as error:
            raise UsageError(f"{self.name}: no key of {type(message).__name__} by {by!r}: {error}") from error

    def _owner(self, key: bytes) -> Cell | None:
        if self._ring is None:
            self._ringed = {cell.path: cell for cell in self._known}
            self._ring = Ring(self._ringed)
        name = self._ring.pick(key)
        return None if name is None else self._ringed[name]

    def _busy(self, cell: Cell) -> int:
        return cell.waiting + cell.running + (self._load(cell) if self._load is not None else 0)


class PoolRef(Ref[Any]):
    """The address of a pool: each message goes to the member that is next."""

    __slots__ = ("_pool",)

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.pick())
        self._pool = pool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PoolRef) and type(other) is type(self) and other._pool is self._pool

    def __hash__(self) -> int:
        return hash(id(self._pool))

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
            cell = self._pool.pick(message)
        except ActorStopped:
            return _refused(self._cell, self.path, "dead", message)
        return Ref(cell).tell(message)

    def kinds(self) -> tuple[type, ...] | None:
        """What a member takes."""
        return Ref[Any](self._pool.pick()).kinds()

    async def send(
        self, message: Any, *, timeout: float = SEND_SECONDS, reliable: bool = False
    ) -> Literal[True] | Refused:
        """Deliver to the next member, waiting for room; `dead` without any."""
        try:
            cell = self._pool.pick(message)
        except ActorStopped:
            return _refused(self._cell, self.path, "dead", message)
        return await Ref[Any](cell).send(message, timeout=timeout, reliable=reliable)

    def post_to(self, message: Any) -> Cell:
        """The next member; without any, one that has stopped."""
        try:
            return self._pool.pick(message)
        except ActorStopped:
            return self._cell

    async def ask(
        self,
        message: Asks[Any, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """Ask the next member; see `Ref.ask`. Raises `ActorStopped` without any."""
        ref = Ref[Any](self._pool.pick(message))
        reply: T = await ref.ask(message, timeout=timeout, cancel=cancel, on_restart=on_restart, wait=wait)
        return reply

    def _deliver(self, message: Any, sender: Cell | None) -> None:
        self.tell(message)


class BroadcastRef(PoolRef):
    """The address of a pool whose every member gets each message."""

    __slots__ = ()

    def tell(self, message: Any) -> Literal[True] | Refused:
        """Deliver to every member; True when all took it, else the first refusal. `dead` without any."""
        members = self._pool.members()
        if not members:
            return _refused(self._cell, self.path, "dead", message)
        return _all([Ref[Any](cell).tell(message) for cell in members])

    async def send(
        self, message: Any, *, timeout: float = SEND_SECONDS, reliable: bool = False
    ) -> Literal[True] | Refused:
        """Deliver to every member, waiting for room in all at once; see `tell`."""
        members = self._pool.members()
        if not members:
            return _refused(self._cell, self.path, "dead", message)
        sending = (Ref[Any](cell).send(message, timeout=timeout, reliable=reliable) for cell in members)
        return _all(await asyncio.gather(*sending))

    def post_to(self, message: Any) -> Cell:
        """Raises `UsageError`: a durable message has one receiver."""
        raise UsageError(f"{self.path}: post to a broadcast; post to its members ({self.path}/1 …)")

    async def ask(
        self,
        message: Asks[Any, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
    ) -> T:
        """Raises `UsageError`: a request has one reply, and here would be as many as members."""
        raise UsageError(f"{self.path}: ask of a broadcast; ask its members ({self.path}/1 …), or tell")


def _all(results: Sequence[Literal[True] | Refused]) -> Literal[True] | Refused:
    for result in results:
        if not result:
            return result
    return True


def pool_ref(pool: Pool) -> PoolRef:
    """The address of a pool, by its spread."""
    return BroadcastRef(pool) if pool.spread == "broadcast" else PoolRef(pool)


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

    def kinds(self) -> tuple[type, ...]:
        """What there are routes for."""
        return tuple(self._refs)

    async def send(
        self, message: Any, *, timeout: float = SEND_SECONDS, reliable: bool = False
    ) -> Literal[True] | Refused:
        """Deliver by route as soon as there is room."""
        ref = self._refs.get(type(message))
        if ref is None:
            return _refused(self._cell, self.path, "unknown", message)
        return await ref.send(message, timeout=timeout, reliable=reliable)

    async def post(self, message: Any, *, timeout: float = SEND_SECONDS) -> Literal[True] | Refused:
        """Send a durable message by route; see `Ref.post`."""
        ref = self._refs.get(type(message))
        if ref is None:
            return _refused(self._cell, self.path, "unknown", message)
        return await ref.post(message, timeout=timeout)

    def post_to(self, message: Any) -> Cell:
        """The cell that the route leads to."""
        ref = self._refs.get(type(message))
        return self._cell if ref is None else ref.post_to(message)

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
