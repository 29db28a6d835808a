"""Where the events of plain actors are kept: in streams `@actors/N`, of which only the last one is needed.

A stream grows to twice what there is to know, and 1 MiB at least; then the next one begins with a snapshot, and when
that is committed the one before is removed. So what is kept is bounded by the states, the messages that wait and the
dead ones, and writing costs about twice what is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from understudy.actors.durable.book import Book
from understudy.actors.errors import JournalDamaged
from understudy.actors.journal.durable_events import ACTORS, ActorsKept, ActorsWorked, Batch
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import Journal

LEAST: Final = 1 << 20
"""Bytes that a stream takes before the next one begins."""


class Segments:
    """The streams of one journal. `book` is what they say, also of what is not committed yet."""

    def __init__(self, journal: Journal) -> None:
        self.book = Book()
        self._journal = journal
        self._number = 0
        self._old: dict[str, int] = {}
        self._last = 0
        self._size = 0
        self._limit = 0

    async def load(self, streams: Mapping[str, int]) -> None:
        """Fold the last stream that begins whole. `streams`: the number of the last event of each.

        Raises `JournalDamaged` when there are such streams, and none of them begins whole.
        """
        self._old = {stream: last for stream, last in streams.items() if stream.startswith(ACTORS)}
        for stream in sorted(self._old, key=_number, reverse=True):
            self._number = max(self._number, _number(stream))
            self.book = folded(await self._journal.read(stream))
            if self.book.complete:
                return  # the first event of this process begins another stream
        if self._old:
            stream = f"{ACTORS}{self._number}"
            raise JournalDamaged(self._journal.store.path, stream, 1, "what is kept of plain actors is cut off")

    def append(self, event: ActorsWorked) -> None:
        """Put an event into the journal's buffer; the book is the caller's to change. Raises `JournalError`."""
        if self._size >= self._limit:
            self._rotate()
        record = self._journal.append(self._stream, event)
        self._last = record.seq
        self._size += _weight(event)

    @property
    def _stream(self) -> str:
        return f"{ACTORS}{self._number}"

    def _rotate(self) -> None:
        if self._last:
            self._old[self._stream] = self._last
        self._number += 1
        for kept in self.book.snapshot():
            self._last = self._journal.append(self._stream, kept).seq
        self._size = 0
        self._limit = max(LEAST, self.book.size)

    async def clear(self) -> None:
        """Remove the streams that are not needed any more. Call it when everything appended is committed."""
        while self._old:
            stream, last = next(iter(self._old.items()))
            await self._journal.drop({stream: last})
            self._old.pop(stream, None)

    @property
    def cluttered(self) -> bool:
        """Whether there is something to clear."""
        return bool(self._old)


def folded(records: Iterable[Record]) -> Book:
    """What a stream says."""
    book = Book()
    for record in records:
        if isinstance(record.event, ActorsWorked | ActorsKept):
            book.apply(record.event)
    return book


def _number(stream: str) -> int:
    return int(stream.removeprefix(ACTORS))


def _weight(event: ActorsWorked) -> int:
    """About the bytes of an event."""
    weight = 200 + 60 * len(event.tried) + _bytes(event.sent)
    for handled in event.handled:
        weight += len(handled.state) + 6 * len(handled.consumed) + 60 + _bytes(handled.sent)
    return weight


def _bytes(batches: Iterable[Batch]) -> int:
    return sum(60 + 6 * len(batch.ids) + sum(map(len, batch.bodies)) for batch in batches)
