"""The fold: `fold(records)` makes the state of a run from its stream, `apply` takes one more record.

`apply` owns the state it is given: it changes and returns it, so that a long run costs as many steps as it has
events. It is deterministic and looks at nothing but its arguments; records already folded give the same state
however the stream is cut. Outcomes of one batch may come in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from understudy.actors.agents.guards import Step
from understudy.actors.agents.models import ModelReply
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.shown import show_note, show_task, show_turn
from understudy.actors.journal.state import CallState, Doubt, Run, Stood, Sub, Turn, Yes, digest
from understudy.actors.journal.view import SUMMARY, View, length, within

OUTCOMES: Final[frozenset[type[ev.Event]]] = frozenset(
    {
        ev.ModelAnswered,
        ev.ToolAnswered,
        ev.ToolFailed,
        ev.ToolStepped,
        ev.HandedOff,
        ev.Unparked,
        ev.StateTimedOut,
    }
)
"""Events by which a run gets on: `Run.fruitless` counts how often it was taken up since the last of them."""
NO_MORE: Final = 1_000
"""Failures that a refusal counts for: it is not asked again before another rule has made room."""
EVIDENCE: Final = 256
"""Acts kept as evidence for the loop guard, newest last."""


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
        run.fruitless = 0
    handler = _HANDLERS.get(kind)
    if handler is not None:
        handler(run, record, event)
    return run


def _tick(run: Run, record: Record, kind: type[ev.Event]) -> None:
    before, now = run.mono, record.mono
    if before is not None and now > before and kind is not ev.Resumed and not run.resting:
        run.spend.alive += now - before
    if not run.seq:
        run.started_at = record.at
    run.mono, run.seq, run.last_at = now, record.seq, record.at


# --- runs and sub-runs -----------------------------------------------------------------------------------


def _run_started(run: Run, record: Record, event: ev.RunStarted) -> None:
    sub = run.subs[0] = Sub(0, event.agent, event.type, event.message, seq=record.seq)
    run.asked_agent, run.pools, run.session = event.agent, event.pools, event.session
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
    run.newest_sub = max(run.newest_sub, record.sub)
    show_task(sub)


def _attempt_started(run: Run, record: Record, event: ev.AttemptStarted) -> None:
    sub = run.subs[record.sub]
    sub.attempt, sub.path, sub.incarnation = event.attempt, record.path, record.incarnation
    sub.rest_until = 0.0
    if event.altered and sub.restart is not None:
        judged = sub.restart.event
        assert isinstance(judged, ev.Judged)  # noqa: S101  # set by _judged only
        _alter(sub, judged, event.altered)
        sub.restart = None


def _alter(sub: Sub, judged: ev.Judged, seq: int) -> None:
    sub.turns = [turn for turn in sub.turns if turn.step < judged.rewind_to]
    sub.view.rewind(judged.rewind_to)
    _move_back(sub, judged.rewind_to)
    if judged.note:
        _add_note(sub, judged.note, seq)
    if judged.temperature is not None:
        sub.temperature = judged.temperature


def _move_back(sub: Sub, step: int) -> None:
    """A rewind takes back the transitions whose exchanges it drops, but none before the last change of the world.

    The clock of a state is not set back: one whose time has passed meanwhile times out at once.
    """
    for number, stood in enumerate(sub.stood):
        if stood.step >= step and stood.seq > sub.changed:
            sub.state, sub.until, sub.expired = stood.state, stood.until, False
            del sub.stood[number:]
            return


def _add_note(sub: Sub, note: str, seq: int) -> None:
    sub.turns.append(Turn(sub.step, note=note, seq=seq))
    show_note(sub, note)


def _resumed(run: Run, record: Record, event: ev.Resumed) -> None:
    if not event.reopen:
        run.fruitless += 1
        return
    run.stop = None
    run.fruitless = 0
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


def _handed_off(run: Run, record: Record, event: ev.HandedOff) -> None:
    sub = run.subs[record.sub]
    sub.agent, sub.type, sub.message, sub.hops = event.to, event.type, event.message, event.hops
    if run.session and not sub.id:
        sub.left = sub.left or sub.view
    sub.view = View()
    show_task(sub)
    sub.turns, sub.path, sub.incarnation = [], "", 0
    sub.attempt = sub.failures = sub.repairs = sub.changed = 0
    sub.temperature = None
    sub.state, sub.until, sub.expired, sub.stood = "", 0.0, False, []


def _parked(run: Run, record: Record, event: ev.Parked) -> None:
    run.subs[record.sub].parked = event


def _unparked(run: Run, record: Record, event: ev.Unparked) -> None:
    run.subs[record.sub].parked = None


# --- steps -----------------------------------------------------------------------------------------------


def _model_asked(run: Run, record: Record, event: ev.ModelAsked) -> None:
    sub = run.subs[record.sub]
    sub.asking, sub.step = event, event.step
    run.tickets[event.ticket] = (event.pools, event.reserved)


def _settle(run: Run, sub: Sub, ticket: str, spent: dict[str, int], *, estimated: bool = False) -> None:
    pools, _ = run.tickets.pop(ticket, ((), {}))
    for pool in pools:
        booked = run.booked.setdefault(pool, {})
        for unit, amount in spent.items():
            booked[unit] = booked.get(unit, 0) + amount
    sub.spend.add(spent, estimated=estimated)
    run.spend.add(spent, estimated=estimated)


def _model_answered(run: Run, record: Record, event: ev.ModelAnswered) -> None:
    sub = run.subs[record.sub]
    asking, sub.asking = sub.asking, None
    _settle(run, sub, event.ticket, event.spent, estimated=event.estimated)
    if asking is not None and asking.covers:
        _summarised(sub, asking, event.reply)
        return
    sub.failures, sub.answered = 0, event.step
    turn = Turn(event.step, reply=event.reply, calls=[CallState(call) for call in event.reply.calls], seq=record.seq)
    sub.turns.append(turn)
    if asking is not None and event.reply.usage is not None:
        sub.view.count(event.reply.usage.input_tokens, asking.size)
    if not turn.calls:
        show_turn(run.id, sub, turn)
        _witness(sub, Step(event.step, sub.agent, "", "", digest(event.reply.content), event=record.seq))


def _model_failed(run: Run, record: Record, event: ev.ModelFailed) -> None:
    sub = run.subs[record.sub]
    asking, sub.asking, sub.last_failure = sub.asking, None, event
    _settle(run, sub, event.ticket, event.spent, estimated=event.estimated)
    if asking is not None and asking.covers:
        sub.view.summary_tokens += asking.size + asking.max_tokens if event.estimated else 0
        if event.kind != "interrupted":
            sub.view.summary_failures += 1 if event.retryable else NO_MORE
    elif event.kind not in ("interrupted", "budget"):
        sub.failures += 1


def _summarised(sub: Sub, asking: ev.ModelAsked, reply: ModelReply) -> None:
    """A summary takes the place of what it covers; one that is empty, or no shorter than that, is none."""
    view, usage = sub.view, reply.usage
    counted = usage.input_tokens + usage.output_tokens if usage is not None else asking.size + asking.max_tokens
    view.summary_tokens += counted
    gone = within(asking.covers)
    text = SUMMARY.format(text=reply.content.strip())
    if reply.content.strip() and length(text) < sum(item.size for item in view.items if gone(item.number)):
        view.replace(asking.covers, text, "summary")
        view.summary_failures = 0
    else:
        view.summary_failures += 1


def _summary_denied(run: Run, record: Record, event: ev.SummaryDenied) -> None:
    run.subs[record.sub].view.summary_failures += NO_MORE


def _compacted(run: Run, record: Record, event: ev.Compacted) -> None:
    view = run.subs[record.sub].view
    view.replace(event.dropped, event.text, "gap")
    view.shorten(event.cuts)
    view.summary_failures = 0  # another rule made room: the next time, a summary may be asked for again


def _witness(sub: Sub, step: Step) -> None:
    sub.evidence.append(step)
    if len(sub.evidence) > EVIDENCE:
        del sub.evidence[0]


def _tool_asked(run: Run, record: Record, event: ev.ToolAsked) -> None:
    sub = run.subs[record.sub]
    state = sub.find(event.step, event.index)
    if state is not None:
        state.asked, state.seq = event, record.seq
    if event.approval:
        run.approvals[event.approval].state = "used"
    if event.ticket:
        run.tickets[event.ticket] = (event.pools, event.reserved)
    run.newest_sub = max(run.newest_sub, event.sub)


def _tool_stepped(run: Run, record: Record, event: ev.ToolStepped) -> None:
    state = run.subs[record.sub].find(event.step, event.index)
    if state is not None:
        state.recorded[event.name] = event.result


def _close(run: Run, sub: Sub, at: tuple[int, int], *, ok: bool, outcome: str, kind: str = "", seq: int = 0) -> None:
    """A call has its outcome. When it is the last one of its turn, the turn's calls become evidence, in their order."""
    state = sub.find(*at)
    if state is None or state.done:
        return
    state.done, state.ok, state.outcome, state.kind = True, ok, outcome, kind
    if ok and state.asked is not None and (state.asked.effect != "read" or state.asked.sub):
        sub.changed = max(sub.changed, state.seq)  # by its intent; what a delegate did, nobody here knows
    state.seq = state.seq or seq
    if state.asked is not None and state.asked.ticket:
        _settle(run, sub, state.asked.ticket, state.asked.reserved)
    turn = next(turn for turn in reversed(sub.turns) if turn.step == at[0] and turn.reply is not None)
    if not turn.open:
        show_turn(run.id, sub, turn)
        for call in turn.calls:
            _witness(sub, _act(sub, turn.step, call))


def _act(sub: Sub, step: int, call: CallState) -> Step:
    """A closed call as evidence. It is named by its intent, so the order of outcomes does not matter."""
    asked = call.asked
    return Step(
        step,
        sub.agent,
        call.call.name,
        asked.loop_key if asked is not None else call.call.arguments,
        digest(call.outcome),
        "" if call.ok else call.outcome or call.kind,
        world=call.ok and asked is not None and asked.effect != "read",
        polling=asked is not None and asked.polling,
        event=call.seq,
    )


def _tool_answered(run: Run, record: Record, event: ev.ToolAnswered) -> None:
    _close(run, run.subs[record.sub], (event.step, event.index), ok=True, outcome=event.result)


def _tool_failed(run: Run, record: Record, event: ev.ToolFailed) -> None:
    _close(run, run.subs[record.sub], (event.step, event.index), ok=False, outcome=event.error, kind=event.kind)


def _tool_rejected(run: Run, record: Record, event: ev.ToolRejected) -> None:
    at = (event.step, event.index)
    _close(run, run.subs[record.sub], at, ok=False, outcome=event.error, kind="rejected", seq=record.seq)


def _output_rejected(run: Run, record: Record, event: ev.OutputRejected) -> None:
    sub = run.subs[record.sub]
    sub.repairs = event.repairs
    if sub.last is not None:
        sub.last.rejected, sub.last.told = event.error, event.told
        show_turn(run.id, sub, sub.last)


# --- state machines --------------------------------------------------------------------------------------


def _moved(run: Run, record: Record, event: ev.Moved) -> None:
    sub = run.subs[record.sub]
    if event.source:
        sub.stood.append(Stood(record.seq, event.step, sub.state, sub.until))
    sub.state, sub.until, sub.expired = event.to, event.until, False
    sub.repairs = 0
    if event.cause == "model":
        _close(run, sub, (event.step, event.index), ok=True, outcome=event.result, seq=record.seq)
    elif event.cause == "timeout":
        _void(run, sub, event, record.seq)


def _void(run: Run, sub: Sub, event: ev.Moved, seq: int) -> None:
    """A state timed out: what the newest reply still wanted is not done, and the model is told why."""
    turn = sub.last if sub.last is not None and sub.last.open else None
    if turn is None:
        _add_note(sub, event.result, seq)
        return
    for index, call in enumerate(turn.calls):
        if not call.done:
            _close(run, sub, (turn.step, index), ok=False, outcome=event.result, kind="timeout", seq=seq)


def _state_timed_out(run: Run, record: Record, event: ev.StateTimedOut) -> None:
    sub = run.subs[record.sub]
    sub.expired = sub.expired or (bool(sub.state) and sub.state == event.state)


# --- guards, people --------------------------------------------------------------------------------------


def _judged(run: Run, record: Record, event: ev.Judged) -> None:
    sub = run.subs[record.sub]
    sub.verdicts.append(event.verdict)
    kind = type(event.verdict.response).__name__
    if kind == "Restart":
        sub.restart = record
    elif kind == "Stop":
        sub.stop_verdict = event.verdict
    elif event.note:
        _add_note(sub, event.note, record.seq)


def _budget_denied(run: Run, record: Record, event: ev.BudgetDenied) -> None:
    run.subs[record.sub].denied = event


def _budget_breached(run: Run, record: Record, event: ev.BudgetBreached) -> None:
    over = run.over.setdefault(event.pool, {})
    over[event.unit] = over.get(event.unit, 0) + event.over


def _approval_asked(run: Run, record: Record, event: ev.ApprovalAsked) -> None:
    run.approvals[event.approval] = Yes(event.approval, record.sub, event, seq=record.seq)
    state = run.subs[record.sub].find(event.step, event.index)
    if state is not None:
        state.approval = event.approval


def _approval_given(run: Run, record: Record, event: ev.ApprovalGiven) -> None:
    yes = run.approvals[event.approval]
    if yes.state == "pending":
        yes.state, yes.by, yes.digest = "granted", event.by, event.digest


def _approval_refused(run: Run, record: Record, event: ev.ApprovalRefused) -> None:
    yes = run.approvals[event.approval]
    if yes.state not in ("pending", "granted"):
        return
    yes.state, yes.by, yes.reason = "refused", event.by, event.reason
    text = f"refused by {event.by}: {event.reason}" if event.reason else f"refused by {event.by}"
    at = (yes.asked.step, yes.asked.index)
    _close(run, run.subs[yes.sub], at, ok=False, outcome=text, kind="refused", seq=yes.seq)


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
        _close(run, run.subs[doubt.sub], at, ok=True, outcome=outcome)
        return
    state = run.subs[doubt.sub].find(*at)
    if state is not None:  # it did not happen: the call is planned anew, and needs a new yes
        state.asked, state.doubt, state.approval = None, "", ""
        state.seq = 0


def _backed_off(run: Run, record: Record, event: ev.BackedOff) -> None:
    run.restarts += 1
    run.subs[record.sub].rest_until = record.at + event.delay


_HANDLERS: Final[Mapping[type[ev.Event], Callable[[Run, Record, Any], None]]] = {
    ev.RunStarted: _run_started,
    ev.SubStarted: _sub_started,
    ev.AttemptStarted: _attempt_started,
    ev.Resumed: _resumed,
    ev.StopAsked: _stop_asked,
    ev.Finished: _finished,
    ev.HandedOff: _handed_off,
    ev.Parked: _parked,
    ev.Unparked: _unparked,
    ev.ModelAsked: _model_asked,
    ev.ModelAnswered: _model_answered,
    ev.ModelFailed: _model_failed,
    ev.SummaryDenied: _summary_denied,
    ev.Compacted: _compacted,
    ev.ToolAsked: _tool_asked,
    ev.ToolStepped: _tool_stepped,
    ev.ToolAnswered: _tool_answered,
    ev.ToolFailed: _tool_failed,
    ev.ToolRejected: _tool_rejected,
    ev.OutputRejected: _output_rejected,
    ev.Moved: _moved,
    ev.StateTimedOut: _state_timed_out,
    ev.Judged: _judged,
    ev.BudgetDenied: _budget_denied,
    ev.BudgetBreached: _budget_breached,
    ev.ApprovalAsked: _approval_asked,
    ev.ApprovalGiven: _approval_given,
    ev.ApprovalRefused: _approval_refused,
    ev.InDoubt: _in_doubt,
    ev.DoubtSettled: _doubt_settled,
    ev.BackedOff: _backed_off,
}
