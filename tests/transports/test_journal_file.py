"""Files that the SQLite journal must refuse: foreign, newer, forbidden, damaged."""

import os
import random
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest
from damages import damage

from understudy.actors.errors import JournalDamaged, JournalError, JournalFailed
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.journals.sqlite_file import APPLICATION_ID
from understudy.transports.testing.journal_store import opened, stream


async def make_journal(path: Path) -> None:
    async with opened(SQLiteStore(path)) as store:
        await store.write(stream("b", [b"1"]), [1.0])


def attempt(path: Path, *, owner: bool = True) -> str:
    """The error of opening, which is one line naming the file; nothing it made is left open."""

    async def main() -> JournalError:
        with pytest.raises(JournalError) as caught:
            async with opened(SQLiteStore(path), owner=owner):
                pass
        return caught.value

    error = anyio.run(main)
    text = str(error)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    return f"{type(error).__name__}: {text.removeprefix(f'{path}: ')}"


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(each): each.read_bytes() if each.is_file() else None for each in sorted(folder.rglob("*"))}


# --- files that are ours all the same ----------------------------------------------------------------------------


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "reader"])
def test_a_file_that_was_left_while_its_log_was_emptied_into_it_opens_whole(owner: bool, tmp_path: Path) -> None:
    """Killed there, or on a full disk, the first page is new and the pages it counts are not yet in the file."""
    path, whole, left = tmp_path / "a.db", tmp_path / "whole.db", tmp_path / "left.db"
    payloads = [bytes([n]) * 4_000 for n in range(40)]

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(stream("b", payloads), [1.0] * len(payloads))
            for copy in (whole, left):
                for end in ("", "-wal"):
                    copy.with_name(copy.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
        with closing(sqlite3.connect(whole)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with left.open("r+b") as file:
            file.write(whole.read_bytes()[:4_096])
        assert int.from_bytes(left.read_bytes()[28:32]) * 4_096 > left.stat().st_size
        async with opened(SQLiteStore(left), owner=owner) as store:
            assert [row.payload for row in await store.read("b")] == payloads

    anyio.run(main)


@pytest.mark.parametrize("replace", [False, True], ids=["removed", "replaced"])
def test_a_file_that_is_taken_away_under_its_owner_takes_no_more_events(replace: bool, tmp_path: Path) -> None:
    async def main(path: Path, replace: bool) -> None:
        async with opened(SQLiteStore(path)) as store:
            path.unlink()
            if replace:
                path.write_bytes(b"")
            with pytest.raises(JournalFailed, match=r"desk\.db: the file was removed or replaced while it was open"):
                await store.write(stream("b", [b"1"]), [1.0])

    anyio.run(main, tmp_path / "desk.db", replace)


# --- files that are not ours -----------------------------------------------------------------------------------


def other_application(path: Path, *, number: int = 0, log: bool = False) -> None:
    with closing(sqlite3.connect(path)) as db:
        if log:
            db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {number}")
        db.execute("CREATE TABLE events (a)")
        db.commit()


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (lambda path: path.mkdir(), "a directory, not a journal"),
    "a pipe": (os.mkfifo, "not a plain file"),
    "one byte": (lambda path: path.write_bytes(b"x"), "not a journal: 1 bytes"),
    "a text": (lambda path: path.write_text("dear diary\n" * 900), "not a journal: file is not a database"),
    "zeros": (lambda path: path.write_bytes(bytes(4096)), "not a journal: file is not a database"),
    "noise": (
        lambda path: path.write_bytes(random.Random(1).randbytes(9_999)),
        "not a journal: file is not a database",
    ),
    "a cut header": (lambda path: path.write_bytes(b"SQLite format 3\0"), "not a journal: 16 bytes"),
    "someone's tables": (other_application, "an SQLite file of another application"),
    "someone's log": (lambda path: other_application(path, log=True), "an SQLite file of another application"),
    "another id": (
        lambda path: other_application(path, number=77),
        "an SQLite file of another application (application_id 77)",
    ),
    "our id, no version": (
        lambda path: other_application(path, number=APPLICATION_ID),
        "not a journal: format version 0",
    ),
}


@pytest.mark.parametrize("owner", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_refused_and_left_as_it_was(kind: str, owner: bool, tmp_path: Path) -> None:
    make, text = FOREIGN[kind]
    make(tmp_path / "desk.db")
    before = listing(tmp_path)
    assert attempt(tmp_path / "desk.db", owner=owner) == f"JournalForeign: {text}"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("owner", [True, False])
def test_a_newer_file_is_refused_with_both_versions_and_left_as_it_was(owner: bool, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(make_journal, path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 7")
    before = listing(tmp_path)
    assert attempt(path, owner=owner) == "JournalNewer: format version 7; this understudy reads up to 2"
    assert listing(tmp_path) == before


@pytest.mark.parametrize("make", [Path.touch, lambda path: sqlite3.connect(path).execute("VACUUM").connection.close()])
def test_an_empty_file_becomes_a_journal(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "desk.db")
    anyio.run(make_journal, tmp_path / "desk.db")
    assert stat.S_IMODE((tmp_path / "desk.db").stat().st_mode) == 0o600


def test_a_path_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert attempt(tmp_path / "no" / "desk.db") == "JournalFailed: cannot be opened: No such file or directory"
    assert attempt(tmp_path / "file" / "desk.db") == "JournalFailed: cannot be opened: Not a directory"
    assert attempt(tmp_path / "desk.db", owner=False).startswith("JournalFailed: no journal here")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@contextmanager
def unprivileged() -> Generator[None, None, None]:
    """Root may read and write everything; be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_may_not_be_read_or_written_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(make_journal, path)  # and everything is imported before privileges go
    for parent in [tmp_path, *tmp_path.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o055)
    for mode, owner, wanted in (
        (0o000, True, "JournalFailed: cannot be read: permission denied"),
        (0o444, True, "JournalFailed: "),
        (0o000, False, "JournalFailed: cannot be read: permission denied"),
    ):
        path.chmod(mode)
        with unprivileged():
            assert attempt(path, owner=owner).startswith(wanted)
    tmp_path.chmod(0o555)
    with unprivileged():
        assert attempt(tmp_path / "new.db") == "JournalFailed: cannot be opened: Permission denied"
    tmp_path.chmod(0o755)


# --- damage --------------------------------------------------------------------------------------------------


async def everything(store: SQLiteStore, runs: list[str]) -> dict[str, object]:
    """All that the store tells, with errors in their place."""
    told: dict[str, object] = {}

    async def ask(name: str, question: Awaitable[object]) -> None:
        try:
            told[name] = await question
        except (JournalDamaged, JournalFailed) as error:
            told[name] = error

    for run in runs:
        await ask(run, store.read(run))
    await ask("heads", store.heads())
    await ask("meta", store.meta())
    await ask("inbox", store.take(0))
    assert [each for each in told.values() if isinstance(each, JournalError) and "\n" in str(each)] == []
    return told


async def sample(path: Path, runs: list[str]) -> dict[str, object]:
    draw = random.Random(3)
    async with opened(SQLiteStore(path)) as store:
        for run in runs:
            rows = stream(run, [draw.randbytes(draw.randrange(900)) for _ in range(10)])
            for begin in range(10) if run in ("0000", "0001") else range(0, 10, 4):  # of others, events share rows
                end = begin + 1 if run in ("0000", "0001") else begin + 4
                await store.write(rows[begin:end], [1.0] * len(rows[begin:end]))
        await store.set_meta({"app": "desk:team", "mood": "calm"})
        for number in range(10):
            await store.post("approve", b'{"id":"a%d"}' % number, 1.0)
        return await everything(store, runs)


def agrees(name: str, told: object, true: object) -> bool:
    """An error, or the truth; a listing may lack entries that it cannot see, and has none that were not written."""
    if isinstance(told, JournalError) or told == true:
        return True
    if name == "meta":
        assert isinstance(told, dict)
        assert isinstance(true, dict)
        return told.items() <= true.items()
    return (
        name in ("heads", "inbox")
        and isinstance(told, list)
        and isinstance(true, list)
        and all(x in true for x in told)
    )


@pytest.mark.promise(17)
def test_200_random_damages_are_refused_or_harmless_and_never_change_what_is_read(tmp_path: Path) -> None:
    runs = [f"{number:04x}" for number in range(8)]
    path = tmp_path / "desk.db"
    refused = 0

    async def look(data: bytes) -> None:
        nonlocal refused
        path.write_bytes(data)
        store = SQLiteStore(path)
        try:
            await store.open()
        except JournalError:
            refused += 1
            return
        told = await everything(store, runs)
        await store.aclose()
        assert [name for name in told if not agrees(name, told[name], true[name])] == []
        refused += any(isinstance(each, JournalError) for each in told.values())

    async def main() -> None:
        whole = path.read_bytes()
        for seed in range(200):
            await look(damage(whole, random.Random(seed)))

    true = anyio.run(sample, path, runs)
    anyio.run(main)
    assert refused > 80


@pytest.mark.parametrize("name", [b"CREATE TABLE events", b"tablecontentscontents"])
def test_a_damaged_text_of_the_schema_is_damage(name: bytes, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(make_journal, path)
    data = path.read_bytes()
    assert data.count(name) == 1
    path.write_bytes(data.replace(name, name[:-2] + b"\x93" + name[-1:]))
    assert attempt(path).startswith("JournalDamaged: damaged at @file:0: ")


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        assert db.execute(statement).rowcount > 0
        db.commit()


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("DELETE FROM events WHERE run = '0000' AND seq = 4", "damaged at 0000:4: event 4 is missing, 5 follows"),
        ("DELETE FROM events WHERE run = '0000' AND seq > 7", "damaged at 0000:8: 7 events where 10 were written"),
        ("DELETE FROM events WHERE run = '0000'", "damaged at 0000:1: 0 events where 10 were written"),
        ("DELETE FROM streams WHERE run = '0000'", "damaged at 0000:1: 10 events where 0 were written"),
        ("UPDATE streams SET seq = 9 WHERE run = '0000'", "damaged at @streams:0: checksum does not match"),
        (
            "UPDATE events SET payload = 'text' WHERE run = '0000' AND seq = 3",
            "damaged at 0000:3: the payload is of type str",
        ),
        ("UPDATE events SET length = 'x' WHERE run = '0000' AND seq = 3", "damaged at 0000:3: "),
        ("UPDATE events SET cuts = x'00' WHERE run = '0002' AND seq = 8", "damaged at 0002:5: where its events begin"),
        ("UPDATE events SET cuts = 'text' WHERE run = '0002' AND seq = 8", "damaged at 0002:5: where its events begin"),
        ("UPDATE events SET cuts = NULL WHERE run = '0002' AND seq = 8", "at 0002:5: event 5 is missing, 8 follows"),
        (
            "UPDATE events SET cuts = substr(cuts, 17) WHERE run = '0002' AND seq = 8",
            "damaged at 0002:5: event 5 is missing, 6 follows",
        ),
        ("UPDATE events SET cuts = zeroblob(48) WHERE run = '0002' AND seq = 8", "damaged at 0002:5: checksum"),
        ("UPDATE events SET payload = 'text' WHERE run = '0002' AND seq = 8", "damaged at 0002:5: where its events"),
        ("UPDATE events SET run = '0000', seq = 11 WHERE run = '0001' AND seq = 10", "damaged at 0000:11: checksum"),
    ],
)
def test_rows_taken_away_or_moved_are_seen(statement: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(sample, path, ["0000", "0001", "0002"])
    change(path, statement)
    run = "0002" if "0002" in text else "0000"

    async def main() -> str:
        async with opened(SQLiteStore(path)) as store:
            with pytest.raises(JournalDamaged) as caught:
                await store.read(run)
            return str(caught.value)

    assert text in anyio.run(main)


def test_a_head_that_is_taken_away_under_its_owner_is_seen_at_the_next_event(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    rows = stream("a", [b"1", b"2"])

    async def main() -> None:
        async with opened(SQLiteStore(path)) as store:
            await store.write(rows[:1], [1.0])
            change(path, "DELETE FROM streams")
            with pytest.raises(JournalDamaged, match=r"desk\.db: damaged at @streams:0: the head of a stream is gone"):
                await store.write(rows[1:], [2.0])

    anyio.run(main)


@pytest.mark.parametrize(
    ("statement", "place"),
    [
        ('UPDATE inbox SET body = \'{"id":"a9"}\' WHERE id = 3', "@inbox:3"),
        ("UPDATE meta SET value = 'wild' WHERE name = 'mood'", "@meta:2"),
        ("UPDATE streams SET first_at = 0", "@streams:1"),
    ],
)
def test_a_changed_word_value_or_head_is_refused(statement: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(sample, path, ["0000"])
    change(path, statement)

    async def main() -> list[str]:
        async with opened(SQLiteStore(path)) as store:
            return [str(each) for each in (await everything(store, [])).values() if isinstance(each, JournalError)]

    assert anyio.run(main) == [f"{path}: damaged at {place}: checksum does not match"]
