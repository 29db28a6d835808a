"""What the actors of supervisors are made from and what they say of themselves: plans, notices, and child infos.

A plan is a spec whose names, paths and factories are settled; `tree` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, Literal

from msgspec import Struct

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.clock import Dice
from understudy.actors.journal.events import AnyEvent
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.history import Past
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import AutoShutdown, RestartType, Strategy

Observer = Callable[[Cell, Callable[[], AnyEvent], bool], None]
"""Told of every supervision event: the child it is about, and what makes the event, for whoever wants it.

The last is True for what an operator must see.
"""

START_SECONDS: Final = 30.0
"""Seconds a child has to start, unless its spec says otherwise."""
UNLIMITED: Final = inf
"""The start of a supervisor as a child: each of its own children has a limit."""


@dataclass(frozen=True, slots=True)
class ChildPlan:
    """How to start one child and keep it.

    `name` below the supervisor, `factory`, `restart` type; `shutdown` and `start_within` in seconds; `concurrency`
    messages at once; `intensity`: a window of its own beside the supervisor's (None: only that one); `significant`
    for the supervisor's `auto_shutdown`.
    """

    name: str
    factory: Callable[[], Actor[Any]]
    restart: RestartType = "permanent"
    shutdown: float = 5.0
    concurrency: int = 1
    start_within: float = START_SECONDS
    intensity: Intensity | None = None
    significant: bool = False


def _from_zero(path: str) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class SupervisorPlan:
    """Everything a supervisor's actor needs.

    `observe` is told of what happens; None when nobody listens, and then no event is made. `numbers` gives the
    incarnation that a path continues from, after a former process; `past` is what its supervisor remembered there.
    """

    children: Sequence[ChildPlan]
    intensity: Intensity
    backoff: Backoff
    dice: Dice
    observe: Observer | None = None
    strategy: Strategy = "one_for_one"
    auto_shutdown: AutoShutdown = "never"
    numbers: Callable[[str], int] = field(default=_from_zero)
    past: Past = field(default_factory=Past)


ChildState = Literal["starting", "running", "suspended", "restarting", "stopping", "stopped"]


class ChildInfo(Struct, frozen=True):
    """One child as its supervisor sees it.

    `restarting`: it ended and its supervisor will start it again (back-off, or a group restart). `stopped`: the spec
    is kept without an actor. `incarnation` counts from 1; of a stopped child it is the last one.
    """

    name: str
    path: str
    state: ChildState
    restart: RestartType
    incarnation: int
    significant: bool = False


def state_of(cell: Cell | None) -> ChildState:
    """The state of a child by its cell; None when it has none."""
    if cell is None or cell.state == "stopped":
        return "stopped"
    if cell.state == "failed":
        return "restarting"
    return "starting" if cell.state == "new" else cell.state


# -- what a supervisor is told ---------------------------------------------------------------------------------


class ChildDown(Message[None]):
    """An incarnation of a child ended, or its address is gone."""

    cell: Cell
    number: int
    exit: Exit


class ChildUp(Message[None]):
    """A child that a group restart waits for has started, or has not."""

    cell: Cell
    number: int


class StartAgain(Message[None]):
    """The back-off of a child is over. `number` is the incarnation that ended."""

    cell: Cell
    number: int


class GroupAgain(Message[None]):
    """A group restart goes on. `turn` says which one: it may have been replaced meanwhile."""

    turn: int


class SweepStarts(Message[None]):
    """Somebody's time to start is up."""
