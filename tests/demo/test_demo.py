"""`understudy demo`, run whole: a model server in a process of its own, a journal on disk, real tools."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest

from understudy.__main__ import main
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.demo import environment, findings, report
from understudy.demo.app import APP, POLICY, PROVIDED, Options, meta, open_demo, options_of, options_of_run
from understudy.demo.findings import Report
from understudy.demo.messages import Audit
from understudy.demo.testing import SOUND, Site
from understudy.supervisors.operator.reading import reading
from understudy.system import System
from understudy.transports.testing.model_process import ModelServerProcess

Summary = dict[str, Any]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Nine distributions with three findings."""
    site = Site(tmp_path / "site-packages")
    site.plant("app", headers=(*SOUND, "Requires-Dist: lib>=2"))
    site.plant("lib", requested=False)
    site.plant("bare", headers=())
    site.plant("idle", requested=False)
    for name in ("one", "two", "three", "four", "five"):
        site.plant(name)
    return site


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without keys in the environment, and nobody at the terminal."""
    place = tmp_path / "work"
    place.mkdir()
    monkeypatch.chdir(place)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "UNDERSTUDY_JOURNAL", "UNDERSTUDY_DEMO_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return place


def _run(*argv: str) -> int:
    return main(["demo", *argv])


Run = Callable[..., tuple[int, Summary]]


@pytest.fixture
def run(folder: Path, site: Site, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the demo on the site; the exit status and the summary, the last line of stdout."""

    def go(*argv: str) -> tuple[int, Summary]:
        code = _run("--json", "--site", str(site.root), *argv)
        captured = capsys.readouterr()
        assert captured.out.endswith("}\n"), captured
        summary = json.loads(captured.out.splitlines()[-1])
        summary["facts"] = captured.err
        return code, summary

    return go


def _records(journal: str, name: str) -> list[Record]:
    async def read() -> list[Record]:
        async with reading(journal) as reader:
            return await reader.records(name)

    return anyio.run(read)


def _digest(path: Sequence[str] | None) -> str:
    return findings.digest(report.audit(path).findings)


def test_a_loop_is_caught_the_inspector_restarted_and_the_report_is_right(run: Run, site: Site, folder: Path) -> None:
    code, said = run("--yes")
    assert (code, said["status"]) == (0, "complete")
    assert (said["loops_caught"], said["restarts"], said["overspend"]) == (1, 1, 0)
    assert said["partial"] is None
    assert said["report_digest"] == _digest(site.path)
    written = json.loads((folder / "audit.json").read_bytes())
    assert written["digest"] == said["report_digest"]
    assert [one["key"] for one in written["distributions"]] == [one.key for one in environment.distributions(site.path)]
    assert said["report_path"] == str(folder / "audit.md")
    assert (folder / "audit.md").read_text().count("\n| ") > 9
    assert said["journal_path"] == str(folder / "demo.db")
    assert sum(said["steps"].values()) == said["spend"]["steps"]
    assert {"planner", "inspector-1", "inspector-2", "inspector-3", "reviewer"} == set(said["steps"])


def test_the_restart_is_the_supervisors_and_follows_the_nudge(run: Run) -> None:
    _, said = run("--yes")
    records = _records("demo.db", said["run"])
    looper = next(record.path for record in records if isinstance(record.event, ev.Judged))
    assert looper.startswith("audit/inspector/")
    events = [record.event for record in records]
    told = [event for event in events if isinstance(event, ev.Judged | ev.ChildExited | ev.BackedOff | ev.ChildStarted)]
    nudge, restart, exited, rested, started = told
    assert isinstance(nudge, ev.Judged)
    assert isinstance(restart, ev.Judged)
    assert [type(one.verdict.response).__name__ for one in (nudge, restart)] == ["Nudge", "Restart"]
    assert restart.note
    assert isinstance(exited, ev.ChildExited)
    assert (exited.child, exited.number, str(exited.exit)) == (looper, 1, "loop(loops.same(3))")
    assert isinstance(rested, ev.BackedOff)
    assert 0.4 < rested.delay < 0.6
    assert isinstance(started, ev.ChildStarted)
    assert (started.child, started.number) == (looper, 2)
    assert [word for word in ("Looped", "Nudged", "Restarted", "Checked") if word not in said["facts"]] == []


def test_runs_are_added_to_one_journal_and_have_one_digest(run: Run) -> None:
    said = [run("--yes")[1] for _ in range(2)] + [run("--yes", "--no-loop-script", "--inspectors", "2")[1]]
    assert len({one["report_digest"] for one in said}) == 1
    assert len({one["run"] for one in said}) == 3
    assert options_of_run(_records("demo.db", said[0]["run"])).inspectors == 3
    assert options_of_run(_records("demo.db", said[2]["run"])).inspectors == 2


def test_without_the_script_nothing_loops(run: Run) -> None:
    code, said = run("--yes", "--no-loop-script")
    assert (code, said["status"], said["loops_caught"], said["restarts"]) == (0, "complete", 0, 0)


def test_without_the_guard_the_budget_ends_the_loop_and_the_findings_so_far_are_kept(run: Run, site: Site) -> None:
    code, said = run("--yes", "--no-loop-guard")
    assert (code, said["status"], said["loops_caught"], said["restarts"]) == (1, "stopped", 0, 0)
    assert said["reason"].startswith("budget audit@")
    assert said["spend"]["steps"] == 120
    assert said["report_path"] is None
    assert said["overspend"] == 0
    batches = said["partial"]["batches"]
    kept = {one["key"] for one in said["partial"]["distributions"]}
    assert kept == {*batches[0], *batches[2], batches[1][0]}
    assert set(said["partial"]["not_audited"]) == {*batches[1][1:]}
    told = {(one["distribution"], one["rule"]) for one in said["partial"]["findings"]}
    assert told == {("bare", "missing-licence")}


def test_without_the_note_the_restarted_inspector_loops_on_and_is_stopped(run: Run) -> None:
    code, said = run("--yes", "--no-note")
    assert (code, said["status"], said["loops_caught"], said["restarts"]) == (4, "partial", 1, 1)
    assert "loops.same(3)" in said["reason"]
    assert said["report_path"]
    assert len(said["not_audited"]) == 2
    ends = [r.event for r in _records("demo.db", said["run"]) if r.sub and isinstance(r.event, ev.Finished)]
    assert sorted(end.status for end in ends) == ["complete", "complete", "stopped"]
    assert "the same again after the restart" in next(end.reason for end in ends if end.status == "stopped")


def test_with_no_restart_allowed_the_supervisor_gives_up_and_the_run_is_stopped(run: Run) -> None:
    code, said = run("--yes", "--intensity", "0")
    assert (code, said["status"], said["loops_caught"], said["restarts"]) == (1, "stopped", 1, 0)
    assert "gave up: more than 0 restarts" in said["reason"]
    assert said["partial"]["distributions"]
    assert said["report_path"] is None


def test_a_small_budget_of_steps_is_kept(run: Run) -> None:
    code, said = run("--yes", "--steps", "3")
    assert (code, said["status"], said["spend"]["steps"], said["overspend"]) == (1, "stopped", 3, 0)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (lambda site: site.plant("new", headers=()), {("new", "missing-licence")}),
        (lambda site: (site.root / "one.py").unlink(), {("one", "files-missing")}),
    ],
    ids=["planted", "broken"],
)
def test_a_distribution_planted_or_broken_changes_exactly_its_findings(
    run: Run, site: Site, folder: Path, fault: Callable[[Site], object], expected: set[tuple[str, str]]
) -> None:
    def findings_now() -> set[tuple[str, str]]:
        assert run("--yes", "--no-loop-script")[0] == 0
        said = json.loads((folder / "audit.json").read_bytes())["findings"]
        return {(one["distribution"], one["rule"]) for one in said}

    before = findings_now()
    assert before == {("app", "unsatisfied-pin"), ("bare", "missing-licence"), ("idle", "unused")}
    fault(site)
    assert findings_now() - before == expected


def test_it_audits_the_environment_it_runs_in(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--yes", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["report_digest"] == _digest(None)
    listed = {one["name"]: one["version"] for one in json.loads(Path("audit.json").read_bytes())["distributions"]}
    assert listed == {ref.name: ref.version for ref in environment.distributions() if ref.listed}


def test_what_lies_in_the_working_directory_is_not_imported(run: Run, folder: Path) -> None:
    for name in ("anyio", "understudy"):
        (folder / f"{name}.py").write_text("raise SystemExit('a stranger was imported')\n")
    assert run("--no-loop-script")[0] == 3


def test_an_empty_environment_has_an_empty_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    assert _run("--yes", "--json", "--site", "empty") == 0
    assert json.loads(Path("audit.json").read_bytes())["distributions"] == []


# --- people -------------------------------------------------------------------------------------------------


def test_without_a_terminal_and_without_yes_it_waits_and_says_how_to_go_on(run: Run, folder: Path, site: Site) -> None:
    code, said = run("--journal", "other.db")
    assert said["facts"].count("--journal other.db") == 1
    assert (code, said["status"], said["report_path"]) == (3, "waiting", None)
    assert said["report_digest"] == _digest(site.path)
    assert said["pending"] == [f"{said['run']}-a1"]
    assert f"understudy approve {said['run'][:4]}-a1 --journal other.db" in said["facts"]
    assert not (folder / "audit.md").exists()


def test_a_run_that_waits_is_finished_by_another_system_from_what_the_journal_says(run: Run, folder: Path) -> None:
    _, said = run("--no-loop-script")

    async def finish() -> str:
        async with reading("demo.db") as reader:
            options = options_of(reader.meta)
        async with open_demo("demo.db", options) as system:
            await system.approve(said["pending"][0], by="ana")
            return (await system.resume(said["run"])).status

    assert anyio.run(finish) == "complete"
    assert json.loads((folder / "audit.json").read_bytes())["digest"] == said["report_digest"]


DEADLINE = 120.0


class Terminal:
    """The demo in a process whose three streams are a terminal. Every wait ends after `DEADLINE` seconds."""

    def __init__(self, site: Site, *argv: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "understudy", "demo", "--plain", "--site", str(site.root), *argv]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = ""
        self._read_to = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # does nothing to a process that has ended
        self.process.wait()
        os.close(self.master)

    def until(self, text: str) -> None:
        """Read until `text` has come, after what the last call waited for."""
        while (at := self.seen.find(text, self._read_to)) < 0:
            assert self._more(), f"ended without {text!r}: {self.seen}"
        self._read_to = at + len(text)

    def say(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Read to the end; the exit status."""
        while self._more():
            pass
        return self.process.wait(DEADLINE)

    def _more(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], DEADLINE)
        assert ready, f"nothing more within {DEADLINE:g} s: {self.seen}"
        try:
            data = os.read(self.master, 65_536)
        except OSError:  # the other side is closed
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


PROMPT = "[l]ater? "


def test_at_the_terminal_details_are_shown_and_a_yes_writes_the_report(site: Site, folder: Path) -> None:
    with Terminal(site, "--no-loop-script") as terminal:
        terminal.until(PROMPT)
        assert f"digest {_digest(site.path)}" in terminal.seen
        assert "9 distributions, 3 findings" in terminal.seen
        terminal.say("what\n")
        terminal.until(PROMPT)
        terminal.say("d\n")
        terminal.until("missing-licence")
        terminal.until(PROMPT)
        assert not (folder / "audit.md").exists()
        terminal.say("y\n")
        assert terminal.end() == 0
        assert (folder / "audit.md").exists()
        assert "Finished  complete" in terminal.seen


def test_a_no_is_respected_and_told(site: Site, folder: Path) -> None:
    with Terminal(site, "--no-loop-script") as terminal:
        terminal.until(PROMPT)
        terminal.say("n\n")
        assert terminal.end() == 0
        assert "not written: refused by" in terminal.seen
        assert not (folder / "audit.md").exists()


@pytest.mark.parametrize(("said", "code"), [("l\n", 3), ("\x04", 130), ("\x03", 130)], ids=["later", "eof", "ctrl-c"])
def test_who_does_not_answer_leaves_the_run_waiting(site: Site, folder: Path, said: str, code: int) -> None:
    with Terminal(site, "--no-loop-script") as terminal:
        terminal.until(PROMPT)
        if said == "\x03":  # the terminal is not the process's controlling one, so the key does nothing
            terminal.process.send_signal(signal.SIGINT)
        else:
            terminal.say(said)
        assert terminal.end() == code
        assert "understudy approve" in terminal.seen
        assert "Traceback" not in terminal.seen


def test_an_answer_of_another_process_ends_the_question_at_the_terminal(site: Site, folder: Path) -> None:
    with Terminal(site, "--no-loop-script") as terminal:
        terminal.until(PROMPT)
        assert main(["approve", "a1", "--by", "ana"]) == 0
        assert terminal.end() == 0
        assert "\r\n    Approved  reviewer" in terminal.seen
        assert "Finished  complete" in terminal.seen
        assert (folder / "audit.md").exists()


def test_a_report_that_cannot_be_written_fails_the_command_and_stays_in_the_journal(run: Run, folder: Path) -> None:
    (folder / "audit.json").mkdir()
    code, said = run("--yes", "--no-loop-script")
    assert (code, said["status"], said["report_path"]) == (1, "complete", None)
    assert "not written: ReportNotWritten" in said["facts"]


def test_a_model_server_that_dies_fails_the_run_with_its_end_told(site: Site, folder: Path) -> None:
    with Terminal(site, "--yes", "--no-loop-guard", "--steps", "5000") as terminal:
        terminal.until("Checked")
        for child in Path(f"/proc/{terminal.process.pid}/task/{terminal.process.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        assert terminal.end() == 1
        assert "Unbilled  the model server's bill cannot be read" in terminal.seen
        assert "Failed  after" in terminal.seen
        assert "Traceback" not in terminal.seen


def test_a_signal_in_the_middle_parks_the_run_which_can_be_resumed(site: Site, folder: Path) -> None:
    for number in range(5):  # one that was finished before the signal came says nothing
        journal = f"demo{number}.db"
        with Terminal(site, "--yes", "--journal", journal) as terminal:
            terminal.until("Started")
            terminal.process.send_signal(signal.SIGTERM)
            if terminal.end() != 0:
                break
    assert terminal.process.returncode == 130
    assert "understudy resume" in terminal.seen

    async def finish() -> Report | None:
        async with reading(journal) as reader:
            options, name = options_of(reader.meta), reader.runs[-1]
        async with open_demo(journal, options) as system:
            result = await system.resume(name)
            await system.approve(result.pending[0], by="ana")  # type: ignore[union-attr]  # it waits
            done: Report | None = (await system.resume(name)).output
            return done

    finished = anyio.run(finish)
    assert finished is not None
    assert findings.digest(finished.findings) == _digest(site.path)


# --- a provider ---------------------------------------------------------------------------------------------


def test_with_a_key_the_model_is_a_providers(run: Run, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def served() -> tuple[int, Summary]:
        async with ModelServerProcess(POLICY) as server:
            monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            return await anyio.to_thread.run_sync(run)

    code, said = anyio.run(served)
    assert (code, said["status"], said["overspend"]) == (3, "waiting", 0)
    assert said["report_digest"] == _digest(site.path)
    assert options_of_run(_records("demo.db", said["run"])).model == PROVIDED
    assert b"sk-of-a-test" not in Path("demo.db").read_bytes()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError, match="'gpt-5-mini' needs OPENAI_API_KEY"):
        anyio.run(_open_again)


async def _open_again() -> None:
    async with reading("demo.db") as reader:
        options = options_of(reader.meta)
    async with open_demo("demo.db", options):
        raise AssertionError("it must not open")


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--steps", "many"], "'many'"),
        (["--intensity", "-1"], "--intensity"),
        (["--inspectors", "1e3"], "'1e3'"),
        (["--site", "nowhere"], "'nowhere'"),
        (["--out", "no/such/audit.md"], "no/such"),
        (["--out", ""], "--out ''"),
        (["--journal", ""], "''"),
        (["--journal", "text.db"], "text.db"),
        (["--nonsense"], "--nonsense"),
        (["surplus"], "surplus"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_named_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], argv: list[str], named: str
) -> None:
    (folder / "text.db").write_text("not a journal, whatever its name says")
    assert _run(*argv) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert named in told.err
    assert told.err.count("\n") == 1
    assert sorted(each.name for each in folder.iterdir()) == ["text.db"]


def test_the_journal_of_another_app_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def other() -> None:
        async with System(journal="desk.db", meta={"app": "desk:app"}):
            pass

    anyio.run(other)
    before = (folder / "desk.db").read_bytes()
    assert _run("--journal", "desk.db", "--yes") == 2
    assert "desk.db is the journal of 'desk:app', not of the demo" in capsys.readouterr().err
    assert (folder / "desk.db").read_bytes() == before


def test_help_ends_well(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--help") == 0
    assert "--no-loop-guard" in capsys.readouterr().out


def test_options_come_back_from_a_journals_meta_and_nothing_else_does() -> None:
    options = Options(inspectors=2, path=("/x",), note=False)
    assert options_of(meta(options)) == options
    with pytest.raises(UsageError, match="desk:app"):
        options_of({"app": "desk:app"})
    with pytest.raises(UsageError, match="app_options"):
        options_of({"app": APP, "app_options": "{"})
    with pytest.raises(UsageError, match="not started by the demo"):
        options_of_run([])


def test_a_request_of_another_version_is_named() -> None:
    started = ev.RunStarted("planner", Audit.__name__, '{"options":1}')
    with pytest.raises(UsageError, match="run 7f3a"):
        options_of_run([Record("7f3a", 1, 0.0, 0.0, 0, "", 0, 0, started)])
