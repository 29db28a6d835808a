"""Each check of a journal passes what is right, and reports what a wrong store, runtime, fold or reader does."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import RUN, Outside, live, play, until_killed
from msgspec.structs import replace

from understudy import System
from understudy.actors.agents.runs import Runs
from understudy.actors.errors import JournalClosed, JournalDamaged, StaleWriter
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import Journal, decode_rows
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Row, verify
from understudy.actors.testing.disk_faults import DiskError, DiskFault, KillAfter, KillBefore, LostWrites, TornWrite
from understudy.actors.testing.disk_log import Commit
from understudy.actors.testing.journal_checks import (
    Answered,
    Committed,
    ModelCalled,
    ToolCalled,
    check_cuts,
    check_live_state,
    check_numbers,
    check_prefix,
    check_tail,
    check_write_ahead,
)
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run
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


@pytest.mark.promise(162)
@given(shapes, faults)
def test_a_prefix_with_all_that_was_acknowledged_passes(shape: Shape, fault: DiskFault) -> None:
    assert crashed(shape, fault) == []


SHAPE: Shape = ["a", "ab", "b", "bab"]


@pytest.mark.promise(162)
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
        (ev.ToolAnswered, "call 2 of step 3, look, was made before the outcome of an earlier one, event"),
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


# --- 36: numbers ---------------------------------------------------------------------------------------------------


def record(seq: int, *, path: str = "desk/clerk", incarnation: int = 1) -> Record:
    return Record(RUN, seq, 1.0, 1.0, 0, path, incarnation, 0, ev.StateTimedOut("x", float(seq)))


def streams_of(records: Sequence[Record]) -> dict[str, list[Row]]:
    return {RUN: stream(RUN, [ev.encode(each) for each in records])}


@pytest.mark.promise(164)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_numbers_without_gaps_in_the_name_of_whoever_is_current_pass(numbers: list[int]) -> None:
    records = [record(seq, incarnation=number) for seq, number in enumerate(sorted(numbers), 1)]
    assert check_numbers(streams_of(records)) == []


@pytest.mark.promise(164)
@given(st.integers(2, 8), st.data())
def test_a_repeated_missing_or_moved_number_is_reported(length: int, data: st.DataObject) -> None:
    rows = streams_of([record(seq) for seq in range(1, length + 1)])[RUN]
    at = data.draw(st.integers(0, length - 2))
    wrong = data.draw(
        st.sampled_from(
            [
                [*rows[: at + 1], *rows[at:]],
                [*rows[:at], *rows[at + 1 :]],
                [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]],
            ]
        )
    )
    assert f"lies where {RUN}:" in check_numbers({RUN: wrong})[0]


class AcceptsEverything(SimDisk):
    """Anybody is the owner, and any number will do."""

    def mount(self, store: SimStore, owner: bool) -> None:
        return

    def owned_by(self, store: SimStore) -> bool:
        return True

    def commit(self, commit: Commit) -> None:
        self._log.append(commit)
        self._pages.apply(commit)


@pytest.mark.promise(164)
def test_two_owners_of_one_journal_are_reported() -> None:
    async def main() -> Mapping[str, Sequence[Row]]:
        disk = AcceptsEverything()
        for _ in range(2):
            journal = Journal(SimStore(disk), SimClock())
            await journal.open()
            journal._heads.clear()  # neither sees what the other writes
            journal.append(RUN, ev.Parked("timer", ()))
            await journal.aclose()
        return disk.streams()

    assert check_numbers(run(main)) == [f"{RUN}:1 lies where {RUN}:2 is next"]


@pytest.mark.promise(164)
def test_an_append_in_the_name_of_a_former_incarnation_is_refused_and_reported_if_it_is_not() -> None:
    async def main() -> Mapping[str, Sequence[Row]]:
        disk = SimDisk()
        journal = Journal(SimStore(disk), SimClock())
        await journal.open()
        for number in (1, 2):
            journal.enter("desk/clerk", number)
            journal.append(RUN, ev.Parked("timer", ()), path="desk/clerk", incarnation=number)
        with pytest.raises(StaleWriter):
            journal.append(RUN, ev.Parked("timer", ()), path="desk/clerk", incarnation=1)
        await journal.barrier()
        assert check_numbers(disk.streams()) == []
        journal._current.clear()
        journal.append(RUN, ev.Parked("timer", ()), path="desk/clerk", incarnation=1)
        await journal.aclose()
        return disk.streams()

    assert check_numbers(run(main)) == [f"{RUN}:3 was written by desk/clerk #1 after #2"]


def test_an_event_that_is_none_or_calls_itself_something_else_is_reported() -> None:
    assert "is no event" in check_numbers({RUN: stream(RUN, [b"{}"])})[0]
    assert check_numbers({RUN: stream(RUN, [ev.encode(record(7))])}) == [f"{RUN}:1 calls itself {RUN}:7"]


# --- 37: tails -----------------------------------------------------------------------------------------------------

Reader = Callable[[Sequence[Row]], Sequence[Row] | JournalDamaged]


def verifies(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    try:
        verify("j.db", stored)
    except JournalDamaged as error:
        return error
    return stored


def believes(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    return stored


def keeps_quiet(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    found = verifies(stored)
    return stored[: found.seq - 1] if isinstance(found, JournalDamaged) else found


def names_the_next(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    found = verifies(stored)
    return JournalDamaged("j.db", RUN, found.seq + 1, "?") if isinstance(found, JournalDamaged) else found


def leaves_the_last_out(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    found = verifies(stored)
    return found if isinstance(found, JournalDamaged) else found[:-1]


def is_afraid(stored: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    return JournalDamaged("j.db", RUN, len(stored) + 1, "surely")


def damaged(rows: Sequence[Row], dice: random.Random) -> list[Row]:
    """Cut, or with one row changed, missing or repeated; or as it was."""
    at = dice.randrange(len(rows))
    row = rows[at]
    match dice.randrange(6):
        case 0:
            return list(rows[:at])
        case 1:
            return [*rows[:at], replace(row, payload=row.payload[:-1] + b"?"), *rows[at + 1 :]]
        case 2:
            return [*rows[:at], replace(row, crc=row.crc ^ 1), *rows[at + 1 :]]
        case 3:
            return [*rows[:at], *rows[at + 1 :]]
        case 4:
            return [*rows[:at], row, row, *rows[at + 1 :]]
        case _:
            return list(rows)


ROWS = stream(RUN, [b"payload %d" % number for number in range(6)])


@pytest.mark.promise(164)
@given(st.integers(0, 2**32))
def test_a_reader_that_verifies_passes_whatever_happened(seed: int) -> None:
    stored = damaged(ROWS, random.Random(seed))
    assert check_tail(ROWS, stored, verifies(stored)) == []


@pytest.mark.promise(164)
@pytest.mark.parametrize("reader", [believes, keeps_quiet, names_the_next, leaves_the_last_out, is_afraid])
def test_a_reader_that_does_not_name_the_first_damage_is_reported(reader: Reader) -> None:
    dice = random.Random(1)
    tries = [damaged(ROWS, dice) for _ in range(100)]
    assert any(check_tail(ROWS, stored, reader(stored)) for stored in tries)


def test_a_cut_below_what_was_counted_is_damage() -> None:
    assert check_tail(ROWS, ROWS[:4], ROWS[:4]) == []
    assert check_tail(ROWS, ROWS[:4], ROWS[:4], counted=6) == ["damage after 4 events was not seen: 4 were read"]
    assert check_tail(ROWS, ROWS[:4], JournalDamaged("j.db", RUN, 5, "missing"), counted=6) == []


def test_a_simulated_disk_names_its_damage() -> None:
    async def main() -> None:
        disk = SimDisk()
        store = SimStore(disk)
        await store.open()
        await store.write(ROWS, [1.0] * 6)
        assert check_tail(ROWS, disk.streams()[RUN], await store.read(RUN)) == []
        disk.damage(RUN, 3)
        with pytest.raises(JournalDamaged) as caught:
            await store.read(RUN)
        assert check_tail(ROWS, disk.streams()[RUN], caught.value) == []

    run(main)


def test_the_helper_of_these_tests_sees_a_kill() -> None:
    async def life(store: SimStore) -> None:
        await store.open()
        await store.set_meta({"a": "b"})

    assert run(lambda: until_killed(SimDisk([KillAfter(1)]), life)) == KillAfter(1)
    assert run(lambda: until_killed(SimDisk(), life)) is None
