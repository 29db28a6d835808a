"""C7: the agents of C2 with a journal of each durability; what it leaves is read back by SQL and JSON alone.

Line `bare` is a thread that writes the very rows of such a run, in the groups in which they were written, one
transaction each: the least that a journal in SQLite can cost.
"""

import asyncio
import json
import os
import random
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import anyio.to_thread

from benchmarks import scripts
from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.scripted import WORK, Steps
from benchmarks.scripts import TEAM
from understudy import Agent, Supervisor, System
from understudy.actors.errors import JournalDamaged
from understudy.actors.journal.durability import OnDisk
from understudy.actors.journal.store import Row
from understudy.transports.journals.sqlite import SQLiteStore

CUTS: Final = {100: 100}
"""How often the log is cut, by the agents of a run: with many agents a cut takes a while."""
BUGS: Final = ("short", "loses")


class Short(Steps):
    """Every agent is done a step too early."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps - 1)


class Counting(SQLiteStore):
    """Notes the groups in which it is written to; with the bug `loses`, a run is taken out afterwards."""

    def __init__(self, path: Path, durability: OnDisk, bug: str) -> None:
        super().__init__(path, durability=durability)
        self.groups: list[Sequence[Row]] = []
        self.bug = bug

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        self.groups.append(rows)
        await super().write(rows, at)


async def program(case: Case) -> Found:
    n, steps = case.args
    small = Case(case.name, case.line, (max(TEAM, n // 10), steps), case.variant)  # a process warms up in itself
    with tempfile.TemporaryDirectory() as folder:
        await play(small, Path(folder) / "warm.db")
        return await play(case, Path(folder) / "desk.db")


async def play(case: Case, path: Path) -> Found:
    """All agents once."""
    n, steps = case.args
    line = case.line
    store = None
    if line not in ("off", "memory"):
        durability: OnDisk = "relaxed" if line == "relaxed" else "full" if line == "full" else "normal"
        store = Counting(path, durability, case.bug)
    scripts.forget()
    model = (Short if case.bug == "short" else Steps)(steps)
    agents = [Agent(f"a{i}", model=model, tools=[WORK[0]]) for i in range(n)]
    root = Supervisor("root", [Supervisor(f"t{at}", agents[at : at + TEAM]) for at in range(0, n, TEAM)])
    system = System(root, durability="off") if line == "off" else System(root, journal=store)
    async with system:
        case.start()
        results = await asyncio.gather(*(system.run(agent, str(i)) for i, agent in enumerate(agents)))
        if store is not None:
            await system.journal.commit()
        case.stop()
        cuts = CUTS.get(n, 0) if line == "normal" else 0
        if cuts and (bad := await anyio.to_thread.run_sync(_cut_often, path, cuts)):
            raise CheckFailed(f"of {cuts} cuts of the log {bad} left no prefix")
    if others := [result for result in results if result.status != "complete"]:
        raise CheckFailed(f"{others[0].status}: {others[0].reason}")
    found = scripts.finals([int(str(result.output)) for result in results])
    if store is None:
        return found
    groups = store.groups
    if line == "bare":
        return _bare(case, path.with_suffix(".bare"), groups)
    if case.bug == "loses":
        with closing(sqlite3.connect(path)) as db:
            db.execute("DELETE FROM events WHERE run = (SELECT run FROM streams WHERE run NOT LIKE '@%' LIMIT 1)")
            db.commit()
    case.extra["writes_per_step"] = round(len(groups) / (n * steps), 3)
    case.extra["events_per_step"] = round(sum(map(len, groups)) / (n * steps), 2)
    size, kept = await anyio.to_thread.run_sync(_looked_at, path)
    case.extra["bytes_per_step"] = round(size / (n * steps))
    return found | {"read_back": kept}


def _looked_at(path: Path) -> tuple[int, int]:
    return path.stat().st_size, read_back(path)


def read_back(path: Path) -> int:
    """The results in a journal, if those of each run are in their order: by SQL and JSON alone.

    Raises `CheckFailed` for a run that lacks an event or has one out of order.
    """
    count = 0
    steps: dict[str, int] = {}
    events: dict[str, int] = {}
    with closing(sqlite3.connect(path)) as db:
        for run, payload, cuts, refs in db.execute("SELECT run, payload, cuts, refs FROM events ORDER BY run, seq"):
            if refs is not None:
                raise CheckFailed(f"run {run} has a large text")
            begin = 0
            lengths = [length for length, _, _ in struct.iter_unpack("<IId", cuts or b"")]
            for length in [*lengths, len(payload) - sum(lengths)]:
                record = json.loads(payload[begin : begin + length])
                begin += length
                events[run] = events.get(run, 0) + 1
                if record["seq"] != events[run]:
                    raise CheckFailed(f"run {run}: event {record['seq']} where {events[run]} was due")
                if record["event"]["$"] == "ToolAnswered":
                    count += 1
                    steps[run] = steps.get(run, 0) + 1
                    if record["event"]["step"] != steps[run]:
                        raise CheckFailed(f"run {run}: step {record['event']['step']} where {steps[run]} was due")
    return count


def _cut_often(path: Path, times: int) -> int:
    """How many of some places, at which the write-ahead log is cut, leave anything but a prefix."""
    draw = random.Random(7)
    log = Path(f"{path}-wal")
    size = log.stat().st_size
    return sum(not anyio.run(_opens, path, draw.randrange(size)) for _ in range(times))


async def _opens(path: Path, size: int) -> bool:
    """Whether the journal with so much of its log opens, and each stream is whole up to somewhere."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "cut.db"
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
        os.truncate(f"{copy}-wal", size)
        store = SQLiteStore(copy)
        await store.open()
        try:
            for head in await store.heads():
                await store.read(head.run)
        except JournalDamaged:
            return False
        finally:
            await store.aclose()
        return True


def _bare(case: Case, path: Path, groups: Sequence[Sequence[Row]]) -> Found:
    rows = [[(row.run, row.seq, row.payload) for row in group] for group in groups]
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, run TEXT, seq INTEGER, body BLOB)")
        db.execute("CREATE UNIQUE INDEX place ON log (run, seq)")
        case.start()
        for group in rows:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT INTO log (run, seq, body) VALUES (?, ?, ?)", group)
            db.execute("COMMIT")
        case.stop()
        (count,) = db.execute("SELECT count(*) FROM log").fetchone()
    case.extra["writes_per_step"] = round(len(groups) / (case.args[0] * case.args[1]), 3)
    return {"rows": case.bug != "loses" and count == sum(map(len, groups))}
