"""The rules beyond the plain repeat, the memory of a watch, and that guards can fire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from understudy.actors.agents.guards import Nudge, Step, Stop, Verdict
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.state import CallState, Run, Sub, Turn
from understudy.supervisors.guards.armed import silent
from understudy.supervisors.guards.combining import Finding, LoopRule
from understudy.supervisors.guards.likeness import alike, settled, words
from understudy.supervisors.guards.loops import RULE, Loops, Watch
from understudy.supervisors.guards.rules import Errors, Idle, Malformed, Near, Resent, Reworded, Same, Talk
from understudy.supervisors.guards.trail import REACH, Entry, Mark, Trail

PAGE = " ".join(f"paragraph{n}" for n in range(60))


def act(name: str, outcome: str = "ok", asked: str = "{}", **extra: Any) -> Step:
    text = extra.pop("text", outcome)
    return Step(step=0, agent="agent", action=name, arguments=asked, outcome=outcome, text=text, **extra)


def fail(name: str, error: str = "KeyError: 'x'", asked: str = "{}", **extra: Any) -> Step:
    return act(name, f"digest of {error}", asked, error=error, text=error, **extra)


def say(text: str, agent: str = "agent", **extra: Any) -> Step:
    return Step(step=0, agent=agent, action="", arguments="", outcome=text, text=text, **extra)


def run(*steps: Step) -> list[Step]:
    """One act a model step; events 10, 20, 30, …"""
    return [replace(step, step=n, event=10 * n) for n, step in enumerate(steps, 1)]


def alarms(rule: LoopRule, steps: Iterable[Step]) -> list[int]:
    """The events at which the rule objects."""
    grown = run(*steps)
    return [grown[index].event for index, _ in Loops(rule).findings(grown)]


# --- rewording, near results


def test_other_words_for_the_same_question_with_the_same_result_are_found() -> None:
    asked = [
        '{"q":"find the lamp in order 7"}',
        '{"q":"find the Lamp, in order 7!"}',
        '{"q":"in order 7 find the lamp"}',
    ]
    assert alarms(Reworded(3), [act("search", "nothing found", q) for q in asked]) == [30]
    assert alarms(Reworded(3), [act("search", f"found {n}", q) for n, q in enumerate(asked)]) == []
    assert alarms(Reworded(3), [act("search", "digest of nothing", q, text="", blank=True) for q in asked]) == [30], (
        "the very same words"
    )
    unlike = ['{"q":"find the lamp"}', '{"q":"look for a shade"}', '{"q":"where is my parcel"}']
    assert alarms(Reworded(3), [act("search", "nothing found", q) for q in unlike]) == []


def test_pages_and_items_in_turn_are_not_other_words_until_the_limit_for_whatever_is_asked() -> None:
    pages = [
        act("page", "empty", json.dumps({"of": "the long list of all orders of a year", "page": n})) for n in range(9)
    ]
    assert alarms(Reworded(3), pages[:5]) == [], "five shelves without the book are honest"
    assert alarms(Reworded(3), pages) == [60, 70, 80, 90]
    assert alarms(Reworded(3, any=0), pages) == []
    unsure = [replace(page, unsure=True) for page in pages]
    assert alarms(Reworded(3), unsure) == [], "nobody knows what these calls did"


def test_dates_times_ids_and_durations_do_not_make_a_result_new() -> None:
    texts = [
        f"at 2026-11-23T01:0{n}:00Z request 4f0e8a5c-17b2-4d8e-9c3f-0a1b2c3d4e5{n} took {n} ms: refused"
        for n in range(3)
    ]
    assert alarms(Same(3), [act("book", f"digest {n}", text=text) for n, text in enumerate(texts)]) == [30]
    assert alarms(Same(3), [act("count", f"digest {n}", text=f"{9 - n} left") for n in range(9)]) == []
    assert settled("3 of 7 left") != settled("2 of 7 left")
    assert settled("after 31 s") == settled("after  4 s")


def test_a_page_described_anew_is_found_and_one_that_says_something_else_is_not() -> None:
    described = [act("look", f"digest {n}", text=f"{PAGE} advert{n}") for n in range(4)]
    assert alarms(Near(4), described) == [40]
    assert alarms(Near(4), [act("look", str(n), text=f"{n} rows") for n in range(9)]) == [], "short results are exact"
    pages = [act("next", str(n), text=" ".join(f"p{n}w{m}" for m in range(60))) for n in range(9)]
    assert alarms(Near(4), pages) == []
    assert alarms(Near(4), [replace(one, polling=True) for one in described]) == []


def test_long_results_that_differ_in_the_middle_alone_are_new_in_a_run() -> None:
    run = Run("r")
    run.subs[0] = Sub(0, "agent", "Prompt", "{}")
    for n in range(6):
        rows = json.dumps({"rows": ["x" * 1_500, f"row {n}", "y" * 1_500]})
        call = ToolCall("c", "read", "{}")
        turn = Turn(
            n + 1, ModelReply("", (call,)), [CallState(call, ev.ToolAsked(n + 1, 0, "read", "{}", "read", "{}"))]
        )
        run.subs[0].turns.append(turn)
        apply(run, Record("r", n + 1, 0.0, 0.0, 0, "agent", 1, 0, ev.ToolAnswered(n + 1, 0, rows)))
    assert len(run.subs[0].evidence) == 6
    assert Loops().detect(run.subs[0].evidence) is None


def test_tries_again_after_an_error_of_the_network_are_no_evidence() -> None:
    run = Run("r")
    run.subs[0] = Sub(0, "agent", "Prompt", "{}")
    for n in range(6):
        failed = ev.ModelFailed(1, "t", "overloaded", "HTTP 503", True, {})
        apply(run, Record("r", n + 1, 0.0, 0.0, 0, "agent", 1, 0, failed))
    assert (run.subs[0].failures, list(run.subs[0].evidence)) == (6, [])


# --- errors, malformed answers


@pytest.mark.promise(206)
def test_a_success_between_does_not_reset_a_streak_of_errors() -> None:
    tries = [fail("read", "timeout after 3 ms", str(n)) for n in range(6)]
    mixed = [step for n, one in enumerate(tries) for step in (one, act("read", f"page {n}", f"page {n}"))]
    assert alarms(Errors(6), mixed) == [110]
    assert alarms(RULE, mixed) == [110]


def test_answers_that_do_not_fit_are_found_in_a_row_whatever_they_are() -> None:
    wrong = [replace(fail(f"invented {n}", f"no tool {n}"), malformed=True) for n in range(3)]
    said = replace(say("no JSON"), malformed=True)
    assert alarms(Malformed(4), [*wrong, said]) == [40]
    assert alarms(Malformed(4), [*wrong, act("real"), said]) == []


# --- talk, instructions, agents among themselves


def test_agents_that_thank_each_other_for_ever_are_found() -> None:
    polite = [say(f"Thank you very much {who}, happy to help!", who) for who in ("ana", "li") * 3]
    assert alarms(Talk(3), polite)[0] == 50
    dialogue = [say(text, "ana") for text in ("Where is it?", "Which order do you mean?", "Is that the blue lamp?")]
    assert alarms(Talk(3), dialogue) == []


@pytest.mark.promise(207)
def test_the_same_instruction_to_a_worker_is_found_when_nothing_new_comes_of_it() -> None:
    orders = [
        say(f"Please unpack the archive and read the table{end}", to="worker") for end in ("", " now", ", please")
    ]
    assert alarms(Resent(3), orders) == [30]
    answers = [act("work", f"answer {n}", str(n)) for n in range(3)]
    assert alarms(Resent(3), [step for pair in zip(orders, answers, strict=True) for step in pair]) == []
    task = '{"text":"review the chapter on lamps and shades for mistakes"}'
    answer = "I could not open the chapter on lamps, please send it once more so that I can begin"
    asked = [act("editor", f"digest {n}", task, text=answer + " today" * (n % 2), to="editor") for n in range(3)]
    assert alarms(Resent(3), asked) == [30], "the worker says the same in other words"
    drafts = [
        act("editor", f"digest {n}", task, text=f"draft {n}: " + " ".join(f"w{n}{m}" for m in range(20)), to="editor")
        for n in range(5)
    ]
    assert alarms(Resent(3), drafts) == []


def test_nothing_new_for_long_is_found_whatever_is_asked() -> None:
    old = [act("look", "the same hall", str(n)) for n in range(9)]
    assert alarms(Idle(8), old) == [90]
    assert alarms(Idle(8), [*old[:7], say("Let me think."), *old[:7]]) == []


# --- what is switched off, and custom rules


def test_a_rule_or_the_guard_is_deaf_to_tools_that_are_named() -> None:
    waits, polls = [act("wait")] * 4, [act("poll")] * 4
    assert alarms(Same(3).off("wait"), [*waits, *polls]) == [70, 80]
    assert list(Loops(off=["wait", "poll"]).findings(run(*waits, *polls))) == []
    guard = Loops(Same(3).off("wait") | Talk(3), ladder=(Nudge(), Stop()))
    verdicts = judged(guard, run(*polls))
    assert [(one.rule, one.rung) for one in verdicts] == [
        ("loops.same(3).off(wait)", 0),
        ("loops.same(3).off(wait)", 1),
    ]


class Forbidden(LoopRule, frozen=True):
    """A rule of a user's own: one tool may not be called at all."""

    tool: str

    def look(self, trail: Trail) -> Finding | None:
        newest = trail.newest
        if newest.step.action != self.tool:
            return None
        return Finding(self.name, f"called {self.tool}", self.tool, (newest.step.event,), newest.step.step)

    def mark(self, entry: Entry) -> Mark | None:
        return (entry.step.action,)

    def example(self) -> Sequence[Step]:
        return (act(self.tool),)


def test_a_rule_of_ones_own_is_asked_and_climbs() -> None:
    assert [
        one.rung for one in judged(Loops(Forbidden("drop") | Same(3)), run(act("a"), act("drop"), act("drop")))
    ] == [0, 1]


# --- guards can fire


@pytest.mark.promise(209)
@pytest.mark.parametrize("rule", RULE.parts(), ids=str)
def test_each_default_rule_fires_on_a_sample(rule: LoopRule) -> None:
    assert silent([rule]) == []
    assert rule.__doc__
    assert rule.__doc__.strip().endswith(".")


@pytest.mark.promise(209)
def test_a_guard_that_cannot_fire_is_refused_when_it_is_declared() -> None:
    with pytest.raises(SpecError, match=r"Loops\.rule: Errors\(4\) & Talk\(3\) cannot fire"):
        Loops(Same(3) | (Errors(4) & Talk(3)))

    class Deaf(Forbidden, frozen=True):
        def example(self) -> Sequence[Step]:
            return ()

    with pytest.raises(SpecError, match="cannot fire"):
        Loops(Deaf("drop"))


# --- a watch remembers, and says the same


ACTS = st.sampled_from(
    [
        act("a"),
        act("b", polling=True),
        act("b", "new", polling=True),
        fail("c"),
        fail("c", "KeyError: 'x'", '{"n": 1}'),
        act("d", "none", '{"q": "one two three"}'),
        act("d", "none", '{"q": "three two one"}'),
        act("e", "digest 1", text="at 10:00:01 refused"),
        act("e", "digest 2", text="at 10:00:02 refused"),
        act("w", world=True),
        act("w", asked='{"n": 2}', world=True),
        say("hm, hm"),
        say("hm, hm, hm", to="other"),
        replace(fail("?", "no such tool"), malformed=True),
        act("u", "", unsure=True, blank=True, text=""),
    ]
)


def judged(guard: Loops, steps: Sequence[Step]) -> list[Verdict]:
    """Verdicts as a run grows, each judged from the beginning."""
    past: list[Verdict] = []
    for end in range(1, len(steps) + 1):
        if verdict := guard.judge(steps[:end], past):
            past.append(verdict)
    return past


def batches(steps: Sequence[Step], sizes: Sequence[int]) -> list[Step]:
    """Some acts share a model step."""
    found: list[Step] = []
    for number, size in enumerate([*sizes, *[1] * len(steps)], 1):
        for step in steps[len(found) : len(found) + size]:
            found.append(replace(step, step=number, event=10 * (len(found) + 1)))
    return found


@pytest.mark.promise(205)
@given(st.lists(ACTS, max_size=60), st.lists(st.integers(1, 4), max_size=20), st.data())
def test_a_watch_says_what_is_said_from_scratch_wherever_it_begins(
    kinds: list[Step], sizes: list[int], data: st.DataObject
) -> None:
    guard = Loops(ladder=(Nudge(),) * 9)
    steps = batches(kinds, sizes)
    ends = [n for n in range(1, len(steps) + 1) if n == len(steps) or steps[n].step != steps[n - 1].step]
    fresh = data.draw(st.sampled_from([*ends, 0]))
    past: list[Verdict] = []
    watch = Watch(guard)
    for end in ends:
        scratch = guard.judge(steps[:end], past)
        if end == fresh:
            watch = Watch(guard)  # as after a restart of the process
        assert watch.judge(steps[:end], end, past) == scratch
        assert watch.judge(steps[:end], end, past) == scratch, "asking again changes nothing"
        if scratch is not None:
            past.append(scratch)
            assert watch.judge(steps[:end], end, past) is None


@given(st.lists(ACTS, min_size=1, max_size=40), st.integers(1, 40))
def test_verdicts_of_a_prefix_and_of_the_rest_are_those_of_the_whole(kinds: list[Step], cut: int) -> None:
    guard = Loops(ladder=(Nudge(),) * 9)
    steps = run(*kinds)
    whole = judged(guard, steps)
    past = judged(guard, steps[:cut])
    assert past == [one for one in whole if one.evidence[-1] <= 10 * cut]
    watch = Watch(guard)
    for end in range(cut + 1, len(steps) + 1):
        if verdict := watch.judge(steps[:end], end, past):
            past.append(verdict)
    assert past == whole


def test_evidence_that_was_dropped_is_not_needed_and_memory_is_bounded() -> None:
    guard = Loops(Same(3), ladder=(Nudge(),) * 3)
    steps = run(*[act("read", str(n), str(n)) for n in range(1000)], *[act("a")] * 4)
    watch = Watch(guard)
    kept: list[Step] = []
    past: list[Verdict] = []
    for total, step in enumerate(steps, 1):
        kept = [*kept, step][-256:]
        if verdict := watch.judge(kept, total, past):
            past.append(verdict)
    assert [one.evidence[-1] for one in past] == [10_030, 10_040]
    assert guard.judge(steps[-256:], past[:1]) == past[1]
    trail = Trail()
    for step in steps:
        trail.add(step)
    assert len(trail) == REACH
    chain, entry = 0, trail.newest.older_call
    while entry is not None:
        chain, entry = chain + 1, entry.older_call
    assert chain == 3
    assert max(map(len, (trail._acts, trail._calls, trail._results, trail._faults))) <= REACH


def test_links_between_equal_acts_do_not_hold_what_was_forgotten() -> None:
    trail = Trail()
    for step in run(*[fail("a")] * 1000):
        trail.add(step)
    length, entry = 0, trail.newest
    while entry.older_act is not None:
        length, entry = length + 1, entry.older_act
    assert length <= REACH
    assert len(trail.faults(trail.newest, REACH)) == REACH


@pytest.mark.promise(210)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.booleans()), max_size=60))
def test_a_run_that_brings_something_new_each_time_is_left_alone_by_every_default_rule(
    kinds: list[tuple[str, bool, bool]],
) -> None:
    steps = []
    for n, (name, failed, talk) in enumerate(kinds):
        new = " ".join("".join(chr(ord("g") + int(digit)) for digit in f"{n}{m}") for m in range(40))
        steps.append(say(new) if talk else fail(name, new) if failed else act(name, new, '{"of":"the same"}'))
    assert judged(Loops(), run(*steps)) == []


def test_what_a_loop_costs_is_told() -> None:
    (found,) = [one for _, one in Loops(Same(3)).findings(run(*[act(name) for name in "abcab"], act("c")))]
    assert (found.round, found.wasted, found.since) == (3, 3, 1)


def test_likeness_is_the_share_of_common_words() -> None:
    assert alike(words("a b c d"), words("A, b; c!"), 0.75)
    assert not alike(words("a b c d"), words("a b c"), 0.76)
    assert alike(words(""), words("…"), 1.0) == (words("…") == frozenset())
