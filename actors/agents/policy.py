"""What the supervisor hands to the runtime that drives an agent: the description, and the guards around it.

Made once per tree, at start. `decide` and replay take it as it is; nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from understudy.actors.agents.agent import Agent, Delegate
from understudy.actors.agents.guards import ApprovalRule, BudgetRule, LoopGuard
from understudy.actors.agents.machine import Row, Table, move_schema, offered
from understudy.actors.agents.models import Model, ToolSchema, schema_size, tool_size
from understudy.actors.agents.recall import Memory
from understudy.actors.agents.spilled import read_spilled
from understudy.actors.agents.tools import Tool
from understudy.actors.agents.window import ContextWindow
from understudy.actors.journal.state import Sub, digest

HOPS: Final = 8
"""How often a request may be handed on."""


Act = Tool[..., Any] | Delegate


@dataclass(frozen=True)
class Offer:
    """What the model may call in one state. `digest` is of the schemas, `size` the most tokens they can count."""

    acts: Mapping[str, Act]
    schemas: tuple[ToolSchema, ...]
    digest: str
    size: int


def _offer(acts: Mapping[str, Act], general: Sequence[str], row: Row | None) -> Offer:
    found = offered(acts, general, row)
    schemas = [act.schema for act in found.values()]
    if row is not None and (move := move_schema(row)) is not None:
        schemas.append(move)
    size = sum(tool_size(schema) for schema in schemas)
    return Offer(found, tuple(schemas), digest(*(repr(schema) for schema in schemas)), size)


@dataclass(frozen=True)
class Policy:
    """`name` is the agent's; `path` the address requests to it go to; `budgets` the executor chain, nearest first.

    `routes` maps classes of its output to the names of the agents they are handed to. `memory`: see `recall`.
    """

    agent: Agent[Any, Any]
    path: str
    loops: LoopGuard | None = None
    budgets: tuple[tuple[str, BudgetRule], ...] = ()
    routes: Mapping[type, str] = field(default_factory=dict[type, str])
    approvals: ApprovalRule | None = None
    hops: int = HOPS
    memory: Memory = "last_step"

    def __post_init__(self) -> None:
        agent = self.agent
        object.__setattr__(self, "table", agent.table)
        acts: dict[str, Act] = {tool.name: tool for tool in self.agent.all_tools}
        acts.update({agent.name: Delegate(agent) for agent in self.agent.delegates})
        general = [tool.name for tool in self.agent.tools] + [agent.name for agent in self.agent.delegates]
        rows: dict[str, Row | None] = {"": None} if self.table is None else dict(self.table.rows)
        offers = {(state, False): _offer(acts, general, row) for state, row in rows.items()}
        models = (agent.model, agent.fallback, *agent.alternatives)
        limits = [agent.window.limit(model, agent.max_tokens) for model in models if model]
        limit = min((each for each in limits if each is not None), default=None)
        acts, general = {**acts, read_spilled.name: read_spilled}, [*general, read_spilled.name]
        offers |= {(state, True): _offer(acts, general, row) for state, row in rows.items()}
        object.__setattr__(self, "acts", acts)
        object.__setattr__(self, "offers", offers)
        object.__setattr__(self, "output_digest", digest(repr(agent.output.schema)))
        object.__setattr__(self, "output_size", schema_size(agent.output.schema))
        object.__setattr__(self, "limit", limit)

    table: Table | None = field(init=False)
    """The agent's machine, in words."""
    acts: Mapping[str, Act] = field(init=False)
    """Every tool and delegate by name, whatever the state."""
    offers: Mapping[tuple[str, bool], Offer] = field(init=False)
    """By state, and whether something was spilled that may be read back."""
    output_digest: str = field(init=False)
    output_size: int = field(init=False)
    limit: int | None = field(init=False)
    """Tokens of input that a request may have, None for any number."""
    kept: dict[str, Any] = field(init=False, default_factory=dict[str, Any], compare=False)
    """A place for `context` to keep what it made of the newest instructions."""
    _options: dict[tuple[str, float | None], str] = field(
        init=False, default_factory=dict[tuple[str, float | None], str], compare=False
    )

    def offer(self, state: str, spilled: bool = False) -> Offer:
        """What the model is offered in a state; of an agent without a machine, everything, whatever the state.

        Once something was `spilled` from its window, also the tool that reads it back.
        """
        return self.offers[state if self.table is not None else "", spilled]

    def options(self, model: Model, temperature: float | None) -> str:
        """A digest of a model's name and of the options."""
        found = self._options.get((model.name, temperature))
        if found is None:
            found = digest(model.name, repr(temperature), str(self.agent.max_tokens))
            self._options[model.name, temperature] = found
        return found

    @property
    def window(self) -> ContextWindow:
        """How much the model is shown."""
        return self.agent.window

    def open_to(self, sub: Sub, step: int) -> Offer:
        """What the model is offered in a model step of a (sub-)run: without the tools that a guard has closed."""
        offer = self.offers[sub.state if self.table is not None else "", sub.view.spilled]
        if not sub.closed:
            return offer
        acts = {name: act for name, act in offer.acts.items() if not sub.is_closed(name, step)}
        schemas = tuple(schema for schema in offer.schemas if schema.name in acts or schema.name not in offer.acts)
        size = sum(tool_size(schema) for schema in schemas)
        return Offer(acts, schemas, digest(*(repr(schema) for schema in schemas)), size)

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.agent.name

    def who(self, policy: str) -> tuple[str, ...]:
        """Who may answer under `policy`; empty for anybody."""
        return tuple(self.approvals.by.get(policy, ())) if self.approvals is not None else ()

    def version_of(self, policy: str) -> str:
        """A digest of the rule of an approval policy: its name, who may answer, and for how long."""
        return digest(policy, repr(self.expires), *self.who(policy))

    @property
    def expires(self) -> float:
        """Seconds a yes may be waited for (default 48 hours)."""
        return self.approvals.expires if self.approvals is not None else 48 * 3600.0
