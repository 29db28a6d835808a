"""The commands that only look: `tree`, `log`, `why`. None owns the journal, none needs the app.

They start fast: no event loop (but for `--follow`), no thread, nothing of what runs agents.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Final

import msgspec

from understudy.actors.errors import UnknownRun, UsageError
from understudy.actors.journal.events import Record
from understudy.actors.journal.history import HistoryStore
from understudy.supervisors.operator import log as logs
from understudy.supervisors.operator import tree as trees
from understudy.supervisors.operator import why as whys
from understudy.supervisors.operator.ending import COMPLETE
from understudy.supervisors.operator.reading import Glance, Place, Reader, folded, listed, looking
from understudy.supervisors.operator.shell import Shell, named

POLL: Final = 0.2
"""Seconds between two looks of `log --follow`."""


async def stream_of(reader: Glance | Reader, text: str) -> tuple[Place, list[Record]]:
    """The place and the whole stream of its run. Raises `UnknownRun` for an event that is not there."""
    place = reader.resolve(text)
    records = await reader.records(place.run)
    folded(reader.path, records)
    if place.seq > len(records):
        raise UnknownRun(f"{reader.path}: no event {reader.short(place.run)}:{place.seq}, it has {len(records)}")
    return place, records


async def show_tree(shell: Shell, args: Namespace) -> int:
    """`understudy tree [RUN[:EVENT]]`: the actors of a run, as they stand or stood at an event."""
    async with looking(await shell.journal(args.journal)) as reader:
        place, records = await stream_of(reader, args.run)
        live = bool(place.seq) or await reader.owned()
        found = trees.tree(records[: place.seq or None], owners=trees.owners_of(reader.meta), live=live)
        if args.json:
            shell.data(msgspec.json.encode(found).decode())
        else:
            shell.data(*trees.render(found, short=reader.short(place.run), journal=reader.path))
    return COMPLETE


async def show_why(shell: Shell, args: Namespace) -> int:
    """`understudy why [RUN[:EVENT]]`: what went wrong, with proof."""
    async with looking(await shell.journal(args.journal)) as reader:
        place, records = await stream_of(reader, args.run)
        name = args.run.partition(":")[0] or "@"
        found = whys.why(records, name=name, live=await reader.owned(), option=named(args.journal))
        found = whys.at_event(found, place.seq) if place.seq else found
        if args.json:
            shell.data(msgspec.json.encode(found).decode())
        else:
            shell.data(*whys.render(found, reader.short))
    return COMPLETE


async def show_log(shell: Shell, args: Namespace) -> int:
    """`understudy log [RUN[:EVENT]]`: what happened, an act a row, or every event."""
    async with looking(await shell.journal(args.journal)) as reader:
        place, records = await stream_of(reader, args.run)
        if args.follow:
            if place.seq:
                raise UsageError("--follow shows a run as it grows; leave the event out")
            if isinstance(reader.store, HistoryStore):
                raise UsageError("--follow shows a run as it grows; a history does not grow")
            await _follow(shell, args, reader, place.run)
        else:
            _print_log(shell, args, place, records)
    return COMPLETE


def _print_log(shell: Shell, args: Namespace, place: Place, records: list[Record]) -> None:
    rows = _chosen(args, place, logs.entries(records))
    if args.raw or args.json:
        events = sorted((record for row in rows for record in row.records), key=lambda record: record.seq)
        shell.data(*(_event(args, record, records[0].at) for record in events))
    else:
        *lines, foot = logs.render(rows, events=len(records))
        shell.data(*lines)
        shell.fact(foot)


def _event(args: Namespace, record: Record, began: float) -> str:
    return logs.as_json(record) if args.json else logs.raw(record, began)


def _chosen(args: Namespace, place: Place, rows: list[logs.Entry]) -> list[logs.Entry]:
    """The rows asked for. Raises `UsageError` for an actor that is not in the run."""
    if args.actor is not None:
        chosen = logs.of_actor(rows, args.actor)
        if not chosen:
            raise UsageError(f"no actor {args.actor!r} in this run; it has {listed(logs.actors(rows))}")
        rows = chosen
    if place.seq:
        rows = [row for row in rows if any(record.seq == place.seq for record in row.records)]
    return rows


async def _follow(shell: Shell, args: Namespace, reader: Glance | Reader, run: str) -> None:
    """Print rows as they are complete (events as they come) until the run has ended."""
    import anyio

    log = logs.Log()
    seen = 0
    printed: set[int] = set()
    version = -1
    while True:
        before, version = version, await reader.store.data_version()
        if before != version:
            records = await reader.records(run)
            fresh = [(record, log.add(record)) for record in records[seen:]]
            seen = len(records)
            ended = folded(reader.path, records).finished is not None
            if args.raw or args.json:
                lines = [_event(args, r, records[0].at) for r, row in fresh if _wanted(args, row)]
            else:
                done = [row for row in log.entries if row.seq not in printed and (ended or not row.open)]
                printed.update(row.seq for row in done)
                lines = [logs.followed(row) for row in done if _wanted(args, row)]
            shell.data(*lines)
            if ended:
                return
        await anyio.sleep(POLL)


def _wanted(args: Namespace, row: logs.Entry) -> bool:
    return args.actor is None or bool(logs.of_actor([row], args.actor))
