"""Delegations to agents of other nodes: their escrows, and what comes of them. What is said is in `elsewhere`."""

from __future__ import annotations

from typing import Any

from understudy.actors.agents.agent import Delegate
from understudy.actors.agents.commands import PlannedCall
from understudy.actors.agents.elsewhere import Elsewhere, Far, ask_elsewhere
from understudy.actors.agents.paying import Paying
from understudy.actors.agents.redacting import sealed_result
from understudy.actors.journal import events as ev


class Delegating(Paying):
    """The part of the acts of one (sub-)run that other nodes carry out."""

    def now(self) -> float:
        """The monotonic clock, in seconds."""
        return self._runs.kernel.clock.monotonic()

    @property
    def scope(self) -> str:
        """Where the secrets of the run are remembered."""
        return self._runs.scope(self._run.id)

    def _intent(self, event: ev.ToolAsked) -> int:
        """The number of the event that says that the call is made: the cause of what comes of it."""
        state = self._sub.find(event.step, event.index)
        return state.seq if state is not None else self._sub.seq

    # Arguments and results are whatever JSON the tool takes and gives.
    def sealed(self, value: Any, text: bytes) -> bytes:
        """The JSON of what a tool gave, without its secrets."""
        return sealed_result(self._runs.redactor, self.scope, value, text)

    async def escrows(self, prefix: str, calls: tuple[PlannedCall, ...]) -> list[dict[str, int]] | None:
        """Reserve the escrows of delegations to other nodes, all or none: what each takes. None when it was denied."""
        escrows = [far.limits if (far := self._far(planned.name)) is not None else {} for planned in calls]
        taken: list[str] = []
        for planned, escrow in zip(calls, escrows, strict=True):
            ticket = f"{prefix}.{planned.index}"
            if escrow and not await self._reserve(ticket, self._chain.pools, escrow):
                for each in taken:
                    self._runs.settle(each, {})
                return None
            if escrow:
                taken.append(ticket)
        return escrows

    def _far(self, name: str) -> Elsewhere | None:
        act = self._policy.acts.get(name)
        return act.far if isinstance(act, Delegate) else None

    async def ask_elsewhere(self, act: Delegate, far: Elsewhere, event: ev.ToolAsked) -> None:
        """Delegate to another node, and put what was spent there in the place of the escrow."""
        began = self.now()
        told = await ask_elsewhere(self, act, far, event)
        units = {unit: amount for unit, amount in event.reserved.items() if unit not in far.limits}
        spent = {**units, **told.spent}
        self._runs.return_escrow(event, far.limits, told.spent)
        seconds = round(self.now() - began, 6)
        at = event.step, event.index
        if told.kind:
            self.append(ev.ToolFailed(*at, told.kind, told.error, seconds, spent, told.estimated), self._intent(event))
        else:
            result = self.sealed(None, told.result.encode()).decode()
            self.append(ev.ToolAnswered(*at, result, seconds, spent, told.estimated), self._intent(event))

    @property
    def far(self) -> Far:
        """Finds addresses of other nodes."""
        return self._runs.far

    @property
    def node(self) -> str:
        """The name of this node, "" without others."""
        nodes = self._runs.kernel.nodes
        return "" if nodes is None else nodes.name

    @property
    def resting(self) -> bool:
        """Whether the system closes: the run goes on later."""
        return self._runs.closing

    @property
    def to_stop(self) -> bool:
        """Whether the run was asked to stop."""
        return self._run.stop is not None

    def place_of(self, event: ev.ToolAsked) -> str:
        """The place of a call, for another node."""
        return f"{self.node}/{self._run.id}:{self._intent(event)}"

    def traceparent_of(self, event: ev.ToolAsked) -> str:
        """The trace that a call belongs to."""
        return self._run.trace.header(self._run.id, self._intent(event))
