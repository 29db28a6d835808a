"""Of the first command that differs, replay says which part of the agent it comes from."""

from __future__ import annotations

from typing import Any

import pytest
from acted import Acted, call, calls, script, words
from lives import RUN, OneId
from msgspec import Struct

from understudy import Agent, Approvals, Budget, Loops, Same, Stop, Supervisor, System, tool
from understudy.actors.agents import commands as cmd
from understudy.actors.agents.models import ModelReply
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.hooks import source_of
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import ReplayReport, replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.simloop import SimClock, run
from understudy.supervisors import tree


class Answer(Struct, frozen=True):
    text: str


class More(Struct, frozen=True):
    text: str
    more: int = 0


LOOK = calls(call("look", what="a"))
DONE = words('{"text": "done"}')


def desk(*replies: ModelReply, look: dict[str, Any] | None = None, loops: Any = None, **options: Any) -> Supervisor:
    """An agent whose parts are given, under a budget of four steps."""
    given = {"approve": "boss", **(look or {})}
    when, key = given.pop("when", lambda what: False), given.pop("key", None)

    @tool(**{"effect": "read", "name": "look", **given})
    async def looks(what: str) -> str:
        return "nothing new"

    looks.approve_when(when)
    if key is not None:
        looks.loop_key(key)
    parts = {"output": Answer, "model": Acted(script(*replies)), "approvals": Approvals(by={"boss": ["bo"]}), **options}
    clerk = Agent[Any, Any]("clerk", tools=[looks], **parts)
    return Supervisor("desk", [clerk], loops=loops or Loops(), budget=Budget(steps=4))


def recorded(root: Supervisor) -> list[Record]:
    store = MemoryStore()

    async def main() -> list[Record]:
        async with System(root, journal=store, clock=SimClock(), ids=OneId(), watchdog=None) as system:
            result = await system.run(system.tree.policies["clerk"].agent, "go")
            for asked in result.pending if result.status == "waiting" else ():
                await system.approve(asked, by="bo")
                await system.resume(result.run)
        await store.open()
        return decode_rows("memory", await store.read(RUN))

    return run(main)


def replayed(before: Supervisor, after: Supervisor) -> ReplayReport:
    return replay(recorded(before), tree.plan(after).policies)


def yes(what: str) -> bool:
    return True


def other_key(what: str) -> str:
    return "other"


def first(ctx: Any) -> Answer:
    return Answer("first")


def second(ctx: Any) -> Answer:
    return Answer("second")


def cites(answer: Any) -> str | None:
    return "name a source"


def fails(answer: Any) -> str | None:
    raise LookupError("no such table")


def misses(ctx: Any) -> str:
    raise KeyError("DESK")


HERE = __name__
CHANGES: dict[str, tuple[list[ModelReply], dict[str, Any], dict[str, Any], str]] = {
    "text of the instructions": ([DONE], {"instructions": "Do."}, {"instructions": "Do it."}, "instructions"),
    "a hook that raises": ([DONE], {}, {"instructions": misses}, f"the hook {HERE}.misses"),
    "another tool": ([DONE], {}, {"look": {"name": "see"}}, "the tools: names, descriptions, parameters"),
    "another output": ([DONE], {}, {"output": More}, "the schema of the output"),
    "another temperature": ([DONE], {}, {"temperature": 0.5}, "the model and its options"),
    "more tokens": ([DONE], {}, {"max_tokens": 77}, "the model and its options and max_tokens"),
    "a check that objects": ([DONE], {}, {"checks": [cites]}, f"check 'cites' ({HERE}.cites)"),
    "a check that is gone": ([DONE], {"checks": [cites]}, {}, "the schema of the output"),
    "a check that raises": ([DONE], {}, {"checks": [fails]}, f"the hook {HERE}.fails"),
    "a yes that is wanted": ([LOOK, DONE], {}, {"look": {"when": yes}}, f"approve_when of tool 'look' ({HERE}.yes)"),
    "a yes that is not": ([LOOK, DONE], {"look": {"when": yes}}, {}, "approve_when of tool 'look' ({here})"),
    "a loop key": ([LOOK, DONE], {}, {"look": {"key": other_key}}, f"loop_key of tool 'look' ({HERE}.other_key)"),
    "an effect": ([LOOK, DONE], {}, {"look": {"effect": "idempotent"}}, "tool 'look': its effect or polling"),
    "a loop rule": (
        [LOOK],
        {"loops": Loops(Same(3), ladder=[Stop()])},
        {"loops": Loops(Same(2), ladder=[Stop()])},
        "the loop rule loops.same(2)",
    ),
    "a checkpoint": ([LOOK], {"checkpoint": first}, {"checkpoint": second}, f"checkpoint ({HERE}.second)"),
}


@pytest.mark.promise(281)
@pytest.mark.parametrize("what", CHANGES)
def test_the_part_that_differs_is_named(what: str) -> None:
    replies, before, after, said = CHANGES[what]
    report = replayed(desk(*replies, **before), desk(*replies, **after))
    assert not report.identical
    assert report.hook == f"{said} of agent 'clerk'".replace("{here}", f"{HERE}.desk.<locals>.<lambda>")


def test_an_answer_that_goes_elsewhere_names_the_routes() -> None:
    root = desk(DONE)
    state = fold(recorded(root)[:-1])
    policy = tree.plan(root).policies["clerk"]
    handed, ends = ev.HandedOff("reader", "Draft", "{}", 1), cmd.Finish("complete", '{"text":"done"}', "")
    assert source_of(state, state.main, policy, handed, ends) == "the routes or the output of agent 'clerk'"


def test_what_is_the_same_has_no_source() -> None:
    assert replayed(desk(LOOK, DONE), desk(LOOK, DONE)).hook == ""
