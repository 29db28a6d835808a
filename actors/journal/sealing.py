"""An event made fit to be kept: its bytes, and the record as it will be read back, so that a fold sees the same."""

from __future__ import annotations

from math import isfinite

import msgspec

from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.errors import UsageError
from understudy.actors.journal.event import without_surrogates
from understudy.actors.journal.events import (
    ActorsWorked,
    AnyEvent,
    ModelAnswered,
    ModelAsked,
    Record,
    ToolAnswered,
    ToolAsked,
    decode,
    encode,
    encoder,
)


def sealed(record: Record) -> tuple[Record, bytes]:
    """The record as it will be read back, and its bytes; a lone surrogate becomes `?`.

    Raises `UsageError` for one that could not be read back: it would make the whole journal damaged.
    """
    try:
        try:
            data = encode(record)
        except UnicodeEncodeError:
            data = encoder.encode(without_surrogates(msgspec.to_builtins(record)))
        else:
            if _reads_back_as_it_is(record.event):
                return record, data
        return decode(data), data
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"run {record.run}: {type(record.event).__name__} cannot be journalled: {error}") from error


def _reads_back_as_it_is(event: AnyEvent) -> bool:
    """Whether reading back would only make a copy: the four events of each step and what plain actors
    keep, of fields that the runtime made.
    """
    if isinstance(event, ToolAnswered):
        return _is_text(event.result) and type(event.seconds) is float and isfinite(event.seconds)
    if isinstance(event, ModelAsked):
        return _are_counts(event.reserved) and type(event.max_tokens) is int
    if isinstance(event, ToolAsked):
        texts = _is_text(event.name) and _is_text(event.arguments) and _is_text(event.loop_key)
        return texts and _is_flag(event.polling) and _are_counts(event.reserved)
    if isinstance(event, ModelAnswered):
        return _is_plain(event.reply) and _are_counts(event.spent) and isfinite(event.seconds)
    return isinstance(event, ActorsWorked)


def _is_plain(reply: ModelReply) -> bool:
    """As `replies.checked` makes them: of the very types that are declared."""
    usage = reply.usage
    if type(reply) is not ModelReply or type(reply.calls) is not tuple or not _is_text(reply.content):
        return False
    if usage is not None and not (type(usage.input_tokens) is int and type(usage.output_tokens) is int):
        return False
    for call in reply.calls:
        if type(call) is not ToolCall or not (_is_text(call.name) and _is_text(call.arguments) and _is_text(call.id)):
            return False
    return _is_text(reply.finish) and _is_text(reply.model)


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_flag(value: object) -> bool:
    return value is True or value is False


def _are_counts(amounts: dict[str, int]) -> bool:
    for amount in amounts.values():  # noqa: SIM110  # a loop: twice as fast, and asked at every step
        if type(amount) is not int:
            return False
    return True
