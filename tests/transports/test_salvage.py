"""Damaged journals: what is written to a new one is what was written to the old one, or nothing; the old one stays."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from acted import Acted, call, calls, script, words
from damages import META, True_, damage, write_sample
from recorded import unpacked

from understudy import Agent, System, tool
from understudy.actors.errors import (
    JournalDamaged,
    JournalError,
    JournalFailed,
    JournalForeign,
    JournalNewer,
    JournalOwned,
    UsageError,
)
from understudy.actors.journal.store import InboxRow, Row
from understudy.transports.journals.salvage import Salvaged, Stream, salvage
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream
from understudy.transports.testing.rechain import spread


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, True_]:
    path = tmp_path_factory.mktemp("sample") / "whole.db"
    return path, anyio.run(write_sample, path)


def listing(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


async def everything(path: Path) -> tuple[dict[str, list[Row]], dict[str, str], list[InboxRow]]:
    async with opened(SQLiteStore(path), owner=False) as store:
        streams = {head.run: await store.read(head.run) for head in await store.heads()}
        return streams, dict(await store.meta()), await store.take(0)


@pytest.mark.promise(265)
def test_of_a_journal_without_damage_everything_is_kept(sample: tuple[Path, True_], tmp_path: Path) -> None:
    path, true = sample

    async def main() -> None:
        found = await salvage(path, tmp_path / "new.db")
        assert found == Salvaged(tuple(Stream(run, 12, 0) for run in true.streams), 12, 3)
        assert found.whole
        assert await everything(tmp_path / "new.db") == (true.streams, META, true.words)
        async with (
            opened(SQLiteStore(path), owner=False) as one,
            opened(SQLiteStore(tmp_path / "new.db"), owner=False) as other,
        ):
            assert await one.heads() == await other.heads()
        assert [each.name for each in tmp_path.iterdir()] == ["new.db"]
        async with opened(SQLiteStore(tmp_path / "new.db")) as store:  # it goes on
            assert await store.post("stop", b"", 1.0) == 13
            last = true.streams["0003"][-1]
            await store.write(stream("0003", [b"more"], after=last), [20.0])

    anyio.run(main)


async def saved(path: Path, true: True_, new: Path) -> Salvaged | JournalError:
    """Salvage it, and hold what is in the new journal against what was written."""
    try:
        found = await salvage(path, new)
    except JournalError as error:
        refused = error
    else:
        return await held(found, true, new)
    assert len(str(refused).splitlines()) == 1
    assert not new.exists()
    return refused


async def held(found: Salvaged, true: True_, new: Path) -> Salvaged:
    streams, meta, words = await everything(new)
    for run, rows in streams.items():
        assert rows == true.streams[run][: len(rows)], run
    kept = {each.run: each.kept for each in found.streams if each.kept}
    assert kept == {run: len(rows) for run, rows in streams.items()}
    assert meta.items() <= META.items()
    assert [word for word in words if word not in true.words] == []
    assert (len(meta), len(words)) == (found.values, found.words)
    for each in found.streams:
        assert each.kept + each.lost >= len(true.streams.get(each.run, ())) or each.run not in streams
    return found


async def damage_often(sample: tuple[Path, True_], seeds: range, folder: Path) -> list[Salvaged | JournalError]:
    path, true = sample
    whole, results = path.read_bytes(), []
    for seed in seeds:
        bad, new = folder / "bad.db", folder / "new.db"
        bad.write_bytes(damage(whole, random.Random(seed)))
        before = listing(folder)
        results.append(await saved(bad, true, new))
        new.unlink(missing_ok=True)
        assert listing(folder) == before
    return results


def judged(results: list[Salvaged | JournalError]) -> None:
    """Most files lose a little, few are refused; and there is damage in most."""
    kept = [sum(each.kept for each in found.streams) for found in results if isinstance(found, Salvaged)]
    assert len(kept) > 0.95 * len(results)
    assert sum(kept) > 0.75 * 96 * len(kept)
    assert sum(isinstance(found, Salvaged) and not found.whole for found in results) > 0.2 * len(results)


@pytest.mark.promise(265)
def test_of_50_damaged_files_each_is_refused_or_saved_to_verified_prefixes(
    sample: tuple[Path, True_], tmp_path: Path
) -> None:
    judged(anyio.run(damage_often, sample, range(50), tmp_path))


@pytest.mark.campaign
@pytest.mark.promise(265)
def test_of_1000_damaged_files_each_is_refused_or_saved_to_verified_prefixes(
    sample: tuple[Path, True_], tmp_path: Path
) -> None:
    judged(anyio.run(damage_often, sample, range(1_000), tmp_path))


@pytest.mark.promise(265)
@pytest.mark.parametrize("page", range(8))
def test_no_single_page_is_needed(page: int, sample: tuple[Path, True_], tmp_path: Path) -> None:
    """Neither the header nor the schema nor the root of a tree: what does not stand on the page is kept."""
    path, true = sample
    data = bytearray(path.read_bytes())
    data[page * 4096 : (page + 1) * 4096] = random.Random(page).randbytes(4096)
    (tmp_path / "bad.db").write_bytes(data)
    found = anyio.run(saved, tmp_path / "bad.db", true, tmp_path / "new.db")
    assert isinstance(found, Salvaged)
    assert sum(each.kept for each in found.streams) > 40


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(statement).rowcount > 0
        db.commit()


@pytest.mark.promise(265)
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM events WHERE run = '0002' AND seq = 5", Stream("0002", 4, 8, "event 5 is not there")),
        ("UPDATE events SET payload = '{}' WHERE run = '0002' AND seq = 1", Stream("0002", 0, 12, "event 1 ")),
        ("UPDATE events SET length = 1 WHERE run = '0002' AND seq = 12", Stream("0002", 11, 1, "event 12 does not")),
        ("DELETE FROM streams WHERE run = '0002'", Stream("0002", 12, 0)),
        ("DELETE FROM events WHERE run = '0003' AND seq = 12", Stream("0003", 10, 2, "event 11 is not there")),
        ("UPDATE events SET cuts = NULL WHERE run = '0003' AND seq = 12", Stream("0003", 10, 2, "event 11 is not")),
        ("UPDATE events SET length = 1 WHERE run = '0003' AND seq = 12", Stream("0003", 11, 1, "event 12 does not")),
        ("DELETE FROM events WHERE run = '0002'", Stream("0002", 0, 12, "event 1 is not there")),
    ],
)
def test_it_says_of_each_stream_what_was_kept_and_what_was_lost(
    statement: str, told: Stream, sample: tuple[Path, True_], tmp_path: Path
) -> None:
    path, true = sample
    shutil.copy(path, tmp_path / "bad.db")
    with closing(sqlite3.connect(tmp_path / "bad.db")) as db:
        db.execute("PRAGMA secure_delete = ON")
        assert db.execute(statement).rowcount > 0
        db.commit()
    found = anyio.run(saved, tmp_path / "bad.db", true, tmp_path / "new.db")
    assert isinstance(found, Salvaged)
    one = next(each for each in found.streams if each.run == told.run)
    assert (one.kept, one.lost) == (told.kept, told.lost)
    assert one.reason.startswith(told.reason)
    others = [each for each in found.streams if each.run != told.run]
    assert [each.run for each in others] == [run for run in true.streams if run != told.run]
    assert {(each.kept, each.lost) for each in others} == {(12, 0)}


def test_a_log_that_was_not_emptied_is_read_with_the_file(tmp_path: Path) -> None:
    rows = stream("a", [b"%d" % number * 300 for number in range(40)])

    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")) as store:
            for start in range(0, 40, 4):
                await store.write(rows[start : start + 4], [1.0] * 4)
            for end in ("", "-wal"):
                shutil.copy(tmp_path / f"desk.db{end}", tmp_path / f"left.db{end}")
        before = listing(tmp_path)
        assert (await salvage(tmp_path / "left.db", tmp_path / "new.db")).streams == (Stream("a", 40, 0),)
        (tmp_path / "new.db").unlink()
        assert listing(tmp_path) == before

    anyio.run(main)


def test_a_journal_of_version_1_is_salvaged_too(tmp_path: Path) -> None:
    path = unpacked("journal-1.db.gz", tmp_path)

    async def main() -> None:
        before = await everything(path)
        found = await salvage(path, tmp_path / "new.db")
        assert found.whole
        assert await everything(tmp_path / "new.db") == before

    anyio.run(main)


@tool(effect="irreversible")
async def pay(cents: int) -> str:
    PAID.append(cents)
    return f"paid {cents}"


PAID: list[int] = []


@pytest.mark.promise(265)
@pytest.mark.anyio
async def test_a_run_that_lost_its_end_is_not_taken_up_by_itself(tmp_path: Path) -> None:
    """At each cut of its stream: what it did after that is not known any more, and would be done again."""
    bad, new = tmp_path / "bad.db", tmp_path / "new.db"
    agent: Agent[Any, Any] = Agent(
        "clerk", model=Acted(script(calls(call("pay", cents=5)), words("all is paid"))), tools=[pay]
    )
    PAID.clear()
    async with System(agent, journal=bad) as system:
        run = (await system.run(agent, "go")).run
        count = len(await system.journal.read(run))
    with closing(sqlite3.connect(bad)) as db:
        spread(db, run)
        db.commit()
    whole = bad.read_bytes()
    for seq in range(2, count + 1):
        bad.write_bytes(whole)
        change(bad, f"UPDATE events SET crc = 0 WHERE run = '{run}' AND seq = {seq}")
        found = await salvage(bad, new)
        assert next(each for each in found.streams if each.run == run).kept == seq - 1
        async with System(agent, journal=new) as system:
            assert (await system.result(run)).status == "waiting"
        assert PAID == [5]
        new.unlink()
    async with System(agent, journal=bad) as system:
        with pytest.raises(JournalDamaged):
            await system.journal.read(run)


# --- refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_salvaged_is_refused_with_one_line_and_nothing_is_made(
    sample: tuple[Path, True_], tmp_path: Path
) -> None:
    path, _ = sample
    (tmp_path / "there.db").write_bytes(b"")
    (tmp_path / "text.db").write_text("dear diary\n" * 900)
    (tmp_path / "newer.db").write_bytes(path.read_bytes())
    change_version(tmp_path / "newer.db")
    before = listing(tmp_path)

    async def main() -> None:
        with pytest.raises(UsageError, match=r"there\.db: there is a file already; name a new one$"):
            await salvage(path, tmp_path / "there.db")
        with pytest.raises(UsageError, match="there is a file already"):
            await salvage(tmp_path / "text.db", tmp_path / "text.db")
        with pytest.raises(JournalForeign, match=r"text\.db: nothing of a journal is in it$"):
            await salvage(tmp_path / "text.db", tmp_path / "new.db")
        with pytest.raises(JournalForeign, match="nothing of a journal"):
            await salvage(tmp_path / "there.db", tmp_path / "new.db")
        with pytest.raises(JournalNewer, match=r"newer\.db: format version 77"):
            await salvage(tmp_path / "newer.db", tmp_path / "new.db")
        with pytest.raises(JournalFailed, match=r"none\.db: cannot be read: No such file or directory$"):
            await salvage(tmp_path / "none.db", tmp_path / "new.db")
        with pytest.raises(JournalFailed, match="cannot be opened: No such file or directory"):
            await salvage(path, tmp_path / "no" / "new.db")

    anyio.run(main)
    assert listing(tmp_path) == before


def change_version(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[60:64] = (77).to_bytes(4, "big")
    path.write_bytes(data)


def test_a_journal_in_use_is_not_salvaged(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(SQLiteStore(tmp_path / "desk.db")):
            with pytest.raises(JournalOwned, match="a live process owns it"):
                await salvage(tmp_path / "desk.db", tmp_path / "new.db")

    anyio.run(main)
