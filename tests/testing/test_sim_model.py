"""A simulated model finishes by itself, says what was drawn for it, and fails as planned, in whole runs."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import itertools
import json
from enum import StrEnum
from typing import Annotated, Any, cast

import msgspec
import pytest
import refunds
from desks import Answer
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct
from providers import SCHEMA, WEATHER, say

from understudy import (
    Agent,
    Budget,
    Message,
    Result,
    Route,
    State,
    StateMachine,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, input_cap
from understudy.actors.errors import ModelError, ModelTimeout, ModelUnreachable, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing import model_faults as mf
from understudy.actors.testing.recast import Recast
from understudy.actors.testing.sim_model import LATENCY, SimModel, near_misses
from understudy.actors.testing.simloop import SimClock, run
from understudy.actors.testing.values import fits

INTS = st.lists(st.integers(0, 200), max_size=30).map(tuple)


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return what


@tool(effect="idempotent")
async def put(what: str, count: Annotated[int, Meta(ge=1, le=9)]) -> str:
    """Put."""
    return what * count


def clerk(model: SimModel, **options: Any) -> Agent[Answer, Any]:
    return Agent("clerk", model=model, tools=[look, put], output=Answer, **options)


async def served(root: Any, task: Any = "go", agent: Any = None) -> tuple[Result[Any], list[Any]]:
    async with System(root, journal=MemoryStore(), clock=SimClock()) as system:
        result = await (system.run(root, task) if agent is None else system.ref(agent).ask(task, timeout=3_000))
        return result, [record.event for record in await system.journal.read(result.run)]


def ran(model: SimModel, **options: Any) -> tuple[Result[Any], list[Any]]:
    return run(lambda: served(clerk(model, **options)))


def replies(request: ModelRequest, *, says: tuple[int, ...] = (), count: int = 1, **options: Any) -> list[ModelReply]:
    model = SimModel("a", says=says, **options)

    async def main() -> list[ModelReply]:
        async with model.session() as session:
            return [await session.complete(request, timeout=60) for _ in range(count)]

    return run(main)


# --- the straight way --------------------------------------------------------------------------------------


@pytest.mark.promise(154)
def test_without_decisions_it_answers_at_once_with_the_simplest_output() -> None:
    model = SimModel("clerk")
    result, _ = ran(model)
    assert (result.status, result.output, model.calls) == ("complete", Answer("a"), 1)


@pytest.mark.promise(154)
def test_an_agent_that_answers_in_words_gets_words() -> None:
    result, _ = run(lambda: served(Agent("clerk", model=SimModel("clerk"))))
    assert (result.status, result.output) == ("complete", "Done.")


@pytest.mark.promise(154)
def test_without_decisions_a_machine_is_walked_to_its_end() -> None:
    agent = Agent("refunds", model=SimModel("refunds", machine=True), machine=refunds.make_machine())
    result, events = run(lambda: served(agent))
    assert result.status == "complete"
    assert [event.event for event in events if isinstance(event, ev.Moved) and event.event] == ["owed", "sent"]


@pytest.mark.promise(154)
def test_a_machine_whose_first_event_leads_round_is_left_all_the_same() -> None:
    class S(StrEnum):
        A = "a"
        B = "b"
        END = "end"

    class E(StrEnum):
        ROUND = "round"
        BACK = "back"
        ON = "on"

    machine = StateMachine(
        S.A,
        {
            S.A: State(on={E.ROUND: S.A, E.ON: S.B}),
            S.B: State(on={E.BACK: S.A, E.ROUND: S.B, E.ON: S.END}),
            S.END: State(),
        },
    )
    agent = Agent(
        "walker", model=SimModel("walker", machine=True), machine=machine, loops=None, budget=Budget(steps=40)
    )
    result, _ = run(lambda: served(agent))
    assert result.status == "complete"


@pytest.mark.promise(154)
def test_where_only_time_leads_on_it_waits_for_the_state_to_time_out() -> None:
    class S(StrEnum):
        WATCH = "watch"
        END = "end"

    machine: Any = StateMachine(S.WATCH, {S.WATCH: State(tools=[look], timeout=(60, S.END)), S.END: State()})
    model = SimModel("watcher", machine=True)
    result, _ = run(lambda: served(Agent("watcher", model=model, machine=machine)))
    assert (result.status, model.calls) == ("complete", 1)


class Ask(Message[Result[Answer]]):
    text: str


class Redo(Message[Result[Answer]]):
    text: str


@pytest.mark.promise(154)
def test_outputs_that_lead_back_take_turns_with_those_that_end() -> None:
    asks = Agent("writer", model=SimModel("writer"), accepts=Ask, output=Redo)
    checks = Agent("checker", model=SimModel("checker"), accepts=Redo, output=Ask | Answer)
    desk = Supervisor("desk", [asks, checks], routes=[Route(Ask, to=asks), Route(Redo, to=checks)])
    result, _ = run(lambda: served(desk, Ask("go"), asks))
    assert (result.status, result.output) == ("complete", Answer("a"))


# --- what was drawn ----------------------------------------------------------------------------------------


@pytest.mark.promise(154)
@settings(max_examples=25)
@given(says=INTS)
def test_whatever_is_drawn_a_run_ends_and_the_tools_get_arguments_that_fit(says: tuple[int, ...]) -> None:
    model = SimModel("clerk", says=says)
    result, events = ran(model, loops=None, budget=None, repairs=40)
    assert result.status == "complete"
    assert not [event for event in events if isinstance(event, ev.ToolRejected)]


@settings(max_examples=20)
@given(says=INTS)
def test_whatever_is_drawn_a_machine_agent_ends(says: tuple[int, ...]) -> None:
    agent = Agent(
        "refunds",
        model=SimModel("refunds", says=says, machine=True),
        machine=refunds.make_machine(check=300, paying=300),
        repairs=40,
        loops=None,
    )
    result, _ = run(lambda: _approved(agent))
    assert result.status in ("complete", "stopped")


async def _approved(agent: Agent[Any, Any]) -> tuple[Result[Any], None]:
    async with System(agent, journal=MemoryStore(), clock=SimClock()) as system:
        result = await system.run(agent, "go")
        while result.status == "waiting":
            for approval in system.approvals():
                await system.approve(approval.id, by="ana")
            for doubt in system.doubts():
                await system.settle(doubt.id, did=False, by="ana")
            result = await system.resume(result.run)
        return result, None


@settings(max_examples=25)
@given(says=INTS, text=st.text(max_size=50), limit=st.integers(1, 60), tools=st.booleans())
def test_what_it_counts_stays_within_the_caps_of_the_call(
    says: tuple[int, ...], text: str, limit: int, tools: bool
) -> None:
    request = say(text, tools=(WEATHER,) if tools else (), output_schema=SCHEMA, max_tokens=limit)
    for reply in replies(request, says=says, count=4):
        assert reply.usage is not None
        assert 0 < reply.usage.input_tokens <= input_cap(request)
        assert 0 <= reply.usage.output_tokens <= limit
        assert (reply.finish == "length") or fits_some(reply)


def fits_some(reply: ModelReply) -> bool:
    if reply.calls:
        return all(fits(SCHEMA, json.loads(call.arguments)) for call in reply.calls)
    return reply.content == "Let me think about it." or fits(SCHEMA, json.loads(reply.content))


def test_the_same_decisions_say_the_same() -> None:
    request = say("Order 1042", tools=(WEATHER,), output_schema=SCHEMA)
    says = (2, 1, 0, 0, 5, 3, 1)
    assert replies(request, says=says, count=5) == replies(request, says=says, count=5)


def test_decisions_that_are_used_up_and_zeros_are_the_same() -> None:
    request = say("Order 1042", tools=(WEATHER,), output_schema=SCHEMA)
    assert replies(request, count=3) == replies(request, says=(0,) * 20, count=3)


def test_arguments_may_copy_a_word_of_the_conversation() -> None:
    request = say("Where is order 1042?", tools=(WEATHER,))
    found = {replies(request, says=(1, n))[0].calls[0].arguments for n in range(10)}
    assert '{"id": "1042"}' in found


# --- faults ------------------------------------------------------------------------------------------------


def test_a_call_takes_virtual_time_and_is_kept_for_reports() -> None:
    model = SimModel("clerk", faults=[mf.SlowTokens("clerk", 1, seconds=20), mf.RateLimited("other", 1)])
    ran(model)
    (said,) = model.said
    assert said.done is not None
    assert said.done - said.began == pytest.approx(20 + LATENCY)
    assert (said.agent, said.call, said.faults, model.fired) == ("clerk", 1, (model.fired[0],), model.fired)
    assert said.reply is not None
    assert said.reply.usage == said.billed


def test_a_pause_that_the_provider_asks_for_is_kept_and_the_same_is_said_after_it() -> None:
    plain, planned = (
        SimModel("clerk", says=(1, 1)),
        SimModel("clerk", says=(1, 1), faults=[mf.RateLimited("clerk", 1, retry_after=20)]),
    )
    ran(plain)
    ran(planned)
    assert planned.said[1].began - planned.said[0].began == pytest.approx(20 + LATENCY, abs=0.01)
    assert [said.reply and said.reply.content for said in plain.said] == [
        said.reply and said.reply.content for said in list(planned.said)[1:]
    ]


@pytest.mark.parametrize(
    "fault", [mf.CutStream("clerk", 1), mf.ModelReplyLost("clerk", 1), mf.SlowTokens("clerk", 1, seconds=500)], ids=repr
)
def test_an_answer_that_is_lost_is_billed_and_said_again(fault: mf.ModelFault) -> None:
    model = SimModel("clerk", says=(1, 0), faults=[fault])
    result, events = ran(model)
    assert result.status == "complete"
    lost, again, _ = model.said
    assert lost.billed == again.billed
    assert lost.reply is None
    assert [call.name for call in again.reply.calls] == ["look"] if again.reply else False
    (failed,) = [event for event in events if isinstance(event, ev.ModelFailed)]
    assert failed.estimated


def test_calls_are_counted_over_sessions_and_loops() -> None:
    model = SimModel("clerk", faults=[mf.EmptyAnswer("clerk", 2)])
    for _ in range(3):
        ran(model)
    assert [said.call for said in model.said] == [1, 2, 3, 4]
    assert model.fired == [mf.EmptyAnswer("clerk", 2)]


def test_the_same_answer_for_ever_is_a_loop_that_the_guard_ends() -> None:
    result, events = ran(SimModel("clerk", faults=[mf.RepeatOutput("clerk", 1)]))
    assert result.status == "stopped"
    assert [event.verdict.rule for event in events if isinstance(event, ev.Judged)]


def test_an_unknown_tool_is_near_a_real_one_and_has_no_effect() -> None:
    result, events = ran(SimModel("clerk", faults=[mf.UnknownTool("clerk", 1, way=1)]))
    (rejected,) = [event for event in events if isinstance(event, ev.ToolRejected)]
    assert (rejected.name, result.status) == ("looks", "complete")
    assert "look" not in near_misses(["look", "loo"])
    assert near_misses([]) == ["search"]


@settings(max_examples=20)
@given(way=st.integers(0, 100), called=st.booleans())
def test_a_wrong_schema_is_handed_back_to_the_model(way: int, called: bool) -> None:
    class Closed(Struct, forbid_unknown_fields=True):
        text: str

    model = SimModel("clerk", says=(1, 1) if called else (), faults=[mf.WrongSchema("clerk", 1, way=way)])
    agent = Agent("clerk", model=model, tools=[look, put], output=Closed)
    result, events = run(lambda: served(agent))
    refused = [event for event in events if isinstance(event, ev.ToolRejected | ev.OutputRejected)]
    assert len(refused) == 1
    assert result.status == "complete"
    assert model.fired


@pytest.mark.parametrize("says", [(), (1, 1), (3,)], ids=["finish", "call", "talk"])
def test_any_two_faults_of_one_call_go_together(says: tuple[int, ...]) -> None:
    request = say("hello", tools=(WEATHER,), output_schema=SCHEMA)
    for one, other in itertools.product(mf.KINDS, repeat=2):
        model = SimModel("a", says=says, faults=cast("Any", [one("a", 1), other("a", 1)]))
        run(functools.partial(_heard, model, request))
        assert model.fired


async def _heard(model: SimModel, request: ModelRequest) -> None:
    async with model.session() as session:
        with contextlib.suppress(ModelError):
            await session.complete(request, timeout=5)


def test_a_fault_that_cannot_happen_does_not_count_as_fired() -> None:
    model = SimModel("a", faults=[mf.WrongSchema("a", 1), mf.MalformedJSON("a", 1)])

    async def main() -> ModelReply:
        async with model.session() as session:
            return await session.complete(say("hello"), timeout=5)

    assert run(main).content == "Done."
    assert model.fired == []


def test_usage_above_the_cap_closes_the_budget() -> None:
    model = SimModel("clerk", says=(1,), faults=[mf.OverReported("clerk", 1)])
    result, events = ran(model, budget=Budget(tokens=100_000))
    assert [event for event in events if isinstance(event, ev.BudgetBreached)]
    assert result.status == "stopped"


def test_a_refusal_is_told_as_one() -> None:
    (reply,) = replies(say("hello", output_schema=SCHEMA), faults=[mf.Refusal("a", 1)])
    assert (reply.finish, reply.content) == ("refusal", "I cannot help with that.")


def test_a_closed_session_reaches_nobody() -> None:
    async def main() -> None:
        async with SimModel("a").session() as session:
            pass
        with pytest.raises(ModelUnreachable) as caught:
            await session.complete(say("hello"), timeout=5)
        assert not caught.value.sent

    run(main)


def test_a_deadline_before_the_answer_is_a_timeout_at_the_deadline() -> None:
    async def main() -> float:
        async with SimModel("a").session() as session:
            with pytest.raises(ModelTimeout):
                await session.complete(say("hello"), timeout=0.05)
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(0.05)


def test_a_latency_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"SimModel\('a'\): latency -1"):
        SimModel("a", latency=-1)


# --- copies of agents --------------------------------------------------------------------------------------


def test_a_recast_agent_keeps_everything_but_its_model_and_tools() -> None:
    helper = Agent("helper", model=SimModel("x"), output=Answer)
    chief = Agent("chief", model=SimModel("x"), tools=[look], delegates=[helper], output=Answer, max_tokens=77)
    made: list[str] = []

    def copy_of(each: Any) -> Any:
        made.append(each.name)
        return plain_copy(each)

    recast = Recast(model=lambda agent: SimModel(agent.name), tool=copy_of)
    ours = recast.agent(chief)
    assert ours.delegates == (recast.agent(helper),)
    assert (ours.max_tokens, ours.name, ours.model.name, chief.model.name) == (77, "chief", "chief", "x")
    assert chief.tools == (look,)
    assert ours.tools != (look,)
    assert made == ["look"]
    result, _ = run(lambda: served(Supervisor("desk", [ours, recast.agent(helper)]), "go", ours))
    assert result.status == "complete"


def plain_copy(each: Any) -> Any:
    return copy.copy(each)


def test_a_recast_machine_offers_the_copied_tools() -> None:
    agent = Agent("refunds", model=SimModel("x"), machine=refunds.make_machine(), tools=[refunds.now])
    ours = Recast(model=lambda each: SimModel(each.name, machine=True), tool=plain_copy).agent(agent)
    assert {each.name for each in ours.all_tools} == {each.name for each in agent.all_tools}
    assert not set(map(id, ours.all_tools)) & set(map(id, agent.all_tools))
    result, _ = run(lambda: served(ours))
    assert result.status == "complete"


def test_a_schema_that_nothing_is_known_for_is_named_before_the_world_begins() -> None:
    @tool(effect="read")
    async def odd(code: Annotated[str, Meta(pattern=r"^(?=b)a$")]) -> str:
        return code

    agent = Agent("clerk", model=SimModel("x"), tools=[odd])
    with pytest.raises(UsageError, match=r"agent 'clerk', tool 'odd': \$\.code: no text that fits"):
        Recast(model=lambda each: SimModel(each.name), tool=plain_copy).agent(agent)


def test_said_is_a_value_for_reports() -> None:
    model = SimModel("clerk", faults=[mf.ServerError("clerk", 1)])
    ran(model)
    kept = msgspec.to_builtins(model.said[0])
    assert kept["error"] == "Overloaded: clerk: HTTP 500: the server had an error"
