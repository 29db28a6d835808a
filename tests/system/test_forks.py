"""A fork goes on from an event of another run, with something changed, and does nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from acted import Acted, call, calls, script, told, turns, words
from refunds import REFUND, events, make, make_machine, pay
from refunds import done as paid

from understudy import Agent, Approvals, Budget, Loops, Message, Prompt, Result, Same, Stop, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import AgentQuarantined, JournalFailed, UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.store import MemoryStore, Row
from understudy.actors.testing.journal_checks import check_numbers
from understudy.actors.testing.simloop import SimClock
from understudy.actors.testing.simloop import run as simulated

pytestmark = pytest.mark.promise(285)

did: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    did.clear()
    paid.clear()


@tool(effect="read")
async def look(what: str) -> str:
    """Look something up."""
    did["look"] += 1
    return f"saw {what}"


@tool(effect="irreversible")
async def ship(box: str) -> str:
    """Send a box."""
    did[f"ship {box}"] += 1
    return f"sent {box}"


def rules(request: ModelRequest) -> str:
    return request.messages[0].content


def clerk(says: Any = None, **options: Any) -> Agent[Any, Any]:
    says = says or script(calls(call("look", what="lamp")), calls(call("ship", box="1")), words("done"))
    options.setdefault("instructions", "Be kind.")
    return Agent("clerk", model=Acted(says), tools=[look, ship], **options)


async def rows(system: System, run: str) -> list[Row]:
    await system.journal.commit()
    return await system.journal.store.read(run)


async def records_of(system: System, run: str) -> list[Record]:
    await system.journal.commit()
    return await system.journal.read(run)


def place(records: Sequence[Record], kind: type[ev.Event], nth: int = 0) -> int:
    return [record.seq for record in records if isinstance(record.event, kind)][nth]


async def forked(system: System, run: str, **options: Any) -> tuple[Result[Any], list[Record]]:
    """Fork, run to the end, and check what holds of every fork."""
    before = await rows(system, run)
    name = await system.fork(run, **options)
    result = await system.resume(name)
    assert await rows(system, run) == before
    assert (await system.replay(name)).identical
    found = await records_of(system, name)
    assert check_numbers({name: await rows(system, name)}) == []
    fork = found[options["at"]].event
    assert isinstance(fork, ev.Forked)
    assert (fork.run, fork.at) == (run, options["at"])
    return result, found


@pytest.mark.anyio
async def test_a_fork_with_other_instructions_asks_the_model_with_them_from_there_on() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ToolAnswered)
        result, found = await forked(system, first.run, at=at, instructions="Be quick.", by="ana")
        assert isinstance(agent.model, Acted)
        assert [rules(request) for request in agent.model.seen] == ["Be kind."] * 3 + ["Be quick."] * 2
        [fork] = events(found, ev.Forked)
        assert (fork.agent, fork.instructions, fork.by) == ("clerk", "Be quick.", "ana")
        assert result.status == first.status == "complete"
        assert did == {"look": 1, "ship 1": 2}  # the box was sent after the fork: by each of them


@pytest.mark.anyio
async def test_what_was_done_before_a_fork_is_not_done_again() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ToolAnswered, 1)
        await forked(system, first.run, at=at)
    assert did == {"look": 1, "ship 1": 1}


@pytest.mark.anyio
async def test_a_fork_with_another_result_goes_on_as_if_the_tool_had_said_so() -> None:
    def says(request: ModelRequest) -> ModelReply:
        return words(told(request)[0]) if turns(request) else calls(call("look", what="lamp"))

    agent = clerk(says)
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ToolAnswered)
        result, found = await forked(system, first.run, at=at, result={"found": ["nothing"]})
        assert (first.unwrap(), result.unwrap()) == ('"saw lamp"', '{"found":["nothing"]}')
        assert events(found, ev.Forked)[0].changed == at
        with pytest.raises(UsageError, match=rf"{first.run}:2 has no result to change: it is a AttemptStarted"):
            await system.fork(first.run, at=2, result=1)


@pytest.mark.anyio
async def test_a_fork_with_another_model_asks_that_one() -> None:
    other = Acted(script(words("said the other")), name="other")
    agent = clerk(alternatives=[other])
    async with System(agent) as system:
        first = await system.run(agent, "go")
        result, _ = await forked(system, first.run, at=2, model="other")
        assert (result.unwrap(), len(other.seen)) == ("said the other", 1)
        with pytest.raises(UsageError, match="agent 'clerk' has no model 'large'; its models are: acted, other"):
            await system.fork(first.run, at=2, model="large")


@pytest.mark.anyio
async def test_a_fork_runs_under_the_guards_and_the_code_of_the_present_tree() -> None:
    store = MemoryStore()
    says = script(*[calls(call("look", what="lamp"))] * 5, words("done"))
    async with System(clerk(says, loops=Loops(Same(9))), journal=store) as system:
        first = await system.run(next(iter(system.tree.policies.values())).agent, "go")
        assert first.status == "complete"
    async with System(clerk(says, loops=Loops(Same(3), ladder=[Stop()])), journal=store) as system:
        records = await records_of(system, first.run)
        assert not (await system.replay(first.run)).identical
        result, _ = await forked(system, first.run, at=place(records, ev.ToolAnswered, 1))
    assert (result.status, result.reason.partition(":")[0]) == ("stopped", "loops.same(3)")


@pytest.mark.anyio
async def test_where_a_call_that_changes_the_world_is_open_no_run_is_forked_and_the_place_before_is_named() -> None:
    agent = make(script(*REFUND, words("done")))
    async with System(agent, journal=MemoryStore()) as system:
        waiting = await system.run(agent, "go")
        await system.approve("a1", by="ana")
        await system.resume(waiting.run)
        records = await records_of(system, waiting.run)
        asked, given = place(records, ev.ApprovalAsked), place(records, ev.ApprovalGiven)
        begun = next(r.seq for r in records if isinstance(r.event, ev.ToolAsked) and r.event.name == "pay")
        for at in (asked, given, begun - 1):
            with pytest.raises(UsageError) as refused:
                await system.fork(waiting.run, at=at)
            what = f"pay waits for approval a1 there, or for its use; fork it at :{asked - 1} or before"
            assert str(refused.value) == f"{waiting.run}:{at} cannot be forked: {what}, or at its outcome"
        with pytest.raises(UsageError, match=r"call pay is open there, and is irreversible; fork it at :\d+ or before"):
            await system.fork(waiting.run, at=begun)
        assert paid["pay"] == 1
        again = await system.fork(waiting.run, at=asked - 1)
        assert (await system.resume(again)).status == "waiting"  # it needs a yes of its own
        assert [approval.run for approval in system.approvals()] == [again]
        await system.refuse("a1", by="li")
        await system.resume(again)
    assert paid["pay"] == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "cannot be forked at event 0: it has"),
        (99, "cannot be forked at event 99: it has"),
        (-1, "the run has ended there; fork it at :"),
    ],
)
async def test_an_event_that_is_not_there_or_is_the_end_is_refused_by_name(at: int, said: str) -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        last = len(await records_of(system, first.run))
        with pytest.raises(UsageError) as refused:
            await system.fork(first.run, at=last if at < 0 else at)
        assert said in str(refused.value)
        with pytest.raises(UnknownRun, match="no run 'nobody'"):
            await system.fork("nobody", at=1)
        assert [head.run for head in await system.journal.store.heads() if ev.is_run(head.run)] == [first.run]


@pytest.mark.anyio
async def test_what_was_spent_before_counts_in_the_forks_own_budget_and_not_again_in_one_of_all_runs() -> None:
    store = MemoryStore()
    says = script(*[calls(call("look", what=f"lamp {n}")) for n in range(3)], words("done"))

    def tree(steps: int) -> Supervisor:
        agent = clerk(says, budget=Budget(steps=steps))
        return Supervisor("desk", [agent], budget=Budget(tokens=100_000, per="life"))

    async with System(tree(9), journal=store) as system:
        first = await system.ref("clerk").ask(Prompt("go"))
        assert system.ledger.statement("desk").spent == {"tokens": 60}
        at = place(await records_of(system, first.run), ev.ToolAnswered, 1)
        result, _ = await forked(system, first.run, at=at)
        assert (result.spend.steps, result.spend.tokens) == (4, 60)  # two of the four were taken over
        assert system.ledger.statement("desk").spent == {"tokens": 90}
        assert system.ledger.statement(f"clerk@{result.run}").spent == {"steps": 4}
    async with System(tree(3), journal=store) as system:
        assert system.ledger.statement("desk").spent == {"tokens": 90}
        result, _ = await forked(system, first.run, at=at)
        assert (result.status, result.spend.steps) == ("stopped", 3)  # one step was left


@pytest.mark.anyio
async def test_a_fork_of_a_sessions_run_keeps_its_window_and_leaves_the_session_alone() -> None:
    agent = clerk(lambda request: words(f"{len(request.messages)} messages"))
    async with System(agent) as system:
        await system.run(agent, "one", session="s")
        second = await system.run(agent, "two", session="s")
        at = place(await records_of(system, second.run), ev.ModelAsked) - 1
        result, found = await forked(system, second.run, at=at)
        assert (second.unwrap(), result.unwrap()) == ("4 messages", "4 messages")
        assert isinstance(found[0].event, ev.RunStarted)
        assert (found[0].event.session, found[0].event.continues) == ("", "")
        third = await system.run(agent, "three", session="s")
        assert third.unwrap() == "6 messages"


@pytest.mark.anyio
async def test_a_fork_of_a_fork_goes_on_from_it() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ToolAnswered)
        second, found = await forked(system, first.run, at=at, instructions="Be quick.")
        third, found = await forked(system, second.run, at=place(found, ev.Forked) + 2)
        assert [event.run for event in events(found, ev.Forked)] == [first.run, second.run]
        assert isinstance(agent.model, Acted)
        assert rules(agent.model.seen[-1]) == "Be quick."
        assert third.status == "complete"


@pytest.mark.anyio
async def test_a_model_call_that_was_under_way_is_asked_anew_and_costs_nothing_here() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ModelAsked, 1)
        result, found = await forked(system, first.run, at=at)
        failed = events(found, ev.ModelFailed)
        assert [(event.kind, event.spent, event.estimated) for event in failed] == [
            ("interrupted", {"steps": 1}, False)
        ]
        assert result.spend.tokens == first.spend.tokens


@pytest.mark.anyio
async def test_to_resume_a_run_that_has_ended_gives_its_result_and_writes_nothing() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        before = await rows(system, first.run)
        assert await system.resume(first.run) == first
        assert await rows(system, first.run) == before


@pytest.mark.anyio
async def test_a_fork_that_cannot_be_written_leaves_nothing() -> None:
    class Full(MemoryStore):
        async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
            if any(b"Forked" in row.payload for row in rows):
                raise JournalFailed(self.path, "no space left on device")
            await super().write(rows, at)

    agent = clerk()
    async with System(agent, journal=Full()) as system:
        first = await system.run(agent, "go")
        with pytest.raises(JournalFailed, match="no space left"):
            await system.fork(first.run, at=2)
        assert [head.run for head in await system.journal.store.heads() if ev.is_run(head.run)] == [first.run]
        assert (await system.run(agent, "again")).status == "complete"


@pytest.mark.anyio
async def test_a_fork_that_was_begun_is_finished_by_the_next_process(tmp_path: Path) -> None:
    gate = asyncio.Event()

    @tool(effect="read")
    async def slow() -> str:
        """Take long."""
        gate.set()
        await asyncio.Event().wait()
        return "never"

    agent = clerk(script(calls(call("look", what="lamp")), words("done")))
    async with System(agent, journal=tmp_path / "desk.db") as system:
        first = await system.run(agent, "go")
        at = place(await records_of(system, first.run), ev.ToolAnswered)
    held = Agent("clerk", model=Acted(script(words(""), calls(call("slow")))), tools=[look, ship, slow])
    async with System(held, journal=tmp_path / "desk.db", grace=0.01) as system:
        name = await system.fork(first.run, at=at)
        await gate.wait()
    async with System(agent, journal=tmp_path / "desk.db") as system:
        result = await system.resume(name)
        assert (result.status, result.run) == ("complete", name)
        assert len([record for record in await records_of(system, name) if isinstance(record.event, ev.Forked)]) == 1


@pytest.mark.anyio
async def test_a_quarantined_agent_takes_no_fork() -> None:
    from understudy import Quarantine

    says = script(*[calls(call("look", what="lamp"))] * 9)
    agent = clerk(says, loops=Loops(Same(3), ladder=[Quarantine()]))
    async with System(agent) as system:
        first = await system.run(agent, "go")
        with pytest.raises(AgentQuarantined):
            await system.fork(first.run, at=3)


def test_the_time_that_a_state_of_the_machine_may_last_goes_on_from_the_fork() -> None:
    async def main() -> None:
        says = script(calls(call("order", id="1042")), calls(call("move", event="not_owed")), words('"declined"'))
        agent = make(says, make_machine(check=60.0))
        async with System(agent, journal=MemoryStore(), clock=SimClock()) as system:
            first = await system.run(agent, "go")
            await asyncio.sleep(3_600)
            at = place(await records_of(system, first.run), ev.ToolAnswered)
            result, found = await forked(system, first.run, at=at)
            assert (result.status, result.state) == (first.status, "declined")
            assert events(found, ev.StateTimedOut) == []

    simulated(main)


# --- every event of rich runs ----------------------------------------------------------------------------


class Part(Message[Result[str]]):
    text: str


def team() -> Supervisor:
    """Delegations, a loop with a nudge, a call that needs a yes, and calls that change the world."""
    inspect = script(*[calls(call("look", what="same"))] * 3, words("inspected"))
    inspector = Agent("inspector", model=Acted(inspect), tools=[look], accepts=Part, instructions="Look.")
    parts = [call("inspector", text="one"), call("inspector", text="two"), call("look", what="all")]
    says = script(calls(*parts), calls(call("ship", box="1"), call("pay", cents=5)), words("done"))
    lead = Agent("lead", model=Acted(says), tools=[look, ship, pay], delegates=[inspector])
    return Supervisor("desk", [lead, inspector], approvals=Approvals(by={"finance": ["ana"]}))


def test_each_event_of_a_run_with_delegations_and_approvals_is_refused_or_forked_and_does_nothing_twice() -> None:
    async def main() -> tuple[int, int]:
        refused = 0
        async with System(team(), journal=MemoryStore(), clock=SimClock()) as system:
            waiting = await system.ref("lead").ask(Prompt("go"))
            await system.approve(waiting.pending[0], by="ana")
            first = await system.resume(waiting.run)
            assert first.status == "complete"
            records = await records_of(system, first.run)
            for at in range(1, len(records) + 1):
                did.clear()
                paid.clear()
                try:
                    name = await system.fork(first.run, at=at)
                except UsageError:
                    refused += 1
                    continue
                result = await system.resume(name)
                if result.status == "waiting":
                    await system.approve(result.pending[0], by="ana")
                    result = await system.resume(name)
                assert (result.status, result.output) == (first.status, first.output), at
                assert (await system.replay(name)).identical, at
                assert result.spend.steps == first.spend.steps, at
                shipped = [r for r in records[:at] if isinstance(r.event, ev.ToolAsked) and r.event.name == "ship"]
                assert did["ship 1"] == (not shipped), at
                assert paid["pay"] == 1 or any(isinstance(r.event, ev.ApprovalAsked) for r in records[:at])
        return len(records), refused

    events_, refused = simulated(main)
    assert (events_ > 40, 3 < refused < events_ / 2) == (True, True)


def test_a_changed_prompt_holds_for_later_requests_to_that_agent_and_for_no_other() -> None:
    async def main() -> None:
        async with System(team(), journal=MemoryStore(), clock=SimClock()) as system:
            waiting = await system.ref("lead").ask(Prompt("go"))
            records = await records_of(system, waiting.run)
            at = place(records, ev.SubStarted) - 1
            name = await system.fork(waiting.run, at=at, agent="inspector", instructions="Look twice.")
            await system.resume(name)
            for agent, expected in (("inspector", {"Look.", "Look twice."}), ("lead", {""})):
                model = system.tree.policies[agent].agent.model
                assert isinstance(model, Acted)
                seen = {rules(r) if r.messages[0].role == "system" else "" for r in model.seen}
                assert seen == expected
            with pytest.raises(UsageError, match="agent 'nobody' is not part of this system"):
                await system.fork(waiting.run, at=at, agent="nobody", instructions="")

    simulated(main)


def test_a_forked_stream_reads_back_as_it_was_written() -> None:
    event = ev.Forked("7f3a", 58, "clerk", "Be quick.", "other", 58, "ana")
    record = Record("9c1d", 59, 1.0, 2.0, 0, "", 0, 58, event)
    assert ev.decode(ev.encode(record)) == record
    assert msgspec.json.decode(ev.encode(record))["event"]["$"] == "Forked"
