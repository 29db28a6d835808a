"""What `understudy why` says could be set otherwise: the option that a guard was armed with, and where it stands. Pure.

It names options as they are written in the app. Whether a guard was right is for the reader to say.
"""

from __future__ import annotations

from typing import Final

from understudy.actors.agents.guards import TOOL, Verdict
from understudy.actors.journal import events as ev
from understudy.supervisors.operator.text import clean, name_of

EXPIRED: Final = "Approvals(expires=…), and who may answer: by={…}"

_TOOLS: Final = {
    "timeout": "@tool(timeout=…, idle=…) of {name}, if it may take so long",
    "busy": "@tool(concurrency=…) of {name}",
    "budget": "Budget(depth=…, fan_out=…) of that pool",
    "quarantine": "understudy release {name}, when it is fit again",
    "too_large": "let {name} answer with less: a page, or a handle",
}
_ENDS: Final = (
    ("context window:", "ContextWindow(tokens=…), a model that takes more, or shorter instructions, pins or request"),
    ("handed on ", "the routes between these agents, or what makes one of them answer"),
    ("invalid output", "what the instructions say about the answer, its type, its checks; then Agent(repairs=…)"),
    ("an answer in state", "what the instructions say about the states; then Agent(repairs=…)"),
    ("model ", "Agent(model_tries=…), or a second model: Agent(fallback=…)"),
    ("abandoned", "the timeout of who asks; or Agent(on_abandon='finish'), 'park'"),
)
"""By the beginning of the reason that `decide` gives for an end."""
_CRASHED: Final = " crashed on it "


def judged(verdict: Verdict) -> str:
    """Where a loop is none."""
    off = f" or Loops(off=[{', '.join(repr(clean(name)) for name in verdict.tools)}])" if verdict.tools else ""
    return f"if this is no loop: a higher threshold than {clean(verdict.rule).replace('loops.', '')}{off}"


def denied(event: ev.BudgetDenied) -> str:
    """Where the limit stands."""
    owner = clean(event.pool.partition("@")[0])
    if event.closed:
        return "the model's adapter: it sends a cap that the provider does not keep"
    if event.unit.startswith(TOOL):
        return f"Budget(tools={{{clean(event.unit.removeprefix(TOOL))!r}: …}}) of {owner}"
    return f"Budget({clean(event.unit)}=…) of {owner}"


def given_up(event: ev.GaveUp) -> str:
    """Where the intensity stands; what made the child fail comes first."""
    return f"what ended {name_of(event.child)}; then Intensity(…) of {name_of(event.supervisor)} or of its ChildSpec"


def tool(name: str, kind: str) -> str:
    """What the tool declares."""
    return _TOOLS[kind].format(name=clean(name))


def doubted(effect: str) -> str:
    """How a call can be settled without a person."""
    return "" if effect == "verifiable" else "effect='verifiable' with a verify function, or 'keyed', settles itself"


def at_end(reason: str) -> str:
    """What the reason of an end is about; "" where a finding has said it, or nothing can be set."""
    if _CRASHED in reason:
        return "what raised: see the crashes above"
    return next((text for beginning, text in _ENDS if reason.startswith(beginning)), "")
