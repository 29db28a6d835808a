"""The fold: `fold(records)` makes the state of a run from its stream, `apply` takes one more record.

`apply` owns the state it is given: it changes and returns it, so that a long run costs as many steps as it has
events. It is deterministic and looks at nothing but its arguments; records already folded give the same state
however the stream is cut. Outcomes of one batch may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from understudy.actors.agents.guards import Conclude, Restart, Restrict
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold_steps import STEPS, Handler, add_note, close
from understudy.actors.journal.shown import show_task
from understudy.actors.journal.state import Changed, Doubt, Run, Stood, Sub, Yes
from understudy.actors.journal.view import View

OUTCOMES: Final[frozenset[type[ev.Event]]] = frozenset(
    {
        ev.ModelAnswered,
        ev.ToolAnswered,
        ev.ToolFailed,
        ev.ToolStepped,
        ev.HandedOff,
        ev.Unparked,
        ev.StateTimedOut,
        ev.OutputChecked,
    }
)
"""Events by which a run gets on: `Run.fruitless` counts the processes that took it up since the last of them."""


_BEGIN_ANEW: Final[frozenset[type[ev.Event]]] = frozenset({ev.Resumed, ev.Forked})
"""The time before them was another process's."""


def fold(records: Iterable[Record], state: Run | None = None) -> Run:
    """Apply records in order, to `state` or to a new run. Raises `ValueError` for an empty stream."""
    for record in records:
        state = apply(state if state is not None else Run(record.run), record)
    if state is None:
        raise ValueError("an empty stream has no state")
    return state


def apply(run: Run, record: Record) -> Run:
    """The state after one more record. Owns `run`."""
    event = record.event
    kind = type(event)
    _tick(run, record, kind)
    sub = run.subs.get(record.sub)
    if sub is not None:
        sub.seq = record.seq
    if kind in OUTCOMES:
        run.fruitless, run.resumed = 0, False
    handler = _HANDLERS.get(kind)
    if handler is not None:
        handler(run, record, event)
    return run


def _tick(run: Run, record: Record, kind: type[ev.Event]) -> None:
    before, now = run.mono, record.mono
    if before is not None and now > before and kind not in _BEGIN_ANEW and not run.resting:
        run.spend.alive += now - before
    if not run.seq:
        run.started_at = record.at
    run.mono, run.seq, run.last_at = now, record.seq, record.at


# --- runs and sub-runs -----------------------------------------------------------------------------------


def _run_started(run: Run, record: Record, event: ev.RunStarted) -> None:
    sub = run.subs[0] = Sub(0, event.agent, event.type, event.message, seq=record.seq)
    run.asked_agent, run.pools, run.session = event.agent, event.pools, event.session
    run.traceparent, run.parent = event.traceparent, event.parent
    run.escrow, run.escrow_seconds = event.escrow, event.escrow_seconds
    if event.window is not None:
        kept = event.window
        sub.view = View.of(
            kept.items,
            kept.next,
            counted=kept.counted,
            counted_size=kept.counted_size,
            spilled=kept.spilled,
            left_out=kept.left_out,
        )
    elif run.before is not None:
        sub.view, run.before = run.before, None
    show_task(sub)


def _sub_started(run: Run, record: Record, event: ev.SubStarted) -> None:
    sub = run.subs[record.sub] = Sub(
        record.sub,
        event.agent,
        event.type,
        event.message,
        parent=event.parent,
        parent_step=event.step,
        parent_index=event.index,
        seq=record.seq,
    )
    run.last_sub = max(run.last_sub, record.sub)
    if event.parent in run.subs:
        run.subs[event.parent].children += 1
    _take_over(run, sub)
    show_task(sub)


def _attempt_started(run: Run, record: Record, event: ev.AttemptStarted) -> None:
    run.begun = True
    sub = run.subs[record.sub]
    sub.attempt, sub.path, sub.incarnation = event.attempt, record.path, record.incarnation
    sub.rest_until = 0.0
    sub.crash = event.crash or sub.crash
    if event.altered and sub.restart is not None:
        judged = sub.restart.event
        assert isinstance(judged, ev.Judged)  # noqa: S101  # set by _judged only
        _alter(sub, judged, event.altered)
        sub.restart = None


def _alter(sub: Sub, judged: ev.Judged, seq: int) -> None:
    _rewind(sub, judged.rewind_to)
    if judged.note:
        add_note(sub, judged.note, seq)
    if judged.temperature is not None:
        sub.temperature = judged.temperature
    if isinstance(judged.verdict.response, Restart) and judged.verdict.response.model:
        sub.model, sub.switched = judged.verdict.response.model, ""


def _recalled(run: Run, record: Record, event: ev.Recalled) -> None:
    sub = run.subs[record.sub]
    sub.crash = ""
    if event.rewind_to <= sub.step:
        _rewind(sub, event.rewind_to)
    if event.note:
        add_note(sub, event.note, record.seq)


def _rewind(sub: Sub, step: int) -> None:
    sub.turns = [turn for turn in sub.turns if turn.step < step]
    sub.view.rewind(step)
    _move_back(sub, step)
    sub.lows = set()  # what the agent was told of its budgets may have been among what is dropped


def _move_back(sub: Sub, step: int) -> None:
    """A rewind takes back the transitions whose exchanges it drops, but none before the last change of the world.

    The clock of a state is not set back: one whose time has passed meanwhile times out at once.
    """
    for number, stood in enumerate(sub.stood):
        if stood.step >= step and stood.seq > sub.changed:
            sub.state, sub.until, sub.expired = stood.state, stood.until, False
            del sub.stood[number:]
            return


def _resumed(run: Run, record: Record, event: ev.Resumed) -> None:
    if not event.reopen:
        run.fruitless += run.begun  # by no fault of its own if it only waited for its turn
        run.begun, run.resumed = False, True
        return
    run.stop = None
    run.fruitless, run.begun = 0, False
    for sub in run.subs.values():
        if sub.finished is not None and not sub.finished.decided:
            sub.finished = None
        if sub.finished is not None and sub.finished.status == "stopped" and sub.finished.reason == "abandoned":
            sub.finished = None
        if sub.parked is not None and sub.parked.on in ("asker", "shutdown"):
            sub.parked = None


def _stop_asked(run: Run, record: Record, event: ev.StopAsked) -> None:
    run.stop = event


def _finished(run: Run, record: Record, event: ev.Finished) -> None:
    sub = run.subs[record.sub]
    sub.finished, sub.parked = event, None
    sub.evidence.watch = None  # made anew if it goes on after all


def _handed_off(run: Run, record: Record, event: ev.HandedOff) -> None:
    sub = run.subs[record.sub]
    sub.agent, sub.type, sub.message, sub.hops = event.to, event.type, event.message, event.hops
    if run.session and not sub.id:
        sub.left = sub.left or sub.view
    sub.view = View()
    show_task(sub)
    sub.turns, sub.path, sub.incarnation = [], "", 0
    sub.attempt = sub.failures = sub.repairs = sub.changed = 0
    sub.temperature, sub.switched, sub.model, sub.crash = None, "", "", ""
    sub.lows, sub.closed = set(), {}
    sub.state, sub.until, sub.expired, sub.stood = "", 0.0, False, []
    _take_over(run, sub)


def _forked(run: Run, record: Record, event: ev.Forked) -> None:
    """Nobody drives it yet; what somebody wanted of the other run, and what its ledger said, does not hold here."""
    run.stop, run.fruitless = None, 0
    if event.agent:
        run.changed[event.agent] = Changed(event.instructions, event.model)
    for sub in run.subs.values():
        if sub.finished is not None:
            continue
        sub.parked, sub.path, sub.incarnation, sub.rest_until = None, "", 0, 0.0
        sub.denied = sub.denied if sub.concluding else None
        if sub.agent == event.agent:
            _take_over(run, sub)


def _take_over(run: Run, sub: Sub) -> None:
    """The agent that a (sub-)run is at has what a fork has put in the place of its own."""
    changed = run.changed.get(sub.agent) if run.changed else None
    sub.instructions = changed.instructions if changed is not None else None
    if changed is not None and changed.model:
        sub.model, sub.switched, sub.failures = changed.model, "", 0


def _parked(run: Run, record: Record, event: ev.Parked) -> None:
    run.subs[record.sub].parked = event


def _unparked(run: Run, record: Record, event: ev.Unparked) -> None:
    run.subs[record.sub].parked = None


# --- state machines --------------------------------------------------------------------------------------


def _moved(run: Run, record: Record, event: ev.Moved) -> None:
    sub = run.subs[record.sub]
    if event.source:
        sub.stood.append(Stood(record.seq, event.step, sub.state, sub.until))
    sub.state, sub.until, sub.expired = event.to, event.until, False
    sub.repairs = 0
    if event.cause == "model":
        close(run, sub, (event.step, event.index), ok=True, outcome=event.result, seq=record.seq)
    elif event.cause == "timeout":
        _void(run, sub, event, record.seq)


def _void(run: Run, sub: Sub, event: ev.Moved, seq: int) -> None:
    """A state timed out: what the newest reply still wanted is not done, and the model is told why."""
    turn = sub.last if sub.last is not None and sub.last.open else None
    if turn is None:
        add_note(sub, event.result, seq)
        return
    for index, call in enumerate(turn.calls):
        if not call.done:
            close(run, sub, (turn.step, index), ok=False, outcome=event.result, kind="timeout", seq=seq)


def _state_timed_out(run: Run, record: Record, event: ev.StateTimedOut) -> None:
    sub = run.subs[record.sub]
    sub.expired = sub.expired or (bool(sub.state) and sub.state == event.state)


# --- guards, people --------------------------------------------------------------------------------------


def _judged(run: Run, record: Record, event: ev.Judged) -> None:
    sub = run.subs[record.sub]
    sub.verdicts.append(event.verdict)
    kind = type(event.verdict.response).__name__
    if kind in ("Restart", "Escalate"):
        sub.restart = record
    elif kind in ("Stop", "Quarantine"):
        sub.stop_verdict = event.verdict
    elif event.note:
        add_note(sub, event.note, record.seq)
    if isinstance(event.verdict.response, Conclude):
        sub.closed["*"] = 0
    elif isinstance(event.verdict.response, Restrict):
        sub.closed.update(dict.fromkeys(event.verdict.tools, sub.answered + event.verdict.response.steps))


def _budget_denied(run: Run, record: Record, event: ev.BudgetDenied) -> None:
    sub = run.subs[record.sub]
    sub.denied = event
    if not event.note:
        return
    turn = sub.last if sub.last is not None and sub.last.open else None
    for index, call in enumerate(turn.calls) if turn is not None else ():
        if turn is not None and not call.done and call.asked is None:
            at = (turn.step, index)
            close(run, sub, at, ok=False, outcome="not made: the budget is used up", kind="budget", seq=record.seq)
    add_note(sub, event.note, record.seq)


def _budget_low(run: Run, record: Record, event: ev.BudgetLow) -> None:
    sub = run.subs[record.sub]
    sub.lows.add((event.pool, event.unit))
    add_note(sub, event.note, record.seq)


def _budget_breached(run: Run, record: Record, event: ev.BudgetBreached) -> None:
    over = run.over.setdefault(event.pool, {})
    over[event.unit] = over.get(event.unit, 0) + event.over


def _spend_corrected(run: Run, record: Record, event: ev.SpendCorrected) -> None:
    estimate = run.estimates.pop(event.ticket, None)
    if estimate is None:
        return
    change = {unit: event.spent.get(unit, 0) - was for unit, was in estimate.spent.items()}
    subs = [sub for sub in run.subs.values() if sub.id == estimate.sub]
    for spend in (run.booked[estimate.pools], run.spend, *(sub.spend for sub in subs)):
        spend.add(change)
    for sub in subs:
        sub.spend.estimated = any(each.sub == sub.id for each in run.estimates.values())
    run.spend.estimated = bool(run.estimates)


def _approval_asked(run: Run, record: Record, event: ev.ApprovalAsked) -> None:
    run.approvals[event.approval] = Yes(event.approval, record.sub, event, seq=record.seq)
    state = run.subs[record.sub].find(event.step, event.index)
    if state is not None:
        state.approval = event.approval


def _approval_given(run: Run, record: Record, event: ev.ApprovalGiven) -> None:
    yes = run.approvals[event.approval]
    if yes.state != "pending":
        return
    yes.state, yes.by, yes.digest, yes.arguments = "granted", event.by, event.digest, event.arguments
    state = run.subs[yes.sub].find(yes.asked.step, yes.asked.index)
    if state is not None and event.arguments:
        state.edited, state.editor = event.arguments, event.by


def _approval_refused(run: Run, record: Record, event: ev.ApprovalRefused) -> None:
    yes = run.approvals[event.approval]
    if yes.state not in ("pending", "granted"):
        return
    yes.state, yes.by, yes.reason = "refused", event.by, event.reason
    text = f"refused by {event.by}: {event.reason}" if event.reason else f"refused by {event.by}"
    at = (yes.asked.step, yes.asked.index)
    close(run, run.subs[yes.sub], at, ok=False, outcome=text, kind="refused", seq=yes.seq)


def _in_doubt(run: Run, record: Record, event: ev.InDoubt) -> None:
    run.doubts[event.doubt] = Doubt(event.doubt, record.sub, event)
    state = run.subs[record.sub].find(event.step, event.index)
    if state is not None:
        state.doubt = event.doubt


def _doubt_settled(run: Run, record: Record, event: ev.DoubtSettled) -> None:
    doubt = run.doubts[event.doubt]
    doubt.settled = event.did
    at = (doubt.event.step, doubt.event.index)
    if event.did:
        outcome = event.result or msgspec.json.encode({"settled": "it happened", "by": event.by}).decode()
        close(run, run.subs[doubt.sub], at, ok=True, outcome=outcome)
        return
    state = run.subs[doubt.sub].find(*at)
    if state is not None:  # it did not happen: the call is planned anew, and needs a new yes
        state.asked, state.doubt, state.approval = None, "", ""
        state.seq, state.edited, state.editor = 0, "", ""


def _backed_off(run: Run, record: Record, event: ev.BackedOff) -> None:
    run.restarts += 1
    run.subs[record.sub].rest_until = record.at + event.delay


_HANDLERS: Final[Mapping[type[ev.Event], Handler]] = {
    **STEPS,
    ev.RunStarted: _run_started,
    ev.SubStarted: _sub_started,
    ev.AttemptStarted: _attempt_started,
    ev.Recalled: _recalled,
    ev.Resumed: _resumed,
    ev.StopAsked: _stop_asked,
    ev.Finished: _finished,
    ev.HandedOff: _handed_off,
    ev.Parked: _parked,
    ev.Unparked: _unparked,
    ev.Moved: _moved,
    ev.StateTimedOut: _state_timed_out,
    ev.Judged: _judged,
    ev.BudgetDenied: _budget_denied,
    ev.BudgetLow: _budget_low,
    ev.BudgetBreached: _budget_breached,
    ev.SpendCorrected: _spend_corrected,
    ev.ApprovalAsked: _approval_asked,
    ev.ApprovalGiven: _approval_given,
    ev.ApprovalRefused: _approval_refused,
    ev.InDoubt: _in_doubt,
    ev.DoubtSettled: _doubt_settled,
    ev.BackedOff: _backed_off,
    ev.Forked: _forked,
}
