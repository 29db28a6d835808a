"""Where two runs part: the first thing that was decided, answered or said otherwise, and what each of them spent. Pure.

Compared is what happened, sub-run by sub-run: commands, outcomes, words of people, and what budgets refused. Ids,
times, amounts and what supervisors did are not, and neither is the order in which the calls of one batch came back. Of
a model call are compared the prompt, tools, schema and options; what else it was made of has been compared before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import msgspec
from msgspec import Struct, field

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import AnyEvent, Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.forks import NOT_SENT
from understudy.actors.journal.replay import describe_event, shortened
from understudy.actors.journal.state import Spend

_COMPARED: Final = (
    *ev.COMMANDS,
    ev.RunStarted,
    ev.SubStarted,
    ev.ModelAnswered,
    ev.ModelFailed,
    ev.ToolAnswered,
    ev.ToolFailed,
    ev.ToolStepped,
    ev.ApprovalGiven,
    ev.ApprovalRefused,
    ev.InDoubt,
    ev.DoubtSettled,
    ev.BudgetDenied,
    ev.StateTimedOut,
)
_CALLS: Final = (ev.ToolAnswered, ev.ToolFailed, ev.ToolStepped)
"""Outcomes of calls, which come in any order where calls were made together."""
_PASSED: Final = frozenset(
    {
        "approval",
        "command",
        "continues",
        "digest",
        "doubt",
        "estimated",
        "evidence",
        "expires",
        "history",
        "id",
        "key",
        "limit",
        "pool",
        "pools",
        "reserved",
        "retry_after",
        "seconds",
        "session",
        "size",
        "spent",
        "ticket",
        "until",
        "upto",
        "usage",
        "version",
        "wanted",
        "window",
    }
)
"""Fields that are not compared."""


class Difference(Struct, frozen=True):
    """Where run `one` and run `other` part, and what each spent.

    `at` and `other_at` are the numbers of the first events that differ, 0 where one of the runs has none in that place;
    `path` and `step` say whose they are, `recorded` and `now` what happened in each. `equal` counts the events before
    that are the same. `spent` and `other_spent` are totals, `after` is what run `one` spent from there on. `ended` and
    `other_ended` are statuses, "" for a run that has not ended.
    """

    one: str
    other: str
    equal: int
    spent: Spend
    other_spent: Spend
    ended: str = ""
    other_ended: str = ""
    at: int = 0
    other_at: int = 0
    path: str = ""
    step: int = 0
    recorded: str = ""
    now: str = ""
    after: Spend = field(default_factory=Spend)

    @property
    def same(self) -> bool:
        """Whether the same happened in both."""
        return not self.at and not self.other_at


def difference(one: Sequence[Record], other: Sequence[Record]) -> Difference:
    """Compare two whole streams. Raises `ValueError` for an empty one."""
    whole, others = fold(one), fold(other)
    left, right = _by_sub(one), _by_sub(other)
    parted: list[tuple[int, int, Record | None, Record | None]] = []
    equal = 0
    for sub in sorted(left.keys() | right.keys()):
        mine, theirs = left.get(sub, []), right.get(sub, [])
        same = _common(mine, theirs)
        equal += same
        first = mine[same] if same < len(mine) else None
        second = theirs[same] if same < len(theirs) else None
        if first is not None or second is not None:
            # By its place in the first run; where that has nothing more, after everything that it has.
            parted.append((first.seq if first else len(one) + 1, second.seq if second else 0, first, second))
    found = Difference(
        whole.id,
        others.id,
        equal,
        whole.spend,
        others.spend,
        whole.finished.status if whole.finished is not None else "",
        others.finished.status if others.finished is not None else "",
    )
    if not parted:
        return found
    _, _, first, second = min(parted, key=lambda each: each[:2])
    known = first or cast("Record", second)
    before = fold(one[: first.seq - 1]).spend if first is not None and first.seq > 1 else Spend()
    recorded, now = _both(first, second)
    return msgspec.structs.replace(
        found,
        at=first.seq if first is not None else 0,
        other_at=second.seq if second is not None else 0,
        path=known.path,
        step=getattr(known.event, "step", 0),
        recorded=recorded,
        now=now,
        after=since(before, whole.spend) if first is not None else Spend(),
    )


def since(before: Spend, after: Spend) -> Spend:
    """What was spent between two states of a run."""
    spent = Spend(alive=after.alive - before.alive, estimated=after.estimated)
    spent.add({unit: count - before.amount(unit) for unit, count in after.amounts().items()})
    return spent


def _by_sub(records: Sequence[Record]) -> dict[int, list[Record]]:
    """What is compared of each sub-run, in its order."""
    dropped = {r.event.ticket for r in records if isinstance(r.event, ev.ModelFailed) and r.event.error == NOT_SENT}
    subs: dict[int, list[Record]] = {}
    for record in records:
        event = record.event
        asked = isinstance(event, ev.ModelAsked | ev.ModelFailed) and event.ticket in dropped
        if isinstance(event, _COMPARED) and not asked:
            subs.setdefault(record.sub, []).append(record)
    return {sub: list(_ordered(found)) for sub, found in subs.items()}


def _ordered(records: Sequence[Record]) -> Iterator[Record]:
    """With the outcomes of one batch in the order of its calls."""
    batch: list[Record] = []
    for record in records:
        if isinstance(record.event, _CALLS):
            batch.append(record)
            continue
        yield from sorted(batch, key=_call)
        batch.clear()
        yield record
    yield from sorted(batch, key=_call)


def _call(record: Record) -> tuple[int, int, int]:
    event = record.event
    assert isinstance(event, _CALLS)  # noqa: S101  # the caller asked
    return event.step, event.index, record.seq


def _common(mine: Sequence[Record], theirs: Sequence[Record]) -> int:
    """How many are the same, from the first on."""
    pairs = zip(mine, theirs, strict=False)
    return next((n for n, pair in enumerate(pairs) if _bare(pair[0]) != _bare(pair[1])), min(len(mine), len(theirs)))


def _bare(record: Record) -> object:
    """An event without what differs between any two runs."""
    return _without(msgspec.to_builtins(record.event), record.run)


def _without(value: object, run: str) -> object:
    if isinstance(value, str):
        return value.replace(run, "@")
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {name: _without(each, run) for name, each in items if name not in _PASSED}
    if isinstance(value, list | tuple):
        return [_without(each, run) for each in cast("Sequence[object]", value)]
    return value


def _both(first: Record | None, second: Record | None) -> tuple[str, str]:
    """Both sides in words; of two model calls, the parts that differ."""
    one, other = (each.event if each is not None else None for each in (first, second))
    if isinstance(one, ev.ModelAsked) and isinstance(other, ev.ModelAsked):
        names = [name for name in one.parts if name != "history" and one.parts[name] != other.parts.get(name)]
        told = [f"call model, step {each.step}: " for each in (one, other)]
        parts = [", ".join(f"{name} {each.parts.get(name, '')}" for name in names) for each in (one, other)]
        if names:
            return told[0] + parts[0], told[1] + parts[1]
    return _said(one), _said(other)


def _said(event: AnyEvent | None) -> str:
    match event:
        case None:
            return "nothing more"
        case ev.ModelAnswered(reply=reply):
            calls = "; ".join(f"{call.name}({call.arguments})" for call in reply.calls)
            return shortened(f"the model says {' '.join(filter(None, (reply.content, calls)))!r}")
        case ev.ModelFailed():
            return shortened(f"the model fails, {event.kind}: {event.error}")
        case ev.ToolAnswered():
            return shortened(f"call {event.index} of step {event.step} gives {event.result}")
        case ev.ToolFailed():
            return shortened(f"call {event.index} of step {event.step} fails, {event.kind}: {event.error}")
        case ev.RunStarted() | ev.SubStarted():
            return shortened(f"ask {event.agent}: {event.message}")
        case ev.ApprovalGiven():
            return f"{event.by} says yes" + (f", changed to {event.arguments}" if event.arguments else "")
        case ev.ApprovalRefused():
            return shortened(f"{event.by} says no: {event.reason}")
        case ev.DoubtSettled():
            return f"{event.by} says that it {'happened' if event.did else 'did not happen'}"
        case ev.BudgetDenied():
            return f"budget {event.pool} refuses: {event.unit}"
        case ev.StateTimedOut():
            return f"state {event.state} times out"
        case _:
            return describe_event(event)
