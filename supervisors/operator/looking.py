"""The commands that only look: `tree`, `log`, `why`, `machine`, `replay`, `guards`. None owns the journal.

`replay` and `guards` need the app, for the agents' policies are not in the journal; `machine` draws more with it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Final

import anyio
import msgspec

from understudy.actors.agents.diagram import mermaid, path_of
from understudy.actors.errors import UnknownRun, UsageError
from understudy.actors.journal.events import Record, RunStarted
from understudy.actors.journal.history import HistoryStore
from understudy.actors.journal.sessions import completed
from understudy.supervisors.guards.listing import Armed, armed
from understudy.supervisors.guards.whatif import WhatIf, what_if
from understudy.supervisors.operator import log as logs
from understudy.supervisors.operator import tree as trees
from understudy.supervisors.operator import why as whys
from understudy.supervisors.operator.comparing import spent
from understudy.supervisors.operator.desk import Replayed
from understudy.supervisors.operator.ending import COMPLETE, DIVERGED
from understudy.supervisors.operator.reading import Place, Reader, folded, listed, reading
from understudy.supervisors.operator.shell import Shell, named, no_app
from understudy.supervisors.operator.text import clean, duration, many, name_of

POLL: Final = 0.2
"""Seconds between two looks of `log --follow`."""


async def _stream(reader: Reader, text: str) -> tuple[Place, list[Record]]:
    """The place and the whole stream of its run. Raises `UnknownRun` for an event that is not there."""
    place = reader.resolve(text)
    records = await reader.records(place.run)
    folded(reader.path, records)
    if place.seq > len(records):
        raise UnknownRun(f"{reader.path}: no event {reader.short(place.run)}:{place.seq}, it has {len(records)}")
    return place, records


async def show_tree(shell: Shell, args: Namespace) -> int:
    """`understudy tree [RUN[:EVENT]]`: the actors of a run, as they stand or stood at an event."""
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
        live = bool(place.seq) or await reader.owned()
        found = trees.tree(records[: place.seq or None], owners=trees.owners_of(reader.meta), live=live)
        if args.json:
            shell.data(msgspec.json.encode(found).decode())
        else:
            shell.data(*trees.render(found, short=reader.short(place.run), journal=reader.path))
    return COMPLETE


async def show_why(shell: Shell, args: Namespace) -> int:
    """`understudy why [RUN[:EVENT]]`: what went wrong, with proof."""
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
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
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
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


async def _follow(shell: Shell, args: Namespace, reader: Reader, run: str) -> None:
    """Print rows as they are complete (events as they come) until the run has ended."""
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


async def show_machine(shell: Shell, args: Namespace) -> int:
    """`understudy machine [RUN[:EVENT]]`: the agent's machine with the run's way; the way alone if no app is known."""
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
        options = shell.options(args.app, reader)
    path = path_of(records[: place.seq or None])
    if not path:
        raise UsageError(f"run {reader.short(place.run)} has no state machine, or has not begun")
    first = records[0].event
    agent = first.agent if isinstance(first, RunStarted) else ""
    policy = shell.configured(options, records).get(agent) if options.runnable else None
    shell.data(*mermaid(policy.table if policy is not None else None, path).splitlines())
    return COMPLETE


async def show_guards(shell: Shell, args: Namespace) -> int:
    """`understudy guards [RUN]`: every guard of the app's agents, armed or fired, and at which event last."""
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
        if place.seq:
            raise UsageError(f"guards takes a whole run, {args.run!r} names an event")
        options = shell.options(args.app, reader)
        if not options.runnable:
            raise no_app(options, "guards")
        short = reader.short(place.run)
    found = armed(shell.configured(options, records), records)
    if args.json:
        shell.data(msgspec.json.encode(found).decode())
    else:
        shell.data(*_guard_lines(found, short))
    return COMPLETE


def _guard_lines(found: Sequence[Armed], short: str) -> list[str]:
    rows = [("AGENT", "STATE", "FIRED", "LAST", "GUARD")]
    for each in found:
        last = f"{short}:{each.last}" if each.last else ""
        guard = f"{each.kind} {each.guard}" + (f" ({each.off})" if each.off else "")
        rows.append((clean(each.agent, 40), each.state, str(each.fired or ""), last, clean(guard, 200)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True)) for row in rows]


async def replay(shell: Shell, args: Namespace) -> int:
    """`understudy replay [RUN]`: decide everything again and compare; exit 5 when something comes out differently."""
    async with reading(await shell.journal(args.journal)) as reader:
        place, records = await _stream(reader, args.run)
        if place.seq:
            raise UsageError(f"replay takes a whole run, {args.run!r} names an event")
        options = shell.options(args.app, reader, args.guards)
        if not options.runnable and options.guards is None:
            raise no_app(options, "replay")
        short = reader.short(place.run)
        records = await completed(records, reader.records)
    if options.guards is not None:
        return _under(shell, what_if(records, shell.configured(options, records)), short)
    began = shell.clock.monotonic()
    report = shell.replayer(options, records)
    return _replayed(shell, report, short, shell.clock.monotonic() - began)


def _replayed(shell: Shell, report: Replayed, short: str, seconds: float) -> int:
    if report.identical:
        size = f"{many(report.events, 'event')}, {many(report.steps, 'step')}"
        calls = f"0 model calls, 0 tool calls · {duration(seconds)}"
        shell.fact(f"{'Replayed':>12}  {short} · {size} · {calls}")
        shell.data("identical")
        return COMPLETE
    shell.data(f"diverged {short}:{report.at}")
    before = many(max(0, (report.at or 1) - 1), "identical event")
    shell.fact(
        f"{'Diverged':>12}  at {short}:{report.at}, {name_of(report.path)} step {report.step}, after {before}",
        f"{'recorded':>12}  {clean(report.recorded, 400)}",
        f"{'now':>12}  {clean(report.now, 400)}",
        *([f"{'from':>12}  {clean(report.hook, 400)}"] if report.hook else []),
        f"{'Next':>12}  understudy fork {short} --at {max(1, (report.at or 1) - 1)} · diff {short} --now",
    )
    return DIVERGED


def _under(shell: Shell, found: WhatIf, short: str) -> int:
    """What other guards would have made of a run."""
    lines: list[str] = []
    if found.at is not None:
        lines.append(f"{'Diverged':>12}  at {short}:{found.at}, {name_of(found.path)} step {found.step}")
        lines += [f"{'recorded':>12}  {clean(found.recorded, 400)}", f"{'now':>12}  {clean(found.now, 400)}"]
        most = "" if found.ends else "at most "
        lines.append(f"{'saved':>12}  {most}{spent(found.saved)}")
    else:
        lines.append(f"{'Replayed':>12}  {short} · {many(found.events, 'event')}, {many(found.equal, 'verdict')}")
    if found.unknown:
        lines.append(f"{'unknown':>12}  no guards are given for {clean(listed(found.unknown))}")
    if found.shared:
        lines.append(f"{'shared':>12}  of {clean(listed(found.shared))} only what this run spent is known")
    shell.data("identical" if found.at is None else f"diverged {short}:{found.at}")
    shell.fact(*lines)
    return COMPLETE if found.same else DIVERGED
