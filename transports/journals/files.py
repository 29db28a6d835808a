"""SQLite connections to files, and transactions on them. Everything here blocks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, cast


def connect(real: str, mode: str, *, timeout: float) -> sqlite3.Connection:
    """A connection that begins no transaction by itself and may be used from any one thread at a time."""
    address = f"{Path(real).as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(
    db: sqlite3.Connection, kind: Literal["DEFERRED", "IMMEDIATE", "EXCLUSIVE"] = "IMMEDIATE"
) -> Generator[None, None, None]:
    """Commit at the end; roll back when anything is raised, the commit's own error included."""
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors have rolled back already
            db.execute("ROLLBACK")
        raise


def pragma(db: sqlite3.Connection, name: str) -> int:
    """The number that a pragma answers."""
    return cast(int, db.execute(f"PRAGMA {name}").fetchone()[0])


def is_named(error: sqlite3.Error, *names: str) -> bool:
    """Whether SQLite's code for the error is one of `names`, for example "BUSY", or an extended form of it."""
    code = getattr(error, "sqlite_errorname", "")  # absent when Python, not SQLite, found fault
    return code.startswith(tuple(f"SQLITE_{name}" for name in names))


def touch(real: str) -> None:
    """Make an empty file that nobody else may read, if there is none."""
    with suppress(FileExistsError):
        os.close(os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def flush_folder(real: str) -> None:
    """Let the names in the folder of a file outlive a power cut, where the file system can."""
    folder = os.open(os.path.dirname(real), os.O_RDONLY)
    try:
        with suppress(OSError):  # not every one flushes a folder
            os.fsync(folder)
    finally:
        os.close(folder)
