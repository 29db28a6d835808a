"""Plain actors: typed messages, typed replies, no agent and no model."""

import asyncio

from understudy import Actor, Message, System


class Add(Message[int]):
    n: int


class Total(Message[int]): ...


class Counter(Actor[Add | Total]):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    def add(self, m: Add) -> int:  # `def`: runs at once
        self.total += m.n
        return self.total

    async def read(self, m: Total) -> int:  # `async def`: may wait
        return self.total


async def main() -> None:
    async with System() as system:
        counter = system.spawn(lambda: Counter(40), name="counter")
        counter.tell(Add(1))
        print(await counter.ask(Add(1)))  # 42, an int to the type checker


if __name__ == "__main__":
    asyncio.run(main())
