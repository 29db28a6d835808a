"""The last answer of a (sub-)run whose budget is used up: one call of the model without tools, from tokens set aside.

Its request is that of an ordinary step, made to fit: what comes first (instructions and request) and the note at the
end stay, exchanges between them are dropped, oldest first and each whole. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from understudy.actors.agents.models import ChatMessage, ModelRequest, input_cap

LAST: Final = (
    "Note from the supervisor: budget {pool}: {unit} used up ({spent} of {limit} spent). This is the last step, and no"
    " tool can be called. Answer now with what there is, and say what is missing."
)


def last_tokens(max_tokens: int, set_aside: int) -> int:
    """How many of the tokens set aside the answer may have: half of them, the agent's `max_tokens` at most."""
    return min(max_tokens, set_aside // 2)


def last_request(request: ModelRequest, set_aside: int) -> ModelRequest | None:
    """The request for the last answer, in at most `set_aside` tokens with its reply; None when that is too little.

    The newest message is kept: it asks for the answer.
    """
    most = last_tokens(request.max_tokens, set_aside)
    bare = msgspec.structs.replace(request, tools=(), max_tokens=most)
    head, groups = _groups(bare.messages[:-1])
    while True:
        kept = [message for group in groups for message in group]
        made = msgspec.structs.replace(bare, messages=(*head, *kept, *bare.messages[-1:]))
        if input_cap(made) + most <= set_aside:
            return made
        if not groups:
            return None
        groups = groups[max(1, len(groups) // 2) :] if len(groups) > 8 else groups[1:]


def _groups(messages: Sequence[ChatMessage]) -> tuple[list[ChatMessage], list[list[ChatMessage]]]:
    """Instructions and request; then what belongs together: a reply with its results, or a note."""
    first = next((n for n, message in enumerate(messages) if message.role == "user"), len(messages) - 1)
    head, groups = list(messages[: first + 1]), list[list[ChatMessage]]()
    for message in messages[first + 1 :]:
        if message.role == "tool" and groups:
            groups[-1].append(message)
        else:
            groups.append([message])
    return head, groups
