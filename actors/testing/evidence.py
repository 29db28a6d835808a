"""What a play of a tree leaves behind, for oracles: what lies in the journal, what was done, asked and answered, when.

`Evidence.happened` is one line of time over all processes of a world. The journal's part of it is told by the disk (a
batch is committed), that of tools and models where they begin, that of people where they answer. Nothing in here is
asked of the code that is judged by it, but for the address of an act: the run, sub-run and call that it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.guards import LoopGuard
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Row
from understudy.actors.testing.sim_model import Said
from understudy.actors.testing.tool_faults import Seen
from understudy.actors.testing.witness import Batch

Limits: TypeAlias = Mapping[str, int]


class Began(Struct):
    """A process began. Its number counts from 1."""

    process: int


class Written(Struct):
    """A batch is in the journal, acknowledged or not yet."""

    records: tuple[Record, ...]


class ModelBegan(Struct):
    """Call `call` of an agent's model began for a (sub-)run; its number is -1 for a call of none."""

    run: str
    sub: int
    agent: str
    call: int


class ToolBegan(Struct):
    """A tool's function began; `wall` is the node's clock. `step` is -1 where no open intent fits."""

    run: str
    sub: int
    step: int
    index: int
    tool: str
    arguments: Mapping[str, object]
    key: str
    wall: float


class Told(Struct):
    """The client was told how a run ended or parked: event `seq`."""

    run: str
    seq: int


class Word(Struct):
    """A person answered approval `approval`. `taken` says whether the answer was accepted."""

    approval: str
    by: str
    yes: bool
    wall: float
    taken: bool = False


class LedgerOp(Struct):
    """One operation of the ledger, and how the pools it names stood afterwards.

    `answer` of `reserve`: "" for granted, else "denied" or "busy". `over` counts units billed beyond a cap. `now` is
    the time that the ledger was told, `at` when what is booked, closed or corrected happened, `window` the pool's, in
    seconds. The amounts of `correct` are changes.
    """

    kind: Literal["declare", "reserve", "settle", "book", "correct", "close", "forget"]
    pools: tuple[str, ...]
    amounts: Mapping[str, int] = {}
    ticket: str = ""
    answer: str = ""
    limits: Limits = {}
    after: tuple[Standing, ...] = ()
    now: float = 0.0
    at: float = 0.0
    window: float | None = None


class Standing(Struct):
    """A pool after an operation."""

    key: str
    limits: Limits
    spent: Limits
    reserved: Limits
    over: Limits
    closed: bool


class Slept(Struct):
    """The process ended: by itself, killed, or with its disk."""

    killed: bool


Happening: TypeAlias = Began | Written | ModelBegan | ToolBegan | Told | Word | LedgerOp | Slept


class Pot(Struct, frozen=True):
    """A declared budget: its owner, the limits by unit (money in micro-dollars), and whether it counts for life.

    `window`: or for so many seconds. `depth` and `fan_out` limit delegation. `warn`: when agents are told what is left.
    """

    owner: str
    limits: Limits
    life: bool = False
    window: float | None = None
    depth: int | None = None
    fan_out: int | None = None
    warn: float | None = None

    def key(self, run: str) -> str:
        """The name of the pool for a run."""
        return self.owner if self.life or self.window is not None else f"{self.owner}@{run}"


class Declared(Struct):
    """What is declared of an agent: its budgets, its own first, then up to the root; tools by name; guards.

    `states` maps each state of its machine to the tools that are offered there, `events` to those that lead on;
    both are empty for an agent without one. `loops` is the loop guard, `by` who may answer for which policy.
    """

    pots: Sequence[Pot]
    tools: Mapping[str, Tool[..., Any]]
    delegates: frozenset[str] = frozenset()
    states: Mapping[str, frozenset[str]] = {}
    loops: LoopGuard | None = None
    by: Mapping[str, Sequence[str]] = {}


class Process(Struct):
    """One process: what it wrote and found, and the runs as they lived at its end and, on request, at commits."""

    written: list[Batch] = field(default_factory=list[Batch])
    base: dict[str, list[Row]] = field(default_factory=dict[str, list[Row]])
    live: dict[str, Run] = field(default_factory=dict[str, Run])
    states: list[Run] = field(default_factory=list[Run])
    opened: bool = False


class Evidence(Struct):
    """See the module. `declared` is by agent, `lossy` says that the power was cut."""

    happened: list[Happening]
    records: Mapping[str, Sequence[Record]]
    streams: Mapping[str, Sequence[Row]]
    processes: Sequence[Process]
    seen: Seen
    said: Mapping[str, Sequence[Said]]
    declared: Mapping[str, Declared]
    lossy: bool = False

    def runs(self) -> Iterator[tuple[str, Sequence[Record]]]:
        """The streams of runs."""
        return ((run, records) for run, records in self.records.items() if ev.is_run(run))


class Addresses:
    """Which call of which step a tool or model call belongs to: kept from the events of a run as they are appended."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._open: dict[tuple[str, int], dict[tuple[int, int], ev.ToolAsked]] = {}
        self.ends: dict[str, int] = {}
        for record in records:
            self.hear(record)

    def hear(self, record: Record) -> None:
        """An event was appended."""
        event = record.event
        if isinstance(event, ev.ToolAsked):
            self._open.setdefault((record.run, record.sub), {})[event.step, event.index] = event
        elif isinstance(event, ev.ToolAnswered | ev.ToolFailed | ev.InDoubt):
            self._open.get((record.run, record.sub), {}).pop((event.step, event.index), None)
        elif isinstance(event, ev.Finished | ev.Parked) and record.sub == 0:
            self.ends[record.run] = record.seq

    def find(self, run: str, sub: int, tool: str, key: str, arguments: Mapping[str, object]) -> tuple[int, int]:
        """The open call of this tool with this key, or without one with these arguments; (-1, -1) for none."""
        for at, asked in self._open.get((run, sub), {}).items():
            if asked.name == tool and (asked.key == key if key else _given(asked.arguments, arguments)):
                return at
        return -1, -1


def given(text: str) -> Mapping[str, object] | None:
    """The arguments of a call as the model gave them; None for what is no object."""
    try:
        made: object = msgspec.json.decode(text.encode("utf-8", "replace") or b"{}")
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return cast("Mapping[str, object]", made) if isinstance(made, dict) else None


def plain(value: object) -> object:
    """A value as its JSON, for comparing; as its repr when it has none."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return repr(value)


def _given(text: str, arguments: Mapping[str, object]) -> bool:
    said = given(text)
    return said is not None and all(name in arguments and meant(each, arguments[name]) for name, each in said.items())


def meant(said: object, got: object) -> bool:
    """Whether a tool got what the journal says: a mark of a secret stands for any text, and no tool is given one."""
    return _meant(said, plain(got))


def _meant(said: object, got: object) -> bool:
    if isinstance(said, str) and isinstance(got, str) and (parts := _MARK.split(said))[1:]:
        return _MARK.search(got) is None and re.fullmatch(".*".join(map(re.escape, parts)), got, re.DOTALL) is not None
    if isinstance(said, dict) and isinstance(got, dict):
        ours, theirs = cast("dict[str, object]", said), cast("dict[str, object]", got)
        return ours.keys() == theirs.keys() and all(_meant(each, theirs[name]) for name, each in ours.items())
    if isinstance(said, list) and isinstance(got, list):
        pairs = zip(cast("list[object]", said), cast("list[object]", got), strict=False)
        return len(said) == len(got) and all(_meant(*pair) for pair in pairs)
    return said == got


_MARK: Final = re.compile(r"\[secret:[A-Za-z0-9_.-]{1,40}:[0-9a-f]{16}\]")
"""Stated once more, since oracles take nothing from what they judge."""
