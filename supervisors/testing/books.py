"""Double entry: books of our own for the pools of one process, kept from what its ledger was told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from understudy.actors.testing.evidence import LedgerOp

Amounts = Mapping[str, int]


class OwnPool(Struct):
    """One pool as we know it; `dated` has what was spent in one with a window."""

    limits: Amounts
    window: float | None = None
    spent: dict[str, int] = field(default_factory=dict[str, int])
    dated: list[tuple[float, Amounts]] = field(default_factory=list[tuple[float, Amounts]])
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    over: dict[str, int] = field(default_factory=dict[str, int])
    closed: bool = False


class Books:
    """Double entry of one process. An operation that was refused changes nothing."""

    def __init__(self) -> None:
        self.pools: dict[str, OwnPool] = {}
        self.tickets: dict[str, LedgerOp] = {}
        self.wrong: list[str] = []
        self.now = 0.0

    def take(self, op: LedgerOp) -> None:
        """Enter one operation."""
        self.now = max(self.now, op.now)
        match op.kind:
            case "declare":
                self.pools[op.pools[0]] = OwnPool(op.limits, op.window)
            case "reserve":
                if not op.answer:
                    self._reserve(op)
            case "settle":
                self._settle(op)
            case "book":
                for key in op.pools:
                    self._spend(key, op.amounts, {}, at=op.at)
            case "correct":
                for key in op.pools:
                    self._correct(self.pools[key], op)
            case "close":
                pool = self.pools[op.pools[0]]
                add(pool.over, op.amounts)
                pool.closed = True
            case _:
                self.pools.pop(op.pools[0], None)

    def _correct(self, pool: OwnPool, op: LedgerOp) -> None:
        over = {unit: amount for unit, amount in op.amounts.items() if amount > 0 and unit in pool.limits}
        add(pool.over, over)
        pool.closed = pool.closed or bool(over)
        down = {unit: amount for unit, amount in op.amounts.items() if amount < 0}
        add(pool.spent, down)
        pool.dated.append((op.at, down))

    def _reserve(self, op: LedgerOp) -> None:
        for key in dict.fromkeys(op.pools):
            pool = self.pools[key]
            if pool.closed:
                self.wrong.append(f"{op.ticket} was granted by {key}, which is closed")
            add(pool.reserved, op.amounts)
        self.tickets[op.ticket] = op

    def _settle(self, op: LedgerOp) -> None:
        taken = self.tickets.pop(op.ticket, None)
        if taken is None:
            self.wrong.append(f"{op.ticket} was settled and holds no reservation")
            return
        for key in dict.fromkeys(taken.pools):
            add(self.pools[key].reserved, {unit: -amount for unit, amount in taken.amounts.items()})
            self._spend(key, op.amounts, taken.amounts, capped=True, at=self.now)

    def _spend(self, key: str, amounts: Amounts, caps: Amounts, *, at: float, capped: bool = False) -> None:
        pool = self.pools[key]
        if pool.window is not None:
            most = {unit: min(amount, caps.get(unit, 0)) if capped else amount for unit, amount in amounts.items()}
            pool.dated.append((min(at, self.now), most))
            return
        for unit, amount in amounts.items():
            limit = pool.limits.get(unit)
            room = amount if limit is None else limit - pool.spent.get(unit, 0) - pool.reserved.get(unit, 0)
            if capped and limit is not None:
                room = caps.get(unit, 0)
            add(pool.spent, {unit: min(amount, room)})
            if amount > room:
                add(pool.over, {unit: amount - room})
                pool.closed = True


def add(to: dict[str, int], amounts: Amounts) -> None:
    """Add amounts by unit."""
    for unit, amount in amounts.items():
        to[unit] = to.get(unit, 0) + amount


def same(one: Amounts, other: Amounts, units: Iterable[str]) -> bool:
    """Whether two have the same amounts of these units."""
    return all(one.get(unit, 0) == other.get(unit, 0) for unit in units)


def within(dated: Iterable[tuple[float, Amounts]], since: float) -> dict[str, int]:
    """What was spent after a time."""
    total: dict[str, int] = {}
    for at, amounts in dated:
        if at > since:
            add(total, amounts)
    return total
