"""A bounded buffer and a thread that empties it: for whatever watches the system and may be slow, broken or stuck.

Who puts something in never waits and never sees an error. When the buffer is full what comes is dropped and counted, so
what is delivered is in order. The thread is a daemon: one that is stuck keeps no process alive. In a simulation there
are no threads: everything is delivered by the loop, in its next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from msgspec import Struct

from understudy.actors.telemetry import log

T = TypeVar("T")

BUFFER: Final = 10_000
BATCH: Final = 512
"""Things that are delivered at once at the most."""
FLUSH_SECONDS: Final = 5.0


class Delivery(Struct, frozen=True):
    """What became of things put into an outlet: `waiting`, `delivered`, `dropped` (no room), `failed` (it raised)."""

    waiting: int
    delivered: int
    dropped: int
    failed: int


class Outlet(Generic[T]):
    """See the module. `deliver` is called with batches, oldest first, never twice at a time.

    `close_with` is called last. `loop`: deliver in that loop instead of a thread. What `deliver` raises is logged the
    first time, counted always, and the batch is lost. `put` may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[list[T]], object],
        *,
        size: int = BUFFER,
        close_with: Callable[[], object] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.dropped = 0
        self._name = name
        self._deliver = deliver
        self._size = size
        self._close_with = close_with
        self._loop = loop
        self._waiting: deque[T] = deque()
        self._put = self._done = self._failed = 0
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._scheduled = self._closing = self._ended = False

    def put(self, item: T) -> bool:
        """Put something in; False when there is no room, or it is closed."""
        if self._closing or len(self._waiting) >= self._size:
            self.dropped += 1
            return False
        self._waiting.append(item)
        self._put += 1
        if self._loop is not None:
            self._schedule(self._loop)
        elif self._thread is None:
            self._start()
        elif not self._wake.is_set():
            self._wake.set()
        return True

    @property
    def idle(self) -> bool:
        """Whether everything was delivered, and, once it is being closed, whether that is done."""
        return self._ended if self._closing else self._done >= self._put

    def statistics(self) -> Delivery:
        """What became of everything so far."""
        return Delivery(self._put - self._done, self._done - self._failed, self.dropped, self._failed)

    def end(self) -> None:
        """Take nothing more, deliver what is there, then call `close_with`. Does not wait: see `idle`."""
        self._closing = True
        if self._loop is not None:
            while self._waiting:
                self._drain()
            self._last()
        elif self._thread is None:
            self._last()
        else:
            self._wake.set()

    def flush(self, seconds: float) -> bool:
        """Wait until everything put so far was delivered; False after `seconds`. Not for the loop's own thread."""
        wanted, until = self._put, time.monotonic() + seconds
        while self._done < wanted and not self._ended:
            if time.monotonic() >= until:
                return False
            time.sleep(0.002)
        return True

    def close(self, seconds: float) -> bool:
        """`end`, and wait; False after `seconds`. Safe to call twice. Not for the loop's own thread."""
        if not self._closing:
            self.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(seconds)
        return self._ended

    # -- delivering ----------------------------------------------------------------------------------------

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self._drain()
        if self._waiting and self._loop is not None:
            self._schedule(self._loop)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._wake.set()
                thread = threading.Thread(target=self._work, name=f"understudy-{self._name}", daemon=True)
                with contextlib.suppress(RuntimeError):  # no thread to be had: the next one that puts tries again
                    thread.start()
                    self._thread = thread

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                self._drain()
            if self._closing:
                self._last()
                return

    def _drain(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if not batch:
            return
        try:
            self._deliver(batch)
        except Exception as error:
            self._report(error)
            self._failed += len(batch)
        self._done += len(batch)

    def _last(self) -> None:
        try:
            if self._close_with is not None:
                self._close_with()
        except Exception as error:
            self._report(error)
        self._ended = True

    def _report(self, error: Exception) -> None:
        if not self._failed and self._name != "log":  # the log itself is not told of its own failure
            log.error("listener %s raised, further failures are only counted: %r", self._name, error)
