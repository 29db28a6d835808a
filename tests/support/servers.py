"""Talking to a model server, as its tests do."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from understudy.transports.testing.model_server import ModelServer, ModelServerProcess

ECHO = "understudy.transports.testing.chats:echo"


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


async def post(url: str, body: object) -> httpx.Response:
    async with httpx.AsyncClient(verify=False, timeout=60) as client:
        return await client.post(f"{url}/chat/completions", content=msgspec.json.encode(body))


@contextmanager
def nobody() -> Generator[str, None, None]:
    """The base URL of a port that nobody listens at, and that nobody else is given meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


async def enter(server: ModelServer | ModelServerProcess) -> None:
    async with server:
        pass
