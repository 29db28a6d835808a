"""The model server as a client sees it: over sockets, and as a process."""

import asyncio
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import httpx
import msgspec
import pytest
from servers import chat, enter, post

from understudy.actors.errors import BadReply, ModelUnreachable, UsageError
from understudy.transports.testing.http import HttpLimits, HttpReply, HttpRequest, serving
from understudy.transports.testing.model_server import (
    AnswerCall,
    Bill,
    Billing,
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
    read_billing,
)

MODULE = "understudy.transports.testing.model_server"


def answer_to(body: object, policy: Policy = echo) -> httpx.Response:
    async def run() -> httpx.Response:
        async with ModelServer(policy) as server:
            return await post(server.url, body)

    return asyncio.run(run())


async def connect(url: str) -> anyio.abc.SocketStream:
    return await anyio.connect_tcp("127.0.0.1", httpx.URL(url).port or 0)


def exchange(data: bytes, *, limits: HttpLimits | None = None, path_of: list[str] | None = None) -> bytes:
    """Send exactly these bytes and read until the server closes."""

    async def handler(request: HttpRequest) -> HttpReply:
        if path_of is not None:
            path_of.append(request.path)
        return HttpReply(200, request.body)

    async def run() -> bytes:
        received = b""
        async with serving(handler, limits=limits) as url, await connect(url) as stream:
            await stream.send(data)
            with anyio.fail_after(60):
                async for chunk in stream:
                    received += chunk
        return received

    return asyncio.run(run())


# Chat


def test_the_same_request_gets_the_same_bytes_from_any_server() -> None:
    body = chat("x", tools=[{"type": "function", "function": {"name": "t"}}])

    def policy(request: ChatRequest) -> ChatAnswer:
        return ChatAnswer("a", (AnswerCall("t"),))

    assert answer_to(body, policy).content == answer_to(body, policy).content


def test_other_requests_get_other_ids() -> None:
    def policy(request: ChatRequest) -> ChatAnswer:
        return ChatAnswer(calls=(AnswerCall("t"), AnswerCall("t")))

    def ids(text: str) -> list[str]:
        reply = answer_to(chat(text), policy).json()
        return [reply["id"], *(call["id"] for call in reply["choices"][0]["message"]["tool_calls"])]

    assert len({*ids("a"), *ids("b")}) == 6


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_the_cap(field: str) -> None:
    reply = answer_to(chat("0123456789" * 10, **{field: 5})).json()
    assert reply["choices"][0]["message"]["content"] == "01234567890123456789"
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 5


def test_a_call_is_cut_in_its_arguments_as_real_models_are() -> None:
    reply = answer_to(chat(max_tokens=2), lambda _: ChatAnswer(calls=(AnswerCall("t", '{"a": "long"}'),))).json()
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "t", "arguments": '{"a": "'}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "object"),
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": []}, "$.messages"),
        ({"model": "m", "messages": [{"role": "robot", "content": ""}]}, "$.messages[0].role"),
        ({"model": "m", "messages": [{"role": "user"}]}, "messages[0]: neither content nor tool_calls"),
        (chat(max_tokens=0), "$.max_tokens"),
        (chat(stream=True), "$.stream"),
        (chat(tools=[{"function": {"name": "not a name"}}]), "$.tools[0].function.name"),
    ],
)
def test_a_request_of_another_shape_is_a_400_that_names_the_place(body: object, text: str) -> None:
    response = answer_to(body)
    assert response.status_code == 400
    assert text in response.json()["error"]["message"]


CALL = {"id": "c1", "type": "function", "function": {"name": "t", "arguments": "{}"}}
ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "1", "tool_call_id": "c1"}
USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([USER, RESULT], "messages[1]: no call with id 'c1' waits for a result"),
        ([USER, ASKED], "messages: no result for the calls ['c1']"),
        ([USER, ASKED, USER, RESULT], "messages[2]: no result yet for the calls ['c1']"),
        ([USER, ASKED, RESULT, RESULT], "messages[3]: no call with id 'c1' waits for a result"),
        ([USER, {**ASKED, "role": "user"}], "messages[1]: tool_calls in a message of role user"),
        ([{**ASKED, "tool_calls": [CALL, CALL]}], "messages[0]: two calls have one id"),
    ],
)
def test_a_conversation_out_of_order_is_refused_as_real_providers_do(messages: list[object], text: str) -> None:
    response = answer_to({"model": "m", "messages": messages})
    assert (response.status_code, response.json()["error"]["message"]) == (400, text)


def test_a_conversation_in_order_is_served() -> None:
    assert answer_to({"model": "m", "messages": [USER, ASKED, RESULT]}).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"model": "\xff"}', b"[" * 200_000])
def test_a_body_that_is_not_json_is_a_400(body: bytes) -> None:
    async def run() -> int:
        async with ModelServer(echo) as server, httpx.AsyncClient(verify=False, timeout=10) as client:
            return (await client.post(f"{server.url}/chat/completions", content=body)).status_code

    assert asyncio.run(run()) == 400


def test_a_policy_that_raises_or_returns_something_else_is_a_500(caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: ChatRequest) -> ChatAnswer:
        raise KeyError("gone")

    response = answer_to(chat(), broken)
    assert (response.status_code, response.json()["error"]["message"]) == (500, "KeyError: 'gone'")
    other: Any = lambda request: "hello"  # noqa: E731
    assert "a policy returns ChatAnswer or a fault, not 'hello'" in answer_to(chat(), other).text
    assert "Traceback" in caplog.text


def test_latency_delays_each_answer() -> None:
    async def run() -> float:
        async with ModelServer(echo, latency=0.05) as server:
            begin = anyio.current_time()
            await post(server.url, chat())
            return anyio.current_time() - begin

    assert asyncio.run(run()) >= 0.05


# Billing


def test_the_bill_is_kept_by_user_and_requests_by_digest() -> None:
    async def run() -> Billing:
        async with ModelServer(echo) as server:
            for body in (chat(), chat(), chat(user="desk")):
                await post(server.url, body)
            return await read_billing(server.url)

    bill = asyncio.run(run())
    assert (bill.calls, bill.input_tokens, bill.output_tokens) == (3, 15, 6)
    assert bill.by_key == {"": Bill(2, 10, 4), "desk": Bill(1, 5, 2)}
    assert sorted(bill.requests.values()) == [1, 2]


def test_a_bill_that_cannot_be_read_is_an_error_of_ours() -> None:
    async def page(request: HttpRequest) -> HttpReply:
        return HttpReply(200, b"<html>")

    async def run() -> None:
        async with serving(page) as url:
            with pytest.raises(BadReply, match="no bill"):
                await read_billing(f"{url}/v1")
        with pytest.raises(ModelUnreachable, match="All connection attempts failed"):
            await read_billing(f"{url}/v1")

    asyncio.run(run())


def billed(policy: Policy) -> Billing:
    async def run() -> Billing:
        async with ModelServer(policy) as server:
            with pytest.raises(httpx.HTTPError):
                (await post(server.url, chat())).raise_for_status().json()["nothing"]
            return server.billing

    return asyncio.run(run())


@pytest.mark.parametrize("fault", [RateLimit(), ServerError(), Refusal(404), Hang(0)])
def test_a_fault_before_the_work_is_counted_and_not_billed(fault: RateLimit | ServerError | Refusal | Hang) -> None:
    bill = billed(lambda _: fault)
    assert (bill.calls, sum(bill.requests.values())) == (0, 1)


def test_a_cut_answer_is_billed() -> None:
    bill = billed(lambda _: CutStream(ChatAnswer("a long answer")))
    assert (bill.calls, bill.output_tokens) == (1, 4)


def test_garbage_is_served_as_it_is_and_not_billed() -> None:
    assert answer_to(chat(), lambda _: NotJSON("\ud800<")).text == "?<"


def test_an_over_report_is_billed_as_reported() -> None:
    async def run() -> tuple[int, int]:
        async with ModelServer(lambda _: OverReport(10, ChatAnswer("hello"))) as server:
            usage = (await post(server.url, chat())).json()["usage"]
            assert server.billing.input_tokens == usage["prompt_tokens"]
            return usage["prompt_tokens"], usage["completion_tokens"]

    assert asyncio.run(run()) == (50, 20)


def test_a_client_that_leaves_while_it_waits_is_counted_and_billed() -> None:
    async def run() -> Billing:
        async with ModelServer(echo, latency=60) as server:
            with pytest.raises(httpx.ReadTimeout):
                async with httpx.AsyncClient(verify=False, timeout=httpx.Timeout(5, read=0.05)) as client:
                    await client.post(f"{server.url}/chat/completions", content=msgspec.json.encode(chat()))
            with anyio.fail_after(60):
                while not server.billing.calls:
                    await anyio.lowlevel.checkpoint()
            return server.billing

    assert asyncio.run(run()).calls == 1


# HTTP


def test_health_other_paths_and_other_methods_are_answered() -> None:
    async def run() -> list[int]:
        async with (
            ModelServer(echo) as server,
            httpx.AsyncClient(verify=False, base_url=server.url.removesuffix("/v1")) as client,
        ):
            responses = [
                await client.get("/health?a=1"),
                await client.get("/v1/nothing"),
                await client.get("/v1/chat/completions"),
                await client.post("/billing"),
                await client.head("/health"),
            ]
            return [response.status_code for response in responses]

    assert asyncio.run(run()) == [200, 404, 405, 405, 405]


def test_one_connection_carries_many_requests_and_pipelined_ones_in_order() -> None:
    paths: list[str] = []
    first, last = b"GET /a HTTP/1.1\r\nHost: x\r\n", b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(first + b"\r\n" + last, path_of=paths)
    assert paths == ["/a", "/b"]
    assert received.count(b"HTTP/1.1 200") == 2


def test_a_chunked_body_is_put_together() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(head + b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n").endswith(b"\r\n\r\nabcde")


def test_a_client_that_waits_for_permission_to_send_gets_it() -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    paths: list[str] = []

    async def handler(request: HttpRequest) -> HttpReply:
        paths.append(request.path)
        return HttpReply(200, request.body)

    async def run() -> None:
        async with serving(handler) as url, await connect(url) as stream:
            await stream.send(head)
            with anyio.fail_after(60):
                assert (await stream.receive()).startswith(b"HTTP/1.1 100")
                await stream.send(b"x")
                assert (await stream.receive()).startswith(b"HTTP/1.1 200")

    asyncio.run(run())
    assert paths == ["/"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n" + b"x" * 20 + b"\r\n", 413),
    ],
)
def test_malformed_and_oversized_requests_get_one_clear_answer(data: bytes, status: int) -> None:
    received = exchange(data, limits=HttpLimits(body_bytes=10))
    assert received.startswith(f"HTTP/1.1 {status} ".encode())
    assert received.count(b"HTTP/1.1") == 1
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize(
    "data", [b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"], ids=["head", "body"]
)
def test_a_request_that_does_not_arrive_in_time_is_a_408(data: bytes) -> None:
    received = exchange(data, limits=HttpLimits(head_seconds=0.05, body_seconds=0.05))
    assert received.startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_is_closed_without_a_word() -> None:
    assert exchange(b"", limits=HttpLimits(head_seconds=0.05)) == b""


def test_one_connection_too_many_is_turned_away() -> None:
    async def run() -> None:
        async with ModelServer(echo, limits=HttpLimits(connections=1)) as server:
            async with await connect(server.url) as first:
                await first.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                await first.receive()
                assert (await post(server.url, chat())).status_code == 503
            with anyio.fail_after(60):
                while (await post(server.url, chat())).status_code != 200:
                    pass  # the server has not seen the end of the first connection yet

    asyncio.run(run())


def test_a_slow_answer_ends_when_its_client_leaves() -> None:
    left = asyncio.Event()

    async def handler(request: HttpRequest) -> HttpReply:
        try:
            await anyio.sleep_forever()
        finally:
            left.set()
        raise AssertionError

    async def run() -> None:
        async with serving(handler) as url:
            async with await connect(url) as stream:
                await stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with anyio.fail_after(60):
                await left.wait()

    asyncio.run(run())


def test_a_hundred_clients_are_served_at_once() -> None:
    async def run() -> None:
        async with ModelServer(echo, latency=0.05) as server, httpx.AsyncClient(verify=False, timeout=60) as client:
            url = f"{server.url}/chat/completions"
            posts = [client.post(url, content=msgspec.json.encode(chat(str(number)))) for number in range(100)]
            answers = await asyncio.gather(*posts)
            said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
            assert said == [str(number) for number in range(100)]

    asyncio.run(run())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.org", ""])
def test_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(UsageError, match="is not on loopback"):
        asyncio.run(enter(ModelServer(echo, host=host)))


@pytest.mark.parametrize("options", [{"port": 70_000}, {"latency": -1.0}])
def test_a_bad_option_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        asyncio.run(enter(ModelServer(echo, **options)))


def test_a_server_that_is_not_open_has_no_address() -> None:
    with pytest.raises(UsageError, match="not open"):
        _ = ModelServer(echo).url


def test_an_error_inside_the_block_leaves_it_as_it_is() -> None:
    async def run() -> None:
        async with ModelServer(echo):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(run())
