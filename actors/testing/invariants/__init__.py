"""Invariants."""

from collections.abc import Callable, Iterable

from understudy.actors.testing.trace import Trace

Oracle = Callable[[Trace], Iterable[str]]


def default() -> tuple[Oracle, ...]:
    """All that hold of every run."""
    return ()
