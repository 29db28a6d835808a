"""How one world of a tree is played: its copy with other models and tools, process after process, and its client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from understudy.actors.agents.agent import Agent, Prompt
from understudy.actors.agents.results import OpenDoubt, Result, Waiting
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    JournalError,
    MailboxFull,
    SpecError,
    UnknownRun,
    UsageError,
)
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.state import Run, Spend
from understudy.actors.journal.store import JournalStore
from understudy.actors.messages import Message
from understudy.actors.testing.disk_faults import DiskFault
from understudy.actors.testing.evidence import Evidence
from understudy.actors.testing.faults import Fault
from understudy.actors.testing.model_faults import ModelFault
from understudy.actors.testing.recast import Recast
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.sim_model import Said, SimModel
from understudy.actors.testing.simloop import Livelock, ProcessKilled, SimClock, SimLoop, run_in
from understudy.actors.testing.simulation import SimSimulation
from understudy.actors.testing.tool_faults import Seen, ToolFault
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World
from understudy.recorder import Recorder, WatchedSystem, declared_in
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor
from understudy.system import System

Tree = Supervisor | Agent[Any, Any]
AnyTool = Tool[..., Any]
Main = Callable[[System], Awaitable[object]]

PROCESSES: Final = 32
"""Processes of one world, each but the last killed, before `play` gives up."""
ASK_SECONDS: Final = 60.0
"""Virtual seconds that a client waits for the answer of a plain actor."""
ANSWERS: Final = 1_000
"""Questions to people that are answered in one world."""
DOWN_SECONDS: Final = 1.0
"""Virtual seconds between the end of a process and the start of the next."""
RUN_SECONDS: Final = 400 * 86_400.0
"""Virtual seconds that a client waits for a result: longer than anything a person is waited for."""
YES, NO, SILENCE, TWICE = range(4)
"""What a number of `World.people` means, modulo 4; those after the last are YES."""


class Outcome(Struct):
    """What a play came to.

    `results` are those of the runs that the message began, oldest first: one, unless something is wrong. `records`:
    the journal, stream by stream. `processes`: how many there were. `seconds` of virtual time. `said`: what models were
    asked and answered, by agent. `returned`: what a `main` returned in the last process, a plain actor
    answered, or the error that the client met. `evidence`: everything that the oracles look at.
    """

    world: World
    trace: Trace
    results: list[Result[Any]]
    records: dict[str, list[Record]]
    seen: Seen
    said: dict[str, list[Said]]
    fired: list[Fault]
    processes: int
    seconds: float
    evidence: Evidence
    returned: object = None

    @property
    def result(self) -> Result[Any]:
        """The only result. Raises `AssertionError` when there is another number of them."""
        if len(self.results) != 1:
            raise AssertionError(f"{len(self.results)} results: {self.results}")
        return self.results[0]

    @property
    def spend(self) -> Spend:
        """What all runs spent."""
        total = Spend()
        for result in self.results:
            total.add(result.spend.amounts(), estimated=result.spend.estimated)
            total.alive += result.spend.alive
        return total

    def effects(self, tool: AnyTool | str) -> int:
        """How often a tool's effect happened: its function returned, or was cut and is irreversible.

        Of a `keyed` tool the tries with one key count once, as the other side promises.
        """
        effects = self.seen.of(tool)
        keyed = {each.key for each in effects if each.effect == "keyed"}
        return len(keyed) + sum(each.effect != "keyed" for each in effects)

    def __repr__(self) -> str:
        """What a failed assertion shows: one line."""
        said = ", ".join(f"{each.status} {each.output!r:.80}" for each in self.results) or "no result"
        times = f"{self.processes} processes, " if self.processes > 1 else ""
        return f"<Outcome: {said}; {times}{self.seconds:g} s; came true: {self.fired or 'no fault'}>"


class _Cast:
    """The tree with the models and tools of one world, for all its processes."""

    def __init__(self, tree: Tree, world: World, recorder: Recorder) -> None:
        says = dict(world.says)
        model_faults = [fault for fault in world.faults if isinstance(fault, ModelFault)]
        tool_faults = [fault for fault in world.faults if isinstance(fault, ToolFault)]

        def model(agent: Agent[Any, Any]) -> SimModel:
            return recorder.model(agent, says.get(agent.name, ()), model_faults)

        def wrapped(tool: AnyTool) -> AnyTool:
            return recorder.tool(tool, tool_faults)

        self.recast = Recast(model=model, tool=wrapped)
        self.tree: Tree = self.recast.agent(tree) if isinstance(tree, Agent) else self._supervisor(tree)

    def _supervisor(self, supervisor: Supervisor) -> Supervisor:
        made = copy.copy(supervisor)
        made.children = tuple(self._child(child) for child in supervisor.children)
        return made

    def _child(
        self, child: Supervisor | DynamicSupervisor | ChildSpec[Any]
    ) -> Supervisor | DynamicSupervisor | ChildSpec[Any]:
        if isinstance(child, Supervisor):
            return self._supervisor(child)
        if isinstance(child, ChildSpec) and isinstance(child.child, Agent):
            made = copy.copy(child)
            made.child = self.recast.agent(child.child)
            return made
        return child


def checked(tree: object, where: str) -> Tree:
    """`tree`. Raises `SpecError` for what is none."""
    if isinstance(tree, Supervisor | Agent):
        return tree
    call = ": call it" if callable(tree) else ""
    raise SpecError(f"{where}: the tree is {tree!r}; it is a Supervisor or an Agent{call}")


def agents_of(tree: Tree) -> list[Agent[Any, Any]]:
    """Every agent of a tree, in start order."""
    if isinstance(tree, Agent):
        return [tree]
    found: list[Agent[Any, Any]] = []
    for child in tree.children:
        if isinstance(child, Supervisor):
            found += agents_of(child)
        elif isinstance(child, ChildSpec) and isinstance(child.child, Agent):
            found.append(child.child)
    return found


def paths_of(tree: Tree, above: str = "") -> list[str]:
    """The path of every actor that a tree starts, supervisors included, in start order."""
    if isinstance(tree, Agent):
        return ["main", f"main/{tree.name}"]
    path = f"{above}{tree.name}"
    found = [path]
    for child in tree.children:
        if isinstance(child, Supervisor):
            found += paths_of(child, f"{path}/")
        elif isinstance(child, ChildSpec) and child.count > 1:
            found += [f"{path}/{child.name}/{number}" for number in range(1, child.count + 1)]
        else:
            found.append(f"{path}/{child.name}")
    return found


class Play:
    """One world of one tree, process after process."""

    def __init__(
        self,
        tree: Tree,
        world: World,
        message: Message[Any] | str | Main,
        to: Agent[Any, Any] | str | None,
        trace: Trace,
        durability: str,
        *,
        states: bool = False,
    ) -> None:
        _check_names(tree, world)
        self._world = world
        self._recorder = Recorder(states=states)
        self._cast = _Cast(tree, world, self._recorder)
        self._declared = declared_in(tree)
        if isinstance(message, type) or not (isinstance(message, Message | str) or callable(message)):
            raise UsageError(f"play: message is {message!r}; {_MESSAGE}")
        self._message = Prompt(message) if isinstance(message, str) else message
        self._to = _target(tree, self._message, to) if isinstance(self._message, Message) else None
        self._trace = trace
        faults = [fault for fault in world.faults if isinstance(fault, DiskFault)]
        self._disk = SimDisk(faults, durability=durability, on_commit=self._recorder.written)  # type: ignore[arg-type]  # checked there
        self._people = list(world.people)
        self._returned: object = None
        self.traces: list[tuple[Trace, bool]] = []
        """Of each process, and whether it was killed."""
        self._results: list[Result[Any]] = []

    def run(self) -> Outcome:
        """Until a process ends by itself."""
        now, simulation = 0.0, None
        collecting = gc.isenabled()
        gc.disable()
        try:
            for number in range(1, PROCESSES + 1):
                loop, trace = SimLoop(start=now), Trace()
                trace.watch = self._trace.watch
                if simulation is None:
                    simulation = self._world.simulate(loop, trace)
                else:
                    simulation = simulation.next_process(loop, trace)
                try:
                    over = self._process(loop, simulation)
                finally:
                    self._trace.events += trace.events
                    self._trace.held = simulation.plan.used
                    self.traces.append((trace, simulation.dead))
                now = loop.time() + DOWN_SECONDS
                if over:
                    return self._outcome(number, loop.time(), simulation)
        finally:
            if collecting:
                gc.enable()
        raise Livelock(f"{PROCESSES} processes, each killed or without a result, and no end")

    def _process(self, loop: SimLoop, simulation: SimSimulation) -> bool:
        """One process; whether it ended by itself."""

        def killed(fault: DiskFault) -> None:
            self._recorder.ended(killed=True)
            simulation.die(fault)
            loop.kill()

        store = self._recorder.store(SimStore(self._disk, on_kill=killed), self._disk)
        try:
            ended = run_in(loop, lambda: self._main(store))
            self._recorder.ended(killed=False)
            return ended
        except ProcessKilled:
            silenced = logging.root.manager.disable
            logging.disable(logging.CRITICAL)  # a dead process says nothing
            try:
                self._disk.bury()
                loop.bury()
            finally:
                logging.disable(silenced)
                loop.close()
            return False

    async def _main(self, store: JournalStore) -> bool:
        system = WatchedSystem(self._recorder, self._cast.tree, journal=store, grace=0.0, watchdog=None)
        try:
            async with system:
                if self._to is None:
                    self._returned = await _started(cast("Main", self._message), system)
                else:
                    await self._converse(system)
                self._results = [await system.result(run) for run in await _runs(system)]
                return True
        except JournalError:
            return False  # the disk failed: the operator starts the process again

    # -- the client ----------------------------------------------------------------------------------------

    async def _converse(self, system: System) -> None:
        """See to it that the request is taken, that what is asked is answered, and wait for the end."""
        try:
            if isinstance(self._to, str):
                self._returned = await system.ref(self._to).ask(cast("Any", self._message), timeout=ASK_SECONDS)
            elif self._to is not None and not await _runs(system):
                agent = self._cast.recast.agent(self._to)
                result = await system.run(agent, cast("Any", self._message), timeout=RUN_SECONDS)
                self._recorder.told(result.run)
        except (ActorStopped, AskTimeout, MailboxFull) as error:
            self._returned = error
        for run in await _runs(system):
            await self._see_through(system, run)

    async def _see_through(self, system: System, run: str) -> None:
        for _ in range(ANSWERS):
            result = await system.result(run)
            if isinstance(result, Waiting):
                try:
                    result = await system.resume(run, timeout=RUN_SECONDS)
                except ActorStopped as error:  # the tree is gone; the run waits in the journal
                    self._returned = error
                    return
                self._recorder.told(run)
            if not isinstance(result, Waiting):
                return
            await self._answer(system, run)
        raise Livelock(f"run {run} was answered {ANSWERS} times, and waits: {await system.result(run)}")

    async def _answer(self, system: System, run: str) -> None:
        """Do what a person would: settle what is in doubt by what happened, say yes or no or nothing; else wait."""
        if not system.doubts() and not system.approvals() and (until := _rests_until(system.state(run))):
            await _wait_until(system, until)
        for doubt in system.doubts():
            await system.settle(doubt.id, did=self._happened(doubt), by="world")
        for asked in system.approvals():
            word = self._people.pop(0) % 4 if self._people else YES
            if word == SILENCE:
                await _wait_until(system, asked.expires)
                continue
            by = asked.who[0] if asked.who else "world"
            for _ in range(2 if word == TWICE else 1):
                with contextlib.suppress(UnknownRun, UsageError):  # too late, or answered before
                    await (system.refuse(asked, by=by, reason="no") if word == NO else system.approve(asked, by=by))

    def _happened(self, doubt: OpenDoubt) -> bool:
        """Whether a call took hold: by its key, which no other has."""
        return any(effect.key == doubt.key for effect in self._recorder.seen.of(doubt.tool))

    # -- what it came to -----------------------------------------------------------------------------------

    def _outcome(self, processes: int, now: float, simulation: SimSimulation) -> Outcome:
        records = {run: decode_rows(self._disk.name, rows) for run, rows in self._disk.streams().items()}
        fired: list[Fault] = [*self._disk.fired, *self._recorder.seen.fired]
        for model in self._recorder.models.values():
            fired += model.fired
        return Outcome(
            world=self._world,
            trace=self._trace,
            results=self._results,
            records=records,
            seen=self._recorder.seen,
            said={name: list(model.said) for name, model in self._recorder.models.items()},
            fired=fired,
            processes=processes,
            seconds=now,
            returned=self._returned,
            evidence=self._recorder.evidence(records, self._disk, self._declared),
        )


def _rests_until(run: Run) -> float:
    """When the first state of a machine times out that waits for nothing else, by the wall clock; 0.0 for never."""
    waiting = [sub for sub in run.subs.values() if sub.finished is None and sub.parked is not None]
    return min((sub.until for sub in waiting if sub.parked is not None and sub.parked.on == "timer"), default=0.0)


async def _wait_until(system: System, wall: float) -> None:
    """Let everybody's clock come to `wall`, in an instant: hours of nothing but polling are not played."""
    clock = system.kernel.clock
    if isinstance(clock, SimClock):
        clock.jump(max(0.0, wall - clock.wall()))
    await asyncio.sleep(1.0)


async def _runs(system: System) -> list[str]:
    return [head.run for head in await system.journal.store.heads() if is_run(head.run)]


_MESSAGE: Final = "it is a text, a message, or a coroutine function of the running System"


def _started(main: Main, system: System) -> Awaitable[object]:
    made = main(system)
    if not inspect.isawaitable(made):
        raise UsageError(f"play: message is {main!r}, which returned {made!r}; {_MESSAGE}")
    return made


def _check_names(tree: Tree, world: World) -> None:
    """Raise `UsageError` for a world that names an agent or tool which the tree has not: nothing of it would happen.

    Actors are not looked at: there may be more of them than are declared.
    """
    agents = [agent.name for agent in agents_of(tree)]
    tools = list(dict.fromkeys(tool.name for agent in agents_of(tree) for tool in agent.all_tools))
    named: list[tuple[object, str, str, list[str]]] = [(each, "agent", each[0], agents) for each in world.says]
    for fault in world.faults:
        if isinstance(fault, ModelFault):
            named.append((fault, "agent", fault.agent, agents))
        elif isinstance(fault, ToolFault):
            named.append((fault, "tool", fault.tool, tools))
    for each, kind, name, there in named:
        if name not in there:
            all_of_them = ", ".join(there) or "none"
            raise UsageError(f"play: the world has {each!r}, and the tree no {kind} {name!r}; {kind}s: {all_of_them}")


def _target(tree: Tree, message: Message[Any], to: Agent[Any, Any] | str | None) -> Agent[Any, Any] | str:
    """Who is asked. Raises `UsageError` when that cannot be told."""
    agents = agents_of(tree)
    if isinstance(to, Agent):
        if not any(to is each for each in agents):
            raise UsageError(f"play: agent {to.name!r} is not in the tree; agents: {_names(agents)}")
        return to
    if to is not None:
        if not isinstance(to, str):
            raise UsageError(f"play: to is {to!r}; it is an agent of the tree, or a name")
        return next((agent for agent in agents if agent.name == to), to)
    takers = [agent for agent in agents if agent.accepts is type(message)]
    if takers:
        return takers[0]
    if isinstance(tree, Supervisor) and type(message) in tree.route_table():
        return tree.route_table()[type(message)].to
    raise UsageError(f"play: nobody in the tree accepts {type(message).__name__}; agents: {_names(agents)}; say `to=`")


def _names(agents: Sequence[Agent[Any, Any]]) -> str:
    return ", ".join(agent.name for agent in agents) or "none"
