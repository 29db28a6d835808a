"""C14: durable messages, acknowledged after `fsync`, 1,000 in flight; and what a bare writer of the same bytes does.

A process posts blocks of messages from 1,000 senders to 100 actors that keep, for each sender, the last number it sent,
and in turns with that, hands rows of as many bytes to a bare thread that commits in groups (`FULL`). Then it
is killed. Another system on the same journal must find everything that was acknowledged, in the order of each sender.

Line `accepted`: the actors handle nothing before the kill. Line `handled`: they handle what comes, with state kept.
"""

import asyncio
import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from benchmarks.case import Case, CheckFailed, Found
from understudy import Actor, Message, System

SENDERS: Final = 1_000
ACTORS: Final = 100
EACH: Final = SENDERS // ACTORS
BLOCKS: Final = 5
"""Of each, the first of which is not counted."""
TEXT: Final = "x" * 72
CAP: Final = 4_096
"""Rows that the bare writer commits at once, at most."""

BUGS: Final = ("early", "disorder", "twice")
"""Acknowledges without a commit; keeps messages in another order; keeps not that they were handled."""


class Note(Message[None]):
    sender: int
    number: int
    text: str


class Seen(Struct, frozen=True):
    last: tuple[int, ...] = (0,) * EACH
    wrong: int = 0


class Keeper(Actor[Note]):
    """Notes the last number of each of its senders."""

    state: Seen = Seen()
    mailbox_limit = 1_000_000

    def note(self, m: Note) -> None:
        seen, mine = self.state, m.sender // ACTORS
        last = seen.last
        wrong = seen.wrong + (m.number != last[mine] + 1)
        self.state = Seen((*last[:mine], m.number, *last[mine + 1 :]), wrong)


class Writer(threading.Thread):
    """The bare writer: commits all that has come up since the last commit, and wakes who waits for it."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in ("journal_mode = WAL", "synchronous = FULL"):
            self.db.execute(f"PRAGMA {statement}")
        self.db.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, stream TEXT, body BLOB)")
        self.loop = loop
        # What waits for the thread: a row and its future; None ends it.
        self.queue: queue.SimpleQueue[tuple[tuple[str, bytes], asyncio.Future[None]] | None] = queue.SimpleQueue()

    def run(self) -> None:
        while (first := self.queue.get()) is not None:
            batch = [first]
            while len(batch) < CAP and not self.queue.empty():
                item = self.queue.get()
                if item is None:
                    self.queue.put(None)
                    break
                batch.append(item)
            self.db.execute("BEGIN")
            self.db.executemany("INSERT INTO log (stream, body) VALUES (?, ?)", [row for row, _ in batch])
            self.db.execute("COMMIT")
            self.loop.call_soon_threadsafe(self.wake, [future for _, future in batch])

    @staticmethod
    def wake(futures: list[asyncio.Future[None]]) -> None:
        for future in futures:
            future.set_result(None)

    def write(self, row: tuple[str, bytes]) -> asyncio.Future[None]:
        """Done when the row is committed."""
        future: asyncio.Future[None] = self.loop.create_future()
        self.queue.put((row, future))
        return future


async def _bare(writer: Writer, count: int, size: int) -> None:
    row = ("senders/1", b"x" * size)

    async def send() -> None:
        for _ in range(count):
            await writer.write(row)

    await asyncio.gather(*(send() for _ in range(SENDERS)))


async def _ours(refs: list[Any], count: int, done: int) -> None:
    async def send(sender: int) -> None:
        ref = refs[sender % ACTORS]
        for number in range(done + 1, done + count + 1):
            if await ref.post(Note(sender, number, TEXT)) is not True:
                raise CheckFailed("a message was refused")

    await asyncio.gather(*(send(sender) for sender in range(SENDERS)))


async def _child(folder: str, count: int, line: str, bug: str) -> None:
    """Post, print what was seen as JSON, and be killed."""
    _break(bug)
    seen: dict[str, Any] = {"ours": [], "bare": [], "cpu": 0.0}
    async with System(journal=f"{folder}/ours.db", durability="full", watchdog=None) as system:
        refs = [system.spawn(Keeper, name=f"keeper-{n}") for n in range(ACTORS)]
        await asyncio.gather(*(system.peek(ref, lambda actor: None) for ref in refs))
        if line == "accepted":
            for ref in refs:
                await system.suspend(ref)
        writer = Writer(f"{folder}/bare.db", asyncio.get_running_loop())
        writer.start()
        sizes: list[int] = []
        stop = system.journal.listeners.add(lambda record: sizes.append(_size(record)))
        await _ours(refs, count, 0)
        stop()
        size = seen["bytes"] = sum(sizes) // (count * SENDERS)
        await _bare(writer, count, size)
        for block in range(1, BLOCKS):
            wall = time.perf_counter()
            await _bare(writer, count, size)
            seen["bare"].append(time.perf_counter() - wall)
            cpu, wall = time.process_time(), time.perf_counter()
            await _ours(refs, count, block * count)
            seen["ours"].append(time.perf_counter() - wall)
            seen["cpu"] += time.process_time() - cpu
        print(json.dumps(seen), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _size(record: Any) -> int:
    from understudy.actors.journal.events import encode

    return len(encode(record)) if record.run.startswith("@actors/") else 0


def _break(bug: str) -> None:
    """Plant a deliberate bug in this process."""
    from understudy.actors.durable.desk import Entry
    from understudy.actors.durable.office import Office
    from understudy.actors.journal.journal import Journal

    if bug == "early":

        async def at_once(journal: Journal) -> None:
            await asyncio.sleep(0)

        Journal.barrier = at_once  # type: ignore[method-assign, assignment]  # a deliberate bug
        Journal._arm = lambda journal: None  # type: ignore[method-assign, assignment]  # nor does time commit it
    if bug == "twice":
        Entry.kept = lambda entry: (entry.state, (), ())  # type: ignore[method-assign, assignment]  # as above
    if bug == "disorder":
        accept = Office._accept

        def other(office: Office, desk: Any, message: Any, life: Any) -> Any:
            if message.number % 2 == 0:  # ahead of the one before it
                office._next -= SENDERS + 2
                told = accept(office, desk, message, life)
                office._next += SENDERS + 2
                return told
            return accept(office, desk, message, life)

        Office._accept = other  # type: ignore[method-assign, assignment]  # as above


async def _found(folder: str) -> Found:
    """What the next process finds, after it has handled what waited."""
    async with System(journal=f"{folder}/ours.db", watchdog=None) as system:
        refs = [system.spawn(Keeper, name=f"keeper-{n}") for n in range(ACTORS)]
        office = system.kernel.office
        while office is not None and office.book.waiting:  # noqa: ASYNC110  # the driver ends a worker that is late
            await asyncio.sleep(0.01)
        states = [await system.peek(ref, lambda actor: actor.state) for ref in refs]
    return {"kept": sum(sum(state.last) for state in states), "wrong": sum(state.wrong for state in states)}


async def program(case: Case) -> Found:
    (messages,) = case.args
    count = max(1, messages // SENDERS)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.ours.durable", folder, str(count), case.line, case.bug]
        root = str(Path(__file__).parents[2])
        asked = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, timeout=case.deadline, check=False, cwd=root
        )
        if asked.returncode != -signal.SIGKILL:
            raise CheckFailed(asked.stderr.decode()[-500:])
        seen = json.loads(asked.stdout)
        found = await _found(folder)
    case.wall, case.cpu = sum(seen["ours"]), seen["cpu"]
    case.extra["ratio_to_bare"] = round(sum(seen["bare"]) / case.wall, 3)
    case.extra["bare_rows_per_s"] = round(SENDERS * count * (BLOCKS - 1) / sum(seen["bare"]))
    case.extra["bytes"] = seen["bytes"]
    return found


if __name__ == "__main__":
    asyncio.run(_child(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
