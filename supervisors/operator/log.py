"""`understudy log`: what happened in one run, intent, outcome and all that belongs to one act on one row. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.guards import amount, said
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record, encode
from understudy.supervisors.operator.paths import Paths, is_actor
from understudy.supervisors.operator.text import call_text, clean, count, duration, many, name_of, table
from understudy.supervisors.operator.words import altered, changes, correction, denial, nearing

WHAT: Final = 56
OUTCOME: Final = 40


class Entry(Struct):
    """One row: `at` is seconds since the run began, `took` seconds or None; `records` oldest first, at least one.

    `open` while an outcome is outstanding.
    """

    seq: int
    at: float
    path: str
    kind: str
    what: str
    outcome: str = ""
    took: float | None = None
    tokens: int | None = None
    open: bool = False
    records: list[Record] = field(default_factory=list[Record])


class Log:
    """Groups a stream into entries as it grows; every record is in exactly one entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._paths = Paths()
        self._open: dict[tuple[object, ...], Entry] = {}
        self._fresh: dict[int, Entry] = {}
        self._judged: dict[int, Record] = {}
        self._began: float | None = None

    def add(self, record: Record) -> Entry:
        """Put the next record of the stream where it belongs; its entry."""
        self._began = record.at if self._began is None else self._began
        path = self._paths.of(record)
        entry = self._joined(record) or self._opened(record, path)
        entry.records.append(record)
        return entry

    # -- rows that a record begins ---------------------------------------------------------------------------

    def _new(self, record: Record, path: str, kind: str, what: str, outcome: str = "", key: object = None) -> Entry:
        entry = Entry(record.seq, record.at - (self._began or 0.0), path, kind, what, outcome)
        if key is not None:
            entry.open = True
            self._open[(kind, key)] = entry
        self.entries.append(entry)
        return entry

    def _opened(self, record: Record, path: str) -> Entry:
        event, sub = record.event, record.sub
        match event:
            case ev.RunStarted(type=type_, message=message) | ev.SubStarted(type=type_, message=message):
                entry = self._new(record, path, "run", f"{type_} {message}")
                self._fresh[sub] = entry
            case ev.HandedOff(to=to, type=type_):
                entry = self._new(record, path, "handoff", f"{type_} to {to}")
                self._fresh[sub] = entry
            case ev.ModelAsked(step=step, ticket=ticket):
                again = f", try {event.try_}" if event.try_ > 1 else ""
                what = f"{'summary after ' if event.covers else ''}step {step}{again}"
                entry = self._new(record, path, "model", what, key=ticket)
            case ev.ToolAsked(name=name, arguments=arguments):
                kind = "delegate" if event.sub else "tool"
                entry = self._new(record, path, kind, call_text(name, arguments))
                entry.open = True
                self._open[("call", sub, event.step, event.index)] = entry
            case ev.ToolRejected(name=name, arguments=arguments, error=error):
                entry = self._new(record, path, "tool", call_text(name, arguments), f"× rejected: {error}")
            case ev.ApprovalAsked(approval=approval, name=name, arguments=arguments):
                what = f"{_tail(approval)} {call_text(name, arguments)}"
                entry = self._new(record, path, "approval", what, key=approval)
            case ev.Parked(on=on, ids=ids):
                entry = self._new(record, path, "wait", f"for {on} {', '.join(map(_tail, ids))}".rstrip(), key=sub)
            case ev.ChildExited(child=child, exit=exit):
                kind = "exit" if event.intended or exit.expected else "restart"
                entry = self._new(record, path, kind, str(exit), key=child if kind == "restart" else None)
            case _:
                entry = self._single(record, path)
        return entry

    def _single(self, record: Record, path: str) -> Entry:
        """A row of one event."""
        match record.event:
            case ev.Judged(verdict=verdict):
                self._judged[record.sub] = record
                response = type(verdict.response).__name__.lower()
                return self._new(record, path, "verdict", f"{verdict.rule}: {verdict.what}", f"! {response}")
            case ev.AttemptStarted(attempt=attempt):
                return self._new(record, path, "attempt", f"attempt {attempt}")
            case ev.OutputRejected(error=error, repairs=repairs):
                return self._new(record, path, "output", "rejected", f"× {error}; repair {repairs}")
            case ev.ModelSwitched(model=model, reason=reason):
                return self._new(record, path, "fallback", f"asks {model}", f"! {reason}")
            case ev.OutputChecked(check=check, error=error, skipped=skipped):
                found = f"× {error}" if error else f"! skipped: {skipped}" if skipped else "fits"
                return self._new(record, path, "output", f"checked by {check}", found)
            case ev.Compacted(rule=rule, tokens=tokens, left=left):
                return self._new(record, path, "window", f"{rule}: {tokens} → {left} tokens, about")
            case ev.SummaryDenied(pool=pool, unit=unit):
                return self._new(record, path, "window", "no summary", f"× {pool}: no {unit} left for one")
            case ev.Recalled(memory=memory, dropped=dropped):
                return self._new(record, path, "restart", f"keeps by {memory}", f"{many(dropped, 'exchange')} dropped")
            case ev.Moved(source=source, to=to, event=moved_by, cause=cause):
                what = f"{source} → {to}" if source else f"begins in {to}"
                return self._new(record, path, "state", what, f"on {moved_by or cause}" if source else "")
            case ev.StateTimedOut(state=state):
                return self._new(record, path, "state", f"{state} timed out")
            case ev.BudgetDenied() as event:
                return self._new(record, path, "budget", denial(event), "× denied")
            case ev.BudgetBreached(pool=pool, unit=unit, over=over):
                return self._new(
                    record, path, "budget", f"{pool}: {amount(unit, over)} {said(unit)} over the cap", "! overspend"
                )
            case ev.BudgetLow() as event:
                return self._new(record, path, "budget", nearing(event), "told")
            case ev.SpendCorrected() as event:
                return self._new(record, path, "budget", correction(event), "corrected")
            case ev.Escalated(child=child, exit=exit):
                return self._new(
                    record, path, "escalate", f"{name_of(child)}: {exit.detail}", "× for the supervisor above"
                )
            case ev.GaveUp(child=child, intensity=intensity, within=within):
                what = f"{name_of(child)}: more than {many(intensity, 'restart')} in {duration(within)}"
                return self._new(record, path, "escalate", what, "× gave up")
            case ev.Resumed(by=by, reopen=reopen):
                return self._new(record, path, "resume", "reopened" if reopen else "by another process", by)
            case ev.Forked() as event:
                return self._new(record, path, "fork", f"from {event.run}:{event.at}", changes(event))
            case ev.StopAsked(reason=reason, how=how, by=by):
                return self._new(record, path, how, reason, by)
            case ev.Finished(status=status, reason=reason):
                sign = {"complete": "✓", "failed": "×", "stopped": "×"}.get(status, "!")
                return self._new(
                    record,
                    path,
                    "end",
                    f"sub-run {record.sub}" if record.sub else "run",
                    f"{sign} {status}" + (f": {reason}" if reason else ""),
                )
            case event:
                return self._new(record, path, "other", type(event).__name__)

    # -- records that belong to a row that is there ------------------------------------------------------------

    def _joined(self, record: Record) -> Entry | None:
        event, sub = record.event, record.sub
        match event:
            case ev.AttemptStarted():
                return self._attempt(record, event)
            case ev.SubStarted(parent=parent, step=step, index=index):
                entry = self._open.get(("call", parent, step, index))
                if entry is not None:
                    self._fresh[sub] = entry
                return entry
            case ev.ModelAnswered(ticket=ticket, reply=reply, spent=spent, seconds=seconds):
                outcome = many(len(reply.calls), "call") if reply.calls else "answer"
                return self._close(("model", ticket), outcome, seconds, spent.get("tokens"))
            case ev.ModelFailed(ticket=ticket, kind=kind, spent=spent, seconds=seconds, error=error):
                return self._close(("model", ticket), f"× {kind}: {error}", seconds, spent.get("tokens"))
            case ev.ToolAnswered(step=step, index=index, result=result, seconds=seconds):
                return self._close(("call", sub, step, index), result, seconds)
            case ev.ToolFailed(step=step, index=index, error=error, seconds=seconds):
                return self._close(("call", sub, step, index), f"× {error}", seconds)
            case ev.ToolStepped(step=step, index=index):
                return self._open.get(("call", sub, step, index))
            case ev.InDoubt(step=step, index=index, doubt=doubt):
                return self._doubt(("call", sub, step, index), doubt)
            case ev.DoubtSettled(doubt=doubt, did=did, by=by):
                return self._close(("doubt", doubt), f"{'did' if did else 'did not'} happen, says {by}")
            case ev.ApprovalGiven(approval=approval, by=by, arguments=changed):
                text = f"✓ approved by {by}" + (f", changed to {changed}" if changed else "")
                return self._close(("approval", approval), text, since=record)
            case ev.ApprovalRefused(approval=approval, by=by, reason=reason):
                text = f"× refused by {by}" + (f": {reason}" if reason else "")
                return self._close(("approval", approval), text, since=record)
            case ev.Unparked(why=why):
                return self._close(("wait", sub), why, since=record)
            case ev.BackedOff() | ev.ChildStarted():
                return self._restart(record, event)
            case _:
                return None

    def _close(
        self,
        key: tuple[object, ...],
        outcome: str,
        took: float | None = None,
        tokens: int | None = None,
        since: Record | None = None,
    ) -> Entry | None:
        entry = self._open.pop(key, None)
        if entry is None:
            return None
        entry.open = False
        entry.outcome = clean(outcome, 400)
        entry.took = max(0.0, since.at - entry.records[0].at) if since is not None else took
        entry.tokens = tokens
        return entry

    def _doubt(self, key: tuple[object, ...], doubt: str) -> Entry | None:
        entry = self._open.get(key)
        if entry is not None:
            entry.outcome = f"? in doubt, {_tail(doubt)}"
            self._open[("doubt", doubt)] = entry
        return entry

    def _restart(self, record: Record, event: ev.BackedOff | ev.ChildStarted) -> Entry | None:
        entry = self._open.get(("restart", event.child))
        if entry is None:
            return None
        if isinstance(event, ev.BackedOff):
            entry.took = event.delay
            entry.outcome = " · ".join(altered(self._judged.get(record.sub)) if "loop" in entry.what else [])
        else:
            entry.open = False
            self._fresh[record.sub] = entry
            del self._open[("restart", event.child)]
        return entry

    def _attempt(self, record: Record, event: ev.AttemptStarted) -> Entry | None:
        entry = self._fresh.pop(record.sub, None)
        if entry is not None and entry.kind == "restart":
            entry.what = f"attempt {event.attempt}, after {entry.what}"
        return entry


def _tail(name: str) -> str:
    return clean(name.rpartition("-")[2])


def entries(records: Iterable[Record]) -> list[Entry]:
    """All rows of a stream, oldest first."""
    log = Log()
    for record in records:
        log.add(record)
    return log.entries


def actors(rows: Sequence[Entry]) -> list[str]:
    """The names that `of_actor` knows, in the order in which they appear."""
    return list(dict.fromkeys(name_of(row.path) for row in rows if row.path))


def of_actor(rows: Sequence[Entry], wanted: str) -> list[Entry]:
    """The rows of one actor, by path or shown name, or of a whole pool."""
    return [row for row in rows if is_actor(row.path, wanted)]


RIGHT: Final = frozenset({0, 1, 6, 7})
"""Columns of numbers."""
HEADS: Final = ("EVENT", "TIME", "ACTOR", "KIND", "WHAT", "OUTCOME", "TOOK", "TOKENS")


def cells(row: Entry) -> tuple[str, ...]:
    """One row as cells under `HEADS`."""
    outcome = row.outcome or ("…" if row.open else "")
    return (
        f":{row.seq}",
        f"+{row.at:.2f}",
        name_of(row.path) if row.path else "",
        row.kind,
        clean(row.what, WHAT),
        clean(outcome, OUTCOME),
        duration(row.took) if row.took is not None else "",
        count(row.tokens) if row.tokens is not None else "",
    )


def render(rows: Sequence[Entry], *, events: int) -> list[str]:
    """The rows as a table, and a last line that counts them."""
    lines = table([HEADS, *map(cells, rows)], right=RIGHT)
    foot = f"{many(len(rows), 'row')} of {many(events, 'event')} · --raw every event · --json one per line · --follow"
    return [*lines, foot]


FOLLOWED: Final = (6, 8, 12, 8, WHAT, OUTCOME, 8, 6)
"""Columns of rows that are printed one by one, when no later row can widen them."""


def followed(row: Entry) -> str:
    """One row on its own."""
    shown = zip(cells(row), FOLLOWED, strict=True)
    padded = [cell.rjust(width) if n in RIGHT else cell.ljust(width) for n, (cell, width) in enumerate(shown)]
    return "  ".join(padded).rstrip()


def raw(record: Record, began: float) -> str:
    """One event with everything it holds, on one line."""
    body = msgspec.json.encode(record.event).decode("utf-8", "replace")
    who = f"{record.path} #{record.incarnation}" if record.path else "-"
    cause = f" ← :{record.cause}" if record.cause else ""
    return clean(f":{record.seq}  +{record.at - began:.2f}  /{record.sub}  {who}{cause}  {body}")


def as_json(record: Record) -> str:
    """One event as it is stored."""
    return encode(record).decode("utf-8", "replace")
