"""What the supervisor hands to the runtime that drives an agent: the description, and the guards around it.

Made once per tree, at start. `decide` and replay take it as it is; nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from understudy.actors.agents.agent import Agent, Delegate
from understudy.actors.agents.guards import ApprovalRule, BudgetRule, LoopGuard
from understudy.actors.agents.models import ToolSchema
from understudy.actors.agents.tools import Tool
from understudy.actors.journal.state import digest

HOPS: Final = 8
"""How often a request may be handed on."""


@dataclass(frozen=True)
class Policy:
    """`name` is the agent's; `path` the address requests to it go to; `budgets` the executor chain, nearest first.

    `routes` maps classes of its output to the names of the agents they are handed to.
    """

    agent: Agent[Any, Any]
    path: str
    loops: LoopGuard | None = None
    budgets: tuple[tuple[str, BudgetRule], ...] = ()
    routes: Mapping[type, str] = field(default_factory=dict[type, str])
    approvals: ApprovalRule | None = None
    hops: int = HOPS

    def __post_init__(self) -> None:
        acts: dict[str, Tool[..., Any] | Delegate] = {tool.name: tool for tool in self.agent.tools}
        acts.update({agent.name: Delegate(agent) for agent in self.agent.delegates})
        schemas = tuple(act.schema for act in acts.values())
        object.__setattr__(self, "acts", acts)
        object.__setattr__(self, "schemas", schemas)
        object.__setattr__(self, "tools_digest", digest(*(repr(s) for s in schemas)))
        object.__setattr__(self, "output_digest", digest(repr(self.agent.output.schema)))

    acts: Mapping[str, Tool[..., Any] | Delegate] = field(init=False)
    schemas: tuple[ToolSchema, ...] = field(init=False)
    tools_digest: str = field(init=False)
    output_digest: str = field(init=False)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    def who(self, policy: str) -> tuple[str, ...]:
        """Who may answer under `policy`; empty for anybody."""
        return tuple(self.approvals.by.get(policy, ())) if self.approvals is not None else ()

    @property
    def expires(self) -> float:
        """Seconds a yes may be waited for (default 48 hours)."""
        return self.approvals.expires if self.approvals is not None else 48 * 3600.0
