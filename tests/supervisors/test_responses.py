from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.agents.guards import Nudge, Response, Restart, Stop, Verdict
from understudy.actors.errors import SpecError
from understudy.supervisors.guards.responses import LADDER, check_ladder, next_rung, word


def verdict(key: str, rung: int) -> Verdict:
    return Verdict("loops.same(3)", "what", key, (1, 2, 3), 1, rung, LADDER[min(rung, 2)])


def test_the_default_ladder_is_nudge_restart_stop() -> None:
    assert [word(response) for response in LADDER] == ["nudge", "restart", "stop"]


def test_the_first_finding_of_a_loop_gets_the_first_rung() -> None:
    assert next_rung(LADDER, [], "a") == (0, Nudge())


def test_each_further_finding_climbs_one_rung_and_stays_at_the_last() -> None:
    past: list[Verdict] = []
    for _ in range(5):
        rung, _response = next_rung(LADDER, past, "a")
        past.append(verdict("a", rung))
    assert [one.rung for one in past] == [0, 1, 2, 2, 2]
    assert next_rung(LADDER, past, "a")[1] == Stop()


def test_another_loop_starts_at_the_first_rung() -> None:
    assert next_rung(LADDER, [verdict("a", 1)], "b") == (0, Nudge())


@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=10))
def test_the_rung_is_always_on_the_ladder(rungs: int, fired: list[tuple[str, int]]) -> None:
    ladder: tuple[Response, ...] = (Nudge(),) * rungs
    rung, response = next_rung(ladder, [verdict(key, at) for key, at in fired], "a")
    assert 0 <= rung < rungs
    assert response is ladder[rung]


@pytest.mark.parametrize(
    ("ladder", "text"),
    [
        ((), "Loops.ladder must have at least one rung, got none"),
        ((Nudge(), "stop"), r"Loops\.ladder\[1\] must be one of Nudge\(\), Restrict\(\), .*Stop\(\), got 'stop'"),
        ((Nudge,), r"Loops\.ladder\[0\]"),
        ((Restart(temperature=math.nan),), r"Loops\.ladder\[0\]\.temperature .* got nan"),
        ((Nudge(), Restart(temperature=-1)), r"Loops\.ladder\[1\]\.temperature .* got -1"),
    ],
)
def test_a_bad_ladder_is_refused_with_the_rung(ladder: tuple[object, ...], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        check_ladder(ladder)


def test_a_restart_may_keep_the_agents_own_temperature() -> None:
    check_ladder([Restart(temperature=None)])
