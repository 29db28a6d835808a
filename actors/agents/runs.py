"""The runs of one node: accepts requests, keeps every live run folded, sends work to agents, resumes.

Everything that changes a run goes through `append`: journal first, then the fold, then who waits for it. Addresses
come from `addresses`, which the composition root fills from the tree: the cell that serves an agent next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from understudy.actors.agents.booking import Books
from understudy.actors.agents.decide import checkpoint, denied_text
from understudy.actors.agents.elsewhere import Delegated, Far, run_of
from understudy.actors.agents.guards import Ledger
from understudy.actors.agents.notices import notice
from understudy.actors.agents.outcomes import approval_of, decoded, delegate_outcome, has_ended, over, reopens
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.quarantine import Quarantines
from understudy.actors.agents.redacting import DOORS, redacted, sealed_request
from understudy.actors.agents.results import Result, Waiting, make
from understudy.actors.agents.windows import Windows
from understudy.actors.cell import Cell
from understudy.actors.clock import Dice, Ids, RandomIds
from understudy.actors.delivery import Envelope
from understudy.actors.errors import ActorStopped, JournalError, MailboxFull, UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import apply, fold
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.pruned_events import PRUNED
from understudy.actors.journal.state import Run, Sub
from understudy.actors.journal.view import View
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.redaction import Redact, Redactor
from understudy.actors.tasks import new_task
from understudy.actors.telemetry import LineLimit, log
from understudy.actors.trace import joined

KEPT: Final = 1_000
"""Finished runs kept folded in memory, newest last."""


class Work(Message[None]):
    """To an agent's actor: drive this (sub-)run on."""

    run: str
    sub: int


class Runs(Books):
    """See the module. `policies` is by agent name."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        journal: Journal,
        ledger: Ledger,
        policies: Mapping[str, Policy],
        ids: Ids,
        dice: Dice,
        redactor: Redactor | None = None,
    ) -> None:
        super().__init__(kernel, ledger, policies)
        self.redactor = redactor or Redactor(Redact())
        self.journal = journal
        self.dice = dice
        self.addresses: Callable[[str], Cell] = self._nobody
        self.far: Far = lambda _: None
        self.sessions: Mapping[int, Any] = {}  # open model sessions by id of their model; opaque here
        self.driving: dict[tuple[str, int], tuple[str, int]] = {}  # by whom: path and incarnation
        self.crashed: dict[tuple[str, int], str] = {}  # with what
        self.again: set[tuple[str, int]] = set()
        self._ids = ids
        self._traces = ids.trace if isinstance(ids, RandomIds) else str  # else they are made from the names of runs
        self._runs: dict[str, Run] = {}
        self._live: dict[str, Run] = {}
        """Those of `_runs` that have not ended: there may be many more that have."""
        self._assigned: dict[str, set[tuple[str, int]]] = {}
        self._waiters: dict[tuple[str, int], list[asyncio.Future[None]]] = {}
        self.windows = Windows(journal, self._runs)
        self.quarantine = Quarantines(self)
        self._lines = LineLimit()
        self._later: set[asyncio.Task[None]] = set()
        journal.on_failure = self._journal_failed

    def _journal_failed(self, error: JournalError) -> None:
        """Nothing more can be promised: accept nothing new, and tell everybody who waits."""
        self.shut()
        log.error("the journal failed, runs rest at their last commit: %s", error)
        waiters, self._waiters = self._waiters, {}
        for future in [future for each in waiters.values() for future in each]:
            if not future.done():
                future.set_exception(error)

    def _nobody(self, name: str) -> Cell:
        raise UsageError(f"agent {name!r} is not part of this system")

    # -- accepting -----------------------------------------------------------------------------------------

    async def accept_in(self, session: str, agent: str, type_: str, message: str, traceparent: str = "") -> str:
        """As `accept`, for the next run of a session. Raises also `SessionBusy`, `UsageError`; see `Windows.open`."""
        self.quarantine.check(agent, self.policy(agent).path)
        opened = await self.windows.open(session, agent)
        started = ev.RunStarted(agent, type_, message, traceparent=joined(traceparent, self._traces))
        return self._accept(*self.windows.begin(session, started, opened))

    def accept(self, agent: str, type_: str, message: str, traceparent: str = "") -> str:
        """Begin a run; its id. Durable after the next barrier. Raises `ActorStopped` or `MailboxFull`."""
        return self._accept(ev.RunStarted(agent, type_, message, traceparent=joined(traceparent, self._traces)))

    def accept_delegated(self, agent: str, type_: str, asked: Delegated) -> str:
        """Begin the run that another node asks for; its id, made from the key. Raises as `accept`."""
        trace = joined(asked.traceparent, self._traces)
        limits, seconds = asked.escrow.limits, asked.escrow.seconds
        started = ev.RunStarted(
            agent, type_, asked.message, traceparent=trace, parent=asked.parent, escrow=limits, escrow_seconds=seconds
        )
        return self._accept(started, name=run_of(asked.key))

    def _accept(self, started: ev.RunStarted, before: View | None = None, name: str = "") -> str:
        agent = started.agent
        policy = self.policy(agent)
        if self.closing:
            raise ActorStopped(policy.path, Exit("shutdown", "the system accepts nothing new"))
        self.quarantine.check(agent, policy.path)
        cell = self.addresses(agent)
        if cell.state in ("stopping", "stopped"):
            raise ActorStopped(policy.path, cell.exit)
        if cell.waiting >= cell.limit:
            raise MailboxFull(cell.path, cell.limit)
        name = name or self.fresh()
        message = sealed_request(self.redactor, self.scope(name, started), policy.agent, started.message)
        self.append(name, msgspec.structs.replace(started, message=message), path="", cause=0, before=before)
        if started.session:
            event = ev.InSession(name, agent)
            self.append(f"{ev.SESSION}{started.session}", event)
            self.windows.began(started.session, event)
        self._send(cell, name, 0)
        return name

    def fresh(self) -> str:
        """An id that no run of the journal has."""
        while self.journal.knows(name := self._ids.run()):
            pass
        return name

    def begin_sub(self, run: Run, number: int, event: ev.SubStarted) -> None:
        """Begin the sub-run of a delegation and send it to its agent."""
        call = run.subs[event.parent].find(event.step, event.index)
        self.append(run.id, event, sub=number, cause=call.seq if call is not None else 0)
        self.dispatch(run.id, number)

    def next_sub(self, run: Run) -> int:
        """A fresh sub-run number."""
        return run.last_sub + 1

    def dispatch(self, run: str, sub: int) -> None:
        """Send a (sub-)run to the actor that had it, else to the one whose turn it is."""
        if run not in self._runs or self._runs[run].subs[sub].finished is not None:
            return
        state = self._runs[run].subs[sub]
        if state.agent not in self.policies and sub == 0:
            log.error("run %s is left alone: its agent %r is not part of this system", run, state.agent)
            return
        cell = self.kernel.registry.find(state.path) if state.path else None
        try:
            if cell is None or cell.state in ("stopping", "stopped"):
                cell = self.addresses(state.agent)
        except (ActorStopped, UsageError) as error:
            if not self.closing:
                self.end(run, sub, "stopped", f"no {state.agent} to go on with it: {error}")
            return
        if self._waits_for_itself(self._runs[run], state, cell):
            text = f"call cycle: {cell.path} waits for this sub-run, and takes nothing before it has ended"
            self.end(run, sub, "failed", text)
            return
        self._send(cell, run, sub)

    def _waits_for_itself(self, run: Run, sub: Sub, cell: Cell) -> bool:
        """Whether every place of an actor is taken by (sub-)runs that wait for this one."""
        waiting, above = 0, run.subs.get(sub.parent)
        while above is not None:
            waiting += above.path == cell.path and above.parked is None and above.finished is None
            above = run.subs.get(above.parent)
        return waiting >= cell.concurrency

    def _send(self, cell: Cell, run: str, sub: int) -> None:
        for each in self._assigned.values():
            each.discard((run, sub))
        self._assigned.setdefault(cell.path, set()).add((run, sub))
        if cell.state in ("stopping", "stopped"):
            self.gone(cell.path, cell.exit)
        elif cell.state == "running" or cell.number > 0:
            self.kernel.force(cell, Work(run, sub))

    def assigned(self, path: str) -> list[tuple[str, int]]:
        """The unfinished, unparked (sub-)runs of an actor."""
        found = sorted(self._assigned.get(path, ()))
        states = [(key, self._runs[key[0]].subs[key[1]]) for key in found if key[0] in self._runs]
        return [key for key, sub in states if sub.finished is None and sub.parked is None]

    # -- changing ------------------------------------------------------------------------------------------

    def append(
        self,
        run: str,
        event: ev.AnyEvent,
        *,
        sub: int = 0,
        path: str = "",
        incarnation: int = 0,
        cause: int = 0,
        before: View | None = None,
    ) -> ev.Record:
        """Journal one event and fold it. Raises `JournalError`: then nothing happened.

        Without a `cause` of its own, it is what happened last in the (sub-)run.
        """
        if not cause and (known := self._runs.get(run)) is not None:
            cause = known.subs[sub].seq if sub in known.subs else known.seq
        if type(event) in DOORS and not self.redactor.idle:
            event = redacted(self.redactor, self.scope(run, event), event)
        record = self.journal.append(run, event, sub=sub, path=path, incarnation=incarnation, cause=cause)
        state: Run | None = None
        if ev.is_run(run):
            self.keep(state := apply(self._runs.get(run) or Run(run, before=before), record))
        notice(record, self._lines, state)
        return record

    def scope(self, run: str, event: ev.AnyEvent | None = None) -> str:
        """Where a run's secrets are remembered: in its session, so that its next run knows them, else in the run."""
        known = event if isinstance(event, ev.RunStarted) else self._runs.get(run)
        return f"{ev.SESSION}{known.session}" if known is not None and known.session else run

    def keep(self, run: Run) -> None:
        """Hold a folded run in memory."""
        self._runs[run.id] = run
        if run.finished is None:
            self._live[run.id] = run
        else:
            self._live.pop(run.id, None)

    def announce(self, run: str, sub: int) -> None:
        """A (sub-)run has ended or parked: tell who waits, and its parent."""
        for future in self._waiters.pop((run, sub), []):
            if not future.done():
                future.set_result(None)
        state = self._runs[run]
        child = state.subs[sub]
        if child.finished is not None:
            for each in self._assigned.values():
                each.discard((run, sub))
            parent = state.subs.get(child.parent)
            if parent is not None and parent.parked is not None and parent.parked.on == "sub":
                self.append(run, ev.Unparked(f"sub-run {run}/{sub} ended"), sub=parent.id, cause=child.seq)
                self.dispatch(run, parent.id)
            if sub == 0:
                for future in self._waiters.pop((run, -1), []):
                    if not future.done():
                        future.set_result(None)
                self._runs[run] = self._runs.pop(run)  # the newest of those that ended
                self.redactor.forget(run)
                self._forget_old()

    def drop(self, names: Iterable[str]) -> None:
        """Forget ended runs that are in the journal no more."""
        for name in names:
            run = self._runs.pop(name, None)
            if run is not None:
                self.forget_pools(run)

    def _forget_old(self) -> None:
        many = len(self._runs) - len(self._live) - KEPT
        ended = islice((name for name in self._runs if name not in self._live), max(0, many))
        for name in list(ended):
            if not any(key[0] == name for key in self._waiters):
                self.forget_pools(self._runs.pop(name))

    def after_commit(self, tell: Callable[[str, int], None], run: str, sub: int) -> None:
        """Call `tell(run, sub)` when everything appended so far is committed; for who cannot wait for it."""

        async def later() -> None:
            with contextlib.suppress(JournalError):  # who waits was told of it
                await self.journal.barrier()
                tell(run, sub)

        task = new_task(later(), self.kernel.loop, context=self.kernel.context.copy())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def settled(self, run: str, sub: int = 0) -> None:
        """Wait until a (sub-)run has ended or parked."""
        state = self._runs[run].subs[sub]
        while state.finished is None and state.parked is None:  # also when it went on in the instant it was told
            future = self.kernel.loop.create_future()
            self._waiters.setdefault((run, sub), []).append(future)
            await future
            if self.closing:
                return

    async def ended(self, run: str) -> None:
        """Wait until a run has ended, however often it parks."""
        if self.get(run).finished is None:
            future = self.kernel.loop.create_future()
            self._waiters.setdefault((run, -1), []).append(future)
            await future

    def close(self) -> None:
        """Accept nothing new; who waits for the end of a run is let go, with the run as it then stands."""
        self.shut()
        for key in [key for key in self._waiters if key[1] == -1]:
            for future in self._waiters.pop(key):
                if not future.done():
                    future.set_result(None)

    # -- looking -------------------------------------------------------------------------------------------

    def get(self, run: str) -> Run:
        """A live or recently ended run. Raises `UnknownRun`."""
        try:
            return self._runs[run]
        except KeyError:
            raise UnknownRun(f"no run {run!r} in {self.journal.store.path}") from None

    def live(self) -> list[Run]:
        """Runs that have not ended, oldest first."""
        return [run for run in self._live.values() if run.subs]

    def known(self) -> list[Run]:
        """Every run in memory: those that have not ended, the last that have, and those with an open doubt."""
        return [run for run in self._runs.values() if run.subs]

    async def find(self, name: str) -> Run:
        """A run of this or a former process, folded. Raises `UnknownRun`."""
        if name in self._runs:
            return self._runs[name]
        if not ev.is_run(name) or not self.journal.knows(name):
            raise UnknownRun(f"no run {name!r} in {self.journal.store.path}")
        await self.journal.barrier()
        return await self.windows.folded(name)

    def result(self, run: Run) -> Result[Any]:
        """The result of a run that has ended or parked, output decoded for its asker."""
        asked = self.policies.get(run.asked_agent)
        spend = msgspec.structs.replace(run.spend, alive=self.alive(run), tools=dict(run.spend.tools))
        if run.finished is None:
            pending = tuple(approval_of(run.id, yes.asked) for yes in run.approvals.values() if yes.state == "pending")
            parked = run.main.parked
            reason = f"waits for {parked.on} {', '.join(parked.ids)}".rstrip() if parked is not None else "running"
            if parked is not None and parked.on == "quarantine":
                reason = self.quarantine.why(run.main.agent) or reason
            return Waiting(run.id, pending, None, reason, spend, run.main.state)
        end = run.finished
        output: Any = None
        if end.output:
            output = decoded(end.output, asked)
        return make(end.status, run.id, output, end.reason, spend, run.main.state)

    # -- ends ----------------------------------------------------------------------------------------------

    def gone(self, path: str, exit: Exit) -> None:
        """An agent's address is gone for good: its runs end as `stopped`, with their checkpoint."""
        if self.closing:
            return
        try:
            for run, sub in self.assigned(path):
                self.end(run, sub, "stopped", f"{path} ended: {exit}")
        except JournalError as error:  # the address is gone all the same; the next process ends or resumes them
            log.error("runs of %s could not be ended: %s", path, error)
        self._assigned.pop(path, None)

    def end_late(self) -> None:
        """End the (sub-)runs whose seconds are up while nobody drives them: in back-off, or in a queue."""
        for run in [] if self.closing else self.live():
            for sub in list(run.subs.values()):
                idle = sub.finished is None and sub.parked is None and (run.id, sub.id) not in self.driving
                if not idle or sub.agent not in self.policies:
                    continue
                if (denied := self.late(run, self.chain_of(run, sub))) is not None:
                    self.append(run.id, denied, sub=sub.id)
                    self.end(run.id, sub.id, "stopped", denied_text(denied))

    def _harvest(self, run: Run, parent: Sub) -> None:
        """End the delegations of a sub-run that is being ended, and take in what they have."""
        for child in list(run.subs.values()):
            if child.parent != parent.id:
                continue
            self.end(run.id, child.id, "stopped", "the run that asked for it was ended")
            call = parent.find(child.parent_step, child.parent_index)
            if child.finished is not None and call is not None and not call.done:
                self.append(run.id, delegate_outcome(child, child.finished), sub=parent.id, cause=child.seq)

    def end(self, run: str, sub: int, status: ev.Status, reason: str) -> None:
        """End a (sub-)run from outside of `decide`."""
        state = self._runs[run]
        child = state.subs[sub]
        if child.finished is not None:
            return
        self._harvest(state, child)
        if child.asking is not None and (run, child.id) not in self.driving:  # nobody will ask about it
            self.append(run, self.forfeit(child.asking), sub=sub)
        try:
            output = checkpoint(state, child, self.policy(child.agent))
        except Exception as error:
            log.exception("checkpoint of run %s failed", run)
            output, reason = "", f"{reason}; its checkpoint raised {type(error).__name__}"
        self.append(run, ev.Finished(status, output, reason, decided=False), sub=sub)
        self.after_commit(self.announce, run, sub)  # whoever is told may act on it

    def ask_to_stop(self, name: str, reason: str, how: str, by: str = "") -> None:
        """Ask a run to end or rest after its present step; a parked run ends at once."""
        run = self.get(name)
        if run.finished is not None or run.stop is not None:
            return
        self.append(name, ev.StopAsked(reason, "park" if how == "park" else "stop", by))
        if how == "park":
            return
        for sub in list(run.subs.values()):
            if sub.finished is None and sub.parked is not None:
                self.append(name, ev.Unparked("asked to stop"), sub=sub.id)
                self.dispatch(name, sub.id)

    # -- resuming ------------------------------------------------------------------------------------------

    async def load(self) -> list[str]:
        """Fold every unfinished run of the journal. Their ids, oldest first."""
        loaded: list[str] = []
        if self.journal.knows(PRUNED):
            self.book_pruned(await self.journal.read(PRUNED))
        await self.quarantine.load()
        since = self.counted_since()
        for tail in await self.journal.store.tails():
            self.windows.learn(tail)
            if not ev.is_run(tail.run) or tail.run in self._runs:
                continue
            ended_at = has_ended(tail)
            if ended_at is not None and ended_at < since:
                continue
            records = await self.journal.read(tail.run)
            run = fold(records)
            self.book_dated(records)
            doubtful = any(doubt.settled is None for doubt in run.doubts.values())
            if run.session and (doubtful or run.finished is None):  # to be kept, so with the window that it began with
                run = await self.windows.folded(tail.run)
            if run.subs and run.finished is None:
                self.keep(run)
                loaded.append(run.id)
                continue
            self.rebook(run, own=False, shared=True)
            if doubtful:
                self.keep(run)  # it has ended; whether that call happened is still to be said
        return loaded

    def incarnation(self, path: str) -> int:
        """The last incarnation of an actor that an unfinished run knows of."""
        subs = [sub for run in self._runs.values() for sub in run.subs.values() if sub.path == path]
        return max((sub.incarnation for sub in subs), default=0)

    async def reopen(self, name: str, by: str) -> None:
        """Go on with a run that was abandoned, parked by its asker or ended by its supervisor. Raises `UnknownRun`."""
        run = await self.find(name)
        self.windows.check_newest(run)
        if name not in self._runs:
            self.keep(run)
            self.rebook(run, own=True, shared=False)  # what it shares was booked when the journal was loaded
        run = self._runs[name]  # somebody else may have been quicker
        if reopens(run):
            self.append(name, ev.Resumed(by, reopen=True))
            self.drive_on(run)

    def drive_on(self, run: Run) -> None:
        """Send every (sub-)run of it to its agent that has not ended and waits for nobody."""
        for sub in list(run.subs.values()):
            if sub.finished is not None:
                continue
            if sub.parked is not None and (over(run, sub.parked) or sub.expired or self._released(sub)):
                self.append(run.id, ev.Unparked("what it waited for is there"), sub=sub.id)
            if sub.parked is None:
                self.dispatch(run.id, sub.id)

    def _released(self, sub: Sub) -> bool:
        """Whether it waits for the end of a quarantine that has ended."""
        waits = sub.parked is not None and sub.parked.on == "quarantine"
        return waits and sub.agent not in self.quarantine.held

    def post_work(self, cell: Cell, run: str, sub: int) -> None:
        """Put work that an actor already has into its mailbox (a new incarnation takes it up)."""
        cell.box().force(Envelope(Work(run, sub)))
