"""Nothing but a person's yes becomes a yes: a machine tries every way, and finds the ways that are planted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asking import ApprovalMachine
from cuts import do, drawn, model, say, send
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from mutants_guards import (
    _a_restart_is_a_yes,
    _a_yes_is_for_all,
    _expiry_is_not_looked_at,
    _gates_are_open,
    _silence_is_a_yes,
)

from understudy import Agent, Approvals, Budget, Window
from understudy.actors.agents import answers, decide
from understudy.actors.journal import events as ev
from understudy.actors.journal import fold as folding
from understudy.actors.testing.sim_model import SimModel
from understudy.supervisors.testing import plays
from understudy.testing import World, play

QUICK = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.promise(279)
def test_no_way_turns_silence_into_a_yes() -> None:
    run_state_machine_as_test(ApprovalMachine, settings=settings(QUICK, max_examples=60))


@pytest.mark.promise(279)
def test_the_machine_sees_the_effect_of_a_yes() -> None:
    """What a few drawn sequences do depends on the modules that are loaded: in some none lets a gated tool run."""
    machine = ApprovalMachine()
    machine.begin()
    machine.ask("one")
    machine.every_effect_has_a_yes_of_its_own()
    machine.approve(0, "eve", "its own", 1, False)
    machine.every_effect_has_a_yes_of_its_own()
    assert machine.effects == []
    machine.approve(0, "ana", "its own", 1, False)
    machine.every_effect_has_a_yes_of_its_own()
    assert [effect.run for effect in machine.effects] == machine.runs
    machine.teardown()


def _tried(*what: str) -> None:
    never = [each for each in what if not ApprovalMachine.happened[each]]
    assert never == [], "what never happened was not tried"


@pytest.mark.promise(279)
@pytest.mark.campaign
def test_no_way_turns_silence_into_a_yes_in_thousands_of_sequences() -> None:
    run_state_machine_as_test(ApprovalMachine, settings=settings(QUICK, max_examples=1_000, stateful_step_count=50))
    _tried("changed", "ApprovalRefused", "InDoubt", "DoubtSettled", "StopAsked", "Quarantined", "Released")
    print(dict(ApprovalMachine.happened))


@pytest.mark.promise(279)
def test_a_yes_that_expires_while_its_call_waits_for_room_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = {"porter": (do(("send", {"id": 1})), do(("send", {"id": 2})), say("done"))}
    monkeypatch.setattr(SimModel, "_drawn", drawn(replies))
    porter = Agent(
        "porter",
        model=model,
        tools=[send],
        approvals=Approvals(expires=600, by={"boss": ["bo"]}),
        budget=Budget(tool_calls=1, per=Window(1_800, wait=True)),
    )
    outcome = play(porter, World(), "Away with them.", check=plays.thorough())
    (refused,) = [r.event for r in outcome.records["00000001"] if isinstance(r.event, ev.ApprovalRefused)]
    assert (refused.by, refused.reason) == ("clock", "the yes expired before it was used")
    assert (outcome.result.status, outcome.effects("send")) == ("complete", 1)


# --- it can fail -----------------------------------------------------------------------------------------------------


def _nobody_looks_who_answers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answers, "_check_person", lambda yes, by: None)


def _a_refused_yes_can_be_given_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answers, "_check_open", lambda yes: None)
    given = folding._approval_given

    def again(run: Any, record: Any, event: Any) -> None:
        run.approvals[event.approval].state = "pending"
        given(run, record, event)

    handlers: dict[Any, Any] = {**folding._HANDLERS, ev.ApprovalGiven: again}
    patch.setattr(folding, "_HANDLERS", handlers)


def _any_digest_will_do(patch: pytest.MonkeyPatch) -> None:
    approve = answers.approve

    async def blind(runs: Any, name: str, by: str, digest: str = "", arguments: str = "") -> str:
        return await approve(runs, name, by, "", arguments)

    patch.setattr(answers, "approve", blind)


def _the_arguments_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    granted = decide._granted

    def trusting(run: Any, sub: Any, policy: Any, step: int, index: int, state: Any, name: str) -> Any:
        yes = run.approvals.get(state.approval)
        if yes is not None and yes.state == "granted":
            return yes.id
        return granted(run, sub, policy, step, index, state, name)

    patch.setattr(decide, "_granted", trusting)


DEFECTS = {
    "silence is a yes": _silence_is_a_yes,
    "a restart is a yes": _a_restart_is_a_yes,
    "no gate is shut": _gates_are_open,
    "one yes is for all calls": _a_yes_is_for_all,
    "a yes is used after it expired": _expiry_is_not_looked_at,
    "nobody looks who answers": _nobody_looks_who_answers,
    "a refused yes can be given again": _a_refused_yes_can_be_given_again,
    "any digest will do": _any_digest_will_do,
    "the arguments are not compared at use": _the_arguments_are_not_compared,
}
SOON = (
    "silence is a yes",
    "a restart is a yes",
    "no gate is shut",
    "nobody looks who answers",
)
"""Found within a few sequences; the campaign plants all."""


@pytest.mark.promise(280)
@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=() if each in SOON else pytest.mark.campaign) for each in DEFECTS]
)
def test_a_planted_way_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    DEFECTS[name](monkeypatch)
    seeking = settings(QUICK, max_examples=3_000, derandomize=True, database=None, phases=[Phase.generate])
    with pytest.raises(BaseException, match=r"without a yes|changed after the yes"):
        run_state_machine_as_test(ApprovalMachine, settings=seeking)
