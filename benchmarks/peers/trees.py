"""The programs that grow trees: an actor makes its children, waits for their reports, and ends them."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.case import Case, Found
from benchmarks.peers.api import Api, Ref, end_all

M31 = 2147483647


async def skynet(api: Api, case: Case) -> Found:
    (size,) = case.args

    class Node(api.Actor):  # type: ignore[name-defined]
        def __init__(self, up: Ref, number: int, size: int) -> None:
            super().__init__()
            self.up, self.number, self.size = up, number, size
            self.left, self.total = 10, 0
            self.refs: list[Ref] = []

        async def on_receive(self, message: Any) -> Any:
            if message is not None:
                self.total += message
                self.left -= 1
                if not self.left:
                    await end_all(api, self.refs)
                    await self._report(self.total)
            elif self.size == 1:
                await self._report(self.number)
            else:
                me, sub = await api.me(self), self.size // 10
                for number in range(self.number, self.number + self.size, sub):
                    ref = await api.spawn(Node, me, number, sub, parent=self)
                    self.refs.append(ref)
                    await api.tell(ref, None)

        async def _report(self, value: int) -> None:
            if type(self.up) is asyncio.Future:
                self.up.set_result(value)
            else:
                await api.tell(self.up, value)

    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    case.start()
    root = await api.spawn(Node, done, 0, size)
    await api.tell(root, None)
    total = await done
    await api.end(root)
    case.stop()
    return {"sum": total}


def child_hash(h: int, j: int) -> int:
    x = (h * 48271 + (j + 1) * 16807) % M31
    x ^= x >> 15
    x = x * 69621 % M31
    return x ^ (x >> 13)


async def uts(api: Api, case: Case) -> Found:
    (children,) = case.args

    class Node(api.Actor):  # type: ignore[name-defined]
        def __init__(self, up: Ref, h: int, depth: int, children: int) -> None:
            super().__init__()
            self.up, self.h, self.here, self.left = up, h, depth, children
            self.nodes, self.leaves, self.depth, self.total = 1, int(not children), depth, h
            self.refs: list[Ref] = []

        async def on_receive(self, message: Any) -> Any:
            if message is not None:
                nodes, leaves, depth, total = message
                self.nodes += nodes
                self.leaves += leaves
                self.depth = max(self.depth, depth)
                self.total += total
                self.left -= 1
            elif self.left:
                me = await api.me(self)
                for j in range(self.left):
                    h = child_hash(self.h, j)
                    ref = await api.spawn(Node, me, h, self.here + 1, 8 if h % 100 < 12 else 0, roomy=True, parent=self)
                    self.refs.append(ref)
                    await api.tell(ref, None)
            if not self.left:
                await end_all(api, self.refs)
                report = (self.nodes, self.leaves, self.depth, self.total)
                if type(self.up) is asyncio.Future:
                    self.up.set_result(report)
                else:
                    await api.tell(self.up, report)

    done: asyncio.Future[tuple[int, int, int, int]] = asyncio.get_running_loop().create_future()
    case.start()
    root = await api.spawn(Node, done, 7, 0, children, roomy=True)
    await api.tell(root, None)
    nodes, leaves, depth, total = await done
    await api.end(root)
    case.stop()
    return {"nodes": nodes, "leaves": leaves, "depth": depth, "hash_sum": total}
