"""aiosqlite without its threads, for code that runs in a simulated event loop.

    with inline_sqlite():
        simloop.run(main)          # SQLiteStore, or anything else on aiosqlite

In a loop with virtual time (`loop.virtual` is true) each operation of a connection runs in the loop's own thread, after
those that were handed over before it, and is over a planned virtual time after it began: 0.5 ms by default. Other loops
keep their threads. Nothing of aiosqlite is changed outside of the block.

Real SQLite, on a real file: an operation that waits for a lock waits in real time, and holds everything up. Let nobody
outside of the simulated loop write to the file, and keep a transaction within one operation, as `SQLiteStore` does.

aiosqlite has no seam for this. What is used of its inside is looked at when the block is entered: a connection takes
its operations from `_tx`, and runs in a thread that it is (up to 0.21) or has as `_thread` (0.22).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from aiosqlite import core

from understudy.actors.errors import UsageError

SECONDS: Final = 0.0005
"""Virtual seconds that an operation takes."""

Latency = Callable[[int], float]
_Operation = tuple["asyncio.Future[Any] | None", Callable[[], Any]]  # what a connection is asked is anybody's


class _Calls:
    """Counts the operations of one `inline_sqlite` block, and says how long each takes."""

    def __init__(self, latency: Latency) -> None:
        self._latency = latency
        self.count = 0

    def next(self) -> float:
        self.count += 1
        return self._latency(self.count)


class _InlineQueue:
    """In place of the queue between a connection and its thread: runs what is put in, in the loop, one by one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, calls: _Calls) -> None:
        self._loop = loop
        self._calls = calls
        self._waiting: deque[_Operation] = deque()

    def put_nowait(self, item: object) -> None:
        """Take an operation; aiosqlite up to 0.21 also puts in a mark of the end, which ends no thread here."""
        if not isinstance(item, tuple):
            return
        self._waiting.append(item)
        if self._loop.is_closed():  # a connection that is collected later closes itself
            while self._waiting:
                self._run()
        elif len(self._waiting) == 1:
            self._begin()

    def _begin(self) -> None:
        self._loop.call_later(self._calls.next(), self._run)

    def _run(self) -> None:
        future, function = self._waiting[0]
        try:
            result = function()
        except BaseException as error:  # as the thread does: it goes to who waits
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            if future is not None and not future.done():
                future.set_result(result)
        self._waiting.popleft()
        if self._waiting and not self._loop.is_closed():
            self._begin()


class _NoThread:
    """In place of the thread."""

    def start(self) -> None:
        """Nothing to start."""

    def join(self, timeout: float | None = None) -> None:
        """Nothing to wait for."""

    def is_alive(self) -> bool:
        """Never."""
        return False


_installed: list[_Calls] = []


@contextmanager
def inline_sqlite(latency: float | Latency = SECONDS) -> Generator[None, None, None]:
    """Run the operations of aiosqlite in the loop itself, in simulated loops, inside the block.

    `latency`: virtual seconds of an operation, or a function of its number (from 1, over all connections in the block)
    that gives them. Raises `UsageError` inside another such block, for a negative latency, and when the aiosqlite that
    is installed is not as it is known.
    """
    if _installed:
        raise UsageError("inline_sqlite is entered already")
    if not callable(latency) and not latency >= 0:
        raise UsageError(f"latency is {latency!r}: seconds may not be negative")
    _look()
    calls = _Calls(latency if callable(latency) else lambda number: latency)
    original = core.Connection.__init__

    # The parameters are those of whichever aiosqlite there is.
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        loop = asyncio._get_running_loop()  # None outside of a loop
        if loop is not None and getattr(loop, "virtual", False):
            _make_inline(self, loop, calls)

    _installed.append(calls)
    core.Connection.__init__ = __init__  # type: ignore[method-assign]  # there is no seam
    try:
        yield
    finally:
        core.Connection.__init__ = original  # type: ignore[method-assign]
        _installed.clear()


# `Any`: what is set is not declared, or declared to be a thread.
def _make_inline(connection: Any, loop: asyncio.AbstractEventLoop, calls: _Calls) -> None:
    connection._tx = _InlineQueue(loop, calls)
    if isinstance(connection, threading.Thread):
        nothing = _NoThread()
        connection.start, connection.join, connection.is_alive = (  # type: ignore[method-assign]
            nothing.start,
            nothing.join,
            nothing.is_alive,
        )
    else:
        connection._thread = _NoThread()


def _look() -> None:
    """Raise `UsageError` unless a connection has the parts that are replaced."""

    def nobody() -> Any:  # a connection that is never opened asks for nothing
        raise AssertionError

    connection: Any = core.Connection(nobody, 1)
    if not hasattr(getattr(connection, "_tx", None), "put_nowait"):
        raise UsageError("this aiosqlite is not known: its Connection has no queue `_tx`")
    if not isinstance(connection, threading.Thread) and not hasattr(connection, "_thread"):
        raise UsageError("this aiosqlite is not known: its Connection neither is a thread nor has one")
