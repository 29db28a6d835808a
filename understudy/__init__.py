"""understudy keeps AI agents running.

Each agent is an actor with a mailbox; supervisors enforce budgets, restart agents that are stuck in loops, and route
structured messages; everything that belongs to a run goes to one journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Ctx, Prompt
from understudy.actors.agents.guards import Nudge, Restart, Stop
from understudy.actors.agents.models import Price
from understudy.actors.agents.results import (
    Approval,
    Complete,
    Degraded,
    Failed,
    Partial,
    Result,
    Stopped,
    Waiting,
)
from understudy.actors.agents.tools import Call, tool
from understudy.actors.messages import Down, Message, on
from understudy.actors.refs import Key, Ref, Refused
from understudy.actors.states import State, StateMachine
from understudy.agent import Agent
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.guards.approvals import Approvals
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Errors, Idle, Same, Talk
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.specs import ChildSpec, Route, Supervisor
from understudy.transports.models.openai import OpenAIChat

if TYPE_CHECKING:
    from understudy.actors.machine import Next, Timeout
    from understudy.actors.stateful import StateMachineActor
    from understudy.system import System

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Agent",
    "Approval",
    "Approvals",
    "Backoff",
    "Budget",
    "Call",
    "ChildSpec",
    "Complete",
    "Ctx",
    "Degraded",
    "Down",
    "Errors",
    "Failed",
    "Idle",
    "Intensity",
    "Key",
    "Loops",
    "Message",
    "Next",
    "Nudge",
    "OpenAIChat",
    "Partial",
    "Price",
    "Prompt",
    "Ref",
    "Refused",
    "Restart",
    "Result",
    "Route",
    "Same",
    "State",
    "StateMachine",
    "StateMachineActor",
    "Stop",
    "Stopped",
    "Supervisor",
    "System",
    "Talk",
    "Timeout",
    "Waiting",
    "__version__",
    "on",
    "tool",
]


# The kernel, the driver and the tree are loaded with the first system, not with the first description; what only actors
# that are state machines need, with the first of them.
def __getattr__(name: str) -> Any:
    if name == "System":
        from understudy.system import System

        return System
    if name in ("Next", "Timeout"):
        from understudy.actors import machine

        return getattr(machine, name)
    if name == "StateMachineActor":
        from understudy.actors.stateful import StateMachineActor

        return StateMachineActor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
