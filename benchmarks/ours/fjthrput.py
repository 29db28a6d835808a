"""B5: a master sends N messages to each of A actors, round robin; each adds up."""

from benchmarks.case import Case, Found
from benchmarks.ours.common import LONG, Bugs, all_ended, pick
from understudy import Actor, Message, Ref, System


class Add(Message[None]):
    j: int


class Get(Message[tuple[int, int]]): ...


class Run(Message[None]):
    n: int


class Adder(Actor[Add | Get]):
    def __init__(self) -> None:
        self.count = self.sum = 0

    def add(self, m: Add) -> None:
        self.count += 1
        self.sum += m.j

    def get(self, m: Get) -> tuple[int, int]:
        self.context.stop()
        return self.count, self.sum


class Master(Actor[Run]):
    def __init__(self, adders: list[Ref[Add | Get]]) -> None:
        self.sends = [ref.send for ref in adders]

    async def run(self, m: Run) -> None:
        sends = self.sends
        for j in range(m.n):
            for send in sends:
                await send(Add(j))
        self.context.stop()


class Loses(Adder):
    """One message is not handled."""

    def add(self, m: Add) -> None:
        if m.j != 50:
            super().add(m)


class Repeats(Adder):
    """One message is handled in the place of another."""

    def add(self, m: Add) -> None:
        super().add(Add(49) if m.j == 50 else m)


BUGS: Bugs = {"loses": {Adder: Loses}, "repeats": {Adder: Repeats}}


async def program(case: Case) -> Found:
    actors, n = case.args
    adder, master_class = pick(case, Adder, BUGS), pick(case, Master, BUGS)
    async with System() as system:
        case.start()
        refs = [system.spawn(adder) for _ in range(actors)]
        master = system.spawn(lambda: master_class(refs))
        await master.ask(Run(n), timeout=LONG)
        got = [await ref.ask(Get(), timeout=LONG) for ref in refs]
        await all_ended(case, system, [*refs, master])
        case.stop()
    return {"counts": [count for count, _ in got], "sums": [total for _, total in got]}
