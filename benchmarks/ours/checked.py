"""A ledger that is checked at every operation, and its deliberate bugs."""

from collections import Counter
from collections.abc import Mapping, Sequence

from understudy.actors.agents.guards import Breach, Busy, Denied
from understudy.supervisors.guards.accounts import Accounts

RESERVE = 100
"""Tokens that a call reserves."""
UNIT = "output_tokens"


class Checked(Accounts):
    """The ledger, with books of its own: each operation is checked against them, in every pool it is charged to."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.open: dict[str, tuple[tuple[str, ...], int]] = {}
        self.wrong = 0
        self.operations = 0

    def reserve(
        self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], *, now: float = 0.0, keep: bool = False
    ) -> Denied | Busy | None:
        """See `Accounts.reserve`."""
        answer = self.granted(ticket, pools, amounts)
        self.operations += 1
        if answer is None:
            amount = amounts.get(UNIT, 0)
            self.open[ticket] = (tuple(pools), amount)
            self.held.update(dict.fromkeys(pools, amount))
            self.look(pools)
        return answer

    def granted(self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int]) -> Denied | Busy | None:
        return super().reserve(ticket, pools, amounts)

    def settle(self, ticket: str, spent: Mapping[str, int], *, now: float = 0.0) -> tuple[Breach, ...]:
        """See `Accounts.settle`."""
        pools, amount = self.open.pop(ticket)
        breaches = self.settled(ticket, spent)
        self.operations += 1
        self.held.subtract(dict.fromkeys(pools, amount))
        self.spent.update(dict.fromkeys(pools, min(amount, spent.get(UNIT, 0))))
        self.look(pools)
        return breaches

    def settled(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        return super().settle(ticket, spent)

    def look(self, pools: Sequence[str]) -> None:
        """spent + reserved <= limit, by our books and by theirs."""
        for pool in pools:
            account = self._accounts[pool]
            cell = account.cells.get(UNIT)
            if cell is not None:
                here = self.spent[pool] + self.held[pool] > cell.limit
                self.wrong += here or cell.spent + cell.reserved > cell.limit


class Generous(Checked):
    """Grants what is beyond the limit."""

    def granted(self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int]) -> Denied | Busy | None:
        less = {unit: amount for unit, amount in amounts.items() if unit != UNIT}
        return super().granted(ticket, pools, less)

    def settled(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        return super().settled(ticket, {unit: amount for unit, amount in spent.items() if unit != UNIT})


class Refunds(Checked):
    """A call that was cut is free."""

    def settled(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        return super().settled(ticket, {} if spent.get(UNIT) == RESERVE else spent)


class Blind(Checked):
    """What a provider reports beyond the cap is not noticed."""

    def settled(self, ticket: str, spent: Mapping[str, int]) -> tuple[Breach, ...]:
        return super().settled(ticket, {**spent, UNIT: min(RESERVE, spent.get(UNIT, 0))})


BUGS: dict[str, dict[type[Checked], type[Checked]]] = {
    "generous": {Checked: Generous},
    "refunds": {Checked: Refunds},
    "blind": {Checked: Blind},
}
