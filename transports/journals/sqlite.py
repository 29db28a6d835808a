"""The journal in one SQLite file: write-ahead log, one owner, every value under a checksum.

Files: `desk.db`, SQLite's own `desk.db-wal` and `desk.db-shm`, and `desk.db-owner` (see `sqlite_file`).

- A transaction is one function on aiosqlite's thread. A caller that is cancelled cannot leave it half done.
- Rows are appended to a table in the order they come, with an index on (run, seq). Measured with 2,000 runs and
  batches of 64, that takes half the time of a table clustered by (run, seq). The events of one stream that are written
  together share a row; see `packing`.
- A text of an event that is large is stored once, in `contents`; see there.
- `streams` holds the head of every stream, written with its rows: a listing reads no event, and a stream whose
  end is missing is seen. Rows beside the events carry a `seal`, as the events carry their chained CRC.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, get_args

import anyio
import anyio.to_thread

from understudy.actors.errors import JournalClosed, JournalDamaged, JournalFailed, JournalOwned, UsageError
from understudy.actors.journal.durability import OnDisk
from understudy.actors.journal.store import Head, InboxRow, Row, verify
from understudy.transports.journals.contents import PUT, Bodies, apart, referred, stored, together
from understudy.transports.journals.files import is_named, pragma, transaction
from understudy.transports.journals.heads import SELECT, Heads, Next, head_of, seal, unsealed
from understudy.transports.journals.packing import Packed, pack, unpack
from understudy.transports.journals.sqlite_file import (
    ENVIRONMENT,
    close_all,
    identity,
    is_owned,
    open_file,
    translated,
)

if TYPE_CHECKING:
    from understudy.transports.journals.worker import Worker

LATE: Final = 30.0
"""Seconds after which a call that does not come back from the disk is given up, and the store with it."""

T = TypeVar("T")
File = tuple[str, int, int]

_INSERT: Final = "INSERT INTO events (run, seq, at, length, crc, payload, cuts, refs) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE: Final = ("DELETE FROM events WHERE run = ?", "DELETE FROM streams WHERE run = ?")
_OLD: Final = "e.run, e.seq, e.at, e.length, e.crc, e.payload, NULL, NULL"
_NEW: Final = "e.run, e.seq, e.at, e.length, e.crc, e.payload, e.cuts, e.refs"
"""Columns of a file of version 1, which only an owner upgrades, and of the present one."""
_ROWS: Final = "SELECT {} FROM events AS e WHERE e.run = ? AND e.seq > ? ORDER BY e.seq"
_TAILS: Final = "SELECT {} FROM streams AS s JOIN events AS e ON e.run = s.run AND e.seq = s.seq ORDER BY s.id"
_SET_META: Final = (
    "INSERT INTO meta (name, value, seal) VALUES (?, ?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value, seal = excluded.seal"
)


class SQLiteStore:
    """A `JournalStore` in the SQLite file `path`, made with mode 0600 when it is missing or empty.

    `durability` (what each can lose is said in `actors.journal.durability`):

    - "normal" (default): `synchronous = NORMAL`. SQLite flushes when it empties the log into the file.
    - "full": `synchronous = FULL`. Every commit waits for the disk: some milliseconds, or a tenth of one on a good SSD.
    - "relaxed": `synchronous = OFF`, and the journal's writer waits for no commit. SQLite flushes nothing at all.

    Close it: its thread keeps the process alive. It may be opened again afterwards. Raises `UsageError` for
    an unknown `durability` or the path ":memory:".
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: OnDisk = "normal") -> None:
        self._path = os.fspath(path)
        if self._path in ("", ":memory:"):
            raise UsageError(f"path is {self._path!r}: SQLiteStore needs a file, MemoryStore keeps a journal in memory")
        if durability not in get_args(OnDisk):
            raise UsageError(f"durability is {durability!r}: it is 'normal', 'full' or 'relaxed'")
        self.durability: OnDisk = durability
        self._thread: Worker | None = None
        self._db: sqlite3.Connection | None = None
        self._lock: sqlite3.Connection | None = None
        self._late = False
        self._file: File = ("", 0, 0)
        self._heads = Heads(self._path)

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self._path

    @staticmethod
    def is_owned(path: str | os.PathLike[str]) -> bool:
        """Whether a live process, this one included, owns the journal. Takes and creates nothing.

        Blocks for some microseconds. Raises `JournalFailed` when the file beside the journal cannot be read.
        """
        return is_owned(os.fspath(path))

    async def owned(self) -> bool:
        """`is_owned` of this store's path; true when this store is the owner."""
        return self._lock is not None or await anyio.to_thread.run_sync(is_owned, self._path)

    async def open(self, *, owner: bool = True) -> None:
        """Open the file; with `owner`, take ownership and make the file if it is missing or empty.

        Without `owner`, `post` and everything that reads works beside a live owner; the file must exist.
        Raises `JournalForeign`, `JournalNewer` (both leave the file untouched), `JournalOwned`, `JournalDamaged`,
        `JournalFailed` with the system's reason, and `UsageError` when this store is open already.
        """
        if self._thread is not None:
            raise UsageError(f"{self._path}: this store is open already")
        db, lock = await anyio.to_thread.run_sync(open_file, self._path, self.durability, owner)
        try:
            with anyio.CancelScope(shield=True):
                self._thread = await _start(db)
        except BaseException:
            close_all(db, lock)
            raise
        self._db, self._lock, self._late = db, lock, False
        self._heads = Heads(self._path)
        self._file = await anyio.to_thread.run_sync(identity, self._path)

    async def aclose(self) -> None:
        """Empty the write-ahead log into the file if nobody reads it, close, give ownership up. Idempotent."""
        thread, db, lock = self._thread, self._db, self._lock
        self._thread = self._db = self._lock = None
        if thread is None or db is None:
            return
        with anyio.move_on_after(LATE, shield=True) as scope:
            if lock is not None:
                with suppress(sqlite3.Error):
                    await thread.call(partial(_empty_log, db))
            with suppress(sqlite3.Error):
                await thread.close()
        if not scope.cancelled_caught:  # else a commit may still be under way: stay the owner until the process ends
            close_all(lock)

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """Append `rows` in one transaction; see `JournalStore.write`. A caller's cancellation waits for it.

        Raises `JournalFailed` for a gap, a repeated number, a full disk; `JournalOwned` without ownership;
        `UsageError` unless there is one time for each row. In each case nothing is kept.
        """
        if len(rows) != len(at):
            raise UsageError(f"{self._path}: {len(rows)} rows with {len(at)} times")
        await self._owner_call(partial(_append, self._path, self._file, self._heads, rows, at))

    async def prune(self, runs: Sequence[str], rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.prune`. What was removed is overwritten with zeros; its pages are used again.

        The file does not become smaller. Raises as `write`, and `JournalDamaged` when it cannot be seen which large
        texts are still referred to.
        """
        if len(rows) != len(at):
            raise UsageError(f"{self._path}: {len(rows)} rows with {len(at)} times")
        await self._owner_call(partial(_prune, self._path, self._file, self._heads, tuple(runs), rows, at))

    async def read(self, run: str) -> list[Row]:
        """The whole stream, verified against its checksums and its head. Raises `JournalDamaged` with the place."""
        return await self._call(partial(_read, self._path, run))

    async def recent(self, run: str, many: int) -> list[Row]:
        """The last `many` rows of a stream, oldest first, as far as they can be fetched; not verified."""
        return await self._call(partial(_recent, self._path, run, many))

    async def heads(self) -> list[Head]:
        """Every stream, in the order in which they began; reads no event."""
        return await self._call(partial(_heads, self._path))

    async def tails(self) -> list[Row]:
        """See `JournalStore.tails`: one query, whatever the number of streams."""
        return await self._call(partial(_tails, self._path))

    async def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`."""
        return await self._call(partial(_meta, self._path))

    async def set_meta(self, values: Mapping[str, str]) -> None:
        """See `JournalStore.set_meta`. Raises `JournalOwned` without ownership."""
        await self._owner_call(partial(_set_meta, tuple(values.items())))

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """See `JournalStore.post`. Waits up to 5 s for a transaction of the owner."""
        return await self._call(partial(_post, self._path, self._file, kind, body, at))

    async def take(self, after: int) -> list[InboxRow]:
        """See `JournalStore.take`."""
        return await self._call(partial(_take, self._path, after))

    async def data_version(self) -> int:
        """A number that differs from the last one here if another connection has changed the file since."""
        return await self._call(partial(pragma, name="data_version"))

    async def _owner_call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._thread is not None and self._lock is None:
            raise JournalOwned(self._path, "opened without ownership: only the owner writes")
        return await self._call(work)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        thread, db = self._thread, self._db
        if thread is None or db is None:
            raise JournalClosed(self._path, "the journal is closed")
        if self._late:
            raise JournalFailed(self._path, "given up after a call that did not come back")
        with translated(self._path), anyio.move_on_after(LATE, shield=True):
            return await thread.call(partial(work, db))
        self._late = True
        db.interrupt()
        raise JournalFailed(
            self._path, f"no answer from the disk within {LATE:g} s; the last write may be there or not"
        )


async def _start(db: sqlite3.Connection) -> Worker:
    from understudy.transports.journals.worker import Worker  # late: `import understudy` stays light

    # The connection is made already: an error in aiosqlite's own connector can outlive the event loop.
    worker = Worker(lambda: db, 64)
    await worker
    return worker


# --- transactions: each runs as one function on the connection's thread ----------------------------------------


def _append(
    path: str, file: File, heads: Heads, rows: Sequence[Row], at: Sequence[float], db: sqlite3.Connection
) -> None:
    if not rows:
        return
    _check_file(path, file)
    with transaction(db):
        after = _put(heads, rows, at, db)
    heads.keep(after)


def _put(heads: Heads, rows: Sequence[Row], at: Sequence[float], db: sqlite3.Connection) -> Next:
    after = heads.after(rows, at, db)
    values: list[tuple[object, ...]] = []
    bodies: dict[bytes, bytes] = {}
    for run, seq, time, length, crc, payload, cuts in pack(rows, at):
        kept, refs, found = apart(payload) if cuts is None else (payload, None, ())
        if found:
            bodies.update(found)
        values.append((run, seq, time, length, crc, kept, cuts, refs))
    if bodies:
        db.executemany(PUT, bodies.items())
    db.executemany(_INSERT, values)
    heads.put(after, db)
    return after


def _prune(
    path: str,
    file: File,
    heads: Heads,
    runs: Sequence[str],
    rows: Sequence[Row],
    at: Sequence[float],
    db: sqlite3.Connection,
) -> None:
    _check_file(path, file)
    db.execute("PRAGMA secure_delete = ON")
    try:
        with transaction(db):
            gone = set[bytes]().union(*(referred(db, run) for run in runs))
            for statement in _REMOVE:
                db.executemany(statement, [(run,) for run in runs])
            after = _put(heads, rows, at, db)
            if gone:
                unused = gone - referred(db)
                db.executemany("DELETE FROM contents WHERE digest = ?", [(digest,) for digest in unused])
        heads.forget(runs)
        heads.keep(after)
    except ValueError as error:
        raise JournalDamaged(path, "@contents", 0, str(error)) from error
    finally:
        db.execute("PRAGMA secure_delete = OFF")


def _check_file(path: str, file: File) -> None:
    if identity(file[0]) != file:  # SQLite would write on into a file that nobody can open again
        raise JournalFailed(path, "the file was removed or replaced while it was open")


def _read(path: str, run: str, db: sqlite3.Connection) -> list[Row]:
    with transaction(db, "DEFERRED"):  # head and rows of one moment, beside a live owner
        head = head_of(path, run, db)
        rows, error = _rows(run, db)
    _check_types(path, rows)
    verify(path, rows)
    wanted = 0 if head is None else head[0]
    if error is not None:
        raise JournalDamaged(path, run, len(rows) + 1, str(error)) from error
    if len(rows) != wanted:
        raise JournalDamaged(path, run, min(len(rows), wanted) + 1, f"{len(rows)} events where {wanted} were written")
    if head is not None and head[1] != rows[-1].crc:
        raise JournalDamaged(path, run, wanted, "checksum is not the one of the stream's head")
    return rows


def _recent(path: str, run: str, many: int, db: sqlite3.Connection) -> list[Row]:
    with transaction(db, "DEFERRED"):
        head = head_of(path, run, db)
        rows, _ = _rows(run, db, 0 if head is None else head[0] - many)
    _check_types(path, rows)
    return rows


def _rows(run: str, db: sqlite3.Connection, after: int = 0) -> tuple[list[Row], Exception | None]:
    """The rows behind `after` up to the first that cannot be fetched or put together, and the error there."""
    rows: list[Row] = []
    body_of = stored(db)
    try:
        for found in db.execute(_ROWS.format(_columns(db)), (run, after)):
            rows += [row for row in _unpacked(found, body_of) if row.seq > after]
    except sqlite3.Error as error:
        if is_named(error, *ENVIRONMENT):
            raise
        return rows, error
    except (LookupError, ValueError, TypeError) as error:
        return rows, error
    return rows, None


def _columns(db: sqlite3.Connection) -> str:
    return _NEW if pragma(db, "user_version") > 1 else _OLD


# `Any`: what a column holds is known when its events have been verified.
def _unpacked(found: tuple[Any, ...], body_of: Bodies) -> list[Row]:
    """The events of a row of the table. Raises `LookupError`, `ValueError` or `TypeError` for one that is damaged."""
    run, seq, at, length, crc, payload, cuts, refs = found
    whole = payload if refs is None else together(payload, refs, body_of)
    return [row for row, _ in unpack(Packed(run, seq, at, length, crc, whole, cuts))]


def _check_types(path: str, rows: Sequence[Row]) -> None:
    """SQLite keeps the type in each value, so damage can turn a number into a text."""
    for number, row in enumerate(rows, 1):
        if type(row.payload) is not bytes:
            raise JournalDamaged(path, row.run, number, f"the payload is of type {type(row.payload).__name__}")


def _heads(path: str, db: sqlite3.Connection) -> list[Head]:
    found = db.execute(f"{SELECT} ORDER BY id").fetchall()
    return [Head(*unsealed(path, "streams", number, row)) for number, row in enumerate(found, 1)]


def _tails(path: str, db: sqlite3.Connection) -> list[Row]:
    found = db.execute(_TAILS.format(_columns(db))).fetchall()
    body_of, rows = stored(db), []
    for row in found:
        try:
            rows.append(_unpacked(row, body_of)[-1])
        except (LookupError, ValueError, TypeError) as error:
            raise JournalDamaged(path, row[0], row[1], str(error)) from error
    _check_types(path, rows)
    return rows


def _meta(path: str, db: sqlite3.Connection) -> dict[str, str]:
    found = db.execute("SELECT name, value, seal FROM meta").fetchall()
    return dict(unsealed(path, "meta", number, row) for number, row in enumerate(found, 1))


def _set_meta(values: Sequence[tuple[str, str]], db: sqlite3.Connection) -> None:
    with transaction(db):
        db.executemany(_SET_META, [(name, value, seal(name, value)) for name, value in values])


def _post(path: str, file: File, kind: str, body: bytes, at: float, db: sqlite3.Connection) -> int:
    with transaction(db):
        _check_file(path, file)  # inside: who upgrades it replaces it while we wait
        values = (float(at) + 0.0, kind, bytes(body))
        cursor = db.execute("INSERT INTO inbox (at, kind, body, seal) VALUES (?, ?, ?, ?)", (*values, seal(*values)))
        return cast(int, cursor.lastrowid)


def _take(path: str, after: int, db: sqlite3.Connection) -> list[InboxRow]:
    found = db.execute("SELECT id, at, kind, body, seal FROM inbox WHERE id > ? ORDER BY id", (after,)).fetchall()
    return [InboxRow(row[0], *unsealed(path, "inbox", row[0], row[1:])) for row in found]


def _empty_log(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA busy_timeout = 0")  # a reader in the way is no reason to wait: the log is good as it is
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


class SQLiteLook:
    """A journal that is only looked at, for one command: no thread and no event loop, every call blocks.

    What it takes does not grow with the journal, but with what is read. See `SQLiteStore` for what is raised.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file beside its owner, if any."""
        self._db, _ = open_file(self.path, "normal", False)

    def close(self) -> None:
        """Close it. Safe to call twice."""
        close_all(self._db)
        self._db = None

    async def read(self, run: str) -> list[Row]:
        """The whole stream, verified."""
        return self._call(partial(_read, self.path, run))

    async def data_version(self) -> int:
        """See `SQLiteStore.data_version`."""
        return self._call(partial(pragma, name="data_version"))

    async def owned(self) -> bool:
        """Whether a live process owns it."""
        return is_owned(self.path)

    def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`."""
        return self._call(partial(_meta, self.path))

    def newest(self, number: int = 1) -> str | None:
        """The run that began last, or the `number`-th before the end; None when there are not so many."""
        return next(iter(self._names(f"{_RUNS} ORDER BY id DESC LIMIT 1 OFFSET ?", number - 1)), None)

    def count(self) -> int:
        """How many runs there are."""
        return self._call(lambda db: int(db.execute(_COUNT).fetchone()[0]))

    def beginning(self, with_: str, most: int) -> list[str]:
        """Runs whose id begins so, the first `most`; one that is just that, first."""
        return self._names(f"{_RUNS} AND run >= ? AND run < ? ORDER BY run LIMIT ?", with_, with_ + _LAST, most)

    def beside(self, run: str) -> list[str]:
        """The runs whose ids come before and after this one in order: those that share most of their beginning."""
        before = self._names(f"{_RUNS} AND run < ? ORDER BY run DESC LIMIT 1", run)
        return [*before, *self._names(f"{_RUNS} AND run > ? ORDER BY run LIMIT 1", run)]

    def _names(self, statement: str, *values: str | int) -> list[str]:
        return self._call(lambda db: [str(name) for (name,) in db.execute(statement, values)])

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            raise JournalClosed(self.path, "the journal is closed")
        with translated(self.path):
            return work(self._db)


_RUNS: Final = "SELECT run FROM streams WHERE substr(run, 1, 1) <> '@'"
_COUNT: Final = "SELECT count(*) FROM streams WHERE substr(run, 1, 1) <> '@'"
_LAST: Final = "\U0010ffff"
"""Comes after every character that an id goes on with."""
