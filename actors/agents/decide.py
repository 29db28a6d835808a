"""The next act of a (sub-)run: `decide(run, sub, policy) -> Command`. Pure.

Order of the questions, the first that applies wins: is it over; was it asked to stop; did a guard end it; does the
agent's machine move by itself; has the newest reply open calls; has the agent crashed; is there an answer; does the
loop guard object; did the model fail too often; else one more call of the model. All calls of one reply are settled in
its order: neighbouring `read` calls and delegations run together, every other call alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from understudy.actors.agents.agent import Delegate
from understudy.actors.agents.commands import (
    AskYes,
    CallModel,
    CallTools,
    CheckOutput,
    Command,
    EndIncarnation,
    Finish,
    HandOff,
    Judge,
    Move,
    Park,
    PlannedCall,
    RefuseYes,
    Reject,
    RejectOutput,
    SwitchModel,
    Wait,
    call_digest,
)
from understudy.actors.agents.concluding import last_tokens
from understudy.actors.agents.context import ctx_of, fit, model_of, parts_of, pins_of, size_now
from understudy.actors.agents.guards import (
    Conclude,
    Escalate,
    Nudge,
    Quarantine,
    Restart,
    Restrict,
    Verdict,
    amount,
    said,
)
from understudy.actors.agents.machine import MOVE, Row, Table, arrived, event_of, refusal
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.recall import landed, recall
from understudy.actors.agents.tools import described
from understudy.actors.journal.events import BudgetDenied
from understudy.actors.journal.state import USABLE, CallState, Run, Sub, Turn, Yes

RUN_REPAIRS: Final = 8
"""Answers that a run may hand back in all its sub-runs together, unless one agent alone may more."""

NUDGE: Final = (
    "Note from the supervisor: {what}. Repeating it will not change the outcome. Take another way, or answer with"
    " what you have."
)
RESTRICTED: Final = (
    "Note from the supervisor: {what}. For the next {steps} steps these tools are closed: {tools}. Take another way, or"
    " answer with what you have."
)
CONCLUDE: Final = "Note from the supervisor: {what}. No tool is offered any more: answer now, with what you have."
NOTE: Final = (
    "Note from the supervisor: a former attempt got stuck and was ended: {what}. What was tried: {tried}. Do not try"
    " that again; take another way."
)


def decide(run: Run, sub: Sub, policy: Policy) -> Command:
    """See the module. Raises whatever a user's hook raises."""
    if sub.finished is not None or sub.asking is not None:
        return Wait()
    turn = sub.last if sub.last is not None and sub.last.open else None
    if run.stop is not None and not (turn is not None and _in_flight(turn)):
        return _stop(run, sub, policy)
    if sub.restart is not None:
        verdict = sub.verdicts[-1]
        return EndIncarnation(verdict.rule, isinstance(verdict.response, Escalate))
    if sub.denied is not None:
        return _at_limit(run, sub, policy, sub.denied)
    if sub.stop_verdict is not None:
        reason = f"{sub.stop_verdict.rule}: {sub.stop_verdict.what}"
        if isinstance(sub.stop_verdict.response, Quarantine):
            reason += f"; {policy.name} is quarantined, and takes no request until `understudy release {policy.name}`"
        return Finish("stopped", checkpoint(run, sub, policy), reason)
    if policy.table is not None and (act := _stand(run, sub, policy, policy.table, turn)) is not None:
        return act
    if turn is not None:
        return _settle_calls(run, sub, policy, turn)
    if sub.crash and policy.memory != "last_step":
        kept = checkpoint(run, sub, policy) if policy.memory == "checkpoint" else ""
        if (act := recall(sub, policy.memory, kept)) is not None:
            return act
    return _answer(run, sub, policy) or judge(sub, policy) or _ask_model(run, sub, policy)


def decide_safely(run: Run, sub: Sub, policy: Policy) -> Command:
    """`decide`; a hook of the user's that raises ends the (sub-)run as failed, and says which and why."""
    try:
        return decide(run, sub, policy)
    except Exception as error:
        return Finish("failed", "", f"a hook of agent {policy.name!r} raised {described(error)}")


def denied_text(denied: BudgetDenied) -> str:
    """Which pool ended the run, and why."""
    if denied.closed:
        return f"budget {denied.pool}: closed, since more {said(denied.unit)} were billed than a call's cap"
    spent, limit, wanted = (amount(denied.unit, each) for each in (denied.spent, denied.limit, denied.wanted))
    rest = f", the next call may take {wanted}" if denied.spent + denied.reserved < denied.limit else ""
    return f"budget {denied.pool}: {said(denied.unit)} used up ({spent} of {limit} spent{rest})"


def _at_limit(run: Run, sub: Sub, policy: Policy, denied: BudgetDenied) -> Command:
    """It is stopped, or gives one last answer from what was set aside, and is partial. Both name the pool."""
    reason = denied_text(denied)
    if denied.answer and not sub.concluding:
        pins = pins_of(run.id, sub, policy)
        parts = {**parts_of(pins, sub, policy), "tools": "", "last": str(denied.answer)}
        most = last_tokens(policy.agent.max_tokens, denied.answer)
        return CallModel(sub.step + 1, 1, parts, most, denied.answer - most, last=True)
    if denied.answer and sub.answered == sub.step and sub.last is not None and sub.last.reply is not None:
        output, error = _last_output(policy, sub.last.reply)
        if not error:
            return Finish("partial", output, reason)
        reason += f"; the last answer is not valid: {error}"
    elif denied.answer and sub.last_failure is not None:
        reason += f"; there is no last answer, model {sub.last_failure.kind}: {sub.last_failure.error}"
    return Finish("stopped", checkpoint(run, sub, policy), reason)


def _last_output(policy: Policy, reply: ModelReply) -> tuple[str, str]:
    output, error = policy.agent.output.accept(reply.content)
    if not error and reply.finish == "length":
        error = "it was cut"
    if not error and policy.agent.output.class_of(policy.agent.output.decode(output)) in policy.routes:
        error = "it was to be handed on"
    return output, error


def checkpoint(run: Run, sub: Sub, policy: Policy) -> str:
    """The last valid partial output as JSON, "" for none: what the agent's `checkpoint` hook makes of the state."""
    if policy.agent.checkpoint is None:
        return ""
    value = policy.agent.checkpoint(ctx_of(run.id, sub, policy))
    if value is None:
        return ""
    text = msgspec.json.encode(value).decode() if not isinstance(value, str) else value
    output, error = policy.agent.result.accept(text)
    if error:
        raise ValueError(f"checkpoint of agent {policy.name!r}: {error}")
    return output


def _stop(run: Run, sub: Sub, policy: Policy) -> Command:
    assert run.stop is not None  # noqa: S101  # the caller asked
    if run.stop.how == "park":
        return Park("asker", ())
    return Finish("stopped", checkpoint(run, sub, policy), run.stop.reason)


def _in_flight(turn: Turn) -> bool:
    return any(call.asked is not None and not call.done and not call.doubt for call in turn.calls)


# --- state machines --------------------------------------------------------------------------------------


def _stand(run: Run, sub: Sub, policy: Policy, table: Table, turn: Turn | None) -> Command | None:
    """What the state of the machine calls for, whatever the model says."""
    if not sub.state:
        return _move(sub, policy, table.rows[table.initial], "start")
    row = table.rows.get(sub.state)
    if row is None:
        return Finish("failed", checkpoint(run, sub, policy), f"its machine has no state {sub.state!r} any more")
    if sub.expired:
        return _time_out(run, sub, policy, table, turn)
    if row.final and policy.agent.output.text:
        return _deliver(run, sub, policy, msgspec.json.encode(row.state).decode())
    return Park("timer", ()) if row.rests else None


def _move(
    sub: Sub,
    policy: Policy,
    row: Row,
    cause: Literal["start", "model", "timeout"],
    *,
    event: str = "",
    at: tuple[int, int] | None = None,
) -> Move:
    step, index = at or (sub.step, 0)
    result = arrived(row, policy.offer(row.state).acts)
    if cause == "timeout":
        result = f"state {sub.state!r} timed out, and what was not begun is dropped; the state is now {result}"
    seconds = row.seconds if row.state != sub.state else None  # to stay is not to be given more time
    return Move(sub.state, row.state, cause, event, step, index, "" if cause == "start" else result, seconds)


def _time_out(run: Run, sub: Sub, policy: Policy, table: Table, turn: Turn | None) -> Command:
    """Calls that were begun end first; a yes that nobody has used is withdrawn; then the machine moves."""
    if turn is not None and any(call.asked is not None and not call.done for call in turn.calls):
        return _await_calls(run, turn)
    for yes in run.approvals.values():
        if yes.sub == sub.id and yes.state in ("pending", "granted"):
            return RefuseYes(yes.id, f"state {sub.state!r} timed out")
    row = table.rows[sub.state]
    if row.seconds is None:  # the code has changed since: it has no timeout any more
        return Finish(
            "failed", checkpoint(run, sub, policy), f"state {sub.state!r} timed out and has no timeout any more"
        )
    return _move(sub, policy, table.rows[row.expires_to], "timeout")


def _plan_move(sub: Sub, policy: Policy, row: Row, at: tuple[int, int], call: ToolCall) -> Command:
    event, error = event_of(row, call.arguments)
    if error or policy.table is None:
        return Reject(*at, call.name, call.arguments, error)
    return _move(sub, policy, policy.table.rows[row.events[event]], "model", event=event, at=at)


# --- calls -----------------------------------------------------------------------------------------------


def _settle_calls(run: Run, sub: Sub, policy: Policy, turn: Turn) -> Command:
    """The next calls of a reply, or what stands before them."""
    planned: list[PlannedCall] = []
    for index, state in _group(turn, policy):
        if state.done:
            continue
        if state.asked is None:
            act = _plan(run, sub, policy, turn.step, index, state)
            if not isinstance(act, PlannedCall):
                return act if not planned else CallTools(tuple(planned))
            planned.append(act)
    if planned:
        return CallTools(tuple(planned))
    return _await_calls(run, turn)


def _group(turn: Turn, policy: Policy) -> Iterator[tuple[int, CallState]]:
    """The first open call and the neighbours that may run with it."""
    started = False
    for index, state in enumerate(turn.calls):
        if state.done and not started:
            continue
        together = _runs_together(policy, state)
        if started and not together:
            return
        yield index, state
        started = True
        if not together:
            return


def _runs_together(policy: Policy, state: CallState) -> bool:
    act = policy.acts.get(state.call.name)
    return act is None or isinstance(act, Delegate) or (act.effect == "read" and act.policy is None)


def _plan(run: Run, sub: Sub, policy: Policy, step: int, index: int, state: CallState) -> Command | PlannedCall:
    call = state.call
    row = policy.table.rows[sub.state] if policy.table is not None else None
    if row is not None and call.name == MOVE:
        return _plan_move(sub, policy, row, (step, index), call)
    acts = policy.open_to(sub, step).acts
    act = acts.get(call.name)
    if act is None:
        names = ", ".join(acts) or "none"
        closed = sub.is_closed(call.name, step) and call.name in policy.acts
        error = f"tool {call.name!r} is closed" if closed else f"there is no tool {call.name!r}"
        error += f"; the tools are: {names}"
        if not closed and row is not None and (row.final or call.name in policy.acts):
            error = refusal(row, call.name, acts)
        return Reject(step, index, call.name, call.arguments, error)
    if isinstance(act, Delegate):
        message, error = _message(act, call.arguments)
        if error:
            return Reject(step, index, call.name, call.arguments, error)
        to = act.agent.name if act.far is None else ""
        key = f"{run.id}/{sub.id}:{step}.{index}" if act.far is not None else ""
        return PlannedCall(
            step, index, call.name, call.arguments, act.effect, message, key=key, delegate=to, message=message
        )
    arguments, error = act.bind(state.arguments)
    if arguments is None:
        return Reject(step, index, call.name, state.arguments, error)
    approval = ""
    if (policy_name := act.needs_yes(arguments)) or state.edited:
        granted = _granted(run, sub, policy, step, index, state, policy_name)
        if not isinstance(granted, str):
            return granted
        approval = granted
    key = f"{run.id}/{sub.id}:{step}.{index}" if act.effect in ("keyed", "verifiable", "irreversible") else ""
    return PlannedCall(
        step, index, call.name, state.arguments, act.effect, act.key_of(arguments), act.polling, key, approval
    )


def _message(act: Delegate, arguments: str) -> tuple[str, str]:
    try:
        return act.message(arguments)
    except (ValueError, OverflowError, RecursionError) as error:
        return "", str(error)


def _granted(
    run: Run, sub: Sub, policy: Policy, step: int, index: int, state: CallState, policy_name: str
) -> Command | str:
    """The id of a yes that fits this call now, or what must happen first."""
    wanted = call_digest(state.call.name, state.arguments)
    if not state.approval:
        name = f"{run.id}-a{len(run.approvals) + 1}"
        who = policy.who(policy_name)
        return AskYes(name, step, index, state.call.name, state.call.arguments, wanted, policy_name, who)
    yes: Yes = run.approvals[state.approval]
    if yes.state == "pending":
        return Park("approval", (yes.id,))
    if yes.state != "granted":
        return RefuseYes(yes.id, f"the yes was {yes.state} already")
    if yes.digest != wanted:
        return RefuseYes(yes.id, "the arguments are not those that were approved")
    return yes.id


def _await_calls(run: Run, turn: Turn) -> Command:
    """All calls of the group are on their way: park if each of them waits for somebody outside."""
    waiting = [call for call in turn.calls if call.asked is not None and not call.done]
    doubts = tuple(call.doubt for call in waiting if call.doubt and run.doubts[call.doubt].settled is None)
    if doubts:
        return Park("doubt", doubts)
    subs = [run.subs.get(call.asked.sub) for call in waiting if call.asked is not None and call.asked.sub]
    if waiting and len(subs) == len(waiting) and all(s is not None and s.parked is not None for s in subs):
        return Park("sub", tuple(str(s.id) for s in subs if s is not None))
    return Wait()


# --- guards ----------------------------------------------------------------------------------------------


def judge(sub: Sub, policy: Policy) -> Judge | None:
    """What the loop guard says of the newest step, and what follows from it; None when it says nothing."""
    if policy.loops is None or not sub.evidence:
        return None
    watch = sub.evidence.watch
    if watch is None or watch.guard is not policy.loops:
        watch = sub.evidence.watch = policy.loops.watch()  # a memory of what the state holds, and nothing more
    verdict = watch.judge(sub.evidence, sub.evidence.total, sub.verdicts)
    if verdict is None:
        return None
    response = verdict.response
    if isinstance(response, Nudge):
        return Judge(verdict, (response.text or NUDGE).replace("{what}", verdict.what), 0, 0, None)
    if isinstance(response, Restrict):
        told = RESTRICTED.format(what=verdict.what, tools=", ".join(verdict.tools) or "none", steps=response.steps)
        return Judge(verdict, told, 0, 0, None)
    if isinstance(response, Conclude):
        return Judge(verdict, CONCLUDE.format(what=verdict.what), 0, 0, None)
    if isinstance(response, Escalate):
        response = Restart(temperature=None)  # what applies when somebody takes the request up again
    if not isinstance(response, Restart):
        return Judge(verdict, "", 0, 0, None)
    rewind_to = max(verdict.since, landed(sub)) if response.rewind else sub.step + 1
    dropped = sum(1 for turn in sub.turns if turn.step >= rewind_to)
    note = NOTE.format(what=verdict.what, tried=_tried(sub, verdict)) if response.note else ""
    return Judge(verdict, note, rewind_to, dropped, response.temperature)


def _tried(sub: Sub, verdict: Verdict) -> str:
    """The distinct acts of the loop with what came back, oldest first."""
    seen: dict[str, None] = {}
    for step in sub.evidence:
        if step.event in verdict.evidence and step.action:
            seen[f"{step.action}({step.arguments})" + (f" -> {step.error}" if step.error else "")] = None
    return "; ".join(seen) or "talk without action"


# --- answers ---------------------------------------------------------------------------------------------


def _answer(run: Run, sub: Sub, policy: Policy) -> Command | None:
    turn = sub.last
    if turn is None or turn.reply is None or turn.calls or turn.rejected:
        return None
    row = policy.table.rows[sub.state] if policy.table is not None else None
    if row is not None and not row.final:
        return _too_early(run, sub, policy, turn.step, row)
    output, error = policy.agent.output.accept(turn.reply.content)
    if not error and turn.reply.finish == "length":
        output, error = "", f"the answer was cut at {policy.agent.max_tokens} tokens"
    if not error:
        error = policy.agent.checks.objection(policy.agent.output.decode(output))
        for name in () if error else policy.agent.checks.looks:
            if name not in turn.checked:
                return CheckOutput(turn.step, name, output)
            error = error or turn.checked[name].error
    if error:
        return _reject(run, sub, policy, turn.step, error, ("invalid output", f": {error}"))
    return _deliver(run, sub, policy, output)


def _reject(
    run: Run, sub: Sub, policy: Policy, step: int, error: str, failed: tuple[str, str], told: str = ""
) -> Command:
    """Hand an answer back, as often as the agent and the whole run may: repairs of one layer must not multiply those
    of another. `failed` are the words before and after how often it was.
    """
    often = f"after {sub.repairs} repairs"
    if sub.repairs < policy.agent.repairs:
        if run.repairs < max(RUN_REPAIRS, policy.agent.repairs):
            return RejectOutput(step, error, sub.repairs + 1, told)
        often = f"after {run.repairs} repairs in the whole run"
    return Finish("failed", checkpoint(run, sub, policy), f"{failed[0]} {often}{failed[1]}")


def _too_early(run: Run, sub: Sub, policy: Policy, step: int, row: Row) -> Command:
    """An answer in a state that is not final is none. Each state has its own repairs."""
    error = f"an answer in state {row.state!r}, which is not final"
    told = f"The request is in state {row.state!r}, which is not final: an answer is not wanted yet. "
    if row.events:
        told += f"Call {MOVE} when one of its events has happened: {', '.join(row.events)}."
    return _reject(run, sub, policy, step, error, (f"{error},", ""), told)


def _deliver(run: Run, sub: Sub, policy: Policy, output: str) -> Command:
    """A valid answer: to the agent it is routed to, else to the asker."""
    value = policy.agent.output.decode(output)
    kind = policy.agent.output.class_of(value)
    target = policy.routes.get(kind)
    if target is None:
        if missing := _missing(run, sub):
            return Finish("partial", output, missing)
        if fallbacks := _fallbacks(sub):
            return Finish("degraded", output, fallbacks)
        return Finish("complete", output, "")
    if sub.hops >= policy.hops:
        text = f"handed on {sub.hops} times, the limit; the next would be {target}"
        return Finish("stopped", checkpoint(run, sub, policy), text)
    return HandOff(target, kind.__name__, output, sub.hops + 1)


def _fallbacks(sub: Sub) -> str:
    """What stood in for something better: another model, a check that could not look at the answer; "" for nothing."""
    checked = sub.last.checked.values() if sub.last is not None else ()
    skipped = [f"check {each.check!r} was skipped: {each.skipped}" for each in checked if each.skipped]
    return "; ".join([sub.switched, *skipped] if sub.switched else skipped)


def _missing(run: Run, sub: Sub) -> str:
    """The delegations that gave nothing and were not made good by an equal one later; "" for none."""
    children = [child for child in run.subs.values() if child.parent == sub.id and child.finished is not None]
    good = {(c.agent, c.message) for c in children if c.finished is not None and c.finished.status in USABLE}
    lost = [c for c in children if (c.agent, c.message) not in good]
    here = [
        f"no result of {c.agent} ({run.id}/{c.id} {c.finished.status}: {c.finished.reason})"
        for c in lost
        if c.finished is not None
    ]
    return "; ".join([*here, *sub.unserved.values()])


def _ask_model(run: Run, sub: Sub, policy: Policy) -> Command:
    failure = sub.last_failure
    if sub.failures and failure is not None:
        tries = policy.agent.model_tries
        if not failure.retryable or sub.failures >= tries:
            text = f"model {failure.kind}: {failure.error}"
            fallback = policy.agent.fallback
            if fallback is not None and not sub.switched and fallback is not model_of(sub, policy):
                return SwitchModel(sub.step, fallback.name, f"{text}; answered by {fallback.name}")
            return Finish("failed", checkpoint(run, sub, policy), text)
    # A step that was asked for and got no reply (an error, a crash) is asked again, not counted anew.
    step = sub.step if sub.step > sub.answered else sub.step + 1
    pins = pins_of(run.id, sub, policy)
    act = fit(pins, sub, policy)
    if isinstance(act, Finish):
        return Finish(act.status, checkpoint(run, sub, policy), act.reason)
    size = size_now(pins, sub, policy)
    return act or CallModel(step, sub.failures + 1, parts_of(pins, sub, policy), policy.agent.max_tokens, size)
