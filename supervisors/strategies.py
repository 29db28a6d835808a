"""What a supervisor does when a child ends: OTP's rules as tables, for every strategy and restart type.

    restart type   expected end (normal, shutdown)   any other end
    permanent      restart                           restart
    transient      keep                              restart
    temporary      forget                            forget

`keep` leaves the spec in place without a running child, `forget` removes the spec. "Any other end" is `error`,
`loop`, `start`, `killed` and `gone`: a verdict of a guard is a failure like a crash.

Nothing here acts: the functions take values and return plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, get_args

from msgspec import Struct

from understudy.actors.errors import SpecError, UsageError
from understudy.actors.lifecycle import Exit

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
RestartType = Literal["permanent", "transient", "temporary"]
ExitDecision = Literal["restart", "keep", "forget"]

STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
RESTART_TYPES: Final[tuple[RestartType, ...]] = get_args(RestartType)

SUPPORTED: Final[frozenset[Strategy]] = frozenset({"one_for_one"})
"""The strategies a supervisor can run today; the tables below know them all."""

EXPECTED_END: Final[Mapping[RestartType, ExitDecision]] = MappingProxyType(
    {"permanent": "restart", "transient": "keep", "temporary": "forget"}
)
FAILED_END: Final[Mapping[RestartType, ExitDecision]] = MappingProxyType(
    {"permanent": "restart", "transient": "restart", "temporary": "forget"}
)


class GroupPlan(Struct, frozen=True):
    """Whom one failure concerns. Every stop comes before every start; the failed child is already down.

    `stop` lists running children in the order to stop them (reverse start order), `start` those to start
    afterwards, in start order. A temporary sibling in `stop` is forgotten by the caller, not started again.
    """

    stop: tuple[str, ...]
    start: tuple[str, ...]


def decide_exit(restart: RestartType, exit: Exit) -> ExitDecision:
    """What to do about a child that ended on its own. Raises `SpecError` for an unknown restart type."""
    check_restart(restart)
    return (EXPECTED_END if exit.expected else FAILED_END)[restart]


def affected(strategy: Strategy, order: Sequence[str], failed: str) -> GroupPlan:
    """Whom the restart of `failed` concerns. `order` is the start order of all children.

    Raises `SpecError` for an unknown strategy and `UsageError` when `failed` is not in `order`.
    """
    check_strategy(strategy)
    if failed not in order:
        raise UsageError(f"{failed!r} is no child here; children: {', '.join(order) or 'none'}")
    if strategy == "one_for_one":
        return GroupPlan(stop=(), start=(failed,))
    group = tuple(order) if strategy == "one_for_all" else tuple(order[order.index(failed) :])
    return GroupPlan(stop=tuple(name for name in reversed(group) if name != failed), start=group)


def check_strategy(strategy: object) -> None:
    """Raise `SpecError` unless `strategy` is one of the three names."""
    if strategy not in STRATEGIES:
        raise SpecError(f"strategy {strategy!r} is unknown; allowed: {', '.join(STRATEGIES)}")


def check_supported(strategy: object) -> None:
    """Raise `SpecError` unless a supervisor can run `strategy` today. Called at start."""
    check_strategy(strategy)
    if strategy not in SUPPORTED:
        raise SpecError(f"strategy {strategy!r} is not supported yet; allowed: {', '.join(sorted(SUPPORTED))}")


def check_restart(restart: object) -> None:
    """Raise `SpecError` unless `restart` is one of the three restart types."""
    if restart not in RESTART_TYPES:
        raise SpecError(f"restart {restart!r} is unknown; allowed: {', '.join(RESTART_TYPES)}")
