"""Budgets: what a run or an actor may spend, and the accounts that keep it to that.

A `Budget` is what people write; `pool` makes of it the limits of one owner in one scope. `Accounts` keeps all
pools of a node. Every call reserves, before it starts, a cap that it cannot exceed, in every pool it is charged
to, or in none; afterwards the reservation is settled for what was really spent. So, always, in every pool:

    spent + reserved <= limit

A provider that reports more than the cap breaks no invariant: the cap is spent, the excess is booked apart as
`over`, and the pool is closed. Amounts are whole numbers; `usd` counts micro-dollars. Nothing here waits or
reads a clock: `seconds` is handed on for the driver, who makes a deadline of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final, Literal, get_args

from msgspec import Struct

from understudy.actors.agents.guards import Breach, Busy, Denied, Pool, Unit
from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.checks import check_count, check_kind, check_number

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
_KNOWN: Final = frozenset[str](UNITS)
MICRO: Final = 1_000_000
"""Micro-dollars in a dollar."""


class Window(Struct, frozen=True):
    """A budget per any `seconds` seconds. Named, not supported yet: refused at start."""

    seconds: float

    def __post_init__(self) -> None:
        check_number("Window.seconds", self.seconds, above=True, unit="seconds")


class Budget(Struct, frozen=True, kw_only=True):
    """The most that may be spent; None (the default of each) is unlimited, 0 is nothing at all.

    `steps`, `model_calls`, `tool_calls` and `tokens` (input plus output) are counts, `usd` is dollars, `seconds`
    limits the time alive (waiting for a person does not count). `per="run"` (default) counts each request from
    outside on its own, `"life"` everything since the owner was first started. Raises `SpecError`.
    """

    steps: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    per: Literal["run", "life"] | Window = "run"

    def __post_init__(self) -> None:
        for unit in ("steps", "tokens", "model_calls", "tool_calls"):
            if (count := getattr(self, unit)) is not None:
                check_count(f"Budget.{unit}", count)
        if self.usd is not None:
            check_number("Budget.usd", self.usd, unit="dollars")
        if self.seconds is not None:
            check_number("Budget.seconds", self.seconds, unit="seconds")
        if self.per not in ("run", "life"):
            check_kind("Budget.per", self.per, Window, "'run', 'life' or Window(seconds)")

    def limits(self) -> dict[str, int]:
        """The limits by unit; unlimited units are missing. `usd` in micro-dollars, rounded down."""
        limits: dict[str, int | None] = {unit: getattr(self, unit) for unit in UNITS if unit != "usd"}
        if self.usd is not None:
            # Through the shortest decimal: 0.57 * 1e6 is 569999.9999999999 as a float.
            limits["usd"] = int(Decimal(repr(self.usd)) * MICRO)
        return {unit: limit for unit, limit in limits.items() if limit is not None}

    def pool(self, owner: str, run: str) -> Pool:
        """The pool of `owner`: `"owner@run"`, or `"owner"` when it counts per life. Raises `SpecError` for a window."""
        check_supported(self)
        key = f"{owner}@{run}" if self.per == "run" else owner
        return Pool(key=key, owner=owner, limits=self.limits(), seconds=self.seconds)


def check_supported(budget: Budget) -> None:
    """Raise `SpecError` unless the budget's scope is supported today. Called at start."""
    if isinstance(budget.per, Window):
        raise SpecError(f"Budget.per {budget.per!r} is not supported yet; allowed: 'run', 'life'")


def within(spent: Mapping[str, int], budget: Budget) -> bool:
    """Whether `spent` (by unit, `usd` in micro-dollars) is no more than `budget` allows. Looks at no seconds."""
    return all(spent.get(unit, 0) <= limit for unit, limit in budget.limits().items())


class Statement(Struct, frozen=True):
    """One pool as it stands, by unit. `over` is what was billed beyond caps; a `closed` pool admits nothing more."""

    key: str
    owner: str
    limits: Mapping[str, int]
    spent: Mapping[str, int]
    reserved: Mapping[str, int]
    over: Mapping[str, int]
    seconds: float | None
    closed: bool


class _Account:
    """One pool's books. `closed` names the unit that was breached."""

    __slots__ = ("closed", "limits", "over", "pool", "reserved", "spent")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.limits: dict[str, int] = dict(pool.limits)
        self.spent: dict[str, int] = dict.fromkeys(UNITS, 0)
        self.reserved: dict[str, int] = dict.fromkeys(UNITS, 0)
        self.over: dict[str, int] = {}
        self.closed: str | None = None

    def denied(self, unit: str, wanted: int) -> Denied:
        closed = self.closed is not None
        return Denied(self.pool.key, unit, self.limits[unit], self.spent[unit], self.reserved[unit], wanted, closed)

    def refuse(self, amounts: Mapping[str, int]) -> Denied | Busy | None:
        """Why `amounts` cannot be taken now; a Denied in one unit outweighs a Busy in another."""
        if self.closed is not None:
            return self.denied(self.closed, amounts.get(self.closed, 0))
        busy: Busy | None = None
        limits, spent, reserved = self.limits, self.spent, self.reserved
        for unit, wanted in amounts.items():
            limit = limits.get(unit)
            if limit is None or spent[unit] + reserved[unit] + wanted <= limit:
                continue
            if spent[unit] + wanted > limit:
                return self.denied(unit, wanted)
            busy = busy or Busy(self.pool.key, unit)
        return busy

    def spend(self, amounts: Mapping[str, int], rooms: Mapping[str, int]) -> list[Breach]:
        """Book `amounts`; what exceeds the room of a limited unit is booked as `over` and closes the pool."""
        limits, spent = self.limits, self.spent
        breaches: list[Breach] = []
        for unit, amount in amounts.items():
            if unit not in limits or amount <= rooms.get(unit, 0):
                spent[unit] += amount
            else:
                breaches.append(self._breach(unit, amount, rooms.get(unit, 0)))
        return breaches

    def _breach(self, unit: str, amount: int, room: int) -> Breach:
        self.spent[unit] += room
        self.over[unit] = self.over.get(unit, 0) + amount - room
        self.closed = self.closed or unit
        return Breach(self.pool.key, unit, amount - room)

    def room(self) -> dict[str, int]:
        """What is left of the limited units, closed or not."""
        return {unit: limit - self.spent[unit] - self.reserved[unit] for unit, limit in self.limits.items()}


class Accounts:
    """The ledger of one node: `understudy.actors.agents.guards.Ledger`. Not thread-safe; nothing in it waits.

    Every operation checks first and changes afterwards: one that raises or refuses changed nothing. Raises
    `UsageError` for an unknown pool, unit or ticket and for a negative amount.
    """

    __slots__ = ("_accounts", "_tickets")

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._tickets: dict[str, tuple[tuple[_Account, ...], Mapping[str, int]]] = {}

    def declare(self, pool: Pool) -> None:
        """Make the pool known. The same limits again do nothing; others raise `UsageError`. Checks the limits."""
        known = self._accounts.get(pool.key)
        if known is not None:
            if known.pool != pool:
                raise UsageError(f"pool {pool.key!r} is declared already with other limits: {known.pool!r}")
            return
        for unit, limit in pool.limits.items():
            if unit not in UNITS:
                raise SpecError(f"pool {pool.key!r}: unknown unit {unit!r}; allowed: {', '.join(UNITS)}")
            check_count(f"pool {pool.key!r}: {unit}", limit)
        self._accounts[pool.key] = _Account(pool)

    def reserve(self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int]) -> Denied | Busy | None:
        """Take `amounts` from all `pools` or from none; None means granted, under the new name `ticket`.

        A pool named twice is charged once. `Busy`: it fits once what is in flight settles for nothing; `Denied`:
        it never will. The first pool that denies is named, and only when none does the first that is busy.
        """
        accounts = self._find(pools)
        _check(amounts)
        if ticket in self._tickets:
            raise UsageError(f"ticket {ticket!r} holds a reservation already")
        refusals = [refusal for account in accounts if (refusal := account.refuse(amounts)) is not None]
        if refusals:
            return next((refusal for refusal in refusals if isinstance(refusal, Denied)), refusals[0])
        for account in accounts:
            reserved = account.reserved
            for unit, amount in amounts.items():
                reserved[unit] += amount
        self._tickets[ticket] = (accounts, dict(amounts))  # a copy: the caller may go on with its own
        return None

    def settle(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        """Replace the reservation by what was `spent` (missing units: 0), exactly once a ticket.

        More than was reserved of a limited unit: the reservation is spent, the rest is `over`, the pool closes.
        """
        _check(spent)
        if ticket not in self._tickets:
            raise UsageError(f"ticket {ticket!r} holds no reservation: never reserved, or settled already")
        accounts, caps = self._tickets.pop(ticket)
        breaches: list[Breach] = []
        for account in accounts:
            reserved = account.reserved
            for unit, cap in caps.items():
                reserved[unit] -= cap
            breaches += account.spend(spent, caps)
        return tuple(breaches)

    def left(self, pools: Sequence[str]) -> dict[str, int]:
        """The least that is left in any of `pools`, by unit; unlimited units are missing, a closed pool has 0."""
        least: dict[str, int] = {}
        for account in self._find(pools):
            for unit, room in account.room().items():
                least[unit] = 0 if account.closed else min(room, least.get(unit, room))
        return least

    def book(self, pools: Sequence[str], spent: Mapping[str, int]) -> tuple[Breach, ...]:
        """Book earlier spend without a reservation: on resume, or when a part of the run was settled elsewhere.

        It is never refused. What does not fit beside the spent and the reserved is `over` and closes the pool.
        """
        accounts = self._find(pools)
        _check(spent)
        breaches: list[Breach] = []
        for account in accounts:
            breaches += account.spend(spent, account.room())
        return tuple(breaches)

    def close(self, key: str, unit: str, over: int) -> None:
        """Enter a breach of an earlier process, `over` of `unit` beyond a cap: nothing more is admitted."""
        (account,) = self._find((key,))
        _check({unit: over})
        account.over[unit] = account.over.get(unit, 0) + over
        account.closed = account.closed or unit

    def statement(self, key: str) -> Statement:
        """The pool as it stands, units that were never used left out."""
        (account,) = self._find((key,))
        return Statement(
            key=key,
            owner=account.pool.owner,
            limits=dict(account.limits),
            spent=_used(account.spent),
            reserved=_used(account.reserved),
            over=_used(account.over),
            seconds=account.pool.seconds,
            closed=account.closed is not None,
        )

    def forget(self, key: str) -> Statement:
        """Drop a pool whose run has ended; returns its last statement. Raises `UsageError` while it is in use."""
        last = self.statement(key)
        if any(account.pool.key == key for accounts, _ in self._tickets.values() for account in accounts):
            raise UsageError(f"pool {key!r} still has reservations: {last.reserved!r}")
        del self._accounts[key]
        return last

    def _find(self, pools: Sequence[str]) -> tuple[_Account, ...]:
        known = self._accounts
        try:
            return tuple([known[key] for key in (dict.fromkeys(pools) if len(pools) > 1 else pools)])
        except KeyError as missing:
            raise UsageError(f"pool {missing.args[0]!r} was never declared") from None


def _check(amounts: Mapping[str, int]) -> None:
    for unit, amount in amounts.items():
        if unit not in _KNOWN:
            raise UsageError(f"unknown unit {unit!r}; allowed: {', '.join(UNITS)}")
        if amount < 0:
            raise UsageError(f"{unit} must be >= 0, got {amount!r}")


def _used(amounts: Mapping[str, int]) -> dict[str, int]:
    return {unit: amount for unit, amount in amounts.items() if amount}
