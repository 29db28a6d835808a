"""The heads of streams: last number and last CRC of each, sealed, written in the transaction of its events.

Only the owner writes them, so it remembers those that it wrote. With 1,000 streams in turns, a row costs 12 µs of CPU
instead of 18.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from understudy.actors.errors import JournalDamaged, JournalFailed
from understudy.actors.journal.store import Row

SELECT: Final = "SELECT run, seq, crc, first_at, last_at, seal FROM streams"
REMEMBERED: Final = 20_000
"""Heads that an owner remembers; with more, it forgets all of them and begins anew."""
_FIND: Final = "SELECT id, run, seq, crc, first_at, last_at, seal FROM streams WHERE run = ?"
_BEGIN: Final = "INSERT INTO streams (run, seq, crc, first_at, last_at, seal) VALUES (?, ?, ?, ?, ?, ?)"
_GO_ON: Final = "UPDATE streams SET seq = ?, crc = ?, last_at = ?, seal = ? WHERE id = ?"


class Known(NamedTuple):
    """A head and the number of its row, 0 while it has none."""

    id: int
    seq: int
    crc: int
    first_at: float


Next = dict[str, tuple[Known, float]]
"""By stream: its head after a write, and the time of its last event."""


class Heads:
    """The heads that an owner has written or read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, Known] = {}

    def after(self, rows: Sequence[Row], at: Sequence[float], db: sqlite3.Connection) -> Next:
        """The heads after `rows`. Raises `JournalFailed` where a number does not follow the one before it."""
        begun: dict[str, Known] = {}
        latest: dict[str, tuple[Row, float]] = {}
        for row, time in zip(rows, at, strict=True):
            run = row.run
            found = latest.get(run)
            if found is not None:
                seq = found[0].seq
            else:
                begun[run] = known = self._before(run, float(time) + 0.0, db)  # no -0.0: SQLite drops the sign
                seq = known.seq
            if row.seq != seq + 1:
                raise JournalFailed(self._path, f"{run}:{row.seq} written where {seq + 1} is next")
            latest[run] = row, time
        heads: Next = {}
        for run, (row, time) in latest.items():
            known = begun[run]
            heads[run] = Known(known.id, row.seq, row.crc, known.first_at), float(time) + 0.0
        return heads

    def _before(self, run: str, time: float, db: sqlite3.Connection) -> Known:
        known = self._known.get(run)
        if known is not None:
            return known
        found = db.execute(_FIND, (run,)).fetchone()
        if found is None:
            return Known(0, 0, 0, time)
        _, seq, crc, first_at, _ = unsealed(self._path, "streams", 0, found[1:])
        return Known(found[0], seq, crc, first_at)

    def put(self, heads: Next, db: sqlite3.Connection) -> None:
        """Write them, in the transaction of their events. Follow it with `keep` when that is committed."""
        going: list[tuple[int, int, float, int, int]] = []
        for run, (head, time) in heads.items():
            mark = seal(run, head.seq, head.crc, head.first_at, time)
            if head.id:
                going.append((head.seq, head.crc, time, mark, head.id))
            else:
                cursor = db.execute(_BEGIN, (run, head.seq, head.crc, head.first_at, time, mark))
                heads[run] = head._replace(id=cursor.lastrowid or 0), time
        if going and db.executemany(_GO_ON, going).rowcount != len(going):
            raise JournalDamaged(self._path, "@streams", 0, "the head of a stream is gone")

    def keep(self, heads: Next) -> None:
        """Remember what is committed."""
        if len(self._known) + len(heads) > REMEMBERED:
            self._known.clear()
        for run, (head, _) in heads.items():
            self._known[run] = head

    def forget(self, runs: Iterable[str]) -> None:
        """Streams that are removed."""
        for run in runs:
            self._known.pop(run, None)


def head_of(path: str, run: str, db: sqlite3.Connection) -> tuple[int, int] | None:
    """The last number and CRC of a stream as the file says. Raises `JournalDamaged`."""
    found = db.execute(_FIND, (run,)).fetchone()
    if found is None:
        return None
    _, seq, crc, _, _ = unsealed(path, "streams", 0, found[1:])
    return seq, crc


def seal(*values: object) -> int:
    """The checksum beside a row of streams, meta or inbox, over its other columns (not the id)."""
    return zlib.crc32(repr(values).encode("utf-8", "surrogatepass"))


# `Any`: what a column holds is known by its seal, which covers the values and their types.
def unsealed(path: str, table: str, number: int, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The columns of a row without its seal, which is last. Raises `JournalDamaged` when it does not fit."""
    *values, kept = row
    if seal(*values) != kept:
        raise JournalDamaged(path, f"@{table}", number, "checksum does not match")
    return tuple(values)
