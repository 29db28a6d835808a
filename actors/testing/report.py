"""A failure as a page that can be read: what was broken, the world, and a timeline with one column for each actor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from understudy.actors.testing.trace import Event, Trace

if TYPE_CHECKING:
    from understudy.actors.testing.world import World

SHOWN: Final = 24
"""Events that a timeline shows, the last ones."""
COLUMNS: Final = 6
"""Actors that a timeline shows, those with the last events."""

last: tuple[World, Trace] | None = None
"""The last world that was run, and its trace, for the pytest plugin."""


class Falsified(AssertionError):
    """An invariant does not hold in a world. `violations` are sentences, each with the invariant's number."""

    def __init__(self, page: str, violations: tuple[str, ...]) -> None:
        super().__init__(page)
        self.violations = violations


def verify(world: World, trace: Trace, check: Iterable[Callable[[Trace], Iterable[str]]]) -> None:
    """Raise `Falsified` if an oracle finds something."""
    found = tuple(sentence for oracle in check for sentence in oracle(trace))
    if found:
        raise Falsified(page(world, trace, found), found)


def page(world: World, trace: Trace, violations: Iterable[str] = ()) -> str:
    """The failure page."""
    lines = [f"Falsified {each}" for each in violations]
    lines.append(f"  at t={trace.seconds:g} s, trace {trace.fingerprint()}, {len(trace):,} events")
    lines.append(f"  world: {world!r}")
    lines.append("  timeline:")
    lines += [f"    {line}" for line in timeline(trace)]
    lines.append(f"  pin it:   @example({world!r})")
    lines.append(f"  replay:   pytest --sim-replay={world.token}")
    return "\n".join(lines)


def timeline(trace: Trace, shown: int = SHOWN) -> list[str]:
    """The last events, one row each, one column for each actor."""
    events = trace.events[-shown:]
    return [str(event) for event in events]


def _unused(event: Event) -> None:
    """Kept for the columns."""
