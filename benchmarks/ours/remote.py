"""C9: one node asks an actor of another by its address, or sends to it. `remote` has the side that asks.

`python -m benchmarks.ours.remote LOOP CASE` is the other node; the case is in JSON.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, cast

from benchmarks import remote
from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours import inside
from benchmarks.ours.common import Bugs, pick
from benchmarks.remote import TEXTS, Other, Tally
from benchmarks.workers import free_port
from understudy import Actor, Down, Message, Ref, System
from understudy.actors.errors import AskError, AskTimeout

SECRET: Final = b"a secret of at least thirty-two bytes"
ASK_SECONDS: Final = 30.0
"""Deadline of the requests that are lost with their node."""
HOLD_SECONDS: Final = 0.05
JOIN_SECONDS: Final = 60.0


class Ping(Message[bytes]):
    """Answered with its text."""

    number: int
    text: bytes


class Note(Message[None]):
    number: int
    text: bytes


class Count(Message[tuple[int, int, int]]): ...


class Hold(Message[None]):
    """Is not answered: what comes behind it waits."""


class Echo(Actor[Ping | Note | Count | Hold]):
    def __init__(self, size: int) -> None:
        self.kept = remote.Echo(size)

    def ping(self, m: Ping) -> bytes:
        self.kept.hear(m.number, m.text)
        return m.text

    def note(self, m: Note) -> None:
        self.kept.hear(m.number, m.text)

    def count(self, m: Count) -> tuple[int, int, int]:
        return self.kept.tally()

    async def hold(self, m: Hold) -> None:
        await asyncio.sleep(ASK_SECONDS)


class Mixes(Echo):
    """Gives one answer that is another's."""

    def ping(self, m: Ping) -> bytes:
        text = super().ping(m)
        return self.kept.texts[0] if m.number == 101 else text


class Twice(Echo):
    """Handles one message twice."""

    def ping(self, m: Ping) -> bytes:
        if m.number == 101:
            super().ping(m)
        return super().ping(m)

    def note(self, m: Note) -> None:
        if m.number == 101:
            super().note(m)
        super().note(m)


BUGS: Bugs = {"mixes": {Echo: Mixes}, "twice": {Echo: Twice}, "gone": {}}
"""`gone`: the other node does not come again."""


class Far:
    """See `remote.Far`."""

    def __init__(self, system: System, other: Other) -> None:
        self.system, self.ref = system, system.ref("b/echo")
        self.cpu_seconds: Callable[[], float] = other.cpu_seconds

    def ask(self, number: int, text: bytes) -> Awaitable[bytes]:
        return self.ref.ask(Ping(number, text))

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        send = self.ref.send
        for number in range(count):
            if await send(Note(number, texts[number % TEXTS])) is not True:
                raise CheckFailed(f"message {number} was refused")

    async def tally(self) -> Tally:
        return Tally(*await self.ref.ask(Count()))

    def wire_bytes(self) -> int | None:
        return inside.wire_bytes(self.system, "b")


@contextlib.asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Far]:
    """The other node, and a ref to its actor."""
    with node(case) as other:
        async with System(name="a", join={"b": other.where}, secret=SECRET) as system:
            await system.joined("b")
            yield Far(system, other)


def node(case: Case, port: int = 0) -> Other:
    """The other node, started."""
    return Other("benchmarks.ours.remote", remote.loop_kind(), json.dumps(asdict(case)), port)


async def program(case: Case) -> Found:
    if case.line == "partition":
        return await _partition(case)
    return await remote.program(opened, case)


# -- line `partition` ----------------------------------------------------------------------------------------


class Witness(Actor):
    """Is told when the other node's actor is lost."""

    def __init__(self, echo: Ref[Any], told: asyncio.Event) -> None:
        self.echo, self.told, self.downs = echo, told, list[str]()

    async def on_start(self) -> None:
        self.context.watch(self.echo)

    def down(self, m: Down) -> None:
        self.downs.append(m.kind)
        self.told.set()


async def _partition(case: Case) -> Found:
    count, window, size = case.args
    texts, port, told, clock = remote.payloads(size), free_port(), asyncio.Event(), time.perf_counter
    with node(case, port) as first:
        async with System(name="a", join={"b": first.where}, secret=SECRET) as system:
            await system.joined("b")
            ref = system.ref("b/echo")
            witness = system.spawn(lambda: Witness(ref, told))
            case.start()
            before = await remote.by_many(Far(system, first), count, window, texts)
            asks: list[asyncio.Task[Any]] = [asyncio.create_task(ref.ask(Hold(), timeout=ASK_SECONDS))]
            asks += [asyncio.create_task(ref.ask(Ping(n, texts[n]), timeout=ASK_SECONDS)) for n in range(1, window)]
            await asyncio.sleep(HOLD_SECONDS)  # they are there, or on their way: either will do
            killed = clock()
            os.kill(first.pid, signal.SIGKILL)
            ends = await asyncio.gather(*asks, return_exceptions=True)
            case.extra["failed_ms"] = round((clock() - killed) * 1e3, 2)
            await asyncio.wait_for(told.wait(), ASK_SECONDS)
            case.extra["down_ms"] = round((clock() - killed) * 1e3, 2)
            again = await _again(case, system, texts, port)
            downs = await system.peek(witness, lambda actor: len(cast("Witness", actor).downs))
            case.stop()
    kinds = sorted({type(end).__name__ for end in ends})
    case.extra["errors"] = kinds
    return {
        "before": before,
        "lost": sum(isinstance(end, AskError) for end in ends),
        "late": sum(isinstance(end, AskTimeout) for end in ends),
        "downs": downs,
        "again": again,
    }


async def _again(case: Case, system: System, texts: Sequence[bytes], port: int) -> int:
    """The other node is started again: how many requests are answered then."""
    count, window, _ = case.args
    if case.bug == "gone":
        return 0
    with node(case, port) as second:
        began = time.perf_counter()
        await system.joined("b", timeout=JOIN_SECONDS)
        case.extra["joined_again_ms"] = round((time.perf_counter() - began) * 1e3, 2)
        return await remote.by_many(Far(system, second), count, window, texts)


# -- the other node ------------------------------------------------------------------------------------------


async def _serve(case: Case, port: int) -> None:
    cls = pick(case, Echo, BUGS)
    async with System(listen=f"tcp://127.0.0.1:{port}", name="b", secret=SECRET) as system:
        system.spawn(lambda: cls(case.args[-1]), name="echo")
        await remote.serve(system.listening[0])


if __name__ == "__main__":
    from benchmarks.worker import case_of, runner_of

    with runner_of(sys.argv[1])() as runner:
        runner.run(_serve(case_of(json.loads(sys.argv[2])), int(sys.argv[3])))
