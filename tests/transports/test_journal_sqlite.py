"""The SQLite journal against the world: killed processes, other owners, full disks, foreign and damaged files."""

import asyncio
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from understudy.actors.errors import (
    JournalFailed,
    JournalOwned,
    UsageError,
)
from understudy.actors.journal.store import Head, InboxRow, Row
from understudy.transports.journals import sqlite, sqlite_file
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_store import opened, stream

PRELUDE = """
import asyncio, os, resource, sys
from understudy.actors.errors import JournalError
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_store import opened, stream
path = sys.argv[1]
"""


@contextmanager
def child(program: str, path: Path) -> Generator[subprocess.Popen[str], None, None]:
    """Another process that runs `program`; killed at the end if it still runs."""
    command = [sys.executable, "-c", PRELUDE + program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def run(program: str, path: Path) -> list[str]:
    """The lines that another process prints until it ends."""
    with child(program, path) as process:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return out.splitlines()


# --- kill -9 -------------------------------------------------------------------------------------------------

WRITE_ON = """
async def main():
    store = SQLiteStore(path, durability=sys.stdin.readline().strip())
    await store.open()
    rows = stream("a", [b"%d" % n * 50 for n in range(60_000)])
    for start in range(0, 60_000, 3):
        await store.write(rows[start:start + 3], [1.0] * 3)
        print(start // 3 + 1, flush=True)
asyncio.run(main())
"""


@pytest.mark.promise(16)
@pytest.mark.parametrize(("batches", "durability"), [(1, "normal"), (7, "full"), (23, "relaxed"), (400, "normal")])
def test_a_killed_writer_leaves_a_prefix_with_all_that_was_acknowledged(
    batches: int, durability: str, tmp_path: Path
) -> None:
    path = tmp_path / "desk.db"
    with child(WRITE_ON, path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(durability + "\n")
        process.stdin.flush()
        while line(process) != str(batches):
            pass
        process.send_signal(signal.SIGKILL)
        acknowledged = batches + len(process.stdout.read().splitlines())  # not communicate: it skips what is buffered

    async def main() -> list[Row]:
        async with opened(SQLiteStore(path)) as store:  # as owner: the dead process's lock is gone
            return await store.read("a")

    rows = anyio.run(main)
    assert len(rows) in (3 * acknowledged, 3 * acknowledged + 3)  # one commit may have been on its way to the pipe
    assert rows == stream("a", [b"%d" % number * 50 for number in range(len(rows))])


LEAVE_A_LOG = """
async def main():
    store = SQLiteStore(path)
    await store.open()
    rows = stream("a", [b"%d" % n * 100 for n in range(60)])
    for start in range(0, 60, 3):
        await store.write(rows[start:start + 3], [1.0] * 3)
    os._exit(0)
asyncio.run(main())
"""


def test_a_log_cut_at_any_byte_opens_to_a_prefix_of_whole_commits(tmp_path: Path) -> None:
    whole = stream("a", [b"%d" % number * 100 for number in range(60)])
    (tmp_path / "left").mkdir()
    run(LEAVE_A_LOG, tmp_path / "left" / "desk.db")
    log = (tmp_path / "left" / "desk.db-wal").read_bytes()
    cuts = sorted({0, 1, 31, 32, 33, len(log) - 1, len(log), *random.Random(7).sample(range(len(log)), 40)})

    async def kept(cut: int) -> int:
        folder = tmp_path / str(cut)
        folder.mkdir()
        shutil.copy(tmp_path / "left" / "desk.db", folder)
        (folder / "desk.db-wal").write_bytes(log[:cut])
        async with opened(SQLiteStore(folder / "desk.db")) as store:
            rows = await store.read("a")
            assert rows == whole[: len(rows)]
            assert [head.seq for head in await store.heads()] == [len(rows)] * bool(rows)
            return len(rows)

    async def main() -> list[int]:
        return [await kept(cut) for cut in cuts]

    counts = anyio.run(main)
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 60)
    assert all(count % 3 == 0 for count in counts)
    assert len(set(counts)) > 10


def left_in_its_making(path: Path) -> None:
    """A journal whose process was killed while it made the tables: all pages written, the commit not yet done."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")  # so that the roll-back journal is complete at each moment
        db.execute("BEGIN EXCLUSIVE")
        for statement in sqlite_file._SCHEMA:
            db.execute(statement)
        undo = path.with_name("desk.db-journal").read_bytes()
        db.execute("COMMIT")
    path.with_name("desk.db-journal").write_bytes(undo)


def test_a_file_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    left_in_its_making(path)

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(stream("a", [b"1"]), [1.0])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    anyio.run(main)


def test_who_only_reads_a_file_whose_making_was_killed_is_told_that_it_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    left_in_its_making(path)

    async def main() -> None:
        with pytest.raises(JournalFailed, match=r"desk\.db: no journal here: the file is missing or empty$"):
            async with opened(SQLiteStore(path), owner=False):
                pass

    anyio.run(main)


# --- ownership -----------------------------------------------------------------------------------------------

OWN = """
async def main():
    async with opened(SQLiteStore(path)) as store:
        await store.write(stream("a", [b"1"]), [1.0])
        print("owner", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print([word.kind for word in await store.take(0)], flush=True)
        await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""


@pytest.mark.promise(20)
def test_one_process_owns_and_others_read_and_post(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"

    async def visit() -> None:
        store = SQLiteStore(path)
        async with opened(store, owner=False):
            assert await store.owned()
            assert await store.read("a") == stream("a", [b"1"])
            assert await store.post("approve", b"{}", 1.0) == 1
            with pytest.raises(JournalOwned, match="opened without ownership"):
                await store.write(stream("b", [b"1"]), [1.0])
            with pytest.raises(JournalOwned, match="opened without ownership"):
                await store.set_meta({"app": "mine"})

    with child(OWN, path) as process:
        assert line(process) == "owner"
        assert SQLiteStore.is_owned(path)
        with pytest.raises(JournalOwned, match=r"desk.db: another live process owns it, or another store in this one$"):
            anyio.run(take_over, path)
        anyio.run(visit)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process) == "['approve']"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not SQLiteStore.is_owned(path)
    anyio.run(take_over, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["desk.db", "desk.db-owner"]


async def take_over(path: Path) -> None:
    async with opened(SQLiteStore(path)) as store:
        await store.write(stream("b", [b"1"]), [1.0])


LOOK = """
async def main():
    try:
        async with opened(SQLiteStore(path)):
            print("owner")
    except JournalError as error:
        print(type(error).__name__)
    async with opened(SQLiteStore(path), owner=False) as store:
        print(len(await store.read("a")))
asyncio.run(main())
"""


def test_looking_at_an_owned_journal_in_the_owner_s_process_unlocks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    (tmp_path / "alias.db").symlink_to(path)

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(stream("a", [b"1"]), [1.0])
            for name in (path, tmp_path / "alias.db"):
                with pytest.raises(JournalOwned):
                    await SQLiteStore(name).open()
                assert SQLiteStore.is_owned(name)
                async with opened(SQLiteStore(name), owner=False) as other:
                    assert await other.owned()
            assert await asyncio.to_thread(run, LOOK, path) == ["JournalOwned", "1"]
            assert (tmp_path / "desk.db-wal").stat().st_size > 0  # the other process saw that this one is there

    anyio.run(main)


def test_who_asks_for_the_owner_and_is_stopped_meanwhile_is_waited_for_and_is_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY", 60.0)
    path = tmp_path / "desk.db"
    anyio.run(take_over, path)
    looker = sqlite3.connect(tmp_path / "desk.db-owner", isolation_level=None, check_same_thread=False)
    looker.execute("BEGIN")
    looker.execute("SELECT count(*) FROM sqlite_master").fetchone()  # what it holds now it holds until it goes on
    goes_on = threading.Timer(0.5, looker.close)
    goes_on.start()

    async def open_it() -> None:
        async with opened(SQLiteStore(path)) as store:
            assert await store.read("b") == stream("b", [b"1"])

    try:
        anyio.run(open_it)
    finally:
        goes_on.join()


def test_asking_who_owns_a_missing_journal_makes_no_file(tmp_path: Path) -> None:
    assert not SQLiteStore.is_owned(tmp_path / "desk.db")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_journal_is_one_file_and_its_lock_and_nobody_else_s_to_read(tmp_path: Path) -> None:
    async def main() -> None:
        store = SQLiteStore(tmp_path / "desk.db")
        async with opened(store):
            await store.write(stream("a", [b"1"]), [1.0])
            assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == dict.fromkeys(
                ("desk.db", "desk.db-wal", "desk.db-shm", "desk.db-owner"), 0o600
            )
            with pytest.raises(UsageError, match="open already"):
                await store.open()
        assert not await store.owned()

    anyio.run(main)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["desk.db", "desk.db-owner"]


POST = """
async def main():
    async with opened(SQLiteStore(path), owner=False) as store:
        for n in range(40):
            print(await store.post("word", b"%d" % n, float(n)), flush=True)
asyncio.run(main())
"""


def test_posts_of_another_process_arrive_while_the_owner_writes(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    rows = stream("a", [b"%d" % number for number in range(3_000)])

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            before, done, written = (
                await store.data_version(),
                asyncio.create_task(asyncio.to_thread(run, POST, path)),
                0,
            )
            while not done.done() and written < 3_000:
                await store.write(rows[written : written + 3], [1.0] * 3)
                written += 3
            assert await done == [str(number) for number in range(1, 41)]
            assert await store.take(0) == [InboxRow(n + 1, float(n), "word", b"%d" % n) for n in range(40)]
            assert await store.data_version() != before
            assert await store.read("a") == rows[:written]

    anyio.run(main)


def test_the_data_version_tells_others_changes_from_our_own(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "desk.db"
        async with opened(SQLiteStore(path)) as owner, opened(SQLiteStore(path), owner=False) as other:
            first = await owner.data_version()
            await owner.post("word", b"", 1.0)
            assert await owner.data_version() == first
            await other.post("word", b"", 1.0)
            assert await owner.data_version() != first

    anyio.run(main)


# --- refusals while it runs ------------------------------------------------------------------------------------

FULL = """
async def main():
    async with opened(SQLiteStore(path)) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        rows = stream("a", [b"%d" % n * 500 for n in range(900)])
        done = 0
        try:
            while True:
                await store.write(rows[done:done + 9], [1.0] * 9)
                done += 9
        except JournalError as error:
            print(type(error).__name__, len(str(error).splitlines()))
        print(len(await store.read("a")) == done, [head.seq for head in await store.heads()] == [done], done > 20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await store.write(rows[done:], [1.0] * (900 - done))
        print(await store.read("a") == rows)
asyncio.run(main())
"""


def test_a_full_disk_refuses_the_whole_write_and_the_store_goes_on_when_there_is_room(tmp_path: Path) -> None:
    assert run(FULL, tmp_path / "desk.db") == ["JournalFailed 1", "True True True", "True"]


def test_a_cancelled_task_leaves_no_transaction_open(tmp_path: Path) -> None:
    rows = stream("a", [bytes(2_000)] * 2_000)

    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            task = asyncio.create_task(store.write(rows, [1.0] * 2_000))
            await asyncio.sleep(0)
            task.cancel()  # the event loop's own cancellation does not respect a shield
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(await store.read("a")) in (0, 2_000)
            async with opened(SQLiteStore(tmp_path / "desk.db"), owner=False) as other:
                assert await other.post("word", b"", 1.0) == 1
            await store.write(stream("b", [b"1"]), [1.0])
            assert [head.run for head in await store.heads()][-1:] == ["b"]

    asyncio.run(main())


@contextmanager
def locked(path: Path) -> Generator[None, None, None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


def test_a_lock_held_too_long_by_another_connection_is_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY", 0.05)

    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            with locked(tmp_path / "desk.db"), pytest.raises(JournalFailed, match=r"desk.db: database is locked$"):
                await store.write(stream("a", [b"1"]), [1.0])
            await store.write(stream("a", [b"1"]), [1.0])

    anyio.run(main)


def test_a_disk_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            with locked(tmp_path / "desk.db"), monkeypatch.context() as patch:
                patch.setattr(sqlite, "LATE", 0.05)
                with pytest.raises(JournalFailed, match=r"no answer from the disk within 0.05 s"):
                    await store.write(stream("a", [b"1"]), [1.0])
            with pytest.raises(JournalFailed, match="given up"):  # whether that write is there is not known
                await store.heads()
        async with opened(store):
            assert await store.heads() in ([], [Head("a", 1, stream("a", [b"1"])[0].crc, 1.0, 1.0)])

    anyio.run(main)


def test_what_cannot_be_stored_is_a_usage_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            with pytest.raises(UsageError, match="2 rows with 1 times"):
                await store.write(stream("a", [b"1", b"2"]), [1.0])
            with pytest.raises(UsageError, match="not valid Unicode"):
                await store.set_meta({"app": "ok", "mood": "\ud800"})
            assert dict(await store.meta()) == {}

    anyio.run(main)


def test_importing_the_store_does_not_load_aiosqlite(tmp_path: Path) -> None:
    assert run("print('aiosqlite' in sys.modules)", tmp_path) == ["False"]


def test_wrong_options_are_refused_when_given() -> None:
    with pytest.raises(UsageError, match="durability is 'fast': it is 'normal', 'full' or 'relaxed'"):
        SQLiteStore("desk.db", durability="fast")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(UsageError, match="path is ':memory:'"):
        SQLiteStore(":memory:")
