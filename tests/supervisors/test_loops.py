from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from understudy.actors.agents.guards import LoopGuard, Nudge, Restart, Step, Stop, Verdict
from understudy.actors.errors import SpecError
from understudy.supervisors.guards.combining import LoopRule, shown
from understudy.supervisors.guards.likeness import masked
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Errors, Idle, Reworded, Same, Talk

LONG = Loops(Same(3) | (Errors(4) & Idle(8)) | Talk(3), ladder=(Nudge(),) * 30)


def act(name: str, outcome: str = "ok", **extra: Any) -> Step:
    """A call of `name`; numbers are put on by `run`."""
    return Step(step=0, agent="inspector", action=name, arguments='{"x":1}', outcome=outcome, **extra)


def fail(name: str, error: str = "KeyError: 'x'") -> Step:
    return act(name, outcome=f"digest of {error}", error=error)


def say(text: str) -> Step:
    return Step(step=0, agent="inspector", action="", arguments="", outcome=text)


def change(text: str = "") -> Step:
    return replace(act("write", world=True), arguments=text)


def run(*steps: Step) -> list[Step]:
    """One act a model step; events 10, 20, 30, …"""
    return [replace(step, step=n, event=10 * n) for n, step in enumerate(steps, 1)]


def judge_all(loops: Loops, steps: Sequence[Step]) -> list[Verdict]:
    """Judge a run as it grows."""
    past: list[Verdict] = []
    for end in range(1, len(steps) + 1):
        if verdict := loops.judge(steps[:end], past):
            past.append(verdict)
    return past


def alarms(rule: LoopRule, steps: Iterable[Step]) -> list[int]:
    """The events at which the rule objects."""
    grown = run(*steps)
    return [grown[end - 1].event for end in range(1, len(grown) + 1) if rule.find(grown[:end])]


# --- what the ladder does


def test_the_loop_of_the_demo_is_nudged_then_restarted_then_stopped() -> None:
    call = replace(fail("read_metadata", "PackageNotFound"), arguments='{"name":"attrs "}')
    verdicts = judge_all(Loops(), run(call, act("list"), call, call, act("other"), call, act("list", "more"), call))
    assert [one.rung for one in verdicts] == [0, 1, 2]
    assert [type(one.response) for one in verdicts] == [Nudge, Restart, Stop]
    assert [one.evidence[-1] for one in verdicts] == [40, 60, 80]
    assert [one.what for one in verdicts] == [
        'read_metadata("attrs ") failed the same way 3 times',
        "the same again after the nudge",
        "the same again after the restart",
    ]
    assert {one.rule for one in verdicts} == {"loops.same(3)"}
    assert len({one.key for one in verdicts}) == 1
    assert (verdicts[0].evidence, verdicts[0].since) == ((10, 30, 40), 1)
    assert verdicts[1].evidence == (10, 30, 40, 60)


def test_two_times_is_no_loop_and_three_times_is() -> None:
    assert judge_all(Loops(), run(fail("a"), fail("a"))) == []
    assert len(judge_all(Loops(), run(fail("a"), fail("a"), fail("a")))) == 1


def test_in_a_cycle_of_three_one_further_call_climbs() -> None:
    cycle = [act("a"), act("b"), act("c")]
    verdicts = judge_all(Loops(), run(*cycle * 2, act("a"), act("b")))
    assert [(one.evidence[-1], one.rung) for one in verdicts] == [(60, 0), (70, 1), (80, 2)]
    assert verdicts[0].what == "the last 3 calls had all had the same results before, in a round of 3 calls"
    assert (verdicts[0].evidence, verdicts[0].round, verdicts[0].wasted) == ((10, 20, 30, 40, 50, 60), 3, 3)


def test_after_the_last_rung_it_stays_at_the_last_rung() -> None:
    verdicts = judge_all(Loops(ladder=[Nudge(), Stop()]), run(*[fail("a")] * 6))
    assert [one.rung for one in verdicts] == [0, 1, 1, 1]
    assert verdicts[-1].what == "the same again after the stop"
    assert len(verdicts[-1].evidence) == len(verdicts[1].evidence), "evidence does not grow with every climb"


def test_a_world_change_clears_the_evidence() -> None:
    steps = run(fail("a"), fail("a"), fail("a"), change(), fail("a"), fail("a"), fail("a"), fail("a"))
    first, *later = judge_all(Loops(), steps)
    assert [(one.evidence[-1], one.rung) for one in later] == [(70, 0), (80, 1)]
    assert later[0].key == later[1].key != first.key
    assert later[0].evidence == (50, 60, 70)


def test_a_retry_after_a_landed_edit_is_no_loop() -> None:
    edits = [change(f"edit {n}") for n in range(10)]
    assert judge_all(Loops(), run(*(step for edit in edits for step in (act("test", "1 failed"), edit)))) == []


def test_the_same_change_with_the_same_result_again_is_no_change() -> None:
    steps = run(*[act("test", "1 failed"), change("the same edit")] * 3)
    assert [one.evidence[-1] for one in judge_all(Loops(Same(3)), steps)] == [60]
    assert judge_all(Loops(), run(*[replace(change("pay"), outcome=f"receipt {n}") for n in range(9)])) == []


def test_a_judged_step_is_not_judged_again() -> None:
    steps = run(fail("a"), fail("a"), fail("a"))
    verdict = Loops().judge(steps, [])
    assert verdict is not None
    assert Loops().judge(steps, [verdict]) is None


def test_the_same_call_with_a_new_outcome_does_not_climb() -> None:
    assert len(judge_all(Loops(), run(*[act("a")] * 3, act("a", "new")))) == 1


def test_two_loops_have_two_keys_and_their_own_rungs() -> None:
    verdicts = judge_all(Loops(), run(*[fail("a")] * 3, *[fail("b")] * 3, fail("a")))
    assert [one.rung for one in verdicts] == [0, 0, 1]
    assert verdicts[0].key == verdicts[2].key != verdicts[1].key


def test_the_order_of_a_cycle_does_not_change_its_base_key() -> None:
    one = Same(3).find(run(*[act("a"), act("b")] * 3))
    other = Same(3).find(run(*[act("b"), act("a")] * 3))
    assert one is not None
    assert other is not None
    assert one.key == other.key


def test_nothing_is_said_about_no_steps() -> None:
    assert Loops().judge([], []) is None


# --- batches: the calls of one model reply


def test_equal_calls_in_one_reply_are_one_occurrence() -> None:
    batch = [replace(fail("a"), step=1, event=event) for event in (1, 2, 3, 4)]
    assert judge_all(Loops(), batch) == []


def test_a_good_call_does_not_hide_the_bad_one_beside_it() -> None:
    steps = []
    for n in range(1, 5):
        steps += [replace(fail("a"), step=n, event=10 * n), replace(act("b", f"new {n}"), step=n, event=10 * n + 1)]
    past: list[Verdict] = []
    for n in range(2, 9, 2):
        past += [verdict for verdict in [Loops().judge(steps[:n], past)] if verdict]
    assert [(one.evidence[-1], one.rung) for one in past] == [(30, 0), (40, 1)]


def test_one_reply_climbs_one_rung_however_many_calls_continue_the_loop() -> None:
    steps = run(*[act("a"), act("b"), act("c")] * 2)
    more = [replace(act(name), step=10, event=event) for name, event in (("a", 100), ("b", 101), ("c", 102))]
    verdicts = judge_all(Loops(), [*steps, *more])
    assert [one.rung for one in verdicts] == [0, 1]
    first = judge_all(Loops(), steps)
    whole = Loops().judge([*steps, *more], first)
    assert whole is not None
    assert Loops().judge([*steps, *more], [*first, whole]) is None


def test_a_world_change_in_the_same_reply_clears_what_came_before_it() -> None:
    steps = run(fail("a"), fail("a"), fail("a"))
    assert Loops().judge([*steps, replace(change(), step=3, event=31)], []) is None


# --- what the rules find


@pytest.mark.promise(211)
@given(
    st.integers(1, 12),
    st.lists(st.integers(0, 10**6), max_size=20, unique=True),
    st.lists(st.integers(4, 9), max_size=6),
)
def test_a_planted_cycle_of_any_length_is_found_in_its_second_round_also_with_noise(
    period: int, before: list[int], gaps: list[int]
) -> None:
    steps = [act("progress", str(n)) for n in before]
    noise = {sum(gaps[: n + 1]): n for n in range(len(gaps))}
    for n in range(period + 60):
        steps.append(act(f"tool {n % period}"))
        if n in noise:
            steps.append(act("noise", f"new {noise[n]}"))
    found = Loops(Same(3)).detect(run(*steps))
    assert found is not None
    looped = sum(step.action.startswith("tool") for step in steps[: found + 1])
    assert looped <= 2 * period + 3, "in the second round, or three times of one"
    assert all(Same(3).find(run(*steps[: end + 1])) is None for end in range(found))


@pytest.mark.promise(14)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60))
def test_a_run_that_brings_a_new_outcome_each_time_never_alarms(kinds: list[tuple[str, bool, bool]]) -> None:
    steps = []
    for n, (name, failed, talk) in enumerate(kinds):
        words = "".join(chr(ord("g") + int(digit)) for digit in str(n))
        steps.append(say(words) if talk else fail(name, words) if failed else act(name, words))
    rule = Same(2) | Errors(2, window=24) | Idle(2) | Talk(2)
    assert judge_all(Loops(rule), run(*steps)) == []


@pytest.mark.promise(13)
@given(st.data())
def test_one_rung_for_each_further_occurrence_whatever_comes_between(data: st.DataObject) -> None:
    members = [act(f"loop {n}") for n in range(data.draw(st.integers(1, 4)))]
    steps, occurrences = members * 3, 0
    for n in range(data.draw(st.integers(0, 12))):
        again = data.draw(st.booleans())
        steps.append(data.draw(st.sampled_from(members)) if again else act("progress", str(n)))
        occurrences += again
    first = {1: 3, 2: 5, 3: 6, 4: 7}[len(members)]
    occurrences += len(members) * 3 - first
    assert [one.rung for one in judge_all(LONG, run(*steps))] == list(range(occurrences + 1))


@given(st.lists(st.sampled_from([act("a"), act("b"), fail("c"), say("hm"), change()]), max_size=40))
def test_verdicts_depend_only_on_the_past_and_begin_anew_after_a_world_change(kinds: list[Step]) -> None:
    steps = [replace(step, arguments=f"edit {step.event}") if step.world else step for step in run(*kinds)]
    verdicts = judge_all(LONG, steps)
    changes = [step.event for step in steps if step.world]
    for nth, verdict in enumerate(verdicts):
        same = [one for one in verdicts[:nth] if one.key == verdict.key]
        assert verdict.rung == len(same)
        assert list(verdict.evidence) == sorted(set(verdict.evidence))
        assert not any(verdict.evidence[0] <= event <= verdict.evidence[-1] for event in changes)
    last = max(changes, default=0)
    fresh = judge_all(LONG, [step for step in steps if step.event > last])
    assert [one for one in verdicts if one.evidence[0] > last] == fresh


def test_a_stray_act_does_not_hide_a_loop() -> None:
    assert alarms(Same(3), [act("a"), act("a"), act("x"), act("a")]) == [40]


def test_reading_the_same_again_between_news_is_no_loop() -> None:
    news = [act("read", str(n)) for n in range(9)]
    assert alarms(Same(3), [step for new in news for step in (act("list"), new)]) == []


def test_a_failing_call_is_found_whatever_comes_between_until_it_leaves_the_window() -> None:
    news = [act("read", str(n)) for n in range(40)]
    assert alarms(Same(3), [fail("a"), *news[:8], fail("a"), *news[8:16], fail("a")]) == [190]
    assert alarms(Same(3), [fail("a"), *news[:20], fail("a"), *news[20:40], fail("a")]) == []


def test_paging_is_no_loop_because_the_arguments_differ() -> None:
    pages = [replace(act("page", "empty"), arguments=json.dumps({"page": n})) for n in range(30)]
    assert alarms(Same(3) | (Errors(4) & Idle(8)), pages) == []


def test_polling_counts_past_its_own_limit_and_only_while_unchanged() -> None:
    poll = act("status", "pending", polling=True)
    assert alarms(Same(3), [poll] * 9) == [90]
    assert alarms(Same(3), [act("status", f"{n} %", polling=True) for n in range(30)]) == []


def test_a_cycle_of_polling_tools_is_found_past_their_limit() -> None:
    polls = [act(name, "pending", polling=True) for name in "abcd"]
    assert alarms(Same(3), polls * 9)[0] == 350


def test_the_same_error_from_other_arguments_is_found_by_errors() -> None:
    tries = [replace(fail("read", f"timeout after {n} ms at 0x{n}ab"), arguments=str(n)) for n in range(4)]
    mixed = [step for one in tries for step in (one, act("read", one.error))]
    assert alarms(Errors(4), mixed) == [70]
    assert alarms(Errors(4), [*tries[:3], fail("other", "timeout"), fail("read", "denied")]) == []
    assert alarms(Errors(4, window=6), mixed) == []


def test_idle_is_a_streak_of_old_outcomes_that_news_breaks() -> None:
    old = [replace(act("a"), arguments=str(n)) for n in range(9)]
    assert alarms(Idle(8), old) == [90]
    assert alarms(Idle(8), [*old[:7], act("a", "news"), *old[:7]]) == []


def test_an_unbroken_idle_streak_climbs_and_a_broken_one_does_not() -> None:
    old = [replace(act("a"), arguments=str(n)) for n in range(20)]
    loops = Loops(Idle(3))
    assert [one.rung for one in judge_all(loops, run(*old[:6]))] == [0, 1, 2]
    assert [one.rung for one in judge_all(loops, run(*old[:4], act("a", "news"), old[10]))] == [0]


def test_equal_talk_without_an_action_is_found() -> None:
    assert alarms(Talk(3), [say("I will look."), say("I will look."), say("I will look.")]) == [30]
    assert alarms(Talk(3), [say("hm"), say("hm"), act("a"), say("hm")]) == []
    assert alarms(Same(3), [say("hm")] * 9) == []


def test_talk_between_equal_calls_does_not_hide_them() -> None:
    talk = [say(f"attempt {n}") for n in range(3)]
    assert alarms(Same(3), [step for n in range(3) for step in (talk[n], act("a"))]) == [60]


def test_both_object_only_to_a_step_that_each_objects_to() -> None:
    rule = Errors(2) & Idle(3)
    tries = [replace(fail("read", "timeout"), arguments=str(n)) for n in range(4)]
    assert alarms(rule, tries) == [40]
    found = rule.find(run(*tries))
    assert found is not None
    assert found.rule == "loops.errors(2) & loops.idle(3)"
    assert found.evidence == (10, 20, 30, 40)
    reworded = replace(tries[0], arguments="reworded")
    assert [one.rung for one in judge_all(Loops(rule), run(*tries, reworded))] == [0, 1]
    assert [one.rung for one in judge_all(Loops(rule), run(*tries, act("list"), reworded))] == [0], "news came between"
    assert [one.rung for one in judge_all(Loops(rule), run(*tries, act("list"), tries[0]))] == [0, 1], "the very same"


def test_the_first_that_objects_is_named() -> None:
    found = (Talk(3) | Same(2) | Errors(2)).find(run(fail("a"), fail("a")))
    assert found is not None
    assert found.rule == "loops.same(2)"


def test_verdicts_of_a_rule_that_is_gone_are_not_continued() -> None:
    steps = run(*[fail("a")] * 4)
    past = judge_all(Loops(), steps[:3])
    assert Loops(Same(9)).judge(steps, past) is None
    again = Loops(Same(4)).judge(steps, past)
    assert again is not None
    assert again.rung == 0


# --- words and checks


def test_the_guard_shows_what_it_is_armed_with() -> None:
    assert str(Loops()) == (
        "Same(3) | Reworded(3) | Near(4) | Errors(6) | (Errors(4) & Idle(8)) | Idle(12) | Talk(3) | Resent(3)"
        " | Malformed(4), ladder nudge → restart → stop"
    )
    assert str(Loops(Same(3).off("poll") | Talk(3), off=["wait"])) == (
        "Same(3).off(poll) | Talk(3), off wait, ladder nudge → restart → stop"
    )
    assert str((Same(3) | Talk(3)) & Idle(8)) == "(Same(3) | Talk(3)) & Idle(8)"
    guard: LoopGuard = Loops(ladder=[Nudge(), Stop()])
    assert guard.rungs == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"name":"attrs "}', 'f("attrs ")'),
        ('{"a":1,"b":[true]}', "f(a=1, b=[true])"),
        ("{}", "f()"),
        ("plan of two", "f(plan of two)"),
        ('{"q":"' + "z" * 99 + '"}', 'f("' + "z" * 58 + "…)"),
    ],
)
def test_a_call_is_shown_as_people_write_it(arguments: str, text: str) -> None:
    assert shown(replace(act("f"), arguments=arguments)) == text


def test_what_changes_from_time_to_time_in_an_error_is_masked() -> None:
    one = masked("job 4f0e8a5c-17b2-4d8e-9c3f-0a1b2c3d4e5f failed at 0x7FFF12\n  after 31 s, commit deadbeef01")
    other = masked("job 00000000-aaaa-bbbb-cccc-0123456789ab failed at 0x12  after 4 s, commit 0a0b0c0d0e")
    assert one == other == "job # failed at # after # s, commit #"
    assert masked("no such file") != masked("no such table")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Same(1), r"Same\.times must be a whole number >= 2, got 1"),
        (lambda: Same(3, window=2), r"Same\.window must be a whole number >= 3, got 2"),
        (lambda: Same(3, window=200), r"Same\.window must be at most 128, the acts that are remembered, got 200"),
        (lambda: Same(3, stray=-1), r"Same\.stray .* got -1"),
        (lambda: Reworded(3, alike=1.5), r"Reworded\.alike must be a share from 0 to 1, got 1\.5"),
        (lambda: Reworded(3, any=20), r"Reworded\.window must be a whole number >= 20, got 12"),
        (lambda: Same(3).off(), r"Same\(3\)\.off\(…\) must name tools, got \(\)"),
        (lambda: Loops(off="poll"), r"Loops\.off must list the names of tools, got 'poll'"),
        (lambda: Errors(0), r"Errors\.times .* got 0"),
        (lambda: Errors(4, window=3), r"Errors\.window must be a whole number >= 4, got 3"),
        (lambda: Idle(True), r"Idle\.times .* got True"),
        (lambda: Talk(1), r"Talk\.times .* got 1"),
        (lambda: Loops(ladder=[]), r"Loops\.ladder must have at least one rung"),
        (lambda: Loops("same"), r"Loops\.rule must be a rule such as Same\(3\), got 'same'"),  # type: ignore[arg-type]
    ],
)
def test_a_bad_option_is_named(make: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        make()
