"""`understudy tree`: the actors of one run as a table. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.guards import said
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.supervisors.operator.paths import Paths
from understudy.supervisors.operator.text import call_text, clean, count, duration, name_of, table

HEAD: Final = ("NAME", "STATUS", "RESTARTS", "STEPS", "TOKENS", "MAILBOX", "LAST")
UNKNOWN: Final = "-"
"""A mailbox is in the memory of the process that runs it; a journal cannot tell."""
LAST: Final = 60


class Owner(Struct, frozen=True):
    """What is known of a supervisor or agent beside the events; None or "" where it is not."""

    strategy: str = ""
    restarts: int | None = None
    steps: int | None = None
    tokens: int | None = None


class Row(Struct):
    """One line. `depth` 0 is a root; `mailbox` is in messages, None when unknown."""

    path: str
    name: str
    depth: int
    status: str = ""
    restarts: int = 0
    steps: int = 0
    tokens: int = 0
    mailbox: int | None = None
    last: str = ""
    limits: Owner = field(default_factory=Owner)


class Tree(Struct):
    """A run and its actors, parents before children."""

    run: str
    status: str
    alive: float
    waited: float
    rows: list[Row]


class _Actor(Struct):
    """What one path did."""

    restarts: int = 0
    steps: int = 0
    tokens: int = 0
    left: int = -1
    down: bool = False
    gave_up: bool = False
    notes: list[str] = field(default_factory=list[str])


def tree(
    records: Sequence[Record],
    *,
    owners: Mapping[str, Owner] | None = None,
    mailboxes: Mapping[str, int] | None = None,
    live: bool = True,
) -> Tree:
    """The tree of a run. `live` False: no process drives it, so what seems to run was interrupted.

    `owners` are limits by path, `mailboxes` messages waiting by path, both only if known.
    Raises `ValueError` for an empty stream.
    """
    run = fold(records)
    actors, holders = _actors(records)
    rows = [_row(path, depth, actors, holders, run, live) for path, depth in _ordered(actors)]
    for row in rows:
        row.limits = (owners or {}).get(row.path, Owner())
        row.mailbox = (mailboxes or {}).get(row.path)
        if row.path not in actors:
            row.last = row.limits.strategy
    waited = max(0.0, run.last_at - run.started_at - run.spend.alive)
    return Tree(run.id, status_of(run, live=live), run.spend.alive, waited, rows)


def status_of(run: Run, *, live: bool = True) -> str:
    """A word for where the run is."""
    if run.finished is not None:
        return run.finished.status
    if run.subs and run.resting:
        return "waiting"
    return "running" if live else "interrupted"


def _actors(records: Sequence[Record]) -> tuple[dict[str, _Actor], dict[int, str]]:
    actors: dict[str, _Actor] = {}
    paths = Paths()
    seen: set[str] = set()
    for record in records:
        path = paths.of(record)
        if record.path:
            seen.add(path)
        actor = actors.setdefault(path, _Actor())
        _count(actor, record)
    holders = paths.holders
    # An agent that nobody has taken up yet is shown by its name, until an actor's path replaces it.
    waiting = {path for path in holders.values() if path not in seen}
    return {path: actor for path, actor in actors.items() if path in seen or path in waiting}, holders


def _count(actor: _Actor, record: Record) -> None:
    match record.event:
        case ev.ModelAnswered(spent=spent) | ev.ModelFailed(spent=spent):
            actor.steps += spent.get("steps", 0)
            actor.tokens += spent.get("tokens", 0)
        case ev.BackedOff():
            actor.restarts += 1
            actor.down = True
        case ev.ChildStarted() | ev.AttemptStarted():
            actor.down = False
        case ev.GaveUp() | ev.Escalated():
            actor.gave_up = True
        case ev.Judged():
            actor.notes.append(f"loop at :{record.seq}")
        case ev.ChildExited(exit=exit, intended=False) if not exit.expected and exit.kind not in ("loop", "escalate"):
            actor.notes.append(f"{clean(str(exit), 40)} at :{record.seq}")
        case ev.BudgetDenied(unit=unit):
            actor.notes.append(f"budget of {said(unit)} used up")
        case ev.ApprovalGiven(approval=name, by=by, arguments=changed):
            actor.notes.append(f"{_tail(name)} approved by {clean(by)}{', changed' if changed else ''}")
        case ev.ApprovalRefused(approval=name, by=by):
            actor.notes.append(f"{_tail(name)} refused by {clean(by)}")
        case ev.HandedOff(to=to):
            actor.left = record.sub
            actor.notes.append(f"handed on to {clean(to)}")
        case _:
            pass


def _tail(name: str) -> str:
    return clean(name.rpartition("-")[2])


def _ordered(actors: Mapping[str, _Actor]) -> list[tuple[str, int]]:
    """Every path that acted and the supervisors above, parents first, in the order in which they appear."""
    every: dict[str, None] = {}
    for path in actors:
        for above in _above(path, actors):
            every[above] = None
        every[path] = None
    roots = [path for path in every if _parent(path, every) is None]
    return [line for root in roots for line in _below(root, 0, every)]


def _below(path: str, depth: int, every: Mapping[str, None]) -> list[tuple[str, int]]:
    lines = [(path, depth)]
    for child in every:
        if _parent(child, every) == path:
            lines += _below(child, depth + 1, every)
    return lines


def _above(path: str, actors: Mapping[str, _Actor]) -> list[str]:
    """Ancestors, outermost first; a pool, whose children are numbers, is no line of its own."""
    parts = path.split("/")
    found: list[str] = []
    for end in range(1, len(parts)):
        above = "/".join(parts[:end])
        if not parts[end].isdigit() or above in actors:
            found.append(above)
    return found


def _parent(path: str, every: Mapping[str, None]) -> str | None:
    above = path.rpartition("/")[0]
    while above:
        if above in every:
            return above
        above = above.rpartition("/")[0]
    return None


def _row(path: str, depth: int, actors: Mapping[str, _Actor], holders: Mapping[int, str], run: Run, live: bool) -> Row:
    own = actors.get(path)
    if own is None or (depth == 0 and any(other.startswith(path + "/") for other in actors)):
        return _sum(path, depth, [a for p, a in actors.items() if p == path or p.startswith(path + "/")], run, live)
    held = [sub for sub, holder in holders.items() if holder == path]
    status, last = _standing(own, held, run, live)
    states = [f"state {run.subs[sub].state}" for sub in held[-1:] if sub in run.subs and run.subs[sub].state]
    notes = states + own.notes[-3:] + ([last] if last else [])
    return Row(path, name_of(path), depth, status, own.restarts, own.steps, own.tokens, last=_last(notes))


def _last(notes: Sequence[str]) -> str:
    return clean("; ".join(dict.fromkeys(notes)), LAST)


def _sum(path: str, depth: int, actors: Sequence[_Actor], run: Run, live: bool) -> Row:
    gave_up = any(actor.gave_up for actor in actors)
    status = status_of(run, live=live) if depth == 0 else "gave up" if gave_up else ""
    restarts, steps, tokens = (sum(getattr(a, unit) for a in actors) for unit in ("restarts", "steps", "tokens"))
    return Row(path, name_of(path), depth, status, restarts, steps, tokens)


def _standing(actor: _Actor, held: Sequence[int], run: Run, live: bool) -> tuple[str, str]:
    """(status, what it did last) of one actor by the (sub-)runs it has."""
    if actor.gave_up:
        return "gave up", ""
    open_subs = [run.subs[number] for number in held if number in run.subs and run.subs[number].finished is None]
    if open_subs:
        sub = open_subs[-1]
        if sub.parked is not None:
            return "waiting", f"for {sub.parked.on} {', '.join(_tail(i) for i in sub.parked.ids)}".rstrip()
        call = next((c for c in sub.calls() if c.asked is not None and not c.done), None)
        doing = call_text(call.call.name, call.arguments, 32) if call is not None else ""
        status = ("restarting" if actor.down else "running") if live else "interrupted"
        return status, doing
    ends = [run.subs[number].finished for number in held if number in run.subs]
    if ends and (end := ends[-1]) is not None:
        return end.status, clean(end.reason, LAST)
    return ("handed on", "") if actor.left >= 0 else ("idle", "")


def render(found: Tree, *, short: str, journal: str) -> list[str]:
    """The lines of the terminal."""
    waited = f", waited {duration(found.waited)}" if found.waited >= 0.05 else ""
    head = f"run {short} · {found.status} · alive {duration(found.alive)}{waited} · {clean(journal)}"
    cells = [HEAD, *(_cells(row, last=_is_last(found.rows, n)) for n, row in enumerate(found.rows))]
    return [head, *table(cells, right=frozenset({3, 4, 5}))]


def _is_last(rows: Sequence[Row], number: int) -> bool:
    depth = rows[number].depth
    after = next((row for row in rows[number + 1 :] if row.depth <= depth), None)
    return after is None or after.depth < depth


def _cells(row: Row, *, last: bool) -> tuple[str, ...]:
    branch = "" if row.depth == 0 else "  " * (row.depth - 1) + ("└ " if last else "├ ")
    limits = row.limits
    mailbox = UNKNOWN if row.mailbox is None else str(row.mailbox)
    return (
        branch + row.name,
        row.status,
        _of(str(row.restarts), limits.restarts),
        _of(str(row.steps), limits.steps),
        _of(count(row.tokens), limits.tokens),
        mailbox,
        row.last,
    )


def _of(value: str, limit: int | None) -> str:
    return value if limit is None else f"{value}/{count(limit)}"


def owners_of(meta: Mapping[str, str]) -> dict[str, Owner]:
    """Limits by path from the meta entry `owners` that the owner of the journal left; empty when there is none."""
    try:
        return msgspec.json.decode(meta.get("owners", "{}"), type=dict[str, Owner])
    except msgspec.MsgspecError:
        return {}
