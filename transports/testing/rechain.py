"""Change a recorded journal, for tests of replay and of damage. Only for SQLite files that nobody has open."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from understudy.actors.journal.events import Record, decode, encode
from understudy.actors.journal.store import Row, chain
from understudy.transports.journals.contents import stored, together
from understudy.transports.journals.heads import seal
from understudy.transports.journals.packing import Packed, unpack

Edit = Callable[[Record], Record]


def rewrite(path: str | os.PathLike[str], run: str, edit: Edit) -> None:
    """Put `edit` of each record of `run` in its place and chain the stream anew, so that it verifies.

    The file is changed in place, in one transaction; each event has a row of its own then. Raises `LookupError` for a
    run that is not there, and `ValueError` when `edit` changes the run or the sequence number of a record.
    """
    with closing(_open(path)) as db:
        rows = spread(db, run)
        if not rows:
            raise LookupError(f"{os.fspath(path)}: no run {run}")
        crc = 0
        values: list[tuple[float, int, int, bytes, str, int]] = []
        for row in rows:
            record = _edited(decode(row.payload), edit)
            data = encode(record)
            crc = chain(crc, run, row.seq, data)
            values.append((record.at, len(data), crc, data, run, row.seq))
        db.executemany("UPDATE events SET at = ?, length = ?, crc = ?, payload = ? WHERE run = ? AND seq = ?", values)
        head = (run, rows[-1].seq, crc, values[0][0] + 0.0, values[-1][0] + 0.0)
        db.execute(
            "UPDATE streams SET seq = ?, crc = ?, first_at = ?, last_at = ?, seal = ? WHERE run = ?",
            (*head[1:], seal(*head), run),
        )
        db.commit()


def tamper(path: str | os.PathLike[str], run: str, seq: int, edit: Edit) -> None:
    """Put `edit` of one record in its place and leave length and checksums as they were: the stream is damaged.

    Each event of the run has a row of its own then. Raises `LookupError` for an event that is not there, and
    `ValueError` when `edit` changes nothing.
    """
    with closing(_open(path)) as db:
        before = next((row.payload for row in spread(db, run) if row.seq == seq), None)
        if before is None:
            raise LookupError(f"{os.fspath(path)}: no event {run}:{seq}")
        data = encode(_edited(decode(before), edit))
        if data == before:
            raise ValueError(f"the edit leaves {run}:{seq} as it was")
        db.execute("UPDATE events SET payload = ? WHERE run = ? AND seq = ?", (data, run, seq))
        db.commit()


def spread(db: sqlite3.Connection, run: str) -> list[Row]:
    """Give each event of a run a row of its own, whole; the events. The caller commits."""
    found = db.execute(
        "SELECT run, seq, at, length, crc, payload, cuts, refs FROM events WHERE run = ? ORDER BY seq", (run,)
    ).fetchall()
    body_of = stored(db)
    rows = [
        each
        for name, seq, at, length, crc, payload, cuts, refs in found
        for each in unpack(Packed(name, seq, at, length, crc, together(payload, refs, body_of), cuts))
    ]
    db.execute("DELETE FROM events WHERE run = ?", (run,))
    db.executemany(
        "INSERT INTO events (run, seq, at, length, crc, payload) VALUES (?, ?, ?, ?, ?, ?)",
        [(row.run, row.seq, at, row.length, row.crc, row.payload) for row, at in rows],
    )
    return [row for row, _ in rows]


def _open(path: str | os.PathLike[str]) -> sqlite3.Connection:
    if not os.path.exists(path):
        raise FileNotFoundError(os.fspath(path))
    return sqlite3.connect(path)


def _edited(record: Record, edit: Edit) -> Record:
    new = edit(record)
    if (new.run, new.seq) != (record.run, record.seq):
        raise ValueError(f"the edit moves {record.place} to {new.place}")
    return new
