"""A ledger that takes notes: every operation, and how the pools that it names stand afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from understudy.actors.agents.guards import Breach, Busy, Denied, Pool
from understudy.actors.testing.evidence import LedgerOp, Standing
from understudy.supervisors.guards.accounts import Accounts, Statement


class WatchedAccounts(Accounts):
    """`Accounts` that tells `note` of every operation that went through."""

    __slots__ = ("_note",)

    def __init__(self, note: Callable[[LedgerOp], None]) -> None:
        super().__init__()
        self._note = note

    def declare(self, pool: Pool) -> None:
        """See `Accounts.declare`."""
        known = pool.key in self._accounts
        super().declare(pool)
        if not known:
            after = self._standings((pool.key,))
            self._note(LedgerOp("declare", (pool.key,), limits=dict(pool.limits), after=after, window=pool.window))

    def reserve(
        self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], *, now: float = 0.0, keep: bool = False
    ) -> Denied | Busy | None:
        """See `Accounts.reserve`."""
        answer = super().reserve(ticket, pools, amounts, now=now, keep=keep)
        word = "denied" if isinstance(answer, Denied) else "busy" if answer is not None else ""
        op = LedgerOp("reserve", tuple(pools), dict(amounts), ticket, word, after=self._standings(pools), now=now)
        self._note(op)
        return answer

    def settle(self, ticket: str, spent: Mapping[str, int], *, now: float = 0.0) -> tuple[Breach, ...]:
        """See `Accounts.settle`."""
        accounts = self._tickets[ticket][0].accounts if ticket in self._tickets else ()
        pools = tuple(account.key for account in accounts)
        breaches = super().settle(ticket, spent, now=now)
        self._note(LedgerOp("settle", pools, dict(spent), ticket, after=self._standings(pools), now=now))
        return breaches

    def book(
        self, pools: Sequence[str], spent: Mapping[str, int], *, at: float = 0.0, now: float = 0.0
    ) -> tuple[Breach, ...]:
        """See `Accounts.book`."""
        breaches = super().book(pools, spent, at=at, now=now)
        self._note(LedgerOp("book", tuple(pools), dict(spent), after=self._standings(pools), at=at, now=now))
        return breaches

    def correct(
        self, pools: Sequence[str], booked: Mapping[str, int], spent: Mapping[str, int], *, at: float = 0.0
    ) -> tuple[Breach, ...]:
        """See `Accounts.correct`."""
        breaches = super().correct(pools, booked, spent, at=at)
        change = {unit: spent.get(unit, 0) - was for unit, was in booked.items()}
        self._note(LedgerOp("correct", tuple(pools), change, after=self._standings(pools), at=at))
        return breaches

    def close(self, key: str, unit: str, over: int, *, at: float = 0.0, now: float = 0.0) -> None:
        """See `Accounts.close`."""
        super().close(key, unit, over, at=at, now=now)
        self._note(LedgerOp("close", (key,), {unit: over}, after=self._standings((key,)), at=at, now=now))

    def forget(self, key: str) -> Statement:
        """See `Accounts.forget`."""
        last = super().forget(key)
        self._note(LedgerOp("forget", (key,)))
        return last

    def _standings(self, pools: Sequence[str]) -> tuple[Standing, ...]:
        return tuple(self._standing(key) for key in dict.fromkeys(pools))

    def _standing(self, key: str) -> Standing:
        stated = self.statement(key)
        return Standing(key, stated.limits, stated.spent, stated.reserved, stated.over, stated.closed)
