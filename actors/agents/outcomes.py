"""What a run's events and state say to others: whether it may go on or has ended, its output, its questions."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from understudy.actors.agents.policy import Policy
from understudy.actors.agents.results import Approval
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run, Sub
from understudy.actors.journal.store import Row


def over(run: Run, parked: ev.Parked) -> bool:
    """Whether what a (sub-)run is parked for has come already: a crash may have cut its `Unparked`."""
    match parked.on:
        case "shutdown":
            return True
        case "approval":
            return all(run.approvals[name].state != "pending" for name in parked.ids)
        case "doubt":
            return all(run.doubts[name].settled is not None for name in parked.ids)
        case "sub":
            children = [run.subs[int(name)] for name in parked.ids]
            return any(child.finished is not None or child.parked is None for child in children)
        case _:
            return False


def reopens(run: Run) -> bool:
    """Whether somebody who asks for it can go on with a run: it rests, was abandoned, or ended from outside."""
    end = run.finished
    if end is None:
        return run.main.parked is not None
    return not end.decided or (end.status == "stopped" and end.reason == "abandoned")


def decoded(output: str, asked: Policy | None) -> Any:
    """An output as its asker wants it; as plain JSON when the asker's type is gone or has changed since."""
    with contextlib.suppress(msgspec.MsgspecError):
        if asked is not None:
            return asked.agent.result.decode(output)
    return msgspec.json.decode(output)


def has_ended(tail: Row) -> float | None:
    """When a run ended that has nothing left to settle, by its stream's last row; None while it has (or may have)."""
    try:
        record = ev.decode(tail.payload)
    except msgspec.MsgspecError:
        return None  # reading the whole stream will say what is wrong with it
    end = record.event
    over = isinstance(end, ev.Finished) and record.sub == 0 and end.status != "stopped"
    return record.at if over else None


def delegate_outcome(child: Sub, end: ev.Finished) -> ev.ToolAnswered:
    """The result of a sub-run as the result of the call that asked for it."""
    told = {"status": end.status, "output": msgspec.Raw(end.output.encode() or b"null"), "reason": end.reason}
    return ev.ToolAnswered(child.parent_step, child.parent_index, msgspec.json.encode(told).decode())


def approval_of(run: str, asked: ev.ApprovalAsked) -> Approval:
    """The approval as shown to people."""
    return Approval(
        asked.approval, run, asked.name, asked.arguments, asked.digest, asked.policy, asked.expires, asked.who
    )


def counted_of(record: ev.Record) -> ev.RestartCounted | None:
    """What the node's stream says of a supervision event that went into a run; None of one that counts no restart."""
    match record.event:
        case ev.BackedOff(supervisor=path, child=child, delay=delay, failures=failures):
            return ev.RestartCounted(path, child, record.run, record.seq, "restart", delay, failures)
        case ev.GaveUp(supervisor=path, child=child, alone=alone):
            return ev.RestartCounted(path, child, record.run, record.seq, "aside" if alone else "over")
        case ev.Escalated(supervisor=path, child=child):
            return ev.RestartCounted(path, child, record.run, record.seq, "over")
        case _:
            return None
