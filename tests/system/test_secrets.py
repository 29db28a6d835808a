"""Secrets in runs: nowhere in the journal, the log or what a model sees; for tools as they are; clear after a crash."""

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crashing import CrashingModel
from hypothesis import given, settings
from msgspec import Struct

from understudy import (
    Agent,
    Approvals,
    Backoff,
    Call,
    Message,
    OpenAIChat,
    Prompt,
    Redact,
    Result,
    Route,
    Secret,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.answers import Word
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.logs import JSONFormatter
from understudy.actors.redaction import MARK
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.supervisors.operator.inbox import post
from understudy.supervisors.operator.reading import Reader
from understudy.testing import World, play, worlds
from understudy.transports.journals.sqlite import SQLiteStore

PASSWORD = "correct horse battery"
API = "sk-proj-abcdefghij0123456789"


class Deploy(Message[Result[str]]):
    text: str
    password: Secret


class Passing(ScriptedModel):
    """Calls `deploy` with the mark it was shown, as a model would, and says what it got."""

    def __init__(self, last: str = "done", *, name: str = "deploy") -> None:
        super().__init__([])
        self.last, self.tool = last, name

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.requests.append(request)
        if len(request.messages) > 1:
            return ModelReply(self.last)
        shown = request.messages[-1].content
        mark = shown[shown.index(MARK) : shown.index("]") + 1]
        return ModelReply(calls=(call(self.tool, password={"secret": mark}, note=f"with {mark}"),))


def desk(given: list[str], model: ScriptedModel, *, fails: bool = False) -> Agent[Any, Any]:
    @tool(effect="irreversible", approve="boss")
    async def deploy(password: Secret, note: str) -> dict[str, str]:
        given.extend([password.secret, note])
        if fails:
            raise LookupError(f"401 for {password.secret} with {API}")
        return {"said": f"logged in with {password.secret}", "token": API}

    return Agent(
        "desk", model=model, accepts=Deploy, output=str, tools=[deploy], approvals=Approvals(by={"boss": ["ana"]})
    )


def files_of(folder: Path) -> bytes:
    return b"".join(each.read_bytes() for each in folder.iterdir() if each.name.startswith("desk.db"))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler, logger = logging.StreamHandler(stream), logging.getLogger("understudy")
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def assert_clean(text: str) -> None:
    assert PASSWORD not in text
    assert API not in text


@pytest.mark.promise(300)
@pytest.mark.parametrize("fails", [False, True])
def test_a_secret_reaches_the_tool_and_neither_journal_nor_log_nor_model(
    tmp_path: Path, log: io.StringIO, fails: bool
) -> None:
    given: list[str] = []
    model = Passing()
    agent = desk(given, model, fails=fails)

    async def main() -> None:
        async with System(agent, journal=tmp_path / "desk.db") as system:
            result = await system.run(agent, Deploy("go", Secret(PASSWORD)))
            assert result.status == "waiting"
            assert PASSWORD not in result.pending[0].arguments
            await system.approve(result.pending[0], by="ana")
            await system.runs.settled(result.run)
            records = await system.journal.read(result.run)
            assert replay(records, system.tree.policies).identical
            for flight in system.telemetry.flights(last=1_000):
                assert_clean(str(flight))

    asyncio.run(main())
    assert given == [PASSWORD, f"with {PASSWORD}"]
    stored = files_of(tmp_path)
    assert PASSWORD.encode() not in stored
    assert API.encode() not in stored
    assert_clean(log.getvalue())
    assert len(log.getvalue()) > 1_000
    for request in model.requests:
        assert_clean(repr(request))


@pytest.mark.promise(300)
def test_a_secret_that_a_person_puts_into_a_call_reaches_the_tool_and_not_the_journal(tmp_path: Path) -> None:
    given: list[str] = []
    agent = desk(given, Passing())
    other = "staple of another horse"

    async def main() -> None:
        async with System(agent, journal=tmp_path / "desk.db") as system:
            result = await system.run(agent, Deploy("go", Secret(PASSWORD)))
            assert result.status == "waiting"
            changes = {"password": {"secret": other}, "note": f"by {API}"}
            await system.approve(result.pending[0], by="ana", arguments=changes)
            await system.runs.settled(result.run)
            records = await system.journal.read(result.run)
            assert replay(records, system.tree.policies).identical

    asyncio.run(main())
    assert given == [other, f"by {API}"]
    stored = files_of(tmp_path)
    assert other.encode() not in stored
    assert API.encode() not in stored


@pytest.mark.promise(301)
@pytest.mark.parametrize("resolved", [True, False, None], ids=["resolved", "another value", "no resolver"])
def test_after_a_crash_a_call_gets_its_secret_from_the_resolver_or_fails_clearly(
    tmp_path: Path, resolved: bool | None
) -> None:
    """The process that asked for the yes is gone; the yes still fits, since it is bound to the mark."""
    given: list[str] = []

    def resolve(name: str, mark: str) -> str:
        assert (name, mark.startswith("[secret:password:")) == ("password", True)
        return PASSWORD if resolved else "wrong"

    async def main() -> None:
        first = desk(given, Passing())
        async with System(first, journal=tmp_path / "desk.db") as system:
            result = await system.run(first, Deploy("go", Secret(PASSWORD)))
            assert result.status == "waiting"
        agent = desk(given, Passing())
        redact = Redact() if resolved is None else Redact(resolve=resolve)
        async with System(agent, journal=tmp_path / "desk.db", redact=redact) as system:
            await system.approve(result.pending[0].id, by="ana")
            await system.runs.ended(result.run)
            records = await system.journal.read(result.run)
            assert system.doubts() == []
            assert replay(records, system.tree.policies).identical
        failed = [record.event for record in records if isinstance(record.event, ev.ToolFailed)]
        if resolved:
            assert failed == []
        else:
            assert [event.kind for event in failed] == ["secret"]
            assert "not called: the value of [secret:password:" in failed[0].error

    asyncio.run(main())
    assert given == ([PASSWORD, f"with {PASSWORD}"] if resolved else [])
    assert PASSWORD.encode() not in files_of(tmp_path)


class Login(Struct):
    user: str
    token: Secret


@pytest.mark.promise(300)
def test_secrets_that_a_tool_a_step_or_the_model_itself_makes_are_not_journalled_and_passed_on_whole(
    tmp_path: Path,
) -> None:
    got: list[str] = []

    @tool(effect="keyed")
    async def login(call: Call) -> Login:
        made = await call.step("key", lambda: {"key": API})
        return Login("ana", Secret(f"token of {made['key']}"))

    @tool(effect="read")
    async def fetch(token: Secret) -> str:
        got.append(token.secret)
        return "fetched"

    class Model(ScriptedModel):
        async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
            self.requests.append(request)
            newest = request.messages[-1].content
            match len(self.requests):
                case 1:
                    return ModelReply(calls=(call("login"),))
                case 2:
                    mark = newest[newest.index(MARK) : newest.index("]") + 1]
                    return ModelReply(calls=(call("fetch", token={"secret": mark}),))
                case 3:
                    escaped = '{"token": {"s\\u0065cret": "made up by the model"}}'
                    return ModelReply(calls=(ToolCall("c", "fetch", escaped),))
                case _:
                    return ModelReply(f"done with {API}")

    model = Model([])
    agent = Agent("desk", model=model, tools=[login, fetch])

    async def main() -> None:
        async with System(agent, journal=tmp_path / "desk.db") as system:
            result = await system.run(agent, "go")
            assert result.status == "complete"
            assert result.output is not None
            assert result.output.startswith("done with [secret:api-key:")
            assert replay(await system.journal.read(result.run), system.tree.policies).identical

    asyncio.run(main())
    assert got == [f"token of {API}", "made up by the model"]
    stored = files_of(tmp_path)
    assert API.encode() not in stored
    assert b"made up by the model" not in stored
    assert b"made up by the model" not in repr(model.requests).encode()


@pytest.mark.promise(300)
def test_a_crash_tells_no_secret(tmp_path: Path, log: io.StringIO) -> None:
    reports: list[str] = []
    model = CrashingModel([RuntimeError(f"no route to https://me:{PASSWORD.replace(' ', '')}@host with {API}"), "done"])
    agent = Agent("desk", model=model)

    async def main() -> None:
        tree = Supervisor("main", [agent], backoff=Backoff(first=0.01))
        async with System(tree, journal=tmp_path / "desk.db") as system:
            system.telemetry.crashes.add(lambda report: reports.append(report.text()))
            assert (await system.run(agent, "go")).status == "complete"

    asyncio.run(main())
    assert len(reports) == 1
    for text in (*reports, log.getvalue(), files_of(tmp_path).decode("latin-1")):
        assert API not in text
        assert PASSWORD.replace(" ", "") not in text


def test_without_patterns_only_typed_secrets_are_redacted(tmp_path: Path) -> None:
    agent = Agent("other", model=ScriptedModel([f"use {API}"]))
    typed = desk([], Passing())

    async def main() -> None:
        async with System(Supervisor("main", [agent, typed]), journal=tmp_path / "desk.db", redact=None) as system:
            result = await system.run(agent, "go")
            assert result.output == f"use {API}"
            await system.run(typed, Deploy("go", Secret(PASSWORD)))

    asyncio.run(main())
    assert PASSWORD.encode() not in files_of(tmp_path)


@pytest.mark.promise(301)
def test_the_next_run_of_a_session_may_use_a_secret_of_the_one_before_and_other_runs_may_not(tmp_path: Path) -> None:
    got: list[str] = []

    @tool(effect="read")
    async def fetch(token: str) -> str:
        got.append(token)
        return "fetched"

    class Model(ScriptedModel):
        mark = ""

        async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
            newest = request.messages[-1].content
            if MARK in newest:
                self.mark = newest[newest.index(MARK) : newest.index("]") + 1]
                return ModelReply("noted")
            return (
                ModelReply("done")
                if "fetched" in newest or "error" in newest
                else ModelReply(calls=(call("fetch", token=self.mark),))
            )

    agent = Agent("desk", model=Model([]), tools=[fetch])

    async def main() -> None:
        async with System(agent, journal=tmp_path / "desk.db") as system:
            await system.run(agent, f"my key is {API}", session="ana")
            await system.run(agent, "fetch it", session="ana")
            assert got == [API]
            await system.run(agent, "fetch it", session="li")
            await system.run(agent, "fetch it")
            assert got == [API]

    asyncio.run(main())


class Draft(Message[Result[str]]):
    text: str
    token: Secret


@pytest.mark.promise(300)
def test_a_secret_that_a_model_makes_up_for_another_agent_is_sealed_by_its_type(tmp_path: Path) -> None:
    """In a handoff and in a delegation."""
    got: list[str] = []

    @tool(effect="read")
    async def use(token: Secret) -> str:
        got.append(token.secret)
        return "used"

    class Using(ScriptedModel):
        async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
            newest = request.messages[-1].content
            if MARK in newest:
                mark = newest[newest.index(MARK) : newest.index("]") + 1]
                return ModelReply(calls=(call("use", token={"secret": mark}),))
            return ModelReply("done")

    made = {"text": "draft", "token": {"secret": "made up for the writer"}}
    sealed = {"text": "draft", "token": {"secret": "made up for the helper"}}
    writer = Agent("writer", model=Using([]), accepts=Draft, output=str, tools=[use])
    helper = Agent("helper", model=Using([]), accepts=Draft, output=str, tools=[use])
    model = ScriptedModel([call("helper", **sealed), made])
    first = Agent("first", model=model, accepts=Deploy, output=Draft, delegates=[helper])

    async def main() -> None:
        tree = Supervisor("main", [first, writer, helper], routes=[Route(Draft, to=writer)])
        async with System(tree, journal=tmp_path / "desk.db") as system:
            result = await system.run(first, Deploy("go", Secret(PASSWORD)))
            assert result.status == "complete", result.reason
            assert replay(await system.journal.read(result.run), system.tree.policies).identical

    asyncio.run(main())
    assert got == ["made up for the helper", "made up for the writer"]
    assert b"made up for" not in files_of(tmp_path)


@pytest.mark.promise(300)
def test_a_word_of_another_process_is_redacted_before_it_is_posted(tmp_path: Path) -> None:
    async def main() -> None:
        store = SQLiteStore(tmp_path / "desk.db")
        await store.open()
        await post(Reader(store, [], {}), "refuse", Word("a1", "ana", reason=f"it has {API} in it"), 1.0)
        await store.aclose()

    asyncio.run(main())
    assert API.encode() not in files_of(tmp_path)
    assert b"[secret:api-key]" in files_of(tmp_path)


def world_tree() -> Supervisor:
    @tool(effect="keyed")
    async def pay(token: Secret, id: str) -> str:
        return f"paid with {token.secret}"

    @tool(effect="read")
    async def look(id: str) -> str:
        return f"see {API}"

    agent = Agent("desk", model=OpenAIChat("gpt-5-mini", api_key="k"), tools=[pay, look])
    return Supervisor("main", [agent])


TREE = world_tree()


@pytest.mark.promise(300)
@settings(max_examples=25, deadline=None)
@given(worlds(TREE, kills=2))
def test_in_any_world_no_tool_is_given_a_mark_and_runs_replay(world: World) -> None:
    """Killed at any instant: a call that lost its secret is not made, and every oracle of the kit holds."""
    outcome = play(TREE, world, Prompt("go"))
    assert API not in repr(outcome.records)
