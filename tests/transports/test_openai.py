"""The OpenAI adapter against a real HTTP server on loopback; only pure functions are called directly."""

import asyncio
import math
import subprocess
import sys
import types
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from understudy.actors.agents.models import (
    ChatMessage,
    Model,
    ModelReply,
    ModelRequest,
    Price,
    ToolCall,
    ToolSchema,
    Usage,
    input_cap,
)
from understudy.actors.errors import (
    BadReply,
    ModelError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RateLimited,
    UsageError,
)
from understudy.transports.models.chat_wire import decode, encode, refusal, retry_after
from understudy.transports.models.openai import MAX_REPLY_BYTES, OpenAIChat
from understudy.transports.models.prices import PRICES, price_of
from understudy.transports.testing.chats import charge, completion, read_request
from understudy.transports.testing.model_server import (
    AnswerCall,
    ChatAnswer,
    ChatRequest,
    CutStream,
    Hang,
    ModelServer,
    NotJSON,
    OverReport,
    Policy,
    RateLimit,
    Refusal,
    ServerError,
    echo,
)

KEY = "sk-not-a-real-key-0123456789"
SCHEMA: dict[str, object] = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
WEATHER = ToolSchema("weather", "Tell the weather.", SCHEMA)


def say(text: str, **more: Any) -> ModelRequest:
    return ModelRequest((ChatMessage("user", text),), **more)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def complete(policy: Policy, request: ModelRequest, *, timeout: float = 5.0, **options: Any) -> ModelReply:
    async with ModelServer(policy) as server, OpenAIChat("m", base_url=server.url, **options).session() as session:
        return await session.complete(request, timeout=timeout)


def reply_to(policy: Policy, request: ModelRequest, **options: Any) -> ModelReply:
    return asyncio.run(complete(policy, request, **options))


def error_from(policy: Policy, request: ModelRequest | None = None, **options: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        reply_to(policy, request or say("hello"), **options)
    return caught.value


async def with_raw_server(answer: bytes, act: Callable[[str], Awaitable[None]]) -> None:
    """A server that reads a little and sends exactly these bytes, for what the model server never does."""

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive()
                await stream.send(answer)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass  # the client had read enough

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, handle)
            await act(f"http://127.0.0.1:{port}/v1")
            group.cancel_scope.cancel()


def error_from_raw(answer: bytes) -> ModelError:
    errors: list[ModelError] = []

    async def act(url: str) -> None:
        async with OpenAIChat("m", base_url=url).session() as session:
            with pytest.raises(ModelError) as caught:
                await session.complete(say("hello"), timeout=10)
            errors.append(caught.value)

    asyncio.run(with_raw_server(answer, act))
    return errors[0]


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
            first = await session.complete(question, timeout=5)
            assert first.finish == "tool_calls"
            assert [(call.name, call.arguments) for call in first.calls] == [
                ("weather", '{"id": "Ulm"}'),
                ("weather", "{broken"),
            ]
            results = tuple(ChatMessage("tool", "dry", call_id=call.id) for call in first.calls)
            asked = ChatMessage("assistant", calls=first.calls)
            again = msgspec.structs.replace(question, messages=(*question.messages, asked, *results))
            assert (await session.complete(again, timeout=5)).content == "it is dry"

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


# What goes wrong


def test_429_is_rate_limited_with_the_seconds_to_wait() -> None:
    error = error_from(lambda _: RateLimit(1.5))
    assert isinstance(error, RateLimited)
    assert (error.retry_after, error.retryable, error.sent) == (1.5, True, True)


def test_429_without_a_header_leaves_the_pause_open() -> None:
    assert error_from(lambda _: RateLimit()).retry_after is None


def test_an_exhausted_quota_is_refused_although_it_is_a_429() -> None:
    error = error_from(lambda _: Refusal(429, "You exceeded your quota", code="insufficient_quota"))
    assert type(error) is ModelRefused


@pytest.mark.parametrize("status", [500, 503, 529])
def test_5xx_is_overloaded(status: int) -> None:
    error = error_from(lambda _: ServerError(status))
    assert isinstance(error, Overloaded)
    assert str(error) == f"m: HTTP {status}: the server had an error"


def test_a_5xx_may_name_a_pause_too() -> None:
    answer = b"HTTP/1.1 503 Busy\r\nRetry-After: 4\r\nContent-Length: 0\r\n\r\n"
    assert error_from_raw(answer).retry_after == 4.0


def test_a_pause_given_as_a_date_is_measured_from_the_providers_own_date() -> None:
    answer = (
        b"HTTP/1.1 429 Slow\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
        b"Retry-After: Wed, 21 Oct 2015 07:28:30 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    assert error_from_raw(answer).retry_after == 30.0


def test_other_4xx_are_refused_with_the_providers_words() -> None:
    error = error_from(lambda _: Refusal(400, "context too long"))
    assert type(error) is ModelRefused
    assert str(error) == "m: HTTP 400: context too long"


def test_a_redirect_is_refused_and_not_followed() -> None:
    error = error_from_raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert type(error) is ModelRefused
    assert "302" in str(error)


def test_the_key_is_in_no_error_even_when_the_provider_repeats_it() -> None:
    text = "x" * 290 + f" wrong key {KEY}"
    error = error_from(lambda _: Refusal(401, f"\x1b[2Jwrong key {KEY} {text}"), api_key=KEY)
    assert "wrong key [key]" in str(error)
    assert "sk-" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) <= 310


def test_an_answer_that_is_not_json_is_a_bad_reply() -> None:
    error = error_from(lambda _: NotJSON())
    assert isinstance(error, BadReply)
    assert "not JSON" in str(error)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("[]", "object"),
        ("{}", "choices"),
        ('{"choices": []}', "$.choices"),
        ('{"choices": [{}]}', "$.choices[0]"),
        ('{"choices": [{"message": {"content": 3}}]}', "$.choices[0].message.content"),
        (
            '{"choices": [{"message": {"tool_calls": [{"function": {}}]}}]}',
            "$.choices[0].message.tool_calls[0].function",
        ),
        (
            '{"choices": [{"message": {}}], "usage": {"prompt_tokens": -1, "completion_tokens": 0}}',
            "$.usage.prompt_tokens",
        ),
        ('{"error": {"message": "no such deployment"}}', "no such deployment"),
        ('{"choices": [{"message": {"content": "\\ud800"}}]}', "not JSON"),
        ("[" * 100_000, "not"),
    ],
)
def test_an_answer_of_another_shape_is_a_bad_reply_that_names_the_place(body: str, place: str) -> None:
    error = error_from(lambda _: NotJSON(body))
    assert isinstance(error, BadReply)
    assert place in str(error)


def test_an_answer_that_is_not_utf8_is_a_bad_reply() -> None:
    with pytest.raises(BadReply):
        decode(b'{"choices": [{"message": {"content": "\xff"}}]}')


def test_a_cut_answer_is_a_bad_reply_that_was_sent() -> None:
    error = error_from(lambda _: CutStream())
    assert isinstance(error, BadReply)
    assert "cut" in str(error)
    assert error.sent


def test_a_connection_closed_without_an_answer_is_a_cut_answer() -> None:
    error = error_from(lambda _: Hang(0))
    assert isinstance(error, BadReply)
    assert error.sent


def test_an_answer_that_is_too_large_is_a_bad_reply() -> None:
    error = error_from(lambda _: NotJSON("x" * (MAX_REPLY_BYTES + 1)), timeout=30)
    assert isinstance(error, BadReply)
    assert str(MAX_REPLY_BYTES) in str(error)


def test_a_hanging_provider_is_left_at_the_deadline() -> None:
    error = error_from(lambda _: Hang(60), timeout=0.3)
    assert isinstance(error, ModelTimeout)
    assert error.sent


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    error = error_from(echo, timeout=0)
    assert isinstance(error, ModelTimeout)
    assert not error.sent


def test_a_refused_connection_is_unreachable_and_nothing_was_sent() -> None:
    async def main() -> None:
        async with ModelServer(echo) as server:
            url = server.url
        async with OpenAIChat("m", base_url=url).session() as session:
            with pytest.raises(ModelUnreachable) as caught:
                await session.complete(say("hello"), timeout=5)
        assert not caught.value.sent
        assert isinstance(caught.value.__cause__, httpx.ConnectError)

    asyncio.run(main())


def test_waiting_for_a_connection_ends_at_the_deadline_and_nothing_was_sent() -> None:
    async def main() -> None:
        async with (
            ModelServer(lambda _: Hang(60)) as server,
            OpenAIChat("m", base_url=server.url, max_connections=1).session() as session,
        ):
            async with anyio.create_task_group() as group:
                group.start_soon(occupy, session)
                with anyio.fail_after(10):
                    while not server.billing.requests:
                        await anyio.lowlevel.checkpoint()
                with pytest.raises(ModelTimeout) as caught:
                    await session.complete(say("second"), timeout=0.1)
                group.cancel_scope.cancel()
            assert not caught.value.sent
            assert len(server.billing.requests) == 1

    async def occupy(session: Any) -> None:
        await session.complete(say("first"), timeout=60)

    asyncio.run(main())


def test_cancelling_a_call_is_not_turned_into_a_model_error() -> None:
    async def main() -> None:
        async with (
            ModelServer(lambda _: Hang(60)) as server,
            OpenAIChat("m", base_url=server.url).session() as session,
        ):
            with anyio.move_on_after(0.05) as scope:
                await session.complete(say("hello"), timeout=60)
            assert scope.cancelled_caught

    asyncio.run(main())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("2", 2.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=100.0) == seconds


@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "why"}}', b'{"error": "why"}', b'{"message": "why"}', b'{"detail": "why"}'],
)
def test_the_providers_words_are_found_in_every_common_shape(body: bytes) -> None:
    assert str(refusal(404, body)) == "HTTP 404: why"


def test_an_error_page_that_is_no_json_does_not_hide_the_status() -> None:
    assert str(refusal(502, b"<html>")) == "HTTP 502: no message"


# Sessions


def test_a_hundred_calls_share_one_session() -> None:
    async def main() -> None:
        async with ModelServer(echo) as server, OpenAIChat("m", base_url=server.url).session() as session:
            replies: list[str] = []

            async def one(number: int) -> None:
                replies.append((await session.complete(say(str(number)), timeout=20)).content)

            async with anyio.create_task_group() as group:
                for number in range(100):
                    group.start_soon(one, number)
            assert sorted(replies, key=int) == [str(number) for number in range(100)]
            assert server.billing.calls == 100

    asyncio.run(main())


def test_one_model_can_be_opened_again_and_in_another_loop() -> None:
    async def main(url: str) -> None:
        model = models.setdefault("m", OpenAIChat("m", base_url=url))
        for _ in range(2):
            async with model.session() as session:
                with pytest.raises(ModelUnreachable):
                    await session.complete(say("hello"), timeout=5)

    async def closed_url() -> str:
        async with ModelServer(echo) as server:
            return server.url

    models: dict[str, OpenAIChat] = {}
    url = asyncio.run(closed_url())
    asyncio.run(main(url))
    asyncio.run(main(url))


def test_a_client_that_was_passed_in_is_used_and_stays_open() -> None:
    async def main() -> None:
        async with (
            ModelServer(echo) as server,
            httpx.AsyncClient(headers={"User-Agent": "mine"}) as client,
            OpenAIChat("m", base_url=server.url, client=client).session() as session,
        ):
            assert (await session.complete(say("hello"), timeout=5)).content == "hello"
            assert not client.is_closed

    asyncio.run(main())


def test_with_a_client_that_tells_nothing_a_timeout_counts_as_sent() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async def main() -> None:
        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(never)) as client,
            OpenAIChat("m", base_url="http://127.0.0.1:1/v1", client=client).session() as session,
        ):
            with pytest.raises(ModelTimeout) as caught:
                await session.complete(say("hello"), timeout=0.05)
        assert caught.value.sent

    asyncio.run(main())


@pytest.mark.parametrize(
    ("raised", "kind", "sent"),
    [
        (httpx.ConnectTimeout("slow"), ModelTimeout, False),
        (httpx.PoolTimeout("full"), ModelTimeout, False),
        (httpx.ReadTimeout("slow"), ModelTimeout, True),
        (httpx.WriteTimeout("slow"), ModelTimeout, True),
        (httpx.ProxyError("no"), ModelUnreachable, False),
        (httpx.ReadError("reset"), BadReply, True),
        (httpx.WriteError("reset"), BadReply, True),
        (httpx.DecodingError("gzip"), BadReply, True),
        (httpx.LocalProtocolError("header"), ModelRefused, False),
    ],
)
def test_every_error_of_the_client_is_translated(raised: Exception, kind: type[ModelError], sent: bool) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise raised

    async def main() -> None:
        async with (
            httpx.AsyncClient(transport=httpx.MockTransport(fail)) as client,
            OpenAIChat("m", base_url="http://127.0.0.1:1/v1", client=client).session() as session,
        ):
            with pytest.raises(kind) as caught:
                await session.complete(say("hello"), timeout=5)
        assert (caught.value.sent, caught.value.__cause__) == (sent, raised)

    asyncio.run(main())


def test_a_session_used_after_its_end_is_unreachable() -> None:
    async def main() -> None:
        async with OpenAIChat("m", base_url="http://127.0.0.1:1").session() as session:
            pass
        with pytest.raises(ModelUnreachable) as caught:
            await session.complete(say("hello"), timeout=5)
        assert not caught.value.sent

    asyncio.run(main())


async def open_and_close(model: Model) -> None:
    async with model.session():
        pass


def test_without_a_key_a_distant_provider_is_not_opened() -> None:
    with pytest.raises(UsageError, match=r"no API key for api\.openai\.com: set OPENAI_API_KEY"):
        asyncio.run(open_and_close(OpenAIChat("m")))


def test_key_and_address_of_the_environment_are_read_when_the_session_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OpenAIChat("m")
    seen: list[str] = []

    async def main() -> None:
        async with ModelServer(echo) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.url)
            monkeypatch.setenv("OPENAI_API_KEY", KEY)
            async with httpx.AsyncClient(event_hooks={"request": [note]}) as client:
                model_with_client = OpenAIChat("m", client=client)
                for one in (model, model_with_client):
                    async with one.session() as session:
                        assert (await session.complete(say("hello"), timeout=5)).content == "hello"

    async def note(request: httpx.Request) -> None:
        seen.append(request.headers["authorization"])

    asyncio.run(main())
    assert seen == [f"Bearer {KEY}"]


def test_a_proxy_of_the_environment_is_not_used_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert reply_to(echo, say("hello")).content == "hello"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("ftp://host/v1", "ftp://host/v1"),
        ("host:8000/v1", "host:8000/v1"),
        ("http://", "http://"),
        ("http://host:99999/v1", "99999"),
        ("http://host/v1?key=1", "key=1"),
        ("http://[::1/v1", "must be like"),
        ("http://me:secret@host/v1", "must not hold a user name"),
    ],
)
def test_a_bad_address_is_refused_by_name(url: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIChat("m", base_url=url)
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("options", [{"max_connections": 0}, {"limit_field": "tokens"}, {"model": ""}])
def test_a_bad_option_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        OpenAIChat(**{"model": "m", **options})


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIChat("m", api_key="sk-sécret\n1")
    assert "api_key" in str(caught.value)
    assert "cret" not in str(caught.value)


def test_the_repr_shows_no_key_and_models_are_equal_only_to_themselves() -> None:
    one, other = OpenAIChat("m", api_key=KEY), OpenAIChat("m", api_key=KEY)
    assert KEY not in repr(one)
    assert one != other
    assert len({one, other}) == 2


def test_the_price_is_the_given_one_else_the_tables_else_unknown() -> None:
    assert OpenAIChat("gpt-5-mini").price == PRICES["gpt-5-mini"]
    assert price_of("gpt-5-mini-2025-08-07") == Price(250_000, 2_000_000)
    assert OpenAIChat("gpt-5-mini", price=Price(1, 2)).price == Price(1, 2)
    assert OpenAIChat("another").price is None


def test_importing_and_describing_a_model_loads_no_httpx() -> None:
    code = (
        "import sys; from understudy.transports.models.openai import OpenAIChat; OpenAIChat('m', api_key='k');"
        "import understudy.transports.testing.model_server; print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
