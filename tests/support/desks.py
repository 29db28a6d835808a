"""A small agent on a real loopback model server, for tests of whole runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from understudy import Agent, OpenAIChat, Price
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer


class Answer(Struct, frozen=True):
    text: str


Policy = Callable[[ChatRequest], Any]


def told(request: ChatRequest, role: str) -> list[str]:
    """Contents of the messages of one role, oldest first."""
    return [m.content or "" for m in request.messages if m.role == role]


def call(name: str, **arguments: object) -> AnswerCall:
    return AnswerCall(name, json.dumps(arguments))


def calls(*each: AnswerCall) -> ChatAnswer:
    return ChatAnswer("", each)


def answer(text: str) -> ChatAnswer:
    return ChatAnswer(json.dumps({"text": text}))


def script(*replies: ChatAnswer) -> Policy:
    """A stateless policy: the nth reply answers a conversation that has n - 1 assistant messages."""

    def policy(request: ChatRequest) -> ChatAnswer:
        return replies[min(len(told(request, "assistant")), len(replies) - 1)]

    return policy


@contextlib.asynccontextmanager
async def agent_on(policy: Policy, tools: Sequence[Any] = (), **options: Any) -> AsyncIterator[Agent[Answer, Any]]:
    """An agent `clerk` that answers `Answer`, with its model on loopback."""
    async with ModelServer(policy) as server:
        yield make_agent(server.url, tools, **options)


def make_agent(url: str, tools: Sequence[Any] = (), **options: Any) -> Agent[Answer, Any]:
    model = OpenAIChat("scripted", base_url=url, api_key="k", price=Price(250_000, 2_000_000))
    return Agent("clerk", model=model, tools=tools, output=Answer, **options)


class FakeClock:
    """Clocks that only a test moves; the loop's own timers stay real."""

    def __init__(self, wall: float = 1_000_000.0) -> None:
        self.now = wall
        self._mono = 0.0

    def monotonic(self) -> float:
        return self._mono

    def wall(self) -> float:
        return self.now


Table = Mapping[str, Any]
