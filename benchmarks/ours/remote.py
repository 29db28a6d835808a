"""C9: one node asks an actor of another by its address, or sends to it. `remote` has the side that asks.

`python -m benchmarks.ours.remote LOOP CASE` is the other node; the case is in JSON.
"""

import contextlib
import inspect
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks import remote
from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.ours.common import Bugs, pick
from benchmarks.remote import TEXTS, Other, Tally
from understudy import Actor, Message, Ref, System

SECRET: Final = b"a secret of sixteen bytes or more"


class Ping(Message[bytes]):
    """Answered with its text."""

    number: int
    text: bytes


class Note(Message[None]):
    number: int
    text: bytes


class Count(Message[tuple[int, int, int]]): ...


class Echo(Actor[Ping | Note | Count]):
    def __init__(self, size: int) -> None:
        self.kept = remote.Echo(size)

    def ping(self, m: Ping) -> bytes:
        self.kept.hear(m.number, m.text)
        return m.text

    def note(self, m: Note) -> None:
        self.kept.hear(m.number, m.text)

    def count(self, m: Count) -> tuple[int, int, int]:
        return self.kept.tally()


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


BUGS: Bugs = {"mixes": {Echo: Mixes}, "twice": {Echo: Twice}}


class Far:
    """See `remote.Far`."""

    def __init__(self, ref: Ref[Any], other: Other) -> None:
        self.ref = ref
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
        return None


@contextlib.asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Far]:
    """The other node, and a ref to its actor."""
    with node(case) as other:
        async with System(name="a", join={"b": other.where}, secret=SECRET) as system:
            yield Far(system.ref("b/echo"), other)


def node(case: Case) -> Other:
    """The other node, started."""
    return Other("benchmarks.ours.remote", remote.loop_kind(), json.dumps(asdict(case)))


async def program(case: Case) -> Found:
    if "listen" not in inspect.signature(System).parameters:
        raise NotSupported("this version has no links")
    return await remote.program(opened, case)


async def _serve(case: Case) -> None:
    cls = pick(case, Echo, BUGS)
    async with System(listen="tcp://127.0.0.1:0", name="b", secret=SECRET) as system:
        system.spawn(lambda: cls(case.args[-1]), name="echo")
        await remote.serve(system.listening)


if __name__ == "__main__":
    from benchmarks.worker import case_of, runner_of

    with runner_of(sys.argv[1])() as runner:
        runner.run(_serve(case_of(json.loads(sys.argv[2]))))
