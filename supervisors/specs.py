"""What is to be supervised, as data: child specs, routes, and the supervisor's own policy.

Inert: nothing starts here. `tree.plan` checks a whole tree; `supervisor` and `dynamic` run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any, Generic, Literal, TypeVar, get_args

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.guards import ApprovalRule, BudgetRule, LoopGuard
from understudy.actors.agents.recall import Memory, check_memory
from understudy.actors.errors import SpecError
from understudy.actors.messages import Message
from understudy.actors.refs import Key
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.checks import check_count, check_kind, check_number
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import START_SECONDS, ChildPlan
from understudy.supervisors.strategies import (
    AutoShutdown,
    RestartType,
    Strategy,
    check_auto_shutdown,
    check_restart,
    check_significant,
    check_strategy,
)

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
    message, default 5. `start_within`: seconds its `on_start` has, default 30; later is a failed start. `intensity`:
    restarts allowed to this child (each member of a pool) alone, beside the supervisor's own; past it the child
    stays stopped and the others go on; default None, only the supervisor's counts. `significant`: its end for good
    is looked at by the supervisor's `auto_shutdown`. `memory`, of an agent: what a run keeps of itself when the agent
    crashed on it: `last_step` (default: everything), `note`, `checkpoint` or `fresh`; see `agents.recall`. Raises
    `SpecError`.
    """

    __slots__ = ("child", "count", "intensity", "memory", "name", "restart", "shutdown", "significant", "start_within")

    def __init__(
        self,
        child: Child[M],
        *,
        name: str = "",
        restart: RestartType = "permanent",
        count: int = 1,
        shutdown: float = 5.0,
        start_within: float = START_SECONDS,
        intensity: Intensity | None = None,
        significant: bool = False,
        memory: Memory = "last_step",
    ) -> None:
        self.child = child
        self.name = name or _name_of(child)
        where = f"child {self.name!r}"
        check_name(where, self.name)
        if isinstance(child, Agent) and self.name != child.name:
            raise SpecError(f"{where}: an agent goes by its own name, {child.name!r}")
        if count < 1:
            raise SpecError(f"{where}: count {count!r}; at least 1")
        check_restart(restart)
        check_number(f"{where}: shutdown", shutdown, unit="seconds")
        check_number(f"{where}: start_within", start_within, above=True, unit="seconds")
        if intensity is not None:
            check_kind(f"{where}: intensity", intensity, Intensity, "an Intensity")
        if significant and restart == "permanent":
            check_significant(where, restart, "any_significant")
        check_memory(where, memory)
        if memory != "last_step" and not isinstance(child, Agent):
            raise SpecError(f"{where}: memory {memory!r} is for agents; a plain actor begins anew")
        if memory == "checkpoint" and isinstance(child, Agent) and child.checkpoint is None:
            raise SpecError(f"{where}: memory 'checkpoint' needs an agent with checkpoint=")
        self.memory: Memory = memory
        self.restart: RestartType = restart
        self.shutdown = shutdown
        self.count = count
        self.start_within = start_within
        self.intensity = intensity
        self.significant = significant

    def plan(self, name: str, factory: Callable[[], Actor[Any]], concurrency: int = 1) -> ChildPlan:
        """What a supervisor's actor needs to start one child (member) called `name` by `factory`, and to keep it."""
        return ChildPlan(
            name,
            factory,
            self.restart,
            self.shutdown,
            concurrency,
            self.start_within,
            self.intensity,
            self.significant,
        )

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

    `strategy`, when a child must be restarted: `one_for_one` (default) restarts that one; `one_for_all` stops all
    others, last started first, and starts all; `rest_for_one` does so with those started after it. `intensity`: default
    3 restarts in 5 s, then it gives up. `backoff`: delays between restarts. `auto_shutdown`: `never` (default), or it
    ends with `shutdown` when `any_significant` child, or `all_significant` ones, ended for good.

    As a child of another supervisor: `restart` and `significant` as in `ChildSpec`. One that gave up ended with
    `shutdown`, so a `transient` one is not restarted then. It has no shutdown time of its own: its children have.

    `budget`, `loops`, `approvals`: guards of every agent below, beside their own. Left out, `loops` is the nearest
    supervisor's above, at the root the default `Loops()`; `budget` is none of its own, at the root a default; `None`
    takes none. `routes`: see `Route`. Raises `SpecError`.
    """

    def __init__(
        self,
        name: str,
        children: Sequence[
            Supervisor | DynamicSupervisor | ChildSpec[Any] | Agent[Any, Any] | Callable[[], Actor[Any]]
        ],
        *,
        strategy: Strategy = "one_for_one",
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        auto_shutdown: AutoShutdown = "never",
        restart: RestartType = "permanent",
        significant: bool = False,
        budget: BudgetRule | EllipsisType | None = ...,
        loops: LoopGuard | EllipsisType | None = ...,
        approvals: ApprovalRule | None = None,
        routes: Sequence[Route[Any]] = (),
    ) -> None:
        where = f"supervisor {name!r}"
        check_name(where, name)
        self.name = name
        self.children: tuple[Supervisor | DynamicSupervisor | ChildSpec[Any], ...] = tuple(
            child if isinstance(child, Supervisor | DynamicSupervisor | ChildSpec) else ChildSpec(child)
            for child in children
        )
        check_strategy(strategy)
        check_auto_shutdown(auto_shutdown)
        check_restart(restart)
        self.strategy: Strategy = strategy
        self.intensity = intensity if intensity is not None else Intensity()
        self.backoff = backoff if backoff is not None else Backoff()
        self.auto_shutdown: AutoShutdown = auto_shutdown
        self.restart: RestartType = restart
        self.significant = significant
        if significant and restart == "permanent":
            check_significant(where, restart, "any_significant")
        self.budget = budget
        self.loops = loops
        self.approvals = approvals
        self.routes = tuple(routes)
        _check_unique(where, [child.name for child in self.children])
        for child in self.children:
            if child.significant:
                check_significant(f"{where}: child {child.name!r}", child.restart, auto_shutdown)

    def __repr__(self) -> str:
        return f"<supervisor {self.name}: {', '.join(child.name for child in self.children)}>"

    def route_table(self) -> Mapping[type, Route[Any]]:
        """Routes by message class."""
        return {route.message: route for route in self.routes}


class DynamicSupervisor:
    """A supervisor whose children are started while it runs, by `system.dynamic(name).start_child(...)`.

    `template`: how children are kept that bring no spec of their own, and what makes them: a `ChildSpec`, or a factory
    (then they are `transient`); it is called with the arguments given to `start_child`. None: every child brings its
    own. `max_children`: refused beyond, those that wait to be restarted included; default None, any number.
    `intensity` (default 3 restarts in 5 s), `backoff`, `restart`, `significant`: as for `Supervisor`.

    Always `one_for_one`, and without automatic shutdown. Children that end for good are removed. When it stops, its
    children stop all at once. Agents are not dynamic children: they are part of the tree. Raises `SpecError`.
    """

    strategy: Strategy = "one_for_one"

    def __init__(
        self,
        name: str,
        template: ChildSpec[Any] | Callable[..., Actor[Any]] | None = None,
        *,
        max_children: int | None = None,
        intensity: Intensity | None = None,
        backoff: Backoff | None = None,
        restart: RestartType = "permanent",
        significant: bool = False,
    ) -> None:
        where = f"dynamic supervisor {name!r}"
        check_name(where, name)
        maker: object = template.child if isinstance(template, ChildSpec) else template
        if isinstance(maker, Agent):
            raise SpecError(f"{where}: an agent is part of the tree from the start; use ChildSpec(agent, count=…)")
        if maker is not None and not callable(maker):
            raise SpecError(f"{where}: template {template!r} is neither a ChildSpec nor a factory")
        if isinstance(template, ChildSpec) and (template.count > 1 or template.significant):
            raise SpecError(f"{where}: a template has no count and is not significant")
        if max_children is not None:
            check_count(f"{where}: max_children", max_children, least=1)
        check_restart(restart)
        if significant and restart == "permanent":
            check_significant(where, restart, "any_significant")
        self.name = name
        self.factory: Callable[..., Actor[Any]] | None = maker
        self.template = ChildPlan("", Actor, "transient")
        if isinstance(template, ChildSpec):
            self.template = template.plan("", Actor)
        self.max_children = max_children
        self.intensity = intensity if intensity is not None else Intensity()
        self.backoff = backoff if backoff is not None else Backoff()
        self.restart: RestartType = restart
        self.significant = significant

    def __repr__(self) -> str:
        return f"<dynamic supervisor {self.name}>"


def check_name(where: str, name: str) -> None:
    """Raise `SpecError` unless `name` can be part of an address."""
    if "/" in name or not name or name.startswith(("@", "$")):
        raise SpecError(f"{where}: a name is not empty, has no '/' and begins with neither '@' nor '$'")


def _check_unique(where: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SpecError(f"{where}: two children are named {name!r}")
        seen.add(name)
