"""The SQLite journal in a simulated event loop: the same store, in virtual time, without a thread."""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from aiosqlite import core
from anyio._backends import _asyncio as backend
from lives import RUN, Outside, live

from understudy.actors.errors import JournalFailed, UsageError
from understudy.actors.journal.store import Row
from understudy.actors.testing.journal_checks import check_prefix
from understudy.actors.testing.simloop import SimLoop, run
from understudy.actors.testing.witness import Batch, Witness
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.inline_sqlite import inline_sqlite
from understudy.transports.testing.journal_store import CHECKS, opened, stream

Worker = Callable[..., Any]


@contextmanager
def inline_threads() -> Generator[None, None, None]:
    """`anyio.to_thread.run_sync` through the simulated loop's `run_in_executor`."""
    original = backend.AsyncIOBackend.run_sync_in_worker_thread

    async def inline(function: Worker, args: Any, abandon_on_cancel: bool = False, limiter: Any = None) -> Any:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, SimLoop):
            return await original(function, args, abandon_on_cancel, limiter)
        with anyio.CancelScope(shield=not abandon_on_cancel):
            return await loop.run_in_executor(None, function, *args)

    backend.AsyncIOBackend.run_sync_in_worker_thread = staticmethod(inline)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        backend.AsyncIOBackend.run_sync_in_worker_thread = original  # type: ignore[method-assign]


@pytest.fixture
def inline() -> Generator[None, None, None]:
    threads = set(threading.enumerate())
    with inline_threads(), inline_sqlite():
        yield
    assert set(threading.enumerate()) <= threads


@pytest.mark.promise(160)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.usefixtures("inline")
def test_the_store_conforms_in_a_simulated_loop(check: str, durability: Any, tmp_path: Path) -> None:
    async def main() -> None:
        await CHECKS[check](SQLiteStore(tmp_path / "desk.db", durability=durability))

    run(main)


@pytest.mark.usefixtures("inline")
def test_an_operation_takes_its_planned_time_and_no_thread(tmp_path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        threads = set(threading.enumerate())
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            began = loop.time()
            await store.write(stream("a", [b"1"]), [1.0])
            assert loop.time() - began == pytest.approx(0.0005)
            assert await store.read("a") == stream("a", [b"1"])
            assert set(threading.enumerate()) <= threads

    run(main)


def test_times_may_be_planned_by_number_and_a_disk_that_is_too_slow_is_given_up(tmp_path: Path) -> None:
    numbers: list[int] = []

    def latency(number: int) -> float:
        numbers.append(number)
        return 40.0 if number == 3 else 0.001  # 1 opens, 2 lists

    async def main() -> None:
        store = SQLiteStore(tmp_path / "desk.db")
        async with opened(store):
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await store.heads() == []
            with pytest.raises(JournalFailed, match="no answer from the disk within 30 s"):
                await store.write(stream("a", [b"1"]), [1.0])
            assert loop.time() - began == pytest.approx(30.001)
            await asyncio.sleep(20)
        async with opened(SQLiteStore(tmp_path / "desk.db"), owner=False) as other:
            assert await other.read("a") == stream("a", [b"1"])

    with inline_threads(), inline_sqlite(latency):
        run(main)
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.usefixtures("inline")
def test_one_connection_keeps_order_and_two_take_turns_the_same_way_each_time() -> None:
    def once() -> list[str]:
        happened: list[str] = []

        async def use(name: str) -> None:
            async with aiosqlite.connect(":memory:") as db:
                await db.execute("CREATE TABLE t (n)")
                for number in range(20):
                    await db.execute("INSERT INTO t VALUES (?)", (number,))
                    await db.commit()
                    happened.append(f"{name}{number}")
                async with db.execute("SELECT n FROM t") as rows:
                    assert [row[0] async for row in rows] == list(range(20))

        async def main() -> None:
            async with anyio.create_task_group() as group:
                for name in "abc":
                    group.start_soon(use, name)

        run(main)
        return happened

    first = once()
    assert len(first) == 60
    assert all(once() == first for _ in range(5))


@pytest.mark.usefixtures("inline")
def test_an_error_of_sqlite_is_raised_where_it_is_awaited_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with aiosqlite.connect(":memory:") as db:
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await db.execute("SELECT * FROM missing")
            async with db.execute("SELECT 1") as rows:
                assert await rows.fetchone() == (1,)

    run(main)


@pytest.mark.promise(160)
@pytest.mark.usefixtures("inline")
def test_a_whole_system_on_a_real_file_leaves_the_same_journal_each_time(tmp_path: Path) -> None:
    def once(number: int) -> list[Row]:
        async def main() -> list[Row]:
            path = tmp_path / f"{number}.db"
            result = await live(Outside(), SQLiteStore(path))
            assert result.status == "complete"
            async with opened(SQLiteStore(path), owner=False) as store:
                return await store.read(RUN)

        return run(main)

    first = once(0)
    assert len(first) > 15
    assert all(once(number) == first for number in range(1, 4))


@pytest.mark.promise(164)
@pytest.mark.usefixtures("inline")
def test_the_files_of_a_killed_process_and_their_log_cut_anywhere_hold_a_prefix(tmp_path: Path) -> None:
    rows = stream("a", [b"%d" % number * 60 for number in range(24)])
    dice = random.Random(3)
    left: list[tuple[Path, list[Batch], bool]] = []

    def leave(witness: Witness, name: str, cut: bool) -> None:
        """What a kill at this moment leaves; `cut`: a power cut that loses the end of the log."""
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tmp_path / "desk.db", folder)
        log = (tmp_path / "desk.db-wal").read_bytes()
        (folder / "desk.db-wal").write_bytes(log[: dice.randrange(len(log) + 1)] if cut else log)
        left.append((folder / "desk.db", copy.deepcopy(witness.written), cut))

    async def main() -> None:
        witness = Witness(SQLiteStore(tmp_path / "desk.db"))
        loop = asyncio.get_running_loop()
        async with opened(witness):
            for start in range(0, 24, 3):
                loop.call_later(0.0002, leave, witness, f"during {start}", False)
                await witness.write(rows[start : start + 3], [1.0] * 3)
                leave(witness, f"after {start}", False)
                leave(witness, f"cut {start}", True)
        for path, written, cut in left:
            async with opened(SQLiteStore(path)) as store:
                assert check_prefix(written, {"a": await store.read("a")}, lossy=cut) == [], path

    run(main)
    assert len(left) == 24


def test_outside_of_the_block_and_in_other_loops_aiosqlite_is_what_it_was(tmp_path: Path) -> None:
    before = core.Connection.__init__
    with inline_sqlite():
        assert core.Connection.__init__ is not before

        async def main() -> str:
            async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
                await store.write(stream("a", [b"1"]), [1.0])
                return type(getattr(store._thread, "_tx", None)).__name__

        assert anyio.run(main) == "SimpleQueue"
    assert core.Connection.__init__ is before
    with pytest.raises(ZeroDivisionError), inline_sqlite():
        raise ZeroDivisionError
    assert core.Connection.__init__ is before


def test_wrong_use_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"latency is -1: seconds may not be negative"), inline_sqlite(-1):
        pass
    with inline_sqlite(), pytest.raises(UsageError, match="entered already"), inline_sqlite():
        pass

    class Unknown:
        def __init__(self, connector: object, chunk: int) -> None: ...

    monkeypatch.setattr(core, "Connection", Unknown)
    with pytest.raises(UsageError, match="its Connection has no queue `_tx`"), inline_sqlite():
        pass


@pytest.mark.usefixtures("inline")
def test_a_connection_that_was_left_open_can_be_closed_after_its_loop() -> None:
    left: list[aiosqlite.Connection] = []

    async def main() -> None:
        left.append(await aiosqlite.connect(":memory:"))

    run(main)
    db: Any = left.pop()
    connection = db._connection
    db._tx.put_nowait((None, connection.close))
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        connection.execute("SELECT 1")
    db._connection = None
