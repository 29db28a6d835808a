"""Accounts: the books of every pool of a node, kept so that nobody spends more than a budget allows.

Every call reserves, before it starts, a cap that it cannot exceed, in every pool it is charged to, or in none;
afterwards the reservation is settled for what was really spent. So, always, in every pool:

    spent + reserved <= limit

A provider that reports more than the cap breaks no invariant: the cap is spent, the excess is booked apart as `over`,
and the pool is closed. A pool keeps books of the units that it limits, and of no others.

What was spent in a pool with a window counts from its settlement for the length of the window, and up to a sixtieth
longer: it is kept in `SLICES` slices of time, so the memory of a window is bounded whatever is spent in it. A pool
with a window that was closed by a breach opens again when that has left the window. Times are handed in, in seconds of
the wall clock; where that goes back, time stands still.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, inf
from typing import Final

from msgspec import Struct

from understudy.actors.agents.guards import TOOL, Breach, Busy, Denied, Low, Pool
from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.checks import check_count
from understudy.supervisors.guards.budgets import UNITS

SLICES: Final = 60
"""Slices that a window is kept in."""
_KNOWN: Final = frozenset[str](UNITS)
_EACH_STEP: Final = frozenset({"steps", "model_calls"})


class Statement(Struct, frozen=True):
    """One pool as it stands, by limited unit. `over` is what was billed beyond caps; a `closed` pool admits nothing.

    `kept` is the part of `reserved` that is set aside for last answers.
    """

    key: str
    owner: str
    limits: Mapping[str, int]
    spent: Mapping[str, int]
    reserved: Mapping[str, int]
    over: Mapping[str, int]
    seconds: float | None
    closed: bool
    kept: Mapping[str, int] = {}


class _Cell:
    """One limited unit of one pool. `room` is what is left, `kept` the part of what is reserved that is set aside."""

    __slots__ = ("kept", "limit", "room", "spent")

    def __init__(self, limit: int) -> None:
        self.limit = self.room = limit
        self.spent = self.kept = 0

    @property
    def reserved(self) -> int:
        return self.limit - self.spent - self.room


class _Account:
    """One pool's books. `closed` names the unit that was breached, `chains` are those that it is part of."""

    __slots__ = ("cells", "chains", "closed", "key", "over", "pool", "soft", "window")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.key = pool.key
        self.cells = {unit: _Cell(limit) for unit, limit in pool.limits.items()}
        self.chains: set[tuple[str, ...]] = set()
        self.over: dict[str, int] = {}
        self.closed: str | None = None
        self.soft = _soft(pool, self.cells)
        self.window = _Slices(pool.window) if pool.window is not None else None

    def denied(self, unit: str, wanted: int) -> Denied:
        cell = self.cells[unit]
        return Denied(self.key, unit, cell.limit, cell.spent, cell.reserved, wanted, self.closed is not None)

    def refuse(self, amounts: Mapping[str, int]) -> Denied | Busy | None:
        """Why `amounts` cannot be taken now; a Denied in one unit outweighs a Busy in another."""
        if self.closed is not None:
            return self.denied(self.closed, amounts.get(self.closed, 0))
        busy: Busy | None = None
        for unit, wanted in amounts.items():
            cell = self.cells.get(unit)
            if cell is None or wanted <= cell.room:
                continue
            short = cell.spent + cell.kept + wanted - cell.limit
            if short <= 0:
                busy = busy or Busy(self.key, unit)
            elif self.window is None or not self.pool.waits or short > cell.spent:
                return self.denied(unit, wanted)
            else:
                busy = _later(busy, Busy(self.key, unit, self.window.leaves(unit, short)))
        return busy

    def book(self, amounts: Mapping[str, int], at: float) -> Iterator[Breach]:
        """Enter what was spent at a time; what exceeds the room is `over` and closes."""
        number = self.window.number(at) if self.window is not None else 0
        if number is None:
            return
        for unit, cell in self.cells.items():
            amount = amounts.get(unit, 0)
            if amount > cell.room:
                yield self.breach(unit, amount - cell.room)
                amount = cell.room
            cell.spent += amount
            cell.room -= amount
            if self.window is not None:
                self.window.add(unit, amount, number)

    def correct(self, booked: Mapping[str, int], spent: Mapping[str, int], at: float) -> Iterator[Breach]:
        """Return what an estimate was too high by; what it was too low by is `over` and closes."""
        for unit, cell in self.cells.items():
            back = booked.get(unit, 0) - spent.get(unit, 0)
            if back < 0:
                yield self.breach(unit, -back)
                continue
            if self.window is not None:
                back = self.window.take_back(unit, back, at)
            cell.spent -= back
            cell.room += back

    def breach(self, unit: str, over: int) -> Breach:
        self.over[unit] = self.over.get(unit, 0) + over
        self.closed = self.closed or unit
        if self.window is not None:
            self.window.breached = self.window.latest
        return Breach(self.key, unit, over)

    def roll(self, now: float) -> None:
        """Let what has left the window leave the books."""
        window = self.window
        if window is None or not window.moved(now):
            return
        for left in window.leave():
            for unit, amount in left.items():
                self.cells[unit].spent -= amount
                self.cells[unit].room += amount
        if self.closed is not None and window.breached < window.latest - SLICES:
            self.closed, self.over = None, {}


def _later(one: Busy | None, other: Busy) -> Busy:
    """Of two that are busy the one that takes longer, as far as that is known."""
    if one is None or one.after == inf:
        return other if one is None or other.after < inf else one
    return other if one.after < other.after < inf else one


class _Chain:
    """Pools that are charged together: their accounts, and by unit the cells that limit it."""

    __slots__ = ("accounts", "cells", "windows")

    def __init__(self, accounts: tuple[_Account, ...]) -> None:
        self.accounts = accounts
        self.windows = tuple(account for account in accounts if account.window is not None)
        units = dict.fromkeys(unit for account in accounts for unit in account.cells)
        self.cells = tuple(
            (unit, tuple(account.cells[unit] for account in accounts if unit in account.cells)) for unit in units
        )

    def roll(self, now: float) -> None:
        for account in self.windows:
            account.roll(now)


class _Slices:
    """What was spent in a window, by slice of time: at most `SLICES` + 1 of them."""

    __slots__ = ("breached", "latest", "slices", "width")

    def __init__(self, seconds: float) -> None:
        self.width = seconds / SLICES
        self.slices: dict[int, dict[str, int]] = {}
        self.latest = 0
        self.breached = 0

    def moved(self, now: float) -> bool:
        number = int(now // self.width)
        if number <= self.latest:
            return False
        self.latest = number
        return True

    def leave(self) -> Iterator[dict[str, int]]:
        for number in [number for number in self.slices if number < self.latest - SLICES]:
            yield self.slices.pop(number)

    def number(self, at: float) -> int | None:
        """The slice of a time; None when that has left the window."""
        number = min(int(at // self.width), self.latest)
        return number if number >= self.latest - SLICES else None

    def add(self, unit: str, amount: int, number: int) -> None:
        amounts = self.slices.setdefault(number, {})
        amounts[unit] = amounts.get(unit, 0) + amount

    def take_back(self, unit: str, amount: int, at: float) -> int:
        """Take an amount from the slice of a time and those beside it; how much of it was still in the window."""
        number, left = int(at // self.width), amount
        for near in (number, number + 1, number - 1):
            amounts = self.slices.get(near, {})
            taken = min(left, amounts.get(unit, 0))
            if taken:
                amounts[unit] -= taken
                left -= taken
        return amount - left

    def leaves(self, unit: str, short: int) -> float:
        """Seconds from the beginning of the present slice until at least `short` of a unit has left."""
        for number in sorted(self.slices):
            short -= self.slices[number].get(unit, 0)
            if short <= 0:
                return (number + SLICES + 1 - self.latest) * self.width
        return inf


def _soft(pool: Pool, cells: Mapping[str, _Cell]) -> tuple[tuple[_Cell, int, str], ...]:
    """From how much on an agent is told. Of what each step needs, one is left then."""
    if pool.warn is None:
        return ()
    most = {unit: cell.limit - (unit in _EACH_STEP) for unit, cell in cells.items()}
    return tuple(
        (cells[unit], min(ceil(cells[unit].limit * pool.warn), each), unit) for unit, each in most.items() if each > 0
    )


class Accounts:
    """The ledger of one node: `understudy.actors.agents.guards.Ledger`. Not thread-safe; nothing in it waits.

    Every operation checks first and changes afterwards: one that raises or refuses changed nothing. Raises
    `UsageError` for an unknown pool, unit or ticket and for a negative amount.
    """

    __slots__ = ("_accounts", "_chains", "_tickets")

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        self._chains: dict[tuple[str, ...], _Chain] = {}  # as long as their pools are known
        self._tickets: dict[str, tuple[_Chain, Mapping[str, int], bool]] = {}

    def declare(self, pool: Pool) -> None:
        """Make the pool known. The same limits again do nothing; others raise `UsageError`. Checks the limits."""
        known = self._accounts.get(pool.key)
        if known is not None:
            if known.pool != pool:
                raise UsageError(f"pool {pool.key!r} is declared already with other limits: {known.pool!r}")
            return
        for unit, limit in pool.limits.items():
            if unit not in _KNOWN and not unit.startswith(TOOL):
                allowed = f"{', '.join(UNITS)}, {TOOL}NAME"
                raise SpecError(f"pool {pool.key!r}: unknown unit {unit!r}; allowed: {allowed}")
            check_count(f"pool {pool.key!r}: {unit}", limit)
        self._accounts[pool.key] = _Account(pool)

    def reserve(
        self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], *, now: float = 0.0, keep: bool = False
    ) -> Denied | Busy | None:
        """Take `amounts` from all `pools` or from none; None means granted, under the new name `ticket`.

        A pool named twice is charged once. `Busy`: it fits once what is in flight settles for nothing, or once enough
        has left a window that lets calls wait; `Denied`: it never will. The first pool that denies is named, and only
        when none does the first that is busy. `keep`: what is taken may be held for long, as for a last answer; it
        counts as reserved, but nobody waits for it.
        """
        chain = self._find(pools)
        _check(amounts)
        if ticket in self._tickets:
            raise UsageError(f"ticket {ticket!r} holds a reservation already")
        if chain.windows:
            chain.roll(now)
        get = amounts.get
        for unit, cells in chain.cells:
            if amount := get(unit):
                for cell in cells:
                    if cell.room < amount:
                        return _refusal(chain.accounts, amounts)
        for account in chain.accounts:
            if account.closed is not None:
                return _refusal(chain.accounts, amounts)
        for unit, cells in chain.cells:
            if amount := get(unit):
                for cell in cells:
                    cell.room -= amount
                    if keep:
                        cell.kept += amount
        self._tickets[ticket] = (chain, dict(amounts), keep)  # a copy: the caller may go on with its own
        return None

    def settle(self, ticket: str, spent: Mapping[str, int], *, now: float = 0.0) -> tuple[Breach, ...]:
        """Replace the reservation by what was `spent` (missing units: 0), exactly once a ticket.

        More than was reserved of a limited unit: the reservation is spent, the rest is `over`, the pool closes.
        """
        _check(spent)
        taken = self._tickets.pop(ticket, None)
        if taken is None:
            raise UsageError(f"ticket {ticket!r} holds no reservation: never reserved, or settled already")
        chain, caps, kept = taken
        if chain.windows:
            chain.roll(now)
        cap_of, spent_of = caps.get, spent.get
        over: dict[str, int] = {}
        for unit, cells in chain.cells:
            cap, amount = cap_of(unit, 0), spent_of(unit, 0)
            if amount > cap:
                over[unit] = amount - cap
                amount = cap
            if cap:
                back = cap - amount
                for cell in cells:
                    cell.room += back
                    cell.spent += amount
                    if kept:
                        cell.kept -= cap
        if chain.windows:
            _enter(chain.windows, caps, spent)
        if not over:
            return ()
        return tuple(each.breach(unit, over[unit]) for each in chain.accounts for unit in each.cells if unit in over)

    def left(self, pools: Sequence[str], *, now: float = 0.0) -> dict[str, int]:
        """The least that is left in any of `pools`, by unit; unlimited units are missing, a closed pool has 0."""
        chain = self._find(pools)
        chain.roll(now)
        least: dict[str, int] = {}
        for account in chain.accounts:
            for unit, cell in account.cells.items():
                least[unit] = 0 if account.closed else min(cell.room, least.get(unit, cell.room))
        return least

    def low(self, pools: Sequence[str], *, now: float = 0.0) -> list[Low]:
        """The limits of `pools` of which so much is spent that agents are told (`Pool.warn`), closed pools left out."""
        chain = self._find(pools)
        if chain.windows:
            chain.roll(now)
        found: list[Low] = []
        for account in chain.accounts:
            for cell, soft, unit in account.soft:
                if cell.spent >= soft and account.closed is None:
                    found.append(Low(account.key, unit, cell.limit, cell.spent))
        return found

    def book(
        self, pools: Sequence[str], spent: Mapping[str, int], *, at: float = 0.0, now: float = 0.0
    ) -> tuple[Breach, ...]:
        """Book earlier spend without a reservation: on resume, or when a part of the run was settled elsewhere.

        It is never refused. What does not fit beside the spent and the reserved is `over` and closes the pool. `at` is
        when it was spent: what has left a window since is passed over.
        """
        chain = self._find(pools)
        _check(spent)
        chain.roll(now or at)
        return tuple(breach for account in chain.accounts for breach in account.book(spent, at))

    def correct(
        self, pools: Sequence[str], booked: Mapping[str, int], spent: Mapping[str, int], *, at: float = 0.0
    ) -> tuple[Breach, ...]:
        """Replace `booked`, an estimate settled or booked at the time `at`, by what was really `spent`.

        The difference is returned; more than was booked is `over` and closes the pool, as in `settle`. Raises
        `UsageError` for an estimate that is not in the books.
        """
        accounts = self._find(pools).accounts
        _check(booked)
        _check(spent)
        for account in accounts if booked else ():
            for unit, cell in account.cells.items():
                if account.window is None and booked.get(unit, 0) > cell.spent:
                    raise UsageError(f"pool {account.key!r} has no {booked[unit]} {unit} to correct")
        return tuple(breach for account in accounts for breach in account.correct(booked, spent, at))

    def close(self, key: str, unit: str, over: int, *, at: float = 0.0, now: float = 0.0) -> None:
        """Enter a breach of an earlier process, `over` of `unit` beyond a cap: nothing more is admitted.

        A unit that is not limited any more closes nothing.
        """
        account = self._account(key)
        _check({unit: over})
        account.roll(now or at)
        if unit not in account.cells:
            return  # it was limited in the earlier process
        if account.window is None:
            account.breach(unit, over)
        elif (number := account.window.number(at)) is not None:
            number = max(account.window.breached, number)
            account.breach(unit, over)
            account.window.breached = number

    def statement(self, key: str, *, now: float = 0.0) -> Statement:
        """The pool as it stands, units that were never used left out."""
        account = self._account(key)
        account.roll(now)
        return Statement(
            key=key,
            owner=account.pool.owner,
            limits=dict(account.pool.limits),
            spent={unit: cell.spent for unit, cell in account.cells.items() if cell.spent},
            reserved={unit: cell.reserved for unit, cell in account.cells.items() if cell.reserved},
            over=dict(account.over),
            seconds=account.pool.seconds,
            closed=account.closed is not None,
            kept={unit: cell.kept for unit, cell in account.cells.items() if cell.kept},
        )

    def forget(self, key: str) -> Statement:
        """Drop a pool whose run has ended; returns its last statement. Raises `UsageError` while it is in use."""
        last = self.statement(key)
        if any(account.key == key for chain, _, _ in self._tickets.values() for account in chain.accounts):
            raise UsageError(f"pool {key!r} still has reservations: {last.reserved!r}")
        for chain in list(self._accounts[key].chains):
            for account in self._chains.pop(chain).accounts:
                account.chains.discard(chain)
        del self._accounts[key]
        return last

    def _account(self, key: str) -> _Account:
        return self._find((key,)).accounts[0]

    def _find(self, pools: Sequence[str]) -> _Chain:
        if type(pools) is tuple and (chain := self._chains.get(pools)) is not None:
            return chain
        known = self._accounts
        try:
            found = _Chain(tuple([known[key] for key in dict.fromkeys(pools)]))
        except KeyError as missing:
            raise UsageError(f"pool {missing.args[0]!r} was never declared") from None
        keys = tuple(pools)
        if keys not in self._chains:
            self._chains[keys] = found
            for account in found.accounts:
                account.chains.add(keys)
        return found


def _enter(accounts: Sequence[_Account], caps: Mapping[str, int], spent: Mapping[str, int]) -> None:
    """What was settled is of the present slice of a window."""
    for account in accounts:
        window = account.window
        for unit in account.cells if window is not None else ():
            if window is not None and (amount := min(spent.get(unit, 0), caps.get(unit, 0))):
                window.add(unit, amount, window.latest)


def _refusal(accounts: Sequence[_Account], amounts: Mapping[str, int]) -> Denied | Busy:
    refusals = [refusal for account in accounts if (refusal := account.refuse(amounts)) is not None]
    denied = next((refusal for refusal in refusals if isinstance(refusal, Denied)), None)
    return denied or functools.reduce(_later, [busy for busy in refusals if isinstance(busy, Busy)])


def _check(amounts: Mapping[str, int]) -> None:
    for unit in amounts:
        if amounts[unit] < 0:
            raise UsageError(f"{unit} must be >= 0, got {amounts[unit]!r}")
    if not _KNOWN.issuperset(amounts):
        for unit in amounts:
            if unit not in _KNOWN and not unit.startswith(TOOL):
                raise UsageError(f"unknown unit {unit!r}; allowed: {', '.join(UNITS)}, {TOOL}NAME")
