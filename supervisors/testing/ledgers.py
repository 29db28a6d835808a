"""A ledger that takes notes: every operation, and how the pools that it names stand afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from understudy.actors.agents.guards import Breach, Busy, Denied, Pool
from understudy.actors.testing.evidence import LedgerOp, Standing
from understudy.supervisors.guards.budgets import Accounts, Statement


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
            self._note(LedgerOp("declare", (pool.key,), limits=dict(pool.limits), after=self._standings((pool.key,))))

    def reserve(self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int]) -> Denied | Busy | None:
        """See `Accounts.reserve`."""
        answer = super().reserve(ticket, pools, amounts)
        word = "denied" if isinstance(answer, Denied) else "busy" if answer is not None else ""
        self._note(LedgerOp("reserve", tuple(pools), dict(amounts), ticket, word, after=self._standings(pools)))
        return answer

    def settle(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        """See `Accounts.settle`."""
        accounts = self._tickets[ticket][0] if ticket in self._tickets else ()
        pools = tuple(account.pool.key for account in accounts)
        breaches = super().settle(ticket, spent)
        self._note(LedgerOp("settle", pools, dict(spent), ticket, after=self._standings(pools)))
        return breaches

    def book(self, pools: Sequence[str], spent: Mapping[str, int]) -> tuple[Breach, ...]:
        """See `Accounts.book`."""
        breaches = super().book(pools, spent)
        self._note(LedgerOp("book", tuple(pools), dict(spent), after=self._standings(pools)))
        return breaches

    def close(self, key: str, unit: str, over: int) -> None:
        """See `Accounts.close`."""
        super().close(key, unit, over)
        self._note(LedgerOp("close", (key,), {unit: over}, after=self._standings((key,))))

    def forget(self, key: str) -> Statement:
        """See `Accounts.forget`."""
        last = super().forget(key)
        self._note(LedgerOp("forget", (key,)))
        return last

    def _standings(self, pools: Sequence[str]) -> tuple[Standing, ...]:
        return tuple(self._standing(key) for key in dict.fromkeys(pools))

    def _standing(self, key: str) -> Standing:
        account = self._accounts[key]
        spent, reserved = dict(account.spent), dict(account.reserved)
        return Standing(key, account.limits, spent, reserved, dict(account.over), account.closed is not None)
