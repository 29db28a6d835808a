"""Campaigns over random plays in random worlds: with the product as it is, or with a planted defect."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, field

import plays
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from mutants import Mutant
from plays import Play

from understudy.actors.testing.invariants import Invariant, default
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World
from understudy.supervisors.testing import supervision

SETTLE = 60.0
_NUMBER = re.compile(r"^invariant #(\d+)")


def oracles(play: Play) -> tuple[Invariant, ...]:
    """All that a play must hold."""
    return (*default(), *supervision({"desk": play.supervisor(), "pool": play.pool()}))


def run(play: Play, world: World, settle: float = 0.0) -> Trace:
    """Run a play in a world; raises `Falsified`."""
    return world.run(play.main, settle=settle, check=oracles(play), idle_steps=20_000)


@dataclass
class Hunt:
    """How a mutant fared: examples until it was killed, by which invariants, and what else it did."""

    examples: int = 0
    killed: bool = False
    found: set[int] = field(default_factory=set[int])
    other: str = ""


class _Killed(Exception):
    pass


def kinds_of_plays(like: str) -> st.SearchStrategy[Play]:
    """By the name a mutant gives."""
    return STRATEGIES[like]()


def hunt(mutant: Mutant, examples: int = 500, *, start: int = 0) -> Hunt:
    """Run plays against a mutant until one of the invariants it names finds it."""
    hunted = Hunt()

    @seed(start)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kinds_of_plays(mutant.like), plays.worlds(), st.sampled_from([0.0, SETTLE]))
    def look(play: Play, world: World, settle: float) -> None:
        hunted.examples += 1
        try:
            run(play, world, settle)
        except Falsified as found:
            hunted.found |= {int(each[1]) for each in map(_NUMBER.match, found.violations) if each}
        except Exception as error:
            hunted.other = hunted.other or repr(error)
        if hunted.found & set(mutant.kills):
            hunted.killed = True
            raise _Killed

    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with pytest.MonkeyPatch.context() as patching:
            mutant.patch(patching)
            try:
                look()
            except _Killed:
                pass
    finally:
        logging.disable(before)
    return hunted


def premises(trace: Trace) -> Counter[int]:
    """Of which invariants the premise occurred, and how often: what is never tried is not tested."""
    seen: Counter[str] = Counter(event.kind for event in trace.events)
    letters = Counter(event.detail for event in trace.events if event.kind == "letter")
    count: Counter[int] = Counter()
    for number, kinds in PREMISES.items():
        count[number] = sum(seen[kind] for kind in kinds)
    count[3] = sum(event.kind == "starting" and event.number > 1 for event in trace.events)
    count[2] = sum(event.kind == "sent" and event.size > 0 for event in trace.events)
    count[6] = seen["sent"] if seen["settled"] else 0
    count[7] = seen["noted"]
    count[10] = letters["stopped"]
    return count


STRATEGIES = {
    "any": plays.plays,
    "crashing": plays.crashing,
    "flooding": plays.flooding,
    "watching": plays.watching,
}
PREMISES: dict[int, tuple[str, ...]] = {
    1: ("begin",),
    4: ("letter",),
    5: ("redelivered", "stashed"),
    8: ("overflow",),
    9: ("answered",),
    14: ("stopping",),
    18: ("stopping",),
    19: ("crashed",),
    20: ("watch",),
    21: ("closed",),
    22: ("stopping",),
    23: ("released",),
    24: ("settled",),
}
