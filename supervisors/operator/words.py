"""One line per durable fact, in the order in which they become durable: `Narrator.facts(record)`. Pure.

The end of the run itself is not told here: `ending` does, with the result in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from msgspec import Struct

from understudy.actors.agents.guards import Nudge, Restart, amount, said
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.state import Run, Sub
from understudy.actors.lifecycle import Exit
from understudy.supervisors.operator.paths import Paths
from understudy.supervisors.operator.text import call_text, clean, duration, many, name_of, pause

VERB: Final = 12
"""Columns of the verb, which stands at the right of them."""
WHO: Final = 12
TEXT: Final = 56

E = TypeVar("E", bound=ev.Event)

Describe = Callable[[str, str], "tuple[str, str] | None"]
"""From an agent's name and its output (JSON) to the verb and the text for it; None for the plain words."""


class Fact(Struct, frozen=True):
    """A verb, whom it is about, what, and what stands at the end of the line."""

    verb: str
    who: str
    text: str
    tail: str = ""

    def line(self, width: int = 0) -> str:
        """The line, verb to the right of its columns; one longer than `width` does not line its end up."""
        line = f"{self.verb:>{VERB}}  {self.who:<{WHO}} {self.text}"
        lined = f"{line:<{VERB + WHO + TEXT}}  {self.tail}".rstrip()
        return lined if len(lined) <= width or not width else f"{line}  {self.tail}".rstrip()


class Narrator:
    """Tells the facts of every run whose stream it is given, whole or from some event on.

    `short` writes a run's id; `describe` puts the output of a sub-run into words; `opening` is said of a run
    that starts, instead of the agent and what it was asked.
    """

    def __init__(
        self,
        *,
        short: Callable[[str], str] = lambda run: run[:4],
        describe: Describe | None = None,
        opening: str = "",
    ) -> None:
        self._short = short
        self._describe = describe
        self._opening = opening
        self.runs: dict[str, Run] = {}
        self._paths: dict[str, Paths] = {}
        self._exits: dict[str, Exit] = {}

    def learn(self, records: list[Record]) -> None:
        """Take in the past of a run without telling it."""
        for record in records:
            self.facts(record)

    def facts(self, record: Record) -> list[Fact]:
        """What to say about `record`, mostly nothing."""
        path = self._paths.setdefault(record.run, Paths()).of(record)
        run = self._fold(record)
        teller = _TELLERS.get(type(record.event))
        found = teller(self, record, name_of(path), run) if teller is not None else []
        if isinstance(record.event, ev.ChildExited):
            self._exits[record.path] = record.event.exit
        return found

    def _fold(self, record: Record) -> Run | None:
        """The state after `record`; None for a stream whose beginning was not seen."""
        run = self.runs.get(record.run)
        if run is None and record.seq != 1:
            return None
        if run is not None and record.seq <= run.seq:
            return run
        try:
            run = apply(run or Run(record.run), record)
        except (LookupError, AssertionError):  # an event in between was missed: go on without the past
            self.runs.pop(record.run, None)
            return None
        if run.subs:
            self.runs[record.run] = run
        return run

    # -- the tellers, one a kind of event; `run` is None when its past is unknown ------------------------------

    def started(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A request from outside."""
        event = _typed(record, ev.RunStarted)
        text = self._opening or f"{event.type} {clean(event.message, 48)}"
        return [Fact("Started", who, text, f"run {self._short(record.run)}")]

    def forked(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """It goes on from another run."""
        event = _typed(record, ev.Forked)
        changed = f", {changes(event)}" if changes(event) else ""
        text = f"from {self._short(event.run)}:{event.at}{changed}"
        return [Fact("Forked", who, text, f"run {self._short(record.run)}")]

    def resumed(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A process took the run up again."""
        event = _typed(record, ev.Resumed)
        by = f" by {clean(event.by)}" if event.reopen and event.by else ""
        return [Fact("Resumed", who, f"run {self._short(record.run)}{by}", self._at(record))]

    def finished(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A sub-run ended."""
        event = _typed(record, ev.Finished)
        if record.sub == 0:
            return []
        sub = _sub(run, record)
        tail = many(sub.spend.steps, "step") if sub is not None else ""
        if event.status in ("stopped", "failed"):
            return [Fact(event.status.capitalize(), who, clean(event.reason, 160), tail)]
        told = self._describe(sub.agent, event.output) if self._describe is not None and sub is not None else None
        verb, text = told or ("Finished", event.status + (f": {event.reason}" if event.reason else ""))
        return [Fact(verb, who, clean(text, 160), tail)]

    def handed_off(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The output went on to another agent."""
        event = _typed(record, ev.HandedOff)
        return [Fact("Handed on", who, f"{clean(event.type)} to {clean(event.to)}", self._at(record))]

    def judged(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A guard's verdict, and the first rung if it is said at once."""
        event = _typed(record, ev.Judged)
        facts = [Fact("Looped", who, clean(event.verdict.what, 160), self._at(record))]
        if isinstance(event.verdict.response, Nudge):
            facts.append(Fact("Nudged", who, "told what repeated", f"ladder {event.verdict.rung + 1}"))
        return facts

    def exited(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """An incarnation crashed; one that a verdict ended was told of already."""
        event = _typed(record, ev.ChildExited)
        if event.intended or event.exit.expected or event.exit.kind in ("loop", "escalate"):
            return []
        return [Fact("Crashed", name_of(event.child), clean(str(event.exit), 160), self._at(record))]

    def backed_off(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The supervisor starts the next incarnation after a pause."""
        event = _typed(record, ev.BackedOff)
        sub = _sub(run, record)
        changes = [f"in {pause(event.delay)}", *altered(sub.restart if sub is not None else None)]
        if len(changes) == 1 and (exit := event.exit or self._exits.get(event.child)) is not None:
            changes.append(f"after {clean(str(exit), 80)}")
        return [Fact("Restarted", name_of(event.child), " · ".join(changes), f"restarts {event.in_window} in window")]

    def gave_up(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """Too many restarts."""
        event = _typed(record, ev.GaveUp)
        text = f"more than {many(event.intensity, 'restart')} in {duration(event.within)}: {name_of(event.child)}"
        return [Fact("Gave up", name_of(event.supervisor), text, clean(str(event.exit), 80))]

    def escalated(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The supervisor ended, for its own to decide."""
        event = _typed(record, ev.Escalated)
        text = f"{name_of(event.child)}: {clean(event.exit.detail, 120)}, for the supervisor above to decide"
        return [Fact("Escalated", name_of(event.supervisor), text, self._at(record))]

    def denied(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The ledger said no."""
        return [Fact("Denied", who, denial(_typed(record, ev.BudgetDenied)), self._at(record))]

    def breached(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A bill above the cap."""
        event = _typed(record, ev.BudgetBreached)
        text = f"{clean(event.pool)}: {amount(event.unit, event.over)} {clean(said(event.unit))} over the cap"
        return [Fact("Overspent", who, text, self._at(record))]

    def low(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The agent was told what is left."""
        return [Fact("Told", who, nearing(_typed(record, ev.BudgetLow)), self._at(record))]

    def corrected(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A bill came for what was counted with its cap."""
        event = _typed(record, ev.SpendCorrected)
        return [Fact("Corrected", who, correction(event), self._at(record))]

    def approval_asked(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A person is waited for."""
        event = _typed(record, ev.ApprovalAsked)
        policy = f" ({clean(event.policy)})" if event.policy else ""
        text = f"{call_text(event.name, event.arguments)} needs a yes{policy}"
        return [Fact("Waiting", who, text, f"understudy approve {self.handle(event.approval)}")]

    def approved(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A person said yes."""
        event = _typed(record, ev.ApprovalGiven)
        text = f"{self.handle(event.approval)} by {clean(event.by)}"
        text += f", changed to {clean(event.arguments, 120)}" if event.arguments else ""
        return [Fact("Approved", who, text, self._at(record))]

    def refused(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A person said no, or the yes no longer holds."""
        event = _typed(record, ev.ApprovalRefused)
        reason = f": {clean(event.reason, 120)}" if event.reason else ""
        return [Fact("Refused", who, f"{self.handle(event.approval)} by {clean(event.by)}{reason}", self._at(record))]

    def doubted(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """Nobody knows whether a call happened."""
        event = _typed(record, ev.InDoubt)
        text = f"{call_text(event.name, event.arguments)} may have happened or not"
        return [Fact("Doubted", who, text, f"understudy doubts {self.handle(event.doubt)} --did | --did-not")]

    def settled(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """Somebody said whether it did."""
        event = _typed(record, ev.DoubtSettled)
        text = f"{self.handle(event.doubt)} {'did happen' if event.did else 'did not happen'}, says {clean(event.by)}"
        return [Fact("Settled", who, text, self._at(record))]

    def rejected(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """An answer did not fit its type."""
        event = _typed(record, ev.OutputRejected)
        return [Fact("Rejected", who, f"its answer: {clean(event.error, 120)}", f"repair {event.repairs}")]

    def checked(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A check could not look at an answer; what one objects is told when the answer is rejected."""
        event = _typed(record, ev.OutputChecked)
        if not event.skipped:
            return []
        return [Fact("Skipped", who, f"check {clean(event.check)}: {clean(event.skipped, 120)}", self._at(record))]

    def switched(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The fallback model is asked from now on."""
        event = _typed(record, ev.ModelSwitched)
        return [Fact("Switched", who, f"to {clean(event.model)}: {clean(event.reason, 120)}", self._at(record))]

    def compacted(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The context window was made smaller."""
        event = _typed(record, ev.Compacted)
        text = f"its window by {clean(event.rule)}: about {event.tokens} → {event.left} tokens"
        return [Fact("Compacted", who, text, self._at(record))]

    def moved(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """The agent's machine is in another state."""
        event = _typed(record, ev.Moved)
        if event.cause == "start":
            return []
        text = f"{clean(event.source)} → {clean(event.to)} on {clean(event.event or event.cause)}"
        return [Fact("Moved", who, text, self._at(record))]

    def erred(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """A model call went wrong."""
        event = _typed(record, ev.ModelFailed)
        return [Fact("Erred", who, f"model {clean(event.kind)}: {clean(event.error, 120)}", self._at(record))]

    def stopping(self, record: Record, who: str, run: Run | None) -> list[Fact]:
        """Somebody asked the run to end or to rest."""
        event = _typed(record, ev.StopAsked)
        by = f", says {clean(event.by)}" if event.by else ""
        return [Fact("Stopping" if event.how == "stop" else "Parking", who, clean(event.reason) + by, self._at(record))]

    def handle(self, name: str) -> str:
        """An approval's or doubt's id with its run's id shortened: `7f3a-a1`."""
        run, dash, rest = name.rpartition("-")
        return clean(f"{self._short(run)}{dash}{rest}" if dash else name)

    def _at(self, record: Record) -> str:
        return f"{self._short(record.run)}:{record.seq}"


def altered(restart: Record | None) -> list[str]:
    """What a verdict of restart changes for the next attempt, in words."""
    event = restart.event if restart is not None else None
    if not isinstance(event, ev.Judged) or not isinstance(event.verdict.response, Restart):
        return []
    note = " → 1 note" if event.note else ""
    changes: list[str] = []
    if event.dropped:
        changes += [f"back to step {event.rewind_to}", f"{many(event.dropped, 'exchange')}{note}"]
    if event.temperature is not None:
        changes.append(f"temperature {event.temperature:g}")
    if event.verdict.response.model:
        changes.append(f"model {clean(event.verdict.response.model)}")
    return changes


def changes(event: ev.Forked) -> str:
    """What is different from a fork on, in words; "" for nothing but what the code now says."""
    told = [f"result of :{event.changed} changed"] if event.changed else []
    told += [f"{clean(event.agent)} has other instructions"] if event.instructions is not None else []
    told += [f"{clean(event.agent)} asks {clean(event.model)}"] if event.model else []
    return ", ".join(told)


def denial(event: ev.BudgetDenied) -> str:
    """What the ledger refused, with its numbers."""
    unit = event.unit
    parts = [f"{amount(unit, event.spent)} spent"]
    parts += [f"{amount(unit, event.reserved)} reserved"] if event.reserved else []
    parts += [f"{amount(unit, event.wanted)} wanted"] if event.wanted else []
    return f"{clean(event.pool)}: {clean(said(unit))} {' + '.join(parts)} of {amount(unit, event.limit)}"


def nearing(event: ev.BudgetLow) -> str:
    """How near a limit is."""
    left = max(0, event.limit - event.spent)
    told = f"{amount(event.unit, left)} of {amount(event.unit, event.limit)}"
    return f"{told} {clean(said(event.unit))} left in {clean(event.pool)}"


def correction(event: ev.SpendCorrected) -> str:
    """What a call cost that had been counted with its cap."""
    return f"{clean(event.ticket)} cost {event.spent.get('tokens', 0)} tokens"


def _sub(run: Run | None, record: Record) -> Sub | None:
    return run.subs.get(record.sub) if run is not None else None


def _typed(record: Record, kind: type[E]) -> E:
    assert isinstance(record.event, kind)  # noqa: S101  # the table below says so
    return record.event


Teller = Callable[[Narrator, Record, str, "Run | None"], list[Fact]]

_TELLERS: Final[Mapping[type[ev.Event], Teller]] = {
    ev.RunStarted: Narrator.started,
    ev.Resumed: Narrator.resumed,
    ev.Forked: Narrator.forked,
    ev.Finished: Narrator.finished,
    ev.HandedOff: Narrator.handed_off,
    ev.Judged: Narrator.judged,
    ev.ChildExited: Narrator.exited,
    ev.BackedOff: Narrator.backed_off,
    ev.Escalated: Narrator.escalated,
    ev.GaveUp: Narrator.gave_up,
    ev.BudgetDenied: Narrator.denied,
    ev.BudgetBreached: Narrator.breached,
    ev.BudgetLow: Narrator.low,
    ev.SpendCorrected: Narrator.corrected,
    ev.ApprovalAsked: Narrator.approval_asked,
    ev.ApprovalGiven: Narrator.approved,
    ev.ApprovalRefused: Narrator.refused,
    ev.InDoubt: Narrator.doubted,
    ev.DoubtSettled: Narrator.settled,
    ev.OutputRejected: Narrator.rejected,
    ev.OutputChecked: Narrator.checked,
    ev.ModelSwitched: Narrator.switched,
    ev.Moved: Narrator.moved,
    ev.Compacted: Narrator.compacted,
    ev.ModelFailed: Narrator.erred,
    ev.StopAsked: Narrator.stopping,
}
