"""From a description to a tree that can start: checks it whole, then hands every agent its policy.

Checked before anything runs, each with one error that names the value and the place: names, strategies, routes
(target known, and with a handler), outputs that lead nowhere, delegates that are not in the tree, approval policies
nobody may answer, pools in money with a model without a price, and limits for tools that nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import EllipsisType, MappingProxyType
from typing import Any, Final

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.elsewhere import Elsewhere
from understudy.actors.agents.guards import TOOL, ApprovalRule, BudgetRule, LoopGuard, Restart
from understudy.actors.agents.policy import Policy
from understudy.actors.clock import Dice
from understudy.actors.errors import SpecError, UsageError
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.guards.approvals import Approvals
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.tried import check_budget
from understudy.supervisors.history import Past
from understudy.supervisors.plans import UNLIMITED, ChildPlan, Observer, SupervisorPlan
from understudy.supervisors.specs import By, ChildSpec, DynamicSupervisor, Route, Spread, Supervisor
from understudy.supervisors.supervisor import SupervisorActor

DEFAULT_BUDGET: Final = Budget(steps=200, tokens=1_000_000, seconds=3_600)
"""Of a root supervisor that says nothing: per run, so that nothing runs for ever by oversight."""
DEFAULT_LOOPS: Final = Loops()


NO_KEYS: Final[Mapping[type, By]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a child stands: its address, its spec, the spread of the routes to it, and by what each message type."""

    path: str
    spec: ChildSpec[Any]
    spread: Spread = "round_robin"
    by: Mapping[type, By] = field(default_factory=lambda: NO_KEYS)

    def members(self) -> tuple[str, ...]:
        """Paths of its actors: itself, or `path/1` … of a pool."""
        if self.spec.count == 1:
            return (self.path,)
        return tuple(f"{self.path}/{n}" for n in range(1, self.spec.count + 1))


@dataclass(frozen=True)
class Tree:
    """A checked tree. `policies` is by agent name, `places` by child name, `supervisors` and `dynamic` by path."""

    root: Supervisor
    policies: Mapping[str, Policy]
    places: Mapping[str, Place]
    supervisors: Mapping[str, Supervisor]
    models: tuple[Any, ...] = ()
    dynamic: Mapping[str, DynamicSupervisor] = field(default_factory=dict[str, DynamicSupervisor])


@dataclass
class _Guards:
    """What a supervisor passes down."""

    loops: LoopGuard | None
    budgets: tuple[tuple[str, BudgetRule], ...]
    routes: Mapping[type, str]
    leads: Mapping[str, tuple[Route[Any], ...]]
    approvals: ApprovalRule | None


@dataclass
class _Builder:
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    supervisors: dict[str, Supervisor] = field(default_factory=dict[str, Supervisor])
    dynamic: dict[str, DynamicSupervisor] = field(default_factory=dict[str, DynamicSupervisor])
    guards: dict[str, _Guards] = field(default_factory=dict[str, _Guards])


def root_of(tree: Supervisor | Agent[Any, Any]) -> Supervisor:
    """The tree itself, or the implicit supervisor of a plain agent: safe defaults on, and named `main`."""
    return tree if isinstance(tree, Supervisor) else Supervisor("main", [tree])


def plan(root: Supervisor) -> Tree:
    """Check a tree and make its policies. Raises `SpecError`."""
    builder = _Builder()
    _walk(builder, root, root.name, _Guards(DEFAULT_LOOPS, (), {}, {}, None), top=True)
    policies = {place.spec.name: _policy(builder, place) for place in _agents(builder)}
    _check_owners(builder, policies)
    for policy in policies.values():
        _check_delegates(policy, policies)
        _check_answers(policy, policies)
        _check_money(policy)
        _check_restarts(policy)
        _check_approvals(policy)
    _check_budgets(policies)
    for path, supervisor in builder.supervisors.items():
        for route in supervisor.routes:
            _check_route(builder, path, route)
    models = {id(model): model for policy in policies.values() for model in policy.agent.models}
    return Tree(root, policies, builder.places, builder.supervisors, tuple(models.values()), builder.dynamic)


def with_guards(policies: Mapping[str, Policy], guards: object) -> dict[str, Policy]:
    """The same agents under other guards: those that a tree or an agent gives them by name, or one guard for all.

    `guards`: a supervisor or an agent (agents that it does not have are left out); a `Loops`, for each of them; a
    `Budget`, for each run as a whole; an `Approvals`. Without `policies`, a tree's own agents. Raises `SpecError` for a
    bad tree, `UsageError` for anything else.
    """
    if isinstance(guards, Supervisor | Agent):
        others = plan(root_of(guards)).policies
        if not policies:
            return dict(others)
        return {
            name: replace(policy, loops=other.loops, budgets=other.budgets, approvals=other.approvals)
            for name, policy in policies.items()
            if (other := others.get(name)) is not None
        }
    if not policies and isinstance(guards, Loops | Budget | Approvals):
        raise UsageError(f"{type(guards).__name__} alone needs the agents it is asked for: name the app, too")
    if isinstance(guards, Loops):
        return {name: replace(policy, loops=guards) for name, policy in policies.items()}
    if isinstance(guards, Budget):
        return {name: replace(policy, budgets=(("guards", guards),)) for name, policy in policies.items()}
    if isinstance(guards, Approvals):
        return {name: replace(policy, approvals=guards) for name, policy in policies.items()}
    raise UsageError(f"guards are a tree, an agent, a Loops, a Budget or an Approvals, not a {type(guards).__name__}")


def _walk(builder: _Builder, supervisor: Supervisor, path: str, above: _Guards, *, top: bool = False) -> None:
    guards = _pass_down(supervisor, above, top=top)
    builder.supervisors[path] = supervisor
    for child in supervisor.children:
        below = f"{path}/{child.name}"
        if isinstance(child, Supervisor):
            _walk(builder, child, below, guards)
            continue
        if isinstance(child, DynamicSupervisor):
            builder.dynamic[below] = child
            continue
        if child.name in builder.places:
            raise SpecError(f"{below}: the name {child.name!r} is also that of {builder.places[child.name].path}")
        builder.places[child.name] = _place(below, child, guards.leads.get(child.name, ()))
        builder.guards[child.name] = guards


def _place(path: str, child: ChildSpec[Any], routes: tuple[Route[Any], ...]) -> Place:
    """What the nearest supervisor with routes to a child says of its spread; a pool has one."""
    is_agent = isinstance(child.child, Agent)
    if not routes:
        return Place(path, child, "least_busy" if is_agent else "round_robin")
    spreads = sorted({route.spread for route in routes})
    for spread in ("consistent_hash", "broadcast"):
        if spread in spreads and len(spreads) > 1:
            raise SpecError(f"{path}: its routes want several spreads ({', '.join(spreads)}); a pool has one")
        if spread in spreads and is_agent:
            raise SpecError(f"{path}: spread {spread!r} is for actors; agents take what they are assigned")
    return Place(path, child, routes[-1].spread, {route.message: route.by for route in routes})


def _pass_down(supervisor: Supervisor, above: _Guards, *, top: bool) -> _Guards:
    budget = supervisor.budget
    if isinstance(budget, EllipsisType):
        budget = DEFAULT_BUDGET if top else None
    own = ((supervisor.name, budget),) if budget is not None else ()
    loops = above.loops if isinstance(supervisor.loops, EllipsisType) else supervisor.loops
    routes = {route.message: route.to for route in supervisor.routes}
    leads: dict[str, tuple[Route[Any], ...]] = {}
    for route in supervisor.routes:
        leads[route.to] = (*leads.get(route.to, ()), route)
    approvals = supervisor.approvals if supervisor.approvals is not None else above.approvals
    return _Guards(loops, own + above.budgets, {**above.routes, **routes}, {**above.leads, **leads}, approvals)


def _agents(builder: _Builder) -> Iterator[Place]:
    return (place for place in builder.places.values() if isinstance(place.spec.child, Agent))


def _policy(builder: _Builder, place: Place) -> Policy:
    agent: Agent[Any, Any] = place.spec.child  # type: ignore[assignment]  # _agents yields agents only
    guards = builder.guards[place.spec.name]
    own = ((agent.name, agent.budget),) if agent.budget is not None else ()
    answers = agent.result.members()
    routes = {kind: to for kind, to in guards.routes.items() if kind in agent.output.members() and kind not in answers}
    for kind in agent.output.members():
        if agent.output is not agent.result and kind not in answers and kind not in routes:
            wanted = ", ".join(member.__name__ for member in answers)
            raise SpecError(f"{place.path}: output {kind.__name__} is neither {wanted} nor routed on")
    return Policy(
        agent,
        place.path,
        agent.loops if agent.loops is not None else guards.loops,
        own + guards.budgets,
        routes,
        agent.approvals if agent.approvals is not None else guards.approvals,
        memory=place.spec.memory,
    )


def _check_owners(builder: _Builder, policies: Mapping[str, Policy]) -> None:
    """A pool is named by its owner: two owners of one name would draw on one pool."""
    owned: dict[str, str] = {}
    for path, supervisor in builder.supervisors.items():
        has_budget = supervisor.budget is not None and (path == supervisor.name or supervisor.budget is not ...)
        if has_budget:
            _own(owned, supervisor.name, path)
    for policy in policies.values():
        if policy.agent.budget is not None:
            _own(owned, policy.name, policy.path)


def _own(owned: dict[str, str], name: str, path: str) -> None:
    if name in owned:
        raise SpecError(f"{path}: {owned[name]} has a budget under the name {name!r} already; name one of them anew")
    owned[name] = path


def _check_delegates(policy: Policy, policies: Mapping[str, Policy]) -> None:
    for delegate in policy.agent.delegates:
        if isinstance(delegate, Elsewhere):
            continue
        known = policies.get(delegate.name)
        if known is None or known.agent is not delegate:
            raise SpecError(f"{policy.path}: delegate {delegate.name!r} is not in the tree")


def _check_answers(policy: Policy, policies: Mapping[str, Policy]) -> None:
    """Who is handed a request must answer what its asker waits for."""
    for kind, to in policy.routes.items():
        target = policies.get(to)
        if target is not None and target.agent.result.form != policy.agent.result.form:
            theirs, ours = (_form_name(p.agent.result.form) for p in (target, policy))
            raise SpecError(
                f"{policy.path}: hands its {kind.__name__} on to {target.path}, which answers {theirs}, but its asker"
                f" waits for {ours}"
            )


def _form_name(form: object) -> str:
    return getattr(form, "__name__", None) or str(form)


def _check_money(policy: Policy) -> None:
    for owner, budget in policy.budgets:
        unpriced = next((model.name for model in policy.agent.models if model.price is None), None)
        if "usd" in budget.pool(owner, "").limits and unpriced is not None:
            raise SpecError(f"{policy.path}: the budget of {owner!r} counts money, but model {unpriced!r} has no price")


def _check_restarts(policy: Policy) -> None:
    """A ladder may be that of many agents; each must have the model that it is to be restarted with."""
    ladder = policy.loops.ladder if isinstance(policy.loops, Loops) else ()
    for rung, response in enumerate(ladder):
        if isinstance(response, Restart) and response.model and policy.agent.named(response.model) is None:
            names = ", ".join(policy.agent.names)
            raise SpecError(
                f"{policy.path}: Loops.ladder[{rung}] restarts it with model {response.model!r}, which it does not"
                f" have; its models are: {names}"
            )


def _check_budgets(policies: Mapping[str, Policy]) -> None:
    """Each budget once, however many agents are below it: its limits hold, and those for tools are of tools there are.

    A limit for a tool that nobody has would limit nothing.
    """
    tools = {name for policy in policies.values() for name in policy.acts}
    budgets = {owner: (policy.path, rule) for policy in policies.values() for owner, rule in policy.budgets}
    for owner, (path, rule) in budgets.items():
        check_budget(path, owner, rule)
        for unit in rule.pool(owner, "").limits:
            if unit.startswith(TOOL) and (name := unit.removeprefix(TOOL)) not in tools:
                names = ", ".join(sorted(tools)) or "none"
                raise SpecError(
                    f"the budget of {owner!r} limits tool {name!r}, which no agent has; the tools are: {names}"
                )


def _check_approvals(policy: Policy) -> None:
    for tool in policy.agent.all_tools:
        if tool.policy is not None and isinstance(policy.approvals, Approvals):
            policy.approvals.check(tool.policy, f"{policy.path}: tool {tool.name!r}")


def _check_route(builder: _Builder, path: str, route: Route[Any]) -> None:
    where = f"{path}: route of {route.message.__name__}"
    place = builder.places.get(route.to)
    if place is None:
        raise SpecError(f"{where} leads to {route.to!r}, which is not in the tree")
    child = place.spec.child
    if isinstance(child, Agent):
        if child.accepts is not route.message:
            raise SpecError(f"{where} leads to {place.path}, which accepts {child.accepts.__name__}")
    elif isinstance(child, type) and issubclass(child, Actor) and route.message not in child.handlers:
        raise SpecError(f"{where} leads to {place.path}, which has no handler for it")


def path_of(
    nodes: Mapping[str, Supervisor] | Mapping[str, DynamicSupervisor],
    to: str | Supervisor | DynamicSupervisor,
    kind: str,
) -> str:
    """The path of a node, by description, path or name. Raises `UsageError` unless there is exactly one."""
    if isinstance(to, str):
        found = [to] if to in nodes else [path for path, node in nodes.items() if node.name == to]
    else:
        found = [path for path, node in nodes.items() if node is to]
    if len(found) != 1:
        name = to if isinstance(to, str) else to.name
        what = (
            f"is ambiguous: {', '.join(found)}"
            if found
            else f"is not in this tree; known: {', '.join(nodes) or 'none'}"
        )
        raise UsageError(f"{kind} {name!r} {what}")
    return found[0]


def owners(tree: Tree) -> dict[str, dict[str, str | int]]:
    """What readers of the journal are told beside the events, by path: strategy, and limits as far as there are any."""
    told: dict[str, dict[str, str | int]] = {}
    for path, supervisor in tree.supervisors.items():
        told[path] = {"strategy": supervisor.strategy, "restarts": supervisor.intensity.restarts}
    for path, dynamic in tree.dynamic.items():
        told[path] = {"strategy": dynamic.strategy, "restarts": dynamic.intensity.restarts}
    for policy in tree.policies.values():
        for owner, budget in policy.budgets:
            path = next((p for p, s in tree.supervisors.items() if s.name == owner), policy.path)
            limits = budget.pool(owner, "").limits
            told.setdefault(path, {}).update({unit: limits[unit] for unit in ("steps", "tokens") if unit in limits})
    return told


@dataclass(frozen=True)
class Making:
    """What the actors of a tree are made with, all the way down."""

    agent_actor: Callable[[Policy], Actor[Any]]
    observe: Observer | None
    dice: Dice
    numbers: Callable[[str], int]
    past: Callable[[str], Past]


def factory_of(tree: Tree, supervisor: Supervisor, path: str, making: Making) -> Callable[[], SupervisorActor]:
    """What makes the actor of a supervisor and, through it, of everything below."""

    def make() -> SupervisorActor:
        plan_ = SupervisorPlan(
            tuple(_child_plans(tree, supervisor, path, making)),
            supervisor.intensity,
            supervisor.backoff,
            making.dice,
            making.observe,
            supervisor.strategy,
            supervisor.auto_shutdown,
            making.numbers,
            making.past(path),
        )
        return SupervisorActor(plan_)

    return make


def _child_plans(tree: Tree, supervisor: Supervisor, path: str, making: Making) -> Iterator[ChildPlan]:
    for child in supervisor.children:
        if isinstance(child, ChildSpec):
            for member in tree.places[child.name].members():
                yield _child_plan(tree, child, member.removeprefix(f"{path}/"), making.agent_actor)
            continue
        below: Callable[[], Actor[Any]]
        if isinstance(child, Supervisor):
            below = factory_of(tree, child, f"{path}/{child.name}", making)
        else:
            below = _dynamic_factory(child, f"{path}/{child.name}", making)
        yield ChildPlan(child.name, below, child.restart, 60.0, start_within=UNLIMITED, significant=child.significant)


def _dynamic_factory(child: DynamicSupervisor, path: str, making: Making) -> Callable[[], DynamicActor]:
    plan_ = DynamicPlan(child.template, child.intensity, child.backoff, making.dice, making.observe, child.max_children)
    return lambda: DynamicActor(replace(plan_, past=making.past(path)))


def _child_plan(tree: Tree, spec: ChildSpec[Any], name: str, agent_actor: Callable[[Policy], Actor[Any]]) -> ChildPlan:
    child = spec.child
    if isinstance(child, Agent):
        policy = tree.policies[child.name]
        return spec.plan(name, lambda: agent_actor(policy), child.concurrency)
    return spec.plan(name, child)
