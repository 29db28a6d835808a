"""C6: agents with an irreversible tool, one call of which needs a yes, under supervisors of 20; a journal in SQLite."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks import approval, scripts
from benchmarks.approval_life import Life, Rest
from benchmarks.case import Case, Found
from benchmarks.ours import inside
from benchmarks.ours.scripted import Scripted
from benchmarks.scripts import TEAM
from understudy import Agent, Prompt, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage

BUGS = ("forgets",)
"""The next process begins a journal of its own."""


async def program(case: Case) -> Found:
    return await approval.program("ours", case)


class Halfway(Scripted):
    """The model of all agents: as that of C2, with the agent and the step in the call."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        messages = request.messages
        i, k = int(messages[0].content), len(messages) // 2
        last = messages[-1].content
        if k and not last.isdecimal():  # somebody has said that it happened, and not what came of it
            last = str(scripts.answer(json.loads(messages[-2].calls[0].arguments)["a"]))
        said = scripts.say(i, k, self.steps, last)
        if isinstance(said, str):
            return ModelReply(f"{i} {said}", usage=Usage(20, 20))
        name, arguments = said
        return ModelReply(
            "", (ToolCall(f"c{k}", name, json.dumps({"i": i, "k": k, **arguments})),), usage=Usage(20, 20)
        )


class Ours:
    """See `approval_life.Runtime`."""

    def __init__(self, system: System, life: Life, agents: list[Agent[str, Prompt]]) -> None:
        self._system = system
        self._life = life
        self._agents = agents

    async def begin(self) -> None:
        """Ask the agents that were not asked before."""
        if len(await inside.runs(self._system)) == self._life.n:
            return
        known = await inside.requests(self._system)
        new = [i for i in range(self._life.n) if str(i) not in known]
        await asyncio.gather(*(self._system.run(self._agents[i], str(i)) for i in new))

    async def rest(self) -> Rest:
        system = self._system
        moving = [run for run in system.unfinished() if not system.state(run).resting]
        await asyncio.gather(*(system.resume(run) for run in moving))
        doubts = [(doubt.id, json.loads(doubt.arguments)) for doubt in system.doubts()]
        ended = self._life.n - len(system.unfinished())
        return Rest(len(system.approvals()), ended, [(name, call["i"], call["k"]) for name, call in doubts])

    async def approve(self) -> bool:
        await asyncio.gather(*(self._system.approve(asked, by="driver") for asked in self._system.approvals()))
        return True

    async def settle(self, doubt: str, did: bool) -> None:
        await self._system.settle(doubt, did=did, by="driver")

    async def finals(self) -> list[int]:
        runs = await inside.runs(self._system)
        said = [str((await self._system.result(run)).output).split() for run in runs]
        values = {int(i): int(value) for i, value in said}
        return [values[i] for i in sorted(values)]


@asynccontextmanager
async def runtime(life: Life) -> AsyncIterator[Ours]:
    """See `approval_life.RuntimeModule`."""

    @tool(effect="irreversible", approve="driver")
    async def work(i: int, k: int, a: int) -> int:
        life.log.happen(i, k)
        return scripts.answer(a)

    @work.approve_when
    def halfway(i: int, k: int, a: int) -> bool:
        return k == life.half

    journal = life.folder / "journal.db"
    if life.bug == "forgets" and journal.exists():
        journal = life.folder / "another.db"
    agents = [Agent(f"a{i}", model=Halfway(life.steps), tools=[work]) for i in range(life.n)]
    teams = [Supervisor(f"t{at}", agents[at : at + TEAM]) for at in range(0, life.n, TEAM)]
    async with System(Supervisor("root", teams), journal=journal) as system:
        ours = Ours(system, life, agents)
        await ours.begin()
        yield ours
