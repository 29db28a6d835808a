"""The command `diff`: where two runs part, or a run and what today's code would do, and what it costs."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

import msgspec

from understudy.actors.agents.guards import amount, said
from understudy.actors.errors import UsageError
from understudy.actors.journal.differences import Difference, difference, since
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.sessions import completed
from understudy.actors.journal.state import Spend
from understudy.supervisors.operator.ending import COMPLETE, DIVERGED
from understudy.supervisors.operator.reading import Reader, folded, reading
from understudy.supervisors.operator.shell import Shell, no_app
from understudy.supervisors.operator.text import clean, duration, many, name_of

_UNITS: Final = ("steps", "tokens", "usd", "model_calls", "tool_calls")


async def diff(shell: Shell, args: Namespace) -> int:
    """`understudy diff RUN1 RUN2`, `understudy diff RUN --now`: exit 5 when they differ."""
    if (args.other is None) != args.now:
        raise UsageError("diff takes two runs, or one and --now")
    async with reading(await shell.journal(args.journal)) as reader:
        one = await _whole(reader, args.run)
        name = reader.short(one[0].run)
        if not args.now:
            other = await _whole(reader, args.other)
            found = difference(one, other)
            return _told(shell, args, found, name, reader.short(other[0].run))
        options = shell.options(args.app, reader)
        if not options.runnable:
            raise no_app(options, "diff --now")
        one = await completed(one, reader.records)
    report = shell.replayer(options, one)
    whole = fold(one).spend
    found = Difference(report.run, "", report.events, whole, Spend())
    if report.at is not None:
        before = fold(one[: report.at - 1]).spend if report.at > 1 else Spend()
        sides = {"recorded": report.recorded, "now": report.now, "path": report.path, "step": report.step}
        found = msgspec.structs.replace(found, equal=report.at - 1, at=report.at, after=since(before, whole), **sides)
    return _told(shell, args, found, name, "now")


async def _whole(reader: Reader, text: str) -> list[Record]:
    place = reader.resolve(text)
    if place.seq:
        raise UsageError(f"diff takes whole runs, {text!r} names an event")
    records = await reader.records(place.run)
    folded(reader.path, records)
    return records


def _told(shell: Shell, args: Namespace, found: Difference, one: str, other: str) -> int:
    lines: list[str] = []
    if found.same:
        lines.append(f"{'Compared':>12}  {one} and {other} · {many(found.equal, 'equal event')}")
    else:
        places = [f"{name}:{at}" for name, at in ((one, found.at), (other, found.other_at)) if at]
        who = f"{name_of(found.path)} step {found.step}, " if found.path else ""
        lines.append(f"{'Diverged':>12}  at {' and '.join(places)}, {who}after {many(found.equal, 'equal event')}")
        lines += [f"{one:>12}  {clean(found.recorded, 400)}", f"{other:>12}  {clean(found.now, 400)}"]
    if found.other:
        lines.append(f"{'cost':>12}  {_compared(found)}")
        lines.append(f"{'ended':>12}  {found.ended or 'not yet'} → {found.other_ended or 'not yet'}")
    elif not found.same:
        lines.append(f"{'after it':>12}  {one} spent {spent(found.after)}: the most that can be saved")
    if args.json:
        shell.data(msgspec.json.encode(found).decode())
    else:
        places = [f"{name}:{at}" for name, at in ((one, found.at), (other, found.other_at)) if at]
        shell.data(" ".join(("diverged", *places)) if places else "identical")
    shell.fact(*lines)
    return COMPLETE if found.same else DIVERGED


def _compared(found: Difference) -> str:
    """`steps 14 → 9 (-5)`, for all that either of them spent."""
    parts: list[str] = []
    for unit in _UNITS:
        one, other = found.spent.amount(unit), found.other_spent.amount(unit)
        if one or other:
            more = "+" if other > one else ""
            change = f" ({more}{amount(unit, other - one)})" if one != other else ""
            parts.append(f"{_named(unit)} {amount(unit, one)} → {amount(unit, other)}{change}")
    parts.append(f"alive {duration(found.spent.alive)} → {duration(found.other_spent.alive)}")
    return ", ".join(parts)


def spent(spend: Spend) -> str:
    """What was spent, in words."""
    parts = [f"{amount(unit, count)} {_named(unit)}" for unit in _UNITS if (count := spend.amount(unit))]
    return ", ".join((*parts, f"{duration(spend.alive)} alive"))


def _named(unit: str) -> str:
    return unit if unit == "usd" else said(unit)
