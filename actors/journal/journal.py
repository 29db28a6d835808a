"""The journal's writer: numbers events, checks who writes, chains checksums, commits in groups.

`append` is synchronous and only puts a record into the buffer: what a fold needs is there at once. Nothing may be
relied on outside before `barrier` has returned: it waits until everything appended so far is committed. Records
without a barrier ride with the next commit, at the latest after the `linger` of the store's durability profile (50 ms).
With the profile "relaxed" a barrier does not wait, with "off" nothing is written at all.

When the store fails, nothing after the failure is written: every later append and barrier raises that error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from understudy.actors.clock import Clock
from understudy.actors.errors import (
    JournalClosed,
    JournalError,
    JournalFailed,
    StaleWriter,
)
from understudy.actors.journal.durability import profile_of
from understudy.actors.journal.events import AnyEvent, Forked, Record
from understudy.actors.journal.pruned_events import PRUNED, Pruned
from understudy.actors.journal.rows import check_version as check_version
from understudy.actors.journal.rows import decode_rows as decode_rows
from understudy.actors.journal.sealing import sealed
from understudy.actors.journal.store import Head, JournalStore, MemoryStore, Row, chain, recent_of
from understudy.actors.tasks import new_task
from understudy.actors.telemetry import Listeners

BUFFER: Final = 10_000
"""Records that may wait for a commit; more means that the disk stands still, and is refused."""
BATCH: Final = 512
BACKLOG: Final = 4_096
"""Records that may wait for a commit before a barrier waits that otherwise would not."""


class Journal:
    """The one writer of a store. `open` and `aclose` belong to the system."""

    def __init__(self, store: JournalStore, clock: Clock) -> None:
        self.store = store
        self.profile = profile_of(store)
        self.volatile = not self.profile.on_disk or store.path == MemoryStore.path
        """Whether it is gone with the process."""
        self.listeners = Listeners[Record]("journal")
        self.commits = Listeners[int]("commit")
        """Told how many of the events appended here are committed, after each commit."""
        self.kept: Mapping[str, str] = {}
        """What was kept beside the events when it was opened."""
        self._clock = clock
        self._heads: dict[str, tuple[int, int]] = {}
        self._current: dict[str, int] = {}
        self._buffer: list[tuple[Row, float]] = []
        self._appended = 0
        self._committed = 0
        self._newest: dict[str, int] = {}
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._failure: JournalError | None = None
        self.on_failure: Callable[[JournalError], None] | None = None
        self._open = False
        self._pruning = asyncio.Lock()
        self._gone: set[str] = set()
        """Runs that were pruned, or are just now: nobody may go on with them."""

    async def open(self) -> list[Head]:
        """Open the store as its owner; every stream it holds. Raises `JournalNewer` for events of a newer version."""
        await self.store.open(owner=True)
        try:
            self.kept = await self.store.meta()
            check_version(self.store.path, self.kept)
            heads = await self.store.heads()
        except BaseException:
            await self.store.aclose()
            raise
        self._heads = {head.run: (head.seq, head.crc) for head in heads}
        self._open = True
        return heads

    async def aclose(self) -> None:
        """Commit what is buffered and close the store. Safe to call twice."""
        if not self._open:
            return
        try:
            if self._failure is None:
                await self.commit()
        finally:
            self._open = False
            if self._linger is not None:
                self._linger.cancel()
            if self._flusher is not None:
                await asyncio.wait([self._flusher])
            await self.store.aclose()

    async def read(self, run: str) -> list[Record]:
        """A whole stream, verified. Raises `JournalDamaged` also for a payload that is no record."""
        if not self.profile.kept:
            raise JournalFailed(self.store.path, f"run {run} cannot be read: with durability 'off' nothing is kept")
        if not self.profile.waits:
            await self.commit()
        return decode_rows(self.store.path, await self.store.read(run))

    async def recent(self, run: str, many: int) -> list[Record]:
        """The last `many` records of a stream, oldest first. Raises `JournalDamaged`."""
        return decode_rows(self.store.path, await recent_of(self.store, run, many))

    @property
    def appended(self) -> int:
        """How many events were appended here so far."""
        return self._appended

    def knows(self, run: str) -> bool:
        """Whether there is a stream of this name."""
        return run in self._heads

    def pending(self, run: str) -> bool:
        """Whether an event of a run is not committed yet that somebody waits for: never with "relaxed"."""
        return self.profile.waits and self._newest.get(run, 0) > self._committed

    def enter(self, path: str, incarnation: int) -> None:
        """From now on only this incarnation of `path` may write in its name."""
        if incarnation < self._current.get(path, 0):
            raise StaleWriter(self.store.path, f"{path} #{incarnation} came after #{self._current[path]}")
        self._current[path] = incarnation

    def append(
        self, run: str, event: AnyEvent, *, sub: int = 0, path: str = "", incarnation: int = 0, cause: int = 0
    ) -> Record:
        """Number an event and put it into the buffer. The record is as it will be read back (see `sealing.sealed`).

        Raises `JournalError`, and `UsageError` for an event that could not be read back; then nothing was appended.
        """
        if self._failure is not None or not self._open or len(self._buffer) >= BUFFER:
            self._check_usable()
        if incarnation and self._current.get(path, incarnation) != incarnation:
            raise StaleWriter(self.store.path, f"{path} #{incarnation} is not current, #{self._current[path]} is")
        if run in self._gone:
            raise JournalFailed(self.store.path, f"run {run} was pruned")
        seq, crc = self._heads.get(run, (0, 0))
        seq += 1
        at = self._clock.wall()
        record = Record(run, seq, at, self._clock.monotonic(), sub, path, incarnation, cause, event)
        if self.profile.kept:
            record, payload = sealed(record)
            crc = chain(crc, run, seq, payload)
            self._buffer.append((Row(run, seq, payload, len(payload), crc), at))
            self._appended += 1
            self._newest[run] = self._appended
            if self._flusher is None and (self._linger is None or len(self._buffer) >= BATCH):
                self._arm()
        self._heads[run] = (seq, crc)
        self.listeners.tell(record)
        return record

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if not self._open:
            raise JournalClosed(self.store.path, "the journal is closed")
        if len(self._buffer) >= BUFFER:
            raise JournalFailed(self.store.path, f"{BUFFER} events wait for a commit; the disk stands still")

    def _arm(self) -> None:
        if len(self._buffer) >= BATCH:
            self._flush_now()
        else:
            self._linger = asyncio.get_running_loop().call_later(self.profile.linger, self._flush_now)

    def _flush_now(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._flusher is None and self._buffer:
            self._flusher = new_task(self._flush(), asyncio.get_running_loop(), name="understudy-journal")

    async def barrier(self) -> None:
        """Wait until everything so far is committed, if the store's profile does. Raises what the store raised."""
        if self.profile.waits or len(self._buffer) >= BACKLOG:
            await self.commit()
        elif self._failure is not None:
            raise self._failure

    def hasten(self) -> None:
        """Begin to commit everything so far, without waiting; what is appended before the next await rides along."""
        if self.profile.waits and self._failure is None:
            self._flush_now()

    async def commit(self) -> None:
        """Wait until everything appended so far is committed, whatever the profile. Raises what the store raised."""
        if self._failure is not None:
            raise self._failure
        if self._committed >= self._appended:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((self._appended, waiter))
        self._flush_now()
        await waiter

    async def _flush(self) -> None:
        try:
            while self._buffer:
                batch, self._buffer = self._buffer, []
                await self.store.write([row for row, _ in batch], [at for _, at in batch])
                self._committed += len(batch)
                self._release()
                self.commits.tell(self._committed)
        except JournalError as error:
            self._fail(error)
        except BaseException as error:
            self._fail(JournalFailed(self.store.path, f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._flusher = None

    def _release(self) -> None:
        kept: list[tuple[int, asyncio.Future[None]]] = []
        for number, waiter in self._waiters:
            if number > self._committed:
                kept.append((number, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = kept

    def _fail(self, error: JournalError) -> None:
        self._failure = error
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)
        self._waiters = []
        if self.on_failure is not None:
            self.on_failure(error)

    async def begin(self, records: Sequence[Record]) -> list[Record]:
        """Write a whole new stream, `records` from number 1 on, at once; they are there when it returns, or none is.

        Gives the records as they will be read back. Listeners are told of its last fork and what follows. Raises what
        `append` and the store raise.
        """
        self._check_usable()
        run, made, rows, crc = records[0].run, list[Record](), list[Row](), 0
        if run in self._heads:
            raise JournalFailed(self.store.path, f"run {run} has begun already")
        for each in records:
            record, payload = sealed(each)
            crc = chain(crc, run, record.seq, payload)
            made.append(record)
            rows.append(Row(run, record.seq, payload, len(payload), crc))
        self._heads[run] = (len(rows), crc)
        try:
            await self.store.write(rows, [record.at for record in made])
        except BaseException:
            self._heads.pop(run, None)
            raise
        told = max((record.seq for record in made if isinstance(record.event, Forked)), default=1)
        for record in made[told - 1 :]:
            self.listeners.tell(record)
        return made

    async def prune(self, runs: Mapping[str, int], event: Pruned) -> None:
        """Remove the streams of `runs`, and append `event` to the stream `@pruned`, in one write that is done at once.

        `runs`: the number of the last event of each. Raises `JournalFailed` when one has gone on, and what the store
        raises; then everything is as it was. It ends even if the caller is cancelled.
        """
        self._check_usable()
        await asyncio.shield(new_task(self._prune(runs, event), asyncio.get_running_loop(), name="understudy-prune"))

    async def drop(self, streams: Mapping[str, int]) -> None:
        """Remove streams that are no runs and that nobody goes on with; nothing is kept of them. Raises as `prune`."""
        self._check_usable()
        if self.profile.kept:
            await asyncio.shield(new_task(self._prune(streams), asyncio.get_running_loop(), name="understudy-drop"))

    async def _prune(self, runs: Mapping[str, int], event: Pruned | None = None) -> None:
        async with self._pruning:
            await self.commit()
            for run, last in runs.items():
                if self._heads.get(run, (0, 0))[0] != last:
                    raise JournalFailed(self.store.path, f"run {run} has gone on meanwhile; it was not pruned")
            self._gone |= runs.keys()
            record = self._pruned(event) if event is not None else None
            rows, times = ([record[1]], [record[0].at]) if record is not None else ([], [])
            try:
                await self.store.prune(list(runs), rows, times)
            except BaseException:
                self._gone -= runs.keys()
                raise
            for run in runs:
                self._heads.pop(run, None)
                self._newest.pop(run, None)
            if record is not None:
                self._heads[PRUNED] = (record[1].seq, record[1].crc)
                self.listeners.tell(record[0])

    def _pruned(self, event: Pruned) -> tuple[Record, Row]:
        """The next event of the stream that says what was removed."""
        seq, crc = self._heads.get(PRUNED, (0, 0))
        record = Record(PRUNED, seq + 1, self._clock.wall(), self._clock.monotonic(), 0, "", 0, 0, event)
        record, payload = sealed(record)
        return record, Row(PRUNED, seq + 1, payload, len(payload), chain(crc, PRUNED, seq + 1, payload))
