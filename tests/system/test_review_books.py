"""Budgets and seconds over runs, breaches and processes, and ends that nobody expects."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import acted
import pytest
from acted import Acted
from desks import Answer, agent_on, answer, call, calls, make_agent, script, told
from msgspec import Struct
from reviews import OK, Question, Strange, event_of, look, soon, tools_of

from understudy import (
    Agent,
    Backoff,
    Budget,
    Loops,
    Restart,
    Same,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents import runs as runs_module
from understudy.actors.agents.models import ModelReply, ToolCall, Usage
from understudy.actors.errors import JournalFailed, Overloaded, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.store import MemoryStore
from understudy.actors.lifecycle import Exit
from understudy.actors.testing import simloop
from understudy.actors.testing.simloop import SimClock
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest


@pytest.mark.anyio
async def test_a_pool_per_life_outlives_the_runs_that_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "KEPT", 0)
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=3, per="life"))
        async with System(tree) as system:
            statuses = [(await soon(system.run(agent, "go"))).status for _ in range(5)]
    assert statuses == ["complete"] * 3 + ["stopped"] * 2


@pytest.mark.anyio
async def test_a_run_that_took_longest_is_still_there_for_its_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "KEPT", 1)
    gate = asyncio.Event()
    started = asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        started.set()
        await gate.wait()
        return what

    def policy(request: ChatRequest) -> ChatAnswer:
        quick = "quick" in told(request, "user")[0] or told(request, "tool")
        return answer("done") if quick else calls(call("slow", what="x"))

    async with agent_on(policy, [slow], concurrency=2) as agent, System(agent) as system:
        asking = asyncio.create_task(system.run(agent, "slow one"))
        await soon(started.wait())
        for _ in range(3):
            await soon(system.run(agent, "quick"))
        gate.set()
        assert (await soon(asking)).status == "complete"


@pytest.mark.anyio
async def test_going_on_with_a_run_of_a_former_process_books_its_spend_once() -> None:
    store = MemoryStore()
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=10, per="life"))
        async with System(tree, journal=store) as system:
            run = (await soon(system.run(agent, "go"))).run
        async with System(tree, journal=store) as system:
            assert (await soon(system.resume(run))).status == "complete"
            assert system.ledger.statement("desk").spent["steps"] == 1


@pytest.mark.anyio
async def test_what_was_in_flight_at_a_crash_is_spent_before_anybody_spends_again() -> None:
    """The call's cap counts from the first moment of the next process, also while its run still waits its turn."""
    store = MemoryStore()
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(model_calls=5, per="life"))
        async with System(tree, journal=store) as system:
            run = (await soon(system.run(agent, "go"))).run
        await store.open()
        rows = await store.read(run)
        asked = next(r.seq for r in decode_rows(":memory:", rows) if isinstance(r.event, ev.ModelAsked))
        cut = MemoryStore()
        await cut.open()
        await cut.write(rows[:asked], [1.0] * asked)
        async with System(tree, journal=cut) as system:
            assert system.ledger.statement("desk").spent == {"model_calls": 1}
            await soon(system.resume(run))
            state = system.state(run)
            booked = system.ledger.statement("desk").spent
    assert booked["model_calls"] == state.spend.model_calls == 2


@pytest.mark.anyio
async def test_a_breached_pool_stays_closed_in_the_next_process_and_says_why() -> None:
    store = MemoryStore()
    big = ModelReply('{"text":"fine"}', usage=Usage(50_000, 50_000))
    agent = Agent("clerk", model=Strange(big), output=Answer)
    tree = Supervisor("desk", [agent], budget=Budget(tokens=1_000_000, per="life"))
    async with System(tree, journal=store) as system:
        await soon(system.run(agent, "go"))
        assert system.ledger.statement("desk").closed
    async with System(tree, journal=store) as system:
        assert system.ledger.statement("desk").closed
        result = await soon(system.run(agent, "go"))
    assert result.status == "stopped"
    assert "desk" in result.reason
    assert "more tokens were billed" in result.reason


def test_seconds_are_a_deadline_also_in_the_back_off_of_a_supervisor() -> None:
    agent = Agent("clerk", model=Acted(acted.script(acted.calls(acted.call("look", what="x")))), tools=[look])
    loops = Loops(Same(3), ladder=[Restart()])
    backoff = Backoff(first=600, cap=600)
    tree = Supervisor("desk", [agent], loops=loops, backoff=backoff, budget=Budget(seconds=100, steps=50))

    async def main() -> tuple[Any, float]:
        async with System(tree, clock=SimClock(), grace=1) as system:
            result = await system.run(agent, "go", timeout=1_000)
            return result, asyncio.get_running_loop().time()

    result, seconds = simloop.run(main)
    assert result.status == "stopped"
    assert "seconds used up" in result.reason
    assert 100 <= seconds < 105


def test_leaving_during_a_models_back_off_does_not_wait_for_it() -> None:
    agent = Agent("clerk", model=Acted(lambda request: Overloaded("503", retry_after=30.0)))

    async def main() -> tuple[Any, float]:
        async with System(agent, clock=SimClock(), grace=8) as system:
            failed = event_of(system, ev.ModelFailed)
            asking = asyncio.create_task(system.run(agent, "go"))
            await failed.wait()
            await system.drain()
            return await asking, asyncio.get_running_loop().time()

    result, seconds = simloop.run(main)
    assert result.status == "waiting"
    assert result.reason.startswith("waits for shutdown")
    assert seconds < 2


def test_two_owners_of_budgets_with_one_name_are_refused_at_start() -> None:
    agent = make_agent("http://127.0.0.1:9/v1", budget=Budget(steps=1))
    with pytest.raises(SpecError, match="clerk"):
        System(Supervisor("clerk", [agent], budget=Budget(steps=5)))


@pytest.mark.anyio
async def test_a_tool_that_ignores_its_end_does_not_keep_its_run_from_the_next_incarnation() -> None:
    starts = [asyncio.Event(), asyncio.Event()]
    let_go = asyncio.Event()

    @tool(effect="read", timeout=60)
    async def deaf(what: str) -> str:
        if starts[0].is_set():
            starts[1].set()
            return "heard"
        starts[0].set()
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()
        return "too late"

    async with agent_on(script(calls(call("deaf", what="x")), answer("done")), [deaf], concurrency=2) as agent:
        tree = Supervisor("desk", [agent], backoff=Backoff(first=0))
        async with System(tree, grace=0.1) as system:
            asking = asyncio.create_task(system.run(agent, "go"))
            await soon(starts[0].wait())
            cell = system.kernel.registry.find("desk/clerk")
            assert cell is not None
            assert cell.life is not None
            system.kernel._endings.end_incarnation(cell, cell.life, Exit("error", "glass"))
            await soon(starts[1].wait())
            result = await soon(asking)
            outcomes = [c.outcome for c in system.state(result.run).main.calls()]
            let_go.set()
    assert (result.status, outcomes) == ("complete", ['"heard"'])


def test_a_stop_asked_for_in_a_models_back_off_spends_nothing_more() -> None:
    failing: list[Any] = [Overloaded("503", retry_after=0.3), acted.words("late")]
    agent = Agent("clerk", model=Acted(lambda request: failing.pop(0)))

    async def main() -> Any:
        async with System(agent, clock=SimClock()) as system:
            failed = event_of(system, ev.ModelFailed)
            asking = asyncio.create_task(system.run(agent, "go"))
            await failed.wait()
            run = system.unfinished()[0]
            asking.cancel()
            await system.runs.ended(run)
            return await system.result(run)

    result = simloop.run(main)
    assert (result.status, result.reason, result.spend.model_calls) == ("stopped", "abandoned", 1)


@pytest.mark.anyio
async def test_more_than_the_cap_is_told_as_spent_when_no_pool_limits_it() -> None:
    big = ModelReply('{"text":"fine"}', usage=Usage(50_000, 50_000))
    agent = Agent("clerk", model=Strange(big), output=Answer)
    tree = Supervisor("desk", [agent], budget=Budget(steps=5))
    async with System(tree) as system:
        result = await soon(system.run(agent, "go"))
    assert result.spend.tokens == 100_000


@pytest.mark.anyio
async def test_a_breach_that_leaves_an_answer_is_named_and_the_next_call_is_refused() -> None:
    big = ModelReply("", (ToolCall("1", "look", '{"what":"x"}'),), usage=Usage(50_000, 50_000))
    agent = Agent("clerk", model=Strange(big, OK), output=Answer, tools=[look])
    async with System(Supervisor("desk", [agent], budget=Budget(tokens=1_000_000))) as system:
        result = await soon(system.run(agent, "go"))
        state = system.state(result.run)
    assert result.status == "stopped"
    assert "closed, since more tokens were billed" in result.reason
    assert state.over[f"desk@{result.run}"]["tokens"] + result.spend.tokens == 100_000


@pytest.mark.anyio
async def test_sub_runs_that_wait_for_each_others_reservations_all_get_their_turn() -> None:
    """The pool has room for one call's cap at a time; what is billed is far less."""

    def policy(request: ChatRequest) -> ChatAnswer:
        if not request.tools or told(request, "tool"):
            return answer("done")
        return calls(*(call("helper", text=str(n)) for n in range(6)))

    async with agent_on(policy) as base:
        helper: Agent[Any, Question] = Agent(
            "helper", model=base.model, accepts=Question, concurrency=6, max_tokens=5_000
        )
        lead = Agent("lead", model=base.model, delegates=[helper])
        async with System(Supervisor("desk", [helper, lead], budget=Budget(tokens=9_000))) as system:
            result = await soon(system.run(lead, "go"))
            statement = system.ledger.statement(f"desk@{result.run}")
    assert result.status == "complete", result.reason
    assert statement.reserved == {}


@pytest.mark.anyio
async def test_an_answer_of_a_type_that_has_changed_since_is_given_as_it_was_kept() -> None:
    class Newer(Struct, frozen=True):
        words: list[str]

    store = MemoryStore()
    async with agent_on(script(answer("x"))) as agent:
        async with System(agent, journal=store) as system:
            run = (await soon(system.run(agent, "go"))).run
        newer = Agent("clerk", model=agent.model, output=Newer)
        async with System(newer, journal=store) as system:
            assert (await soon(system.resume(run))).output == {"text": "x"}


class FailingLater(MemoryStore):
    """A store that fails when told to."""

    broken = False

    async def write(self, rows: Any, at: Any) -> None:
        if self.broken:
            raise JournalFailed(self.path, "no space left on device")
        await super().write(rows, at)


@pytest.mark.anyio
async def test_a_disk_that_fails_while_a_delegation_runs_fails_the_asker_and_the_system_can_be_left() -> None:
    store, gate = FailingLater(), asyncio.Event()

    @tool(effect="idempotent")
    async def slow(what: str) -> str:
        await gate.wait()
        return what

    def policy(request: ChatRequest) -> ChatAnswer:
        if told(request, "tool"):
            return answer("done")
        name = tools_of(request)[0]
        return calls(call(name, what="x") if name == "slow" else call("helper", text="1"))

    async with agent_on(policy) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question, tools=[slow])
        lead = Agent("lead", model=base.model, delegates=[helper])
        with contextlib.suppress(JournalFailed):
            async with System(Supervisor("desk", [helper, lead]), journal=store, grace=0.1) as system:
                asked = event_of(system, ev.ToolAsked, 1)
                asking = asyncio.create_task(system.run(lead, "go"))
                await soon(asked.wait())
                await system.journal.barrier()
                store.broken = True
                gate.set()
                with pytest.raises(JournalFailed):
                    await soon(asking)
                await soon(system.__aexit__(None, None, None))
