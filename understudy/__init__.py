"""understudy keeps AI agents running.

Each agent is an actor with a mailbox; supervisors enforce budgets, restart agents that are stuck in loops, and route
structured messages; everything that belongs to a run goes to one journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Ctx, Prompt
from understudy.actors.agents.guards import Conclude, Escalate, Nudge, Quarantine, Restart, Restrict, Stop
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
from understudy.actors.agents.window import ContextWindow, DropFailed, Slide, Summarise, Trim
from understudy.actors.messages import Down, Exited, Message, on
from understudy.actors.refs import Key, Ref, Refused
from understudy.actors.states import State, StateMachine
from understudy.agent import Agent
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.guards.approvals import Approvals
from understudy.supervisors.guards.budgets import Budget, Window
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Errors, Idle, Malformed, Near, Resent, Reworded, Same, Talk
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Route, Supervisor
from understudy.transports.models.openai import OpenAIChat

if TYPE_CHECKING:
    from understudy.actors.durable.turns import DeadPost
    from understudy.actors.inspection import Inspection, RunningHandler, TreeInspection
    from understudy.actors.machine import Next, Timeout
    from understudy.actors.stacks import AwaitPoint
    from understudy.actors.stateful import StateMachineActor
    from understudy.actors.telemetry import Blocked, CrashReport, DeadLetter, Flight
    from understudy.actors.topics import Topic
    from understudy.actors.watching import Watch
    from understudy.system import System

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "Agent",
    "Approval",
    "Approvals",
    "AwaitPoint",
    "Backoff",
    "Blocked",
    "Budget",
    "Call",
    "ChildSpec",
    "Complete",
    "Conclude",
    "ContextWindow",
    "CrashReport",
    "Ctx",
    "DeadLetter",
    "DeadPost",
    "Degraded",
    "Down",
    "DropFailed",
    "DynamicSupervisor",
    "Errors",
    "Escalate",
    "Exited",
    "Failed",
    "Flight",
    "Idle",
    "Inspection",
    "Intensity",
    "Key",
    "Loops",
    "Malformed",
    "Message",
    "Near",
    "Next",
    "Nudge",
    "OpenAIChat",
    "Partial",
    "Price",
    "Prompt",
    "Quarantine",
    "Ref",
    "Refused",
    "Resent",
    "Restart",
    "Restrict",
    "Result",
    "Reworded",
    "Route",
    "RunningHandler",
    "Same",
    "Slide",
    "State",
    "StateMachine",
    "StateMachineActor",
    "Stop",
    "Stopped",
    "Summarise",
    "Supervisor",
    "System",
    "Talk",
    "Timeout",
    "Topic",
    "TreeInspection",
    "Trim",
    "Waiting",
    "Watch",
    "Window",
    "__version__",
    "on",
    "tool",
]


# The kernel, the driver and the tree are loaded with the first system, not with the first description.
_LATER = {
    "AwaitPoint": "understudy.actors.stacks",
    "Blocked": "understudy.actors.telemetry",
    "CrashReport": "understudy.actors.telemetry",
    "DeadLetter": "understudy.actors.telemetry",
    "DeadPost": "understudy.actors.durable.turns",
    "Flight": "understudy.actors.telemetry",
    "Inspection": "understudy.actors.inspection",
    "Next": "understudy.actors.machine",
    "RunningHandler": "understudy.actors.inspection",
    "StateMachineActor": "understudy.actors.stateful",
    "System": "understudy.system",
    "Timeout": "understudy.actors.machine",
    "Topic": "understudy.actors.topics",
    "TreeInspection": "understudy.actors.inspection",
    "Watch": "understudy.actors.watching",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
