"""Budgets: what a run or an actor may spend, as people write it.

A `Budget` is data; `pool` makes of it the limits of one owner in one scope, which `accounts` keeps. Amounts are whole
numbers; `usd` counts micro-dollars. Nothing here waits or reads a clock: `seconds` is handed on for the driver, who
makes a deadline of it, and so are `depth` and `fan_out`, which it holds against the tree of delegations.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Final, Literal, get_args

from msgspec import Struct

from understudy.actors.agents.guards import TOOL, Pool, Unit
from understudy.actors.errors import SpecError
from understudy.supervisors.checks import check_count, check_kind, check_number

UNITS: Final[tuple[Unit, ...]] = get_args(Unit)
MICRO: Final = 1_000_000
"""Micro-dollars in a dollar."""
WARN: Final = 0.8
"""Share of a limit at which an agent is told what is left."""
_COUNTS: Final = tuple(unit for unit in UNITS if unit != "usd")


class Window(Struct, frozen=True):
    """A budget per any `seconds` seconds: what was spent counts for so long, and up to a sixtieth longer.

    A call that does not fit is refused, as in any budget; with `wait=True` it waits until enough was spent long enough
    ago, within the time that its run may be alive. Raises `SpecError`.
    """

    seconds: float
    wait: bool = False

    def __post_init__(self) -> None:
        check_number("Window.seconds", self.seconds, above=True, unit="seconds")
        check_kind("Window.wait", self.wait, bool, "True or False")


class Budget(Struct, frozen=True, kw_only=True, dict=True):
    """The most that may be spent; None (the default of each) is unlimited, 0 is nothing at all.

    Counts: `steps`, `model_calls`, `tool_calls`, `tools` (calls by the name of a tool or delegate, as `{"pay": 1}`),
    `tokens` (input plus output), `input_tokens`, `output_tokens`. `usd` is dollars. `seconds` limits the time a run is
    alive (waiting for a person does not count), and is for `per="run"` only.

    Delegation: `depth` limits how deep it is nested (0 is none; counted from the first (sub-)run that the budget is
    for), `fan_out` how many times one (sub-)run delegates. Beyond, the one delegation is refused, the agent is told,
    and goes on; every other limit ends the (sub-)run.

    `per="run"` (default) counts each request from outside on its own, `"life"` everything since the owner was first
    started, `Window(seconds)` what was spent in the last so many seconds.

    `warn` (default 0.8): the share of a limit at which an agent is told what is left, once for each limit; None for
    never. `last_answer` (default None: no such step): tokens, input plus output, that each (sub-)run sets aside, so
    that at the limit it can make one more call of the model, without tools, and end as `partial`. At least 64, and less
    than the limit in tokens; at the limit in seconds there is none.

    Raises `SpecError`, naming option and value.
    """

    steps: int | None = None
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    tools: Mapping[str, int] = {}
    input_tokens: int | None = None
    output_tokens: int | None = None
    depth: int | None = None
    fan_out: int | None = None
    per: Literal["run", "life"] | Window = "run"
    warn: float | None = WARN
    last_answer: int | None = None

    def __post_init__(self) -> None:
        for option in (*_COUNTS, "depth", "fan_out"):
            if (count := getattr(self, option)) is not None:
                check_count(f"Budget.{option}", count)
        check_kind("Budget.tools", self.tools, Mapping, "limits by the name of a tool")
        for name, count in self.tools.items():
            check_count(f"Budget.tools[{name!r}]", count)
        if self.usd is not None:
            check_number("Budget.usd", self.usd, unit="dollars")
        if self.per not in ("run", "life"):
            check_kind("Budget.per", self.per, Window, "'run', 'life' or Window(seconds)")
        if self.seconds is not None:
            check_number("Budget.seconds", self.seconds, unit="seconds")
            if self.per != "run":
                raise SpecError(
                    f"Budget.seconds {self.seconds!r} limits each run: it does not go with per={self.per!r}"
                )
        if self.warn is not None:
            check_number("Budget.warn", self.warn, above=True, unit="a limit")
            if self.warn > 1:
                raise SpecError(f"Budget.warn must be a share of a limit, at most 1, got {self.warn!r}")
        self._check_last_answer()

    def _check_last_answer(self) -> None:
        if self.last_answer is None:
            return
        check_count("Budget.last_answer", self.last_answer, least=64)
        if self.tokens is not None and self.last_answer >= self.tokens:
            raise SpecError(f"Budget.last_answer {self.last_answer} leaves nothing of {self.tokens} tokens")
        for option in ("steps", "model_calls"):
            if getattr(self, option) in (0, 1):
                raise SpecError(f"Budget.last_answer takes one of the {option}, and there is {getattr(self, option)}")

    @cached_property
    def _limits(self) -> dict[str, int]:
        limits: dict[str, int] = {}
        for unit in _COUNTS:
            if (count := getattr(self, unit)) is not None:
                limits[unit] = count
        if self.usd is not None:
            # Through the shortest decimal: 0.57 * 1e6 is 569999.9999999999 as a float.
            limits["usd"] = int(Decimal(repr(self.usd)) * MICRO)
        limits.update({TOOL + name: count for name, count in self.tools.items()})
        return limits

    def limits(self) -> dict[str, int]:
        """The limits by unit; unlimited units are missing. `usd` in micro-dollars, rounded down."""
        return dict(self._limits)

    def pool(self, owner: str, run: str) -> Pool:
        """The pool of `owner`: `"owner@run"`, or `"owner"` when it counts per life or window."""
        window = self.per if isinstance(self.per, Window) else None
        return Pool(
            key=f"{owner}@{run}" if self.per == "run" else owner,
            owner=owner,
            limits=self._limits,
            seconds=self.seconds,
            depth=self.depth,
            fan_out=self.fan_out,
            window=window.seconds if window is not None else None,
            waits=window is not None and window.wait,
            warn=self.warn,
            last_answer=self.last_answer,
        )


def within(spent: Mapping[str, int], budget: Budget) -> bool:
    """Whether `spent` (by unit, `usd` in micro-dollars) is no more than `budget` allows. Looks at no seconds."""
    return all(spent.get(unit, 0) <= limit for unit, limit in budget.limits().items())
