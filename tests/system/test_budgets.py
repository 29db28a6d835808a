"""Budgets as whole runs meet them: limits by tool, what is left, the last answer, delegation, windows, late bills."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from desks import FakeClock, agent_on, answer, call, calls, script, told
from reviews import Question, look, soon, tools_of

from understudy import Agent, Budget, Supervisor, System, Window, tool
from understudy.actors.agents.models import ModelRequest
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest, LostReply

pytestmark = pytest.mark.anyio


@tool(effect="irreversible")
async def pay(cents: int) -> str:
    """Pay."""
    return f"sent {cents}"


async def records_of(system: System, run: str) -> list[ev.Record]:
    await system.journal.barrier()
    return decode_rows(":memory:", await system.journal.store.read(run))


def events(records: list[ev.Record], kind: Any) -> list[Any]:
    return [record.event for record in records if isinstance(record.event, kind)]


def looking(last: Any = None) -> Callable[[ChatRequest], ChatAnswer]:
    """A model that looks for ever, each time at something else; without tools it says `last`."""

    def policy(request: ChatRequest) -> ChatAnswer:
        if not request.tools and last is not None:
            said: ChatAnswer = last  # or a fault
            return said
        return calls(call("look", what=str(len(told(request, "assistant")))))

    return policy


# -- by tool ---------------------------------------------------------------------------------------------------


@pytest.mark.promise(216)
async def test_one_tool_may_be_limited_by_its_name_and_the_limit_names_pool_and_tool() -> None:
    twice = script(calls(call("pay", cents=1)), calls(call("pay", cents=2)), answer("paid"))
    async with agent_on(twice, [pay, look], budget=Budget(tools={"pay": 1})) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
        done = [each.outcome for each in system.state(result.run).main.calls() if each.ok]
    assert (result.status, result.reason) == (
        "stopped",
        f"budget clerk@{result.run}: calls of pay used up (1 of 1 spent)",
    )
    assert done == ['"sent 1"']
    assert result.spend.tools == {"pay": 1}


async def test_a_batch_that_wants_more_of_one_tool_than_is_left_makes_none_of_its_calls() -> None:
    both = script(calls(call("look", what="a"), call("look", what="b"), call("look", what="c")), answer("x"))
    async with agent_on(both, [look], budget=Budget(tools={"look": 2})) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
    assert (result.status, result.spend.tool_calls) == ("stopped", 0)


def test_a_limit_for_a_tool_that_nobody_has_is_refused_at_start() -> None:
    agent: Agent[Any, Any] = Agent("a", model=Asked(), tools=[pay], budget=Budget(tools={"pya": 1}))
    with pytest.raises(SpecError, match=r"the budget of 'a' limits tool 'pya', which no agent has; the tools are: pay"):
        System(agent)


async def test_input_and_output_tokens_are_limited_apart() -> None:
    for budget, unit in ((Budget(input_tokens=60), "input tokens"), (Budget(output_tokens=100), "output tokens")):
        async with agent_on(script(answer("x")), budget=budget) as agent, System(agent) as system:
            result = await soon(system.run(agent, "go"))
        assert (result.status, unit in result.reason) == ("stopped", True), result.reason
    async with agent_on(script(answer("x"))) as agent, System(agent) as system:
        spend = (await soon(system.run(agent, "go"))).spend
    assert spend.tokens == spend.input_tokens + spend.output_tokens > spend.output_tokens > 0


# -- what is left ----------------------------------------------------------------------------------------------


@pytest.mark.promise(217)
async def test_an_agent_is_told_what_is_left_once_for_each_limit() -> None:
    seen: list[list[str]] = []

    def policy(request: ChatRequest) -> ChatAnswer:
        notes = [each for each in told(request, "user") if "are left in budget" in each]
        seen.append(notes)
        return looking()(request) if len(seen) < 5 else answer("done")

    async with agent_on(policy, [look], budget=Budget(steps=5, tool_calls=50)) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
        records = await records_of(system, result.run)
    assert result.status == "complete"
    assert [len(notes) for notes in seen] == [0, 0, 0, 0, 1]
    assert "1 of 5 steps are left in budget clerk@" in seen[-1][0]
    lows = events(records, ev.BudgetLow)
    assert [(low.unit, low.limit, low.spent) for low in lows] == [("steps", 5, 4)]
    assert replay(records, system.tree.policies).identical


async def test_each_delegate_is_told_of_a_pool_that_others_have_used() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        if "helper" in tools_of(request) and not told(request, "tool"):
            return calls(call("helper", text="1"))
        return answer("done")

    async with agent_on(policy) as base:
        helper: Agent[Any, Any] = Agent("helper", model=base.model, accepts=Question)
        lead = Agent("lead", model=base.model, delegates=[helper])
        tree = Supervisor("desk", [helper, lead], budget=Budget(steps=10, warn=0.1))
        async with System(tree) as system:
            result = await soon(system.run(lead, "go"))
            records = await records_of(system, result.run)
    assert [(record.sub, record.event.spent) for record in records if isinstance(record.event, ev.BudgetLow)] == [
        (1, 1),
        (0, 2),
    ]


@pytest.mark.parametrize("warn", [None, 1.0])
async def test_nobody_is_told_who_need_not_be(warn: float | None) -> None:
    budget = Budget(tool_calls=3, warn=warn)
    two = script(calls(call("look", what="a")), calls(call("look", what="b")), answer("done"))
    async with agent_on(two, [look], budget=budget) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
        assert events(await records_of(system, result.run), ev.BudgetLow) == []


# -- the last answer -------------------------------------------------------------------------------------------


@pytest.mark.promise(218)
async def test_at_the_limit_an_agent_answers_once_more_without_tools_and_is_partial() -> None:
    asked: list[ChatRequest] = []

    def policy(request: ChatRequest) -> ChatAnswer:
        asked.append(request)
        return looking(answer("half of it"))(request)

    async with agent_on(policy, [look], budget=Budget(steps=4, last_answer=2_000)) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
        records = await records_of(system, result.run)
        statement = system.ledger.statement(f"clerk@{result.run}")
    assert (result.status, result.output) == ("partial", agent.output.decode('{"text":"half of it"}'))
    assert result.reason == f"budget clerk@{result.run}: steps used up (3 of 4 spent)"
    assert [len(request.tools or ()) for request in asked] == [1, 1, 1, 0]
    assert "This is the last step, and no tool can be called" in told(asked[-1], "user")[-1]
    assert (statement.spent["steps"], statement.reserved) == (4, {})
    assert replay(records, system.tree.policies).identical


async def test_what_is_set_aside_is_reserved_from_the_first_step_and_returned_at_the_end() -> None:
    kept: list[Any] = []

    @tool(effect="read")
    async def peek() -> str:
        kept.append(system.ledger.statement(f"desk@{system.unfinished()[0]}").kept)
        return "seen"

    two = script(calls(call("peek")), answer("done"))
    async with agent_on(two, [peek]) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=9, tokens=9_000, usd=1.0, last_answer=1_000))
        async with System(tree) as system:
            result = await soon(system.run(agent, "go"))
            statement = system.ledger.statement(f"desk@{result.run}")
    assert kept == [{"steps": 1, "tokens": 1_000, "usd": 1125}]
    assert (result.status, statement.reserved, statement.kept) == ("complete", {}, {})


async def test_a_call_that_the_limit_refuses_is_told_as_not_made_before_the_last_answer() -> None:
    asked: list[ChatRequest] = []

    def policy(request: ChatRequest) -> ChatAnswer:
        asked.append(request)
        return looking(answer("one of two"))(request)

    budget = Budget(tool_calls=1, last_answer=2_000)
    async with agent_on(policy, [look], budget=budget) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
    assert result.status == "partial"
    assert told(asked[-1], "tool") == ['"saw 0"', "error: not made: the budget is used up"]


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (calls(call("look", what="more")), "the last answer is not valid: the answer is empty"),
        (ChatAnswer('{"no": 1}'), "the last answer is not valid: "),
        (LostReply(), "there is no last answer, model "),
    ],
)
async def test_a_last_answer_that_is_none_leaves_the_run_stopped_and_says_why(last: Any, why: str) -> None:
    async with agent_on(looking(last), [look], budget=Budget(steps=3, last_answer=2_000)) as agent:
        async with System(agent) as system:
            result = await soon(system.run(agent, "go"))
    assert (result.status, why in result.reason, "steps used up" in result.reason) == ("stopped", True, True)


async def test_a_request_that_does_not_fit_into_what_is_set_aside_is_not_made() -> None:
    async with agent_on(looking(answer("x")), [look], budget=Budget(steps=3, last_answer=64)) as agent:
        async with System(agent) as system:
            result = await soon(system.run(agent, "go"))
    assert (result.status, result.spend.steps) == ("stopped", 2)


async def test_a_run_that_is_parked_holds_nothing_and_sets_it_aside_again_when_it_goes_on() -> None:
    @tool(effect="irreversible", approve="boss")
    async def sign(what: str) -> str:
        return what

    def policy(request: ChatRequest) -> ChatAnswer:
        if not request.tools:
            return answer("signed once")
        return calls(call("sign", what=str(len(told(request, "assistant")))))

    async with agent_on(policy, [sign], budget=Budget(steps=3, tool_calls=1, last_answer=2_000)) as agent:
        async with System(agent) as system:
            result = await soon(system.run(agent, "go"))
            assert (result.status, system.ledger.statement(f"clerk@{result.run}").reserved) == ("waiting", {})
            await system.approve(system.approvals()[0], by="bo")
            await soon(system.runs.settled(result.run))
            await system.approve(system.approvals()[0], by="bo")
            result = await soon(system.resume(result.run))
    assert (result.status, "tool calls used up (1 of 1 spent)" in result.reason) == ("partial", True)


async def test_many_runs_that_set_aside_from_one_pool_never_wait_for_each_other() -> None:
    async with agent_on(looking(answer("x")), [look], concurrency=8) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=12, per="life", last_answer=2_000))
        async with System(tree) as system:
            results = await soon(asyncio.gather(*(system.run(agent, "go") for _ in range(8))))
            statement = system.ledger.statement("desk")
    assert {result.status for result in results} <= {"partial", "stopped"}
    assert "partial" in {result.status for result in results}
    assert statement.spent["steps"] == sum(result.spend.steps for result in results) <= 12
    assert statement.reserved == {}


# -- delegation ------------------------------------------------------------------------------------------------


def team(model: Any, budget: Budget) -> tuple[Supervisor, Agent[Any, Any]]:
    """`lead` delegates to `middle`, which delegates to `low`."""
    low: Agent[Any, Any] = Agent("low", model=model, accepts=Question)
    middle: Agent[Any, Any] = Agent("middle", model=model, accepts=Question, delegates=[low])
    lead = Agent("lead", model=model, delegates=[middle])
    return Supervisor("desk", [low, middle, lead], budget=budget), lead


def handing_down(request: ChatRequest) -> ChatAnswer:
    names = tools_of(request)
    return calls(call(names[0], text="go")) if names and not told(request, "tool") else answer("done")


@pytest.mark.promise(219)
@pytest.mark.parametrize(("depth", "subs"), [(0, 1), (1, 2), (2, 3)])
async def test_delegations_are_nested_no_deeper_than_the_budget_says(depth: int, subs: int) -> None:
    async with agent_on(handing_down) as base:
        tree, lead = team(base.model, Budget(depth=depth))
        async with System(tree) as system:
            result = await soon(system.run(lead, "go"))
            state = system.state(result.run)
    refused = [each.outcome for sub in state.subs.values() for each in sub.calls() if each.kind == "budget"]
    wanted = f"refused: budget desk@{result.run}: delegations are nested {depth} deep at most"
    assert (result.status, len(state.subs), refused) == ("complete", subs, [wanted] if depth < 2 else [])


async def test_depth_is_counted_from_the_first_that_the_budget_is_for() -> None:
    async with agent_on(handing_down) as base:
        low: Agent[Any, Any] = Agent("low", model=base.model, accepts=Question)
        middle: Agent[Any, Any] = Agent(
            "middle", model=base.model, accepts=Question, delegates=[low], budget=Budget(depth=1)
        )
        lead = Agent("lead", model=base.model, delegates=[middle])
        async with System(Supervisor("desk", [low, middle, lead])) as system:
            result = await soon(system.run(lead, "go"))
            assert (result.status, len(system.state(result.run).subs)) == ("complete", 3)


@pytest.mark.promise(219)
async def test_one_agent_delegates_no_more_often_than_the_budget_says_and_goes_on() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        if "middle" not in tools_of(request) or len(told(request, "tool")) >= 3:
            return answer("done")
        return calls(*(call("middle", text=str(n)) for n in range(3)))

    async with agent_on(policy) as base:
        tree, lead = team(base.model, Budget(fan_out=2))
        async with System(tree) as system:
            result = await soon(system.run(lead, "go"))
            main = system.state(result.run).main
            records = await records_of(system, result.run)
    wanted = f"refused: budget desk@{result.run}: one agent delegates 2 times at most in a request"
    assert [each.outcome for each in main.calls() if not each.ok] == [wanted]
    assert (result.status, main.children) == ("complete", 2)
    assert replay(records, system.tree.policies).identical


# -- windows ---------------------------------------------------------------------------------------------------


@pytest.mark.promise(220)
async def test_a_window_counts_over_runs_and_processes_and_frees_with_time() -> None:
    store, clock = MemoryStore(), FakeClock()
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=2, per=Window(3_600)))
        async with System(tree, journal=store, clock=clock) as system:
            statuses = []
            for _ in range(3):
                statuses.append((await soon(system.run(agent, "go"))).status)
                clock.now += 1_000
        async with System(tree, journal=store, clock=clock) as system:
            statuses.append((await soon(system.run(agent, "go"))).status)
            clock.now += 700
            statuses.append((await soon(system.run(agent, "go"))).status)
        clock.now += 3_700
        async with System(tree, journal=store, clock=clock) as system:
            statuses.append((await soon(system.run(agent, "go"))).status)
    assert statuses == ["complete", "complete", "stopped", "stopped", "complete", "complete"]


async def test_a_call_waits_for_a_window_that_lets_it() -> None:
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=1, per=Window(0.5, wait=True)))
        async with System(tree) as system:
            began = asyncio.get_running_loop().time()
            results = [await soon(system.run(agent, "go")) for _ in range(3)]
            took = asyncio.get_running_loop().time() - began
    assert [result.status for result in results] == ["complete"] * 3
    assert took >= 1.0


# -- late bills ------------------------------------------------------------------------------------------------


@pytest.mark.promise(221)
async def test_an_estimate_is_corrected_once_also_in_the_next_process() -> None:
    store = MemoryStore()
    losing = [LostReply(), answer("x")]
    async with agent_on(lambda request: losing.pop(0)) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(tokens=50_000, per="life"))
        async with System(tree, journal=store) as system:
            result = await soon(system.run(agent, "go"))
            (estimate,) = await system.estimates(result.run)
            before = system.ledger.statement("desk").spent["tokens"]
        assert result.spend.estimated
        async with System(tree, journal=store) as system:
            assert system.ledger.statement("desk").spent["tokens"] == before
            await system.correct(result.run, estimate.ticket, input_tokens=30, output_tokens=5)
            wanted = before - estimate.spent["tokens"] + 35
            assert system.ledger.statement("desk").spent["tokens"] == wanted
            spend = (await system.result(result.run)).spend
            assert (spend.tokens, spend.estimated) == (wanted, False)
            with pytest.raises(UsageError, match="has no estimated call"):
                await system.correct(result.run, estimate.ticket, input_tokens=30, output_tokens=5)
        async with System(tree, journal=store) as system:
            assert system.ledger.statement("desk").spent["tokens"] == wanted


async def test_a_correction_above_the_cap_is_overspend_in_this_process_and_the_next() -> None:
    store = MemoryStore()
    losing = [LostReply(), answer("x")]
    async with agent_on(lambda request: losing.pop(0)) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(tokens=50_000, per="life"))
        async with System(tree, journal=store) as system:
            run = (await soon(system.run(agent, "go"))).run
            (estimate,) = await system.estimates(run)
            cap = estimate.spent["tokens"]
            await system.correct(run, estimate.ticket, input_tokens=cap, output_tokens=7)
            first = system.ledger.statement("desk")
        async with System(tree, journal=store) as system:
            assert system.ledger.statement("desk") == first
    assert (first.closed, first.over) == (True, {"tokens": 7})


class Asked:
    """A model that is never asked."""

    name, price = "asked", None

    def session(self) -> Any:
        raise NotImplementedError

    async def complete(self, request: ModelRequest, *, timeout: float) -> Any:
        raise NotImplementedError


# -- cost ------------------------------------------------------------------------------------------------------


async def test_pools_and_deadline_of_a_run_are_found_once_however_many_steps_it_takes() -> None:
    asked: list[str] = []

    class Counted(Budget, frozen=True):
        def pool(self, owner: str, run: str) -> Any:
            asked.append(run)
            return super().pool(owner, run)

    budget = Counted(steps=30, seconds=60)
    many = script(*(calls(call("look", what=str(n))) for n in range(12)), answer("done"))
    async with agent_on(many, [look], budget=budget) as agent, System(agent) as system:
        result = await soon(system.run(agent, "go"))
    assert (result.status, result.spend.steps) == ("complete", 13)
    assert asked.count(result.run) == 1


async def test_who_waits_for_room_gets_it_in_turn_and_a_settlement_wakes_one() -> None:
    woken: list[int] = []
    async with agent_on(script(answer("x"))) as agent, System(agent) as system:
        books = system.runs

        async def wait(number: int) -> None:
            await books.room("pool", 60.0)
            woken.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
        for expected in ([0], [0, 2], [0, 2]):
            books.pass_on("pool")
            for _ in range(5):
                await asyncio.sleep(0)
            assert woken == expected
    assert books._waiting == {}
