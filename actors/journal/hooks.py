"""Which part of the app a command depends on that came out otherwise on replay: a name for what to look at.

Hooks that `decide` calls are functions of the state. One that reads a clock, chance, the environment or the order of a
set decides otherwise when it is asked again; here its name is found by what differs, and `decide` is asked once more to
see whether it is steady at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final

from understudy.actors.agents import commands as cmd
from understudy.actors.agents.checks import word
from understudy.actors.agents.commands import Command, PlannedCall, command_digest
from understudy.actors.agents.decide import decide, decide_safely
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run, Sub

UNSTEADY: Final = "not the same twice: it looks at a clock, at chance, or at what else changes"
PARTS: Final = {
    "history": "what the model is shown of the run",
    "tools": "the tools: names, descriptions, parameters",
    "output": "the schema of the output",
    "options": "the model and its options",
    "summary": "the prompt of a summary, or what it covers",
    "last": "what is set aside for a last answer",
}
"""Parts of a request that no hook makes, in words."""


def source_of(run: Run, sub: Sub, policy: Policy, event: ev.AnyEvent, command: Command | PlannedCall) -> str:
    """The parts of agent and app in which the difference between `event` and `command` lies, "" when nobody can say."""
    if isinstance(command, cmd.CallTools):
        command = command.calls[0]
    names = list(_names(run, sub, policy, event, command))
    if not names:
        return ""
    where = f"{' and '.join(dict.fromkeys(names))} of agent {policy.name!r}"
    return where if _is_steady(run, sub, policy, command) else f"{where}; {UNSTEADY}"


def _is_steady(run: Run, sub: Sub, policy: Policy, command: Command | PlannedCall) -> bool:
    again: Command | PlannedCall = decide_safely(run, sub, policy)
    if isinstance(again, cmd.CallTools) and isinstance(command, PlannedCall):
        again = again.calls[0]
    return command_digest(again) == command_digest(command)


def _names(run: Run, sub: Sub, policy: Policy, event: ev.AnyEvent, command: Command | PlannedCall) -> Iterable[str]:
    if isinstance(command, cmd.Finish) and (raised := _raised(run, sub, policy)):
        return [raised]
    match event, command:
        case (ev.ModelAsked(), cmd.CallModel()) if event.covers == command.covers:
            return _request(policy, event, command)
        case (ev.ModelAsked() | ev.Compacted(), cmd.CallModel() | cmd.Compact()):
            return [_window(policy, event, command)]
        case (ev.Judged(), _) | (_, cmd.Judge()):
            verdicts = [each.verdict.rule for each in (event, command) if isinstance(each, ev.Judged | cmd.Judge)]
            return [f"the loop rule {rule}" for rule in verdicts]
        case (ev.OutputRejected() | ev.OutputChecked(), _) | (_, cmd.RejectOutput() | cmd.CheckOutput()):
            return _checks(sub, policy)
        case (ev.ToolAsked() | ev.ToolRejected() | ev.ApprovalAsked(), PlannedCall() | cmd.Reject() | cmd.AskYes()):
            return _call(policy, event, command)
        case (ev.Moved(), _) | (_, cmd.Move()):
            return ["the state machine"]
        case (ev.HandedOff(), _) | (_, cmd.HandOff()):
            return ["the routes or the output"]
        case (ev.Finished(), cmd.Finish()) if event.status == command.status != "complete":
            hook = policy.agent.checkpoint
            return [f"checkpoint ({_function(hook)})"] if hook is not None and event.output != command.output else []
        case _:
            return []


def _request(policy: Policy, event: ev.ModelAsked, command: cmd.CallModel) -> Iterable[str]:
    differ = [name for name in {**event.parts, **command.parts} if event.parts.get(name) != command.parts.get(name)]
    given = policy.agent.instructions
    for name in differ:
        if name == "instructions":
            yield name if isinstance(given, str) else f"instructions ({_function(given)})"
        else:
            yield PARTS.get(name, name)
    if event.max_tokens != command.max_tokens:
        yield "max_tokens"


def _window(policy: Policy, event: ev.ModelAsked | ev.Compacted, command: cmd.CallModel | cmd.Compact) -> str:
    rules = [each.rule for each in (event, command) if isinstance(each, ev.Compacted | cmd.Compact)]
    named = rules or [type(rule).__name__ for rule in policy.window.rules]
    return f"the window's rule {' or '.join(dict.fromkeys(named))}"


def _checks(sub: Sub, policy: Policy) -> Iterable[str]:
    """The pure check that objects now; when none does, all checks; the schema where the answer does not fit it."""
    checks, reply = policy.agent.checks, sub.last.reply if sub.last is not None else None
    output, error = policy.agent.output.accept(reply.content) if reply is not None else ("", "")
    names = [*checks.pure, *checks.looks]
    if error or reply is None or not names:
        return [PARTS["output"]]
    value = policy.agent.output.decode(output)
    names = next(([name] for name, check in checks.pure.items() if word(name, check(value))), names)
    return [f"check {name!r}" + (f" ({_function(checks.pure[name])})" if name in checks.pure else "") for name in names]


def _call(policy: Policy, event: ev.AnyEvent, command: Command | PlannedCall) -> Iterable[str]:
    name = str(getattr(event, "name", ""))
    act = policy.acts.get(name)
    if name != getattr(command, "name", "") or not isinstance(act, Tool):
        return ["the tools or their order"]
    if isinstance(event, ev.ToolRejected) or isinstance(command, cmd.Reject):
        return [f"the parameters of tool {name!r}"]
    if isinstance(event, ev.ApprovalAsked) or isinstance(command, cmd.AskYes):
        rule = act._rule
        return [
            f"approve_when of tool {name!r} ({_function(rule)})" if rule is not None else f"approve of tool {name!r}"
        ]
    if isinstance(event, ev.ToolAsked) and isinstance(command, PlannedCall) and event.loop_key != command.loop_key:
        key = act._loop_key
        return [f"loop_key of tool {name!r} ({_function(key)})" if key is not None else f"the arguments of {name!r}"]
    return [f"tool {name!r}: its effect or polling"]


def _raised(run: Run, sub: Sub, policy: Policy) -> str:
    """Where a hook raises, if `decide` does."""
    try:
        decide(run, sub, policy)
    except Exception as error:
        return f"the hook {_innermost(error.__traceback__)}"
    return ""


def _innermost(trace: TracebackType | None) -> str:
    """The first function on the way that is not ours."""
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if not module.startswith("understudy."):
            return f"{module}.{trace.tb_frame.f_code.co_qualname}"
        trace = trace.tb_next
    return "that raised"


# A hook is any callable.
def _function(hook: Callable[..., Any]) -> str:
    return f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', type(hook).__name__)}"
