"""xoscar: refs in Cython, a call of a local actor is a coroutine under that actor's lock; a tell is a task."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import xoscar as mo  # type: ignore[import-not-found, unused-ignore]  # a peer's environment

from benchmarks.case import Case, Found
from benchmarks.peers.programs import program_of
from benchmarks.workers import free_port

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


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    run = program_of(case.name)

    async def within(case: Case) -> Found:
        pool = await mo.create_actor_pool(f"127.0.0.1:{free_port()}", n_process=0)
        async with pool:
            return await run(Api(pool.external_address), case)

    return within
