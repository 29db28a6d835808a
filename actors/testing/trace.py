"""What happened in a simulated run: one append-only list of events, and its hash.

Every oracle of `invariants` reads it. An event is about one address (`path`, and `number` of its incarnation); what
concerns a message has the number that the message got when it was sent (`message`, from 1), and `peer`, the sender.

| kind | of | `what` | `detail` |
|---|---|---|---|
| `spawned` | an address | the path of its parent | |
| `starting`, `started` | an incarnation | | |
| `ended` | an incarnation | the kind of its exit | the exit |
| `fenced` | an incarnation that ignored its end | | |
| `released` | an address, for good | the kind of its exit | the exit |
| `sent` | a message, put into the mailbox | its class | `ask` for a request |
| `notice` | what the runtime itself put into the control lane | its class | |
| `refused` | a message that `tell` did not accept | its class | the reason |
| `begin`, `end` | a handler | the class of the message | of `end`: `ok`, or the class of what it raised |
| `letter` | a dead letter | the class of the message | the reason |
| `lost` | a message that a planned fault took | its class | the fault |
| `fault` | a planned fault that came true | the class of the fault | the fault |
| `noted` | what the tree or the test noted (`note`) | free | free |
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from understudy.actors.testing.schedule import Deviation

Kind = Literal[
    "spawned",
    "starting",
    "started",
    "ended",
    "fenced",
    "released",
    "sent",
    "notice",
    "refused",
    "begin",
    "end",
    "letter",
    "lost",
    "fault",
    "noted",
]

_ADDRESS: Final = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{9,}\b")
TRACE_LIMIT: Final = 1_000_000
"""Events of one trace; a run that makes more is ended with `TraceFull`."""


class TraceFull(AssertionError):
    """A run made more events than a trace holds."""


class Event(Struct, gc=False):
    """One thing that happened. `at` is virtual nanoseconds; see the module for the rest."""

    at: int
    kind: Kind
    path: str
    number: int = 0
    message: int = 0
    peer: str = ""
    what: str = ""
    detail: str = ""

    def __str__(self) -> str:
        who = f"{self.path} #{self.number}" if self.number else self.path
        which = f" m{self.message}" if self.message else ""
        sender = f" from {self.peer}" if self.peer else ""
        return f"{self.at / 1e9:.6f} {who} {self.kind}{which} {self.what}{sender} {self.detail}".rstrip()


class Trace:
    """The events of one run, oldest first.

    `limit`: events before `TraceFull`. `result` is what the run's main returned; `now` the virtual nanoseconds.
    """

    def __init__(self, limit: int = TRACE_LIMIT) -> None:
        self.events: list[Event] = []
        self.result: object = None
        self.error: BaseException | None = None
        self.left_tasks: tuple[str, ...] = ()
        """Names of the tasks that were left when main had returned and its kernels were closed."""
        self.left_timers = 0
        """Timers of kernels that were closed."""
        self.quiet = False
        """Whether it was let run until nothing was left to do."""
        self.held: Sequence[Deviation] = ()
        """The deviations of the schedule that came true."""
        self.broken: list[str] = []
        """What `properties.always` and `eventually` found."""
        self.watch: Callable[[Event], None] | None = None
        """Is told of each event."""
        self.replayable = True
        """Whether its world alone gives it again; not so when a machine's steps are needed, too."""
        self._limit = limit

    def add(self, event: Event) -> None:
        """Append. Raises `TraceFull`."""
        if len(self.events) >= self._limit:
            raise TraceFull(f"{self._limit:,} events; raise World.run's limit, or look for what never ends")
        self.events.append(event)
        if self.watch is not None:
            self.watch(event)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def of(self, *kinds: Kind) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.events if event.kind in kinds]

    @property
    def faults(self) -> Counter[str]:
        """Planned faults that came true, by class."""
        return Counter(event.what for event in self.events if event.kind == "fault")

    def came_true(self, fault: Struct) -> bool:
        """Whether a planned fault did. One whose events do not tell its repr is told by its kind."""
        kind, text = type(fault).__name__, repr(fault)
        return any(
            event.detail == text or not event.detail.startswith(f"{kind}(")
            for event in self.events
            if event.kind == "fault" and event.what == kind
        )

    @property
    def seconds(self) -> float:
        """Virtual seconds from the first event to the last."""
        return (self.events[-1].at - self.events[0].at) / 1e9 if self.events else 0.0

    def fingerprint(self) -> str:
        """16 hexadecimal digits: the same for the same events. Addresses of objects in texts do not count."""
        digest = hashlib.sha256()
        for event in self.events:
            detail = _ADDRESS.sub("_", event.detail) if event.detail else ""
            where = f"{event.at} {event.kind} {event.path} {event.number} {event.message}"
            line = f"{where} {event.peer} {event.what} {detail}"
            digest.update(line.encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:16]
