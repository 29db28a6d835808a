"""The log of a simulated disk: transactions, and what the whole ones amount to."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from understudy.actors.journal.store import Head, InboxRow, Row


class Commit(Struct):
    """One transaction of the log: rows with their times, or values, or a word. Without `whole` it has no end.

    `gone` are streams that it removes.
    """

    rows: tuple[Row, ...] = ()
    at: tuple[float, ...] = ()
    values: tuple[tuple[str, str], ...] = ()
    word: InboxRow | None = None
    whole: bool = True
    gone: tuple[str, ...] = ()


class Pages:
    """What the whole transactions of a log amount to."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.times: dict[str, tuple[float, float]] = {}
        self.meta: dict[str, str] = {}
        self.inbox: list[InboxRow] = []

    def misplaced(self, rows: Sequence[Row]) -> str:
        """Why rows cannot follow what is there, or ""."""
        last: dict[str, int] = {}
        for row in rows:
            expected = last.get(row.run, len(self.rows.get(row.run, ()))) + 1
            if row.seq != expected:
                return f"{row.run}:{row.seq} written where {expected} is next"
            last[row.run] = expected
        return ""

    def apply(self, commit: Commit) -> None:
        """Take a transaction in."""
        for row, moment in zip(commit.rows, commit.at, strict=True):
            self.rows.setdefault(row.run, []).append(row)
            self.times[row.run] = (self.times.get(row.run, (moment, moment))[0], moment)
        for run in commit.gone:
            self.rows.pop(run, None)
            self.times.pop(run, None)
        self.meta.update(commit.values)
        if commit.word is not None:
            self.inbox.append(commit.word)

    def heads(self) -> list[Head]:
        """See `JournalStore.heads`."""
        return [Head(run, rows[-1].seq, rows[-1].crc, *self.times[run]) for run, rows in self.rows.items()]
