"""Where a journal is kept: the contract, and the store in memory.

A store keeps rows it does not understand: `payload` is what `events.encode` made. Every stream has gap-free
sequence numbers from 1, and a chained CRC-32: `crc = chain(previous crc, run, seq, payload)`, 0 before the
first. One process owns a store for writing; others only add to the insert-only *inbox* and read.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from msgspec import Struct

from understudy.actors.errors import JournalClosed, JournalDamaged, JournalFailed, JournalOwned, UsageError
from understudy.actors.journal.durability import Durability
from understudy.actors.telemetry import Listeners


class Row(Struct, frozen=True, gc=False):
    """One stored event: `length` is that of `payload` in bytes, so a cut payload is seen."""

    run: str
    seq: int
    payload: bytes
    length: int
    crc: int


class InboxRow(Struct, frozen=True):
    """A word from another process: an approval, a settled doubt, a stop. `body` is JSON, `id` counts from 1."""

    id: int
    at: float
    kind: str
    body: bytes


class Head(Struct, frozen=True):
    """What a listing needs of one stream: its last sequence number, its last CRC, when it began and ended."""

    run: str
    seq: int
    crc: int
    first_at: float
    last_at: float


def chain(previous: int, run: str, seq: int, payload: bytes) -> int:
    """The CRC of a row, over the one before it, its address and its bytes."""
    return zlib.crc32(payload, zlib.crc32(f"{run}:{seq}:{len(payload)}:".encode(), previous))


def verify(path: str, rows: Sequence[Row]) -> None:
    """Check one whole stream, oldest first. Raises `JournalDamaged` at the first row that does not fit."""
    crc = 0
    for number, row in enumerate(rows, 1):
        if row.seq != number:
            raise JournalDamaged(path, row.run, number, f"event {number} is missing, {row.seq} follows")
        if row.length != len(row.payload):
            raise JournalDamaged(path, row.run, number, f"{len(row.payload)} bytes where {row.length} were written")
        crc = chain(crc, row.run, row.seq, row.payload)
        if crc != row.crc:
            raise JournalDamaged(path, row.run, number, "checksum does not match")


def verify_tail(path: str, rows: Sequence[Row]) -> None:
    """Check the end of a stream: its first row is believed, the others must follow it. Raises `JournalDamaged`."""
    for before, row in pairwise(rows):
        if row.seq != before.seq + 1:
            raise JournalDamaged(path, row.run, before.seq + 1, f"event {before.seq + 1} is missing, {row.seq} follows")
        if row.length != len(row.payload) or row.crc != chain(before.crc, row.run, row.seq, row.payload):
            raise JournalDamaged(path, row.run, row.seq, "checksum does not match")


class JournalStore(Protocol):
    """A place for rows. Every method may raise `JournalError`; none retries.

    `write` is atomic: all rows (of one or several streams) or none, durable as the store's profile says
    when it returns. Calls are made one at a time by the journal's writer.

    A store through which every word of others comes, so that it can tell, has `posted`, a `Listeners[InboxRow]`, as
    `MemoryStore` has; the inbox of any other is looked at every 0.2 s (see `posted_of`). One whose `durability` names
    a profile is treated as that says (see `durability.profile_of`), any other as "normal". One that can read the end
    of a stream without the rest has `recent(run, many)`, the last `many` rows (see `recent_of`).
    """

    @property
    def path(self) -> str:
        """The file, or ':memory:'."""
        ...

    async def open(self, *, owner: bool = True) -> None:
        """Open; with `owner`, become the one process that may write. Raises `JournalOwned` if another lives.

        Raises `UsageError` when it is open already. Without `owner`, `write` and `set_meta` raise `JournalOwned`.
        """
        ...

    async def aclose(self) -> None:
        """Close, and give ownership up. Safe to call twice."""
        ...

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """Append rows; `at` are their wall times, in the same order.

        Raises `JournalFailed` for a number that does not follow the one before it, `UsageError` unless there is one
        time for each row. A caller that is cancelled leaves a whole write or none.
        """
        ...

    async def prune(self, runs: Sequence[str], rows: Sequence[Row], at: Sequence[float]) -> None:
        """Remove the streams of `runs`, and append rows as `write` does, all of it or nothing. Only the owner may.

        A stream that there is not is passed over; the rows are of other streams. What only removed rows referred to
        goes with them. Raises as `write`.
        """
        ...

    async def read(self, run: str) -> list[Row]:
        """The whole stream, oldest first and verified. Empty when there is none."""
        ...

    async def heads(self) -> list[Head]:
        """Every stream, oldest first."""
        ...

    async def tails(self) -> list[Row]:
        """The last row of every stream, in the order of `heads`. Not verified: enough to see what has ended."""
        ...

    async def meta(self) -> Mapping[str, str]:
        """Names and values kept beside the events: format version, the app's name, its options."""
        ...

    async def set_meta(self, values: Mapping[str, str]) -> None:
        """Add or replace values. Only the owner may."""
        ...

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """Put a word into the inbox, from any process, owner or not. Returns its id."""
        ...

    async def take(self, after: int) -> list[InboxRow]:
        """Inbox rows with an id above `after`, oldest first."""
        ...


def posted_of(store: JournalStore) -> Listeners[InboxRow] | None:
    """Who is told of every word that is put into the store's inbox; None if the store cannot tell."""
    found = getattr(store, "posted", None)
    return found if isinstance(found, Listeners) else None


async def recent_of(store: JournalStore, run: str, many: int) -> list[Row]:
    """The last `many` rows of a stream, oldest first; of a store that cannot tell, all of them are read."""
    recent: Callable[[str, int], Awaitable[list[Row]]] | None = getattr(store, "recent", None)
    rows = await recent(run, many) if recent is not None else (await store.read(run))[-many:]
    verify_tail(store.path, rows)
    return rows


class MemoryStore:
    """A `JournalStore` in memory: gone with the process, which `waiting` results say.

    `keep=False`: for a journal that is off. The journal's writer then writes no event; values and words are kept.
    """

    path = ":memory:"

    def __init__(self, *, keep: bool = True) -> None:
        self.durability: Durability = "memory" if keep else "off"
        self.posted = Listeners[InboxRow]("inbox")
        self._rows: dict[str, list[Row]] = {}
        self._times: dict[str, tuple[float, float]] = {}
        self._meta: dict[str, str] = {}
        self._inbox: list[InboxRow] = []
        self._open = False
        self._owner = False

    def _check(self, *, writes: bool = False) -> None:
        if not self._open:
            raise JournalClosed(self.path, "the journal is closed")
        if writes and not self._owner:
            raise JournalOwned(self.path, "opened without ownership: only the owner writes")

    async def open(self, *, owner: bool = True) -> None:
        """See `JournalStore.open`; there is no other process to own it. Raises `UsageError` when it is open already."""
        if self._open:
            raise UsageError(f"{self.path}: this store is open already")
        self._open, self._owner = True, owner

    async def aclose(self) -> None:
        """See `JournalStore.aclose`; what was written stays readable after another `open`."""
        self._open = self._owner = False

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.write`. Raises `JournalFailed` for a gap or a repeated number."""
        self._check(writes=True)
        times = list(at)
        if len(times) != len(rows):
            raise UsageError(f"{len(rows)} rows with {len(times)} times")
        last = {row.run: len(self._rows.get(row.run, ())) for row in rows}  # not of every stream: there may be many
        for row in rows:
            last[row.run] += 1
            if row.seq != last[row.run]:
                raise JournalFailed(self.path, f"{row.run}:{row.seq} written where {last[row.run]} is next")
        for row, moment in zip(rows, times, strict=True):
            self._rows.setdefault(row.run, []).append(row)
            self._times[row.run] = (self._times.get(row.run, (moment, moment))[0], moment)

    async def prune(self, runs: Sequence[str], rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.prune`."""
        await self.write(rows, at)
        for run in runs:
            self._rows.pop(run, None)
            self._times.pop(run, None)

    async def read(self, run: str) -> list[Row]:
        """See `JournalStore.read`."""
        self._check()
        rows = list(self._rows.get(run, ()))
        verify(self.path, rows)
        return rows

    async def heads(self) -> list[Head]:
        """See `JournalStore.heads`."""
        self._check()
        return [Head(run, rows[-1].seq, rows[-1].crc, *self._times[run]) for run, rows in self._rows.items()]

    async def tails(self) -> list[Row]:
        """See `JournalStore.tails`."""
        self._check()
        return [rows[-1] for rows in self._rows.values()]

    async def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`."""
        self._check()
        return dict(self._meta)

    async def set_meta(self, values: Mapping[str, str]) -> None:
        """See `JournalStore.set_meta`."""
        self._check(writes=True)
        self._meta.update(values)

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """See `JournalStore.post`."""
        self._check()
        row = InboxRow(len(self._inbox) + 1, at, kind, body)
        self._inbox.append(row)
        self.posted.tell(row)
        return row.id

    async def take(self, after: int) -> list[InboxRow]:
        """See `JournalStore.take`."""
        self._check()
        return self._inbox[after:]
