"""Carrying out commands: intent to the journal, act, outcome to the journal.

Before a model call, and before any call that is not `read`, the intent is committed; the outcome of a call that is
not `read` is committed before the next command. A call that was cut by a crash is settled here too, by its effect:
`read` and `idempotent` run again, `keyed` again with the same key, `verifiable` asks, `irreversible` is in doubt.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import msgspec

from understudy.actors.agents.agent import Delegate
from understudy.actors.agents.context import request_of
from understudy.actors.agents.decide import CallModel, CallTools, PlannedCall, command_digest
from understudy.actors.agents.guards import Busy, Denied
from understudy.actors.agents.models import ModelReply, ModelRequest, input_cap
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.runs import Runs, delegate_outcome
from understudy.actors.agents.tools import RESULT_LIMIT, Call, Tool
from understudy.actors.errors import ModelError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import CallState, Run, Sub

MODEL_SECONDS: Final = 120.0
RETRY_FIRST: Final = 0.25
RETRY_CAP: Final = 30.0
ROOM_SECONDS: Final = 60.0
"""Seconds to wait for room in a pool at a time, when the run has no limit in seconds."""


class Acts:
    """The acts of one (sub-)run by one incarnation."""

    def __init__(self, runs: Runs, policy: Policy, run: Run, sub: Sub, path: str, incarnation: int) -> None:
        self._runs = runs
        self._policy = policy
        self._run = run
        self._sub = sub
        self._path = path
        self._incarnation = incarnation

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

    async def commit(self) -> None:
        """Wait until everything so far is committed."""
        await self._runs.journal.barrier()

    # -- budget --------------------------------------------------------------------------------------------

    async def _reserve(self, ticket: str, pools: tuple[str, ...], amounts: dict[str, int]) -> bool:
        """Take a reservation; False when it was denied, which is journalled."""
        while True:
            answer = self._runs.ledger.reserve(ticket, pools, amounts)
            if answer is None:
                return True
            if isinstance(answer, Denied):
                self.append(ev.BudgetDenied(**{f: getattr(answer, f) for f in answer.__struct_fields__}))
                return False
            assert isinstance(answer, Busy)  # noqa: S101  # the third of three
            if self.out_of_time():
                return False
            await self._runs.room(min(ROOM_SECONDS, self.seconds_left()))

    def _settle(self, ticket: str, spent: dict[str, int], reserved: dict[str, int]) -> dict[str, int]:
        """Settle with the ledger; the part of `spent` within the caps. Excess is journalled as a breach."""
        for breach in self._runs.settle(ticket, spent):
            self.append(ev.BudgetBreached(breach.pool, breach.unit, breach.over))
        return {unit: min(amount, reserved.get(unit, amount)) for unit, amount in spent.items()}

    def seconds_left(self) -> float:
        """Seconds the run may still be alive."""
        return self._runs.seconds_left(self._run, self._sub)[0]

    def out_of_time(self) -> bool:
        """Whether the run has used up its seconds; if so, that is journalled."""
        left, pool, limit = self._runs.seconds_left(self._run, self._sub)
        if left > 0:
            return False
        spent = math.ceil(self._runs.alive(self._run))
        self.append(ev.BudgetDenied(pool, "seconds", math.floor(limit), spent, 0, 0))
        return True

    # -- model ---------------------------------------------------------------------------------------------

    async def call_model(self, command: CallModel) -> None:
        """Make one call of the model."""
        request = request_of(self._run.id, self._sub, self._policy)
        ticket = f"{self._run.id}/{self._sub.id}:{command.step}#{self._run.seq}"
        pools = self._runs.pools_of(self._run, self._sub)
        reserved = self._caps(request, new_step=command.step > self._sub.step)
        if command.try_ > 1:
            await anyio.sleep(min(self._pause(command.try_), max(0.0, self.seconds_left())))
        if self.out_of_time() or not await self._reserve(ticket, pools, reserved):
            return
        self.append(
            ev.ModelAsked(
                command.step,
                command.parts,
                command.max_tokens,
                reserved,
                pools,
                ticket,
                command.try_,
                command_digest(command),
            )
        )
        await self.commit()
        await self._ask_model(command.step, ticket, request, reserved)

    def _caps(self, request: ModelRequest, *, new_step: bool) -> dict[str, int]:
        """The most this call can cost, in every unit: what is reserved."""
        tokens_in = input_cap(request)
        caps = {"steps": int(new_step), "model_calls": 1, "tokens": tokens_in + request.max_tokens}
        if (price := self._policy.agent.model.price) is not None:
            caps["usd"] = price.cost(tokens_in, request.max_tokens)
        return caps

    def _pause(self, try_: int) -> float:
        """Seconds before another try: what the provider asked for, else back-off with jitter."""
        failure = self._sub.last_failure
        if failure is not None and failure.retry_after is not None:
            return min(RETRY_CAP, failure.retry_after)
        return min(RETRY_CAP, RETRY_FIRST * 2.0 ** (try_ - 2)) * (0.5 + self._runs.dice.random())

    async def _ask_model(self, step: int, ticket: str, request: ModelRequest, reserved: dict[str, int]) -> None:
        session = self._runs.sessions[id(self._policy.agent.model)]
        began = self._runs.kernel.clock.monotonic()
        left = self.seconds_left()
        timeout = max(0.001, min(MODEL_SECONDS, left))
        try:
            reply: ModelReply = await session.complete(request, timeout=timeout)
        except ModelError as error:
            seconds = self._runs.kernel.clock.monotonic() - began
            self._model_failed(step, ticket, error, reserved, seconds)
            return
        except asyncio.CancelledError:
            self._interrupted(step, ticket, reserved)
            raise
        seconds = self._runs.kernel.clock.monotonic() - began
        spent = self._bill(reply, reserved)
        kept = self._settle(ticket, spent, reserved)
        self.append(ev.ModelAnswered(step, ticket, reply, kept, reply.usage is None, round(seconds, 6)))

    def _bill(self, reply: ModelReply, reserved: dict[str, int]) -> dict[str, int]:
        """What the call cost by the provider's count; the full cap when it did not count."""
        if reply.usage is None:
            return dict(reserved)
        tokens_in, tokens_out = reply.usage.input_tokens, reply.usage.output_tokens
        spent = {**reserved, "tokens": tokens_in + tokens_out}
        if (price := self._policy.agent.model.price) is not None:
            spent["usd"] = price.cost(tokens_in, tokens_out)
        return spent

    def _model_failed(
        self, step: int, ticket: str, error: ModelError, reserved: dict[str, int], seconds: float
    ) -> None:
        spent = dict(reserved) if error.sent else {"steps": reserved["steps"]}
        kept = self._settle(ticket, spent, reserved)
        event = ev.ModelFailed(
            step,
            ticket,
            error.kind,
            str(error),
            error.retryable,
            kept,
            error.sent,
            error.retry_after,
            round(seconds, 6),
        )
        self.append(event)
        self.out_of_time()

    def _interrupted(self, step: int, ticket: str, reserved: dict[str, int]) -> None:
        """The call was cut by a stop: what the provider billed is unknown, so the cap counts."""
        self._settle(ticket, dict(reserved), reserved)
        event = ev.ModelFailed(step, ticket, "interrupted", "cut by a stop", True, dict(reserved), estimated=True)
        self.append(event)

    # -- tools ---------------------------------------------------------------------------------------------

    async def call_tools(self, command: CallTools) -> None:
        """Make the calls of one group, together; returns when each has an outcome or its sub-run is parked."""
        if self.out_of_time() or not self._still_valid(command.calls):
            return
        intents = await self._intents(command.calls)
        if intents is None:
            return
        if any(event.effect != "read" for event in intents):
            await self.commit()
        if len(intents) == 1:
            await self._act(command.calls[0], intents[0])
            return
        async with anyio.create_task_group() as group:
            for planned, event in zip(command.calls, intents, strict=True):
                group.start_soon(self._act, planned, event)

    def _still_valid(self, calls: tuple[PlannedCall, ...]) -> bool:
        """A yes is checked again at use: an expired one is refused, whoever gave it."""
        for planned in calls:
            if planned.approval:
                yes = self._run.approvals[planned.approval]
                if yes.asked.expires <= self._runs.kernel.clock.wall():
                    self.append(ev.ApprovalRefused(yes.id, "clock", "the yes expired before it was used"))
                    return False
        return True

    async def _intents(self, calls: tuple[PlannedCall, ...]) -> list[ev.ToolAsked] | None:
        """Reserve for all calls or for none, then journal the intents."""
        pools = self._runs.pools_of(self._run, self._sub)
        prefix = f"{self._run.id}/{self._sub.id}:{calls[0].step}#{self._run.seq}"
        if not await self._reserve(prefix, pools, {"tool_calls": len(calls)}):
            return None
        self._runs.ledger.settle(prefix, {"tool_calls": len(calls)})
        events: list[ev.ToolAsked] = []
        for planned in calls:
            number = self._runs.next_sub(self._run) if planned.delegate else 0
            event = ev.ToolAsked(
                planned.step,
                planned.index,
                planned.name,
                planned.arguments,
                planned.effect,
                planned.loop_key,
                planned.polling,
                planned.key,
                planned.approval,
                number,
                f"{prefix}.{planned.index}",
                {"tool_calls": 1},
                pools,
                command_digest(planned),
            )
            self.append(event)
            events.append(event)
        return events

    async def _act(self, planned: PlannedCall, event: ev.ToolAsked) -> None:
        if planned.delegate:
            self._begin_delegate(event, planned.delegate, planned.message)
            await self.await_delegate(event)
        else:
            await self.run_tool(event)

    async def run_tool(self, event: ev.ToolAsked) -> None:
        """Run a tool whose intent is journalled, and journal what came of it."""
        act = self._policy.acts[event.name]
        assert isinstance(act, Tool)  # noqa: S101  # delegates go elsewhere
        began = self._runs.kernel.clock.monotonic()
        outcome = await self._try_tool(act, event)
        seconds = round(self._runs.kernel.clock.monotonic() - began, 6)
        if outcome is None:
            self.doubt(event)
        else:
            self.append(msgspec.structs.replace(outcome, seconds=seconds))
        if event.effect != "read":
            await self.commit()

    async def _try_tool(self, act: Tool[..., Any], event: ev.ToolAsked) -> ev.ToolAnswered | ev.ToolFailed | None:
        """The outcome after the allowed tries; None when nobody can say whether it happened."""
        arguments, error = act.bind(event.arguments)
        if arguments is None:
            return ev.ToolFailed(event.step, event.index, "arguments", error)
        kind, text = "error", ""
        for number in range(act.retries + 1):
            call = Call(event.key, self._sub.attempt, self._recorded(event), self._recorder(event))
            kind, text = await self._once(act, call, arguments)
            if not kind:
                return ev.ToolAnswered(event.step, event.index, text)
            if kind == "timeout" and act.effect in ("irreversible", "verifiable"):
                return None
            if number < act.retries:
                await anyio.sleep(min(RETRY_CAP, RETRY_FIRST * 2.0**number))
        return ev.ToolFailed(event.step, event.index, kind, text)

    def _recorded(self, event: ev.ToolAsked) -> dict[str, str]:
        state = self._sub.find(event.step, event.index)
        return dict(state.recorded) if state is not None else {}

    def _recorder(self, event: ev.ToolAsked) -> Callable[[str, str], Awaitable[None]]:
        async def record(name: str, result: str) -> None:
            self.append(ev.ToolStepped(event.step, event.index, name, result))
            await self.commit()

        return record

    async def _once(self, act: Tool[..., Any], call: Call, arguments: dict[str, Any]) -> tuple[str, str]:
        """One try: ("", JSON) or (kind, error text)."""
        function = (
            functools.partial(act.fn, call, **arguments) if act.takes_call else functools.partial(act.fn, **arguments)
        )
        seconds = max(0.001, min(act.timeout, self.seconds_left()))
        try:
            with anyio.fail_after(seconds):
                if act.is_async:
                    value = await function()
                else:
                    value = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
            text = msgspec.json.encode(value).decode()
        except TimeoutError:
            return "timeout", f"no result within {seconds:g} s"
        except Exception as error:
            return type(error).__name__, f"{type(error).__name__}: {error}"
        if len(text) > RESULT_LIMIT:
            return "too_large", f"the result has {len(text)} bytes, the limit is {RESULT_LIMIT}"
        return "", text

    def doubt(self, event: ev.ToolAsked) -> None:
        """Nobody knows whether the call happened: a person settles it."""
        name = f"{self._run.id}-d{len(self._run.doubts) + 1}"
        self.append(ev.InDoubt(name, event.step, event.index, event.name, event.arguments, event.effect, event.key))

    # -- delegates -----------------------------------------------------------------------------------------

    def _begin_delegate(self, event: ev.ToolAsked, agent: str, message: str) -> None:
        accepts = self._runs.policy(agent).agent.accepts.__name__
        started = ev.SubStarted(self._sub.id, event.step, event.index, agent, accepts, message)
        self._runs.begin_sub(self._run, event.sub, started)

    async def await_delegate(self, event: ev.ToolAsked) -> None:
        """Wait for a sub-run; its result is the tool's. A parked one leaves the call open."""
        if event.sub not in self._run.subs:  # the intent was journalled, the sub-run was not
            act = self._policy.acts[event.name]
            assert isinstance(act, Delegate)  # noqa: S101  # a ToolAsked with a sub-run
            self._begin_delegate(event, act.agent.name, act.message(event.arguments)[0])
        await self._runs.settled(self._run.id, event.sub)
        child = self._run.subs[event.sub]
        if child.finished is not None:
            self.append(delegate_outcome(child, child.finished))

    # -- after a crash -------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Settle what was in flight when the former incarnation or process ended."""
        asking = self._sub.asking
        if asking is not None:
            self._runs.ledger.reserve(asking.ticket, asking.pools, asking.reserved)
            self._forfeit(asking)
        turn = self._sub.last
        while turn is not None and turn.reply is None:  # notes come after the turn they speak of
            turn = next((t for t in reversed(self._sub.turns) if t.reply is not None), None)
        open_calls = [c for c in turn.calls if c.asked is not None and not c.done] if turn is not None else []
        async with anyio.create_task_group() as group:
            for state in open_calls:
                group.start_soon(self._recover_call, state)

    def _forfeit(self, asking: ev.ModelAsked) -> None:
        spent = dict(asking.reserved)
        try:
            self._runs.settle(asking.ticket, spent)
        except ValueError:  # the pool had no room for it: then it is only booked in the journal
            pass
        text = "in flight when the former process or incarnation ended"
        self.append(ev.ModelFailed(asking.step, asking.ticket, "interrupted", text, True, spent, estimated=True))

    async def _recover_call(self, state: CallState) -> None:
        event = cast("ev.ToolAsked", state.asked)
        if state.doubt:
            return
        if event.sub:
            await self.await_delegate(event)
        elif event.effect in ("read", "idempotent", "keyed"):
            await self.run_tool(event)
        elif event.effect == "verifiable":
            await self._verify(event)
        else:
            self.doubt(event)
            await self.commit()

    async def _verify(self, event: ev.ToolAsked) -> None:
        """Ask the tool whether the call happened; when it cannot say, a person must."""
        act = self._policy.acts[event.name]
        assert isinstance(act, Tool)  # noqa: S101  # delegates are `read`
        arguments, _ = act.bind(event.arguments)
        happened: bool | None = None
        try:
            with anyio.fail_after(act.timeout):
                happened = await act.verified(arguments or {})
        except Exception as error:
            self._runs.kernel.telemetry.flight(self._path, "verify failed", f"{type(error).__name__}: {error}")
        self.doubt(event)
        if happened is not None:
            name = list(self._run.doubts)[-1]
            self.append(ev.DoubtSettled(name, happened, "verify"))
        await self.commit()
