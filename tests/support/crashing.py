"""A scripted model whose adapter also breaks: an exception among the replies is raised, and crashes the agent."""

from __future__ import annotations

from collections.abc import Sequence

from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.testing.scripted_model import ScriptedModel


class CrashingModel(ScriptedModel):
    """`replies` as those of `ScriptedModel`; an exception that is no `ModelError` is raised as it is."""

    def __init__(self, replies: Sequence[object]) -> None:
        self._crashes = [reply if isinstance(reply, RuntimeError) else None for reply in replies]
        self.asked: list[ModelRequest] = []
        super().__init__([reply for reply in replies if not isinstance(reply, RuntimeError)])

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """See `ScriptedModel.complete`."""
        self.asked.append(request)
        crash = self._crashes.pop(0) if self._crashes else None
        if crash is not None:
            raise crash
        return await super().complete(request, timeout=timeout)
