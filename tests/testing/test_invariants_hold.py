"""The invariants of every run: random trees and programs in random worlds break none, and every premise occurs."""

from __future__ import annotations

import time
from collections import Counter

import plays
import pytest
from campaigns import SETTLE, STRATEGIES, premises, run
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from plays import Play

from understudy.actors.testing.invariants import SENTENCES
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World

settles = st.sampled_from([0.0, SETTLE])
UNTRIED = {7, 11, 12, 13, 15, 16, 17, 43, 44}
"""Invariants whose premise is not counted here: 11 to 17 have a test of their own, 7, 43 and 44 too."""


@pytest.mark.promise(165, 166)
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plays.plays(), plays.worlds(), settles)
def test_no_invariant_is_broken_whatever_actors_do(play: Play, world: World, settle: float) -> None:
    run(play, world, settle)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plays.flooding(), plays.worlds(), settles)
def test_no_invariant_is_broken_in_full_mailboxes(play: Play, world: World, settle: float) -> None:
    run(play, world, settle)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plays.watching(), plays.worlds(), settles)
def test_no_invariant_is_broken_among_those_who_watch(play: Play, world: World, settle: float) -> None:
    run(play, world, settle)


@pytest.mark.promise(167)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(plays.crashing(), plays.worlds(), settles)
def test_no_invariant_is_broken_in_restart_storms(play: Play, world: World, settle: float) -> None:
    run(play, world, settle)


def every(like: str, examples: int, number: int = 0) -> list[Trace]:
    """Traces of plays that hold."""
    traces: list[Trace] = []

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[like](), plays.worlds(), settles)
    def look(play: Play, world: World, settle: float) -> None:
        traces.append(run(play, world, settle))

    look()
    return traces


def test_every_premise_of_the_invariants_of_actors_occurs() -> None:
    count: Counter[int] = Counter()
    for like in ("any", "flooding", "watching"):
        for trace in every(like, 40):
            count += premises(trace)
    assert {number for number in SENTENCES if not count[number]} <= UNTRIED


def test_every_premise_of_the_invariants_of_supervisors_occurs() -> None:
    traces = every("crashing", 60)
    events = [event for trace in traces for event in trace]
    gave_up = [event for event in events if event.kind == "ending" and "gave up" in event.detail]
    again = [event for event in events if event.kind == "starting" and event.peer == "desk" and event.number > 1]
    told = [event for event in events if event.kind == "notice" and event.what == "ChildDown"]
    group = [event for event in events if event.kind == "halting" and event.peer == "desk"]
    forgiven = [event for event in events if event.kind == "ending" and event.at > 25e9]
    for premise in (gave_up, again, told, group, forgiven):
        assert premise


@pytest.mark.campaign
def test_thousands_of_worlds_without_a_false_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    begun, worlds, events = time.process_time(), 0, 0
    for like in STRATEGIES:
        for number in range(4):
            traces = every(like, 250, number + 1)
            worlds += len(traces)
            events += sum(map(len, traces))
    with capsys.disabled():
        print(f"\n{worlds:,} worlds, {events:,} events, {time.process_time() - begun:.0f} s; no false alarm")
    assert worlds >= 3_000
