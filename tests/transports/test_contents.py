"""Large texts of events: taken out and put back byte for byte, stored once, verified when they are read."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from understudy.actors.errors import JournalDamaged
from understudy.transports.journals.contents import DIGEST, LARGE, apart, digest_of, parsed, together
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream

PIECES = st.sampled_from(
    [b'"', b"\\", b'\\"', b"{", b",", b"\n", b"\xff", b"x" * (LARGE - 1), b"y" * LARGE, b'\\"' * LARGE, b"\\"]
)
TEXTS = st.sampled_from(["", "a", '"' * LARGE, "\\" * LARGE, "é" * LARGE, "x" * (LARGE - 1), "x" * LARGE, "\n" * LARGE])


def again(payload: bytes) -> bytes:
    kept, refs, bodies = apart(payload)
    return together(kept, refs, dict(bodies).__getitem__)


@given(st.lists(PIECES | st.binary(max_size=9), max_size=12).map(b"".join))
@example(b'"' + b"\\" * 5 * LARGE)
@example(b'"' * 3 * LARGE)
def test_any_bytes_are_taken_apart_and_put_together_again(payload: bytes) -> None:
    assert again(payload) == payload


@pytest.mark.promise(264)
@given(st.recursive(TEXTS | st.integers(), lambda each: st.lists(each, max_size=4) | st.dictionaries(TEXTS, each)))
def test_of_json_every_large_text_is_taken_out_and_no_other(value: object) -> None:
    payload = msgspec.json.encode(value)
    kept, refs, bodies = apart(payload)
    assert again(payload) == payload
    assert all(len(body) >= LARGE and digest_of(body) == digest for digest, body in bodies)
    msgspec.json.decode(kept)  # what is left is JSON with empty texts
    assert apart(kept) == (kept, None, [])
    assert len(bodies) == (0 if refs is None else len(parsed(refs)))


@pytest.mark.parametrize(
    ("refs", "text"),
    [
        (b"", "references to its texts are damaged"),
        ("a text", "references to its texts are damaged"),
        (b"x" * (DIGEST + 3), "references to its texts are damaged"),
        (b"\xff\0\0\0" + bytes(DIGEST), "points outside of its event"),
        (b"\2\0\0\0" + bytes(DIGEST) + b"\1\0\0\0" + bytes(DIGEST), "points outside of its event"),
    ],
)
def test_references_that_are_none_are_refused(refs: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        together(b'"..."', refs, lambda digest: b"")


LONG = "".join(f"a long line, number {number}, " for number in range(400))
ROWS = stream("a", [msgspec.json.encode({"number": number, "result": LONG, "short": "x"}) for number in range(50)])


def query(path: Path, statement: str) -> list[tuple[int | bytes, ...]]:
    with closing(sqlite3.connect(path)) as db:
        found = db.execute(statement).fetchall()
        db.commit()
        return found


async def write_all(path: Path) -> None:
    async with opened(SQLiteStore(path)) as store:
        for row in ROWS[:20]:
            await store.write([row], [1.0])
        await store.write(ROWS[20:], [1.0] * 30)


@pytest.mark.promise(264)
def test_a_text_that_many_events_say_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(write_all, path)
    assert query(path, "SELECT count(*), sum(length(body)) FROM contents") == [(1, len(LONG))]
    assert path.stat().st_size < 100_000 < 50 * len(LONG)

    async def main() -> None:
        async with opened(SQLiteStore(path), owner=False) as store:
            assert await store.read("a") == ROWS
            assert await store.tails() == ROWS[-1:]

    anyio.run(main)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("DELETE FROM contents", "a:1: the text [0-9a-f]{8} that it refers to is not there"),
        ("UPDATE contents SET body = zeroblob(length(body))", "a:1: checksum does not match"),
        ("UPDATE contents SET body = x'00'", "a:1: 37 bytes where .* were written"),
        ("UPDATE contents SET body = 'text'", "a:1: the text [0-9a-f]{8} that it refers to is not there"),
        ("UPDATE events SET refs = NULL WHERE seq = 7", "a:7: 36 bytes where"),
        ("UPDATE events SET refs = x'00' WHERE seq = 7", "a:7: the references to its texts are damaged"),
        ("UPDATE events SET payload = 'text' WHERE seq = 7", "a:7: "),
    ],
)
def test_a_changed_or_missing_text_is_refused_with_the_place(statement: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(write_all, path)
    query(path, statement)

    async def main() -> None:
        async with opened(SQLiteStore(path), owner=False) as store:
            with pytest.raises(JournalDamaged, match=f"damaged at {text}"):
                await store.read("a")

    anyio.run(main)


def test_a_last_event_without_its_text_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(write_all, path)
    query(path, "DELETE FROM contents")

    async def main() -> None:
        async with opened(SQLiteStore(path), owner=False) as store:
            with pytest.raises(JournalDamaged, match="damaged at a:50: the text"):
                await store.tails()

    anyio.run(main)


def test_a_damaged_text_is_put_right_by_the_next_event_that_says_it(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(write_all, path)
    query(path, "UPDATE contents SET body = x'00'")
    more = stream("b", [ROWS[0].payload])

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(more, [1.0])
            assert await store.read("b") == more
            assert await store.read("a") == ROWS

    anyio.run(main)
