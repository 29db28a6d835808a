"""The composition root: turns a description and a journal's path into a running node.

    async with System(desk, journal="desk.db") as system:
        result = await system.ref(writer).ask(Ticket("My parcel is late."), timeout=60)

Embed it: it lives in the event loop it is entered in, installs no signal handlers, and may be entered again after it
was left. Leaving it stops accepting, lets every run end its present step and parks it (`grace` seconds), then stops
the tree, last started first.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from os import PathLike, fspath
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast, overload

import msgspec

from understudy.actors.actor import Actor
from understudy.actors.agents import answers
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.asking import AgentRef
from understudy.actors.agents.driver import AgentActor
from understudy.actors.agents.results import Approval, OpenDoubt, Result, Waiting
from understudy.actors.agents.runs import Runs
from understudy.actors.cell import Cell
from understudy.actors.clock import Clock, Dice, Ids, RandomIds, SystemClock, system_dice
from understudy.actors.errors import JournalError, SpecError, UsageError
from understudy.actors.inspection import TREE_LIMIT, Inspection, TreeInspection, cell_of, inspect_all, inspect_cell
from understudy.actors.journal import events as ev
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import JournalStore, MemoryStore
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Asks
from understudy.actors.refs import Key, Ref
from understudy.actors.scheduling import Scheduler
from understudy.actors.suspension import SUSPEND_SECONDS
from understudy.actors.telemetry import Telemetry, log
from understudy.actors.topics import Topic
from understudy.actors.watchdog import THRESHOLD, Watchdog, check_threshold
from understudy.actors.watching import WATCH_SECONDS, Watch
from understudy.supervisors import lint
from understudy.supervisors import tree as trees
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import TEMPLATE, DynamicActor, DynamicPlan
from understudy.supervisors.guards.budgets import Accounts
from understudy.supervisors.handles import DynamicRef, SupervisorRef
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.routing import Pool, RouteRef, pool_ref
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor

O = TypeVar("O")  # noqa: E741  # the name that users see: output
M = TypeVar("M")
T = TypeVar("T")

STREAMED = 10_000
"""Events that wait for a slow reader of a stream."""
POLL_SECONDS: Final = 0.2
"""How often the inbox of other processes is looked at."""
GRACE_SECONDS: Final = 10.0
SPAWNED: Final = "@spawned"

JournalPath = PathLike[str] | str


class System:
    """One node: a tree, its journal, its addresses.

    `root`: a supervisor, a plain agent (which gets an implicit one), or None for plain actors only. `journal`: a path
    (SQLite), a `JournalStore`, or None for memory. `durability`: `normal` (a power cut may lose the last commits,
    killing the process loses none) or `full`. `check`: pass every local message through the codec. `grace`: seconds
    that running steps have when the system is left. `meta`: kept in the journal beside the events. `watchdog`: seconds
    after which a handler that blocks the event loop is reported (see `actors.watchdog`); None for no watchdog. `clock`,
    `ids`, `dice` and `scheduler` are seams for tests.

    Raises `SpecError` for a bad tree when made; `JournalError` when entered.
    """

    def __init__(
        self,
        root: Supervisor | Agent[Any, Any] | None = None,
        *,
        journal: JournalPath | JournalStore | None = None,
        durability: Literal["normal", "full"] = "normal",
        check: bool = False,
        grace: float = GRACE_SECONDS,
        meta: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        dice: Dice | None = None,
        scheduler: Scheduler | None = None,
        watchdog: float | None = THRESHOLD,
    ) -> None:
        self.tree = trees.plan(trees.root_of(root) if root is not None else Supervisor("main", []))
        self._journal_at = journal
        self._durability: Literal["normal", "full"] = durability
        self._check = check
        self._grace = grace
        self._meta = dict(meta or {})
        self._clock: Clock = clock or SystemClock()
        self._ids: Ids = ids or RandomIds()
        self._dice: Dice = dice or system_dice()
        self._scheduler = scheduler
        self._watchdog = watchdog
        if watchdog is not None:
            check_threshold(watchdog)
        self._stack: AsyncExitStack | None = None

    # -- in and out ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise UsageError("this system is running already; make another one")
        async with AsyncExitStack() as stack:
            await self._open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is None:
            return
        with contextlib.suppress(JournalError):
            await self._drain(self._grace if kind is None else 0.0)
        await stack.aclose()
        interrupted = self.kernel.interrupted
        if interrupted is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            if self._host is not None:
                self._host.uncancel()
            raise interrupted

    async def _open(self, stack: AsyncExitStack) -> None:
        self._drained_by = float("inf")
        self.kernel = Kernel(clock=self._clock, scheduler=self._scheduler, check=self._check)
        self.journal = Journal(self._store(), self._clock)
        await self.journal.open()
        stack.push_async_callback(self.journal.aclose)
        owners = msgspec.json.encode(trees.owners(self.tree)).decode()
        await self.journal.store.set_meta({"owners": owners, **self._meta})
        self.ledger = Accounts()
        self.runs = Runs(
            kernel=self.kernel,
            journal=self.journal,
            ledger=self.ledger,
            policies=self.tree.policies,
            ids=self._ids,
            dice=self._dice,
        )
        for policy in self.tree.policies.values():
            for owner, budget in policy.budgets:
                if (pool := budget.pool(owner, "")).key == owner:
                    self.ledger.declare(pool)
        loaded = await self.runs.load()
        self.runs.sessions = {id(model): await stack.enter_async_context(model.session()) for model in self.tree.models}
        stack.callback(self.kernel.telemetry.close)
        if self._watchdog is not None:
            stack.enter_context(Watchdog(self.kernel, self._watchdog))
        await stack.enter_async_context(self.kernel)
        self._pools = {name: self._pool(name) for name in self.tree.places}
        self.runs.addresses = lambda name: self._pools[name].pick()
        self._host = asyncio.current_task()
        self.kernel.on_interrupt = self._interrupt
        self._spawned: DynamicActor | None = None
        self.kernel.on_released = self._released
        await self._start_tree()
        self._inbox_seen = await self._inbox_start()
        self.runs.go_on(loaded)
        await self._take_inbox()
        poller = asyncio.create_task(self._poll(), name="understudy-inbox")
        stack.push_async_callback(_cancelled, poller)

    def _interrupt(self, error: BaseException) -> None:
        """A handler raised KeyboardInterrupt or SystemExit: leave in order, and raise it where we were entered."""
        if self._host is not None:
            self._host.cancel()

    def _released(self, cell: Cell, exit: Exit) -> None:
        if cell.kind is None or cell.kind is AgentActor:
            self.runs.gone(cell.path, exit)
        if self._spawned is not None and cell.parent is None:
            self._spawned.forget(cell)

    def _store(self) -> JournalStore:
        where = self._journal_at
        if where is None:
            return MemoryStore()
        if isinstance(where, str | PathLike):
            from understudy.transports.journals.sqlite import SQLiteStore

            return SQLiteStore(fspath(where), durability=self._durability)
        return where

    async def _start_tree(self) -> None:
        root = self.tree.root
        for finding in lint.check(root):
            extra = {"code": finding.code, "place": finding.place}
            log.warning("%s: %s; %s", finding.place, finding.text, finding.cure, extra=extra)
        making = trees.Making(
            lambda policy: AgentActor(self.runs, policy), self.runs.supervised, self._dice, self.runs.incarnation
        )
        factory = trees.factory_of(self.tree, root, root.name, making)
        cell = self.kernel.spawn(factory, name=root.name)
        failed = await self.kernel.wait_started(cell)
        if failed is not None:
            raise SpecError(f"{root.name} did not start: {failed.detail or failed}")

    def _pool(self, name: str) -> Pool:
        place = self.tree.places[name]
        paths = place.members()

        def find() -> list[Cell]:
            found = (self.kernel.registry.find(path) for path in paths)
            return [cell for cell in found if cell is not None]

        return Pool(
            place.path,
            find,
            place.spread,
            lambda cell: len(self.runs.assigned(cell.path)),
            size=len(paths),
            by=place.by,
            dice=self._dice,
        )

    async def drain(self) -> None:
        """Accept nothing new and let every run end its present step and park, `grace` seconds at most.

        Leaving the system does the same; call it first when a host waits for open requests (they get `waiting`).
        """
        await self._drain(self._grace)

    async def _drain(self, grace: float) -> None:
        self.runs.close()
        now = self.kernel.loop.time()
        # To drain first and leave then is one grace period, not two.
        self._drained_by = min(now + grace, self._drained_by)
        while self._park_idle() and self.kernel.loop.time() < self._drained_by:  # noqa: ASYNC110  # bounded by grace
            await asyncio.sleep(0.02)
        for run in self.runs.live():  # who waits for a step that outlasts the grace period is told `waiting`, too
            for sub in list(run.subs):
                self.runs.announce(run.id, sub)
        await self.journal.barrier()

    def _park_idle(self) -> bool:
        """Park every (sub-)run that no agent is in a step of; whether there are others. Also those handed on since."""
        for run in self.runs.live():
            for sub in list(run.subs.values()):
                key = (run.id, sub.id)
                if sub.finished is None and sub.parked is None and key not in self.runs.driving:
                    self.runs.append(run.id, ev.Parked("shutdown", ()), sub=sub.id)
                    self.runs.announce(*key)
        return bool(self.runs.driving)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None, None]:
        """For Starlette and FastAPI: `FastAPI(lifespan=system.lifespan)`. May be entered again after it was left."""
        async with self:
            yield

    # -- addresses -----------------------------------------------------------------------------------------

    def spawn(self, factory: Callable[[], Actor[M]], *, name: str = "") -> Ref[M]:
        """Start a plain actor at the top. It is restarted after a failure, with back-off, 3 times in 5 s at most."""
        self._running()
        if "/" in name or name.startswith(("@", "$")):
            raise SpecError(f"actor name {name!r}: no '/', and '@' and '$' do not begin it")
        return self.kernel.ref_of(self._guardian().begin(factory, name))

    def _guardian(self) -> DynamicActor:
        """Who keeps the spawned actors: each has an intensity of its own, and all together have none."""
        if self._spawned is None:
            template = dataclasses.replace(TEMPLATE, intensity=Intensity())
            plan = DynamicPlan(template, None, Backoff(first=0.05), self._dice, self.runs.supervised, top=True)
            self._spawned = DynamicActor(plan)
            cell = self.kernel.spawn(lambda: cast("DynamicActor", self._spawned), name="spawned")
            self.kernel.bind(self._spawned, cell)
        return self._spawned

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
        place = self.tree.places.get(name)
        if place is None:
            place = next((p for p in self.tree.places.values() if p.path == name), None)
        if place is not None:
            return self._ref_to(place)
        for path, supervisor in self.tree.supervisors.items():
            if path == name or supervisor.name == name:
                return self._route_ref(path, supervisor)
        cell = self.kernel.registry.find(name)
        if cell is None:
            known = ", ".join(sorted({*self.tree.places, *self.kernel.registry.names()})) or "none"
            raise UsageError(f"no actor {name!r} in this system; known: {known}")
        return self.kernel.ref_of(cell)

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

    def _running(self) -> None:
        if self._stack is None:
            raise UsageError("the system is not running; enter it with `async with`")

    # -- runs ----------------------------------------------------------------------------------------------

    async def run(self, agent: Agent[O, M], task: str | M, *, timeout: float | None = None) -> Result[O]:
        """Ask an agent and wait for its result; `Waiting` as soon as it parks for a person."""
        message = agent.decode(agent.encode(task))
        result: Result[O] = await self._agent_ref(agent).ask(cast("Asks[Any, Any]", message), timeout=timeout)
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

    async def stream(self, agent: Agent[O, M], task: str | M) -> AsyncIterator[ev.Record | Result[O]]:
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
            if not name or record.run == name:
                put(record)

        ref = self._agent_ref(agent)
        stop = self.listen(hear)
        try:
            name = ref.begin(agent.decode(agent.encode(task)))
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
            await _cancelled(waiting)

    @overload
    async def resume(self, run: str, *, timeout: float | None = None) -> Result[Any]: ...
    @overload
    async def resume(self, run: Ref[Any], *, timeout: None = None) -> None: ...
    async def resume(self, run: str | Ref[Any], *, timeout: float | None = None) -> Result[Any] | None:
        """Go on with a run and wait until it ends or parks again. Raises `UnknownRun`.

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

    def unfinished(self) -> list[str]:
        """Ids of the runs that have not ended, oldest first."""
        return [run.id for run in self.runs.live()]

    def state(self, run: str) -> Run:
        """The folded state of a run; do not change it. Raises `UnknownRun`."""
        return self.runs.get(run)

    def listen(self, listener: Callable[[ev.Record], None]) -> Callable[[], None]:
        """Call `listener` with every journalled event from now on; the returned function takes it off."""
        return self.journal.listeners.add(listener)

    # -- people --------------------------------------------------------------------------------------------

    def approvals(self) -> list[Approval]:
        """Every yes that is asked for and not answered, oldest first."""
        return answers.approvals(self.runs)

    def doubts(self) -> list[OpenDoubt]:
        """Every call in doubt, oldest first."""
        return answers.doubts(self.runs)

    async def approve(self, approval: Approval | str, *, by: str) -> str:
        """Say yes; the run goes on. Returns its id. Raises `UnknownRun`, `UsageError` (see `answers.approve`)."""
        digest = approval.digest if isinstance(approval, Approval) else ""
        name = approval.id if isinstance(approval, Approval) else approval
        return await answers.approve(self.runs, name, by, digest)

    async def refuse(self, approval: Approval | str, *, by: str, reason: str = "") -> str:
        """Say no; the agent is told, and the run goes on. Returns its id."""
        name = approval.id if isinstance(approval, Approval) else approval
        return await answers.refuse(self.runs, name, by, reason)

    async def settle(self, doubt: str, *, did: bool, by: str) -> str:
        """Say whether a call in doubt happened. Returns the run's id."""
        return await answers.settle(self.runs, doubt, did, by)

    # -- the inbox of other processes ----------------------------------------------------------------------

    async def _inbox_start(self) -> int:
        return int((await self.journal.meta()).get("inbox_taken", "0"))

    async def _poll(self) -> None:
        """Take words of other processes, and let questions expire."""
        told = ""
        while True:
            try:
                await self._take_inbox()
                await answers.expire_all(self.runs)
                await answers.time_out_all(self.runs)
                self.runs.end_late()
            except JournalError as error:
                if str(error) != told:
                    log.error("inbox: %s", error)
                told = str(error)
            except Exception:  # whoever comes next must still be heard
                log.exception("inbox: a word or a deadline was passed over")
            await asyncio.sleep(POLL_SECONDS)

    async def _take_inbox(self) -> None:
        for row in await self.journal.store.take(self._inbox_seen):
            await answers.hear(self.runs, row.kind, row.body)
            self._inbox_seen = row.id
            await self.journal.store.set_meta({"inbox_taken": str(row.id)})


async def _cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
