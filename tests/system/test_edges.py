"""What goes wrong at the edges of a run ends as a result with one clear line, or as one clear error."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from desks import Answer, agent_on, answer, call, calls, make_agent, script, told
from msgspec import Struct

from understudy import Agent, Budget, Message, OpenAIChat, Supervisor, System, tool
from understudy.actors.errors import (
    AskTimeout,
    JournalDamaged,
    JournalForeign,
    JournalNewer,
    JournalOwned,
    NotHandled,
    SpecError,
    UsageError,
)
from understudy.actors.journal import events as ev
from understudy.transports.testing.model_server import (
    ChatAnswer,
    ChatRequest,
    CutStream,
    NotJSON,
    RateLimit,
    ServerError,
)
from understudy.transports.testing.rechain import tamper


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


@tool(effect="read")
def broken(what: str) -> str:
    """Raise."""
    raise LookupError(f"no {what}")


@tool(effect="read", timeout=0.05)
async def hanging(what: str) -> str:
    """Never end."""
    await asyncio.Event().wait()
    return what


release = threading.Event()


@tool(effect="read", timeout=0.05)
def blocking(what: str) -> str:
    """Block its thread until the test lets go."""
    release.wait(20)
    return what


@tool(effect="read")
async def unencodable(what: str) -> object:
    """Answer with something that is no JSON."""
    return object()


def one_line(text: str) -> bool:
    return bool(text) and "\n" not in text and "Traceback" not in text


@pytest.mark.anyio
async def test_a_tool_that_raises_is_told_to_the_model_and_the_run_goes_on() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call("broken", what="lamp"))

    async with agent_on(policy, [broken]) as agent:
        result = await agent.run("go")
    assert result.unwrap() == Answer("error: LookupError: no lamp")


@pytest.mark.parametrize("tool_", [hanging, blocking])
@pytest.mark.anyio
async def test_a_tool_that_hangs_is_cut_at_its_timeout(tool_: Any) -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call(tool_.name, what="x"))

    release.clear()
    try:
        async with agent_on(policy, [tool_]) as agent:
            result = await agent.run("go")
    finally:
        release.set()
    assert result.unwrap().text == "error: no result within 0.05 s"


@pytest.mark.anyio
async def test_a_result_that_is_no_json_is_an_error_of_the_call() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call("unencodable", what="x"))

    async with agent_on(policy, [unencodable]) as agent:
        result = await agent.run("go")
    assert result.unwrap().text.startswith("error: TypeError:")


@pytest.mark.anyio
async def test_unknown_tools_and_bad_arguments_are_told_with_their_place() -> None:
    bad = (call("lok", what="x"), call("look", wat="x"), call("look", what=3))
    async with agent_on(script(calls(*bad), answer("done")), [look]) as agent:
        rejected = [
            item.event.error
            async for item in agent.stream("go")
            if isinstance(item, ev.Record) and isinstance(item.event, ev.ToolRejected)
        ]
    assert rejected == [
        "there is no tool 'lok'; the tools are: look",
        "Object contains unknown field `wat`",
        "Expected `str`, got `int` - at `$.what`",
    ]


@pytest.mark.promise(9)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (RateLimit(retry_after=0), "rate_limited"),
        (ServerError(500), "overloaded"),
        (NotJSON(), "bad_reply"),
        (CutStream(), "bad_reply"),
    ],
)
@pytest.mark.anyio
async def test_a_model_that_keeps_failing_ends_the_run_as_failed_after_its_tries(fault: Any, kind: str) -> None:
    async with agent_on(lambda request: fault, model_tries=2) as agent:
        result = await agent.run("go")
    assert result.status == "failed"
    assert result.reason.startswith(f"model {kind}: ")
    assert one_line(result.reason)
    assert result.spend.model_calls == 2


@pytest.mark.anyio
async def test_a_model_that_recovers_is_tried_again_and_the_step_counts_once() -> None:
    seen: list[int] = []

    def policy(request: ChatRequest) -> Any:
        seen.append(1)
        return RateLimit(retry_after=0) if len(seen) == 1 else answer("back")

    async with agent_on(policy) as agent:
        result = await agent.run("go")
    assert result.unwrap().text == "back"
    assert (result.spend.steps, result.spend.model_calls) == (1, 2)


@pytest.mark.anyio
async def test_a_model_that_nobody_serves_fails_without_spending_tokens() -> None:
    agent = make_agent("http://127.0.0.1:9/v1", model_tries=2)
    result = await agent.run("go")
    assert result.status == "failed"
    assert "unreachable" in result.reason
    assert result.spend.tokens == 0


@pytest.mark.parametrize("text", ["I think so", '{"text": 3}', "", '{"txt": "x"}'])
@pytest.mark.anyio
async def test_an_invalid_answer_is_handed_back_and_fails_after_the_repairs(text: str) -> None:
    async with agent_on(script(ChatAnswer(text)), repairs=2) as agent:
        result = await agent.run("go")
    assert result.status == "failed"
    assert result.reason.startswith("invalid output after 2 repairs: ")
    assert result.spend.steps == 3


@pytest.mark.anyio
async def test_a_repaired_answer_completes_and_the_model_was_told_the_path() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        hints = [text for text in told(request, "user") if "$.text" in text]
        return answer("right") if hints else ChatAnswer('{"text": 3}')

    async with agent_on(policy) as agent:
        result = await agent.run("go")
    assert result.unwrap().text == "right"


class Other(Message[int]):
    n: int


@pytest.mark.promise(4)
@pytest.mark.anyio
async def test_a_message_the_agent_does_not_accept_is_refused_by_name() -> None:
    async with agent_on(script(answer("x"))) as agent, System(agent) as system:
        with pytest.raises(NotHandled, match="does not handle Other; it takes Prompt"):
            await system.ref("clerk").ask(Other(1))
        assert not system.ref("clerk").tell(Other(1))
        with pytest.raises(UsageError, match="no actor 'clark'"):
            system.ref("clark")


@pytest.mark.anyio
async def test_an_ask_past_its_deadline_raises_and_the_run_is_stopped_as_abandoned() -> None:
    gate = asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        await gate.wait()
        return what

    async with agent_on(script(calls(call("slow", what="x")), answer("late")), [slow]) as agent:
        async with System(agent) as system:
            with pytest.raises(AskTimeout, match=r"main/clerk: no reply within 0\.05 s"):
                await system.run(agent, "go", timeout=0.05)
            run = system.unfinished()[0]
            gate.set()
            result = await _ended(system, run)
    assert (result.status, result.reason) == ("stopped", "abandoned")


async def _ended(system: System, run: str) -> Any:
    await system.runs.ended(run)
    return await system.result(run)


# --- journals --------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary\n" * 100)
    with pytest.raises(JournalForeign) as caught:
        async with System(journal=path):
            pass
    assert one_line(str(caught.value))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"dear diary\n" * 100


@pytest.mark.anyio
async def test_a_journal_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "j.db"
    async with System(journal=path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(JournalNewer, match="99") as caught:
        async with System(journal=path):
            pass
    assert one_line(str(caught.value))


@pytest.mark.anyio
async def test_two_systems_cannot_own_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with System(journal=path):
        with pytest.raises(JournalOwned):
            async with System(journal=path):
                pass
    async with System(journal=path) as again:
        assert again.unfinished() == []


@pytest.mark.anyio
async def test_an_edited_event_is_refused_at_its_place_when_the_run_is_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    @tool(effect="irreversible", approve="boss")
    def send(what: str) -> str:
        return what

    async with agent_on(script(calls(call("send", what="x"))), [send]) as agent:
        async with System(agent, journal=path) as system:
            waiting = await system.run(agent, "go")
        tamper(path, waiting.run, 4, _later)
        with pytest.raises(JournalDamaged, match=f"damaged at {waiting.run}:4"):
            async with System(agent, journal=path):
                pass


@pytest.mark.anyio
async def test_damage_in_a_run_that_has_ended_is_told_when_it_is_looked_at_and_stops_no_other(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with agent_on(script(answer("x"))) as agent:
        async with System(agent, journal=path) as system:
            ended = (await system.run(agent, "go")).run
        tamper(path, ended, 3, _later)
        async with System(agent, journal=path) as system:
            assert (await system.run(agent, "go")).status == "complete"
            with pytest.raises(JournalDamaged, match=f"damaged at {ended}:3"):
                await system.result(ended)


def _later(record: ev.Record) -> ev.Record:
    import msgspec

    return msgspec.structs.replace(record, at=record.at + 1)


# --- declarations ----------------------------------------------------------------------------------------


def test_a_request_that_cannot_be_written_is_refused_when_it_is_given() -> None:
    agent = make_agent("http://127.0.0.1:9/v1")
    with pytest.raises(SpecError, match=r"agent 'clerk': Prompt: .*surrogates"):
        agent.encode("half a \ud83d pair")


class Loose(Struct):
    text: str


def test_bad_declarations_name_the_value_and_the_place() -> None:
    model = OpenAIChat("m", base_url="http://127.0.0.1:9/v1", api_key="k")
    with pytest.raises(SpecError, match="agent 'a': max_tokens 0"):
        Agent("a", model=model, max_tokens=0)
    with pytest.raises(SpecError, match="two tools or delegates are named 'look'"):
        Agent("a", model=model, tools=[look, look])
    with pytest.raises(SpecError, match=r"effect 'writ'; one of read"):
        tool(effect="writ")(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="budget of 's' counts money, but model 'm' has no price"):
        System(Supervisor("s", [Agent("a", model=model)], budget=Budget(usd=1.0)))
    with pytest.raises(SpecError, match="strategy 'one_by_one' is unknown; allowed: one_for_one, one_for_all"):
        Supervisor("s", [Agent("a", model=model)], strategy="one_by_one")  # type: ignore[arg-type]  # the mistake
