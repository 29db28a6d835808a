"""B3: a ring of actors passes a token that counts down; who sees zero reports."""

import asyncio
from functools import partial

from benchmarks.case import Case, Found
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, Message, Ref, System


class Token(Message[None]):
    k: int


class Next(Message[None]):
    ref: Ref[Token]


class Finish(Message[int]): ...


class Node(Actor[Token | Next | Finish]):
    next: Ref[Token]

    def __init__(self, i: int, zero: asyncio.Future[int]) -> None:
        self.i, self.zero, self.seen = i, zero, 0

    def link(self, m: Next) -> None:
        self.next = m.ref

    def token(self, m: Token) -> None:
        self.seen += 1
        if m.k:
            self.next.tell(Token(m.k - 1))
        else:
            self.zero.set_result(self.i)

    def finish(self, m: Finish) -> int:
        self.context.stop()
        return self.seen


class Skips(Node):
    """One of the actors counts two at a time, once."""

    def token(self, m: Token) -> None:
        super().token(Token(m.k - 1) if self.i == 3 and self.seen == 1 else m)


class Stays(Node):
    """One actor does not stop."""

    def finish(self, m: Finish) -> int:
        return self.seen if self.i == 7 else super().finish(m)


class Loses(Node):
    """One actor keeps the token."""

    def token(self, m: Token) -> None:
        if self.i != 5 or self.seen != 2:
            super().token(m)


BUGS: Bugs = {"skips": {Node: Skips}, "stays": {Node: Stays}, "loses": {Node: Loses}}


async def program(case: Case) -> Found:
    actors, start = case.args
    node = pick(case, Node, BUGS)
    zero: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        ring = [system.spawn(partial(node, i, zero)) for i in range(actors)]
        for i, ref in enumerate(ring):
            ref.tell(Next(ring[(i + 1) % actors]))
        ring[0].tell(Token(start))
        zero_at = await arrived(case, zero, "the token to reach zero")
        receipts = sum([await ref.ask(Finish()) for ref in ring])
        ended = await all_ended(case, system, ring)
        case.stop()
    return {"zero_at": zero_at, "receipts": receipts, "ended": ended}
