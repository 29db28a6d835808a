"""Planted defects: each is found by an invariant it names, within 500 examples."""

from __future__ import annotations

import pytest
from campaigns import hunt
from mutants import MUTANTS, Mutant

EXAMPLES = 500


def first_of_each() -> list[Mutant]:
    """For every invariant the first mutant that it kills."""
    chosen: dict[int, Mutant] = {}
    for mutant in MUTANTS:
        for number in mutant.kills:
            chosen.setdefault(number, mutant)
    return list({mutant.name: mutant for mutant in chosen.values()}.values())


@pytest.mark.promise(168)
@pytest.mark.parametrize("mutant", first_of_each(), ids=lambda mutant: mutant.name)
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
