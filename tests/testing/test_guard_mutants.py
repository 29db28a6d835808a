"""Every planted defect of guards, runs and journal is found by the invariant that is about it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from agent_trees import TREES
from hypothesis import HealthCheck, Phase, given, settings
from mutants_guards import MUTANTS, Mutant

from understudy.actors.errors import SpecError
from understudy.actors.testing.play_invariants import SENTENCES
from understudy.supervisors import tree
from understudy.supervisors.testing import plays
from understudy.testing import Falsified, World, play, worlds

WORLDS = 500


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that does not hold is refused before anything runs: here, the invariants must find it."""
    monkeypatch.setattr(tree, "check_budget", lambda *_: None)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def worlds_until_found(mutant: Mutant) -> int:
    """How many worlds it took; 0 for a survivor. What else goes wrong in a broken tree does not count."""
    case = TREES[mutant.tree]
    check = [plays.number(n) for n in mutant.kills]
    tried = [0, 0]

    @settings(
        max_examples=WORLDS,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        worlds(case.tree, kills=mutant.deaths)
        if mutant.faults is None
        else worlds(case.tree, kills=mutant.deaths, faults=mutant.faults)
    )
    def look(world: World) -> None:
        if tried[1]:
            return
        tried[0] += 1
        try:
            play(case.tree, world, case.message, check=check)
        except Falsified:
            tried[1] = tried[0]
        except SpecError:  # no world was played: then this looks for nothing
            raise
        except Exception:  # the defect breaks more than it should
            pass

    look()
    return tried[1]


QUICK = ("no gate is shut", "an unknown tool is the nearest one")
"""Defects of the ordinary tests; the campaign plants all."""


@pytest.mark.promise(196)
@pytest.mark.parametrize(
    "mutant",
    [pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.campaign) for each in MUTANTS],
)
def test_a_planted_defect_is_found_within_500_worlds(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    found = worlds_until_found(mutant)
    print(f"{mutant.name}: invariant {mutant.kills}, {found} worlds")
    assert found, f"{mutant.name}: survived {WORLDS} worlds"


@pytest.mark.promise(196)
def test_every_invariant_of_plays_has_a_defect_that_it_finds() -> None:
    assert {n for mutant in MUTANTS for n in mutant.kills} == set(SENTENCES)
