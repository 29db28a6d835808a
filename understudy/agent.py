"""The public `Agent`: the inert description, and the shortest way to run it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from os import PathLike
from typing import Any, Generic, TypeVar

from understudy.actors.agents.agent import Agent as Description
from understudy.actors.agents.results import Result
from understudy.actors.journal.events import Record

O = TypeVar("O")  # noqa: E741  # the name that users see: output
M = TypeVar("M")


class Agent(Description[O, M], Generic[O, M]):
    __doc__ = Description.__doc__

    async def run(self, task: str | M, *, journal: PathLike[str] | str | None = None) -> Result[O]:
        """Run the agent once under an implicit supervisor with the default guards, in a system of its own.

        `task` is a message it accepts, or text for an agent that accepts `Prompt`. Without `journal` the run is kept in
        memory: a `waiting` result then says that it cannot be answered later. How the run ends is the result; raises
        `UsageError` and `JournalError` only.
        """
        from understudy.system import System

        async with System(self, journal=journal) as system:
            return await system.run(self, task)

    async def stream(
        self, task: str | M, *, journal: PathLike[str] | str | None = None
    ) -> AsyncIterator[Record | Result[O]]:
        """As `run`, giving every journalled event as it happens; the last item is the result."""
        from understudy.system import System

        async with System(self, journal=journal) as system:
            async for item in system.stream(self, task):
                yield item


AnyAgent = Agent[Any, Any]
