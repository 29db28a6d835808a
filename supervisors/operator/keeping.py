"""The commands that keep a journal in order: `salvage` and `prune`. None runs an agent."""

from __future__ import annotations

import re
from argparse import Namespace
from typing import Final

import msgspec

from understudy.actors.errors import UsageError
from understudy.actors.journal.events import is_run
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.pruning import prunable, prune
from understudy.supervisors.operator.ending import COMPLETE, PARTIAL
from understudy.supervisors.operator.reading import checked_path, reading
from understudy.supervisors.operator.shell import Shell
from understudy.supervisors.operator.text import clean, many
from understudy.transports.journals.salvage import Salvaged, Stream, salvage
from understudy.transports.journals.sqlite import SQLiteStore

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_AGE: Final = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)


def seconds_of(age: str) -> int:
    """The seconds of `30d`, `12h`, `90m`, `10s` or `4w`. Raises `UsageError`."""
    found = _AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"{age!r} is no age: a number and one of {', '.join(_UNITS)}, as in 30d")
    return int(found[1]) * _UNITS[found[2]]


async def prune_journal(shell: Shell, args: Namespace) -> int:
    """`understudy prune --ended-before 30d`: remove runs that ended before, and that nobody needs."""
    before = shell.clock.wall() - seconds_of(args.ended_before)
    path = await shell.journal(args.journal)
    async with reading(path):  # says what is wrong with it, and does not make one
        pass
    journal = Journal(SQLiteStore(path), shell.clock)
    await journal.open()
    try:
        found = await (prunable if args.dry_run else prune)(journal, before)
    finally:
        await journal.aclose()
    if args.json:
        shell.data(*(msgspec.json.encode({"run": run, "events": count}).decode() for run, count in found.runs.items()))
    would = "would be removed" if args.dry_run else "removed"
    kept = f"; {many(found.needed, 'run')} that ended before then kept, others need them" if found.needed else ""
    shell.fact(f"{clean(path)}: {many(len(found.runs), 'run')} with {many(found.events, 'event')} {would}{kept}")
    return COMPLETE


async def salvage_file(shell: Shell, args: Namespace) -> int:
    """`understudy salvage DAMAGED --to NEW`: what verifies of a journal, in a new file; a line for each stream.

    0 when no stream is known to have lost an event, else 4.
    """
    found = await salvage(checked_path(args.damaged), checked_path(args.to))
    if args.json:
        shell.data(*(msgspec.json.encode(stream).decode() for stream in found.streams))
    else:
        shell.data(*map(_row, found.streams))
    shell.fact(*_verdict(found, args.damaged, args.to))
    return COMPLETE if found.whole else PARTIAL


def _row(stream: Stream) -> str:
    lost = f"{stream.lost} lost: {stream.reason}" if stream.lost else "whole"
    return f"{clean(stream.run, 60):<20}  {stream.kept:>9} kept  {lost}"


def _verdict(found: Salvaged, damaged: str, to: str) -> list[str]:
    kept, lost = (sum(getattr(stream, name) for stream in found.streams) for name in ("kept", "lost"))
    runs = sum(is_run(stream.run) for stream in found.streams)
    beside = f"{many(found.words, 'word')} of the inbox, {many(found.values, 'value')}"
    return [
        f"{clean(to)}: {many(kept, 'event')} of {many(runs, 'run')} kept, {lost} lost; {beside}",
        f"{clean(damaged)} is as it was"
        + ("; runs that lost their end are parked: look, then resume them" if lost else ""),
    ]
