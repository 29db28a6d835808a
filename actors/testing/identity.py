"""Tasks, futures and cancel scopes that hash to the order they were made in, and generators kept in that order.

Their default hash is an address, so sets of them (anyio's and asyncio's cancellation walk such sets) have another order
in each run, and no hash seed changes that. Equality stays identity.
"""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import Iterable, Iterator
from typing import Any


class SimTask(asyncio.Task[Any]):
    """A task of a simulated loop; without a name it is `task-1`, `task-2` … of that loop."""

    __slots__ = ("_sim_id",)
    _sim_id: int

    def __init__(
        self,
        coro: Any,  # as asyncio types it: a coroutine or generator of anything
        *,
        loop: Any,  # a `SimLoop`, which imports this module
        name: str | None = None,
        context: contextvars.Context | None = None,
        **more: bool,
    ) -> None:
        self._sim_id = loop.next_id()  # first: the base puts itself into sets
        super().__init__(coro, loop=loop, name=name or loop.next_name(), context=context, **more)

    def __hash__(self) -> int:
        return self._sim_id


class SimFuture(asyncio.Future[Any]):
    """A future of a simulated loop. Numbered when its hash is first asked for: few ever are in a set."""

    __slots__ = ("_sim_id",)
    _sim_id: int

    def __hash__(self) -> int:
        try:
            return self._sim_id
        except AttributeError:
            loop: Any = self.get_loop()
            self._sim_id = loop.next_id()
            return self._sim_id


def order_of(task: asyncio.Future[Any]) -> int:
    """For sorting by the order of making; those that are not of a simulated loop's own classes come last."""
    number: int = getattr(task, "_sim_id", 1 << 62)
    return number


def unseen(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    """Tasks of the loop that ended with an exception nobody has asked for, in the order they were made."""
    known: Any = vars(asyncio.tasks).get("_scheduled_tasks")  # every task, ended ones too; private, tried in tests
    if known is None:
        known = vars(asyncio.tasks)["_all_tasks"]  # until Python 3.11
    unseen = [task for task in list(known) if getattr(task, "_log_traceback", False) and task.get_loop() is loop]
    return sorted(unseen, key=order_of)


def for_future(error: BaseException) -> BaseException:
    """The error as a future takes it: no `StopIteration`."""
    if isinstance(error, StopIteration):
        wrapped = RuntimeError("a function for a thread raised StopIteration")
        wrapped.__cause__ = error
        return wrapped
    return error


# `Any`: the base is a private class of anyio, of which nothing is known.
def scope_class(base: Any) -> Any:
    """A subclass of anyio's cancel scope with a stable hash."""

    class SimCancelScope(base):  # type: ignore[misc]  # as said
        __slots__ = ("_sim_id",)
        _sim_id: int

        def __hash__(self) -> int:
            try:
                return self._sim_id
            except AttributeError:
                loop: Any = asyncio._get_running_loop()
                number = loop.next_id() if getattr(loop, "virtual", False) else id(self) >> 4
                self._sim_id = number
                return number

    SimCancelScope.__name__ = SimCancelScope.__qualname__ = "CancelScope"
    return SimCancelScope


class Generators:
    """Async generators that were begun, weakly, in that order: what `BaseEventLoop._asyncgens` is without an order."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ref[Any]] = {}

    def add(self, generator: Any) -> None:
        """One was begun."""
        key = id(generator)
        self._known[key] = weakref.ref(generator, lambda gone: self._forget(key, gone))

    def _forget(self, key: int, gone: object) -> None:
        if self._known.get(key) is gone:
            del self._known[key]

    def discard(self, generator: Any) -> None:
        """One is being finalized."""
        self._known.pop(id(generator), None)

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Any]:
        return iter([found for each in list(self._known.values()) if (found := each()) is not None])


def in_order(awaitables: Iterable[Any]) -> list[Any]:
    """Futures of awaitables, begun in the order they are given, each once."""
    return [asyncio.ensure_future(each) for each in dict.fromkeys(awaitables)]
