"""B7: W actors know each other; each sends N pings, one at a time, to seeded targets and answers those of others."""

import asyncio
from functools import partial

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from benchmarks.reference import oracle
from understudy import Actor, Message, Ref, System


class Ping(Message[None]):
    who: int


class Pong(Message[None]):
    who: int


class Begin(Message[None]):
    peers: tuple[Ref["Ping | Pong"], ...]


class Finished(Message[None]): ...


class Finish(Message[int]): ...


class Sink(Actor[Finished]):
    def __init__(self, left: int, done: asyncio.Future[None]) -> None:
        self.left, self.done = left, done

    def finished(self, m: Finished) -> None:
        self.left -= 1
        if not self.left:
            self.done.set_result(None)
            self.context.stop()


class Member(Actor[Ping | Pong | Begin | Finish]):
    def __init__(self, i: int, n: int, sink: Ref[Finished], done: asyncio.Future[None]) -> None:
        self.i, self.left, self.sink, self.done = i, n, sink, done
        self.got, self.expected = 0, -1
        self.random = oracle().Lehmer(i)

    def begin(self, m: Begin) -> None:
        self.peers = m.peers
        self._next()

    def _next(self) -> None:
        self.left -= 1
        self.expected = target = self.random.below(len(self.peers))
        self.peers[target].tell(Ping(self.i))

    def ping(self, m: Ping) -> None:
        self.got += 1
        self.peers[m.who].tell(Pong(self.i))

    def pong(self, m: Pong) -> None:
        if m.who != self.expected:
            self.done.set_exception(CheckFailed(f"actor {self.i}: pong of {m.who} where {self.expected} was due"))
        elif self.left:
            self._next()
        else:
            self.sink.tell(Finished())

    def finish(self, m: Finish) -> int:
        self.context.stop()
        return self.got


class Stranger(Member):
    """Answers once in the name of another."""

    def ping(self, m: Ping) -> None:
        self.got += 1
        self.peers[m.who].tell(Pong(self.i + (self.got == 9)))


class Miscounts(Member):
    """One ping is not counted."""

    def finish(self, m: Finish) -> int:
        return super().finish(m) - (self.i == 60)


BUGS: Bugs = {"stranger": {Member: Stranger}, "miscounts": {Member: Miscounts}}


async def program(case: Case) -> Found:
    members, n = case.args
    member, sink_class = pick(case, Member, BUGS), pick(case, Sink, BUGS)
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        sink = system.spawn(lambda: sink_class(members, done))
        refs = [system.spawn(partial(member, i, n, sink, done)) for i in range(members)]
        begin = Begin(tuple(refs))
        for ref in refs:
            ref.tell(begin)
        await arrived(case, done, "every actor to have its pongs")
        received = [await ref.ask(Finish()) for ref in refs]
        await all_ended(case, system, [sink, *refs])
        case.stop()
    return {"digest": oracle().digest(received)}
