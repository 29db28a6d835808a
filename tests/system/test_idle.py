"""A system that has nothing to do does nothing, and hears of what comes at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from acted import script, words
from refunds import REFUND, make, system_of

from understudy import System
from understudy.actors.agents.answers import Word
from understudy.actors.journal.store import JournalStore, MemoryStore
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import Deadlock, SimLoop, run
from understudy.actors.testing.witness import Witness
from understudy.node import POLL_SECONDS, WALL_SECONDS

MONTH = 30 * 86_400.0

STORES: dict[str, Callable[[], JournalStore]] = {
    "memory": MemoryStore,
    "disk": lambda: SimStore(SimDisk()),
    "witness": lambda: Witness(MemoryStore()),
}


def word(system: System) -> bytes:
    return msgspec.json.encode(Word(system.approvals()[0].id, "ana"))


def steps_of(main: Callable[[], Any]) -> int:
    loop = SimLoop()
    run(main, loop=loop)
    return loop.steps


@pytest.mark.promise(194)
@pytest.mark.parametrize("store", STORES)
def test_a_month_without_work_costs_no_steps(store: str) -> None:
    async def main() -> None:
        async with System(journal=STORES[store]()):
            await asyncio.sleep(MONTH)

    assert steps_of(main) < 300


@pytest.mark.promise(194)
def test_a_month_after_work_costs_no_steps_either() -> None:
    agent = make(script(*REFUND, words("done")))

    async def main() -> None:
        async with system_of(agent) as system:
            first = await system.run(agent, "go")
            await system.approve(system.approvals()[0], by="ana")
            assert (await system.resume(first.run)).status == "complete"
            await asyncio.sleep(MONTH)

    assert steps_of(main) < 1_000


@pytest.mark.promise(194)
@pytest.mark.parametrize("store", STORES)
def test_a_word_that_is_posted_into_a_silent_system_is_taken_at_once(store: str) -> None:
    agent = make(script(*REFUND, words("done")))
    kept = STORES[store]()

    async def main() -> None:
        async with System(agent, journal=kept) as system:
            waiting = await system.run(agent, "go")
            assert waiting.status == "waiting"
            await asyncio.sleep(100)
            await kept.post("approve", word(system), 0.0)
            await asyncio.sleep(POLL_SECONDS / 4)
            assert system.approvals() == []

    run(main)


@pytest.mark.promise(194)
def test_a_question_that_waits_expires_in_time_with_few_looks() -> None:
    agent = make(script(*REFUND, words("done")))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with system_of(agent) as system:
            waiting = await system.run(agent, "go")
            expires = system.approvals()[0].expires - system._clock.wall()
            assert expires > 1_000
            await asyncio.sleep(expires - 1)
            assert len(system.approvals()) == 1
            await asyncio.sleep(1 + 2 * POLL_SECONDS)
            assert system.approvals() == []
            assert waiting.status == "waiting"
            assert loop.time() < expires + 2

    assert steps_of(main) < 86_400 * 7 / WALL_SECONDS * 10


@pytest.mark.promise(194)
def test_a_clock_that_is_set_forward_is_noticed() -> None:
    agent = make(script(*REFUND, words("done")))

    async def main() -> None:
        async with System(agent) as system:
            await system.run(agent, "go")
            await asyncio.sleep(60)
            assert len(system.approvals()) == 1
            system._clock.jump(366 * 86_400)  # type: ignore[attr-defined]  # it is a `SimClock`
            await asyncio.sleep(WALL_SECONDS + POLL_SECONDS)
            assert system.approvals() == []

    from understudy.actors.testing.world import World

    World().run(main, check=())


class Silent(MemoryStore):
    """A store that others write to behind its back, as into a file."""

    def __init__(self) -> None:
        super().__init__()
        del self.posted

    async def post(self, kind: str, body: bytes, at: float) -> int:
        self.posted = MemoryStore().posted
        try:
            return await super().post(kind, body, at)
        finally:
            del self.posted


def test_a_store_that_cannot_tell_is_looked_at_as_often_as_before() -> None:
    agent = make(script(*REFUND, words("done")))
    kept = Silent()

    async def main() -> None:
        async with system_of(agent, kept) as system:
            await system.run(agent, "go")
            await asyncio.sleep(100)
            await kept.post("approve", word(system), 0.0)
            await asyncio.sleep(2 * POLL_SECONDS)
            assert system.approvals() == []

    run(main)


def test_who_waits_for_nothing_in_an_idle_system_is_told_of_the_deadlock() -> None:
    async def main() -> None:
        async with System():
            await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="main at"):
        run(main)


def test_a_system_that_was_left_hears_no_more() -> None:
    kept = MemoryStore()

    async def main() -> None:
        for _ in range(3):
            async with System(journal=kept):
                await asyncio.sleep(1)
                assert kept.posted
        assert not kept.posted

    run(main)
