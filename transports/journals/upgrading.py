"""Older journals, upgraded on a copy: numbered migrations, each from one format version to the next.

The original stays beside it as `desk.db.v1`, whole and with its log emptied into it, and the upgraded copy takes its
place in one step. A process that is killed at any point leaves the old journal or the new one at `desk.db`; what else
it leaves (`desk.db.upgrading`) the next upgrade removes.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Final

from understudy.actors.errors import JournalFailed
from understudy.transports.journals import contents
from understudy.transports.journals.files import connect, flush_folder, is_named, pragma, touch, transaction

FORMAT: Final = 2
"""SQLite's `user_version` of a journal: the version of its tables and of what is in them."""
KEPT: Final = 100
"""Originals of one version that are kept beside a journal; more, and an upgrade is refused."""


def _to_2(db: sqlite3.Connection) -> None:
    """Large texts are stored once, and events share rows. What version 1 wrote stays as it is in its rows."""
    db.execute("ALTER TABLE events ADD COLUMN refs BLOB")
    db.execute("ALTER TABLE events ADD COLUMN cuts BLOB")
    db.execute(contents.TABLE)
    db.execute(contents.USED)


MIGRATIONS: Final[Mapping[int, Callable[[sqlite3.Connection], None]]] = {1: _to_2}
"""By the version they begin with; each runs in the one transaction of the upgrade."""


def upgrade(path: str, real: str, *, timeout: float) -> str:
    """Upgrade the journal at `real`, which is of an older version and owned by this process; where the original is.

    Raises `JournalFailed` when another process has the file open, or there is no room; then all is as it was.
    """
    copy = real + ".upgrading"
    _remove(copy)
    _remove(copy + "-original")
    try:
        with (
            closing(connect(real, "rw", timeout=timeout)) as old,
            closing(connect(real, "rw", timeout=timeout)) as guard,
        ):
            version = pragma(old, "user_version")
            _empty_log(path, version, old)
            guard.execute("BEGIN IMMEDIATE")  # words that others post meanwhile wait, and find the file replaced
            touch(copy)
            with closing(connect(copy, "rw", timeout=timeout)) as new:
                old.backup(new, progress=_no_waiting)
                _migrate(version, new)
            kept = _keep(path, real, version, old)
            os.replace(copy, real)
            flush_folder(real)
            return kept
    except BaseException:
        _remove(copy)
        raise


def _empty_log(path: str, version: int, old: sqlite3.Connection) -> None:
    """Leave the log mode, which empties the log into the file and takes that nobody else has it open."""
    try:
        old.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if not is_named(error, "BUSY", "LOCKED"):
            raise
        text = f"format version {version} is to be upgraded to {FORMAT}, and another process has it open; close that"
        raise JournalFailed(path, text) from error


def _no_waiting(status: int, remaining: int, pages: int) -> None:
    """Python tries again for ever when a page is locked."""
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        raise sqlite3.OperationalError("database is locked")


def _migrate(version: int, new: sqlite3.Connection) -> None:
    new.execute("PRAGMA synchronous = FULL")
    with transaction(new, "EXCLUSIVE"):
        for number in range(version, FORMAT):
            MIGRATIONS[number](new)
        new.execute(f"PRAGMA user_version = {FORMAT}")


def _keep(path: str, real: str, version: int, old: sqlite3.Connection) -> str:
    """Give the original a second name: `desk.db.v1`, or the first free of `desk.db.v1.2`, `desk.db.v1.3`, …"""
    for number in range(1, KEPT + 1):
        name = f"{real}.v{version}" + (f".{number}" if number > 1 else "")
        if os.path.exists(name) and os.path.samefile(name, real):
            return name  # a killed process gave it already
        if os.path.lexists(name):
            continue
        try:
            os.link(real, name)
        except OSError:  # a file system without links
            _copy(old, real + ".upgrading-original", name)
        flush_folder(real)
        return name
    raise JournalFailed(path, f"{KEPT} originals of version {version} are kept beside it; remove some")


def _copy(old: sqlite3.Connection, part: str, name: str) -> None:
    """A copy of the original that appears when it is whole."""
    _remove(part)
    touch(part)
    with closing(connect(part, "rw", timeout=0)) as new:
        old.backup(new, progress=_no_waiting)
    os.replace(part, name)


def _remove(copy: str) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(copy + end)
