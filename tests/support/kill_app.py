"""The audit team whose tools run in another process, for `kill -9` tests.

`team` is what `--app kill_app:team` names. `python kill_app.py JOURNAL` is the victim: it starts one run, prints every
committed event as a line `SEQ EVENT`, and waits when the run is parked, or with KILL_YES says yes itself. With
KILL_SLOW its disk takes that many seconds longer for each write.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from understudy import OpenAIChat, Price, Supervisor, System, Waiting
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.tools import Tool
from understudy.actors.journal.events import Parked, Record
from understudy.actors.journal.store import Row
from understudy.demo.messages import Audit, Options
from understudy.demo.team import team as audit_team
from understudy.supervisors.specs import ChildSpec
from understudy.transports.journals.sqlite import SQLiteStore


def options() -> Options:
    return Options(path=(os.environ["KILL_SITE"],), out=os.environ["KILL_OUT"])


def team() -> Supervisor:
    """The demo's own team; each tool asks the tool process to do its work."""
    model = OpenAIChat("scripted", base_url=os.environ["KILL_MODEL"], api_key="k", price=Price(250_000, 2_000_000))
    tree = audit_team(options(), model=model)
    for child in tree.children:
        assert isinstance(child, ChildSpec)
        assert isinstance(child.child, Agent)
        for tool in child.child.tools:
            _outsource(tool)
    return tree


def _outsource(tool: Tool[..., Any]) -> None:
    async def remote(**arguments: object) -> object:
        host, port = os.environ["KILL_TOOLS"].split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        try:
            writer.write(msgspec.json.encode({"tool": tool.name, "arguments": arguments}) + b"\n")
            await writer.drain()
            answer = msgspec.json.decode(await reader.readline())
        finally:
            writer.close()
        if "error" in answer:
            raise LookupError(answer["error"])
        return answer["result"]

    tool.fn, tool.is_async = remote, True


class SlowDisk(SQLiteStore):
    """A store on a disk that takes `seconds` longer for each write; nothing of it is there before."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__(path)
        self._seconds = seconds

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        """As `SQLiteStore.write`, later."""
        await asyncio.sleep(self._seconds)
        await super().write(rows, at)


async def victim(journal: str) -> None:
    tree = team()
    slow = float(os.environ.get("KILL_SLOW", "0"))
    system = System(tree, journal=SlowDisk(journal, slow) if slow else journal, meta={"app": "kill_app"})
    async with system:
        lines: asyncio.Queue[Record] = asyncio.Queue()
        system.listen(lines.put_nowait)
        planner = tree.children[0]
        assert isinstance(planner, ChildSpec)
        assert isinstance(planner.child, Agent)
        run = asyncio.create_task(system.run(planner.child, Audit(options())))
        while True:
            record = await lines.get()
            await system.journal.barrier()
            print(record.seq, type(record.event).__name__, flush=True)
            if isinstance(record.event, Parked) and record.sub == 0:
                result = await run
                if "KILL_YES" in os.environ and isinstance(result, Waiting):
                    await system.approve(result.pending[0], by="driver")
                else:
                    print(0, result.status, flush=True)


if __name__ == "__main__":
    asyncio.run(victim(sys.argv[1]))
