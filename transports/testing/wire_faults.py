"""The model faults of simulated worlds, shown over real HTTP by the loopback model server."""

from __future__ import annotations

from understudy.actors.agents.models import ModelReply
from understudy.actors.errors import UsageError
from understudy.actors.testing import model_faults as mf
from understudy.transports.testing import chats
from understudy.transports.testing.chats import AnswerCall, ChatAnswer

SILENCE = 3_600.0
"""Seconds of silence of a `ModelTimeout`: longer than any client waits."""


def chat_answer(reply: ModelReply) -> ChatAnswer:
    """What the server must say for a client to read this reply. Ids and usage are the server's own."""
    return ChatAnswer(reply.content, tuple(AnswerCall(call.name, call.arguments) for call in reply.calls))


def on_wire(fault: mf.ModelFault, reply: ModelReply) -> ChatAnswer | chats.Fault:
    """What a policy of the model server returns so that the fault happens.

    `reply` is what the model says or, for faults of the answer itself (a wrong schema, an unknown tool, cut JSON, the
    same answer again), what a `SimModel` said with the fault. Raises `UsageError` for what no server can do: there is
    none that is reached (`Unreachable`, `ModelTimeout` with `sent=False`).
    """
    answer = chat_answer(reply)
    match fault:
        case mf.RateLimited():
            return chats.RateLimit(fault.retry_after)
        case mf.ServerError():
            return chats.ServerError(fault.status)
        case mf.Rejected():
            return chats.Refusal(fault.status)
        case mf.ModelTimeout(sent=True):
            return chats.Hang(SILENCE)
        case mf.Unreachable() | mf.ModelTimeout():
            raise UsageError(f"{fault!r}: nothing reaches the server")
        case mf.SlowTokens():
            return chats.SlowTokens(fault.seconds, answer)
        case mf.CutStream():
            return chats.CutStream(answer)
        case mf.ModelReplyLost():
            return chats.LostReply(answer)
        case mf.MalformedJSON(part="body"):
            return chats.NotJSON()
        case mf.Refusal():
            return chats.Declined(fault.text)
        case mf.OverReported():
            return chats.OverReport(fault.factor, answer)
        case mf.EmptyAnswer():
            return ChatAnswer()
        case mf.MalformedJSON() | mf.WrongSchema() | mf.UnknownTool() | mf.RepeatOutput():
            return answer
