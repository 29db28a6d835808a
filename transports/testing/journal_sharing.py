"""More checks for `JournalStore`: under the journal's writer, and two stores on one place. See `journal_store`."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.actors.clock import SystemClock
from understudy.actors.errors import JournalClosed, JournalFailed, JournalOwned, StaleWriter
from understudy.actors.journal.events import Resumed
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.store import JournalStore, Row
from understudy.transports.testing.journal_kit import expect, opened, refusal, stream


class _Refuses:
    """A store whose nth write is refused, as on a full disk; the rest passes through."""

    def __init__(self, inner: JournalStore, nth: int) -> None:
        self._inner = inner
        self._left = nth
        self.path = inner.path

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        self._left -= 1
        if self._left == 0:
            raise JournalFailed(self.path, "no space left")
        await self._inner.write(rows, at)


async def after_a_failed_write_the_writer_writes_nothing_more(store: JournalStore) -> None:
    """The journal's writer on this store: later events are refused, and who opens it next goes on from the prefix."""
    journal = Journal(_Refuses(store, 2), SystemClock())  # type: ignore[arg-type]  # by __getattr__
    await journal.open()
    journal.append("a", Resumed("1"))
    await journal.barrier()
    journal.append("a", Resumed("2"))
    await refusal(JournalFailed, journal.barrier(), "the barrier of a refused write")
    for again in (journal.barrier, journal.barrier):
        await refusal(JournalFailed, again(), "a later barrier")
    try:
        journal.append("a", Resumed("3"))
    except JournalFailed:
        pass
    else:
        raise AssertionError("an event after a failed write was accepted")
    await journal.aclose()
    journal = Journal(store, SystemClock())
    await journal.open()
    journal.append("a", Resumed("4"))
    await journal.barrier()
    expect([record.event for record in await journal.read("a")], [Resumed("1"), Resumed("4")], "events")
    await journal.aclose()


async def a_stale_incarnation_writes_nothing(store: JournalStore) -> None:
    """The journal's writer on this store: who is not the current incarnation of its path is refused, and it alone."""
    journal = Journal(store, SystemClock())
    await journal.open()
    journal.enter("desk/writer", 1)
    journal.append("a", Resumed("1"), path="desk/writer", incarnation=1)
    journal.enter("desk/writer", 2)
    for number in (1, 3):
        try:
            journal.append("a", Resumed("stale"), path="desk/writer", incarnation=number)
        except StaleWriter:
            continue
        raise AssertionError(f"incarnation {number} wrote where 2 is current")
    journal.append("a", Resumed("2"), path="desk/writer", incarnation=2)
    await journal.aclose()
    async with opened(store):
        expect([row.seq for row in await store.read("a")], [1, 2], "numbers")


# --- two stores on one place --------------------------------------------------------------------------------


async def one_owner_at_a_time(store: JournalStore, other: JournalStore) -> None:
    """A second one is refused while the first lives, and takes over when it has closed."""
    rows = stream("a", [b"1", b"2"])
    async with opened(store):
        await store.write(rows[:1], [1.0])
        await refusal(JournalOwned, other.open(), "a second owner")
        await refusal(JournalClosed, other.heads(), "who was refused")
    async with opened(other):
        await other.write(rows[1:], [2.0])
        await refusal(JournalOwned, store.open(), "the first owner, meanwhile")
    async with opened(store):
        expect(await store.read("a"), rows, "rows")


async def others_see_what_is_committed(store: JournalStore, other: JournalStore) -> None:
    """At once, whole writes only; and what they post the owner takes."""
    rows = stream("a", [b"1", b"2", b"3"])
    async with opened(store):
        await store.write(rows[:2], [1.0, 1.0])
        await store.set_meta({"app": "desk"})
        async with opened(other, owner=False):
            expect(await other.read("a"), rows[:2], "rows")
            expect(dict(await other.meta()), {"app": "desk"}, "meta")
            await store.write(rows[2:], [2.0])
            expect(await other.read("a"), rows, "rows, later")
            expect([row.seq for row in await other.tails()], [3], "tails")
            expect(await store.post("a", b"1", 1.0), 1, "the owner's word")
            expect(await other.post("b", b"2", 2.0), 2, "another's word")
            expect([word.kind for word in await store.take(0)], ["a", "b"], "words, to the owner")
        await refusal(JournalOwned, other.open(), "ownership, after looking")


async def who_looks_cannot_write_while_there_is_an_owner(store: JournalStore, other: JournalStore) -> None:
    """Nor does trying disturb the owner."""
    rows = stream("a", [b"1", b"2"])
    async with opened(store), opened(other, owner=False):
        await store.write(rows[:1], [1.0])
        await refusal(JournalOwned, other.write(rows[1:], [2.0]), "write beside the owner")
        await refusal(JournalOwned, other.set_meta({"app": "mine"}), "set_meta beside the owner")
        await store.write(rows[1:], [2.0])
        expect(await other.read("a"), rows, "rows")
