"""Plain actors with declared state on a simulated disk: processes one after another, and what must be left of them.

`Book` writes down every page it is given and hands each on to `Copy`; `Book` fails at some pages, the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import ClassVar

from msgspec import Struct, json

from understudy import Actor, Message, Ref, System
from understudy.actors.errors import JournalError
from understudy.actors.journal.durable_events import ACTORS
from understudy.actors.journal.journal import decode_rows
from understudy.actors.testing.disk_faults import DiskFault
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock


class Page(Message[None]):
    by: str
    number: int


class Pages(Struct, frozen=True):
    pages: tuple[tuple[str, int], ...] = ()

    def and_(self, page: Page) -> Pages:
        """With one page more."""
        return Pages((*self.pages, (page.by, page.number)))


class Copy(Actor[Page]):
    state: Pages = Pages()

    def keep(self, m: Page) -> None:
        self.state = self.state.and_(m)


class Writer(Actor[Page]):
    """Fails `fails[number]` times at a page; what it had done until then must not be seen."""

    state: Pages = Pages()
    mailbox_limit = 4
    fails: ClassVar[Counter[int]] = Counter()

    async def write(self, m: Page) -> None:
        self.state = self.state.and_(m)
        self.context.post(self.copy(), m)
        if m.number % 3 == 0:
            await asyncio.sleep(0.002)
        if self.fails[m.number] > 0:
            self.fails[m.number] -= 1
            raise RuntimeError(f"page {m.number}")

    def copy(self) -> Ref[Page]:
        """Where every page is handed on to."""
        cell = self.context.ref.cell()
        found = cell.kernel.registry.find("copy")
        assert found is not None
        return Ref(found)


class Left(Struct):
    """What a world left: pages that were acknowledged, and the two states."""

    told: list[tuple[str, int]]
    written: tuple[tuple[str, int], ...]
    copied: tuple[tuple[str, int], ...]
    dead: tuple[tuple[str, int], ...]
    refused: list[tuple[str, int]]


Life = Callable[[System], Coroutine[None, None, None]]


class Worlds:
    """Processes on one disk. `sent` numbers the pages of each sender, over all processes."""

    def __init__(self, disk: SimDisk) -> None:
        self.disk = disk
        self.told: list[tuple[str, int]] = []
        self.refused: list[tuple[str, int]] = []
        self._sent: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Lock] = {}

    def system(self, store: SimStore) -> System:
        """One process."""
        return System(journal=store, clock=SimClock(), watchdog=None)

    async def process(self, life: Life) -> bool:
        """One process, until `life` returns or the disk kills it; whether it was killed."""
        killed = asyncio.Event()

        async def live() -> None:
            with contextlib.suppress(JournalError):
                async with self.system(SimStore(self.disk, on_kill=lambda fault: killed.set())) as system:
                    system.spawn(Copy, name="copy")
                    system.spawn(Writer, name="writer")
                    await life(system)

        living = asyncio.ensure_future(live())
        dying = asyncio.ensure_future(killed.wait())
        await asyncio.wait([living, dying], return_when=asyncio.FIRST_COMPLETED)
        if killed.is_set():
            self.disk.bury()
            living.cancel()
        dying.cancel()
        await asyncio.wait([living, dying])
        if not living.cancelled():
            living.result()
        return killed.is_set()

    async def send(self, system: System, by: str, count: int) -> None:
        """Post pages one after another; a number is used once, whatever became of it."""
        writer = system.ref("writer")
        async with self._turns.setdefault(by, asyncio.Lock()):
            for _ in range(count):
                self._sent[by] += 1
                page = (by, self._sent[by])
                if await writer.post(Page(*page)):
                    self.told.append(page)
                else:
                    self.refused.append(page)

    async def left(self) -> Left:
        """Let everything come to rest in more processes, of which nothing kills the last one."""
        states: list[Pages] = []
        dead: list[tuple[str, int]] = []

        async def rest(system: System) -> None:
            for _ in range(400):
                await asyncio.sleep(0.05)
                if not system.kernel.office or not system.kernel.office.book.waiting:
                    break
            dead.extend(
                (page.by, page.number) for page in (json.decode(each.body, type=Page) for each in system.dead_posts())
            )
            for name in ("writer", "copy"):
                states.append(await system.peek(name, lambda actor: actor.state))

        while await self.process(rest):
            states.clear()
            dead.clear()
        return Left(self.told, states[0].pages, states[1].pages, tuple(dead), self.refused)

    def streams(self) -> list[str]:
        """The streams of plain actors."""
        return [name for name in self.disk.streams() if name.startswith(ACTORS)]

    def events(self) -> list[object]:
        """What is in them."""
        rows = self.disk.streams()
        return [record.event for name in self.streams() for record in decode_rows(self.disk.name, rows[name])]


def faulty(left: Left) -> list[str]:
    """What is wrong with what a world left."""
    wrong: list[str] = []
    counted, dead = Counter(left.written), left.dead
    wrong += [f"{page} is dead and was written" for page in dead if page in counted]
    wrong += [f"{page} was written {times} times" for page, times in counted.items() if times > 1]
    wrong += [f"{page} was acknowledged and is lost" for page in left.told if page not in counted and page not in dead]
    wrong += [f"{page} was refused and is there" for page in left.refused if page in counted]
    for by in sorted({by for by, _ in left.written}):
        numbers = [number for other, number in left.written if other == by]
        if numbers != sorted(numbers):
            wrong.append(f"the pages of {by} are out of order: {numbers}")
    if left.copied != left.written:
        wrong.append(f"the copy is another: {left.copied}")
    return wrong


async def play(disk: SimDisk) -> Left:
    """Two senders, pages that fail, and as many processes as it takes."""
    worlds = Worlds(disk)
    Writer.fails = Counter({2: 1, 5: 2})
    killed = True
    while killed:

        async def life(system: System) -> None:
            await asyncio.gather(worlds.send(system, "ana", 4), worlds.send(system, "li", 3))

        killed = await worlds.process(life)
    return await worlds.left()


def world(faults: Sequence[DiskFault], *, durability: str = "normal") -> SimDisk:
    """A disk with these faults."""
    return SimDisk(faults, durability="full" if durability == "full" else "normal")
