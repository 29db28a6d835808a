"""The fold and `decide`: Must hold for every stream a run can leave."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import Choice, Play, make_machine_policy, make_policy

from understudy.actors.agents.decide import decide
from understudy.actors.agents.guards import Restart, Verdict
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.recall import Memory
from understudy.actors.agents.window import ContextWindow, DropFailed, Slide, Summarise, Trim
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply, fold
from understudy.actors.journal.replay import replay
from understudy.actors.journal.state import Run

seeds = st.integers(0, 2**32)
half = settings(max_examples=settings().max_examples // 2)
"""A whole run is played for each example."""


def chooser(seed: int) -> Choice:
    dice = random.Random(seed)

    def choose(what: str, options: Sequence[str]) -> str:
        weights = [4 if what == "reply" and option not in ("answer", "fail") else 1 for option in options]
        return dice.choices(options, weights)[0]

    return choose


def policy_of(seed: int) -> Policy:
    """Every other agent has a machine; of the others, every other a small window, or checks and a fallback.

    Two of three keep what a crash leaves by a policy of their own.
    """
    window = ContextWindow(1_500, compact=[DropFailed(), Trim(), Summarise(keep=2), Slide()]) if seed % 4 else None
    policy = make_machine_policy() if seed % 2 else make_policy(window=window, checked=seed % 4 == 0)
    memories: list[Memory] = ["last_step", "note", "fresh" if seed % 2 else "checkpoint"]
    return replace(policy, memory=memories[seed % 3])


def played(seed: int) -> list[Record]:
    return Play(policy_of(seed), chooser(seed)).run()


def test_the_generator_reaches_every_command() -> None:
    seen: set[str] = set()
    for seed in range(200):
        seen.update(type(record.event).__name__ for record in played(seed))
    wanted = {kind.__name__ for kind in ev.COMMANDS if kind is not ev.HandedOff}
    assert wanted <= seen
    assert {"Moved", "StateTimedOut"} <= seen
    assert {"ModelFailed", "ToolFailed", "ApprovalGiven", "ApprovalRefused", "AttemptStarted"} <= seen


@pytest.mark.promise(18)
@half
@given(seeds, st.data())
def test_a_prefix_folded_then_the_rest_equals_the_whole(seed: int, data: st.DataObject) -> None:
    records = played(seed)
    cut = data.draw(st.integers(1, len(records)))
    assert fold(records[cut:], fold(records[:cut])) == fold(records)


@half
@given(seeds, st.data())
def test_decide_on_a_refolded_state_gives_the_recorded_next_command(seed: int, data: st.DataObject) -> None:
    records = played(seed)
    cut = data.draw(st.integers(2, len(records)))
    policy = policy_of(seed)
    before = fold(records[:cut])
    again = fold(records[:cut])
    assert decide(before, before.main, policy) == decide(again, again.main, policy)
    assert before == again, "decide must not change the state"


def batches(records: list[Record]) -> list[list[int]]:
    """Positions of outcomes that belong to one batch and stand side by side."""
    found: list[list[int]] = [[]]
    for position, record in enumerate(records):
        if isinstance(record.event, ev.ToolAnswered | ev.ToolFailed):
            found[-1].append(position)
        elif found[-1]:
            found.append([])
    return [group for group in found if len(group) > 1]


@half
@given(seeds, st.randoms(use_true_random=False))
def test_outcomes_of_a_batch_in_any_order_give_the_same_state(seed: int, dice: random.Random) -> None:
    records = played(seed)
    shuffled = list(records)
    for group in batches(records):
        events = [records[position].event for position in group]
        dice.shuffle(events)
        for position, event in zip(group, events, strict=True):
            shuffled[position] = msgspec.structs.replace(records[position], event=event)
    assert fold(shuffled) == fold(records)


def test_batches_of_more_than_one_are_really_shuffled() -> None:
    assert sum(len(batches(played(seed))) for seed in range(50)) > 20


@half
@given(seeds)
def test_replay_of_any_played_run_is_identical(seed: int) -> None:
    records = played(seed)
    report = replay(records, {"clerk": policy_of(seed)})
    assert report.identical, report
    assert report.events == len(records)


@half
@given(seeds)
def test_apply_is_a_function_of_state_and_record(seed: int) -> None:
    records = played(seed)
    state = Run("t0")
    for record in records:
        other = apply(copy.deepcopy(state), record)
        state = apply(state, record)
        assert other == state


@half
@given(seeds)
def test_a_rewind_never_drops_a_call_that_changed_the_world(seed: int) -> None:
    state = Run("t0")
    for record in played(seed):
        before = (
            {(t.step, n) for t in state.main.turns for n, c in enumerate(t.calls) if _changed(c)}
            if state.subs
            else set()
        )
        state = apply(state, record)
        after = {(t.step, n) for t in state.main.turns for n, c in enumerate(t.calls) if _changed(c)}
        assert before <= after


def _changed(call: object) -> bool:
    asked = getattr(call, "asked", None)
    return bool(getattr(call, "ok", False)) and asked is not None and asked.effect != "read"


@half
@given(seeds)
def test_step_numbers_never_repeat_so_call_keys_are_unique(seed: int) -> None:
    keys = [(r.event.step, r.event.index) for r in played(seed) if isinstance(r.event, ev.ToolAsked)]
    assert len(keys) == len(set(keys))


def moved(changed_by: str) -> Run:
    """Checked until 500, then acted upon in step 1, then a verdict that rewinds to step 1; `changed_by` an effect."""
    look = ev.ToolAsked(1, 1, "put", "{}", "idempotent" if changed_by == "idempotent" else "read", "{}")
    reply = ModelReply(calls=(ToolCall("a", "move", "{}"), ToolCall("b", "put", "{}")))
    verdict = Verdict("loops.same(3)", "again", "k", (), 1, 0, Restart())
    told: list[ev.AnyEvent] = [
        ev.RunStarted("clerk", "Prompt", "{}"),
        ev.AttemptStarted(1),
        ev.Moved("", "check", "start", until=500.0),
        ev.ModelAsked(1, {}, 1, {}, (), "t"),
        ev.ModelAnswered(1, "t", reply, {}),
        ev.Moved("check", "act", "model", "go", 1, 0, "{}", 900.0),
        look,
        ev.ToolAnswered(1, 1, "1"),
        ev.Judged(verdict, "", 1, 1),
        ev.AttemptStarted(2, 9),
    ]
    return fold([Record("t0", n, float(n), float(n), 0, "p", 1, 0, event) for n, event in enumerate(told, 1)])


@pytest.mark.promise(74)
def test_a_rewind_takes_the_state_back_and_does_not_set_its_clock_back() -> None:
    main = moved("read").main
    assert (main.state, main.until, main.expired, main.turns, main.stood) == ("check", 500.0, False, [], [])


@pytest.mark.promise(74)
def test_a_rewind_takes_no_state_back_that_was_left_before_the_world_was_changed() -> None:
    main = moved("idempotent").main
    assert (main.state, main.until) == ("act", 900.0)
