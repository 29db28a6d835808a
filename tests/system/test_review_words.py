"""Hostile words, of tools and of models: told to whom they concern, and nobody else is hurt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from desks import Answer, agent_on, answer, call, calls, script, told
from reviews import OK, Question, Strange, event_of, look, send, soon

from understudy import (
    Actor,
    Agent,
    Backoff,
    Budget,
    ChildSpec,
    Intensity,
    Message,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.store import MemoryStore
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written cannot be reported to another process either."""
    caplog.set_level(logging.CRITICAL + 1, "understudy.actors")


class Odd(BaseException):
    pass


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


HOSTILE: list[Callable[[], BaseException]] = [
    lambda: asyncio.CancelledError("mine"),
    lambda: Odd("odd"),
    lambda: Mute(),
    lambda: LookupError("lone \udcff"),
    lambda: FileNotFoundError(2, "no such file", "name-\udcff"),
    lambda: BaseExceptionGroup("many", [Odd("a"), ValueError("b")]),
]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.anyio
async def test_whatever_a_tool_raises_is_a_failed_call_and_no_restart(number: int, batch: int) -> None:
    @tool(effect="read")
    async def odd(what: str) -> str:
        raise HOSTILE[number]()

    each = [call("odd", what=str(n)) for n in range(batch)]
    store = MemoryStore()
    async with agent_on(script(calls(*each), answer("done")), [odd]) as agent:
        async with System(agent, journal=store) as system:
            result = await soon(system.run(agent, "go"))
            state = system.state(result.run)
            assert fold(await system.journal.read(result.run)) == state
    assert result.status == "complete"
    assert state.restarts == 0
    assert [c.ok for c in state.main.calls()] == [False] * batch


@pytest.mark.anyio
async def test_a_time_out_of_the_tools_own_is_told_as_it_is() -> None:
    @tool(effect="read", timeout=25)
    async def slow(what: str) -> str:
        raise TimeoutError("the shop did not answer")

    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call("slow", what="x"))

    async with agent_on(policy, [slow]) as agent:
        result = await soon(agent.run("go"))
    assert "the shop did not answer" in result.unwrap().text


@pytest.mark.anyio
async def test_an_error_as_long_as_a_book_is_cut() -> None:
    @tool(effect="read")
    async def loud(what: str) -> str:
        raise ValueError("x" * 3_000_000)

    async with agent_on(script(calls(call("loud", what="x")), answer("done")), [loud]) as agent:
        async with System(agent) as system:
            result = await soon(system.run(agent, "go"))
            outcome = next(iter(system.state(result.run).main.calls())).outcome
    assert result.status == "complete"
    assert len(outcome) < 20_000


@pytest.mark.anyio
async def test_a_crash_whose_words_cannot_be_written_does_not_take_the_supervisor_down() -> None:
    class Go(Message[None]): ...

    class Glass(Actor[Go]):
        def go(self, m: Go) -> None:
            raise ValueError("broke \udcff")

    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent, ChildSpec(Glass)], backoff=Backoff(first=0))
        async with System(tree) as system:
            again = event_of(system, ev.ChildStarted)
            system.ref("glass").tell(Go())
            await soon(again.wait())
            assert (await soon(system.run(agent, "go"))).status == "complete"


@pytest.mark.anyio
async def test_a_word_that_verify_says_instead_of_true_does_not_poison_the_journal() -> None:
    @tool(effect="verifiable", timeout=0.05)
    async def book(what: str) -> str:
        await asyncio.Event().wait()
        return what

    @book.verify
    async def booked(what: str) -> bool | None:
        return "yes"  # type: ignore[return-value]

    store = MemoryStore()
    async with agent_on(script(calls(call("book", what="x")), answer("done")), [book]) as agent:
        async with System(agent, journal=store) as system:
            waiting = await soon(system.run(agent, "go"))
            await system.settle(system.doubts()[0].id, did="yes", by='a "b"')  # type: ignore[arg-type]
            await soon(system.resume(waiting.run))
        async with System(agent, journal=store) as system:
            assert (await system.result(waiting.run)).status == "complete"


@pytest.mark.anyio
async def test_what_could_not_be_read_back_is_never_written() -> None:
    store = MemoryStore()
    async with agent_on(script(calls(call("send", what="x")), answer("done")), [send]) as agent:
        async with System(agent, journal=store) as system:
            await soon(system.run(agent, "go"))
            with pytest.raises(ValueError, match="ApprovalRefused"):
                await system.refuse(system.approvals()[0], by="li", reason=None)  # type: ignore[arg-type]
            assert len(system.approvals()) == 1
        async with System(agent, journal=store) as system:
            assert len(system.approvals()) == 1


DEEP = '{"what":' + "[" * 100_000 + "]" * 100_000 + "}"
WORDS = ["null", "[]", "", "{", "0", DEEP, '{"what":"\\ud800"}', '{"what": 1e999}', '{"what":' + "9" * 5_000 + "}"]


@pytest.mark.parametrize("number", range(len(WORDS)))
@pytest.mark.parametrize("name", ["anything", "send_it", "helper"])
@pytest.mark.anyio
async def test_arguments_of_any_kind_are_told_to_the_model_and_the_run_goes_on(name: str, number: int) -> None:
    @tool(effect="read")
    async def anything(what: Any) -> str:
        return "fine"

    @tool(effect="irreversible", approve="boss")
    async def send_it(what: int) -> str:
        return "fine"

    def policy(request: ChatRequest) -> ChatAnswer:
        if not request.tools or told(request, "tool"):
            return answer("done")
        return calls(AnswerCall(name, WORDS[number]))

    async with agent_on(policy) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question)
        lead = Agent("lead", model=base.model, delegates=[helper], tools=[anything, send_it])
        async with System(Supervisor("desk", [helper, lead])) as system:
            result = await soon(system.run(lead, "go"))
            if result.status == "waiting":
                await system.refuse(system.approvals()[0], by="li")
                result = await soon(system.resume(result.run))
    assert result.status == "complete", result.reason


@pytest.mark.parametrize("text", [DEEP, '{"text":' + "9" * 5_000 + "}", '{"text": "\\ud800"}'])
@pytest.mark.anyio
async def test_an_answer_of_any_kind_is_repaired(text: str) -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        return answer("right") if "not valid" in told(request, "user")[-1] else ChatAnswer(text)

    async with agent_on(policy) as agent:
        result = await soon(agent.run("go"))
    assert result.status == "complete", result.reason


@pytest.mark.anyio
async def test_a_thousand_calls_in_one_reply_are_all_answered() -> None:
    each = [call("look" if n % 2 else "", what="x") for n in range(1_000)]
    async with agent_on(script(calls(*each), answer("done")), [look], max_tokens=50_000) as agent:
        async with System(agent) as system:
            result = await soon(system.run(agent, "go"))
            state = system.state(result.run)
    assert result.status == "complete"
    assert [c.ok for c in state.main.calls()] == [False, True] * 500
    assert state.spend.tool_calls == 500


@pytest.mark.anyio
async def test_names_and_ids_that_a_provider_would_refuse_go_back_in_a_form_it_takes() -> None:
    seen: list[ModelRequest] = []
    first = ModelReply("", tuple(ToolCall("same", name, "{}") for name in ("", "a b", "é" * 99)), usage=Usage(1, 1))
    agent = Agent("clerk", model=Strange(first, OK, seen=seen), output=Answer)
    assert (await soon(agent.run("go"))).status == "complete"
    asked = next(m.calls for m in seen[1].messages if m.calls)
    assert [c.name for c in asked] == ["_", "a_b", "_" * 64]
    assert [m.call_id for m in seen[1].messages if m.role == "tool"] == [c.id for c in asked]
    assert len({c.id for c in asked}) == 3


@pytest.mark.anyio
async def test_more_calls_in_one_reply_than_anybody_can_mean_are_a_bad_reply() -> None:
    many = ModelReply("", tuple(ToolCall(str(n), "nope", "{}") for n in range(11_000)), usage=Usage(1, 1))
    agent = Agent("clerk", model=Strange(many), output=Answer, model_tries=1)
    result = await soon(agent.run("go"))
    assert (result.status, result.reason) == (
        "failed",
        "model bad_reply: 11000 calls in one reply, the limit is 1000",
    )


@pytest.mark.parametrize(
    "first",
    [
        RuntimeError("client has been closed \udcff"),
        ModelReply('{"text":"fine"}', finish=None),  # type: ignore[arg-type]
        ModelReply('{"text":"fi\udcffne"}', usage=Usage(1, 1)),
        ModelReply('{"text":"fine"}', usage=Usage(-5, 1)),
        ModelReply('{"text":"fine"}', usage=Usage(10**40, 10**40)),
    ],
    ids=["raises", "no finish", "surrogate", "negative", "huge"],
)
@pytest.mark.anyio
async def test_a_model_that_breaks_its_contract_leaves_no_reservation_and_no_damage(first: Any) -> None:
    store = MemoryStore()
    agent = Agent("clerk", model=Strange(first, OK), output=Answer, budget=Budget(tokens=100_000))
    tree = Supervisor("desk", [agent], backoff=Backoff(first=0), intensity=Intensity(20))
    async with System(tree, journal=store) as system:
        result = await soon(system.run(agent, "go"))
        statement = system.ledger.statement(f"clerk@{result.run}")
        assert fold(await system.journal.read(result.run)) == system.state(result.run)
    assert result.status == "complete", result.reason
    assert statement.reserved == {}
    async with System(tree, journal=store) as system:
        assert (await system.result(result.run)).status == "complete"
