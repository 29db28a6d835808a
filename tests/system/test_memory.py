"""What a run keeps of itself when its agent crashed on it: the four memory policies, played and replayed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from crashing import CrashingModel
from hypothesis import given, settings

from understudy import Agent, Backoff, ChildSpec, Ctx, Intensity, Prompt, Supervisor, System, tool
from understudy.actors.agents.models import ChatMessage
from understudy.actors.agents.recall import Memory
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.actors.testing.scripted_model import ScriptedModel, Step, call
from understudy.actors.testing.simloop import run
from understudy.testing import World, play, worlds

BROKEN = RuntimeError("the adapter broke")


def made(memory: Memory, replies: list[object]) -> tuple[Agent[str, Prompt], Supervisor, CrashingModel, list[str]]:
    paid: list[str] = []

    @tool(effect="read")
    async def look(id: str) -> str:
        return f"order {id}"

    @tool(effect="keyed")
    async def pay(id: str) -> str:
        paid.append(id)
        return f"paid {id}"

    def got(ctx: Ctx) -> str | None:
        found = [*ctx.results("look"), *ctx.results("pay")]
        return ", ".join(found) or None

    model = CrashingModel(replies)
    agent = Agent("desk", model=model, tools=[look, pay], checkpoint=got)
    tree = Supervisor("main", [ChildSpec(agent, memory=memory)], intensity=Intensity(99), backoff=Backoff(jitter=0))
    return agent, tree, model, paid


def played(memory: Memory, replies: list[object]) -> tuple[list[ChatMessage], list[Record], list[str], System]:
    """What the model was shown last, the records, what was paid, and the system."""
    agent, tree, model, paid = made(memory, replies)
    kept: list[Record] = []
    system = System(tree)

    async def main() -> None:
        async with system:
            result = await system.run(agent, "order 7")
            assert (result.status, result.output) == ("complete", "done")
            kept.extend(await system.journal.read(result.run))

    run(main)
    return list(model.asked[-1].messages), kept, paid, system


def texts(messages: list[ChatMessage]) -> list[str]:
    return [message.content for message in messages if message.content]


LOOK = call("look", id="7")
PAY = call("pay", id="7")


@pytest.mark.promise(294)
@pytest.mark.parametrize(
    ("memory", "seen"),
    [
        ("last_step", ["order 7", '"order 7"']),
        (
            "note",
            [
                "order 7",
                '"order 7"',
                "Note from the supervisor: a former attempt failed after step 1: RuntimeError: the adapter broke. What"
                " was done is above. If it can be avoided, take another way.",
            ],
        ),
        (
            "checkpoint",
            [
                "order 7",
                "Note from the supervisor: a former attempt failed. This is what it had got so far; go on from there:"
                ' "order 7"',
            ],
        ),
        ("fresh", ["order 7"]),
    ],
)
def test_a_run_whose_agent_crashed_goes_on_with_what_its_memory_policy_keeps(memory: Memory, seen: list[str]) -> None:
    shown, records, _, system = played(memory, [LOOK, BROKEN, "done"])
    assert texts(shown) == seen
    assert replay(records, system.tree.policies).identical
    assert [record.event.attempt for record in records if isinstance(record.event, ev.AttemptStarted)] == [1, 2]


@pytest.mark.promise(294)
@pytest.mark.parametrize("memory", ["checkpoint", "fresh"])
def test_no_policy_forgets_what_changed_the_world(memory: Memory) -> None:
    shown, records, paid, system = played(memory, [PAY, LOOK, BROKEN, "done"])
    assert '"paid 7"' in texts(shown)
    assert '"order 7"' not in texts(shown)
    assert paid == ["7"]
    assert replay(records, system.tree.policies).identical


def test_a_crash_before_anything_was_done_leaves_the_request_alone() -> None:
    shown, records, _, system = played("fresh", [BROKEN, BROKEN, "done"])
    assert texts(shown) == ["order 7"]
    assert replay(records, system.tree.policies).identical
    assert sum(isinstance(record.event, ev.Recalled) for record in records) == 2


def test_a_crash_under_the_default_policy_adds_no_command() -> None:
    _, records, _, _ = played("last_step", [LOOK, BROKEN, "done"])
    assert not any(isinstance(record.event, ev.Recalled) for record in records)


def test_a_replay_under_another_policy_names_the_first_command_that_differs() -> None:
    _, records, _, _ = played("note", [LOOK, BROKEN, "done"])
    _, tree, _, _ = made("fresh", [])
    report = replay(records, System(tree).tree.policies)
    assert report.at is not None
    assert isinstance(records[report.at - 1].event, ev.Recalled)
    assert ("'note'" in report.recorded, "'fresh'" in report.now) == (True, True)


def test_a_delegation_is_not_forgotten_since_nobody_knows_what_it_did() -> None:
    worker = Agent("worker", model=ScriptedModel(["worked"]))
    model = CrashingModel([call("worker", text="go"), BROKEN, "done"])
    agent = Agent("desk", model=model, delegates=[worker])
    tree = Supervisor("main", [ChildSpec(agent, memory="fresh"), worker], backoff=Backoff(jitter=0))

    async def main() -> None:
        async with System(tree) as system:
            assert (await system.run(agent, "order 7")).status == "complete"

    run(main)
    assert any("worked" in text for text in texts(list(model.asked[-1].messages)))


def test_the_end_of_the_process_is_no_crash(tmp_path: Path) -> None:
    """A run that was parked and taken up by another process goes on from its last step, whatever the policy."""
    agent, tree, _, _ = made("fresh", [LOOK, Step("late", seconds=60)])
    seen: list[Any] = []

    async def first() -> str:
        system = System(tree, journal=tmp_path / "desk.db", grace=0.05)
        async with system:
            name = system.ref(agent).begin(agent.decode(agent.encode("order 7")))  # type: ignore[attr-defined]  # an AgentRef
            system.listen(lambda record: seen.append(record.event))
            async with asyncio.timeout(30):
                while not any(isinstance(event, ev.ToolAnswered) for event in seen):  # noqa: ASYNC110  # bounded
                    await asyncio.sleep(0)
            return str(name)

    async def second(name: str) -> list[str]:
        _, tree, model, _ = made("fresh", ["done"])
        async with System(tree, journal=tmp_path / "desk.db") as system:
            await system.runs.settled(name)
            assert not any(isinstance(r.event, ev.Recalled) for r in await system.journal.read(name))
        return texts(list(model.asked[-1].messages))

    name = asyncio.run(first())
    assert '"order 7"' in asyncio.run(second(name))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChildSpec(Agent("a", model=ScriptedModel([])), memory="all"), "child 'a': memory 'all'; one of last"),  # type: ignore[arg-type]  # the mistake
        (
            lambda: ChildSpec(Agent("a", model=ScriptedModel([])), memory="checkpoint"),
            "needs an agent with checkpoint=",
        ),
        (lambda: ChildSpec(lambda: None, name="x", memory="fresh"), "is for agents"),  # type: ignore[arg-type,return-value]  # any factory
    ],
)
def test_a_memory_policy_that_makes_no_sense_is_refused_by_name(make: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        make()


TREES = {memory: made(memory, [])[1] for memory in ("note", "checkpoint", "fresh")}


@pytest.mark.promise(294)
@pytest.mark.parametrize("memory", list(TREES))
def test_runs_under_every_memory_policy_replay_in_any_world(memory: str) -> None:
    tree = TREES[memory]

    @settings(max_examples=25, deadline=None)
    @given(worlds(tree, kills=2))
    def check(world: World) -> None:
        play(tree, world, Prompt("order 7"))

    check()
