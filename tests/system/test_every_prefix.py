"""A crash after every single event of a run with all kinds of effects: resumed, it ends the same, and nothing twice.

The journal of one whole run is cut after each of its events. A call that was in flight at the cut may have happened or
not: both are tried. The world outside, which the tools change, is what it was at the cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from desks import answer, call, calls, make_agent, script

from understudy import Agent, Call, Loops, System, tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore, Row
from understudy.transports.testing.model_server import ModelServer


@dataclass
class World:
    """What is outside: every effect by tool, and the keys a destination has seen."""

    done: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)

    def happen(self, name: str, key: str) -> None:
        if name == "pay" and key in self.keys:
            return  # a destination that knows the key does nothing again
        self.keys.add(key)
        self.done[name] += 1

    def give(self, value: str, name: str, key: str) -> str:
        self.happen(name, key)
        return value


def make_tools(world: World) -> list[Any]:
    @tool(effect="read")
    async def look(what: str) -> str:
        world.happen("look", "")
        return f"saw {what}"

    @tool(effect="idempotent")
    async def put(what: str) -> str:
        world.happen("put", "")
        return f"put {what}"

    @tool(effect="keyed")
    async def pay(call: Call, what: str) -> str:
        world.happen("pay", call.key)
        return f"paid {what}"

    @tool(effect="verifiable")
    async def book(call: Call, what: str) -> str:
        world.happen("book", call.key)
        return f"booked {what}"

    @book.verify
    async def booked(what: str) -> bool | None:
        return world.done["book"] > 0

    @tool(effect="irreversible", approve="boss")
    async def send(what: str) -> str:
        world.happen("send", "")
        return f"sent {what}"

    @tool(effect="idempotent")
    async def long(call: Call, what: str) -> list[str]:
        first = await call.step("first", lambda: world.give("one", "long first", call.key))
        return [first, await call.step("second", lambda: world.give("two", "long second", call.key))]

    return [look, put, pay, book, send, long]


POLICY = script(
    calls(call("look", what="a"), call("look", what="b")),
    calls(call("put", what="c"), call("pay", what="d")),
    calls(call("book", what="e")),
    calls(call("send", what="f")),
    calls(call("long", what="g"), call("look", what="h")),
    answer("done"),
)


async def finish(agent: Agent[Any, Any], store: MemoryStore, world: World, run: str) -> tuple[Any, list[Record]]:
    """Take the run up and answer whatever it asks, as the world has it."""
    async with System(agent, journal=store) as system:
        for _ in range(10):
            result = await system.resume(run)
            if result.status != "waiting":
                break
            for asked in system.approvals():
                await system.approve(asked, by="ana")
            for doubt in system.doubts():
                await system.settle(doubt.id, did=world.done[doubt.tool] > 0, by="ana")
        records = await system.journal.read(run)
        assert replay(records, system.tree.policies).identical
        return result, records


def world_at(records: Sequence[Record], happened: bool) -> World:
    """The world at the cut: closed calls happened; calls in flight did if `happened`."""
    world = World()
    asked: dict[tuple[int, int], ev.ToolAsked] = {}
    for record in records:
        event = record.event
        if isinstance(event, ev.ToolAsked):
            asked[event.step, event.index] = event
        elif isinstance(event, ev.ToolStepped):
            world.happen(f"long {event.name}", asked[event.step, event.index].key)
        elif isinstance(event, ev.ToolAnswered):
            done = asked.pop((event.step, event.index))
            if done.name != "long":
                world.happen(done.name, done.key)
    for event in asked.values() if happened else ():
        if event.name != "long":
            world.happen(event.name, event.key)
    return world


async def cut(rows: list[Row], length: int) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await store.write(rows[:length], [1.0] * length)
    await store.aclose()
    return store


@pytest.mark.promise(21)
@pytest.mark.anyio
async def test_a_crash_after_every_event_ends_the_same_and_does_nothing_twice() -> None:
    async with ModelServer(POLICY) as server:
        world, store = World(), MemoryStore()
        agent = make_agent(server.url, make_tools(world), loops=Loops())
        async with System(agent, journal=store) as system:
            run = (await system.run(agent, "go")).run
        whole, _ = await finish(agent, store, world, run)
        assert whole.status == "complete"
        await store.open()
        rows = await store.read(run)
        records = decode_rows(":memory:", rows)
        closed = sum(isinstance(r.event, ev.ToolAnswered) for r in records)
        assert closed == 8, "all effects are in this run"
        for length in range(1, len(rows)):
            for happened in (False, True):
                await check_cut(server.url, rows, records[:length], happened, whole)


async def check_cut(url: str, rows: list[Row], records: list[Record], happened: bool, whole: Any) -> None:
    world = world_at(records, happened)
    store = await cut(rows, len(records))
    agent = make_agent(url, make_tools(world), loops=Loops())
    result, after = await finish(agent, store, world, whole.run)
    where = f"cut after event {len(records)} ({type(records[-1].event).__name__}), in flight happened: {happened}"
    assert (result.status, result.output) == ("complete", whole.output), where
    assert after[: len(records)] == records, where
    once = {name: world.done[name] for name in ("pay", "book", "send", "long first", "long second")}
    expected = {"pay": 1, "book": 1, "send": 1, "long first": 1, "long second": 1}
    assert once == expected, where
    assert closed_twice(after) == [], where


def closed_twice(records: Sequence[Record]) -> list[tuple[int, int]]:
    """Calls that were asked for again after they had an outcome."""
    closed: set[tuple[int, int]] = set()
    again = []
    for record in records:
        event = record.event
        if isinstance(event, ev.ToolAnswered | ev.ToolFailed):
            closed.add((event.step, event.index))
        elif isinstance(event, ev.ToolAsked) and (event.step, event.index) in closed:
            again.append((event.step, event.index))
    return again
