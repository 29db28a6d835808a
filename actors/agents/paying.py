"""What one (sub-)run pays for its acts: caps reserved before, bills settled after, and what it is told of its budgets.

At the start of each turn at the (sub-)run, tokens for a last answer are set aside if a budget says so, and returned
when the turn ends: what is parked holds nothing. Nobody waits for what is set aside.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Final

from understudy.actors.agents.chains import Chain, cost
from understudy.actors.agents.commands import CallModel
from understudy.actors.agents.concluding import LAST, last_request, last_tokens
from understudy.actors.agents.context import model_of, request_of
from understudy.actors.agents.guards import TOOL, Busy, Denied, said
from understudy.actors.agents.models import ChatMessage, Model, ModelReply, ModelRequest
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.runs import Runs
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run, Sub

ROOM_SECONDS: Final = 60.0
"""Seconds to wait for room in a pool at a time, when the run has no limit in seconds."""
LOW: Final = (
    "Note from the supervisor: {left} of {limit} {unit} are left in budget {pool}. Come to an end with them, or answer"
    " with what you have."
)


class Paying:
    """The money side of one incarnation at one (sub-)run."""

    def __init__(self, runs: Runs, policy: Policy, run: Run, sub: Sub, path: str, incarnation: int) -> None:
        self._runs = runs
        self._policy = policy
        self._run = run
        self._sub = sub
        self._path = path
        self._incarnation = incarnation
        self._aside = ""

    def append(self, event: ev.AnyEvent, cause: int = 0) -> ev.Record:
        """Journal an event in this incarnation's name."""
        return self._runs.append(
            self._run.id,
            event,
            sub=self._sub.id,
            path=self._path,
            incarnation=self._incarnation,
            cause=cause or self._sub.seq,
        )

    @functools.cached_property
    def _chain(self) -> Chain:
        """What it is charged to: the same for as long as the (sub-)run is at this agent."""
        chain = self._runs.chain_of(self._run, self._sub)
        if chain.missing:
            self._runs.policy(chain.missing)
        return chain

    # -- time ----------------------------------------------------------------------------------------------

    def seconds_left(self) -> float:
        """Seconds the run may still be alive."""
        return self._runs.seconds_left(self._run, self._chain)[0]

    def out_of_time(self) -> bool:
        """Whether the run has used up its seconds; if so, that is journalled."""
        denied = self._runs.late(self._run, self._chain)
        if denied is not None:
            self.append(denied)
        return denied is not None

    def state_left(self) -> float:
        """Seconds until the state of the agent's machine times out; infinity without a timeout."""
        return self._sub.until - self._runs.kernel.clock.wall() if self._sub.until else math.inf

    def _unwanted(self) -> bool:
        """Whether what is not begun yet must not begin: the system closes, a stop was asked for, the state is over."""
        return self._runs.closing or self._run.stop is not None or self.state_left() <= 0

    # -- reservations --------------------------------------------------------------------------------------

    async def _reserve(
        self, ticket: str, pools: tuple[str, ...], amounts: dict[str, int], *, summary: bool = False
    ) -> bool:
        """Take a reservation; False when it was denied, which is journalled. A run goes on without a summary."""
        answer = self._runs.reserve(ticket, pools, amounts)
        if isinstance(answer, Busy):
            return await self._wait_for_room(ticket, pools, amounts, answer, summary=summary)
        if answer is not None:
            self._denied(answer, summary=summary)
        return answer is None

    async def take(
        self, ticket: str, amounts: dict[str, int], still: Callable[[], bool] | None = None
    ) -> tuple[str, ...] | None:
        """Spend amounts that are known beforehand: the pools that were charged, None when it was denied.

        There may be no room for a long time. `still` is asked then: False gives back what was taken, and None.
        """
        pools = self._chain.pools
        if not await self._reserve(ticket, pools, amounts):
            return None
        if still is not None and not still():
            self._runs.settle(ticket, {})
            return None
        self._runs.settle(ticket, amounts)
        return pools

    async def _wait_for_room(
        self, ticket: str, pools: tuple[str, ...], amounts: dict[str, int], busy: Busy, *, summary: bool
    ) -> bool:
        waited = ""
        answer: Busy | Denied | None = busy
        try:
            while isinstance(answer, Busy):
                if self.out_of_time() or self._unwanted():
                    return False
                seconds = min(ROOM_SECONDS, answer.after, self.seconds_left(), self.state_left())
                first, former, waited = answer.pool == waited, waited, answer.pool
                if former and not first:
                    self._runs.pass_on(former)
                await self._runs.room(waited, max(0.0, seconds), first=first)
                answer = self._runs.reserve(ticket, pools, amounts)
        finally:
            if waited:
                self._runs.pass_on(waited)
        if answer is not None:
            self._denied(answer, summary=summary)
        return answer is None

    def _denied(self, answer: Denied, *, summary: bool) -> None:
        """Journal it; with tokens set aside, and room in them for what must be said, the agent is asked to answer."""
        if summary:
            self.append(ev.SummaryDenied(answer.pool, answer.unit))
            return
        fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
        note = LAST.format(pool=answer.pool, unit=said(answer.unit), spent=answer.spent, limit=answer.limit)
        if answer.closed or not self._aside or not self._may_conclude(note):
            self.append(ev.BudgetDenied(**fields))
        else:
            self.append(ev.BudgetDenied(**fields, answer=self._chain.last_answer, note=note))

    def _may_conclude(self, note: str) -> bool:
        table = self._policy.table
        if table is not None and not table.rows[self._sub.state].final:
            return False
        request = request_of(self._run.id, self._sub, self._policy)
        messages = (*request.messages, ChatMessage("user", note))
        asked = ModelRequest(messages, (), request.output_schema, request.temperature, request.max_tokens)
        return last_request(asked, self._chain.last_answer) is not None

    def _settle(self, ticket: str, spent: dict[str, int], reserved: dict[str, int]) -> dict[str, int]:
        """Settle with the ledger; what counts as spent. Excess in a limited unit is journalled as a breach instead."""
        breaches = self._runs.settle(ticket, spent)
        if not breaches:
            return spent
        for breach in breaches:
            self.append(ev.BudgetBreached(breach.pool, breach.unit, breach.over))
        capped = {breach.unit for breach in breaches}
        return {unit: min(amount, reserved[unit]) if unit in capped else amount for unit, amount in spent.items()}

    def _caps(self, model: Model, command: CallModel, *, new_step: bool) -> dict[str, int]:
        """The most this call can cost, in every unit: what is reserved."""
        return cost(model, command.size, command.max_tokens, steps=int(new_step))

    def _bill(self, model: Model, reply: ModelReply, reserved: dict[str, int]) -> dict[str, int]:
        """What the call cost by the provider's count; the full cap when it did not count."""
        if reply.usage is None:
            return dict(reserved)
        return cost(model, reply.usage.input_tokens, reply.usage.output_tokens, steps=reserved["steps"])

    def _call_units(self, names: list[str]) -> tuple[dict[str, int], list[dict[str, int]]]:
        """What calls of these tools cost together, and each."""
        limited = self._chain.tools
        each = [{"tool_calls": 1, TOOL + name: 1} if TOOL + name in limited else {"tool_calls": 1} for name in names]
        total = {"tool_calls": len(names)}
        for name in names:
            if TOOL + name in limited:
                total[TOOL + name] = total.get(TOOL + name, 0) + 1
        return total, each

    # -- what is left --------------------------------------------------------------------------------------

    def tell_what_is_left(self) -> bool:
        """Journal which limits have come near since the agent was last told; whether there is one."""
        known = self._sub.lows
        found = self._runs.low(self._run, self._chain)
        fresh = [low for low in found if (low.pool, low.unit) not in known] if found else ()
        for low in fresh:
            left = max(0, low.limit - low.spent)
            note = LOW.format(left=left, limit=low.limit, unit=said(low.unit), pool=low.pool)
            self.append(ev.BudgetLow(low.pool, low.unit, low.limit, low.spent, note))
        return bool(fresh)

    # -- the last answer -----------------------------------------------------------------------------------

    def set_aside(self) -> None:
        """Reserve what a last answer may cost, if a budget wants one and there is room for it now."""
        tokens = self._chain.last_answer
        if not tokens or self._sub.finished is not None or self._sub.concluding:
            return
        most = last_tokens(self._policy.agent.max_tokens, tokens)
        ticket = f"{self._run.id}/{self._sub.id}:last#{self._run.seq}"
        amounts = self._cost_of(tokens - most, most, steps=1)
        if self._runs.reserve(ticket, self._chain.pools, amounts, keep=True) is None:
            self._aside = ticket

    def give_back(self) -> None:
        """Return what was set aside and not used."""
        ticket, self._aside = self._aside, ""
        if ticket:
            with contextlib.suppress(UsageError):
                self._runs.settle(ticket, {})

    def _use_aside(self) -> tuple[str, ModelRequest, dict[str, int]] | None:
        """(ticket, request, what is reserved) of the last answer; None when nothing could be set aside again."""
        tokens = self._chain.last_answer
        request = last_request(request_of(self._run.id, self._sub, self._policy), tokens)
        if not self._aside or request is None:
            return None
        ticket, self._aside = self._aside, ""
        return ticket, request, self._cost_of(tokens - request.max_tokens, request.max_tokens, steps=1)

    def _cost_of(self, tokens_in: int, tokens_out: int, *, steps: int) -> dict[str, int]:
        return cost(model_of(self._sub, self._policy), tokens_in, tokens_out, steps=steps)
