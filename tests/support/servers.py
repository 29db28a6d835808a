"""Talking to a model server, as its tests do."""

from __future__ import annotations

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


async def enter(server: ModelServer | ModelServerProcess) -> None:
    async with server:
        pass
