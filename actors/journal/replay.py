"""Replay: run `decide` again over a recorded stream and compare every command with what was journalled.

Pure: no model, no tool, no clock. Outcomes are believed as recorded; each command's digest is computed anew from the
present code and must equal the recorded one. The first that does not is named, with what was recorded and what the
present code would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from understudy.actors.agents import commands as cmd
from understudy.actors.agents.commands import Command, PlannedCall, command_digest
from understudy.actors.agents.decide import decide_safely
from understudy.actors.agents.policy import Policy
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import apply
from understudy.actors.journal.hooks import source_of
from understudy.actors.journal.sessions import complete
from understudy.actors.journal.state import Run, Sub


class ReplayReport(Struct, frozen=True):
    """What a replay found.

    `at` is the sequence number of the first command that differs, None when all are `identical`; then `path`, `step`,
    `recorded` and `now` say which and how, `hook` what of the agent it comes from ("" when nobody can say). `events`
    counts all of the stream, `steps` its model steps, `compared` the commands that were equal.
    """

    run: str
    events: int
    steps: int
    compared: int
    at: int | None = None
    path: str = ""
    step: int = 0
    recorded: str = ""
    now: str = ""
    hook: str = ""

    @property
    def identical(self) -> bool:
        """Whether every command is as recorded."""
        return self.at is None


def replay(records: Sequence[Record], policies: Mapping[str, Policy]) -> ReplayReport:
    """Replay one whole stream under `policies` (by agent name). Raises `ValueError` for an empty one.

    Of a fork, what was taken over from the other run is believed: it was decided there, with what the agents were then.
    A run of a session goes on with the window of another: raises `UsageError` unless it was completed (see
    `sessions.completed`).
    """
    if not records:
        raise ValueError("an empty stream cannot be replayed")
    run = Run(complete(records, {})[0].run)
    steps = sum(isinstance(record.event, ev.ModelAsked) for record in records)
    compared = 0
    own = max((record.seq for record in records if isinstance(record.event, ev.Forked)), default=0)
    for record in records:
        if record.seq > own and _is_command(record.event):
            difference = _compare(run, record, policies)
            if difference is not None:
                step = getattr(record.event, "step", run.subs[record.sub].step)
                return ReplayReport(run.id, len(records), steps, compared, record.seq, record.path, step, *difference)
            compared += 1
        run = apply(run, record)
    return ReplayReport(run.id, len(records), steps, compared)


def _is_command(event: ev.AnyEvent) -> bool:
    return isinstance(event, ev.COMMANDS) and (not isinstance(event, ev.Finished) or event.decided)


def _compare(run: Run, record: Record, policies: Mapping[str, Policy]) -> tuple[str, str, str] | None:
    """None when the present code decides the same, else what was recorded, what it decides, and whence."""
    sub = run.subs[record.sub]
    policy = policies.get(sub.agent)
    recorded_digest: str = getattr(record.event, "command", "")
    if policy is None:
        known = ", ".join(sorted(policies)) or "none"
        return describe_event(record.event), f"no agent {sub.agent!r} in this app; its agents: {known}", ""
    command: Command | PlannedCall = decide_safely(run, sub, policy)
    if isinstance(command, cmd.CallTools) and isinstance(record.event, ev.ToolAsked):
        command = command.calls[0]
    if command_digest(command) == recorded_digest:
        return None
    return *_told(run, sub, record.event, command), source_of(run, sub, policy, record.event, command)


def _told(run: Run, sub: Sub, event: ev.AnyEvent, command: Command | PlannedCall) -> tuple[str, str]:
    """Both sides in words; of two model calls, the parts that differ."""
    if isinstance(event, ev.ModelAsked) and isinstance(command, cmd.CallModel):
        if command.covers != event.covers:
            return describe_event(event), describe(command)
        names = [name for name in command.parts if command.parts[name] != event.parts.get(name)]
        if event.max_tokens != command.max_tokens:
            names.append("max_tokens")
        what = " and ".join(names) or "try"
        before = ", ".join(f"{n} {event.parts.get(n, event.max_tokens)}" for n in names)
        after = ", ".join(f"{n} {command.parts.get(n, str(command.max_tokens))}" for n in names)
        return f"call model, step {event.step}: {before}", f"call model, step {command.step}: other {what}: {after}"
    return describe_event(event), describe(command)


def shortened(text: str, limit: int = 200) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def describe_event(event: ev.AnyEvent) -> str:
    """A recorded command in one line."""
    match event:
        case ev.ModelAsked():
            what = "summarise" if event.covers else "call model"
            return f"{what}, step {event.step}"
        case ev.Compacted():
            return shortened(f"compact by {event.rule}: {event.tokens} → {event.left} tokens; {event.text}")
        case ev.ToolAsked():
            return shortened(f"call {event.name}({event.arguments})")
        case ev.ToolRejected():
            return shortened(f"reject {event.name}({event.arguments}): {event.error}")
        case ev.OutputRejected():
            return shortened(f"reject the answer: {event.error}")
        case ev.ModelSwitched():
            return shortened(f"ask the model {event.model} instead: {event.reason}")
        case ev.OutputChecked():
            return shortened(f"check the answer of step {event.step} with {event.check}")
        case ev.Moved():
            return _move(event.source, event.to, event.cause, event.event)
        case ev.Judged():
            return _verdict(event.verdict.rule, event.verdict.what, type(event.verdict.response).__name__, event.note)
        case ev.Recalled():
            return _recall(event.memory, event.dropped, event.note)
        case ev.ApprovalAsked():
            return shortened(f"ask for a yes to {event.name}({event.arguments})")
        case ev.HandedOff():
            return shortened(f"hand off to {event.to}: {event.message}")
        case ev.Finished():
            return _end(event.status, event.output, event.reason)
        case _:
            return type(event).__name__


def describe(command: Command | PlannedCall) -> str:
    """A command in one line."""
    match command:
        case cmd.CallModel():
            what = "summarise" if command.covers else "call model"
            return f"{what}, step {command.step}"
        case cmd.Compact():
            return shortened(f"compact by {command.rule}: {command.tokens} → {command.left} tokens; {command.text}")
        case cmd.CallTools():
            return "; ".join(describe(call) for call in command.calls)
        case PlannedCall():
            return shortened(f"call {command.name}({command.arguments})")
        case cmd.Reject():
            return shortened(f"reject {command.name}({command.arguments}): {command.error}")
        case cmd.RejectOutput():
            return shortened(f"reject the answer: {command.error}")
        case cmd.SwitchModel():
            return shortened(f"ask the model {command.model} instead: {command.reason}")
        case cmd.CheckOutput():
            return shortened(f"check the answer of step {command.step} with {command.check}")
        case cmd.Move():
            seconds = f", for {command.seconds:g} s" if command.seconds is not None else ""
            return _move(command.source, command.to, command.cause, command.event) + seconds
        case cmd.Judge():
            verdict = command.verdict
            return _verdict(verdict.rule, verdict.what, type(verdict.response).__name__, command.note)
        case cmd.Recall():
            return _recall(command.memory, command.dropped, command.note)
        case cmd.AskYes():
            return shortened(f"ask for a yes to {command.name}({command.arguments})")
        case cmd.HandOff():
            return shortened(f"hand off to {command.to}: {command.message}")
        case cmd.Finish():
            return _end(command.status, command.output, command.reason)
        case _:
            return type(command).__name__


def _verdict(rule: str, what: str, response: str, note: str) -> str:
    return shortened(f"verdict {rule} ({what}): {response.lower()}{f', note {note!r}' if note else ''}")


def _recall(memory: str, dropped: int, note: str) -> str:
    return shortened(
        f"after the crash, keep by {memory!r}: drop {dropped} exchanges{f', note {note!r}' if note else ''}"
    )


def _move(source: str, to: str, cause: str, event: str) -> str:
    return f"begin in state {to}" if cause == "start" else f"move from {source} to {to} on {event or cause}"


def _end(status: str, output: str, reason: str) -> str:
    return shortened(
        f"finish {status}{f' ({reason})' if reason else ''}: {output}" if output else f"finish {status} ({reason})"
    )
