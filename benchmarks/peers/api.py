"""What a peer that lives in asyncio must bring so that the programs run on it.

An actor is a class with `async def on_receive(self, message)`; what it returns answers an ask. Messages are tuples
and numbers. `tell` and `ask` of an `Api` return the peer's own coroutine, so that nothing is added per message but
one call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from benchmarks.case import Case, Found

# A ref is whatever the peer calls one; its actors' base class is known only when the peer is loaded.
Ref = Any
ActorClass = Any
Program = Callable[["Api", Case], Awaitable[Found]]


class Api(Protocol):
    """What a peer's module brings."""

    Actor: ActorClass
    bounded: bool
    """Whether a mailbox can be bounded so that the sender waits."""

    async def spawn(self, cls: ActorClass, *args: object, roomy: bool = False, parent: object = None) -> Ref:
        """Start an actor, below `parent` where the peer has a hierarchy."""
        ...

    def tell(self, ref: Ref, message: object) -> Awaitable[object]:
        """Deliver without an answer."""
        ...

    def ask(self, ref: Ref, message: object) -> Awaitable[Any]:
        """Deliver and wait for the answer."""
        ...

    async def me(self, actor: Any) -> Ref:
        """An actor's own ref."""
        ...

    async def end(self, ref: Ref) -> None:
        """Stop an actor and wait until it has ended."""
        ...


async def end_all(api: Api, refs: list[Ref]) -> None:
    for ref in refs:
        await api.end(ref)
