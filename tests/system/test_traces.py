"""The trace of a run: from its asker, to its tools, its models, its sub-runs, and over processes."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from understudy import Agent, Call, OpenAIChat, Prompt, Supervisor, System, tool
from understudy.actors.agents.models import ModelRequest
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.actors.testing.simloop import run
from understudy.actors.trace import parsed

ASKER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def seq_of(records: list[Record], kind: type, **fields: object) -> int:
    return next(
        r.seq for r in records if isinstance(r.event, kind) and all(getattr(r.event, n) == v for n, v in fields.items())
    )


@pytest.mark.promise(296)
def test_a_run_joins_the_trace_of_its_asker_and_hands_it_on() -> None:
    told: list[str] = []

    @tool(effect="read")
    async def look(call: Call) -> str:
        told.append(call.traceparent)
        return "seen"

    inner = ScriptedModel(["worked"])
    worker = Agent("worker", model=inner)
    model = ScriptedModel([call("look"), call("worker", text="go"), "done"])
    agent = Agent("desk", model=model, tools=[look], delegates=[worker])
    records: list[Record] = []

    async def main() -> None:
        async with System(Supervisor("main", [agent, worker])) as system:
            result = await system.run(agent, "go", traceparent=ASKER)
            records.extend(await system.journal.read(result.run))
            trace = system.runs.get(result.run).trace
            assert (trace.id, trace.parent) == (ASKER[3:35], ASKER[36:52])
            name = result.run
            asked = [r.seq for r in records if isinstance(r.event, ev.ModelAsked) and r.sub == 0]
            assert [request.traceparent for request in model.requests] == [trace.header(name, seq) for seq in asked]
            assert told == [trace.header(name, seq_of(records, ev.ToolAsked, name="look"))]
            [below] = [r.seq for r in records if isinstance(r.event, ev.ModelAsked) and r.sub]
            assert [request.traceparent for request in inner.requests] == [trace.header(name, below)]
            started = next(r for r in records if isinstance(r.event, ev.SubStarted))
            assert started.cause == seq_of(records, ev.ToolAsked, name="worker")

    run(main)


@pytest.mark.promise(296)
@pytest.mark.parametrize("header", ["", "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"])
def test_a_run_without_a_valid_header_has_a_trace_of_its_own(header: str) -> None:
    async def one() -> str:
        agent = Agent("desk", model=ScriptedModel(["done"]))
        async with System(agent) as system:
            result = await system.run(agent, "go", traceparent=header)
            trace = system.runs.get(result.run).trace
            assert trace.parent == ""
            return trace.id

    first, second = asyncio.run(one()), asyncio.run(one())
    assert len({first, second, "0" * 32}) == 3


@pytest.mark.promise(296)
def test_the_trace_is_journalled_once_and_the_same_in_the_next_process(tmp_path: Path) -> None:
    async def main() -> None:
        agent = Agent("desk", model=ScriptedModel(["done"]))
        async with System(agent, journal=tmp_path / "desk.db") as system:
            result = await system.run(agent, "go", traceparent=ASKER)
        async with System(agent, journal=tmp_path / "desk.db") as system:
            assert (await system.runs.find(result.run)).trace.parent == ASKER[36:52]
            rows = await system.journal.store.read(result.run)
            assert sum(ASKER[3:35].encode() in row.payload for row in rows) == 1

    asyncio.run(main())


def test_a_run_begun_in_a_tool_joins_the_trace_of_the_tools_run() -> None:
    helper = Agent("helper", model=ScriptedModel(["helped"]))
    systems: list[System] = []

    @tool(effect="read")
    async def ask() -> str:
        result: Any = await systems[0].ref(helper).ask(Prompt("help"))
        return str(result.run)

    agent = Agent("desk", model=ScriptedModel([call("ask"), "done"]), tools=[ask])

    async def main() -> None:
        async with System(Supervisor("main", [agent, helper])) as system:
            systems.append(system)
            result = await system.run(agent, "go", traceparent=ASKER)
            other = next(known for known in system.runs.known() if known.id != result.run)
            records = await system.journal.read(result.run)
            span = system.runs.get(result.run).trace.span(result.run, seq_of(records, ev.ToolAsked))
            assert (other.trace.id, other.trace.parent) == (ASKER[3:35], span)

    run(main)


@pytest.mark.promise(296)
@pytest.mark.parametrize("trace", [True, False])
@pytest.mark.anyio
async def test_the_header_goes_to_the_provider_unless_it_is_switched_off(trace: bool) -> None:
    seen: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        model = OpenAIChat("m", base_url="http://127.0.0.1:1/v1", client=client, trace=trace)
        async with model.session() as session:
            await session.complete(ModelRequest((), traceparent=ASKER), timeout=5)
    assert seen[0].get("traceparent") == (ASKER if trace else None)
    assert parsed(ASKER) is not None


@pytest.mark.promise(296)
def test_every_event_but_the_first_has_a_cause_and_the_outcome_of_a_call_is_caused_by_its_intent() -> None:
    @tool(effect="read")
    async def look(id: str) -> str:
        await asyncio.sleep(float(id))
        return id

    calls = [call("look", id="3"), call("look", id="1"), call("look", id="2")]
    agent = Agent("desk", model=ScriptedModel([calls, "done"]), tools=[look])

    async def main() -> None:
        async with System(agent) as system:
            result = await system.run(agent, "go")
            records = await system.journal.read(result.run)
        asked = {r.event.index: r.seq for r in records if isinstance(r.event, ev.ToolAsked)}
        answered = {r.event.index: r.cause for r in records if isinstance(r.event, ev.ToolAnswered)}
        assert answered == asked
        assert all(0 < record.cause < record.seq for record in records[1:])

    run(main)
