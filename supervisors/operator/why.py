"""`understudy why`: what went wrong in a run, the proof, what was done about it, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from understudy.actors.agents.guards import Conclude, Nudge, Restart, Restrict, said
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.supervisors.operator.log import Entry, entries
from understudy.supervisors.operator.paths import Paths
from understudy.supervisors.operator.text import clean, count, duration, many, name_of, pause
from understudy.supervisors.operator.tree import status_of
from understudy.supervisors.operator.words import altered, denial

PROOFS: Final = 4
"""Different calls that are shown as evidence of one verdict."""
DONE: Final = {
    "nudge": "was nudged",
    "restrict": "lost the tools of the loop for a while",
    "conclude": "was told to answer",
    "restart": "was restarted",
    "stop": "was stopped",
}


class Detail(Struct, frozen=True):
    """A labelled line below a finding."""

    label: str
    text: str


class Finding(Struct, frozen=True):
    """One thing that went wrong or had to be asked. `seq` is its event, `who` the actor as shown."""

    kind: str
    seq: int
    who: str
    text: str
    details: tuple[Detail, ...] = ()


class Why(Struct, frozen=True):
    """The explanation of a run: one sentence, the findings in order, the end, and commands to try next."""

    run: str
    status: str
    sentence: str
    findings: tuple[Finding, ...]
    end: str
    next: tuple[str, ...]


def why(records: Sequence[Record], *, name: str = "@", live: bool = True) -> Why:
    """Explain a run. `name` stands for it in the next commands; `live` False: no process drives it.

    Raises `ValueError` for an empty stream.
    """
    run = fold(records)
    rows = entries(records)
    by_seq = {record.seq: row for row in rows for record in row.records}
    found = _Finder(records, rows, by_seq).findings()
    status = status_of(run, live=live)
    sentence = _sentence(run, records, status)
    return Why(run.id, status, sentence, tuple(found), _end(run, status), _next(run, status, name))


def at_event(explained: Why, seq: int) -> Why:
    """Only the findings of one event."""
    kept = tuple(finding for finding in explained.findings if finding.seq == seq)
    return Why(explained.run, explained.status, explained.sentence, kept, explained.end, explained.next)


class _Finder:
    def __init__(self, records: Sequence[Record], rows: Sequence[Entry], by_seq: dict[int, Entry]) -> None:
        self._records = records
        self._by_seq = by_seq
        paths = Paths()
        self._who = {record.seq: name_of(paths.of(record)) for record in records}
        self._model_errors: set[tuple[int, str]] = set()

    def findings(self) -> list[Finding]:
        """Every finding, oldest first."""
        return [finding for record in self._records if (finding := self._finding(record)) is not None]

    def _finding(self, record: Record) -> Finding | None:
        match record.event:
            case ev.Judged() as event:
                return self._verdict(record, event)
            case ev.ChildExited(exit=exit, intended=False) if not exit.expected and exit.kind != "loop":
                return self._make("crash", record, str(exit), [("done", self._restarted(record))])
            case ev.GaveUp(child=child, intensity=intensity, within=within):
                text = f"{name_of(child)}: more than {many(intensity, 'restart')} in {duration(within)}"
                return self._make("gave up", record, text, [("last exit", str(record.event.exit))])
            case ev.BudgetDenied() as event:
                return self._make("budget", record, f"denied: {denial(event)}")
            case ev.BudgetBreached(pool=pool, unit=unit, over=over):
                return self._make("budget", record, f"overspend: {pool}: {over} {said(unit)} over the cap")
            case ev.ModelFailed() as event:
                return self._model_error(record, event)
            case ev.ModelSwitched(model=model, reason=reason):
                return self._make("fallback", record, reason, [("done", f"asked {model} from then on")])
            case ev.OutputChecked(check=check, skipped=skipped) if skipped:
                return self._make("skipped", record, f"check {check}: {skipped}", [("done", "the result is degraded")])
            case ev.OutputRejected(error=error, repairs=repairs):
                return self._make(
                    "output", record, f"rejected: {error}", [("done", f"told what is wrong, repair {repairs}")]
                )
            case ev.StateTimedOut(state=state):
                return self._make("timeout", record, f"state {state} timed out", [("done", self._moved(record))])
            case ev.ApprovalAsked() as event:
                return self._row("approval", record, ("policy", event.policy), ("digest", event.digest))
            case ev.InDoubt() as event:
                return self._row("in doubt", record, ("effect", event.effect), ("key", event.key))
            case ev.StopAsked(reason=reason, how=how, by=by):
                return self._make(how, record, reason + (f", asked by {by}" if by else ""))
            case _:
                return None

    def _make(self, kind: str, record: Record, text: str, details: Iterable[tuple[str, str]] = ()) -> Finding:
        kept = tuple(Detail(label, clean(line, 200)) for label, line in details if line)
        return Finding(kind, record.seq, self._who[record.seq], clean(text, 200), kept)

    def _row(self, kind: str, record: Record, *details: tuple[str, str]) -> Finding:
        row = self._by_seq[record.seq]
        return self._make(kind, record, row.what, [*details, ("answer", row.outcome or "none yet")])

    def _model_error(self, record: Record, event: ev.ModelFailed) -> Finding | None:
        """The first error of a kind for each (sub-)run; the rest are counted with it."""
        if (key := (record.sub, event.kind)) in self._model_errors:
            return None
        self._model_errors.add(key)
        same = [r for r in self._records if r.sub == record.sub and _kind(r) == event.kind]
        places = " ".join(f":{r.seq}" for r in same[:8]) + (" …" if len(same) > 8 else "")
        text = f"{event.kind}: {event.error}"
        return self._make("model", record, text, [("at", f"{places}, {many(len(same), 'time')}")])

    def _verdict(self, record: Record, event: ev.Judged) -> Finding:
        details = [("evidence", line) for line in self._evidence(event.verdict.evidence)]
        details.append(("done", self._response(record, event)))
        details.append(("cost", self._cost(record, event)))
        return self._make("loop", record, f"{event.verdict.rule}: {event.verdict.what}", details)

    def _evidence(self, seqs: Sequence[int]) -> list[str]:
        """Places grouped by what was done there and what came of it."""
        proofs: dict[str, list[int]] = {}
        for seq in seqs:
            row = self._by_seq.get(seq)
            text = f"{row.what} → {clean(row.outcome, 80)}" if row is not None else "(not in this stream)"
            proofs.setdefault(text, []).append(seq)
        lines = [f"{' '.join(f':{seq}' for seq in places)}  {text}" for text, places in proofs.items()]
        return lines[:PROOFS] + ([f"and {len(lines) - PROOFS} more"] if len(lines) > PROOFS else [])

    def _response(self, record: Record, event: ev.Judged) -> str:
        response = event.verdict.response
        rung = f"ladder {event.verdict.rung + 1}"
        if isinstance(response, Nudge):
            return f"nudge, {rung}"
        if isinstance(response, Restart):
            waited = self._restarted(record) or "restart, not yet carried out"
            return ", ".join([waited, *altered(record), rung])
        if isinstance(response, Restrict):
            return f"closed {', '.join(map(clean, event.verdict.tools))} for {many(response.steps, 'step')}, {rung}"
        if isinstance(response, Conclude):
            return f"no more tools, {rung}"
        return f"stop, {rung}"

    def _restarted(self, record: Record) -> str:
        """The back-off that followed an event of the same (sub-)run."""
        for later in self._records:
            if later.seq > record.seq and later.sub == record.sub:
                if isinstance(later.event, ev.BackedOff):
                    return f"restart after {pause(later.event.delay)}"
                if isinstance(later.event, ev.AttemptStarted | ev.Judged | ev.GaveUp):
                    return ""
        return ""

    def _moved(self, record: Record) -> str:
        """Where the machine of the same (sub-)run went next."""
        found = (r.event for r in self._records if r.seq > record.seq and r.sub == record.sub)
        moved = next((event for event in found if isinstance(event, ev.Moved)), None)
        return f"moved to {moved.to}" if moved is not None else ""

    def _cost(self, record: Record, event: ev.Judged) -> str:
        """Steps and tokens between the first step of the loop and the verdict."""
        spent = [
            r.event
            for r in self._records
            if r.seq < record.seq
            and r.sub == record.sub
            and isinstance(r.event, ev.ModelAnswered)
            and r.event.step >= event.verdict.since
        ]
        tokens = sum(each.spent.get("tokens", 0) for each in spent)
        more = f"; a round more costs {many(event.verdict.round, 'call')}" if event.verdict.round > 1 else ""
        return f"in the loop {many(len(spent), 'step')}, {count(tokens)} tokens{more}"


def _kind(record: Record) -> str:
    return record.event.kind if isinstance(record.event, ev.ModelFailed) else ""


def _sentence(run: Run, records: Sequence[Record], status: str) -> str:
    """What happened, in one breath."""
    verdicts = sum(isinstance(r.event, ev.Judged) for r in records)
    stories = _stories(run, records)
    tally = f"{many(verdicts, 'verdict')}, {many(run.restarts, 'restart')}."
    if stories:
        return f"{'; '.join(stories)}. The run is {status}. {tally}"
    return f"The run is {status}. {tally}"


def _stories(run: Run, records: Sequence[Record]) -> list[str]:
    """For each (sub-)run that looped: who, what was done, how it came out."""
    done: dict[int, dict[str, None]] = {}
    who: dict[int, str] = {}
    paths = Paths()
    for record in records:
        path = paths.of(record)
        if isinstance(record.event, ev.Judged):
            who.setdefault(record.sub, name_of(path))
            response = type(record.event.verdict.response).__name__.lower()
            done.setdefault(record.sub, {})[DONE.get(response, response)] = None
    stories: list[str] = []
    for sub, acts in done.items():
        end = run.subs[sub].finished
        came = f"ended {end.status}" if end is not None else "goes on"
        stories.append(f"{who[sub]} looped, {', then '.join(acts)}, and {came}")
    return stories


def _end(run: Run, status: str) -> str:
    end = run.finished
    if end is not None:
        return end.status + (f": {clean(end.reason, 300)}" if end.reason else "")
    waiting = [
        f"{sub.parked.on} {', '.join(map(_tail, sub.parked.ids))}".rstrip()
        for sub in run.subs.values()
        if sub.parked is not None and sub.parked.on != "sub"
    ]
    return f"{status}: for {' and '.join(waiting)}" if waiting else status


def _tail(name: str) -> str:
    return clean(name.rpartition("-")[2])


def _next(run: Run, status: str, name: str) -> tuple[str, ...]:
    """Commands that make sense now, most urgent first."""
    commands = [f"understudy approve {_tail(yes.id)}" for yes in run.approvals.values() if yes.state == "pending"]
    commands += [f"understudy doubts {_tail(d.id)} --did | --did-not" for d in run.doubts.values() if d.settled is None]
    if status == "interrupted" or (status == "waiting" and not commands):
        commands.append(f"understudy resume {name}")
    looks = [f"log {name}", f"tree {name}", f"replay {name}"]
    return (*commands[:4], *looks) if commands else (f"understudy {looks[0]}", *looks[1:])


def render(found: Why, short: Callable[[str], str]) -> list[str]:
    """The lines of the terminal."""
    lines = [found.sentence]
    for number, finding in enumerate(found.findings, 1):
        place = f"{short(found.run)}:{finding.seq}"
        lines.append(f"{number:>2}  {finding.kind:<12} {place:<10} {finding.who:<12} {finding.text}".rstrip())
        lines += [f"    {detail.label:<12} {detail.text}" for detail in finding.details]
    lines.append(f"    ended        {found.end}")
    lines.append(f"    Next         {' · '.join(found.next)}")
    return lines
