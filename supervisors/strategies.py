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

from understudy.actors.errors import SpecError, UsageError
from understudy.actors.lifecycle import Exit

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
RestartType = Literal["permanent", "transient", "temporary"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
ExitDecision = Literal["restart", "keep", "forget"]

STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
RESTART_TYPES: Final[tuple[RestartType, ...]] = get_args(RestartType)
AUTO_SHUTDOWNS: Final[tuple[AutoShutdown, ...]] = get_args(AutoShutdown)

EXPECTED_END: Final[Mapping[RestartType, ExitDecision]] = MappingProxyType(
    {"permanent": "restart", "transient": "keep", "temporary": "forget"}
)
FAILED_END: Final[Mapping[RestartType, ExitDecision]] = MappingProxyType(
    {"permanent": "restart", "transient": "restart", "temporary": "forget"}
)


def decide_exit(restart: RestartType, exit: Exit) -> ExitDecision:
    """What to do about a child that ended on its own. Raises `SpecError` for an unknown restart type."""
    check_restart(restart)
    return (EXPECTED_END if exit.expected else FAILED_END)[restart]


def affected(strategy: Strategy, order: Sequence[str], failed: str) -> tuple[str, ...]:
    """Whom the restart of `failed` concerns, in start order. `order` is that of all children.

    Raises `SpecError` for an unknown strategy and `UsageError` when `failed` is not in `order`.
    """
    check_strategy(strategy)
    if failed not in order:
        raise UsageError(f"{failed!r} is no child here; children: {', '.join(order) or 'none'}")
    if strategy == "one_for_one":
        return (failed,)
    return tuple(order) if strategy == "one_for_all" else tuple(order[order.index(failed) :])


def shuts_down(mode: AutoShutdown, others: int) -> bool:
    """Whether a supervisor ends because a significant child ended for good; `others` significant ones still live.

    One that waits to be restarted still lives. OTP 24's rule (EEP 56).
    """
    return mode == "any_significant" or (mode == "all_significant" and others == 0)


def check_strategy(strategy: object) -> None:
    """Raise `SpecError` unless `strategy` is one of the three names."""
    if strategy not in STRATEGIES:
        raise SpecError(f"strategy {strategy!r} is unknown; allowed: {', '.join(STRATEGIES)}")


def check_restart(restart: object) -> None:
    """Raise `SpecError` unless `restart` is one of the three restart types."""
    if restart not in RESTART_TYPES:
        raise SpecError(f"restart {restart!r} is unknown; allowed: {', '.join(RESTART_TYPES)}")


def check_auto_shutdown(mode: object) -> None:
    """Raise `SpecError` unless `mode` is one of the three names."""
    if mode not in AUTO_SHUTDOWNS:
        raise SpecError(f"auto_shutdown {mode!r} is unknown; allowed: {', '.join(AUTO_SHUTDOWNS)}")


def check_significant(where: str, restart: RestartType, mode: AutoShutdown) -> None:
    """Raise `SpecError` where a significant child makes no sense: kept permanent, or nobody looks at it."""
    if restart == "permanent":
        raise SpecError(f"{where}: a permanent child cannot be significant: it never ends for good")
    if mode == "never":
        raise SpecError(f"{where}: significant, but its supervisor's auto_shutdown is 'never'")
