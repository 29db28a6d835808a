"""Interleavings, crash points and hostile words: nothing hangs, nothing is lost, nothing is told that is not so."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
from desks import Answer, FakeClock, agent_on, answer, call, calls, make_agent, script, told
from msgspec import Struct

import understudy.system as front
from understudy import (
    Actor,
    Agent,
    Approvals,
    Backoff,
    Budget,
    ChildSpec,
    Intensity,
    Loops,
    Message,
    Restart,
    Result,
    Route,
    Same,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents import runs as runs_module
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage
from understudy.actors.errors import JournalFailed, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.lifecycle import Exit
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, RateLimit

T = TypeVar("T")
SOON = 4.0


async def soon(work: Awaitable[T]) -> T:
    """The result, which must come within seconds."""
    return await asyncio.wait_for(work, SOON)


def event_of(system: System, kind: type, sub: int | None = None) -> asyncio.Event:
    """Set when an event of this kind is journalled from now on."""
    seen = asyncio.Event()

    def hear(record: ev.Record) -> None:
        if isinstance(record.event, kind) and sub in (None, record.sub):
            seen.set()

    system.listen(hear)
    return seen


def tools_of(request: ChatRequest) -> list[str]:
    return [t.function.name for t in request.tools or ()]


sent: list[str] = []


@tool(effect="irreversible", approve="boss")
async def send(what: str) -> str:
    """Send."""
    sent.append(what)
    return f"sent {what}"


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


class Question(Message[Result[Any]]):
    text: str


class Answered(Message[Result[Any]]):
    text: str


class SlowStore(MemoryStore):
    """A store whose writes wait while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, rows: Any, at: Any) -> None:
        await self.gate.wait()
        await super().write(rows, at)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be written cannot be reported to another process either."""
    caplog.set_level(logging.CRITICAL + 1, "understudy.actors")


# --- delegations that park ---------------------------------------------------------------------------------


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


# --- hostile tools -----------------------------------------------------------------------------------------


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


# --- hostile models ----------------------------------------------------------------------------------------

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


class Strange:
    """A model that says and raises what no model should."""

    name = "strange"
    price = None

    def __init__(self, *acts: Any, seen: list[ModelRequest] | None = None) -> None:
        self.acts = list(acts)
        self.seen = seen if seen is not None else []

    def session(self) -> Any:
        @contextlib.asynccontextmanager
        async def opened() -> Any:
            yield self

        return opened()

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.seen.append(request)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, BaseException):
            raise act
        return act  # type: ignore[no-any-return]


OK = ModelReply('{"text":"fine"}', usage=Usage(1, 1))


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


# --- cut between two events ---------------------------------------------------------------------------------


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


# --- budgets ------------------------------------------------------------------------------------------------


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
            assert system.ledger.statement("desk").spent == {"steps": 1, "model_calls": 1} | {
                k: v for k, v in system.ledger.statement("desk").spent.items() if k in ("tokens", "usd")
            }
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


@pytest.mark.anyio
async def test_seconds_are_a_deadline_also_in_the_back_off_of_a_supervisor() -> None:
    def looping(request: ChatRequest) -> ChatAnswer:
        return calls(call("look", what="x"))

    async with agent_on(looping, [look]) as agent:
        loops = Loops(Same(3), ladder=[Restart()])
        tree = Supervisor(
            "desk", [agent], loops=loops, backoff=Backoff(first=60, cap=60), budget=Budget(seconds=0.5, steps=50)
        )
        async with System(tree, grace=1) as system:
            result = await asyncio.wait_for(system.run(agent, "go", timeout=30), 5)
    assert result.status == "stopped"
    assert "seconds used up" in result.reason


@pytest.mark.anyio
async def test_leaving_during_a_models_back_off_does_not_wait_for_it() -> None:
    async with agent_on(lambda request: RateLimit(retry_after=30)) as agent:
        async with System(agent, grace=8) as system:
            failed = event_of(system, ev.ModelFailed)
            asking = asyncio.create_task(system.run(agent, "go"))
            await soon(failed.wait())
            await asyncio.wait_for(system.drain(), 2)
            result = await soon(asking)
    assert result.status == "waiting"
    assert result.reason.startswith("waits for shutdown")


def test_two_owners_of_budgets_with_one_name_are_refused_at_start() -> None:
    agent = make_agent("http://127.0.0.1:9/v1", budget=Budget(steps=1))
    with pytest.raises(SpecError, match="clerk"):
        System(Supervisor("clerk", [agent], budget=Budget(steps=5)))


# --- telling the truth ---------------------------------------------------------------------------------------


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


# --- more of the same --------------------------------------------------------------------------------------


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


@pytest.mark.anyio
async def test_a_stop_asked_for_in_a_models_back_off_spends_nothing_more() -> None:
    failing: list[Any] = [RateLimit(retry_after=0.3), answer("late")]
    async with agent_on(lambda request: failing.pop(0)) as agent, System(agent) as system:
        failed = event_of(system, ev.ModelFailed)
        asking = asyncio.create_task(system.run(agent, "go"))
        await soon(failed.wait())
        run = system.unfinished()[0]
        asking.cancel()
        await soon(system.runs.ended(run))
        result = await system.result(run)
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
