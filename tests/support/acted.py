"""A model in this process, for whole runs in virtual time: a function of the conversation answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from understudy.actors.agents.models import ModelReply, ModelRequest, ModelSession, Price, ToolCall, Usage
from understudy.actors.errors import ModelError, ModelTimeout

USAGE = Usage(10, 5)
Says = Callable[[ModelRequest], ModelReply | float | ModelError]
"""A reply, the seconds that the provider takes before it gives none, or its error."""


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("", name, json.dumps(arguments))


def calls(*each: ToolCall) -> ModelReply:
    return ModelReply(calls=each, usage=USAGE)


def words(text: str) -> ModelReply:
    return ModelReply(text, usage=USAGE)


def turns(request: ModelRequest) -> int:
    """How often the model has answered already."""
    return sum(message.role == "assistant" for message in request.messages)


def told(request: ModelRequest) -> list[str]:
    """What the tools said, oldest first."""
    return [message.content for message in request.messages if message.role == "tool"]


def script(*replies: ModelReply | float | ModelError) -> Says:
    """The nth reply answers a conversation that has n - 1 of them; the last one every later one."""
    return lambda request: replies[min(turns(request), len(replies) - 1)]


@dataclass
class Acted:
    """A description of a model; `seen` keeps every request."""

    says: Says
    name: str = "acted"
    price: Price | None = None
    seen: list[ModelRequest] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[ModelSession]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.seen.append(request)
        said = self.says(request)
        if isinstance(said, ModelReply):
            return said
        if isinstance(said, ModelError):
            raise said
        await asyncio.sleep(min(said, timeout))
        raise ModelTimeout(f"no answer within {timeout:g} s")

    def offers(self) -> list[list[str]]:
        """The names of the tools of every request."""
        return [[tool.name for tool in request.tools] for request in self.seen]
