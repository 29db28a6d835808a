"""What a check must know and the public API does not tell: the one place that looks inside. No actor uses it."""

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from understudy import Ref, System
from understudy.actors.journal.events import SESSION as SESSION
from understudy.actors.journal.events import ModelAsked as ModelAsked
from understudy.actors.journal.events import Record, RunStarted, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.sessions import completed
from understudy.actors.journal.store import Row as Row
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.links.sockets import SocketLink


def dead_letters(system: System) -> int:
    """Dead letters of this system so far."""
    return system.kernel.telemetry.letter_count


def waiting(ref: Ref[Any]) -> int:
    """Messages that wait in an actor's mailbox."""
    return ref.cell().waiting


def wire_bytes(system: System, node: str) -> int:
    """Bytes that went over the present link to a node so far, in both directions."""
    assert system.kernel.nodes is not None
    link = system.kernel.nodes.peer(node).link
    assert isinstance(link, SocketLink)
    return link.sent + link.received


async def journalled(system: System, stream: str) -> list[tuple[Row, object]]:
    """Every row of a stream, and its event."""
    rows = await system.journal.store.read(stream)
    records = decode_rows("", rows)
    return [(row, record.event) for row, record in zip(rows, records, strict=True)]


async def runs(system: System) -> list[str]:
    """Every run of the journal."""
    return [head.run for head in await system.journal.store.heads() if is_run(head.run)]


async def requests(system: System) -> dict[str, str]:
    """The run of every request in words, by its words."""
    return {json.loads((await started(system, run)).message)["text"]: run for run in await runs(system)}


async def started(system: System, run: str) -> RunStarted:
    """The first event of a run."""
    (row, *_) = await system.journal.store.read(run)
    (record,) = decode_rows("", [row])
    assert isinstance(record.event, RunStarted)
    return record.event


async def stored(parts: Sequence[Sequence[Row]]) -> list[int]:
    """Bytes that a journal in SQLite grows by with each of the parts, in their order."""
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "growth.db"
        for part in parts:
            store = SQLiteStore(path, durability="relaxed")
            await store.open()
            await store.write(part, [1.0] * len(part))
            await store.aclose()
            sizes.append(path.stat().st_size)
    return [size - before for before, size in itertools.pairwise([0, *sizes])]


async def replayed(system: System, run: str) -> str:
    """`identical`, or what a replay of the run's journal finds different."""
    records = await completed(await system.journal.read(run), system.journal.read)
    report = replay(records, system.tree.policies)
    same = system.state(run).main.view.mark == run_mark(records)
    if report.identical and not same:
        return "another window"
    return "identical" if report.identical else f"{run}:{report.at}: {report.recorded}, now {report.now}"


def run_mark(records: list[Record]) -> str:
    """The digest of the window at the end of a stream."""
    return fold(records).main.view.mark
