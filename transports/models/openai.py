"""Chat models that speak OpenAI's HTTP protocol: OpenAI itself, and the many servers that imitate it.

`chat_wire.encode` makes the body and `chat_wire.decode` reads the answer, both pure. `OpenAIChat` is an inert
description; its session adds the connection, one deadline per call, and the translation of everything that can go
wrong into `ModelError`. Rules:

- An API key is in no error, no repr and no log.
- httpx is imported when a session opens, never before. Its errors are recognised by class name, so that a client
  of an API-compatible successor can be passed in.
- Nothing is retried here: the agent's back-off does that.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import isfinite
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from msgspec import Struct

from understudy.actors.agents.models import ModelReply, ModelRequest, Price
from understudy.actors.errors import BadReply, ModelError, ModelRefused, ModelTimeout, ModelUnreachable, UsageError
from understudy.transports.loopback import is_loopback
from understudy.transports.models.chat_wire import LimitField, decode, encode, refusal, retry_after, unix_time
from understudy.transports.models.prices import context_of, price_of

if TYPE_CHECKING:
    import httpx

DEFAULT_BASE_URL = "https://api.openai.com/v1"
MAX_REPLY_BYTES = 16 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_ERROR_TEXT = 300


def _foreign(error: Exception, sent: bool) -> ModelError | None:
    """The `ModelError` for an error of the HTTP client, by class name; None for anything else."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error) or type(error).__name__
    if names & {"ConnectTimeout", "PoolTimeout"}:
        return ModelTimeout(f"no connection in time: {text}", sent=False)
    if "TimeoutException" in names:
        return ModelTimeout(f"no answer in time: {text}", sent=sent)
    if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return ModelUnreachable(f"no connection: {text}", sent=False)
    if names & {"LocalProtocolError", "InvalidURL"}:
        return ModelRefused(f"the request cannot be sent: {text}", sent=False)
    if names & {"RequestError", "StreamError"}:
        return BadReply(f"the answer was cut: {text}", sent=sent)
    return None


# The model


class _Endpoint(Struct, frozen=True):
    """What one session needs to know, read once when it opens."""

    model: str
    url: str
    key: str
    strict: bool
    limit_field: LimitField
    user: str
    trace: bool

    def headers(self, traceparent: str) -> dict[str, str]:
        # No compression: the size limit then holds for the bytes that are held in memory.
        sent = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if traceparent and self.trace:
            sent["traceparent"] = traceparent
        return sent | ({"Authorization": f"Bearer {self.key}"} if self.key else {})

    def explain(self, error: ModelError) -> ModelError:
        """The same error with the model in front, without the key, on one line and of bounded length."""
        text = str(error)
        if len(self.key) >= 4:
            text = text.replace(self.key, "[key]")
        text = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_ERROR_TEXT])
        # Where it was looked for is the first thing to know when nothing answers.
        address = urlsplit(self.url).netloc.rpartition("@")[2]
        where = f"{self.model} at {address}" if isinstance(error, ModelUnreachable) else self.model
        error.args = (f"{where}: {text[:MAX_ERROR_TEXT]}",)
        return error


class _Progress:
    """Whether the request has begun to leave the process, as told by the client's trace hook.

    A client that was passed in may not call the hook; then the careful answer is yes.
    """

    def __init__(self, *, traced: bool) -> None:
        self._traced = traced
        self._sent = False

    @property
    def sent(self) -> bool:
        return self._sent or not self._traced

    async def __call__(self, event: str, info: object) -> None:
        self._traced = True
        self._sent = self._sent or event.endswith("send_request_headers.started")


class _Session:
    def __init__(self, endpoint: _Endpoint, client: httpx.AsyncClient, *, own: bool) -> None:
        self._endpoint = endpoint
        self._client = client
        self._own = own

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        end, progress = self._endpoint, _Progress(traced=self._own)
        try:
            body = encode(request, end.model, strict=end.strict, limit_field=end.limit_field, user=end.user)
            with anyio.move_on_after(timeout):
                return decode(await self._exchange(body, timeout, progress, request.traceparent))
        except ModelError as error:
            raise end.explain(error) from error.__cause__
        except Exception as error:
            known = _foreign(error, progress.sent)
            if known is None:
                raise
            raise end.explain(known) from error
        raise end.explain(ModelTimeout(f"no answer within {timeout:g} s", sent=progress.sent))

    async def _exchange(self, body: bytes, timeout: float, progress: _Progress, traceparent: str) -> bytes:
        if self._client.is_closed:
            raise ModelUnreachable("the session is closed", sent=False)
        async with self._client.stream(
            "POST",
            self._endpoint.url,
            content=body,
            headers=self._endpoint.headers(traceparent),
            timeout=timeout if isfinite(timeout) else None,
            follow_redirects=False,
            extensions={"trace": progress},
        ) as response:
            if 200 <= response.status_code < 300:
                return await _read(response)
            raise await _refused(response)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise BadReply(f"the answer is larger than {MAX_REPLY_BYTES} bytes")
    return bytes(body)


async def _refused(response: httpx.Response) -> ModelError:
    headers = response.headers
    # Both dates are the provider's own when it sends them, so a wrong local clock does not matter.
    sent_at = unix_time(headers.get("date"))
    pause = retry_after(headers.get("retry-after"), now=time.time() if sent_at is None else sent_at)
    return refusal(response.status_code, await _read_start(response), pause=pause)


async def _read_start(response: httpx.Response) -> bytes:
    """At most `MAX_ERROR_BYTES`. A cut error text does not hide the status that came before it."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) >= MAX_ERROR_BYTES:
                break
    except Exception as error:
        if _foreign(error, sent=True) is None:
            raise
    return bytes(body[:MAX_ERROR_BYTES])


class OpenAIChat:
    """A chat model behind OpenAI's protocol. Inert: nothing is opened or read before `session()`.

    Args:
        model: The provider's name of the model.
        base_url: http or https, up to and with the version, e.g. `http://127.0.0.1:8000/v1`. Default: the
            environment's `OPENAI_BASE_URL` when the session opens, else OpenAI's own.
        api_key: Default: the environment's `OPENAI_API_KEY` when the session opens. None is needed on loopback.
        price: Micro-dollars per million tokens. Default: `prices.PRICES`, else None (unknown).
        context: Tokens that the model takes, input and answer together: what an agent's `ContextWindow` goes by.
            Default: `prices.CONTEXTS`, else None (unknown: no limit).
        client: An open `httpx.AsyncClient`, or of its API-compatible successor; it is used and not closed.
            Its time-outs are replaced by the deadline of each call.
        max_connections: Concurrent calls of one session; further ones wait within their deadline. Default 100.
            Without effect with `client`.
        strict: Ask the provider to enforce output schemas. They must then keep to its subset (every field
            required, `additionalProperties` false). Default False: the schema is only shown to the model.
        limit_field: The field that carries the cap of the answer. Default `max_completion_tokens` for
            api.openai.com and `max_tokens` elsewhere.
        user: Sent as `user`: a label that the provider counts by. Default: none.
        trace: Send the W3C header `traceparent` of each call along. Default True.

    Raises `UsageError` for a bad option, here or, when it comes from the environment, when the session opens.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        price: Price | None = None,
        context: int | None = None,
        client: httpx.AsyncClient | None = None,
        max_connections: int = 100,
        strict: bool = False,
        limit_field: LimitField | None = None,
        user: str = "",
        trace: bool = True,
    ) -> None:
        if not model:
            raise UsageError("OpenAIChat: model is empty")
        if context is not None and context < 1:
            raise UsageError(f"OpenAIChat: context must be at least 1 token, not {context}")
        if max_connections < 1:
            raise UsageError(f"OpenAIChat: max_connections must be at least 1, not {max_connections}")
        if limit_field not in (None, "max_tokens", "max_completion_tokens"):
            allowed = "max_tokens or max_completion_tokens"
            raise UsageError(f"OpenAIChat: limit_field must be {allowed}, not {limit_field!r}")
        self._model = model
        self._base_url = None if base_url is None else _checked_url(base_url, "base_url")
        self._key = None if api_key is None else _checked_key(api_key, "api_key")
        self._price = price if price is not None else price_of(model)
        self._context = context if context is not None else context_of(model)
        self._client = client
        self._max_connections = max_connections
        self._strict = strict
        self._limit_field: LimitField | None = limit_field
        self._user = user
        self._trace = trace

    @property
    def name(self) -> str:
        """The provider's name of the model."""
        return self._model

    @property
    def price(self) -> Price | None:
        """What was passed, else the table's, else None."""
        return self._price

    @property
    def context(self) -> int | None:
        """What was passed, else the table's, else None."""
        return self._context

    def __repr__(self) -> str:
        at = "" if self._base_url is None else f", base_url={self._base_url!r}"
        return f"OpenAIChat({self._model!r}{at})"

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[_Session]:
        """Open it. Closes the client it made, never the one it was given.

        Raises `UsageError` when the provider is not on loopback and there is no key.
        """
        endpoint = self._endpoint()
        if self._client is not None:
            yield _Session(endpoint, self._client, own=False)
            return
        async with _new_client(endpoint.url, self._max_connections) as client:
            yield _Session(endpoint, client, own=True)

    def _endpoint(self) -> _Endpoint:
        base = self._base_url or _checked_url(os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL, "OPENAI_BASE_URL")
        key = self._key or _checked_key(os.environ.get("OPENAI_API_KEY", ""), "OPENAI_API_KEY")
        host = urlsplit(base).hostname or ""
        if not key and not is_loopback(host) and not self._client_has_key():
            raise UsageError(f"{self._model}: no API key for {host}: set OPENAI_API_KEY or pass api_key=")
        openai = host == "api.openai.com"
        return _Endpoint(
            model=self._model,
            url=f"{base}/chat/completions",
            key=key,
            strict=self._strict,
            limit_field=self._limit_field or ("max_completion_tokens" if openai else "max_tokens"),
            user=self._user,
            trace=self._trace,
        )

    def _client_has_key(self) -> bool:
        client = self._client
        return client is not None and (client.auth is not None or "authorization" in client.headers)


def _new_client(url: str, max_connections: int) -> httpx.AsyncClient:
    import ssl

    import httpx

    limits = httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return httpx.AsyncClient(limits=limits)
    # A proxy of the environment must not stand between this process and a server on the same machine. Plain HTTP
    # needs no certificates, whose loading takes 20 ms and more: this context trusts none.
    verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if parts.scheme == "http" else True
    return httpx.AsyncClient(limits=limits, trust_env=False, verify=verify)


def _checked_url(url: str, where: str) -> str:
    """The URL without a slash at its end; `UsageError` unless it is a plain http(s) address."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, usable = urlsplit(""), False
    if "@" in parts.netloc:
        raise UsageError(f"{where} must not hold a user name or password; use api_key=")
    if not usable or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise UsageError(f"{where} must be like http://host:port/v1, not {url[:200]!r}")
    return url.rstrip("/")


def _checked_key(key: str, where: str) -> str:
    """The key without white space around it; `UsageError`, which does not show it, if no header can carry it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{where} holds characters that an HTTP header cannot carry")
    return key
