"""Watching: be told, once, when an incarnation ends.

By an actor (`context.watch`): a `Down`, or a message of its own, in its control lane. By other code (`system.watch`): a
`Watch`, to await or to iterate over. A watch is of the incarnation there is now. Where there is none, the notice
comes at once. It comes after the name is free, and never after `unwatch`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from understudy.actors.delivery import Notice, current_life
from understudy.actors.errors import UsageError, WatchTimeout
from understudy.actors.lifecycle import GONE
from understudy.actors.messages import Down, Exited, Message
from understudy.actors.refs import check_seconds

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.kernel import Kernel
    from understudy.actors.refs import Ref

WATCH_SECONDS: Final = 5.0
"""Seconds that code outside of actors waits for the next notice."""
_NAMED: Final = 5


def watch(watcher: Cell, target: Cell, message: Message[Any] | None = None) -> None:
    """Note a watch of the present incarnation; idempotent until it has fired. Without one it fires at once.

    Raises `UsageError` without a handler for the notice, or when `message` is not that of a watch there is.
    """
    life = watcher.life
    if life is None:
        return
    kind = Down if message is None else type(message)
    if watcher.table is not None and kind not in watcher.table:
        raise UsageError(f"{watcher.path}: watches {target.path} and has no handler for {kind.__name__}")
    watching = life.watching
    if watching is None:
        watching = life.watching = {}
    if target in watching:
        if watching[target] != message:
            raise UsageError(f"{watcher.path}: watches {target.path} with another message; unwatch it first")
        return
    down = _down_of(target)
    if down is not None:
        watcher.kernel.control(watcher, down if message is None else message, bounded=False, about=target)
        return
    target.watch(watcher)
    watching[target] = message


def unwatch(watcher: Cell, target: Cell) -> None:
    """Forget a watch, and the notice of one that fired and was not handled yet."""
    target.unwatch(watcher)
    if watcher.life is not None and watcher.life.watching is not None:
        watcher.life.watching.pop(target, None)
    if watcher.mailbox is not None:
        watcher.mailbox.withdraw_control(
            lambda waiting: (
                isinstance(waiting, Notice) and waiting.about is target and type(waiting.message) is not Exited
            )
        )


def _down_of(target: Cell) -> Down | None:
    """What is known at once of an address without an incarnation; None when there is one, or its end is under way."""
    if target.life is not None or target.state not in ("failed", "stopped"):
        return None
    exit = GONE if target.state == "stopped" else target.exit
    return Down(target.path, target.number, exit.kind, exit.detail, target.state == "failed")


class Watch:
    """What code outside of actors watches: one `Down` for every ref, in the order in which they end.

        down = await system.watch(ref)                       # the next one, within 5 s
        async for down in system.watch(*refs, timeout=60):   # until all have ended

    `timeout`: seconds (default 5, must have an end) that each wait for the next notice lasts at most. Notices that
    nobody takes are kept, at most one for each ref. Leaving it as a context manager, or `close`, forgets the rest.
    """

    def __init__(self, kernel: Kernel, refs: tuple[Ref[Any], ...], timeout: float = WATCH_SECONDS) -> None:
        check_seconds("watch", timeout)
        self._kernel = kernel
        self._timeout = timeout
        self._open: dict[Cell, None] = {}
        self._notices: deque[Down] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        for ref in refs:
            self.add(ref)

    def __len__(self) -> int:
        """How many notices are still to be taken, whether they have come or not."""
        return len(self._open) + len(self._notices)

    def add(self, ref: Ref[Any]) -> None:
        """Watch one more; idempotent until its notice has come. Raises `WrongLoop` from another thread."""
        current_life()
        self._kernel.check_thread()
        cell = ref.cell()
        down = _down_of(cell)
        if down is not None:
            self._put(down)
            return
        cell.watch(self)
        self._open[cell] = None

    def told(self, cell: Cell, down: Down) -> None:
        """For the kernel: `cell`'s incarnation ended."""
        if self._open.pop(cell, self) is None:
            self._put(down)

    def _put(self, down: Down) -> None:
        self._notices.append(down)
        self._wake(all=not self._open)

    def _wake(self, *, all: bool) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                if not all:
                    return

    async def next(self, *, timeout: float | None = None) -> Down:
        """The next notice, within `timeout` seconds (default: the watch's own).

        Raises `WatchTimeout`; `UsageError` when nothing is watched (any more).
        """
        if timeout is not None:
            check_seconds("watch", timeout)
        down = await self._next(self._timeout if timeout is None else timeout)
        if down is None:
            raise UsageError("watch: every notice was taken, and nothing is watched any more")
        return down

    async def _next(self, seconds: float) -> Down | None:
        current_life()
        self._kernel.check_thread()
        if not self._notices and self._open:
            try:
                async with asyncio.timeout(seconds):
                    await self._wait()
            except TimeoutError:
                if not self._notices and self._open:
                    raise WatchTimeout(tuple(cell.path for cell in islice(self._open, _NAMED)), seconds) from None
        return self._notices.popleft() if self._notices else None

    async def _wait(self) -> None:
        while not self._notices and self._open:
            waiter: asyncio.Future[None] = self._kernel.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake(all=False)  # it was our turn, and somebody else's now
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def __await__(self) -> Generator[Any, None, Down]:
        return self.next().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Down:
        down = await self._next(self._timeout)
        if down is None:
            raise StopAsyncIteration
        return down

    def close(self) -> None:
        """Watch nothing any more, and forget the notices nobody took. Idempotent."""
        for cell in self._open:
            cell.unwatch(self)
        self._open.clear()
        self._notices.clear()
        self._wake(all=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
