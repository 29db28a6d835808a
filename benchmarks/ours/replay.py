"""C8: the journal of agents like those of C7 is read again: no tool is called, and every run is as it was.

A run of which one recorded result is another than it was must be found out at the very next command that depends on it.
"""

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import scripts
from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.scripted import WORK, Steps
from benchmarks.scripts import TEAM
from understudy import Agent, Budget, Supervisor, System
from understudy.actors.agents.policy import Policy
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.state import Run
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.rechain import rewrite

BUGS: Final = ("calls", "trusts")


async def program(case: Case) -> Found:
    n, steps = case.args
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "desk.db"
        live, policies = await _record(path, n, steps)
        scripts.forget()
        if case.bug == "calls":
            await scripts.work_of(0)(1)
        store = SQLiteStore(path)
        await store.open(owner=False)
        try:
            names = [head.run for head in await store.heads() if is_run(head.run)]
            case.start()
            runs, counted = {}, 0
            for name in names:
                records = decode_rows(store.path, await store.read(name))
                if case.line == "replay":
                    report = replay(records, policies)
                    if not report.identical:
                        raise CheckFailed(f"{name}:{report.at}: recorded {report.recorded}, now {report.now}")
                runs[name] = fold(records)
                counted += runs[name].main.step
            case.stop()
        finally:
            await store.aclose()
        changed = await _changed(path, next(iter(live)), steps, policies) or case.bug == "trusts"
    case.extra["steps_per_s"] = round(n * steps / case.cpu)
    return {
        "tool_calls": scripts.calls["work"],
        "runs": len(runs),
        "steps": counted,
        "as_live": runs == live,
        "divergence": changed and case.bug != "trusts",
    }


async def _record(path: Path, n: int, steps: int) -> tuple[dict[str, Run], Mapping[str, Policy]]:
    """A journal of `n` agents, and their runs as they live when all have ended."""
    model = Steps(steps)
    budget = Budget(steps=2 * steps + 10, tokens=10**12, warn=None)
    agents = [Agent(f"a{i}", model=model, tools=[WORK[0]], budget=budget) for i in range(n)]
    root = Supervisor("root", [Supervisor(f"t{at}", agents[at : at + TEAM]) for at in range(0, n, TEAM)], budget=budget)
    async with System(root, journal=path) as system:
        results = await asyncio.gather(*(system.run(agent, str(i)) for i, agent in enumerate(agents)))
        if others := [result for result in results if result.status != "complete"]:
            raise CheckFailed(f"{others[0].status}: {others[0].reason}")
        return {result.run: fold(await system.journal.read(result.run)) for result in results}, system.tree.policies


async def _changed(path: Path, run: str, steps: int, policies: Mapping[str, Policy]) -> bool:
    """Whether a journal in which the arguments of one call were changed is found out at that call."""
    step = steps // 2 + 1
    place = 0

    def other(record: Record) -> Record:
        nonlocal place
        event = record.event
        if isinstance(event, ev.ModelAnswered) and event.step == step:
            call = msgspec.structs.replace(event.reply.calls[0], arguments='{"a": 1}')
            reply = msgspec.structs.replace(event.reply, calls=(call,))
            return msgspec.structs.replace(record, event=msgspec.structs.replace(event, reply=reply))
        if isinstance(event, ev.ToolAsked) and event.step == step:
            place = record.seq
        return record

    rewrite(path, run, other)
    store = SQLiteStore(path)
    await store.open(owner=False)
    try:
        report = replay(decode_rows(store.path, await store.read(run)), policies)
    finally:
        await store.aclose()
    return report.at == place and '"a": 1' in report.now
