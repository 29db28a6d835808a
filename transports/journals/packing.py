"""Small events of one stream that were committed together share a row: packed when written, unpacked when read.

A row costs some microseconds, whatever is in it. An event that may hold a large text (see `contents`) has one of its
own, so that damage to the text is damage to it alone. Of a row of several, `seq`, `at`, `length` and `crc` are those
of the last event, the payload is all of theirs, one after the other, and `cuts` says the length, CRC and time of each
but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

from understudy.actors.journal.store import Row

MOST: Final = 256
"""Events in one row."""
SMALL: Final = 1_024
"""Bytes of an event that has a row of its own."""
_CUT: Final = Struct("<IId")


class Packed(NamedTuple):
    """One row. `cuts` is None when there is one event in it."""

    run: str
    seq: int
    at: float
    length: int
    crc: int
    payload: bytes
    cuts: bytes | None


def pack(rows: Sequence[Row], at: Sequence[float]) -> list[Packed]:
    """The rows to write, streams in the order in which they come first. Each stream's events must be in order."""
    groups: dict[str, list[tuple[Row, float]]] = {}
    for row, time in zip(rows, at, strict=True):
        group = groups.get(row.run)
        if group is None:
            groups[row.run] = [(row, time)]
        else:
            group.append((row, time))
    packed: list[Packed] = []
    for group in groups.values():
        if len(group) == 1:
            row, time = group[0]
            packed.append(Packed(row.run, row.seq, time, row.length, row.crc, row.payload, None))
        else:
            packed += _several(group)
    return packed


def _several(group: list[tuple[Row, float]]) -> list[Packed]:
    packed: list[Packed] = []
    begin = 0
    for end, (row, _) in enumerate(group):
        large = len(row.payload) >= SMALL
        if end > begin and (large or end - begin == MOST):
            packed.append(_one(group[begin:end]))
            begin = end
        if large:
            packed.append(_one(group[end : end + 1]))
            begin = end + 1
    if begin < len(group):
        packed.append(_one(group[begin:]))
    return packed


def _one(group: list[tuple[Row, float]]) -> Packed:
    row, time = group[-1]
    if len(group) == 1:
        return Packed(row.run, row.seq, time, row.length, row.crc, row.payload, None)
    cuts = b"".join([_CUT.pack(row.length, row.crc, time) for row, time in group[:-1]])
    payload = b"".join([row.payload for row, _ in group])
    return Packed(row.run, row.seq, time, row.length, row.crc, payload, cuts)


def unpack(packed: Packed) -> list[tuple[Row, float]]:
    """The events of a row, and their times. Raises `ValueError` for cuts that are none."""
    run, seq, time, length, crc, payload, cuts = packed
    if cuts is None:
        return [(Row(run, seq, payload, length, crc), time)]
    if type(cuts) is not bytes or not cuts or len(cuts) % _CUT.size or type(payload) is not bytes:
        raise ValueError("where its events begin and end is damaged")
    found: list[tuple[Row, float]] = []
    number, done = seq - len(cuts) // _CUT.size, 0
    for size, mark, at in _CUT.iter_unpack(cuts):
        found.append((Row(run, number, payload[done : done + size], size, mark), at))
        number, done = number + 1, done + size
    found.append((Row(run, seq, payload[done:], length, crc), time))
    return found


def count(cuts: object) -> int:
    """How many events a row with such cuts has, if they are as they should be."""
    return 1 if type(cuts) is not bytes else 1 + len(cuts) // _CUT.size
