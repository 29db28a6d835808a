"""Durable messages and declared state, with the process killed at every write and a machine of everything at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posts import Left, Worlds, Writer, faulty, play, world

from understudy import System
from understudy.actors.durable import segments
from understudy.actors.testing.disk_faults import DiskFault, KillAfter, KillBefore, LostWrites, TornWrite
from understudy.actors.testing.sim_disk import SimDisk
from understudy.actors.testing.simloop import run


@pytest.mark.promise(303, 304)
@pytest.mark.parametrize(
    "fault",
    [KillBefore, KillAfter, lambda n: TornWrite(n, keep=1), lambda n: LostWrites(n)],
    ids=["before", "after", "torn", "power"],
)
def test_killed_at_every_write_nothing_acknowledged_is_lost_and_nothing_is_done_twice(fault: type[KillAfter]) -> None:
    struck = 0
    while True:
        disk = world([fault(struck + 1)], durability="full")
        left = run(lambda disk=disk: play(disk))  # type: ignore[misc]
        assert faulty(left) == [], f"write {struck + 1}"
        if not disk.fired:
            break
        struck += 1
    assert struck > 10


@pytest.fixture(autouse=True, params=["long", "short"], scope="module")
def segments_are(request: pytest.FixtureRequest) -> Iterator[None]:
    """Short ones: a stream is full after a few events, so that others begin and end in every world."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "short":
            patch.setattr(segments, "LEAST", 400)
        yield


Step = tuple[str, str, int]
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(["ana", "li", "bo"]), st.integers(1, 6)),
    st.tuples(st.just("sleep"), st.just(""), st.integers(1, 80)),
    st.tuples(st.just("fail"), st.just(""), st.integers(1, 12)),
    st.tuples(st.just("leave"), st.just(""), st.just(0)),
)
FAULTS = st.lists(
    st.builds(lambda kind, n: kind(n), st.sampled_from([KillBefore, KillAfter, TornWrite]), st.integers(1, 60)),
    max_size=3,
    unique_by=lambda fault: (type(fault), fault.write),
)


@pytest.mark.promise(303, 304, 305)
@settings(max_examples=25, deadline=None)
@given(st.lists(STEPS, max_size=14), FAULTS, st.sampled_from(["normal", "full"]))
def test_whatever_is_sent_fails_and_is_killed_the_state_is_that_of_the_acknowledged_messages_in_order(
    steps: list[Step], faults: list[DiskFault], durability: str
) -> None:
    disk = world(faults, durability=durability)
    left = run(lambda: _machine(disk, steps))
    assert faulty(left) == []


async def _machine(disk: SimDisk, steps: list[Step]) -> Left:
    worlds = Worlds(disk)
    Writer.fails = Counter()
    todo = list(steps)

    async def life(system: System) -> None:
        async with asyncio.TaskGroup() as sending:
            while todo:
                kind, by, number = todo.pop(0)
                if kind == "send":
                    sending.create_task(worlds.send(system, by, number))
                    await asyncio.sleep(0)
                elif kind == "sleep":
                    await asyncio.sleep(number / 1000)
                elif kind == "fail":
                    Writer.fails[number] += 1
                else:
                    break

    while todo:
        await worlds.process(life)
    return await worlds.left()
