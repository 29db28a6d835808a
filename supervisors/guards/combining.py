"""What a rule is: data that people write and combine, and a pure function of an agent's trail.

A rule looks at what was done since the last world change and says whether the newest act completes a loop.

    Same(3) | (Errors(4) & Idle(8))      `|` either objects, `&` both object
    Reworded(3).off("search")            not for this tool
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, Literal, get_args

import msgspec
from msgspec import Struct

from understudy.actors.agents.guards import Step
from understudy.actors.errors import SpecError
from understudy.supervisors.guards.trail import Entry, Mark, Trail

When = Literal["news", "old", "talk"]
"""What an act can be to a rule: a call that brought news, one that did not, or talk."""
WHEN: Final[tuple[When, ...]] = get_args(When)


class Finding(Struct, frozen=True):
    """A loop that the newest step completes.

    `rule` names the rule with its threshold, `what` is one line for people, `key` a digest that is equal for the same
    loop, `evidence` the `Step.event` of the steps that prove it, oldest first, `since` the first one's model step.
    `round` is how many acts one more round of the loop costs, `wasted` how many of the evidence brought nothing new,
    `tools` whose calls they were.
    """

    rule: str
    what: str
    key: str
    evidence: tuple[int, ...]
    since: int
    round: int = 1
    wasted: int = 0
    tools: tuple[str, ...] = ()


class LoopRule(Struct, frozen=True):
    """Base of the rules. Your own: override `look` and `mark`; be pure, and look at the trail only."""

    @property
    def name(self) -> str:
        """The rule with its threshold, as verdicts name it: "loops.same(3)"."""
        return f"loops.{str(self).lower()}"

    def find(self, steps: Iterable[Step]) -> Finding | None:
        """Whether the newest of `steps` (oldest first) completes a loop. Reads all of them; for the newest of a run
        that goes on, keep a `Trail`.
        """
        trail, counted = Trail(), False
        for step in steps:
            counted = trail.add(step)
        return self.look(trail) if counted else None

    @property
    def when(self) -> tuple[When, ...]:
        """After which acts it has to be asked; it cannot object to others."""
        return WHEN

    def look(self, trail: Trail) -> Finding | None:
        """Whether the newest act of the trail completes a loop; there is at least one."""
        raise NotImplementedError

    def mark(self, entry: Entry) -> Mark | None:
        """What a later act must share with one of the evidence to continue the loop; None never continues."""
        raise NotImplementedError

    def named(self, name: str) -> LoopRule | None:
        """The rule of this name in here, to judge by it again."""
        return self if self.name == name else None

    def parts(self) -> tuple[LoopRule, ...]:
        """The rules of which each may object on its own, in the order in which they are asked."""
        return (self,)

    def example(self) -> Sequence[Step]:
        """Acts to which it must object, for a rule that would object to none of the common loops."""
        return ()

    def off(self, *tools: str) -> LoopRule:
        """The rule, but deaf to calls of `tools` (names)."""
        return Without(self, tools)

    def __or__(self, other: LoopRule) -> LoopRule:
        return Either(self, other)

    def __and__(self, other: LoopRule) -> LoopRule:
        return Both(self, other)


class Either(LoopRule, frozen=True):
    """`left | right`: the finding of the first that objects."""

    left: LoopRule
    right: LoopRule

    def __str__(self) -> str:
        return " | ".join(f"({side})" if isinstance(side, Both) else str(side) for side in (self.left, self.right))

    def look(self, trail: Trail) -> Finding | None:
        """Ask left, then right."""
        return self.left.look(trail) or self.right.look(trail)

    def mark(self, entry: Entry) -> Mark | None:
        """None: a verdict names one of the two, see `named`."""
        return None

    def named(self, name: str) -> LoopRule | None:
        """The side of this name."""
        return self.left.named(name) or self.right.named(name)

    def parts(self) -> tuple[LoopRule, ...]:
        """Those of both sides."""
        return (*self.left.parts(), *self.right.parts())


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
    def when(self) -> tuple[When, ...]:
        """When both are."""
        return tuple(when for when in self.left.when if when in self.right.when)

    def look(self, trail: Trail) -> Finding | None:
        """Ask both."""
        if (left := self.left.look(trail)) is None or (right := self.right.look(trail)) is None:
            return None
        proof = {*left.evidence, *right.evidence}
        return Finding(
            rule=self.name,
            what=f"{left.what}, {right.what}",
            key=digest_of((left.key, right.key)),
            evidence=tuple(entry.step.event for entry in trail.entries if entry.step.event in proof),
            since=min(left.since, right.since),
            round=max(left.round, right.round),
            wasted=max(left.wasted, right.wasted),
            tools=tuple(sorted({*left.tools, *right.tools})),
        )

    def mark(self, entry: Entry) -> Mark | None:
        """Both marks."""
        left, right = self.left.mark(entry), self.right.mark(entry)
        return None if left is None or right is None else (*left, *right)


class Without(LoopRule, frozen=True):
    """`rule.off("tool")`: the rule, deaf to these tools' calls. Raises `SpecError` for no tools or an empty name."""

    rule: LoopRule
    tools: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tools or not all(self.tools):
            raise SpecError(f"{self.rule}.off(…) must name tools, got {self.tools!r}")

    def __str__(self) -> str:
        rule = f"({self.rule})" if isinstance(self.rule, Either | Both) else str(self.rule)
        return f"{rule}.off({', '.join(self.tools)})"

    @property
    def when(self) -> tuple[When, ...]:
        """The rule's."""
        return self.rule.when

    def example(self) -> Sequence[Step]:
        """The rule's."""
        return self.rule.example()

    def look(self, trail: Trail) -> Finding | None:
        """Ask the rule, unless the newest act is of one of these tools."""
        found = None if trail.newest.step.action in self.tools else self.rule.look(trail)
        return None if found is None else msgspec.structs.replace(found, rule=self.name)

    def mark(self, entry: Entry) -> Mark | None:
        """The rule's, for other tools."""
        return None if entry.step.action in self.tools else self.rule.mark(entry)


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


def digest_of(parts: object) -> str:
    """16 hexadecimal digits over a JSON value."""
    return sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def found_by(rule: LoopRule, what: str, proof: Sequence[Entry], marks: set[Mark], length: int = 1) -> Finding:
    """`marks` identify the loop, in whatever order and number its acts come."""
    evidence = tuple(entry.step.event for entry in proof)
    wasted = sum(not entry.news for entry in proof)
    key = digest_of((rule.name, sorted(marks)))
    tools = tuple(sorted({entry.step.action for entry in proof if entry.step.action}))
    return Finding(rule.name, what, key, evidence, proof[0].step.step, length, wasted, tools)
