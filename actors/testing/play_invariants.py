"""What an invariant of plays is, and those of the journal, 32 to 37, as oracles over the evidence of a play."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from understudy.actors.errors import JournalDamaged
from understudy.actors.journal import events as ev
from understudy.actors.journal.pruned_events import PRUNED
from understudy.actors.journal.store import Row, verify
from understudy.actors.testing import journal_checks as checks
from understudy.actors.testing.evidence import Began, Evidence, ModelBegan, Told, ToolBegan, Written

Check = Callable[[Evidence], Iterator[str]]

SENTENCES: Final[Mapping[int, str]] = MappingProxyType(
    {
        25: "within limits: spent + reserved is within the limit of every pool, after each operation and restart;"
        " agents are told what is left, and delegate no deeper and no more often than they may",
        26: "no refunds: spend only grows, a restart forgets none, and a reservation is settled once, for what it cost",
        27: "all or none: a reservation is taken from every pool above it, or from none",
        28: "loops: evidence that meets a rule meets its rung within a step, and what is new is no evidence",
        29: "gated: what needs a yes happens after one for exactly this call, which is given in time and used once",
        30: "silence is no yes: an approval is given by a person who may, and by nothing else",
        31: "registry: only declared tools are called, with arguments that fit, as the model asked for them",
        32: "prefix: what a crash leaves is a prefix of whole batches, with every acknowledged one",
        33: "write-ahead: an intent is committed before its act, an outcome before the next act or the answer",
        34: "live state: folding the journal gives the state that lived",
        35: "cuts: a prefix folded and then the rest is the whole",
        36: "numbers: they have no gap, and nobody writes in the name of a former incarnation",
        37: "tail: what is cut opens to a prefix, damage is named, and nothing behind it is read",
    }
)
"""The sentence of every invariant, by number; what stands before the colon is its name."""


class PlayInvariant:
    """An oracle over the evidence of a play, with its number. What it yields begins with number and name.

    `states`: it needs copies of the live state at every commit.
    """

    __slots__ = ("_check", "number", "states")

    def __init__(self, number: int, check: Check, *, states: bool = False) -> None:
        self.number = number
        self.states = states
        self._check = check

    def __call__(self, evidence: Evidence) -> Iterator[str]:
        """The violations."""
        for sentence in self._check(evidence):
            yield f"invariant #{self.number} {self.name!r}: {sentence}"

    def __repr__(self) -> str:
        return f"<invariant #{self.number} {self.name}>"

    @property
    def name(self) -> str:
        """A few words."""
        return SENTENCES[self.number].partition(":")[0]

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return SENTENCES[self.number]


def play_invariant(number: int, *, states: bool = False) -> Callable[[Check], PlayInvariant]:
    """Make an oracle of a function."""

    def make(check: Check) -> PlayInvariant:
        return PlayInvariant(number, check, states=states)

    return make


@play_invariant(32)
def prefix(evidence: Evidence) -> Iterator[str]:
    """Each process finds what the one before it left."""
    for number, process in enumerate(evidence.processes):
        later = evidence.processes[number + 1 :]
        recovered = next((each.base for each in later if each.opened), evidence.streams)
        if process.opened:
            yield from checks.check_prefix(process.written, recovered, base=process.base, lossy=evidence.lossy)


@play_invariant(33)
def write_ahead(evidence: Evidence) -> Iterator[str]:
    """Models and tools against what the disk had taken when they began."""
    if evidence.lossy:
        return
    intents: dict[tuple[str, int], int] = {}
    moments: list[checks.Moment] = []
    kept = _committed_calls(evidence)
    process = 0
    for each in evidence.happened:
        match each:
            case Began():
                process = each.process
            case Written():
                for record in each.records:
                    moments.append(checks.Committed(record.run, record.seq))
                    if isinstance(record.event, ev.ModelAsked):
                        intents[record.run, record.sub] = record.event.step
            case ModelBegan(sub=sub) if sub >= 0:
                moments.append(checks.ModelCalled(each.run, sub, intents.get((each.run, sub), 0)))
            case ToolBegan(sub=sub) if sub >= 0 and not _is_lost(evidence, kept, process, each):
                moments.append(checks.ToolCalled(each.run, sub, each.step, each.index))
            case Told():
                moments.append(checks.Answered(each.run, each.seq))
            case _:
                pass
    if PRUNED in evidence.records:  # of a run that is gone nothing can be said
        moments = [each for each in moments if each.run in evidence.records]
    records = [record for _, stream in evidence.runs() for record in stream]
    yield from checks.check_write_ahead(records, moments)


Calls = dict[tuple[str, int, int, int, str], int]


def _committed_calls(evidence: Evidence) -> Calls:
    """By run, sub-run, step, index and tool: the process that committed the intent."""
    found: Calls = {}
    process = 0
    for each in evidence.happened:
        if isinstance(each, Began):
            process = each.process
        for record in each.records if isinstance(each, Written) else ():
            if isinstance(event := record.event, ev.ToolAsked):
                found[record.run, record.sub, event.step, event.index, event.name] = process
    return found


def _is_lost(evidence: Evidence, kept: Calls, process: int, call: ToolBegan) -> bool:
    """Whether a call only read, and its intent died with its process, before anything that had to be committed."""
    reads = any(
        call.tool in each.tools and each.tools[call.tool].effect == "read" for each in evidence.declared.values()
    )
    return reads and kept.get((call.run, call.sub, call.step, call.index, call.tool), process + 1) > process


@play_invariant(34)
def live_state(evidence: Evidence) -> Iterator[str]:
    """As each process ended."""
    if evidence.lossy:
        return
    for process in evidence.processes:
        for run, state in process.live.items():
            if run in evidence.records or PRUNED not in evidence.records:
                yield from checks.check_live_state(evidence.records.get(run, ()), {state.seq: state})


@play_invariant(34, states=True)
def every_live_state(evidence: Evidence) -> Iterator[str]:
    """At every commit."""
    if evidence.lossy:
        return
    for process in evidence.processes:
        for state in process.states:
            if state.id in evidence.records or PRUNED not in evidence.records:
                yield from checks.check_live_state(evidence.records.get(state.id, ()), {state.seq: state})


@play_invariant(35)
def one_cut(evidence: Evidence) -> Iterator[str]:
    """Cut in the middle."""
    for _, stream in evidence.runs():
        yield from checks.check_cuts(stream, cuts=[len(stream) // 2] if len(stream) > 1 else [])


@play_invariant(35)
def every_cut(evidence: Evidence) -> Iterator[str]:
    """Cut after every event."""
    for _, stream in evidence.runs():
        yield from checks.check_cuts(stream)


@play_invariant(36)
def numbers(evidence: Evidence) -> Iterator[str]:
    """Of all streams."""
    yield from checks.check_numbers(evidence.streams)


@play_invariant(37)
def tail(evidence: Evidence) -> Iterator[str]:
    """What lies there is what was written, and reads; also with its end cut off, or hurt."""
    written = _as_written(evidence)
    for run, rows in evidence.streams.items():
        before = written.get(run, [])[: len(rows)] if evidence.lossy else written.get(run, [])
        yield from checks.check_tail(before, rows, _read(rows))
        if rows:
            last = rows[-1]
            hurt = [*rows[:-1], Row(last.run, last.seq, last.payload[:-1], last.length, last.crc)]
            yield from checks.check_tail(rows, hurt, _read(hurt))
            yield from checks.check_tail(rows, rows[:-1], _read(rows[:-1]))


def _as_written(evidence: Evidence) -> dict[str, list[Row]]:
    """Each stream as its writers wrote it, what was refused or torn left out.

    After a power cut only what the last process found counts, and what it wrote: 32 is about what was lost before.
    """
    found: dict[str, list[Row]] = {}
    processes = evidence.processes
    if evidence.lossy:
        processes = [each for each in processes if each.opened][-1:]
        found = {run: list(rows) for each in processes for run, rows in each.base.items()}
    for process in processes:
        for batch in process.written:
            kept = [row for row in batch.rows if row.run in evidence.streams]  # the others were pruned since
            there = all(_place(evidence.streams, row) == row for row in kept)
            for row in batch.rows if there or batch.acknowledged else ():
                found.setdefault(row.run, []).append(row)
    return found


def _place(streams: Mapping[str, Sequence[Row]], row: Row) -> Row | None:
    stream = streams.get(row.run, ())
    return stream[row.seq - 1] if row.seq <= len(stream) else None


def _read(rows: Sequence[Row]) -> Sequence[Row] | JournalDamaged:
    """As a store reads them."""
    try:
        verify("a journal", list(rows))
    except JournalDamaged as error:
        return error
    return rows
