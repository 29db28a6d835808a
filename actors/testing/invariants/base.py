"""What an invariant is: a number, a name, a sentence, and a function that reads a trace and says where it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from understudy.actors.testing.trace import Event, Trace

Oracle = Callable[[Trace], Iterable[str]]
"""Reads a trace; each sentence that it yields is one violation."""
Check = Callable[[Trace], Iterator[str]]

SENTENCES: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "first in, first out: an incarnation begins the messages of one sender in the order they were sent",
        2: "one at a time: an address runs no more handlers at once than it is declared to",
        3: "one live incarnation: a message begins only in the incarnation that is live, and that is one at most",
        4: "conservation: what was sent is begun, dead-lettered, still queued, or taken by a planned fault",
        5: "at most once: a message begins once, and once more for each redelivery or stash",
        6: "liveness: no message waits at an actor that is up and has nothing to do",
        7: "idempotency: an effect with a key takes hold once, whatever is delivered twice",
        8: "bounded mailbox: it holds no more than its limit, and what comes then meets the declared policy",
        9: "every ask ends: it is answered once, by its deadline; a later reply is a dead letter",
        10: "a stopped address stays stopped: what is sent to it is a dead letter, and raises nothing",
        11: "intensity: no more restarts within the window than allowed, and no fewer",
        12: "escalation: the end of a child is told to its parent, and once",
        13: "strategy: a restart touches those its strategy names, and no others",
        14: "order: children start in the declared order and stop in reverse; none outlives its parent",
        15: "back-off: the delay is min(cap, first * factor^n) times the jitter",
        16: "reset: failures are forgiven after a healthy period, and only then",
        17: "restart type: permanent always, transient after a failure, temporary never",
        18: "stop wins: nothing starts, and no message begins, once a stop has begun",
        19: "what is a crash: a cancellation is none, and one in a cleanup changes no exit",
        20: "one notice: a watcher is told once of the end it watched, and after the last effect",
        21: "nothing is left: no task, timer or unretrieved exception after the close",
        22: "deadlines of a stop: it takes no longer than the patience along the deepest path",
        23: "shutdown is final: each address is released once, and nothing happens after the close",
        24: "quiescence: left alone, the tree comes to rest",
        43: "determinism: the same world has the same trace",
        44: "parity: the empty world gives what the stock loop gives",
    }
)
"""The sentence of every invariant, by number; what stands before the colon is its name."""


class Invariant:
    """An oracle with its number. Called with a trace it yields sentences that begin with number and name."""

    __slots__ = ("_check", "number")

    def __init__(self, number: int, check: Check) -> None:
        self.number = number
        self._check = check

    def __call__(self, trace: Trace) -> Iterator[str]:
        """The violations in a trace."""
        for sentence in self._check(trace):
            yield f"invariant #{self.number} {self.name!r}: {sentence}"

    def __repr__(self) -> str:
        return f"<invariant #{self.number} {self.name}>"

    @property
    def name(self) -> str:
        """A few words."""
        return SENTENCES[self.number].partition(":")[0]

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return SENTENCES[self.number]


def invariant(number: int) -> Callable[[Check], Invariant]:
    """Make an oracle of a function."""

    def make(check: Check) -> Invariant:
        return Invariant(number, check)

    return make


def when(event: Event) -> str:
    """The time of an event, for a sentence."""
    return f"at {event.at / 1e9:g} s"


def who(event: Event) -> str:
    """The incarnation an event is about."""
    return f"{event.path} #{event.number}"


def touched(trace: Trace) -> set[int]:
    """Messages that a planned fault delayed, doubled, lost or refused."""
    return {event.message for event in trace.events if event.kind == "fault" and event.message}


CONTROL: Final = "control"
"""The detail of the begin of what the runtime itself sent."""
