"""understudy keeps AI agents running.

Each agent is an actor with a mailbox; supervisors enforce budgets, restart agents that are stuck in loops, and route
structured messages; everything that belongs to a run goes to one journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy.agent import install as _install

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.agents.agent import Agent, Ctx, Prompt
    from understudy.actors.agents.elsewhere import Elsewhere
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
    from understudy.actors.durable.turns import DeadPost
    from understudy.actors.inspection import Inspection, RunningHandler, TreeInspection
    from understudy.actors.machine import Next, Timeout
    from understudy.actors.messages import Down, Exited, Message, on
    from understudy.actors.redaction import Redact, Secret
    from understudy.actors.refs import Key, Ref, Refused
    from understudy.actors.stacks import AwaitPoint
    from understudy.actors.stateful import StateMachineActor
    from understudy.actors.states import State, StateMachine
    from understudy.actors.telemetry import Blocked, CrashReport, DeadLetter, Flight
    from understudy.actors.topics import Topic
    from understudy.actors.watching import Watch
    from understudy.supervisors.backoff import Backoff
    from understudy.supervisors.guards.approvals import Approvals
    from understudy.supervisors.guards.budgets import Budget, Window
    from understudy.supervisors.guards.loops import Loops
    from understudy.supervisors.guards.rules import Errors, Idle, Malformed, Near, Resent, Reworded, Same, Talk
    from understudy.supervisors.intensity import Intensity
    from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Route, Supervisor
    from understudy.system import System
    from understudy.transports.models.openai import OpenAIChat

__version__ = "0.1.0"

_install()

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
    "Elsewhere",
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
    "Redact",
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
    "Secret",
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


# Every name is loaded when it is first asked for: a command that only looks at a journal needs none of them.
_MODULES = {
    "Actor": "understudy.actors.actor",
    "Agent": "understudy.actors.agents.agent",
    "Approval": "understudy.actors.agents.results",
    "Approvals": "understudy.supervisors.guards.approvals",
    "AwaitPoint": "understudy.actors.stacks",
    "Backoff": "understudy.supervisors.backoff",
    "Blocked": "understudy.actors.telemetry",
    "Budget": "understudy.supervisors.guards.budgets",
    "Call": "understudy.actors.agents.tools",
    "ChildSpec": "understudy.supervisors.specs",
    "Complete": "understudy.actors.agents.results",
    "Conclude": "understudy.actors.agents.guards",
    "ContextWindow": "understudy.actors.agents.window",
    "CrashReport": "understudy.actors.telemetry",
    "Ctx": "understudy.actors.agents.agent",
    "DeadLetter": "understudy.actors.telemetry",
    "DeadPost": "understudy.actors.durable.turns",
    "Degraded": "understudy.actors.agents.results",
    "Down": "understudy.actors.messages",
    "DropFailed": "understudy.actors.agents.window",
    "DynamicSupervisor": "understudy.supervisors.specs",
    "Elsewhere": "understudy.actors.agents.elsewhere",
    "Errors": "understudy.supervisors.guards.rules",
    "Escalate": "understudy.actors.agents.guards",
    "Exited": "understudy.actors.messages",
    "Failed": "understudy.actors.agents.results",
    "Flight": "understudy.actors.telemetry",
    "Idle": "understudy.supervisors.guards.rules",
    "Inspection": "understudy.actors.inspection",
    "Intensity": "understudy.supervisors.intensity",
    "Key": "understudy.actors.refs",
    "Loops": "understudy.supervisors.guards.loops",
    "Malformed": "understudy.supervisors.guards.rules",
    "Message": "understudy.actors.messages",
    "Near": "understudy.supervisors.guards.rules",
    "Next": "understudy.actors.machine",
    "Nudge": "understudy.actors.agents.guards",
    "OpenAIChat": "understudy.transports.models.openai",
    "Partial": "understudy.actors.agents.results",
    "Price": "understudy.actors.agents.models",
    "Prompt": "understudy.actors.agents.agent",
    "Quarantine": "understudy.actors.agents.guards",
    "Redact": "understudy.actors.redaction",
    "Ref": "understudy.actors.refs",
    "Refused": "understudy.actors.refs",
    "Resent": "understudy.supervisors.guards.rules",
    "Restart": "understudy.actors.agents.guards",
    "Restrict": "understudy.actors.agents.guards",
    "Result": "understudy.actors.agents.results",
    "Reworded": "understudy.supervisors.guards.rules",
    "Route": "understudy.supervisors.specs",
    "RunningHandler": "understudy.actors.inspection",
    "Same": "understudy.supervisors.guards.rules",
    "Secret": "understudy.actors.redaction",
    "Slide": "understudy.actors.agents.window",
    "State": "understudy.actors.states",
    "StateMachine": "understudy.actors.states",
    "StateMachineActor": "understudy.actors.stateful",
    "Stop": "understudy.actors.agents.guards",
    "Stopped": "understudy.actors.agents.results",
    "Summarise": "understudy.actors.agents.window",
    "Supervisor": "understudy.supervisors.specs",
    "System": "understudy.system",
    "Talk": "understudy.supervisors.guards.rules",
    "Timeout": "understudy.actors.machine",
    "Topic": "understudy.actors.topics",
    "TreeInspection": "understudy.actors.inspection",
    "Trim": "understudy.actors.agents.window",
    "Waiting": "understudy.actors.agents.results",
    "Watch": "understudy.actors.watching",
    "Window": "understudy.supervisors.guards.budgets",
    "on": "understudy.actors.messages",
    "tool": "understudy.actors.agents.tools",
}


# Whatever the name stands for.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
