"""The front of a running node: what users start, ask, watch and answer.

    async with System(desk, journal="desk.db") as system:
        result = await system.ref(writer).ask(Ticket("My parcel is late."), timeout=60)

Embed it: it lives in the event loop it is entered in, installs no signal handlers, and may be entered again after it
was left. Leaving it stops accepting, lets every run end its present step and parks it (`grace` seconds), then stops
the tree, last started first. How that is done is in `node`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar, cast, overload

import msgspec

from understudy.actors.actor import Actor
from understudy.actors.agents import answers, corrections, forking
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.asking import AgentRef
from understudy.actors.agents.models import Usage
from understudy.actors.agents.results import Approval, OpenDoubt, Result, Waiting
from understudy.actors.durable.office import Office
from understudy.actors.durable.turns import DeadPost
from understudy.actors.errors import SpecError, UnknownRun, UsageError
from understudy.actors.inspection import TREE_LIMIT, Inspection, TreeInspection, cell_of, inspect_all, inspect_cell
from understudy.actors.journal import events as ev
from understudy.actors.journal.committed import Attached, Hears
from understudy.actors.journal.differences import Difference, difference
from understudy.actors.journal.forks import Change
from understudy.actors.journal.pruning import Prunable, prune
from understudy.actors.journal.replay import ReplayReport, replay
from understudy.actors.journal.sessions import completed
from understudy.actors.journal.state import Estimate, Run
from understudy.actors.messages import Asks
from understudy.actors.outlet import BUFFER, FLUSH_SECONDS
from understudy.actors.refs import Key, Ref
from understudy.actors.remote.refs import FarRef
from understudy.actors.suspension import SUSPEND_SECONDS
from understudy.actors.telemetry import Telemetry
from understudy.actors.topics import Topic
from understudy.actors.watching import WATCH_SECONDS, Watch
from understudy.node import Node, end_task
from understudy.supervisors import tree as trees
from understudy.supervisors.guards import whatif
from understudy.supervisors.guards.approvals import Approvals
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.handles import DynamicRef, SupervisorRef
from understudy.supervisors.routing import RouteRef, pool_ref
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor

O = TypeVar("O")  # noqa: E741  # the name that users see: output
M = TypeVar("M")
T = TypeVar("T")

STREAMED = 10_000
"""Events that wait for a slow reader of a stream."""


class System(Node):
    """One node: a tree, its journal, its addresses.

    `root`: a supervisor, a plain agent (which gets an implicit one), or None for plain actors only. `journal`: a path
    (SQLite), a `JournalStore`, or None for memory. `durability` says what a kill and a power cut can lose (see
    docs/journal.md): `normal` (default), `full` or `relaxed` with a path, `memory` (default) or `off` without. `check`:
    pass every local message through the codec. `grace`: seconds that running steps have when the system is left.
    `listeners`: see `attach`. `redact`: patterns of secrets, default `Redact()`; None for none. `Secret` fields are
    always redacted (see docs/secrets.md).
    `meta`: kept in the journal beside the events. `watchdog`: seconds after which a handler that blocks the event loop
    is reported (see `actors.watchdog`); None for no watchdog. `clock`, `ids`, `dice` and `scheduler` are seams for
    tests.

    Raises `SpecError` for a bad tree, and for a tool that may not be called twice in a `relaxed` journal, when made;
    `UsageError` for a durability that does not go with `journal`; `JournalError` when entered.
    """

    # -- addresses -----------------------------------------------------------------------------------------

    def spawn(self, factory: Callable[[], Actor[M]], *, name: str = "") -> Ref[M]:
        """Start a plain actor at the top. It is restarted after a failure, with back-off, 3 times in 5 s at most."""
        self._running()
        if "/" in name or name.startswith(("@", "$")):
            raise SpecError(f"actor name {name!r}: no '/', and '@' and '$' do not begin it")
        return self.kernel.ref_of(self._guardian().begin(factory, name))

    def supervisor(self, to: str | Supervisor) -> SupervisorRef:
        """The handle of a supervisor, by description, path or name: list, start, stop, restart and delete children.

        Raises `UsageError` for a name that is unknown, ambiguous or that of a dynamic supervisor (see `dynamic`).
        """
        self._running()
        return SupervisorRef(self.kernel, trees.path_of(self.tree.supervisors, to, "supervisor"))

    def dynamic(self, to: str | DynamicSupervisor) -> DynamicRef:
        """The handle of a dynamic supervisor, by description, path or name: start and stop children.

        Raises `UsageError` for a name that is unknown or ambiguous.
        """
        self._running()
        path = trees.path_of(self.tree.dynamic, to, "dynamic supervisor")
        return DynamicRef(self.kernel, path, self.tree.dynamic[path].factory)

    @overload
    def ref(self, to: Key[M] | Agent[Any, M] | ChildSpec[M]) -> Ref[M]: ...
    @overload
    def ref(self, to: str | Supervisor) -> Ref[Any]: ...
    def ref(self, to: str | Key[Any] | Agent[Any, Any] | ChildSpec[Any] | Supervisor) -> Ref[Any]:
        """The address of an agent, a child, a supervisor (its routes) or a spawned actor, by object or by name.

        `"writer"` is a pool's router, `"writer/2"` one member. Raises `UsageError` for an unknown name.
        """
        self._running()
        name = to if isinstance(to, str) else to.name
        found = self._local_ref(name)
        if found is None and self.kernel.nodes is not None:
            cell = self.kernel.nodes.cell(name)
            found = None if cell is None else FarRef(cell)
        if found is None:
            known = ", ".join(sorted({*self.tree.places, *self.kernel.registry.names()})) or "none"
            raise UsageError(f"no actor {name!r} in this system; known: {known}{self._known_nodes()}")
        return found

    def _known_nodes(self) -> str:
        nodes = self.kernel.nodes
        if nodes is None:
            return ""
        names = ", ".join(sorted(f"{peer.name}/" for peer in nodes.peers))
        return f"; nodes: {names}" if names else "; no other node is known"

    def _local_ref(self, name: str) -> Ref[Any] | None:
        """The address of this node with this name. Raises `SpecError` for one that is ambiguous."""
        place = self.tree.places.get(name)
        if place is None:
            place = next((p for p in self.tree.places.values() if p.path == name), None)
        if place is not None:
            return self._ref_to(place)
        for path, supervisor in self.tree.supervisors.items():
            if path == name or supervisor.name == name:
                return self._route_ref(path, supervisor)
        cell = self.kernel.registry.find(name)
        return None if cell is None else self.kernel.ref_of(cell)

    def watch(self, *refs: Ref[Any], timeout: float = WATCH_SECONDS) -> Watch:
        """Be told when actors end, from outside of actors: `await` it, or iterate over it. See `Watch`."""
        self._running()
        return Watch(self.kernel, refs, timeout)

    def topic(self, accepts: type[M], name: str = "", *, limit: int | None = None) -> Topic[M]:
        """The topic of a message type, made when first asked for; `name` tells several of one type apart."""
        self._running()
        return self.kernel.topics.find(accepts, name, limit=limit)

    def _ref_to(self, place: trees.Place) -> Ref[Any]:
        pool = self._pools[place.spec.name]
        if isinstance(place.spec.child, Agent):
            return AgentRef(self.runs, self.tree.policies[place.spec.name], pool.pick)
        return pool_ref(pool) if place.spec.count > 1 else self.kernel.ref_of(pool.pick())

    def _route_ref(self, path: str, supervisor: Supervisor) -> Ref[Any]:
        cell = self.kernel.registry.find(path)
        if cell is None:
            raise UsageError(f"supervisor {path!r} has stopped")
        refs = {kind: self._ref_to(self.tree.places[route.to]) for kind, route in supervisor.route_table().items()}
        return RouteRef(cell, refs)

    # -- looking, and holding still -----------------------------------------------------------------------

    @property
    def telemetry(self) -> Telemetry:
        """Dead letters, crash reports, blockages and the flight recorder: what was, and listeners for what will be."""
        return self.kernel.telemetry

    def inspect(self, actor: Ref[Any] | str) -> Inspection:
        """What one actor is doing now; by ref, or by path. See `Inspection`, and `cell_of` for what is raised."""
        self._running()
        return inspect_cell(cell_of(self.kernel, actor))

    def inspect_tree(self, *, limit: int = TREE_LIMIT) -> TreeInspection:
        """What all actors are doing now, each before its children; at most `limit` (default 1,000)."""
        self._running()
        return inspect_all(self.kernel, limit)

    async def suspend(self, actor: Ref[Any] | str, *, timeout: float = SUSPEND_SECONDS) -> None:
        """Let an actor begin no further work until `resume(ref)`; returns when its handler has ended."""
        self._running()
        await self.kernel.suspensions.suspend(cell_of(self.kernel, actor), timeout)

    async def peek(self, actor: Ref[Any] | str, fn: Callable[[Any], T], *, timeout: float = SUSPEND_SECONDS) -> T:
        """Call a plain function with the actor object between two of its messages; also while it is suspended."""
        self._running()
        return await self.kernel.suspensions.peek(cell_of(self.kernel, actor), fn, timeout)

    # -- runs ----------------------------------------------------------------------------------------------

    async def prune(self, *, ended_before: float) -> Prunable:
        """Remove the streams of runs that ended more than `ended_before` seconds ago, and say which.

        Those stay that somebody still needs: with an open doubt, or in the window of a session. What the others spent
        in budgets per life or window is kept. They cannot be read, replayed or resumed any more. Raises `UsageError`
        for a negative number, `JournalError`.
        """
        self._running()
        if not ended_before >= 0:
            raise UsageError(f"ended_before is {ended_before!r}: seconds may not be negative")
        gone = await prune(self.journal, self._clock.wall() - ended_before)
        self.runs.drop(gone.runs)
        return gone

    async def run(
        self,
        agent: Agent[O, M],
        task: str | M,
        *,
        timeout: float | None = None,
        session: str | None = None,
        traceparent: str = "",
    ) -> Result[O]:
        """Ask an agent and wait for its result; `Waiting` as soon as it parks for a person.

        `traceparent`: the W3C header of the request that this serves; the run joins its trace. Without a valid one it
        has a trace of its own.

        `session`: a name of your own, of 1 to 200 characters. The run goes on with the context window that the
        session's last run left, whatever its end, also of a former process. A session has one run at a time and one
        agent: raises `SessionBusy` while its last run has not ended, `UsageError` for another agent.
        """
        ref, message = self._agent_ref(agent), agent.decode(agent.encode(task))
        if session is None:
            asked = cast("Asks[Any, Any]", message)
            result: Result[O] = await ref.ask(asked, timeout=timeout, traceparent=traceparent)
        else:
            result = await ref.wait_for(await ref.begin_in(session, message, traceparent), timeout=timeout)
        return self._warned(result)

    def _agent_ref(self, agent: Agent[Any, Any]) -> AgentRef:
        self._running()
        policy = self.runs.policy(agent.name)
        return AgentRef(self.runs, policy, self._pools[agent.name].pick)

    def _warned(self, result: Result[O]) -> Result[O]:
        if isinstance(result, Waiting) and self._journal_at is None:
            text = f"{result.reason}; its journal is in memory, so it cannot be answered once this system is left"
            return msgspec.structs.replace(result, reason=text)
        return result

    async def stream(
        self, agent: Agent[O, M], task: str | M, *, session: str | None = None, traceparent: str = ""
    ) -> AsyncIterator[ev.Record | Result[O]]:
        """As `run`, giving every journalled event of the run as it happens; the last item is the result.

        At most 10,000 events wait for a slow reader; then the oldest are dropped.
        """
        records: asyncio.Queue[ev.Record | None] = asyncio.Queue(STREAMED)
        name = ""

        def put(record: ev.Record | None) -> None:
            if records.full():
                records.get_nowait()
            records.put_nowait(record)

        def hear(record: ev.Record) -> None:
            if record.run == name or not name:
                put(record)

        ref = self._agent_ref(agent)
        stop = self.listen(hear)
        try:
            message = agent.decode(agent.encode(task))
            began = ref.begin(message, traceparent) if session is None else ref.begin_in(session, message, traceparent)
            name = began if isinstance(began, str) else await began
        except BaseException:
            stop()
            raise
        waiting = asyncio.create_task(ref.wait_for(name))
        waiting.add_done_callback(lambda _: put(None))
        try:
            while (record := await records.get()) is not None:
                yield record
            yield self._warned(await waiting)
        finally:
            stop()
            await end_task(waiting)

    @overload
    async def resume(self, run: str, *, timeout: float | None = None) -> Result[Any]: ...
    @overload
    async def resume(self, run: Ref[Any], *, timeout: None = None) -> None: ...
    async def resume(self, run: str | Ref[Any], *, timeout: float | None = None) -> Result[Any] | None:
        """Go on with a run and wait until it ends or parks again. Raises `UnknownRun`, and `ActorStopped` when its
        agent is gone for good: the run waits in the journal then, for the next process.

        Given a ref: let a suspended actor go on with the work that waits; returns at once. See `suspension`.
        """
        self._running()
        if isinstance(run, Ref):
            self.kernel.suspensions.resume(cell_of(self.kernel, run))
            return None
        # An end on its way to the disk is no end yet: the agent is still at it, and would take the run for its own.
        await self.journal.barrier()
        await asyncio.sleep(0)
        await self.runs.reopen(run, "resume")
        state = self.runs.get(run)
        policy = self.runs.policy(state.main.agent)
        ref = AgentRef(self.runs, policy, self._pools[policy.name].pick)
        result: Result[Any] = await ref.wait_for(run, timeout=timeout)
        return self._warned(result)

    async def result(self, run: str) -> Result[Any]:
        """The result of a run of this or a former process, as it stands. Raises `UnknownRun`."""
        return self.runs.result(await self.runs.find(run))

    async def fork(
        self,
        run: str,
        *,
        at: int,
        instructions: str | None = None,
        model: str = "",
        result: object = ...,
        agent: Agent[Any, Any] | str = "",
        by: str = "",
    ) -> str:
        """Begin a new run that goes on from event `at` of another, with something changed; its id. `resume` waits for
        it. The other run stays as it is, and what it did in the world until then is not done again.

        `instructions` and `model` (one that the agent has, by name) are those of `agent` from there on; by default of
        the one that the event belongs to. `result`: any JSON value, in the place of that of a tool's call, whose
        outcome event `at` is. Other guards, tools or prompts are those of this system's tree. What was spent before
        counts in the new run's own budgets, and not again in those per life or window.

        Raises `UnknownRun`, and `UsageError` for an event where the run had ended or a call that changes the world was
        open, asked for or in doubt; see docs/journal.md.
        """
        name = agent if isinstance(agent, str) else agent.name
        text = "" if result is ... else answers.as_json(result, "result")
        change = Change(name, instructions, model, text)
        return await forking.fork(self.runs, await self._records(run), at, change, by)

    async def replay(self, run: str) -> ReplayReport:
        """Decide a run of the journal again with this tree's agents and compare; see `journal.replay`. Calls nobody.

        Raises `UnknownRun`, `JournalError`.
        """
        return replay(await self._records(run), self.tree.policies)

    async def diff(self, run: str, other: str) -> Difference:
        """Where two runs of the journal part, and what each spent; see `journal.differences`.

        Raises `UnknownRun`, `JournalError`.
        """
        return difference(await self._records(run), await self._records(other))

    async def what_if(
        self, run: str, guards: Supervisor | Agent[Any, Any] | Loops | Budget | Approvals
    ) -> whatif.WhatIf:
        """What other guards would have stopped in a run of the journal, where, and what that would have saved.

        `guards`: a tree or an agent, whose guards are asked for the agents of the same names; a `Loops` or an
        `Approvals`, for every agent; a `Budget`, for the run as a whole. Calls nobody. Raises `UnknownRun`,
        `SpecError` for a bad tree, `JournalError`.
        """
        return whatif.what_if(await self._records(run), trees.with_guards(self.tree.policies, guards))

    async def _records(self, run: str) -> list[ev.Record]:
        """A whole stream, with the window that the run began with. Raises `UnknownRun`."""
        self._running()
        if not ev.is_run(run) or not self.journal.knows(run):
            raise UnknownRun(f"no run {run!r} in {self.journal.store.path}")
        await self.journal.barrier()
        return await completed(await self.journal.read(run), self.journal.read)

    def unfinished(self) -> list[str]:
        """Ids of the runs that have not ended, oldest first."""
        return [run.id for run in self.runs.live()]

    def state(self, run: str) -> Run:
        """The folded state of a run; do not change it. Raises `UnknownRun`."""
        return self.runs.get(run)

    def listen(self, listener: Callable[[ev.Record], None]) -> Callable[[], None]:
        """Call `listener` with every journalled event from now on; the returned function takes it off.

        It is called in the loop, at once, and before the event is committed: for what must be quick and near. What
        exports events is attached (see `attach`).
        """
        return self.journal.listeners.add(listener)

    def attach(self, listener: Hears, *, size: int = BUFFER, flush: float = FLUSH_SECONDS) -> Attached:
        """Give a listener every event that is committed from now on, with its trace: for exporters.

        It is called with batches of `Seen`, in order, in a thread of its own. At most `size` events (default 10,000)
        wait for it; more are dropped and counted. What it raises is logged once and counted. When the system is left it
        has `flush` seconds (default 5) for the rest; its `close()`, if it has one, is called last. Raises
        `UsageError` for a size below 1 and seconds below 0.
        """
        self._running()
        if size < 1 or not flush >= 0:
            raise UsageError(f"attach: size {size!r} must be at least 1, flush {flush!r} at least 0 seconds")
        return self._committed.attach(listener, size=size, flush=flush)

    async def estimates(self, run: str) -> list[Estimate]:
        """The model calls of a run that are counted with their caps: nobody knows their cost. Raises `UnknownRun`."""
        return await corrections.estimates(self.runs, run)

    async def correct(self, run: str, ticket: str, *, input_tokens: int, output_tokens: int) -> None:
        """Say what an estimated call really cost, in tokens; 0 and 0 when it was never billed. Once a call.

        Raises `UnknownRun`, and `UsageError` for a call that is not estimated (any more).
        """
        await corrections.correct(self.runs, run, ticket, Usage(input_tokens, output_tokens))

    # -- durable messages to plain actors -------------------------------------------------------------------

    def dead_posts(self) -> tuple[DeadPost, ...]:
        """The durable messages that were given up, also by former processes, oldest first; the last 10,000."""
        return self._office.dead()

    async def revive(self, post: DeadPost | int) -> None:
        """Let a dead message be handled again, as often as a new one. Raises `UsageError` for one that is not dead."""
        await self._office.revive(post if isinstance(post, int) else post.id)

    async def discard(self, post: DeadPost | int) -> None:
        """Forget a dead message. Raises as `revive`."""
        await self._office.discard(post if isinstance(post, int) else post.id)

    @property
    def _office(self) -> Office:
        self._running()
        return self.kernel.the_office("plain actors")

    # -- people --------------------------------------------------------------------------------------------

    def approvals(self) -> list[Approval]:
        """Every yes that is asked for and not answered, oldest first."""
        return answers.approvals(self.runs)

    def doubts(self) -> list[OpenDoubt]:
        """Every call in doubt, oldest first."""
        return answers.doubts(self.runs)

    async def approve(self, approval: Approval | str, *, by: str, arguments: Mapping[str, object] | None = None) -> str:
        """Say yes; the run goes on. Returns its id. Raises `UnknownRun`, `UsageError` (see `answers.approve`).

        `arguments`: those that are to be others than the model asked for; the rest stay. The call is made with them if
        they fit the tool, the yes is bound to them, and the model is told who changed what.
        """
        digest = approval.digest if isinstance(approval, Approval) else ""
        name = approval.id if isinstance(approval, Approval) else approval
        edit = "" if arguments is None else answers.as_json(arguments, "arguments")
        return await answers.approve(self.runs, name, by, digest, edit)

    async def refuse(self, approval: Approval | str, *, by: str, reason: str = "") -> str:
        """Say no; the agent is told, and the run goes on. Returns its id."""
        name = approval.id if isinstance(approval, Approval) else approval
        return await answers.refuse(self.runs, name, by, reason)

    def quarantined(self) -> list[ev.Quarantined]:
        """The agents that a guard has taken out of service, longest first, each with the verdict that did."""
        self._running()
        return list(self.runs.quarantine.held.values())

    async def release(self, agent: Agent[Any, Any] | str, *, by: str) -> None:
        """Lift the quarantine of an agent; what waits for it goes on. Raises `UsageError`."""
        self._running()
        await answers.release(self.runs, agent if isinstance(agent, str) else agent.name, by)

    async def settle(self, doubt: str, *, did: bool, by: str) -> str:
        """Say whether a call in doubt happened. Returns the run's id."""
        return await answers.settle(self.runs, doubt, did, by)
