"""The engine against a plain re-statement of gen_statem's rules in lists, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from understudy.actors import machine as engine
from understudy.actors.machine import Next, Timeout


class S(Enum):
    A = 1
    B = 2
    C = 3


Word = tuple[Any, ...]
Said = tuple[str, S, tuple[Word, ...]]
"""What a handler answers, as plain data: kind, state, actions."""
KEEP: Said = ("keep", S.A, ())
NAMES = ("state", "event", "x", "y")
TIMES = (0.0, 1.0, 2.0, 3.5, math.inf)

names = st.sampled_from(NAMES)
payloads = st.integers(0, 9)
timeouts = st.one_of(
    st.tuples(st.just("after"), names, st.sampled_from(TIMES), payloads),
    st.tuples(st.just("at"), names, st.sampled_from([-1.0, 0.0, 2.0, 4.0, math.inf]), payloads),
    st.tuples(st.just("cancel"), names),
    st.tuples(st.just("update"), names, payloads),
)
actions = st.lists(
    st.one_of(
        timeouts,
        timeouts,
        st.tuples(st.just("postpone"), st.sampled_from([True, True, False])),
        st.tuples(st.just("insert"), st.sampled_from("pqr")),
        st.tuples(st.just("reply"), payloads),
    ),
    max_size=4,
)
said = st.tuples(st.sampled_from(["keep", "goto", "goto", "repeat"]), st.sampled_from(S), actions.map(tuple))
entered = st.tuples(st.just("keep"), st.just(S.A), st.lists(timeouts, max_size=2).map(tuple))


class Script:
    """The same answers for both sides, and a log of who was asked what."""

    def __init__(self, answers: list[Said], entries: list[Said]) -> None:
        self.answers, self.entries = list(answers), list(entries)
        self.log: list[Any] = []

    def answer(self, state: S, event: object) -> Said:
        self.log.append(("handle", state, event))
        return self.answers.pop(0) if self.answers else KEEP

    def enter(self, state: S, previous: S) -> Said:
        self.log.append(("enter", state, previous))
        return self.entries.pop(0) if self.entries else KEEP


class Naive:
    """gen_statem by its description: one list of events, one of postponed ones, one of timeouts that run."""

    def __init__(self, enters: bool) -> None:
        self.state, self.enters, self.now = S.A, enters, 0.0
        self.events: list[tuple[int, object]] = []
        self.later: list[tuple[int, object]] = []
        self.running: list[list[Any]] = []  # [name, time or None for "at once", payload], in the order they were set
        self.script = Script([], [])

    def begin(self) -> None:
        options = self.script.enter(S.A, S.A)[2] if self.enters else ()
        self.set_timeouts(list(options))
        self.go_on()

    def go_on(self) -> None:
        while True:
            at_once = [entry for entry in self.running if entry[1] is None]
            if self.events:
                self.one(*self.events.pop(0))
            elif at_once:
                self.running.remove(at_once[0])
                self.one(0, Timeout(at_once[0][0], at_once[0][2]))
            else:
                return

    def one(self, asker: int, event: object) -> None:
        kind, target, words = self.script.answer(self.state, event)
        options = list(words)
        self.reply(asker, options)
        before = self.state
        if kind == "goto":
            self.state = target
        if self.enters and (before != self.state or kind == "repeat"):
            more = list(self.script.enter(self.state, before)[2])
            self.reply(asker, more)
            options += more
        postpone = False
        for word in options:
            postpone = word[1] if word[0] == "postpone" else postpone
        if postpone:
            self.later.append((asker, event))
        elif asker:
            self.script.log.append(("closed", asker))
        if before != self.state:
            self.events, self.later = self.later + self.events, []
            self.drop("state")
        self.drop("event")
        self.events = [(0, word[1]) for word in options if word[0] == "insert"] + self.events
        self.set_timeouts(options)

    def reply(self, asker: int, options: list[Word]) -> None:
        self.script.log += [("answer", asker, word[1]) for word in options if word[0] == "reply" and asker]

    def set_timeouts(self, options: list[Word]) -> None:
        said_last: dict[str, Word] = {}
        for word in options:
            if word[0] in ("after", "at", "cancel", "update"):
                said_last.pop(word[1], None)
                said_last[word[1]] = word
        for name, word in said_last.items():
            if word[0] == "update" and (entry := self.find(name)) is not None:
                entry[2] = word[2]
                continue
            self.drop(name)
            if word[0] == "update":
                self.running.append([name, None, word[2]])
            elif word[0] == "after" and word[2] == 0:
                self.running.append([name, None, word[3]])
            elif word[0] != "cancel" and word[2] < math.inf:
                self.running.append([name, self.now + max(0.0, word[2]), word[3]])

    def find(self, name: str) -> list[Any] | None:
        return next((entry for entry in self.running if entry[0] == name), None)

    def drop(self, name: str) -> None:
        self.running = [entry for entry in self.running if entry[0] != name]

    def event(self, asker: int, event: object) -> None:
        self.events.append((asker, event))
        self.go_on()

    def pass_time(self, until: float) -> None:
        while due := [entry for entry in self.running if entry[1] is not None and entry[1] <= until]:
            first = min(due, key=lambda entry: entry[1])  # the first of those set first
            self.now = first[1]
            self.running.remove(first)
            self.event(0, Timeout(first[0], first[2]))
        self.now = until


class Driven:
    """The engine with timers of a clock that the test moves."""

    def __init__(self, enters: bool) -> None:
        self.machine: engine.Machine[S] = engine.new(S.A, enters=enters)
        self.now = 0.0
        self.timers: dict[int, tuple[float, str]] = {}
        self.fired: list[tuple[str, int]] = []
        self.script = Script([], [])

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
                return engine.Returned(self.next_of(self.script.answer(self.machine.state, event)))
            case engine.Enter(previous):
                return engine.Returned(self.next_of(self.script.enter(self.machine.state, previous)))
            case engine.Start(name, ref, seconds, absolute):
                self.timers[ref] = (max(self.now, seconds if absolute else self.now + seconds), name)
            case engine.Unset(ref):
                del self.timers[ref]
            case engine.Answer(asker, value):
                self.script.log.append(("answer", asker, value))
            case engine.Closed(asker):
                self.script.log.append(("closed", asker))
        return None

    def next_of(self, answer: Said) -> Next[S]:
        kind, target, words = answer
        found: Next[S] = Next(kind, target if kind == "goto" else None)  # type: ignore[arg-type]  # drawn from three
        for word in words:
            match word:
                case ("after", name, seconds, payload):
                    found = found.after(seconds, name, payload)
                case ("at", name, seconds, payload):
                    found = found.at(self.now + seconds, name, payload)
                case (verb, *rest):
                    method: Callable[..., Next[S]] = getattr(found, verb)
                    found = method(*rest)
        return found

    def pass_time(self, until: float) -> None:
        while due := [(when, ref, name) for ref, (when, name) in self.timers.items() if when <= until]:
            self.now, ref, name = min(due)
            del self.timers[ref]
            self.fired.append((name, ref))
            self.step(engine.Fired(name, ref))
        self.now = until


class Compared(RuleBasedStateMachine):
    asked = 0

    @initialize(enters=st.booleans(), entries=st.lists(entered, max_size=2))
    def begin(self, enters: bool, entries: list[Said]) -> None:
        self.naive, self.driven = Naive(enters), Driven(enters)
        self.speak([], entries)
        self.naive.begin()
        self.driven.step(engine.Begin())

    def speak(self, answers: list[Said], entries: list[Said]) -> None:
        self.naive.script, self.driven.script = Script(answers, entries), Script(answers, entries)

    @rule(event=st.sampled_from("abc"), answers=st.lists(said, max_size=5), entries=st.lists(entered, max_size=3))
    def an_event_arrives(self, event: str, answers: list[Said], entries: list[Said]) -> None:
        self.speak(answers, entries)
        self.asked += 1
        self.naive.event(self.asked, event)
        self.driven.step(engine.Arrived(self.asked, event))

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0]), answers=st.lists(said, max_size=5))
    def time_passes(self, seconds: float, answers: list[Said]) -> None:
        self.speak(answers, [])
        until = self.naive.now + seconds
        self.naive.pass_time(until)
        self.driven.pass_time(until)

    @precondition(lambda self: self.driven.fired)
    @rule(data=st.data())
    def a_timer_that_runs_no_longer_fires(self, data: st.DataObject) -> None:
        before = self.driven.machine
        self.speak([], [])
        self.driven.step(engine.Fired(*data.draw(st.sampled_from(self.driven.fired))))
        assert self.driven.machine == before

    @precondition(lambda self: self.naive.later)
    @rule(data=st.data())
    def nobody_wants_a_postponed_event_any_more(self, data: st.DataObject) -> None:
        asker, _ = data.draw(st.sampled_from(self.naive.later))
        if asker:
            self.naive.later = [held for held in self.naive.later if held[0] != asker]
            self.driven.step(engine.Forget(asker))

    @invariant()
    def both_were_asked_the_same_and_stand_the_same(self) -> None:
        if not hasattr(self, "naive"):
            return
        naive, driven = self.naive, self.driven
        assert driven.script.log == naive.script.log
        assert driven.machine.state == naive.state
        assert driven.machine.phase == "idle"
        assert [(held.id, held.event) for held in driven.machine.postponed] == naive.later
        running = {entry[0]: (entry[1], entry[2]) for entry in naive.running}
        times = {name: (driven.timers[timer.ref][0], timer.payload) for name, timer in driven.machine.timers.items()}
        assert times == running
        assert len(driven.timers) == len(running), "a timer was not unset"


Compared.TestCase.settings = settings(stateful_step_count=25)
TestCompared = pytest.mark.promise(69)(Compared.TestCase)
