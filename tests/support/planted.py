"""Two small programs with a planted bug each, and both corrected, as users would write them: public names only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import anyio
from anyio.abc import TaskGroup

from understudy import Actor, Down, Message, Ref, System
from understudy.actors.errors import AskError

# -- a race: a worker is started for a desk that was closed meanwhile -------------------------------------------


class Load(Message[str]):
    key: str


class Break(Message[None]):
    pass


class Close(Message[None]):
    pass


class Quit(Message[None]):
    pass


class Hop(Message[None]):
    left: int


class Store(Actor[Load]):
    def load(self, m: Load) -> str:
        return f"what {m.key} was doing"


class Worker(Actor[Break | Quit]):
    def __init__(self, state: str = "") -> None:
        self.state = state

    def fail(self, m: Break) -> None:
        raise RuntimeError("broken")

    def quit(self, m: Quit) -> None:
        self.context.stop()


class Manager(Actor[Break | Close]):
    """Keeps one worker. A respawn asks for the worker's state first, and `Close` may come in between."""

    tasks: TaskGroup

    def __init__(self, store: Ref[Load], *, careful: bool) -> None:
        self.store = store
        self.careful = careful
        self.closed = False

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group() as self.tasks:
            yield
            self.tasks.cancel_scope.cancel()

    async def on_start(self) -> None:
        self.worker: Ref[Break | Quit] | None = self.context.spawn(Worker, name="worker")
        self.context.watch(self.worker)

    def pass_on(self, m: Break) -> None:
        if self.worker is not None:
            self.worker.tell(m)

    def down(self, m: Down) -> None:
        self.worker = None
        if not self.closed:
            self.tasks.start_soon(self.respawn)

    async def respawn(self) -> None:
        state = await self.store.ask(Load("worker"))
        if self.careful and self.closed:
            return
        self.worker = self.context.spawn(lambda: Worker(state), name="worker")
        self.context.watch(self.worker)

    def close(self, m: Close) -> None:
        self.closed = True
        if self.worker is not None:
            self.worker.tell(Quit())


class Runner(Actor[Hop]):
    """Has a long way, and then closes the desk, or does nothing."""

    def __init__(self, desk: Ref[Close] | None = None) -> None:
        self.desk = desk

    def hop(self, m: Hop) -> None:
        if m.left:
            self.context.ref.tell(Hop(m.left - 1))
        elif self.desk is not None:
            self.desk.tell(Close())


async def close_a_desk(*, careful: bool = False, noise: int = 3) -> list[str]:
    """The worker breaks, and the desk is closed a little later. The workers that are left running."""
    async with System() as system:
        store = system.spawn(Store, name="store")
        desk = system.spawn(lambda: Manager(store, careful=careful), name="desk")
        closer = system.spawn(lambda: Runner(desk), name="closer")
        others = [system.spawn(Runner, name=f"noise-{n}") for n in range(noise)]
        await anyio.sleep(1)
        for each in others:
            each.tell(Hop(25))
        desk.tell(Break())
        closer.tell(Hop(20))
        await anyio.sleep(1)
        return [each.path for each in system.inspect_tree().actors if each.path.startswith("desk/")]


# -- a missing idempotency key: a client that retries pays twice ------------------------------------------------


class Pay(Message[int]):
    cents: int
    key: str = ""


class Buy(Message[bool]):
    cents: int


class Bank(Actor[Pay]):
    """`paid` is what has left the house: no restart takes it back."""

    def __init__(self, paid: dict[str, int]) -> None:
        self.paid = paid

    def pay(self, m: Pay) -> int:
        self.paid[m.key or f"payment {len(self.paid) + 1}"] = m.cents
        return m.cents


class Client(Actor[Buy]):
    def __init__(self, bank: Ref[Pay], *, careful: bool) -> None:
        self.bank = bank
        self.careful = careful

    async def buy(self, m: Buy) -> bool:
        for _ in range(3):
            with contextlib.suppress(AskError):
                await self.bank.ask(Pay(m.cents, key="order 1042" if self.careful else ""), timeout=2)
                return True
        return False


async def buy_a_lamp(*, careful: bool = False) -> dict[str, int]:
    """One order. What was paid for it."""
    paid: dict[str, int] = {}
    async with System() as system:
        bank = system.spawn(lambda: Bank(paid), name="bank")
        client = system.spawn(lambda: Client(bank, careful=careful), name="client")
        with contextlib.suppress(AskError):
            await client.ask(Buy(4_000), timeout=30)
        await anyio.sleep(10)
    return paid
