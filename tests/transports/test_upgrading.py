"""Journals of every earlier version: read as they are, upgraded on a copy, replayed; also when that is cut short."""

import asyncio
import gzip
import logging
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from recorded import HISTORIES, record, states_of, tree, unpacked

from understudy import System
from understudy.actors.errors import JournalFailed, JournalNewer, UsageError
from understudy.actors.journal.events import VERSION
from understudy.actors.journal.store import Head, InboxRow, Row
from understudy.actors.testing.replays import check_history, check_replay, read_states, record_states
from understudy.supervisors import tree as trees
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.journals.upgrading import FORMAT, MIGRATIONS
from understudy.transports.testing.journal_kit import opened, stream

OLDER = range(1, FORMAT)
POLICIES = trees.plan(tree()).policies

Told = tuple[list[Head], dict[str, list[Row]], Mapping[str, str], list[InboxRow]]


def told(path: Path, *, owner: bool = False) -> Told:
    """All that a journal tells."""

    async def main() -> Told:
        async with opened(SQLiteStore(path), owner=owner) as store:
            heads = await store.heads()
            assert await store.tails() == [(await store.read(head.run))[-1] for head in heads]
            streams = {head.run: await store.read(head.run) for head in heads}
            return heads, streams, dict(await store.meta()), await store.take(0)

    return asyncio.run(main())


def old_journal(version: int, folder: Path) -> Path:
    return unpacked(f"journal-{version}.db.gz", folder)


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        return found


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_every_version_has_a_migration_and_a_journal_that_was_written_by_it() -> None:
    assert list(MIGRATIONS) == list(OLDER)
    journals, events = (sorted(HISTORIES.glob(pattern)) for pattern in ("journal-*.db.gz", "events-*.history.gz"))
    assert [file.name for file in journals][: FORMAT - 1] == [f"journal-{number}.db.gz" for number in OLDER]
    assert [file.name for file in events] == [f"events-{number}.history.gz" for number in range(1, VERSION + 1)]
    states = sorted(HISTORIES.glob("states-*.json.gz"))
    assert [file.name for file in states] == [f"states-{number}.json.gz" for number in range(1, VERSION + 1)]


@pytest.mark.promise(262)
@pytest.mark.parametrize("version", OLDER)
def test_an_older_journal_is_upgraded_on_a_copy_and_the_original_stays(
    version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = old_journal(version, tmp_path)
    whole = path.read_bytes()
    before = told(path)
    assert path.read_bytes() == whole
    assert len(before[0]) > 6
    assert len(before[3]) == 1
    with caplog.at_level(logging.WARNING, "understudy"):
        assert told(path, owner=True) == before
    assert f"upgraded to format version {FORMAT}; the original is {path}.v{version}" in caplog.text
    assert names(tmp_path) == ["desk.db", "desk.db-owner", f"desk.db.v{version}"]
    assert (version_of(path), version_of(tmp_path / f"desk.db.v{version}")) == (FORMAT, version)
    assert told(tmp_path / f"desk.db.v{version}") == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    caplog.clear()
    assert told(path, owner=True) == before
    assert caplog.text == ""


@pytest.mark.parametrize("version", OLDER)
def test_an_upgraded_journal_has_the_tables_of_a_new_one(version: int, tmp_path: Path) -> None:
    def tables(path: Path) -> object:
        with closing(sqlite3.connect(path)) as db:
            named = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            return {
                name: (
                    db.execute(f"PRAGMA table_info({name})").fetchall(),
                    sorted(row[2:] for row in db.execute(f"PRAGMA index_list({name})")),
                )
                for name in sorted(named)
            }

    path = old_journal(version, tmp_path)
    told(path, owner=True)

    async def make() -> None:
        async with opened(SQLiteStore(tmp_path / "new.db")):
            pass

    asyncio.run(make())
    assert tables(path) == tables(tmp_path / "new.db")


@pytest.mark.promise(263, 275)
@pytest.mark.parametrize("version", [*OLDER, FORMAT])
def test_a_journal_of_every_version_replays_to_the_same_commands(version: int, tmp_path: Path) -> None:
    path = old_journal(version, tmp_path) if version in OLDER else tmp_path / "desk.db"
    if version == FORMAT:
        asyncio.run(record(path))
    states = states_of(version) if version in OLDER else asyncio.run(record_states(SQLiteStore(path)))
    for _ in range(2):  # as it is, and upgraded
        replays = asyncio.run(check_replay(SQLiteStore(path), POLICIES, states=states))
        replays.check()
        assert (len(replays.replayed), len(replays.unfinished)) == (5, 1)
        told(path, owner=True)


@pytest.mark.promise(263, 275)
@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_history_of_every_version_of_the_events_replays(version: int) -> None:
    history = gzip.decompress((HISTORIES / f"events-{version}.history.gz").read_bytes())
    replays = check_history(history, POLICIES, states=states_of(version))
    replays.check()
    assert len(replays.replayed) == 5
    assert set(replays.replayed) < set(read_states(states_of(version))), "each of them has its state, and one waits"


@pytest.mark.promise(263)
@pytest.mark.parametrize("version", OLDER)
def test_a_run_that_waits_in_an_older_journal_is_finished_after_the_upgrade(version: int, tmp_path: Path) -> None:
    path = old_journal(version, tmp_path)

    async def main() -> None:
        async with System(tree(), journal=path) as system:
            waiting = [run for run in system.runs.live() if run.finished is None]
            assert [run.main.parked is not None for run in waiting] == [True]
            await system.approve(f"{waiting[0].id}-a1", by="ana")
            result = await system.resume(waiting[0].id)
            assert (result.status, result.output) == ("complete", "all is paid")

    asyncio.run(main())


# --- cut short -----------------------------------------------------------------------------------------------

CUT = """
import asyncio, os, sqlite3, sys
from understudy.transports.journals import upgrading
from understudy.transports.journals.sqlite import SQLiteStore
name, when, path = sys.argv[1:]
if name == "migration":
    name, where = "_to_2", upgrading.MIGRATIONS
    found = where[1]
    def cut(db):
        if when == "before": os._exit(9)
        found(db)
        os._exit(9)
    upgrading.MIGRATIONS = {1: cut}
else:
    where = os if name in ("link", "replace", "unlink") else upgrading
    found = getattr(where, name)
    def cut(*args, **options):
        if when == "before": os._exit(9)
        found(*args, **options)
        os._exit(9)
    setattr(where, name, cut)
asyncio.run(SQLiteStore(path).open())
"""


@pytest.mark.promise(262)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["_empty_log", "touch", "migration", "_migrate", "link", "flush_folder", "replace"])
def test_an_upgrade_that_is_killed_leaves_the_old_journal_or_the_new_one(name: str, when: str, tmp_path: Path) -> None:
    path = old_journal(1, tmp_path)
    before = told(path)
    process = subprocess.run([sys.executable, "-P", "-c", CUT, name, when, str(path)], timeout=120, check=False)
    assert process.returncode == 9
    assert version_of(path) == (FORMAT if (name, when) == ("replace", "after") else 1)
    assert told(path) == before
    assert told(path, owner=True) == before
    assert names(tmp_path) == ["desk.db", "desk.db-owner", "desk.db.v1"]
    assert told(tmp_path / "desk.db.v1") == before


def test_what_a_killed_upgrade_left_half_written_is_removed(tmp_path: Path) -> None:
    path = old_journal(1, tmp_path)
    before = told(path)
    for end in ("", "-journal", "-wal", "-shm"):
        (tmp_path / f"desk.db.upgrading{end}").write_bytes(path.read_bytes()[:20_000])
    assert told(path, owner=True) == before
    assert names(tmp_path) == ["desk.db", "desk.db-owner", "desk.db.v1"]


def test_an_original_that_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    path = old_journal(1, tmp_path)
    first = path.read_bytes()
    told(path, owner=True)
    path.write_bytes(first)  # somebody puts the original back, and the upgrade is made again
    (tmp_path / "desk.db.v1").write_bytes(b"mine")
    told(path, owner=True)
    assert (tmp_path / "desk.db.v1").read_bytes() == b"mine"
    assert version_of(tmp_path / "desk.db.v1.2") == 1


def test_without_links_the_original_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(one: str, other: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", no_links)
    path = old_journal(1, tmp_path)
    before = told(path)
    (tmp_path / "desk.db.upgrading-original").write_bytes(b"of a killed one")
    assert told(path, owner=True) == before
    assert names(tmp_path) == ["desk.db", "desk.db-owner", "desk.db.v1"]
    assert told(tmp_path / "desk.db.v1") == before
    assert (version_of(path), version_of(tmp_path / "desk.db.v1")) == (FORMAT, 1)
    assert stat.S_IMODE((tmp_path / "desk.db.v1").stat().st_mode) == 0o600


# --- refused -------------------------------------------------------------------------------------------------


@pytest.mark.promise(262)
def test_an_upgrade_is_refused_while_another_has_the_file_open_and_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.transports.journals.sqlite_file.BUSY", 0.05)
    path = old_journal(1, tmp_path)

    async def main() -> None:
        async with opened(SQLiteStore(path), owner=False):
            text = rf"desk\.db: format version 1 is to be upgraded to {FORMAT}, and another process has it open"
            with pytest.raises(JournalFailed, match=text):
                await SQLiteStore(path).open()

    before = told(path)
    asyncio.run(main())
    assert (version_of(path), told(path)) == (1, before)
    assert not [name for name in names(tmp_path) if ".v" in name or "upgrading" in name]


FULL = """
import asyncio, resource, sys
from understudy.actors.errors import JournalError
from understudy.transports.journals.sqlite import SQLiteStore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    asyncio.run(SQLiteStore(sys.argv[1]).open())
except JournalError as error:
    print(type(error).__name__, len(str(error).splitlines()))
"""


@pytest.mark.parametrize("room", [40_000, 60_000])
def test_an_upgrade_without_room_is_refused_and_leaves_all_as_it_was(room: int, tmp_path: Path) -> None:
    path = old_journal(1, tmp_path)
    before = told(path)
    command = [sys.executable, "-P", "-c", FULL, str(path), str(room)]
    said = subprocess.run(command, timeout=120, check=True, capture_output=True, text=True).stdout
    assert said == "JournalFailed 1\n"
    assert names(tmp_path) == ["desk.db", "desk.db-owner"]
    assert (version_of(path), told(path)) == (1, before)


def test_who_posts_into_a_file_that_was_replaced_meanwhile_is_told(tmp_path: Path) -> None:
    path = old_journal(1, tmp_path)

    async def main() -> None:
        async with opened(SQLiteStore(path), owner=False) as store:
            shutil.copy(path, tmp_path / "new.db")
            (tmp_path / "new.db").replace(path)
            with pytest.raises(JournalFailed, match="the file was removed or replaced while it was open"):
                await store.post("approve", b"{}", 1.0)

    asyncio.run(main())


@pytest.mark.promise(262)
@pytest.mark.parametrize("kept", [str(VERSION + 1), "x"])
def test_events_of_a_newer_version_are_refused_with_both_versions(kept: str, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(stream("a", [b"{}"]), [1.0])
            await store.set_meta({"events": kept})
        text = rf"desk\.db: events of version {kept}; this understudy reads up to {VERSION}$"
        with pytest.raises(JournalNewer, match=text):
            async with System(tree(), journal=path):
                pass
        assert not SQLiteStore.is_owned(path)

    asyncio.run(main())


def test_a_store_that_could_not_be_opened_may_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"

    async def main() -> None:
        store = SQLiteStore(path)
        async with opened(store):
            await store.set_meta({"events": "99"})
        for _ in range(2):
            with pytest.raises(JournalNewer):
                async with System(tree(), journal=store):
                    pass
        async with opened(store):
            with pytest.raises(UsageError, match="open already"):
                await store.open()

    asyncio.run(main())
