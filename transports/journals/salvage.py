"""What can be saved of a damaged journal: of every stream the longest beginning that verifies, in a new file.

    found = await salvage("desk.db", "saved.db")
    for stream in found.streams:
        print(stream.run, stream.kept, stream.lost)

The damaged file is only read, and page by page (see `carve`), so that it does not matter what SQLite thinks of it. An
event is taken when the chained CRC of its whole stream up to it is right: what is written to the new file is what was
written to the old one, or nothing. One thing is added: a run that may have lost its end and would go on is parked, so
that no process takes it up by itself and makes calls again that are not in the journal any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import groupby
from typing import Final, cast

import anyio.to_thread
import msgspec
from msgspec import Struct

from understudy.actors.errors import (
    JournalDamaged,
    JournalFailed,
    JournalForeign,
    JournalNewer,
    JournalOwned,
    UsageError,
)
from understudy.actors.journal.events import Parked, Record, encode, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.store import InboxRow, Row, chain
from understudy.transports.journals import contents
from understudy.transports.journals.carve import Carver, Cell, Value, page_size
from understudy.transports.journals.files import connect, flush_folder, transaction
from understudy.transports.journals.heads import seal
from understudy.transports.journals.packing import Packed, count, unpack
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.journals.sqlite_file import APPLICATION_ID, is_owned
from understudy.transports.journals.upgrading import FORMAT

BATCH: Final = 512
"""Rows that are written to the new file in one transaction."""


class Stream(Struct, frozen=True):
    """One stream: how many of its events were `kept`, how many are known to be `lost`, and why the first of them is."""

    run: str
    kept: int
    lost: int
    reason: str = ""


class Salvaged(Struct, frozen=True):
    """What `salvage` found: streams in the order in which they began, words of the inbox, and values."""

    streams: tuple[Stream, ...]
    words: int
    values: int

    @property
    def whole(self) -> bool:
        """Whether no stream is known to have lost an event."""
        return not any(stream.lost for stream in self.streams)


class _Time(Struct):
    at: float


class Finds:
    """What was found in the bytes of a file and its log. Candidates; `beginning` verifies."""

    def __init__(self, file: bytes, log: bytes) -> None:
        self._carver = Carver(file, log, page_size(file, log))
        self._events: dict[str, dict[int, list[int]]] = {}
        self._first: dict[str, int] = {}
        self._bodies: dict[bytes, list[int]] = {}
        self._last: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self._opened: tuple[int, list[tuple[Row, float]]] = -1, []
        self.values: dict[str, str] = {}
        self.words: dict[int, InboxRow] = {}
        for place, cell in self._carver.cells():
            self._sort(place, cell)

    def _sort(self, place: int, cell: Cell) -> None:
        """Tables are told apart by the types of their columns."""
        number, values = cell
        match values:
            case (None, str(run), int(seq), int() | float(), int(), int(), bytes(), *rest) if len(rest) < 3:
                found = self._events.setdefault(run, {})
                for back in range(count(rest[1]) if len(rest) == 2 else 1):
                    found.setdefault(seq - back, []).append(place)
                self._first[run] = min(number, self._first.get(run, number))
            case (None, str(run), int(seq), int(crc), int() | float() as first, int() | float() as last, int(mark)):
                if seal(run, seq, crc, float(first), float(last)) == mark:
                    self._last[run] = max(seq, self._last.get(run, 0))
                    self._begun[run] = number
            case (None, bytes(digest), bytes()) if len(digest) == contents.DIGEST:
                self._bodies.setdefault(digest, []).append(place)
            case (str(name), str(value), int(mark)) if seal(name, value) == mark:
                self.values[name] = value
            case (None, int() | float() as at, str(kind), bytes(body), int(mark)) if (
                seal(float(at), kind, body) == mark
            ):
                self.words[number] = InboxRow(number, float(at), kind, body)
            case _:
                pass

    def runs(self) -> list[str]:
        """Every stream of which a head or an event was found, in the order in which they began, as far as is known."""
        names = {*self._events, *self._last}
        return sorted(
            names, key=lambda run: (run not in self._begun, self._begun.get(run, 0), self._first.get(run, 0), run)
        )

    def beginning(self, run: str) -> Iterator[tuple[Row, float]]:
        """The events of a stream and their times, from the first, as long as each follows on the one before it."""
        found, crc, seq = self._events.get(run, {}), 0, 0
        while True:
            seq += 1
            for place in found.get(seq, ()):
                row = self._row(place, run, seq, crc)
                if row is not None:
                    crc = row[0].crc
                    yield row
                    break
            else:
                return

    def _row(self, place: int, run: str, seq: int, crc: int) -> tuple[Row, float] | None:
        """Event `seq` of the row at a place, if it is there and follows on `crc`."""
        for row, time in self._unpacked(place):
            if row.seq == seq and len(row.payload) == row.length and chain(crc, run, seq, row.payload) == row.crc:
                return row, _time(row.payload, time)
        return None

    def _unpacked(self, place: int) -> list[tuple[Row, float]]:
        """The events of the row at a place, not verified; the last that were asked for are remembered."""
        if self._opened[0] == place:
            return self._opened[1]
        _, run, seq, at, length, crc, kept, *rest = self._carver.at(place)[1]
        refs, cuts = (*rest, None, None)[:2]
        try:
            payload = kept if refs is None else contents.together(cast(bytes, kept), cast(bytes, refs), self._body)
            events = unpack(cast(Packed, (run, seq, at, length, crc, payload, cuts)))
        except (LookupError, ValueError):
            events = []
        self._opened = place, events
        return events

    def _body(self, digest: bytes) -> bytes:
        for place in self._bodies.get(digest, ()):
            body = cast(bytes, self._carver.at(place)[1][2])
            if contents.digest_of(body) == digest:
                return body
        raise LookupError(digest.hex())

    def is_whole(self, run: str, kept: int) -> bool:
        """Whether so many events are known to be all that there were."""
        return self._last.get(run) == kept

    def told(self, run: str, kept: int) -> Stream:
        """What is said of a stream of which `kept` events could be kept."""
        found = self._events.get(run, {})
        # Without a head nobody knows how many there were: those are lost that were seen and could not be kept.
        lost = self._last[run] - kept if run in self._last else sum(seq > kept for seq in found)
        if lost <= 0:
            return Stream(run, kept, 0)
        reason = f"event {kept + 1} " + ("does not verify" if kept + 1 in found else "is not there")
        return Stream(run, kept, lost, reason)


def _parked(rows: Sequence[Row]) -> list[Row]:
    """The events that park whatever of a run would go on; none where it has ended, waits, or cannot be read."""
    try:
        records = decode_rows("", list(rows))
        run = fold(records)
    except (JournalDamaged, LookupError, ValueError, AssertionError):
        return []
    last, crc, parked = records[-1], rows[-1].crc, list[Row]()
    for sub in run.subs.values():
        if sub.finished is None and sub.parked is None:
            seq = last.seq + len(parked) + 1
            event = Parked("asker", ())
            payload = encode(Record(run.id, seq, last.at, last.mono, sub.id, "", 0, last.seq, event))
            crc = chain(crc, run.id, seq, payload)
            parked.append(Row(run.id, seq, payload, len(payload), crc))
    return parked


def _time(payload: bytes, column: Value) -> float:
    """The time of an event: its own, which the checksum covers, or that of its row."""
    try:
        return msgspec.json.decode(payload, type=_Time).at
    except msgspec.MsgspecError:
        return float(cast(float, column))


async def salvage(damaged: str | os.PathLike[str], to: str | os.PathLike[str]) -> Salvaged:
    """Write what verifies of the journal `damaged` (and of its `-wal`) to a new journal at `to`.

    `to` appears when it is complete; `damaged` is only read. Raises `UsageError` when `to` exists or is `damaged`,
    `JournalOwned` when a live process owns `damaged`, `JournalNewer` when it says that it is of a newer version,
    `JournalForeign` when nothing of a journal is in it, `JournalFailed` when it cannot be read or `to` not be written.
    """
    source, target = os.fspath(damaged), os.fspath(to)
    if await anyio.to_thread.run_sync(os.path.lexists, target):
        raise UsageError(f"{target}: there is a file already; name a new one")
    finds = await anyio.to_thread.run_sync(_find, source)
    part = f"{target}.salvaging"
    await anyio.to_thread.run_sync(_remove, part)
    store = SQLiteStore(part, durability="relaxed")  # flushed once, when it is whole
    try:
        await store.open()
        try:
            found = await _write(finds, store)
        finally:
            await store.aclose()
        await anyio.to_thread.run_sync(_post, part, list(finds.words.values()))
        await anyio.to_thread.run_sync(_publish, part, target)
    finally:
        await anyio.to_thread.run_sync(_remove, part)
    return found


async def _write(finds: Finds, store: SQLiteStore) -> Salvaged:
    streams: list[Stream] = []
    for run in finds.runs():
        kept = 0
        for _, group in groupby(enumerate(finds.beginning(run)), lambda each: each[0] // BATCH):
            batch = [each for _, each in group]
            await store.write([row for row, _ in batch], [time for _, time in batch])
            kept += len(batch)
        streams.append(finds.told(run, kept))
        if kept and is_run(run) and not finds.is_whole(run, kept):
            rest = _parked(await store.read(run))
            await store.write(rest, [_time(row.payload, 0.0) for row in rest])
    if finds.values:
        await store.set_meta(finds.values)
    return Salvaged(tuple(streams), len(finds.words), len(finds.values))


def _find(path: str) -> Finds:
    if is_owned(path):
        raise JournalOwned(path, "a live process owns it: a journal in use is not damaged, or end that process first")
    try:
        with open(path, "rb") as file:
            data = file.read()
        log = b""
        with suppress(FileNotFoundError), open(os.path.realpath(path) + "-wal", "rb") as file:
            log = file.read()
    except OSError as error:
        raise JournalFailed(path, f"cannot be read: {error.strerror or error}") from error
    ours = data[68:72] == APPLICATION_ID.to_bytes(4, "big")
    version = int.from_bytes(data[60:64], "big")
    if ours and version > FORMAT:
        raise JournalNewer(path, f"format version {version}; this understudy reads up to {FORMAT}")
    finds = Finds(data, log)
    if not ours and not finds.runs() and not finds.values and not finds.words:
        raise JournalForeign(path, "nothing of a journal is in it")
    return finds


def _post(path: str, words: Sequence[InboxRow]) -> None:
    """Put words into the new inbox under the numbers that they had: the journal says up to which they were taken."""
    values = [(word.id, word.at, word.kind, word.body, seal(word.at, word.kind, word.body)) for word in words]
    with closing(connect(os.path.realpath(path), "rw", timeout=5.0)) as db:
        db.execute("PRAGMA synchronous = OFF")
        with transaction(db):
            db.executemany("INSERT INTO inbox (id, at, kind, body, seal) VALUES (?, ?, ?, ?, ?)", sorted(values))


def _publish(part: str, target: str) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(part, target)  # unlike a rename it writes over nothing
    except FileExistsError as error:
        raise UsageError(f"{target}: there is a file by now; name a new one") from error
    except OSError:  # a file system without links
        os.replace(part, target)
    flush_folder(os.path.realpath(target))


def _remove(part: str) -> None:
    for end in ("", "-wal", "-shm", "-owner"):
        with suppress(FileNotFoundError):
            os.unlink(part + end)
