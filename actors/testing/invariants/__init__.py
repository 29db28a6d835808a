"""Numbered invariants of actor trees, as oracles over a trace.

    world.run(main)                                            # holds `default()`
    world.run(main, check=(*default(), *supervision(tree)))    # and 11 to 17 of a declared tree

An oracle takes a trace and yields a sentence for each violation. `number(3)` is one of them by its number, `SENTENCES`
says what each means. `effects`, `determinism` and `parity` compare two runs, `quiescence` takes a bound; 11 to 17 need
the declared tree (`understudy.supervisors.testing`).
"""

from __future__ import annotations

from typing import Final

from understudy.actors.errors import UsageError
from understudy.actors.testing.invariants.base import SENTENCES as SENTENCES
from understudy.actors.testing.invariants.base import Invariant, Oracle
from understudy.actors.testing.invariants.delivery import (
    at_most_once,
    conservation,
    effects,
    fifo,
    idempotency,
    liveness,
    one_at_a_time,
    one_live_incarnation,
    stopped_stays_stopped,
)
from understudy.actors.testing.invariants.lives import (
    no_child_outlives_its_parent,
    one_notice,
    stop_wins,
    what_is_a_crash,
)
from understudy.actors.testing.invariants.mailboxes import bounded_mailbox, every_ask_ends
from understudy.actors.testing.invariants.meta import determinism, parity
from understudy.actors.testing.invariants.shutdown import (
    at_rest,
    deadlines_of_a_stop,
    nothing_is_left,
    quiescence,
    shutdown_is_final,
)

__all__ = [
    "Invariant",
    "Oracle",
    "at_most_once",
    "at_rest",
    "bounded_mailbox",
    "conservation",
    "deadlines_of_a_stop",
    "default",
    "determinism",
    "effects",
    "every_ask_ends",
    "fifo",
    "idempotency",
    "liveness",
    "no_child_outlives_its_parent",
    "nothing_is_left",
    "number",
    "one_at_a_time",
    "one_live_incarnation",
    "one_notice",
    "parity",
    "quiescence",
    "shutdown_is_final",
    "stop_wins",
    "stopped_stays_stopped",
    "what_is_a_crash",
]

_DEFAULT: Final = (
    fifo,
    one_at_a_time,
    one_live_incarnation,
    conservation,
    at_most_once,
    liveness,
    idempotency,
    bounded_mailbox,
    every_ask_ends,
    stopped_stays_stopped,
    no_child_outlives_its_parent,
    stop_wins,
    what_is_a_crash,
    one_notice,
    nothing_is_left,
    deadlines_of_a_stop,
    shutdown_is_final,
    at_rest,
)
_BY_NUMBER: Final = {each.number: each for each in _DEFAULT}


def default() -> tuple[Invariant, ...]:
    """All that hold of every run, in the order of their numbers."""
    return _DEFAULT


def number(n: int) -> Invariant:
    """The invariant with this number.

    Raises `UsageError` for a number without one, and for those that need more than a trace, naming what makes them.
    """
    found = _BY_NUMBER.get(n)
    if found is not None:
        return found
    if n not in SENTENCES:
        raise UsageError(f"invariant {n}: there are {', '.join(str(each) for each in sorted(SENTENCES))}")
    maker = {43: "determinism(trace)", 44: "parity(result)"}.get(n, "understudy.supervisors.testing.supervision(tree)")
    raise UsageError(f"invariant {n} needs more than a trace: {maker}")
