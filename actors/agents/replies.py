"""What a model's adapter gives, made fit for the journal."""

from __future__ import annotations

from typing import Final

import msgspec

from understudy.actors.agents.models import ModelReply, Usage
from understudy.actors.errors import BadReply

MOST_TOKENS: Final = 10**12
"""What a provider may say that one call took; more is a mistake of its own."""
MOST_CALLS: Final = 1_000
"""Calls that one reply may ask for; a reply with more is a bad one."""


def checked(reply: object) -> ModelReply:
    """A reply as it can be journalled. Raises `BadReply` for what is none."""
    try:
        kept = msgspec.convert(msgspec.to_builtins(reply), ModelReply)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadReply(f"the model's adapter gave no reply: {error}") from error
    if len(kept.calls) > MOST_CALLS:
        raise BadReply(f"{len(kept.calls)} calls in one reply, the limit is {MOST_CALLS}")
    if kept.usage is None:
        return kept
    counts = (kept.usage.input_tokens, kept.usage.output_tokens)
    usage = Usage(*(max(0, min(count, MOST_TOKENS)) for count in counts))
    return msgspec.structs.replace(kept, usage=usage)
