"""Whether guards are armed: each loop rule is fired once on acts made up for it, and a run tells which guards fired.

A guard that cannot fire guards nothing, and nobody notices. So a rule that objects to none of the samples is refused
when it is declared: `Loops(Errors(4) & Talk(3))` asks for a failing call that is talk. A rule of your own names acts
that it must object to with `example`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, Literal, cast

from msgspec import Struct
from msgspec.structs import replace

from understudy.actors.agents.guards import Step
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.supervisors.guards.budgets import Budget, Window
from understudy.supervisors.guards.combining import LoopRule
from understudy.supervisors.guards.trail import REACH, Trail

SHORT: Final = 16
"""Acts of a sample that are tried first: enough for every default."""
_PAGE: Final = " ".join(f"word{n}" for n in range(40))
_CALL: Final = Step(0, "agent", "sample", '{"of":"a loop"}', "same", text="same")
_FAILED: Final = replace(_CALL, outcome="", error="it failed", malformed=True)


def _samples() -> Iterator[list[Step]]:
    """Loops of every kind, long enough for every threshold."""
    numbers = range(REACH)
    yield [_CALL] * REACH
    yield [_FAILED] * REACH
    yield [replace(_CALL, polling=True)] * REACH
    yield [replace(_FAILED, arguments=str(n)) for n in numbers]
    yield [replace(_CALL, arguments=f'{{"of":"{word}"}}') for word in ("a loop", "a  loop") * (REACH // 2)]
    yield [replace(_CALL, arguments=str(n)) for n in numbers]
    yield [replace(_CALL, outcome=str(n), text=f"{_PAGE} {n}") for n in numbers]
    yield [replace(_CALL, action="", arguments="", outcome="so I say", text="so I say")] * REACH
    yield [replace(_CALL, action="", arguments="", outcome="do it", text="do it", to="worker")] * REACH
    yield [replace(_CALL, to="sample")] * REACH
    yield [replace(_CALL, action="", arguments="", outcome="wrong", text="wrong", malformed=True)] * REACH


def silent(rules: Iterable[LoopRule]) -> list[LoopRule]:
    """Those of `rules` that object to no sample, and not to their own `example`."""
    left = [rule for rule in rules if not _objects([rule], rule.example())]
    for length in (SHORT, REACH):
        for sample in _samples():
            if left:
                fired = _objects(left, sample[:length])
                left = [rule for rule in left if rule not in fired]
    return left


def _objects(rules: Sequence[LoopRule], sample: Sequence[Step]) -> list[LoopRule]:
    """Those that object at some step."""
    trail = Trail()
    fired: list[LoopRule] = []
    for number, step in enumerate(sample, 1):
        if trail.add(replace(step, step=number, event=number)):
            fired += [rule for rule in rules if rule not in fired and rule.look(trail) is not None]
        if len(fired) == len(rules):
            break
    return fired


def check_rule(where: str, rule: LoopRule) -> None:
    """Raise `SpecError` unless each part of `rule` that may object on its own can fire."""
    try:
        left = _silent(rule)
    except TypeError:  # a rule with a field that has no hash
        left = _silent.__wrapped__(rule)
    if left:
        raise SpecError(f"{where}: {left[0]} cannot fire: it objects to no loop that it was tried on")


@lru_cache(maxsize=256)
def _silent(rule: LoopRule) -> list[LoopRule]:
    return silent(rule.parts())


class Armed(Struct, frozen=True):
    """One guard of one agent, and what it did in a run: how often it fired, and at which event last (0 for never)."""

    agent: str
    kind: Literal["loops", "budget"]
    guard: str
    fired: int = 0
    last: int = 0

    @property
    def state(self) -> Literal["armed", "fired"]:
        """Whether it fired."""
        return "fired" if self.fired else "armed"


def armed(policies: Mapping[str, Policy], records: Sequence[Record]) -> list[Armed]:
    """Every guard of the configured agents, in their order, with what it did in the run of `records`.

    A verdict of a rule that is not configured any more, and a pool that no agent has, are left out.
    """
    verdicts = list(_verdicts(records))
    denials = [(event.event.pool, event.seq) for event in records if isinstance(event.event, ev.BudgetDenied)]
    found: list[Armed] = []
    for name, policy in policies.items():
        rule = getattr(policy.loops, "rule", None)
        for part in rule.parts() if isinstance(rule, LoopRule) else ():
            seqs = [seq for agent, said, seq in verdicts if agent == name and said == part.name]
            found.append(Armed(name, "loops", str(part), len(seqs), max(seqs, default=0)))
        for owner, budget in policy.budgets:
            seqs = [seq for pool, seq in denials if pool.partition("@")[0] == owner]
            found.append(Armed(name, "budget", f"{owner}: {_told(budget)}", len(seqs), max(seqs, default=0)))
    return found


def _verdicts(records: Iterable[Record]) -> Iterator[tuple[str, str, int]]:
    """(agent, rule, event) of each verdict; a sub-run's agent is the one it was handed to last."""
    agents: dict[int, str] = {}
    for record in records:
        match record.event:
            case ev.RunStarted() | ev.SubStarted():
                agents[record.sub] = record.event.agent
            case ev.HandedOff():
                agents[record.sub] = record.event.to
            case ev.Judged():
                yield agents.get(record.sub, ""), record.event.verdict.rule, record.seq
            case _:
                pass


def _told(budget: object) -> str:
    """The limits of a budget in words."""
    if not isinstance(budget, Budget):
        return type(budget).__name__
    limits = [
        (unit, cast("object", getattr(budget, unit)))
        for unit in budget.__struct_fields__
        if unit not in ("per", "warn", "tools")
    ]
    limits += [(f"calls of {name}", limit) for name, limit in budget.tools.items()]
    told = ", ".join(f"{unit} {limit}" for unit, limit in limits if limit is not None) or "no limits"
    if isinstance(budget.per, Window):
        return f"{told} per {budget.per.seconds:g} s"
    return told if budget.per == "run" else f"{told} per life"
