"""Faults of the node itself: the disk, an interrupt, a tree that is gone, too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from desks import agent_on, answer, call, calls, script, told
from reviews import soon

from understudy import (
    Actor,
    Agent,
    Backoff,
    Budget,
    ChildSpec,
    Ctx,
    Intensity,
    Message,
    Result,
    Route,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.resuming import RESUMES
from understudy.actors.errors import ActorStopped, JournalFailed, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.store import MemoryStore, Row
from understudy.transports.testing.model_server import ChatAnswer, ChatRequest


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


class FailingStore(MemoryStore):
    """A store whose disk is full from the nth write on."""

    def __init__(self, good: int) -> None:
        super().__init__()
        self.good = good

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        self.good -= 1
        if self.good < 0:
            raise JournalFailed(self.path, "no space left on device")
        await super().write(rows, at)


@pytest.mark.parametrize("good", range(8))
@pytest.mark.anyio
async def test_a_full_disk_fails_the_asker_with_one_line_and_keeps_a_prefix(good: int) -> None:
    store = FailingStore(good)
    async with agent_on(
        script(calls(call("look", what="a")), calls(call("look", what="b")), answer("x")), [look]
    ) as agent:
        async with System(agent, journal=store, grace=1) as system:
            if good < 5:
                with pytest.raises(JournalFailed, match=r"^:memory:: no space left on device$"):
                    await soon(system.run(agent, "go"))
            else:
                await soon(system.run(agent, "go"))
    await store.open()
    for head in await store.heads():
        records = decode_rows(store.path, await store.read(head.run))
        assert [r.seq for r in records] == list(range(1, len(records) + 1))


class Quit(Message[None]): ...


class Quitter(Actor[Quit]):
    def quit(self, m: Quit) -> None:
        raise SystemExit(7)


def test_system_exit_in_a_handler_stops_in_order_and_is_raised_where_the_system_was_entered() -> None:
    stopped: list[str] = []

    class Other(Actor[Quit]):
        def quit(self, m: Quit) -> None: ...

        async def on_stop(self, exit: Any) -> None:
            stopped.append(str(exit))

    async def main() -> None:
        async with System() as system:
            other = system.spawn(Other, name="other")
            await other.ask(Quit())
            system.spawn(Quitter, name="quitter").tell(Quit())
            await asyncio.Event().wait()

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 7
    assert stopped == ["shutdown"]


@pytest.mark.anyio
async def test_no_more_than_concurrency_runs_are_active_at_a_time() -> None:
    active, most = 0, 0
    gate = asyncio.Event()

    @tool(effect="read")
    async def slow(what: str) -> str:
        nonlocal active, most
        active += 1
        most = max(most, active)
        if active == 4:
            gate.set()
        await gate.wait()
        await asyncio.sleep(0)
        active -= 1
        return what

    policy = script(calls(call("slow", what="x")), answer("done"))
    async with agent_on(policy, [slow], concurrency=4) as agent, System(agent) as system:
        results = await asyncio.gather(*(system.run(agent, f"n{n}") for n in range(12)))
    assert [r.status for r in results] == ["complete"] * 12
    assert most == 4


class Question(Message[Result[Any]]):
    text: str


@pytest.mark.anyio
async def test_a_delegate_whose_pool_is_gone_is_a_result_and_not_a_crash() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        results = told(request, "tool")
        return answer(results[0]) if results else calls(call("helper", text="1"))

    async with agent_on(policy) as base:
        helper: Agent[Any, Question] = Agent("helper", model=base.model, accepts=Question)
        lead = Agent("lead", model=base.model, delegates=[helper])
        tree = Supervisor("desk", [ChildSpec(helper, restart="temporary"), lead])
        async with System(tree) as system:
            cell = system.kernel.registry.find("desk/helper")
            assert cell is not None
            await system.kernel.stop(cell)
            result = await system.run(lead, "go")
    assert result.status == "partial"
    assert "no result of helper" in result.reason


@pytest.mark.anyio
async def test_a_tree_that_gave_up_refuses_new_requests_by_name() -> None:
    class Fragile(Actor[Quit]):
        def quit(self, m: Quit) -> None:
            raise ValueError("glass")

    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent, ChildSpec(Fragile)], intensity=Intensity(0), backoff=Backoff(first=0))
        async with System(tree) as system:
            gone = asyncio.Event()
            before = system.kernel.on_released

            def released(cell: Any, exit: Any) -> None:
                assert before is not None
                before(cell, exit)
                if cell.path == "desk":
                    gone.set()

            system.kernel.on_released = released
            system.ref("fragile").tell(Quit())
            await soon(gone.wait())
            with pytest.raises(ActorStopped, match="desk/clerk"):
                await system.run(agent, "go")


@pytest.mark.anyio
async def test_a_budget_per_life_counts_over_runs_and_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    async with agent_on(script(answer("x"))) as agent:
        tree = Supervisor("desk", [agent], budget=Budget(steps=3, per="life"))
        statuses = []
        for _ in range(4):
            async with System(tree, journal=path) as system:
                statuses.append((await system.run(agent, "go")).status)
    assert statuses == ["complete", "complete", "complete", "stopped"]


def test_a_system_lives_in_asyncio_run_and_in_a_loop_that_runs_already() -> None:
    async def inside() -> str:
        async with agent_on(script(answer("here"))) as agent, System(agent) as system:
            return (await system.run(agent, "go")).unwrap().text

    assert asyncio.run(inside()) == "here"
    loop = asyncio.new_event_loop()
    try:

        async def host() -> tuple[str, bool]:
            before = asyncio.all_tasks()
            text = await inside()
            return text, asyncio.all_tasks() == before

        assert loop.run_until_complete(host()) == ("here", True)
    finally:
        loop.close()


@pytest.mark.promise(29)
@pytest.mark.anyio
async def test_a_run_that_gets_nowhere_in_process_after_process_is_left_to_a_person() -> None:
    """As if it killed each of them before the first outcome."""
    store = MemoryStore()
    gate = asyncio.Event()

    @tool(effect="read")
    async def deadly(what: str) -> str:
        await gate.wait()
        return what

    async with agent_on(script(calls(call("deadly", what="x")), answer("alive")), [deadly]) as agent:
        async with System(agent, journal=store) as system:
            asking = asyncio.create_task(system.run(agent, "go"))
            run = await first_call(system)
            await system.journal.barrier()
            rows = await store.read(run)
            gate.set()
            await asking
        gate.clear()
        for _ in range(RESUMES):
            store = await store_of(rows)
            async with System(agent, journal=store) as system:
                assert await first_call(system, again=True) == run
                await system.journal.barrier()
                rows = await store.read(run)
                gate.set()
            gate.clear()
        store = await store_of(rows)
        async with System(agent, journal=store) as system:
            parked = await system.result(run)
            assert (parked.status, parked.reason) == ("waiting", "waits for asker")
            gate.set()
            assert (await system.resume(run)).status == "complete"


@pytest.mark.promise(29)
@pytest.mark.anyio
async def test_a_run_that_only_waits_its_turn_in_process_after_process_goes_on_by_itself() -> None:
    """The one before it, which the agent is at, ends each of them; nobody can say that of what nobody has begun."""
    store = MemoryStore()
    gate = asyncio.Event()

    @tool(effect="read")
    async def deadly(what: str) -> str:
        await gate.wait()
        return what

    async with agent_on(script(calls(call("deadly", what="x")), answer("alive")), [deadly]) as agent:
        async with System(agent, journal=store) as system:
            asking = [asyncio.create_task(system.run(agent, each)) for each in ("first", "second")]
            first = await first_call(system)
            await system.journal.barrier()
            second = next(run for run in system.unfinished() if run != first)
            rows = {run: await store.read(run) for run in (first, second)}
            gate.set()
            await asyncio.gather(*asking)
        gate.clear()
        for _ in range(RESUMES):
            store = await store_of([*rows[first], *rows[second]])
            async with System(agent, journal=store) as system:
                assert await first_call(system, again=True) == first
                await system.journal.barrier()
                rows = {run: await store.read(run) for run in (first, second)}
                gate.set()
            gate.clear()
        store = await store_of([*rows[first], *rows[second]])
        gate.set()
        async with System(agent, journal=store) as system:
            await system.journal.barrier()
            assert (await system.result(first)).reason == "waits for asker"
            assert not any(isinstance(record.event, ev.Parked) for record in await system.journal.read(second))
            assert (await system.resume(second)).status == "complete"


@pytest.mark.promise(29)
@pytest.mark.anyio
async def test_who_took_a_resumed_run_up_is_on_the_disk_before_any_of_its_code_runs() -> None:
    """It may end the process at once, and must be counted all the same."""
    written: list[str] = []
    seen: list[list[str]] = []

    class Telling(MemoryStore):
        async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
            await super().write(rows, at)
            written.extend(type(record.event).__name__ for record in decode_rows("", list(rows)))

    def hook(ctx: Ctx) -> str:
        seen.append([*written])
        return "go on"

    async with agent_on(script(answer("alive")), instructions=hook) as agent:
        store = MemoryStore()
        async with System(agent, journal=store) as system:
            run = (await system.run(agent, "go")).run
            rows = (await store.read(run))[:1]
        again = Telling()
        await again.open()
        await again.write(rows, [1.0])
        await again.aclose()
        seen.clear()
        written.clear()
        async with asyncio.timeout(60), System(agent, journal=again):
            while not seen:  # noqa: ASYNC110  # the hook has no way to tell
                await asyncio.sleep(0)
    assert seen[0] == ["Resumed", "AttemptStarted"]


async def store_of(rows: list[Row]) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await store.write(rows, [1.0] * len(rows))
    await store.aclose()
    return store


async def first_call(system: System, *, again: bool = False) -> str:
    """Wait until a tool was called (or, in a resumed run, an attempt began); its run."""
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    wanted = ev.AttemptStarted if again else ev.ToolAsked

    def hear(record: ev.Record) -> None:
        if isinstance(record.event, wanted) and not found.done():
            found.set_result(record.run)

    stop = system.listen(hear)
    try:
        return await soon(found)
    finally:
        stop()


class Plain(Message[Result[str]]):
    text: str


class Counted(Message[Result[int]]):
    n: int


@pytest.mark.anyio
async def test_a_handoff_to_an_agent_that_answers_something_else_is_refused_at_start() -> None:
    async with agent_on(script(answer("x"))) as base:
        counter: Agent[int, Counted] = Agent("counter", model=base.model, accepts=Counted)
        writer: Agent[str, Plain] = Agent("writer", model=base.model, accepts=Plain, output=Counted)
        with pytest.raises(SpecError, match="hands its Counted on to desk/counter, which answers int, but its asker"):
            System(Supervisor("desk", [writer, counter], routes=[Route(Counted, to=counter)]))
