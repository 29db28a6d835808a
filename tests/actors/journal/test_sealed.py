"""The events of each step are not read back before they are folded: only when that would make no difference."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from understudy.actors.agents.models import ModelReply, ToolCall, Usage
from understudy.actors.errors import UsageError
from understudy.actors.journal.events import (
    AnyEvent,
    ModelAnswered,
    ModelAsked,
    Record,
    ToolAnswered,
    ToolAsked,
    decode,
)
from understudy.actors.journal.sealing import sealed

TEXTS = st.text()
COUNTS = st.dictionaries(TEXTS, st.integers(0, 2**53))
ASKED = st.builds(
    ModelAsked,
    st.integers(1, 2**53),
    st.dictionaries(TEXTS, TEXTS),
    st.integers(1, 2**53),
    COUNTS,
    st.lists(TEXTS).map(tuple),
    TEXTS,
    st.integers(1, 9),
    TEXTS,
    st.booleans(),
    st.integers(0, 2**53),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))).map(tuple),
)
ANSWERED = st.builds(ToolAnswered, st.integers(0, 2**53), st.integers(0, 99), TEXTS, st.floats(0, 1e9))
CALLS = st.lists(st.builds(ToolCall, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple)
USAGE = st.none() | st.builds(Usage, st.integers(0, 10**12), st.integers(0, 10**12))
REPLIED = st.builds(
    ModelAnswered,
    st.integers(1, 2**53),
    TEXTS,
    st.builds(ModelReply, TEXTS, CALLS, TEXTS, USAGE, TEXTS),
    COUNTS,
    st.booleans(),
    st.floats(0, 1e9),
)
CALLED = st.builds(
    ToolAsked,
    st.integers(1, 2**53),
    st.integers(0, 99),
    TEXTS,
    TEXTS,
    st.sampled_from(["read", "idempotent", "keyed", "verifiable", "irreversible"]),
    TEXTS,
    st.booleans(),
    TEXTS,
    TEXTS,
    st.integers(0, 99),
    TEXTS,
    COUNTS,
    st.lists(TEXTS).map(tuple),
    TEXTS,
)
REPLY = ModelReply("yes", (ToolCall("c1", "act", "{}"),), usage=Usage(1, 2))
REPLIES = ModelAnswered(1, "t", REPLY, {"tokens": 3}, seconds=0.5)
CALL = ToolAsked(1, 0, "act", "{}", "read", "act {}")
ASK = ModelAsked(1, {"history": "x"}, 1024, {"tokens": 5}, ("main",), "r/0:1#1")


def record(event: AnyEvent) -> Record:
    return Record("r", 1, 1.5, 2.5, 0, "main/a", 1, 0, event)


@given(st.one_of(ASKED, ANSWERED, REPLIED, CALLED))
def test_what_is_not_read_back_is_what_would_be_read_back(event: AnyEvent) -> None:
    kept, data = sealed(record(event))
    assert kept == decode(data)


@pytest.mark.parametrize(
    "event",
    [
        replace(ASK, max_tokens=1024.5),
        replace(ASK, max_tokens=True),
        replace(ASK, reserved={"tokens": 5, "usd": 0.5}),
        replace(CALL, reserved={"tokens": 0.5}),
        replace(CALL, polling=1),
        replace(CALL, loop_key=7),
        replace(REPLIES, seconds=math.inf),
        replace(REPLIES, spent={"tokens": 0.5}),
        replace(REPLIES, reply=replace(REPLY, usage=Usage(1, 2.5))),  # type: ignore[arg-type]
        replace(REPLIES, reply=replace(REPLY, calls=(ToolCall("c1", "act", 5),))),  # type: ignore[arg-type]
        ToolAnswered(1, 0, "null", math.nan),
        ToolAnswered(1, 0, "null", math.inf),
    ],
)
def test_what_could_not_be_read_back_is_refused(event: Any) -> None:
    with pytest.raises(UsageError, match=r"run r: \w+ cannot be journalled"):
        sealed(record(event))


def test_a_lone_surrogate_becomes_a_question_mark_in_the_record_as_in_the_bytes() -> None:
    kept, data = sealed(record(ToolAnswered(1, 0, '"\udc80"', 0.5)))
    assert kept == decode(data)
    assert isinstance(kept.event, ToolAnswered)
    assert kept.event.result == '"?"'
