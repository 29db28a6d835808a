"""The watchdog: a thread that notices when the event loop does not come back, and says who holds it.

Handlers share one thread. One that computes or blocks for long holds up every other actor, every supervisor and every
deadline, and nothing in the loop can tell (Erlang preempts, and has `long_schedule` of its system monitor for what
cannot be). So a timer in the loop beats every half `threshold`, and a thread looks whether the beats come. When one
is late by `threshold` seconds it looks at the stack of the loop's thread, finds the actor in it, and reports; again
at 2, 4, 8 … thresholds, and once more when the loop came back, or when somebody else is seen to hold it. So a blockage
is noticed between 1 and 1.5 thresholds after it began. Handling a message costs nothing for it; an idle loop wakes up
twice per `threshold`.

What it cannot see: C code that holds the interpreter's lock stops the watchdog, too; it is seen when it returns. A
process that was stopped (a debugger, a suspended machine) has late beats as well: what was on the stack then is
reported, an idle loop is not, and beats that were missed without anybody seen in between are told without a stack.
`def` tools run in worker threads and hold up nobody. Under a loop whose time is not the machine's there is no watchdog.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections import deque
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, Self

from msgspec import Struct

from understudy.actors.cell import Cell
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.inspection import message_name
from understudy.actors.stacks import deliveries, innermost, message_of
from understudy.actors.telemetry import Blocked, log

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel

THRESHOLD: Final = 1.0
SHORTEST: Final = 0.001
JOIN_SECONDS: Final = 1.0
"""Seconds that the thread has to end when the watchdog is closed. It is a daemon: then it is left behind."""
MOST_LATE: Final = 100
"""Late beats that are kept for the thread, which may itself not be scheduled for a while."""
SAME_CLOCK: Final = 5.0
"""Seconds by which the loop's clock and the machine's may differ and still be one."""


class _Seen(Struct):
    """A blockage that was reported: the beat it came after, what was said last, and when to speak again."""

    beat: float
    report: Blocked
    again: float


class Watchdog:
    """See the module. A context manager, to be entered in the event loop.

    `threshold` in seconds, at least 0.001. Reports go to the log (with the stack) and to the listeners of
    `telemetry.blockages`; both happen in the watchdog's thread, while the loop is blocked. Raises `SpecError` for
    another threshold.
    """

    def __init__(self, kernel: Kernel, threshold: float = THRESHOLD) -> None:
        check_threshold(threshold)
        self._kernel = kernel
        self._threshold = threshold
        self._interval = threshold / 2
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._beat = 0.0
        # Beats that were late and that the thread has not taken up: the one before, and itself.
        self._late: deque[tuple[float, float]] = deque(maxlen=MOST_LATE)
        self._seen: _Seen | None = None

    # -- in the loop ---------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._thread is not None or self._stop.is_set():
            raise UsageError("a watchdog is entered once; make another one")
        self._loop = loop = asyncio.get_running_loop()
        if not is_real(loop):
            return self
        self._beat = time.monotonic()
        self._watched = threading.get_ident()
        self._arm()
        self._thread = threading.Thread(target=self._watch, name="understudy-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching. Waits for the thread, 1 second at most. Idempotent."""
        self._stop.set()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(JOIN_SECONDS)

    @property
    def watching(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _arm(self) -> None:
        # A context of its own: that of whoever enters the system must not stay alive for it.
        self._handle = self._loop.call_later(self._interval, self._on_beat, context=contextvars.Context())

    def _on_beat(self) -> None:
        before, now = self._beat, time.monotonic()
        if now - before - self._interval >= self._threshold:
            self._late.append((before, now))
            if (seen := self._seen) is not None and seen.beat == before:
                self._record(seen.report, now - before - self._interval)
        self._watched = threading.get_ident()
        self._beat = now
        self._arm()

    # -- in the watchdog's thread --------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            while not self._stop.wait(self._patience(time.monotonic())):
                if self._loop.is_closed():
                    return  # nobody left the system; nothing will ever beat again
                self._look(time.monotonic())
        except Exception:
            log.exception("the watchdog ends")

    def _patience(self, now: float) -> float:
        if self._seen is not None or not self._loop.is_running():
            return self._interval
        return max(self._beat + self._interval + self._threshold - now, self._interval / 8)

    def _look(self, now: float) -> None:
        """Look once, at `now`: tell what ended, and what is blocked."""
        self._tell_ended()
        beat = self._beat
        late = now - beat - self._interval
        if late < self._threshold or not self._loop.is_running():
            return
        if self._seen is not None and late < self._seen.again:
            return
        frame = sys._current_frames().get(self._watched)
        if frame is None or _is_idle(frame):
            return
        report = self._report(frame, late)
        del frame
        if report is None or self._beat != beat or self._stop.is_set():
            return  # it came back while we looked (whose stack this was cannot be known), or waits for us to end
        again = self._threshold
        while again <= late:
            again *= 2
        former, self._seen = self._seen, _Seen(beat, report, again)
        if former is not None and (former.report.path, former.report.message) != (report.path, report.message):
            self._record(former.report, late)
            self._tell(Blocked(former.report.path, former.report.message, late, former.report.stack, ended=True))
        self._tell(report)

    def _report(self, frame: FrameType, late: float) -> Blocked | None:
        """Who holds the loop; None for the actor of another system, which has a watchdog of its own."""
        cell: Cell | None = None
        message = ""
        for cell, handled in deliveries(frame):
            if cell.kernel is not self._kernel:
                return None
            message = message_name(message_of(handled)) if handled is not None else ""
            break
        return Blocked(cell.path if cell is not None else "", message, late, innermost(frame))

    def _tell_ended(self) -> None:
        """Tell what came back since the last look; several times, if this thread did not get to look between."""
        beat = self._beat
        while self._late:
            before, after = self._late.popleft()
            seen, who = self._seen, Blocked("", "", 0.0, "")
            if seen is not None and seen.beat == before:
                self._seen, who = None, seen.report
            self._tell(Blocked(who.path, who.message, after - before - self._interval, who.stack, ended=True))
        if (seen := self._seen) is not None and seen.beat != beat:  # its late beat was pushed out
            self._seen, who = None, seen.report
            self._tell(Blocked(who.path, who.message, who.seconds, who.stack, ended=True))

    def _record(self, report: Blocked, seconds: float) -> None:
        text = f"{report.message} {seconds:.3g} s".strip()
        self._kernel.telemetry.flight(report.path, "blocked the loop", text)

    def _tell(self, report: Blocked) -> None:
        doing = f" ({report.message})" if report.message else ""
        who = f"{report.path}{doing}" if report.path else "code outside of actors"
        extra = {"path": report.path, "seconds": report.seconds}
        if not report.ended:
            text = "%s blocks the event loop, for %.3g s now\n%s"
            log.warning(text, who, report.seconds, report.stack.rstrip(), extra=extra)
        elif report.stack:
            log.warning("%s blocked the event loop for %.3g s", who, report.seconds, extra=extra)
        else:
            text = "the event loop did not come back for %.3g s; by what could not be seen"
            log.warning(text, report.seconds, extra=extra)
        self._kernel.telemetry.blockages.tell(report)


def check_threshold(threshold: float) -> None:
    """Raise `SpecError` for a threshold that is no number of seconds from 0.001 to a day."""
    if not SHORTEST <= threshold <= 86_400.0:
        raise SpecError(f"watchdog threshold {threshold!r}: seconds from {SHORTEST} to 86,400, or None for no watchdog")


def is_real(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop's time is the machine's. A timer that beats for ever would keep virtual time running."""
    return not getattr(loop, "virtual", False) and abs(loop.time() - time.monotonic()) < SAME_CLOCK


def _is_idle(frame: FrameType) -> bool:
    """Whether a thread in a late loop waits for events: then it was not scheduled, or stopped, and holds up nobody."""
    module = str(frame.f_globals.get("__name__", ""))
    return module == "selectors" or module in ("asyncio.base_events", "asyncio.runners", "asyncio.windows_events")
