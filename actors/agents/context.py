"""The request that a model gets, built from the folded state: pure, and the same on replay.

Instructions and pins, then what the view shows (see `journal.view`): the request worked on and, turn by turn, replies
with their results, notes, and what was wrong with an answer. Nothing is built anew for old turns: a request copies
pointers, and its size and digests are sums and chains that the fold has kept. When it is too large for the agent's
window, `fit` says what is to be done first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from understudy.actors.agents.agent import Ctx
from understudy.actors.agents.commands import CallModel, Compact, Finish
from understudy.actors.agents.models import ChatMessage, Model, ModelRequest, input_cap
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.window import Pressed, Smaller, Summarise, Summary, saved_by
from understudy.actors.journal.state import Sub, digest
from understudy.actors.journal.view import Item, Spans, length, size_of, within

WRITE = "Write the summary now."
"""What a request for a summary ends with."""


def ctx_of(run: str, sub: Sub, policy: Policy) -> Ctx:
    """What hooks may look at."""
    return Ctx(run, policy.name, sub, policy.agent.decode(sub.message))


@dataclass(frozen=True, slots=True)
class Pins:
    """What stands before all else and never changes: instructions and the window's pins. `size`: tokens at most."""

    messages: tuple[ChatMessage, ...]
    size: int
    digest: str


def pins_of(run: str, sub: Sub, policy: Policy) -> Pins:
    """The pins, the instructions from text or hook."""
    given = policy.agent.instructions if sub.instructions is None else sub.instructions
    return made_pins(given if isinstance(given, str) else given(ctx_of(run, sub, policy)), policy)


def made_pins(text: str, policy: Policy) -> Pins:
    """The pins of one text of instructions; those of the newest are kept, since most agents have one."""
    kept = policy.kept.get(text)
    if kept is None:
        messages = tuple(ChatMessage("system", each) for each in (text, *policy.window.pins) if each)
        kept = Pins(messages, sum(size_of(message) for message in messages), digest(*(m.content for m in messages)))
        policy.kept.clear()
        policy.kept[text] = kept
    return kept


def parts_of(pins: Pins, sub: Sub, policy: Policy) -> dict[str, str]:
    """Digests of everything the request is made of."""
    return {
        "instructions": pins.digest,
        "history": sub.view.mark,
        "tools": policy.open_to(sub, sub.answered + 1).digest,
        "output": policy.output_digest,
        "options": policy.options(model_of(sub, policy), temperature_of(sub, policy)),
    }


def model_of(sub: Sub, policy: Policy) -> Model:
    """The model that is asked: the one it was restarted with, the agent's own, or its fallback.

    One that the agent has no more, since its code has changed, is passed over.
    """
    if sub.model and not sub.switched and (named := policy.agent.named(sub.model)) is not None:
        return named
    fallback = policy.agent.fallback
    return fallback if sub.switched and fallback is not None else policy.agent.model


def temperature_of(sub: Sub, policy: Policy) -> float | None:
    """The altered temperature, else the agent's own."""
    return sub.temperature if sub.temperature is not None else policy.agent.temperature


def size_now(pins: Pins, sub: Sub, policy: Policy) -> int:
    """`input_cap` of the request as it stands, from running sums."""
    schema = policy.output_size if _answers(sub, policy) else 0
    return pins.size + sub.view.size + policy.open_to(sub, sub.answered + 1).size + schema


def request_of(run: str, sub: Sub, policy: Policy) -> ModelRequest:
    """The request itself."""
    return ModelRequest(
        (*pins_of(run, sub, policy).messages, *sub.view.messages),
        policy.open_to(sub, sub.answered + 1).schemas,
        _schema_of(sub, policy),
        temperature_of(sub, policy),
        policy.agent.max_tokens,
    )


# A schema is nested JSON.
def _schema_of(sub: Sub, policy: Policy) -> dict[str, Any] | None:
    """The schema of an answer; None while the state of the agent's machine allows none."""
    return policy.agent.output.schema if _answers(sub, policy) else None


def _answers(sub: Sub, policy: Policy) -> bool:
    return policy.table is None or policy.table.rows[sub.state].final


# --- when it is too large --------------------------------------------------------------------------------


def fit(pins: Pins, sub: Sub, policy: Policy) -> Compact | CallModel | Finish | None:
    """What must be done before the model can be asked; None when the request fits the window.

    A `Finish` is without its checkpoint: that is the caller's to add.
    """
    limit = policy.limit
    if limit is None:
        return None
    view, window, size = sub.view, policy.window, size_now(pins, sub, policy)
    if view.tokens(size) <= window.at * limit or not view.items:
        return _too_large(pins, sub, policy, size, limit)
    goal, most = view.room(int(window.to * limit)), view.room(int(window.at * limit))
    pressed = Pressed(view, _free(sub, policy), view.items[-1].number, size, goal, most, limit)
    for rule in window.rules:
        plan = rule.plan(pressed)
        if isinstance(plan, Summary):
            return _summary(sub, policy, plan.covers)
        if plan is not None and (left := _smaller(pressed, plan)) < size:
            name = type(rule).__name__
            return Compact(name, plan.dropped, plan.text, plan.cuts, view.tokens(size), view.tokens(left))
    return _too_large(pins, sub, policy, size, limit)


def _free(sub: Sub, policy: Policy) -> list[Item]:
    """What rules may touch: no pinned item, and not the first exchanges that the window keeps, with their requests."""
    spared = policy.window.first
    free: list[Item] = []
    for item in sub.view.items:
        if spared and item.kind in ("exchange", "task"):
            spared -= item.kind == "exchange"
        elif not item.pinned:
            free.append(item)
    return free


def _smaller(pressed: Pressed, plan: Smaller) -> int:
    """The size of the request after what a rule wants; its own size when it wants what is not free."""
    gone = within(plan.dropped)
    free = {item.number: item for item in pressed.free}
    dropped = [item for item in pressed.view.items if gone(item.number)]
    if any(item.number not in free for item in dropped) or any(cut.number not in free for cut in plan.cuts):
        return pressed.size
    size = pressed.size - sum(item.size for item in dropped)
    if dropped and plan.text:
        size += size_of(ChatMessage("user", plan.text))
    return size - sum(saved_by(free[cut.number], cut) for cut in plan.cuts)


def _summary(sub: Sub, policy: Policy, covers: Spans) -> CallModel:
    rule = policy.window.summariser or Summarise()
    request = summary_of(sub, policy, covers)
    gone = within(covers)
    marks = [item.mark for item in sub.view.items if gone(item.number)]
    model = rule.model or model_of(sub, policy)
    parts = {"summary": digest(rule.prompt, *marks), "options": digest(model.name, str(rule.max_tokens))}
    tries = sub.view.summary_failures + 1
    return CallModel(sub.step, tries, parts, rule.max_tokens, input_cap(request), covers)


def summary_of(sub: Sub, policy: Policy, covers: Spans) -> ModelRequest:
    """The request for a summary: what it covers, each item as one text, and none longer than the rule allows."""
    rule = policy.window.summariser or Summarise()
    gone = within(covers)
    most = sub.view.room(rule.input or policy.limit or 0)
    texts = [_cut(_told(item.messages), most) for item in sub.view.items if gone(item.number)]
    messages = [ChatMessage("system", rule.prompt), *(ChatMessage("user", text) for text in texts)]
    return ModelRequest((*messages, ChatMessage("user", WRITE)), (), None, None, rule.max_tokens)


def _told(messages: Sequence[ChatMessage]) -> str:
    """An item as plain text."""
    lines: list[str] = []
    for message in messages:
        if message.content:
            lines.append(f"{message.role}: {message.content}")
        lines += [f"{message.role} calls {call.name}({call.arguments})" for call in message.calls]
    return "\n".join(lines)


def _cut(text: str, most: int) -> str:
    if length(text) <= most:
        return text
    data, half = text.encode("utf-8", "replace"), most // 2
    return f"{data[:half].decode('utf-8', 'ignore')}\n…\n{data[len(data) - half :].decode('utf-8', 'ignore')}"


def _too_large(pins: Pins, sub: Sub, policy: Policy, size: int, limit: int) -> Finish | None:
    """The end of a run whose request cannot be made to fit; None when it does, or may."""
    view = sub.view
    if view.likely(size) <= limit:
        return None
    pinned = sum(item.size for item in view.items if item.pinned)
    rest = view.size - pinned
    fixed = size - pins.size - view.size

    def told(part: int) -> int:
        return view.likely(size) * part // size

    reason = (
        f"context window: about {told(size)} tokens where {limit} fit: instructions and pins {told(pins.size)},"
        f" the request {told(pinned)}, tools and schema {told(fixed)},"
        f" and {told(rest)} of exchanges that no rule of the window makes smaller"
    )
    return Finish("failed", "", reason)
