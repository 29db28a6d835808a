"""Each check of a journal passes what is right, and reports what a wrong store, runtime, fold or reader does."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import RUN, Outside, live, play, until_killed
from msgspec.structs import replace

from understudy import System
from understudy.actors.agents.acting import Acts
from understudy.actors.agents.runs import Runs
from understudy.actors.errors import JournalClosed
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import Journal, decode_rows
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Row
from understudy.actors.testing.disk_faults import DiskError, DiskFault, KillAfter, KillBefore, LostWrites, TornWrite
from understudy.actors.testing.disk_log import Commit
from understudy.actors.testing.journal_checks import (
    Answered,
    Committed,
    ModelCalled,
    ToolCalled,
    check_cuts,
    check_live_state,
    check_prefix,
    check_write_ahead,
)
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import run
from understudy.actors.testing.witness import Batch, Witness
from understudy.transports.testing.journal_store import stream

# --- 32: prefix --------------------------------------------------------------------------------------------------

Shape = Sequence[Sequence[str]]
"""Batches as the runs that their events belong to."""


def batches(shape: Shape) -> list[list[Row]]:
    count = {run_: sum(batch.count(run_) for batch in shape) for run_ in "ab"}
    rows = {run_: iter(stream(run_, [b"%d" % n for n in range(count[run_])])) for run_ in "ab"}
    return [[next(rows[run_]) for run_ in batch] for batch in shape]


class AcknowledgesFirst(SimStore):
    """`write` returns, and then it writes."""

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        self.under_way = asyncio.ensure_future(super().write(rows, at))
        self.under_way.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0)


class LosesItsTail(SimDisk):
    """What was written last dies with the process."""

    def kill(self, process: str = "node") -> None:
        super().kill(process)
        del self._log[-1:]
        self._recover()


class KeepsTornWrites(SimDisk):
    """The beginning of a transaction counts."""

    def tear(self, commit: Commit, keep: int) -> None:
        self.commit(replace(commit, rows=commit.rows[:keep], at=commit.at[:keep]))


class LosesOneInTheMiddle(SimDisk):
    """A power cut takes the oldest write that was not flushed and leaves the others."""

    def power_cut(self, keep: int = 0) -> int:
        super().power_cut(self.unflushed)
        del self._log[:1]
        self._recover()
        return 1


class Invents(SimDisk):
    """After a kill there is an event that nobody wrote."""

    def kill(self, process: str = "node") -> None:
        super().kill(process)
        self._log.append(Commit(rows=tuple(stream("c", [b"?"])), at=(1.0,)))
        self._recover()


def crashed(
    shape: Shape,
    fault: DiskFault,
    make: type[SimStore] = SimStore,
    disk: type[SimDisk] = SimDisk,
) -> list[str]:
    """What `check_prefix` says after one process wrote batches of this shape and died of the fault."""

    async def main() -> list[str]:
        bed = disk([fault])
        witness = Witness(make(bed))

        async def life() -> None:
            await witness.open()
            for batch in batches(shape):
                await witness.write(batch, [1.0] * len(batch))

        task = asyncio.ensure_future(life())
        await asyncio.sleep(5)
        bed.bury()
        await asyncio.wait([task])
        if make is SimStore:
            assert isinstance(task.exception(), JournalClosed) == (fault in bed.fired)
        return check_prefix(witness.written, bed.streams(), base=witness.base, lossy=isinstance(fault, LostWrites))

    return run(main)


shapes = st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=3), min_size=3, max_size=5)
faults = st.integers(1, 5).flatmap(
    lambda n: st.sampled_from([KillBefore(n), KillAfter(n), TornWrite(n), TornWrite(n, keep=1), LostWrites(n, keep=1)])
)


@pytest.mark.promise(164)
@given(shapes, faults)
def test_a_prefix_with_all_that_was_acknowledged_passes(shape: Shape, fault: DiskFault) -> None:
    assert crashed(shape, fault) == []


SHAPE: Shape = ["a", "ab", "b", "bab"]


@pytest.mark.promise(164)
@pytest.mark.parametrize(
    ("fault", "make", "disk", "said"),
    [
        (KillBefore(2), AcknowledgesFirst, SimDisk, "batch 2, from a:2 on, was acknowledged and is lost"),
        (KillAfter(3), SimStore, LosesItsTail, None),
        (KillBefore(3), SimStore, LosesItsTail, "batch 2, from a:2 on, was acknowledged and is lost"),
        (TornWrite(2, keep=1), SimStore, KeepsTornWrites, "batch 2 is torn: 1 of 2 events are there"),
        (LostWrites(3), SimStore, LosesOneInTheMiddle, "batch 2 is there and batch 1 before it is lost"),
        (KillBefore(2), SimStore, Invents, "c:1 is there and was never written"),
    ],
)
def test_a_store_that_loses_tears_or_invents_is_reported(
    fault: DiskFault, make: type[SimStore], disk: type[SimDisk], said: str | None
) -> None:
    found = crashed(SHAPE, fault, make, disk)
    assert (said in found) if said is not None else (found == [])  # a batch that nobody heard of may be lost


def test_a_gap_in_the_middle_is_reported_where_a_tail_may_be_lost() -> None:
    written = [Batch(tuple(stream("a", [b"1"])), acknowledged=True), Batch(tuple(stream("b", [b"1"])), True)]
    left = {"b": list(written[1].rows)}
    assert check_prefix(written, {}, lossy=True) == []
    assert check_prefix(written, left, lossy=True) == ["batch 2 is there and batch 1 before it is lost"]
    assert len(check_prefix(written, left)) == 2


def test_what_was_there_before_must_stay() -> None:
    before = {"a": stream("a", [b"1", b"2"])}
    assert check_prefix([], before, base=before) == []
    found = check_prefix([], {"a": before["a"][:1]}, base=before)
    assert found == ["a: what was there before (2 events) is not there as it was"]


def test_a_refused_batch_may_be_missing_and_the_next_one_there() -> None:
    written = [Batch(tuple(stream("a", [b"1"]))), Batch(tuple(stream("a", [b"other"])), acknowledged=True)]
    assert check_prefix(written, {"a": list(written[1].rows)}) == []


def test_half_of_a_removal_is_reported() -> None:
    base = {"a": stream("a", [b"1", b"2"]), "b": stream("b", [b"1"])}
    told = stream("@pruned", [b"{}"])
    removal = [Batch(tuple(told), gone=("a", "b"))]
    assert check_prefix(removal, {"@pruned": told}, base=base) == []
    assert check_prefix(removal, base, base=base) == [], "not acknowledged: it may not have begun"
    assert check_prefix(removal, {"@pruned": told, "b": base["b"]}, base=base) == [
        "b is there, and was removed",
        "b:1 is there and was never written",
    ]
    assert check_prefix(removal, {"b": base["b"]}, base=base) == [
        "a: what was there before (2 events) is not there as it was"
    ]
    done = [Batch(tuple(told), acknowledged=True, gone=("a", "b"))]
    assert check_prefix(done, base, base=base) == ["batch 1, from @pruned:1 on, was acknowledged and is lost"]


# --- 33: write-ahead -----------------------------------------------------------------------------------------------


def recorded(disk: SimDisk) -> list[Record]:
    return decode_rows(disk.name, disk.streams()[RUN])


@pytest.mark.promise(163)
@pytest.mark.parametrize("fault", [None, KillBefore(4), KillAfter(4), KillAfter(6), KillBefore(7), DiskError(99)])
def test_what_the_runtime_does_is_committed_first(fault: DiskFault | None) -> None:
    result, outside, disk = play([fault] if fault is not None else [])
    assert result.status == "complete"
    calls = [m for m in outside.moments if isinstance(m, ModelCalled | ToolCalled)]
    assert len(calls) >= 10
    assert isinstance(outside.moments[-1], Answered)
    assert check_write_ahead(recorded(disk), outside.moments) == []


@pytest.mark.promise(163)
def test_every_kill_leaves_what_was_done_committed_first() -> None:
    number, fired = 0, True
    while fired:
        number += 1
        _, outside, disk = play([KillAfter(number)])
        assert check_write_ahead(recorded(disk), outside.moments) == [], number
        fired = bool(disk.fired)
    assert number > 8


@pytest.mark.promise(163)
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (ev.ModelAsked, "the model was called for step 1 before its intent was committed"),
        (ev.ToolAsked, "call 0 of step 2, pay, was made before its intent, event"),
        (ev.Finished, "was answered from event"),
    ],
)
def test_a_runtime_that_does_not_wait_for_the_commit_of_something_is_reported(
    kind: type[ev.Event], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, append = Journal.barrier, Journal.append
    last: list[type[ev.Event]] = []

    def remembering(self: Journal, run: str, event: ev.AnyEvent, **options: Any) -> Record:
        last[:] = [type(event)]
        return append(self, run, event, **options)

    async def impatient(self: Journal) -> None:
        if last != [kind]:
            await barrier(self)

    monkeypatch.setattr(Journal, "append", remembering)
    monkeypatch.setattr(Journal, "barrier", impatient)
    _, outside, disk = play()
    found = check_write_ahead(recorded(disk), outside.moments)
    assert found != []
    assert said in found[0]


@pytest.mark.promise(163)
def test_a_runtime_that_reads_before_the_outcome_of_an_earlier_call_is_committed_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def impatient(self: Acts) -> None:
        pass

    monkeypatch.setattr(Acts, "commit_outcomes", impatient)
    _, outside, disk = play()
    found = check_write_ahead(recorded(disk), outside.moments)
    assert found != []
    assert "call 2 of step 3, look, was made before the outcome of an earlier one, event" in found[0]


@pytest.mark.promise(163)
def test_an_act_after_its_own_outcome_is_reported() -> None:
    _, _, disk = play()
    records = recorded(disk)
    committed = Committed(RUN, len(records))
    model = check_write_ahead(records, [committed, ModelCalled(RUN, 0, 1)])
    assert len(model) == 1
    assert "the model was called for step 1 again after the outcome of its intent" in model[0]
    paid = check_write_ahead(records, [committed, ToolCalled(RUN, 0, 2, 0)])
    assert len(paid) == 1
    assert "call 0 of step 2, pay, was made again after the outcome of its intent" in paid[0]
    assert check_write_ahead(records, [committed, ToolCalled(RUN, 0, 1, 0)]) == [], "reading again does no harm"


def test_an_act_without_any_intent_is_reported() -> None:
    assert "without an intent" in check_write_ahead([], [ToolCalled(RUN, 0, 9, 0)])[0]
    assert "it has no intent" in check_write_ahead([], [ModelCalled(RUN, 0, 9)])[0]


# --- 34, 35: the state ---------------------------------------------------------------------------------------------


def states_at_commits() -> tuple[list[Record], dict[int, Run]]:
    """A whole run, and copies of the live state at its commits."""
    systems: list[System] = []
    states: dict[int, Run] = {}
    outside = Outside()

    def committed(rows: Sequence[Row]) -> None:
        state = systems[0].state(RUN)
        states[state.seq] = copy.deepcopy(state)

    disk = SimDisk(on_commit=committed)
    run(lambda: live(outside, SimStore(disk), systems.append))
    return recorded(disk), states


@pytest.mark.promise(164)
def test_the_journal_folds_to_the_live_state_at_every_commit() -> None:
    records, states = states_at_commits()
    assert len(states) > 5
    assert check_live_state(records, states) == []


@pytest.mark.promise(164)
def test_a_runtime_that_keeps_something_beside_the_journal_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    append = Runs.append

    def spending(self: Runs, run: str, event: ev.AnyEvent, **options: Any) -> Record:
        record = append(self, run, event, **options)
        if isinstance(event, ev.ToolAnswered):
            self.get(run).spend.tokens += 1
        return record

    monkeypatch.setattr(Runs, "append", spending)
    found = check_live_state(*states_at_commits())
    assert found != []
    assert found[0].endswith("the journal and the live state differ in spend")


def test_a_state_that_no_event_leads_to_is_reported() -> None:
    records, states = states_at_commits()
    assert check_live_state(records, {999: states[max(states)]}) == [f"a state lived at event 999 of {len(records)}"]


@pytest.mark.promise(164)
def test_a_whole_run_may_be_cut_after_every_event() -> None:
    _, _, disk = play([KillAfter(5), KillBefore(8)])
    records = recorded(disk)
    assert len(records) > 20
    assert check_cuts(records) == []
    assert check_cuts(records, cuts=[3, 7]) == []
    assert check_cuts([]) == []


def forgets_its_past(records: Iterable[Record], state: Run | None = None) -> Run:
    """Takes the rest for the whole."""
    return fold(records)


def skips_the_first_of_the_rest(records: Iterable[Record], state: Run | None = None) -> Run:
    rest = list(records)
    return fold(rest if state is None else rest[1:], state)


def forgets_money_at_a_cut(records: Iterable[Record], state: Run | None = None) -> Run:
    if state is not None:
        state.booked.clear()
    return fold(records, state)


def loses_what_is_open(records: Iterable[Record], state: Run | None = None) -> Run:
    if state is not None:
        state.main.asking = None
        state.tickets.clear()
    return fold(records, state)


class Counts:
    """Is not the same twice."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, records: Iterable[Record], state: Run | None = None) -> Run:
        self.times += 1
        run_ = fold(records, state)
        run_.restarts += self.times
        return run_


@pytest.mark.promise(164)
@pytest.mark.parametrize(
    ("folding", "said"),
    [
        (forgets_its_past, "KeyError"),
        (skips_the_first_of_the_rest, "whole and cut after event 1 differ"),
        (forgets_money_at_a_cut, "differ in booked"),
        (loses_what_is_open, "differ in"),
        (Counts(), "folded once and again differ in restarts"),
    ],
)
def test_a_fold_that_depends_on_the_cut_is_reported(folding: Callable[..., Run], said: str) -> None:
    records, _ = states_at_commits()
    found = check_cuts(records, folding=folding)
    assert any(said in sentence for sentence in found)


def test_the_helper_of_these_tests_sees_a_kill() -> None:
    async def life(store: SimStore) -> None:
        await store.open()
        await store.set_meta({"a": "b"})

    assert run(lambda: until_killed(SimDisk([KillAfter(1)]), life)) == KillAfter(1)
    assert run(lambda: until_killed(SimDisk(), life)) is None
