"""approve, refuse, doubts and resume: as the owner, through the inbox of a live owner, and with nobody there."""

import asyncio
import getpass
import io
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest

from understudy.actors.agents.agent import Agent
from understudy.actors.agents.answers import Word
from understudy.actors.agents.models import ModelReply, ModelRequest, ModelSession, Price, ToolCall, Usage
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import tool
from understudy.actors.clock import SystemClock
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.supervisors import tree
from understudy.supervisors.guards.approvals import Approvals
from understudy.supervisors.operator.cli import main
from understudy.supervisors.operator.desk import ConnectOptions, Desk, Replayed
from understudy.system import System

Make = Callable[..., Path]


class Clerk:
    """A model that writes once, then says what came of it."""

    name = "clerk"
    price: Price | None = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[ModelSession]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        answers = [message for message in request.messages if message.role == "tool"]
        usage = Usage(20, 5)
        if answers:
            return ModelReply(answers[-1].content, usage=usage)
        return ModelReply("", (ToolCall("c1", "publish", '{"path": "a.md"}'),), usage=usage)


@tool(effect="irreversible", approve="press")
async def publish(path: str) -> str:
    """Publish a file."""
    return f"published {path}"


def desk() -> Agent[str, object]:
    return Agent("desk", model=Clerk(), tools=[publish], approvals=Approvals(by={"press": ["ana", "li"]}))  # type: ignore[return-value]  # what it accepts does not matter here


@asynccontextmanager
async def connect(options: ConnectOptions) -> AsyncIterator[Desk]:
    async with System(desk(), journal=options.journal) as system:
        yield system


def replayed(options: ConnectOptions, records: list[Record]) -> Replayed:
    return replay(records, policies(options, records))


def policies(options: ConnectOptions, records: list[Record]) -> Mapping[str, Policy]:
    return tree.plan(tree.root_of(desk())).policies


class LaterClock(SystemClock):
    """Some seconds ahead by the wall."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def wall(self) -> float:
        return super().wall() + self.ahead


def call(*argv: str, ahead: float = 0.0) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    commands: dict[str, Callable[[Sequence[str]], int]] = {}
    code = main(
        argv,
        connect=connect,
        replayer=replayed,
        configured=policies,
        commands=commands,
        clock=LaterClock(ahead),
        stdin=io.StringIO(),
        stdout=out,
        stderr=err,
    )
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal whose one run waits for a yes; nobody owns it."""
    path = tmp_path / "desk.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNDERSTUDY_JOURNAL", raising=False)
    monkeypatch.setenv("UNDERSTUDY_APP", "shop:desk")

    async def ask() -> None:
        async with System(desk(), journal=path, meta={"app": "shop:desk"}) as system:
            result = await system.run(desk_of(system), "publish it")
            assert result.status == "waiting"

    asyncio.run(ask())
    return path


def desk_of(system: System) -> Agent[str, object]:
    return next(iter(system.tree.policies.values())).agent


def inbox(path: Path) -> list[tuple[str, Word]]:
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT kind, body FROM inbox").fetchall()
    return [(kind, msgspec.json.decode(body, type=Word)) for kind, body in rows]


def test_approve_becomes_the_owner_and_finishes_the_run(asked: Path) -> None:
    code, out, err = call("approve", "a1", "--by", "ana", "--json")
    assert code == 0, err
    verbs = [line[:12].strip() for line in err.splitlines()]
    assert verbs == ["Asked", "", "Approved", "Finished", "", "Next"]
    assert 'publish("a.md")' in err.splitlines()[0]
    result = msgspec.json.decode(out)
    assert (result["status"], result["output"]) == ("complete", '"published a.md"')
    assert call("approve", "a1", "--by", "ana")[0] == 2


def test_hours_later_the_yes_is_still_good_and_after_its_expiry_it_is_not(asked: Path) -> None:
    code, _, err = call("approve", "a1", "--by", "ana", ahead=49 * 3600)
    assert (code, err.splitlines()[-1].endswith("has expired; that counts as no")) == (2, True)
    assert call("approve", "a1", "--by", "ana", ahead=47 * 3600)[0] == 0


def test_refuse_tells_the_agent_and_the_run_goes_on(asked: Path) -> None:
    code, out, err = call("refuse", "a1", "--by", "li", "--reason", "not today", "--json")
    assert code == 0, err
    assert "     Refused" in err
    assert "not today" in msgspec.json.decode(out)["output"]


def test_who_may_not_answer_changes_nothing(asked: Path) -> None:
    before = len(call("log", "--json")[1].splitlines())
    code, out, err = call("approve", "a1", "--by", "eve")
    assert (code, out) == (2, "")
    assert "'eve' may not answer; ana, li may" in err
    assert len(call("log", "--json")[1].splitlines()) == before
    assert inbox(asked) == []


def test_without_an_app_the_answer_waits_in_the_inbox(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNDERSTUDY_APP")
    code, out, err = call("approve", "a1", "--by", "ana")
    assert (code, out) == (3, "")
    assert "inbox" in err
    assert "the journal says that 'shop:desk' wrote it" in err
    [(kind, word)] = inbox(asked)
    assert (kind, word.by, word.id.endswith("-a1"), len(word.digest)) == ("approve", "ana", True, 16)


def test_a_live_owner_is_told_through_its_inbox(asked: Path) -> None:
    async def own() -> tuple[tuple[int, str, str], str]:
        async with System(desk(), journal=asked) as system:
            [run] = system.unfinished()
            told = await asyncio.to_thread(call, "approve", "a1", "--by", "ana")
            result = await system.resume(run)
            return told, result.status

    (code, out, err), status = asyncio.run(own())
    assert (code, out, status) == (0, "", "complete")
    assert "Approved" in err.splitlines()[-1]


@pytest.mark.promise(284)
def test_approve_shows_the_call_as_changed_and_makes_it_so(asked: Path) -> None:
    code, out, err = call("approve", "a1", "--by", "ana", "--edit", '{"path": "b.md"}', "--json")
    assert code == 0, err
    lines = err.splitlines()
    assert [line[:12].strip() for line in lines][:5] == ["Asked", "", "Changed", "", "Approved"]
    assert lines[2].endswith('publish("b.md")')
    assert 'changed to {"path":"b.md"}' in lines[4]
    assert '"published b.md"' in msgspec.json.decode(out)["output"]


@pytest.mark.promise(284)
def test_a_live_owner_takes_a_change_from_its_inbox(asked: Path) -> None:
    async def own() -> tuple[tuple[int, str, str], object]:
        async with System(desk(), journal=asked) as system:
            [run] = system.unfinished()
            told = await asyncio.to_thread(call, "approve", "a1", "--by", "li", "--edit", '{"path": "c.md"}')
            result = await system.resume(run)
            return told, result.output

    (code, _, err), output = asyncio.run(own())
    assert (code, "Approved" in err.splitlines()[-1]) == (0, True)
    assert str(output).endswith('"published c.md"')


@pytest.mark.promise(284)
def test_without_an_app_a_change_waits_in_the_inbox_and_the_next_owner_checks_it(
    asked: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("UNDERSTUDY_APP")
    code, _, err = call("approve", "a1", "--by", "ana", "--edit", '{"path": 5}')
    assert (code, "the rest as asked" in err) == (3, True)
    assert [word.arguments for _, word in inbox(asked)] == ['{"path":5}']

    async def own() -> int:
        async with System(desk(), journal=asked) as system:
            return len(system.approvals())

    assert asyncio.run(own()) == 1
    assert "approve was not taken" in caplog.text
    assert "the changed arguments of publish do not fit" in caplog.text


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("b.md", "--edit is no JSON object of arguments: "),
        ('["b.md"]', "--edit is no JSON object of arguments: "),
        ('{"path": 5}', "the changed arguments of publish do not fit: Expected `str`, got `int`"),
        ('{"file": "b.md"}', "do not fit: Object contains unknown field `file`"),
    ],
)
def test_a_change_that_does_not_fit_is_one_line_and_changes_nothing(asked: Path, edit: str, said: str) -> None:
    before = len(call("log", "--json")[1].splitlines())
    code, out, err = call("approve", "a1", "--by", "ana", "--edit", edit)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert len(call("log", "--json")[1].splitlines()) == before


@pytest.mark.promise(285)
def test_fork_runs_a_new_run_on_from_an_event_and_says_what_is_changed(asked: Path) -> None:
    code, out, err = call("fork", "@", "--at", "4", "--instructions", "Be quick.", "--by", "ana", "--json")
    assert code == 3, err
    result = msgspec.json.decode(out)
    [first] = [line for line in err.splitlines() if line.startswith("      Forked")]
    assert f"run {result['run'][:4]}" in first
    assert "desk has other instructions" in first
    assert call("replay", "@")[0] == 0
    [row] = [line for line in call("log", "@")[1].splitlines() if " fork " in line]
    assert "desk has other instructions" in row
    code, _, err = call("approve", f"{result['run'][:6]}-a1", "--by", "ana")
    assert code == 0, err
    assert call("tree", "@2")[1].count("waiting") > 0  # the run that it was forked from still waits


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["@"], "fork needs an event: --at EVENT, or RUN:EVENT"),
        (["@:3", "--at", "4"], "--at '4' is no event; it is a number, given once"),
        (["@", "--at", "four"], "--at 'four' is no event"),
        (["@", "--at", "0"], "cannot be forked at event 0: it has 6"),
        (["@:6"], "publish waits for approval a1 there, or for its use; fork it at :4 or before"),
        (["@:4", "--result", "{"], "--result is no JSON: "),
        (["@:4", "--result", "{}"], "has no result to change: it is a ModelAnswered, not a tool's outcome"),
        (["@:4", "--model", "large"], "agent 'desk' has no model 'large'; its models are: clerk"),
        (["@:4", "--agent", "nobody", "--instructions", ""], "agent 'nobody' is not part of this system"),
    ],
)
def test_a_fork_that_cannot_be_had_is_one_line_and_no_run_is_begun(asked: Path, argv: list[str], said: str) -> None:
    code, out, err = call("fork", *argv)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert call("log", "@2")[0] == 2


def test_fork_beside_a_live_owner_is_refused(asked: Path) -> None:
    async def own() -> tuple[int, str, str]:
        async with System(desk(), journal=asked):
            return await asyncio.to_thread(call, "fork", "@", "--at", "4")

    code, _, err = asyncio.run(own())
    assert (code, len(err.splitlines())) == (1, 1)
    assert "a live process owns this journal" in err


def test_resume_beside_a_live_owner_is_refused(asked: Path) -> None:
    async def own() -> tuple[int, str, str]:
        async with System(desk(), journal=asked):
            return await asyncio.to_thread(call, "resume")

    code, _, err = asyncio.run(own())
    assert (code, len(err.splitlines())) == (1, 1)
    assert "a live process owns this journal" in err


def test_resume_without_yes_leaves_the_question_and_says_how_to_answer(asked: Path) -> None:
    code, out, err = call("resume")
    assert (code, out) == (3, "")
    assert "-a1" in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("        Next  understudy approve ")


def test_resume_with_yes_finishes_and_then_there_is_nothing_to_resume(asked: Path) -> None:
    code, out, err = call("resume", "--yes", "--by", "ana", "--json")
    assert (code, msgspec.json.decode(out)["status"]) == (0, "complete"), err
    code, out, err = call("resume")
    assert (code, out, err) == (0, "", "desk.db: every run has ended\n")
    code, out, err = call("resume", "@")
    assert (code, out) == (0, "")
    assert err.endswith("has ended: complete\n")


def test_resume_with_yes_by_somebody_who_may_not_stays_waiting(asked: Path) -> None:
    code, _, err = call("resume", "--yes", "--by", "eve")
    assert code == 3
    assert "'eve' may not answer" in err


def test_the_login_name_answers_by_default(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "li")
    code, _, err = call("approve", "a1")
    assert code == 0, err
    assert "by li" in err


def test_without_a_login_name_the_users_number_answers(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise OSError("no such user")

    monkeypatch.setattr(getpass, "getuser", nobody)
    code, _, err = call("approve", "a1")
    assert (code, f"'uid-{os.getuid()}' may not answer" in err) == (2, True)


def test_doubts_are_listed_while_somebody_else_owns_the_journal(journal: Make, doubtful: list[Record]) -> None:
    path = journal("desk.db", doubtful)
    code, out, err = call("doubts", "--journal", str(path))
    assert (code, err) == (0, "")
    assert out == '7f3a-d1  write_report(path="audit.md", mode="new") · irreversible · key k1\n'


def test_a_journal_without_doubts_says_so(asked: Path) -> None:
    assert call("doubts") == (0, "", "desk.db: no call is in doubt\n")


@pytest.fixture
def cut(asked: Path) -> Path:
    """The yes was given and the call begun; then the process ended, nobody knows where."""
    from understudy.actors.journal.events import encode
    from understudy.actors.journal.store import Row, chain
    from understudy.transports.journals.sqlite import SQLiteStore

    async def cut_off() -> None:
        store = SQLiteStore(asked)
        await store.open()
        [head] = [head for head in await store.heads() if head.run != ev.NODE_STREAM]
        records = [msgspec.json.decode(row.payload, type=Record) for row in await store.read(head.run)]
        question = next(r.event for r in records if isinstance(r.event, ev.ApprovalAsked))
        yes = question.approval
        seq, crc = head.seq, head.crc
        for event in (
            ev.ApprovalGiven(yes, "ana", question.digest, question.policy),
            ev.Unparked("approved"),
            ev.ToolAsked(1, 0, "publish", question.arguments, "irreversible", "", key="k", approval=yes),
        ):
            seq += 1
            last = records[-1]
            payload = encode(Record(head.run, seq, last.at, last.mono, 0, "main/desk", 1, 0, event))
            crc = chain(crc, head.run, seq, payload)
            await store.write([Row(head.run, seq, payload, len(payload), crc)], [last.at])
        await store.aclose()

    asyncio.run(cut_off())
    return asked


@pytest.mark.parametrize(("answer", "said"), [("--did", "it happened"), ("--did-not", "a1")])
def test_a_call_in_doubt_waits_for_a_person_who_settles_it(cut: Path, answer: str, said: str) -> None:
    code, _, err = call("resume", "--yes", "--by", "ana")
    assert code == 3
    assert err.splitlines()[-1].startswith("     Doubted")
    assert "-d1" in call("doubts")[1]
    code, out, err = call("doubts", "d1", answer, "--by", "ana")
    assert (code, out) == (0, "")
    assert err.startswith("     Settled")
    assert call("doubts", "d1", answer, "--by", "ana")[0] == 2
    code, out, err = call("resume", "--yes", "--by", "ana", "--json")
    assert (code, msgspec.json.decode(out)["status"]) == (0, "complete"), err
    if answer == "--did":
        assert said in msgspec.json.decode(out)["output"]
    else:  # it was not done: it is asked for anew, and done then
        assert "published a.md" in msgspec.json.decode(out)["output"]


def test_an_interrupt_ends_in_one_line_and_130(asked: Path) -> None:
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when the tests run in the background of a shell
from understudy.actors.clock import SystemClock
from understudy.supervisors.operator.cli import main
def never(*_): raise AssertionError
sys.exit(main(sys.argv[1:], connect=never, replayer=never, configured=never, commands={}, clock=SystemClock(),
              stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr))
"""
    argv = [sys.executable, "-c", program, "log", "--follow"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # it follows by now
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()  # does nothing to a process that has ended
    assert (process.returncode, err) == (130, b"understudy: interrupted\n")
