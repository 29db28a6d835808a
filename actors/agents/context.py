"""The conversation that a model sees, built from the folded state: pure, and the same on replay.

Instructions, then the request, then turn by turn the replies with their results, the notes that the runtime put in,
and what was wrong with an answer. `parts` are digests of the same, so that a difference can be named without
building or storing the text: each turn is digested once.
"""

from __future__ import annotations

from collections.abc import Iterator

from understudy.actors.agents.agent import Ctx
from understudy.actors.agents.models import ChatMessage, ModelRequest
from understudy.actors.agents.policy import Policy
from understudy.actors.journal.state import CallState, Sub, Turn, digest

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
        "tools": policy.tools_digest,
        "output": policy.output_digest,
        "options": digest(policy.agent.model.name, repr(temperature_of(sub, policy)), str(policy.agent.max_tokens)),
    }


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
        tuple(messages), policy.schemas, agent.output.schema, temperature_of(sub, policy), agent.max_tokens
    )


def _messages_of(turn: Turn) -> Iterator[ChatMessage]:
    if turn.reply is not None:
        yield ChatMessage("assistant", turn.reply.content, tuple(c.call for c in turn.calls))
    for call in turn.calls:
        yield ChatMessage("tool", _told(call), call_id=call.call.id)
    if turn.rejected:
        yield ChatMessage("user", REPAIR.format(error=turn.rejected))
    if turn.note:
        yield ChatMessage("user", turn.note)


def _told(call: CallState) -> str:
    if call.ok:
        return call.outcome
    return f"error: {call.outcome or call.kind}"
