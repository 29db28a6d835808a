"""The conformance suite, run by the stores we ship; and stores that break a promise, which it must refuse."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import pytest

from understudy.actors.errors import JournalDamaged, JournalFailed
from understudy.actors.journal.store import Head, InboxRow, JournalStore, MemoryStore, Row
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_store import CHECKS, PAIRS, check_store

STORES: Mapping[str, Callable[[Path], JournalStore]] = {
    "memory": lambda folder: MemoryStore(),
    "sqlite, normal": lambda folder: SQLiteStore(folder / "desk.db"),
    "sqlite, full": lambda folder: SQLiteStore(folder / "desk.db", durability="full"),
}


@pytest.mark.promise(260)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", STORES)
def test_our_stores_conform(kind: str, check: str, tmp_path: Path) -> None:
    anyio.run(CHECKS[check], STORES[kind](tmp_path))


@pytest.mark.promise(260)
@pytest.mark.parametrize("check", PAIRS)
@pytest.mark.parametrize("kind", [kind for kind in STORES if kind != "memory"])
def test_our_stores_are_shared_as_they_should(kind: str, check: str, tmp_path: Path) -> None:
    anyio.run(PAIRS[check], STORES[kind](tmp_path), STORES[kind](tmp_path))


def test_the_suite_as_a_whole_makes_a_store_for_each_check() -> None:
    made: list[MemoryStore] = []

    def make() -> MemoryStore:
        made.append(MemoryStore())
        return made[-1]

    anyio.run(check_store, make)
    assert len(made) == len(CHECKS)


class WritesRowByRow(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        for row, time in zip(rows, at, strict=True):
            await super().write([row], [time])


class AcceptsGaps(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        try:
            await super().write(rows, at)
        except JournalFailed:
            return


class DoesNotVerify(MemoryStore):
    async def read(self, run: str) -> list[Row]:
        self._check()
        return list(self._rows.get(run, ()))


class TellsTheFirstForTheLast(MemoryStore):
    async def tails(self) -> list[Row]:
        self._check()
        return [rows[0] for rows in self._rows.values()]


class ForgetsOnClose(MemoryStore):
    async def aclose(self) -> None:
        await super().aclose()
        self._rows.clear()


class SortsHeadsByName(MemoryStore):
    async def heads(self) -> list[Head]:
        return sorted(await super().heads(), key=lambda head: head.run)


class ReplacesAllMeta(MemoryStore):
    async def set_meta(self, values: Mapping[str, str]) -> None:
        self._meta.clear()
        await super().set_meta(values)


class TakesFromTheWrongPlace(MemoryStore):
    async def take(self, after: int) -> list[InboxRow]:
        return await super().take(max(after - 1, 0))


class EmptiesTheInbox(MemoryStore):
    async def take(self, after: int) -> list[InboxRow]:
        words = await super().take(after)
        self._inbox.clear()
        return words


class StaysOpen(MemoryStore):
    async def open(self, *, owner: bool = True) -> None:
        self._open = self._owner = False
        await super().open(owner=owner)

    async def aclose(self) -> None:
        return


class TextOnly(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        for row in rows:
            row.payload.decode()
        await super().write(rows, at)


class AnybodyWrites(MemoryStore):
    async def open(self, *, owner: bool = True) -> None:
        await super().open()


class OpensTwice(MemoryStore):
    async def open(self, *, owner: bool = True) -> None:
        self._open = False
        await super().open(owner=owner)


class TearsWhenCancelled(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        await super().write(rows, at)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._rows[rows[-1].run].pop()
            raise


class AcknowledgesNothingWhenCancelled(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await super().write(rows, at)


class TakesAnyTimes(MemoryStore):
    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        await super().write(rows, [*at, *[1.0] * len(rows)][: len(rows)])


class StopsAtDamage(MemoryStore):
    async def read(self, run: str) -> list[Row]:
        try:
            return await super().read(run)
        except JournalDamaged:
            self._owner = False
            raise


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (WritesRowByRow, "a_gap_refuses_the_whole_write"),
        (AcceptsGaps, "a_stream_goes_on_after_opening_again"),
        (DoesNotVerify, "a_damaged_row_is_refused_with_its_place"),
        (TellsTheFirstForTheLast, "heads_are_in_the_order_streams_began"),
        (ForgetsOnClose, "rows_come_back_as_written"),
        (SortsHeadsByName, "one_write_may_hold_several_streams"),
        (ReplacesAllMeta, "meta_is_added_and_replaced"),
        (TakesFromTheWrongPlace, "the_inbox_only_grows"),
        (EmptiesTheInbox, "the_inbox_only_grows"),
        (StaysOpen, "a_closed_store_refuses_every_call"),
        (TextOnly, "payloads_are_opaque"),
        (AnybodyWrites, "who_is_not_the_owner_writes_nothing"),
        (OpensTwice, "what_is_open_cannot_be_opened"),
        (TearsWhenCancelled, "a_cancelled_write_is_all_or_nothing"),
        (AcknowledgesNothingWhenCancelled, "a_write_cancelled_under_way_is_all_or_nothing"),
        (TakesAnyTimes, "a_time_is_needed_for_each_row"),
        (StopsAtDamage, "a_refused_read_stops_nothing"),
    ],
)
def test_the_suite_refuses_a_store_that_breaks_a_promise(broken: type[MemoryStore], caught: str) -> None:
    with pytest.raises(AssertionError, match=f"^{caught}: "):
        anyio.run(check_store, broken)


def test_the_suite_refuses_a_store_that_two_processes_own(tmp_path: Path) -> None:
    def again(store: MemoryStore) -> MemoryStore:
        other = MemoryStore()
        vars(other).update(vars(store))  # the same rows, and each its own idea of who owns them
        return other

    with pytest.raises(AssertionError, match=r"^one_owner_at_a_time: AssertionError: a second owner"):
        anyio.run(partial(check_store, again=again), MemoryStore)
