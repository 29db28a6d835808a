"""The OpenAI adapter against a real HTTP server on loopback; only pure functions are called directly."""

import asyncio
import math
import types
from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from providers import SCHEMA, WEATHER, error_from, reply_to, say

from understudy.actors.agents.models import (
    ChatMessage,
    ModelReply,
    ModelRequest,
    ToolCall,
    ToolSchema,
    Usage,
    input_cap,
)
from understudy.actors.errors import (
    BadReply,
    ModelRefused,
)
from understudy.transports.models.chat_wire import decode, encode
from understudy.transports.models.openai import OpenAIChat
from understudy.transports.testing.chats import charge, completion, read_request
from understudy.transports.testing.model_server import (
    AnswerCall,
    ChatAnswer,
    ChatRequest,
    ModelServer,
    OverReport,
    echo,
)

# What is said and heard


def test_an_answer_comes_back_with_its_text_usage_and_model() -> None:
    reply = reply_to(echo, say("hello"))
    assert reply == ModelReply("hello", (), "stop", Usage(5, 2), "m")


def test_tools_are_offered_and_their_calls_and_results_travel_both_ways() -> None:
    seen: list[ChatRequest] = []

    def policy(request: ChatRequest) -> ChatAnswer:
        seen.append(request)
        last = request.messages[-1]
        if last.role == "tool":
            return ChatAnswer(f"it is {last.content}")
        return ChatAnswer(calls=(AnswerCall("weather", '{"id": "Ulm"}'), AnswerCall("weather", "{broken")))

    async def main() -> None:
        async with ModelServer(policy) as server, OpenAIChat("m", base_url=server.url).session() as session:
            question = say("How is it?", tools=(WEATHER,))
            first = await session.complete(question, timeout=60)
            assert first.finish == "tool_calls"
            assert [(call.name, call.arguments) for call in first.calls] == [
                ("weather", '{"id": "Ulm"}'),
                ("weather", "{broken"),
            ]
            results = tuple(ChatMessage("tool", "dry", call_id=call.id) for call in first.calls)
            asked = ChatMessage("assistant", calls=first.calls)
            again = msgspec.structs.replace(question, messages=(*question.messages, asked, *results))
            assert (await session.complete(again, timeout=60)).content == "it is dry"

    asyncio.run(main())
    assert seen[0].tools[0].function.parameters == SCHEMA
    assert [message.role for message in seen[1].messages] == ["user", "assistant", "tool", "tool"]


@pytest.mark.parametrize("strict", [True, False])
def test_an_output_schema_is_asked_for_as_structured_output(strict: bool) -> None:
    seen: list[ChatRequest] = []

    def policy(request: ChatRequest) -> ChatAnswer:
        seen.append(request)
        return ChatAnswer('{"id": "1"}')

    reply = reply_to(policy, say("hello", output_schema=SCHEMA), strict=strict)
    wanted = seen[0].response_format
    assert wanted is not None
    assert wanted.json_schema is not None
    assert (wanted.type, wanted.json_schema.schema, wanted.json_schema.strict) == ("json_schema", SCHEMA, strict)
    assert msgspec.json.decode(reply.content) == {"id": "1"}


def test_optional_fields_are_left_out_and_zero_temperature_is_not() -> None:
    bare = msgspec.json.decode(encode(say("hello"), "m"))
    assert bare == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": False,
        "max_tokens": 1024,
    }
    assert msgspec.json.decode(encode(say("hello", temperature=0.0), "m", user="desk"))["temperature"] == 0.0


def test_the_cap_of_the_answer_goes_into_the_field_that_is_asked_for() -> None:
    body = msgspec.json.decode(encode(say("hello", max_tokens=7), "m", limit_field="max_completion_tokens"))
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


def test_the_label_for_billing_reaches_the_provider() -> None:
    assert reply_to(lambda request: ChatAnswer(request.user), say("hello"), user="desk/2").content == "desk/2"


def test_an_answer_at_the_cap_says_that_it_was_cut() -> None:
    reply = reply_to(echo, say("word " * 100, max_tokens=3))
    assert (reply.finish, reply.usage and reply.usage.output_tokens) == ("length", 3)


def test_lone_surrogates_are_replaced_wherever_they_stand() -> None:
    request = ModelRequest(
        (
            ChatMessage("user", "a\ud800b"),
            ChatMessage("assistant", calls=(ToolCall("i", "t", "\udfff"),)),
            ChatMessage("tool", "fine", call_id="i"),
        ),
        tools=(ToolSchema("t", "\ud800", types.MappingProxyType({"type": "object", "title": "\ud800"})),),
    )
    sent = read_request(encode(request, "m"))
    assert sent.messages[0].content == "a?b"
    assert sent.tools[0].function.parameters == {"type": "object", "title": "?"}


def test_a_schema_that_json_cannot_say_is_refused_before_anything_is_sent() -> None:
    error = error_from(echo, say("hello", output_schema={"type": object()}))
    assert isinstance(error, ModelRefused)
    assert not error.sent
    assert "object is not JSON" in str(error)


def test_a_refusal_of_the_model_is_its_answer() -> None:
    body = b'{"choices": [{"message": {"content": null, "refusal": "I will not."}, "finish_reason": "stop"}]}'
    assert decode(body) == ModelReply("I will not.", finish="refusal")


def test_calls_without_an_id_get_one_each() -> None:
    call = {"function": {"name": "t", "arguments": "{}"}}
    reply = decode(msgspec.json.encode({"choices": [{"message": {"tool_calls": [call, call]}}]}))
    assert [one.id for one in reply.calls] == ["call_0", "call_1"]


# Properties

texts = st.text(st.characters(), max_size=40)  # surrogates included
names = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
schemas = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(-9, 9), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> ModelRequest:
    messages = [ChatMessage("system", draw(texts))]
    for turn in range(draw(st.integers(0, 3))):
        wanted = draw(st.lists(st.tuples(names, texts), max_size=3))
        calls = tuple(ToolCall(f"c{turn}_{i}", name, arguments) for i, (name, arguments) in enumerate(wanted))
        messages.append(ChatMessage("assistant", draw(texts), calls))
        messages.extend(ChatMessage("tool", draw(texts), call_id=call.id) for call in calls)
    tools = st.builds(ToolSchema, names, st.text(max_size=20), schemas)
    return ModelRequest(
        tuple(messages),
        tools=tuple(draw(st.lists(tools, max_size=2))),
        output_schema=draw(st.none() | schemas),
        temperature=draw(st.none() | st.floats(0, 2)),
        max_tokens=draw(st.integers(1, 60)),
    )


answers = st.builds(ChatAnswer, texts, st.lists(st.builds(AnswerCall, names, texts), max_size=3).map(tuple))


@given(requests())
def test_a_request_arrives_as_it_was_but_for_lone_surrogates(request: ModelRequest) -> None:
    def shown(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    sent = read_request(encode(request, "m"))
    assert len(sent.messages) == len(request.messages)
    for ours, theirs in zip(request.messages, sent.messages, strict=True):
        assert (theirs.role, theirs.content or "") == (ours.role, shown(ours.content))
        calls = [(call.id, call.function.name, call.function.arguments) for call in theirs.tool_calls or ()]
        assert calls == [(call.id, call.name, shown(call.arguments)) for call in ours.calls]
    assert [tool.function.parameters for tool in sent.tools] == [tool.parameters for tool in request.tools]
    assert (sent.temperature, sent.limit) == (request.temperature, request.max_tokens)


@given(requests(), answers)
def test_the_servers_usage_stays_within_the_caps_that_are_reserved(request: ModelRequest, answer: ChatAnswer) -> None:
    sent = read_request(encode(request, "m"))
    reply = decode(completion(sent, answer, "0" * 64, charge(sent, answer)))
    assert reply.usage is not None
    assert 0 < reply.usage.input_tokens <= input_cap(request)
    assert 0 <= reply.usage.output_tokens <= request.max_tokens


@given(answers, st.integers(1, 60))
@example(ChatAnswer("\ud800"), 1)
def test_an_answer_comes_back_whole_or_says_that_it_was_cut(answer: ChatAnswer, limit: int) -> None:
    def shown(text: str) -> str:
        return text.encode("utf-8", "replace").decode()

    sent = read_request(encode(say("hello", max_tokens=limit), "m"))
    reply = decode(completion(sent, answer, "0" * 64, charge(sent, answer)))
    whole = reply.content == shown(answer.content) and [(call.name, call.arguments) for call in reply.calls] == [
        (call.name, shown(call.arguments)) for call in answer.calls
    ]
    assert whole == (reply.finish != "length")
    assert shown(answer.content).startswith(reply.content)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode))
def test_whatever_arrives_is_an_answer_or_a_bad_reply(body: bytes) -> None:
    with suppress(BadReply):
        assert isinstance(decode(body), ModelReply)


def test_only_an_over_reporting_provider_exceeds_the_caps() -> None:
    request = say("hello", max_tokens=4)
    reply = reply_to(lambda _: OverReport(50), request)
    assert reply.usage is not None
    assert reply.usage.output_tokens > request.max_tokens
    assert reply.usage.input_tokens > input_cap(request)


def test_a_deadline_without_end_is_allowed() -> None:
    assert reply_to(echo, say("hello"), timeout=math.inf).content == "hello"
