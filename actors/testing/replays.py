"""Stored journals as regression tests: does today's code still decide what yesterday's runs did?

    histories = await record_history(store)                     # of a production journal; keep the bytes beside tests
    check_history(histories, System(desk).tree.policies).check()

    (await check_replay(store, System(desk).tree.policies)).check()       # or look at a whole journal at once

    states = await record_states(store)                         # and how each run stood, for an understudy of next year
    check_history(histories, System(desk).tree.policies, states=states).check()

A history is text, one event a line, each under the checksum that chains its stream. Cut anywhere it opens to a prefix;
anything else that was changed is `JournalDamaged`. No model and no tool is run, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from understudy.actors.agents.policy import Policy
from understudy.actors.errors import JournalDamaged, UnknownRun, UsageError
from understudy.actors.journal.events import VERSION, Record, decode, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.sessions import complete
from understudy.actors.journal.store import JournalStore, Row, chain
from understudy.actors.testing.folded import State, told
from understudy.actors.testing.journal_checks import check_old

_TITLE: Final = "understudy history"
_HEADERS: Final = [f"{_TITLE} {version}\n".encode() for version in range(1, VERSION + 1)]
_HEADER: Final = _HEADERS[-1]


class Replays(Struct, frozen=True):
    """What replaying many runs found.

    `replayed` are the runs that were replayed, `unfinished` those passed over, `compared` the commands that were
    decided again and equal, `violations` one sentence for each run that could not be read or was decided differently:
    its first divergence, what was recorded and what would be done now. With recorded states, also one for each part of
    a state that is another now.
    """

    replayed: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    compared: int = 0
    violations: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `AssertionError` with every violation, and when nothing was there to compare."""
        if self.violations:
            raise AssertionError("\n".join(self.violations))
        if not self.compared:
            raise AssertionError(f"nothing was compared: {len(self.replayed)} finished runs were found")


async def check_replay(store: JournalStore, policies: Mapping[str, Policy], *, states: bytes = b"") -> Replays:
    """Replay every finished run of a stored journal under `policies`, by agent name.

    `store` is not open yet; it is opened without ownership, beside a live owner if there is one, and closed. Damage in
    a stream is a violation of that run. `states`: of `record_states`; then every run of them must stand as it did
    (invariant 38). Raises `JournalError` when the journal cannot be opened or listed.
    """
    return _replayed(await _streams(store), policies, read_states(states))


async def _streams(store: JournalStore) -> dict[str, list[Record] | JournalDamaged]:
    await store.open(owner=False)
    try:
        return {head.run: await _read(store, head.run) for head in await store.heads() if is_run(head.run)}
    finally:
        await store.aclose()


async def _read(store: JournalStore, run: str) -> list[Record] | JournalDamaged:
    try:
        return decode_rows(store.path, await store.read(run))
    except JournalDamaged as error:
        return error


def check_history(data: bytes, policies: Mapping[str, Policy], *, states: bytes = b"") -> Replays:
    """Replay every finished run of what `record_history` made. Raises `JournalDamaged` (see `read_history`).

    `states`: of `record_states`; then each of these runs must stand as it did (invariant 38).
    """
    streams = read_history(data)
    return _replayed(streams, policies, {run: state for run, state in read_states(states).items() if run in streams})


def _replayed(
    streams: Mapping[str, list[Record] | JournalDamaged], policies: Mapping[str, Policy], then: Mapping[str, State]
) -> Replays:
    replayed: list[str] = []
    unfinished: list[str] = []
    violations: list[str] = []
    compared = 0
    past = {run: records for run, records in streams.items() if isinstance(records, list)}
    for run, records in streams.items():
        if isinstance(records, JournalDamaged):
            violations.append(str(records))
            continue
        try:
            if fold(records).finished is None:
                unfinished.append(run)
                continue
            report = replay(complete(records, past), policies)
        except Exception as error:  # a history that the fold of today cannot take: one run of many
            violations.append(f"run {run} cannot be replayed: {type(error).__name__}: {error}")
            continue
        replayed.append(run)
        compared += report.compared
        if not report.identical:
            place = f"{run}:{report.at}, {report.path} at step {report.step}"
            hook = f"; from {report.hook}" if report.hook else ""
            violations.append(f"{place}: recorded {report.recorded!r}, now {report.now!r}{hook}")
    violations += _stood_otherwise(then, past)
    return Replays(tuple(replayed), tuple(unfinished), compared, tuple(violations))


def _stood_otherwise(then: Mapping[str, State], past: Mapping[str, list[Record]]) -> list[str]:
    """Invariant 38."""
    if not then:
        return []
    try:
        return check_old(then, fold_all(past, then))
    except Exception as error:  # as above
        return [f"a run cannot be folded: {type(error).__name__}: {error}"]


def fold_all(streams: Mapping[str, Sequence[Record]], runs: Iterable[str] | None = None) -> dict[str, State]:
    """How each of `runs` stands (default: all), as `folded.told` tells it. `streams`: with what they go on with."""
    wanted = streams if runs is None else [run for run in runs if run in streams]
    return {run: told(fold(complete(streams[run], streams))) for run in wanted}


# --- histories -------------------------------------------------------------------------------------------


async def record_history(store: JournalStore, runs: Iterable[str] | None = None) -> bytes:
    """The streams of `runs` (default: every finished run) as bytes to keep. `store` is not open, as in `check_replay`.

    They hold what the journal holds: prompts, replies, arguments and results, in clear. Raises `UnknownRun` for a run
    that is not there, `JournalDamaged` for one that is damaged.
    """
    await store.open(owner=False)
    try:
        known = [head.run for head in await store.heads() if is_run(head.run)]
        wanted = known if runs is None else list(runs)
        lines: list[bytes] = []
        for run in wanted:
            if run not in known:
                raise UnknownRun(f"no run {run!r} in {store.path}")
            rows = await store.read(run)
            if runs is not None or fold(decode_rows(store.path, rows)).finished is not None:
                lines += [_line(row) for row in rows]
    finally:
        await store.aclose()
    return _HEADER + b"".join(lines)


async def record_states(store: JournalStore) -> bytes:
    """How every run of a journal stands, ended or not, as JSON to keep beside its history. `store` is not open yet.

    Long texts are kept as digests. Raises `JournalDamaged` for a run that is damaged.
    """
    streams: dict[str, list[Record]] = {}
    for run, records in (await _streams(store)).items():
        if isinstance(records, JournalDamaged):
            raise records
        streams[run] = records
    return msgspec.json.format(msgspec.json.encode(fold_all(streams)), indent=1) + b"\n"


def read_states(states: bytes) -> dict[str, State]:
    """What `record_states` made, by run. Raises `UsageError` for anything else."""
    try:
        return dict(msgspec.json.decode(states, type=dict[str, dict[str, object]])) if states else {}
    except msgspec.MsgspecError as error:
        raise UsageError(f"states: not what record_states made: {error}") from error


def _line(row: Row) -> bytes:
    return b"%08x %d %s\n" % (row.crc, row.length, row.payload)


def read_history(data: bytes, *, name: str = "history") -> dict[str, list[Record]]:
    """The streams of a history, verified, in the order in which they were recorded.

    A last line without its end is left out: what is cut anywhere opens to a prefix. Raises `JournalDamaged` with run
    and number of the first event that is not as it was, under `name`; for the first line or one that says neither, the
    run is `@line` and the number that of the line.
    """
    return {run: decode_rows(name, rows) for run, rows in _verified(data, name).items()}


async def write_history(store: JournalStore, data: bytes) -> list[str]:
    """Put a history into a new journal, so that the commands can be run on it; the ids of its runs.

    `store` is not open yet; it is opened as its owner, and closed. Raises `JournalDamaged` as `read_history`, before
    anything is written, and `JournalError` for a journal that holds one of the runs, is owned or cannot be written.
    """
    read_history(data)
    streams = _verified(data, "history")
    await store.open(owner=True)
    try:
        for rows in streams.values():
            await store.write(rows, [decode(row.payload).at for row in rows])
    finally:
        await store.aclose()
    return list(streams)


def _verified(data: bytes, name: str) -> dict[str, list[Row]]:
    lines = data.split(b"\n")[:-1]
    if not lines:
        if any(header.startswith(data) for header in _HEADERS):
            return {}
        raise JournalDamaged(name, "@line", 1, "not a history")
    if lines[0] + b"\n" not in _HEADERS:
        raise JournalDamaged(name, "@line", 1, f"not a history of version 1 to {VERSION}: {_shown(lines[0])}")
    streams: dict[str, list[Row]] = {}
    crcs: dict[str, int] = {}
    for number, line in enumerate(lines[1:], 2):
        row = _row(name, number, line)
        stream = streams.setdefault(row.run, [])
        if row.seq != len(stream) + 1:
            raise JournalDamaged(name, row.run, len(stream) + 1, f"event {row.seq} is in its place")
        crcs[row.run] = chain(crcs.get(row.run, 0), row.run, row.seq, row.payload)
        if crcs[row.run] != row.crc:
            raise JournalDamaged(name, row.run, row.seq, "checksum does not match")
        stream.append(row)
    return streams


class _Place(Struct):
    """What of an event says where it belongs."""

    run: str
    seq: int


def _row(name: str, number: int, line: bytes) -> Row:
    parts = line.split(b" ", 2)
    try:
        crc, length, payload = int(parts[0], 16), int(parts[1]), parts[2]
        place = msgspec.json.decode(payload, type=_Place)
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise JournalDamaged(name, "@line", number, f"not an event: {_shown(line)}") from error
    if length != len(payload):
        raise JournalDamaged(name, place.run, place.seq, f"{len(payload)} bytes where {length} were written")
    return Row(place.run, place.seq, payload, length, crc)


def _shown(line: bytes) -> str:
    return repr(line[:40])
