"""A journal of a million events opens in under a second of the CPU, also after it was pruned; a look takes 250 ms."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from acted import Acted, script, words
from looked import cpu_seconds

from understudy import Agent, System
from understudy.actors.journal.events import AnyEvent, Finished, Record, RunStarted, ToolAnswered, encode
from understudy.actors.journal.store import Row, chain
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened

RUNS, EVENTS = 20_000, 50
BLOCK = 1_000


def rows() -> Iterator[tuple[Row, float]]:
    """Finished runs of an agent, of ten steps each; a thousand at once, so that no two events share a row."""
    for block in range(0, RUNS, BLOCK):
        crcs = dict.fromkeys((f"{number:08x}" for number in range(block, block + BLOCK)), 0)
        for seq in range(1, EVENTS + 1):
            event: AnyEvent = ToolAnswered(seq, 0, '{"found": "some words about a page, as a tool says them"}', 0.01)
            if seq == 1:
                event = RunStarted("clerk", "Prompt", '{"text": "go"}')
            elif seq == EVENTS:
                event = Finished("complete", '"done"')
            for run, crc in crcs.items():
                payload = encode(Record(run, seq, 1e9 + seq, float(seq), 0, "clerk", 1, seq - 1, event))
                crcs[run] = crc = chain(crc, run, seq, payload)
                yield Row(run, seq, payload, len(payload), crc), 1e9 + seq


async def fill(path: Path) -> None:
    async with opened(SQLiteStore(path, durability="relaxed")) as store:
        batch: list[tuple[Row, float]] = []
        for each in rows():
            batch.append(each)
            if len(batch) == BLOCK:
                await store.write([row for row, _ in batch], [at for _, at in batch])
                batch.clear()


async def seconds_to_open(path: Path) -> float:
    agent = Agent("clerk", model=Acted(script(words("done"))))
    async with System(agent):  # whatever is imported late is there
        pass
    began = time.process_time()
    async with System(agent, journal=path) as system:
        took = time.process_time() - began
        assert len(await system.journal.store.heads()) > 0
    return took


@pytest.mark.campaign
@pytest.mark.promise(268)
@pytest.mark.anyio
async def test_a_journal_of_a_million_events_opens_in_under_a_second(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    await fill(path)
    assert min([await seconds_to_open(path) for _ in range(3)]) < 1.0


@pytest.mark.campaign
@pytest.mark.anyio
async def test_of_a_million_events_all_are_pruned_and_what_is_left_opens_at_once(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    await fill(path)
    async with System(Agent("clerk", model=Acted(script(words("done")))), journal=path) as system:
        assert (await system.prune(ended_before=3_600)).events == RUNS * EVENTS
    assert await seconds_to_open(path) < 0.2


@pytest.mark.campaign
@pytest.mark.promise(288)
@pytest.mark.anyio
async def test_of_a_million_events_one_run_is_looked_at_in_250_ms_start_up_included(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    await fill(path)
    for command in ("tree", "log", "why"):
        for run in ("@", "@15000", "00000fff"):
            argv = ("-m", "understudy", command, run, "--journal", str(path))
            assert min(cpu_seconds(*argv, compiled=tmp_path) for _ in range(5)) < 0.25, argv
