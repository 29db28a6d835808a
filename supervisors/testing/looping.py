"""Invariant 28: the acts of each sub-run read from the journal, and what a guard has to say about the plainest loops.

Only what every reading of a rule calls a loop is demanded: one act, over and over, with nothing between. What a verdict
rests on is checked for every verdict: the newest act repeats an older one, if the rule is about repeats, and the world
did not change between them. The same change made again with the same result is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from understudy.actors.agents.guards import Response
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Declared, Evidence
from understudy.actors.testing.play_invariants import play_invariant
from understudy.supervisors.guards.combining import Both, Either, LoopRule
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Errors, Idle, Same, Talk

_LIKENESS: Final = (".near(", ".talk(", ".resent(", ".malformed(")
"""Rules for which the newest act need only resemble an older one, or not even that."""
_VARIES: Final = re.compile(r"[0-9a-fA-F]*\d[0-9a-fA-F-]*|\s+")


class _Act(Struct):
    """One call, or talk. `at` is its event, 0 while it has none."""

    agent: str
    step: int
    name: str
    key: str
    outcome: str = ""
    error: str = ""
    world: bool = False
    polling: bool = False
    at: int = 0
    done: bool = False

    @property
    def mark(self) -> tuple[str, str, str, str, str]:
        return self.agent, self.name, self.key, self.outcome, self.error

    def like(self, other: _Act) -> bool:
        """Whether some rule may take the two for one."""
        if (self.agent, self.name) != (other.agent, other.name):
            return False
        if self.error or other.error:
            return _VARIES.sub("#", self.error) == _VARIES.sub("#", other.error)
        return self.outcome == other.outcome


class _Sub(Struct):
    """What is known of one sub-run."""

    agent: str
    acts: list[_Act] = field(default_factory=list[_Act])
    turn: list[_Act] = field(default_factory=list[_Act])
    length: int = 0
    due: int = 0
    verdicts: list[ev.Judged] = field(default_factory=list[ev.Judged])

    def close(self, loops: object) -> None:
        """The newest turn may be over: its acts count, and a verdict may be due."""
        if not self.turn or not all(act.done for act in self.turn):
            return
        last = self.acts[-1] if self.acts else None
        marks = {act.mark for act in self.turn}
        if any(act.world for act in self.turn):
            self.length = 0
        elif len(marks) == 1:
            same = last is not None and last.mark in marks and self.length > 0
            self.length = self.length + 1 if same else 1
        else:
            self.length = 0
        self.acts += self.turn
        newest, self.turn = self.turn[-1], []
        fires = self.length > 0 and isinstance(loops, Loops) and _fires(loops.rule, newest, self.length)
        self.due = newest.at if fires else 0


def _fires(rule: LoopRule, act: _Act, length: int) -> bool:
    """Whether a rule must object to one act `length` model steps in a row."""
    match rule:
        case Either():
            return _fires(rule.left, act, length) or _fires(rule.right, act, length)
        case Both():
            return _fires(rule.left, act, length) and _fires(rule.right, act, length)
        case Same():
            return bool(act.name) and length >= rule.times * (3 if act.polling else 1)
        case Errors():
            return bool(act.name and act.error) and length >= rule.times
        case Idle():
            return length > rule.times
        case Talk():
            return not act.name and length >= rule.times
        case _:
            return False  # a rule of the user's own


def _changes(acts: Sequence[_Act], number: int) -> bool:
    """Whether an act changed the world: not when it had been made before with the same result."""
    act = acts[number]
    return act.world and all(older.mark != act.mark for older in acts[:number])


@play_invariant(28)
def loops_meet_their_rung(evidence: Evidence) -> Iterator[str]:
    """See the module."""
    for _, records in evidence.runs():
        subs: dict[int, _Sub] = {}
        yeses: dict[str, tuple[int, int, int]] = {}
        doubts: dict[str, tuple[int, int]] = {}
        summaries: set[str] = set()
        for record in records:
            event = record.event
            if isinstance(event, ev.RunStarted | ev.SubStarted):
                subs[record.sub] = _Sub(event.agent)
            sub = subs.get(record.sub)
            if sub is None:
                continue
            declared = evidence.declared.get(sub.agent)
            loops = declared.loops if declared is not None else None
            match event:
                case ev.Judged():
                    if isinstance(loops, Loops):
                        yield from _verdict(record, event, sub, loops.ladder)
                    sub.verdicts.append(event)
                    sub.due = 0
                case ev.ModelAsked() if event.covers:  # no act of the agent's: its window is made smaller
                    summaries.add(event.ticket)
                case ev.ModelAnswered() if event.ticket in summaries:
                    pass
                case ev.ModelAsked() if sub.due:
                    yield f"{record.place}: the model is asked again, and loop {record.run}:{sub.due} has no verdict"
                    sub.due = 0
                case ev.HandedOff():
                    sub.agent, sub.due, sub.turn = event.to, 0, []
                case ev.ModelAnswered():
                    _answered(sub, record, event)
                case ev.ApprovalAsked():
                    yeses[event.approval] = (event.step, event.index, record.seq)
                case ev.InDoubt():
                    doubts[event.doubt] = (event.step, event.index)
                case _:
                    _outcome(sub, record, declared, yeses, doubts)
            sub.close(loops)


def _answered(sub: _Sub, record: Record, event: ev.ModelAnswered) -> None:
    calls = event.reply.calls
    sub.turn = [_Act(sub.agent, event.step, call.name, call.arguments) for call in calls]
    if not calls:
        sub.turn = [_Act(sub.agent, event.step, "", "", event.reply.content, at=record.seq, done=True)]


def _outcome(
    sub: _Sub,
    record: Record,
    declared: Declared | None,
    yeses: Mapping[str, tuple[int, int, int]],
    doubts: Mapping[str, tuple[int, int]],
) -> None:
    match event := record.event:
        case ev.ToolAsked():
            if (act := _act(sub, event.step, event.index)) is not None:
                act.at, act.key, act.polling = record.seq, event.loop_key, event.polling
                act.world = event.effect != "read"
        case ev.ToolAnswered():
            _end(sub, event.step, event.index, outcome=event.result)
        case ev.ToolFailed():
            _end(sub, event.step, event.index, error=event.error or event.kind)
        case ev.ToolRejected():
            _end(sub, event.step, event.index, error=event.error, at=record.seq)
        case ev.ApprovalRefused() if event.approval in yeses:
            step, index, at = yeses[event.approval]
            text = f"refused by {event.by}: {event.reason}" if event.reason else f"refused by {event.by}"
            _end(sub, step, index, error=text, at=at)
        case ev.Moved(cause="model"):
            _end(sub, event.step, event.index, outcome=event.result, at=record.seq)
        case ev.Moved(cause="timeout"):
            for index, act in enumerate(sub.turn):
                if not act.done:
                    _end(sub, act.step, index, error=event.result, at=record.seq)
        case ev.DoubtSettled() if event.doubt in doubts:
            step, index = doubts[event.doubt]
            if event.did:
                _end(sub, step, index, outcome="settled")
            elif (act := _act(sub, step, index)) is not None:
                act.world, act.at = False, 0
        case _:
            pass


def _act(sub: _Sub, step: int, index: int) -> _Act | None:
    act = sub.turn[index] if index < len(sub.turn) else None
    return act if act is not None and act.step == step and not act.done else None


def _end(sub: _Sub, step: int, index: int, *, outcome: str = "", error: str = "", at: int = 0) -> None:
    act = _act(sub, step, index)
    if act is not None:
        act.outcome, act.error, act.done, act.at = outcome, error, True, act.at or at
        act.world = act.world and not error


def _verdict(record: Record, event: ev.Judged, sub: _Sub, ladder: Sequence[Response]) -> Iterator[str]:
    verdict = event.verdict
    what = f"{record.place}: {verdict.rule} objects"
    past = [each.verdict.rung for each in sub.verdicts if each.verdict.key == verdict.key]
    rung = min(max(past) + 1, len(ladder) - 1) if past else 0
    if verdict.rung != rung or verdict.response != ladder[rung]:
        yield f"{what} on rung {verdict.rung} with {verdict.response}; due is rung {rung}, {ladder[rung]}"
    places = {act.at: number for number, act in enumerate(sub.acts)}
    if any(at not in places for at in verdict.evidence):
        yield f"{what} on evidence {verdict.evidence}, which is not all there"
        return
    first, last = places[verdict.evidence[0]], places[verdict.evidence[-1]]
    newest = sub.acts[last]
    if newest.step != sub.acts[-1].step:
        yield f"{what} to event {newest.at}, and the newest act is {sub.acts[-1].at}"
    if any(_changes(sub.acts, number) for number in range(first + 1, last + 1)):
        yield f"{what} to a loop in which the world changed"
    elif any(word in verdict.rule for word in _LIKENESS):
        return
    elif not any(act.like(newest) for act in sub.acts[:last] if act.step < newest.step):
        yield f"{what} to {newest.name or 'talk'} of event {newest.at}, whose outcome is new"
