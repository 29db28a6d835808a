"""What a new process does with the runs that the journal says have not ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from understudy.actors.agents.runs import Runs
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run
from understudy.actors.telemetry import log

RESUMES: Final = 8
"""Processes in a row in which an agent may take a run up without one outcome; the next one leaves it parked."""


def go_on(runs: Runs, names: Iterable[str]) -> None:
    """Let loaded runs go on, those that wait for somebody excepted."""
    for name in names:
        run = runs.get(name)
        runs.rebook(run, own=True, shared=True)
        if not run.resting:
            runs.append(name, ev.Resumed("start"))
            if run.fruitless > RESUMES:
                _give_rest(runs, run)
        runs.drive_on(run)


def _give_rest(runs: Runs, run: Run) -> None:
    """A run that gets nowhere in process after process may be what ends them: leave it to a person."""
    log.error("run %s was taken up %d times and got nowhere; `understudy resume` tries again", run.id, RESUMES)
    for sub in run.subs.values():
        if sub.finished is None and sub.parked is None:
            runs.append(run.id, ev.Parked("asker", ()), sub=sub.id)
