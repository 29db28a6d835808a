"""What a policy of the model server reads and returns, and what the server charges for it. Values only.

A `Policy` is a function of the request alone: the same request gets the same answer, with the same ids and the same
usage, in every process and at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from importlib import import_module
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Meta, Struct

from understudy.actors.agents.models import Role, Usage
from understudy.actors.errors import UsageError

BYTES_PER_TOKEN = 4
TOKENS_PER_ITEM = 4
"""Markup counted for each message, call, tool and schema; below `models.MESSAGE_OVERHEAD`, so `input_cap` holds."""

DEFAULT_LIMIT = 1024

_Limit = Annotated[int, Meta(ge=1)]
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


# The request


class RequestFunction(Struct, frozen=True):
    """The function of a call in the conversation; `arguments` is JSON text."""

    name: _Name
    arguments: str


class RequestCall(Struct, frozen=True):
    """A call that an earlier answer asked for."""

    id: str
    function: RequestFunction
    type: Literal["function"] = "function"


class RequestMessage(Struct, frozen=True):
    """One message of the conversation."""

    role: Role
    content: str | None = None
    tool_calls: tuple[RequestCall, ...] | None = None
    tool_call_id: str | None = None


class FunctionSpec(Struct, frozen=True):
    """A tool's name, description, and JSON schema of its arguments."""

    name: _Name
    description: str = ""
    parameters: dict[str, Any] = {}  # Any: a JSON schema


class RequestTool(Struct, frozen=True):
    """A tool on offer."""

    function: FunctionSpec
    type: Literal["function"] = "function"


class SchemaSpec(Struct, frozen=True):
    """The JSON schema that the answer must have."""

    name: _Name
    schema: dict[str, Any] = {}  # Any: a JSON schema
    strict: bool | None = None


class ResponseFormat(Struct, frozen=True):
    """How the answer must look."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: SchemaSpec | None = None


class ChatRequest(Struct, frozen=True):
    """The decoded body. Fields that are not listed are ignored, as providers do."""

    model: str
    messages: Annotated[tuple[RequestMessage, ...], Meta(min_length=1)]
    tools: tuple[RequestTool, ...] = ()
    response_format: ResponseFormat | None = None
    temperature: float | None = None
    max_tokens: _Limit | None = None
    max_completion_tokens: _Limit | None = None
    stream: Literal[False] = False
    user: Annotated[str, Meta(max_length=256)] = ""

    @property
    def limit(self) -> int:
        """The cap of the answer in tokens: the smaller of the two fields, or `DEFAULT_LIMIT`."""
        given = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        return min(given, default=DEFAULT_LIMIT)


# The answer


class AnswerCall(Struct, frozen=True):
    """A tool call of an answer; `arguments` is JSON text and is sent as it is, valid or not."""

    name: str
    arguments: str = "{}"


class ChatAnswer(Struct, frozen=True):
    """What the model says. The server adds ids and usage, and cuts it at the request's cap."""

    content: str = ""
    calls: tuple[AnswerCall, ...] = ()


_FAULT_ANSWER = ChatAnswer("This answer comes with a fault.")


class RateLimit(Struct, frozen=True):
    """HTTP 429; `retry_after` seconds, or no such header. Not billed."""

    retry_after: float | None = None


class ServerError(Struct, frozen=True):
    """An HTTP 5xx. Not billed."""

    status: Annotated[int, Meta(ge=500, le=599)] = 500
    message: str = "the server had an error"


class Refusal(Struct, frozen=True):
    """Another 4xx, such as a wrong key. Not billed."""

    status: Annotated[int, Meta(ge=400, le=499)] = 400
    message: str = "bad request"
    code: str | None = None


class NotJSON(Struct, frozen=True):
    """HTTP 200 with `text` as it is, as a broken gateway sends. Not billed."""

    text: str = "<html>Bad gateway</html>"


class Declined(Struct, frozen=True):
    """HTTP 200 with a refusal of the model in place of an answer. Billed."""

    text: str = "I cannot help with that."


class SlowTokens(Struct, frozen=True):
    """The answer in small pieces, spread over `seconds`. Billed."""

    seconds: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    answer: ChatAnswer = _FAULT_ANSWER


class LostReply(Struct, frozen=True):
    """The connection is closed without a byte of the answer. Billed: the work was done."""

    answer: ChatAnswer = _FAULT_ANSWER


class CutStream(Struct, frozen=True):
    """The first half of an answer whose Content-Length promised all of it. Billed: the work was done."""

    answer: ChatAnswer = _FAULT_ANSWER


class Hang(Struct, frozen=True):
    """Silence for `seconds`, then the connection is closed without an answer. Not billed."""

    seconds: Annotated[float, Meta(ge=0, le=3600)] = 60.0


class OverReport(Struct, frozen=True):
    """A usage multiplied by `factor`, past every cap. Billed as reported."""

    factor: Annotated[int, Meta(ge=1)] = 100
    answer: ChatAnswer = _FAULT_ANSWER


Fault: TypeAlias = (
    RateLimit | ServerError | Refusal | Declined | NotJSON | SlowTokens | CutStream | LostReply | Hang | OverReport
)
Policy: TypeAlias = Callable[[ChatRequest], ChatAnswer | Fault]


def echo(request: ChatRequest) -> ChatAnswer:
    """The simplest policy: say the last message again."""
    return ChatAnswer(request.messages[-1].content or "")


def find_policy(where: str) -> Policy:
    """Import a policy named `module:attribute`. Raises `UsageError` when there is none."""
    module, _, attribute = where.partition(":")
    if not module or not attribute:
        raise UsageError(f"a policy is named module:attribute, not {where!r}")
    try:
        policy = getattr(import_module(module), attribute, None)
    except Exception as error:  # whatever the module does when it is imported
        raise UsageError(f"policy {where!r}: {type(error).__name__}: {error}") from error
    if not callable(policy):
        raise UsageError(f"policy {where!r}: {module} has no function {attribute}")
    return cast(Policy, policy)


# Reading


def read_request(body: bytes) -> ChatRequest:
    """Decode and check one body. Raises ValueError with a text for the client.

    The order of messages is checked as real providers do: each call is answered once, directly after the message
    that asked for it.
    """
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    open_calls: set[str] = set()
    for index, message in enumerate(request.messages):
        _check_message(index, message, open_calls)
    if open_calls:
        raise ValueError(f"messages: no result for the calls {sorted(open_calls)}")
    return request


def _check_message(index: int, message: RequestMessage, open_calls: set[str]) -> None:
    if message.role == "tool":
        if message.tool_call_id not in open_calls:
            raise ValueError(f"messages[{index}]: no call with id {message.tool_call_id!r} waits for a result")
        open_calls.remove(message.tool_call_id)
        return
    if open_calls:
        raise ValueError(f"messages[{index}]: no result yet for the calls {sorted(open_calls)}")
    if message.tool_calls and message.role != "assistant":
        raise ValueError(f"messages[{index}]: tool_calls in a message of role {message.role}")
    if message.content is None and not message.tool_calls:
        raise ValueError(f"messages[{index}]: neither content nor tool_calls")
    open_calls.update(call.id for call in message.tool_calls or ())
    if len(open_calls) != len(message.tool_calls or ()):
        raise ValueError(f"messages[{index}]: two calls have one id")


def digest(body: bytes) -> str:
    """What requests are counted by: 64 hexadecimal digits over the body."""
    return sha256(body).hexdigest()


# Charging


def prompt_tokens(request: ChatRequest) -> int:
    """What the server counts as input: a quarter of the bytes and a little for each item."""
    items: list[int] = []
    for message in request.messages:
        items.append(len((message.content or "").encode()))
        for call in message.tool_calls or ():
            items.append(len(call.function.name.encode()) + len(call.function.arguments.encode()))
    items.extend(len(msgspec.json.encode(tool.function)) for tool in request.tools)
    if request.response_format is not None and request.response_format.json_schema is not None:
        items.append(len(msgspec.json.encode(request.response_format.json_schema.schema)))
    return sum(items) // BYTES_PER_TOKEN + TOKENS_PER_ITEM * len(items)


def bounded(answer: ChatAnswer, limit: int) -> tuple[ChatAnswer, int, bool]:
    """The answer cut to `limit` tokens, its tokens, and whether it was cut (a call's arguments may then be half).

    Lone surrogates, which no JSON on the wire can carry, become `?`.
    """
    room = limit * BYTES_PER_TOKEN
    plain = tuple(AnswerCall(_plain(call.name), _plain(call.arguments)) for call in answer.calls)
    whole = ChatAnswer(_plain(answer.content), plain)
    content = _cut(whole.content, room)
    room -= len(content.encode())
    calls: list[AnswerCall] = []
    for call in whole.calls:
        if len(call.name.encode()) > room:
            break
        room -= len(call.name.encode())
        calls.append(AnswerCall(call.name, _cut(call.arguments, room)))
        room -= len(calls[-1].arguments.encode())
    kept = ChatAnswer(content, tuple(calls))
    return kept, limit - room // BYTES_PER_TOKEN, kept != whole


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, room: int) -> str:
    return text.encode()[:room].decode("utf-8", "ignore")


def charge(request: ChatRequest, answer: ChatAnswer, *, factor: int = 1) -> Usage:
    """What is billed and reported for this answer."""
    return Usage(prompt_tokens(request) * factor, bounded(answer, request.limit)[1] * factor)


def completion(request: ChatRequest, answer: ChatAnswer, key: str, usage: Usage, *, declined: bool = False) -> bytes:
    """The body of a chat completion. Its ids come from `key`, the digest of the request; it holds no time.

    With `declined` the content is a refusal of the model.
    """
    kept, _, cut = bounded(answer, request.limit)
    message: dict[str, object] = {"role": "assistant", "content": kept.content or None}
    if declined:
        message |= {"content": None, "refusal": kept.content}
    if kept.calls:
        message["tool_calls"] = [
            {
                "id": f"call_{key[:16]}_{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(kept.calls)
        ]
    finish = "length" if cut else "tool_calls" if kept.calls else "stop"
    return msgspec.json.encode(
        {
            "id": f"chatcmpl-{key[:24]}",
            "object": "chat.completion",
            "created": 0,
            "model": request.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            },
        }
    )
