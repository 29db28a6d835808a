"""Streams as a team leaves them, built of real events."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from understudy.actors.agents.guards import Nudge, Restart, Verdict
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import AnyEvent, Record, encode
from understudy.actors.journal.store import Row, chain
from understudy.actors.lifecycle import Exit
from understudy.transports.journals.sqlite import SQLiteStore

PLANNER, INSPECTOR, REVIEWER = "audit/planner", "audit/inspector/2", "audit/reviewer"
BEGAN = 1_000_000.0


class Builder:
    """Writes a stream, a tenth of a second an event."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.records: list[Record] = []

    def add(self, event: AnyEvent, sub: int = 0, path: str = "", cause: int = 0) -> int:
        seq = len(self.records) + 1
        at = BEGAN + seq / 10
        self.records.append(Record(self.run, seq, at, seq / 10, sub, path, 1 if path else 0, cause, event))
        return seq

    def model(self, step: int, *calls: ToolCall, sub: int = 0, path: str = PLANNER, content: str = "") -> None:
        ticket = f"{sub}:{step}"
        caps = {"steps": 1, "model_calls": 1, "tokens": 2_000}
        self.add(ev.ModelAsked(step, {}, 512, caps, ("audit@1",), ticket), sub, path)
        spent = {"steps": 1, "model_calls": 1, "tokens": 640}
        self.add(ev.ModelAnswered(step, ticket, ModelReply(content, calls), spent, seconds=0.311), sub, path)

    def call(self, step: int, call: ToolCall, sub: int, path: str, error: str = "", result: str = "{}") -> int:
        seq = self.add(ev.ToolAsked(step, 0, call.name, call.arguments, "read", call.arguments), sub, path)
        if error:
            self.add(ev.ToolFailed(step, 0, error.partition(":")[0], error, 0.002), sub, path)
        else:
            self.add(ev.ToolAnswered(step, 0, result, 0.002), sub, path)
        return seq


ATTRS = ToolCall("c1", "read_metadata", '{"name": "attrs "}')
WRITE = ToolCall("c2", "write_report", '{"path": "audit.md", "mode": "new"}')


def begin(build: Builder) -> None:
    delegate = ToolCall("c0", "inspector", '{"batch": 2}')
    build.add(ev.RunStarted("planner", "Prompt", '{"text": "audit"}'))
    build.add(ev.AttemptStarted(1), 0, PLANNER)
    build.model(1, delegate)
    build.add(ev.ToolAsked(1, 0, "inspector", '{"batch": 2}', "read", "batch 2", sub=1), 0, PLANNER)
    build.add(ev.SubStarted(0, 1, 0, "inspector", "Batch", '{"batch": 2}'), 1)
    build.add(ev.AttemptStarted(1), 1, INSPECTOR)


def loop(build: Builder) -> None:
    """Three failing calls, a nudge, one more, a restart with back-off, then an answer."""
    seqs = []
    for step in (1, 2, 3):
        build.model(step, ATTRS, sub=1, path=INSPECTOR)
        seqs.append(build.call(step, ATTRS, 1, INSPECTOR, error="PackageNotFoundError: attrs "))
    what = 'read_metadata("attrs ") failed the same way 3 times'
    build.add(
        ev.Judged(Verdict("loops.same(3)", what, "k", tuple(seqs), 1, 0, Nudge()), "stop that", 0, 0), 1, INSPECTOR
    )
    build.model(4, ATTRS, sub=1, path=INSPECTOR)
    seqs.append(build.call(4, ATTRS, 1, INSPECTOR, error="PackageNotFoundError: attrs "))
    again = Verdict("loops.same(3)", "the same again after the nudge", "k", tuple(seqs), 1, 1, Restart())
    judged = build.add(ev.Judged(again, "a former attempt got stuck", 1, 4, 0.7), 1, INSPECTOR)
    exit = Exit("loop", "loops.same(3)")
    build.add(ev.ChildExited(INSPECTOR, 1, exit), 1, INSPECTOR)
    build.add(ev.BackedOff("audit", INSPECTOR, 0.5, 1, 1, exit), 1, INSPECTOR)
    build.add(ev.ChildStarted(INSPECTOR, 2), 1, INSPECTOR)
    build.add(ev.AttemptStarted(2, judged), 1, INSPECTOR)
    build.model(5, sub=1, path=INSPECTOR, content='{"findings": 4}')
    build.add(ev.Finished("complete", '{"findings": 4}'), 1, INSPECTOR)
    build.add(ev.ToolAnswered(1, 0, '{"findings": 4}', 3.0), 0, PLANNER)


def ask(build: Builder) -> None:
    """The planner hands on to the reviewer, who needs a yes."""
    build.model(2, content='{"report": 1}')
    build.add(ev.HandedOff("reviewer", "Draft", '{"report": 1}', 1), 0, PLANNER)
    build.add(ev.AttemptStarted(1), 0, REVIEWER)
    build.model(3, WRITE, path=REVIEWER)
    asked = ev.ApprovalAsked(
        f"{build.run}-a1", 3, 0, WRITE.name, WRITE.arguments, "d1" * 8, "owner", BEGAN + 3_600, ("ana", "li")
    )
    build.add(asked, 0, REVIEWER)
    build.add(ev.Parked("approval", (f"{build.run}-a1",)), 0, REVIEWER)


def finish(build: Builder) -> None:
    """Ana says yes, the report is written."""
    name = f"{build.run}-a1"
    build.add(ev.ApprovalGiven(name, "ana", "d1" * 8, "owner"))
    build.add(ev.Unparked(f"{name} approved by ana"))
    asked = ev.ToolAsked(3, 0, WRITE.name, WRITE.arguments, "irreversible", "", key="k", approval=name)
    build.add(asked, 0, REVIEWER)
    build.add(ev.ToolAnswered(3, 0, '"written"', 0.01), 0, REVIEWER)
    build.model(4, path=REVIEWER, content='{"findings": 9}')
    build.add(ev.Finished("complete", '{"findings": 9}'), 0, REVIEWER)


def waiting_records(run: str) -> list[Record]:
    build = Builder(run)
    begin(build)
    loop(build)
    ask(build)
    return build.records


def complete_records(run: str) -> list[Record]:
    build = Builder(run)
    begin(build)
    loop(build)
    ask(build)
    finish(build)
    return build.records


def doubtful_records(run: str) -> list[Record]:
    """An irreversible call was cut by a crash."""
    build = Builder(run)
    build.add(ev.RunStarted("reviewer", "Prompt", "{}"))
    build.add(ev.AttemptStarted(1), 0, REVIEWER)
    build.model(1, WRITE, path=REVIEWER)
    build.add(ev.ToolAsked(1, 0, WRITE.name, WRITE.arguments, "irreversible", "", key="k1"), 0, REVIEWER)
    build.add(ev.Resumed("start"))
    build.add(ev.InDoubt(f"{run}-d1", 1, 0, WRITE.name, WRITE.arguments, "irreversible", "k1"), 0, REVIEWER)
    build.add(ev.Parked("doubt", (f"{run}-d1",)), 0, REVIEWER)
    return build.records


@pytest.fixture
def complete() -> list[Record]:
    return complete_records("7f3a0000")


@pytest.fixture
def waiting() -> list[Record]:
    return waiting_records("7f3a0000")


@pytest.fixture
def doubtful() -> list[Record]:
    return doubtful_records("7f3a0000")


async def write(path: Path, streams: list[list[Record]], meta: dict[str, str]) -> None:
    store = SQLiteStore(path)
    await store.open()
    for records in streams:
        crc, rows = 0, []
        for record in records:
            payload = encode(record)
            crc = chain(crc, record.run, record.seq, payload)
            rows.append(Row(record.run, record.seq, payload, len(payload), crc))
        await store.write(rows, [record.at for record in records])
    await store.set_meta(meta)
    await store.aclose()


Make = Callable[..., Path]


@pytest.fixture
def journal(tmp_path: Path) -> Make:
    """Makes a journal of streams: `journal("desk.db", records, …, app="…")`."""

    def make(name: str, *streams: list[Record], **meta: str) -> Path:
        anyio.run(write, tmp_path / name, list(streams), meta)
        return tmp_path / name

    return make


@pytest.fixture
def desk_db(journal: Make) -> Path:
    """Three runs: one in doubt, one that waits, one complete, which is the newest."""
    return journal(
        "desk.db", doubtful_records("7f3a1111"), waiting_records("7f3b2222"), complete_records("c0ffee00"), app="x:y"
    )


@pytest.fixture
def newer_db(journal: Make) -> Path:
    path = journal("newer.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    return path
