"""C3: teams of 20 agents of which one never stops; the default guard must end it, and leave the honest ones alone.

Agent i by i mod 20: 7 loops for ever, 3 polls, 13 tries again, 17 scans, the others just work. The loop of a looper is
of one of three kinds: the same call with the same answer; a cycle of three; new arguments each time and always the same
answer. What a looper wasted is its calls after the third call of its loop.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks import scripts
from benchmarks.case import Case, Found
from benchmarks.ours.scripted import WORK, Scripted, spoken
from benchmarks.scripts import CAP, LOOPER, TEAM, TURNS, Call, Script, kind, limit_found, wasted
from understudy import Agent, Budget, Supervisor, System, tool
from understudy.actors.agents.agent import Prompt
from understudy.actors.agents.guards import Nudge, Verdict
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.agents.results import Result
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Same

TOOLS: Sequence[Tool[..., Any]] = (
    WORK[1],
    tool(effect="read", polling=True)(scripts.status),
    *(tool(effect="read")(each) for each in (scripts.fragile, scripts.search, scripts.look)),
)


class Spoken(Scripted):
    """A script as a model."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """The next call, or the final value."""
        said = self.script.next(request.messages[-1].content)
        return spoken(said, self.script.said)


class Stubborn(Script):
    """An honest agent of team 0 loops, too."""

    def extra(self) -> Call | None:
        return ("look", {"at": "hall"}) if self.i == 1 else super().extra()


class Wrong(Script):
    """An honest agent of team 0 begins with another value."""

    def __init__(self, i: int) -> None:
        super().__init__(i)
        self.value += i == 1


SCRIPTS: dict[str, type[Script]] = {"stubborn": Stubborn, "wrong": Wrong}
GUARDS = {"eager": Loops(Same(2)), "late": Loops(Same(9))}
BUGS = (*SCRIPTS, *GUARDS)
"""An agent that should not loop, one that errs; a guard that objects too early, and one that objects too late."""


class Tree:
    """Agents of `teams` teams, with or without those that loop; the guard is on in the line `default` only."""

    def __init__(self, case: Case, *, loopers: bool) -> None:
        (teams,) = case.args
        script = SCRIPTS.get(case.bug, Script)
        self.line = case.line
        self.guard = GUARDS.get(case.bug, Loops()) if case.line == "default" else None
        self.numbers = [i for i in range(teams * TEAM) if loopers or i % TEAM != LOOPER]
        self.scripts = {i: script(i) for i in self.numbers}
        self.agents = {i: self.agent(i) for i in self.numbers}
        self.ended: dict[int, tuple[float, float]] = {}
        self.verdicts: dict[str, list[Verdict]] = {}

    def agent(self, i: int) -> Agent[str, Prompt]:
        own = Budget(steps=TURNS) if self.line == "turns-25" else Budget(tool_calls=CAP)
        return Agent(f"a{i}", model=Spoken(self.scripts[i]), tools=TOOLS, budget=own)

    def root(self) -> Supervisor:
        teams: dict[int, list[Agent[Any, Any]]] = {}
        for i, agent in self.agents.items():
            teams.setdefault(i // TEAM, []).append(agent)
        guarded = [Supervisor(f"t{t}", team, budget=None) for t, team in teams.items()]
        return Supervisor("root", guarded, loops=self.guard, budget=None)

    def heard(self, record: ev.Record) -> None:
        """Verdicts, as the supervisor's side has them."""
        if isinstance(record.event, ev.Judged):
            self.verdicts.setdefault(record.path.rpartition("/")[2], []).append(record.event.verdict)

    async def one(self, system: System, i: int) -> Result[str]:
        result = await system.run(self.agents[i], "go")
        self.ended[i] = (time.perf_counter(), time.process_time())
        return result

    async def run(self) -> tuple[dict[int, Result[str]], float, float]:
        """The results, and honest steps per second, and per CPU second, until the last honest agent was done."""
        scripts.forget()
        async with System(self.root()) as system:
            system.listen(self.heard)
            began = (time.perf_counter(), time.process_time())
            found = await asyncio.gather(*(self.one(system, i) for i in self.numbers))
        honest = [i for i in self.numbers if i % TEAM != LOOPER]
        steps = sum(self.scripts[i].said for i in honest)
        wall, cpu = (max(self.ended[i][n] for i in honest) - began[n] for n in range(2))
        return dict(zip(self.numbers, found, strict=True)), steps / wall, steps / cpu


async def program(case: Case) -> Found:
    return await (guarded(case) if case.line == "default" else limited(case))


async def limited(case: Case) -> Found:
    """No guard, but a limit for all alike: honest agents that it ends are counted, not forgiven."""
    tree = Tree(case, loopers=True)
    case.start()
    results, _, _ = await tree.run()
    case.stop()
    said = {i: int(str(result.output)) for i, result in results.items() if result.status == "complete"}
    return limit_found(case, tree.scripts, said, ended=len(results))


async def guarded(case: Case) -> Found:
    alone = [await Tree(replace(case, bug=""), loopers=False).run() for _ in range(3)]
    tree = Tree(case, loopers=True)
    case.start()
    results, wall, cpu = await tree.run()
    case.stop()
    loopers = [i for i in tree.numbers if i % TEAM == LOOPER]
    honest = [i for i in tree.numbers if i % TEAM != LOOPER]
    case.extra["wasted_calls"] = wasted(tree.scripts)
    case.extra["retained"] = round(wall / median(each[1] for each in alone), 3)
    case.extra["retained_cpu"] = round(cpu / median(each[2] for each in alone), 3)
    case.extra["rules"] = sorted({each.rule for i in loopers for each in tree.verdicts.get(f"a{i}", ())})
    complete = [i for i in honest if results[i].status == "complete"]
    return {
        "honest_sum": sum(int(str(results[i].output)) for i in complete),
        "false_stops": len(honest) - len(complete),
        "false_nudges": sum(len(tree.verdicts.get(f"a{i}", ())) for i in honest),
        "stopped": sum(_stopped(results[i], tree.verdicts.get(f"a{i}", ())) for i in loopers),
        "wasteful": sum(tree.scripts[i].inserted - 3 > (3, 5, 5)[kind(i)] for i in loopers),
    }


def _stopped(result: Result[str], verdicts: Sequence[Verdict]) -> bool:
    """Ended for its loop, with the evidence on the supervisor's side, after a nudge."""
    if result.status != "stopped" or not verdicts or not isinstance(verdicts[0].response, Nudge):
        return False
    return result.reason.startswith(verdicts[-1].rule) and len(verdicts[0].evidence) >= 3
