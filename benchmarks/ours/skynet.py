"""C1: a tree of fan-out ten; leaves answer with their number, every actor above adds up ten and stops."""

import asyncio
from functools import partial

from benchmarks.case import Case, Found
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, Message, Ref, System

FAN = 10


class Sum(Message[None]):
    value: int


class Root(Actor[Sum]):
    """Stands above the tree, and is not one of its actors."""

    def __init__(self, node: type["Node"], size: int, done: asyncio.Future[int]) -> None:
        self.node, self.size, self.done = node, size, done

    async def on_start(self) -> None:
        me = self.context.ref
        self.context.spawn(lambda: self.node(me, 0, self.size))

    def sum(self, m: Sum) -> None:
        self.done.set_result(m.value)
        self.context.stop()


class Node(Actor[Sum]):
    def __init__(self, up: Ref[Sum], number: int, size: int) -> None:
        self.up, self.number, self.size = up, number, size
        self.left, self.total = FAN, 0

    async def on_start(self) -> None:
        if self.size == 1:
            self.up.tell(Sum(self.number))
            self.context.stop()
            return
        cls, me, sub, spawn = type(self), self.context.ref, self.size // FAN, self.context.spawn
        for number in range(self.number, self.number + self.size, sub):
            spawn(partial(cls, me, number, sub))

    def sum(self, m: Sum) -> None:
        self.total += m.value
        self.left -= 1
        if not self.left:
            self.up.tell(Sum(self.total))
            self.context.stop()


class Miscounts(Node):
    """One actor reports before its tenth child."""

    def sum(self, m: Sum) -> None:
        if self.size == FAN and self.number == 50:
            self.left -= self.left == 2
        super().sum(m)


class Stays(Node):
    """One leaf says nothing."""

    async def on_start(self) -> None:
        if self.number != 77 or self.size > 1:
            await super().on_start()


BUGS: Bugs = {"miscounts": {Node: Miscounts}, "stays": {Node: Stays}}


async def program(case: Case) -> Found:
    (size,) = case.args
    node, root_class = pick(case, Node, BUGS), pick(case, Root, BUGS)
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        root = system.spawn(lambda: root_class(node, size, done))
        total = await arrived(case, done, "the sum of the tree")
        await all_ended(case, system, [root])
        case.stop()
    return {"sum": total}
