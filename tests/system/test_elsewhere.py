"""Delegating to an agent of another node: one run there for one call, paid from an escrow, whatever happens between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from acted import Acted, call, calls, told, turns, words

from understudy import Agent, Budget, Elsewhere, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.transports.links.pipes import Hub

Gate = Callable[[], Awaitable[object]]


async def open_gate() -> None:
    """Nothing to wait for."""


def _inspects(request: ModelRequest) -> ModelReply:
    return calls(call("look")) if turns(request) == 0 else words(f"seen {told(request)[0]}")


pytestmark = pytest.mark.anyio


class There:
    """The node `w`: an inspector whose tool waits at a gate."""

    def __init__(self, gate: Gate = open_gate, steps: int = 100) -> None:
        self.looks = 0

        @tool(effect="read", timeout=60)
        async def look() -> str:
            self.looks += 1
            await gate()
            return "dust"

        self.model = Acted(_inspects)
        self.inspector = Agent("inspector", model=self.model, tools=[look])
        self.tree = Supervisor("desk", [self.inspector], budget=Budget(steps=steps))

    def system(self, hub: Hub, store: MemoryStore | None = None) -> System:
        return System(self.tree, name="w", listen=hub.port("w"), journal=store)


class Here:
    """The node `a`: a planner that delegates once."""

    def __init__(self, there: There, *, patience: float = 10.0, escrow: int = 5, steps: int = 20) -> None:
        self.model = Acted(self._plans)
        far = Elsewhere(
            there.inspector, "w/desk/inspector", escrow=Budget(steps=escrow, tokens=5_000), patience=patience
        )
        self.planner = Agent("planner", model=self.model, delegates=[far])
        self.tree = Supervisor("main", [self.planner], budget=Budget(steps=steps, tokens=20_000))

    @staticmethod
    def _plans(request: ModelRequest) -> ModelReply:
        if turns(request) == 0:
            return calls(call("inspector", text="Look at the shelf."))
        return words(f"told {told(request)[0]}")

    def system(self, hub: Hub, store: MemoryStore | None = None) -> System:
        return System(self.tree, name="a", join={"w": hub.port("a", "w")}, journal=store)


@contextlib.asynccontextmanager
async def joined(here: Here, there: There, hub: Hub) -> AsyncIterator[tuple[System, System]]:
    async with there.system(hub) as w, here.system(hub) as a:
        await a.joined("w")
        yield a, w


async def _read(system: System, run: str) -> list[ev.Record]:
    await system.journal.barrier()
    return await system.journal.read(run)


async def until(what: Callable[[], bool]) -> None:
    """Turns of the loop until something holds, 10 s at most."""
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110  # bounded
            await asyncio.sleep(0.001)


@pytest.mark.promise(376)
async def test_the_result_of_another_node_is_that_of_the_call_and_what_it_spent_is_counted_here() -> None:
    there = There()
    here = Here(there)
    async with joined(here, there, Hub()) as (a, w):
        result = await a.run(here.planner, "Plan.")
        assert result.status == "complete"
        assert json.loads(result.unwrap().removeprefix("told ")) == {
            "status": "complete",
            "output": 'seen "dust"',
            "reason": "",
        }
        assert result.spend.steps == 4, "two of the planner, two of the inspector"
        books = a.ledger.statement(f"main@{result.run}")
        assert (books.spent["steps"], books.reserved) == (4, {})
        (run,) = w.runs.known()
        assert run.parent.startswith(f"a/{result.run}:")
        assert run.escrow == {"steps": 5, "tokens": 5_000}
        for system, name in ((a, result.run), (w, run.id)):
            assert replay(await _read(system, name), system.tree.policies).identical


@pytest.mark.promise(376)
async def test_the_escrow_is_reserved_before_the_request_is_sent_and_the_run_there_cannot_spend_more() -> None:
    gate = asyncio.Event()
    there = There(gate.wait)
    here = Here(there, escrow=1)
    async with joined(here, there, Hub()) as (a, _):
        running = asyncio.create_task(a.run(here.planner, "Plan."))
        await until(lambda: there.looks == 1)
        (run,) = a.runs.live()
        books = a.ledger.statement(f"main@{run.id}")
        assert (books.spent["steps"], books.reserved["steps"]) == (1, 1)
        gate.set()
        result = await running
        told = json.loads(result.unwrap().removeprefix("told "))
        assert told["status"] == "stopped"
        assert "escrow" in told["reason"]
        assert (result.status, "no result of inspector" in result.reason) == ("partial", True)
        assert a.ledger.statement(f"main@{run.id}").spent["steps"] == 3


@pytest.mark.promise(376)
async def test_an_escrow_that_does_not_fit_into_what_is_left_is_refused_and_nothing_is_sent() -> None:
    there = There()
    here = Here(there, escrow=10, steps=5)
    async with joined(here, there, Hub()) as (a, w):
        result = await a.run(here.planner, "Plan.")
        assert result.status == "stopped"
        assert "steps" in result.reason
        assert w.runs.known() == []


@pytest.mark.promise(375)
async def test_a_request_whose_connection_is_lost_goes_on_and_is_not_begun_again() -> None:
    gate, hub = asyncio.Event(), Hub()
    there = There(gate.wait)
    here = Here(there)
    async with joined(here, there, hub) as (a, w):
        running = asyncio.create_task(a.run(here.planner, "Plan."))
        await until(lambda: there.looks == 1)
        hub.cut("a", "w")
        await until(lambda: a.nodes == ())
        await a.joined("w")
        gate.set()
        assert (await running).status == "complete"
        assert (there.looks, len(w.runs.known())) == (1, 1)


@pytest.mark.promise(377)
async def test_without_its_node_the_call_fails_after_its_patience_and_the_escrow_counts_as_spent() -> None:
    gate, hub = asyncio.Event(), Hub()
    there = There(gate.wait)
    here = Here(there, patience=0.2)
    async with here.system(hub) as a:
        async with there.system(hub) as w:
            await a.joined("w")
            running = asyncio.create_task(a.run(here.planner, "Plan."))
            await until(lambda: there.looks == 1)
            w._grace = 0.0
        result = await running
        assert "w/desk/inspector: b/" not in result.unwrap()
        assert "its escrow counts as spent" in result.unwrap()
        assert result.status == "partial"
        assert re.match(r"no result of inspector \(\w+:\d+ no-connection: w/desk/inspector", result.reason)
        assert a.ledger.statement(f"main@{result.run}").spent["steps"] == 2 + 5
        events = [record.event for record in await _read(a, result.run)]
        (failed,) = [event for event in events if isinstance(event, ev.ToolFailed)]
        assert (failed.kind, failed.estimated) == ("no-connection", True)
        assert replay(await _read(a, result.run), a.tree.policies).identical


async def test_a_delegation_that_gave_nothing_is_made_good_by_an_equal_one_at_another_node() -> None:
    hub = Hub()
    there, other = There(asyncio.Event().wait), There()
    asks = call("inspector", text="Look at the shelf.")
    model = Acted(lambda request: calls(asks) if turns(request) < 2 else words("done"))
    places = "w/desk/inspector", "v/desk/inspector"
    far = Elsewhere(there.inspector, *places, escrow=Budget(steps=5, tokens=5_000), patience=0.0)
    planner = Agent("planner", model=model, delegates=[far])
    ours = System(planner, name="a", join={name: hub.port("a", name) for name in "vw"})
    async with System(other.tree, name="v", listen=hub.port("v")) as v, ours as a:
        async with there.system(hub) as w:
            await a.joined("v", "w")
            running = asyncio.create_task(a.run(planner, "Plan."))
            await until(lambda: there.looks == 1)
            w._grace = 0.0
        result = await running
        assert (result.status, result.reason) == ("complete", "")
        assert (len(model.seen), other.looks, len(v.runs.known())) == (3, 1, 1)
        assert replay(await _read(a, result.run), a.tree.policies).identical


@pytest.mark.promise(375)
async def test_both_nodes_may_be_started_again_and_the_run_there_is_the_same_one() -> None:
    gate, hub = asyncio.Event(), Hub()
    there = There(gate.wait)
    here = Here(there)
    ours, theirs = MemoryStore(), MemoryStore()
    async with there.system(hub, theirs) as w:
        async with here.system(hub, ours) as a:
            await a.joined("w")
            running = asyncio.create_task(a.run(here.planner, "Plan."))
            await until(lambda: there.looks == 1)
            (run,) = a.runs.live()
            a._grace = 0.0
        with contextlib.suppress(Exception):
            await running
        w._grace = 0.0
    gate.set()
    async with there.system(hub, theirs) as w, here.system(hub, ours) as a:
        result = await a.resume(run.id)
        assert result.status == "complete"
        assert len(w.runs.known()) == 1
        assert a.ledger.statement(f"main@{result.run}").spent["steps"] == result.spend.steps <= 5


@pytest.mark.promise(378)
async def test_who_gives_up_the_asker_gives_up_the_run_there() -> None:
    gate, hub = asyncio.Event(), Hub()
    there = There(gate.wait)
    here = Here(there)
    async with joined(here, there, hub) as (a, w):
        running = asyncio.create_task(a.run(here.planner, "Plan."))
        await until(lambda: there.looks == 1)
        (run,) = a.runs.live()
        a.runs.ask_to_stop(run.id, "stopped", "stop", "bo")
        (other,) = w.runs.known()
        await until(lambda: other.stop is not None)
        gate.set()
        assert (await running).status == "stopped"


@pytest.mark.parametrize(
    ("at", "more", "says"),
    [
        ((), {}, "addresses as 'node/path'"),
        (("w",), {}, "addresses as 'node/path'"),
        (("w/desk/inspector",), {"escrow": Budget(seconds=5)}, "the escrow limits nothing that is counted"),
        (("w/desk/inspector",), {"patience": -1.0}, "patience -1.0"),
    ],
)
async def test_a_bad_description_is_refused(at: tuple[str, ...], more: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError, match=re.escape(says)):
        Elsewhere(There().inspector, *at, **{"escrow": Budget(steps=1), **more})
