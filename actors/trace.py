"""W3C trace context: which trace a run belongs to, and the span of each of its events. Pure.

A run takes the `traceparent` of who asks for it, or makes a trace of its own; that is journalled once, with
`RunStarted`. Everything else follows from it: the span id of an event is a digest of trace, stream and number, so it
costs nothing until somebody wants it, and is the same whenever and wherever it is asked for. By the recommendation
(W3C Trace Context, level 2): lower-case hexadecimal, no zero ids, version `ff` is invalid, of a higher version the part
that we know is read; an invalid header starts a new trace and is no error. `tracestate` is not kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

from msgspec import Struct

NOBODY: Final = "0" * 16
"""The parent of a run that nobody with a trace has asked for."""
FLAGS: Final = 0x03
"""Sampled and random: the flags that are passed on; others are not known, and are sent as zero."""
SAMPLED: Final = "01"

_HEADER: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)


class Trace(Struct, frozen=True, gc=False):
    """The trace of a run: its id, the span of who asked for it ("" for none), and flags as two hexadecimal digits."""

    id: str
    parent: str = ""
    flags: str = SAMPLED

    def span(self, run: str, seq: int) -> str:
        """The span id of one event of a run's stream: 16 hexadecimal digits, never all zero."""
        span = hashlib.blake2b(f"{self.id}:{run}:{seq}".encode(), digest_size=8).hexdigest()
        return span if span != NOBODY else "0" * 15 + "1"

    def header(self, run: str, seq: int) -> str:
        """The `traceparent` for whatever is called because of this event."""
        return f"00-{self.id}-{self.span(run, seq)}-{self.flags}"

    def kept(self) -> str:
        """What is journalled: a `traceparent`, with zeros for a parent that there is not."""
        return f"00-{self.id}-{self.parent or NOBODY}-{self.flags}"


def parsed(header: str) -> Trace | None:
    """The trace that a `traceparent` names; None for an invalid one."""
    found = _HEADER.fullmatch(header.strip(" \t"))
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace == "0" * 32 or parent == NOBODY:
        return None
    return Trace(trace, parent, f"{int(flags, 16) & FLAGS:02x}")


def joined(header: str, own: Callable[[], str]) -> str:
    """What is journalled of a run's trace: that of a valid header, else one with the id that `own` makes, if any."""
    trace = parsed(header) if header else None
    if trace is None and (made := own()):
        trace = Trace(made)
    return trace.kept() if trace is not None else ""


def trace_of(run: str, kept: str) -> Trace:
    """The trace of a run from what was journalled; of a run from before there was one, made from its id."""
    if not kept:
        return Trace(hashlib.blake2b(f"understudy:{run}".encode(), digest_size=16).hexdigest())
    parent = kept[36:52]
    return Trace(kept[3:35], "" if parent == NOBODY else parent, kept[53:55])
