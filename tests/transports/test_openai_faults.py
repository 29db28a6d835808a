"""What goes wrong between the OpenAI client and a provider, and what is made of it."""

import asyncio
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from providers import KEY, error_from, error_from_raw, say
from servers import nobody

from understudy.actors.errors import (
    BadReply,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    Overloaded,
    RateLimited,
)
from understudy.transports.models.chat_wire import decode, refusal, retry_after
from understudy.transports.models.openai import MAX_REPLY_BYTES, OpenAIChat
from understudy.transports.testing.model_server import (
    ChatRequest,
    CutStream,
    Hang,
    ModelServer,
    NotJSON,
    RateLimit,
    Refusal,
    ServerError,
    echo,
)

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
    for seconds in (0.3, 1, 4, 16):  # whatever a busy machine takes to connect
        arrived: list[ChatRequest] = []

        def hang(request: ChatRequest, arrived: list[ChatRequest] = arrived) -> Hang:
            arrived.append(request)
            return Hang(600)

        error = error_from(hang, timeout=seconds)
        assert isinstance(error, ModelTimeout)
        if arrived:
            assert error.sent
            return
    pytest.fail("no request arrived")


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    error = error_from(echo, timeout=0)
    assert isinstance(error, ModelTimeout)
    assert not error.sent


def test_a_refused_connection_is_unreachable_and_nothing_was_sent() -> None:
    async def main() -> None:
        with nobody() as url:
            async with OpenAIChat("m", base_url=url).session() as session:
                with pytest.raises(ModelUnreachable) as caught:
                    await session.complete(say("hello"), timeout=60)
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
                with anyio.fail_after(60):
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


def test_an_unreachable_provider_is_named_with_its_address() -> None:
    async def run() -> str:
        async with OpenAIChat("m", base_url="http://127.0.0.1:9/v1").session() as session:
            with pytest.raises(ModelUnreachable) as caught:
                await session.complete(say("hi"), timeout=60)
        return str(caught.value)

    assert asyncio.run(run()).startswith("m at 127.0.0.1:9: no connection")
