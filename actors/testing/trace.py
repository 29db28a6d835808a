"""What happened in a simulated run: one append-only list of events, and its hash.

Every oracle of `invariants` reads it. An event is about one address (`path`, and `number` of its incarnation); what
concerns a message has the number that the message got when it was sent (`message`, from 1), and `peer`, the sender.

| kind | of | `what` | `detail` |
|---|---|---|---|
| `spawned` | an address; `peer` is its parent | | |
| `starting`, `started` | an incarnation | | |
| `ended` | an incarnation | the kind of its exit | the exit |
| `fenced` | an incarnation that ignored its end | | |
| `released` | an address, for good | the kind of its exit | the exit |
| `sent` | a message, put into the mailbox | its class | `ask` for a request |
| `notice` | what the runtime itself put into the control lane | its class | |
| `refused` | a message that `tell` did not accept | its class | the reason |
| `begin`, `end` | a handler | the class of the message | of `end`: `ok`, or the class of what it raised |
| `letter` | a dead letter | the class of the message | the reason |
| `withdrawn` | a message whose sender was cancelled while it waited for room | its class | |
| `overflow` | a message that met a full mailbox | `taken` or `refused` | the policy |
| `answered` | a request | its class | `ok`, or the class of the error |
| `cancelled` | a request whose asker cancels the handler, too | its class | |
| `stashed`, `redelivered` | a message put aside, or back to the front | its class | |
| `lost` | a message that a planned fault took | its class | the fault |
| `fault` | a planned fault that came true | the class of the fault | the fault |
| `known` | an address whose actor's class is known | the class | the overflow policy |
| `widened` | an address that may run more handlers, or fewer | | |
| `suspended`, `resumed` | an incarnation | | |
| `ending`, `halting` | an incarnation whose end begins, by itself or on purpose | the kind of its exit | the exit |
| `stopping` | an address whose stop begins | the kind of its exit | `together`, if its children stop so |
| `crashed` | a crash that was counted | the kind of the exit | the exit |
| `watch`, `unwatch` | a watcher; `peer` is watched | the class of the notice | `gone`: it came at once |
| `severed` | an incarnation that is linked with `peer`, which ended | the kind of that exit | |
| `raised` | a `tell` or `ask` that raised because the address is stopped | the class | the error |
| `closing`, `closed` | a kernel | | |
| `settling`, `settled` | the time after main's last act; see `World.run` | | |
| `noted` | what the tree or the test noted (`note`) | free | free |

Of `starting`, `ending`, `halting` and `stopping`, `peer` is the parent if it is the parent that does so.

`size` is: of `sent` the messages that wait in the work lane once it is put in, of `overflow` those that wait when it
comes; of `known` the mailbox's limit; of `starting` and `widened` the handlers that may run at once; of `redelivered`
the times its class allows; of `answered` the nanoseconds it came after its deadline; of `notice` the incarnation it
tells of; of `watch` the incarnation watched; of `ending`, `halting` and `stopping` the nanoseconds it may take without
its children.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

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
    "withdrawn",
    "overflow",
    "answered",
    "cancelled",
    "stashed",
    "redelivered",
    "lost",
    "fault",
    "known",
    "widened",
    "suspended",
    "resumed",
    "ending",
    "halting",
    "stopping",
    "crashed",
    "watch",
    "unwatch",
    "severed",
    "raised",
    "closing",
    "closed",
    "settling",
    "settled",
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
    size: int = 0

    def __str__(self) -> str:
        who = f"{self.path} #{self.number}" if self.number else self.path
        which = f" m{self.message}" if self.message else ""
        sender = f" from {self.peer}" if self.peer else ""
        return f"{self.at / 1e9:.6f} {who} {self.kind}{which} {self.what}{sender} {self.detail}".rstrip()


class Left(NamedTuple):
    """Where a message waits: the address, its state, and how many handlers run there."""

    path: str
    state: str
    running: int


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
        self.failures: tuple[str, ...] = ()
        """Exceptions that nobody retrieved, and what else the loop's exception handler was told."""
        self.queued: dict[int, Left] = {}
        """Messages that wait in mailboxes and stashes when main has returned, by number."""
        self.settled: dict[int, Left] | None = None
        """As `queued`, when the time to settle was over; None when there was none."""
        self.unanswered: dict[int, tuple[str, int]] = {}
        """Requests without an answer when main has returned: to whom, and the virtual nanoseconds of their deadline."""
        self.closed = False
        """Whether every kernel was closed when main had returned."""
        self.kernels = 0
        """Kernels entered; of all but the first, paths begin with a number: "2:desk"."""
        self.held_up = False
        """Whether something blocked the loop, so that deadlines could not be kept."""
        self.ended_at = 0
        """Virtual nanoseconds when main had returned."""
        self.held: Sequence[Deviation] = ()
        """The deviations of the schedule that came true."""
        self.broken: list[str] = []
        """What `properties.always` and `eventually` found."""
        self.watch: Callable[[Event], None] | None = None
        """Is told of each event."""
        self.replayable = True
        """Whether its world alone gives it again; not so when a machine's steps are needed, too."""
        self._limit = limit
        self._counted = 0
        self._kinds: frozenset[str] = frozenset()

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

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of events there are."""
        if self._counted != len(self.events):
            self._counted, self._kinds = len(self.events), frozenset(event.kind for event in self.events)
        return self._kinds

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
            line = f"{where} {event.peer} {event.what} {detail} {event.size}"
            digest.update(line.encode("utf-8", "backslashreplace"))
        return digest.hexdigest()[:16]
