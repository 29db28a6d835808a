"""`understudy why`: what went wrong in a run, the proof, what was done about it, and how it ended. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from understudy.actors.agents.guards import Conclude, Escalate, Nudge, Quarantine, Restart, Restrict, amount, said
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.supervisors.operator import advice
from understudy.supervisors.operator.log import Entry, entries
from understudy.supervisors.operator.paths import Paths
from understudy.supervisors.operator.text import clean, count, duration, many, name_of, pause
from understudy.supervisors.operator.tree import status_of
from understudy.supervisors.operator.words import altered, denial

PROOFS: Final = 4
"""Different calls that are shown as evidence of one verdict."""
PLACES: Final = 8
"""Events that one line names at the most."""
TOLD: Final = frozenset({"timeout", "busy", "budget", "too_large", "quarantine"})
"""Kinds of a tool's error that are a guard's doing, and not the tool's."""
DONE: Final = {
    "nudge": "was nudged",
    "restrict": "lost the tools of the loop for a while",
    "conclude": "was told to answer",
    "restart": "was restarted",
    "escalate": "was escalated",
    "quarantine": "was quarantined",
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
    """The explanation of a run: one sentence, the findings in order, the end, and commands to try next.

    `change` says what could be set otherwise, where that follows from the end and no finding has said it.
    """

    run: str
    status: str
    sentence: str
    findings: tuple[Finding, ...]
    end: str
    next: tuple[str, ...]
    change: str = ""


def why(records: Sequence[Record], *, name: str = "@", live: bool = True, option: str = "") -> Why:
    """Explain a run. `name` stands for it in the next commands, and `option` is what each needs beside it
    (" --journal other.db"); `live` False: no process drives it.

    Raises `ValueError` for an empty stream.
    """
    run = fold(records)
    rows = entries(records)
    by_seq = {record.seq: row for row in rows for record in row.records}
    found = _Finder(records, rows, by_seq).findings()
    status = status_of(run, live=live)
    sentence = _sentence(run, records, status)
    return Why(
        run.id, status, sentence, tuple(found), _end(run, status), _next(run, status, name, option), _change(run)
    )


def at_event(explained: Why, seq: int) -> Why:
    """Only the findings of one event."""
    kept = tuple(finding for finding in explained.findings if finding.seq == seq)
    return replace(explained, findings=kept)


class _Finder:
    def __init__(self, records: Sequence[Record], rows: Sequence[Entry], by_seq: dict[int, Entry]) -> None:
        self._records = records
        self._by_seq = by_seq
        paths = Paths()
        self._who = {record.seq: name_of(paths.of(record)) for record in records}
        self._known: set[tuple[int, str, str]] = set()
        self._advised: set[str] = set()

    def findings(self) -> list[Finding]:
        """Every finding, oldest first."""
        return [finding for record in self._records if (finding := self._finding(record)) is not None]

    def _finding(self, record: Record) -> Finding | None:
        match record.event:
            case ev.Judged() as event:
                return self._verdict(record, event)
            case ev.ChildExited(exit=exit, intended=False) if not exit.expected and exit.kind not in (
                "loop",
                "escalate",
            ):
                return self._make("crash", record, str(exit), [("done", self._restarted(record))])
            case ev.Escalated(supervisor=supervisor, child=child):
                text = f"{name_of(supervisor)} ended, for the supervisor above it to decide about {name_of(child)}"
                return self._make("escalated", record, text, [("done", self._above(record, supervisor))])
            case ev.GaveUp(child=child, intensity=intensity, within=within) as event:
                text = f"{name_of(child)}: more than {many(intensity, 'restart')} in {duration(within)}"
                details = [("last exit", str(event.exit)), ("change it", advice.given_up(event))]
                return self._make("gave up", record, text, details)
            case ev.BudgetDenied() as event:
                return self._denied(record, event)
            case ev.BudgetBreached(pool=pool, unit=unit, over=over):
                text = f"overspend: {pool}: {amount(unit, over)} {said(unit)} over the cap"
                return self._make("budget", record, text, [("done", "the pool is closed: it admits nothing more")])
            case ev.ToolFailed(kind=kind) as event if kind in TOLD:
                return self._tool_error(record, event)
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
                return self._approval(record, event)
            case ev.InDoubt() as event:
                change = ("change it", advice.doubted(event.effect))
                return self._row("in doubt", record, ("effect", event.effect), ("key", event.key), change)
            case ev.StopAsked(reason=reason, how=how, by=by):
                return self._make(how, record, reason + (f", asked by {by}" if by else ""))
            case _:
                return None

    def _make(self, kind: str, record: Record, text: str, details: Iterable[tuple[str, str]] = ()) -> Finding:
        kept = tuple(Detail(label, clean(line, 200)) for label, line in details if line and self._is_new(label, line))
        return Finding(kind, record.seq, self._who[record.seq], clean(text, 200), kept)

    def _is_new(self, label: str, line: str) -> bool:
        """Whether it is no advice that an earlier finding gave."""
        if label != "change it":
            return True
        new = line not in self._advised
        self._advised.add(line)
        return new

    def _row(self, kind: str, record: Record, *details: tuple[str, str]) -> Finding:
        row = self._by_seq[record.seq]
        told = [*details, ("answer", row.outcome or "none yet")]
        return self._make(kind, record, row.what, sorted(told, key=lambda each: each[0] == "change it"))

    def _model_error(self, record: Record, event: ev.ModelFailed) -> Finding | None:
        """The first error of a kind for each (sub-)run; the rest are counted with it."""
        same = [r.seq for r in self._records if r.sub == record.sub and _kind(r) == event.kind]
        if not self._first(record.sub, "", event.kind):
            return None
        return self._make("model", record, f"{event.kind}: {event.error}", [("at", _places(same, times=True))])

    def _tool_error(self, record: Record, event: ev.ToolFailed) -> Finding | None:
        """As with models: the first of a kind and tool for each (sub-)run."""
        row = self._by_seq[record.seq]
        name = row.what.partition("(")[0]
        if not self._first(record.sub, name, event.kind):
            return None
        same = [
            r.seq
            for r in self._records
            if r.sub == record.sub
            and isinstance(r.event, ev.ToolFailed)
            and r.event.kind == event.kind
            and self._by_seq[r.seq].what.partition("(")[0] == name
        ]
        details = [("at", _places(same, times=True))] if len(same) > 1 else []
        details += [("done", "the agent was told"), ("change it", advice.tool(name, event.kind))]
        kind = "budget" if event.kind == "budget" else "tool"
        return self._make(kind, record, f"{row.what}: {event.error}", details)

    def _first(self, sub: int, name: str, kind: str) -> bool:
        new = (sub, name, kind) not in self._known
        self._known.add((sub, name, kind))
        return new

    def _approval(self, record: Record, event: ev.ApprovalAsked) -> Finding:
        may = f", which {', '.join(event.who)} may answer" if event.who else ""
        refused = (r.event for r in self._records if isinstance(r.event, ev.ApprovalRefused))
        late = any(each.approval == event.approval and each.by == "clock" for each in refused)
        change = advice.EXPIRED if late else ""
        policy = f"{event.policy}{may}"
        return self._row("approval", record, ("policy", policy), ("digest", event.digest), ("change it", change))

    def _denied(self, record: Record, event: ev.BudgetDenied) -> Finding:
        owner, _, run = event.pool.partition("@")
        counts = "of this run" if run else "of all runs together"
        details = [("pool", f"the budget of {owner}, {counts}"), ("spent", self._spent(record, event, shared=not run))]
        done = "asked for a last answer, without tools" if event.answer else "no further call was made"
        details += [("done", done), ("change it", advice.denied(event))]
        return self._make("budget", record, f"denied: {denial(event)}", details)

    def _spent(self, record: Record, event: ev.BudgetDenied, *, shared: bool) -> str:
        """Who of this run has drawn on the pool, how much, and with which calls; of seconds, what took longest."""
        if event.unit == "seconds":
            rows = {
                row.seq: row for row in self._by_seq.values() if row.took and row.seq < record.seq and row.took >= 1
            }
            longest = sorted(rows.values(), key=lambda row: -(row.took or 0.0))[:3]
            return ", ".join(f":{row.seq} {clean(row.what, 40)} {duration(row.took or 0.0)}" for row in longest)
        drawn: dict[str, tuple[int, list[int]]] = {}
        for seq, pools, spent in _spends(self._records, record.seq):
            if event.pool in pools and (units := spent.get(event.unit, 0)):
                had, places = drawn.setdefault(self._who[seq], (0, []))
                drawn[self._who[seq]] = had + units, [*places, seq]
        told = [f"{who} {amount(event.unit, units)} in {_places(places)}" for who, (units, places) in drawn.items()]
        rest = event.spent - sum(units for units, _ in drawn.values())
        return "; ".join(told + ([f"other runs {amount(event.unit, rest)}"] if shared and rest > 0 else []))

    def _verdict(self, record: Record, event: ev.Judged) -> Finding:
        details = [("evidence", line) for line in self._evidence(event.verdict.evidence)]
        details.append(("done", self._response(record, event)))
        details += [("cost", self._cost(record, event)), ("change it", advice.judged(event.verdict))]
        return self._make("loop", record, f"{event.verdict.rule}: {event.verdict.what}", details)

    def _evidence(self, seqs: Sequence[int]) -> list[str]:
        """Places grouped by what was done there and what came of it."""
        proofs: dict[str, list[int]] = {}
        for seq in seqs:
            row = self._by_seq.get(seq)
            text = _proof(row, seq) if row is not None else "(not in this stream)"
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
        if isinstance(response, Escalate):
            return f"escalated, {rung}"
        if isinstance(response, Quarantine):
            return f"stop, and no further requests for it, {rung}"
        return f"stop, {rung}"

    def _above(self, record: Record, supervisor: str) -> str:
        """What became of the requests; what the supervisor above did is no part of a run."""
        above = supervisor.rpartition("/")[0]
        told = f"{name_of(above)} restarts it, or gives up in turn" if above else "there is none: the tree has ended"
        return f"this request was stopped; {told}"

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


def _proof(row: Entry, seq: int) -> str:
    """What was done at an event, and what came of it; of an answer, what it said."""
    for record in row.records:
        if record.seq == seq and isinstance(record.event, ev.ModelAnswered):
            return f"said {clean(record.event.reply.content, 100)!r}"
    return f"{row.what} → {clean(row.outcome, 80)}"


def _places(seqs: Sequence[int], *, times: bool = False) -> str:
    """`:4 :8`, and how often it was when that is asked for."""
    listed = " ".join(f":{seq}" for seq in seqs[:PLACES]) + (" …" if len(seqs) > PLACES else "")
    return f"{listed}, {many(len(seqs), 'time')}" if times else listed


def _spends(records: Sequence[Record], before: int) -> Iterator[tuple[int, tuple[str, ...], Mapping[str, int]]]:
    """(intent, in which pools, how much) of each call that was paid before an event."""
    asked: dict[str, tuple[int, tuple[str, ...]]] = {}
    for record in records:
        if record.seq >= before:
            return
        match record.event:
            case ev.ModelAsked(ticket=ticket, pools=pools):
                asked[ticket] = record.seq, pools
            case ev.ModelAnswered(ticket=ticket, spent=spent) | ev.ModelFailed(ticket=ticket, spent=spent):
                if ticket in asked:
                    yield *asked.pop(ticket), spent
            case ev.ToolAsked(pools=pools, reserved=spent):
                yield record.seq, pools, spent
            case _:
                pass


def _kind(record: Record) -> str:
    return record.event.kind if isinstance(record.event, ev.ModelFailed) else ""


def _sentence(run: Run, records: Sequence[Record], status: str) -> str:
    """What happened, in one breath."""
    verdicts = sum(isinstance(r.event, ev.Judged) for r in records)
    stories = _stories(run, records)
    tally = f" {many(verdicts, 'verdict')}, {many(run.restarts, 'restart')}." if verdicts or run.restarts else ""
    if stories:
        return f"{'; '.join(stories)}. The run is {status}.{tally}"
    reason = run.finished.reason if run.finished is not None else ""
    return f"The run is {status}{f': {clean(reason, 160)}' if reason else ''}.{tally}"


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


def _change(run: Run) -> str:
    """What could be set otherwise, by the end of the run, else by that of a sub-run which came to nothing."""
    ends = [sub.finished for sub in run.subs.values() if sub.finished is not None]
    told = (advice.at_end(end.reason) for end in ends if end.status in ("stopped", "failed"))
    return next((text for text in told if text), "")


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


def _next(run: Run, status: str, name: str, option: str) -> tuple[str, ...]:
    """Commands that make sense now, most urgent first."""
    commands = [f"understudy approve {_tail(yes.id)}" for yes in run.approvals.values() if yes.state == "pending"]
    commands = [f"{command}{option}" for command in commands]
    open_doubts = [_tail(doubt.id) for doubt in run.doubts.values() if doubt.settled is None]
    commands += [f"understudy doubts {doubt}{option} --did | --did-not" for doubt in open_doubts]
    commands += [f"understudy release {clean(agent)}{option}" for agent in _quarantined(run)]
    if status == "interrupted" or (status == "waiting" and not commands) or _may_go_on(run):
        commands.append(f"understudy resume {name}{option}")
    looks = [f"{look} {name}{option}" for look in ("log", "tree", "replay")]
    return (*commands[:4], *looks) if commands else (f"understudy {looks[0]}", *looks[1:])


def _quarantined(run: Run) -> list[str]:
    """The agents that this run has put into quarantine, or waits for."""
    found = (
        sub.agent
        for sub in run.subs.values()
        if (sub.parked is not None and sub.parked.on == "quarantine")
        or (sub.stop_verdict is not None and isinstance(sub.stop_verdict.response, Quarantine))
    )
    return list(dict.fromkeys(found))


def _may_go_on(run: Run) -> bool:
    """Whether it was ended by others than its agent, so that it can be taken up where it was."""
    end = run.finished
    return end is not None and end.status == "stopped" and (not end.decided or end.reason == "abandoned")


def render(found: Why, short: Callable[[str], str]) -> list[str]:
    """The lines of the terminal."""
    lines = [found.sentence]
    for number, finding in enumerate(found.findings, 1):
        place = f"{short(found.run)}:{finding.seq}"
        lines.append(f"{number:>2}  {finding.kind:<12} {place:<10} {finding.who:<12} {finding.text}".rstrip())
        lines += [f"    {detail.label:<12} {detail.text}" for detail in finding.details]
    lines.append(f"    ended        {found.end}")
    lines += [f"    change it    {found.change}"] if found.change else []
    lines.append(f"    Next         {' · '.join(found.next)}")
    return lines
