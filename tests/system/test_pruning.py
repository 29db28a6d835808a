"""Pruning: what has ended and nobody needs goes, what others need of it stays, and no kill leaves half of it."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from acted import Acted, call, calls, script, words

from understudy import Agent, Budget, Supervisor, System, Window, tool
from understudy.actors.agents.models import ModelReply, Usage
from understudy.actors.clock import SystemClock
from understudy.actors.errors import JournalFailed, UnknownRun, UsageError
from understudy.actors.journal import pruning
from understudy.actors.journal.events import Resumed
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.pruned_events import PRUNED, Pruned
from understudy.actors.journal.pruning import prune
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.disk_faults import DiskFault, KillAfter, KillBefore, TornWrite
from understudy.actors.testing.replays import check_replay
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import run as simulate
from understudy.transports.journals.sqlite import SQLiteStore

LONG = "a page that is long enough to be a body of its own, " * 40
YEAR = 365 * 86_400.0


@tool(effect="read")
async def look(what: str) -> str:
    return LONG if what == "page" else f"{what}: {LONG}"


@tool(effect="irreversible", approve="finance")
async def pay(cents: int) -> str:
    return f"paid {cents}"


def desk(**budgets: Budget) -> Supervisor:
    """Agents: one looks at the page, one at what it is asked for, one pays with a yes, one talks."""
    reader: Agent[Any, Any] = Agent(
        "reader", model=Acted(script(calls(call("look", what="page")), words("read"))), tools=[look]
    )
    payer: Agent[Any, Any] = Agent(
        "payer", model=Acted(script(calls(call("pay", cents=5)), words("paid"))), tools=[pay]
    )
    talker: Agent[Any, Any] = Agent("talker", model=Acted(script(words("heard"))))
    return Supervisor("desk", [reader, payer, talker], budget=budgets.get("budget"))


class Hands:
    """A system and its agents by name."""

    def __init__(self, system: System) -> None:
        self.system = system

    async def run(self, name: str, session: str | None = None) -> str:
        agent = self.system.tree.policies[name].agent
        return (await self.system.run(agent, "go", session=session)).run

    async def runs(self) -> set[str]:
        return {head.run for head in await self.system.journal.store.heads()} - {"@node"}


@pytest.mark.promise(267)
@pytest.mark.anyio
async def test_runs_that_have_ended_go_and_those_that_wait_or_are_young_stay(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    async with System(desk(), journal=path) as system:
        hands = Hands(system)
        old = [await hands.run("reader") for _ in range(3)]
        waiting = await hands.run("payer")
        assert (await system.prune(ended_before=3_600)).runs == {}
        gone = await system.prune(ended_before=0)
        assert list(gone.runs) == old
        assert gone.events == 3 * gone.runs[old[0]]
        assert await hands.runs() == {waiting, PRUNED}
        with pytest.raises(UnknownRun):
            await system.result(old[0])
        with pytest.raises(UnknownRun):
            await system.resume(old[0])
        with pytest.raises(JournalFailed, match=f"run {old[0]} was pruned"):
            system.journal.append(old[0], Resumed("late"))
        await system.approve(f"{waiting}-a1", by="ana")
        assert (await system.resume(waiting)).status == "complete"
    async with System(desk(), journal=path) as system:
        assert await Hands(system).runs() == {waiting, PRUNED}
        [kept] = await system.journal.read(PRUNED)
        assert kept.event == Pruned(3, gone.events, kept.event.before)  # type: ignore[union-attr]  # it is one
        assert list((await system.prune(ended_before=0)).runs) == [waiting]
        assert [record.seq for record in await system.journal.read(PRUNED)] == [1, 2]


@pytest.mark.anyio
async def test_a_negative_age_is_a_wrong_use() -> None:
    async with System(desk()) as system:
        with pytest.raises(UsageError, match="ended_before is -1"):
            await system.prune(ended_before=-1)


Change = Callable[[], Budget]


@pytest.mark.promise(267)
@pytest.mark.parametrize(
    "budget",
    [
        lambda: Budget(tokens=20_000, per="life"),
        lambda: Budget(model_calls=4, tokens=10_000, per="life"),
        lambda: Budget(model_calls=4, tokens=10_000, per=Window(YEAR)),
        lambda: Budget(tool_calls=2, per=Window(YEAR)),
    ],
)
@pytest.mark.anyio
async def test_what_pruned_runs_spent_counts_on_in_budgets_of_life_and_window(budget: Change, tmp_path: Path) -> None:
    """And a pool that is spent or was closed stays so, over several prunings and processes."""
    path = tmp_path / "desk.db"
    for _ in range(3):
        async with System(desk(budget=budget()), journal=path) as system:
            for _ in range(2):
                await Hands(system).run("reader")
            before = system.ledger.statement("desk", now=system.runs.now())
        async with System(desk(budget=budget()), journal=path) as system:  # as it is known from the streams
            assert system.ledger.statement("desk", now=system.runs.now()) == before
            assert (await system.prune(ended_before=0)).runs
        async with System(desk(budget=budget()), journal=path) as system:  # and from the snapshot
            assert not [run for run in await Hands(system).runs() if not run.startswith("@")]
            assert system.ledger.statement("desk", now=system.runs.now()) == before
    assert before.spent


@pytest.mark.promise(267)
@pytest.mark.parametrize("per", ["life", Window(YEAR)], ids=["life", "window"])
@pytest.mark.anyio
async def test_a_pool_that_a_pruned_run_closed_stays_closed(per: Any, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"

    def tree() -> Supervisor:
        said = ModelReply("more than the cap", usage=Usage(10**6, 5))
        agent: Agent[Any, Any] = Agent("reader", model=Acted(script(said)))
        return Supervisor("desk", [agent], budget=Budget(tokens=200_000, per=per))

    async with System(tree(), journal=path) as system:
        await Hands(system).run("reader")
        before = system.ledger.statement("desk", now=system.runs.now())
        assert before.closed
        assert (await system.prune(ended_before=0)).runs
    async with System(tree(), journal=path) as system:
        assert system.ledger.statement("desk", now=system.runs.now()) == before


@pytest.mark.promise(267)
@pytest.mark.anyio
async def test_a_session_goes_on_after_pruning_with_the_window_it_had(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    async with System(desk(), journal=path) as system:
        hands = Hands(system)
        talk = [await hands.run("talker", session="s") for _ in range(6)]
        other = await hands.run("talker")
        mark = (await system.runs.windows.folded(talk[-1])).main.view.mark
        gone = await system.prune(ended_before=0)
        assert other in gone.runs
        assert talk[-1] not in gone.runs
        assert gone.needed == sum(run not in gone.runs for run in talk) < len(talk)
    async with System(desk(), journal=path) as system:
        assert (await system.runs.windows.folded(talk[-1])).main.view.mark == mark
        after = await Hands(system).run("talker", session="s")
        assert system.state(after).session == "s"
    replays = await check_replay(SQLiteStore(path), System(desk()).tree.policies)
    replays.check()
    assert {talk[-1], after} <= {*replays.replayed}


@pytest.mark.promise(264)
@pytest.mark.anyio
async def test_a_large_text_goes_with_the_last_event_that_says_it(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"

    def bodies() -> int:
        with closing(sqlite3.connect(path)) as db:
            found: int = db.execute("SELECT count(*) FROM contents").fetchone()[0]
            return found

    async with System(desk(), journal=path) as system:
        first = await Hands(system).run("reader")
        second = await Hands(system).run("reader")
        assert bodies() == 1
        await system.journal.prune({first: len(await system.journal.read(first))}, Pruned(1, 1, 0.0))
        assert bodies() == 1
        assert len(await system.journal.read(second)) > 5
        await system.prune(ended_before=0)
        assert bodies() == 0
    assert LONG.encode()[:60] not in path.read_bytes()


def test_a_write_removes_so_many_runs_or_events_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "BATCH", 3)
    monkeypatch.setattr(pruning, "EVENTS", 10)
    runs = {"a": 4, "b": 4, "c": 4, "d": 99, "e": 1, "f": 1, "g": 1, "h": 1}
    assert [list(batch) for batch in pruning._batches(runs)] == [["a", "b"], ["c"], ["d"], ["e", "f", "g"], ["h"]]
    assert list(pruning._batches({})) == []


@pytest.mark.anyio
async def test_a_run_that_goes_on_meanwhile_is_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(MemoryStore(), SystemClock())
    await journal.open()
    journal.append("a", Resumed("1"))
    with pytest.raises(JournalFailed, match="run a has gone on meanwhile; it was not pruned"):
        await journal.prune({"a": 2}, Pruned(1, 2, 0.0))
    journal.append("a", Resumed("2"))
    assert len(await journal.store.heads()) == 1
    await journal.aclose()


@pytest.mark.promise(267)
@pytest.mark.parametrize("kill", [KillBefore, KillAfter, TornWrite])
def test_a_kill_at_any_write_of_a_pruning_leaves_each_batch_whole_or_gone(
    kill: Callable[[int], DiskFault], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "BATCH", 2)

    async def life(number: int) -> tuple[bool, int]:
        disk = SimDisk()
        async with System(desk(budget=Budget(model_calls=99, per="life")), journal=SimStore(disk)) as system:
            for _ in range(5):
                await Hands(system).run("reader")
            spent = system.ledger.statement("desk").spent
        disk = faulty(disk, kill(disk.writes + number))
        journal = Journal(SimStore(disk), SystemClock())

        async def work() -> None:
            await journal.open()
            await prune(journal, 1e12)
            await journal.aclose()

        pruned = asyncio.ensure_future(work())
        await asyncio.wait([pruned], timeout=5)
        done = pruned.done()
        if not done:
            disk.bury()
        await asyncio.wait([pruned])
        assert done == (pruned.exception() is None)
        disk._planned.clear()
        left = [run for run in disk.streams() if not run.startswith("@")]
        assert len(left) in (5, 3, 1, 0)
        kept = sum(count.event.runs for count in await events(disk) if isinstance(count.event, Pruned))
        assert kept == 5 - len(left)
        async with System(desk(budget=Budget(model_calls=99, per="life")), journal=SimStore(disk)) as system:
            assert system.ledger.statement("desk").spent == spent
        return done, len(left)

    found = [simulate(lambda number=number: life(number)) for number in range(1, 5)]  # type: ignore[misc]  # its default
    assert found[-1] == (True, 0)
    assert [left for _, left in found] == ([3, 1, 0, 0] if kill is KillAfter else [5, 3, 1, 0])


def faulty(disk: SimDisk, fault: DiskFault) -> SimDisk:
    """The same disk with a fault planned."""
    disk._planned[fault.write] = [fault]
    return disk


async def events(disk: SimDisk) -> list[Any]:
    journal = Journal(SimStore(disk), SystemClock())
    await journal.open()
    try:
        return await journal.read(PRUNED) if journal.knows(PRUNED) else []
    finally:
        await journal.aclose()
