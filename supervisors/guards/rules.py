"""Rules that find loops: data that people write and combine, and pure functions of an agent's steps.

A rule looks at the steps after the last world change and says whether the newest of them completes a loop.

    Same(3) | (Errors(4) & Idle(8))      `|` either objects, `&` both object

What counts as one occurrence: equal acts in one model step (a batch) are one, for the agent chose them before it
saw an outcome. So a threshold counts model steps, not calls. Looking costs O(reach) per step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from typing import Final

import msgspec
from msgspec import Struct

from understudy.actors.agents.guards import Step
from understudy.supervisors.checks import check_count

Mark = tuple[str, ...]
"""What makes two steps one piece of evidence, under some rule."""

_POLLS: Final = 3
"""A polling tool may repeat an unchanged outcome this many times as often as another."""

_VOLATILE: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+", re.IGNORECASE
)


class Finding(Struct, frozen=True):
    """A loop that the newest step completes.

    `rule` names the rule with its threshold, `what` is one line for people, `key` a digest that is equal for the same
    loop, `evidence` the `Step.event` of the steps that prove it, oldest first, `since` the first one's model step.
    """

    rule: str
    what: str
    key: str
    evidence: tuple[int, ...]
    since: int


class LoopRule(Struct, frozen=True):
    """Base of the rules. Your own: override `look` and `mark`; be pure, and look at `reach` steps at most."""

    @property
    def name(self) -> str:
        """The rule with its threshold, as verdicts name it: "loops.same(3)"."""
        return f"loops.{str(self).lower()}"

    @property
    def reach(self) -> int:
        """How many steps back `look` needs to see."""
        raise NotImplementedError

    def find(self, steps: Sequence[Step]) -> Finding | None:
        """Whether the newest of `steps` (oldest first) completes a loop. Only steps after a world change count."""
        counted = counted_steps(steps, self.reach)
        return self.look(counted) if counted else None

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """As `find`, on steps that all count; there is at least one."""
        raise NotImplementedError

    def mark(self, step: Step) -> Mark | None:
        """What a later step must share with a step of the evidence to continue the loop; None never continues."""
        raise NotImplementedError

    def named(self, name: str) -> LoopRule | None:
        """The rule of this name in here, to judge by it again."""
        return self if self.name == name else None

    def __or__(self, other: LoopRule) -> LoopRule:
        return Either(self, other)

    def __and__(self, other: LoopRule) -> LoopRule:
        return Both(self, other)


class Same(LoopRule, frozen=True):
    """The same acts with the same outcomes again: `times` (default 3) of each, in any order, at most `period` of them.

    So a cycle of k <= `period` (default 6) acts is found when it was run through `times` times, one stray act aside.
    A failing act is found whatever came between, `times` within the last `window` acts (default 24, at least
    times·period). A tool that polls counts only past its own limit: three times `times`, with the outcome
    unchanged. Talk does not count.
    """

    times: int = 3
    period: int = 6
    window: int | None = None

    def __post_init__(self) -> None:
        check_count("Same.times", self.times, least=2)
        check_count("Same.period", self.period, least=1)
        if self.window is not None:
            check_count("Same.window", self.window, least=self.times * self.period)

    def __str__(self) -> str:
        return f"Same({self.times})"

    @property
    def span(self) -> int:
        """The window in acts."""
        return max(24, self.times * self.period) if self.window is None else self.window

    @property
    def reach(self) -> int:
        """The window, as long again for each further turn of a polling tool."""
        return self.span * _POLLS

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """One failing act in the window, else a tail in which every act was repeated often enough."""
        newest = steps[-1]
        if not newest.action:
            return None
        acts = [step for step in steps if step.action][-self.span * (_POLLS if newest.polling else 1) :]
        proof = self._failing(acts) if newest.error else None
        if proof is None and (proof := self._repeated(acts)) is None:
            return None
        return _finding(self, self._say(proof), proof, {_act(step) for step in proof})

    def mark(self, step: Step) -> Mark | None:
        """The same act with the same outcome."""
        return _act(step) if step.action else None

    def _limit(self, step: Step) -> int:
        return self.times * _POLLS if step.polling else self.times

    def _failing(self, acts: Sequence[Step]) -> Sequence[Step] | None:
        newest = acts[-1]
        proof = [step for step in acts if _act(step) == _act(newest)][-self._limit(newest) :]
        return proof if len(proof) == self._limit(newest) else None

    def _repeated(self, acts: Sequence[Step]) -> Sequence[Step] | None:
        """The shortest tail in which each of d <= period different acts has, on average, had its limit.

        One stray act, made once, is overlooked: on recorded traces that found more stuck runs and no false ones.
        """
        newest = _act(acts[-1])
        counts: dict[Mark, int] = {}
        needed: dict[Mark, int] = {}
        for start in range(len(acts) - 1, -1, -1):
            act = _act(acts[start])
            counts[act] = counts.get(act, 0) + 1
            needed[act] = self._limit(acts[start])
            if len(counts) > self.period + 1:
                return None
            if counts[newest] < needed[newest]:
                continue
            stray = next((act for act, count in counts.items() if count == 1), None)
            members = [act for act in counts if act != stray]
            made = sum(counts[act] for act in members)
            if made >= sum(needed[act] for act in members) and len(members) <= self.period:
                return [step for step in acts[start:] if _act(step) != stray]
        return None

    def _say(self, proof: Sequence[Step]) -> str:
        different = {_act(step): step for step in proof}
        if len(different) > 1:
            return f"the same {len(different)} calls repeated {len(proof) // len(different)} times"
        how = "failed the same way" if proof[-1].error else "gave the same result"
        return f"{shown(proof[-1])} {how} {len(proof)} times"


class Errors(LoopRule, frozen=True):
    """The same error from the same action `times` (default 4) times in the last `window` steps (default 12), whatever
    the arguments. Numbers, hexadecimal and white space in the text do not count. A success between is no reset.
    """

    times: int = 4
    window: int = 12

    def __post_init__(self) -> None:
        check_count("Errors.times", self.times, least=2)
        check_count("Errors.window", self.window, least=self.times)

    def __str__(self) -> str:
        return f"Errors({self.times})"

    @property
    def reach(self) -> int:
        """The window."""
        return self.window

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """Count the newest step's error in the window."""
        mark = self.mark(steps[-1])
        if mark is None:
            return None
        proof = [step for step in steps[-self.window :] if step.error and self.mark(step) == mark]
        if (times := _turns(proof)) < self.times:
            return None
        return _finding(self, f"{steps[-1].action} failed with the same error {times} times", proof, {mark})

    def mark(self, step: Step) -> Mark | None:
        """The same action with the same masked error."""
        return (step.agent, step.action, masked(step.error)) if step.action and step.error else None


class Idle(LoopRule, frozen=True):
    """Nothing new for `times` (default 8) model steps in a row: no world change, and every outcome was one that its
    action had had before. Other arguments with an old outcome are not new; where that is normal ("ok"), use `&`.
    """

    times: int = 8

    def __post_init__(self) -> None:
        check_count("Idle.times", self.times, least=2)

    def __str__(self) -> str:
        return f"Idle({self.times})"

    @property
    def reach(self) -> int:
        """The streak, and what came before it to know what is new."""
        return max(100, 4 * self.times)

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """Measure the streak that the newest step ends."""
        seen: set[Mark] = set()
        streak: list[Step] = []
        for step in steps:
            outcome = (step.agent, step.action, masked(step.error) if step.error else step.outcome)
            if outcome in seen:
                streak.append(step)
            else:
                seen.add(outcome)
                streak.clear()
        if (times := _turns(streak)) < self.times:
            return None
        return _finding(self, f"nothing new in {times} steps", streak, {(steps[-1].agent,)})

    def mark(self, step: Step) -> Mark | None:
        """The same act with the same outcome; an unbroken streak continues by being found again."""
        return _act(step)


class Talk(LoopRule, frozen=True):
    """The same text `times` (default 3) times in a row without an action."""

    times: int = 3

    def __post_init__(self) -> None:
        check_count("Talk.times", self.times, least=2)

    def __str__(self) -> str:
        return f"Talk({self.times})"

    @property
    def reach(self) -> int:
        """The streak."""
        return self.times

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """Compare the last `times` steps."""
        proof = steps[-self.times :]
        marks = {self.mark(step) for step in proof}
        mark = marks.pop()
        if len(proof) < self.times or marks or mark is None:
            return None
        return _finding(self, f"said the same {self.times} times without acting", proof, {mark})

    def mark(self, step: Step) -> Mark | None:
        """The same text."""
        return None if step.action else _act(step)


class Either(LoopRule, frozen=True):
    """`left | right`: the finding of the first that objects."""

    left: LoopRule
    right: LoopRule

    def __str__(self) -> str:
        return " | ".join(f"({side})" if isinstance(side, Both) else str(side) for side in (self.left, self.right))

    @property
    def reach(self) -> int:
        """The longer of the two."""
        return max(self.left.reach, self.right.reach)

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """Ask left, then right."""
        return self.left.look(steps) or self.right.look(steps)

    def mark(self, step: Step) -> Mark | None:
        """None: a verdict names one of the two, see `named`."""
        return None

    def named(self, name: str) -> LoopRule | None:
        """The side of this name."""
        return self.left.named(name) or self.right.named(name)


class Both(LoopRule, frozen=True):
    """`left & right`: both object to the newest step. The evidence is that of both."""

    left: LoopRule
    right: LoopRule

    def __str__(self) -> str:
        return " & ".join(f"({side})" if isinstance(side, Either) else str(side) for side in (self.left, self.right))

    @property
    def name(self) -> str:
        """Both names: "loops.errors(4) & loops.idle(8)"."""
        return f"{self.left.name} & {self.right.name}"

    @property
    def reach(self) -> int:
        """The longer of the two."""
        return max(self.left.reach, self.right.reach)

    def look(self, steps: Sequence[Step]) -> Finding | None:
        """Ask both."""
        if (left := self.left.look(steps)) is None or (right := self.right.look(steps)) is None:
            return None
        proof = {*left.evidence, *right.evidence}
        return Finding(
            rule=self.name,
            what=f"{left.what}, {right.what}",
            key=_digest((left.key, right.key)),
            evidence=tuple(step.event for step in steps if step.event in proof),
            since=min(left.since, right.since),
        )

    def mark(self, step: Step) -> Mark | None:
        """Both marks."""
        left, right = self.left.mark(step), self.right.mark(step)
        return None if left is None or right is None else (*left, *right)


def counted_steps(steps: Sequence[Step], reach: int) -> list[Step]:
    """The last `reach` steps after the last world change, equal acts of one model step once, oldest first."""
    tail: list[Step] = []
    for step in reversed(steps):
        if step.world or len(tail) == reach:
            break
        tail.append(step)
    counted: list[Step] = []
    seen: set[Mark] = set()
    previous: Step | None = None
    for step in reversed(tail):
        if previous is None or not _one_turn(previous, step):
            seen.clear()
        elif not seen:
            seen.add(_act(previous))  # most model steps have one act: nothing is hashed for them
        previous = step
        if seen:
            act = _act(step)
            if act in seen:
                continue
            seen.add(act)
        counted.append(step)
    return counted


def last_batch(steps: Sequence[Step]) -> Sequence[Step]:
    """The acts of the newest model step."""
    start = len(steps) - 1
    while start > 0 and _one_turn(steps[start - 1], steps[start]):
        start -= 1
    return steps[start:]


def _one_turn(one: Step, next: Step) -> bool:
    """Whether two neighbours belong to one model step. Only neighbours: numbers may come again after a rewind."""
    return one.step == next.step and one.agent == next.agent


@lru_cache(maxsize=1024)
def masked(error: str) -> str:
    """The first 400 characters of an error without what changes each time: numbers, hexadecimal, white space."""
    return " ".join(_VOLATILE.sub("#", error[:400]).split())


def shown(step: Step) -> str:
    """A call as people write it, at most 80 characters: `read_metadata("attrs ")`."""
    try:
        given = msgspec.json.decode(step.arguments, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:  # a tool's own loop key
        text = step.arguments
    else:
        values = [(name, bytes(value).decode()) for name, value in given.items()]
        text = values[0][1] if len(values) == 1 else ", ".join(f"{name}={value}" for name, value in values)
    return f"{step.action}({text if len(text) <= 60 else text[:59] + '…'})"


def _act(step: Step) -> Mark:
    return (step.agent, step.action, step.arguments, step.outcome or step.error)


def _turns(steps: Sequence[Step]) -> int:
    """In how many model steps these were made."""
    return len(steps) - sum(_one_turn(one, next) for one, next in pairwise(steps))


def _digest(parts: object) -> str:
    return sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def _finding(rule: LoopRule, what: str, proof: Sequence[Step], marks: set[Mark]) -> Finding:
    """`marks` identify the loop, in whatever order and number its acts come."""
    evidence = tuple(step.event for step in proof)
    return Finding(rule.name, what, _digest((rule.name, sorted(marks))), evidence, proof[0].step)
