"""One call of the OpenAI client against a real server on loopback, as its tests make them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from understudy.actors.agents.models import (
    ChatMessage,
    ModelReply,
    ModelRequest,
    ToolSchema,
)
from understudy.actors.errors import (
    ModelError,
)
from understudy.transports.models.openai import OpenAIChat
from understudy.transports.testing.model_server import (
    ModelServer,
    Policy,
)

KEY = "sk-not-a-real-key-0123456789"
SCHEMA: dict[str, object] = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
WEATHER = ToolSchema("weather", "Tell the weather.", SCHEMA)


def say(text: str, **more: Any) -> ModelRequest:
    return ModelRequest((ChatMessage("user", text),), **more)


async def complete(policy: Policy, request: ModelRequest, *, timeout: float = 60.0, **options: Any) -> ModelReply:
    async with ModelServer(policy) as server, OpenAIChat("m", base_url=server.url, **options).session() as session:
        return await session.complete(request, timeout=timeout)


def reply_to(policy: Policy, request: ModelRequest, **options: Any) -> ModelReply:
    return asyncio.run(complete(policy, request, **options))


def error_from(policy: Policy, request: ModelRequest | None = None, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        reply_to(policy, request or say("hello"), **options)
    return caught.value


async def with_raw_server(answer: bytes, act: Callable[[str], Awaitable[None]]) -> None:
    """A server that reads a little and sends exactly these bytes, for what the model server never does."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await stream.send(answer)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass  # the client had read enough

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, handle)
            await act(f"http://127.0.0.1:{port}/v1")
            group.cancel_scope.cancel()


def error_from_raw(answer: bytes) -> ModelError:
    errors: list[ModelError] = []

    async def act(url: str) -> None:
        async with OpenAIChat("m", base_url=url).session() as session:
            with pytest.raises(ModelError) as caught:
                await session.complete(say("hello"), timeout=60)
            errors.append(caught.value)

    asyncio.run(with_raw_server(answer, act))
    return errors[0]
