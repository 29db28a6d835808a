from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.agents.guards import Breach, Busy, Denied, Ledger, Pool
from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.guards.accounts import SLICES, Accounts
from understudy.supervisors.guards.budgets import Budget, Window, within


def accounts(**limits: int) -> Accounts:
    """One pool "p" with these limits."""
    made = Accounts()
    made.declare(Pool("p", "owner", limits))
    return made


def test_a_budget_becomes_the_pool_of_its_owner_in_this_run() -> None:
    pool = Budget(steps=200, tokens=400_000, usd=2.50, seconds=900).pool("audit", "7f3a")
    limits = {"steps": 200, "tokens": 400_000, "usd": 2_500_000}
    assert pool == Pool("audit@7f3a", "audit", limits, seconds=900, warn=0.8)


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


def test_tools_and_directions_have_limits_of_their_own() -> None:
    budget = Budget(tools={"pay": 1}, input_tokens=9, output_tokens=3)
    assert budget.limits() == {"input_tokens": 9, "output_tokens": 3, "tool:pay": 1}


def test_a_window_is_one_pool_over_all_runs() -> None:
    pool = Budget(steps=3, per=Window(60, wait=True), depth=1, fan_out=2, warn=None).pool("a", "r")
    assert pool == Pool("a", "a", {"steps": 3}, window=60, waits=True, depth=1, fan_out=2)


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
        ({"tools": {"pay": -1}}, r"Budget\.tools\['pay'\] must be a whole number >= 0, got -1"),
        ({"tools": ["pay"]}, r"Budget\.tools must be limits by the name of a tool, got \['pay'\]"),
        ({"input_tokens": -1}, r"Budget\.input_tokens .* got -1"),
        ({"output_tokens": 0.5}, r"Budget\.output_tokens .* got 0\.5"),
        ({"depth": -1}, r"Budget\.depth .* got -1"),
        ({"fan_out": "2"}, r"Budget\.fan_out .* got '2'"),
        ({"warn": 0}, r"Budget\.warn must be a finite number of a limit > 0, got 0"),
        ({"warn": 1.5}, r"Budget\.warn must be a share of a limit, at most 1, got 1\.5"),
        ({"last_answer": 63}, r"Budget\.last_answer must be a whole number >= 64, got 63"),
        ({"last_answer": 100, "tokens": 100}, r"Budget\.last_answer 100 leaves nothing of 100 tokens"),
        ({"last_answer": 100, "steps": 1}, r"Budget\.last_answer takes one of the steps, and there is 1"),
        ({"seconds": 9, "per": "life"}, r"Budget\.seconds 9 limits each run: it does not go with per='life'"),
        ({"seconds": 9, "per": Window(60)}, r"does not go with per=Window\(seconds=60, wait=False\)"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Budget(**options)


def test_a_window_needs_a_length() -> None:
    with pytest.raises(SpecError, match=r"Window\.seconds must be a finite number of seconds > 0, got 0"):
        Window(0)
    with pytest.raises(SpecError, match=r"Window\.wait must be True or False, got 1"):
        Window(60, wait=1)  # type: ignore[arg-type]  # that is the mistake


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


def test_a_breach_touches_only_pools_that_limit_the_unit_and_others_keep_no_books_of_it() -> None:
    ledger = accounts(steps=5)
    ledger.declare(Pool("q", "q", {"tokens": 1000}))
    ledger.reserve("t", ["p", "q"], {"tokens": 100})
    assert ledger.settle("t", {"tokens": 101}) == (Breach("q", "tokens", 1),)
    assert not ledger.statement("p").closed
    assert ledger.statement("p").spent == {}


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


def test_a_forgotten_pool_takes_its_chains_with_it_and_no_others() -> None:
    ledger = Accounts()
    for key in ("root", "a@1", "a@2"):
        ledger.declare(Pool(key, key, {"steps": 5}))
    for own in ("a@1", "a@2", "a@1"):
        ledger.reserve("t", (own, "root"), {"steps": 1})
        ledger.settle("t", {"steps": 1})
    ledger.forget("a@1")
    assert list(ledger._chains) == [("a@2", "root")]
    with pytest.raises(UsageError, match="pool 'a@1' was never declared"):
        ledger.reserve("t", ("a@1", "root"), {"steps": 1})
    ledger.declare(Pool("a@1", "a@1", {"steps": 5}))
    assert ledger.left(("a@1",)) == {"steps": 5}
    assert ledger.left(("root",)) == {"steps": 2}


def test_a_breach_of_a_unit_that_is_not_limited_any_more_closes_nothing() -> None:
    ledger = accounts(steps=5)
    ledger.close("p", "tokens", 7)
    assert ledger.reserve("t", ["p"], {"steps": 1}) is None


@given(st.decimals(0, 1000, places=6))
def test_an_amount_in_whole_micro_dollars_is_kept_to_the_last_one(usd: Any) -> None:
    assert Budget(usd=float(usd)).limits() == {"usd": int(usd * 1_000_000)}


# -- set aside, near, corrected ------------------------------------------------------------------------------------


def test_nobody_waits_for_what_is_set_aside() -> None:
    ledger = accounts(tokens=100)
    ledger.reserve("last", ["p"], {"tokens": 40}, keep=True)
    ledger.reserve("t", ["p"], {"tokens": 30})
    assert ledger.reserve("u", ["p"], {"tokens": 50}) == Busy("p", "tokens")
    assert isinstance(ledger.reserve("u", ["p"], {"tokens": 61}), Denied)
    assert ledger.statement("p").kept == {"tokens": 40}
    ledger.settle("last", {})
    assert ledger.reserve("u", ["p"], {"tokens": 70}) is None
    assert ledger.statement("p").kept == {}


@pytest.mark.parametrize(
    ("limits", "spent", "low"),
    [
        ({"tokens": 100}, {"tokens": 79}, []),
        ({"tokens": 100}, {"tokens": 80}, [("tokens", 80)]),
        ({"steps": 3}, {"steps": 1}, []),
        ({"steps": 3}, {"steps": 2}, [("steps", 2)]),
        ({"steps": 1}, {"steps": 1}, []),
        ({"tool:pay": 1}, {"tool:pay": 1}, [("tool:pay", 1)]),
        ({"tokens": 0}, {}, []),
    ],
)
def test_a_limit_is_near_at_the_share_asked_for_while_there_is_still_a_step_to_take(
    limits: dict[str, int], spent: dict[str, int], low: list[tuple[str, int]]
) -> None:
    ledger = Accounts()
    ledger.declare(Pool("p", "p", limits, warn=0.8))
    ledger.declare(Pool("q", "q", limits))
    ledger.book(["p", "q"], spent)
    assert [(each.pool, each.unit, each.spent) for each in ledger.low(["p", "q"])] == [("p", *each) for each in low]


def test_an_estimate_is_corrected_in_every_pool_and_the_room_comes_back() -> None:
    ledger = accounts(tokens=100)
    ledger.declare(Pool("q", "q", {"tokens": 50}))
    ledger.reserve("t", ["p", "q"], {"tokens": 50})
    ledger.settle("t", {"tokens": 50})
    assert ledger.correct(["p", "q"], {"tokens": 50}, {"tokens": 20}) == ()
    assert (ledger.left(["p"]), ledger.left(["q"])) == ({"tokens": 80}, {"tokens": 30})
    with pytest.raises(UsageError, match="pool 'p' has no 50 tokens to correct"):
        ledger.correct(["p", "q"], {"tokens": 50}, {"tokens": 20})
    assert ledger.left(["p"]) == {"tokens": 80}


def test_a_correction_above_the_cap_is_overspend() -> None:
    ledger = accounts(tokens=100)
    ledger.book(["p"], {"tokens": 50})
    assert ledger.correct(["p"], {"tokens": 50}, {"tokens": 51}) == (Breach("p", "tokens", 1),)
    assert ledger.statement("p").closed
    assert ledger.statement("p").spent == {"tokens": 50}


# -- windows ---------------------------------------------------------------------------------------------------------


def window(seconds: float = 60, *, waits: bool = False, **limits: int) -> Accounts:
    """One pool "w" with a window."""
    made = Accounts()
    made.declare(Pool("w", "owner", limits, window=seconds, waits=waits))
    return made


def spend(ledger: Accounts, steps: int, now: float) -> Denied | Busy | None:
    """Reserve and settle in pool "w"."""
    answer = ledger.reserve("t", ("w",), {"steps": steps}, now=now)
    if answer is None:
        ledger.settle("t", {"steps": steps}, now=now)
    return answer


def test_what_was_spent_counts_for_the_window_and_a_sixtieth_longer_at_most() -> None:
    ledger = window(steps=2)
    assert spend(ledger, 2, 1_000.5) is None
    assert spend(ledger, 1, 1_060.5) == Denied("w", "steps", 2, 2, 0, 1)
    assert spend(ledger, 2, 1_061.5) is None


def test_a_window_that_lets_calls_wait_says_for_how_long() -> None:
    ledger = window(waits=True, steps=2)
    spend(ledger, 1, 1_000)
    spend(ledger, 1, 1_010)
    busy = ledger.reserve("t", ("w",), {"steps": 1}, now=1_020)
    assert busy == Busy("w", "steps", after=41)
    assert ledger.reserve("t", ("w",), {"steps": 2}, now=1_020) == Busy("w", "steps", after=51)
    assert isinstance(ledger.reserve("t", ("w",), {"steps": 3}, now=1_020), Denied)
    assert ledger.reserve("t", ("w",), {"steps": 1}, now=1_020 + 41) is None


def test_time_stands_still_where_the_clock_goes_back() -> None:
    ledger = window(steps=2)
    spend(ledger, 1, 1_000)
    assert spend(ledger, 1, 10) is None
    assert isinstance(spend(ledger, 1, 1_059), Denied)


def test_the_memory_of_a_window_is_bounded_whatever_is_spent_in_it() -> None:
    ledger = window(steps=10**9)
    for n in range(50_000):
        spend(ledger, 1, n * 0.01)
    slices = ledger._accounts["w"].window
    assert slices is not None
    assert len(slices.slices) <= SLICES + 1
    assert sum(each["steps"] for each in slices.slices.values()) == ledger.statement("w").spent["steps"]


def test_a_window_takes_up_earlier_spend_by_its_time() -> None:
    ledger = window(steps=10)
    for at in (900, 950, 999, 2_000):  # the last was written by a clock that was ahead
        ledger.book(("w",), {"steps": 2}, at=at, now=1_000)
    assert ledger.statement("w", now=1_000).spent == {"steps": 6}
    assert ledger.statement("w", now=1_012).spent == {"steps": 4}
    assert ledger.statement("w", now=1_062).spent == {}


def test_a_breach_closes_a_window_until_it_has_left_it() -> None:
    ledger = window(steps=10)
    ledger.reserve("t", ("w",), {"steps": 1}, now=1_000)
    assert ledger.settle("t", {"steps": 2}, now=1_000) == (Breach("w", "steps", 1),)
    assert isinstance(spend(ledger, 1, 1_060), Denied)
    assert spend(ledger, 10, 1_061) is None
    assert ledger.statement("w", now=1_061).over == {}


def test_a_breach_of_an_earlier_process_counts_for_what_is_left_of_its_window() -> None:
    ledger = window(steps=10)
    ledger.close("w", "steps", 1, at=930, now=1_000)
    assert not ledger.statement("w", now=1_000).closed
    ledger.close("w", "steps", 1, at=950, now=1_000)
    assert ledger.statement("w", now=1_010).closed
    assert not ledger.statement("w", now=1_011).closed


def test_a_correction_returns_what_has_not_left_the_window() -> None:
    ledger = window(steps=10)
    spend(ledger, 5, 1_000)
    ledger.correct(("w",), {"steps": 5}, {"steps": 1}, at=1_000)
    assert ledger.left(("w",), now=1_000) == {"steps": 9}
    assert ledger.left(("w",), now=1_061) == {"steps": 10}
    ledger.correct(("w",), {"steps": 1}, {"steps": 0}, at=1_000)
    assert ledger.left(("w",), now=1_061) == {"steps": 10}


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=60),
    st.integers(1, 90),
    st.integers(0, 12),
)
def test_no_window_of_its_length_ever_holds_more_than_the_limit(
    acts: list[tuple[int, int]], seconds: int, limit: int
) -> None:
    ledger = window(seconds, steps=limit)
    now, granted = 1_000.0, list[tuple[float, int]]()
    for after, steps in acts:
        now += after / 3
        held = sum(amount for at, amount in granted if at > now - seconds * (1 + 2 / SLICES))
        answer = spend(ledger, steps, now)
        if answer is None:
            granted.append((now, steps))
        assert answer is None or held + steps > limit, "refused although there was room"
        for end, _ in granted:
            assert sum(amount for at, amount in granted if end - seconds < at <= end) <= limit
