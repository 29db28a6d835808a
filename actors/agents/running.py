"""What runs an agent on its own: a place for the composition root, which puts itself here. Loads no agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

from understudy.actors.errors import UsageError

if TYPE_CHECKING:
    from understudy.actors.agents.agent import Agent
    from understudy.actors.agents.results import Result
    from understudy.actors.journal.events import Record


class Runner(Protocol):
    """What runs an agent on its own: the composition root."""

    async def run(
        self, agent: Agent[Any, Any], task: Any, journal: PathLike[str] | str | None, session: str | None
    ) -> Result[Any]:
        """Run once."""
        ...

    def stream(
        self, agent: Agent[Any, Any], task: Any, journal: PathLike[str] | str | None, session: str | None
    ) -> AsyncIterator[Record | Result[Any]]:
        """Run once, giving events."""
        ...


_installed: list[Runner] = []


def use_runner(runner: Runner) -> None:
    """Install the composition root that `Agent.run` and `Agent.stream` use, in place of a former one."""
    _installed[:] = [runner]


def runner() -> Runner:
    """The one that is installed. Raises `UsageError` when there is none."""
    if not _installed:
        raise UsageError("Agent.run needs the front door: import understudy")
    return _installed[0]
