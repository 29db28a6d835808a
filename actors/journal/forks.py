"""A fork: a new run that begins with what another one was up to one of its events. Pure.

The new stream holds copies of the events, so it can be read, replayed, exported and resumed without the other one
(large texts are stored once all the same, see the store). What a copy names by the run's id is named anew: its own
pools, approvals and doubts. Copies are charged to the new run's own pools as the present tree has them, and to no pool
that counts other runs too: what was spent before the fork was spent once. Idempotency keys stay as they were, for those
calls were made under them; the fork's own calls have keys of its own.

Nothing that changes the world may be open where a run is forked: it would happen twice, or in one of the two only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import AnyEvent, Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.spends import is_own
from understudy.actors.journal.state import Run, Sub

MOST: Final = 100_000
"""Events that a fork takes over at most: they are written at once."""
RESULT_LIMIT: Final = 256 * 1024
"""Bytes of JSON that a changed result may have, as any result of a tool."""
_CHARGED: Final = (ev.ModelAsked, ev.ToolAsked, ev.OutputChecked)
NOT_SENT: Final = "not sent: the run was forked here"

Pools = Callable[[Run, Sub], tuple[str, ...]]
"""The pools that a (sub-)run is charged to under the present tree."""


class Change(Struct, frozen=True):
    """What is different from the fork on. See `events.Forked`; `result` is JSON, "" for the recorded one."""

    agent: str = ""
    instructions: str | None = None
    model: str = ""
    result: str = ""


def forked(
    records: Sequence[Record], at: int, name: str, pools: Pools, change: Change, *, now: tuple[float, float], by: str
) -> list[Record]:
    """The stream of the new run `name`: copies of the events 1 to `at`, and what says that it was forked.

    `records`: the other run's stream, completed (see `sessions.completed`). `now`: wall and monotonic time. With
    instructions or a model for no agent by name, they are for the one that event `at` belongs to. Raises `UsageError`
    for an event where the run cannot be forked, or a result that cannot be changed.
    """
    where = f"{records[0].run}:{at}"
    _check_place(records, at, where)
    wall, mono = now
    run = Run(name)
    made: list[Record] = []
    for record in records[:at]:
        event = record.event
        if record.seq == at and change.result:
            event = _with_result(event, change.result, where)
        if isinstance(event, _CHARGED):
            own = tuple(pool for pool in pools(run, run.subs[record.sub]) if is_own(pool, name))
            event = replace(event, pools=own)
        event = _copied(event, record.run, name, later=wall - records[at - 1].at)
        made.append(replace(record, run=name, event=event))
        run = apply(run, made[-1])
    _check_open(run, where)
    main = run.subs[records[at - 1].sub].agent if records[at - 1].sub in run.subs else run.main.agent
    agent = change.agent or (main if change.instructions is not None or change.model else "")
    changed = at if change.result else 0
    tail: list[tuple[int, AnyEvent]] = [
        (0, ev.Forked(records[0].run, at, agent, change.instructions, change.model, changed, by))
    ]
    tail += [(sub.id, _not_sent(sub.asking)) for sub in run.subs.values() if sub.asking is not None]
    made += [Record(name, at + n, wall, mono, sub, "", 0, at, event) for n, (sub, event) in enumerate(tail, 1)]
    return made


def _not_sent(asking: ev.ModelAsked) -> ev.ModelFailed:
    """The other run's call that was under way: the step is made here, by another call."""
    spent = {"steps": asking.reserved.get("steps", 0)}
    return ev.ModelFailed(asking.step, asking.ticket, "interrupted", NOT_SENT, True, spent)


def _check_place(records: Sequence[Record], at: int, where: str) -> None:
    if not 1 <= at <= len(records):
        raise UsageError(f"run {records[0].run} cannot be forked at event {at}: it has {len(records)}")
    if at > MOST:
        raise UsageError(f"{where} cannot be forked: a fork takes over {MOST} events at most")


def _check_open(run: Run, where: str) -> None:
    """Raise `UsageError` where the run has ended, or something that changes the world is open."""
    if run.finished is not None:
        raise UsageError(f"{where} cannot be forked: the run has ended there; fork it at :{run.main.seq - 1} or before")
    opened = [
        (yes.seq, f"{yes.asked.name} waits for approval {yes.id.rpartition('-')[2]} there, or for its use")
        for yes in run.approvals.values()
        if yes.state in ("pending", "granted")
    ]
    for sub in run.subs.values():
        for call in sub.calls():
            if call.asked is not None and not call.done and call.asked.effect != "read":
                opened.append((call.seq, f"call {call.call.name} is open there, and is {call.asked.effect}"))
    if opened:
        seq, what = min(opened)
        raise UsageError(f"{where} cannot be forked: {what}; fork it at :{seq - 1} or before, or at its outcome")


def _with_result(event: AnyEvent, result: str, where: str) -> AnyEvent:
    if not isinstance(event, ev.ToolAnswered | ev.ToolFailed):
        raise UsageError(f"{where} has no result to change: it is a {type(event).__name__}, not a tool's outcome")
    try:
        msgspec.json.decode(result.encode())
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UsageError(f"{where}: the changed result is no JSON: {error}") from error
    if len(result.encode()) > RESULT_LIMIT:
        raise UsageError(f"{where}: the changed result has {len(result.encode())} bytes, more than {RESULT_LIMIT}")
    return ev.ToolAnswered(event.step, event.index, result, event.seconds)


def _copied(event: AnyEvent, old: str, new: str, *, later: float) -> AnyEvent:
    """An event as it stands in the new run, which goes on `later` seconds after the other."""

    def named(name: str) -> str:
        return f"{new}{name.removeprefix(old)}" if name.startswith(f"{old}-") else name

    def pool(key: str) -> str:
        return f"{key.removesuffix(f'@{old}')}@{new}" if is_own(key, old) else key

    match event:
        case ev.RunStarted():  # outside of its session, with the window that it had there
            return replace(event, pools=(), session="", continues="", upto=0)
        case ev.ToolAsked():
            return replace(event, approval=named(event.approval))
        case ev.BudgetDenied() | ev.BudgetLow():
            return replace(event, pool=pool(event.pool))
        case ev.BudgetBreached():
            return replace(event, pool=pool(event.pool), over=event.over if is_own(event.pool, old) else 0)
        case ev.ApprovalAsked() | ev.ApprovalGiven() | ev.ApprovalRefused():
            return replace(event, approval=named(event.approval))
        case ev.InDoubt() | ev.DoubtSettled():
            return replace(event, doubt=named(event.doubt))
        case ev.Parked():
            return replace(event, ids=tuple(map(named, event.ids)))
        case ev.Moved() if event.until:
            return replace(event, until=event.until + later)
        case _:
            return event
