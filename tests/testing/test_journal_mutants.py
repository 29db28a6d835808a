"""Invariants 32 to 38 hold of the journal as it is, and each finds the defects that are planted for it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutants_journal import MUTANTS, SCENARIOS, Mutant, Scenario


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.promise(275)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_what_is_not_broken_passes(scenario: Scenario, tmp_path: Path) -> None:
    assert scenario(tmp_path) == []


@pytest.mark.promise(276)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_a_planted_defect_is_found_by_its_invariant(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutant.patch(monkeypatch)
    found = mutant.scenario(tmp_path)
    named = [each for each in found if each.startswith(f"invariant #{mutant.kills}:")]
    print(f"#{mutant.kills} {mutant.name} ({mutant.file}): {named[:1] or found[:2]}")
    assert named, f"{mutant.name} survived: {found}"


@pytest.mark.promise(276)
def test_every_invariant_of_the_journal_has_two_defects_of_the_product() -> None:
    counts = Counter(mutant.kills for mutant in MUTANTS)
    assert {number: counts[number] >= 2 for number in range(32, 39)} == dict.fromkeys(range(32, 39), True)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
