from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.backoff import Backoff

UNIT = st.floats(0, 1, exclude_max=True)
EXACT = Backoff(first=0.2, factor=2.0, cap=30.0, jitter=0.0)


@st.composite
def backoffs(draw: st.DrawFn) -> Backoff:
    first = draw(st.floats(0, 100))
    return Backoff(
        first=first,
        factor=draw(st.floats(1, 10)),
        cap=first + draw(st.floats(0, 1000)),
        jitter=draw(st.floats(0, 0.9)),
    )


def test_delays_double_from_the_first_to_the_cap() -> None:
    delays = [EXACT.delay(n, 0.5) for n in range(9)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0])


def test_the_jitter_is_symmetric_around_the_delay_and_comes_after_the_cap() -> None:
    backoff = Backoff(first=1, cap=10, jitter=0.1)
    assert backoff.delay(0, 0.0) == pytest.approx(0.9)
    assert backoff.delay(0, 0.5) == pytest.approx(1.0)
    assert backoff.delay(99, 0.999999) == pytest.approx(11.0, abs=1e-4)


@pytest.mark.promise(7)
@given(backoffs(), st.integers(0, 10**30), UNIT)
def test_every_delay_lies_in_its_band(backoff: Backoff, failures: int, u: float) -> None:
    delay = backoff.delay(failures, u)
    assert 0 <= delay <= backoff.cap * (1 + backoff.jitter) * (1 + 1e-9)
    assert delay >= backoff.first * (1 - backoff.jitter) * (1 - 1e-9)


@given(backoffs(), st.integers(0, 2000), UNIT)
def test_delays_never_shrink_with_more_failures(backoff: Backoff, failures: int, u: float) -> None:
    assert backoff.delay(failures, u) <= backoff.delay(failures + 1, u)


@given(backoffs(), st.integers(0, 50), UNIT)
def test_the_delay_is_the_formula(backoff: Backoff, failures: int, u: float) -> None:
    factor = 1 + backoff.jitter * (2 * u - 1)
    assert backoff.delay(failures, u) == pytest.approx(
        min(backoff.cap, backoff.first * backoff.factor**failures) * factor
    )


@pytest.mark.parametrize("failures", [1_100, 10**9, 10**400])
def test_any_number_of_failures_gives_the_cap(failures: int) -> None:
    assert EXACT.delay(failures, 0.5) == 30.0
    assert Backoff(first=1, factor=1, jitter=0).delay(failures, 0.5) == 1.0


def test_first_zero_restarts_at_once_always() -> None:
    assert Backoff(first=0).delay(10**6, 0.9) == 0.0


def test_a_healthy_life_forgives_the_failures_and_a_shorter_one_does_not() -> None:
    backoff = Backoff(healthy=10)
    assert backoff.failures_after(4, 10.0) == 0
    assert backoff.failures_after(4, math.nextafter(10.0, 0.0)) == 4


def test_healthy_is_half_of_first_and_cap_unless_given() -> None:
    assert Backoff(first=1, cap=9).healthy_after == 5.0
    assert Backoff().healthy_after == pytest.approx(15.1)


def test_a_child_that_dies_again_and_again_waits_longer_until_it_lives_long() -> None:
    failures, delays = 0, []
    for ran_for in (100.0, 0.0, 0.0, 100.0):
        n = EXACT.failures_after(failures, ran_for)
        delays.append(EXACT.delay(n, 0.5))
        failures = n + 1
    assert delays == pytest.approx([0.2, 0.4, 0.8, 0.2])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"first": -1}, r"Backoff\.first must be a finite number of seconds >= 0, got -1"),
        ({"first": math.nan}, r"Backoff\.first .* got nan"),
        ({"factor": 0.5}, r"Backoff\.factor must be a finite number >= 1, got 0\.5"),
        ({"cap": math.inf}, r"Backoff\.cap .* got inf"),
        ({"first": 5, "cap": 1}, r"Backoff\.cap must be >= first \(5\), got 1"),
        ({"jitter": 1.0}, r"Backoff\.jitter must be < 1, got 1\.0"),
        ({"jitter": -0.1}, r"Backoff\.jitter .* got -0\.1"),
        ({"healthy": 0}, r"Backoff\.healthy must be a finite number of seconds > 0, got 0"),
        ({"cap": "30"}, r"Backoff\.cap .* got '30'"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Backoff(**options)


@pytest.mark.parametrize(("failures", "u"), [(-1, 0.5), (0, 1.0), (0, -0.1), (0, math.nan)])
def test_a_bad_draw_is_refused(failures: int, u: float) -> None:
    with pytest.raises(UsageError, match="delay needs"):
        EXACT.delay(failures, u)
