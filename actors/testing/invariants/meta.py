"""Invariants 43 and 44, of the simulation itself: they compare two runs."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.actors.testing.invariants.base import Invariant
from understudy.actors.testing.trace import Trace


def determinism(reference: Trace) -> Invariant:
    """Invariant 43: a trace is event for event that of another run of the same world."""

    def check(trace: Trace) -> Iterator[str]:
        if trace.fingerprint() == reference.fingerprint():
            return
        for index, (one, other) in enumerate(zip(reference.events, trace.events, strict=False)):
            if one != other:
                yield f"event {index} was {one}, and is {other}"
                return
        yield f"there were {len(reference):,} events, and are {len(trace):,}"

    return Invariant(43, check)


def parity(result: object) -> Invariant:
    """Invariant 44: main returned what it returns on the stock loop."""

    def check(trace: Trace) -> Iterator[str]:
        if trace.result != result:
            yield f"main returned {trace.result!r} here, and {result!r} on the stock loop"

    return Invariant(44, check)
