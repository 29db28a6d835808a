"""The commands on a journal that the demo's own team wrote: approve elsewhere and later, replay, damage."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from desks import FakeClock

from understudy import System, __main__
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.journal import decode_rows
from understudy.demo import team as teams
from understudy.demo.app import open_demo, options_of
from understudy.demo.testing import Site
from understudy.supervisors.operator import cli
from understudy.supervisors.operator.desk import ConnectOptions
from understudy.transports.testing.rechain import rewrite, spread, tamper


class Place:
    """A folder with a small environment and, after `demo`, a journal."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.site = Site(at / "site")
        for number, name in enumerate(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]):
            self.site.plant(name, f"1.{number}", headers=("License: MIT",) if number % 2 else ())
        self.journal = at / "demo.db"
        self.out = at / "audit.md"

    def demo(self, *more: str) -> tuple[int, str, str]:
        argv = ["demo", "--site", self.site.path[0], "--journal", str(self.journal), "--out", str(self.out), "--plain"]
        return command(*argv, *more)

    def records(self) -> list[Record]:
        with contextlib.closing(sqlite3.connect(self.journal)) as connection:
            (run,) = [run for (run,) in connection.execute("SELECT run FROM streams") if is_run(run)]
            return decode_rows(str(self.journal), spread(connection, run))  # closed without a commit: as it was


def command(*argv: str, connect: Any = None, clock: Any = None) -> tuple[int, str, str]:
    """One command in this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if connect is None:
            code = __main__.main(argv)
        else:
            code = cli.main(
                argv,
                connect=connect,
                replayer=__main__.replayer,
                configured=__main__.configured,
                commands={},
                clock=clock,
                stdin=io.StringIO(),
                stdout=out,
                stderr=err,
            )
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("finished"))
    code, _, err = place.demo("--yes")
    assert code == 0, err
    return place


@pytest.fixture
def copy(finished: Place, tmp_path: Path) -> Path:
    """A copy of the finished journal, to do things to."""
    return Path(shutil.copy(finished.journal, tmp_path / "copy.db"))


def the_run(place: Place) -> str:
    return place.records()[0].run


# The record's event is of the kind asked for, which `Record` does not say.
def first(records: list[Record], kind: type, check: Callable[[Any], bool] = lambda event: True) -> Any:
    return next(r for r in records if isinstance(r.event, kind) and check(r.event))


# --- guards ----------------------------------------------------------------------------------------------


def test_the_demos_guards_say_that_the_planted_loop_fired_one(finished: Place) -> None:
    code, out, err = command("guards", "--journal", str(finished.journal))
    assert (code, err) == (0, "")
    judged = [r for r in finished.records() if isinstance(r.event, ev.Judged)]
    (fired,) = [line.split() for line in out.splitlines() if " fired " in line and " loops " in line]
    assert fired[2:4] == [str(len(judged)), f"{the_run(finished)[:4]}:{judged[-1].seq}"]
    assert fired[5] == "Same(3)"


# --- replay ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network and no tools: whoever reaches for one fails the test."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("replay reached for the world")

    monkeypatch.setattr(httpx.AsyncClient, "send", refuse)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
    monkeypatch.setattr(Tool, "__call__", refuse)
    monkeypatch.setattr("understudy.demo.environment.facts", refuse)
    monkeypatch.setattr("understudy.demo.environment.files", refuse)
    monkeypatch.setattr("understudy.demo.environment.distributions", refuse)


@pytest.mark.usefixtures("no_world")
def test_replay_says_identical_without_network_and_tools(finished: Place) -> None:
    code, out, err = command("replay", "@", "--journal", str(finished.journal))
    assert (code, out) == (0, "identical\n"), err


def next_command(records: list[Record], after: Record) -> int:
    """The first command of the same sub-run after an outcome."""
    kinds = (ev.ModelAsked, ev.ToolAsked, ev.HandedOff, ev.Finished, ev.Judged, ev.ToolRejected)
    return next(r.seq for r in records if r.seq > after.seq and r.sub == after.sub and isinstance(r.event, kinds))


@pytest.mark.usefixtures("no_world")
def test_a_changed_tool_result_is_named_at_the_first_command_that_depends_on_it(finished: Place, copy: Path) -> None:
    records = finished.records()
    chosen = first(records, ev.ToolAnswered, lambda e: '"key":"alpha"' in e.result and "summary" in e.result)

    def edit(record: Record) -> Record:
        if record.seq != chosen.seq:
            return record
        assert isinstance(record.event, ev.ToolAnswered)
        event = msgspec.structs.replace(record.event, result=record.event.result.replace("1.0", "9.9"))
        return msgspec.structs.replace(record, event=event)

    rewrite(str(copy), chosen.run, edit)
    code, out, err = command("replay", "@", "--journal", str(copy))
    expected = next(
        r.seq for r in records if r.seq > chosen.seq and r.sub == chosen.sub and isinstance(r.event, ev.ModelAsked)
    )
    assert code == 5
    assert f":{expected}" in out + err
    assert "history" in out + err


@pytest.mark.usefixtures("no_world")
def test_a_changed_model_reply_is_named_at_the_call_it_asked_for(finished: Place, copy: Path) -> None:
    records = finished.records()
    chosen = first(records, ev.ModelAnswered, lambda e: any(c.name == "read_metadata" for c in e.reply.calls))

    def edit(record: Record) -> Record:
        if record.seq != chosen.seq or not isinstance(record.event, ev.ModelAnswered):
            return record
        reply = record.event.reply
        calls = (msgspec.structs.replace(reply.calls[0], arguments='{"name":"other"}'), *reply.calls[1:])
        event = msgspec.structs.replace(record.event, reply=msgspec.structs.replace(reply, calls=calls))
        return msgspec.structs.replace(record, event=event)

    rewrite(str(copy), chosen.run, edit)
    code, out, err = command("replay", "@", "--journal", str(copy))
    told = out + err
    assert code == 5
    assert f":{next_command(records, chosen)}" in told
    assert 'recorded  call read_metadata({"name":' in told.replace('": "', '":"') or "recorded" in told
    assert 'read_metadata({"name":"other"})' in told


@pytest.mark.usefixtures("no_world")
def test_a_changed_prompt_is_named_at_the_first_model_call_that_has_it(
    finished: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teams, "REVIEW", teams.REVIEW + " Be brief.")
    code, out, err = command("replay", "@", "--journal", str(finished.journal))
    handed = first(finished.records(), ev.HandedOff)
    expected = next_command(finished.records(), handed)
    assert code == 5
    assert f":{expected}" in out + err
    assert "instructions" in out + err


@pytest.mark.usefixtures("no_world")
def test_a_changed_guard_threshold_is_named_at_the_verdict(finished: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from understudy import Loops, Same

    monkeypatch.setattr(teams, "Loops", lambda ladder: Loops(Same(4), ladder=ladder))
    code, out, err = command("replay", "@", "--journal", str(finished.journal))
    judged = first(finished.records(), ev.Judged)
    assert code == 5
    assert f":{judged.seq}" in out + err
    assert "loops.same(3)" in out + err


def test_a_copy_edited_without_rechaining_is_refused_at_that_sequence(copy: Path, finished: Place) -> None:
    run = the_run(finished)
    tamper(str(copy), run, 7, lambda record: msgspec.structs.replace(record, at=record.at + 1))
    for name in ("replay", "log", "tree", "why"):
        code, out, err = command(name, run, "--journal", str(copy))
        assert code == 1
        assert out == ""
        assert f"damaged at {run}:7" in err
        assert err.count("\n") == 1


# --- approvals -------------------------------------------------------------------------------------------


def test_waiting_here_and_approved_by_another_process_which_finishes_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    code, _, err = place.demo()
    assert code == 3, err
    assert "understudy approve" in err
    assert not place.out.exists()
    asked = first(place.records(), ev.ApprovalAsked)

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "understudy",
            "approve",
            asked.event.approval,
            "--by",
            "ana",
            "--journal",
            place.journal,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert place.out.exists()
    given = first(place.records(), ev.ApprovalGiven)
    assert given.event.by == "ana"
    assert given.event.digest == asked.event.digest
    code, _, err = command("approve", asked.event.approval, "--journal", str(place.journal))
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(("hours", "code"), [(30, 0), (49, 2)])
def test_hours_later_a_yes_still_counts_until_it_expires(tmp_path: Path, hours: int, code: int) -> None:
    place = Place(tmp_path)
    assert place.demo()[0] == 3
    asked = first(place.records(), ev.ApprovalAsked)
    clock = FakeClock(asked.at + hours * 3600)

    @contextlib.asynccontextmanager
    async def connect(options: ConnectOptions) -> AsyncIterator[System]:
        async with open_demo(options.journal, options_of(options.meta), clock=clock) as system:
            yield system

    told = command("approve", asked.event.approval, "--journal", str(place.journal), connect=connect, clock=clock)
    assert told[0] == code, told
    assert place.out.exists() == (code == 0)
    if code:
        assert "expired" in told[2]


def test_a_refusal_is_told_and_the_report_is_not_written(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert place.demo()[0] == 3
    asked = first(place.records(), ev.ApprovalAsked)
    code, out, err = command("refuse", asked.event.approval, "--by", "li", "--journal", str(place.journal))
    assert code in (0, 1, 4), (out, err)
    assert not place.out.exists()
    assert "refused" in (out + err).lower()


@pytest.mark.anyio
async def test_arguments_changed_after_the_yes_are_refused_when_it_is_used(tmp_path: Path) -> None:
    place = Place(tmp_path)
    code, _, err = await asyncio.to_thread(place.demo)
    assert code == 3, err
    records = place.records()
    asked = first(records, ev.ApprovalAsked)
    with contextlib.closing(sqlite3.connect(place.journal)) as connection:
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    async with open_demo(place.journal, options_of(meta)) as system:
        system.runs.closing = True  # the yes is given, and the process ends before it is used
        await system.approve(asked.event.approval, by="ana")
    answered = next(r for r in reversed(records) if isinstance(r.event, ev.ModelAnswered) and r.seq < asked.seq)

    def edit(record: Record) -> Record:
        if record.seq != answered.seq or not isinstance(record.event, ev.ModelAnswered):
            return record
        call = record.event.reply.calls[0]
        call = msgspec.structs.replace(call, arguments=call.arguments.replace("audit.md", "other.md", 1))
        reply = msgspec.structs.replace(record.event.reply, calls=(call,))
        return msgspec.structs.replace(record, event=msgspec.structs.replace(record.event, reply=reply))

    rewrite(str(place.journal), asked.run, edit)
    code, _, err = await asyncio.to_thread(command, "resume", asked.run, "--journal", str(place.journal))
    assert "Traceback" not in err, code
    refused = first(place.records(), ev.ApprovalRefused)
    assert refused.event.by == "check"
    assert refused.event.reason == "the arguments are not those that were approved"
    assert not place.out.exists()
    assert not (place.at / "other.md").exists()
