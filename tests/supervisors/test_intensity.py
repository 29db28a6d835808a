from __future__ import annotations

import math
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.intensity import Intensity, RestartWindow


def test_the_default_is_three_restarts_in_five_seconds() -> None:
    assert str(Intensity()) == "3 restarts in 5 s"
    assert Intensity(5, within=60) == Intensity(restarts=5, within=60.0)


def test_one_restart_more_than_the_intensity_is_refused() -> None:
    window = RestartWindow(Intensity(2, within=5))
    assert [window.admit(now) for now in (0.0, 1.0, 2.0)] == [True, True, False]


def test_intensity_zero_refuses_the_first_restart() -> None:
    assert not RestartWindow(Intensity(0)).admit(10.0)


def test_a_restart_exactly_as_old_as_the_window_still_counts() -> None:
    window = RestartWindow(Intensity(1, within=5))
    assert window.admit(0.0)
    assert window.count(5.0) == 1
    assert not window.admit(5.0)


def test_an_older_restart_no_longer_counts() -> None:
    window = RestartWindow(Intensity(1, within=5))
    assert window.admit(0.0)
    assert window.admit(math.nextafter(5.0, 6.0))


def test_a_clock_that_goes_back_is_refused_and_changes_nothing() -> None:
    window = RestartWindow(Intensity(3))
    window.admit(2.0)
    with pytest.raises(UsageError, match=r"restart at 1\.0 is before the last one at 2\.0"):
        window.admit(1.0)
    assert window.snapshot() == (2.0,)


@pytest.mark.promise(43)
def test_a_restart_costs_the_same_whatever_the_window_holds() -> None:
    """In steps of the interpreter, which do not depend on the machine."""

    def steps(restarts: int) -> int:
        window = RestartWindow(Intensity(restarts, within=1e6))
        for now in range(min(restarts, 20_000)):
            window.admit(float(now))
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(trace)
        window.admit(30_000.0)
        window.count(30_000.0)
        sys.setprofile(None)
        return count

    assert steps(1_000_000) <= steps(3)


def test_an_intensity_says_its_rates() -> None:
    assert (Intensity(3, within=5).sustained, Intensity(3, within=5).burst) == (0.6, 3)


@pytest.mark.parametrize("stamps", [(2.0, 1.0), (math.nan,), (math.inf,)])
def test_stamps_that_cannot_be_a_history_are_refused(stamps: tuple[float, ...]) -> None:
    window = RestartWindow(Intensity(3))
    window.admit(7.0)
    with pytest.raises(UsageError, match="finite and ascending"):
        window.restore(stamps)
    assert window.snapshot() == (7.0,)


@pytest.mark.parametrize("restarts", [-1, 1.5, True, "3", None])
def test_a_bad_number_of_restarts_is_named(restarts: object) -> None:
    with pytest.raises(SpecError, match=r"Intensity\.restarts must be a whole number >= 0, got"):
        Intensity(restarts)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("within", [0, -1.0, math.nan, math.inf, True, "5", 10**309])
def test_a_bad_window_is_named(within: object) -> None:
    with pytest.raises(SpecError, match=r"Intensity\.within must be a finite number of seconds > 0, got"):
        Intensity(3, within)  # type: ignore[arg-type]  # the mistake under test


class WindowMachine(RuleBasedStateMachine):
    """Against a model that keeps every stamp there ever was. Times are whole, so `exactly within` happens often."""

    @initialize(restarts=st.integers(0, 4), within=st.integers(1, 6))
    def start(self, restarts: int, within: int) -> None:
        self.intensity = Intensity(restarts, within=within)
        self.window = RestartWindow(self.intensity)
        self.all: list[float] = []
        self.now = 0.0

    def young(self) -> int:
        return len([stamp for stamp in self.all if stamp >= self.now - self.intensity.within])

    @rule(seconds=st.integers(0, 8))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        self.all.append(self.now)
        assert self.window.admit(self.now) == (self.young() <= self.intensity.restarts)

    @rule()
    def move_to_another_window(self) -> None:
        old = self.window.snapshot()
        self.window = RestartWindow(self.intensity)
        self.window.restore(old)
        assert self.window.snapshot() == old

    @invariant()
    def counts_what_the_model_counts(self) -> None:
        assert self.window.count(self.now) == min(self.young(), self.intensity.restarts + 1)
        assert len(self.window.snapshot()) <= self.intensity.restarts + 1


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
