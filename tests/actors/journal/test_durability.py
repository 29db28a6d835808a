"""Durability profiles: which goes with what, what the writer does in each, and that the page says the same."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from acted import Acted, call, calls, script, words

from understudy import Agent, System, tool
from understudy.actors.clock import SystemClock
from understudy.actors.errors import JournalFailed, SpecError, UsageError
from understudy.actors.journal.durability import PROFILES, Durability, OnDisk, Place, chosen, profile_of
from understudy.actors.journal.events import Finished, Resumed
from understudy.actors.journal.journal import BACKLOG, Journal
from understudy.actors.journal.store import MemoryStore, Row
from understudy.transports.journals.sqlite import SQLiteStore

PAGE = Path(__file__).parents[3] / "docs" / "journal.md"


@tool(effect="irreversible")
async def pay(cents: int) -> str:
    return f"paid {cents}"


@tool(effect="read")
async def look(what: str) -> str:
    return f"{what} is there"


def clerk(*tools: Any) -> Agent[Any, Any]:
    model = Acted(script(calls(call("look", what="x")), words("done")))
    return Agent("clerk", model=model, tools=tools or [look])


@pytest.mark.parametrize(
    ("durability", "where", "profile"),
    [
        (None, "nowhere", "memory"),
        (None, "path", "normal"),
        ("off", "nowhere", "off"),
        ("memory", "nowhere", "memory"),
        ("relaxed", "path", "relaxed"),
        ("normal", "path", "normal"),
        ("full", "path", "full"),
    ],
)
def test_a_profile_that_goes_with_the_place_is_taken(durability: str | None, where: Place, profile: str) -> None:
    assert chosen(durability, where) == profile


@pytest.mark.promise(261)
@pytest.mark.parametrize(
    ("durability", "where", "text"),
    [
        ("fast", "path", "durability is 'fast': it is one of off, memory, relaxed, normal, full"),
        ("off", "path", "durability is 'off': it keeps nothing on disk; leave journal out"),
        ("memory", "path", "durability is 'memory': it keeps nothing on disk; leave journal out"),
        ("full", "nowhere", "durability is 'full': it needs a file, journal=..."),
        ("relaxed", "nowhere", "durability is 'relaxed': it needs a file, journal=..."),
        ("normal", "store", "durability is 'normal': a store that is passed in has its own; leave it out"),
    ],
)
def test_a_profile_that_does_not_go_with_the_place_is_refused_when_declared(
    durability: Durability, where: Place, text: str, tmp_path: Path
) -> None:
    journal = {"nowhere": None, "path": tmp_path / "desk.db", "store": MemoryStore()}[where]
    with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
        System(clerk(), journal=journal, durability=durability)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.promise(261)
def test_a_tool_that_may_not_run_twice_is_refused_where_a_kill_may_forget_its_call(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    with pytest.raises(SpecError, match=r"^tool 'pay' is irreversible, and with durability 'relaxed' a killed process"):
        System(clerk(look, pay), journal=path, durability="relaxed")
    with pytest.raises(SpecError, match="tool 'pay' is irreversible"):
        System(clerk(pay), journal=SQLiteStore(path, durability="relaxed"))
    System(clerk(look), journal=path, durability="relaxed")
    System(clerk(look, pay), journal=path)
    System(clerk(look, pay), durability="off")  # nothing is taken up again, so nothing is done again


@pytest.mark.parametrize("durability", ["off", "memory", "relaxed", "normal", "full"])
def test_a_run_comes_out_the_same_under_every_profile(durability: Durability, tmp_path: Path) -> None:
    journal = tmp_path / "desk.db" if PROFILES[durability].on_disk else None
    agent = clerk()

    async def main() -> None:
        async with System(agent, journal=journal, durability=durability) as system:
            result = await system.run(agent, "go")
            assert (result.status, result.output) == ("complete", "done")
            if durability == "off":
                assert await system.journal.store.heads() == []
                with pytest.raises(JournalFailed, match="cannot be read: with durability 'off' nothing is kept"):
                    await system.journal.read(result.run)
            else:
                assert isinstance((await system.journal.read(result.run))[-1].event, Finished)

    asyncio.run(main())


class Counting(MemoryStore):
    """Says how many rows were written, and writes when it is let."""

    def __init__(self, durability: Durability) -> None:
        super().__init__()
        self.durability = durability
        self.written = 0
        self.free = asyncio.Event()

    async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
        await self.free.wait()
        self.written += len(rows)
        await super().write(rows, at)


def test_a_barrier_waits_for_the_commit_unless_the_profile_is_relaxed() -> None:
    async def main(durability: Durability) -> bool:
        store = Counting(durability)
        journal = Journal(store, SystemClock())
        await journal.open()
        journal.append("a", Resumed("x"))
        waiting = asyncio.ensure_future(journal.barrier())
        for _ in range(5):
            await asyncio.sleep(0)
        done = waiting.done()
        store.free.set()
        await waiting
        await journal.aclose()
        assert store.written == 1
        return done

    assert asyncio.run(main("normal")) is False
    assert asyncio.run(main("relaxed")) is True


def test_a_relaxed_barrier_waits_when_too_much_is_not_yet_written_and_reading_waits_always() -> None:
    async def main() -> None:
        store = Counting("relaxed")
        journal = Journal(store, SystemClock())
        await journal.open()
        for number in range(BACKLOG + 512):
            journal.append("a", Resumed(str(number)))
        await asyncio.sleep(0)
        for number in range(BACKLOG):
            journal.append("a", Resumed(str(number)))
        waiting, reading = asyncio.ensure_future(journal.barrier()), asyncio.ensure_future(journal.read("a"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        assert not reading.done()
        store.free.set()
        await waiting
        assert len(await reading) == 2 * BACKLOG + 512
        await journal.aclose()

    asyncio.run(main())


def test_what_failed_is_told_by_a_relaxed_barrier_too() -> None:
    class Full(Counting):
        async def write(self, rows: Sequence[Row], at: Sequence[float]) -> None:
            raise JournalFailed(self.path, "no space left")

    async def main() -> None:
        journal = Journal(Full("relaxed"), SystemClock())
        await journal.open()
        journal.append("a", Resumed("x"))
        await journal.barrier()
        with pytest.raises(JournalFailed, match="no space left"):
            await journal.commit()
        with pytest.raises(JournalFailed, match="no space left"):
            await journal.barrier()
        await journal.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(("durability", "number"), [("relaxed", 0), ("normal", 1), ("full", 2)])
def test_sqlite_flushes_as_the_profile_says(durability: OnDisk, number: int, tmp_path: Path) -> None:
    async def main() -> None:
        store = SQLiteStore(tmp_path / "desk.db", durability=durability)
        assert profile_of(store).name == durability
        await store.open()
        assert store._db is not None
        assert store._db.execute("PRAGMA synchronous").fetchone() == (number,)
        await store.aclose()

    asyncio.run(main())


@pytest.mark.promise(261)
def test_the_page_says_of_each_profile_what_the_code_says() -> None:
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows[1:] == [(profile.name, profile.kill, profile.power) for profile in PROFILES.values()]
