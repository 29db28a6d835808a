"""What the tests of interleavings share: tools, messages, a model and a store that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

from understudy import (
    Message,
    Result,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, Usage
from understudy.actors.journal import events as ev
from understudy.actors.journal.store import MemoryStore
from understudy.transports.testing.model_server import ChatRequest

T = TypeVar("T")
SOON = 60.0  # seconds: what never comes is found, and no machine is so busy


async def soon(work: Awaitable[T]) -> T:
    """The result, which must come."""
    return await asyncio.wait_for(work, SOON)


def event_of(system: System, kind: type, sub: int | None = None) -> asyncio.Event:
    """Set when an event of this kind is journalled from now on."""
    seen = asyncio.Event()

    def hear(record: ev.Record) -> None:
        if isinstance(record.event, kind) and sub in (None, record.sub):
            seen.set()

    system.listen(hear)
    return seen


def tools_of(request: ChatRequest) -> list[str]:
    return [t.function.name for t in request.tools or ()]


sent: list[str] = []


@tool(effect="irreversible", approve="boss")
async def send(what: str) -> str:
    """Send."""
    sent.append(what)
    return f"sent {what}"


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    return f"saw {what}"


class Question(Message[Result[Any]]):
    text: str


class Answered(Message[Result[Any]]):
    text: str


class SlowStore(MemoryStore):
    """A store whose writes wait while `gate` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, rows: Any, at: Any) -> None:
        await self.gate.wait()
        await super().write(rows, at)


class Strange:
    """A model that says and raises what no model should."""

    name = "strange"
    price = None

    def __init__(self, *acts: Any, seen: list[ModelRequest] | None = None) -> None:
        self.acts = list(acts)
        self.seen = seen if seen is not None else []

    def session(self) -> Any:
        @contextlib.asynccontextmanager
        async def opened() -> Any:
            yield self

        return opened()

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.seen.append(request)
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, BaseException):
            raise act
        return act  # type: ignore[no-any-return]


OK = ModelReply('{"text":"fine"}', usage=Usage(1, 1))
