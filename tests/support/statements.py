"""What a kill leaves at every SQL statement and every change of a name that the SQLite store makes.

Before each statement of each connection, and before each link, replacement and removal of a file, the folder is copied
as it is: so a process would leave it that is killed there. What SQLite does within a statement is SQLite's promise, and
`tests/transports/test_cut_log.py` cuts its log at every byte.
"""

from __future__ import annotations

import copy
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.actors.errors import JournalDamaged
from understudy.actors.journal.store import Row
from understudy.actors.testing.journal_checks import check_numbers, check_prefix, check_tail
from understudy.actors.testing.witness import Batch, Witness
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened, stream

LONG = "a text that is stored once, " * 60


@dataclass
class Left:
    """A folder as a kill leaves it, before what it would have done next, and what was known to be done by then."""

    folder: Path
    before: str
    known: Any


@dataclass
class Killing:
    """Copies of `folder` in `into`, while `armed`. `known` tells what was done."""

    folder: Path
    into: Path
    known: Callable[[], object] = lambda: None
    left: list[Left] = field(default_factory=list)
    armed: bool = True

    def at(self, before: str) -> None:
        if not self.armed:
            return
        where = self.into / str(len(self.left))
        shutil.copytree(self.folder, where, ignore=shutil.ignore_patterns("*-shm"))
        self.left.append(Left(where, before, copy.deepcopy(self.known())))


@contextmanager
def killing(folder: Path, into: Path) -> Generator[Killing, None, None]:
    """Copy at every statement and change of a name inside of the block."""
    killed = Killing(folder, into)
    connect, renames = sqlite3.connect, {name: getattr(os, name) for name in ("link", "replace", "unlink")}

    def connecting(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **options)
        db.set_trace_callback(killed.at)
        return db

    def watched(name: str) -> Callable[..., None]:
        def change(*args: Any, **options: Any) -> None:
            if str(args[0]).startswith(str(folder)):
                killed.at(f"{name} {Path(args[0]).name}")
            renames[name](*args, **options)

        return change

    sqlite3.connect = connecting  # type: ignore[assignment]
    for name in renames:
        setattr(os, name, watched(name))
    try:
        yield killed
    finally:
        killed.armed = False
        sqlite3.connect = connect
        for name, found in renames.items():
            setattr(os, name, found)


@dataclass
class Known:
    """What was acknowledged: batches, values and words, and what was under way."""

    written: list[Batch] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    setting: dict[str, str] = field(default_factory=dict)
    words: int = 0
    doing: str = "open"


BATCHES = [
    stream("a", [b"1", f'{{"text":"{LONG}"}}'.encode()]) + stream("b", [b"1"]),
    stream("c", [f'{{"again":"{LONG}"}}'.encode(), b"2", b"3"]),
]


async def use(path: Path, killed: Killing) -> None:
    """Every operation of a store once: made, written, values, a word, a stream removed, emptied, opened again."""
    witness, known = Witness(SQLiteStore(path)), Known()
    known.written = witness.written
    killed.known = lambda: known
    async with opened(witness):
        known.doing = "write"
        for rows in BATCHES:
            await witness.write(rows, [1.0] * len(rows))
        known.doing, known.setting = "set_meta", {"events": "2", "app": "x"}
        await witness.set_meta(known.setting)
        known.values = dict(known.setting)
        known.doing = "post"
        async with opened(SQLiteStore(path), owner=False) as other:
            for _ in range(2):
                await other.post("approve", b'{"id":"a1"}', 1.0)
                known.words += 1
        known.doing = "write"
        last = BATCHES[0][1]
        await witness.write(stream("a", [b"3", b"4"], after=last), [2.0, 2.0])
        known.doing = "prune"
        await witness.prune(["c"], stream("@pruned", [b"{}"]), [3.0])
        known.doing = "aclose"
    known.doing = "open"
    async with opened(SQLiteStore(path)) as store:
        known.doing = "write"
        rows = stream("b", [b"2"], after=BATCHES[0][2])
        batch = Batch(tuple(rows))
        witness.written.append(batch)
        await store.write(rows, [4.0])
        batch.acknowledged = True
        known.doing = "aclose"


async def look(left: Left) -> list[str]:
    """What is wrong with what a kill left."""
    known: Known = left.known
    store = SQLiteStore(left.folder / "desk.db")
    try:
        async with opened(store):
            streams: dict[str, list[Row]] = {head.run: await store.read(head.run) for head in await store.heads()}
            meta, words = dict(await store.meta()), await store.take(0)
    except JournalDamaged as error:
        return [f"invariant #37: killed before {left.before!r}: {error}"]
    found = [f"invariant #32: {each}" for each in check_prefix(known.written, streams)]
    found += [f"invariant #36: {each}" for each in check_places(streams)]
    for run, rows in streams.items():
        found += [f"invariant #37: {each}" for each in check_tail(rows, rows, await _read(store, run))]
    if meta not in ([known.values] if known.doing != "set_meta" else [known.values, known.setting]):
        found.append(f"invariant #32: values {meta} where {known.values} were set")
    if not known.words <= len(words) <= known.words + (known.doing == "post"):
        found.append(f"invariant #32: {len(words)} words where {known.words} were put in")
    return [f"{each} (killed before {left.before[:60]!r}, {known.doing})" for each in found]


def check_places(streams: Mapping[str, list[Row]]) -> list[str]:
    """Invariant 36 of rows that are no events."""
    return [each for each in check_numbers(streams) if "is no event" not in each]


async def _read(store: SQLiteStore, run: str) -> list[Row] | JournalDamaged:
    try:
        async with opened(store, owner=False):
            return await store.read(run)
    except JournalDamaged as error:
        return error


async def sweep_store(tmp: Path) -> tuple[list[Left], list[str]]:
    """Every kill of `use`, and what is wrong with what it left."""
    folder, into = tmp / "live", tmp / "left"
    folder.mkdir(parents=True)
    into.mkdir()
    with killing(folder, into) as killed:
        await use(folder / "desk.db", killed)
    found: list[str] = []
    for left in killed.left:
        found += await look(left)
    return killed.left, found
