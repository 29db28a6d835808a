"""Stored journals as regression tests: journals of real runs, under the code that made them and under other code."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from acted import Acted, Says, call, calls, script, words
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from understudy import Agent, Loops, Supervisor, System, tool
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import JournalDamaged, JournalFailed, UnknownRun
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import VERSION, Record
from understudy.actors.journal.fold import fold
from understudy.actors.testing.journal_checks import check_tail
from understudy.actors.testing.replays import check_history, check_replay, read_history, record_history, write_history
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_store import stream
from understudy.transports.testing.rechain import rewrite, tamper


class Answer(Struct, frozen=True):
    text: str


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


@tool(effect="irreversible", approve="boss")
async def send(what: str) -> str:
    """Send."""
    return f"sent {what}"


SCRIPT = script(
    calls(call("look", what="a"), call("look", what="b")), calls(call("look", what="c")), words('{"text": "x"}')
)
ASKS = script(calls(call("send", what="parcel")), words('{"text": "sent"}'))


def clerk(says: Says = SCRIPT, instructions: str = "Do it.") -> Agent[Answer, Any]:
    return Agent("clerk", model=Acted(says), tools=[look, send], output=Answer, instructions=instructions)


def desk(agent: Agent[Answer, Any]) -> Supervisor:
    return Supervisor("desk", [agent], loops=Loops())


def policies(instructions: str = "Do it.") -> dict[str, Policy]:
    return dict(System(desk(clerk(instructions=instructions))).tree.policies)


@pytest.fixture
def journal(tmp_path: Path) -> tuple[Path, list[str]]:
    """The file, and the ids of its runs: three that ended, and one that waits for a person."""
    path = tmp_path / "desk.db"

    async def main() -> list[str]:
        worker, asker = clerk(), clerk(ASKS)
        async with System(desk(worker), journal=path) as system:
            runs = [(await system.run(worker, f"go {n}")).run for n in range(3)]
        async with System(desk(asker), journal=path) as system:
            waiting = await system.run(asker, "ask")
            assert waiting.status == "waiting"
            return [*runs, waiting.run]

    return path, asyncio.run(main())


Found = tuple[Path, list[str]]


@pytest.mark.promise(162)
def test_a_journal_of_real_runs_is_decided_again_as_it_was(journal: Found) -> None:
    path, runs = journal
    found = asyncio.run(check_replay(SQLiteStore(path), policies()))
    found.check()
    assert found.replayed == tuple(runs[:3])
    assert found.unfinished == (runs[3],)
    assert found.compared == 3 * (3 + 3 + 1)


@pytest.mark.promise(162)
def test_code_that_decides_otherwise_is_named_at_its_first_divergence_in_every_run(journal: Found) -> None:
    path, runs = journal
    found = asyncio.run(check_replay(SQLiteStore(path), policies("Do it well.")))
    assert len(found.violations) == 3
    for name, violation in zip(runs, found.violations, strict=False):
        assert re.match(rf"{name}:3, desk/clerk at step 1: recorded 'call model, step 1: instructions .*", violation)
        assert "now 'call model, step 1: other instructions" in violation
    with pytest.raises(AssertionError, match=runs[2]):
        found.check()


def test_an_agent_that_is_gone_is_a_divergence(journal: Found) -> None:
    found = asyncio.run(check_replay(SQLiteStore(journal[0]), {}))
    assert all("no agent 'clerk' in this app" in violation for violation in found.violations)
    assert len(found.violations) == 3


def other_result(record: Record) -> Record:
    event = record.event
    return replace(record, event=replace(event, result='"saw z"')) if isinstance(event, ev.ToolAnswered) else record


def test_a_history_that_was_changed_and_chained_anew_diverges_where_it_was_used(journal: Found) -> None:
    path, runs = journal
    rewrite(path, runs[1], other_result)
    found = asyncio.run(check_replay(SQLiteStore(path), policies()))
    assert found.replayed == tuple(runs[:3])
    assert len(found.violations) == 1
    assert found.violations[0].startswith(f"{runs[1]}:")
    assert "step 2" in found.violations[0]
    assert "history" in found.violations[0]


def test_a_damaged_run_is_named_and_the_others_are_replayed(journal: Found) -> None:
    path, runs = journal
    tamper(path, runs[0], 4, lambda old: replace(old, at=old.at + 1))
    found = asyncio.run(check_replay(SQLiteStore(path), policies()))
    assert found.replayed == tuple(runs[1:3])
    assert len(found.violations) == 1
    assert f"damaged at {runs[0]}:4" in found.violations[0]


def test_a_history_that_the_fold_cannot_take_is_named_and_the_others_are_replayed(journal: Found) -> None:
    path, runs = journal

    def nowhere(record: Record) -> Record:
        return replace(record, sub=7) if isinstance(record.event, ev.ModelAsked) else record

    rewrite(path, runs[0], nowhere)
    found = asyncio.run(check_replay(SQLiteStore(path), policies()))
    assert found.violations == (f"run {runs[0]} cannot be replayed: KeyError: 7",)
    assert found.replayed == tuple(runs[1:3])


def test_it_reads_beside_a_live_owner_and_changes_nothing(journal: Found) -> None:
    path, runs = journal

    async def main() -> None:
        async with System(desk(clerk(ASKS)), journal=path) as system:
            before = await system.journal.read(runs[3])
            (await check_replay(SQLiteStore(path), policies())).check()
            assert await system.journal.read(runs[3]) == before

    asyncio.run(main())


def test_nothing_to_compare_is_no_pass(tmp_path: Path) -> None:
    async def main() -> None:
        asker = clerk(ASKS)
        async with System(desk(asker), journal=tmp_path / "desk.db") as system:
            await system.run(asker, "ask")
        found = await check_replay(SQLiteStore(tmp_path / "desk.db"), policies())
        assert (found.replayed, found.violations) == ((), ())
        with pytest.raises(AssertionError, match="nothing was compared: 0 finished runs"):
            found.check()
        with pytest.raises(JournalFailed, match="no journal here"):
            await check_replay(SQLiteStore(tmp_path / "none.db"), policies())

    asyncio.run(main())


def test_it_takes_any_store() -> None:
    disk = SimDisk()

    async def main() -> None:
        worker = clerk()
        async with System(desk(worker), journal=SimStore(disk), clock=SimClock(), watchdog=None) as system:
            await system.run(worker, "go")
        (await check_replay(SimStore(disk), policies())).check()

    run(main)


# --- histories -----------------------------------------------------------------------------------------------------


@pytest.mark.promise(162)
def test_a_recorded_history_is_text_and_replays_without_its_journal(journal: Found, tmp_path: Path) -> None:
    path, runs = journal
    data = asyncio.run(record_history(SQLiteStore(path)))
    path.unlink()
    (tmp_path / "desk.history").write_bytes(data)
    kept = (tmp_path / "desk.history").read_bytes()
    assert kept.decode().startswith(f"understudy history {VERSION}\n")
    assert list(read_history(kept)) == runs[:3]
    found = check_history(kept, policies())
    found.check()
    assert found.replayed == tuple(runs[:3])
    assert len(check_history(kept, policies("Do it well.")).violations) == 3


def test_chosen_runs_are_recorded_also_those_that_have_not_ended(journal: Found) -> None:
    path, runs = journal
    data = asyncio.run(record_history(SQLiteStore(path), [runs[3], runs[0]]))
    streams = read_history(data)
    assert list(streams) == [runs[3], runs[0]]
    assert fold(streams[runs[3]]).finished is None
    with pytest.raises(UnknownRun, match="no run 'zz'"):
        asyncio.run(record_history(SQLiteStore(path), ["zz"]))


ROWS = stream("a", [ev.encode(Record("a", n, 1.0, 1.0, 0, "", 0, 0, ev.Unparked(f"é\n{n}"))) for n in range(1, 5)])


def history() -> bytes:
    disk = SimDisk()

    async def main() -> bytes:
        store = SimStore(disk)
        await store.open()
        await store.write(ROWS, [1.0] * len(ROWS))
        await store.aclose()
        return await record_history(SimStore(disk), ["a"])

    return run(main)


@pytest.mark.promise(162)
def test_a_history_cut_at_any_byte_opens_to_a_prefix() -> None:
    data = history()
    counts = []
    for cut in range(len(data) + 1):
        records = read_history(data[:cut]).get("a", [])
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert check_tail(ROWS, ROWS[: len(records)], stream("a", [ev.encode(r) for r in records])) == []
        counts.append(len(records))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], len(set(counts))) == (0, 4, 5)


@pytest.mark.promise(162)
@given(st.data())
def test_a_changed_byte_is_refused_or_left_out_and_never_read_as_something_else(data: st.DataObject) -> None:
    good = history()
    at = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[at]))
    bad = good[:at] + bytes([byte]) + good[at + 1 :]
    try:
        found = read_history(bad)
    except JournalDamaged:
        return
    whole = read_history(good)["a"]
    kept = found.get("a", [])
    assert kept == whole[: len(kept)]
    assert kept == whole or at >= len(good) - len(good.splitlines()[-1]) - 1, "only the last line may be left out"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda lines: [b"dear diary", *lines[1:]], "damaged at @line:1: not a history of version 1"),
        (lambda lines: [lines[0], b"xx", *lines[1:]], "damaged at @line:2: not an event"),
        (lambda lines: [lines[0], *lines[2:]], "damaged at a:1: event 2 is in its place"),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], "damaged at a:3: event 2 is in its place"),
        (
            lambda lines: [*lines[:2], lines[2].replace(b"Unparked", b"Unpacked"), *lines[3:]],
            "damaged at a:2: checksum",
        ),
        (lambda lines: [*lines[:2], lines[2] + b" ", *lines[3:]], "damaged at a:2: "),
    ],
)
def test_what_is_wrong_with_a_history_is_said_with_its_place(make: Any, said: str) -> None:
    lines = history().splitlines()
    with pytest.raises(JournalDamaged, match=said):
        read_history(b"".join(line + b"\n" for line in make(lines)))
    with pytest.raises(JournalDamaged, match="not a history"):
        read_history(b"SQLite format 3")


def test_a_history_is_put_back_into_a_journal_byte_by_byte(journal: Found, tmp_path: Path) -> None:
    path, runs = journal

    async def main() -> tuple[bytes, list[str], bytes]:
        history = await record_history(SQLiteStore(path), runs)
        back = await write_history(SQLiteStore(tmp_path / "back.db"), history)
        return history, back, await record_history(SQLiteStore(tmp_path / "back.db"), runs)

    history, back, again = asyncio.run(main())
    assert (back, again) == (runs, history)


def test_a_damaged_history_is_not_put_back_at_all(journal: Found, tmp_path: Path) -> None:
    path, runs = journal
    history = asyncio.run(record_history(SQLiteStore(path)))
    with pytest.raises(JournalDamaged, match=f"{runs[2]}:"):
        asyncio.run(write_history(SQLiteStore(tmp_path / "back.db"), history.replace(b"go 2", b"go 3")))
    assert not (tmp_path / "back.db").exists()


def test_a_run_that_a_journal_holds_is_not_put_back_a_second_time(journal: Found) -> None:
    path, runs = journal
    history = asyncio.run(record_history(SQLiteStore(path), runs))
    with pytest.raises(JournalFailed, match=runs[0]):
        asyncio.run(write_history(SQLiteStore(path), history))
