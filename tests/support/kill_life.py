"""The processes that are killed: each is one life of the system in `kill_tree`, on a journal that the next takes over.

`python kill_life.py` is the nursery: it has everything imported, and for each line of standard input (a `Life` as JSON)
forks a process that lives it, says its id, and waits for its end. A life does what the driver at the other end of its
connection says, and tells it what was committed and what was answered. It may be told where to kill itself; the driver
kills it at all other instants.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import kill_tree
import msgspec
from msgspec import Struct

from understudy import System
from understudy.actors.agents.acting import Acts
from understudy.actors.agents.tools import Call, Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.durability import OnDisk
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.state import CallState
from understudy.actors.journal.store import Row
from understudy.transports.journals.sqlite import SQLiteStore


class Life(Struct, frozen=True):
    """What one process is to do. `begin` are requests to make, `resume` runs to wait for.

    `die`: "append" (with the `nth` event, before it is committed), "write" (before the `nth` write), "written" (after
    it), "during" (`late` seconds after it has begun); "" leaves it to the driver. `defect`: one of `DEFECTS`.
    """

    port: int
    journal: str
    durability: OnDisk
    seed: str
    begin: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()
    die: str = ""
    nth: int = 0
    late: float = 0.0
    defect: str = ""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Link:
    """The connection to the driver: the outside of the tree, and more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self.words: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def tell(self, what: str, **more: object) -> None:
        self._writer.write(json.dumps({"tell": what, **more}).encode() + b"\n")

    async def _ask(self, what: str, **more: object) -> Any:
        self._asked += 1
        future = self._waiting[self._asked] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"ask": what, "id": self._asked, **more}).encode() + b"\n")
        return await future

    async def act(self, tool: str, label: str, key: str) -> str:
        return str(await self._ask("act", tool=tool, label=label, key=key))

    async def happened(self, label: str) -> bool | None:
        said: bool | None = await self._ask("happened", label=label)
        return said

    async def asked(self, label: str, turn: int) -> None:
        await self._ask("model", label=label, turn=turn)

    async def listen(self) -> None:
        """Until the driver hangs up."""
        while line := await self._reader.readline():
            said = json.loads(line)
            if "do" in said:
                self.words.put_nowait(said)
            else:
                future = self._waiting.pop(said["id"])
                if not future.done():  # who asked may have been cancelled
                    future.set_result(said["answer"])


class TellingStore(SQLiteStore):
    """A store that tells what it has committed, once it has, and may be where the process dies."""

    def __init__(self, life: Life, link: Link) -> None:
        super().__init__(life.journal, durability=life.durability)
        self._life = life
        self._link = link
        self._writes = 0

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        self._writes += 1
        dies = self._life.die if self._writes == self._life.nth else ""
        if dies == "write":
            kill()
        if dies == "during":
            threading.Timer(self._life.late, kill).start()
        await super().write(rows, at)
        if dies == "written":
            kill()
        self._link.tell("committed", rows=[[row.run, row.seq, row.payload.decode()] for row in rows])


async def live(life: Life) -> None:
    """Enter the system, make the requests, do what is said, until told to leave."""
    reader, writer = await asyncio.open_connection("127.0.0.1", life.port, limit=1 << 24)
    link = Link(reader, writer)
    listening = asyncio.create_task(link.listen())
    tree = kill_tree.tree(link)
    async with System(tree, journal=TellingStore(life, link)) as system:
        if life.die == "append":
            system.listen(_Reaper(life.nth).hear)
        agents = {policy.name: policy.agent for policy in system.tree.policies.values()}

        async def finish(label: str, waiting: Any) -> None:
            result = await waiting
            link.tell("result", label=label, run=result.run, status=result.status, output=result.output)

        under_way = [
            asyncio.create_task(finish(label, system.run(agents[label.partition("-")[0]], label)))
            for label in life.begin
        ]
        under_way += [asyncio.create_task(finish("", system.resume(run))) for run in life.resume]
        link.tell("ready")
        while (said := await link.words.get())["do"] != "leave":
            listed = [doubt.id for doubt in system.doubts()]
            match said["do"]:
                case "approve":
                    await system.approve(said["id"], by="ana")
                case "settle":
                    await system.settle(said["id"], did=said["did"], by="driver")
            link.tell("did", listed=listed, **said)
    await asyncio.gather(*under_way)  # who still waited was told that it waits
    link.tell("left")
    await writer.drain()
    listening.cancel()
    writer.close()


# -- defects, to see that they are found -----------------------------------------------------------------------


def _runs_all_again() -> None:
    async def recover(self: Acts, state: CallState) -> None:
        if state.asked is not None and not state.doubt and not state.asked.sub:
            await self.run_tool(state.asked)

    Acts._recover_call = recover  # type: ignore[method-assign]


def _takes_doubts_for_done() -> None:
    doubt = Acts.doubt

    def settled(self: Acts, event: ev.ToolAsked) -> None:
        doubt(self, event)
        self.append(ev.DoubtSettled(list(self._run.doubts)[-1], True, "nobody"))

    Acts.doubt = settled  # type: ignore[method-assign]


def _waits_for_no_commit() -> None:
    async def barrier(self: Journal) -> None:
        return

    Journal.barrier = barrier  # type: ignore[method-assign]


def _forgets_recorded_steps() -> None:
    call_of = Acts.call_of

    def forgetting(self: Acts, event: ev.ToolAsked) -> Call:
        call = call_of(self, event)
        call._recorded.clear()
        return call

    Acts.call_of = forgetting  # type: ignore[method-assign]


def _takes_another_key() -> None:
    call_of = Acts.call_of

    def keyed(self: Acts, event: ev.ToolAsked) -> Call:
        call = call_of(self, event)
        call.key += f"#{os.getpid()}"
        return call

    Acts.call_of = keyed  # type: ignore[method-assign]


def _takes_no_for_yes() -> None:
    verified = Tool.verified

    async def yes(self: Tool[..., Any], arguments: Mapping[str, Any]) -> bool | None:
        return None if await verified(self, arguments) is None else True

    Tool.verified = yes  # type: ignore[method-assign]


DEFECTS: Final[Mapping[str, Callable[[], None]]] = {
    "what was in flight runs again": _runs_all_again,
    "a doubt is taken for done": _takes_doubts_for_done,
    "a barrier does not wait": _waits_for_no_commit,
    "recorded steps are forgotten": _forgets_recorded_steps,
    "a key is of one process": _takes_another_key,
    "a no of verify is taken for a yes": _takes_no_for_yes,
}


class _Reaper:
    """Kills the process with the nth event that it hears of: it is appended, and not committed."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def hear(self, record: Record) -> None:
        self._left -= 1
        if not self._left:
            kill()


def nursery() -> None:
    """See the module."""
    for line in sys.stdin:
        life = msgspec.json.decode(line, type=Life)
        pid = os.fork()
        if not pid:
            _be(life)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


def _be(life: Life) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        random.seed(life.seed)
        if life.defect:
            DEFECTS[life.defect]()
        asyncio.run(live(life))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    nursery()
