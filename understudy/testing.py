"""Test your own tree of agents in drawn worlds: what models say, what fails, who is killed when, and in which order.

    @given(worlds(refunds))
    def test_nobody_is_paid_twice(world: World) -> None:
        assert play(refunds, world, Prompt("Order 1042 arrived broken.")).effects(pay) <= 1

`worlds` draws and shrinks (it needs the extra `testing`, for hypothesis); `play` runs one world in virtual time and
without network. Your own tools run, so they may not reach for one: `Escape` says where they do. Unit tests of one agent
use `ScriptedModel`; code that is no tree `World.run`.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Struct

from understudy.actors.agents.agent import Agent, Prompt
from understudy.actors.agents.results import Result, Waiting
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import ActorStopped, AskTimeout, JournalError, UnknownRun, UsageError
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.state import Spend
from understudy.actors.messages import Message
from understudy.actors.testing import invariants, properties, report
from understudy.actors.testing.disk_faults import (
    DiskError,
    DiskFault,
    KillAfter,
    KillBefore,
    LostWrites,
    SlowDisk,
    TornWrite,
)
from understudy.actors.testing.faults import (
    ClockJump,
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    InjectedCrash,
    MailboxIsFull,
    ReplyLost,
    SlowConsumer,
)
from understudy.actors.testing.invariants import Oracle
from understudy.actors.testing.invariants import default as default_invariants
from understudy.actors.testing.model_faults import (
    CutStream,
    EmptyAnswer,
    MalformedJSON,
    ModelFault,
    ModelReplyLost,
    ModelTimeout,
    OverReported,
    RateLimited,
    Refusal,
    Rejected,
    RepeatOutput,
    ServerError,
    SlowTokens,
    UnknownTool,
    Unreachable,
    WrongSchema,
)
from understudy.actors.testing.outside import Escape, inside, no_escape, untraced
from understudy.actors.testing.properties import (
    Buggify,
    Campaign,
    Vacuous,
    always,
    buggify,
    campaign,
    eventually,
    not_vacuous,
    note,
    sometimes,
)
from understudy.actors.testing.recast import Recast
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.schedule import Demote, Hold
from understudy.actors.testing.scripted_model import ScriptedModel, ScriptError, Step, call
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.sim_model import Said, SimModel
from understudy.actors.testing.simloop import Deadlock, Livelock, ProcessKilled, SimLoop, run_in
from understudy.actors.testing.simulation import SimSimulation
from understudy.actors.testing.sweeps import sweep
from understudy.actors.testing.tool_faults import (
    Seen,
    ToolFault,
    ToolHangs,
    ToolLies,
    ToolRaises,
    ToolReplyLost,
    ToolSlow,
    ToolWrongType,
    wrap_tool,
)
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor
from understudy.system import System

if TYPE_CHECKING:
    from understudy.actors.testing.agent_strategies import Worlds

__all__ = [
    "Buggify",
    "Campaign",
    "ClockJump",
    "Crash",
    "CutStream",
    "Deadlock",
    "Delay",
    "Demote",
    "DiskError",
    "Drop",
    "Duplicate",
    "EmptyAnswer",
    "Escape",
    "Falsified",
    "Fault",
    "Hold",
    "InjectedCrash",
    "KillAfter",
    "KillBefore",
    "Livelock",
    "LostWrites",
    "MailboxIsFull",
    "MalformedJSON",
    "ModelReplyLost",
    "ModelTimeout",
    "Outcome",
    "OverReported",
    "RateLimited",
    "Refusal",
    "Rejected",
    "RepeatOutput",
    "ReplyLost",
    "ScriptError",
    "ScriptedModel",
    "ServerError",
    "SlowConsumer",
    "SlowDisk",
    "SlowTokens",
    "Step",
    "ToolHangs",
    "ToolLies",
    "ToolRaises",
    "ToolReplyLost",
    "ToolSlow",
    "ToolWrongType",
    "TornWrite",
    "Trace",
    "UnknownTool",
    "Unreachable",
    "Vacuous",
    "World",
    "WrongSchema",
    "always",
    "buggify",
    "call",
    "campaign",
    "eventually",
    "not_vacuous",
    "note",
    "play",
    "sometimes",
    "sweep",
    "worlds",
]

Tree = Supervisor | Agent[Any, Any]
AnyTool = Tool[..., Any]
Main = Callable[[System], Awaitable[object]]

PROCESSES: Final = 32
"""Processes of one world, each but the last killed, before `play` gives up."""
ANSWERS: Final = 100
"""Questions to people that are answered in one world."""
DOWN_SECONDS: Final = 1.0
"""Virtual seconds between the end of a process and the start of the next."""
RUN_SECONDS: Final = 400 * 86_400.0
"""Virtual seconds that a client waits for a result: longer than anything a person is waited for."""
KILLED: Final = tuple(invariants.number(n) for n in (1, 2, 3, 5, 8, 10))
"""What is held of a process that was killed: the rest speaks of how things end."""
YES, NO, SILENCE, TWICE = range(4)
"""What a number of `World.people` means, modulo 4; those after the last are YES."""


class Outcome(Struct):
    """What a play came to.

    `results` are those of the runs that the message began, oldest first: one, unless something is wrong. `records`:
    the journal, stream by stream. `processes`: how many there were. `seconds` of virtual time. `said`: what models were
    asked and answered, by agent. `returned`: what a `main` returned in the last process.
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
            for field in ("steps", "model_calls", "tool_calls", "tokens", "usd", "alive"):
                setattr(total, field, getattr(total, field) + getattr(result.spend, field))
            total.estimated = total.estimated or result.spend.estimated
        return total

    def effects(self, tool: AnyTool | str) -> int:
        """How often a tool's effect happened: its function returned, or was cut and is irreversible.

        Of a `keyed` tool the tries with one key count once, as the other side promises. Raises `UsageError` for a tool
        of no agent.
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

    def __init__(self, tree: Tree, world: World) -> None:
        says = dict(world.says)
        self.seen = Seen()
        self.models: dict[str, SimModel] = {}
        model_faults = [fault for fault in world.faults if isinstance(fault, ModelFault)]
        tool_faults = [fault for fault in world.faults if isinstance(fault, ToolFault)]

        def model(agent: Agent[Any, Any]) -> SimModel:
            made = self.models[agent.name] = SimModel(
                agent.name,
                says=says.get(agent.name, ()),
                faults=model_faults,
                machine=agent.machine is not None,
                name=agent.model.name,
                price=agent.model.price,
            )
            return made

        def wrapped(tool: AnyTool) -> AnyTool:
            return wrap_tool(tool, tool_faults, self.seen)

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


def play(
    tree: Tree,
    world: World,
    message: Message[Any] | str | Main,
    *,
    to: Agent[Any, Any] | str | None = None,
    check: Iterable[Oracle] | None = None,
    durability: str = "normal",
) -> Outcome:
    """Run a tree in a world until the message is answered for good, and hold the trace against invariants.

    `message` goes to `to`: an agent, the name of a child, or by default the agent that accepts it (the first of them)
    or the root supervisor's route. Its client is patient: when the process is killed before the request was taken it
    sends it again to the next one; it answers what people are asked, and settles doubts by what happened. A function is
    called with the running `System` instead, once in each process, and may do anything.

    `check`: oracles, `invariants.default()` by default, `()` for none. `durability`: of the journal, as `System`'s.

    Raises `Falsified` for a broken invariant, `Deadlock`, `Livelock`, `Escape`, `SpecError` for a tree that is none,
    `UsageError` for a message that nobody takes; with this world as a note.
    """
    trace = Trace()
    try:
        with inside(world.seed), untraced(), no_escape(), properties.running(world, trace) as run:
            played = _Play(tree, world, message, to, trace, durability)
            outcome = played.run()
            run.end()
    except Exception as error:
        trace.error = error
        report.last = (world, trace)
        report.explain(error, world, trace)
        raise
    report.last = (world, trace)
    found: list[str] = []
    given = None if check is None else tuple(check)
    for each, killed in played.traces:
        for oracle in (KILLED if killed else default_invariants()) if given is None else given:
            found += oracle(each)
    report.verify(world, trace, [lambda _: found])
    return outcome


class _Play:
    """One world of one tree, process after process."""

    def __init__(
        self,
        tree: Tree,
        world: World,
        message: Message[Any] | str | Main,
        to: Agent[Any, Any] | str | None,
        trace: Trace,
        durability: str,
    ) -> None:
        self._world = world
        self._cast = _Cast(tree, world)
        self._message = Prompt(message) if isinstance(message, str) else message
        self._to = _target(tree, self._message, to) if isinstance(self._message, Message) else None
        self._trace = trace
        faults = [fault for fault in world.faults if isinstance(fault, DiskFault)]
        self._disk = SimDisk(faults, durability=durability)  # type: ignore[arg-type]  # checked there
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
                    faults = simulation.faults
                else:
                    simulation = simulation.next_process(loop, trace, faults)
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
            simulation.die(fault)
            loop.kill()

        store = SimStore(self._disk, on_kill=killed)
        try:
            return run_in(loop, lambda: self._main(store))
        except ProcessKilled:
            logging.disable(logging.CRITICAL)  # a dead process says nothing
            try:
                self._disk.bury()
                loop.bury()
            finally:
                logging.disable(logging.NOTSET)
                loop.close()
            return False

    async def _main(self, store: SimStore) -> bool:
        system = System(self._cast.tree, journal=store, grace=0.0, watchdog=None)
        try:
            async with system:
                if self._to is None:
                    self._returned = await cast("Main", self._message)(system)
                else:
                    await self._converse(system)
                self._results = [await system.result(run) for run in await _runs(system)]
                return True
        except JournalError:
            return False  # the disk failed: the operator starts the process again

    # -- the client ----------------------------------------------------------------------------------------

    async def _converse(self, system: System) -> None:
        """See to it that the request is taken, that what is asked is answered, and wait for the end."""
        if isinstance(self._to, str):
            try:
                self._returned = await system.ref(self._to).ask(cast("Any", self._message), timeout=60.0)
            except (ActorStopped, AskTimeout, TimeoutError) as error:
                self._returned = error
            return
        if not await _runs(system) and self._to is not None:
            await system.run(self._cast.recast.agent(self._to), cast("Any", self._message), timeout=RUN_SECONDS)
        for run in await _runs(system):
            for _ in range(ANSWERS):
                if await _finished(system, run):
                    break
                await self._answer(system)
            else:
                raise Livelock(f"run {run} was answered {ANSWERS} times, and waits: {await system.result(run)}")

    async def _answer(self, system: System) -> None:
        """Do what a person would: settle what is in doubt by what happened, say yes or no or nothing."""
        for doubt in system.doubts():
            happened = any(
                each.counts and (each.key == doubt.key or not doubt.key) for each in self._cast.seen.of(doubt.tool)
            )
            await system.settle(doubt.id, did=happened, by="world")
        for asked in system.approvals():
            who = asked.who[0] if asked.who else "world"
            word = self._people.pop(0) % 4 if self._people else YES
            if word == NO:
                await system.refuse(asked, by=who, reason="no")
            elif word == SILENCE:
                await asyncio.sleep(max(0.0, asked.expires - system.kernel.clock.wall()) + 1.0)
            else:
                await system.approve(asked, by=who)
                if word == TWICE:
                    await _once_more(system, asked.id, who)

    # -- what it came to -----------------------------------------------------------------------------------

    def _outcome(self, processes: int, now: float, simulation: SimSimulation) -> Outcome:
        records = {run: decode_rows(self._disk.name, rows) for run, rows in self._disk.streams().items()}
        fired: list[Fault] = [*self._disk.fired, *self._cast.seen.fired]
        for model in self._cast.models.values():
            fired += model.fired
        return Outcome(
            world=self._world,
            trace=self._trace,
            results=self._results,
            records=records,
            seen=self._cast.seen,
            said={name: list(model.said) for name, model in self._cast.models.items()},
            fired=fired,
            processes=processes,
            seconds=now,
            returned=self._returned,
        )


async def _runs(system: System) -> list[str]:
    return [head.run for head in await system.journal.store.heads() if not head.run.startswith("@")]


async def _finished(system: System, run: str) -> bool:
    result = await system.result(run)
    if isinstance(result, Waiting):
        result = await system.resume(run, timeout=RUN_SECONDS)
    return not isinstance(result, Waiting)


async def _once_more(system: System, approval: str, who: str) -> None:
    """Somebody presses the button again."""
    try:
        await system.approve(approval, by=who)
    except (UnknownRun, UsageError):
        pass  # the second yes is refused, or the run is over


def _target(tree: Tree, message: Message[Any], to: Agent[Any, Any] | str | None) -> Agent[Any, Any] | str:
    """Who is asked. Raises `UsageError` when that cannot be told."""
    agents = agents_of(tree)
    if isinstance(to, Agent):
        if not any(to is each for each in agents):
            raise UsageError(f"play: agent {to.name!r} is not in the tree; agents: {_names(agents)}")
        return to
    if to is not None:
        return next((agent for agent in agents if agent.name == to), to)
    takers = [agent for agent in agents if agent.accepts is type(message)]
    if takers:
        return takers[0]
    if isinstance(tree, Supervisor) and type(message) in tree.route_table():
        return tree.route_table()[type(message)].to
    raise UsageError(f"play: nobody in the tree accepts {type(message).__name__}; agents: {_names(agents)}; say `to=`")


def _names(agents: Sequence[Agent[Any, Any]]) -> str:
    return ", ".join(agent.name for agent in agents) or "none"


def worlds(tree: Tree, *, kills: int = 0, faults: Collection[type[Fault]] | None = None) -> Worlds:
    """Worlds for a tree: what its models say, which calls fail, which actors crash or are held back, who says no.

    `kills`: how often the process may be killed, and taken up from the journal, at most. `faults`: the kinds that may
    happen; by default everything that can go wrong in one process, its models, tools and disk, but no lies of tools
    (these need an oracle of yours) and no messages lost between actors (that needs a link).

    Everything shrinks to the world in which nothing goes wrong. Raises `SpecError` for a tree that is none.
    """
    from understudy.actors.testing import agent_strategies as drawing

    agents = agents_of(tree)
    tools = dict.fromkeys(tool.name for agent in agents for tool in agent.all_tools)
    return drawing.tree_worlds(
        agents=[agent.name for agent in agents],
        tools=list(tools),
        paths=paths_of(tree),
        kills=kills,
        faults=drawing.DEFAULT if faults is None else faults,
    )
