"""Whole runs on a real model server: guards, restarts, approvals, abandonment, resuming."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from desks import Answer, FakeClock, agent_on, answer, call, calls, script, told
from reviews import soon

from understudy import (
    Agent,
    Approvals,
    Backoff,
    Budget,
    ChildSpec,
    Intensity,
    Loops,
    Message,
    Nudge,
    Prompt,
    Restart,
    Result,
    Route,
    Same,
    Stop,
    Supervisor,
    System,
    tool,
)
from understudy.actors.errors import UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    if what.startswith("bad"):
        raise LookupError(f"no {what!r}")
    return f"saw {what}"


sent: list[str] = []


@tool(effect="irreversible", approve="boss")
def send(what: str) -> str:
    """Send."""
    sent.append(what)
    return f"sent {what}"


def looping(request: ChatRequest) -> ChatAnswer:
    """Calls the same failing tool until a supervisor's note says that an attempt got stuck."""
    if any("got stuck" in text for text in told(request, "user")):
        return answer("out of it")
    return calls(call("look", what="bad"))


def of(system: System, run: str, kind: type) -> list[Any]:
    return [r for r in system_records(system, run) if isinstance(r.event, kind)]


recorded: dict[str, list[ev.Record]] = {}


def system_records(system: System, run: str) -> list[Any]:
    return [r for r in recorded.get(run, []) if r.run == run]


def record_all(system: System) -> None:
    system.listen(lambda r: recorded.setdefault(r.run, []).append(r))


def desk(agent: Agent[Any, Any], **options: Any) -> Supervisor:
    return Supervisor("desk", [agent], backoff=Backoff(first=0.01, jitter=0), **options)


# --- loops -----------------------------------------------------------------------------------------------


@pytest.mark.promise(6)
@pytest.mark.anyio
async def test_a_loop_is_nudged_then_restarted_with_an_altered_context_then_completes() -> None:
    async with agent_on(looping, [look]) as agent, System(desk(agent)) as system:
        record_all(system)
        result = await system.run(agent, "go")
        verdicts = [r.event.verdict for r in of(system, result.run, ev.Judged)]
        exits = [r.event.exit for r in of(system, result.run, ev.ChildExited)]
        starts = [r.event.number for r in of(system, result.run, ev.ChildStarted)]
        state = system.state(result.run)
    assert result.unwrap().text == "out of it"
    assert [type(v.response) for v in verdicts] == [Nudge, Restart]
    assert len({v.key for v in verdicts}) == 1
    assert [str(e) for e in exits] == ["loop(loops.same(3))"]
    assert starts == [2]
    assert state.restarts == 1
    assert state.main.attempt == 2
    assert state.main.temperature == 0.7


@pytest.mark.anyio
async def test_without_the_note_the_loop_goes_on_and_the_ladder_stops_it() -> None:
    loops = Loops(Same(3), ladder=[Nudge(), Restart(note=False), Stop()])
    async with agent_on(looping, [look]) as agent, System(desk(agent, loops=loops)) as system:
        result = await system.run(agent, "go")
    assert result.status == "stopped"
    assert result.reason.startswith("loops.same(3)")
    assert result.spend.steps == 5


@pytest.mark.promise(8)
@pytest.mark.anyio
async def test_with_no_intensity_left_the_first_verdict_of_restart_stops_the_run() -> None:
    async with agent_on(looping, [look]) as agent, System(desk(agent, intensity=Intensity(0))) as system:
        record_all(system)
        result = await system.run(agent, "go")
        assert len(of(system, result.run, ev.GaveUp)) == 1
    assert result.status == "stopped"
    assert "gave up: more than 0 restarts" in result.reason


@pytest.mark.anyio
async def test_without_a_loop_guard_the_budget_stops_it_and_names_the_pool() -> None:
    def checkpoint(ctx: Any) -> Answer:
        return Answer(f"{ctx.step} steps")

    async with agent_on(looping, [look], checkpoint=checkpoint) as agent:
        async with System(desk(agent, loops=None, budget=Budget(steps=7))) as system:
            result = await system.run(agent, "go")
    assert result.status == "stopped"
    assert result.output == Answer("7 steps")
    assert result.reason.startswith(f"budget desk@{result.run}: steps used up (7 of 7")
    assert result.spend.steps == 7


@pytest.mark.promise(10)
@pytest.mark.anyio
async def test_a_token_budget_is_refused_before_the_spend() -> None:
    async with agent_on(looping, [look], max_tokens=100) as agent:
        async with System(desk(agent, loops=None, budget=Budget(tokens=2_000))) as system:
            result = await system.run(agent, "go")
            statement = system.ledger.statement(f"desk@{result.run}")
    assert result.status == "stopped"
    assert "tokens" in result.reason
    assert 0 < result.spend.tokens <= 2_000
    assert statement.reserved == {}


@pytest.mark.promise(12)
@pytest.mark.anyio
async def test_alive_seconds_end_a_run_whose_tool_never_does() -> None:
    @tool(effect="read", timeout=600)
    async def never(what: str) -> str:
        await asyncio.Event().wait()
        return what

    async with agent_on(script(calls(call("never", what="x")), answer("no")), [never]) as agent:
        async with System(desk(agent, budget=Budget(seconds=0.1))) as system:
            result = await system.run(agent, "go")
    assert result.status == "stopped"
    assert "seconds used up" in result.reason
    assert result.spend.alive < 300


# --- approvals -------------------------------------------------------------------------------------------

ask_once = script(calls(call("send", what="parcel")), answer("done"))


@pytest.mark.promise(23)
@pytest.mark.anyio
async def test_a_yes_lets_exactly_that_call_happen_once() -> None:
    sent.clear()
    async with agent_on(ask_once, [send]) as agent, System(agent) as system:
        waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        assert sent == []
        await system.approve(waiting.pending[0], by="ana")
        result = await system.resume(waiting.run)
        assert result.status == "complete"
        assert sent == ["parcel"]
        with pytest.raises(UnknownRun):
            await system.approve(waiting.pending[0], by="ana")
    assert sent == ["parcel"]


@pytest.mark.anyio
async def test_a_no_is_told_to_the_agent_and_nothing_happens() -> None:
    sent.clear()

    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call("send", what="parcel"))

    async with agent_on(policy, [send]) as agent, System(agent) as system:
        waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        await system.refuse(waiting.pending[0].id, by="li", reason="too dear")
        result = await system.resume(waiting.run)
    assert result.unwrap().text == "error: refused by li: too dear"
    assert sent == []


@pytest.mark.anyio
async def test_only_the_named_people_may_answer() -> None:
    rule = Approvals(by={"boss": ["ana"]})
    async with agent_on(ask_once, [send]) as agent, System(desk(agent, approvals=rule)) as system:
        waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        for name in ("bob", "", "  "):
            with pytest.raises(UsageError):
                await system.approve(waiting.pending[0], by=name)
        assert len(system.approvals()) == 1


@pytest.mark.promise(24)
@pytest.mark.anyio
async def test_a_yes_after_expiry_is_a_no(tmp_path: Path) -> None:
    sent.clear()
    clock = FakeClock()
    async with agent_on(ask_once, [send]) as agent:
        tree = desk(agent, approvals=Approvals(expires=60, by={"boss": ["ana"]}))
        async with System(tree, journal=tmp_path / "j.db", clock=clock) as system:
            waiting = await system.run(agent, "go")
            assert waiting.status == "waiting"
            clock.now += 61
            with pytest.raises(UsageError, match=r"expired|already"):
                await system.approve(waiting.pending[0], by="ana")
            result = await system.resume(waiting.run)
    assert result.status == "complete"
    assert sent == []


@pytest.mark.anyio
async def test_a_digest_that_is_not_the_one_shown_is_refused() -> None:
    import msgspec

    async with agent_on(ask_once, [send]) as agent, System(agent) as system:
        waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        other = msgspec.structs.replace(waiting.pending[0], digest="0" * 16)
        with pytest.raises(UsageError, match="not the one that was shown"):
            await system.approve(other, by="ana")


@pytest.mark.promise(25)
@pytest.mark.anyio
async def test_waiting_today_approved_and_finished_by_another_system_tomorrow(tmp_path: Path) -> None:
    sent.clear()
    clock = FakeClock()
    path = tmp_path / "j.db"
    async with agent_on(ask_once, [send]) as agent:
        async with System(agent, journal=path, clock=clock) as system:
            waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        clock.now += 6 * 3600
        async with System(agent, journal=path, clock=clock) as system:
            assert [a.id for a in system.approvals()] == [waiting.pending[0].id]
            await system.approve(waiting.pending[0].id, by="ana")
            result = await system.resume(waiting.run)
            records = await system.journal.read(waiting.run)
            assert replay(records, system.tree.policies).identical
    assert result.status == "complete"
    assert sent == ["parcel"]
    assert result.spend.alive < 60, "waiting for a person does not count as alive"


# --- teams -----------------------------------------------------------------------------------------------


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


class Question(Message[Result[Answer]]):
    text: str


@pytest.mark.anyio
async def test_an_output_that_is_routed_is_a_handoff_and_the_asker_gets_the_last_answer() -> None:
    async with agent_on(script(answer("a draft"))) as base:
        writer = Agent("writer", model=base.model, accepts=Ticket, output=Draft)
        reviewer = Agent("reviewer", model=base.model, accepts=Draft)
        tree = Supervisor(
            "desk",
            [reviewer, ChildSpec(writer, count=3)],
            routes=[Route(Ticket, to=writer), Route(Draft, to=reviewer)],
        )
        async with System(tree) as system:
            results = await asyncio.gather(*(system.ref(tree).ask(Ticket(f"t{n}"), timeout=60) for n in range(9)))
            paths = {s.path for r in results for s in system.state(r.run).subs.values()}
    assert {r.status for r in results} == {"complete"}
    assert paths == {"desk/reviewer"}


@pytest.mark.anyio
async def test_a_delegate_is_a_sub_run_whose_result_comes_back_as_the_tools() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        if not request.tools:
            return answer("helped")
        results = told(request, "tool")
        return answer(" | ".join(results)) if results else calls(call("helper", text="1"), call("helper", text="2"))

    async with agent_on(policy) as base:
        helper = Agent("helper", model=base.model, accepts=Question)
        lead = Agent("lead", model=base.model, delegates=[helper], output=Answer)
        tree = Supervisor("desk", [ChildSpec(helper, count=2), lead])
        async with System(tree) as system:
            result = await system.run(lead, "go")
            state = system.state(result.run)
    told_ = '{"status":"complete","output":{"text":"helped"},"reason":""}'
    assert result.unwrap().text == f"{told_} | {told_}"
    assert {s.path for s in state.subs.values()} == {"desk/lead", "desk/helper/1", "desk/helper/2"}
    assert state.spend.steps == 4


@pytest.mark.anyio
async def test_a_sub_run_that_waits_for_a_person_makes_the_whole_run_wait(tmp_path: Path) -> None:
    sent.clear()

    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        names = [t.function.name for t in request.tools or ()]
        if "send" in names:
            return answer(results[0]) if results else calls(call("send", what="x"))
        return answer(results[0]) if results else calls(call("helper", text="1"))

    path = tmp_path / "j.db"
    async with agent_on(policy) as base:
        helper = Agent("helper", model=base.model, accepts=Question, tools=[send])
        lead = Agent("lead", model=base.model, delegates=[helper], output=Answer)
        tree = Supervisor("desk", [helper, lead])
        async with System(tree, journal=path) as system:
            waiting = await system.run(lead, "go")
        assert waiting.status == "waiting"
        async with System(tree, journal=path) as system:
            await system.approve(waiting.pending[0].id, by="ana")
            result = await system.resume(waiting.run)
            assert replay(await system.journal.read(waiting.run), system.tree.policies).identical
    assert result.status == "complete"
    assert sent == ["x"]


# --- stopping and resuming -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "park", "finish"])
@pytest.mark.anyio
async def test_when_the_asker_is_gone_the_run_does_what_on_abandon_says(how: str) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        started.set()
        await gate.wait()
        return what

    parked = asyncio.Event()
    async with agent_on(script(calls(call("slow", what="x")), answer("late")), [slow], on_abandon=how) as agent:
        async with System(agent) as system:
            system.listen(lambda r: parked.set() if isinstance(r.event, ev.Parked) else None)
            asking = asyncio.create_task(system.run(agent, "go"))
            await started.wait()
            run = system.unfinished()[0]
            asking.cancel()
            await asyncio.wait([asking])
            gate.set()
            if how == "park":
                await soon(parked.wait())
                assert (await system.result(run)).status == "waiting"
                result = await system.resume(run)
                assert result.status == "complete"
                return
            await soon(system.runs.ended(run))
            result = await system.result(run)
            expected = {"stop": ("stopped", "abandoned"), "finish": ("complete", "")}[how]
            assert (result.status, result.reason) == expected
            if how == "stop":
                assert (await system.resume(run)).status == "complete"


@pytest.mark.anyio
async def test_leaving_parks_what_runs_and_entering_again_finishes_it(tmp_path: Path) -> None:
    started = asyncio.Event()
    gate = asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        started.set()
        await gate.wait()
        return what

    path = tmp_path / "j.db"
    async with agent_on(script(calls(call("slow", what="x")), answer("late")), [slow]) as agent:
        system = System(agent, journal=path, grace=5)
        async with system:
            asking = asyncio.create_task(system.run(agent, "go"))
            await started.wait()
            draining = asyncio.create_task(system.drain())
            gate.set()
            await draining
            waiting = await asking
            assert (waiting.status, waiting.reason) == ("waiting", "waits for shutdown")
        async with system:
            result = await system.resume(waiting.run)
    assert result.status == "complete"


@pytest.mark.anyio
async def test_a_journal_read_back_folds_to_the_live_state(tmp_path: Path) -> None:
    async with agent_on(looping, [look]) as agent, System(desk(agent), journal=tmp_path / "j.db") as system:
        result = await system.run(agent, "go")
        await system.journal.barrier()
        assert fold(await system.journal.read(result.run)) == system.state(result.run)


@pytest.mark.anyio
async def test_a_doubt_of_a_run_that_was_stopped_is_listed_until_somebody_settles_it(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    @tool(effect="irreversible", timeout=0.05)
    async def lost(what: str) -> str:
        await asyncio.Event().wait()
        return what

    async with agent_on(script(calls(call("lost", what="x"))), [lost]) as agent:
        async with System(agent, journal=path) as system:
            waiting = await system.run(agent, "go")
            assert waiting.status == "waiting"
            system.runs.ask_to_stop(waiting.run, "abandoned", "stop")
            await system.runs.ended(waiting.run)
            assert len(system.doubts()) == 1
        async with System(agent, journal=path) as system:
            (doubt,) = system.doubts()
            assert system.unfinished() == []
            await system.settle(doubt.id, did=True, by="ana")
            assert system.doubts() == []
        async with System(agent, journal=path) as system:
            assert system.doubts() == []
            assert (await system.result(waiting.run)).status == "stopped"


@pytest.mark.promise(15)
@pytest.mark.anyio
async def test_a_request_is_committed_when_send_returns_and_its_end_when_the_asker_has_it() -> None:
    store = MemoryStore()
    gate = asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        await gate.wait()
        return what

    async with agent_on(script(calls(call("slow", what="x")), answer("done")), [slow]) as agent:
        async with System(agent, journal=store) as system:
            assert await system.ref(agent).send(Prompt("go"))
            (run,) = system.unfinished()
            stored = decode_rows(store.path, await store.read(run))
            assert isinstance(stored[0].event, ev.RunStarted)
            gate.set()
            asked = await system.run(agent, "again")
            stored = decode_rows(store.path, await store.read(asked.run))
            assert isinstance(stored[-1].event, ev.Finished)
