"""C2: scripted agents under supervisors of 20 under one root, all at once; guards and journal are the default ones.

The clock begins before the first agent is described and ends when the last has ended.
"""

import asyncio

from benchmarks import scripts
from benchmarks.case import Case, CheckFailed, Found, cpu_seconds
from benchmarks.memory import rss_bytes
from benchmarks.ours.scripted import WORK, Steps
from benchmarks.probe import probed
from benchmarks.scripts import TEAM
from understudy import Actor, Agent, Message, Supervisor, System
from understudy.actors.agents.models import ModelReply, ModelRequest


class Ping(Message[int]): ...


class Probe(Actor[Ping]):
    """What is asked every 10 ms."""

    def ping(self, m: Ping) -> int:
        return 1


class Short(Steps):
    """Agent 5 is done a step too early."""

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        said = Steps(self.steps - (request.messages[0].content == "5"))
        return await said.complete(request, timeout=timeout)


BUGS: dict[str, type[Steps]] = {"short": Short}


async def program(case: Case) -> Found:
    n, steps = case.args
    await play(Case(case.name, case.line, (max(TEAM, n // 10), steps), case.variant))  # a process warms up in itself
    return await play(case)


async def play(case: Case) -> Found:
    """All agents once."""
    n, steps = case.args
    scripts.forget()
    before = rss_bytes()
    case.start()
    model, tool = BUGS.get(case.bug, Steps)(steps), WORK[case.line == "tool-1ms"]
    agents = [Agent(f"a{i}", model=model, tools=[tool]) for i in range(n)]
    teams = [Supervisor(f"t{at}", agents[at : at + TEAM]) for at in range(0, n, TEAM)]
    async with System(Supervisor("root", teams)) as system:
        started = cpu_seconds()
        probe = system.spawn(Probe)
        async with probed(case, lambda: probe.ask(Ping(), timeout=60.0)):
            results = await asyncio.gather(*(system.run(agent, str(i)) for i, agent in enumerate(agents)))
        ran = cpu_seconds()
        case.extra["rss_bytes_per_agent"] = round((rss_bytes() - before) / n)
    case.stop()
    case.extra["steps_cpu_us"] = round((ran - started) / (n * steps) * 1e6, 1)
    case.extra["wall_over_ideal"] = round(case.wall / max(case.cpu, steps * (case.line == "tool-1ms") / 1e3), 2)
    if others := [result for result in results if result.status != "complete"]:
        raise CheckFailed(f"{others[0].status}: {others[0].reason}")
    return scripts.finals([int(str(result.output)) for result in results])
