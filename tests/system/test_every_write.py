"""A crash at each write of the journal, before, after and in it: invariants 32 to 37 hold, and the run ends the same.

The disk is simulated, its operations (rows, values, a removal of streams) are numbered over all processes of a world.
Each is struck in turn, for five trees, until the fault does not come true any more. The store in SQLite is killed
before each of its statements.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from cuts import CASES, Case, drawn
from mutants_guards import _acts_before_commit
from mutants_journal import _counted_before_written
from recorded import unpacked
from statements import killing, sweep_store

from understudy.actors.journal.store import Row
from understudy.actors.testing.disk_faults import DiskError, DiskFault, KillAfter, KillBefore, LostWrites, TornWrite
from understudy.actors.testing.sim_model import SimModel
from understudy.supervisors.testing import plays
from understudy.testing import Falsified, Outcome, World, play
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened

Kind = Callable[[int], tuple[DiskFault, ...]]
JOURNAL = tuple(each for each in plays.thorough() if 32 <= each.number <= 37)

KINDS: dict[str, Kind] = {
    "before": lambda n: (KillBefore(n),),
    "after": lambda n: (KillAfter(n),),
    "torn": lambda n: (TornWrite(n),),
    "torn in the middle": lambda n: (TornWrite(n, keep=1),),
    "lost": lambda n: (LostWrites(n),),
    "lost but for one": lambda n: (LostWrites(n, keep=1),),
    "refused": lambda n: (DiskError(n),),
    "after, and again": lambda n: (KillAfter(n), KillAfter(n + 1)),
    "before, and again later": lambda n: (KillBefore(n), TornWrite(n + 2, keep=1)),
}
QUICK = [("every effect", "after"), ("a machine", "before"), ("a pruning", "torn")]
"""What the ordinary tests sweep; the campaign sweeps all."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def told(outcome: Outcome) -> object:
    """How it ended, for who asked."""
    results: list[Any] = [(each.status, each.output, each.reason, each.state) for each in outcome.results]
    return sorted(results, key=repr), outcome.returned


def sweep(case: Case, kind: Kind, durability: str = "normal") -> int:
    """Every point of one kind; how many there were."""

    def once(*faults: DiskFault) -> Outcome:
        return play(case.tree, World(faults=faults), case.message, check=JOURNAL, durability=durability)

    whole = once()
    effects = {name: whole.effects(name) for name in case.once}
    assert all(effects.values())
    for number in itertools.count(1):
        faults = kind(number)
        outcome = once(*faults)
        if faults[0] not in outcome.fired:
            return number - 1
        where = f"{faults}: {outcome}"
        assert told(outcome) == told(whole), where
        if durability == "full" or not isinstance(faults[0], LostWrites):  # else what was acknowledged may be lost
            assert {name: outcome.effects(name) for name in case.once} == effects, where
    raise AssertionError


@pytest.mark.promise(277)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.campaign)
        for name in CASES
        for kind in KINDS
    ],
)
def test_a_crash_at_every_write_leaves_a_run_that_ends_the_same(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimModel, "_drawn", drawn(CASES[name].scripts))
    points = sweep(CASES[name], KINDS[kind])
    print(f"{name}, {kind}: {points} points")
    assert points >= 10


@pytest.mark.promise(277)
@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["lost", "lost but for one"])
@pytest.mark.parametrize("name", CASES)
def test_with_full_durability_a_power_cut_at_every_write_repeats_no_effect(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimModel, "_drawn", drawn(CASES[name].scripts))
    points = sweep(CASES[name], KINDS[kind], "full")
    print(f"{name}, {kind}, full: {points} points")
    assert points >= 10


@pytest.mark.parametrize("defect", [_acts_before_commit, _counted_before_written], ids=lambda each: each.__name__)
def test_the_sweep_finds_what_is_done_or_told_too_early(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SimModel, "_drawn", drawn(CASES["a machine"].scripts))
    defect(monkeypatch)
    with pytest.raises(Falsified, match="invariant #33 'write-ahead'"):
        sweep(CASES["a machine"], KINDS["before"])


# --- the store in SQLite ---------------------------------------------------------------------------------------------


@pytest.mark.promise(278)
@pytest.mark.anyio
async def test_a_kill_before_every_statement_of_the_store_leaves_whole_operations(tmp_path: Path) -> None:
    left, found = await sweep_store(tmp_path)
    assert found == []
    doing = {each.known.doing for each in left if each.known is not None}
    assert doing == {"open", "write", "set_meta", "post", "prune", "aclose"}
    assert len(left) > 90


@pytest.mark.promise(278)
@pytest.mark.anyio
async def test_a_kill_before_every_statement_of_an_upgrade_leaves_the_old_journal_or_the_new_one(
    tmp_path: Path,
) -> None:
    async def told(path: Path, *, owner: bool) -> object:
        async with opened(SQLiteStore(path), owner=owner) as store:
            streams: dict[str, list[Row]] = {head.run: await store.read(head.run) for head in await store.heads()}
            return streams, dict(await store.meta()), await store.take(0)

    live, into = tmp_path / "live", tmp_path / "left"
    live.mkdir()
    into.mkdir()
    path = await anyio.to_thread.run_sync(unpacked, "journal-1.db.gz", live)
    before = await told(path, owner=False)
    with killing(live, into) as killed:
        async with opened(SQLiteStore(path)):
            pass
    assert len(killed.left) > 20
    for each in killed.left:
        for owner in (False, True):
            assert await told(each.folder / "desk.db", owner=owner) == before, each.before
