"""A program with everything that has broken determinism before, for the determinism gate; and three planted leaks.

A supervised tree of actors with restarts and jitter, asks, timers, task groups, cancel scopes and threads, an agent
with a tool, and aiosqlite below its journal. Each main is a function of this module, so that other processes find it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import tempfile
from pathlib import Path
from time import monotonic as alias_of_the_clock
from typing import Any

import anyio
from msgspec import Struct

from understudy import Actor, Agent, ChildSpec, Message, Supervisor, System, tool
from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.testing.faults import Crash, Delay, Duplicate, SlowConsumer
from understudy.actors.testing.schedule import Demote, Hold
from understudy.actors.testing.sim_model import SimModel
from understudy.actors.testing.world import World
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.inline_sqlite import inline_sqlite

_FOLDER = tempfile.TemporaryDirectory()
_files = itertools.count()

WORLD = World(
    faults=(
        Crash("desk/worker/1", at=2),
        Crash("desk/worker/2", at=3, after=True),
        Delay("desk/worker/3", at=2, seconds=0.02),
        SlowConsumer("desk/worker/4", at=1, seconds=0.003),
        Duplicate("desk/worker/4", at=2),
    ),
    schedule=(Hold("desk/worker/1", at=1, steps=3), Demote("desk/worker/3", at=2)),
)


class Job(Message[int]):
    number: int


class Note(Message[None]):
    text: str


class Worker(Actor[Job | Note]):
    async def job(self, m: Job) -> int:
        with anyio.move_on_after(0.01):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(anyio.sleep, 0.004 * number)
        result: int = await anyio.to_thread.run_sync(sum, [m.number, 1])
        await asyncio.to_thread(random.random)
        if m.number % 5 == 3:
            raise LookupError(f"job {m.number}")
        return result

    def note(self, m: Note) -> None:
        pass


class Answer(Struct, frozen=True):
    text: str


@tool(effect="read")
async def look(what: str) -> str:
    await anyio.sleep(random.random() / 100)
    return f"saw {what}"


def tree() -> tuple[Agent[Any, Any], Supervisor]:
    agent: Agent[Any, Any] = Agent("clerk", model=SimModel("clerk", says=(1, 0)), tools=[look], output=Answer)
    return agent, Supervisor(
        "desk",
        [ChildSpec(Worker, count=4), agent],
        backoff=Backoff(first=0.01, jitter=0.5),
        intensity=Intensity(100, 10.0),
    )


async def ask(system: System, number: int, said: list[str]) -> None:
    ref: Any = system.ref(f"worker/{number % 4 + 1}")
    ref.tell(Note(f"before {number}"))
    try:
        said.append(f"{number}: {await ref.ask(Job(number), timeout=0.1)}")
    except UnderstudyError as error:
        said.append(f"{number}: {type(error).__name__}")


async def main() -> list[str]:
    """The program; what it returns is what a user sees."""
    said: list[str] = []
    file = Path(_FOLDER.name) / f"{os.getpid()}-{next(_files)}.db"
    clerk, root = tree()
    with inline_sqlite():
        async with System(root, journal=SQLiteStore(os.fspath(file))) as system:
            async with anyio.create_task_group() as group:
                for number in range(12):
                    group.start_soon(ask, system, number, said)
            with anyio.CancelScope() as scope:
                asyncio.get_running_loop().call_later(0.005, scope.cancel)
                async with anyio.create_task_group() as group:
                    for number in range(12, 18):
                        group.start_soon(ask, system, number, said)
            result = await system.run(clerk, "go")
            said.append(f"{result.status} {result.output}")
            await anyio.sleep(1)
    with contextlib.suppress(OSError):
        for each in Path(_FOLDER.name).glob(f"{file.name}*"):
            each.unlink()
    return said


# -- planted leaks ---------------------------------------------------------------------------------------------


class Thing:
    """Hashes to its address."""


async def _told(order: list[int]) -> list[str]:
    async with Kernel() as kernel:
        refs = [kernel.ref_of(kernel.spawn(Worker, name=f"w{number}")) for number in range(len(order))]
        for number in order:
            refs[number].tell(Note("x"))
        await anyio.sleep(1)
    return ["done"]


async def order_of_addresses() -> list[str]:
    things = {Thing(): number for number in range(10)}
    return await _told([things[each] for each in set(things)])


async def order_of_strings() -> list[str]:
    words = {f"word {number}": number for number in range(10)}
    return await _told([words[each] for each in set(words)])


async def alias_of_time() -> list[str]:
    await anyio.sleep(alias_of_the_clock() % 1 + 0.001)
    return ["done"]


async def chance_in_a_fraction() -> float:
    """A number whose fraction alone differs, in more digits than an address has."""
    return 5 + int(alias_of_the_clock() * 1e9) % 100_000 / 1_000_000_007


async def chance_in_the_result() -> float:
    """Nothing but the outcome differs: neither the actors' events nor the schedule."""
    return alias_of_the_clock()
