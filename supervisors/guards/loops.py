"""The loop guard: judges the newest model step by the rules, and climbs the ladder when a loop goes on.

    Loops(Same(3) | (Errors(4) & Idle(8)), ladder=[Nudge(), Restart(temperature=1.0), Stop()])

Evidence belongs to the run: it survives restart, rewind and resume. Only a world change newer than the evidence clears
it. Until then one further occurrence climbs one rung, also when other steps came between: one step that continues the
evidence, so in a cycle of three one call.

A batch (the calls of one model reply) is one act of the agent. All its steps are judged, not only the last, lest a
good call hide a bad one beside it; but one model step gets one verdict, the strongest, and climbs one rung at most.
Steps of one agent that stand side by side with one `Step.step` are taken for a batch.

`judge` reads a run from its beginning. `watch` keeps what it has read, so that a run that goes on costs the same at
each step; both give the same verdicts. `detect` is the same detector on the steps of a run that is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct
from msgspec.structs import force_setattr

from understudy.actors.agents.guards import Conclude, Response, Restrict, Step, Verdict
from understudy.actors.errors import SpecError
from understudy.supervisors.checks import check_kind
from understudy.supervisors.guards.armed import check_rule
from understudy.supervisors.guards.combining import WHEN, Finding, LoopRule
from understudy.supervisors.guards.responses import LADDER, check_ladder, next_rung, word
from understudy.supervisors.guards.rules import (
    Errors,
    Idle,
    Malformed,
    Near,
    Resent,
    Reworded,
    Same,
    Talk,
)
from understudy.supervisors.guards.trail import REACH, Entry, Mark, Trail

RULE: Final = (
    Same(3) | Reworded(3) | Near(4) | Errors(6) | (Errors(4) & Idle(8)) | Idle(12) | Talk(3) | Resent(3) | Malformed(4)
)
"""The default: every rule, with the thresholds that found recorded loops and left recorded work alone."""


_NONE: Final[Mapping[int, Verdict]] = {}


class Loops(Struct, frozen=True):
    """Watch an agent for loops. Implements `understudy.actors.agents.guards.LoopGuard`; pure.

    `rule` says what a loop is; the default is `RULE`. `ladder` says what is done, from the first finding on; the
    default is nudge, restart, stop. `off` names tools whose calls are never a loop; one rule alone is switched off for
    a tool by `rule.off("tool")`. `str` shows it all. Raises `SpecError`, also for a rule that cannot fire.
    """

    rule: LoopRule = RULE
    ladder: Sequence[Response] = LADDER
    off: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_kind("Loops.rule", self.rule, LoopRule, "a rule such as Same(3)")
        check_rule("Loops.rule", self.rule)
        check_ladder(self.ladder)
        if isinstance(self.off, str) or not all(self.off):
            raise SpecError(f"Loops.off must list the names of tools, got {self.off!r}")
        force_setattr(self, "ladder", tuple(self.ladder))
        force_setattr(self, "off", tuple(self.off))

    def __str__(self) -> str:
        off = f", off {', '.join(self.off)}" if self.off else ""
        return f"{self.rule}{off}, ladder {' → '.join(map(word, self.ladder))}"

    @property
    def rungs(self) -> int:
        """How many rungs the ladder has."""
        return len(self.ladder)

    def watch(self) -> Watch:
        """A new watch over one sub-run, from its first step."""
        return Watch(self)

    def judge(self, steps: Sequence[Step], past: Sequence[Verdict]) -> Verdict | None:
        """Judge the newest model step of `steps` (oldest first); `past` are this sub-run's verdicts so far.

        None: nothing to say, or the model step has its verdict already. A verdict's evidence ends with the step that
        completed or continued the loop. `Verdict.key` is equal for all verdicts about one loop, and another after
        a world change.
        """
        return Watch(self).judge(steps, len(steps), past)

    def findings(self, steps: Iterable[Step]) -> Iterator[tuple[int, Finding]]:
        """Each step (its index) that completes or continues a loop of a recorded run, with what was found."""
        trail, rules, off = Trail(), _rules(self.rule), self.off
        for index, step in enumerate(steps):
            if trail.add(step) and step.action not in off and (finding := _look(trail, rules)) is not None:
                yield index, finding

    def detect(self, steps: Iterable[Step]) -> int | None:
        """The index of the first step that completes a loop of a recorded run; None without one."""
        return next((index for index, _ in self.findings(steps)), None)


class _Standing(Struct):
    """A loop that was judged before and is not cleared: its verdicts, when it was last seen, what continues it."""

    first: Verdict
    last: Verdict
    rule: LoopRule
    marks: set[Mark]
    seen: int

    def continued_by(self, entry: Entry, finding: Finding | None) -> bool:
        if finding is not None and finding.rule == self.first.rule and self._is(finding):
            return True
        closed = isinstance(self.last.response, Restrict | Conclude)
        if closed and entry.step.malformed and entry.step.action in self.first.tools:
            return True  # it asks again for what it may not have
        mark = self.rule.mark(entry)
        return mark is not None and mark in self.marks

    def _is(self, finding: Finding) -> bool:
        """Whether a finding of the same rule is about this loop: of the same acts, or of the act it ended with."""
        return _digest_of(self.first) == finding.key or self.last.evidence[-1] in finding.evidence


class Watch:
    """What a `Loops` guard remembers of one sub-run: the last `REACH` acts, and the loops that stand."""

    __slots__ = ("_answer", "_known", "_read", "_rules", "_standing", "_trail", "guard")

    def __init__(self, guard: Loops) -> None:
        self.guard = guard
        self._rules = _rules(guard.rule)
        self._forget()

    def _forget(self) -> None:
        self._trail = Trail()
        self._standing: dict[str, _Standing] = {}
        self._read = 0
        self._known = 0
        self._answer: Verdict | None = None

    def judge(self, steps: Sequence[Step], total: int, past: Sequence[Verdict]) -> Verdict | None:
        """As `Loops.judge`, where `steps` are the last of `total` steps that there ever were.

        Only those that were not read before are read now. With less of either than before, it begins anew.
        """
        if total == self._read + 1 and len(past) == self._known:  # as nearly always
            self._read = total
            self._answer = self._judge(steps[-1:], past, _NONE, newest=True)
            return self._answer
        if total < self._read or len(past) < self._known or total - self._read > len(steps):
            self._forget()
            self._read = total - len(steps)
        new = steps[len(steps) - (total - self._read) :] if total > self._read else ()
        due = {verdict.evidence[-1]: verdict for verdict in past[self._known :]}
        self._known = len(past)
        if due:
            self._learn(due, new)
        if new:
            self._take(new, past, due)
            self._read = total
        return self._answer

    def _learn(self, due: Mapping[int, Verdict], new: Sequence[Step]) -> None:
        """Verdicts about what was read before: those loops stand, and the newest model step has its verdict."""
        unread = {step.event for step in new}
        for event, verdict in due.items():
            if event not in unread:
                self._stand(verdict)
        self._answer = None

    def _take(self, steps: Sequence[Step], past: Sequence[Verdict], due: Mapping[int, Verdict]) -> None:
        """Read new steps, batch by batch; verdicts about a batch count from the next one on."""
        start = 0
        for end in range(1, len(steps) + 1):
            if end < len(steps) and _one_turn(steps[end - 1], steps[end]):
                continue
            self._answer = self._judge(steps[start:end], past, due, newest=end == len(steps))
            start = end

    def _judge(
        self, batch: Sequence[Step], past: Sequence[Verdict], due: Mapping[int, Verdict], *, newest: bool
    ) -> Verdict | None:
        """Read one batch; its verdict when it is the newest and has none."""
        judged = [due[step.event] for step in batch if step.event in due] if due else ()
        best: Verdict | None = None
        for step in batch:
            cleared = self._trail.cleared
            counted = self._trail.add(step)
            if self._trail.cleared > cleared:
                self._standing.clear()
                best = None
            if not counted or not newest or judged or step.action in self.guard.off:
                continue
            verdict = self._look(past)
            if verdict is not None and (best is None or verdict.rung > best.rung):
                best = verdict
        for verdict in judged:
            self._stand(verdict)
        return best

    def _look(self, past: Sequence[Verdict]) -> Verdict | None:
        """Judge the newest act: a loop that goes on comes before a new one."""
        entry, finding = self._trail.newest, _look(self._trail, self._rules)
        if self._standing:
            known = [loop for loop in self._standing.values() if loop.continued_by(entry, finding)]
            if known:
                return self._climb(max(known, key=lambda loop: loop.last.rung), entry, past)
        return self._begin(finding, past) if finding else None

    def _begin(self, finding: Finding, past: Sequence[Verdict]) -> Verdict:
        # The first event tells this loop from the same one before a world change.
        key = f"{finding.key}@{finding.evidence[0]}"
        rung, response = next_rung(self.guard.ladder, past, key)
        return Verdict(
            finding.rule,
            finding.what,
            key,
            finding.evidence,
            finding.since,
            rung,
            response,
            finding.round,
            finding.wasted,
            finding.tools,
        )

    def _climb(self, loop: _Standing, entry: Entry, past: Sequence[Verdict]) -> Verdict:
        first, last = loop.first, loop.last
        rung, response = next_rung(self.guard.ladder, past, first.key)
        return Verdict(
            rule=first.rule,
            what=f"the same again after the {word(last.response)}",
            key=first.key,
            # Of the first verdict, not the last: evidence must not grow with every climb.
            evidence=(*first.evidence, entry.step.event),
            since=first.since,
            rung=rung,
            response=response,
            round=first.round,
            wasted=last.wasted + 1,
            tools=first.tools,
        )

    def _stand(self, verdict: Verdict) -> None:
        """A verdict was given: the loop stands until the world changes or the acts are too old."""
        rule = self.guard.rule.named(verdict.rule)
        newest = verdict.evidence[-1]
        proof = {entry.step.event: entry for entry in self._trail.entries if entry.step.event in verdict.evidence}
        if rule is None or newest not in proof:
            return
        at = proof[newest].at
        for key in [key for key, loop in self._standing.items() if at - loop.seen > REACH]:
            del self._standing[key]
        marks = {mark for entry in proof.values() if (mark := rule.mark(entry)) is not None}
        loop = self._standing.get(verdict.key)
        if loop is None:
            self._standing[verdict.key] = _Standing(verdict, verdict, rule, marks, at)
        else:
            loop.last, loop.seen = verdict, at
            loop.marks |= marks


Rules = tuple[tuple[LoopRule, ...], tuple[LoopRule, ...], tuple[LoopRule, ...]]


def _rules(rule: LoopRule) -> Rules:
    """The rules to ask after news, after a call without, and after talk."""
    try:
        return _known_rules(rule)
    except TypeError:  # a rule with a field that has no hash
        return _known_rules.__wrapped__(rule)


@lru_cache(maxsize=64)
def _known_rules(rule: LoopRule) -> Rules:
    parts = rule.parts()
    news, old, talk = (tuple(one for one in parts if when in one.when) for when in WHEN)
    return news, old, talk


def _look(trail: Trail, rules: Rules) -> Finding | None:
    """What the first rule that objects to the newest act has found."""
    newest = trail.newest
    for rule in rules[0] if newest.news else rules[1] if newest.step.action else rules[2]:
        if (finding := rule.look(trail)) is not None:
            return finding
    return None


def _one_turn(one: Step, other: Step) -> bool:
    """Whether two neighbours belong to one model step. Only neighbours: numbers may come again after a rewind."""
    return one.step == other.step and one.agent == other.agent


def _digest_of(verdict: Verdict) -> str:
    return verdict.key.partition("@")[0]
