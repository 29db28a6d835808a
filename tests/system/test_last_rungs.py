"""The rungs above the others, as whole runs meet them: another model, and the supervisor above."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from acted import Acted, calls, script, words
from acted import call as ask

from understudy import (
    Agent,
    Budget,
    Escalate,
    Loops,
    Nudge,
    Price,
    Prompt,
    Restart,
    Same,
    Stop,
    Supervisor,
    System,
    tool,
)
from understudy.actors.errors import ModelRefused, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.actors.testing.simloop import run
from understudy.supervisors.operator import why as whys
from understudy.testing import World, play

T = TypeVar("T")


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return "nothing there"


@tool(effect="irreversible", approve="boss")
async def send(what: str) -> str:
    """Send."""
    return f"sent {what}"


LOOPING = [call("look", what="here")] * 20


def virtually(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return run(main)


async def stream_of(system: System, name: str) -> list[Record]:
    await system.journal.barrier()
    return decode_rows(":memory:", await system.journal.store.read(name))


def kinds(records: list[Record]) -> list[str]:
    return [type(record.event).__name__ for record in records]


# --- escalate -----------------------------------------------------------------------------------------------------


def escalating(clerk_says: ScriptedModel, other: ScriptedModel) -> Supervisor:
    loops = Loops(Same(3), ladder=[Nudge(), Escalate()])
    team = Supervisor(
        "team", [Agent("clerk", model=clerk_says, tools=[look]), Agent("other", model=other, tools=[look])], loops=loops
    )
    return Supervisor("desk", [team])


@pytest.mark.promise(248)
def test_a_run_that_escalates_is_stopped_and_the_team_starts_anew() -> None:
    tree = escalating(ScriptedModel([*LOOPING[:4], "all is well"]), ScriptedModel([]))

    async def main() -> None:
        async with System(tree) as system:
            first = await system.ref("clerk").ask(Prompt("go"))
            assert (first.status, first.output) == ("stopped", None)
            assert first.reason.startswith("desk/team/clerk ended: shutdown(escalated desk/team/clerk: loops.same(3)")
            records = await stream_of(system, first.run)
            assert kinds(records)[-4:] == ["Judged", "ChildExited", "Escalated", "Finished"]
            assert replay(records, system.tree.policies).identical
            told = "\n".join(whys.render(whys.why(records), lambda name: name[:4]))
            assert "team ended, for the supervisor above it to decide about clerk" in told
            assert "clerk looped, was nudged, then was escalated, and ended stopped" in told
            second = await _when_up(system, "clerk")
            assert (second.status, second.output) == ("complete", "all is well")
            of_node = await stream_of(system, ev.NODE_STREAM)
            assert [r.event.child for r in of_node if isinstance(r.event, ev.BackedOff)] == ["desk/team"]

    virtually(main)


@pytest.mark.promise(248)
def test_a_run_that_was_escalated_goes_on_without_its_loop_when_somebody_takes_it_up() -> None:
    asked = ScriptedModel([*LOOPING[:4], "I know nothing"])

    async def main() -> None:
        async with System(escalating(asked, ScriptedModel([]))) as system:
            first = await system.ref("clerk").ask(Prompt("go"))
            await _up(system, "desk/team/clerk")
            result = await system.resume(first.run)
            assert (result.status, result.output) == ("complete", "I know nothing")
            records = await stream_of(system, first.run)
            assert replay(records, system.tree.policies).identical

    virtually(main)
    last = [message.content for message in asked.requests[-1].messages if message.role != "system"]
    assert last[0] == "go"
    assert last[-1].startswith("Note from the supervisor: a former attempt got stuck")
    assert "nothing there" not in last


# --- another model ------------------------------------------------------------------------------------------------


def two_models(first: Any, second: Any, **options: Any) -> tuple[Supervisor, Agent[Any, Any]]:
    loops = Loops(Same(3), ladder=[Restart(temperature=None, model="second"), Stop()])
    clerk = Agent("clerk", model=first, alternatives=[second], tools=[look, send], loops=loops, **options)
    return Supervisor("desk", [clerk]), clerk


@pytest.mark.promise(249)
def test_a_restart_may_put_another_model_in_the_place_of_the_agents_own() -> None:
    first, second = ScriptedModel(LOOPING, name="first"), ScriptedModel(["it is not here"], name="second")
    tree, clerk = two_models(first, second)

    async def main() -> None:
        async with System(tree) as system:
            result = await system.run(clerk, "go")
            assert (result.status, result.output, result.reason) == ("complete", "it is not here", "")
            records = await stream_of(system, result.run)
            assert replay(records, system.tree.policies).identical
            told = "\n".join(whys.render(whys.why(records), lambda name: name[:4]))
            assert "3 exchanges → 1 note, model second, ladder 1" in told

    virtually(main)
    assert (len(first.requests), len(second.requests)) == (3, 1)
    assert second.requests[0].temperature is None


@pytest.mark.promise(249)
def test_the_other_model_is_asked_in_the_next_process_too() -> None:
    store = MemoryStore()

    async def main() -> None:
        first = ScriptedModel(LOOPING, name="first")
        tree, clerk = two_models(first, ScriptedModel([call("send", what="it")], name="second"))
        async with System(tree, journal=store) as system:
            waiting = await system.run(clerk, "go")
            assert waiting.status == "waiting"
        again, second = ScriptedModel([], name="first"), ScriptedModel(["sent"], name="second")
        tree, clerk = two_models(again, second)
        async with System(tree, journal=store) as system:
            await system.approve(system.approvals()[0], by="ana")
            result = await system.resume(waiting.run)
            assert (result.status, result.output) == ("complete", "sent")
            assert replay(await stream_of(system, waiting.run), system.tree.policies).identical
        assert (len(again.requests), len(second.requests)) == (0, 1)

    virtually(main)


def test_when_the_other_model_fails_for_good_the_fallback_is_asked() -> None:
    first, second = ScriptedModel(LOOPING, name="first"), ScriptedModel([ModelRefused("no", sent=False)], name="second")
    third = ScriptedModel(["it is not here"], name="third")
    tree, clerk = two_models(first, second, fallback=third)

    async def main() -> None:
        async with System(tree) as system:
            result = await system.run(clerk, "go")
            assert (result.status, result.reason) == ("degraded", "model refused: no; answered by third")
            assert replay(await stream_of(system, result.run), system.tree.policies).identical

    virtually(main)


def test_a_fallback_that_the_ladder_has_chosen_and_that_fails_is_not_asked_again() -> None:
    first = ScriptedModel(LOOPING, name="first")
    spare = ScriptedModel([ModelRefused("no", sent=False)], name="spare")
    loops = Loops(Same(3), ladder=[Restart(model="spare"), Stop()])
    clerk = Agent("clerk", model=first, fallback=spare, tools=[look], loops=loops)

    async def main() -> None:
        async with System(clerk) as system:
            result = await system.run(clerk, "go")
            assert (result.status, result.reason) == ("failed", "model refused: no")

    virtually(main)
    assert len(spare.requests) == 1


@pytest.mark.promise(249)
def test_a_model_that_an_agent_does_not_have_is_refused_at_start() -> None:
    loops = Loops(ladder=[Nudge(), Restart(model="big"), Stop()])
    clerk = Agent("clerk", model=ScriptedModel([], name="small"))
    text = r"desk/clerk: Loops\.ladder\[1\] restarts it with model 'big', which it does not have; its models are: small"
    with pytest.raises(SpecError, match=text):
        System(Supervisor("desk", [clerk], loops=loops))


def test_alternatives_have_names_of_their_own() -> None:
    one, other = ScriptedModel([], name="one"), ScriptedModel([], name="one")
    with pytest.raises(SpecError, match=r"agent 'clerk': two of its models are named 'one'"):
        Agent("clerk", model=one, alternatives=[other])


def test_a_model_in_a_ladder_is_a_name() -> None:
    wrong: Any = ScriptedModel([], name="big")
    with pytest.raises(SpecError, match=r"Loops\.ladder\[0\]\.model must be the name of a model"):
        Loops(ladder=[Restart(model=wrong)])


def test_a_budget_in_money_wants_a_price_of_the_alternatives_too() -> None:
    priced = ScriptedModel([], name="priced", price=Price(1, 1))
    clerk = Agent("clerk", model=priced, alternatives=[ScriptedModel([], name="free")], budget=Budget(usd=1.0))
    with pytest.raises(SpecError, match=r"counts money, but model 'free' has no price"):
        System(clerk)


def test_in_a_play_one_script_stands_for_every_model_of_an_agent() -> None:
    own, other = Acted(script(calls(ask("look", what="here")))), Acted(script(words("x")), name="other")
    loops = Loops(Same(2), ladder=[Restart(model="other"), Stop()])
    clerk = Agent("clerk", model=own, alternatives=[other], tools=[look], loops=loops)
    outcome = play(clerk, World(), "go")
    assert outcome.result.status == "complete"
    assert not own.seen
    assert not other.seen


async def _up(system: System, path: str) -> None:
    """Wait until an address is served again."""
    for _ in range(100):
        cell = system.kernel.registry.find(path)
        if cell is not None and cell.state == "running":
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{path} did not come back")


async def _when_up(system: System, name: str) -> Any:
    await _up(system, f"desk/team/{name}")
    return await system.ref(name).ask(Prompt("again"))
