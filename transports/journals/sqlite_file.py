"""The file of a SQLite journal: recognised, made, owned. Everything here blocks; call it in a worker thread.

- A file is recognised by SQLite's `application_id` before it is opened for writing, and through SQLite alone.
  To open and close it as a plain file would drop the POSIX locks which this process may hold on it.
- Ownership is the lock of `desk.db-owner`, an empty file beside the journal. The operating system drops the lock
  when the process ends, by `kill -9` too; the file stays, because removing a lock file would let two owners in.
- An owner upgrades a file of an older version (see `upgrading`); others read it as it is.
- sqlite3's errors stop at `translated`: damage is `JournalDamaged`, what the disk or another process refuses
  `JournalFailed`.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from time import monotonic
from typing import Final

from understudy.actors.errors import (
    JournalDamaged,
    JournalError,
    JournalFailed,
    JournalForeign,
    JournalNewer,
    JournalOwned,
    UsageError,
)
from understudy.actors.journal.durability import OnDisk
from understudy.actors.telemetry import log
from understudy.transports.journals import contents
from understudy.transports.journals.files import connect, is_named, pragma, touch, transaction
from understudy.transports.journals.upgrading import FORMAT, upgrade

APPLICATION_ID: Final = 0x756E6473
"""SQLite's `application_id` of a journal: the letters "unds"."""
BUSY: Final = 5.0
"""Seconds to wait for another process's transaction."""

_SYNCHRONOUS: Final[Mapping[OnDisk, str]] = {"relaxed": "OFF", "normal": "NORMAL", "full": "FULL"}

_SCHEMA: Final = (
    "CREATE TABLE events (id INTEGER PRIMARY KEY, run TEXT NOT NULL, seq INTEGER NOT NULL, at REAL NOT NULL,"
    " length INTEGER NOT NULL, crc INTEGER NOT NULL, payload BLOB NOT NULL, refs BLOB, cuts BLOB)",
    "CREATE UNIQUE INDEX events_place ON events (run, seq)",
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, run TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL,"
    " crc INTEGER NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, seal INTEGER NOT NULL)",
    "CREATE TABLE inbox (id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT NOT NULL,"
    " body BLOB NOT NULL, seal INTEGER NOT NULL)",
    contents.TABLE,
    contents.USED,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT}",
)
# Not the file's fault. Any other refusal of our fixed statements means that the file is not as we wrote it.
ENVIRONMENT: Final = ("BUSY", "LOCKED", "IOERR", "FULL", "READONLY", "CANTOPEN", "PERM", "NOMEM", "INTERRUPT", "NOLFS")
_NOTHING: Final = "no journal here: the file is missing or empty"
_acquiring = threading.Lock()


def open_file(path: str, durability: OnDisk, owner: bool) -> tuple[sqlite3.Connection, sqlite3.Connection | None]:
    """The connection to the journal and, with `owner`, the lock that makes this process its owner.

    Raises `JournalForeign`, `JournalNewer`, `JournalOwned`, `JournalDamaged`, `JournalFailed`.
    """
    real = os.path.realpath(path)  # one journal, one owner, under all its names
    with translated(path):
        if _is_fresh(path, real) and not owner:
            raise JournalFailed(path, _NOTHING)
        lock = _acquire(path, real) if owner else None
        db: sqlite3.Connection | None = None
        try:
            if owner:
                touch(real)
            db = connect(real, "rw", timeout=BUSY)
            if owner and _is_older(db):
                db.close()
                kept = upgrade(path, real, timeout=BUSY)
                log.warning("%s: upgraded to format version %d; the original is %s", path, FORMAT, kept)
                db = connect(real, "rw", timeout=BUSY)
            _set_up(path, real, db, durability, owner)
        except BaseException:
            close_all(db, lock)
            raise
    return db, lock


def _is_fresh(path: str, real: str) -> bool:
    """Whether there is nothing yet. Raises `JournalForeign` or `JournalNewer`; looks only."""
    try:
        status = os.stat(real)
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(status.st_mode):
        raise JournalForeign(path, "a directory, not a journal" if stat.S_ISDIR(status.st_mode) else "not a plain file")
    if status.st_size == 0:
        return True
    if status.st_size < 512:  # no SQLite file is smaller, and SQLite would write over it as if it were empty
        raise JournalForeign(path, f"not a journal: {status.st_size} bytes")
    if not os.access(real, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise JournalFailed(path, "cannot be read: permission denied")
    # `immutable` takes no lock and makes no file, so that a database of somebody else stays as it is.
    with closing(connect(real, "ro&immutable=1", timeout=0)) as db:
        try:
            # A process that died while it emptied the log into the file, killed or on a full disk, leaves a first
            # page that counts more pages than the file has: the log holds them. This pragma lets that pass.
            db.execute("PRAGMA writable_schema = ON")
            return _is_blank(path, real, db)
        except sqlite3.DatabaseError as error:
            if is_named(error, *ENVIRONMENT):
                raise
            raise JournalForeign(path, f"not a journal: {error}") from error


def _is_blank(path: str, real: str, db: sqlite3.Connection) -> bool:
    if pragma(db, "application_id") != 0:
        _recognise(path, db)
        return False
    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] or os.path.exists(real + "-wal"):
        raise JournalForeign(path, "an SQLite file of another application")
    return True


def _is_older(db: sqlite3.Connection) -> bool:
    """Whether it is a journal of an older version, as far as it can be read; what else it is `_set_up` finds."""
    return pragma(db, "application_id") == APPLICATION_ID and 1 <= pragma(db, "user_version") < FORMAT


def _recognise(path: str, db: sqlite3.Connection) -> None:
    application, version = pragma(db, "application_id"), pragma(db, "user_version")
    if application != APPLICATION_ID:
        raise JournalForeign(path, f"an SQLite file of another application (application_id {application})")
    if version > FORMAT:
        raise JournalNewer(path, f"format version {version}; this understudy reads up to {FORMAT}")
    if version < 1:
        raise JournalForeign(path, f"not a journal: format version {version}")


def identity(path: str) -> tuple[str, int, int]:
    """Which file stands at `path`: its whole path, device and inode; 0 and 0 for none."""
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except OSError:
        return real, 0, 0
    return real, status.st_dev, status.st_ino


def _set_up(path: str, real: str, db: sqlite3.Connection, durability: OnDisk, owner: bool) -> None:
    db.execute("PRAGMA trusted_schema = OFF")  # a journal may come from elsewhere; ours has no triggers or views
    db.execute("PRAGMA cell_size_check = ON")
    db.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    if _is_blank(path, real, db):
        if not owner:  # who made it was killed before it was whole, and to open it has undone that
            raise JournalFailed(path, _NOTHING)
        _create(real, db)
    _recognise(path, db)  # again: the log may hold a newer header than the file
    if owner:
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise JournalFailed(path, f"this file system cannot hold a write-ahead log (journal mode {mode!r})")
        with transaction(db):  # a file that may not be written is refused now, not at the first event
            pass
    db.execute("SELECT 1 FROM events, streams, meta, inbox LIMIT 0")


def _create(real: str, db: sqlite3.Connection) -> None:
    """Make the tables in one transaction, before the log mode is on: the file is whole or blank after a kill."""
    os.chmod(real, 0o600)
    with transaction(db, "EXCLUSIVE"):
        for statement in _SCHEMA:
            db.execute(statement)


def _acquire(path: str, real: str) -> sqlite3.Connection:
    """The lock of the owner. Raises `JournalOwned` if a live process has it, or another store in this one."""
    side = real + "-owner"
    with _acquiring:  # between making and closing the file nobody in this process may lock it: closing would unlock it
        with suppress(FileExistsError):
            os.close(os.open(side, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        lock = connect(side, "rw", timeout=0.2)
    until = monotonic() + BUSY
    try:
        while True:
            try:
                lock.execute("PRAGMA journal_mode = MEMORY")  # nothing is ever written: leave no third file beside it
                lock.execute("BEGIN EXCLUSIVE")
                return lock
            except sqlite3.Error as error:
                if not is_named(error, "BUSY"):
                    raise
                # `is_owned` looks for microseconds, unless its process is stopped meanwhile; an owner's cannot be read.
                if is_owned(path) or monotonic() >= until:
                    raise JournalOwned(path, "another live process owns it, or another store in this one") from error
    except BaseException:
        lock.close()
        raise


def is_owned(path: str) -> bool:
    """Whether a live process has the owner's lock. Raises `JournalFailed` when that cannot be seen."""
    side = os.path.realpath(path) + "-owner"
    if not os.path.exists(side):
        return False
    with translated(path), closing(connect(side, "ro", timeout=0)) as db:
        try:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if is_named(error, "BUSY"):
                return True
            raise
    return False


def close_all(*connections: sqlite3.Connection | None) -> None:
    """Close what is there."""
    for connection in connections:
        if connection is not None:
            connection.close()


@contextmanager
def translated(path: str) -> Generator[None, None, None]:
    """sqlite3's and the system's errors become one line of ours, with the cause kept."""
    try:
        yield
    except sqlite3.Error as error:
        raise _failure(path, error) from error
    except UnicodeDecodeError as error:  # also in the text of an error that quotes a damaged schema
        raise JournalDamaged(path, "@file", 0, "a text in it is not valid Unicode") from error
    except UnicodeError as error:
        raise UsageError(f"{path}: a text that is not valid Unicode cannot be stored: {error}") from error
    except OSError as error:
        raise JournalFailed(path, f"cannot be opened: {error.strerror or error}") from error


def _failure(path: str, error: sqlite3.Error) -> JournalError:
    text = " ".join(str(error).split())
    if is_named(error, *ENVIRONMENT):
        return JournalFailed(path, text)
    return JournalDamaged(path, "@file", 0, text)
