"""The rows of a damaged SQLite file, found page by page without SQLite: no tree, no index and no header is needed.

Every leaf page of a table says by itself which rows it holds (https://www.sqlite.org/fileformat2.html, sections 1.6,
2.1 and 4.1), in the file and in the write-ahead log. What is found is only a candidate: rows of pages that are no
longer part of a table are found too, and damaged ones. Whoever takes a row checks it.

Reads bytes that it is given; never opens or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Final

LEAF: Final = 13
"""The type of a page that holds rows of a table."""
PAGE: Final = 4_096
"""The size of a page where the file does not say it: SQLite's default."""
_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_SIZES: Final = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8}
_MOST_COLUMNS: Final = 16

Value = int | float | str | bytes | None
Cell = tuple[int, tuple[Value, ...]]
"""The number of a row (its `id`, where it has one) and its columns, the `id` as None."""


class Carver:
    """Pages of a file and of its write-ahead log (`log`, b"" for none). `size` is that of a page in bytes."""

    def __init__(self, file: bytes, log: bytes, size: int) -> None:
        self._all = file, log
        self._size = size
        self._pages: list[tuple[int, int]] = [(0, start) for start in range(0, len(file) - size + 1, size)]
        self._newest: dict[int, tuple[int, int]] = {}
        salts = log[16:24]
        step = _FRAME_HEADER + size
        for start in range(_LOG_HEADER, len(log) - step + 1, step):
            if log[start + 8 : start + 16] != salts:  # of an earlier round of the log: it is in the file, or was never
                continue
            place = (1, start + _FRAME_HEADER)
            self._newest[unpack_from(">I", log, start)[0]] = place
            self._pages.append(place)

    def cells(self) -> Iterator[tuple[int, Cell]]:
        """Every row that can be read, with its place; those of the file before those of the log."""
        for number, place in enumerate(self._pages):
            for offset in self._offsets(*place):
                cell = self._cell(*place, offset)
                if cell is not None:
                    yield number * self._size + offset, cell

    def at(self, place: int) -> Cell:
        """The row at a place that `cells` gave."""
        number, offset = divmod(place, self._size)
        cell = self._cell(*self._pages[number], offset)
        if cell is None:
            raise LookupError(f"no row at {place}")
        return cell

    def _offsets(self, source: int, start: int) -> Iterator[int]:
        data = self._all[source]
        first = 100 if (source, start) == (0, 0) or data[start : start + 6] == b"SQLite" else 0
        if data[start + first] != LEAF:
            return
        (count,) = unpack_from(">H", data, start + first + 3)
        for index in range(min(count, (self._size - first - 8) // 2)):
            (offset,) = unpack_from(">H", data, start + first + 8 + 2 * index)
            if first + 8 < offset < self._size - 3:
                yield offset

    def _cell(self, source: int, start: int, offset: int) -> Cell | None:
        data = self._all[source][start : start + self._size]
        try:
            length, at = _varint(data, offset)
            rowid, at = _varint(data, at)
            record = self._record(data, at, length)
            return None if record is None else (rowid, _columns(record))
        except (IndexError, ValueError):  # UnicodeDecodeError is one
            return None

    def _record(self, data: bytes, at: int, length: int) -> bytes | None:
        """The bytes of a record of `length`, those on overflow pages too; None when they are not there."""
        usable = self._size
        most = usable - 35
        if length <= most:
            record = data[at : at + length]
            return record if len(record) == length else None
        least = (usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (usable - 4)
        local = local if local <= most else least
        if length > sum(map(len, self._all)) or at + local + 4 > len(data):
            return None
        parts = [data[at : at + local]]
        (page,) = unpack_from(">I", data, at + local)
        left = length - local
        while left > 0 and page:
            source, start = self._newest.get(page, (0, (page - 1) * self._size))
            more = self._all[source][start : start + self._size]
            if len(more) < self._size:
                return None
            parts.append(more[4 : 4 + min(left, usable - 4)])
            left -= len(parts[-1])
            (page,) = unpack_from(">I", more)
        return b"".join(parts) if left == 0 else None


def page_size(file: bytes, log: bytes) -> int:
    """The size of a page as the file says, else the log, else SQLite's default."""
    (size,) = unpack_from(">H", file, 16) if len(file) >= 100 and file[:6] == b"SQLite" else (0,)
    size = 65_536 if size == 1 else size
    if not _is_size(size) and len(log) >= _LOG_HEADER:
        (size,) = unpack_from(">I", log, 8)
    return size if _is_size(size) else PAGE


def _is_size(size: int) -> bool:
    return 512 <= size <= 65_536 and size & (size - 1) == 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of SQLite's variable length, and where it ends. Raises `IndexError` at the end of the data."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    value = value << 8 | data[at + 8]
    return value - (1 << 64) if value >> 63 else value, at + 9


def _columns(record: bytes) -> tuple[Value, ...]:
    """The columns of a record. Raises `IndexError` or `ValueError` for one that is none."""
    end, at = _varint(record, 0)
    kinds: list[int] = []
    while at < end:
        kind, at = _varint(record, at)
        kinds.append(kind)
        if len(kinds) > _MOST_COLUMNS:
            raise ValueError("too many columns")
    if at != end:
        raise ValueError("a header that does not end where it says")
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(record, kind, at)
        values.append(value)
    if at != len(record):
        raise ValueError("a record that does not end where it says")
    return tuple(values)


def _value(record: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind >= 12:
        size = (kind - 12) // 2
        raw = record[at : at + size]
        if len(raw) != size:
            raise ValueError("a value that is cut")
        return (raw.decode() if kind % 2 else raw), at + size
    size = _SIZES.get(kind, 0)
    raw = record[at : at + size]
    if not size or len(raw) != size:
        raise ValueError("a value that is cut, or of a kind that there is not")
    if kind == 7:
        return unpack_from(">d", raw)[0], at + size
    return int.from_bytes(raw, "big", signed=True), at + size
