"""Whether rules that find loops are armed: each is fired once on acts made up for it, before anything runs.

A guard that cannot fire guards nothing, and nobody notices. So a rule that objects to none of the samples is refused
when it is declared: `Loops(Errors(4) & Talk(3))` asks for a failing call that is talk. A rule of your own names acts
that it must object to with `example`. Budgets and windows are tried in `tried`, which guards are armed tells `listing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from understudy.actors.agents.guards import Step
from understudy.actors.errors import SpecError
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
