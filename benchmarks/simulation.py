"""How fast simulated worlds run: `python -m benchmarks.simulation`. CPU seconds of one core; the best of three.

S1  callbacks of the loop a second, with a timer for each and without
S2  24 h of 20 agents, each a run of one tool every 5 minutes; the same as one step of plain actors with a commit each
S3  worlds a second: a supervised tree of 4 workers, messages, crashes, holds, delays; with and without invariants
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from understudy import Actor, Agent, Message, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest, ModelSession, Price, ToolCall, Usage
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.store import MemoryStore
from understudy.actors.kernel import Kernel
from understudy.actors.testing.faults import Crash, Delay, Fault, SlowConsumer
from understudy.actors.testing.schedule import Deviation, Hold
from understudy.actors.testing.simloop import SimClock, SimLoop, run
from understudy.actors.testing.world import World
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.specs import ChildSpec

DAY = 86_400
EVERY = 300
AGENTS = 20
WORLDS = 300
SECONDS = 0.2
"""Of a model call."""


def best(work: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of the quickest of some runs."""
    took: list[float] = []
    for _ in range(times):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return min(took)


# -- S1 --------------------------------------------------------------------------------------------------------


def steps(timers: bool) -> float:
    loop: SimLoop

    async def work(number: int) -> None:
        for _ in range(2_000):
            await asyncio.sleep(0.001 * (number % 7 + 1) if timers else 0)

    async def main() -> None:
        await asyncio.gather(*[work(number) for number in range(50)])

    def once() -> None:
        nonlocal loop
        loop = SimLoop(idle_steps=1 << 60)
        run(main, loop=loop)

    took = best(once)
    return loop.steps / took


# -- S2 --------------------------------------------------------------------------------------------------------


class Beat:
    """A model that looks once, then says so."""

    name = "beat"
    price: Price | None = None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[ModelSession]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        await asyncio.sleep(SECONDS)
        if request.messages[-1].role == "tool":
            return ModelReply("done", usage=Usage(20, 5))
        return ModelReply("", (ToolCall("c", "look", "{}"),), usage=Usage(20, 5))


async def fine() -> str:
    return "fine"


look = tool(effect="read", name="look")(fine)


async def agents() -> None:
    team: list[Agent[Any, Any]] = [Agent(f"a{number}", model=Beat(), tools=[look]) for number in range(AGENTS)]
    async with System(Supervisor("main", team)) as system:

        async def beat(agent: Agent[Any, Any]) -> None:
            for _ in range(DAY // EVERY):
                assert (await system.run(agent, "go")).status == "complete"
                await asyncio.sleep(EVERY)

        await asyncio.gather(*[beat(agent) for agent in team])


class Step(Message[str]):
    pass


class Plain(Actor[Step]):
    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def step(self, m: Step) -> str:
        await asyncio.sleep(SECONDS)
        said = await fine()
        self.journal.append("beat", ev.RunStarted("plain", "Step", "go"))
        await self.journal.barrier()
        return said


async def plain() -> None:
    journal = Journal(MemoryStore(), SimClock())
    await journal.open()
    async with Kernel(clock=SimClock()) as kernel:
        refs = [kernel.ref_of(kernel.spawn(lambda: Plain(journal), name=f"p{number}")) for number in range(AGENTS)]

        async def beat(ref: Any) -> None:
            for _ in range(DAY // EVERY):
                await ref.ask(Step(), timeout=5)
                await asyncio.sleep(EVERY)

        await asyncio.gather(*[beat(ref) for ref in refs])
    await journal.aclose()


# -- S3 --------------------------------------------------------------------------------------------------------


class Job(Message[int]):
    number: int


class Worker(Actor[Job]):
    async def job(self, m: Job) -> int:
        await asyncio.sleep(0.01)
        return m.number


async def tree() -> None:
    root = Supervisor(
        "desk",
        [ChildSpec(Worker, count=4)],
        backoff=Backoff(first=0.01),
        intensity=Intensity(100, 10.0),
    )
    async with System(root) as system:
        for number in range(16):
            system.ref(f"worker/{number % 4 + 1}").tell(Job(number))
        await asyncio.sleep(1)


def drawn(seed: int) -> World:
    """A world with three faults and two holds."""
    dice = random.Random(seed)

    def worker() -> str:
        return f"desk/worker/{dice.randrange(4) + 1}"

    faults: list[Fault] = [Crash(worker(), at=dice.randrange(1, 4), after=dice.random() < 0.5)]
    faults += [Delay(worker(), at=dice.randrange(1, 4), seconds=0.05), SlowConsumer(worker(), at=1, seconds=0.01)]
    schedule: list[Deviation] = [Hold(worker(), dice.randrange(1, 4), dice.randrange(1, 9)) for _ in range(2)]
    return World(faults=tuple(faults), schedule=tuple(schedule), seed=seed)


def worlds(*, checked: bool) -> float:
    each = [drawn(seed) for seed in range(WORLDS)]

    def once() -> None:
        for world in each:
            world.run(tree, check=None if checked else ())

    return WORLDS / best(once)


def main() -> None:
    """Print everything, one line each."""
    only = set(sys.argv[1:]) or {"S1", "S2", "S3"}
    if "S1" in only:
        print(f"S1 steps/s               {steps(True):>10,.0f} with timers  {steps(False):>10,.0f} without")
    if "S2" in only:
        day = [best(lambda: run(plain)), best(lambda: run(agents), 2)]
        print(f"S2 24 h of {AGENTS}            {day[0]:>10.2f} s plain actors  {day[1]:>10.2f} s agents")
    if "S3" in only:
        rates = [worlds(checked=checked) for checked in (True, False)]
        print(f"S3 worlds/s              {rates[0]:>10,.0f} checked  {rates[1]:>10,.0f} unchecked")


if __name__ == "__main__":
    main()
