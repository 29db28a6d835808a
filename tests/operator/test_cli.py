"""The command line: what it shows of a journal, and every way to call it wrongly."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from refunds import make_machine

from understudy.actors.agents.agent import Agent
from understudy.actors.agents.policy import Policy
from understudy.actors.clock import SystemClock
from understudy.actors.errors import JournalFailed, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Judged, Record
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Same, Talk
from understudy.supervisors.operator.cli import main
from understudy.supervisors.operator.desk import Configured, ConnectOptions, Desk, Replayed

Make = Callable[..., Path]
OPTIONS = ("--journal", "--app", "--by", "--yes", "--did", "--did-not", "--raw", "--json", "--", "@", "-")
COMMANDS = ("approve", "refuse", "resume", "doubts", "release", "tree", "log", "why", "machine", "replay", "guards")


@dataclass(frozen=True)
class Report:
    run: str = "c0ffee00"
    events: int = 48
    steps: int = 9
    identical: bool = True
    at: int | None = None
    path: str = ""
    step: int = 0
    recorded: str = ""
    now: str = ""
    hook: str = ""


def no_connect(options: ConnectOptions) -> AbstractAsyncContextManager[Desk]:
    raise UsageError(f"connected to {options.journal} with {options.app}")


def no_replay(options: ConnectOptions, records: list[Record]) -> Replayed:
    raise UsageError(f"replayed {len(records)} events with {options.app}")


def no_policies(options: ConnectOptions, records: list[Record]) -> Mapping[str, Policy]:
    raise UsageError(f"configured {options.app}")


def call(
    *argv: str,
    replayer: Callable[[ConnectOptions, list[Record]], Replayed] = no_replay,
    configured: Configured = no_policies,
    commands: dict[str, Callable[[Sequence[str]], int]] | None = None,
) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = main(
        argv,
        connect=no_connect,
        replayer=replayer,
        configured=configured,
        commands=commands or {"demo": lambda rest: 0},
        clock=SystemClock(),
        stdin=io.StringIO(),
        stdout=out,
        stderr=err,
    )
    return code, out.getvalue(), err.getvalue()


def assert_one_line(code: int, out: str, err: str) -> None:
    assert (code, out) == (2, "")
    assert err.startswith("understudy: ")
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("UNDERSTUDY_JOURNAL", "UNDERSTUDY_APP"):
        monkeypatch.delenv(name, raising=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.text(), max_size=5))
@example(["--journal", "x", "tree"])
@example(["\ud800"])
@example(["dem"])
def test_junk_is_one_line_and_exit_2(argv: list[str]) -> None:
    if not argv or argv[0] not in (*COMMANDS, "demo", "-h", "--help", "--version"):
        assert_one_line(*call(*argv))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.sampled_from(COMMANDS),
    st.lists(
        st.text() | st.sampled_from(OPTIONS),
        max_size=5,
    ),
)
def test_junk_after_a_command_is_one_line_and_exit_2(command: str, rest: list[str]) -> None:
    if "-h" not in rest and "--help" not in rest and not any(r.startswith("-h") for r in rest):
        assert_one_line(*call(command, *rest))


MALFORMED = """
approve | approve a1 a2 | approve a1 --by | approve a1 --by= | approve a1 --reason x | approve - | approve a9
approve beef-a1 | approve a1 --by eve | approve a1 --by ana --app x
refuse | refuse a9 | refuse a1 --reason | refuse a1 --by eve
resume beef | resume @ x | resume @:3 | resume --yes=1 | resume 7f3b --app x | resume --by=
doubts d1 | doubts --did | doubts d1 --did --did-not | doubts d9 --did | doubts a1 --did | doubts d1 --did --by=
tree beef | tree 7f3 | tree @ @ | tree @:999 | tree --bogus | tree --app x:y
log beef | log --raw --json | log --actor | log --actor nobody | log @:3 --follow
why beef | why @@ | why --raw
replay beef | replay @:3 | replay | replay --app no-attr | replay --journal
guards beef | guards @:3 | guards | guards --app no-attr | guards @ @ | guards --raw
"""


@pytest.mark.parametrize("line", [each.strip() for each in MALFORMED.strip().replace("\n", "|").split("|")])
def test_malformed_arguments_of_each_command(line: str, desk_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_JOURNAL", str(desk_db))
    assert_one_line(*call(*line.split()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_journal_that_cannot_be_read_is_one_line(command: str, tmp_path: Path, newer_db: Path, desk_db: Path) -> None:
    rest = ["a1"] if command in ("approve", "refuse") else []
    (tmp_path / "notes.db").write_text("no SQLite at all " * 100)
    for bad in ("notes.db", "newer.db", "missing.db", "here", ""):
        assert_one_line(*call(command, *rest, "--journal", str(tmp_path / bad) if bad else ""))
    assert_one_line(*call(command, *rest, "--journal", "nul\0"))
    assert_one_line(*call(command, *rest))


def test_a_damaged_journal_names_the_event(desk_db: Path) -> None:
    from understudy.transports.testing.rechain import tamper

    tamper(desk_db, "c0ffee00", 20, lambda r: msgspec.structs.replace(r, at=r.at + 1))
    for command in ("tree", "log", "why", "replay", "guards"):
        code, out, err = call(command, "--journal", str(desk_db))
        assert (code, out) == (1, "")
        assert err == f"understudy: {desk_db}: damaged at c0ffee00:20: checksum does not match\n"


def test_help_names_every_command_and_version_is_told() -> None:
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(f"  {name}" in out for name in (*COMMANDS, "demo"))
    assert call("--version")[1].startswith("understudy ")
    for command in COMMANDS:
        code, out, err = call(command, "--help")
        assert (code, err) == (0, "")
        assert out.startswith(f"usage: understudy {command}")


def test_commands_from_outside_get_their_arguments_untouched() -> None:
    seen: list[Sequence[str]] = []

    def demo(rest: Sequence[str]) -> int:
        seen.append(rest)
        return 4

    assert call("demo", "--help", "-x", "", commands={"demo": demo})[0] == 4
    assert list(seen[0]) == ["--help", "-x", ""]


def test_what_a_command_raises_becomes_one_line() -> None:
    def raising(error: BaseException) -> dict[str, Callable[[Sequence[str]], int]]:
        def demo(rest: Sequence[str]) -> int:
            raise error

        return {"demo": demo}

    disk = JournalFailed("d.db", "disk is full")
    nested = BaseExceptionGroup("two", [ExceptionGroup("inner", [disk])])
    assert call("demo", commands=raising(disk)) == (1, "", "understudy: d.db: disk is full\n")
    assert call("demo", commands=raising(nested)) == (1, "", "understudy: d.db: disk is full\n")
    missing = FileNotFoundError(2, "No such file or directory", "audit.md")
    assert call("demo", commands=raising(missing)) == (1, "", "understudy: audit.md: No such file or directory\n")
    assert call("demo", commands=raising(KeyboardInterrupt())) == (130, "", "understudy: interrupted\n")
    with pytest.raises(ZeroDivisionError):
        call("demo", commands=raising(ZeroDivisionError()))
    with pytest.raises(ExceptionGroup):
        call("demo", commands=raising(ExceptionGroup("mixed", [disk, ZeroDivisionError()])))


def test_tree_log_and_why_need_neither_app_nor_ownership(desk_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_JOURNAL", str(desk_db))
    code, out, err = call("tree")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith("run c0ff · complete")
    assert call("tree", "7f3b")[1].splitlines()[0].startswith("run 7f3b · waiting")
    assert call("tree", "@:22")[1].splitlines()[0].startswith("run c0ff · running")
    code, out, err = call("log", "@", "--actor", "inspector-2")
    assert code == 0
    assert "verdict" in out
    assert "planner" not in out
    assert err.startswith("13 rows of 48 events")
    assert "ended        complete" in call("why")[1]
    assert "\n 2  " not in call("why", ":20")[1]


def test_data_comes_as_json(desk_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_JOURNAL", str(desk_db))
    assert msgspec.json.decode(call("tree", "--json")[1])["status"] == "complete"
    assert len(msgspec.json.decode(call("why", "--json")[1])["findings"]) == 3
    _, out, _ = call("log", "--json")
    assert [msgspec.json.decode(line, type=Record).seq for line in out.splitlines()] == list(range(1, 49))
    assert len(call("log", "--raw")[1].splitlines()) == 48
    assert [line.split()[0] for line in call("log", ":27", "--raw")[1].splitlines()] == [
        ":26", ":27", ":28", ":29",
    ]  # fmt: skip


def test_following_a_run_that_has_ended_prints_it_and_ends(desk_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_JOURNAL", str(desk_db))
    assert len(call("log", "--follow")[1].splitlines()) == 24
    assert len(call("log", "--follow", "--json")[1].splitlines()) == 48


def test_an_identical_replay_is_said_on_stdout(desk_db: Path) -> None:
    seen: list[tuple[str | None, int]] = []

    def replayer(options: ConnectOptions, records: list[Record]) -> Replayed:
        seen.append((options.app, len(records)))
        return Report()

    code, out, err = call("replay", "--journal", str(desk_db), "--app", "shop:tree", replayer=replayer)
    assert (code, out) == (0, "identical\n")
    assert err.startswith("    Replayed  c0ff · 48 events, 9 steps · 0 model calls, 0 tool calls")
    assert seen == [("shop:tree", 48)]


def test_a_diverged_replay_names_the_place_and_exits_5(desk_db: Path) -> None:
    report = Report(identical=False, at=18, path="audit/inspector/2", step=3, recorded='call f("a")', now='call f("b")')
    code, out, err = call(
        "replay", "--journal", str(desk_db), "--app", "shop:tree", replayer=lambda options, records: report
    )
    assert (code, out) == (5, "diverged c0ff:18\n")
    assert err.splitlines()[:3] == [
        "    Diverged  at c0ff:18, inspector-2 step 3, after 17 identical events",
        '    recorded  call f("a")',
        '         now  call f("b")',
    ]


def test_the_journals_own_word_about_its_app_is_a_hint_only(desk_db: Path) -> None:
    code, _, err = call("replay", "--journal", str(desk_db))
    assert code == 2
    assert "the journal says that 'x:y' wrote it" in err


def test_the_demos_journal_needs_no_app(journal: Make, complete: list[Record]) -> None:
    path = journal("demo.db", complete, app="understudy.demo")
    code, _, err = call("replay", "--journal", str(path))
    assert (code, err) == (2, "understudy: replayed 48 events with None\n")


@pytest.mark.promise(208)
def test_guards_are_listed_as_armed_or_fired_with_the_last_event(desk_db: Path, complete: list[Record]) -> None:
    inspector = Agent("inspector", model=ScriptedModel([]), budget=Budget(steps=9))
    policies = {
        "inspector": Policy(inspector, "audit/inspector", Loops(Same(3) | Talk(3)), (("inspector", Budget(steps=9)),))
    }
    code, out, err = call(
        "guards", "--journal", str(desk_db), "--app", "shop:tree", configured=lambda options, records: policies
    )
    assert (code, err) == (0, "")
    judged = [record.seq for record in complete if isinstance(record.event, Judged)]
    assert [line.split() for line in out.splitlines()][:4] == [
        ["AGENT", "STATE", "FIRED", "LAST", "GUARD"],
        ["inspector", "fired", str(len(judged)), f"c0ff:{judged[-1]}", "loops", "Same(3)"],
        ["inspector", "armed", "loops", "Talk(3)"],
        ["inspector", "armed", "budget", "inspector:", "steps", "9"],
    ]
    code, out, _ = call(
        "guards", "--journal", str(desk_db), "--app", "shop:tree", "--json", configured=lambda *_: policies
    )
    assert msgspec.json.decode(out)[0] == {
        "agent": "inspector",
        "kind": "loops",
        "guard": "Same(3)",
        "fired": len(judged),
        "last": judged[-1],
        "off": "",
    }


PROGRAM = """
import sys
from understudy.actors.clock import SystemClock
from understudy.supervisors.operator.cli import main
def never(*_): raise AssertionError
sys.exit(main(sys.argv[1:], connect=never, replayer=never, configured=never, commands={}, clock=SystemClock(),
              stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr))
"""


def test_a_reader_that_leaves_early_causes_no_traceback(desk_db: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = [sys.executable, "-c", PROGRAM, "log", "--journal", str(desk_db), "--json"]
    try:
        done = subprocess.run(argv, stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_terminal_without_unicode_gets_question_marks(desk_db: Path) -> None:
    argv = [sys.executable, "-c", PROGRAM, "tree", "--journal", str(desk_db)]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(argv, capture_output=True, timeout=30, env=environ, check=True)
    assert done.stdout.startswith(b"run c0ff ? complete")


@pytest.mark.promise(242)
def test_the_machine_of_a_run_is_drawn_as_mermaid_and_a_run_without_one_says_so(desk_db: Path, journal: Make) -> None:
    code, out, err = call("machine", "--journal", str(desk_db))
    assert (code, out) == (2, "")
    assert "has no state machine, or has not begun" in err
    moved: list[ev.AnyEvent] = [
        ev.RunStarted("refunds", "Prompt", '{"text": "go"}'),
        ev.Moved("", "check", "start"),
        ev.Moved("check", "pay", "model", "owed", 1, 0),
    ]
    stream = [Record("feed0001", n, 0.0, 0.0, 0, "", 0, 0, event) for n, event in enumerate(moved, 1)]
    path = str(journal("machine.db", stream))
    code, out, err = call("machine", "--journal", path)
    assert (code, err) == (0, "")
    assert "    check --> pay: 1 · owed\n" in out
    agent: Agent[str, Any] = Agent("refunds", model=ScriptedModel([]), machine=make_machine())
    policies = {"refunds": Policy(agent, "main/refunds")}
    argv = ("machine", "@", "--app", "shop:tree", "--journal", path)
    code, out, err = call(*argv, configured=lambda options, records: policies)
    assert "    check --> declined: not_owed\n" in out
    assert "    paid --> [*]\n" in out
    code, out, err = call("machine", "@:2", "--journal", path)
    assert "1 ·" not in out
