from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import SpecError, UsageError
from understudy.actors.lifecycle import Exit, ExitKind
from understudy.supervisors.strategies import (
    RESTART_TYPES,
    STRATEGIES,
    RestartType,
    Strategy,
    affected,
    check_strategy,
    decide_exit,
)

EXPECTED = ("normal", "shutdown")
ORDERS = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@pytest.mark.parametrize("kind", get_args(ExitKind))
@pytest.mark.parametrize(
    ("restart", "when_expected", "when_failed"),
    [("permanent", "restart", "restart"), ("transient", "keep", "restart"), ("temporary", "forget", "forget")],
)
def test_an_exit_is_decided_by_the_table(
    restart: RestartType, when_expected: str, when_failed: str, kind: ExitKind
) -> None:
    assert decide_exit(restart, Exit(kind)) == (when_expected if kind in EXPECTED else when_failed)


def test_a_loop_verdict_counts_as_a_failure() -> None:
    assert decide_exit("transient", Exit("loop", "read_metadata")) == "restart"


def test_an_unknown_restart_type_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="restart 'always' is unknown; allowed: permanent, transient, temporary"):
        decide_exit("always", Exit("normal"))  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("strategy", "group"),
    [
        ("one_for_one", ("b",)),
        ("one_for_all", ("a", "b", "c", "d")),
        ("rest_for_one", ("b", "c", "d")),
    ],
)
def test_a_failure_concerns_the_group_of_the_strategy(strategy: Strategy, group: tuple[str, ...]) -> None:
    assert affected(strategy, ["a", "b", "c", "d"], "b") == group


@given(st.sampled_from(STRATEGIES), ORDERS, st.data())
def test_a_group_is_in_start_order_and_the_failed_one_is_in_it(
    strategy: Strategy, order: list[str], data: st.DataObject
) -> None:
    failed = data.draw(st.sampled_from(order))
    group = affected(strategy, order, failed)
    assert failed in group
    assert list(group) == [name for name in order if name in group]


def test_a_stranger_cannot_fail() -> None:
    with pytest.raises(UsageError, match="'z' is no child here; children: a, b"):
        affected("one_for_all", ["a", "b"], "z")


@pytest.mark.parametrize("strategy", ["one-for-one", None, ["one_for_one"]])
def test_an_unknown_strategy_is_refused_with_all_names(strategy: object) -> None:
    with pytest.raises(SpecError, match="unknown; allowed: one_for_one, one_for_all, rest_for_one"):
        check_strategy(strategy)


def test_the_names_are_those_of_the_types() -> None:
    assert set(STRATEGIES) == set(get_args(Strategy))
    assert set(RESTART_TYPES) == set(get_args(RestartType))
