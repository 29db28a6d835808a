"""Rows as they lie: numbers without gaps, nobody in the name of another, damage named by its first event."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lives import RUN
from msgspec.structs import replace

from understudy.actors.errors import JournalDamaged, StaleWriter
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.store import Row, verify
from understudy.actors.testing.disk_log import Commit
from understudy.actors.testing.journal_checks import check_numbers, check_tail
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run
from understudy.transports.testing.journal_store import stream

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


def test_a_run_that_was_reopened_may_be_written_by_incarnations_that_count_anew() -> None:
    records = [record(1, incarnation=2), record(2, path=""), record(3, incarnation=1)]
    assert len(check_numbers(streams_of(records))) == 1
    records[1] = replace(records[1], incarnation=0, event=ev.Resumed("ana", reopen=True))
    assert check_numbers(streams_of(records)) == []


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
