"""What a simulated provider counts, and where it cuts: as the loopback server (`transports.testing.chats`) does."""

from __future__ import annotations

from typing import Final

import msgspec

from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage

BYTES_PER_TOKEN: Final = 4
TOKENS_PER_ITEM: Final = 4
"""Markup for each message, call, tool and schema; below `models.MESSAGE_OVERHEAD`, so `input_cap` holds."""


def prompt_tokens(request: ModelRequest) -> int:
    """Tokens of input: a quarter of the bytes, and a little for each item; never above `models.input_cap`."""
    items: list[int] = []
    for message in request.messages:
        items.append(_bytes(message.content))
        items.extend(_bytes(call.name) + _bytes(call.arguments) for call in message.calls)
    items.extend(len(msgspec.json.encode(tool)) for tool in request.tools)
    if request.output_schema is not None:
        items.append(len(msgspec.json.encode(request.output_schema)))
    return sum(items) // BYTES_PER_TOKEN + TOKENS_PER_ITEM * len(items)


def bounded(reply: ModelReply, limit: int) -> tuple[ModelReply, int]:
    """The reply cut at `limit` tokens as providers cut it, and its tokens. A cut one has finish "length"."""
    room = limit * BYTES_PER_TOKEN
    content = _cut(reply.content, room)
    room -= _bytes(content)
    calls: list[ToolCall] = []
    for call in reply.calls:
        if _bytes(call.name) > room:
            break
        room -= _bytes(call.name)
        calls.append(ToolCall(call.id, call.name, _cut(call.arguments, room)))
        room -= _bytes(calls[-1].arguments)
    kept = msgspec.structs.replace(reply, content=content, calls=tuple(calls))
    if kept != reply:
        kept = msgspec.structs.replace(kept, finish="length")
    return kept, limit - room // BYTES_PER_TOKEN


def counted(reply: ModelReply, request: ModelRequest, model: str) -> ModelReply:
    """The reply as the provider of `model` sends it: cut at the cap, with what it counted."""
    kept, tokens = bounded(reply, request.max_tokens)
    return msgspec.structs.replace(kept, usage=Usage(prompt_tokens(request), tokens), model=model)


def _cut(text: str, room: int) -> str:
    return text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))
