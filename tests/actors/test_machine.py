"""The engine, rule by rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest

from understudy.actors import machine as engine
from understudy.actors.errors import UsageError
from understudy.actors.lifecycle import NORMAL, Exit
from understudy.actors.machine import Machine, Next, Timeout


class S(Enum):
    A = 1
    B = 2


KEEP: Next[S] = Next("keep")
TO_A, TO_B = Next("goto", S.A), Next("goto", S.B)
REPEAT: Next[S] = Next("repeat")
Handler = Callable[[S, Any], Any]


class Bench:
    """A machine on a bench: what it did is in `log`, its timers are fired by hand."""

    def __init__(self, handler: Handler, enter: Callable[[S, S], Any] | None = None) -> None:
        self.handler, self.enter = handler, enter
        self.log: list[Any] = []
        self.timers: dict[str, int] = {}
        self.asked = 0
        self.machine: Machine[S] = engine.new(S.A, enters=enter is not None)
        self.step(engine.Begin())

    def step(self, given: engine.Input) -> None:
        following: engine.Input | None = given
        while following is not None:
            self.machine, effects = engine.step(self.machine, following)
            following = None
            for effect in effects:
                following = self.carry_out(effect)

    def carry_out(self, effect: engine.Effect) -> engine.Input | None:
        match effect:
            case engine.Handle(event):
                self.log.append((self.machine.state.name, event))
                return engine.Returned(self.handler(self.machine.state, event))
            case engine.Enter(previous):
                self.log.append(("enter", self.machine.state.name, previous.name))
                return engine.Returned(self.enter(self.machine.state, previous) if self.enter else None)
            case engine.Start(name, ref):
                self.timers[name] = ref
            case engine.Unset(ref):
                self.timers = {name: each for name, each in self.timers.items() if each != ref}
            case engine.Answer(asker, value):
                self.log.append(("answer", asker, value))
            case engine.End(exit):
                self.log.append(("end", exit))
            case engine.Closed():
                pass
        return None

    def send(self, event: object) -> None:
        self.asked += 1
        self.step(engine.Arrived(self.asked, event))

    def fire(self, name: str) -> None:
        self.step(engine.Fired(name, self.timers.pop(name)))

    def handled(self) -> list[Any]:
        return [entry for entry in self.log if len(entry) == 2 and entry[0] in S.__members__]


def by(**answers: Any) -> Handler:
    """A handler by event; a list of answers is taken one by one, and what has none is kept."""

    def handler(state: S, event: Any) -> Any:
        key = f"t_{event.name}" if isinstance(event, Timeout) else event
        given = answers.get(f"{state.name}_{key}", answers.get(key, KEEP))
        return given.pop(0) if isinstance(given, list) else given

    return handler


# --- rules 1 and 2 ------------------------------------------------------------------------------------------


@pytest.mark.promise(60)
def test_a_reply_goes_out_before_the_enter_call_and_before_anything_is_settled() -> None:
    bench = Bench(by(go=TO_B.insert("next").reply("gone")), lambda state, previous: None)
    bench.send("go")
    assert bench.log == [
        ("enter", "A", "A"), ("A", "go"), ("answer", 1, "gone"), ("enter", "B", "A"), ("B", "next"),
    ]  # fmt: skip


@pytest.mark.promise(60)
def test_of_a_timeout_given_twice_the_last_word_counts_at_its_place() -> None:
    bench = Bench(by(go=KEEP.after(0, "x", 1).after(0, "y", 2).after(0, "x", 3)))
    bench.send("go")
    assert bench.handled()[1:] == [("A", Timeout("y", 2)), ("A", Timeout("x", 3))]


@pytest.mark.promise(60)
def test_of_postpone_given_twice_the_last_word_counts() -> None:
    bench = Bench(by(a=[KEEP.postpone().postpone(False)], b=[KEEP.postpone(False).postpone(), KEEP], go=TO_B))
    for event in ("a", "b", "go"):
        bench.send(event)
    assert bench.handled() == [("A", "a"), ("A", "b"), ("A", "go"), ("B", "b")]


@pytest.mark.promise(61)
def test_the_initial_state_gets_one_enter_call_with_itself_as_previous_before_any_event() -> None:
    bench = Bench(by(), lambda state, previous: None)
    bench.send("a")
    bench.send("b")
    assert bench.log == [("enter", "A", "A"), ("A", "a"), ("A", "b")]


@pytest.mark.promise(61)
def test_repeat_makes_the_enter_call_again_and_keep_and_going_nowhere_do_not() -> None:
    bench = Bench(by(again=REPEAT, stay=TO_A, keep=KEEP), lambda state, previous: None)
    for event in ("again", "stay", "keep"):
        bench.send(event)
    assert [entry for entry in bench.log if entry[0] == "enter"] == [("enter", "A", "A")] * 2


@pytest.mark.promise(61)
def test_an_enter_call_may_set_timeouts_reply_and_stop() -> None:
    def enter(state: S, previous: S) -> Next[S] | None:
        return KEEP.after(5).after(9, "own").reply("entered").stop() if state is S.B else None

    bench = Bench(by(go=TO_B), enter)
    bench.send("go")
    assert sorted(bench.timers) == ["own", "state"]
    assert bench.log[-2:] == [("answer", 1, "entered"), ("end", NORMAL)]


@pytest.mark.promise(61)
@pytest.mark.parametrize(
    ("answer", "named"),
    [(TO_B, "goto(<S.B: 2>)"), (REPEAT, "repeat"), (KEEP.postpone(), "Postpone"), (KEEP.insert("z"), "Insert")],
)
def test_an_enter_call_may_not_change_or_repeat_the_state_postpone_or_insert(answer: Next[S], named: str) -> None:
    with pytest.raises(UsageError, match=r"state <S.A: 1>, enter call: returned") as caught:
        Bench(by(), lambda state, previous: answer)
    assert named in str(caught.value)


# --- rules 3 to 5 -------------------------------------------------------------------------------------------


@pytest.mark.promise(62)
def test_postponed_events_are_retried_oldest_first_ahead_of_newer_ones_when_the_state_changes() -> None:
    bench = Bench(by(A_a=KEEP.postpone(), A_b=KEEP.postpone(), go=TO_B.insert("new")))
    for event in ("a", "b", "go"):
        bench.send(event)
    assert bench.handled()[3:] == [("B", "new"), ("B", "a"), ("B", "b")]
    assert bench.machine.postponed == ()


@pytest.mark.promise(62)
@pytest.mark.parametrize("stay", [KEEP, REPEAT, TO_A])
def test_postponed_events_stay_when_the_state_does_not_change(stay: Next[S]) -> None:
    bench = Bench(by(A_a=KEEP.postpone(), x=stay), lambda state, previous: None)
    bench.send("a")
    bench.send("x")
    assert bench.handled() == [("A", "a"), ("A", "x")]
    assert [held.event for held in bench.machine.postponed] == ["a"]


@pytest.mark.promise(62)
def test_the_event_that_changes_the_state_may_itself_be_postponed_and_is_retried_last() -> None:
    bench = Bench(by(A_a=KEEP.postpone(), go=[TO_B.postpone(), KEEP]))
    bench.send("a")
    bench.send("go")
    assert bench.handled() == [("A", "a"), ("A", "go"), ("B", "a"), ("B", "go")]


@pytest.mark.promise(62)
def test_a_retried_event_may_be_postponed_again() -> None:
    bench = Bench(by(a=[KEEP.postpone(), KEEP.postpone(), KEEP], go=TO_B, back=TO_A))
    for event in ("a", "go", "back"):
        bench.send(event)
    assert bench.handled() == [("A", "a"), ("A", "go"), ("B", "a"), ("B", "back"), ("A", "a")]


@pytest.mark.promise(63)
def test_inserted_then_retried_then_older_events_then_zero_timeouts_then_what_is_outside() -> None:
    bench = Bench(
        by(
            A_a=KEEP.postpone(),
            first=KEEP.insert("older"),
            older=KEEP.insert("go").insert("oldest"),
            go=TO_B.after(0, "y").after(0, "x").insert("i1").insert("i2"),
        )
    )
    for event in ("a", "first", "outside"):
        bench.send(event)
    assert bench.handled()[2:] == [
        ("A", "older"), ("A", "go"), ("B", "i1"), ("B", "i2"), ("B", "a"), ("B", "oldest"),
        ("B", Timeout("y")), ("B", Timeout("x")), ("B", "outside"),
    ]  # fmt: skip


# --- rule 6 -------------------------------------------------------------------------------------------------


@pytest.mark.promise(64)
def test_the_state_timeout_outlives_events_and_is_cancelled_by_a_change_of_state_alone() -> None:
    bench = Bench(by(arm=KEEP.after(5), go=TO_B), lambda state, previous: None)
    for event in ("arm", "other"):
        bench.send(event)
    assert "state" in bench.timers
    bench.send("go")
    assert bench.timers == {}


@pytest.mark.promise(64)
def test_the_event_timeout_is_cancelled_by_any_event_a_postponed_one_and_a_timeout_too() -> None:
    arm = KEEP.after(5, "event").after(9, "own")
    bench = Bench(by(arm=arm, late=KEEP.postpone()))
    for disturb, what in ((bench.send, "other"), (bench.send, "late"), (bench.fire, "own")):
        bench.send("arm")
        assert "event" in bench.timers
        disturb(what)
        assert "event" not in bench.timers


@pytest.mark.promise(64)
def test_a_zero_event_timeout_fires_only_when_no_event_is_there() -> None:
    bench = Bench(by(go=KEEP.insert("a").after(0, "event"), alone=KEEP.after(0, "event", "nothing came")))
    bench.send("go")
    assert bench.handled() == [("A", "go"), ("A", "a")]
    bench.send("alone")
    assert bench.handled()[-1] == ("A", Timeout("event", "nothing came"))


@pytest.mark.promise(64)
def test_a_named_timeout_is_cancelled_by_cancel_and_by_nothing_else() -> None:
    bench = Bench(by(arm=KEEP.after(5, "own"), go=TO_B, no=KEEP.cancel("own").cancel("unknown")))
    for event in ("arm", "other", "go"):
        bench.send(event)
    assert "own" in bench.timers
    bench.send("no")
    assert bench.timers == {}


@pytest.mark.promise(64)
def test_setting_a_timeout_again_restarts_it_and_infinity_cancels_it() -> None:
    bench = Bench(by(arm=KEEP.after(5, "own", 1), anew=KEEP.after(7, "own", 2), never=KEEP.after(math.inf, "own")))
    bench.send("arm")
    old = bench.timers["own"]
    bench.send("anew")
    assert bench.timers["own"] != old
    bench.fire("own")
    assert bench.handled()[-1] == ("A", Timeout("own", 2))
    bench.send("arm")
    bench.send("never")
    assert (bench.timers, dict(bench.machine.timers)) == ({}, {})


@pytest.mark.promise(64)
def test_update_changes_the_payload_alone_and_fires_at_once_when_nothing_runs() -> None:
    bench = Bench(by(arm=KEEP.after(5, "own", 1), new=KEEP.update("own", 2)))
    bench.send("arm")
    ref = bench.timers["own"]
    bench.send("new")
    assert bench.timers["own"] == ref
    bench.fire("own")
    assert bench.handled()[-1] == ("A", Timeout("own", 2))
    bench.send("new")
    assert bench.handled()[-2:] == [("A", "new"), ("A", Timeout("own", 2))]


@pytest.mark.promise(64)
def test_an_absolute_time_is_passed_on_as_such() -> None:
    machine, _ = engine.step(engine.new(S.A), engine.Begin())
    machine, _ = engine.step(machine, engine.Arrived(1, "go"))
    _, effects = engine.step(machine, engine.Returned(KEEP.at(99.5, "own")))
    assert engine.Start("own", 1, 99.5, absolute=True) in effects


@pytest.mark.promise(64)
def test_a_zero_state_timeout_is_cancelled_by_a_change_of_state_that_comes_before_it() -> None:
    bench = Bench(by(go=KEEP.after(0).insert("leave"), leave=TO_B))
    bench.send("go")
    assert bench.handled() == [("A", "go"), ("A", "leave")]


@pytest.mark.promise(64)
@pytest.mark.parametrize("seconds", [-1, math.nan, -math.inf])
def test_a_timeout_in_the_past_or_without_a_number_is_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match=r"timeout 'own': .* seconds; 0 or more"):
        KEEP.after(seconds, "own")


# --- rules 7 and 8 ------------------------------------------------------------------------------------------


@pytest.mark.promise(65)
def test_a_timer_that_was_set_anew_cancelled_or_has_fired_is_not_a_timeout_any_more() -> None:
    bench = Bench(by(arm=KEEP.after(5, "own"), no=KEEP.cancel("own")))
    bench.send("arm")
    first = bench.timers["own"]
    bench.send("arm")
    second = bench.timers["own"]
    bench.fire("own")
    bench.send("arm")
    third = bench.timers["own"]
    bench.send("no")
    before = bench.handled()
    for ref in (first, second, third, 0, 99):
        bench.step(engine.Fired("own", ref))
    assert bench.handled() == before


@pytest.mark.promise(66)
@pytest.mark.parametrize("answer", [None, S.B, ("goto", S.B), "B"])
def test_an_unexpected_answer_is_named_with_state_and_event(answer: object) -> None:
    with pytest.raises(UsageError, match=r"state <S.A: 1>, event 'a': the handler returned") as caught:
        Bench(by(a=answer)).send("a")
    assert repr(answer) in str(caught.value)


@pytest.mark.promise(66)
def test_a_state_of_another_kind_and_an_unknown_action_are_named() -> None:
    with pytest.raises(UsageError, match=r"goto\('B'\), which is no S"):
        Bench(by(a=Next("goto", "B"))).send("a")
    with pytest.raises(UsageError, match=r"unknown action 'postpone'"):
        Bench(by(a=Next("keep", None, ("postpone",)))).send("a")  # type: ignore[arg-type]


@pytest.mark.promise(66)
def test_a_stop_with_replies_answers_first_then_ends_and_handles_nothing_more() -> None:
    bench = Bench(by(a=KEEP.insert("more").after(0).reply(7).stop(Exit("normal", "enough"))))
    bench.send("a")
    assert bench.log == [("A", "a"), ("answer", 1, 7), ("end", Exit("normal", "enough"))]
    bench.step(engine.Arrived(9, "b"))
    assert len(bench.log) == 3


def test_an_input_out_of_turn_is_refused() -> None:
    machine, _ = engine.step(engine.new(S.A), engine.Begin())
    with pytest.raises(UsageError, match="out of turn: the machine is idle"):
        engine.step(machine, engine.Returned(KEEP))
    with pytest.raises(UsageError, match="out of turn: the machine is idle"):
        engine.step(machine, engine.Begin())


def test_a_step_leaves_the_machine_it_was_given_as_it_was() -> None:
    bench = Bench(by(arm=KEEP.after(5, "own"), a=KEEP.postpone()))
    bench.send("arm")
    before = bench.machine
    told = (before.timers["own"], before.postponed, before.refs)
    bench.send("a")
    bench.fire("own")
    assert (before.timers["own"], before.postponed, before.refs) == told
