"""The programs for libraries of agents, over what they all can do. Models are scripted; nothing leaves the process.

One agent object serves all runs where a library allows it, and tools are made once: what is cheapest for each.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from benchmarks import construction, scripts
from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.memory import rss_bytes
from benchmarks.probe import probed
from benchmarks.scripts import CAP, TEAM, TURNS, Said, Script, Tool
from benchmarks.talk import Heard, Texts

# An agent, and a tool that was made, are whatever the peer calls so; its classes are known only when it is loaded.
Made = Any
ENOUGH = 1_000
"""Turns that no honest agent needs: the default of one library is less than C2 takes."""


class Asked(NamedTuple):
    """What a model is asked: the run's request, results so far, the last one's text, and the agent's instructions."""

    request: str
    results: int
    last: str
    instructions: str = ""


Model = Callable[[Asked], Said]


class Limited(Exception):
    """The library's limit ended the run."""


class Capped(Exception):
    """Nothing else has ended the run."""


class AgentApi(Protocol):
    """What a peer's module brings."""

    def tool(self, work: Tool) -> Made:
        """Make a tool. An exception of `work` becomes a text that the model is given."""
        ...

    def model(self, model: Model) -> Made:
        """Make a model, which agents may share."""
        ...

    def agent(self, model: Made, tools: Sequence[Made], instructions: str = "") -> Made:
        """Make an agent."""
        ...

    async def run(self, agent: Made, request: str, turns: int | None = ENOUGH) -> str:
        """One run; None for the library's own limit. Raises `Limited`."""
        ...

    async def talk(self, case: Case, texts: Texts, heard: Heard) -> int:
        """C12 within `case.start()` and `stop()`: how many compactions. Raises `NotSupported`."""
        ...

    async def budget(self, case: Case) -> Found:
        """C5. Raises `NotSupported`."""
        ...


async def steps(api: AgentApi, case: Case) -> Found:
    n, each = case.args
    await _steps(api, Case(case.name, case.line, (max(TEAM, n // 10), each)))  # a process warms up in itself
    return await _steps(api, case)


async def _steps(api: AgentApi, case: Case) -> Found:
    n, each = case.args
    scripts.forget()
    before = rss_bytes()
    tool_ms = int(case.line == "tool-1ms")
    case.start()
    tools = [api.tool(scripts.work_of(tool_ms))]
    model = api.model(lambda asked: scripts.say(int(asked.request), asked.results, each, asked.last))
    agent = api.agent(model, tools)
    async with probed(case):
        said = await asyncio.gather(*(api.run(agent, str(i)) for i in range(n)))
    case.extra["rss_bytes_per_agent"] = round((rss_bytes() - before) / n)
    case.stop()
    case.extra["wall_over_ideal"] = round(case.wall / max(case.cpu, each * tool_ms / 1e3), 2)
    return scripts.finals([int(text) for text in said])


async def loops(api: AgentApi, case: Case) -> Found:
    if case.line == "default":
        raise NotSupported("no detection of loops")
    (teams,) = case.args
    scripts.forget()
    made = {i: Script(i) for i in range(teams * TEAM)}
    limit = TURNS if case.line == "turns-25" else None

    def model(asked: Asked) -> Said:
        script = made[int(asked.request)]
        if script.said >= CAP:
            raise Capped
        return script.next(asked.last)

    async def one(i: int) -> int | None:
        try:
            return int(await api.run(agent, str(i), limit))
        except (Limited, Capped):
            return None

    case.start()
    each = (scripts.work_of(1), scripts.status, scripts.fragile, scripts.search, scripts.look)
    agent = api.agent(api.model(model), [api.tool(work) for work in each])
    ended = await asyncio.gather(*(one(i) for i in made))
    case.stop()
    said = {i: value for i, value in zip(made, ended, strict=True) if value is not None}
    return scripts.limit_found(case, made, said, ended=len(ended))


async def compaction(api: AgentApi, case: Case) -> Found:
    (turns,) = case.args
    texts = Texts(turns)
    heard = Heard(texts, tools=case.line == "steps")
    case.extra["compactions"] = await api.talk(case, texts, heard)
    found = heard.found()
    heard.compare(case)
    return found


async def construct(api: AgentApi, case: Case) -> Found:
    tools = [api.tool(scripts.work_of(0))]
    model = api.model(lambda asked: asked.instructions)
    agents = construction.measure(case, lambda i: api.agent(model, tools, str(i)))
    said = await asyncio.gather(*(api.run(agent, "who are you?") for agent in agents))
    return {"answered": sum(text == str(i) for i, text in enumerate(said))}


async def budget(api: AgentApi, case: Case) -> Found:
    return await api.budget(case)


def overspent(pools: Sequence[tuple[int, int]]) -> None:
    """What was spent, and the limit, of each pool. Raises `CheckFailed` with what was spent beyond the limits."""
    over = sum(max(0, spent - limit) for spent, limit in pools)
    if over:
        raise CheckFailed(f"overspend: {over} tokens beyond {sum(limit for _, limit in pools)}")


PROGRAMS: dict[str, Callable[[AgentApi, Case], Awaitable[Found]]] = {
    "steps": steps,
    "loops": loops,
    "compaction": compaction,
    "construction": construct,
    "budget": budget,
}


def program_for(api: AgentApi, case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case on a library of agents. Raises `NotSupported`."""
    if case.name not in PROGRAMS:
        raise NotSupported("a library of agents, without actors")
    run = PROGRAMS[case.name]
    return lambda case: run(api, case)


def as_text(work: Tool) -> Tool:
    """A tool whose failure is its result, for libraries where an exception would end the run."""

    @functools.wraps(work)
    async def wrapped(**arguments: Any) -> object:
        try:
            return await work(**arguments)
        except OSError as error:
            return f"error: {error}"

    return wrapped
