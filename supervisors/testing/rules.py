"""The rules of a declared tree, in the one form that the oracles read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from understudy.actors.errors import UsageError
from understudy.supervisors import tree as trees
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicPlan
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import SupervisorPlan
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor
from understudy.supervisors.strategies import RestartType, Strategy


@dataclass(frozen=True, slots=True)
class ChildRules:
    """How one child is kept. `intensity`: its own, beside the supervisor's."""

    restart: RestartType
    intensity: Intensity | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """One supervisor: `children` in start order by path; `template` of a dynamic one, whose children come and go."""

    path: str
    strategy: Strategy
    intensity: Intensity | None
    backoff: Backoff
    children: Mapping[str, ChildRules]
    template: ChildRules | None = None


Declared = Supervisor | DynamicSupervisor | Mapping[str, SupervisorPlan | DynamicPlan]
"""A tree, or the plans of supervisors' actors by their paths."""


def rules_of(declared: Declared) -> tuple[Rules, ...]:
    """The rules of every supervisor. Raises `SpecError` for a tree that could not start, `UsageError` for no tree."""
    if isinstance(declared, Supervisor):
        tree = trees.plan(declared)
        static = [_of_spec(tree, path, spec) for path, spec in tree.supervisors.items()]
        return (*static, *(_of_dynamic(path, spec) for path, spec in tree.dynamic.items()))
    if isinstance(declared, DynamicSupervisor):
        return (_of_dynamic(declared.name, declared),)
    if not isinstance(declared, Mapping):
        raise UsageError(f"supervision({declared!r}): give a Supervisor, or plans by path")
    return tuple(_of_plan(path, plan) for path, plan in declared.items())


def _of_spec(tree: trees.Tree, path: str, spec: Supervisor) -> Rules:
    children: dict[str, ChildRules] = {}
    for child in spec.children:
        if isinstance(child, ChildSpec):
            for member in tree.places[child.name].members():
                children[member] = ChildRules(child.restart, child.intensity)
        else:
            children[f"{path}/{child.name}"] = ChildRules(child.restart)
    return Rules(path, spec.strategy, spec.intensity, spec.backoff, children)


def _of_dynamic(path: str, spec: DynamicSupervisor) -> Rules:
    template = ChildRules(spec.template.restart, spec.template.intensity)
    return Rules(path, "one_for_one", spec.intensity, spec.backoff, {}, template)


def _of_plan(path: str, plan: SupervisorPlan | DynamicPlan) -> Rules:
    if isinstance(plan, DynamicPlan):
        template = ChildRules(plan.template.restart, plan.template.intensity)
        return Rules(path, "one_for_one", plan.intensity, plan.backoff, {}, template)
    children = {f"{path}/{child.name}": ChildRules(child.restart, child.intensity) for child in plan.children}
    return Rules(path, plan.strategy, plan.intensity, plan.backoff, children)
