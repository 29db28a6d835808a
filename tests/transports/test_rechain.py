"""The test helpers that change a recorded journal."""

from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from understudy.actors.errors import JournalDamaged
from understudy.actors.journal.events import Record, ToolAnswered, decode, encode
from understudy.actors.journal.store import Row
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_store import opened, stream
from understudy.transports.testing.rechain import rewrite, tamper


def record(run: str, seq: int) -> Record:
    return Record(run, seq, float(seq), 0.0, 0, "desk/writer", 1, seq - 1, ToolAnswered(seq, 0, f'"{seq}"'))


def altered(old: Record) -> Record:
    if old.seq != 2:
        return old
    return replace(old, at=2.5, event=ToolAnswered(2, 0, '"something longer"'))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "desk.db"
    write(path, stream("a", [encode(record("a", seq)) for seq in (1, 2, 3)]))
    write(path, stream("b", [encode(record("b", 1))]))
    return path


def write(path: Path, rows: Sequence[Row]) -> None:
    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(rows, [decode(row.payload).at for row in rows])

    anyio.run(main)


def read(path: Path, run: str) -> list[Record]:
    async def main() -> list[Record]:
        async with opened(SQLiteStore(path)) as store:
            return [decode(row.payload) for row in await store.read(run)]

    return anyio.run(main)


def test_a_rewritten_stream_verifies_and_holds_the_edit(journal: Path) -> None:
    rewrite(journal, "a", altered)
    assert read(journal, "a") == [record("a", 1), altered(record("a", 2)), record("a", 3)]
    assert read(journal, "b") == [record("b", 1)]


def test_a_rewritten_stream_can_be_appended_to(journal: Path) -> None:
    rewrite(journal, "a", altered)

    async def main() -> None:
        async with opened(SQLiteStore(journal)) as store:
            last = (await store.read("a"))[-1]
            await store.write(stream("a", [encode(record("a", 4))], after=last), [4.0])
            assert [row.seq for row in await store.read("a")] == [1, 2, 3, 4]

    anyio.run(main)


def test_a_tampered_event_is_refused_at_its_place(journal: Path) -> None:
    tamper(journal, "a", 2, lambda old: replace(old, event=ToolAnswered(2, 0, '"9"')))  # of the same length
    with pytest.raises(JournalDamaged, match=r"damaged at a:2: checksum does not match$"):
        read(journal, "a")
    assert read(journal, "b") == [record("b", 1)]


def test_what_cannot_be_edited_is_named(journal: Path) -> None:
    with pytest.raises(LookupError, match="no run zz"):
        rewrite(journal, "zz", altered)
    with pytest.raises(LookupError, match="no event a:9"):
        tamper(journal, "a", 9, altered)
    with pytest.raises(ValueError, match="leaves a:1 as it was"):
        tamper(journal, "a", 1, altered)
    with pytest.raises(ValueError, match="moves a:1 to a:7"):
        rewrite(journal, "a", lambda old: replace(old, seq=7))
    with pytest.raises(FileNotFoundError):
        rewrite(journal.with_name("none.db"), "a", altered)
    assert [found.seq for found in read(journal, "a")] == [1, 2, 3]
