"""Histories: streams of a journal as one file to keep, to hand on, and to test with.

A history is text, one event a line, each with its length and under the checksum that chains its stream. Cut anywhere
it opens to a prefix; anything else that was changed is `JournalDamaged`. It holds what the journal holds: prompts,
replies, arguments and results, in clear.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct

from understudy.actors.errors import JournalDamaged, JournalOwned, UnknownRun
from understudy.actors.journal.events import EVENTS, VERSION, Record, decode, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.rows import decode_rows
from understudy.actors.journal.sessions import needs, started
from understudy.actors.journal.store import JournalStore, MemoryStore, Row, chain

TITLE: Final = "understudy history"
"""What every history begins with."""
_HEADERS: Final = [f"{TITLE} {version}\n".encode() for version in range(1, VERSION + 1)]
_HEADER: Final = _HEADERS[-1]


async def record_history(store: JournalStore, runs: Iterable[str] | None = None) -> bytes:
    """The streams of `runs` (default: every finished run) as bytes to keep. `store` is not open yet; it is opened
    without ownership, beside a live owner if there is one, and closed.

    Runs of a session come with those whose window they go on with, as replay needs them. Raises `UnknownRun` for a run
    that is not there, `JournalDamaged` for one that is damaged.
    """
    await store.open(owner=False)
    try:
        return await history_of(store, runs)
    finally:
        await store.aclose()


async def history_of(store: JournalStore, runs: Iterable[str] | None = None) -> bytes:
    """As `record_history`, of a store that is open."""
    known = [head.run for head in await store.heads() if is_run(head.run)]
    wanted = dict.fromkeys(known if runs is None else runs)
    lines: dict[str, list[bytes]] = {}
    while wanted:
        run = next(iter(wanted))
        del wanted[run]
        if run not in known:
            raise UnknownRun(f"no run {run!r} in {store.path}")
        rows = await store.read(run)
        records = decode_rows(store.path, rows)
        if runs is not None or fold(records).finished is not None:
            lines[run] = [_line(row) for row in rows]
            before = needs(started(records))
            if before in known and before not in lines:
                wanted[before] = None
    return _HEADER + b"".join(line for stream in lines.values() for line in stream)


def _line(row: Row) -> bytes:
    return b"%08x %d %s\n" % (row.crc, row.length, row.payload)


def read_history(data: bytes, *, name: str = "history") -> dict[str, list[Record]]:
    """The streams of a history, verified, in the order in which they were recorded.

    A last line without its end is left out: what is cut anywhere opens to a prefix. Raises `JournalDamaged` with run
    and number of the first event that is not as it was, under `name`; for the first line or one that says neither, the
    run is `@line` and the number that of the line.
    """
    return {run: decode_rows(name, rows) for run, rows in rows_of(data, name).items()}


async def write_history(store: JournalStore, data: bytes) -> list[str]:
    """Put a history into a new journal, so that the commands can be run on it; the ids of its runs.

    `store` is not open yet; it is opened as its owner, and closed. Raises `JournalDamaged` as `read_history`, before
    anything is written, and `JournalError` for a journal that holds one of the runs, is owned or cannot be written.
    """
    read_history(data)
    streams = rows_of(data)
    await store.open(owner=True)
    try:
        for rows in streams.values():
            await store.write(rows, [decode(row.payload).at for row in rows])
    finally:
        await store.aclose()
    return list(streams)


def rows_of(data: bytes, name: str = "history") -> dict[str, list[Row]]:
    """The rows of a history by stream, verified. Raises as `read_history`."""
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


class HistoryStore(MemoryStore):
    """A history as a store that is only read: `data` is its bytes, `path` the file that they are from.

    Raises `JournalDamaged` as `read_history`.
    """

    def __init__(self, path: str, data: bytes) -> None:
        super().__init__()
        self.path = path
        self._rows = rows_of(data, path)
        ends = {run: (rows[0], rows[-1]) for run, rows in self._rows.items()}
        self._times = {run: (decode(first.payload).at, decode(last.payload).at) for run, (first, last) in ends.items()}

    async def open(self, *, owner: bool = True) -> None:
        """See `JournalStore.open`. Raises `JournalOwned` for an owner: nothing is written to it."""
        if owner:
            raise JournalOwned(self.path, "a history is only read")
        await super().open(owner=False)

    async def meta(self) -> Mapping[str, str]:
        """See `JournalStore.meta`: nothing was kept beside the events."""
        return {EVENTS: str(VERSION)}

    async def post(self, kind: str, body: bytes, at: float) -> int:
        """Nobody would take it. Raises `JournalOwned`."""
        raise JournalOwned(self.path, "a history is only read: nobody runs it")

    async def owned(self) -> bool:
        """Nobody runs it."""
        return False

    async def data_version(self) -> int:
        """It does not change."""
        return 0
