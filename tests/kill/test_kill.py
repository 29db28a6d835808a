"""`kill -9` at chosen instants, then `understudy resume --yes`: the same report, and nothing done twice.

Tools and model count in the test's own process. Every point runs the demo's own team on a small real environment.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from killing import Trap, Yard, yard

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.demo.findings import Report, digest
from understudy.demo.testing import Site

SEED = int(os.environ.get("KILL_SEED", "20261122"))
"""Of the campaign's seeded points; another number is another dozen of instants."""

IN_CALL = [
    Trap("arrives", "read_metadata", 2),
    Trap("done", "read_files", 3),
    Trap("arrives", "model", 4),
    Trap("done", "model", 7),
    Trap("arrives", "write_report", 1),
    Trap("done", "write_report", 1),
]
IN_BACKOFF = [Trap("event", "BackedOff", 1)]
PARKED = [Trap("event", "Parked", 1)]
SLOW = 0.4
"""Seconds of a slow disk, many times what a reply and its reads take."""
SLOW_DISK = [
    Trap("done", "read_files", 3, SLOW),
    Trap("arrives", "list_distributions", 1, SLOW),
    Trap("done", "list_distributions", 1, SLOW),
    Trap("done", "read_metadata", 1, SLOW),
    Trap("arrives", "read_files", 5, SLOW),
    Trap("done", "model", 4, SLOW),
    Trap("event", "ToolAnswered", 4, SLOW),
    Trap("event", "BackedOff", 1, SLOW),
    Trap("done", "check_requirements", 1, SLOW),
    Trap("arrives", "write_report", 1, SLOW),
    Trap("done", "write_report", 1, SLOW),
]
"""A reply and the reads it asks for ride with the next commit: here they are made long before it."""


def seeded(count: int) -> list[Trap]:
    """Instants spread over the whole run by a fixed seed."""
    dice = random.Random(SEED)
    kinds = [
        ("arrives", "read_metadata", 8),
        ("done", "read_metadata", 8),
        ("done", "read_files", 6),
        ("arrives", "model", 14),
        ("done", "model", 14),
        ("event", "ModelAsked", 14),
        ("event", "ToolAnswered", 12),
        ("event", "Judged", 2),
        ("event", "AttemptStarted", 5),
        ("event", "HandedOff", 1),
        ("event", "ApprovalAsked", 1),
    ]
    traps: list[Trap] = []
    while len(traps) < count:
        when, what, most = dice.choice(kinds)
        trap = Trap(when, what, dice.randint(1, most))  # type: ignore[arg-type]  # one of the three
        if trap not in traps:
            traps.append(trap)
    return traps


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = Site(tmp_path_factory.mktemp("site"))
    for number, name in enumerate(["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]):
        headers = ("License: MIT",) if number % 2 else ()
        where.plant(name, f"1.{number}", headers=headers, requested=number == 0)
    return Path(where.path[0])


async def until_finished(yard: Yard) -> None:
    """Resume, settling each doubt by what the tool process knows, until the run is complete."""
    for _ in range(5):
        code, out, err = await yard.command("resume", "--yes")
        assert "Traceback" not in err, err
        if code == 0:
            return
        assert code == 3, (code, out, err)
        state = fold(await yard.records())
        open_doubts = [d for d in state.doubts.values() if d.settled is None]
        code, out, err = await yard.command("doubts")
        listed = [line.split()[0] for line in out.splitlines()]
        assert len(listed) == len(open_doubts) == 1, (out, err)
        happened = any(name == open_doubts[0].event.name for name, _ in yard.calls)
        word = "--did" if happened else "--did-not"
        code, out, err = await yard.command("doubts", listed[0], word, "--by", "driver")
        assert code == 0, (code, out, err)
    raise AssertionError("not finished after 5 resumes")


def signature(name: str, arguments: str) -> tuple[str, str]:
    """A call as the tool process counts it."""
    return name, msgspec.json.encode(msgspec.json.decode(arguments), order="sorted").decode()


def signatures(records: Sequence[Record], start: int = 0) -> Counter[tuple[str, str]]:
    """Outcomes of tool calls by tool and arguments, from the event at `start` on."""
    asked = {(r.sub, r.event.step, r.event.index): r.event for r in records if isinstance(r.event, ev.ToolAsked)}
    found: Counter[tuple[str, str]] = Counter()
    for record in records[start:]:
        event = record.event
        if isinstance(event, ev.ToolAnswered | ev.ToolFailed):
            call = asked[record.sub, event.step, event.index]
            if not call.sub:
                found[signature(call.name, call.arguments)] += 1
    return found


def outcomes(records: Sequence[Record]) -> Counter[tuple[int, int, int]]:
    """How many outcomes each call has, by sub-run, step and index."""
    events = [(r.sub, r.event) for r in records if isinstance(r.event, ev.ToolAnswered | ev.ToolFailed)]
    return Counter((sub, event.step, event.index) for sub, event in events)


def answered(records: Sequence[Record]) -> int:
    """Outcomes of model calls, those left out that were only declared lost."""
    failed = [r for r in records if isinstance(r.event, ev.ModelFailed) and r.event.kind != "interrupted"]
    return len(failed) + sum(isinstance(r.event, ev.ModelAnswered) for r in records)


def report_digest(records: Sequence[Record]) -> str:
    end = fold(records).finished
    assert end is not None
    assert end.status == "complete", end
    return digest(msgspec.json.decode(end.output, type=Report).findings)


baselines: dict[Path, str] = {}


async def baseline(site: Path, at: Path) -> str:
    """The digest of an uninterrupted run."""
    if site not in baselines:
        async with yard(site, at / "baseline") as made:
            await made.start_victim()
            await made.watch_victim()
            await until_finished(made)
            baselines[site] = report_digest(await made.records())
    return baselines[site]


async def kill_and_resume(site: Path, at: Path, trap: Trap) -> None:
    expected = await baseline(site, at)
    async with yard(site, at, trap) as made:
        await made.start_victim()
        errors = await made.watch_victim()
        assert made.killed.is_set(), f"the trap {trap} did not spring: {errors}"
        before = await made.records()
        calls, requests = len(made.calls), len(made.requests)
        await until_finished(made)
        after = await made.records()
        check_counts(made, before, after, calls, requests)
        assert report_digest(after) == expected
        code, out, _ = await made.command("replay", "@")
        assert (code, out.strip()) == (0, "identical")


def check_counts(made: Yard, before: list[Record], after: list[Record], calls: int, requests: int) -> None:
    """What the outside counted, against what was committed before the kill and after it."""
    assert after[: len(before)] == before, "what was committed stays"
    check_lost(made, before, after, calls, requests)
    done_after = Counter(made.calls[calls:])
    extra = done_after - signatures(after, len(before))
    assert not extra, f"made again although its outcome was committed: {extra}"
    twice = [call for call, count in outcomes(after).items() if count > 1]
    assert not twice, f"more than one outcome of one (sub-run, step, index): {twice}"
    assert sum(name == "write_report" for name, _ in made.calls) == 1, "the irreversible call happened once"
    # A request follows the commit of its intent, and that takes along the answer to the one before it.
    assert 0 <= requests - answered(before) <= in_flight_models(before)
    assert len(made.requests) - requests == answered(after[len(before) :])


def check_lost(made: Yard, before: list[Record], after: list[Record], calls: int, requests: int) -> None:
    """What was made before the kill and has no committed outcome: a committed reply asks for it, or it is a `read`
    that an uncommitted reply asked for.

    A reply and what belongs to its `read` calls ride with the next commit. That is at the latest the one before the
    next request, so by the committed records such a sub-run still waits for its model, which was asked already.
    """
    effects = {r.event.name: r.event.effect for r in after if isinstance(r.event, ev.ToolAsked)}
    lost = Counter(made.calls[:calls]) - signatures(before)
    untold = lost - in_flight(before, effects)
    again = {sub: reads_again(before, after, sub) for sub in fold(before).subs}
    assert not untold - sum(again.values(), Counter()), f"lost, and asked for by no reply: {untold}, not of {again}"
    answers = sum(bool(untold & reads) for reads in again.values())
    assert answers <= requests - answered(before), "a reply that nobody gave"


def in_flight(records: Sequence[Record], effects: Mapping[str, str]) -> Counter[tuple[str, str]]:
    """Tool calls without an outcome that a committed reply asks for; what is not `read` has a committed intent too."""
    found: Counter[tuple[str, str]] = Counter()
    for sub in fold(records).subs.values():
        for call in sub.calls():
            if not call.done and (call.asked is not None or effects.get(call.call.name) == "read"):
                found[signature(call.call.name, call.call.arguments)] += 1
    return found


def reads_again(before: Sequence[Record], after: Sequence[Record], number: int) -> Counter[tuple[str, str]]:
    """The `read` calls of the reply that a sub-run waited for at the kill, as it asks for them after the resume."""
    asking = fold(before).subs[number].asking
    if asking is None:
        return Counter()
    later = [r.event for r in after[len(before) :] if r.sub == number]
    asked = next((event for event in later if isinstance(event, ev.ModelAsked)), None)
    assert asked is not None, f"sub-run {number} was not asked again"
    assert (asked.step, asked.parts) == (asking.step, asking.parts), "the same question is asked again"
    reads = [e for e in later if isinstance(e, ev.ToolAsked) and e.step == asked.step and e.effect == "read"]
    return Counter(signature(event.name, event.arguments) for event in reads if not event.sub)


def in_flight_models(records: Sequence[Record]) -> int:
    return sum(sub.asking is not None for sub in fold(records).subs.values())


@pytest.mark.promise(22)
@pytest.mark.parametrize("trap", [IN_CALL[1], IN_CALL[3], IN_CALL[5], IN_BACKOFF[0], PARKED[0], SLOW_DISK[0]], ids=str)
@pytest.mark.anyio
async def test_a_killed_run_is_finished_by_resume_with_the_same_report(trap: Trap, site: Path, tmp_path: Path) -> None:
    await kill_and_resume(site, tmp_path, trap)


CAMPAIGN = [*IN_CALL, *IN_BACKOFF * 3, *PARKED * 2, *seeded(12), *SLOW_DISK]


@pytest.mark.campaign
@pytest.mark.parametrize("trap", CAMPAIGN, ids=[f"{n}-{trap}" for n, trap in enumerate(CAMPAIGN)])
@pytest.mark.anyio
async def test_campaign_of_kills(trap: Trap, site: Path, tmp_path: Path) -> None:
    await kill_and_resume(site, tmp_path, trap)
