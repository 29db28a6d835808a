"""B2: a producer sends N increments without waiting for answers, then asks for the total."""

from benchmarks.case import Case, Found
from benchmarks.lines import ROOMY
from benchmarks.ours.common import LONG, Bugs, all_ended, pick
from understudy import Actor, Message, Ref, System


class Inc(Message[None]): ...


class Total(Message[int]): ...


class Produce(Message[int]):
    n: int


class Counter(Actor[Inc | Total]):
    def __init__(self) -> None:
        self.count = 0

    def inc(self, m: Inc) -> None:
        self.count += 1

    def total(self, m: Total) -> int:
        self.context.stop()
        return self.count


class RoomyCounter(Actor[Inc | Total]):
    mailbox_limit = ROOMY

    def __init__(self) -> None:
        self.count = 0

    def inc(self, m: Inc) -> None:
        self.count += 1

    def total(self, m: Total) -> int:
        self.context.stop()
        return self.count


INC = Inc()  # carries nothing: one is enough, as an atom is


class Producer(Actor[Produce]):
    def __init__(self, counter: Ref[Inc | Total]) -> None:
        self.counter = counter

    async def produce(self, m: Produce) -> int:
        send = self.counter.send
        for _ in range(m.n):
            await send(INC)
        self.context.stop()
        return await self.counter.ask(Total(), timeout=LONG)


class Teller(Actor[Produce]):
    def __init__(self, counter: Ref[Inc | Total]) -> None:
        self.counter = counter

    async def produce(self, m: Produce) -> int:
        tell = self.counter.tell
        for _ in range(m.n):
            tell(INC)
        self.context.stop()
        return await self.counter.ask(Total(), timeout=LONG)


class Forgets(Counter):
    """Does not count one message."""

    def inc(self, m: Inc) -> None:
        self.count += self.count != 777


class RoomyForgets(RoomyCounter):
    """The same, without a bound."""

    def inc(self, m: Inc) -> None:
        self.count += self.count != 777


class Impatient(Producer):
    """Does not wait for room: what does not fit is refused."""

    async def produce(self, m: Produce) -> int:
        for _ in range(m.n):
            self.counter.tell(INC)
        self.context.stop()
        return await self.counter.ask(Total(), timeout=LONG)


BUGS: Bugs = {"forgets": {Counter: Forgets, RoomyCounter: RoomyForgets}, "impatient": {Producer: Impatient}}


async def program(case: Case) -> Found:
    (n,) = case.args
    bounded = case.line == "bounded-1000"
    counter_class = pick(case, Counter, BUGS) if bounded else pick(case, RoomyCounter, BUGS)
    producer_class = pick(case, Producer, BUGS) if bounded else pick(case, Teller, BUGS)
    async with System() as system:
        case.start()
        counter = system.spawn(counter_class)
        producer = system.spawn(lambda: producer_class(counter))
        total = await producer.ask(Produce(n), timeout=LONG)
        await all_ended(case, system, [counter, producer])
        case.stop()
    return {"total": total}
