"""xoscar: refs in Cython, a call of a local actor is a coroutine under that actor's lock; a tell is a task."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

import xoscar as mo  # type: ignore[import-not-found, unused-ignore]  # a peer's environment

from benchmarks import remote
from benchmarks.case import Case, Found, NotSupported
from benchmarks.peers.programs import program_of
from benchmarks.workers import cpu_seconds_of, free_port

logging.disable(logging.CRITICAL)
VERSION = f"xoscar {version('xoscar')}"


class Api:
    """See `api.Api`."""

    Actor: Any = mo.Actor
    bounded = False

    def __init__(self, address: str) -> None:
        self.address = address
        self._uids = itertools.count()

    async def spawn(self, cls: Any, *args: object, roomy: bool = False, parent: Any = None) -> Any:
        ref = await mo.create_actor(cls, *args, address=self.address, uid=f"a{next(self._uids)}")
        return await mo.actor_ref(self.address, ref.uid)  # the kind of ref that is quick in process

    def tell(self, ref: Any, message: object) -> Awaitable[object]:
        sent: Awaitable[object] = ref.on_receive.tell(message)
        return sent

    def ask(self, ref: Any, message: object) -> Awaitable[Any]:
        asked: Awaitable[Any] = ref.on_receive(message)
        return asked

    async def me(self, actor: Any) -> Any:
        return await mo.actor_ref(actor.address, actor.uid)

    async def end(self, ref: Any) -> None:
        await mo.destroy_actor(ref)


class Echo(mo.Actor):  # type: ignore[misc, unused-ignore]  # the base is the peer's
    """In the pool's other process."""

    def __init__(self, size: int) -> None:
        self.kept = remote.Echo(size)

    async def ask(self, number: int, text: bytes) -> bytes:
        self.kept.hear(number, text)
        return text

    async def note(self, number: int, text: bytes) -> None:
        self.kept.hear(number, text)

    async def tally(self) -> tuple[int, int, int]:
        return self.kept.tally()

    async def pid(self) -> int:
        return os.getpid()


class Far:
    """See `remote.Far`."""

    def __init__(self, ref: Any, pid: int) -> None:
        self.ref, self.pid = ref, pid
        self.ask: Callable[[int, bytes], Awaitable[bytes]] = ref.ask

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        tell = self.ref.note.tell
        for number in range(count):
            await tell(number, texts[number % remote.TEXTS])

    async def tally(self) -> remote.Tally:
        return remote.Tally(*await self.ref.tally())

    def cpu_seconds(self) -> float:
        return cpu_seconds_of(self.pid)

    def wire_bytes(self) -> int | None:
        return None


@contextlib.asynccontextmanager
async def opened(case: Case) -> AsyncIterator[Far]:
    """A pool with one sub-process, and the echo there."""
    pool = await mo.create_actor_pool(f"127.0.0.1:{free_port()}", n_process=1)
    async with pool:
        (address,) = pool.sub_processes
        ref = await mo.create_actor(Echo, case.args[-1], address=address, uid="echo")
        yield Far(ref, await ref.pid())


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    if case.line == "partition":
        raise NotSupported("no notice of a lost process")
    if case.name in ("remote", "oneway"):
        return functools.partial(remote.program, opened)
    run = program_of(case.name)

    async def within(case: Case) -> Found:
        pool = await mo.create_actor_pool(f"127.0.0.1:{free_port()}", n_process=0)
        async with pool:
            return await run(Api(pool.external_address), case)

    return within
