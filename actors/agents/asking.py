"""The address of an agent: a message begins a run, and the reply is the run's `Result`.

`ask` returns `Waiting` as soon as the run parks for a person, or, with `wait=True`, only at its deadline. When the
asker is gone (cancelled, deadline passed) the run goes by the agent's `on_abandon`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, Literal, cast

import msgspec

from understudy.actors.agents.elsewhere import Delegated, DelegatedResult, Undelegate, run_of
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.runs import Runs, Work
from understudy.actors.cell import Cell
from understudy.actors.delivery import Envelope, current_entry
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    MailboxFull,
    NotHandled,
    SpecError,
    UnknownRun,
    UsageError,
)
from understudy.actors.journal.state import Run
from understudy.actors.messages import Asks
from understudy.actors.refs import Ref, Refused, T

RUN_SECONDS: Final = 3_600.0
"""Deadline of an ask whose run has no budget in seconds."""


class AgentRef(Ref[Any]):
    """See the module. Messages to it are accepted durably, and restarts of the agent do not lose them."""

    __slots__ = ("_pick", "_policy", "_runs")

    def __init__(self, runs: Runs, policy: Policy, pick: Callable[[], Cell]) -> None:
        super().__init__(pick())
        self._runs = runs
        self._policy = policy
        self._pick = pick

    @property
    def path(self) -> str:
        """The agent's address, a pool's when it is one."""
        return self._policy.path

    def cell(self) -> Cell:
        """The member that serves next."""
        return self._pick()

    def tell(self, message: Any) -> Literal[True] | Refused:
        """Begin a run that nobody waits for. Durable with the next commit."""
        if type(message) is Undelegate:
            self._give_up(message)
            return True
        try:
            self._begin(message)
        except NotHandled:
            return Refused("unknown", self.path)
        except MailboxFull:
            return Refused("full", self.path)
        except ActorStopped:
            return Refused("dead", self.path)
        return True

    def kinds(self) -> tuple[type, ...]:
        """The type of message that begins a run, and what other nodes say that delegate."""
        return (self._policy.agent.accepts, Delegated, Undelegate)

    async def send(self, message: Any, *, timeout: float = 5.0, reliable: bool = False) -> Literal[True] | Refused:
        """Begin a run that nobody waits for, waiting for room; committed when this returns True."""
        deadline = self._runs.kernel.loop.time() + timeout
        told = self.tell(message)
        while not told and told.reason == "full" and self._runs.kernel.loop.time() < deadline:
            await asyncio.sleep(min(0.01, timeout))
            told = self.tell(message)
        if told:
            await self._runs.journal.barrier()
        return told

    async def post(self, message: Any, *, timeout: float = 5.0) -> Literal[True] | Refused:
        """As `send`: requests to agents are durable."""
        return await self.send(message, timeout=timeout)

    def post_to(self, message: Any) -> Cell:
        """Raises `UsageError`: a request is in the journal of its run, not with the end of a handler."""
        raise UsageError(f"{self.path} is an agent, whose requests are durable by themselves: use tell, send or ask")

    async def ask(
        self,
        message: Asks[Any, T],
        *,
        timeout: float | None = None,
        cancel: bool = False,
        on_restart: Literal["wait", "fail"] = "wait",
        wait: bool = False,
        traceparent: str = "",
    ) -> T:
        """Begin a run and wait for its result, `timeout` seconds at most (default: the run's budget in seconds).

        `traceparent`: the W3C header of who asks; without one, the run that this is called from (in a tool), else a
        trace of its own.

        Raises `AskTimeout`, `ActorStopped`, `MailboxFull`, `NotHandled`; how the run itself ends is a result.
        """
        self._runs.kernel.check_thread()
        asked: object = message
        if isinstance(asked, Delegated):
            return cast("T", await self._serve(asked, timeout))
        name = self._begin(message, traceparent)
        return cast("T", await self.wait_for(name, timeout=timeout, cancel=cancel, wait=wait))

    async def _serve(self, asked: Delegated, timeout: float | None) -> DelegatedResult:
        """The run that another node asks for: begun once, and waited for as often as it is asked for.

        It goes on when nobody waits: its node may come back. What it may spend is bounded by its escrow.
        """
        runs, name = self._runs, run_of(asked.key)
        if not runs.journal.knows(name):
            try:
                message = self._policy.agent.encode(msgspec.json.decode(asked.message, type=self._policy.agent.accepts))
            except (msgspec.MsgspecError, SpecError) as error:
                raise NotHandled(self.path, Delegated, (str(error),)) from error
            asked = msgspec.structs.replace(asked, message=message)
            runs.accept_delegated(self._policy.name, self._policy.agent.accepts.__name__, asked)
        elif (run := await runs.find(name)).parent != asked.parent or run.finished is not None:
            return _delegated(run)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RUN_SECONDS if timeout is None else timeout):
                await runs.journal.barrier()
                await runs.settled(name)
                await runs.journal.barrier()
        return _delegated(await runs.find(name))

    def _give_up(self, asked: Undelegate) -> None:
        """The asker of another node has given a run up."""
        name = run_of(asked.key)
        with contextlib.suppress(UnknownRun):
            if self._runs.get(name).finished is None:
                self._abandon(name, cancel=False)

    def begin(self, message: object, traceparent: str = "") -> str:
        """Begin a run; its id. Durable with the next commit. Raises as `ask`."""
        self._runs.kernel.check_thread()
        return self._begin(message, traceparent)

    async def begin_in(self, session: str, message: object, traceparent: str = "") -> str:
        """Begin the next run of a session, which goes on with the window of the one before; its id.

        Raises as `ask`, `SessionBusy` while that one has not ended, and `UsageError` for a session of another agent.
        """
        self._runs.kernel.check_thread()
        text = self._encoded(message)
        type_ = self._policy.agent.accepts.__name__
        return await self._runs.accept_in(session, self._policy.name, type_, text, traceparent or self._here())

    def _begin(self, message: object, traceparent: str = "") -> str:
        text = self._encoded(message)
        type_ = self._policy.agent.accepts.__name__
        return self._runs.accept(self._policy.name, type_, text, traceparent or self._here())

    def _here(self) -> str:
        """The `traceparent` of the run that this is called from, as a tool does; "" outside of one."""
        entry = current_entry()
        work = entry.message if isinstance(entry, Envelope) else None
        return self._runs.get(work.run).traced(work.sub) if isinstance(work, Work) else ""

    def _encoded(self, message: object) -> str:
        agent = self._policy.agent
        try:
            return agent.encode(message)
        except SpecError as error:
            if isinstance(message, (str, agent.accepts)):
                raise
            raise NotHandled(self.path, type(message), (agent.accepts.__name__,)) from error

    # The result's output has the type of the agent, which this address of any agent does not know.
    async def wait_for(
        self, name: str, *, timeout: float | None = None, cancel: bool = False, wait: bool = False
    ) -> Any:
        """Wait until a run ended or parks; see `ask`."""
        seconds = self._deadline(name, timeout)
        run = self._runs.get(name)  # kept here: one of very many that end at once may be forgotten before we are told
        try:
            async with asyncio.timeout(seconds):
                await self._runs.journal.barrier()
                await self._runs.settled(name)
                while wait and run.finished is None and not self._runs.closing:
                    await self._runs.ended(name)
                if self._runs.journal.pending(name):  # it ended while nobody waited for it
                    await self._runs.journal.barrier()
        except TimeoutError:
            settled = run.main.parked is not None or run.finished is not None
            if settled and not self._runs.journal.pending(name):
                return self._runs.result(run)
            self._abandon(name, cancel)
            raise AskTimeout(self.path, seconds) from None
        except asyncio.CancelledError:
            self._abandon(name, cancel)
            raise
        return self._runs.result(run)

    def _deadline(self, name: str, timeout: float | None) -> float:
        run = self._runs.get(name)
        limit = self._runs.seconds_left(run, self._runs.chain_of(run, run.main))[0] + 5.0
        seconds = timeout if timeout is not None else min(RUN_SECONDS, limit)
        entry = current_entry()
        if isinstance(entry, Envelope) and entry.deadline is not None:
            seconds = min(seconds, entry.deadline - self._runs.kernel.loop.time())
        return max(0.0, seconds)

    def _abandon(self, name: str, cancel: bool) -> None:
        how = "stop" if cancel else self._policy.agent.on_abandon
        if how != "finish" and not self._runs.closing:
            self._runs.ask_to_stop(name, "abandoned", how, by="asker")


def _delegated(run: Run) -> DelegatedResult:
    """How a run stands, for the node that asked for it. One that has not ended may spend more."""
    end = run.finished
    spent = run.spend.amounts() if end is not None else dict(run.escrow or {})
    if end is None:
        parked = run.main.parked
        reason = f"waits for {parked.on} {', '.join(parked.ids)}".rstrip() if parked is not None else "running"
        return DelegatedResult(run.id, "waiting", "", reason, spent)
    return DelegatedResult(run.id, end.status, end.output, end.reason, spent)
