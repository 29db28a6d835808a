"""Stored journals as regression tests: does today's code still decide what yesterday's runs did?

    histories = await record_history(store)                     # of a production journal; keep the bytes beside tests
    check_history(histories, System(desk).tree.policies).check()

    (await check_replay(store, System(desk).tree.policies)).check()       # or look at a whole journal at once

A history is what `understudy export` writes, see `journal.history`. No model and no tool is run, nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from understudy.actors.agents.policy import Policy
from understudy.actors.errors import JournalDamaged
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.history import read_history as read_history
from understudy.actors.journal.history import record_history as record_history
from understudy.actors.journal.history import write_history as write_history
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.sessions import complete
from understudy.actors.journal.store import JournalStore


class Replays(Struct, frozen=True):
    """What replaying many runs found.

    `replayed` are the runs that were replayed, `unfinished` those passed over, `compared` the commands that were
    decided again and equal, `violations` one sentence for each run that could not be read or was decided differently:
    its first divergence, what was recorded and what would be done now.
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


async def check_replay(store: JournalStore, policies: Mapping[str, Policy]) -> Replays:
    """Replay every finished run of a stored journal under `policies`, by agent name.

    `store` is not open yet; it is opened without ownership, beside a live owner if there is one, and closed. Damage in
    a stream is a violation of that run. Raises `JournalError` when the journal cannot be opened or listed.
    """
    await store.open(owner=False)
    try:
        streams: dict[str, list[Record] | JournalDamaged] = {}
        for head in await store.heads():
            if is_run(head.run):
                streams[head.run] = await _read(store, head.run)
    finally:
        await store.aclose()
    return _replayed(streams, policies)


async def _read(store: JournalStore, run: str) -> list[Record] | JournalDamaged:
    try:
        return decode_rows(store.path, await store.read(run))
    except JournalDamaged as error:
        return error


def check_history(data: bytes, policies: Mapping[str, Policy]) -> Replays:
    """Replay every finished run of what `record_history` made. Raises `JournalDamaged` (see `read_history`)."""
    return _replayed(read_history(data), policies)


def _replayed(streams: Mapping[str, list[Record] | JournalDamaged], policies: Mapping[str, Policy]) -> Replays:
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
            violations.append(f"{place}: recorded {report.recorded!r}, now {report.now!r}")
    return Replays(tuple(replayed), tuple(unfinished), compared, tuple(violations))
