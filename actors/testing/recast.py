"""Copies of agents with another model and other tools: how a description enters a simulated world."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from understudy.actors.agents.agent import Agent
from understudy.actors.agents.elsewhere import Elsewhere
from understudy.actors.agents.models import Model
from understudy.actors.agents.tools import Tool
from understudy.actors.agents.window import own_model
from understudy.actors.errors import UsageError
from understudy.actors.states import State, StateMachine
from understudy.actors.testing.values import Choices, value

O = TypeVar("O")  # noqa: E741  # as in `agents.agent`
M = TypeVar("M")
AnyTool: TypeAlias = Tool[..., Any]


class Recast:
    """Makes copies of agents that answer by `model(agent)` and whose tools are `tool(tool)`.

    Every agent and every tool is copied once, so that two agents which share a tool or a delegate share its copy. The
    originals stay as they are. Agents of a machine get a copy of the machine whose states offer the copied tools.
    """

    def __init__(self, *, model: Callable[[Agent[Any, Any]], Model], tool: Callable[[AnyTool], AnyTool]) -> None:
        self._model = model
        self._tool = tool
        # By id, with the original beside it: an id is one object's as long as that lives.
        self._agents: dict[int, tuple[Agent[Any, Any], Agent[Any, Any]]] = {}
        self._tools: dict[int, tuple[AnyTool, AnyTool]] = {}

    def agent(self, agent: Agent[O, M]) -> Agent[O, M]:
        """The copy of an agent, its delegates copied too.

        Raises `UsageError` when a value of its output, or of a tool's parameters, cannot be drawn (`values.value`).
        """
        if id(agent) not in self._agents:
            _check_drawable(agent)
            made = copy.copy(agent)
            made.model = self._model(agent)
            made.fallback = made.model if agent.fallback is not None else None  # one script plays both
            made.stand_in(made.model)
            made.window = own_model(agent.window)
            made.tools = tuple(self.tool(each) for each in agent.tools)
            made.delegates = tuple(
                each if isinstance(each, Elsewhere) else self.agent(each) for each in agent.delegates
            )
            made.machine = None if agent.machine is None else self._machine(agent.machine)
            self._agents[id(agent)] = (agent, made)
        return self._agents[id(agent)][1]

    def tool(self, tool: AnyTool) -> AnyTool:
        """The copy of a tool."""
        if id(tool) not in self._tools:
            self._tools[id(tool)] = (tool, self._tool(tool))
        return self._tools[id(tool)][1]

    def _machine(self, machine: StateMachine[Any, Any]) -> StateMachine[Any, Any]:
        states: dict[Any, State[Any, Any]] = {}
        for state, row in machine.states.items():
            tools = [self.tool(each) if isinstance(each, Tool) else each for each in row.tools]
            states[state] = State(on=row.on, tools=tools, timeout=row.timeout)
        return StateMachine(machine.initial, states)


def _check_drawable(agent: Agent[Any, Any]) -> None:
    """Now, and by name, rather than in the middle of a world."""
    schemas = {f"tool {each.name!r}": each.schema.parameters for each in agent.all_tools}
    if agent.output.schema is not None:
        schemas["its output"] = agent.output.schema
    for what, schema in schemas.items():
        try:
            value(schema, Choices())
        except UsageError as error:
            raise UsageError(f"agent {agent.name!r}, {what}: {error}") from error
