"""B1: two actors, N rounds, one message outstanding. By `tell` each way, or by `ask`."""

import asyncio

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.common import LONG, Bugs, all_ended, arrived, pick
from understudy import Actor, Message, Ref, System


class Ball(Message[None]):
    i: int
    back: Ref["Back"]


class Back(Message[None]):
    i: int


class Number(Message[int]):
    i: int


class Go(Message[None]): ...


class Rounds(Message[int]): ...


class Finish(Message[int]): ...


class Pong(Actor[Ball | Number | Finish]):
    def __init__(self) -> None:
        self.handled = 0

    def ball(self, m: Ball) -> None:
        self.handled += 1
        m.back.tell(Back(m.i))

    def number(self, m: Number) -> int:
        self.handled += 1
        return m.i

    def finish(self, m: Finish) -> int:
        self.context.stop()
        return self.handled


class Ping(Actor[Go | Back | Rounds | Finish]):
    def __init__(self, pong: Ref[Ball | Number | Finish], n: int, done: asyncio.Future[int]) -> None:
        self.pong, self.n, self.done = pong, n, done
        self.next, self.sum = 0, 0

    async def on_start(self) -> None:
        self.me = self.context.ref

    def go(self, m: Go) -> None:
        self.pong.tell(Ball(0, self.me))

    def back(self, m: Back) -> None:
        if m.i != self.next:
            self.done.set_exception(CheckFailed(f"reply {m.i} where {self.next} was due"))
            return
        self.sum += m.i
        self.next += 1
        if self.next < self.n:
            self.pong.tell(Ball(self.next, self.me))
        else:
            self.done.set_result(self.sum)

    async def rounds(self, m: Rounds) -> int:
        ask, total = self.pong.ask, 0
        for i in range(self.n):
            reply = await ask(Number(i))
            if reply != i:
                raise CheckFailed(f"reply {reply} where {i} was due")
            total += reply
        return total

    def finish(self, m: Finish) -> int:
        self.context.stop()
        return self.next


class Twice(Pong):
    """Answers one message twice."""

    def ball(self, m: Ball) -> None:
        if m.i == 100:
            m.back.tell(Back(m.i))
        super().ball(m)


class Off(Pong):
    """Gives one wrong reply."""

    def number(self, m: Number) -> int:
        return super().number(m) + (m.i == 100)


BUGS: Bugs = {"twice": {Pong: Twice}, "off": {Pong: Off}}


async def program(case: Case) -> Found:
    (n,) = case.args
    pong_class, ping_class = pick(case, Pong, BUGS), pick(case, Ping, BUGS)
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        pong = system.spawn(pong_class)
        ping = system.spawn(lambda: ping_class(pong, n, done))
        if case.line == "tell":
            ping.tell(Go())
            total = await arrived(case, done, "the last reply")
        else:
            total = await ping.ask(Rounds(), timeout=LONG)
        handled = await pong.ask(Finish())
        await ping.ask(Finish())
        await all_ended(case, system, [ping, pong])
        case.stop()
    return {"sum": total, "handled": handled}
