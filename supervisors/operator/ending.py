"""How a command ends: the last lines of a run, and the exit status of the process. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from understudy.actors.agents.results import Result, Waiting
from understudy.actors.journal.events import Status
from understudy.supervisors.operator.text import clean, count, dollars, duration, many
from understudy.supervisors.operator.words import VERB

COMPLETE: Final = 0
FAILED: Final = 1
"""A run failed or was stopped, or the command could not be carried out (a damaged journal, a full disk)."""
USAGE: Final = 2
WAITING: Final = 3
PARTIAL: Final = 4
DIVERGED: Final = 5
INTERRUPTED: Final = 130

_CODES: Final[Mapping[Status, int]] = {
    "complete": COMPLETE,
    "degraded": PARTIAL,
    "partial": PARTIAL,
    "waiting": WAITING,
    "stopped": FAILED,
    "failed": FAILED,
}
_WORST: Final = (FAILED, WAITING, PARTIAL, COMPLETE)
_INTERRUPTED: Final[Mapping[str, str]] = {
    "waits for shutdown": "interrupted after a step",
    "waits for asker": "nobody waits for its answer any more",
    "running": "interrupted in the middle of a step, which is settled when it goes on",
}
"""Reasons of a run that waits for nobody, in words: it goes on as soon as somebody resumes it."""
_VERBS: Final[Mapping[Status, str]] = {"waiting": "Waiting", "stopped": "Stopped", "failed": "Failed"}


def exit_code(status: Status) -> int:
    """0 complete, 1 failed or stopped, 3 waiting, 4 partial or degraded."""
    return _CODES[status]


def worst(codes: Iterable[int]) -> int:
    """The code of several runs: failed before waiting before partial before complete; 0 for none."""
    found = set(codes)
    return next((code for code in _WORST if code in found), COMPLETE)


def ending(  # Any: the output's type is the agent's
    result: Result[Any],
    *,
    summary: str = "",
    facts: Iterable[str] = (),
    journal: str = "",
    name: str = "@",
    handle: Callable[[str], str] = lambda approval: approval,
    option: str = "",
) -> list[str]:
    """The last lines: the verdict, the spend, and what to type next.

    `summary` says what came out ("61 distributions, 9 findings → audit.md"), `facts` stand before the spend,
    `name` is the run in the next commands, `handle` shortens the id of an approval, `option` is what each needs
    beside it (" --journal other.db").
    """
    seconds = duration(result.spend.alive)
    head = f"after {seconds}" if result.status in _VERBS else f"{result.status} in {seconds}"
    reason = _INTERRUPTED.get(result.reason, result.reason) if isinstance(result, Waiting) else result.reason
    said = [head, *(clean(part, 300) for part in (reason, summary) if part)]
    spend = [*facts, *spent(result), *([clean(journal)] if journal else [])]
    lines = [f"{_VERBS.get(result.status, 'Finished'):>{VERB}}  {' · '.join(said)}"]
    lines.append(f"{'':>{VERB}}  {' · '.join(spend)}")
    lines.append(f"{'Next':>{VERB}}  {' · '.join(following(result, name=name, handle=handle, option=option))}")
    return lines


def spent(result: Result[Any]) -> list[str]:  # Any: as above
    """What the run has cost, as words."""
    spend = result.spend
    words = [many(spend.steps, "step"), f"{count(spend.tokens)} tokens"]
    words += [f"usd {dollars(spend.usd)}"] if spend.usd else []
    return words + (["partly estimated"] if spend.estimated else [])


def following(
    result: Result[Any],
    *,
    name: str = "@",
    handle: Callable[[str], str] = lambda approval: approval,
    option: str = "",
) -> list[str]:  # Any: as above
    """Commands that make sense after this end; at most three questions are listed."""
    if isinstance(result, Waiting):
        asked = [f"understudy approve {handle(approval.id)}{option}" for approval in result.pending[:3]]
        more = [f"and {len(result.pending) - 3} more"] if len(result.pending) > 3 else []
        resume = f"understudy resume {name}{option}"
        interrupted = result.reason in _INTERRUPTED
        return asked + more or ([resume] if interrupted else [f"understudy doubts{option}", resume])
    return [f"understudy why {name}{option}", *(f"{look} {name}{option}" for look in ("log", "tree", "replay"))]


def as_json(result: Result[Any]) -> str:  # Any: as above
    """The result as one line of JSON: run, status, output, reason, spend; `pending` when it waits."""
    return msgspec.json.encode(result, order="deterministic", enc_hook=str).decode("utf-8", "replace")
