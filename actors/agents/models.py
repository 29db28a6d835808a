"""What an agent asks of a language model, and the contract of a model.

Neutral structs: a provider's adapter (`transports.models`) turns them into its wire format and back.
A `Model` is an inert description; `session()` opens it for one system, and one session serves many
concurrent calls. Amounts are tokens; money is in micro-dollars (millionths of a US dollar).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from msgspec import Struct

Role = Literal["system", "user", "assistant", "tool"]

MESSAGE_OVERHEAD = 16
"""Tokens counted for each message, and for each tool schema, beside its text (chat markup)."""


class ToolCall(Struct, frozen=True, gc=False):
    """A call that a model asks for. `arguments` is the JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


class ChatMessage(Struct, frozen=True, gc=False, omit_defaults=True):
    """One entry of the conversation. `calls` only with role assistant, `call_id` only with role tool."""

    role: Role
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


class ToolSchema(Struct, frozen=True):
    """A tool as shown to a model. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, object]


class ModelRequest(Struct, frozen=True):
    """One call. `max_tokens` caps the answer; `output_schema` asks for JSON of that schema.

    `traceparent`: the W3C header that an adapter sends along, "" for none.
    """

    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSchema, ...] = ()
    output_schema: Mapping[str, object] | None = None
    temperature: float | None = None
    max_tokens: int = 1024
    traceparent: str = ""


class Usage(Struct, frozen=True, gc=False):
    """What the provider says it counted, in tokens."""

    input_tokens: int
    output_tokens: int


class ModelReply(Struct, frozen=True, gc=False):
    """The answer. `usage` is None when the provider did not say."""

    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    usage: Usage | None = None
    model: str = ""


class Price(Struct, frozen=True):
    """Micro-dollars per million tokens, so 0.25 USD per million input tokens is 250_000."""

    input: int
    output: int

    def cost(self, input_tokens: int, output_tokens: int) -> int:
        """Micro-dollars, rounded up."""
        return -(-(input_tokens * self.input + output_tokens * self.output) // 1_000_000)


class ModelSession(Protocol):
    """An open model."""

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """Answer one request within `timeout` seconds.

        Raises `ModelError` (see `errors`) and nothing else; never retries by itself.
        """
        ...


class Model(Protocol):
    """An inert description of a model, safe to share between agents, systems and event loops.

    It may also have `context`: the tokens that it takes, input and answer together (see `window.ContextWindow`).
    """

    @property
    def name(self) -> str:
        """The provider's name of the model."""
        ...

    @property
    def price(self) -> Price | None:
        """None when unknown: then a budget in money refuses to start."""
        ...

    def session(self) -> AbstractAsyncContextManager[ModelSession]:
        """Open it; closed by the system that opened it."""
        ...


def input_cap(request: ModelRequest) -> int:
    """An upper bound, in tokens, of what a provider can count as input: UTF-8 bytes plus `MESSAGE_OVERHEAD` each.

    A byte-pair token covers at least one byte, so bytes bound tokens from above.
    """
    total = 0
    for message in request.messages:
        total += MESSAGE_OVERHEAD + _bytes(message.content) + _bytes(message.call_id)
        for call in message.calls:
            total += MESSAGE_OVERHEAD + _bytes(call.id) + _bytes(call.name) + _bytes(call.arguments)
    return total + sum(tool_size(tool) for tool in request.tools) + schema_size(request.output_schema)


def tool_size(tool: ToolSchema) -> int:
    """The part of `input_cap` that one tool makes."""
    return MESSAGE_OVERHEAD + _bytes(tool.name) + _bytes(tool.description) + _json(tool.parameters)


def schema_size(schema: Mapping[str, object] | None) -> int:
    """The part of `input_cap` that the schema of the answer makes."""
    return MESSAGE_OVERHEAD + _json(schema) if schema is not None else 0


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _json(value: Mapping[str, object]) -> int:
    return _bytes(json.dumps(value, ensure_ascii=False, default=dict))
