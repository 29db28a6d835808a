"""C3: teams of 20 agents of which one never stops; the default guard must end it, and leave the honest ones alone.

Agent i by i mod 20: 7 loops for ever, 3 polls, 13 tries again, 17 scans, the others just work. The loop of a looper is
of one of three kinds: the same call with the same answer; a cycle of three; new arguments each time and always the same
answer. What a looper wasted is its calls after the third call of its loop.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

from benchmarks.case import Case, Found
from understudy import Agent, Budget, Supervisor, System, tool
from understudy.actors.agents.agent import Prompt
from understudy.actors.agents.guards import Nudge, Verdict
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage
from understudy.actors.agents.results import Result
from understudy.actors.journal import events as ev
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Same

M31 = 2**31 - 1
STEPS = 10
TOOL_MS = 1
TEAM = 20
CAP = 200
"""Tool calls after which a run is ended that no guard has ended."""
LOOPER = 7
Call = tuple[str, dict[str, object]]

_failed: dict[int, int] = {}
_polled: dict[int, int] = {}


@tool(effect="read")
async def work(a: int) -> int:
    """The tool of a step."""
    await asyncio.sleep(TOOL_MS / 1000)
    return (a * 16807 + 11) % M31


@tool(effect="read", polling=True)
async def status(of: int) -> str:
    """Pending three times, then ready."""
    _polled[of] = _polled.get(of, 0) + 1
    return "ready" if _polled[of] > 3 else "pending"


@tool(effect="read")
async def fragile(of: int) -> str:
    """Fails twice in the same way."""
    _failed[of] = _failed.get(of, 0) + 1
    if _failed[of] <= 2:
        raise OSError("the shelf is locked")
    return "open"


@tool(effect="read")
async def search(of: int, shelf: int) -> str:
    """Found on the sixth shelf."""
    return "found" if shelf == 5 else "none"


@tool(effect="read")
async def look(at: str) -> str:
    """What a looper asks: an answer that never changes."""
    await asyncio.sleep(TOOL_MS / 1000)
    return f"the {at} of always" if at in ("hall", "yard", "roof") else "none"


class Script:
    """The model of agent i: what it says depends on what it said before, not on what it is told."""

    price = None
    name = "scripted"

    def __init__(self, i: int) -> None:
        self.i, self.step, self.said, self.inserted = i, 0, 0, 0
        self.value = (i * 7919 + 1) % M31
        self.asked = False

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Script"]:
        """It is its own session."""
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """The next call, or the final value."""
        call = self.next(request)
        if call is None:
            return ModelReply(str(self.value), usage=Usage(20, 20))
        self.said += 1
        name, arguments = call
        return ModelReply("", (ToolCall(f"c{self.said}", name, json.dumps(arguments)),), usage=Usage(20, 20))

    def next(self, request: ModelRequest) -> Call | None:
        """The next call; None when it is done."""
        if self.asked:
            self.value, self.asked = int(request.messages[-1].content), False
            self.step += 1
        if self.step == 3 and (call := self.extra()) is not None:
            self.inserted += 1
            return call
        if self.step == STEPS:
            return None
        self.asked = True
        return "work", {"a": (self.value * 48271 + self.i + self.step) % M31}

    def extra(self) -> Call | None:
        """What it does besides after its third step: for ever, when it loops."""
        n, i = self.inserted, self.i
        match self.i % TEAM:
            case 7:
                kind = (i // TEAM) % 3
                return "look", {"at": ("hall", ("hall", "yard", "roof")[n % 3], f"place {n}")[kind]}
            case 3:
                return ("status", {"of": i}) if n < 4 else None
            case 13:
                return ("fragile", {"of": i}) if n < 3 else None
            case 17:
                return ("search", {"of": i, "shelf": n}) if n < 6 else None
        return None


class Stubborn(Script):
    """An honest agent of team 0 loops, too."""

    def extra(self) -> Call | None:
        return ("look", {"at": "hall"}) if self.i == 1 else super().extra()


GUARDS = {"eager": Loops(Same(2)), "late": Loops(Same(9))}
BUGS = ("stubborn", *GUARDS)
"""An agent that should not loop; a guard that objects too early, and one that objects too late."""


class Tree:
    """Agents of `teams` teams, with or without those that loop."""

    def __init__(self, teams: int, bug: str, *, loopers: bool) -> None:
        script = Stubborn if bug == "stubborn" else Script
        self.guard = GUARDS.get(bug, Loops())
        self.numbers = [i for i in range(teams * TEAM) if loopers or i % TEAM != LOOPER]
        self.scripts = {i: script(i) for i in self.numbers}
        self.agents = {i: self.agent(i) for i in self.numbers}
        self.ended: dict[int, tuple[float, float]] = {}
        self.verdicts: dict[str, list[Verdict]] = {}

    def agent(self, i: int) -> Agent[str, Prompt]:
        tools = (work, status, fragile, search, look)
        return Agent(f"a{i}", model=self.scripts[i], tools=tools, budget=Budget(tool_calls=CAP))

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
        _failed.clear()
        _polled.clear()
        async with System(self.root()) as system:
            system.listen(self.heard)
            began = (time.perf_counter(), time.process_time())
            found = await asyncio.gather(*(self.one(system, i) for i in self.numbers))
        honest = [i for i in self.numbers if i % TEAM != LOOPER]
        steps = sum(self.scripts[i].said for i in honest)
        wall, cpu = (max(self.ended[i][n] for i in honest) - began[n] for n in range(2))
        return dict(zip(self.numbers, found, strict=True)), steps / wall, steps / cpu


async def program(case: Case) -> Found:
    (teams,) = case.args
    alone = [await Tree(teams, "", loopers=False).run() for _ in range(3)]
    tree = Tree(teams, case.bug, loopers=True)
    case.start()
    results, wall, cpu = await tree.run()
    case.stop()
    loopers = [i for i in tree.numbers if i % TEAM == LOOPER]
    honest = [i for i in tree.numbers if i % TEAM != LOOPER]
    waste = {i: tree.scripts[i].inserted - 3 for i in loopers}
    case.extra["wasted_calls"] = {str(kind): _worst(waste, kind) for kind in range(3)}
    case.extra["retained"] = round(wall / median(each[1] for each in alone), 3)
    case.extra["retained_cpu"] = round(cpu / median(each[2] for each in alone), 3)
    case.extra["rules"] = sorted({each.rule for i in loopers for each in tree.verdicts.get(f"a{i}", ())})
    complete = [i for i in honest if results[i].status == "complete"]
    return {
        "honest_sum": sum(int(str(results[i].output)) for i in complete),
        "false_stops": len(honest) - len(complete),
        "false_nudges": sum(len(tree.verdicts.get(f"a{i}", ())) for i in honest),
        "stopped": sum(_stopped(results[i], tree.verdicts.get(f"a{i}", ())) for i in loopers),
        "wasteful": sum(waste[i] > (3, 5, 5)[i // TEAM % 3] for i in loopers),
    }


def _worst(waste: dict[int, int], kind: int) -> int:
    return max((calls for i, calls in waste.items() if i // TEAM % 3 == kind), default=0)


def _stopped(result: Result[str], verdicts: Sequence[Verdict]) -> bool:
    """Ended for its loop, with the evidence on the supervisor's side, after a nudge."""
    if result.status != "stopped" or not verdicts or not isinstance(verdicts[0].response, Nudge):
        return False
    return result.reason.startswith(verdicts[-1].rule) and len(verdicts[0].evidence) >= 3
