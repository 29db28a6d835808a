"""The request for a last answer: made to fit, with what must stay, and no call without its result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.agents.concluding import last_request, last_tokens
from understudy.actors.agents.models import ChatMessage, ModelRequest, ToolCall, ToolSchema, input_cap

NOTE = ChatMessage("user", "answer now")
TEXTS = st.text("abc é", max_size=60)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[ChatMessage, ...]:
    """Perhaps instructions, a request, exchanges, notes between them, and the note that asks for the answer."""
    messages = [ChatMessage("system", draw(TEXTS))] if draw(st.booleans()) else []
    messages.append(ChatMessage("user", draw(TEXTS)))
    for number in range(draw(st.integers(0, 30))):
        if draw(st.booleans()):
            messages.append(ChatMessage("user", draw(TEXTS)))
            continue
        calls = [ToolCall(f"{number}.{n}", "look", "{}") for n in range(draw(st.integers(0, 3)))]
        messages.append(ChatMessage("assistant", draw(TEXTS), tuple(calls)))
        messages += [ChatMessage("tool", draw(TEXTS), call_id=call.id) for call in calls]
    return (*messages, NOTE)


@given(conversations(), st.integers(64, 3_000), st.integers(1, 500))
def test_it_fits_keeps_its_ends_and_splits_no_call_from_its_result(
    messages: tuple[ChatMessage, ...], set_aside: int, max_tokens: int
) -> None:
    tool = ToolSchema("look", "", {"type": "object"})
    request = ModelRequest(messages, (tool,), max_tokens=max_tokens)
    made = last_request(request, set_aside)
    head = 2 if messages[0].role == "system" else 1
    bare = ModelRequest((*messages[:head], NOTE))
    if made is None:
        assert input_cap(bare) + last_tokens(max_tokens, set_aside) > set_aside
        return
    assert made.tools == ()
    assert input_cap(made) + made.max_tokens <= set_aside
    assert made.messages[:head] == messages[:head]
    assert made.messages[-1] == NOTE
    kept = made.messages[head:]
    assert kept == messages[len(messages) - len(kept) :], "the newest, without a gap"
    asked = [call.id for message in kept for call in message.calls]
    assert asked == [message.call_id for message in kept if message.role == "tool"]


@given(conversations())
def test_what_fits_is_left_as_it_is(messages: tuple[ChatMessage, ...]) -> None:
    made = last_request(ModelRequest(messages, max_tokens=10), 100_000)
    assert made is not None
    assert made.messages == messages
