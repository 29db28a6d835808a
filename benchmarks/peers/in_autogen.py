"""autogen-core: agents of its runtime; between processes through its gRPC host, which lives with the echo.

Its messages are data classes that go as JSON, so the payload is text. What is not answered is published to a topic with
one subscriber. `python -m benchmarks.peers.in_autogen SIZE` is the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

os.environ["AUTOGEN_DISABLE_RUNTIME_TRACING"] = "true"

from autogen_core import (  # type: ignore[import-not-found, unused-ignore]  # a peer's environment
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
    try_get_known_serializers_for_type,
)

from benchmarks import remote
from benchmarks.case import Case, Found, NotSupported
from benchmarks.remote import Other, Tally
from benchmarks.slow import BATCH, PAUSE, Heard, Outcome, payload
from benchmarks.slow import program as slow_program
from benchmarks.workers import free_port

logging.disable(logging.CRITICAL)
VERSION = f"autogen-core {version('autogen-core')}"
TOPIC: Final = TopicId("notes", "default")
ECHO: Final = AgentId("echo", "default")


@dataclass
class Ping:
    number: int
    text: str


@dataclass
class Pong:
    text: str


@dataclass
class Note:
    number: int
    text: str


@dataclass
class Count:
    handled: int
    disorder: int = 0
    wrong: int = 0


MESSAGES: Final = (Ping, Pong, Note, Count)


class Echo(RoutedAgent):  # type: ignore[misc, unused-ignore]  # the base is the peer's
    def __init__(self, size: int) -> None:
        super().__init__("echo")
        self.kept = remote.Echo(size)

    @message_handler  # type: ignore[misc, untyped-decorator, unused-ignore]  # as above
    async def ping(self, message: Ping, ctx: MessageContext) -> Pong:
        self.kept.hear(message.number, message.text.encode("latin-1"))
        return Pong(message.text)

    @message_handler  # type: ignore[misc, untyped-decorator, unused-ignore]
    async def note(self, message: Note, ctx: MessageContext) -> None:
        self.kept.hear(message.number, message.text.encode("latin-1"))

    @message_handler  # type: ignore[misc, untyped-decorator, unused-ignore]
    async def count(self, message: Count, ctx: MessageContext) -> Count:
        return Count(*self.kept.tally())


class Far:
    """See `remote.Far`."""

    def __init__(self, runtime: Any, other: Other) -> None:
        self.runtime = runtime
        self.cpu_seconds: Callable[[], float] = other.cpu_seconds

    async def ask(self, number: int, text: bytes) -> bytes:
        said: Pong = await self.runtime.send_message(Ping(number, text.decode("latin-1")), ECHO)
        return said.text.encode("latin-1")

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        for number in range(count):
            await self.runtime.publish_message(Note(number, texts[number % remote.TEXTS].decode("latin-1")), TOPIC)

    async def tally(self) -> Tally:
        said: Count = await self.runtime.send_message(Count(0), ECHO)
        return Tally(said.handled, said.disorder, said.wrong)

    def wire_bytes(self) -> int | None:
        return None


async def _worker(address: str) -> Any:
    from autogen_ext.runtimes.grpc import (  # type: ignore[import-not-found, unused-ignore]
        GrpcWorkerAgentRuntime,
    )

    runtime = GrpcWorkerAgentRuntime(host_address=address)
    for kind in MESSAGES:
        runtime.add_message_serializer(try_get_known_serializers_for_type(kind))
    await runtime.start()
    return runtime


@contextlib.asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Far]:
    """The other process, and a worker of ours at its host."""
    with Other("benchmarks.peers.in_autogen", case.args[-1]) as other:
        runtime = await _worker(other.where)
        try:
            yield Far(runtime, other)
        finally:
            await runtime.stop()


async def _serve(size: int) -> None:
    from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntimeHost

    address = f"127.0.0.1:{free_port()}"
    host = GrpcWorkerAgentRuntimeHost(address=address)
    host.start()
    runtime = await _worker(address)
    await Echo.register(runtime, "echo", lambda: Echo(size))
    await runtime.add_subscription(TypeSubscription("notes", "echo"))
    await remote.serve(address)
    await runtime.stop()
    await host.stop()


@dataclass
class Item:
    producer: int
    text: str


async def _play(producers: int, count: int) -> Outcome:
    heard, done, blocked = Heard(producers), asyncio.get_running_loop().create_future(), 0.0

    class Consumer(RoutedAgent):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__("consumer")

        @message_handler  # type: ignore[misc, untyped-decorator, unused-ignore]
        async def item(self, message: Item, ctx: MessageContext) -> None:
            if heard.hear(message.producer, message.text.encode("latin-1")):
                await asyncio.sleep(PAUSE)
            if heard.delivered == producers * count:
                done.set_result(None)

    runtime = SingleThreadedAgentRuntime()
    await Consumer.register(runtime, "consumer", Consumer)
    await runtime.add_subscription(TypeSubscription("items", "consumer"))
    runtime.start()

    async def produce(mine: int) -> None:
        nonlocal blocked
        for number in range(count):
            began = time.perf_counter()
            await runtime.publish_message(Item(mine, payload(number).decode("latin-1")), TopicId("items", "default"))
            blocked += time.perf_counter() - began
            if number % BATCH == 0:
                await asyncio.sleep(0)

    began = time.perf_counter()
    await asyncio.gather(*(produce(mine) for mine in range(producers)))
    await done
    wall = time.perf_counter() - began
    await runtime.stop()
    return Outcome(heard, wall, blocked=blocked)


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    if case.line == "partition":
        raise NotSupported("no notice of a lost process")
    if case.name in ("remote", "oneway"):
        return functools.partial(remote.program, opened)
    if case.name == "slow" and case.line == "roomy":
        return functools.partial(slow_program, _play)
    raise NotSupported("no bounded mailbox" if case.name == "slow" else "no program for this library")


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
