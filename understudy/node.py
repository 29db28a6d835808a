"""A node: how a tree and its journal are brought up, drained, and taken down. What users call is in `system`.

Entering opens the journal, takes up what it holds, starts the tree and then listens to the inbox of other processes.
Leaving stops accepting, lets every run end its present step and parks it (`grace` seconds), then undoes the rest in
reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack
from os import PathLike, fspath
from secrets import token_bytes
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import msgspec

from understudy.actors.agents import answers
from understudy.actors.agents.agent import Agent
from understudy.actors.agents.driver import AgentActor
from understudy.actors.agents.resuming import go_on
from understudy.actors.agents.runs import Runs
from understudy.actors.agents.supervised import observer_of
from understudy.actors.cell import Cell
from understudy.actors.clock import Clock, Dice, Ids, RandomIds, SystemClock, system_dice
from understudy.actors.durable.office import Office
from understudy.actors.errors import JournalDamaged, JournalError, SpecError, UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.committed import Committed, Hears
from understudy.actors.journal.durability import PROFILES, Durability, OnDisk, Place, check_effects, chosen, profile_of
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.store import JournalStore, MemoryStore, posted_of
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.redaction import Redact, Redactor, key_beside
from understudy.actors.scheduling import Scheduler, simulation_of
from understudy.actors.telemetry import log, scrubbing
from understudy.actors.watchdog import THRESHOLD, Watchdog, check_threshold
from understudy.reach import Given, Join, Listen, Reaching, reach
from understudy.supervisors import lint
from understudy.supervisors import tree as trees
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import TEMPLATE, DynamicActor, DynamicPlan
from understudy.supervisors.guards.accounts import Accounts
from understudy.supervisors.history import LONG, READ, History
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.routing import Pool
from understudy.supervisors.specs import Supervisor

if TYPE_CHECKING:
    from understudy.transports.links.allow import Allow
    from understudy.transports.links.ports import Tls

POLL_SECONDS: Final = 0.2
"""How often the inbox of other processes is looked at, and whether a run at work has used up its seconds."""
WALL_SECONDS: Final = 60.0
"""How often, when nothing but the wall clock is waited for, that is looked at: it may be set."""
GRACE_SECONDS: Final = 10.0
GUARDIAN: Final = "spawned"
"""The supervisor of the actors that `System.spawn` starts."""

JournalPath = PathLike[str] | str


class Node(Reaching):
    """A tree, its journal and its addresses, from entering to leaving. Its parameters are those of `System`."""

    def __init__(
        self,
        root: Supervisor | Agent[Any, Any] | None = None,
        *,
        journal: JournalPath | JournalStore | None = None,
        durability: Durability | None = None,
        check: bool = False,
        grace: float = GRACE_SECONDS,
        meta: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        ids: Ids | None = None,
        dice: Dice | None = None,
        scheduler: Scheduler | None = None,
        watchdog: float | None = THRESHOLD,
        listeners: Sequence[Hears] = (),
        redact: Redact | EllipsisType | None = ...,
        name: str | None = None,
        listen: Listen = (),
        join: Join = (),
        secret: Given | None = None,
        tls: Tls | None = None,
        allow: Mapping[str, Allow] | None = None,
    ) -> None:
        self.tree = trees.plan(trees.root_of(root) if root is not None else Supervisor("main", []))
        self._journal_at = journal
        self._chose_memory = durability == "memory"
        self._durability = chosen(durability, _kind(journal))
        profile = profile_of(journal) if _kind(journal) == "store" else PROFILES[self._durability]
        check_effects(profile, (tool for policy in self.tree.policies.values() for tool in policy.agent.all_tools))
        self._check = check
        self._grace = grace
        self._meta = dict(meta or {})
        self._given = clock, ids, dice
        self._scheduler = scheduler
        self._watchdog = watchdog
        self._listeners = tuple(listeners)
        self._redact = Redact() if isinstance(redact, EllipsisType) else redact
        if watchdog is not None:
            check_threshold(watchdog)
        self._stack: AsyncExitStack | None = None
        self._reach = reach(name, listen, join, secret, tls, allow)

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
        try:
            with contextlib.suppress(JournalError):
                await self._drain(self._grace if kind is None else 0.0)
        finally:  # also when that is cancelled
            await stack.aclose()
        interrupted = self.kernel.interrupted
        if interrupted is not None and (error is None or isinstance(error, asyncio.CancelledError)):
            if self._host is not None:
                self._host.uncancel()
            raise interrupted

    async def _open(self, stack: AsyncExitStack) -> None:
        self._drained_by = float("inf")
        self._choose()
        self.kernel = Kernel(clock=self._clock, scheduler=self._scheduler, check=self._check)
        self.journal = Journal(self._store(), self._clock)
        heads = await self.journal.open()
        loop = asyncio.get_running_loop()
        inline = loop if getattr(loop, "virtual", False) else None  # a simulated run has no threads
        self._committed = Committed(self.journal, self._traceparent, loop=inline)
        stack.push_async_callback(self._committed.aclose)  # after the last commit
        stack.push_async_callback(self.journal.aclose)
        for listener in self._listeners:
            self._committed.attach(listener)
        office = self.kernel.office = Office(self.kernel, self.journal, self._no_posts())
        stack.push_async_callback(office.aclose)
        await office.load({head.run: head.seq for head in heads})
        owners = msgspec.json.encode(trees.owners(self.tree)).decode()
        await self.journal.store.set_meta({"owners": owners, **self._meta, ev.EVENTS: str(ev.VERSION)})
        redactor = Redactor(self._redact, self._secret_key)
        stack.enter_context(scrubbing(redactor.plain))
        self.ledger = self._make_ledger()
        self.runs = Runs(
            kernel=self.kernel,
            journal=self.journal,
            ledger=self.ledger,
            policies=self.tree.policies,
            ids=self._ids,
            dice=self._dice,
            redactor=redactor,
        )
        self._observe = observer_of(self.runs)
        for policy in self.tree.policies.values():
            for owner, budget in policy.budgets:
                if (pool := budget.pool(owner, "")).key == owner:
                    self.ledger.declare(pool)
        loaded = await self.runs.load()
        self._history = await self._remembered()
        self.runs.sessions = {id(model): await stack.enter_async_context(model.session()) for model in self.tree.models}
        stack.callback(self.kernel.telemetry.close)
        if self._watchdog is not None:
            stack.enter_context(Watchdog(self.kernel, self._watchdog))
        await stack.enter_async_context(self.kernel)
        stack.callback(self.runs.close)  # also when entering fails: runs rest, they do not end with the tree
        self._pools = {name: self._pool(name) for name in self.tree.places}
        self.runs.addresses = lambda name: self._pools[name].pick()
        self.runs.far = self._far
        self._host = asyncio.current_task()
        self.kernel.on_interrupt = self._interrupt
        self._spawned: DynamicActor | None = None
        self.kernel.on_released = self._released
        await self._start_tree()
        self._inbox_seen = int(self.journal.kept.get("inbox_taken", "0"))
        go_on(self.runs, loaded)
        await self._take_inbox()
        poller = asyncio.create_task(self._poll(), name="understudy-inbox")
        stack.push_async_callback(end_task, poller)
        await self._connect(stack)

    async def _remembered(self) -> History:
        """The restarts that a former process counted. One that cannot be read is no reason not to start."""
        records: list[ev.Record] = []
        wall = self._clock.wall()
        try:
            for many in READ if self.journal.knows(ev.NODE_STREAM) else ():
                records = await self.journal.recent(ev.NODE_STREAM, many)
                if len(records) < many or records[0].at < wall - LONG:
                    break
        except JournalDamaged as error:
            log.error("restarts of the former process are not counted: %s", error)
        return History(records, wall=wall, now=asyncio.get_running_loop().time())

    def _no_posts(self) -> str:
        """Why durable messages are refused, "" where they are kept as long as anybody could expect."""
        if not self.journal.profile.kept:
            return f"with durability {self._durability!r} nothing is kept; a durable message needs a journal"
        if self._journal_at is None and not self._chose_memory:
            return "a durable message needs a journal: System(journal=...), or durability='memory' in a test"
        return ""

    def _make_ledger(self) -> Accounts:
        return Accounts()

    def _choose(self) -> None:
        """Clock, ids and dice: those given, those of a simulated loop, or the system's."""
        clock, ids, dice = self._given
        simulation = simulation_of(asyncio.get_running_loop())
        self._clock: Clock = clock or (SystemClock() if simulation is None else simulation.clock)
        self._ids: Ids = ids or (RandomIds() if simulation is None else simulation.ids)
        self._dice: Dice = dice or (system_dice() if simulation is None else simulation.dice)

    def _traceparent(self, run: str) -> str:
        """What is journalled of a run's trace, "" for a run that is not in memory."""
        with contextlib.suppress(UnknownRun):
            return self.runs.get(run).traceparent
        return ""

    def _interrupt(self, error: BaseException) -> None:
        """A handler raised KeyboardInterrupt or SystemExit: leave in order, and raise it where we were entered."""
        if self._host is not None:
            self._host.cancel()

    def _released(self, cell: Cell, exit: Exit) -> None:
        if cell.kind is None or cell.kind is AgentActor:
            self.runs.gone(cell.path, exit)
        if self.kernel.on_started is not None and self.kernel.office is not None:  # something is kept of somebody
            self.kernel.office.released(cell)
        if self._spawned is not None and cell.parent is None:
            self._spawned.forget(cell)

    def _store(self) -> JournalStore:
        where = self._journal_at
        if where is None:
            return MemoryStore(keep=self._durability != "off")
        if isinstance(where, str | PathLike):
            from understudy.transports.journals.sqlite import SQLiteStore

            return SQLiteStore(fspath(where), durability=cast("OnDisk", self._durability))
        return where

    def _secret_key(self) -> bytes:
        """The key of the marks of secrets: of a journal in a file it is kept in a file beside it."""
        if getattr(asyncio.get_running_loop(), "virtual", False):
            return bytes(32)  # a simulated world is the same each time
        if isinstance(self._journal_at, str | PathLike):
            try:
                return key_beside(fspath(self._journal_at))
            except OSError as error:
                log.error("secrets of this process have other marks than those of the next one: %s", error)
        return token_bytes(32)

    async def _start_tree(self) -> None:
        root = self.tree.root
        for finding in lint.check(root):
            extra = {"code": finding.code, "place": finding.place}
            log.warning("%s: %s; %s", finding.place, finding.text, finding.cure, extra=extra)
        making = trees.Making(
            lambda policy: AgentActor(self.runs, policy),
            self._observe,
            self._dice,
            self.runs.incarnation,
            self._history.take,
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

    def _guardian(self) -> DynamicActor:
        """Who keeps the spawned actors: each has an intensity of its own, and all together have none."""
        if self._spawned is None:
            template = dataclasses.replace(TEMPLATE, intensity=Intensity())
            plan = DynamicPlan(template, None, Backoff(first=0.05), self._dice, self._observe, top=True)
            plan = dataclasses.replace(plan, past=self._history.take(GUARDIAN))
            self._spawned = DynamicActor(plan)
            cell = self.kernel.spawn(lambda: cast("DynamicActor", self._spawned), name=GUARDIAN)
            self.kernel.bind(self._spawned, cell)
        return self._spawned

    def _running(self) -> None:
        if self._stack is None:
            raise UsageError("the system is not running; enter it with `async with`")

    # -- the inbox of other processes ----------------------------------------------------------------------

    async def _poll(self) -> None:
        """Take words of other processes, and let questions expire."""
        told = ""
        stirred = asyncio.Event()
        removes = [self.journal.listeners.add(lambda _: stirred.set())]
        posted = posted_of(self.journal.store)
        if posted is not None:
            removes.append(posted.add(lambda _: stirred.set()))
        try:
            while True:
                stirred.clear()
                rest: float | None = POLL_SECONDS
                try:
                    await self._take_inbox()
                    await answers.expire_all(self.runs)
                    await answers.time_out_all(self.runs)
                    self.runs.end_late()
                    rest = POLL_SECONDS if posted is None else answers.rest(self.runs, POLL_SECONDS, WALL_SECONDS)
                except JournalError as error:
                    if str(error) != told:
                        log.error("inbox: %s", error)
                    told = str(error)
                except Exception:  # whoever comes next must still be heard
                    log.exception("inbox: a word or a deadline was passed over")
                await _rest(stirred, rest)
        finally:
            for remove in removes:
                remove()

    async def _take_inbox(self) -> None:
        for row in await self.journal.store.take(self._inbox_seen):
            await self.journal.commit()  # once the journal has failed, words wait for the next process
            await answers.hear(self.runs, row.kind, row.body)
            await self.journal.commit()
            self._inbox_seen = row.id
            await self.journal.store.set_meta({"inbox_taken": str(row.id)})


def _kind(journal: JournalPath | JournalStore | None) -> Place:
    if journal is None:
        return "nowhere"
    return "path" if isinstance(journal, str | PathLike) else "store"


async def _rest(stirred: asyncio.Event, seconds: float | None) -> None:
    """Sleep for the poll's time; for a longer one (None: for ever) until something was journalled or posted."""
    if seconds is not None and seconds <= POLL_SECONDS:
        await asyncio.sleep(seconds)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stirred.wait()


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended, whatever it ends with."""
    task.cancel()
    await asyncio.wait([task])
