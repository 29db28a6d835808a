from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from understudy.actors.agents.guards import Breach, Busy, Denied, Ledger, Pool
from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.guards.accounts import Accounts
from understudy.supervisors.guards.budgets import UNITS, Budget, Window, within


def accounts(**limits: int) -> Accounts:
    """One pool "p" with these limits."""
    made = Accounts()
    made.declare(Pool("p", "owner", limits))
    return made


def test_a_budget_becomes_the_pool_of_its_owner_in_this_run() -> None:
    pool = Budget(steps=200, tokens=400_000, usd=2.50, seconds=900).pool("audit", "7f3a")
    limits = {"steps": 200, "tokens": 400_000, "usd": 2_500_000}
    assert pool == Pool("audit@7f3a", "audit", limits, seconds=900)


def test_a_budget_per_life_is_one_pool_over_all_runs() -> None:
    assert Budget(model_calls=3, per="life").pool("audit", "7f3a").key == "audit"


@pytest.mark.parametrize(("usd", "micro"), [(0.57, 570_000), (0.0000019, 1), (0.29, 290_000), (3, 3_000_000), (0, 0)])
def test_dollars_are_micro_dollars_rounded_down(usd: float, micro: int) -> None:
    assert Budget(usd=usd).limits() == {"usd": micro}


def test_none_is_unlimited_and_zero_is_nothing_at_all() -> None:
    assert Budget().limits() == {}
    ledger = Accounts()
    ledger.declare(Budget(steps=0).pool("a", "r"))
    assert isinstance(ledger.reserve("t", ["a@r"], {"steps": 1}), Denied)
    assert ledger.reserve("u", ["a@r"], {"tokens": 10**9}) is None


def test_a_window_is_named_and_refused_at_start() -> None:
    budget = Budget(steps=3, per=Window(60))
    for refuse in (lambda: check_supported(budget), lambda: budget.pool("a", "r")):
        with pytest.raises(SpecError, match=r"Window\(seconds=60\) is not supported yet; allowed: 'run', 'life'"):
            refuse()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": -1}, r"Budget\.steps must be a whole number >= 0, got -1"),
        ({"tokens": 1.5}, r"Budget\.tokens .* got 1\.5"),
        ({"model_calls": True}, r"Budget\.model_calls .* got True"),
        ({"tool_calls": "9"}, r"Budget\.tool_calls .* got '9'"),
        ({"usd": -0.01}, r"Budget\.usd must be a finite number of dollars >= 0, got -0\.01"),
        ({"usd": math.nan}, r"Budget\.usd .* got nan"),
        ({"seconds": math.inf}, r"Budget\.seconds .* got inf"),
        ({"per": "day"}, r"Budget\.per must be 'run', 'life' or Window\(seconds\), got 'day'"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Budget(**options)


def test_a_window_needs_a_length() -> None:
    with pytest.raises(SpecError, match=r"Window\.seconds must be a finite number of seconds > 0, got 0"):
        Window(0)


def test_spend_is_compared_with_a_budget_unit_by_unit() -> None:
    budget = Budget(steps=2, usd=0.5)
    assert within({"steps": 2, "usd": 500_000, "tokens": 10**9}, budget)
    assert not within({"steps": 3}, budget)
    assert not within({"usd": 500_001}, budget)


def test_accounts_are_a_ledger() -> None:
    ledger: Ledger = Accounts()
    assert ledger.left([]) == {}


def test_a_reservation_is_replaced_by_what_was_spent() -> None:
    ledger = accounts(tokens=100)
    assert ledger.reserve("t", ["p"], {"tokens": 80}) is None
    assert ledger.left(["p"]) == {"tokens": 20}
    assert ledger.settle("t", {"tokens": 30}) == ()
    assert ledger.left(["p"]) == {"tokens": 70}
    assert ledger.statement("p").spent == {"tokens": 30}


def test_what_never_fits_is_denied_with_pool_and_unit() -> None:
    ledger = accounts(steps=10, tokens=100)
    ledger.book(["p"], {"tokens": 60})
    denied = ledger.reserve("t", ["p"], {"steps": 1, "tokens": 41})
    assert denied == Denied("p", "tokens", limit=100, spent=60, reserved=0, wanted=41)
    assert str(denied) == "p: tokens 60 spent + 0 reserved + 41 wanted > 100"


def test_what_would_fit_without_the_reservations_in_flight_is_busy() -> None:
    ledger = accounts(tokens=100)
    ledger.reserve("t", ["p"], {"tokens": 60})
    assert ledger.reserve("u", ["p"], {"tokens": 41}) == Busy("p", "tokens")
    assert isinstance(ledger.reserve("v", ["p"], {"tokens": 101}), Denied)
    ledger.settle("t", {})
    assert ledger.reserve("u", ["p"], {"tokens": 41}) is None


def test_the_union_of_pools_is_charged_once_each_and_all_or_nothing() -> None:
    ledger = Accounts()
    for key, limit in (("agent", 10), ("team", 5)):
        ledger.declare(Pool(key, key, {"steps": limit}))
    assert ledger.reserve("t", ["agent", "team", "agent"], {"steps": 2}) is None
    assert ledger.left(["agent"]) == {"steps": 8}
    assert isinstance(ledger.reserve("u", ["agent", "team"], {"steps": 6}), Denied)
    assert ledger.left(["agent"]) == {"steps": 8}
    assert ledger.left(["agent", "team"]) == {"steps": 3}


def test_of_several_pools_that_refuse_the_first_that_denies_is_named() -> None:
    ledger = Accounts()
    for key, limit in (("wide", 10), ("a", 3), ("b", 3)):
        ledger.declare(Pool(key, key, {"steps": limit}))
    ledger.reserve("t", ["wide"], {"steps": 8})
    assert ledger.reserve("u", ["wide", "b", "a"], {"steps": 4}) == Denied("b", "steps", 3, 0, 0, 4)
    assert ledger.reserve("u", ["a", "wide"], {"steps": 3}) == Busy("wide", "steps")


@pytest.mark.promise(11)
def test_spending_more_than_the_cap_is_a_breach_that_closes_the_pool() -> None:
    ledger = accounts(tokens=1000, steps=10)
    ledger.reserve("t", ["p"], {"tokens": 100})
    assert ledger.settle("t", {"tokens": 150}) == (Breach("p", "tokens", over=50),)
    statement = ledger.statement("p")
    assert (statement.spent, statement.over, statement.closed) == ({"tokens": 100}, {"tokens": 50}, True)
    assert ledger.left(["p"]) == {"tokens": 0, "steps": 0}
    denied = ledger.reserve("u", ["p"], {"steps": 1})
    assert isinstance(denied, Denied)
    assert (denied.pool, denied.unit) == ("p", "tokens")


def test_a_breach_touches_only_pools_that_limit_the_unit() -> None:
    ledger = accounts(steps=5)
    ledger.declare(Pool("q", "q", {"tokens": 1000}))
    ledger.reserve("t", ["p", "q"], {"tokens": 100})
    assert ledger.settle("t", {"tokens": 101}) == (Breach("q", "tokens", 1),)
    assert not ledger.statement("p").closed
    assert ledger.statement("p").spent == {"tokens": 101}


def test_spending_a_unit_that_was_not_reserved_is_a_breach() -> None:
    ledger = accounts(usd=10)
    ledger.reserve("t", ["p"], {"steps": 1})
    assert ledger.settle("t", {"usd": 3}) == (Breach("p", "usd", 3),)


def test_a_closed_pool_still_settles_what_was_in_flight() -> None:
    ledger = accounts(tokens=100)
    ledger.reserve("t", ["p"], {"tokens": 10})
    ledger.reserve("u", ["p"], {"tokens": 10})
    ledger.settle("t", {"tokens": 11})
    assert ledger.settle("u", {"tokens": 4}) == ()
    assert ledger.statement("p").spent == {"tokens": 14}


def test_a_ticket_settles_exactly_once() -> None:
    ledger = accounts(steps=5)
    ledger.reserve("t", ["p"], {"steps": 1})
    with pytest.raises(UsageError, match="ticket 't' holds a reservation already"):
        ledger.reserve("t", ["p"], {"steps": 1})
    ledger.settle("t", {"steps": 1})
    with pytest.raises(UsageError, match="ticket 't' holds no reservation"):
        ledger.settle("t", {"steps": 1})
    assert ledger.statement("p").spent == {"steps": 1}


def test_a_refused_reservation_leaves_no_ticket() -> None:
    ledger = accounts(steps=0)
    ledger.reserve("t", ["p"], {"steps": 1})
    with pytest.raises(UsageError, match="'t' holds no reservation"):
        ledger.settle("t", {})


@pytest.mark.parametrize("amounts", [{"steps": -1}, {"coins": 1}])
def test_bad_amounts_are_refused_and_change_nothing(amounts: dict[str, int]) -> None:
    ledger = accounts(steps=5)
    ledger.reserve("t", ["p"], {"steps": 2})
    before = ledger.statement("p")
    for refuse in (
        lambda: ledger.reserve("u", ["p"], amounts),
        lambda: ledger.settle("t", amounts),
        lambda: ledger.book(["p"], amounts),
    ):
        with pytest.raises(UsageError, match=r"steps must be >= 0, got -1|unknown unit 'coins'"):
            refuse()
    assert ledger.statement("p") == before


def test_an_unknown_pool_is_refused_by_name() -> None:
    ledger = accounts(steps=5)
    for refuse in (
        lambda: ledger.reserve("t", ["p", "q"], {"steps": 1}),
        lambda: ledger.left(["q"]),
        lambda: ledger.statement("q"),
        lambda: ledger.book(["p", "q"], {"steps": 1}),
    ):
        with pytest.raises(UsageError, match="pool 'q' was never declared"):
            refuse()
    assert ledger.left(["p"]) == {"steps": 5}


def test_a_pool_may_be_declared_again_only_with_the_same_limits() -> None:
    ledger = accounts(steps=5)
    ledger.book(["p"], {"steps": 2})
    ledger.declare(Pool("p", "owner", {"steps": 5}))
    assert ledger.left(["p"]) == {"steps": 3}
    with pytest.raises(UsageError, match="pool 'p' is declared already with other limits"):
        ledger.declare(Pool("p", "owner", {"steps": 6}))


@pytest.mark.parametrize("limits", [{"coins": 1}, {"steps": -1}, {"steps": 1.5}])
def test_a_pool_with_bad_limits_is_refused_by_name(limits: dict[str, int]) -> None:
    ledger = Accounts()
    with pytest.raises(SpecError, match="pool 'p': "):
        ledger.declare(Pool("p", "owner", limits))
    with pytest.raises(UsageError, match="never declared"):
        ledger.left(["p"])


def test_earlier_spend_is_booked_and_what_does_not_fit_is_over() -> None:
    ledger = accounts(steps=5)
    assert ledger.book(["p"], {"steps": 4}) == ()
    assert ledger.book(["p"], {"steps": 4}) == (Breach("p", "steps", 3),)
    assert ledger.statement("p").spent == {"steps": 5}


def test_a_pool_is_forgotten_only_when_nothing_is_reserved_from_it() -> None:
    ledger = accounts(steps=5)
    ledger.reserve("t", ["p"], {"steps": 1})
    with pytest.raises(UsageError, match="pool 'p' still has reservations"):
        ledger.forget("p")
    ledger.settle("t", {"steps": 1})
    assert ledger.forget("p").spent == {"steps": 1}
    with pytest.raises(UsageError, match="never declared"):
        ledger.statement("p")


@given(st.decimals(0, 1000, places=6))
def test_an_amount_in_whole_micro_dollars_is_kept_to_the_last_one(usd: Any) -> None:
    assert Budget(usd=float(usd)).limits() == {"usd": int(usd * 1_000_000)}


POOLS = ("a", "b", "c")
AMOUNTS = st.dictionaries(st.sampled_from(UNITS[:3]), st.integers(0, 6), max_size=3)
LIMITS = st.dictionaries(st.sampled_from(UNITS[:3]), st.integers(0, 12), max_size=3)


class LedgerMachine(RuleBasedStateMachine):
    """Against a model that keeps the list of everything that happened and adds it up each time."""

    @initialize(limits=st.lists(LIMITS, min_size=len(POOLS), max_size=len(POOLS)))
    def start(self, limits: list[dict[str, int]]) -> None:
        self.limits = dict(zip(POOLS, limits, strict=True))
        self.open: dict[str, tuple[set[str], dict[str, int]]] = {}
        self.spent: list[tuple[str, str, int]] = []
        self.over: list[tuple[str, str, int]] = []
        self.tickets = 0
        self.ledger = Accounts()
        for key, pool in self.limits.items():
            self.ledger.declare(Pool(key, key, pool))

    def of(self, book: list[tuple[str, str, int]], pool: str, unit: str) -> int:
        return sum(amount for where, what, amount in book if (where, what) == (pool, unit))

    def held(self, pool: str, unit: str) -> int:
        return sum(amounts.get(unit, 0) for pools, amounts in self.open.values() if pool in pools)

    def closed(self, pool: str) -> bool:
        return any(where == pool for where, _, _ in self.over)

    def verdict(self, pool: str, amounts: dict[str, int]) -> type[Denied] | type[Busy] | None:
        """What one pool says, unit by unit."""
        says: set[type[Denied] | type[Busy]] = {Denied} if self.closed(pool) else set()
        for unit, amount in amounts.items():
            if unit in self.limits[pool]:
                room = self.limits[pool][unit] - self.of(self.spent, pool, unit) - amount
                says |= {Denied} if room < 0 else {Busy} if room < self.held(pool, unit) else set()
        return Denied if Denied in says else Busy if Busy in says else None

    @rule(pools=st.lists(st.sampled_from(POOLS), max_size=4), amounts=AMOUNTS)
    def reserve(self, pools: list[str], amounts: dict[str, int]) -> None:
        self.tickets += 1
        ticket = str(self.tickets)
        answer = self.ledger.reserve(ticket, pools, amounts)
        says = [(pool, self.verdict(pool, amounts)) for pool in pools]
        wanted = next((one for one in says if one[1] is Denied), next((one for one in says if one[1]), None))
        if wanted is None:
            assert answer is None
            self.open[ticket] = (set(pools), dict(amounts))
        else:
            assert isinstance(answer, Denied | Busy)
            assert (answer.pool, type(answer)) == wanted

    @rule(data=st.data(), share=st.floats(0, 1), extra=st.integers(0, 1), same=st.booleans())
    def settle(self, data: st.DataObject, share: float, extra: int, same: bool) -> None:
        if not self.open:
            return
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        pools, caps = self.open.pop(ticket)
        cost = {unit: cap if same else int(cap * share) + extra for unit, cap in caps.items()}
        expected = set()
        for pool in pools:
            for unit, amount in cost.items():
                over = max(0, amount - caps[unit]) if unit in self.limits[pool] else 0
                self.spent.append((pool, unit, amount - over))
                if over:
                    self.over.append((pool, unit, over))
                    expected.add((pool, unit, over))
        breaches = self.ledger.settle(ticket, cost)
        assert {(one.pool, one.unit, one.over) for one in breaches} == expected
        assert len(breaches) == len(expected)

    @rule(data=st.data())
    def settle_twice(self, data: st.DataObject) -> None:
        gone = [str(n) for n in range(1, self.tickets + 2) if str(n) not in self.open]
        with pytest.raises(UsageError, match="holds no reservation"):
            self.ledger.settle(data.draw(st.sampled_from(gone)), {"steps": 1})

    @invariant()
    def every_book_adds_up_and_no_limit_is_exceeded(self) -> None:
        for pool in POOLS:
            statement = self.ledger.statement(pool)
            for unit in UNITS:
                spent, reserved = statement.spent.get(unit, 0), statement.reserved.get(unit, 0)
                assert spent == self.of(self.spent, pool, unit)
                assert reserved == self.held(pool, unit)
                assert statement.over.get(unit, 0) == self.of(self.over, pool, unit)
                assert spent + reserved <= self.limits[pool].get(unit, math.inf)
            assert statement.closed == self.closed(pool)

    @invariant()
    def what_is_left_can_be_reserved_and_no_more(self) -> None:
        left = self.ledger.left(POOLS)
        for unit, amount in left.items():
            if not any(self.closed(pool) for pool in POOLS):
                assert self.ledger.reserve("probe", POOLS, {unit: amount}) is None
                self.ledger.settle("probe", {})
            assert self.ledger.reserve("probe", POOLS, {unit: amount + 1}) is not None


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
