"""The wire format of OpenAI's chat completions: pure functions between neutral structs and bytes.

Only fields that are used are decoded; a provider may add what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from understudy.actors.agents.models import ChatMessage, ModelReply, ModelRequest, ToolCall, ToolSchema, Usage
from understudy.actors.errors import BadReply, ModelError, ModelRefused, Overloaded, RateLimited

LimitField = Literal["max_tokens", "max_completion_tokens"]


# The wire, outwards


class _Function(Struct):
    name: str
    arguments: str


class _Call(Struct):
    id: str
    function: _Function
    type: str = "function"


class _Message(Struct):
    role: str
    content: str | None
    tool_calls: tuple[_Call, ...] | UnsetType = UNSET
    tool_call_id: str | UnsetType = UNSET


class _Tool(Struct):
    function: ToolSchema
    type: str = "function"


class _JSONSchema(Struct):
    name: str
    schema: Mapping[str, object]
    strict: bool


class _ResponseFormat(Struct):
    json_schema: _JSONSchema
    type: str = "json_schema"


class _Body(Struct):
    model: str
    messages: tuple[_Message, ...]
    stream: bool = False
    tools: tuple[_Tool, ...] | UnsetType = UNSET
    response_format: _ResponseFormat | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    max_completion_tokens: int | UnsetType = UNSET
    user: str | UnsetType = UNSET


def encode(
    request: ModelRequest,
    model: str,
    *,
    strict: bool = False,
    limit_field: LimitField = "max_tokens",
    user: str = "",
) -> bytes:
    """The JSON body of one request. A lone surrogate becomes `?`, as in `input_cap`.

    Raises `ModelRefused` (nothing sent) when a schema holds what JSON cannot say.
    """
    body = _Body(
        model=model,
        messages=tuple(_message(message) for message in request.messages),
        tools=tuple(_Tool(tool) for tool in request.tools) or UNSET,
        response_format=_response_format(request.output_schema, strict),
        temperature=UNSET if request.temperature is None else request.temperature,
        user=user or UNSET,
    )
    if limit_field == "max_tokens":
        body.max_tokens = request.max_tokens
    else:
        body.max_completion_tokens = request.max_tokens
    try:
        return _encode_replacing(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ModelRefused(f"{model}: the request cannot be written as JSON: {error}", sent=False) from error


def _message(message: ChatMessage) -> _Message:
    calls = tuple(_Call(call.id, _Function(call.name, call.arguments)) for call in message.calls)
    return _Message(
        role=message.role,
        content=None if calls and not message.content else message.content,
        tool_calls=calls or UNSET,
        tool_call_id=message.call_id or UNSET,
    )


def _response_format(schema: Mapping[str, object] | None, strict: bool) -> _ResponseFormat | UnsetType:
    return UNSET if schema is None else _ResponseFormat(_JSONSchema("output", schema, strict))


def _encode_replacing(body: _Body) -> bytes:
    try:
        return msgspec.json.encode(body, enc_hook=_as_dict)
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(msgspec.to_builtins(body, enc_hook=_as_dict)))


def _as_dict(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    raise TypeError(f"{type(value).__name__} is not JSON")


def _without_surrogates(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        entries = cast("dict[object, object]", value).items()
        return {_without_surrogates(key): _without_surrogates(item) for key, item in entries}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in cast("Sequence[object]", value)]
    return value


# The wire, inwards

_Count = Annotated[int, Meta(ge=0)]


class _ReplyFunction(Struct):
    name: str
    arguments: str = ""


class _ReplyCall(Struct):
    function: _ReplyFunction
    id: str | None = None


class _ReplyMessage(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ReplyCall] | None = None


class _Choice(Struct):
    message: _ReplyMessage
    finish_reason: str | None = None


class _ReplyUsage(Struct):
    prompt_tokens: _Count
    completion_tokens: _Count


class _Completion(Struct):
    choices: list[_Choice]
    usage: _ReplyUsage | None = None
    model: str | None = None


_completion = msgspec.json.Decoder(_Completion)


def decode(body: bytes) -> ModelReply:
    """Read one answer. Raises `BadReply`, naming the path, when it is not JSON or not a chat completion."""
    try:
        completion = _completion.decode(body)
    except msgspec.ValidationError as error:
        raise BadReply(f"not a chat completion: {_provider_text(body) or error}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadReply(f"not JSON: {error}") from error
    if not completion.choices:
        raise BadReply("not a chat completion: no choices - at `$.choices`")
    return _reply(completion, completion.choices[0])


def _reply(completion: _Completion, choice: _Choice) -> ModelReply:
    message, usage = choice.message, completion.usage
    calls = tuple(
        # Some servers leave the id out; the position is enough to pair a result with its call.
        ToolCall(call.id or f"call_{index}", call.function.name, call.function.arguments)
        for index, call in enumerate(message.tool_calls or ())
    )
    refused = message.content is None and message.refusal is not None
    return ModelReply(
        content=message.content or message.refusal or "",
        calls=calls,
        finish="refusal" if refused else choice.finish_reason or "stop",
        usage=None if usage is None else Usage(usage.prompt_tokens, usage.completion_tokens),
        model=completion.model or "",
    )


# What goes wrong


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or an HTTP date measured from `now` (Unix seconds)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        at = unix_time(value)
        seconds = float("nan") if at is None else at - now
    return max(0.0, seconds) if isfinite(seconds) else None


def unix_time(date: str | None) -> float | None:
    """Unix seconds of an HTTP date; None when it is none."""
    from email.utils import parsedate_to_datetime  # late: it takes longer to load than this module

    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return None


class _ErrorDetail(Struct):
    message: str = ""
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(Struct):
    error: _ErrorDetail | str | None = None
    message: str | None = None
    detail: str | None = None


def _error_body(body: bytes) -> _ErrorBody:
    try:
        return msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _ErrorBody()


def _provider_text(body: bytes) -> str:
    found = _error_body(body)
    inner = found.error.message if isinstance(found.error, _ErrorDetail) else found.error
    return inner or found.message or found.detail or ""


def _out_of_quota(body: bytes) -> bool:
    error = _error_body(body).error
    return isinstance(error, _ErrorDetail) and "insufficient_quota" in (error.code, error.type)


def refusal(status: int, body: bytes, *, pause: float | None = None) -> ModelError:
    """The error for an HTTP status that is not 2xx. `pause` is the parsed Retry-After in seconds."""
    text = f"HTTP {status}: {_provider_text(body) or 'no message'}"
    if status == 429 and not _out_of_quota(body):
        return RateLimited(text, retry_after=pause)
    if status >= 500:
        return Overloaded(text, retry_after=pause)
    return ModelRefused(text)
