"""Sessions of the OpenAI client: opened, shared, passed in, ended, configured."""

import asyncio
import subprocess
import sys
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from providers import KEY, reply_to, say

from understudy.actors.agents.models import (
    Model,
    Price,
)
from understudy.actors.errors import (
    BadReply,
    ModelError,
    ModelRefused,
    ModelTimeout,
    ModelUnreachable,
    UsageError,
)
from understudy.transports.models.openai import OpenAIChat
from understudy.transports.models.prices import PRICES, price_of
from understudy.transports.testing.model_server import (
    ModelServer,
    echo,
)

# Sessions


def test_a_hundred_calls_share_one_session() -> None:
    async def main() -> None:
        async with ModelServer(echo) as server, OpenAIChat("m", base_url=server.url).session() as session:
            replies: list[str] = []

            async def one(number: int) -> None:
                replies.append((await session.complete(say(str(number)), timeout=60)).content)

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
                    await session.complete(say("hello"), timeout=60)

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
            assert (await session.complete(say("hello"), timeout=60)).content == "hello"
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
                await session.complete(say("hello"), timeout=60)
        assert (caught.value.sent, caught.value.__cause__) == (sent, raised)

    asyncio.run(main())


def test_a_session_used_after_its_end_is_unreachable() -> None:
    async def main() -> None:
        async with OpenAIChat("m", base_url="http://127.0.0.1:1").session() as session:
            pass
        with pytest.raises(ModelUnreachable) as caught:
            await session.complete(say("hello"), timeout=60)
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
                        assert (await session.complete(say("hello"), timeout=60)).content == "hello"

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


def test_what_the_model_takes_is_what_was_given_else_the_tables_else_unknown() -> None:
    assert OpenAIChat("gpt-5-mini").context == 400_000
    assert OpenAIChat("gpt-4o-2024-08-06").context == 128_000
    assert OpenAIChat("gpt-5-mini", context=9).context == 9
    assert OpenAIChat("another").context is None
    with pytest.raises(UsageError, match="context must be at least 1 token, not 0"):
        OpenAIChat("another", context=0)


def test_importing_and_describing_a_model_loads_no_httpx() -> None:
    code = (
        "import sys; from understudy.transports.models.openai import OpenAIChat; OpenAIChat('m', api_key='k');"
        "import understudy.transports.testing.model_server; print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
