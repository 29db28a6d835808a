"""How turns become what a model is shown: the messages of one exchange, note or request, for `view.View`.

A provider refuses names it would not allow and ids that are not unique: calls are shown as it takes them back.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from understudy.actors.agents.models import ChatMessage, ToolCall
from understudy.actors.journal.state import CallState, Sub, Turn
from understudy.actors.journal.view import View

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
REPAIR: Final = "Your answer is not valid: {error}. Answer again with JSON that fits the schema, and nothing else."
UNDONE: Final = "error: it has no result, the run ended before it came"
EDITED: Final = (
    "Note from the supervisor: {by} approved this call with other arguments than you asked for. It was made with:"
    " {arguments}"
)
_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def show_task(sub: Sub) -> None:
    """The request: it stays in the window, unchanged, as long as it is worked on."""
    sub.view.add("task", sub.step, (ChatMessage("user", prompt_of(sub.type, sub.message)),), pinned=True)


def prompt_of(type_: str, message: str) -> str:
    """A request in words: the text of a `Prompt`, else the JSON of the message's fields."""
    try:
        fields = _fields.decode(message)
        fields.pop("$", None)
        if type_ == "Prompt" and set(fields) == {"text"}:
            return msgspec.json.decode(fields["text"], type=str)
        return msgspec.json.encode(fields).decode()
    except (msgspec.MsgspecError, ValueError):
        return message


def show_note(sub: Sub, note: str) -> None:
    """A word of the runtime to the model."""
    sub.view.add("note", sub.step, (ChatMessage("user", note),))


def show_turn(run: str, sub: Sub, turn: Turn) -> None:
    """An exchange whose calls all have their outcome, or whose answer was rejected; again when it changes."""
    failed = bool(turn.rejected) if not turn.calls else not any(call.ok for call in turn.calls)
    sub.view.show(turn.step, messages_of(turn), origin=f"{run}/{sub.id}:{turn.step}", failed=failed)


def messages_of(turn: Turn) -> list[ChatMessage]:
    """The reply, the result of each of its calls in their order, and what was wrong with it."""
    messages: list[ChatMessage] = []
    if turn.reply is not None:
        shown = _calls(turn.calls)
        messages.append(ChatMessage("assistant", turn.reply.content, shown))
        for state, call in zip(turn.calls, shown, strict=True):
            messages.append(ChatMessage("tool", _told(state), call_id=call.id))
    if turn.rejected:
        messages.append(ChatMessage("user", turn.told or REPAIR.format(error=turn.rejected)))
    return messages


def _calls(states: list[CallState]) -> tuple[ToolCall, ...]:
    ids: set[str] = set()
    shown: list[ToolCall] = []
    for index, state in enumerate(states):
        call = state.call
        id_ = call.id if call.id and call.id not in ids else f"{call.id[:32]}_{index}"
        ids.add(id_)
        name = _FOREIGN.sub("_", call.name)[:64] or "_"
        same = id_ == call.id and name == call.name
        shown.append(call if same else ToolCall(id_, name, call.arguments))
    return tuple(shown)


def _told(call: CallState) -> str:
    said = _outcome(call)
    if not call.edited:
        return said
    return f"{EDITED.format(by=call.editor, arguments=call.edited)}\n{said}"


def _outcome(call: CallState) -> str:
    if call.ok:
        return call.outcome
    return f"error: {call.outcome or call.kind}" if call.done else UNDONE


def carried(run: str, sub: Sub) -> View:
    """The window of the run of a session that ended, for the next one.

    A run that handed its request on leaves what its first agent saw; calls that were never settled have no result.
    """
    last = sub.last
    if sub.left is None and last is not None and last.open:
        view = sub.view.carried()
        view.base = 0  # shown once, as it ended
        view.show(last.step, messages_of(last), origin=f"{run}/{sub.id}:{last.step}", failed=False)
        view.base = view.next
        return view
    return (sub.left or sub.view).carried()
