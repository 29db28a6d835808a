"""Gives `Agent.run` and `Agent.stream` a system to run in. Loads no agent by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from os import PathLike
from typing import TYPE_CHECKING, Any

from understudy.actors.agents.running import use_runner

if TYPE_CHECKING:
    from understudy.actors.agents.agent import Agent
    from understudy.actors.agents.results import Result
    from understudy.actors.journal.events import Record


class _OneSystemEach:
    """Every run gets a system of its own."""

    # The agent's own types are known to the caller only.
    async def run(
        self, agent: Agent[Any, Any], task: Any, journal: PathLike[str] | str | None, session: str | None
    ) -> Result[Any]:
        from understudy.system import System

        async with System(agent, journal=journal) as system:
            return await system.run(agent, task, session=session)

    async def stream(
        self, agent: Agent[Any, Any], task: Any, journal: PathLike[str] | str | None, session: str | None
    ) -> AsyncIterator[Record | Result[Any]]:
        from understudy.system import System

        async with System(agent, journal=journal) as system:
            async for item in system.stream(agent, task, session=session):
                yield item


def install() -> None:
    """From now on each of them makes a system of its own."""
    use_runner(_OneSystemEach())
