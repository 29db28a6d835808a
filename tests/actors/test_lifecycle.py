"""The life of an actor as a table, under random events."""

from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from understudy.actors.lifecycle import (
    ALIVE,
    GONE,
    NORMAL,
    SHUTDOWN,
    TABLE,
    Exit,
    ExitKind,
    IllegalTransition,
    LifeEvent,
    LifeState,
    advance,
)

STATES: tuple[LifeState, ...] = get_args(LifeState)
EVENTS: tuple[LifeEvent, ...] = get_args(LifeEvent)


class LifeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state: LifeState = "new"
        self.started = False

    @rule(event=st.sampled_from(EVENTS))
    def something_happens(self, event: LifeEvent) -> None:
        before = self.state
        if event in TABLE[before]:
            self.state = advance(before, event)
            self.started = self.started or event == "started"
            return
        with pytest.raises(IllegalTransition, match=f"'{event}' is not allowed while {before}") as caught:
            advance(before, event)
        assert (caught.value.state, caught.value.event) == (before, event)

    @invariant()
    def nothing_runs_that_was_never_started(self) -> None:
        if self.state in ("running", "suspended"):
            assert self.started

    @invariant()
    def the_end_is_in_reach(self) -> None:
        assert "stopped" in _reachable(self.state)


TestLife = LifeMachine.TestCase
TestLife.settings = settings(stateful_step_count=30)


def _reachable(state: LifeState) -> set[LifeState]:
    seen: set[LifeState] = set()
    rest = [state]
    while rest:
        here = rest.pop()
        if here not in seen:
            seen.add(here)
            rest.extend(TABLE[here].values())
    return seen


def test_the_table_has_every_state_and_leads_to_known_ones() -> None:
    assert set(TABLE) == set(STATES)
    assert {event for row in TABLE.values() for event in row} == set(EVENTS)
    assert _reachable("new") == set(STATES)


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_at_most_two_steps_from_the_end(state: LifeState) -> None:
    if state != "stopped":
        stopping = advance(state, "stop")
        assert advance(stopping, "end") == "stopped"


def test_stopped_is_final_and_a_stop_wins_over_a_failure() -> None:
    for event in EVENTS:
        with pytest.raises(IllegalTransition, match=r"none \(final\)"):
            advance("stopped", event)
    assert advance("stopping", "fail") == "stopping"
    assert advance("stopping", "stop") == "stopping"


@pytest.mark.parametrize("kind", get_args(ExitKind))
def test_only_orderly_exits_are_expected(kind: ExitKind) -> None:
    assert Exit(kind).expected == (kind in ("normal", "shutdown"))
    assert str(Exit(kind, "because")) == f"{kind}(because)"
    assert str(Exit(kind)) == kind


def test_the_named_exits_are_what_they_say() -> None:
    assert (NORMAL.kind, SHUTDOWN.kind, GONE.kind) == ("normal", "shutdown", "gone")
    assert {"starting", "running", "suspended"} == ALIVE
