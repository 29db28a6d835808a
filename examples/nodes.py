"""Two nodes: a counter on one, used from the other. Run it as it is; in earnest each node is a process of its own."""

import asyncio

from understudy import Actor, Down, Message, System

SECRET = b"drawn by `openssl rand -hex 32`, the same for both"


class Add(Message[int]):
    n: int


class Counter(Actor[Add]):
    def __init__(self) -> None:
        self.total = 0

    def add(self, m: Add) -> int:
        self.total += m.n
        return self.total


async def main() -> None:
    async with System(name="berlin", listen="tcp://127.0.0.1:0", secret=SECRET) as berlin:
        berlin.spawn(Counter, name="counter")
        async with System(name="lima", join={"berlin": berlin.listening[0]}, secret=SECRET) as lima:
            await lima.joined("berlin")
            counter = lima.ref("berlin/counter")  # an address like any other
            print("sent", bool(await counter.send(Add(40))))
            print("asked", await counter.ask(Add(2)))
            watch = lima.watch(counter)
            assert berlin.network is not None
            await berlin.network.aclose()
            down: Down = await watch
            print("lost", down.kind)  # it may be alive: nobody can know from here
            print("refused", bool(counter.tell(Add(1))))


if __name__ == "__main__":
    asyncio.run(main())
