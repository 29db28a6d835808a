"""The actor that runs an agent: fold, decide, act, until the (sub-)run ends, parks or its incarnation must end.

One `Work` message is one (sub-)run to drive on; `concurrency` of them at a time. The actor keeps nothing: all state
is in the fold. A new incarnation takes up what the former one left, the culprit with its altered context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, Final

from understudy.actors.actor import Actor, Leave
from understudy.actors.agents.acting import Acts
from understudy.actors.agents.checking import check_output
from understudy.actors.agents.commands import (
    AskYes,
    CallModel,
    CallTools,
    CheckOutput,
    Command,
    Compact,
    EndIncarnation,
    Finish,
    HandOff,
    Judge,
    Move,
    Park,
    Recall,
    RefuseYes,
    Reject,
    RejectOutput,
    SwitchModel,
    command_digest,
)
from understudy.actors.agents.decide import decide_safely
from understudy.actors.agents.guards import Quarantine
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.runs import Runs, Work
from understudy.actors.agents.tools import described
from understudy.actors.errors import JournalError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run, Sub
from understudy.actors.lifecycle import Exit
from understudy.actors.telemetry import log

REST_CAP: Final = 60.0
"""Seconds of back-off taken over from a former process at the most: its wall clock may have been wrong."""
ATTEMPTS: Final = 8
"""Attempts of one (sub-)run; an agent that crashes on it more often ends it as `failed`."""


class AgentActor(Actor[Work]):
    """Drives the (sub-)runs of one agent."""

    cancel_on_stop: ClassVar[bool] = True

    def __init__(self, runs: Runs, policy: Policy) -> None:
        self._runs = runs
        self._policy = policy

    async def on_start(self) -> None:
        """Take up what the former incarnation left."""
        path = self.context.path
        self._runs.journal.enter(path, self.context.incarnation)
        cell = self.context.ref.cell()
        for run, sub in self._runs.assigned(path):
            self._runs.post_work(cell, run, sub)

    async def work(self, m: Work) -> None:
        """Drive one (sub-)run on."""
        key, me = (m.run, m.sub), (self.context.path, self.context.incarnation)
        driver = self._runs.driving.get(key)
        if driver is not None and (driver == me or driver[0] != me[0]):
            self._runs.again.add(key)  # it was unparked while its last turn is still being committed
            return
        if key not in self._runs.assigned(self.context.path):
            return
        run = self._runs.get(m.run)
        if run.subs[m.sub].agent != self._policy.name:  # handed off, and the incarnation ended before it was sent on
            self._runs.dispatch(*key)
            return
        self._runs.driving[key] = me  # also in place of a former incarnation that ignores its end
        try:
            await _Drive(self._runs, self._policy, run, run.subs[m.sub], *me).go()
        except Leave:
            raise
        except JournalError:
            if not self._runs.closing:  # a journal that failed has said so, and a restart would not cure it
                raise
        except Exception as error:
            self._runs.crashed[key] = described(error)
            raise
        finally:
            if self._runs.driving.get(key) == me:
                del self._runs.driving[key]
            if key in self._runs.again and key not in self._runs.driving:
                self._runs.again.discard(key)
                self._runs.dispatch(*key)


class _Drive:
    def __init__(self, runs: Runs, policy: Policy, run: Run, sub: Sub, path: str, incarnation: int) -> None:
        self._runs = runs
        self._policy = policy
        self._run = run
        self._sub = sub
        self._path = path
        self._incarnation = incarnation
        self._acts = Acts(runs, policy, run, sub, path, incarnation)

    async def go(self) -> None:
        """Until the (sub-)run ends, parks, is handed off, or its incarnation must end."""
        await self._rest_out()
        if not self._begin_attempt():
            return
        if self._run.resumed:  # it may be what ends processes: who was at it is known before its code runs
            await self._acts.commit()
        self._acts.set_aside()
        try:
            await self._go_on()
        finally:
            self._acts.give_back()

    async def _go_on(self) -> None:
        await self._acts.recover()
        while True:
            if self._sub.finished is not None:
                return
            if self._runs.closing:
                await self._rest()
                return
            if self._held():
                await self._park(Park("quarantine", ()))
                return
            self._acts.look_at_clock()
            command = decide_safely(self._run, self._sub, self._policy)
            if not await self._carry_out(command):
                return

    def _held(self) -> bool:
        """Whether the agent is in quarantine, and this is not the request that is to end for it, or was stopped."""
        if self._policy.name not in self._runs.quarantine.held:
            return False
        return self._sub.stop_verdict is None and self._run.stop is None

    async def _rest_out(self) -> None:
        """The rest of a back-off that a former process began; after a restart by the supervisor it is over."""
        left = self._sub.rest_until - self._runs.kernel.clock.wall()
        if left > 0:
            await self._runs.pause(min(left, REST_CAP, max(0.0, self._acts.seconds_left())))

    def _begin_attempt(self) -> bool:
        sub = self._sub
        if sub.path == self._path and sub.incarnation == self._incarnation:
            return True
        altered = sub.restart.seq if sub.restart is not None else 0
        crashed = self._runs.crashed.pop((self._run.id, sub.id), "")
        if sub.attempt >= ATTEMPTS and crashed:
            self._runs.end(self._run.id, sub.id, "failed", f"{self._path} crashed on it {sub.attempt} times")
            return False
        attempt = sub.attempt + 1 if altered or crashed or not sub.attempt else sub.attempt
        self._acts.append(ev.AttemptStarted(attempt, altered, "" if altered else crashed), cause=altered)
        return True

    async def _carry_out(self, command: Command) -> bool:
        """Do it; False when this incarnation is done with the (sub-)run."""
        match command:
            case CallModel():
                await self._acts.call_model(command)
            case CallTools():
                await self._acts.call_tools(command)
            case Compact() | Judge() | Recall() | Reject() | RejectOutput() | RefuseYes() | SwitchModel() | Move():
                self._note(command)
            case CheckOutput():
                await check_output(self._acts, command)
            case AskYes():
                self._ask_person(command)
            case EndIncarnation():
                await self._acts.commit()
                raise Leave(Exit("escalate" if command.escalate else "loop", command.reason))
            case HandOff():
                await self._hand_off(command)
                return False
            case Finish():
                await self._finish(command)
                return False
            case Park():
                await self._park(command)
                return False
            case _:
                return await self._acts.await_open()
        return True

    def _note(self, command: Compact | Judge | Recall | Reject | RejectOutput | RefuseYes | SwitchModel | Move) -> None:
        """Commands that are nothing but their event."""
        digest = command_digest(command)
        match command:
            case Judge():
                self._acts.append(
                    ev.Judged(
                        command.verdict,
                        command.note,
                        command.rewind_to,
                        command.dropped,
                        command.temperature,
                        digest,
                    )
                )
                if isinstance(command.verdict.response, Quarantine):
                    at = self._run.id, self._sub.seq
                    self._runs.quarantine.begin(self._policy.name, *at, command.verdict)
            case Recall():
                self._acts.append(ev.Recalled(command.memory, command.note, command.rewind_to, command.dropped, digest))
            case Reject():
                self._acts.append(
                    ev.ToolRejected(command.step, command.index, command.name, command.arguments, command.error, digest)
                )
            case RejectOutput():
                event = ev.OutputRejected(command.step, command.error, command.repairs, digest, command.told)
                self._acts.append(event)
            case SwitchModel():
                self._acts.append(ev.ModelSwitched(command.step, command.model, command.reason, digest))
            case Compact():
                spans = command.dropped, command.text, command.cuts
                self._acts.append(ev.Compacted(command.rule, *spans, command.tokens, command.left, digest))
            case Move():
                self._move(command, digest)
            case RefuseYes():
                self._acts.append(ev.ApprovalRefused(command.approval, "check", command.reason))

    def _move(self, command: Move, digest: str) -> None:
        until = self._sub.until if command.source == command.to else 0.0
        if command.seconds is not None:
            until = self._runs.kernel.clock.wall() + command.seconds
        self._acts.append(
            ev.Moved(
                command.source,
                command.to,
                command.cause,
                command.event,
                command.step,
                command.index,
                command.result,
                until,
                digest,
            )
        )

    def _ask_person(self, command: AskYes) -> None:
        expires = self._runs.kernel.clock.wall() + self._policy.expires
        self._acts.append(
            ev.ApprovalAsked(
                command.approval,
                command.step,
                command.index,
                command.name,
                command.arguments,
                command.digest,
                command.policy,
                expires,
                command.who,
                command_digest(command),
            )
        )

    async def _hand_off(self, command: HandOff) -> None:
        event = ev.HandedOff(command.to, command.type, command.message, command.hops, command_digest(command))
        self._acts.append(event)
        await self._committed(self._runs.dispatch)

    async def _finish(self, command: Finish) -> None:
        event = ev.Finished(command.status, command.output, command.reason, True, command_digest(command))
        self._acts.append(event)
        await self._committed(self._runs.announce)

    async def _park(self, command: Park) -> None:
        self._acts.append(ev.Parked(command.on, command.ids))
        await self._committed(self._runs.announce)

    async def _committed(self, tell: Callable[[str, int], None]) -> None:
        """Commit, then tell; also when this incarnation is ended during the commit."""
        try:
            await self._acts.commit()
        except asyncio.CancelledError:
            self._runs.after_commit(tell, self._run.id, self._sub.id)
            raise
        tell(self._run.id, self._sub.id)

    async def _rest(self) -> None:
        """The system stops: the run stays in the journal and goes on when it is started again."""
        try:
            self._acts.append(ev.Parked("shutdown", ()))
            await self._acts.commit()
        except JournalError as error:
            log.error("run %s could not be parked: %s", self._run.id, error)
        self._runs.announce(self._run.id, self._sub.id)
