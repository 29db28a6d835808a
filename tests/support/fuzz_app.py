"""The node that is fuzzed, in a process of its own: ledgers whose state shows every message they took, in order.

Run as a program it prints its address, and ends when its input does. What it logs is on its standard error.
"""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from msgspec import Struct

from understudy import Actor, Message, System

SECRET = b"a secret of at least thirty-two bytes"
LEDGERS = ("ledger0", "ledger1", "ledger2", "ledger3")
KEYS = 64


class Put(Message[None]):
    key: int
    value: str


class Add(Message[None]):
    key: int
    amount: float
    tags: tuple[str, ...] = ()


class Mark(Message[None]):
    body: bytes
    extra: Mapping[str, int] | None = None


class State(Struct, frozen=True):
    """What a ledger has taken: how many messages, a digest over all of them in order, and what is in it."""

    count: int
    digest: int
    values: tuple[tuple[int, str], ...]


class Digest(Message[State]): ...


class Ledger(Actor[Put | Add | Mark | Digest]):
    def __init__(self) -> None:
        self.count = self.sum = 0
        self.values: dict[int, str] = {}

    def _note(self, m: Any) -> None:
        self.count += 1
        self.sum = crc32(repr(m).encode("utf-8", "replace"), self.sum)

    def put(self, m: Put) -> None:
        self._note(m)
        self.values[m.key % KEYS] = m.value[:40]

    def add(self, m: Add) -> None:
        self._note(m)
        self.values[m.key % KEYS] = f"{m.amount}"

    def mark(self, m: Mark) -> None:
        self._note(m)

    def digest(self, m: Digest) -> State:
        return self.state()

    def state(self) -> State:
        return State(self.count, self.sum, tuple(sorted(self.values.items())))


class Status(Struct, frozen=True):
    """How the node is: bytes of memory, what it counted, exceptions that nobody caught."""

    rss: int
    counts: dict[str, int]
    nodes: dict[str, int]
    escaped: int
    tasks: int


class Report(Message[Status]): ...


class Reporter(Actor[Report]):
    def __init__(self, system: System, escaped: list[Any]) -> None:
        self._system, self._escaped = system, escaped

    def report(self, m: Report) -> Status:
        network, nodes = self._system.network, self._system.kernel.nodes
        assert network is not None
        assert nodes is not None
        with open("/proc/self/statm", encoding="ascii") as file:
            rss = int(file.read().split()[1]) * 4096
        counts = {f"{name}: {what}": many for (name, what), many in nodes.counts.items()}
        return Status(rss, dict(network.counts), counts, len(self._escaped), len(asyncio.all_tasks()))


async def main() -> None:
    logging.basicConfig(level=logging.INFO)
    escaped: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: escaped.append(context))
    async with System(listen="tcp://127.0.0.1:0", name="node", secret=SECRET) as system:
        for name in LEDGERS:
            system.spawn(Ledger, name=name)
        system.spawn(lambda: Reporter(system, escaped), name="reporter")
        print(system.listening[0], flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
