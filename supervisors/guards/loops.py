"""The loop guard: judges the newest model step by the rules, and climbs the ladder when a loop goes on.

    Loops(Same(3) | (Errors(4) & Idle(8)), ladder=[Nudge(), Restart(temperature=1.0), Stop()])

Evidence belongs to the run: the steps are never cut, so it survives restart, rewind and resume. Only a world
change newer than the evidence clears it. Until then one further occurrence climbs one rung, also when other
steps came between: one step that continues the evidence, so in a cycle of three one call.

A batch (the calls of one model reply) is one act of the agent. All its steps are judged, not only the last, lest a
good call hide a bad one beside it; but one model step gets one verdict, the strongest, and climbs one rung at most.
Steps of one agent that stand side by side with one `Step.step` are taken for a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import force_setattr

from understudy.actors.agents.guards import Response, Step, Verdict
from understudy.supervisors.checks import check_kind
from understudy.supervisors.guards.responses import LADDER, check_ladder, next_rung, word
from understudy.supervisors.guards.rules import (
    Errors,
    Finding,
    Idle,
    LoopRule,
    Mark,
    Same,
    Talk,
    counted_steps,
    last_batch,
)

RULE = Same(3) | (Errors(4) & Idle(8)) | Talk(3)


class _Standing(Struct, frozen=True):
    """A loop that was judged before and is not cleared: its first and last verdict, and what continues it."""

    first: Verdict
    last: Verdict
    rule: LoopRule
    marks: frozenset[Mark | None]

    def continued_by(self, step: Step, finding: Finding | None) -> bool:
        if finding is not None and _digest_of(self.first) == finding.key:
            return True
        mark = self.rule.mark(step)
        return mark is not None and mark in self.marks


class Loops(Struct, frozen=True):
    """Watch an agent for loops. Implements `understudy.actors.agents.guards.LoopGuard`; pure.

    `rule` says what a loop is; the default is `Same(3) | (Errors(4) & Idle(8)) | Talk(3)`. `ladder` says what is done,
    from the first finding on; the default is nudge, restart, stop. `str` shows both. Raises `SpecError`.
    """

    rule: LoopRule = RULE
    ladder: Sequence[Response] = LADDER

    def __post_init__(self) -> None:
        check_kind("Loops.rule", self.rule, LoopRule, "a rule such as Same(3)")
        check_ladder(self.ladder)
        force_setattr(self, "ladder", tuple(self.ladder))

    def __str__(self) -> str:
        return f"{self.rule}, ladder {' → '.join(map(word, self.ladder))}"

    @property
    def rungs(self) -> int:
        """How many rungs the ladder has."""
        return len(self.ladder)

    def judge(self, steps: Sequence[Step], past: Sequence[Verdict]) -> Verdict | None:
        """Judge the newest model step of `steps` (oldest first); `past` are this sub-run's verdicts so far.

        None: nothing to say, or the model step has its verdict already. A verdict's evidence ends with the step that
        completed or continued the loop. `Verdict.key` is equal for all verdicts about one loop, and another after
        a world change.
        """
        counted = counted_steps(steps, self.rule.reach)
        if not counted:
            return None
        batch = last_batch(counted)
        if _judged(batch, past):
            return None
        standing = self._standing(steps, past)
        before = len(counted) - len(batch)
        verdicts = [self._judge(counted[: before + nth], past, standing) for nth in range(1, len(batch) + 1)]
        return max((verdict for verdict in verdicts if verdict), key=lambda verdict: verdict.rung, default=None)

    def _judge(self, counted: Sequence[Step], past: Sequence[Verdict], standing: Sequence[_Standing]) -> Verdict | None:
        """Judge the last of `counted`: a loop that goes on comes before a new one."""
        newest, finding = counted[-1], self.rule.look(counted)
        known = [loop for loop in standing if loop.continued_by(newest, finding)]
        if known:
            return self._climb(max(known, key=lambda loop: loop.last.rung), newest, past)
        return self._begin(finding, past) if finding else None

    def _begin(self, finding: Finding, past: Sequence[Verdict]) -> Verdict:
        # The first event tells this loop from the same one before a world change.
        key = f"{finding.key}@{finding.evidence[0]}"
        rung, response = next_rung(self.ladder, past, key)
        return Verdict(finding.rule, finding.what, key, finding.evidence, finding.since, rung, response)

    def _climb(self, loop: _Standing, newest: Step, past: Sequence[Verdict]) -> Verdict:
        first, last = loop.first, loop.last
        rung, response = next_rung(self.ladder, past, first.key)
        return Verdict(
            rule=first.rule,
            what=f"the same again after the {word(last.response)}",
            key=first.key,
            # Of the first verdict, not the last: evidence must not grow with every climb.
            evidence=(*first.evidence, newest.event),
            since=first.since,
            rung=rung,
            response=response,
        )

    def _standing(self, steps: Sequence[Step], past: Sequence[Verdict]) -> list[_Standing]:
        """The loops of `past` whose evidence no world change has cleared and whose rule is still here."""
        if not past:
            return []
        counting = {step.event: step for step in counted_steps(steps, len(steps))}
        loops: dict[str, _Standing] = {}
        for verdict in past:
            rule = self.rule.named(verdict.rule)
            if rule is None or verdict.evidence[-1] not in counting:
                continue
            if (loop := loops.get(verdict.key)) is not None:
                loops[verdict.key] = _Standing(loop.first, verdict, rule, loop.marks)
            else:
                marks = frozenset(rule.mark(counting[event]) for event in verdict.evidence if event in counting)
                loops[verdict.key] = _Standing(verdict, verdict, rule, marks)
        return list(loops.values())


def _judged(batch: Iterable[Step], past: Sequence[Verdict]) -> bool:
    events = {step.event for step in batch}
    return any(not events.isdisjoint(verdict.evidence) for verdict in past)


def _digest_of(verdict: Verdict) -> str:
    return verdict.key.partition("@")[0]
