"""The process that C6 kills: `python -m benchmarks.approval_life IMPL FOLDER N STEPS [BUG]`.

It goes on with what is in the folder, or begins it, and says in a line of JSON when nothing moves any more: how many
agents are `parked` for a yes, how many have `ended`, the `doubts` that it lists (its name for each, agent, step), and
the first time the `ms` that it took for it without its imports. Then it does what it is told, line by line, and says
that it has; after a yes it goes on until again nothing moves.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.approval import Log

RUNTIMES = {
    "ours": "benchmarks.ours.approval",
    "langgraph": "benchmarks.peers.approval_langgraph",
    "dbos": "benchmarks.peers.in_dbos",
}


class Life(NamedTuple):
    """What a runtime is given."""

    folder: Path
    log: Log
    n: int
    steps: int
    bug: str

    @property
    def half(self) -> int:
        """The step that needs a yes."""
        return self.steps // 2


class Rest(NamedTuple):
    """See the module."""

    parked: int
    ended: int
    doubts: list[tuple[str, int, int]]


class Runtime(Protocol):
    """What a runtime can."""

    async def rest(self) -> Rest:
        """Wait until nothing moves."""
        ...

    async def approve(self) -> bool:
        """Say yes to all that ask. False if a yes is not taken before what follows it is done."""
        ...

    async def settle(self, doubt: str, did: bool) -> None:
        """Say whether a call in doubt happened."""
        ...

    async def finals(self) -> list[int]:
        """The value of every agent that has ended, in their order."""
        ...


class RuntimeModule(Protocol):
    """The module of a runtime."""

    def runtime(self, life: Life) -> AbstractAsyncContextManager[Runtime]:
        """Go on with what is in the folder, or begin it."""
        ...


def _say(**what: object) -> None:
    print(json.dumps(what), flush=True)


async def live(module: RuntimeModule, life: Life) -> None:
    """Until standard input ends."""
    began = time.perf_counter()
    async with module.runtime(life) as runtime:
        rest = await runtime.rest()
        _say(**rest._asdict(), ms=round((time.perf_counter() - began) * 1e3, 1))
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, *more = json.loads(line)
            match what:
                case "settle":
                    await runtime.settle(*more)
                    _say(taken=True)
                case "finals":
                    _say(finals=await runtime.finals())
                case _:
                    _say(taken=await runtime.approve() if what == "approve" else True)
                    _say(**(await runtime.rest())._asdict())


def main(argv: list[str]) -> None:
    """See the module."""
    impl, folder, n, steps, *bug = argv
    life = Life(Path(folder), Log(Path(folder)), int(n), int(steps), bug[0] if bug else "")
    module: RuntimeModule = importlib.import_module(RUNTIMES[impl])
    asyncio.run(live(module, life))


if __name__ == "__main__":
    main(sys.argv[1:])
