"""Carrying out commands: intent to the journal, act, outcome to the journal.

Before a model call, and before any call that is not `read`, the intent is committed. What came of a call that is not
`read` is committed at once, and before the next act of any kind; it rides with the intent of that, if it has one. A
call that was cut by a crash is settled here too, by its effect: `read` and `idempotent` run again, `keyed` again with
the same key, `verifiable` asks, `irreversible` is in doubt.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import msgspec

from understudy.actors.agents.agent import Agent, Delegate
from understudy.actors.agents.commands import CallModel, CallTools, PlannedCall, command_digest
from understudy.actors.agents.context import model_of, request_of, summary_of
from understudy.actors.agents.delegating import Delegating
from understudy.actors.agents.models import Model, ModelRequest
from understudy.actors.agents.outcomes import delegate_outcome
from understudy.actors.agents.redacting import sealed_reply
from understudy.actors.agents.replies import checked
from understudy.actors.agents.tools import Call, Tool, described
from understudy.actors.agents.trying import try_tool
from understudy.actors.errors import JournalError, ModelError, ModelTimeout
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import CallState

MODEL_SECONDS: Final = 120.0
RETRY_FIRST: Final = 0.25
RETRY_CAP: Final = 30.0
STEP_RETRIES: Final = 8
"""Further tries that all calls of one model step have together."""


class Acts(Delegating):
    """The acts of one (sub-)run by one incarnation."""

    _retried = (0, 0)
    _outcomes = _committed = 0
    """Outcomes of calls that do not only read, and how many of them are committed for sure."""

    def slots(self, act: Tool[..., Any]) -> anyio.CapacityLimiter | None:
        """The places that a tool with a limit has in this system; None without one."""
        return self._runs.slots_of(act)

    @property
    def agent(self) -> Agent[Any, Any]:
        """Whose acts they are."""
        return self._policy.agent

    def ticket(self, step: int) -> str:
        """A name for a reservation that no other has had."""
        return f"{self._run.id}/{self._sub.id}:{step}#{self._run.seq}"

    async def commit(self) -> None:
        """Wait until everything so far is committed."""
        outcomes = self._outcomes
        await self._runs.journal.barrier()
        self._committed = max(self._committed, outcomes)

    async def commit_outcomes(self) -> None:
        """Wait until what came of earlier acts is committed, if one did not only read: before another act begins."""
        if self._committed < self._outcomes:
            await self.commit()

    def look_at_clock(self) -> None:
        """Journal that the state has timed out, once."""
        if self._sub.until and not self._sub.expired and self.state_left() <= 0:
            self.append(ev.StateTimedOut(self._sub.state, self._sub.until))

    # -- model ---------------------------------------------------------------------------------------------

    async def call_model(self, command: CallModel) -> None:
        """Make one call of the model; none when there is something to tell the agent before."""
        if command.last:
            await self._conclude(command)
            return
        model, summary = self._model_of(command), bool(command.covers)
        if not summary and self.tell_what_is_left():
            return
        request = (
            summary_of(self._sub, self._policy, command.covers)
            if summary
            else request_of(self._run.id, self._sub, self._policy)
        )
        ticket = self.ticket(command.step)
        pools = self._chain.pools
        reserved = self._caps(model, command, new_step=command.step > self._sub.step)
        if command.try_ > 1:
            left = max(0.0, min(self.seconds_left(), self.state_left()))
            await self._runs.pause(min(self._pause(command.try_), left))
            if self._unwanted():
                return
        if self.out_of_time() or not await self._reserve(ticket, pools, reserved, summary=summary):
            return
        await self._send(command, ticket, model, request, reserved)

    async def _conclude(self, command: CallModel) -> None:
        """The one call at a limit, paid from what was set aside; without that the (sub-)run is stopped."""
        aside = self._use_aside() if not self.out_of_time() else None
        if aside is not None:
            ticket, request, reserved = aside
            await self._send(command, ticket, self._model_of(command), request, reserved)
        elif self._sub.denied is not None and self._sub.denied.answer:
            self.append(msgspec.structs.replace(self._sub.denied, answer=0, note=""))

    async def _send(
        self, command: CallModel, ticket: str, model: Model, request: ModelRequest, reserved: dict[str, int]
    ) -> None:
        record = self.append(
            ev.ModelAsked(
                command.step,
                command.parts,
                command.max_tokens,
                reserved,
                self._chain.pools,
                ticket,
                command.try_,
                command_digest(command),
                command.last,
                command.size,
                command.covers,
            )
        )
        try:
            await self.commit()
        except BaseException:  # no byte has left
            self._interrupted(command.step, ticket, reserved, {"steps": reserved["steps"]})
            raise
        request = msgspec.structs.replace(request, traceparent=self._run.trace.header(record.run, record.seq))
        await self._ask_model(command.step, ticket, model, request, reserved)

    def _model_of(self, command: CallModel) -> Model:
        """Who is asked: for a summary, the model that the window names, if it does."""
        summariser = self._policy.window.summariser if command.covers else None
        return (summariser.model if summariser is not None else None) or model_of(self._sub, self._policy)

    def _pause(self, try_: int) -> float:
        """Seconds before another try: what the provider asked for, else back-off with jitter."""
        failure = self._sub.last_failure
        if failure is not None and failure.retry_after is not None:
            return min(RETRY_CAP, failure.retry_after)
        return min(RETRY_CAP, RETRY_FIRST * 2.0 ** (try_ - 2)) * (0.5 + self._runs.dice.random())

    async def _ask_model(
        self, step: int, ticket: str, model: Model, request: ModelRequest, reserved: dict[str, int]
    ) -> None:
        session = self._runs.sessions[id(model)]
        began = self.now()
        timeout = max(0.001, min(MODEL_SECONDS, self.seconds_left(), self.state_left()))
        try:
            reply = checked(await session.complete(request, timeout=timeout))
            reply = sealed_reply(self._runs.redactor, self.scope, self._policy, reply)
        except ModelError as error:
            if isinstance(error, ModelTimeout) and self.state_left() <= 0:
                text = f"cut when state {self._sub.state!r} timed out"
                self._interrupted(step, ticket, reserved, dict(reserved), text)
                return
            seconds = self.now() - began
            self._model_failed(step, ticket, error, reserved, seconds)
            return
        except BaseException as error:
            text = f"its adapter raised {described(error)}" if isinstance(error, Exception) else "cut by a stop"
            self._interrupted(step, ticket, reserved, dict(reserved), text)
            raise
        seconds = self.now() - began
        spent = self._bill(model, reply, reserved)
        kept = self._settle(ticket, spent, reserved)
        self.append(ev.ModelAnswered(step, ticket, reply, kept, reply.usage is None, round(seconds, 6)))

    def _model_failed(
        self, step: int, ticket: str, error: ModelError, reserved: dict[str, int], seconds: float
    ) -> None:
        unknown = error.sent and not error.refused
        calls = {"model_calls": 1} if error.sent else {}
        spent = dict(reserved) if unknown else {"steps": reserved["steps"], **calls}
        kept = self._settle(ticket, spent, reserved)
        event = ev.ModelFailed(
            step,
            ticket,
            error.kind,
            str(error),
            error.retryable,
            kept,
            unknown,
            error.retry_after,
            round(seconds, 6),
        )
        self.append(event)
        self.out_of_time()

    def _interrupted(
        self, step: int, ticket: str, reserved: dict[str, int], spent: dict[str, int], text: str = "cut by a stop"
    ) -> None:
        """The call was cut: when it was sent, what the provider billed is unknown, and the cap counts."""
        kept = self._settle(ticket, spent, reserved)
        event = ev.ModelFailed(step, ticket, "interrupted", text, True, kept, estimated=spent == reserved)
        with contextlib.suppress(JournalError):  # the next incarnation or process finds the call open, and says so
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
        else:
            await self.commit_outcomes()
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
        prefix = self.ticket(calls[0].step)
        total, each = self._call_units([planned.name for planned in calls])
        pools = await self.take(prefix, total, lambda: self._still_valid(calls))
        if pools is None:
            return None
        events: list[ev.ToolAsked] = []
        escrows = await self.escrows(prefix, calls)
        if escrows is None:
            return None
        for planned, reserved, escrow in zip(calls, each, escrows, strict=True):
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
                {**reserved, **escrow},
                pools,
                command_digest(planned),
            )
            self.append(event)
            events.append(event)
        return events

    async def _act(self, planned: PlannedCall, event: ev.ToolAsked) -> None:
        if planned.delegate:
            if self._begin_delegate(event, planned.delegate, planned.message):
                await self.await_delegate(event)
        else:
            await self.run_tool(event)

    async def run_tool(self, event: ev.ToolAsked) -> None:
        """Run a tool whose intent is journalled, and journal what came of it."""
        act = self._policy.acts.get(event.name)
        if isinstance(act, Delegate) and act.far is not None:
            await self.ask_elsewhere(act, act.far, event)
            self._outcomes += 1
            self._runs.journal.hasten()
            return
        outcome = await try_tool(self, act, event) if isinstance(act, Tool) else _without_tool(event)
        if outcome is None:
            self.doubt(event)
        else:
            self.append(outcome, self._intent(event))
        if event.effect != "read":
            self._outcomes += 1
            self._runs.journal.hasten()

    async def back_off(self, number: int) -> None:
        """Wait before a call's `number`-th further try (from 1): doubling, with jitter, never beyond what is left."""
        seconds = RETRY_FIRST * 2.0 ** (number - 1) * (0.5 + self._runs.dice.random())
        await anyio.sleep(max(0.0, min(RETRY_CAP, seconds, self.seconds_left(), self.state_left())))

    def call_of(self, event: ev.ToolAsked) -> Call:
        """What a tool may know of its call, with the steps that were recorded before."""
        state = self._sub.find(event.step, event.index)

        async def record(name: str, result: str) -> None:
            self.append(ev.ToolStepped(event.step, event.index, name, result), self._intent(event))
            await self.commit()

        recorded = state.recorded if state is not None else {}
        trace = self._run.trace.header(self._run.id, self._intent(event))
        return Call(event.key, self._sub.attempt, recorded, record, self._spilled, trace, self.sealed)

    async def live(self, value: Any) -> tuple[Any, str]:
        """What a tool is given instead of marks, or (None, which secrets this process does not know)."""
        turned, missing = await self._runs.redactor.live(self.scope, value)
        if not missing:
            return turned, ""
        return None, f"not called: the value of {', '.join(missing)} is not known here, and nothing resolves it"

    async def _spilled(self, handle: str) -> str:
        return await self._runs.windows.spilled(self._run, self._sub, handle)

    def may_retry(self, step: int) -> bool:
        """Whether one more further try fits into what a step has for all its calls; if so, it is taken."""
        taken = self._retried[1] if self._retried[0] == step else 0
        self._retried = step, taken + 1
        return taken < STEP_RETRIES

    def doubt(self, event: ev.ToolAsked) -> None:
        """Nobody knows whether the call happened: a person settles it."""
        name = f"{self._run.id}-d{len(self._run.doubts) + 1}"
        self.append(ev.InDoubt(name, event.step, event.index, event.name, event.arguments, event.effect, event.key))

    # -- delegates -----------------------------------------------------------------------------------------

    def _begin_delegate(self, event: ev.ToolAsked, agent: str, message: str) -> bool:
        """False when a budget refuses it: then the agent is told."""
        if held := self._runs.quarantine.why(agent):
            self.append(ev.ToolFailed(event.step, event.index, "quarantine", f"refused: {held}"))
            return False
        if why := self._runs.no_delegation(self._run, self._sub):
            self.append(ev.ToolFailed(event.step, event.index, "budget", f"refused: {why}"))
            return False
        accepts = self._runs.policy(agent).agent.accepts.__name__
        started = ev.SubStarted(self._sub.id, event.step, event.index, agent, accepts, message)
        self._runs.begin_sub(self._run, event.sub, started)
        return True

    async def await_delegate(self, event: ev.ToolAsked) -> None:
        """Wait for a sub-run; its result is the tool's. A parked one leaves the call open."""
        if event.sub not in self._run.subs:  # the intent was journalled, the sub-run was not
            act = self._policy.acts[event.name]
            assert isinstance(act, Delegate)  # noqa: S101  # a ToolAsked with a sub-run
            if not self._begin_delegate(event, act.agent.name, act.message(event.arguments)[0]):
                return
        await self._runs.settled(self._run.id, event.sub)
        child = self._run.subs[event.sub]
        if child.finished is not None:
            self.append(delegate_outcome(child, child.finished))

    async def await_open(self) -> bool:
        """Wait for delegations that went on while their caller was busy with others; False when there is none."""
        asked = [call.asked for call in self._open_calls() if call.asked is not None and call.asked.sub]
        under_way = [event for event in asked if self._under_way(event.sub)]
        async with anyio.create_task_group() as group:
            for event in under_way:
                group.start_soon(self.await_delegate, event)
        return bool(under_way)

    def _under_way(self, number: int) -> bool:
        child = self._run.subs.get(number)
        return child is None or child.parked is None

    def _open_calls(self) -> list[CallState]:
        """Calls of the newest reply that were begun and have no outcome; notes come after the turn they speak of."""
        turn = next((turn for turn in reversed(self._sub.turns) if turn.reply is not None), None)
        return [c for c in turn.calls if c.asked is not None and not c.done] if turn is not None else []

    # -- after a crash -------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Settle what was in flight when the former incarnation or process ended."""
        asking = self._sub.asking
        if asking is not None:
            self.append(self._runs.forfeit(asking))
        async with anyio.create_task_group() as group:
            for state in self._open_calls():
                group.start_soon(self._recover_call, state)

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
        act = self._policy.acts.get(event.name)
        happened: bool | None = None
        try:
            if isinstance(act, Tool):
                with anyio.fail_after(max(0.001, min(act.timeout, self.seconds_left()))):
                    arguments, missing = await self.live(act.bind(event.arguments)[0] or {})
                    happened = None if missing else await act.verified(arguments)
        except Exception as error:
            self._runs.kernel.telemetry.flight(self._path, "verify failed", described(error))
        self.doubt(event)
        if happened is not None:
            name = list(self._run.doubts)[-1]
            self.append(ev.DoubtSettled(name, bool(happened), "verify"))
        await self.commit()


def _without_tool(event: ev.ToolAsked) -> ev.ToolFailed | None:
    """The code has changed since the intent: a call that only reads has failed, of another nobody knows."""
    if event.effect != "read":
        return None
    return ev.ToolFailed(event.step, event.index, "unknown", f"there is no tool {event.name!r} any more")
