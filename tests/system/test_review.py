"""Interleavings and crash points: nothing hangs, nothing is lost, nothing is told that is not so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from desks import FakeClock, agent_on, answer, call, calls, script, told
from reviews import Answered, Question, SlowStore, event_of, look, send, sent, soon, tools_of

import understudy.system as front
from understudy import (
    Agent,
    Approvals,
    Backoff,
    Budget,
    Loops,
    Restart,
    Route,
    Same,
    Supervisor,
    System,
    tool,
)
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.lifecycle import Exit
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest


def lead_and_helper(request: ChatRequest) -> ChatAnswer:
    """The helper sends a parcel first; the lead asks the helper, and whatever else it has."""
    results = told(request, "tool")
    if results:
        return answer(" | ".join(results))
    names = tools_of(request)
    if "send" in names:
        return calls(call("send", what="x"))
    return calls(call("helper", text="1"), *(call("slow", what="y") for _ in names[:-1]))


@pytest.mark.anyio
async def test_a_delegation_approved_while_another_call_of_the_batch_runs_still_comes_back() -> None:
    gate, slow_done = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        await gate.wait()
        slow_done.set()
        return what

    sent.clear()
    async with agent_on(lead_and_helper) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question, tools=[send])
        lead = Agent("lead", model=base.model, delegates=[helper], tools=[slow])
        async with System(Supervisor("desk", [helper, lead])) as system:
            parked = event_of(system, ev.Parked)
            ended = event_of(system, ev.Finished, 1)
            asking = asyncio.create_task(system.run(lead, "go"))
            await soon(parked.wait())
            await system.journal.barrier()
            await system.approve(system.approvals()[0], by="ana")
            await soon(ended.wait())  # the helper is done while `slow` still runs
            gate.set()
            result = await soon(asking)
    assert result.status == "complete"
    assert "sent x" in str(result.output)


@pytest.mark.anyio
async def test_a_yes_given_in_the_instant_of_parking_is_not_lost_on_the_one_who_delegated() -> None:
    sent.clear()
    async with agent_on(lead_and_helper) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question, tools=[send])
        lead = Agent("lead", model=base.model, delegates=[helper])
        async with System(Supervisor("desk", [helper, lead])) as system:
            answering: list[asyncio.Task[Any]] = []

            def at_once(record: ev.Record) -> None:
                if isinstance(record.event, ev.ApprovalAsked):
                    answering.append(asyncio.create_task(system.approve(record.event.approval, by="robot")))

            system.listen(at_once)
            run = await soon(system.run(lead, "go"))
            result = run if run.status != "waiting" else await soon(system.resume(run.run))
            await asyncio.gather(*answering)
    assert result.status == "complete"
    assert sent == ["x"]


@pytest.mark.anyio
async def test_two_delegations_deep_a_grandchild_that_waits_is_approved_and_everybody_goes_on() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results, names = told(request, "tool"), tools_of(request)
        if results:
            return answer(results[0])
        return calls(call("send", what="deep")) if names == ["send"] else calls(call(names[0], text="1"))

    sent.clear()
    store = MemoryStore()
    async with agent_on(policy) as base:
        low: Agent[Any, Question] = Agent("low", model=base.model, accepts=Question, tools=[send])
        mid: Agent[Any, Question] = Agent("mid", model=base.model, accepts=Question, delegates=[low])
        top = Agent("top", model=base.model, delegates=[mid])
        tree = Supervisor("desk", [low, mid, top])
        async with System(tree, journal=store) as system:
            waiting = await soon(system.run(top, "go"))
            assert waiting.status == "waiting"
        async with System(tree, journal=store) as system:
            await system.approve(system.approvals()[0], by="ana")
            result = await soon(system.resume(waiting.run))
            assert replay(await system.journal.read(waiting.run), system.tree.policies).identical
    assert result.status == "complete"
    assert sent == ["deep"]


@pytest.mark.anyio
async def test_an_approval_whose_caller_is_cancelled_still_lets_the_run_go_on() -> None:
    sent.clear()
    store = SlowStore()
    async with agent_on(script(calls(call("send", what="x")), answer("done")), [send]) as agent:
        async with System(agent, journal=store) as system:
            waiting = await soon(system.run(agent, "go"))
            given = event_of(system, ev.ApprovalGiven)
            store.gate.clear()
            approving = asyncio.create_task(system.approve(system.approvals()[0], by="ana"))
            await soon(given.wait())
            approving.cancel()
            await asyncio.wait([approving])
            store.gate.set()
            result = await soon(system.resume(waiting.run))
    assert result.status == "complete"
    assert sent == ["x"]


@pytest.mark.anyio
async def test_a_yes_given_twice_at_once_counts_once_and_the_second_is_told() -> None:
    sent.clear()
    async with agent_on(script(calls(call("send", what="x")), answer("done")), [send]) as agent:
        async with System(agent) as system:
            waiting = await soon(system.run(agent, "go"))
            asked = system.approvals()[0]
            answers = await asyncio.gather(
                system.approve(asked, by="ana"), system.refuse(asked, by="li"), return_exceptions=True
            )
            results = await asyncio.gather(*(soon(system.resume(waiting.run)) for _ in range(3)))
    assert [type(a).__name__ for a in answers] == ["str", "UsageError"]
    assert {r.status for r in results} == {"complete"}
    assert sent == ["x"]


@pytest.mark.anyio
async def test_a_sub_run_handed_to_the_agent_that_waits_for_it_ends_as_a_cycle() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        if results:
            return answer(results[0])
        return calls(call("helper", text="1")) if tools_of(request) else answer("back to you")

    async with agent_on(policy) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question, output=Answered)
        lead: Agent[Any, Answered] = Agent("lead", model=base.model, accepts=Answered, delegates=[helper])
        tree = Supervisor("desk", [helper, lead], routes=[Route(Answered, to=lead)])
        async with System(tree) as system:
            result = await soon(system.ref(lead).ask(Answered("go")))
            state = system.state(result.run)
    assert result.status == "partial"
    ended = state.subs[1].finished
    assert ended is not None
    assert "cycle" in ended.reason
    assert "desk/lead" in ended.reason


@pytest.mark.parametrize("cut_at", [ev.ModelAsked, ev.Finished, ev.Parked, ev.HandedOff])
@pytest.mark.anyio
async def test_an_incarnation_that_ends_during_a_commit_loses_no_run_and_no_reservation(cut_at: type) -> None:
    """Another run crashes the incarnation while this one waits for the disk."""
    sent.clear()

    def policy(request: ChatRequest) -> ChatAnswer:
        if cut_at is ev.Parked and tools_of(request) and not told(request, "tool"):
            return calls(call("send", what="x"))
        return answer("done")

    store = SlowStore()
    async with agent_on(policy) as base:
        kind: dict[str, Any] = {"output": Answered} if cut_at is ev.HandedOff else {}
        first: Agent[Any, Question] = Agent(
            "first", model=base.model, accepts=Question, tools=[send], concurrency=2, **kind
        )
        second: Agent[Any, Answered] = Agent("second", model=base.model, accepts=Answered)
        tree = Supervisor(
            "desk",
            [first, second],
            routes=[Route(Answered, to=second)],
            backoff=Backoff(first=0),
            budget=Budget(tokens=1_000_000, per="life"),
        )
        async with System(tree, journal=store) as system:

            def close(record: ev.Record) -> None:
                if isinstance(record.event, cut_at):
                    store.gate.clear()

            stop_listening = system.listen(close)
            seen = event_of(system, cut_at)
            asking = asyncio.create_task(system.ref(first).ask(Question("go")))
            await soon(seen.wait())
            stop_listening()
            cell = system.kernel.registry.find("desk/first")
            assert cell is not None
            again = event_of(system, ev.ChildStarted)
            system.kernel.leave(cell, Exit("error", "glass"))
            assert cell.life is not None
            system.kernel._endings.end_incarnation(cell, cell.life, Exit("error", "glass"))
            await soon(again.wait())
            store.gate.set()
            result = await soon(asking)
            if cut_at is ev.Parked:
                assert result.status == "waiting"
                await system.approve(result.pending[0], by="ana")
                result = await soon(system.resume(result.run))
            statement = system.ledger.statement("desk")
            assert replay(await system.journal.read(result.run), system.tree.policies).identical
    assert result.status == "complete", result.reason
    assert statement.reserved == {}


@pytest.mark.anyio
async def test_two_streams_at_once_each_give_their_own_run() -> None:
    async with agent_on(script(answer("x")), concurrency=2) as agent, System(agent) as system:

        async def read(task: str) -> tuple[set[str], str]:
            items = await _all(system.stream(agent, task))
            return {i.run for i in items[:-1]}, items[-1].run

        each = await soon(asyncio.gather(*(read(f"n{n}") for n in range(4))))
    assert [events == {run} for events, run in each] == [True] * 4


@pytest.mark.anyio
async def test_a_stream_that_nobody_reads_for_long_still_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "STREAMED", 10)
    each = [call("look", what=str(n)) for n in range(10)]
    async with agent_on(script(calls(*each), answer("x")), [look]) as agent, System(agent) as system:
        stream = system.stream(agent, "go")
        first = await anext(stream)
        await soon(system.runs.ended(first.run))
        for _ in range(5):
            await asyncio.sleep(0)
        rest = await soon(_all(stream))
    assert rest[-1].status == "complete"
    assert len(rest) <= 10


async def _all(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


class Names:
    """Names runs by these letters."""

    def __init__(self, letters: str) -> None:
        self.letters = iter(letters)

    def run(self) -> str:
        return next(self.letters)


@pytest.mark.anyio
async def test_a_restart_is_counted_in_the_run_that_looped_and_not_in_its_neighbour() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        asked = told(request, "user")
        if "good" in asked[0] or any("a former attempt got stuck" in text for text in asked):
            return answer("done")
        return calls(call("look", what="x"))

    for first, second in (("good", "bad"), ("bad", "good")):
        async with agent_on(policy, [look]) as agent:
            tree = Supervisor("desk", [agent], loops=Loops(Same(3), ladder=[Restart()]), backoff=Backoff(first=0))
            async with System(tree, ids=Names("ba" if first == "bad" else "ab")) as system:
                results = await soon(asyncio.gather(system.run(agent, first), system.run(agent, second)))
                counted = [system.state(r.run).restarts for r in results]
        assert counted == ([0, 1] if first == "good" else [1, 0])


@pytest.mark.anyio
async def test_a_journal_of_another_app_opens_and_its_runs_are_left_alone() -> None:
    store, gate = MemoryStore(), asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        await gate.wait()
        return what

    async with agent_on(script(calls(call("slow", what="x")), answer("done")), [slow]) as agent:
        async with System(agent, journal=store, grace=0.1) as system:
            asked = event_of(system, ev.ToolAsked)
            asking = asyncio.create_task(system.run(agent, "go"))
            await soon(asked.wait())
            run = system.unfinished()[0]
            await system.drain()
            await soon(asking)
        other = Agent("other", model=agent.model)
        async with System(other, journal=store) as system:
            assert system.unfinished() == [run]
        gate.set()
        async with System(agent, journal=store) as system:
            assert (await soon(system.resume(run))).status == "complete"


@pytest.mark.anyio
async def test_an_expired_question_of_a_parked_run_is_a_no_and_the_run_goes_on() -> None:
    sent.clear()
    clock = FakeClock()
    rule = Approvals(expires=60, by={"boss": ["ana"]})
    async with agent_on(script(calls(call("send", what="x")), answer("done")), [send], approvals=rule) as agent:
        async with System(agent, clock=clock) as system:
            waiting = await soon(system.run(agent, "go"))
            clock.now += 61
            await soon(system.runs.ended(waiting.run))
            assert (await system.result(waiting.run)).status == "complete"
    assert sent == []
