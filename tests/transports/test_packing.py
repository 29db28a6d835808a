"""Events that share a row: what is read of it is what was written, and damage is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.journal.store import Row
from understudy.transports.journals.packing import MOST, SMALL, Packed, pack, unpack
from understudy.transports.testing.journal_kit import stream

STREAMS = st.dictionaries(st.text(max_size=4), st.lists(st.binary(max_size=40), max_size=9), max_size=4)


@given(STREAMS)
def test_what_is_packed_is_unpacked(texts: dict[str, list[bytes]]) -> None:
    streams = {run: stream(run, bodies) for run, bodies in texts.items()}
    rows = [row for turn in range(9) for rows in streams.values() for row in rows[turn : turn + 1]]
    at = [float(number) for number in range(len(rows))]
    packed = pack(rows, at)
    assert len(packed) == sum(1 for rows in streams.values() if rows)
    found = [each for row in packed for each in unpack(row)]
    for run, wanted in streams.items():
        assert [(row, time) for row, time in found if row.run == run] == [
            (row, time) for row, time in zip(rows, at, strict=True) if row.run == run
        ]
        assert [row for row, _ in found if row.run == run] == wanted


def test_an_event_that_may_hold_a_large_text_has_a_row_of_its_own() -> None:
    small, large = b"x", bytes(SMALL)
    rows = stream("a", [small, small, large, small, large, large, small, small])
    packed = pack(rows, [1.0] * len(rows))
    assert [row for each in packed for row, _ in unpack(each)] == rows
    assert [each.seq for each in packed] == [2, 3, 4, 5, 6, 8]


@pytest.mark.parametrize(("count", "size"), [(3 * MOST + 1, 1), (5, SMALL - 1), (3, SMALL), (1, 2 * SMALL)])
def test_a_row_holds_a_bounded_number_of_events_and_bytes(count: int, size: int) -> None:
    rows = stream("a", [bytes(size)] * count)
    packed = pack(rows, [1.0] * count)
    assert [row for each in packed for row, _ in unpack(each)] == rows
    for each in packed:
        events = unpack(each)
        assert len(events) <= MOST
        assert len(events) == 1 or max(len(row.payload) for row, _ in events) < SMALL


@given(st.binary())
def test_cuts_that_are_none_are_refused_or_give_what_does_not_verify(cuts: bytes) -> None:
    rows = stream("a", [b"one", b"two", b"three"])
    (packed,) = pack(rows, [1.0] * 3)
    if cuts == packed.cuts:
        return
    try:
        found = [row for row, _ in unpack(packed._replace(cuts=cuts))]
    except ValueError:
        return
    assert found != rows


def test_an_event_alone_is_kept_as_it_is() -> None:
    (row,) = stream("a", [b"one"])
    assert pack([row], [2.5]) == [Packed("a", 1, 2.5, row.length, row.crc, b"one", None)]
    assert unpack(Packed("a", 1, 2.5, 3, row.crc, b"one", None)) == [(Row("a", 1, b"one", 3, row.crc), 2.5)]
