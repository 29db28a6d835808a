"""A store that remembers what its process asked of it, for `journal_checks.prefix`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from understudy.actors.journal.store import Head, InboxRow, JournalStore, Row, posted_of
from understudy.actors.telemetry import Listeners


class Batch(Struct):
    """The rows of one `write`. `acknowledged` once it has returned; else it was refused, or nobody knows.

    `gone` are the streams that it removed, if it was a `prune`.
    """

    rows: tuple[Row, ...]
    acknowledged: bool = False
    gone: tuple[str, ...] = ()


class Witness:
    """A `JournalStore` that passes everything on to `inner` and takes notes, one life of one process each.

    `base` is what the journal held when it was opened, by stream; `written` every batch since, in order.
    """

    def __init__(self, inner: JournalStore) -> None:
        self.inner = inner
        self.base: dict[str, list[Row]] = {}
        self.written: list[Batch] = []
        self.opened = False

    @property
    def path(self) -> str:
        """See `JournalStore.path`."""
        return self.inner.path

    async def open(self, *, owner: bool = True) -> None:
        """Open, and read every stream."""
        await self.inner.open(owner=owner)
        self.base = {head.run: await self.inner.read(head.run) for head in await self.inner.heads()}
        self.opened = True

    async def aclose(self) -> None:
        """See `JournalStore.aclose`."""
        await self.inner.aclose()

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.write`."""
        batch = Batch(tuple(rows))
        self.written.append(batch)
        await self.inner.write(rows, at)
        batch.acknowledged = True

    async def prune(self, runs: Sequence[str], rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.prune`."""
        batch = Batch(tuple(rows), gone=tuple(runs))
        self.written.append(batch)
        await self.inner.prune(runs, rows, at)
        batch.acknowledged = True

    async def read(self, run: str) -> list[Row]:
        """See `JournalStore.read`."""
        return await self.inner.read(run)

    async def heads(self) -> list[Head]:
        """See `JournalStore.heads`."""
        return await self.inner.heads()

    async def tails(self) -> list[Row]:
        """See `JournalStore.tails`."""
        return await self.inner.tails()

    async def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`."""
        return await self.inner.meta()

    async def set_meta(self, values: Mapping[str, str]) -> None:
        """See `JournalStore.set_meta`."""
        await self.inner.set_meta(values)

    @property
    def posted(self) -> Listeners[InboxRow] | None:
        """Of the inner store, if it can tell."""
        return posted_of(self.inner)

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """See `JournalStore.post`."""
        return await self.inner.post(kind, body, at)

    async def take(self, after: int) -> list[InboxRow]:
        """See `JournalStore.take`."""
        return await self.inner.take(after)
