"""The tree whose journals lie in tests/histories. What it does stays as it was: a replay decides it again.

python tests/support/recorded.py FILE       # by the code as it is now; for a new version of events or tables

That writes FILE.gz (the journal), FILE.history.gz (its runs that ended) and FILE.states.json.gz (how its runs stand).
"""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path
from typing import Any

from acted import Acted, call, calls, told, turns, words

from understudy import Agent, Budget, ContextWindow, Slide, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.testing.replays import record_history, record_states
from understudy.transports.journals.sqlite import SQLiteStore

HISTORIES = Path(__file__).parents[1] / "histories"
PAGE = "\n".join(f"line {number} of a page that is long enough to be a body of its own" for number in range(60))


@tool(effect="read")
async def look(what: str) -> str:
    if what == "nothing":
        raise LookupError("there is nothing")
    return f"{what}:\n{PAGE}"


@tool(effect="irreversible", approve="finance")
async def pay(cents: int) -> str:
    return f"paid {cents}"


def _clerk(request: ModelRequest) -> ModelReply:
    steps = (
        calls(call("look", what="shelf"), call("look", what="nothing")),
        calls(call("look", what="shelf")),
        calls(call("pay", cents=500)),
        words("all is paid"),
    )
    return steps[min(turns(request), len(steps) - 1)]


def _talker(request: ModelRequest) -> ModelReply:
    return words(f"heard {len(request.messages)} messages, {len(told(request))} results, é\U0001f600")


def tree() -> Supervisor:
    """Two agents under a budget: one looks, fails and pays with a person's yes, one talks in sessions."""
    clerk: Agent[Any, Any] = Agent("clerk", model=Acted(_clerk), tools=[look, pay])
    talker: Agent[Any, Any] = Agent("talker", model=Acted(_talker), window=ContextWindow(900, compact=[Slide()]))
    return Supervisor("desk", [clerk, talker], budget=Budget(steps=50, tokens=10**6))


async def record(path: Path) -> None:
    """Make the journal at `path`: finished runs, a session, one that waits for a person, a word in the inbox.

    Since version 2 also what is left of a run that was pruned.
    """
    async with System(tree(), journal=path, meta={"app": "recorded"}) as system:
        clerk, talker = (system.tree.policies[name].agent for name in ("clerk", "talker"))
        await system.run(talker, "hello")
        assert len((await system.prune(ended_before=0)).runs) == 1
        paid = await system.run(clerk, "settle the bill")
        assert paid.status == "waiting"
        await system.approve(paid.pending[0], by="ana")
        assert (await system.resume(paid.run)).status == "complete"
        for number in range(4):
            said = await system.run(talker, f"{number}: {PAGE[:1_500]}", session="s1")
            assert said.status == "complete", said
        waiting = await system.run(clerk, "settle another")
        assert waiting.status == "waiting"
    store = SQLiteStore(path)
    await store.open(owner=False)
    await store.post("stop", b'{"run": "none", "by": "ana"}', 1.0)
    await store.aclose()


def unpacked(name: str, folder: Path) -> Path:
    """A journal of tests/histories as a file of its own in `folder`."""
    path = folder / "desk.db"
    path.write_bytes(gzip.decompress((HISTORIES / name).read_bytes()))
    path.chmod(0o600)
    return path


def states_of(version: int) -> bytes:
    """How the runs of `journal-N` stood, told by the code that wrote it."""
    return gzip.decompress((HISTORIES / f"states-{version}.json.gz").read_bytes())


def _put(target: Path, end: str, data: bytes) -> None:
    target.with_name(target.name + end).write_bytes(gzip.compress(data, 9, mtime=0))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    asyncio.run(record(target))
    _put(target, ".gz", target.read_bytes())
    _put(target, ".history.gz", asyncio.run(record_history(SQLiteStore(target))))
    _put(target, ".states.json.gz", asyncio.run(record_states(SQLiteStore(target))))
