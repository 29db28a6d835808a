"""Agents that a guard has taken out of service: they take no request from anybody until a person releases them.

Which they are is a stream of the journal, so it holds for the processes that come after, too. What is new is refused
with the reason; what an agent has already waits, parked, and goes on when it is released.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from understudy.actors.errors import AgentQuarantined, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.lifecycle import Exit

if TYPE_CHECKING:
    from understudy.actors.agents.guards import Verdict
    from understudy.actors.agents.runs import Runs


def held_in(records: Iterable[ev.Record]) -> dict[str, ev.Quarantined]:
    """The agents that are in quarantine after these events of the stream, by name, longest first."""
    held: dict[str, ev.Quarantined] = {}
    for record in records:
        if isinstance(record.event, ev.Quarantined):
            held.setdefault(record.event.agent, record.event)
        elif isinstance(record.event, ev.Released):
            held.pop(record.event.agent, None)
    return held


class Quarantines:
    """Those of one node. `held` is by the name of the agent."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self.held: dict[str, ev.Quarantined] = {}

    async def load(self) -> None:
        """Take in what former processes have left."""
        if self._runs.journal.knows(ev.QUARANTINE):
            self.held = held_in(await self._runs.journal.read(ev.QUARANTINE))

    def begin(self, agent: str, run: str, seq: int, verdict: Verdict) -> None:
        """A verdict, just journalled, puts an agent into quarantine."""
        if agent not in self.held:
            event = ev.Quarantined(agent, run, seq, f"{verdict.rule}: {verdict.what}")
            self._runs.append(ev.QUARANTINE, event)
            self.held[agent] = event

    def why(self, agent: str) -> str:
        """Why an agent takes nothing, and what to do; "" when it does."""
        held = self.held.get(agent)
        if held is None:
            return ""
        return f"{agent} is quarantined since {held.run}:{held.seq} ({held.reason}); `understudy release {agent}`"

    def check(self, agent: str, path: str) -> None:
        """Raise `AgentQuarantined` for an agent that takes nothing."""
        if why := self.why(agent):
            raise AgentQuarantined(path, Exit("shutdown", why))

    def release(self, agent: str, by: str) -> None:
        """A person says that it may go on. Raises `UsageError` for an agent that is not in quarantine."""
        if agent not in self.held:
            raise UsageError(f"agent {agent!r} is not quarantined; quarantined: {', '.join(self.held) or 'none'}")
        self._runs.append(ev.QUARANTINE, ev.Released(agent, by))
        del self.held[agent]
