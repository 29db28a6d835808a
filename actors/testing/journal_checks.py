"""What must hold of every journal, whatever dies when: invariants 32 to 38, as functions of plain values.

Each function returns sentences that say what is violated and where, and raises nothing; an empty list is a pass. A
check of nothing passes too: see to it that there was something (records, batches, calls).

| number | function | in one sentence |
|---|---|---|
| 32 | `check_prefix` | what a crash leaves is a prefix of whole batches, with every acknowledged one |
| 33 | `check_write_ahead` | an intent is committed before its act, an outcome before the next act or the answer |
| 34 | `check_live_state` | folding the journal gives the live state, at every commit |
| 35 | `check_cuts` | a prefix folded and then the rest is the whole, and twice is the same as once |
| 36 | `check_numbers` | numbers have no gap, and nobody writes in the name of a former incarnation |
| 37 | `check_tail` | a cut tail opens to a prefix, damage is named, and nothing behind it is read |
| 38 | `check_old` | a journal of an older version folds to the same states, or is refused before anything is done |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from understudy.actors.errors import JournalDamaged, UnderstudyError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record, decode
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Row, chain
from understudy.actors.testing.folded import State, differences
from understudy.actors.testing.witness import Batch

Streams: TypeAlias = Mapping[str, Sequence[Row]]
Folding: TypeAlias = Callable[[Iterable[Record], Run | None], Run]

SENTENCES: Final[Mapping[int, str]] = MappingProxyType(
    {38: "old journals: one of another version folds to the same states, or is refused before anything is done"}
)
"""The sentence of the invariant that no play asks for; of the others see `play_invariants.SENTENCES`."""
_CLOSING: Final = (ev.ToolAnswered, ev.ToolFailed, ev.InDoubt)
"""What ends a tool's intent: afterwards the call needs another one."""


# --- 32 --------------------------------------------------------------------------------------------------


def check_prefix(
    written: Sequence[Batch], recovered: Streams, *, base: Streams | None = None, lossy: bool = False
) -> list[str]:
    """Invariant 32: the recovered journal is a prefix of whole batches and holds every acknowledged one.

    `written`: what one process wrote, in order (see `Witness`); `base`: what it had found, nothing by default;
    `recovered`: what the next one finds, by stream. A batch that was not acknowledged may be there or not. With `lossy`
    (durability "normal" and a power cut) a tail of acknowledged batches may be missing; nothing after a gap may be
    there. A batch that removes streams is there whole, too: with its rows, and without those streams.
    """
    removed = {run for batch in written if _is_there(batch, recovered) for run in batch.gone}
    found = [f"{run} is there, and was removed" for run in sorted(removed & recovered.keys())]
    base = {run: rows for run, rows in (base or {}).items() if run not in removed}
    places = {run: len(rows) for run, rows in base.items()}
    for run, rows in base.items():
        if list(recovered.get(run, ())[: len(rows)]) != list(rows):
            found.append(f"{run}: what was there before ({len(rows)} events) is not there as it was")
    lost = 0
    for number, batch in enumerate(written, 1):
        rows = tuple(row for row in batch.rows if row.run not in removed) if removed else batch.rows
        there = _there(rows, recovered, places)
        if there == len(rows):
            if lost and rows:
                found.append(f"batch {number} is there and batch {lost} before it is lost")
        elif there:
            found.append(f"batch {number} is torn: {there} of {len(rows)} events are there")
        elif batch.acknowledged and not lossy:
            found.append(f"batch {number}, from {_place(rows)} on, was acknowledged and is lost")
        if there < len(rows) and batch.acknowledged:
            lost = lost or number
    for run, rows in recovered.items():
        if len(rows) > places.get(run, 0):
            found.append(f"{run}:{rows[places.get(run, 0)].seq} is there and was never written")
    return found


def _is_there(batch: Batch, recovered: Streams) -> bool:
    """Whether a removal was carried out, as its rows say; without rows, as the streams do."""
    if not batch.rows:
        return bool(batch.gone) and not any(run in recovered for run in batch.gone)
    return all(row in recovered.get(row.run, ())[row.seq - 1 : row.seq] for row in batch.rows)


def _there(rows: Sequence[Row], recovered: Streams, places: dict[str, int]) -> int:
    """How many rows of a batch come next in what was recovered; `places` moves on behind them."""
    count = 0
    for row in rows:
        place, stream = places.get(row.run, 0), recovered.get(row.run, ())
        if place < len(stream) and stream[place] == row:
            places[row.run] = place + 1
            count += 1
    return count


def _place(rows: Sequence[Row]) -> str:
    return f"{rows[0].run}:{rows[0].seq}"


# --- 33 --------------------------------------------------------------------------------------------------


class Committed(Struct, frozen=True, tag=True, tag_field="$"):
    """Events of `run` up to `seq` are in the journal."""

    run: str
    seq: int


class ModelCalled(Struct, frozen=True, tag=True, tag_field="$"):
    """The model call of a step begins in the world."""

    run: str
    sub: int
    step: int


class ToolCalled(Struct, frozen=True, tag=True, tag_field="$"):
    """A tool's function begins for the call keyed (`step`, `index`)."""

    run: str
    sub: int
    step: int
    index: int


class Answered(Struct, frozen=True, tag=True, tag_field="$"):
    """The asker of a run has its result (or that it waits), as of event `seq`."""

    run: str
    seq: int


Moment: TypeAlias = Committed | ModelCalled | ToolCalled | Answered


def check_write_ahead(records: Iterable[Record], moments: Iterable[Moment]) -> list[str]:
    """Invariant 33: what was done was committed first, and what came of it before what follows.

    `records`: every event of one or several runs, as it lies in the journal at the end; `moments`: what happened, in
    order. Asked are, when a model call begins: an open intent that is committed, with everything before it. When a tool
    that does not only read begins: the same. When any act begins: that the outcomes of earlier acts of its sub-run that
    do not only read are committed. When an asker is answered: everything up to what it was told.
    """
    streams: dict[str, list[Record]] = {}
    for record in records:
        streams.setdefault(record.run, []).append(record)
    committed: dict[str, int] = {}
    found: list[str] = []
    for moment in moments:
        done = committed.get(moment.run, 0)
        stream = streams.get(moment.run, [])
        match moment:
            case Committed():
                committed[moment.run] = max(done, moment.seq)
            case Answered():
                if moment.seq > done:
                    found.append(f"run {moment.run} was answered from event {moment.seq} when {done} were committed")
            case ModelCalled():
                found += _called_model(stream, moment, done)
            case ToolCalled():
                found += _called_tool(stream, moment, done)
    return found


def _called_model(stream: Sequence[Record], moment: ModelCalled, done: int) -> list[str]:
    what = f"run {moment.run}/{moment.sub}: the model was called for step {moment.step}"
    sub = [r for r in stream if r.sub == moment.sub]
    intents = [r for r in sub if isinstance(r.event, ev.ModelAsked) and r.event.step == moment.step]
    intent = _last(intents, done)
    if intent is None:
        where = f"its intent is event {intents[0].seq}, and {done} were committed" if intents else "it has no intent"
        return [f"{what} before its intent was committed ({where})"]
    outcomes = (ev.ModelAnswered, ev.ModelFailed)
    closed = [r for r in sub if isinstance(r.event, outcomes) and intent.seq < r.seq <= done]
    if any(r.event.step == moment.step for r in closed if isinstance(r.event, outcomes)):
        return [f"{what} again after the outcome of its intent, event {intent.seq}, was committed"]
    return _late_outcomes(sub, what, intent.seq, done)


def _called_tool(stream: Sequence[Record], moment: ToolCalled, done: int) -> list[str]:
    what = f"run {moment.run}/{moment.sub}: call {moment.index} of step {moment.step}"
    sub = [r for r in stream if r.sub == moment.sub]
    key = (moment.step, moment.index)
    intents = [r for r in sub if isinstance(r.event, ev.ToolAsked) and (r.event.step, r.event.index) == key]
    if not intents:
        return [f"{what} was made without an intent"]
    asked = intents[0].event
    assert isinstance(asked, ev.ToolAsked)
    what = f"{what}, {asked.name},"
    if asked.effect == "read":
        return _late_outcomes(sub, what, intents[0].seq, done)
    intent = _last(intents, done)
    if intent is None:
        return [f"{what} was made before its intent, event {intents[0].seq}, was committed ({done} were)"]
    closed = [r for r in sub if isinstance(r.event, _CLOSING) and intent.seq < r.seq <= done]
    if any((r.event.step, r.event.index) == key for r in closed if isinstance(r.event, _CLOSING)):
        return [f"{what} was made again after the outcome of its intent, event {intent.seq}, was committed"]
    return _late_outcomes(sub, what, intent.seq, done)


def _last(intents: Sequence[Record], done: int) -> Record | None:
    return next((r for r in reversed(intents) if r.seq <= done), None)


def _late_outcomes(sub: Sequence[Record], what: str, before: int, done: int) -> list[str]:
    """Outcomes of earlier acts that do not only read, which are not committed when the next one begins."""
    world = {
        (r.event.step, r.event.index)
        for r in sub
        if isinstance(r.event, ev.ToolAsked) and r.event.effect != "read" and not r.event.sub
    }
    late = [
        r
        for r in sub
        if isinstance(r.event, _CLOSING) and done < r.seq < before and (r.event.step, r.event.index) in world
    ]
    return [f"{what} was made before the outcome of an earlier one, event {r.seq}, was committed" for r in late]


# --- 34, 35 ----------------------------------------------------------------------------------------------


def check_live_state(records: Sequence[Record], states: Mapping[int, Run], *, folding: Folding = fold) -> list[str]:
    """Invariant 34: folding a stream up to event `seq` gives the state that lived then.

    `records`: one stream; `states`: copies (`copy.deepcopy`: a live state goes on changing) of the live state by the
    number of the last event in it, best one for every commit.
    """
    found: list[str] = []
    for seq, live in sorted(states.items()):
        if not 0 < seq <= len(records):
            found.append(f"a state lived at event {seq} of {len(records)}")
            continue
        found += _differences(f"{live.id}:{seq}: the journal and the live state", _folded(folding, records[:seq]), live)
    return found


def check_cuts(records: Sequence[Record], *, cuts: Iterable[int] | None = None, folding: Folding = fold) -> list[str]:
    """Invariant 35: a prefix folded and then the rest equals the whole, and folding again gives the same.

    `records`: one stream; `cuts`: after which events to cut it, by default after every one (quadratic in events).
    """
    if not records:
        return []
    whole = _folded(folding, records)
    found = _differences(f"{records[0].run}: folded once and again", whole, _folded(folding, records))
    for cut in range(1, len(records)) if cuts is None else cuts:
        parts = _folded(folding, records[:cut], records[cut:])
        found += _differences(f"{records[0].run}: whole and cut after event {cut}", whole, parts)
    return found


def _folded(folding: Folding, *parts: Sequence[Record]) -> Run | str:
    """The state after the parts, or why there is none."""
    state: Run | None = None
    try:
        for part in parts:
            state = folding(part, state)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return state if state is not None else "nothing to fold"


def _differences(what: str, one: Run | str, other: Run | str) -> list[str]:
    if one == other:
        return []
    if isinstance(one, str) or isinstance(other, str):
        return [f"{what} differ: {one if isinstance(one, str) else other}"]
    names = [name for name in Run.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return [f"{what} differ in {', '.join(names)}"]


# --- 36 --------------------------------------------------------------------------------------------------


def check_numbers(streams: Streams) -> list[str]:
    """Invariant 36: streams count from 1 without a gap, and nobody writes in the name of a former incarnation.

    Of the events of one path in one stream, none may be of a lower incarnation than one before it. A run that had ended
    and was taken up again by a person (`Resumed` with `reopen`) begins anew in that: a process counts on from the
    incarnations that unfinished runs know of. So does one that was forked: it is another run's until then.
    """
    found: list[str] = []
    for run, rows in streams.items():
        current: dict[str, int] = {}
        for number, row in enumerate(rows, 1):
            if (row.run, row.seq) != (run, number):
                found.append(f"{row.run}:{row.seq} lies where {run}:{number} is next")
            found += _misnamed(row, current)
    return found


def _misnamed(row: Row, current: dict[str, int]) -> list[str]:
    try:
        record = decode(row.payload)
    except msgspec.MsgspecError as error:
        return [f"{row.run}:{row.seq} is no event: {error}"]
    found = []
    if (record.run, record.seq) != (row.run, row.seq):
        found.append(f"{row.run}:{row.seq} calls itself {record.place}")
    if isinstance(record.event, ev.Forked) or (isinstance(record.event, ev.Resumed) and record.event.reopen):
        current.clear()
    latest = current.setdefault(record.path, record.incarnation)
    if record.incarnation and record.incarnation < latest:
        found.append(f"{record.place} was written by {record.path} #{record.incarnation} after #{latest}")
    current[record.path] = max(latest, record.incarnation)
    return found


# --- 37 --------------------------------------------------------------------------------------------------


def check_tail(
    written: Sequence[Row], stored: Sequence[Row], seen: Sequence[Row] | JournalDamaged, *, counted: int | None = None
) -> list[str]:
    """Invariant 37: what is read of a stream is a verified prefix, and damage is named by its first event.

    `written`: the stream as it was; `stored`: as it lies there now; `seen`: what reading gave, rows or the error.
    `counted`: how many events the store has noted apart from them, if it does: then a cut below that is damage.
    """
    good, crc = 0, 0
    for before, now in zip(written, stored, strict=False):
        crc = chain(crc, before.run, before.seq, before.payload)
        if before != now or crc != now.crc:
            break
        good += 1
    whole = good == len(stored) and (counted is None or counted == good)
    if isinstance(seen, JournalDamaged):
        run = written[0].run if written else seen.run
        if whole:
            return [f"{seen.run}:{seen.seq} was called damaged, and all {good} events are good"]
        if (seen.run, seen.seq) != (run, good + 1):
            return [f"damage at {run}:{good + 1} was named {seen.run}:{seen.seq}"]
        return []
    if not whole:
        return [f"damage after {good} events was not seen: {len(seen)} were read"]
    if list(seen) != list(stored):
        return [f"{good} good events lie there, and {len(seen)} others were read"]
    return []


# --- 38 --------------------------------------------------------------------------------------------------


def check_old(then: Mapping[str, State], now: Mapping[str, State] | Exception, *, acts: int = 0) -> list[str]:
    """Invariant 38: a journal of another version folds to the same states, or is refused before anything is done.

    `then`: the state of each run, as `folded.told` told it in the code that wrote the journal; `now`: in the present
    code, after an upgrade if there is one, or what was raised instead. `acts`: how many calls of models and tools had
    begun when it was.
    """
    if isinstance(now, Exception):
        found = []
        if not isinstance(now, UnderstudyError):
            found.append(f"the journal was not refused, it broke {type(now).__name__}: {now}")
        if acts:
            found.append(f"the journal was refused after {acts} acts had begun: {now}")
        return found
    found = [f"run {run} is not there now" for run in then if run not in now]
    for run, state in then.items():
        found += [f"run {run}, {sentence}" for sentence in differences(state, now.get(run, state))]
    return found
