"""The part of the fold that is about steps: model calls, tool calls, answers, and what is shown of them. See `fold`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from understudy.actors.agents.guards import Step
from understudy.actors.agents.models import ModelReply
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.shown import show_note, show_turn
from understudy.actors.journal.state import USABLE, CallState, Estimate, Run, Spend, Sub, Turn, digest
from understudy.actors.journal.view import SUMMARY, length, within

Handler: TypeAlias = Callable[[Run, Record, Any], None]
"""Takes one record into the state: with the run, the record, and its event, whose class the table says."""

WITNESSED: Final = 2_000
"""Characters of a result at most, to be kept as evidence for the loop guard: a part cannot tell what is new."""
NOTHING: Final = frozenset({"", '""', "null", "[]", "{}"})
"""Results that say nothing."""
NO_MORE: Final = 1_000
"""Failures that a refusal counts for: it is not asked again before another rule has made room."""


def add_note(sub: Sub, note: str, seq: int) -> None:
    """A note of the runtime's joins the conversation."""
    sub.turns.append(Turn(sub.step, note=note, seq=seq))
    show_note(sub, note)


def _model_asked(run: Run, record: Record, event: ev.ModelAsked) -> None:
    sub = run.subs[record.sub]
    sub.asking, sub.step = event, event.step
    sub.concluding = sub.concluding or event.last
    run.tickets[event.ticket] = (event.pools, event.reserved)


def settle(
    run: Run, sub: Sub, ticket: str, spent: dict[str, int], *, estimated: bool = False, record: Record | None = None
) -> None:
    """A reservation is replaced by what was spent; with the `record` of an estimated call, it may be corrected."""
    pools, _ = run.tickets.pop(ticket, ((), {}))
    book(run, sub, pools, spent, estimated=estimated)
    if estimated and spent and record is not None:
        run.estimates[ticket] = Estimate(ticket, sub.id, record.seq, record.at, pools, spent)


def book(run: Run, sub: Sub, pools: tuple[str, ...], spent: dict[str, int], *, estimated: bool = False) -> None:
    """What was spent is charged to the pools, the sub-run and the run."""
    booked = run.booked.get(pools)
    if booked is None:
        booked = run.booked[pools] = Spend()
    booked.add(spent)
    sub.spend.add(spent, estimated=estimated)
    run.spend.add(spent, estimated=estimated)


def _model_answered(run: Run, record: Record, event: ev.ModelAnswered) -> None:
    sub = run.subs[record.sub]
    asking, sub.asking = sub.asking, None
    settle(run, sub, event.ticket, event.spent, estimated=event.estimated, record=record)
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
        said = event.reply.content
        act = Step(event.step, sub.agent, "", "", digest(said), event=record.seq, text=said[:WITNESSED], blank=not said)
        sub.evidence.witness(act)


def _model_failed(run: Run, record: Record, event: ev.ModelFailed) -> None:
    sub = run.subs[record.sub]
    asking, sub.asking, sub.last_failure = sub.asking, None, event
    settle(run, sub, event.ticket, event.spent, estimated=event.estimated, record=record)
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


def _model_switched(run: Run, record: Record, event: ev.ModelSwitched) -> None:
    sub = run.subs[record.sub]
    sub.switched, sub.failures = event.reason, 0


def _tool_asked(run: Run, record: Record, event: ev.ToolAsked) -> None:
    sub = run.subs[record.sub]
    state = sub.find(event.step, event.index)
    if state is not None:
        state.asked, state.seq = event, record.seq
    if event.approval:
        run.approvals[event.approval].state = "used"
    run.last_sub = max(run.last_sub, event.sub)
    if event.ticket:
        run.tickets[event.ticket] = (event.pools, event.reserved)


def _tool_stepped(run: Run, record: Record, event: ev.ToolStepped) -> None:
    state = run.subs[record.sub].find(event.step, event.index)
    if state is not None:
        state.recorded[event.name] = event.result


def close(
    run: Run,
    sub: Sub,
    at: tuple[int, int],
    *,
    ok: bool,
    outcome: str,
    kind: str = "",
    seq: int = 0,
    spent: dict[str, int] | None = None,
    estimated: Record | None = None,
) -> None:
    """A call has its outcome. When it is the last one of its turn, the turn's calls become evidence, in their order.

    `spent`: in place of what was reserved; `estimated`: the record that says it is an estimate.
    """
    turn = sub.turn(at[0])
    if turn is None or at[1] >= len(turn.calls) or turn.calls[at[1]].done:
        return
    state = turn.calls[at[1]]
    state.done, state.ok, state.outcome, state.kind = True, ok, outcome, kind
    if ok and state.asked is not None and (state.asked.effect != "read" or state.asked.sub):
        sub.changed = max(sub.changed, state.seq)  # by its intent; what a delegate did, nobody here knows
    state.seq = state.seq or seq
    if state.asked is not None and state.asked.ticket:
        amounts = state.asked.reserved if spent is None else spent
        settle(run, sub, state.asked.ticket, amounts, estimated=estimated is not None, record=estimated)
    if not turn.open:
        show_turn(run.id, sub, turn)
        for call in turn.calls:
            sub.evidence.witness(_act(sub, turn.step, call))


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
        text=call.outcome if len(call.outcome) <= WITNESSED else "",
        blank=call.ok and call.outcome in NOTHING,
        malformed=call.kind == "rejected",
        to=call.call.name if asked is not None and asked.sub else "",
    )


class _Told(msgspec.Struct):
    """What is looked at of the result of a delegation."""

    status: str


def _served(run: Run, record: Record, event: ev.ToolAnswered | ev.ToolFailed, status: str) -> None:
    """Remember a delegation to another node (only of such is it known what it `spent`) that gave nothing."""
    sub = run.subs[record.sub]
    call = sub.find(event.step, event.index)
    if event.spent is None or call is None or call.asked is None:
        return
    key = call.call.name, call.asked.arguments
    if status in USABLE:
        sub.unserved.pop(key, None)
    else:
        sub.unserved[key] = f"no result of {key[0]} ({run.id}:{call.seq} {status})"


def _tool_answered(run: Run, record: Record, event: ev.ToolAnswered) -> None:
    if event.spent is not None:
        _served(run, record, event, msgspec.json.decode(event.result, type=_Told).status)
    at, estimated = (event.step, event.index), record if event.estimated else None
    close(run, run.subs[record.sub], at, ok=True, outcome=event.result, spent=event.spent, estimated=estimated)


def _tool_failed(run: Run, record: Record, event: ev.ToolFailed) -> None:
    _served(run, record, event, f"{event.kind}: {event.error}")
    at, error, estimated = (event.step, event.index), event.error, record if event.estimated else None
    sub = run.subs[record.sub]
    close(run, sub, at, ok=False, outcome=error, kind=event.kind, spent=event.spent, estimated=estimated)


def _tool_rejected(run: Run, record: Record, event: ev.ToolRejected) -> None:
    at = (event.step, event.index)
    close(run, run.subs[record.sub], at, ok=False, outcome=event.error, kind="rejected", seq=record.seq)


def _output_rejected(run: Run, record: Record, event: ev.OutputRejected) -> None:
    sub = run.subs[record.sub]
    sub.repairs = event.repairs
    run.repairs += 1
    if sub.last is not None:
        sub.last.rejected, sub.last.told = event.error, event.told
        show_turn(run.id, sub, sub.last)
        if sub.evidence and sub.evidence[-1].event == sub.last.seq:  # the guard is asked after this, and not before
            sub.evidence[-1] = msgspec.structs.replace(sub.evidence[-1], malformed=True)


def _output_checked(run: Run, record: Record, event: ev.OutputChecked) -> None:
    sub = run.subs[record.sub]
    if sub.last is not None and sub.last.step == event.step:
        sub.last.checked[event.check] = event
    book(run, sub, event.pools, event.spent)


STEPS: Final[Mapping[type[ev.Event], Handler]] = {
    ev.ModelAsked: _model_asked,
    ev.ModelAnswered: _model_answered,
    ev.ModelFailed: _model_failed,
    ev.ModelSwitched: _model_switched,
    ev.SummaryDenied: _summary_denied,
    ev.Compacted: _compacted,
    ev.ToolAsked: _tool_asked,
    ev.ToolStepped: _tool_stepped,
    ev.ToolAnswered: _tool_answered,
    ev.ToolFailed: _tool_failed,
    ev.ToolRejected: _tool_rejected,
    ev.OutputRejected: _output_rejected,
    ev.OutputChecked: _output_checked,
}
"""By event."""
