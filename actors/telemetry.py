"""What can be seen of the actors of one node: the flight recorder, dead letters, crash reports, blockages.

All bounded. The flight recorder is one ring of the last 4,096 happenings, kept as tuples and rendered when read;
dead letters keep the last 1,000 and count all. Listeners are plain functions; one that raises is logged once and
removed, so that watching never breaks what is watched.

Crash reports are structs. They are made for a listener only, and the operator's line in the log is written only if
some handler of `logging` would take it, and at most 10 times in any second for the children of one supervisor; what
was left out is counted and said in the next line. Nothing here keeps an exception, so no crash pins the frames it
came from: the ring and the exit are text.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Final, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from understudy.actors.lifecycle import Exit

FLIGHT_LENGTH: Final = 4_096
FLIGHTS_REPORTED: Final = 50
"""Happenings that a crash report carries at most."""
LETTERS_KEPT: Final = 1_000
LINES_PER_SECOND: Final = 10
"""Lines about crashes, for the children of one supervisor, in any second."""
SUPERVISORS_LIMITED: Final = 256
"""Supervisors whose lines are counted apart; beyond, the one that was quiet longest is forgotten."""


scrubbers: Final[list[Callable[[str], str]]] = []
"""What takes secrets out of the texts of logs and reports; each is called with every text. See `redaction`."""


@contextlib.contextmanager
def scrubbing(scrub: Callable[[str], str]) -> Iterator[None]:
    """Have texts scrubbed by this, too, for a while."""
    scrubbers.append(scrub)
    try:
        yield
    finally:
        scrubbers.remove(scrub)


def scrubbed(text: str) -> str:
    """A text as it may be logged."""
    for scrub in scrubbers:
        text = scrub(text)
    return text


class _Safe(logging.Logger):
    """A logger whose handlers and filters cannot break who logs: what they raise is reported as `logging` does it.

    What it says is scrubbed of secrets first.
    """

    def handle(self, record: logging.LogRecord) -> None:
        try:
            _scrub(record)
            super().handle(record)
        except Exception:
            logging.Handler().handleError(record)

    def callHandlers(self, record: logging.LogRecord) -> None:
        logger: logging.Logger | None = self
        while logger is not None:
            for handler in logger.handlers:
                if record.levelno >= handler.level:
                    _handle(handler, record)
            logger = logger.parent if logger.propagate else None


def _scrub(record: logging.LogRecord) -> None:
    said = record.getMessage()
    if (clean := scrubbed(said)) != said:
        record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[1] is not None:
        trace = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        if (clean := scrubbed(trace)) != trace:
            record.exc_info, record.exc_text = None, clean


def _handle(handler: logging.Handler, record: logging.LogRecord) -> None:
    try:
        handler.handle(record)
    except Exception:
        with contextlib.suppress(Exception):
            handler.handleError(record)


def logger_of(name: str) -> logging.Logger:
    """The logger of this name, made safe. The class is changed: somebody may have configured it before."""
    found = logging.getLogger(name)
    found.__class__ = _Safe
    found.addHandler(logging.NullHandler())
    return found


log = logger_of("understudy.actors")


def one_line(text: str, most: int = 500) -> str:
    """A text that came from elsewhere, fit for a log: one line, without what does not print, `most` characters."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])


LetterReason = Literal["full", "dropped", "stopped", "unknown", "expired", "late", "failed", "no-connection"]


class Addressed(Protocol):
    """What has a path, and renders it when asked."""

    @property
    def path(self) -> str:
        """The address."""
        ...


Who = str | Addressed
Record = tuple[float, Who, str | type, object]
"""One place of the ring: monotonic seconds, whom it is about, what happened, a detail that is rendered when read.

A message class says that a message of it was delivered; then the detail is the sender, or None.
"""


class DeadLetter(Struct, frozen=True):
    """A message that was not handled: to whom, from whom (paths, "" for outside), why, and the message itself."""

    target: str
    sender: str
    reason: LetterReason
    message: object
    detail: str = ""


class Flight(Struct, frozen=True):
    """One entry of the flight recorder. `at` is monotonic seconds."""

    at: float
    path: str
    what: str
    detail: str = ""


class CrashReport(Struct, frozen=True):
    """An incarnation ended unexpectedly.

    `message` is what it was handling (None while starting), `error` the exception with its traceback, both as they are:
    who keeps the report keeps the frames, and the secrets in them; its texts are scrubbed. `chain` are the paths of the
    asks that the message belonged to, first asker first; `flights` the last 50 happenings of the actor and of those.
    """

    path: str
    incarnation: int
    exit: Exit
    message: object
    error: BaseException | None
    flights: tuple[Flight, ...]
    chain: tuple[str, ...] = ()

    def text(self) -> str:
        """The report as a person reads it: what ended, while handling what for whom, happenings, traceback."""
        doing = "starting" if self.message is None else type(self.message).__name__
        lines = [f"{self.path} #{self.incarnation} crashed: {self.exit}", f"  handling {doing}"]
        if self.chain:
            lines.append(f"  asked by {' -> '.join(self.chain)}")
        end = self.flights[-1].at if self.flights else 0.0
        lines += [f"  {f.at - end:+.3f} s {f.path} {f.what} {f.detail}".rstrip() for f in self.flights]
        if self.error is not None:
            lines.append("".join(traceback.format_exception(self.error)).rstrip())
        return scrubbed("\n".join(lines))


class Blocked(Struct, frozen=True):
    """The event loop's thread does not come back; see `watchdog`.

    `path` and `message` (the name of its type, "on_start" for a start, "" for `on_stop`) say who holds it; `path` is
    "" for code outside of actors or when that could not be seen. `seconds` is how long at least; `stack` that of the
    loop's thread, innermost last. `ended` is False while it goes on; the last report of a blockage has True and the
    whole time.
    """

    path: str
    message: str
    seconds: float
    stack: str
    ended: bool = False


T = TypeVar("T")


class Listeners(Generic[T]):
    """Functions that are told something. Adding returns a function that takes it off again."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._each: dict[int, Callable[[T], None]] = {}
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._each)

    def add(self, listener: Callable[[T], None]) -> Callable[[], None]:
        """Call `listener` with everything from now on."""
        number = self._next = self._next + 1
        self._each[number] = listener

        def remove() -> None:
            self._each.pop(number, None)

        return remove

    def tell(self, value: T) -> None:
        """Call every listener; one that raises is removed."""
        if not self._each:
            return
        for number, listener in tuple(self._each.items()):
            try:
                listener(value)
            except Exception:
                log.exception("%s listener %r raised and was removed", self._name, listener)
                self._each.pop(number, None)


class _Lines:
    """Times of the last lines of one supervisor's children, and how many were left out since."""

    __slots__ = ("left_out", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=LINES_PER_SECOND)
        self.left_out = 0


class LineLimit:
    """At most 10 lines in any second for each key; what does not fit is counted. Keeps 256 keys."""

    def __init__(self) -> None:
        self._each: dict[str, _Lines] = {}

    def admit(self, key: str, now: float) -> tuple[int, float] | None:
        """Whether a line may be written now: how many were left out before it, and since when; None for no."""
        lines = self._each.pop(key, None) or _Lines()
        self._each[key] = lines  # the last used is last
        times = lines.times
        if len(times) == LINES_PER_SECOND and now - times[0] < 1.0:
            lines.left_out += 1
            return None
        left_out, lines.left_out = lines.left_out, 0
        since = times[-1] if times else now
        times.append(now)
        return left_out, since

    def evict(self, kept: int = SUPERVISORS_LIMITED) -> list[tuple[str, int]]:
        """Forget all but the `kept` last used keys; those of which something was left out, and how much."""
        owed: list[tuple[str, int]] = []
        while len(self._each) > kept:
            key = next(iter(self._each))
            if left_out := self._each.pop(key).left_out:
                owed.append((key, left_out))
        return owed


class Recorder(Protocol):
    """Records a happening; see `Telemetry`."""

    def __call__(self, who: Who, what: str, detail: object = "") -> None:
        """See `Telemetry`."""
        ...


def _recorder(append: Callable[[Record], None], now: Callable[[], float]) -> Recorder:
    """A function and not a method: that is a fifth of its cost (130 ns for 160)."""

    def flight(who: Who, what: str, detail: object = "") -> None:
        append((now(), who, what, detail))

    return flight


class Telemetry:
    """The node's eyes. `now` is the monotonic clock.

    `flight(who, what, detail="")` records a happening: `who` is a path or has one; both it and `detail` become text
    when somebody reads. What is not text stays alive for 4,096 further happenings, so it must not hold an exception.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.ring: deque[Record] = deque(maxlen=FLIGHT_LENGTH)
        self._record = self.ring.append
        self.flight: Recorder = _recorder(self._record, now)
        self._letters: deque[DeadLetter] = deque(maxlen=LETTERS_KEPT)
        self._limit = LineLimit()
        self.letter_count = 0
        self.letters = Listeners[DeadLetter]("dead letter")
        self.crashes = Listeners[CrashReport]("crash report")
        self.blockages = Listeners[Blocked]("blockage")

    def flights(
        self, path: str | None = None, last: int = FLIGHTS_REPORTED, *, chain: Collection[str] = ()
    ) -> tuple[Flight, ...]:
        """The last happenings of one actor and of those in `chain`, or of all (`path` None), oldest first."""
        wanted = None if path is None else {path, *chain}
        paths: dict[Who, str] = {}  # a path may be computed, and few actors fill the ring
        chosen: list[Flight] = []
        for at, who, what, detail in reversed(self.ring.copy()):  # a copy: reading may run code that records
            if len(chosen) >= last:
                break
            whose = paths.get(who) or paths.setdefault(who, path_of(who))
            if wanted is None or whose in wanted:
                chosen.append(_flight(at, whose, what, detail))
        return tuple(reversed(chosen))

    def dead(self, letter: DeadLetter) -> None:
        """Count and keep a dead letter."""
        self.letter_count += 1
        self._letters.append(letter)
        self._record((self._now(), letter.target, _LETTER[letter.reason], type(letter.message)))
        if self.letters:
            self.letters.tell(letter)

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The last dead letters, oldest first."""
        return tuple(self._letters)

    def crash(
        self,
        who: Who,
        incarnation: int,
        exit: Exit,
        message: object,
        error: BaseException | None,
        chain: Collection[Who] = (),
    ) -> None:
        """Report a crash. `chain` is the chain of asks that `message` belonged to.

        With nobody listening it is one entry of the ring. The line in the log has the traceback when the logger
        `understudy.actors` is at level DEBUG.
        """
        self._record((self._now(), who, "crash", exit))
        if self.crashes:
            path, paths = path_of(who), tuple(path_of(each) for each in chain)
            flights = self.flights(path, chain=paths)
            clean = scrubbed(exit.detail)
            told = exit if clean == exit.detail else Exit(exit.kind, clean)
            self.crashes.tell(CrashReport(path, incarnation, told, message, error, flights, paths))
        if heard():
            self._line(path_of(who), incarnation, exit, error)

    def _line(self, path: str, incarnation: int, exit: Exit, error: BaseException | None) -> None:
        now = self._now()
        supervisor = path.rpartition("/")[0]
        admitted = self._limit.admit(supervisor, now)
        self._owed(self._limit.evict())
        if admitted is None:
            return
        left_out, since = admitted
        log.warning(
            "%s crashed: %s%s",
            path,
            exit,
            f" (and {left_out:,} more in the last {_seconds(now - since)})" if left_out else "",
            extra={"path": path, "incarnation": incarnation, "left_out": left_out},
            exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        )

    def close(self) -> None:
        """Say how many lines about crashes were left out and not yet spoken of."""
        self._owed(self._limit.evict(kept=0))

    def _owed(self, owed: list[tuple[str, int]]) -> None:
        for supervisor, left_out in owed:
            where = f"below {supervisor}" if supervisor else "at the top"
            log.warning("%s more crashes %s", f"{left_out:,}", where, extra={"path": supervisor, "left_out": left_out})


_LETTER: Final[dict[LetterReason, str]] = {
    "full": "dead letter: full",
    "dropped": "dead letter: dropped",
    "stopped": "dead letter: stopped",
    "unknown": "dead letter: unknown",
    "expired": "dead letter: expired",
    "late": "dead letter: late",
    "failed": "dead letter: failed",
    "no-connection": "dead letter: no connection",
}


def heard(log: logging.Logger = log, level: int = logging.WARNING) -> bool:
    """Whether a handler of `logging` would take a record of `level` from a logger of ours: text is for listeners only.

    The walk is that of `Logger.callHandlers`. Our own NullHandler keeps `logging.lastResort` out of it.
    """
    if not log.isEnabledFor(level):
        return False
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            if handler.level <= level and not isinstance(handler, logging.NullHandler):
                return True
        logger = logger.parent if logger.propagate else None
    return False


def path_of(who: Who) -> str:
    """A path as text."""
    return who if isinstance(who, str) else who.path


def _flight(at: float, path: str, what: str | type, detail: object) -> Flight:
    if isinstance(what, str):
        return Flight(at, path, what, scrubbed(_render(detail)))
    sender = "" if detail is None else f"from {getattr(detail, 'path', detail)}"
    return Flight(at, path, "began" if what is object else what.__name__, sender)


def _render(detail: object) -> str:
    return detail if isinstance(detail, str) else detail.__name__ if isinstance(detail, type) else str(detail)


def _seconds(seconds: float) -> str:
    return "second" if seconds <= 1.0 else f"{seconds:.1f} s"
