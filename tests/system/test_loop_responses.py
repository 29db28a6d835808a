"""The milder rungs of a ladder: tools that are closed for a while, and an answer that is asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from desks import Answer, agent_on, answer, call, calls, told

from understudy import (
    Agent,
    Conclude,
    Loops,
    Malformed,
    Nudge,
    Restrict,
    Result,
    Same,
    Stop,
    Supervisor,
    System,
    tool,
)
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.replay import replay
from understudy.supervisors import tree
from understudy.supervisors.operator import why as whys
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return "nothing there"


@tool(effect="read")
async def ask(whom: str) -> str:
    """Ask somebody."""
    return f"{whom} knows nothing"


async def played(policy: Any, **options: Any) -> tuple[Result[Answer], list[Record], list[list[str]]]:
    """A run with these options of its guard: the result, its stream, and the names of the tools offered each time."""
    offered: list[list[str]] = []

    def seen(request: ChatRequest) -> ChatAnswer:
        offered.append(sorted(each.function.name for each in request.tools))
        said: ChatAnswer = policy(request)
        return said

    async with agent_on(seen, [look, ask]) as agent:
        root = Supervisor("desk", [agent], loops=Loops(Same(3), **options))
        records: list[Record] = []
        async with System(root) as system:
            system.listen(records.append)
            result = await system.run(agent, "go")
        stream = [record for record in records if record.run == result.run]
        assert replay(stream, tree.plan(root).policies).identical
    return result, stream, offered


def notes(request: ChatRequest) -> list[str]:
    return [text for text in told(request, "user") if text.startswith("Note from the supervisor")]


@pytest.mark.promise(213)
@pytest.mark.anyio
async def test_the_tools_of_a_loop_are_closed_for_some_steps_and_the_agent_is_told() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        done = len(told(request, "assistant"))
        if done < 3:
            return calls(call("look", what="here"))
        return calls(call("ask", whom=f"friend {done}")) if done < 6 else answer("never mind")

    result, stream, offered = await played(policy, ladder=[Restrict(steps=2), Stop()])
    assert result.unwrap().text == "never mind"
    (judged,) = [record.event for record in stream if isinstance(record.event, ev.Judged)]
    assert judged.verdict.tools == ("look",)
    assert "For the next 2 steps these tools are closed: look." in judged.note
    both = ["ask", "look"]
    assert offered == [both, both, both, ["ask"], ["ask"], both, both]
    assert "closed look for 2 steps, ladder 1" in "\n".join(whys.render(whys.why(stream), lambda run: run[:4]))


@pytest.mark.anyio
async def test_a_call_of_a_closed_tool_is_refused_and_climbs() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        return calls(call("look", what="here"))

    result, stream, _ = await played(policy, ladder=[Restrict(), Stop()])
    assert result.status == "stopped"
    refused = [record.event.error for record in stream if isinstance(record.event, ev.ToolRejected)]
    assert refused == ["tool 'look' is closed; the tools are: ask"]
    state = fold(stream).main
    assert [type(verdict.response) for verdict in state.verdicts] == [Restrict, Stop]


@pytest.mark.promise(213)
@pytest.mark.anyio
async def test_an_agent_that_must_conclude_is_offered_no_tool_and_answers() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        return answer("this is all I have") if notes(request) else calls(call("look", what="here"))

    result, stream, offered = await played(policy, ladder=[Conclude(), Stop()])
    assert result.unwrap().text == "this is all I have"
    assert offered[-1] == []
    assert "clerk looped, was told to answer, and ended complete" in whys.why(stream).sentence


def test_a_rung_without_a_step_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Loops\.ladder\[1\]\.steps must be a whole number >= 1, got 0"):
        Loops(ladder=[Nudge(), Restrict(steps=0)])


def test_answers_that_never_fit_are_stopped() -> None:
    async def main() -> tuple[Result[Answer], list[Record]]:
        def policy(request: ChatRequest) -> ChatAnswer:
            return calls(call(f"invented {len(told(request, 'assistant'))}"))

        async with agent_on(policy, [look]) as agent, _system(agent) as (system, records):
            return await system.run(agent, "go"), records

    result, records = asyncio.run(main())
    assert result.status == "stopped"
    verdicts = [record.event.verdict for record in records if isinstance(record.event, ev.Judged)]
    assert [verdict.rule for verdict in verdicts] == ["loops.malformed(4)", "loops.malformed(4)"]


@contextlib.asynccontextmanager
async def _system(agent: Agent[Answer, Any]) -> AsyncIterator[tuple[System, list[Record]]]:
    records: list[Record] = []
    tree = Supervisor("desk", [agent], loops=Loops(Same(9) | Malformed(4), ladder=[Nudge(), Stop()]))
    async with System(tree) as system:
        system.listen(records.append)
        yield system, records
