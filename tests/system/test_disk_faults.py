"""What a simulated disk found: a word that could not be written is not lost, a system that cannot start ends no run."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from acted import Acted, call, calls, script, words
from lives import RUN, Answer, OneId

from understudy import Agent, System, tool
from understudy.actors.agents.answers import Word
from understudy.actors.errors import JournalFailed
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import decode_rows
from understudy.actors.testing.disk_faults import DiskError
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run


def sender(sent: list[str]) -> Agent[Answer, Any]:
    @tool(effect="irreversible", approve="boss")
    async def send(what: str) -> str:
        sent.append(what)
        return f"sent {what}"

    model = Acted(script(calls(call("send", what="parcel")), words('{"text": "done"}')))
    return Agent("clerk", model=model, tools=[send], output=Answer)


def system_on(disk: SimDisk, agent: Agent[Answer, Any]) -> System:
    return System(agent, journal=SimStore(disk), clock=SimClock(), ids=OneId(), watchdog=None)


def events(disk: SimDisk) -> list[ev.AnyEvent]:
    return [record.event for record in decode_rows(disk.name, disk.streams()[RUN])]


async def say_yes(disk: SimDisk) -> None:
    """As `understudy approve` does it, from another process."""
    store = SimStore(disk, process="cli")
    await store.open(owner=False)
    await store.post("approve", msgspec.json.encode(Word(f"{RUN}-a1", by="ana")), 1.0)
    await store.aclose()


async def ask(disk: SimDisk, agent: Agent[Answer, Any]) -> None:
    async with system_on(disk, agent) as system:
        assert (await system.run(agent, "go")).status == "waiting"


@pytest.mark.promise(20)
def test_a_yes_that_the_disk_refused_is_heard_by_the_next_process() -> None:
    sent: list[str] = []

    async def main(disk: SimDisk) -> None:
        agent = sender(sent)
        await ask(disk, agent)
        await say_yes(disk)
        with pytest.raises(JournalFailed):  # the word is taken while the system is entered
            async with system_on(disk, agent):
                pass
        assert sent == []
        async with system_on(disk, agent) as system:
            assert (await system.resume(RUN)).status == "complete"

    undisturbed = SimDisk()
    run(lambda: ask(undisturbed, sender([])))
    run(lambda: main(SimDisk([DiskError(undisturbed.writes + 2)])))  # 1 says who owns it, 2 is the yes
    assert sent == ["parcel"]


@pytest.mark.promise(20)
def test_a_yes_that_the_disk_refuses_a_running_system_is_heard_by_the_next_process() -> None:
    sent: list[str] = []

    async def main(disk: SimDisk) -> None:
        agent = sender(sent)
        async with system_on(disk, agent) as system:
            assert (await system.run(agent, "go")).status == "waiting"
            await say_yes(disk)
            await asyncio.sleep(1)
            assert disk.fired != []
        assert sent == []
        async with system_on(disk, agent) as system:
            assert (await system.resume(RUN)).status == "complete"

    undisturbed = SimDisk()
    run(lambda: ask(undisturbed, sender([])))
    run(lambda: main(SimDisk([DiskError(undisturbed.writes + 1)])))
    assert sent == ["parcel"]


def reader(looked: asyncio.Event, go: asyncio.Event) -> Agent[Answer, Any]:
    @tool(effect="read")
    async def look(what: str) -> str:
        looked.set()
        await go.wait()
        return what

    model = Acted(script(calls(call("look", what="a")), words('{"text": "done"}')))
    return Agent("clerk", model=model, tools=[look], output=Answer)


async def die_in_a_run(disk: SimDisk) -> None:
    """One process that is killed while its run is in a tool."""
    looked = asyncio.Event()
    agent = reader(looked, asyncio.Event())

    async def life() -> None:
        async with system_on(disk, agent) as system:
            await system.run(agent, "go")

    task = asyncio.ensure_future(life())
    await looked.wait()
    disk.kill()
    disk.bury()
    task.cancel()
    await asyncio.wait([task])


async def finish(disk: SimDisk) -> None:
    """Another process, which nobody asks for anything: it goes on with what it finds."""
    go = asyncio.Event()
    go.set()
    async with system_on(disk, reader(asyncio.Event(), go)) as system:
        await asyncio.sleep(1)
        assert (await system.result(RUN)).status == "complete"
    assert not any(isinstance(event, ev.Finished) and event.status == "stopped" for event in events(disk))


def test_a_system_whose_start_fails_leaves_its_runs_to_the_next_one() -> None:
    async def main(disk: SimDisk) -> None:
        await die_in_a_run(disk)
        store = SimStore(disk, process="cli")
        await store.open(owner=False)
        await store.post("refuse", b"nonsense", 1.0)  # a word to be noted as taken, which the disk refuses
        await store.aclose()
        with pytest.raises(JournalFailed):
            async with system_on(disk, reader(asyncio.Event(), asyncio.Event())):
                pass
        await finish(disk)

    undisturbed = SimDisk()
    run(lambda: die_in_a_run(undisturbed))
    run(lambda: main(SimDisk([DiskError(undisturbed.writes + 2)])))


@pytest.mark.parametrize("moment", [0.0015, 0.002, 0.0025, 0.003, 0.0035])
def test_a_start_that_is_cancelled_leaves_the_runs_to_the_next_one(moment: float) -> None:
    async def main() -> None:
        disk = SimDisk()
        await die_in_a_run(disk)
        await say_yes(disk)  # which nobody waits for; to note it takes time

        async def life() -> None:
            async with system_on(disk, reader(asyncio.Event(), asyncio.Event())):
                await asyncio.sleep(3600)

        task = asyncio.ensure_future(life())
        await asyncio.sleep(moment)
        task.cancel()
        await asyncio.wait([task])
        await finish(disk)

    run(main)
