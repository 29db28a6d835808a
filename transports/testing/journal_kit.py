"""What the checks of `journal_store` are written with: rows as the writer makes them, and what is expected of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from understudy.actors.errors import JournalError, UnderstudyError
from understudy.actors.journal.store import JournalStore, Row, chain

S = TypeVar("S", bound=JournalStore)


def stream(run: str, payloads: Sequence[bytes], *, after: Row | None = None) -> list[Row]:
    """Rows of one stream, numbered and chained, from 1 or from `after`."""
    seq, crc = (0, 0) if after is None else (after.seq, after.crc)
    rows: list[Row] = []
    for payload in payloads:
        seq, crc = seq + 1, chain(crc, run, seq + 1, payload)
        rows.append(Row(run, seq, payload, len(payload), crc))
    return rows


def expect(got: object, wanted: object, what: str) -> None:
    """Raise `AssertionError` unless `got` equals `wanted`."""
    if got != wanted:
        raise AssertionError(f"{what}: expected {wanted!r:.300}, got {got!r:.300}")


@asynccontextmanager
async def opened(store: S, *, owner: bool = True) -> AsyncGenerator[S, None]:
    """The store, open inside the block."""
    await store.open(owner=owner)
    try:
        yield store
    finally:
        await store.aclose()


async def refusal(kind: type[UnderstudyError], attempt: Awaitable[object], what: str) -> UnderstudyError:
    """The error of `kind` that `attempt` raises; it is one line, and one of a journal begins with its path."""
    try:
        await attempt
    except kind as error:
        if isinstance(error, JournalError):
            expect(str(error).startswith(f"{error.path}: "), True, f"{what}: the error names the journal")
        expect(len(str(error).splitlines()), 1, f"{what}: lines of the error")
        return error
    raise AssertionError(f"{what}: {kind.__name__} was not raised")
