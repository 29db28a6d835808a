"""A journal on a simulated disk: what a process wrote, what the disk keeps when either of them dies.

    disk = SimDisk([KillAfter(3)])                      # outlives the processes of one simulated world
    store = SimStore(disk, on_kill=world.killed)        # one process's way to it: a `JournalStore`

Writes go to a log of transactions in the operating system's memory, which outlives the process; the part of the log
that was flushed outlives a power cut. Durability "normal" flushes when the owner closes, "full" at every write: the two
profiles of the journal in SQLite.

A process that was killed does not go on: the call in which it died never returns, nor does any later one of its stores
(`aclose` alone returns, and does nothing). Whoever takes the dead process apart calls `SimDisk.bury` first: then those
calls raise `JournalClosed`. A world that drops the event loop with everything in it need not. The next process makes a
new `SimStore`, in any event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar, get_args

from msgspec import Struct
from msgspec.structs import replace

from understudy.actors.errors import JournalClosed, JournalFailed, JournalOwned, UsageError
from understudy.actors.journal.store import Head, InboxRow, MemoryStore, Row, verify
from understudy.actors.telemetry import Listeners
from understudy.actors.testing import properties
from understudy.actors.testing.disk_faults import (
    DiskError,
    DiskFault,
    KillAfter,
    KillBefore,
    LostWrites,
    SlowDisk,
    TornWrite,
)
from understudy.actors.testing.disk_log import Commit, Pages

WRITE_SECONDS: Final = 0.001
"""Virtual seconds that a write takes."""
LATE: Final = 30.0
"""Virtual seconds after which a call that does not come back is given up, and the store with it (as in SQLite)."""
NODE: Final = "node"
"""The process that a store belongs to when nothing else is said."""
_ORDER: Final = (KillBefore, DiskError, TornWrite, LostWrites, KillAfter)

Durability = Literal["normal", "full"]
OnKill = Callable[[DiskFault], None]
T = TypeVar("T")


class SimDisk:
    """A disk with one journal, `name`, and the faults that are planned for it. Belongs to no event loop.

    `durability`: "normal" (default: a killed process loses nothing, a power cut may lose the last writes) or "full"
    (neither loses anything). `seconds` is the virtual time of a write, 1 ms by default. `on_commit` hears of every
    batch of rows in the moment it is in the journal, before its writer does (a power cut may take it back); it may not
    raise.

    Raises `UsageError` for a wrong option and for two faults of one kind and write.
    """

    def __init__(
        self,
        faults: Iterable[DiskFault] = (),
        *,
        name: str = "sim.db",
        durability: Durability = "normal",
        seconds: float = WRITE_SECONDS,
        on_commit: Callable[[Sequence[Row]], None] | None = None,
    ) -> None:
        if name in ("", MemoryStore.path):
            raise UsageError(f"name is {name!r}: a simulated disk outlives its processes, MemoryStore does not")
        if durability not in get_args(Durability):
            raise UsageError(f"durability is {durability!r}: it is 'normal' or 'full'")
        if not seconds >= 0:
            raise UsageError(f"seconds is {seconds!r}: it may not be negative")
        self.name = name
        self.durability: Durability = durability
        self.seconds = seconds
        self.on_commit = on_commit
        self.writes = 0
        """Numbered writes begun so far, by all processes."""
        self.fired: list[DiskFault] = []
        """The faults that have happened, in their order."""
        self.discarded = 0
        """Unfinished transactions that were found and dropped."""
        self._planned: dict[int, list[DiskFault]] = {}
        for fault in faults:
            beside = self._planned.setdefault(fault.write, [])
            if any(type(other) is type(fault) for other in beside):
                raise UsageError(f"{fault!r}: there is another {type(fault).__name__} for this write")
            beside.append(fault)
        each = [fault for beside in self._planned.values() for fault in beside]
        self._slow = seconds + sum(fault.seconds for fault in each if isinstance(fault, SlowDisk)) >= LATE
        self.posted = Listeners[InboxRow]("inbox")
        """Told of every word, by whichever store it was put in."""
        self._broken: DiskError | None = None
        self._log: list[Commit] = []
        self._flushed = 0
        self._pages = Pages()
        self._stores: list[SimStore] = []
        self._owner: SimStore | None = None

    # -- what happens to it --------------------------------------------------------------------------------

    def kill(self, process: str = NODE) -> None:
        """End a process at this very moment: its stores are dead, what they wrote stays. Calls no `on_kill`."""
        for store in [store for store in self._stores if store.process == process]:
            store.die()

    def power_cut(self, keep: int = 0) -> int:
        """End every process, and lose what was not flushed but for the first `keep` writes of it; how many were lost.

        Calls no `on_kill`. Raises `UsageError` for a negative `keep`.
        """
        if keep < 0:
            raise UsageError(f"keep is {keep}; it may not be negative")
        for store in list(self._stores):
            store.die()
        kept = self._flushed + keep
        lost = len(self._log[kept:])
        del self._log[kept:]
        self._flushed = len(self._log)
        self._recover()
        return lost

    def damage(self, run: str, seq: int) -> None:
        """Change one event where it lies, leaving its length and checksum. Raises `LookupError` if it is not there."""
        for commit in self._log:
            for place, row in enumerate(commit.rows):
                if (row.run, row.seq) == (run, seq) and commit.whole:
                    payload = bytes([row.payload[0] ^ 1]) + row.payload[1:] if row.payload else b"\0"
                    commit.rows = (*commit.rows[:place], replace(row, payload=payload), *commit.rows[place + 1 :])
                    self._recover()
                    return
        raise LookupError(f"{self.name}: no event {run}:{seq}")

    def bury(self) -> None:
        """Let the calls of every dead process end, with `JournalClosed`."""
        for store in self._stores:
            if store.dead:
                store.bury()
        self._stores = [store for store in self._stores if not store.dead]

    # -- looking -------------------------------------------------------------------------------------------

    def streams(self) -> dict[str, list[Row]]:
        """Every stream as the next process would find it, in the order they began. Not verified."""
        return {run: list(rows) for run, rows in self._pages.rows.items()}

    @property
    def unflushed(self) -> int:
        """Transactions that a power cut would lose."""
        return len(self._log) - self._flushed

    # -- for its stores ------------------------------------------------------------------------------------

    def plan(self) -> dict[type[DiskFault], DiskFault]:
        """Number the next write; what is to happen to it, by kind. For `SimStore`."""
        self.writes += 1
        found: dict[type[DiskFault], DiskFault] = {type(fault): fault for fault in self._planned.get(self.writes, ())}
        broken = found.get(DiskError)
        if isinstance(broken, DiskError) and not broken.once:
            self._broken = broken
        if self._broken is not None:
            found[DiskError] = self._broken
        return found

    def commit(self, commit: Commit) -> None:
        """Take a transaction. For `SimStore`. Raises `JournalFailed` for a gap or a repeated number."""
        if wrong := self._pages.misplaced(commit.rows):
            raise JournalFailed(self.name, wrong)
        self._log.append(commit)
        self._pages.apply(commit)
        if self.durability == "full":
            self.flush()
        if commit.rows and self.on_commit is not None:
            self.on_commit(commit.rows)

    def tear(self, commit: Commit, keep: int) -> None:
        """Take the beginning of a transaction. For `SimStore`."""
        self._log.append(replace(commit, rows=commit.rows[:keep], at=commit.at[:keep], whole=False))

    def flush(self) -> None:
        """Everything written so far outlives a power cut."""
        self._flushed = len(self._log)

    def mount(self, store: SimStore, owner: bool) -> None:
        """Open, as `JournalStore.open`. For `SimStore`."""
        if owner and self._owner is not None:
            raise JournalOwned(self.name, "another live process owns it, or another store in this one")
        if not owner and not self._log and self._owner is None:
            raise JournalFailed(self.name, "no journal here: the file is missing or empty")
        if any(not commit.whole for commit in self._log):
            self._recover()
        if owner:
            self._owner = store

    def unmount(self, store: SimStore) -> None:
        """Give ownership up. For `SimStore`."""
        if self._owner is store:
            self._owner = None

    def know(self, store: SimStore) -> None:
        """There is another store, open or not. For `SimStore`."""
        self._stores.append(store)

    @property
    def may_be_late(self) -> bool:
        """Whether a call may take so long that it is given up. For `SimStore`."""
        return self._slow

    @property
    def pages(self) -> Pages:
        """What can be read. For `SimStore`."""
        return self._pages

    def owned_by(self, store: SimStore) -> bool:
        """Whether `store` is the owner. For `SimStore`."""
        return self._owner is store

    def _recover(self) -> None:
        whole = [commit for commit in self._log if commit.whole]
        self.discarded += len(self._log) - len(whole)
        self._flushed = sum(commit.whole for commit in self._log[: self._flushed])
        self._log = whole
        self._pages = Pages()
        for commit in whole:
            self._pages.apply(commit)


class _Job(Struct, eq=False):
    """One call: a transaction, or something to look at."""

    future: asyncio.Future[object]
    look: Callable[[], object] | None = None
    commit: Commit | None = None
    numbered: bool = False
    plan: Mapping[type[DiskFault], DiskFault] = {}


class SimStore:
    """One process's `JournalStore` on a `SimDisk`. Its calls are carried out one after another, as on one thread.

    `process` names the process for `SimDisk.kill`, which ends every store made so far in its name. `on_kill`
    is called with the fault that ends it, in the middle of
    the call that dies; it should end whatever else belongs to the process, and may not raise.

    A caller that is cancelled leaves: what it asked for happens all the same.
    """

    def __init__(self, disk: SimDisk, *, process: str = NODE, on_kill: OnKill | None = None) -> None:
        self.process = process
        self.dead = False
        """Whether its process was killed."""
        self._disk = disk
        self._on_kill = on_kill
        self._open = False
        self._given_up = False
        self._jobs: deque[_Job] = deque()
        self._frozen: list[asyncio.Future[object]] = []
        self._buried = False
        disk.know(self)

    @property
    def path(self) -> str:
        """The name of the disk's journal."""
        return self._disk.name

    async def open(self, *, owner: bool = True) -> None:
        """See `JournalStore.open`. Raises `UsageError` when open already, `JournalFailed` for a reader of nothing."""
        await self._alive()
        if self._open:
            raise UsageError(f"{self.path}: this store is open already")
        await asyncio.sleep(self._disk.seconds)
        await self._alive()
        self._disk.mount(self, owner)
        self._open, self._given_up = True, False

    async def aclose(self) -> None:
        """Carry out what was asked for, flush, and give ownership up. Returns at once when the process is dead."""
        if not self._open:
            return
        last = self._submit(_Job(_future(), look=int))
        await asyncio.wait([last.future], timeout=LATE if self._disk.may_be_late else None)
        self._close(came_back=last.future.done())

    def _close(self, *, came_back: bool) -> None:
        if self.dead or not self._open:
            return
        self._open = False
        if not came_back:  # a write may be under way still: stay the owner until the process ends
            return
        if self._disk.owned_by(self):
            self._disk.flush()
        self._disk.unmount(self)

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.write`. Raises `JournalFailed`, `JournalOwned` without ownership, `UsageError`."""
        if len(rows) != len(at):
            raise UsageError(f"{self.path}: {len(rows)} rows with {len(at)} times")
        await self._change(Commit(rows=tuple(rows), at=tuple(at)), nothing=not rows)

    async def prune(self, runs: Sequence[str], rows: Sequence[Row], at: Sequence[float]) -> None:
        """See `JournalStore.prune`; a numbered write, like `write`."""
        if len(rows) != len(at):
            raise UsageError(f"{self.path}: {len(rows)} rows with {len(at)} times")
        await self._change(Commit(rows=tuple(rows), at=tuple(at), gone=tuple(runs)), nothing=not rows and not runs)

    async def read(self, run: str) -> list[Row]:
        """See `JournalStore.read`."""

        def look() -> list[Row]:
            rows = list(self._disk.pages.rows.get(run, ()))
            verify(self.path, rows)
            return rows

        return await self._look(look)

    async def heads(self) -> list[Head]:
        """See `JournalStore.heads`."""
        return await self._look(lambda: self._disk.pages.heads())

    async def tails(self) -> list[Row]:
        """See `JournalStore.tails`."""
        return await self._look(lambda: [rows[-1] for rows in self._disk.pages.rows.values()])

    async def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`."""
        return await self._look(lambda: dict(self._disk.pages.meta))

    async def set_meta(self, values: Mapping[str, str]) -> None:
        """See `JournalStore.set_meta`; a numbered write, like `write`."""
        await self._change(Commit(values=tuple(values.items())), nothing=not values)

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """See `JournalStore.post`; has no number."""

        def put() -> InboxRow:
            word = InboxRow(len(self._disk.pages.inbox) + 1, at, kind, body)
            self._disk.commit(Commit(word=word))
            return word

        word = await self._look(put)
        self.posted.tell(word)
        return word.id

    @property
    def posted(self) -> Listeners[InboxRow]:
        """See `SimDisk.posted`."""
        return self._disk.posted

    async def take(self, after: int) -> list[InboxRow]:
        """See `JournalStore.take`."""
        return await self._look(lambda: self._disk.pages.inbox[after:])

    # -- the end of the process ----------------------------------------------------------------------------

    def die(self) -> None:
        """The process ends: see `SimDisk.kill`."""
        if self.dead:
            return
        self.dead, self._open = True, False
        self._frozen += [job.future for job in self._jobs]
        self._jobs.clear()
        self._disk.unmount(self)

    def bury(self) -> None:
        """Let the calls of the dead process end: see `SimDisk.bury`."""
        self._buried = True
        for future in self._frozen:
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(self._killed())
                future.exception()  # retrieved: that nobody waits any more is no news
        self._frozen.clear()

    def _killed(self) -> JournalClosed:
        return JournalClosed(self.path, "the process that had it open was killed")

    async def _alive(self) -> None:
        """Return if the process lives; else never, or with `JournalClosed` once it is buried."""
        if not self.dead:
            return
        if self._buried:
            raise self._killed()
        future = _future()
        self._frozen.append(future)
        await future

    # -- calls ---------------------------------------------------------------------------------------------

    async def _look(self, look: Callable[[], T]) -> T:
        found: list[T] = []
        await self._call(_Job(_future(), look=lambda: found.append(look())))
        return found[0]

    async def _change(self, commit: Commit, *, nothing: bool) -> None:
        if self._open and not self._disk.owned_by(self):
            raise JournalOwned(self.path, "opened without ownership: only the owner writes")
        if nothing:
            await self._call(_Job(_future(), look=int))
        else:
            await self._call(_Job(_future(), commit=commit, numbered=True))

    async def _call(self, job: _Job) -> None:
        await self._alive()
        if not self._open:
            raise JournalClosed(self.path, "the journal is closed")
        if self._given_up:
            raise JournalFailed(self.path, "given up after a call that did not come back")
        self._submit(job)
        if self._disk.may_be_late:
            await asyncio.wait([job.future], timeout=LATE)
        if not self._disk.may_be_late or job.future.done() or not self._open:
            await job.future
            return
        self._given_up = True
        job.future.cancel()
        raise JournalFailed(self.path, f"no answer from the disk within {LATE:g} s; the last write may be there or not")

    def _submit(self, job: _Job) -> _Job:
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._begin()
        return job

    def _begin(self) -> None:
        job = self._jobs[0]
        loop = job.future.get_loop()
        seconds = 0.0
        if job.numbered:
            job.plan = self._disk.plan()
            if (fault := job.plan.get(KillBefore)) is not None:
                self._end_process(fault)
                return
            seconds = self._disk.seconds
            slow = job.plan.get(SlowDisk)
            if isinstance(slow, SlowDisk):
                self._disk.fired.append(slow)
                properties.came_true(slow)
                seconds += slow.seconds
        loop.call_later(seconds, self._end, job) if seconds else loop.call_soon(self._end, job)

    def _end(self, job: _Job) -> None:
        if self.dead:
            return
        fault = next((job.plan[kind] for kind in _ORDER if kind in job.plan), None)
        refused: Exception | None = None
        try:
            self._carry_out(job, fault)
        except Exception as error:
            refused = error
        if isinstance(fault, TornWrite | LostWrites | KillAfter):
            self._end_process(fault)
            return
        self._jobs.popleft()
        if not job.future.done():  # else its caller was cancelled
            job.future.set_result(None) if refused is None else job.future.set_exception(refused)
        if self._jobs:
            self._begin()

    def _carry_out(self, job: _Job, fault: DiskFault | None) -> None:
        if isinstance(fault, DiskError):
            if fault not in self._disk.fired:
                self._disk.fired.append(fault)
                properties.came_true(fault)
            raise JournalFailed(self.path, "disk I/O error")
        if job.commit is None:
            assert job.look is not None
            job.look()
        elif isinstance(fault, TornWrite):
            self._disk.tear(job.commit, fault.keep)
        else:
            self._disk.commit(job.commit)

    def _end_process(self, fault: DiskFault) -> None:
        self._disk.fired.append(fault)
        if isinstance(fault, LostWrites):
            self._disk.power_cut(fault.keep)
        else:
            self._disk.kill(self.process)
        if self._on_kill is not None:
            self._on_kill(fault)


def _future() -> asyncio.Future[object]:
    return asyncio.get_running_loop().create_future()
