"""A journal on a simulated disk: a store like any other while nothing is planned, and what each fault does to it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import RUN, clerk, play, until_killed

from understudy import System
from understudy.actors.errors import JournalClosed, JournalDamaged, JournalFailed, JournalOwned, UsageError
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import InboxRow, Row
from understudy.actors.testing.disk_faults import (
    DiskError,
    DiskFault,
    KillAfter,
    KillBefore,
    LostWrites,
    SlowDisk,
    TornWrite,
)
from understudy.actors.testing.journal_checks import check_cuts, check_numbers, check_prefix, check_write_ahead
from understudy.actors.testing.sim_disk import Durability, SimDisk, SimStore
from understudy.actors.testing.simloop import run
from understudy.actors.testing.witness import Witness
from understudy.transports.testing.journal_store import CHECKS, PAIRS, opened, stream

FAULTS: Sequence[DiskFault] = (
    DiskError(1),
    DiskError(2, once=False),
    TornWrite(3),
    TornWrite(3, keep=2),
    LostWrites(4, keep=1),
    SlowDisk(5, 2.5),
    KillBefore(6),
    KillAfter(7),
)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- while nothing is planned --------------------------------------------------------------------------------


@pytest.mark.promise(160)
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.parametrize("seconds", [0.0, 0.001])
def test_without_faults_it_is_a_store_like_any_other(check: str, durability: Durability, seconds: float) -> None:
    async def main() -> None:
        await CHECKS[check](SimStore(SimDisk(durability=durability, seconds=seconds)))

    run(main)


@pytest.mark.promise(160)
@pytest.mark.parametrize("check", PAIRS)
def test_without_faults_it_is_shared_like_any_other(check: str) -> None:
    async def main() -> None:
        disk = SimDisk()
        await PAIRS[check](SimStore(disk), SimStore(disk, process="other"))

    run(main)


def test_a_write_takes_virtual_time_in_which_other_things_happen() -> None:
    async def main() -> None:
        store = SimStore(SimDisk(seconds=2.0))
        heard: list[str] = []
        async with opened(store):
            began = now()
            asyncio.get_running_loop().call_later(1.0, heard.append, "between")
            await store.write(stream("a", [b"1"]), [1.0])
            assert (now() - began, heard) == (2.0, ["between"])
            await store.read("a")
            assert now() - began == 2.0

    run(main)


def test_a_commit_is_told_before_its_writer_hears_of_it() -> None:
    told: list[list[int]] = []

    async def main() -> None:
        async with opened(SimStore(SimDisk(on_commit=lambda rows: told.append([row.seq for row in rows])))) as store:
            writing = asyncio.ensure_future(store.write(stream("a", [b"1", b"2"]), [1.0, 1.0]))
            while not told:
                assert not writing.done()
                await asyncio.sleep(0.0005)
            await writing
            await store.set_meta({"no": "rows"})
            assert told == [[1, 2]]

    run(main)


def test_calls_are_carried_out_in_the_order_in_which_they_were_made() -> None:
    async def main() -> None:
        async with opened(SimStore(SimDisk([SlowDisk(1, 5.0)]))) as store:
            slow = asyncio.ensure_future(store.write(stream("a", [b"1"]), [1.0]))
            await asyncio.sleep(0)
            assert await store.read("a") == stream("a", [b"1"])
            assert slow.done()

    run(main)


def test_what_a_cancelled_caller_asked_for_happens_all_the_same() -> None:
    async def main() -> None:
        async with opened(SimStore(SimDisk())) as store:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0005):
                    await store.write(stream("a", [b"1"]), [1.0])
            assert await store.read("a") == stream("a", [b"1"])

    run(main)


def test_one_store_owns_and_others_read_and_post() -> None:
    async def main() -> None:
        disk = SimDisk()
        with pytest.raises(JournalFailed, match=r"^sim\.db: no journal here"):
            await SimStore(disk).open(owner=False)
        async with opened(SimStore(disk)) as owner, opened(SimStore(disk), owner=False) as reader:
            with pytest.raises(UsageError, match="open already"):
                await owner.open()
            with pytest.raises(JournalOwned, match="another live process owns it"):
                await SimStore(disk).open()
            for attempt in (reader.write(stream("a", [b"1"]), [1.0]), reader.set_meta({"a": "b"})):
                with pytest.raises(JournalOwned, match="opened without ownership"):
                    await attempt
            assert await reader.post("stop", b"", 1.0) == 1
            assert await owner.take(0) == [InboxRow(1, 1.0, "stop", b"")]
        async with opened(SimStore(disk)):
            pass

    run(main)


# --- faults as values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_is_written_as_the_code_that_makes_it_and_survives_json(fault: DiskFault) -> None:
    assert eval(repr(fault)) == fault
    assert msgspec.json.decode(msgspec.json.encode(fault), type=DiskFault) == fault


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: KillAfter(0), "KillAfter: write is 0; writes count from 1"),
        (lambda: TornWrite(1, keep=-1), "TornWrite: keep is -1; it may not be negative"),
        (lambda: SlowDisk(1, float("nan")), "SlowDisk: seconds is nan; it may not be negative"),
        (lambda: SimDisk([KillAfter(2), KillAfter(2)]), r"KillAfter\(write=2\): there is another KillAfter"),
        (lambda: SimDisk(durability="fast"), "durability is 'fast': it is 'normal' or 'full'"),  # type: ignore[arg-type]  # that is the point
        (lambda: SimDisk(seconds=-1), "seconds is -1"),
        (lambda: SimDisk(name=":memory:"), "name is ':memory:'"),
        (lambda: SimDisk().power_cut(-1), "keep is -1"),
    ],
)
def test_what_cannot_be_is_refused_by_name(make: Callable[[], object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make()


# --- errors and slowness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "kept"), [(DiskError(2), 2), (DiskError(2, once=False), 1)])
def test_a_refused_write_keeps_nothing_once_or_from_then_on(fault: DiskFault, kept: int) -> None:
    rows = stream("a", [b"1", b"2"])

    async def main() -> None:
        disk = SimDisk([fault])
        async with opened(SimStore(disk)) as store:
            await store.write(rows[:1], [1.0])
            with pytest.raises(JournalFailed, match=r"^sim\.db: disk I/O error$"):
                await store.write(rows[1:], [2.0])
            assert await store.read("a") == rows[:1]
            if kept == 1:
                with pytest.raises(JournalFailed):
                    await store.set_meta({"app": "desk"})
                with pytest.raises(JournalFailed):
                    await store.write(rows[1:], [2.0])
            else:
                await store.write(rows[1:], [2.0])
            assert len(await store.read("a")) == kept
            assert disk.fired == [fault]

    run(main)


@pytest.mark.parametrize("seconds", [40.0, 400.0])
def test_a_write_that_does_not_come_back_is_given_up_and_lands_later(seconds: float) -> None:
    async def main() -> None:
        disk = SimDisk([SlowDisk(1, seconds)], seconds=0.0)
        store = SimStore(disk)
        await store.open()
        began = now()
        with pytest.raises(JournalFailed, match=r"no answer from the disk within 30 s; .* may be there or not"):
            await store.write(stream("a", [b"1"]), [1.0])
        assert now() - began == 30.0
        assert disk.streams() == {}
        with pytest.raises(JournalFailed, match="given up"):
            await store.heads()
        await store.aclose()
        assert now() - began == min(seconds, 60.0)
        if seconds > 60.0:
            with pytest.raises(JournalOwned):  # the process may still write
                await SimStore(disk, process="other").open()
            await asyncio.sleep(400)
            disk.kill()
        assert disk.streams() == {"a": stream("a", [b"1"])}
        await SimStore(disk, process="other").open()

    run(main)


# --- the end of a process ----------------------------------------------------------------------------------------

ROWS = stream("a", [bytes([number]) for number in range(6)])


async def write_on(store: Witness) -> None:
    """Six rows in three writes, and values before them."""
    await store.open()
    await store.set_meta({"app": "desk"})
    for start in (0, 2, 4):
        await store.write(ROWS[start : start + 2], [1.0, 1.0])
    await store.aclose()


Kill = Callable[[int], DiskFault]
KILLS: Sequence[Kill] = (KillBefore, KillAfter, TornWrite, lambda n: TornWrite(n, keep=1))


@pytest.mark.promise(161)
@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_a_sweep_over_kill_points_meets_every_cut_and_each_leaves_a_prefix(kill: Kill, durability: Durability) -> None:
    left: list[int] = []

    async def life(number: int) -> bool:
        disk, witnesses = SimDisk([kill(number)], durability=durability), []

        async def write(store: SimStore) -> None:
            witnesses.append(Witness(store))
            await write_on(witnesses[0])

        fault = await until_killed(disk, write)
        assert fault in (None, kill(number))
        async with opened(SimStore(disk)) as next_one:
            recovered = {"a": await next_one.read("a")}
        assert check_prefix(witnesses[0].written, recovered) == []
        left.append(len(recovered["a"]))
        return fault is None

    number = 1
    while not run(functools.partial(life, number)):
        number += 1
    assert left == ([0, 2, 4, 6, 6] if kill is KillAfter else [0, 0, 2, 4, 6])


@pytest.mark.promise(161)
def test_a_dead_process_hears_nothing_more_and_changes_nothing() -> None:
    async def main() -> None:
        disk = SimDisk([KillAfter(1)])
        deaths: list[DiskFault] = []
        store, closed = SimStore(disk, on_kill=deaths.append), SimStore(disk)
        await store.open()
        attempts: list[Awaitable[object]] = [
            store.write(ROWS[:2], [1.0, 1.0]),
            store.write(ROWS[2:4], [1.0, 1.0]),
            store.set_meta({"a": "b"}),
            store.post("stop", b"", 1.0),
            store.read("a"),
            closed.open(),
        ]
        tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
        await asyncio.sleep(1)
        tasks += [asyncio.ensure_future(attempt) for attempt in (store.open(), store.heads(), closed.open())]
        await asyncio.sleep(1_000)
        assert not any(task.done() for task in tasks)
        assert deaths == disk.fired == [KillAfter(1)]
        async with opened(SimStore(disk)) as survivor:  # ownership is free
            assert await survivor.read("a") == ROWS[:2]
            assert await survivor.take(0) == []
            await store.aclose()
            await survivor.write(ROWS[2:3], [2.0])
        disk.bury()
        for task in tasks:
            with pytest.raises(JournalClosed, match="the process that had it open was killed"):
                await task
        with pytest.raises(JournalClosed):
            await store.write(ROWS[3:], [1.0] * 3)
        assert disk.streams() == {"a": ROWS[:3]}

    run(main)


def test_only_the_named_process_is_killed() -> None:
    async def main() -> None:
        disk = SimDisk()
        node, visitor = SimStore(disk), SimStore(disk, process="cli")
        await node.open()
        await visitor.open(owner=False)
        disk.kill("cli")
        assert (node.dead, visitor.dead) == (False, True)
        await node.write(ROWS, [1.0] * 6)
        disk.kill()
        assert node.dead
        async with opened(SimStore(disk)) as store:
            assert await store.read("a") == ROWS

    run(main)


@pytest.mark.promise(161)
@pytest.mark.parametrize("cut", range(4))
@pytest.mark.parametrize("durability", ["normal", "full"])
def test_a_power_cut_loses_a_tail_of_whole_writes_unless_they_were_flushed(cut: int, durability: Durability) -> None:
    async def main() -> None:
        disk, witnesses = SimDisk([LostWrites(4, keep=cut)], durability=durability), []

        async def write(store: SimStore) -> None:
            witnesses.append(Witness(store))
            await write_on(witnesses[0])

        assert await until_killed(disk, write) == LostWrites(4, keep=cut)
        kept = 6 if durability == "full" else max(0, 2 * (cut - 1))  # the first of the four is no event
        assert sum(len(rows) for rows in disk.streams().values()) == kept
        assert check_prefix(witnesses[0].written, disk.streams(), lossy=True) == []
        assert (check_prefix(witnesses[0].written, disk.streams()) == []) == (kept >= 4)

    run(main)


def test_what_was_closed_survives_a_power_cut_and_words_are_lost_like_events() -> None:
    async def main() -> None:
        disk = SimDisk()
        async with opened(SimStore(disk)) as store:
            await store.write(ROWS[:2], [1.0, 1.0])
            assert disk.unflushed == 1
        assert disk.unflushed == 0
        async with opened(SimStore(disk)) as store:
            await store.post("stop", b"", 1.0)
            await store.write(ROWS[2:4], [1.0, 1.0])
            assert disk.power_cut(keep=1) == 1
        async with opened(SimStore(disk)) as store:
            assert len(await store.take(0)) == 1
            assert await store.read("a") == ROWS[:2]

    run(main)


def test_the_beginning_of_a_torn_write_is_found_and_dropped() -> None:
    async def main() -> None:
        disk = SimDisk([TornWrite(2, keep=1)])
        assert await until_killed(disk, lambda store: write_on(Witness(store))) == TornWrite(2, keep=1)
        assert disk.discarded == 0
        async with opened(SimStore(disk)) as store:
            assert await store.read("a") == []
            assert await store.meta() == {"app": "desk"}
            await store.write(ROWS, [1.0] * 6)
        assert disk.discarded == 1

    run(main)


def test_damage_is_refused_with_its_place_and_stays_through_a_power_cut() -> None:
    async def main() -> None:
        disk = SimDisk()
        async with opened(SimStore(disk)) as store:
            await store.write([*ROWS, *stream("b", [b""])], [1.0] * 7)
        disk.damage("a", 3)
        disk.damage("b", 1)
        disk.power_cut()
        async with opened(SimStore(disk)) as store:
            for run_, seq in (("a", 3), ("b", 1)):
                with pytest.raises(JournalDamaged) as caught:
                    await store.read(run_)
                assert (caught.value.run, caught.value.seq) == (run_, seq)
        with pytest.raises(LookupError, match="no event a:9"):
            disk.damage("a", 9)

    run(main)


# --- whole systems -----------------------------------------------------------------------------------------------


@pytest.mark.promise(161)
@pytest.mark.parametrize("kill", KILLS)
def test_a_system_killed_at_each_write_in_turn_ends_the_same_and_pays_once(kill: Kill) -> None:
    whole, _, undisturbed = play([])
    for number in range(1, 60):
        result, outside, disk = play([kill(number)])
        assert (result.status, result.output) == ("complete", whole.output), number
        assert len(outside.paid) == 2, number
        assert check_numbers(disk.streams()) == [], number
        if not disk.fired:
            break
        assert disk.fired == [kill(number)]
    assert number == undisturbed.writes + 1 > 8


def kills_at(number: int) -> st.SearchStrategy[DiskFault]:
    return st.sampled_from(
        [KillBefore(number), KillAfter(number), TornWrite(number), SlowDisk(number, 3.0), LostWrites(number)]
    )


@settings(max_examples=settings().max_examples // 2)
@given(st.lists(st.integers(1, 25), max_size=6, unique=True).flatmap(lambda ns: st.tuples(*map(kills_at, ns))))
def test_a_system_that_dies_again_and_again_ends_the_same_and_pays_once(faults: tuple[DiskFault, ...]) -> None:
    result, outside, disk = play(faults, "full")
    assert result.status == "complete"
    assert len(outside.paid) == 2
    records = decode_rows(disk.name, disk.streams()[RUN])
    assert check_numbers(disk.streams()) == []
    assert check_write_ahead(records, outside.moments) == []
    assert check_cuts(records, cuts=range(1, len(records), 5)) == []
    assert replay(records, System(clerk(outside)).tree.policies).identical


def test_with_a_full_flush_a_power_cut_is_no_worse_than_a_kill() -> None:
    for number in range(1, 10):
        result, outside, _ = play([LostWrites(number)], "full")
        assert result.status == "complete"
        assert len(outside.paid) == 2


def test_the_same_faults_give_the_same_journal() -> None:
    def rows() -> dict[str, list[Row]]:
        return play([SlowDisk(2, 1.5), KillAfter(5), TornWrite(9)])[2].streams()

    assert rows() == rows()
