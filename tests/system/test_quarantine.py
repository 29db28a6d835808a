"""An agent in quarantine takes no request from anybody until a person releases it, also in the processes after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import shown
from hypothesis import given, settings
from msgspec import Struct

from understudy import (
    Agent,
    Loops,
    Message,
    Nudge,
    Prompt,
    Quarantine,
    Result,
    Route,
    Same,
    Supervisor,
    System,
    Talk,
    Waiting,
    tool,
)
from understudy.actors.agents.answers import Word
from understudy.actors.errors import ActorStopped, AgentQuarantined, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.scripted_model import ScriptedModel, Step, call
from understudy.actors.testing.simloop import run as virtually
from understudy.supervisors.operator import why as whys
from understudy.testing import World, play, worlds

T = TypeVar("T")
LOOP = [call("look", what="here")] * 4
LADDER = Loops(Same(3), ladder=[Nudge(), Quarantine()])


class Question(Message[Result[str]]):
    text: str


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return "nothing there"


def clerk(*steps: object, **options: Any) -> Agent[Any, Any]:
    return Agent("clerk", model=ScriptedModel(steps), tools=[look], **options)


def desk(*agents: Agent[Any, Any]) -> Supervisor:
    return Supervisor("desk", list(agents), loops=LADDER)


async def stream_of(system: System, name: str) -> list[Record]:
    await system.journal.barrier()
    return decode_rows(":memory:", await system.journal.store.read(name))


def slow_looper() -> Supervisor:
    return desk(clerk(Step(LOOP[0], seconds=1), *LOOP[1:]))


async def with_one_waiting(system: System) -> Result[str]:
    """Have the clerk loop while another request is in its queue; what that asker gets."""
    first = asyncio.create_task(system.ref("clerk").ask(Prompt("go")))
    await asyncio.sleep(0.1)
    waiting: Result[str] = await system.ref("clerk").ask(Prompt("and this"))
    await first
    return waiting


async def looped(system: System) -> Result[str]:
    result: Result[str] = await system.ref("clerk").ask(Prompt("go"))
    assert result.status == "stopped"
    return result


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return virtually(main)


@pytest.mark.promise(251)
def test_a_quarantined_agent_takes_no_request_of_anybody_until_it_is_released() -> None:
    other = Agent("other", model=ScriptedModel(["fine"]))

    async def main() -> None:
        async with System(desk(clerk(*LOOP, "all is well"), other)) as system:
            result = await looped(system)
            why = "loops.same(3): the same again after the nudge"
            assert result.reason == (
                f"{why}; clerk is quarantined, and takes no request until `understudy release clerk`"
            )
            records = await stream_of(system, result.run)
            assert replay(records, system.tree.policies).identical
            (judged,) = [r.seq for r in records if isinstance(r.event, ev.Judged)][1:]
            assert system.quarantined() == [ev.Quarantined("clerk", result.run, judged, why)]
            place = f"since {result.run}:{judged}"
            with pytest.raises(AgentQuarantined, match=f"clerk is quarantined {place} .* `understudy release clerk`"):
                await system.ref("clerk").ask(Prompt("and this?"))
            with pytest.raises(ActorStopped):
                await system.ref("clerk").ask(Prompt("and this?"))
            refused = system.ref("clerk").tell(Prompt("and this?"))
            assert not refused
            assert (await system.ref("other").ask(Prompt("and you?"))).output == "fine"
            await system.release("clerk", by="ana")
            assert system.quarantined() == []
            assert (await system.ref("clerk").ask(Prompt("and this?"))).output == "all is well"

    run(main)


@pytest.mark.promise(252)
def test_what_a_quarantined_agent_had_already_waits_and_goes_on_when_it_is_released() -> None:
    async def main() -> None:
        steps = [Step(LOOP[0], seconds=1), *LOOP[1:], "the second is done"]
        async with System(desk(clerk(*steps))) as system:
            first = asyncio.create_task(system.ref("clerk").ask(Prompt("go")))
            await asyncio.sleep(0.1)
            second = await system.ref("clerk").ask(Prompt("and this"))
            assert (await first).status == "stopped"
            assert isinstance(second, Waiting)
            assert second.reason.startswith("clerk is quarantined since")
            assert system.unfinished() == [second.run]
            assert isinstance(await system.resume(second.run), Waiting)
            records = await stream_of(system, second.run)
            assert whys.why(records).next[0] == "understudy release clerk"
            assert whys.why(records).end == "waiting: for quarantine"
            await system.release("clerk", by="ana")
            result = await system.resume(second.run)
            assert (result.status, result.output) == ("complete", "the second is done")
            assert replay(await stream_of(system, second.run), system.tree.policies).identical

    run(main)


@pytest.mark.promise(251, 252)
def test_a_quarantine_holds_in_the_processes_that_come_after() -> None:
    store = MemoryStore()

    async def main() -> None:
        async with System(slow_looper(), journal=store) as system:
            waiting = await with_one_waiting(system)
        model = ScriptedModel(["done at last", "and more"])
        async with System(desk(Agent("clerk", model=model, tools=[look])), journal=store) as system:
            assert [each.agent for each in system.quarantined()] == ["clerk"]
            with pytest.raises(AgentQuarantined):
                await system.run(system.tree.policies["clerk"].agent, "a new one")
            await asyncio.sleep(5)
            assert not model.requests
            await system.journal.store.post("release", msgspec.json.encode(Word("clerk", "ana")), 0.0)
            await asyncio.sleep(5)
            result = await system.result(waiting.run)
            assert (result.status, result.output) == ("complete", "done at last")
        async with System(desk(Agent("clerk", model=model, tools=[look])), journal=store) as system:
            assert system.quarantined() == []
            assert (await system.ref("clerk").ask(Prompt("more"))).output == "and more"

    run(main)


@pytest.mark.promise(252)
def test_a_request_that_waited_goes_on_also_when_the_process_ended_right_after_the_release() -> None:
    store = MemoryStore()

    async def main() -> None:
        async with System(slow_looper(), journal=store) as system:
            waiting = await with_one_waiting(system)
            system.runs.quarantine.release("clerk", "ana")  # and nothing more: the word is there, the waking is not
            await system.journal.barrier()
        async with System(desk(clerk("done at last")), journal=store) as system:
            await asyncio.sleep(5)
            assert (await system.result(waiting.run)).output == "done at last"

    run(main)


def test_a_delegation_to_a_quarantined_agent_is_refused_and_the_agent_is_told() -> None:
    worker = Agent("worker", model=ScriptedModel(LOOP), accepts=Question, tools=[look])
    lead = Agent(
        "lead",
        model=ScriptedModel([call("worker", text="1"), call("worker", text="2"), "nobody can look"]),
        delegates=[worker],
    )

    async def main() -> None:
        async with System(desk(lead, worker)) as system:
            result = await system.run(lead, "go")
            records = await stream_of(system, result.run)
            (failed,) = [r.event for r in records if isinstance(r.event, ev.ToolFailed)]
            assert (failed.kind, result.status) == ("quarantine", "partial")
            assert failed.error.startswith("refused: worker is quarantined since")
            assert replay(records, system.tree.policies).identical
            found = [finding for finding in whys.why(records).findings if finding.kind == "tool"]
            assert found[0].details[-1].text == "understudy release worker, when it is fit again"

    run(main)


class Answer(Struct, frozen=True):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


class Ticket(Message[Result[Answer]]):
    text: str


def test_a_request_that_is_handed_on_to_a_quarantined_agent_waits() -> None:
    writer: Agent[Any, Any] = Agent("writer", model=ScriptedModel([Draft("a")] * 2), accepts=Ticket, output=Draft)
    reviewer: Agent[Any, Any] = Agent(
        "reviewer", model=ScriptedModel([*LOOP, Answer("good")]), accepts=Draft, output=Answer, tools=[look]
    )
    tree = Supervisor("desk", [writer, reviewer], loops=LADDER, routes=[Route(Draft, to=reviewer)])

    async def main() -> None:
        async with System(tree) as system:
            assert (await system.ref("writer").ask(Ticket("1"))).status == "stopped"
            waiting = await system.ref("writer").ask(Ticket("2"))
            assert waiting.status == "waiting"
            await system.release(reviewer, by="ana")
            assert (await system.resume(waiting.run)).output == Answer("good")

    run(main)


def thankful() -> Supervisor:
    """Two agents that hand one request to and fro, which is a loop at the second time."""
    model = ScriptedModel([])
    writer = Agent("writer", model=model, accepts=Ticket, output=Draft, tools=[look])
    reviewer: Agent[Any, Any] = Agent("reviewer", model=model, accepts=Draft, output=Ticket | Answer, tools=[look])
    routes = [Route(Ticket, to=writer), Route(Draft, to=reviewer)]
    return Supervisor("desk", [writer, reviewer], loops=Loops(Talk(2), ladder=[Quarantine()]), routes=routes)


@pytest.mark.promise(251)
@settings(max_examples=40)
@given(worlds(thankful(), kills=2))
def test_a_verdict_and_its_quarantine_are_there_together_whenever_the_process_is_killed(world: World) -> None:
    records = play(thankful(), world, Ticket("1"), to="writer").records
    judged = [record for stream in records.values() for record in stream if isinstance(record.event, ev.Judged)]
    held = [record.event for record in records.get(ev.QUARANTINE, ()) if isinstance(record.event, ev.Quarantined)]
    assert [(each.run, each.seq) for each in held] == [(record.run, record.seq) for record in judged]


def test_who_waits_for_a_quarantine_can_be_stopped() -> None:
    async def main() -> None:
        steps = [Step(LOOP[0], seconds=1), *LOOP[1:]]
        async with System(desk(clerk(*steps))) as system:
            first = asyncio.create_task(system.ref("clerk").ask(Prompt("go")))
            await asyncio.sleep(0.1)
            waiting = await system.ref("clerk").ask(Prompt("and this"))
            await first
            system.runs.ask_to_stop(waiting.run, "not needed", "stop", "ana")
            await asyncio.sleep(1)
            assert ((await system.result(waiting.run)).status, system.unfinished()) == ("stopped", [])

    run(main)


def test_a_release_of_who_is_not_quarantined_and_by_nobody_is_refused() -> None:
    async def main() -> None:
        async with System(desk(clerk(*LOOP))) as system:
            with pytest.raises(UsageError, match="agent 'clerk' is not quarantined; quarantined: none"):
                await system.release("clerk", by="ana")
            await looped(system)
            with pytest.raises(UsageError, match="agent 'clerk': say who answers"):
                await system.release("clerk", by=" ")
            assert len(system.quarantined()) == 1

    run(main)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal in which `clerk` is quarantined; nobody owns it."""
    path = tmp_path / "desk.db"
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with System(desk(clerk(*LOOP)), journal=path) as system:
            await looped(system)

    asyncio.run(main())
    return path


def test_the_quarantined_are_listed_and_released_from_a_terminal(journal: Path) -> None:
    code, out, _ = shown.command("release")
    assert (code, out.split()[0], "loops.same(3): the same again" in out) == (0, "clerk", True)
    code, _, err = shown.command("release", "lead", "--by", "ana")
    assert (code, err) == (2, "understudy: agent 'lead' is not quarantined; quarantined: clerk\n")
    code, _, err = shown.command("release", "clerk", "--by", "ana", "--app", "shown_loops:quarantined")
    assert (code, err.split()[:2]) == (0, ["Released", "clerk,"])
    code, out, err = shown.command("release")
    assert (code, out) == (0, "")
    assert "no agent is quarantined" in err


def test_without_an_app_the_word_waits_in_the_inbox_for_the_next_owner(journal: Path) -> None:
    code, _, err = shown.command("release", "clerk", "--by", "ana")
    assert (code, "the word waits in its inbox" in err) == (3, True)

    async def main() -> list[ev.Quarantined]:
        async with System(desk(clerk()), journal=journal) as system:
            return system.quarantined()

    assert asyncio.run(main()) == []


def test_a_live_owner_is_told_through_its_inbox(journal: Path) -> None:
    async def main() -> tuple[int, str, str]:
        async with System(desk(clerk("fine")), journal=journal) as system:
            told = await asyncio.to_thread(shown.command, "release", "clerk", "--by", "ana")
            assert (await system.ref("clerk").ask(Prompt("go"))).output == "fine"
            return told

    code, _, err = asyncio.run(main())
    assert (code, err.split()[:2]) == (0, ["Released", "clerk,"])
