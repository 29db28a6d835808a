"""Stored journals as regression tests: does today's code still decide what yesterday's runs did?

    histories = await record_history(store)                     # of a production journal; keep the bytes beside tests
    check_history(histories, System(desk).tree.policies).check()

    (await check_replay(store, System(desk).tree.policies)).check()       # or look at a whole journal at once

    states = await record_states(store)                         # and how each run stood, for an understudy of next year
    check_history(histories, System(desk).tree.policies, states=states).check()

A history is what `understudy export` writes, see `journal.history`. No model and no tool is run, nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from understudy.actors.agents.policy import Policy
from understudy.actors.errors import JournalDamaged, UsageError
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.history import read_history as read_history
from understudy.actors.journal.history import record_history as record_history
from understudy.actors.journal.history import write_history as write_history
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.sessions import complete
from understudy.actors.journal.store import JournalStore
from understudy.actors.testing.folded import State, told
from understudy.actors.testing.journal_checks import check_old


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
