"""What is to be supervised, as data: child specs, routes, and the supervisor's own policy.

Inert: nothing starts here. `tree.plan` checks a whole tree, `supervisor.SupervisorActor` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Generic, Literal, TypeVar, get_args

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.guards import ApprovalRule, BudgetRule, LoopGuard
from understudy.actors.errors import SpecError
from understudy.actors.messages import Message
from understudy.actors.refs import Key
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.checks import check_number
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import RestartType, Strategy, check_restart, check_strategy

M = TypeVar("M")
X = TypeVar("X")

Spread = Literal["round_robin", "least_busy", "random", "consistent_hash", "broadcast"]
By = str | Callable[[Any], object] | None
"""What of a message says whom it belongs to: a field's name, or a function of the message."""

Child = Agent[Any, M] | Callable[[], Actor[M]]


class ChildSpec(Generic[M]):
    """How one child is kept.

    `child`: an agent, or a factory of actors. `name`: default an agent's own, else the factory's in lower case.
    `restart`: `permanent` (default: always), `transient` (after a failure only), `temporary` (never). `count` > 1
    makes a pool of members `name/1` … behind one address. `shutdown`: seconds a stopping child has to finish its
    message, default 5. Raises `SpecError`.
    """

    def __init__(
        self,
        child: Child[M],
        *,
        name: str = "",
        restart: RestartType = "permanent",
        count: int = 1,
        shutdown: float = 5.0,
    ) -> None:
        self.child = child
        self.name = name or _name_of(child)
        where = f"child {self.name!r}"
        if "/" in self.name or self.name.startswith(("@", "$")) or not self.name:
            raise SpecError(f"{where}: a name is not empty, has no '/' and begins with neither '@' nor '$'")
        if isinstance(child, Agent) and self.name != child.name:
            raise SpecError(f"{where}: an agent goes by its own name, {child.name!r}")
        if count < 1:
            raise SpecError(f"{where}: count {count!r}; at least 1")
        check_restart(restart)
        check_number(f"{where}: shutdown", shutdown, unit="seconds")
        self.restart: RestartType = restart
        self.shutdown = shutdown
        self.count = count

    def __repr__(self) -> str:
        return f"<child {self.name}{f' ×{self.count}' if self.count > 1 else ''} {self.restart}>"


def _name_of(child: object) -> str:
    if isinstance(child, Agent):
        return str(child.name)
    name = getattr(child, "__name__", "")
    return "" if name == "<lambda>" else str(name).lower()


class Route(Generic[X]):
    """Messages of type `message` sent to the supervisor, and outputs of that type of its agents, go to `to`.

    `spread` says which member of a pool is next: `round_robin` (default), `least_busy`, `random`, `consistent_hash`
    (messages with equal `by` go to one member, and few move when members come and go) or `broadcast` (to every member;
    cannot be asked). `by`: the name of a field, or a function of the message; for `consistent_hash` only, which needs
    it. Agents take the first three. Raises `SpecError`.
    """

    def __init__(
        self,
        message: type[X],
        *,
        to: str | Key[X] | Agent[Any, X] | ChildSpec[X],
        spread: Spread = "round_robin",
        by: str | Callable[[X], object] | None = None,
    ) -> None:
        if not issubclass(message, Message):
            raise SpecError(f"route of {message!r}: not a message class")
        if spread not in get_args(Spread):
            raise SpecError(f"route of {message.__name__}: spread {spread!r}; one of {', '.join(get_args(Spread))}")
        self.message: type[Message[Any]] = message
        self.to = to if isinstance(to, str) else to.name
        _check_by(self.message, spread, by)
        self.spread: Spread = spread
        self.by: By = by

    def __repr__(self) -> str:
        return f"<route {self.message.__name__} to {self.to}>"


def _check_by(message: type[Message[Any]], spread: Spread, by: By) -> None:
    where = f"route of {message.__name__}"
    if (by is not None) != (spread == "consistent_hash"):
        raise SpecError(f"{where}: spread {spread!r} {'takes no' if by is not None else 'needs'} `by`")
    if isinstance(by, str) and by not in message.__struct_fields__:
        fields = ", ".join(message.__struct_fields__) or "none"
        raise SpecError(f"{where}: by {by!r} is not a field of it; fields: {fields}")
    if by is not None and not isinstance(by, str) and not callable(by):
        raise SpecError(f"{where}: by {by!r}; the name of a field, or a function")


class Supervisor:
    """A supervisor and its children, in start order.

    `strategy`: `one_for_one` (default); the other two are refused at start for now. `intensity`: default 3 restarts
    in 5 s, then it gives up. `backoff`: delays between restarts. `budget`, `loops`, `approvals`: guards of every agent
    below, beside their own. Left out, `loops` is the nearest supervisor's above, at the root the default `Loops()`;
    `budget` is none of its own, at the root a default; `None` takes none. `routes`: see `Route`. Raises `SpecError`.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[Supervisor | ChildSpec[Any] | Agent[Any, Any] | Callable[[], Actor[Any]]],
        *,
        strategy: Strategy = "one_for_one",
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        budget: BudgetRule | EllipsisType | None = ...,
        loops: LoopGuard | EllipsisType | None = ...,
        approvals: ApprovalRule | None = None,
        routes: Sequence[Route[Any]] = (),
    ) -> None:
        where = f"supervisor {name!r}"
        if "/" in name or not name or name.startswith(("@", "$")):
            raise SpecError(f"{where}: a name is not empty, has no '/' and begins with neither '@' nor '$'")
        self.name = name
        self.children: tuple[Supervisor | ChildSpec[Any], ...] = tuple(
            child if isinstance(child, Supervisor | ChildSpec) else ChildSpec(child) for child in children
        )
        check_strategy(strategy)
        self.strategy: Strategy = strategy
        self.intensity = intensity if intensity is not None else Intensity()
        self.backoff = backoff if backoff is not None else Backoff()
        self.budget = budget
        self.loops = loops
        self.approvals = approvals
        self.routes = tuple(routes)
        _check_unique(where, [child.name for child in self.children])

    def __repr__(self) -> str:
        return f"<supervisor {self.name}: {', '.join(child.name for child in self.children)}>"

    def route_table(self) -> Mapping[type, Route[Any]]:
        """Routes by message class."""
        return {route.message: route for route in self.routes}


def _check_unique(where: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SpecError(f"{where}: two children are named {name!r}")
