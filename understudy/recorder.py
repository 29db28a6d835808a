"""What takes notes in a play: of the journal, the ledger, models, tools and people, over all processes of a world."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from types import EllipsisType
from typing import Any, Self, TypeAlias

from msgspec import Struct

from understudy.actors.agents.agent import Agent
from understudy.actors.agents.guards import ApprovalRule, LoopGuard
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.agents.results import Approval
from understudy.actors.agents.runs import Runs, Work
from understudy.actors.agents.tools import Call, Tool
from understudy.actors.delivery import DELIVERY, Envelope
from understudy.actors.journal.events import Record, decode
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import JournalStore, Row
from understudy.actors.testing.disk_faults import LostWrites
from understudy.actors.testing.evidence import (
    Addresses,
    Began,
    Declared,
    Evidence,
    Happening,
    LedgerOp,
    ModelBegan,
    Pot,
    Process,
    Slept,
    Told,
    ToolBegan,
    Word,
    Written,
)
from understudy.actors.testing.model_faults import ModelFault
from understudy.actors.testing.sim_disk import SimDisk
from understudy.actors.testing.sim_model import SimModel
from understudy.actors.testing.simloop import ProcessKilled
from understudy.actors.testing.tool_faults import Seen, ToolFault, wrap_tool
from understudy.actors.testing.witness import Witness
from understudy.supervisors.guards.accounts import Accounts
from understudy.supervisors.guards.budgets import Budget, Window
from understudy.supervisors.specs import ChildSpec, Supervisor
from understudy.supervisors.testing.ledgers import WatchedAccounts
from understudy.supervisors.tree import DEFAULT_BUDGET, DEFAULT_LOOPS
from understudy.system import System

AnyTool: TypeAlias = Tool[..., Any]


class Recorder:
    """One for each world. `dead` while the process is killed: then nothing may act in its name."""

    def __init__(self, *, states: bool = False) -> None:
        self.seen = Seen()
        self.happened: list[Happening] = []
        self.processes: list[Process] = []
        self.models: dict[str, SimModel] = {}
        self.dead = False
        self._states = states
        self._addresses = Addresses()
        self._committed: dict[str, int] = {}
        self._system: System | None = None
        self._witness: Witness | None = None

    # -- processes -----------------------------------------------------------------------------------------

    def store(self, inner: JournalStore, disk: SimDisk) -> JournalStore:
        """A process begins, with this store."""
        self.dead = False
        self.happened.append(Began(len(self.processes) + 1))
        self.processes.append(Process())
        self._addresses = Addresses(decode(row.payload) for rows in disk.streams().values() for row in rows)
        self._witness = Witness(inner)
        return self._witness

    def begins(self, system: System) -> None:
        """The process has this system, which is about to be entered."""
        self._system = system

    def hears(self, system: System) -> None:
        """Events may be appended from now on."""
        system.listen(self._addresses.hear)

    def ended(self, *, killed: bool) -> None:
        """The process has ended, or was killed in this moment."""
        if self.dead:
            return
        self.dead = killed
        process = self.processes[-1]
        if self._witness is not None:
            process.written, process.base = self._witness.written, self._witness.base
            process.opened = self._witness.opened
        for run in self._known():
            if run.seq <= self._committed.get(run.id, 0):  # else it lives ahead of the journal, and dies
                process.live[run.id] = copy.deepcopy(run) if killed else run
        self._system = self._witness = None
        self.happened.append(Slept(killed))

    def written(self, rows: Sequence[Row]) -> None:
        """The disk has taken a batch."""
        self.happened.append(Written(tuple(decode(row.payload) for row in rows)))
        last = {row.run: row.seq for row in rows}
        self._committed.update(last)
        if self._states:
            states = self.processes[-1].states
            states += [copy.deepcopy(run) for run in self._known() if run.seq == last.get(run.id)]

    def _known(self) -> list[Run]:
        runs = getattr(self._system, "runs", None)  # there are none while the journal is being opened
        return runs.known() if isinstance(runs, Runs) else []

    def told(self, run: str) -> None:
        """The client was told how a run stands."""
        self.happened.append(Told(run, self._addresses.ends.get(run, 0)))

    # -- models and tools ----------------------------------------------------------------------------------

    def model(self, agent: Agent[Any, Any], says: Iterable[int], faults: Iterable[ModelFault]) -> SimModel:
        """The model of an agent."""
        made = _Model(
            agent.name,
            says=says,
            faults=faults,
            machine=agent.machine is not None,
            name=agent.model.name,
            price=agent.model.price,
        )
        made.recorder = self
        self.models[agent.name] = made
        return made

    def asked(self, model: SimModel) -> None:
        """A model is called."""
        if self.dead:
            raise ProcessKilled
        run, sub = _whose()
        self.happened.append(ModelBegan(run, sub, model.agent, model.calls + 1))

    def tool(self, tool: AnyTool, faults: Iterable[ToolFault]) -> AnyTool:
        """A copy of a tool that takes notes, and to which faults happen."""
        made = wrap_tool(tool, faults, self.seen)
        made.fn = functools.partial(self._called, made, made.fn)
        return made

    # A tool takes what its own signature says, and gives any JSON.
    async def _called(self, tool: AnyTool, fn: Callable[..., Any], ours: Call, /, **arguments: Any) -> Any:
        if self.dead:
            raise ProcessKilled
        run, sub = _whose()
        key = ours.key if tool.effect in ("keyed", "verifiable", "irreversible") else ""
        step, index = self._addresses.find(run, sub, tool.name, key, arguments)
        wall = self._system.kernel.clock.wall() if self._system is not None else 0.0
        self.happened.append(ToolBegan(run, sub, step, index, tool.name, arguments, key, wall))
        return await fn(ours, **arguments)

    # -- what is left --------------------------------------------------------------------------------------

    def evidence(
        self, records: Mapping[str, Sequence[Record]], disk: SimDisk, declared: Mapping[str, Declared]
    ) -> Evidence:
        """Everything, once the last process has ended."""
        said = {name: list(model.said) for name, model in self.models.items()}
        lossy = disk.durability == "normal" and any(isinstance(fault, LostWrites) for fault in disk.fired)
        return Evidence(self.happened, records, disk.streams(), self.processes, self.seen, said, declared, lossy)


class WatchedSystem(System):
    """A system whose ledger and people are heard by a recorder."""

    def __init__(self, recorder: Recorder, root: Supervisor | Agent[Any, Any], **options: Any) -> None:
        super().__init__(root, **options)
        self._recorder = recorder

    async def __aenter__(self) -> Self:
        self._recorder.begins(self)
        return await super().__aenter__()

    def _make_ledger(self) -> Accounts:
        self._recorder.hears(self)  # the journal is open, and nothing was done yet
        return WatchedAccounts(self._note)

    def _note(self, operation: LedgerOp) -> None:
        if not self._recorder.dead:
            self._recorder.happened.append(operation)

    async def approve(self, approval: Approval | str, *, by: str, arguments: Mapping[str, object] | None = None) -> str:
        """See `System.approve`."""
        word = self._word(approval, by, yes=True)
        run = await super().approve(approval, by=by, arguments=arguments)
        word.taken = True
        return run

    async def refuse(self, approval: Approval | str, *, by: str, reason: str = "") -> str:
        """See `System.refuse`."""
        word = self._word(approval, by, yes=False)
        run = await super().refuse(approval, by=by, reason=reason)
        word.taken = True
        return run

    def _word(self, approval: Approval | str, by: str, *, yes: bool) -> Word:
        name = approval.id if isinstance(approval, Approval) else approval
        word = Word(name, by, yes, self.kernel.clock.wall())
        self._recorder.happened.append(word)
        return word


class _Model(SimModel):
    recorder: Recorder

    async def answer(self, request: ModelRequest, timeout: float) -> ModelReply:
        self.recorder.asked(self)
        return await super().answer(request, timeout)


def _whose() -> tuple[str, int]:
    """The (sub-)run that an agent is at; ("", -1) outside of one."""
    entry = DELIVERY.get()
    work = entry.message if isinstance(entry, Envelope) else None
    return (work.run, work.sub) if isinstance(work, Work) else ("", -1)


def declared_in(tree: Supervisor | Agent[Any, Any]) -> dict[str, Declared]:
    """What a tree declares of each of its agents, read from the descriptions alone."""
    root = tree if isinstance(tree, Supervisor) else Supervisor("main", [tree])
    found: dict[str, Declared] = {}
    _descend(root, _Above([], DEFAULT_LOOPS, None), found, default=DEFAULT_BUDGET)
    return found


class _Above(Struct):
    pots: list[Pot]
    loops: LoopGuard | None
    approvals: ApprovalRule | None


def _descend(supervisor: Supervisor, above: _Above, found: dict[str, Declared], default: Budget | None) -> None:
    budget = default if isinstance(supervisor.budget, EllipsisType) else supervisor.budget
    here = _Above(
        [*_pot(supervisor.name, budget), *above.pots],
        above.loops if isinstance(supervisor.loops, EllipsisType) else supervisor.loops,
        supervisor.approvals or above.approvals,
    )
    for child in supervisor.children:
        if isinstance(child, Supervisor):
            _descend(child, here, found, None)
        elif isinstance(child, ChildSpec) and isinstance(child.child, Agent):
            found[child.child.name] = _declared(child.child, here)


def _declared(agent: Agent[Any, Any], above: _Above) -> Declared:
    approvals = agent.approvals or above.approvals
    delegates = frozenset(each.name for each in agent.delegates)
    general = delegates | {tool.name for tool in agent.tools}
    states: dict[str, frozenset[str]] = {}
    for state, row in agent.machine.states.items() if agent.machine is not None else ():
        name = state.value if isinstance(state.value, str) else state.name
        final = not row.on and row.timeout is None
        states[name] = frozenset() if final else general | {tool.name for tool in row.tools}
    return Declared(
        pots=[*_pot(agent.name, agent.budget), *above.pots],
        tools={tool.name: tool for tool in agent.all_tools},
        delegates=delegates,
        states=states,
        loops=agent.loops or above.loops,
        by=approvals.by if approvals is not None else {},
    )


def _pot(owner: str, budget: object) -> list[Pot]:
    """Read from the fields, not from what the ledger is given."""
    if not isinstance(budget, Budget):
        return []  # none, or a rule of the user's own: nobody here knows what it allows
    units = ("steps", "tokens", "input_tokens", "output_tokens", "model_calls", "tool_calls")
    counts = {unit: getattr(budget, unit) for unit in units}
    limits: dict[str, int] = {unit: limit for unit, limit in counts.items() if limit is not None}
    limits.update({f"tool:{name}": limit for name, limit in budget.tools.items()})
    if budget.usd is not None:
        limits["usd"] = int(Fraction(repr(budget.usd)) * 1_000_000)
    window = budget.per.seconds if isinstance(budget.per, Window) else None
    return [Pot(owner, limits, budget.per == "life", window, budget.depth, budget.fan_out, budget.warn)]
