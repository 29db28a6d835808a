"""Whole streams of runs that have ended are taken out of a journal, and what others need of them is kept.

A run goes when it ended before a given time and nobody needs it: it has no open doubt, and no session goes on with its
window. What it spent in pools that count more than one run is kept in the stream `@pruned`, as a snapshot, in the
same write that removes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.pruned_events import Pruned
from understudy.actors.journal.sessions import completed, needs, started, window_after
from understudy.actors.journal.spends import Carry
from understudy.actors.journal.state import Run

BATCH: Final = 200
"""Runs that are removed in one write, at most."""
EVENTS: Final = 20_000
"""Events of the runs that are removed in one write, at most; a run that has more goes alone."""


class Prunable(Struct, frozen=True):
    """Runs that may go, with the number of their events, and how many that ended are kept since others need them."""

    runs: Mapping[str, int]
    needed: int = 0

    @property
    def events(self) -> int:
        """Of all of them."""
        return sum(self.runs.values())


async def prunable(journal: Journal, before: float) -> Prunable:
    """The runs that ended before the wall time `before` and that nobody needs. Reads every stream as old as that."""
    found: dict[str, int] = {}
    sessions: set[str] = set()
    doubtful = 0
    for head in await journal.store.heads():
        if not ev.is_run(head.run) or head.last_at >= before:
            continue
        run = _folded(await journal.read(head.run))
        if run is None or run.finished is None:
            continue
        if any(doubt.settled is None for doubt in run.doubts.values()):
            doubtful += 1
            continue
        found[head.run] = head.seq
        if run.session:
            sessions.add(run.session)
    needed: set[str] = set()
    for session in sorted(sessions):
        needed |= await _needed(journal, session, found)
    free = {run: count for run, count in found.items() if run not in needed}
    return Prunable(free, doubtful + len(found) - len(free))


def _folded(records: Sequence[ev.Record]) -> Run | None:
    """The state of a run; of one in a session too, whose window does not matter here. None for an empty stream."""
    return fold(records) if started(records) is not None else None


async def _needed(journal: Journal, session: str, old: Mapping[str, int]) -> set[str]:
    """The runs of a session that its next run, or the replay of one that stays, must read."""
    events = [record.event for record in await journal.read(f"{ev.SESSION}{session}")]
    runs = [event.run for event in events if isinstance(event, ev.InSession) and journal.knows(event.run)]
    needed: set[str] = set()
    for name in [run for run in runs if run not in old] + runs[-1:]:
        while name and name not in needed and journal.knows(name):
            needed.add(name)
            name = needs(started(await journal.read(name)))
    for name in runs[-1:]:
        last = fold(await completed(await journal.read(name), journal.read))
        if window_after(last).spilled:  # results that were shortened may be read back from any of them
            needed |= set(runs)
    return needed


async def prune(journal: Journal, before: float) -> Prunable:
    """Remove the runs that `prunable` finds; which they were.

    `BATCH` runs or `EVENTS` events at a time, each batch whole or not at all, wherever the process is killed. Raises
    `JournalError`, also when somebody takes one of the runs up meanwhile; the batches before that are gone.
    """
    found = await prunable(journal, before)
    for batch in _batches(found.runs):
        carry = Carry()
        for run in batch:
            carry.take(run, await journal.read(run))
        await journal.prune(batch, Pruned(len(batch), sum(batch.values()), before, *carry.kept()))
    return found


def _batches(runs: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """So few runs at a time that a write of them ends long before its deadline."""
    batch: dict[str, int] = {}
    for run, events in runs.items():
        if batch and (len(batch) == BATCH or sum(batch.values()) + events > EVENTS):
            yield batch
            batch = {}
        batch[run] = events
    if batch:
        yield batch
