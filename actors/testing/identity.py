"""Tasks, futures and cancel scopes that hash to the order they were made in.

Their default hash is an address, so sets of them (anyio's and asyncio's cancellation walk such sets) have another order
in each run, and no hash seed changes that.
"""

from __future__ import annotations

import asyncio
from typing import Any


def _next_id(loop: asyncio.AbstractEventLoop | None) -> int:
    number: int = loop.next_id() if loop is not None and hasattr(loop, "next_id") else 0
    return number


class SimTask(asyncio.Task[Any]):
    """A task of a simulated loop."""

    def __init__(self, coro: Any, *, loop: asyncio.AbstractEventLoop, **more: Any) -> None:
        self._sim_id = _next_id(loop)  # first: the base puts itself into sets
        super().__init__(coro, loop=loop, **more)

    def __hash__(self) -> int:
        return self._sim_id

    def __eq__(self, other: object) -> bool:
        return self is other


class SimFuture(asyncio.Future[Any]):
    """A future of a simulated loop."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        self._sim_id = _next_id(loop)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._sim_id

    def __eq__(self, other: object) -> bool:
        return self is other


def scope_class(base: Any) -> Any:
    """A subclass of anyio's cancel scope with a stable hash. `base` is a private class, so nothing is known of it."""

    class SimCancelScope(base):  # type: ignore[misc]  # as said
        __slots__ = ("_sim_id",)
        _sim_id: int

        def __hash__(self) -> int:
            try:
                return self._sim_id
            except AttributeError:
                self._sim_id = _next_id(asyncio._get_running_loop()) or id(self) >> 4
                return self._sim_id

        def __eq__(self, other: object) -> bool:
            return self is other

    return SimCancelScope
