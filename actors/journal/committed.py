"""Listeners that get what is committed: every event with its trace, in order, behind a bounded buffer each.

An event is handed on when it is on the disk as far as the store's profile says, never before: an exporter cannot show
what a crash takes back. Nothing is kept or computed while nobody is attached.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from understudy.actors.journal.events import Record, RunStarted, is_run
from understudy.actors.journal.journal import Journal
from understudy.actors.outlet import BUFFER, FLUSH_SECONDS, Delivery, Outlet
from understudy.actors.trace import Trace, trace_of


class Seen(Struct, frozen=True, gc=False):
    """A committed event and the trace of its run; None for an event of no run."""

    record: Record
    trace: Trace | None

    @property
    def span(self) -> str:
        """The event's span id, 16 hexadecimal digits; "" without a trace."""
        return self.trace.span(self.record.run, self.record.seq) if self.trace is not None else ""

    @property
    def parent(self) -> str:
        """The span id of its cause; of the first event of a run, that of who asked; "" for none."""
        if self.trace is None:
            return ""
        return self.trace.span(self.record.run, self.record.cause) if self.record.cause else self.trace.parent


Hears = Callable[[Sequence[Seen]], object]
"""Called with batches, oldest first, in a thread of its own. If it has a method `close`, that is called last."""


class Attached:
    """One listener of a system."""

    def __init__(self, outlet: Outlet[Seen], flush: float, detach: Callable[[Attached], None]) -> None:
        self.outlet = outlet
        self.flush = flush
        self._detach = detach

    def statistics(self) -> Delivery:
        """Events that wait, were delivered, were dropped since there was no room, or were lost since it raised."""
        return self.outlet.statistics()

    def detach(self) -> None:
        """Give it nothing more; what is in its buffer is still delivered. Does not wait."""
        self._detach(self)
        self.outlet.end()


class Committed:
    """The listeners of one journal. `kept` gives the journalled `traceparent` of a run that is known, else ""."""

    def __init__(
        self, journal: Journal, kept: Callable[[str], str], *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._journal = journal
        self._kept = kept
        self._loop = loop
        self._attached: list[Attached] = []
        self._pending: deque[tuple[int, Seen]] = deque()
        self._removes: list[Callable[[], None]] = []

    def attach(self, hears: Hears, *, size: int = BUFFER, flush: float = FLUSH_SECONDS) -> Attached:
        """Give a listener everything that is journalled from now on."""
        name = getattr(hears, "__name__", type(hears).__name__)
        outlet: Outlet[Seen] = Outlet(name, hears, size=size, close_with=getattr(hears, "close", None), loop=self._loop)
        made = Attached(outlet, flush, self._detach)
        if not self._attached:
            listen, commits = self._journal.listeners.add, self._journal.commits.add
            self._removes = [listen(self._heard), commits(self._release)]
        self._attached = [*self._attached, made]
        return made

    def _detach(self, attached: Attached) -> None:
        self._attached = [each for each in self._attached if each is not attached]
        if not self._attached:
            for remove in self._removes:
                remove()
            self._removes = []
            self._pending.clear()

    def _heard(self, record: Record) -> None:
        trace: Trace | None = None
        if isinstance(record.event, RunStarted):
            trace = trace_of(record.run, record.event.traceparent)
        elif is_run(record.run):
            trace = trace_of(record.run, self._kept(record.run))
        self._pending.append((self._journal.appended, Seen(record, trace)))
        if not self._journal.profile.kept:
            self._release(self._journal.appended)

    def _release(self, committed: int) -> None:
        while self._pending and self._pending[0][0] <= committed:
            _, seen = self._pending.popleft()
            for attached in self._attached:
                attached.outlet.put(seen)

    async def aclose(self) -> None:
        """Let every listener finish, each within its own time. What the journal did not commit is not told."""
        attached = self._attached
        for each in attached:
            each.detach()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for each in attached:
            while not each.outlet.idle and loop.time() < began + each.flush:  # noqa: ASYNC110  # a thread, and bounded
                await asyncio.sleep(0.002)
