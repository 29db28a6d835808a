"""Carrying out commands: intent to the journal, act, outcome to the journal.

Before a model call, and before any call that is not `read`, the intent is committed; the outcome of a call that is
not `read` is committed before the next command. A call that was cut by a crash is settled here too, by its effect:
`read` and `idempotent` run again, `keyed` again with the same key, `verifiable` asks, `irreversible` is in doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import msgspec

from understudy.actors.agents.agent import Delegate
from understudy.actors.agents.commands import CallModel, CallTools, PlannedCall, command_digest
from understudy.actors.agents.context import request_of
from understudy.actors.agents.guards import Busy, Denied
from understudy.actors.agents.models import ModelReply, ModelRequest, Usage, input_cap
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.runs import Runs, delegate_outcome
from understudy.actors.agents.tools import RESULT_LIMIT, Call, Tool, described
from understudy.actors.errors import BadReply, Fenced, JournalError, ModelError, ModelTimeout
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import CallState, Run, Sub

MODEL_SECONDS: Final = 120.0
RETRY_FIRST: Final = 0.25
RETRY_CAP: Final = 30.0
MOST_TOKENS: Final = 10**12
"""What a provider may say that one call took; more is a mistake of its own."""
MOST_CALLS: Final = 1_000
"""Calls that one reply may ask for; a reply with more is a bad one."""
UNKNOWN: Final = frozenset({"timeout", "lost"})
"""Kinds of a tool's error after which the call may have happened: no reply in time, or the connection broke."""
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

    def _now(self) -> float:
        return self._runs.kernel.clock.monotonic()

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
            if self.out_of_time() or self._unwanted():
                return False
            await self._runs.room(min(ROOM_SECONDS, self.seconds_left(), self.state_left()))

    def _settle(self, ticket: str, spent: dict[str, int], reserved: dict[str, int]) -> dict[str, int]:
        """Settle with the ledger; what counts as spent. Excess in a limited unit is journalled as a breach instead."""
        breaches = self._runs.settle(ticket, spent)
        for breach in breaches:
            self.append(ev.BudgetBreached(breach.pool, breach.unit, breach.over))
        capped = {breach.unit for breach in breaches}
        return {unit: min(amount, reserved[unit]) if unit in capped else amount for unit, amount in spent.items()}

    def seconds_left(self) -> float:
        """Seconds the run may still be alive."""
        return self._runs.seconds_left(self._run, self._sub)[0]

    def out_of_time(self) -> bool:
        """Whether the run has used up its seconds; if so, that is journalled."""
        denied = self._runs.late(self._run, self._sub)
        if denied is not None:
            self.append(denied)
        return denied is not None

    def _unwanted(self) -> bool:
        """Whether what is not begun yet must not begin: the system closes, a stop was asked for, the state is over."""
        return self._runs.closing or self._run.stop is not None or self.state_left() <= 0

    def state_left(self) -> float:
        """Seconds until the state of the agent's machine times out; infinity without a timeout."""
        return self._sub.until - self._runs.kernel.clock.wall() if self._sub.until else math.inf

    def look_at_clock(self) -> None:
        """Journal that the state has timed out, once."""
        if not self._sub.expired and self.state_left() <= 0:
            self.append(ev.StateTimedOut(self._sub.state, self._sub.until))

    # -- model ---------------------------------------------------------------------------------------------

    async def call_model(self, command: CallModel) -> None:
        """Make one call of the model."""
        request = request_of(self._run.id, self._sub, self._policy)
        ticket = f"{self._run.id}/{self._sub.id}:{command.step}#{self._run.seq}"
        pools = self._runs.pools_of(self._run, self._sub)
        reserved = self._caps(request, new_step=command.step > self._sub.step)
        if command.try_ > 1:
            left = max(0.0, min(self.seconds_left(), self.state_left()))
            await self._runs.pause(min(self._pause(command.try_), left))
            if self._unwanted():
                return
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
        try:
            await self.commit()
        except BaseException:  # no byte has left
            self._interrupted(command.step, ticket, reserved, {"steps": reserved["steps"]})
            raise
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
        began = self._now()
        timeout = max(0.001, min(MODEL_SECONDS, self.seconds_left(), self.state_left()))
        try:
            reply = _checked(await session.complete(request, timeout=timeout))
        except ModelError as error:
            if isinstance(error, ModelTimeout) and self.state_left() <= 0:
                text = f"cut when state {self._sub.state!r} timed out"
                self._interrupted(step, ticket, reserved, dict(reserved), text)
                return
            seconds = self._now() - began
            self._model_failed(step, ticket, error, reserved, seconds)
            return
        except BaseException:
            self._interrupted(step, ticket, reserved, dict(reserved))
            raise
        seconds = self._now() - began
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
        act = self._policy.acts.get(event.name)
        outcome = await self._try_tool(act, event) if isinstance(act, Tool) else _without_tool(event)
        if outcome is None:
            self.doubt(event)
        else:
            self.append(outcome)
        if event.effect != "read":
            await self.commit()

    async def _try_tool(self, act: Tool[..., Any], event: ev.ToolAsked) -> ev.ToolAnswered | ev.ToolFailed | None:
        """The outcome after the allowed tries; None when nobody can say whether it happened."""
        began = self._now()
        arguments, error = act.bind(event.arguments)
        if arguments is None:
            return ev.ToolFailed(event.step, event.index, "arguments", error)
        kind, text = "error", ""
        for number in range(act.retries + 1):
            call = self._call_of(event) if act.takes_call else None
            kind, text = await self._once(act, call, arguments)
            if not kind:
                return ev.ToolAnswered(event.step, event.index, text, round(self._now() - began, 6))
            if kind in UNKNOWN and act.effect in ("irreversible", "verifiable"):
                return None
            if number < act.retries:
                if self.seconds_left() <= 0:
                    break
                await anyio.sleep(min(RETRY_CAP, RETRY_FIRST * 2.0**number, self.seconds_left()))
        return ev.ToolFailed(event.step, event.index, kind, text, round(self._now() - began, 6))

    def _call_of(self, event: ev.ToolAsked) -> Call:
        """What a tool may know of its call, with the steps that were recorded before."""
        state = self._sub.find(event.step, event.index)

        async def record(name: str, result: str) -> None:
            self.append(ev.ToolStepped(event.step, event.index, name, result))
            await self.commit()

        return Call(event.key, self._sub.attempt, state.recorded if state is not None else {}, record)

    async def _once(self, act: Tool[..., Any], call: Call | None, arguments: dict[str, Any]) -> tuple[str, str]:
        """One try: ("", JSON) or (kind, error text)."""
        before = () if call is None else (call,)
        seconds = max(0.001, min(act.timeout, self.seconds_left()))
        value: Any = None
        scope = anyio.move_on_after(seconds)
        try:
            with scope:
                if act.is_async:
                    value = await act.fn(*before, **arguments)
                else:
                    function = functools.partial(act.fn, *before, **arguments)
                    value = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
            if scope.cancelled_caught:
                return "timeout", f"no result within {seconds:g} s"
            text = msgspec.json.encode(value)
        except BaseException as error:
            if _is_ours(error):
                raise
            return _kind_of(error), described(error)
        if len(text) > RESULT_LIMIT:
            return "too_large", f"the result has {len(text)} bytes, the limit is {RESULT_LIMIT}"
        return "", text.decode()

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
                    happened = await act.verified(act.bind(event.arguments)[0] or {})
        except Exception as error:
            self._runs.kernel.telemetry.flight(self._path, "verify failed", described(error))
        self.doubt(event)
        if happened is not None:
            name = list(self._run.doubts)[-1]
            self.append(ev.DoubtSettled(name, bool(happened), "verify"))
        await self.commit()


def _checked(reply: object) -> ModelReply:
    """A reply as it can be journalled. Raises `BadReply` for what is none."""
    try:
        kept = msgspec.convert(msgspec.to_builtins(reply), ModelReply)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadReply(f"the model's adapter gave no reply: {error}") from error
    if len(kept.calls) > MOST_CALLS:
        raise BadReply(f"{len(kept.calls)} calls in one reply, the limit is {MOST_CALLS}")
    if kept.usage is None:
        return kept
    counts = (kept.usage.input_tokens, kept.usage.output_tokens)
    usage = Usage(*(max(0, min(count, MOST_TOKENS)) for count in counts))
    return msgspec.structs.replace(kept, usage=usage)


def _kind_of(error: BaseException) -> str:
    """What the journal calls a tool's error."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return "lost"
    return type(error).__name__


def _is_ours(error: BaseException) -> bool:
    """Whether what came out of a tool is not its own failure: a stop, an interrupt, a kill."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | Fenced)


def _without_tool(event: ev.ToolAsked) -> ev.ToolFailed | None:
    """The code has changed since the intent: a call that only reads has failed, of another nobody knows."""
    if event.effect != "read":
        return None
    return ev.ToolFailed(event.step, event.index, "unknown", f"there is no tool {event.name!r} any more")
