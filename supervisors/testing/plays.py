"""The invariants of plays, 25 to 37: those that are held by default, and those that cost more."""

from __future__ import annotations

from typing import Final

from understudy.actors.errors import UsageError
from understudy.actors.testing.play_invariants import (
    PlayInvariant,
    every_cut,
    every_live_state,
    live_state,
    numbers,
    one_cut,
    prefix,
    tail,
    write_ahead,
)
from understudy.supervisors.testing.gating import gated, registry, silence_is_no_yes
from understudy.supervisors.testing.looping import loops_meet_their_rung
from understudy.supervisors.testing.spending import all_or_none, no_refunds, within_limits

_DEFAULT: Final = (
    within_limits,
    no_refunds,
    all_or_none,
    loops_meet_their_rung,
    gated,
    silence_is_no_yes,
    registry,
    prefix,
    write_ahead,
    live_state,
    one_cut,
    numbers,
    tail,
)
_BY_NUMBER: Final = {each.number: each for each in _DEFAULT}


def default() -> tuple[PlayInvariant, ...]:
    """All that `play` holds every world against, in the order of their numbers."""
    return _DEFAULT


def thorough() -> tuple[PlayInvariant, ...]:
    """The same with 34 at every commit and 35 at every event: a few times slower."""
    return tuple({live_state: every_live_state, one_cut: every_cut}.get(each, each) for each in _DEFAULT)


def number(n: int) -> PlayInvariant:
    """The invariant with this number. Raises `UsageError` for a number without one."""
    try:
        return _BY_NUMBER[n]
    except KeyError:
        raise UsageError(f"invariant {n} of plays: there are {', '.join(map(str, _BY_NUMBER))}") from None
