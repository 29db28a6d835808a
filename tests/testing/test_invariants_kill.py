"""Planted defects: each is found by an invariant it names, within 500 examples."""

from __future__ import annotations

import pytest
from campaigns import hunt
from mutants import MUTANTS, Mutant

EXAMPLES = 500


QUICK = (
    "the mailbox gives the newest message first",
    "an actor takes a message while it handles one",
    "a suspended actor works on",
    "a dynamic child that is stopped during its back-off starts again",
    "what overflows vanishes",
    "a message is redelivered without end",
    "a wake-up is lost when a handler ends",
    "a mailbox takes one more than its limit",
    "who asked what is lost is not told",
    "a supervisor gives up one restart early",
    "a supervisor is told of an end twice",
    "one_for_one restarts all",
    "children are left when their parent ends",
    "a back-off that counts this failure, too",
    "a back-off that does not grow",
    "a child is never restarted",
    "a child that is stopped during its back-off starts again",
    "a crash counts twice",
    "watchers are told twice",
    "workers are left when a kernel is closed",
    "a handler has twice its time when it is stopped",
)
"""For every invariant the defect that it finds soonest; the campaign plants all."""


def test_the_quick_ones_are_for_every_invariant() -> None:
    covered = {number for mutant in MUTANTS if mutant.name in QUICK for number in mutant.kills}
    assert covered >= {number for mutant in MUTANTS for number in mutant.kills}


@pytest.mark.promise(168)
@pytest.mark.parametrize("mutant", [each for each in MUTANTS if each.name in QUICK], ids=lambda each: each.name)
def test_each_invariant_finds_a_planted_defect(mutant: Mutant) -> None:
    hunted = hunt(mutant, EXAMPLES)
    assert hunted.killed, f"{mutant.name}: {hunted}"


@pytest.mark.campaign
def test_every_planted_defect_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    lines, left = [], []
    for mutant in MUTANTS:
        hunted = hunt(mutant, EXAMPLES)
        found = ", ".join(f"#{number}" for number in sorted(hunted.found))
        lines.append(f"{hunted.examples:4d}  {mutant.name}  ({mutant.file}; {found})")
        if not hunted.killed:
            left.append(mutant.name)
    with capsys.disabled():
        print("\nexamples until killed\n" + "\n".join(lines))
    assert len(MUTANTS) >= 40
    assert left == []


def test_names_of_planted_defects_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
