"""everything-is-an-actor: a task and a queue per actor; default mailbox of 256, whose senders wait."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from actor_for_agents import Actor, ActorSystem  # type: ignore[import-not-found, unused-ignore]  # a peer's environment

from benchmarks.case import Case, Found
from benchmarks.peers.programs import program_of

logging.disable(logging.CRITICAL)
VERSION = f"everything-is-an-actor {version('everything-is-an-actor')}"
LONG = 3600.0
"""Its asks have a deadline; this one stands for a whole workload."""


class Api:
    """See `api.Api`."""

    Actor: Any = Actor
    bounded = True

    def __init__(self) -> None:
        self.system = ActorSystem("bench")
        self._names = itertools.count()

    async def spawn(self, cls: Any, *args: object, roomy: bool = False, parent: Any = None) -> Any:
        where = self.system if parent is None else parent.context
        settings = {"mailbox_size": 0} if roomy and parent is None else {}
        return await where.spawn(functools.partial(cls, *args), f"a{next(self._names)}", **settings)

    def tell(self, ref: Any, message: object) -> Awaitable[object]:
        sent: Awaitable[object] = ref.tell(message)
        return sent

    def ask(self, ref: Any, message: object) -> Awaitable[Any]:
        asked: Awaitable[Any] = ref.ask(message, timeout=LONG)
        return asked

    async def me(self, actor: Any) -> Any:
        return actor.context.self_ref

    async def end(self, ref: Any) -> None:
        ref.stop()
        await ref.join()


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    run = program_of(case.name)

    async def within(case: Case) -> Found:
        api = Api()
        found = await run(api, case)
        await api.system.shutdown(timeout=5)
        return found

    return within
