"""The commands that keep a journal in order: `salvage`. None runs an agent."""

from __future__ import annotations

from argparse import Namespace

import msgspec

from understudy.actors.journal.events import is_run
from understudy.supervisors.operator.ending import COMPLETE, PARTIAL
from understudy.supervisors.operator.reading import checked_path
from understudy.supervisors.operator.shell import Shell
from understudy.supervisors.operator.text import clean, many
from understudy.transports.journals.salvage import Salvaged, Stream, salvage


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
        f"{clean(damaged)} is as it was" + ("; a run that lost events goes on from its last one kept" if lost else ""),
    ]
