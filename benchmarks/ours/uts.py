"""B14: an unbalanced tree whose shape follows from hashes; one actor per node reports its subtree and stops."""

import asyncio
from functools import partial

from benchmarks.case import Case, Found
from benchmarks.lines import ROOMY
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, Message, Ref, System

M31 = 2147483647
SEED, BRANCH, CHANCE = 7, 8, 12


class Subtree(Message[None]):
    nodes: int
    leaves: int
    depth: int
    total: int


def child_hash(h: int, j: int) -> int:
    x = (h * 48271 + (j + 1) * 16807) % M31
    x ^= x >> 15
    x = x * 69621 % M31
    return x ^ (x >> 13)


class Root(Actor[Subtree]):
    """Stands above the tree, and is not one of its actors."""

    def __init__(self, node: type["Node"], children: int, done: asyncio.Future[Subtree]) -> None:
        self.node, self.children, self.done = node, children, done

    async def on_start(self) -> None:
        me = self.context.ref
        self.context.spawn(lambda: self.node(me, SEED, 0, self.children))

    def subtree(self, m: Subtree) -> None:
        self.done.set_result(m)
        self.context.stop()


class Node(Actor[Subtree]):
    mailbox_limit = ROOMY  # the root's children may all report before it is served

    def __init__(self, up: Ref[Subtree], h: int, depth: int, children: int) -> None:
        self.up, self.h, self.here, self.left = up, h, depth, children
        self.nodes, self.leaves, self.depth, self.total = 1, int(not children), depth, h

    async def on_start(self) -> None:
        if not self.left:
            self._report()
            return
        cls, me, deeper, spawn = type(self), self.context.ref, self.here + 1, self.context.spawn
        for j in range(self.left):
            h = child_hash(self.h, j)
            spawn(partial(cls, me, h, deeper, BRANCH if h % 100 < CHANCE else 0))

    def subtree(self, m: Subtree) -> None:
        self.nodes += m.nodes
        self.leaves += m.leaves
        self.depth = max(self.depth, m.depth)
        self.total += m.total
        self.left -= 1
        if not self.left:
            self._report()

    def _report(self) -> None:
        self.up.tell(Subtree(self.nodes, self.leaves, self.depth, self.total))
        self.context.stop()


class Shallow(Node):
    """Forgets how deep one of its subtrees is."""

    def subtree(self, m: Subtree) -> None:
        super().subtree(Subtree(m.nodes, m.leaves, self.here + 1, m.total))


class Barren(Node):
    """One node says nothing."""

    def _report(self) -> None:
        if self.here != 2:
            super()._report()


BUGS: Bugs = {"shallow": {Node: Shallow}, "barren": {Node: Barren}}


async def program(case: Case) -> Found:
    (children,) = case.args
    node, root_class = pick(case, Node, BUGS), pick(case, Root, BUGS)
    done: asyncio.Future[Subtree] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        root = system.spawn(lambda: root_class(node, children, done))
        tree = await arrived(case, done, "the root's report")
        await all_ended(case, system, [root])
        case.stop()
    return {"nodes": tree.nodes, "leaves": tree.leaves, "depth": tree.depth, "hash_sum": tree.total}
