"""C13: agents with one tool. What is made is a description; `started_us` and `started_bytes` are for one that lives."""

import asyncio
import gc

from benchmarks import construction
from benchmarks.case import Case, Found, cpu_seconds
from benchmarks.memory import heap_bytes
from benchmarks.ours.scripted import WORK, Scripted
from understudy import Agent, Prompt, Supervisor, System
from understudy.actors.agents.models import ModelReply, ModelRequest, Usage

GROUP = 100
"""Agents under one supervisor."""
BUGS = ("swapped",)
"""One agent is told another's number."""


class Echo(Scripted):
    """Says what the agent is instructed."""

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        return ModelReply(request.messages[0].content, usage=Usage(1, 1))


async def program(case: Case) -> Found:
    n, _ = case.args
    model, tools = Echo(), [WORK[0]]

    def make(i: int) -> Agent[str, Prompt]:
        told = i + (case.bug == "swapped" and i == 7)
        return Agent(f"a{i}", model=model, instructions=str(told), tools=tools)

    agents = construction.measure(case, make)
    gc.collect()
    heap, began = heap_bytes(), cpu_seconds()
    teams = [Supervisor(f"t{at}", agents[at : at + GROUP]) for at in range(0, n, GROUP)]
    async with System(Supervisor("root", teams)) as system:
        case.extra["started_us"] = round((cpu_seconds() - began) / n * 1e6, 1)
        gc.collect()
        if heap is not None and (after := heap_bytes()) is not None:
            case.extra["started_bytes"] = round((after - heap) / n)
        results = await asyncio.gather(*(system.run(agent, "who are you?") for agent in agents))
    return {"answered": sum(result.output == str(i) for i, result in enumerate(results))}
