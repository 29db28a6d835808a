"""Defects planted in journal, store, fold, resume and upgrade; the scenarios in which invariants 32 to 38 find them.

A scenario takes an empty folder and returns what the checks say, each sentence with the number of its invariant. All
take well under a second, but for `store_killed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gzip
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from lives import RUN, Outside, live, until_killed
from mutants_guards import (
    _acts_before_commit,
    _checksums_are_not_read,
    _state_beside_the_journal,
    _the_fold_remembers,
)
from recorded import HISTORIES, states_of, unpacked
from statements import check_places, sweep_store

from understudy import System
from understudy.actors.agents import runs as resuming
from understudy.actors.errors import JournalDamaged, JournalFailed, StaleWriter, UnderstudyError
from understudy.actors.journal import events as ev
from understudy.actors.journal import fold as folding
from understudy.actors.journal import journal as journals
from understudy.actors.journal.events import Record, encode
from understudy.actors.journal.fold import apply
from understudy.actors.journal.journal import Journal, decode_rows
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import MemoryStore, Row, verify
from understudy.actors.testing import journal_checks as checks
from understudy.actors.testing.disk_faults import DiskFault, KillAfter, KillBefore
from understudy.actors.testing.folded import State, told
from understudy.actors.testing.replays import fold_all, read_history, read_states, record_states
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run
from understudy.actors.testing.witness import Batch, Witness
from understudy.transports.journals import sqlite, upgrading
from understudy.transports.journals.files import transaction
from understudy.transports.journals.heads import Heads, Known
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream

Scenario = Callable[[Path], list[str]]
Patch = Callable[[pytest.MonkeyPatch], None]


def _about(number: int, found: Iterable[str]) -> list[str]:
    return [f"invariant #{number}: {each}" for each in found]


# --- scenarios -------------------------------------------------------------------------------------------------------


def lives_killed(folder: Path) -> list[str]:
    """A run with reads and payments on a simulated disk, killed at one of its writes and taken up again."""
    found: list[str] = []
    for fault in (None, KillBefore(4), KillAfter(5), KillAfter(7)):
        found += _one_life_after_another([] if fault is None else [fault])
    return found


def _one_life_after_another(faults: Sequence[DiskFault]) -> list[str]:
    outside, results, systems, processes = Outside(), [], list[System](), list[Witness]()
    states: dict[int, Run] = {}

    def committed(rows: Sequence[Row]) -> None:
        outside.committed(rows)
        with contextlib.suppress(UnderstudyError):
            state = systems[-1].state(RUN)
            states[state.seq] = copy.deepcopy(state)

    disk = SimDisk(faults, on_commit=committed)

    async def life(store: SimStore) -> None:
        processes.append(Witness(store))
        results.append(await live(outside, processes[-1], systems.append))

    for _ in range(5):
        with contextlib.suppress(Exception):  # a broken runtime may break more than it should
            run(lambda: until_killed(disk, life))
        if results:
            break
    streams = disk.streams()
    records = decode_rows(disk.name, streams.get(RUN, []))
    found: list[str] = []
    for number, process in enumerate(processes):
        after = next((each.base for each in processes[number + 1 :] if each.opened), streams)
        found += _about(32, checks.check_prefix(process.written, after, base=process.base))
    found += _about(35, checks.check_cuts(records))
    found += _about(33, checks.check_write_ahead(records, outside.moments))
    found += _about(34, checks.check_live_state(records, states))
    return found + _about(36, checks.check_numbers(streams))


def writer_killed(folder: Path) -> list[str]:
    """Events that were waited for, one by one, and a kill at each write: what the journal said is committed, is."""
    found: list[str] = []
    for number in range(1, 5):
        written: list[Batch] = []

        async def life(store: SimStore) -> None:
            journal = Journal(store, SimClock())
            await journal.open()
            records: list[Record] = []
            for n in range(4):
                records.append(journal.append("a", ev.Unparked(str(n))))
                written.append(Batch((stream("a", [encode(each) for each in records])[-1],)))  # noqa: B023
                await journal.barrier()
                written[-1].acknowledged = True  # noqa: B023

        disk = SimDisk([KillBefore(number)])
        run(lambda: until_killed(disk, life))  # noqa: B023
        found += _about(32, checks.check_prefix(written, disk.streams()))
    return found


def store_killed(folder: Path) -> list[str]:
    """The SQLite store, killed before every statement of every operation."""
    return asyncio.run(sweep_store(folder / "store"))[1]


def writers_at_odds(folder: Path) -> list[str]:
    """An actor's former incarnation writes on, and somebody else's rows leave a gap."""
    disk = SimDisk()

    async def two() -> None:
        journal = Journal(SimStore(disk), SimClock())
        await journal.open()
        for incarnation in (1, 2, 1):
            with contextlib.suppress(StaleWriter):
                journal.enter("desk/a", incarnation)
            with contextlib.suppress(StaleWriter):
                journal.append("r", ev.Unparked("x"), path="desk/a", incarnation=incarnation)
        await journal.aclose()

    run(two)
    path = folder / "odd.db"

    async def gap() -> None:
        rows = stream("a", [b"1", b"2", b"3"])
        async with opened(SQLiteStore(path)) as store:
            for batch in (rows[:1], rows[2:]):
                with contextlib.suppress(JournalFailed):
                    await store.write(batch, [1.0] * len(batch))

    asyncio.run(gap())
    found = _about(36, checks.check_numbers(disk.streams()))
    return found + _about(36, check_places({"a": _stored(path)}))


def file_damaged(folder: Path) -> list[str]:
    """A journal in which a byte is changed, the last event is gone, or its end is cut off."""
    path, rows = folder / "hurt.db", stream("a", [b"one", b"two", b"three"])
    changes = [
        "UPDATE events SET payload = CAST('tvo' AS BLOB) WHERE seq = 2",
        "UPDATE events SET payload = CAST('thre' AS BLOB) WHERE seq = 3",
        "DELETE FROM events WHERE seq = 3",
        "DELETE FROM events WHERE seq = 1",
    ]
    found: list[str] = []

    async def read() -> Sequence[Row] | JournalDamaged:
        async with opened(SQLiteStore(path), owner=False) as store:
            try:
                return await store.read("a")
            except JournalDamaged as error:
                return error

    async def make() -> None:
        async with opened(SQLiteStore(path)) as store:
            for row in rows:
                await store.write([row], [1.0])

    for change in changes:
        path.unlink(missing_ok=True)
        asyncio.run(make())
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(change)
        found += _about(37, checks.check_tail(rows, _stored(path), asyncio.run(read()), counted=len(rows)))
    return found


def _stored(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as db:
        return [Row(*row) for row in db.execute("SELECT run, seq, payload, length, crc FROM events ORDER BY id")]


def journals_of_others(folder: Path) -> list[str]:
    """Recorded journals of every version, upgraded, and an unfinished run of a later understudy."""
    found: list[str] = []
    for version in (1, 2):
        then = read_states(states_of(version))
        found += _about(38, checks.check_old(then, _upgraded(version, folder / str(version))))
        history = gzip.decompress((HISTORIES / f"events-{version}.history.gz").read_bytes())
        streams = read_history(history)
        found += _about(38, checks.check_old({run: then[run] for run in streams}, fold_all(streams)))
    for events, kind in (("3", "Unparked"), ("2", "Teleported")):
        found += _about(38, _of_a_later(events, kind))
    return found


def _upgraded(version: int, folder: Path) -> dict[str, State]:
    folder.mkdir()
    path = unpacked(f"journal-{version}.db.gz", folder)

    async def main() -> bytes:
        async with opened(SQLiteStore(path)):
            pass
        return await record_states(SQLiteStore(path))

    return read_states(asyncio.run(main()))


def _of_a_later(events: str, kind: str) -> list[str]:
    """A run that was killed at work, with one more event, of `kind`: by a version that keeps `future` in its state."""
    disk = SimDisk([KillAfter(4)])

    async def life(store: SimStore) -> None:
        await live(Outside(), store)

    run(lambda: until_killed(disk, life))
    rows = disk.streams()[RUN]
    last = msgspec.json.decode(rows[-1].payload)
    last |= {"seq": last["seq"] + 1, "event": {"$": kind, "why": "x", "future": True}}
    rows += stream(RUN, [msgspec.json.encode(last)], after=rows[-1])
    outside, systems = Outside(), list[System]()

    async def later() -> dict[str, State]:
        store = MemoryStore()
        await store.open()
        await store.write(rows, [1.0] * len(rows))
        await store.set_meta({"events": events})
        await store.aclose()
        await live(outside, store, systems.append)
        return {RUN: told(systems[0].state(RUN))}

    now: dict[str, State] | Exception
    try:
        now = run(later)
    except Exception as error:
        now = error
    acts = sum(isinstance(each, checks.ModelCalled | checks.ToolCalled) for each in outside.moments)
    return checks.check_old({RUN: {"future": True}}, now, acts=acts)


# --- defects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """A defect of a product file: how it is planted, which invariant must find it, and where it is looked for."""

    name: str
    file: str
    patch: Patch
    kills: int
    scenario: Scenario


def _no_transaction(patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def each_by_itself(db: sqlite3.Connection, kind: str = "") -> Iterator[None]:
        yield

    patch.setattr(sqlite, "transaction", each_by_itself)


def _heads_apart(patch: pytest.MonkeyPatch) -> None:
    def in_two(path: str, file: Any, heads: Heads, rows: Any, at: Any, db: sqlite3.Connection) -> None:
        for row, moment in zip(rows, at, strict=True):
            with transaction(db):
                after = sqlite._put(heads, [row], [moment], db)
            heads.keep(after)

    patch.setattr(sqlite, "_append", in_two)


def _counted_before_written(patch: pytest.MonkeyPatch) -> None:
    async def flush(self: Any) -> None:
        while self._buffer:
            batch, self._buffer = self._buffer, []
            self._committed += len(batch)
            self._release()
            await self.store.write([row for row, _ in batch], [at for _, at in batch])
        self._flusher = None

    patch.setattr(Journal, "_flush", flush)


def _a_barrier_that_only_begins(patch: pytest.MonkeyPatch) -> None:
    async def barrier(self: Any) -> None:
        self._flush_now()

    patch.setattr(Journal, "barrier", barrier)


def _a_resume_without_the_last_event(patch: pytest.MonkeyPatch) -> None:
    def short(records: Sequence[Record]) -> Run:
        return folding.fold(records[:-1])

    patch.setattr(resuming, "fold", short)


def _what_is_open_is_lost_at_a_cut(patch: pytest.MonkeyPatch) -> None:
    def going_on(records: Iterable[Record], state: Run | None = None) -> Run:
        if state is not None:
            state.tickets.clear()
        for record in records:
            state = apply(state if state is not None else Run(record.run), record)
        assert state is not None
        return state

    patch.setattr(folding.fold, "__code__", going_on.__code__)


def _anybody_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "enter", lambda self, path, incarnation: None)


def _numbers_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    def any_number(self: Any, rows: Sequence[Row], at: Any, db: sqlite3.Connection) -> Any:
        heads: dict[str, Any] = {}
        for row, time in zip(rows, at, strict=True):
            before = heads[row.run][0] if row.run in heads else self._before(row.run, time, db)
            heads[row.run] = Known(before.id, row.seq, row.crc, before.first_at), time
        return heads

    patch.setattr(Heads, "after", any_number)


def _a_lost_tail_is_not_seen(patch: pytest.MonkeyPatch) -> None:
    def read(path: str, run: str, db: sqlite3.Connection) -> list[Row]:
        rows, _ = sqlite._rows(run, db)
        verify(path, rows)
        return rows

    patch.setattr(sqlite, "_read", read)


def _an_upgrade_leaves_out_a_run(patch: pytest.MonkeyPatch) -> None:
    to_2 = upgrading.MIGRATIONS[1]

    def shorter(db: sqlite3.Connection) -> None:
        to_2(db)
        oldest = db.execute("SELECT run FROM streams WHERE run NOT LIKE '@%' ORDER BY id").fetchone()
        db.execute("DELETE FROM events WHERE run = ?", oldest)
        db.execute("DELETE FROM streams WHERE run = ?", oldest)

    patch.setattr(upgrading, "MIGRATIONS", {1: shorter})


def _an_old_event_means_something_else(patch: pytest.MonkeyPatch) -> None:
    def given(run: Run, record: Record, event: ev.ApprovalGiven) -> None:
        run.approvals[event.approval].state = "granted"

    handlers: dict[Any, Any] = {**folding._HANDLERS, ev.ApprovalGiven: given}
    patch.setattr(folding, "_HANDLERS", handlers)


def _unknown_events_are_passed_over(patch: pytest.MonkeyPatch) -> None:
    def known(path: str, rows: Sequence[Row]) -> list[Record]:
        found: list[Record] = []
        for row in rows:
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(ev.decode(row.payload))
        return found

    patch.setattr(journals, "decode_rows", known)


def _any_version_is_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(journals, "check_version", lambda path, meta: None)


SQLITE: Final = "transports/journals/sqlite.py"
JOURNAL: Final = "actors/journal/journal.py"
FOLD: Final = "actors/journal/fold.py"

MUTANTS: Final = (
    Mutant("each statement is a transaction", SQLITE, _no_transaction, 32, store_killed),
    Mutant("each event is a transaction", SQLITE, _heads_apart, 32, store_killed),
    Mutant("it counts as committed before it is written", JOURNAL, _counted_before_written, 32, writer_killed),
    Mutant("a barrier begins a commit and does not wait", JOURNAL, _a_barrier_that_only_begins, 33, lives_killed),
    Mutant("acts do not wait for the commit", "actors/agents/acting.py", _acts_before_commit, 33, lives_killed),
    Mutant("a state is kept beside the journal", "actors/agents/runs.py", _state_beside_the_journal, 34, lives_killed),
    Mutant(
        "a resume folds all but the last", "actors/agents/runs.py", _a_resume_without_the_last_event, 34, lives_killed
    ),
    Mutant("the fold knows what it has seen", FOLD, _the_fold_remembers, 35, lives_killed),
    Mutant("a fold that goes on forgets what is open", FOLD, _what_is_open_is_lost_at_a_cut, 35, lives_killed),
    Mutant("anybody writes in any name", JOURNAL, _anybody_writes, 36, writers_at_odds),
    Mutant(
        "numbers are not looked at", "transports/journals/heads.py", _numbers_are_not_looked_at, 36, writers_at_odds
    ),
    Mutant("checksums are not read", "actors/journal/store.py", _checksums_are_not_read, 37, file_damaged),
    Mutant("a lost end is not seen", SQLITE, _a_lost_tail_is_not_seen, 37, file_damaged),
    Mutant(
        "an upgrade leaves out a run",
        "transports/journals/upgrading.py",
        _an_upgrade_leaves_out_a_run,
        38,
        journals_of_others,
    ),
    Mutant("an old event means something else", FOLD, _an_old_event_means_something_else, 38, journals_of_others),
    Mutant("unknown events are passed over", JOURNAL, _unknown_events_are_passed_over, 38, journals_of_others),
    Mutant("any version is read", JOURNAL, _any_version_is_read, 38, journals_of_others),
)
SCENARIOS: Final = (lives_killed, writer_killed, writers_at_odds, file_damaged, journals_of_others)
"""Those that must find nothing as it is. So must `store_killed`, as `tests/system/test_every_write.py` shows."""
