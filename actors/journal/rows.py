"""From what a store gives back to events: the version of a journal, and the records of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from understudy.actors.errors import JournalDamaged, JournalNewer
from understudy.actors.journal.events import EVENTS, VERSION, Record, decode
from understudy.actors.journal.store import Row


def check_version(path: str, meta: Mapping[str, str]) -> None:
    """Whether events of the version that is kept in the values can be read here. Raises `JournalNewer`.

    Who writes keeps it there as "events" (see `VERSION`); a journal that does not say is of version 1.
    """
    kept = meta.get(EVENTS, "1")
    if not kept.isdecimal() or int(kept) > VERSION:
        raise JournalNewer(path, f"events of version {kept}; this understudy reads up to {VERSION}")


def decode_rows(path: str, rows: Sequence[Row]) -> list[Record]:
    """The records of verified rows. Raises `JournalDamaged` for a payload that is no record."""
    records: list[Record] = []
    for row in rows:
        try:
            records.append(decode(row.payload))
        except msgspec.MsgspecError as error:
            raise JournalDamaged(path, row.run, row.seq, f"not an event: {error}") from error
    return records
