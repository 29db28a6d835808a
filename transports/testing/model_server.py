"""A model on loopback: an HTTP server with OpenAI's protocol whose answers come from a policy.

In this process:

    async with ModelServer(policy) as server:
        model = OpenAIChat("scripted", base_url=server.url)

In a process of its own, whose counters survive the death of its client: `ModelServerProcess("module:policy")`, or

    python -m understudy.transports.testing.model_server --policy module:policy

which prints one line, `{"url": "http://127.0.0.1:PORT/v1"}`, and serves until its standard input ends or it gets
SIGINT or SIGTERM.

`POST /v1/chat/completions` answers, `GET /billing` tells what was charged, `GET /health` that it lives.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from math import isfinite
from types import TracebackType
from typing import Self

import anyio
import msgspec
from msgspec import Struct, field

from understudy.actors.agents.models import Usage
from understudy.actors.errors import BadReply, ModelUnreachable, UsageError
from understudy.transports.testing.chats import (
    AnswerCall,
    ChatAnswer,
    ChatRequest,
    CutStream,
    Declined,
    Fault,
    Hang,
    LostReply,
    NotJSON,
    OverReport,
    Policy,
    RateLimit,
    Refusal,
    ServerError,
    SlowTokens,
    charge,
    completion,
    digest,
    echo,
    find_policy,
    read_request,
)
from understudy.transports.testing.http import HttpLimits, HttpReply, HttpRequest, problem, serving
from understudy.transports.testing.model_process import ModelServerProcess

__all__ = [
    "AnswerCall",
    "Bill",
    "Billing",
    "ChatAnswer",
    "ChatRequest",
    "CutStream",
    "Declined",
    "Fault",
    "Hang",
    "LostReply",
    "ModelServer",
    "ModelServerProcess",
    "NotJSON",
    "OverReport",
    "Policy",
    "RateLimit",
    "Refusal",
    "ServerError",
    "SlowTokens",
    "echo",
    "main",
    "read_billing",
]

MAX_KEYS = 10_000
MAX_DIGESTS = 100_000
OTHERS = "(others)"
"""Where keys and digests are counted together once there are too many to be counted apart."""


class Bill(Struct):
    """What was charged under one `user`."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Billing(Struct):
    """What a server charged since it started.

    `calls` are the charged ones. `requests` counts every well-formed request by the digest of its body, charged or
    not, from the moment it arrived.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    by_key: dict[str, Bill] = field(default_factory=dict[str, Bill])
    requests: dict[str, int] = field(default_factory=dict[str, int])

    def arrived(self, key: str) -> None:
        """Count one request."""
        if key not in self.requests and len(self.requests) >= MAX_DIGESTS:
            key = OTHERS
        self.requests[key] = self.requests.get(key, 0) + 1

    def charged(self, user: str, usage: Usage) -> None:
        """Count one charged answer."""
        if user not in self.by_key and len(self.by_key) >= MAX_KEYS:
            user = OTHERS
        for bill in (self, self.by_key.setdefault(user, Bill())):
            bill.calls += 1
            bill.input_tokens += usage.input_tokens
            bill.output_tokens += usage.output_tokens


async def read_billing(url: str, *, timeout: float = 5.0) -> Billing:
    """Ask a server for its counters; `url` is its `url`.

    Raises `ModelUnreachable` when it does not answer within `timeout` seconds, `BadReply` when it is none of ours.
    """
    import httpx

    try:
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            response = await client.get(url.removesuffix("/v1") + "/billing")
        return msgspec.json.decode(response.content, type=Billing)
    except httpx.HTTPError as error:
        raise ModelUnreachable(f"{url}: {str(error) or type(error).__name__}") from error
    except msgspec.MsgspecError as error:
        raise BadReply(f"{url}: no bill: {error}") from error


class ModelServer:
    """A model server in this event loop, while the block is open.

    Args:
        policy: Gives each answer or fault from the request alone.
        host: A loopback address; anything else is a `UsageError`. Default 127.0.0.1.
        port: Default 0: a free one.
        latency: Seconds before each answer. Default 0.
        limits: Sizes and deadlines of the HTTP side.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float = 0.0,
        limits: HttpLimits | None = None,
    ) -> None:
        if not (isfinite(latency) and latency >= 0):
            raise UsageError(f"latency must be at least 0 seconds, not {latency}")
        self.billing = Billing()
        self._policy = policy
        self._host = host
        self._port = port
        self._latency = latency
        self._limits = limits
        self._url = ""
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The base URL for a client, ending in /v1. Raises `UsageError` while the server is not open."""
        if not self._url:
            raise UsageError("the model server is not open: use `async with`")
        return self._url

    async def __aenter__(self) -> Self:
        serve = serving(self._handle, host=self._host, port=self._port, limits=self._limits)
        self._url = await self._stack.enter_async_context(serve) + "/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._url = ""
        return await self._stack.__aexit__(kind, error, trace)

    async def _handle(self, request: HttpRequest) -> HttpReply:
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                return await self._chat(request.body)
            case "GET", "/billing":
                return HttpReply(200, msgspec.json.encode(self.billing))
            case "GET", "/health":
                return HttpReply(200, b'{"ok":true}')
            case method, "/v1/chat/completions" | "/billing" | "/health":
                return problem(405, f"{method} is not for {request.path}")
            case _:
                return problem(404, f"no such path: {request.path}")

    async def _chat(self, body: bytes) -> HttpReply:
        try:
            request = read_request(body)
        except ValueError as error:
            return problem(400, str(error))
        key = digest(body)
        # Counted on arrival: a client that dies while it waits was served, and is charged, all the same.
        self.billing.arrived(key)
        outcome = _checked(self._policy(request))
        reply = self._reply(request, outcome, key)
        await anyio.sleep(self._latency + (outcome.seconds if isinstance(outcome, Hang) else 0))
        return reply

    def _reply(self, request: ChatRequest, outcome: ChatAnswer | Fault, key: str) -> HttpReply:
        match outcome:
            case ChatAnswer():
                return HttpReply(200, self._charged(request, outcome, key))
            case OverReport():
                return HttpReply(200, self._charged(request, outcome.answer, key, factor=outcome.factor))
            case Declined():
                return HttpReply(200, self._charged(request, ChatAnswer(outcome.text), key, declined=True))
            case SlowTokens():
                return HttpReply(200, self._charged(request, outcome.answer, key), seconds=outcome.seconds)
            case LostReply():
                self._charged(request, outcome.answer, key)
                return HttpReply(200, drop=True)
            case CutStream():
                whole = self._charged(request, outcome.answer, key)
                half = whole[: len(whole) // 2]
                return HttpReply(200, half, missing=len(whole) - len(half))
            case _:
                return _fault(outcome)

    def _charged(
        self, request: ChatRequest, answer: ChatAnswer, key: str, *, factor: int = 1, declined: bool = False
    ) -> bytes:
        usage = charge(request, answer, factor=factor)
        self.billing.charged(request.user, usage)
        return completion(request, answer, key, usage, declined=declined)


def _checked(outcome: object) -> ChatAnswer | Fault:
    if not isinstance(outcome, ChatAnswer | Fault):
        raise TypeError(f"a policy returns ChatAnswer or a fault, not {outcome!r}")
    return outcome


def _fault(fault: RateLimit | ServerError | Refusal | NotJSON | Hang) -> HttpReply:
    match fault:
        case RateLimit():
            body = problem(429, "rate limit reached", kind="rate_limit_error").body
            seconds = fault.retry_after
            return HttpReply(429, body, headers=() if seconds is None else (("Retry-After", f"{seconds:g}"),))
        case ServerError():
            return problem(fault.status, fault.message, kind="server_error")
        case Refusal():
            error = {"message": fault.message, "type": "invalid_request_error", "code": fault.code}
            return HttpReply(fault.status, msgspec.json.encode({"error": error}))
        case NotJSON():
            return HttpReply(200, fault.text.encode("utf-8", "replace"))
        case Hang():
            return HttpReply(200, drop=True)


# The process


def main(argv: Sequence[str] | None = None) -> int:
    """Run the server as a process. Returns 0, or 2 after a line `{"error": …}` when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m understudy.transports.testing.model_server")
    parser.add_argument("--policy", required=True, metavar="MODULE:ATTRIBUTE", help="what answers")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--latency", type=float, default=0.0, metavar="MS", help="milliseconds before each answer")
    options = parser.parse_args(argv)
    try:
        policy = find_policy(options.policy)
        server = ModelServer(policy, host=options.host, port=options.port, latency=options.latency / 1000)
        anyio.run(_serve, server)
    except (UsageError, OSError) as error:
        _say({"error": str(error)})
        return 2
    return 0


async def _serve(server: ModelServer) -> None:
    async with server:
        stop = asyncio.Event()
        _call_at_end_of_input(asyncio.get_running_loop(), stop)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            _say({"url": server.url})
            async with anyio.create_task_group() as group:
                group.start_soon(_set_at_signal, signals, stop)
                await stop.wait()
                group.cancel_scope.cancel()


async def _set_at_signal(signals: AsyncIterator[signal.Signals], stop: asyncio.Event) -> None:
    async for _ in signals:
        stop.set()


def _call_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # A thread, because not every kind of standard input can be polled; as a daemon it cannot delay the exit.
    def wait() -> None:
        with suppress(OSError):
            while os.read(0, 4096):
                pass
        with suppress(RuntimeError):  # the loop is closed: a signal was faster
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def _say(value: dict[str, str]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # The imported module, not this copy of it, so that a policy's classes are the server's classes.
    from understudy.transports.testing.model_server import main as imported_main

    sys.exit(imported_main())
