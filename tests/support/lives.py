"""Lives of a small system on a simulated disk: one process after another, each in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from acted import Acted, call, calls, script, turns, words
from msgspec import Struct

from understudy import Agent, Call, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import ModelError
from understudy.actors.journal.store import JournalStore, Row
from understudy.actors.testing.disk_faults import DiskFault
from understudy.actors.testing.journal_checks import Answered, Committed, ModelCalled, Moment, ToolCalled
from understudy.actors.testing.sim_disk import Durability, SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run

RUN = "7f3a"
PLACES = {"a": (1, 0), "b": (1, 1), "c": (2, 0), "d": (3, 0), "e": (3, 1), "f": (3, 2)}
"""The calls of the script below by their argument: step and index."""
REPLIES = script(
    calls(call("look", what="a"), call("look", what="b")),
    calls(call("pay", what="c")),
    calls(call("look", what="d"), call("pay", what="e"), call("look", what="f")),
    words('{"text": "done"}'),
)


class Answer(Struct, frozen=True):
    text: str


class OneId:
    """There is one run; a process that begins another would be seen."""

    def run(self) -> str:
        return RUN


@dataclass
class Outside:
    """The world that tools change, and everything that happened, in order. It outlives processes."""

    paid: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def committed(self, rows: Sequence[Row]) -> None:
        self.moments += [Committed(row.run, row.seq) for row in rows]


def clerk(outside: Outside) -> Agent[Answer, Any]:
    """An agent that looks, pays twice and answers."""

    @tool(effect="read")
    async def look(what: str) -> str:
        outside.moments.append(ToolCalled(RUN, 0, *PLACES[what]))
        return f"saw {what}"

    @tool(effect="keyed")
    async def pay(call: Call, what: str) -> str:
        outside.moments.append(ToolCalled(RUN, 0, *PLACES[what]))
        if call.key not in outside.paid:
            outside.paid.append(call.key)
        return f"paid {what}"

    def says(request: ModelRequest) -> ModelReply | float | ModelError:
        outside.moments.append(ModelCalled(RUN, 0, turns(request) + 1))
        return REPLIES(request)

    return Agent("clerk", model=Acted(says), tools=[look, pay], output=Answer)


async def live(outside: Outside, store: JournalStore, look: Callable[[System], object] | None = None) -> Any:
    """One life of a node: begin the run, or go on with it. `look` sees the system before that."""
    agent = clerk(outside)
    async with System(agent, journal=store, clock=SimClock(), ids=OneId(), watchdog=None) as system:
        if look is not None:
            look(system)
        if system.journal.knows(RUN):
            result = await system.resume(RUN)
        else:
            result = await system.run(agent, "go")
        outside.moments.append(Answered(RUN, system.state(RUN).seq))
        return result


async def until_killed(disk: SimDisk, life: Callable[[SimStore], Coroutine[Any, Any, object]]) -> DiskFault | None:
    """Run one life of a process on the disk; the fault that ended it, or None when it came to its end."""
    killed: asyncio.Future[DiskFault] = asyncio.get_running_loop().create_future()
    task: asyncio.Future[object] = asyncio.ensure_future(life(SimStore(disk, on_kill=killed.set_result)))
    either: list[asyncio.Future[Any]] = [task, killed]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        killed.cancel()
        task.result()
        return None
    disk.bury()
    task.cancel()
    await asyncio.wait([task])
    return killed.result()


def play(faults: Sequence[DiskFault] = (), durability: Durability = "normal") -> tuple[Any, Outside, SimDisk]:
    """Lives one after another until one comes to its end: its result, the world, the disk."""
    outside, results = Outside(), []
    disk = SimDisk(faults, durability=durability, on_commit=outside.committed)

    async def life(store: SimStore) -> None:
        results.append(await live(outside, store))

    for _ in range(20):
        run(lambda: until_killed(disk, life))
        if results:
            return results[0], outside, disk
    raise AssertionError("no life came to its end")
