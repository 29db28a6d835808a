"""The conversation that a model sees, built from the folded state: pure, and the same on replay.

Instructions, then the request, then turn by turn the replies with their results, the notes that the runtime put in,
and what was wrong with an answer. `parts` are digests of the same, so that a difference can be named without
building or storing the text: each turn is digested once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from understudy.actors.agents.agent import Ctx
from understudy.actors.agents.models import ChatMessage, Model, ModelRequest, ToolCall
from understudy.actors.agents.policy import Policy
from understudy.actors.journal.state import CallState, Sub, Turn, digest

_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
REPAIR = "Your answer is not valid: {error}. Answer again with JSON that fits the schema, and nothing else."


def ctx_of(run: str, sub: Sub, policy: Policy) -> Ctx:
    """What hooks may look at."""
    return Ctx(run, policy.name, sub, policy.agent.decode(sub.message))


def instructions_of(run: str, sub: Sub, policy: Policy) -> str:
    """The instructions, from text or hook."""
    given = policy.agent.instructions
    return given if isinstance(given, str) else given(ctx_of(run, sub, policy))


def parts_of(run: str, sub: Sub, policy: Policy) -> dict[str, str]:
    """Digests of everything the request is made of."""
    return {
        "instructions": digest(instructions_of(run, sub, policy)),
        "request": digest(sub.message),
        "history": digest(*(turn.mark for turn in sub.turns)),
        "tools": policy.open_to(sub, sub.answered + 1).digest,
        "output": policy.output_digest,
        "options": digest(model_of(sub, policy).name, repr(temperature_of(sub, policy)), str(policy.agent.max_tokens)),
    }


def model_of(sub: Sub, policy: Policy) -> Model:
    """The model that is asked: the agent's own, or its fallback."""
    fallback = policy.agent.fallback
    return fallback if sub.switched and fallback is not None else policy.agent.model


def temperature_of(sub: Sub, policy: Policy) -> float | None:
    """The altered temperature, else the agent's own."""
    return sub.temperature if sub.temperature is not None else policy.agent.temperature


def request_of(run: str, sub: Sub, policy: Policy) -> ModelRequest:
    """The request itself."""
    agent = policy.agent
    messages = [ChatMessage("user", agent.prompt_of(agent.decode(sub.message)))]
    if text := instructions_of(run, sub, policy):
        messages.insert(0, ChatMessage("system", text))
    for turn in sub.turns:
        messages.extend(_messages_of(turn))
    return ModelRequest(
        tuple(messages),
        policy.open_to(sub, sub.answered + 1).schemas,
        _schema_of(sub, policy),
        temperature_of(sub, policy),
        agent.max_tokens,
    )


# A schema is nested JSON.
def _schema_of(sub: Sub, policy: Policy) -> dict[str, Any] | None:
    """The schema of an answer; None while the state of the agent's machine allows none."""
    final = policy.table is None or policy.table.rows[sub.state].final
    return policy.agent.output.schema if final else None


def _messages_of(turn: Turn) -> Iterator[ChatMessage]:
    shown = list(_shown(turn.calls))
    if turn.reply is not None:
        yield ChatMessage("assistant", turn.reply.content, tuple(shown))
    for state, call in zip(turn.calls, shown, strict=True):
        yield ChatMessage("tool", _told(state), call_id=call.id)
    if turn.rejected:
        yield ChatMessage("user", turn.told or REPAIR.format(error=turn.rejected))
    if turn.note:
        yield ChatMessage("user", turn.note)


def _shown(calls: Iterable[CallState]) -> Iterator[ToolCall]:
    """The calls as a provider takes them back: it refuses names it would not allow, and ids that are not unique."""
    ids: set[str] = set()
    for index, state in enumerate(calls):
        call = state.call
        id_ = call.id if call.id and call.id not in ids else f"{call.id[:32]}_{index}"
        ids.add(id_)
        yield ToolCall(id_, _FOREIGN.sub("_", call.name)[:64] or "_", call.arguments)


def _told(call: CallState) -> str:
    if call.ok:
        return call.outcome
    return f"error: {call.outcome or call.kind}"
