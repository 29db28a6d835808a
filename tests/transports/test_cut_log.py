"""A write-ahead log cut at every byte: the journal opens to whole commits from the first, and so does its salvage."""

import itertools
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from understudy.actors.journal.store import Row
from understudy.transports.journals.salvage import salvage
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream

LONG = "a text that is stored once, " * 60
COMMITS = [[b'{"n":1}', f'{{"n":2,"text":"{LONG}"}}'.encode()], [b'{"n":3}'], [f'{{"n":4,"again":"{LONG}"}}'.encode()]]
ROWS = stream("a", [payload for commit in COMMITS for payload in commit])
WHOLE = (0, 2, 3, 4)
"""Events after each commit."""


async def left(folder: Path) -> tuple[Path, bytes]:
    """A journal as a killed process leaves it, and its log. Small pages: few bytes to cut at."""
    path = folder / "desk.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA page_size = 512")
        db.execute("VACUUM")
    async with opened(SQLiteStore(path)):
        pass
    async with opened(SQLiteStore(path)) as store:
        for start, end in itertools.pairwise(WHOLE):
            await store.write(ROWS[start:end], [1.0] * (end - start))
        shutil.copy(path, folder / "left.db")
        return folder / "left.db", (folder / "desk.db-wal").read_bytes()


async def cut_at(cuts: list[int], folder: Path) -> list[int]:
    """Events that each cut of the log leaves; `ROWS` from the first, in the journal and in what is salvaged of it."""
    file, log = await left(folder)
    counts: list[int] = []
    for cut in cuts:
        part = log[:cut]
        bad, new = folder / "bad.db", folder / "new.db"
        shutil.copy(file, bad)
        (folder / "bad.db-wal").write_bytes(part)
        found = await salvage(bad, new)
        saved: list[Row] = []
        async with opened(SQLiteStore(new), owner=False) as store:
            saved = await store.read("a")
        async with opened(SQLiteStore(bad)) as store:
            rows = await store.read("a")
        assert rows == ROWS[: len(rows)], cut
        assert saved == ROWS[: len(saved)], cut
        assert len(saved) >= len(rows), cut
        assert sum(each.kept for each in found.streams) == len(saved), cut
        counts.append(len(rows))
        new.unlink()
    assert counts == sorted(counts)
    assert set(counts) <= set(WHOLE)
    return counts


@pytest.mark.promise(266)
def test_a_log_cut_where_frames_begin_and_end_opens_to_whole_commits(tmp_path: Path) -> None:
    async def main() -> None:
        size = len((await left(tmp_path))[1])
        frames = range(32, size + 1, 512 + 24)
        near = {cut + shift for cut in frames for shift in (-1, 0, 1, 23, 24)}
        cuts = sorted({0, 1, 31, *near, *random.Random(5).sample(range(size), 20)} & set(range(size + 1)))
        folder = tmp_path / "again"
        folder.mkdir()
        assert set(await cut_at(cuts, folder)) == set(WHOLE)

    anyio.run(main)


@pytest.mark.campaign
@pytest.mark.promise(266)
def test_a_log_cut_at_every_byte_opens_to_whole_commits(tmp_path: Path) -> None:
    async def main() -> None:
        size = len((await left(tmp_path))[1])
        folder = tmp_path / "again"
        folder.mkdir()
        assert set(await cut_at(list(range(size + 1)), folder)) == set(WHOLE)

    anyio.run(main)
