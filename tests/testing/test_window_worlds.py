"""A small window in drawn worlds: models say anything, tools fail, processes are killed at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from understudy import Agent, ContextWindow, DropFailed, Prompt, Slide, Summarise, System, Trim, tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.testing import World, play, worlds


@tool(effect="read")
async def fetch(page: int) -> str:
    """Fetch a page."""
    return f"page {page}: " + "all work and no play " * (200 if page % 2 else 20)


@tool(effect="keyed")
async def note(text: str) -> str:
    """Note something."""
    return "noted " * 40


reader = Agent(
    "reader",
    model=ScriptedModel([]),
    tools=[fetch, note],
    output=list[str],
    repairs=4,
    window=ContextWindow(500, compact=[DropFailed(), Trim(600, 200, 100), Summarise(keep=1, max_tokens=30), Slide(2)]),
    max_tokens=60,
)


@pytest.mark.promise(227)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_happens_a_window_is_replayed_identically_and_no_summary_is_asked_twice(data: st.DataObject) -> None:
    outcome = play(reader, data.draw(worlds(reader, kills=3)), Prompt("Read all pages, then list them."))
    policies = System(reader).tree.policies
    for run, records in outcome.records.items():
        if not ev.is_run(run):
            continue
        report = replay(records, policies)
        assert report.identical, (report.recorded, report.now)
        written = {r.event.ticket for r in records if isinstance(r.event, ev.ModelAnswered)}
        kept = [r.event.covers for r in of(records, ev.ModelAsked) if r.event.covers and r.event.ticket in written]
        smaller = len(of(records, ev.Compacted))
        assert len(kept) - len(set(kept)) <= smaller + 1, "one that was too long, or empty, is asked for twice at most"


def of(records: Sequence[ev.Record], kind: type) -> list[Any]:
    return [record for record in records if isinstance(record.event, kind)]


@pytest.mark.parametrize("kind", [ev.Compacted, ev.ModelAsked])
def test_such_worlds_make_windows_smaller_and_write_summaries(kind: type) -> None:
    def found(world: World) -> bool:
        records = play(reader, world, Prompt("Read all pages, then list them.")).records.values()
        return any(getattr(r.event, "covers", True) for stream in records for r in of(stream, kind))

    quick = settings(max_examples=500, database=None, phases=[Phase.generate])
    find(worlds(reader), found, settings=quick)
