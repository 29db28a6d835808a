"""How secrets are kept out of runs: which texts of an event are redacted, and what tools are given instead of marks.

Only what comes from outside is looked at: requests, replies, results, errors, what people say. What `decide` makes of
them is made of redacted texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from understudy.actors.agents.agent import Agent
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.agents.policy import Act, Policy
from understudy.actors.journal import events as ev
from understudy.actors.lifecycle import Exit
from understudy.actors.redaction import Redactor

FIELD: Final = '"secret"'
"""What a text holds in which there is a `Secret`."""

Door = Callable[[Redactor, str, Any], Any]


def _texts(*names: str) -> Door:
    def door(redactor: Redactor, scope: str, event: Any) -> Any:
        for name in names:
            value = getattr(event, name)
            if value and (clean := redactor.text(scope, value)) is not value and clean != value:
                event = msgspec.structs.replace(event, **{name: clean})
        return event

    return door


def _json(name: str) -> Door:
    def door(redactor: Redactor, scope: str, event: Any) -> Any:
        value = getattr(event, name)
        clean = redactor.json(scope, value)
        return event if clean is value else msgspec.structs.replace(event, **{name: clean})

    return door


def _reply(redactor: Redactor, scope: str, event: Any) -> Any:
    reply: ModelReply = event.reply
    content = reply.content
    if content:
        redact = redactor.json if content.lstrip()[:1] in ("{", "[", '"') else redactor.text
        content = redact(scope, content)
    calls = reply.calls
    if calls:
        calls = tuple(_call(redactor, scope, call) for call in calls)
    if content == reply.content and calls == reply.calls:
        return event
    return msgspec.structs.replace(event, reply=msgspec.structs.replace(reply, content=content, calls=calls))


def _call(redactor: Redactor, scope: str, call: ToolCall) -> ToolCall:
    arguments = redactor.json(scope, call.arguments)
    name = redactor.text(scope, call.name)
    same = arguments == call.arguments and name == call.name
    return call if same else ToolCall(call.id, name, arguments)


def _exit(redactor: Redactor, scope: str, event: Any) -> Any:
    exit: Exit | None = event.exit
    if exit is None or not exit.detail or (clean := redactor.text(scope, exit.detail)) == exit.detail:
        return event
    return msgspec.structs.replace(event, exit=msgspec.structs.replace(exit, detail=clean))


DOORS: Final[Mapping[type[ev.Event], Door]] = {
    ev.RunStarted: _json("message"),
    ev.SubStarted: _json("message"),
    ev.AttemptStarted: _texts("crash"),
    ev.StopAsked: _texts("reason", "by"),
    ev.Finished: _texts("reason"),
    ev.ModelAnswered: _reply,
    ev.ModelFailed: _texts("error"),
    ev.ToolStepped: _json("result"),
    ev.ToolAnswered: _json("result"),
    ev.ToolFailed: _texts("error"),
    ev.OutputChecked: _texts("error", "skipped"),
    ev.ApprovalRefused: _texts("reason", "by"),
    ev.DoubtSettled: _json("result"),
    ev.ChildExited: _exit,
    ev.BackedOff: _exit,
    ev.Escalated: _exit,
    ev.GaveUp: _exit,
}
"""By event: which of its texts come from outside."""


def redacted(redactor: Redactor, scope: str, event: ev.AnyEvent) -> ev.AnyEvent:
    """The event as it may be journalled; the very same if there is nothing to hide."""
    door = DOORS.get(type(event))
    if door is None:
        return event
    kept: ev.AnyEvent = door(redactor, scope, event)
    return kept


def sealed_request(redactor: Redactor, scope: str, agent: Agent[Any, Any] | None, message: str) -> str:
    """The JSON of a request with each `Secret` field holding its mark."""
    if agent is None or FIELD not in message:
        return message
    request = agent.decode(message)
    sealed = redactor.sealed(scope, request)
    return message if sealed is request else agent.encode(sealed)


def sealed_reply(redactor: Redactor, scope: str, policy: Policy, reply: ModelReply) -> ModelReply:
    """A model's reply with each `Secret` in its answer, or in the parameters of what it calls, holding its mark."""
    if not reply.calls and _may_hold(reply.content):
        return msgspec.structs.replace(reply, content=_sealed_answer(redactor, scope, policy, reply.content))
    if not any(_may_hold(call.arguments) for call in reply.calls):
        return reply
    calls = tuple(_sealed_call(redactor, scope, policy.acts.get(call.name), call) for call in reply.calls)
    return msgspec.structs.replace(reply, calls=calls)


def _sealed_answer(redactor: Redactor, scope: str, policy: Policy, content: str) -> str:
    output, error = policy.agent.output.accept(content)
    if error:  # it will be rejected: what it says is looked at by the patterns only
        return content
    value = policy.agent.output.decode(output)
    sealed = redactor.sealed(scope, value)
    return content if sealed is value else msgspec.json.encode(sealed).decode()


def _may_hold(arguments: str) -> bool:
    """Whether there may be a `Secret` in what a model wrote: it may write letters as escapes."""
    return FIELD in arguments or "\\u" in arguments


def _sealed_call(redactor: Redactor, scope: str, act: Act | None, call: ToolCall) -> ToolCall:
    if act is None or not _may_hold(call.arguments):
        return call
    try:
        arguments = msgspec.json.decode(call.arguments.encode("utf-8", "replace"), type=act.parameters)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # it will be rejected, as above
        return call
    sealed = redactor.sealed(scope, arguments)
    return call if sealed is arguments else ToolCall(call.id, call.name, msgspec.json.encode(sealed).decode())


def sealed_arguments(redactor: Redactor, scope: str, act: Act, arguments: str) -> str:
    """The arguments that a person gave a call, with a mark in the place of each secret."""
    return redactor.json(scope, _sealed_call(redactor, scope, act, ToolCall("", act.name, arguments)).arguments)


# A tool's result is whatever it returns.
def sealed_result(redactor: Redactor, scope: str, value: Any, text: bytes) -> bytes:
    """The JSON of a result with each `Secret` in it holding its mark."""
    if FIELD.encode() not in text:
        return text
    sealed = redactor.sealed(scope, value)
    return text if sealed is value else msgspec.json.encode(sealed)
