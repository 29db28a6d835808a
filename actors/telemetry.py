"""What can be seen of the actors of one node: the flight recorder, dead letters and crash reports.

All bounded. The flight recorder is one ring of the last 4,096 happenings; dead letters keep the last 1,000 and
count all. Listeners are plain functions; one that raises is logged once and removed, so that watching never
breaks what is watched.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct

from understudy.actors.lifecycle import Exit

FLIGHT_LENGTH: Final = 4_096
LETTERS_KEPT: Final = 1_000

log = logging.getLogger("understudy.actors")
log.addHandler(logging.NullHandler())

LetterReason = Literal["full", "dropped", "stopped", "unknown", "expired", "late", "failed"]


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
    """An incarnation ended unexpectedly. `error` is the exception; `flights` the actor's last happenings."""

    path: str
    incarnation: int
    exit: Exit
    message: object
    error: BaseException | None
    flights: tuple[Flight, ...]


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
        for number, listener in list(self._each.items()):
            try:
                listener(value)
            except Exception:
                log.exception("%s listener %r raised and was removed", self._name, listener)
                self._each.pop(number, None)


class Telemetry:
    """The node's eyes. `now` is the monotonic clock."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._flights: deque[Flight] = deque(maxlen=FLIGHT_LENGTH)
        self._letters: deque[DeadLetter] = deque(maxlen=LETTERS_KEPT)
        self.letter_count = 0
        self.letters = Listeners[DeadLetter]("dead letter")
        self.crashes = Listeners[CrashReport]("crash report")

    def flight(self, path: str, what: str, detail: str = "") -> None:
        """Record a happening."""
        self._flights.append(Flight(self._now(), path, what, detail))

    def flights(self, path: str | None = None, last: int = 50) -> tuple[Flight, ...]:
        """The last happenings, of one actor or of all, oldest first."""
        chosen = [f for f in self._flights if path is None or f.path == path]
        return tuple(chosen[-last:])

    def dead(self, letter: DeadLetter) -> None:
        """Count and keep a dead letter."""
        self.letter_count += 1
        self._letters.append(letter)
        self.flight(letter.target, f"dead letter: {letter.reason}", type(letter.message).__name__)
        self.letters.tell(letter)

    def dead_letters(self) -> tuple[DeadLetter, ...]:
        """The last dead letters, oldest first."""
        return tuple(self._letters)

    def crash(self, path: str, incarnation: int, exit: Exit, message: object, error: BaseException | None) -> None:
        """Report a crash; text and traceback are rendered only if somebody listens."""
        self.flight(path, "crash", str(exit))
        log.warning("%s crashed: %s", path, exit, extra={"path": path, "incarnation": incarnation})
        if self.crashes:
            self.crashes.tell(CrashReport(path, incarnation, exit, message, error, self.flights(path)))
