"""Scripted agents as agents of ours: the model's side of `scripts`, and what its models have in common."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from benchmarks import scripts
from understudy import tool
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage

WORK = {ms: tool(effect="read")(scripts.work_of(ms)) for ms in (0, 1)}
"""The tool of a step, by the milliseconds it takes."""


class Scripted:
    """A model of this process that costs nothing, and its own session."""

    name = "scripted"
    price = None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """Nothing to open."""
        yield self


def spoken(said: scripts.Said, number: int) -> ModelReply:
    """What a script says, as a reply; `number` makes the id of a call."""
    usage = Usage(20, 20)
    if isinstance(said, str):
        return ModelReply(said, usage=usage)
    name, arguments = said
    return ModelReply("", (ToolCall(f"c{number}", name, json.dumps(arguments)),), usage=usage)


class Steps(Scripted):
    """The model of all agents of C2: it knows whose turn it is from the conversation."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """The next call, or the final value."""
        messages = request.messages
        k = len(messages) // 2  # the request, then a call and its result for every step
        return spoken(scripts.say(int(messages[0].content), k, self.steps, messages[-1].content), k)
