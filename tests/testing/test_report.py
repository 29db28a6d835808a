"""The page of a failure."""

from __future__ import annotations

import planted
import pytest

from understudy.actors.testing import options
from understudy.actors.testing.faults import Crash, Duplicate
from understudy.actors.testing.report import COLUMNS, SHOWN, WIDTH, Falsified, page, timeline
from understudy.actors.testing.schedule import Demote
from understudy.actors.testing.trace import Event, Trace
from understudy.actors.testing.world import World

TWICE = World(faults=(Duplicate("client", 1), Crash("nobody", 1)), schedule=(Demote("bank", 1),), seed=2)


def broken(trace: Trace) -> list[str]:
    return ["invariant #7 'paid once': paid twice", "another"]


@pytest.mark.promise(182)
def test_a_page_tells_what_is_broken_the_world_the_timeline_and_how_to_see_it_again() -> None:
    with pytest.raises(Falsified) as caught:
        TWICE.run(planted.buy_a_lamp, check=[broken])
    lines = caught.value.page.splitlines()
    assert lines[:2] == ["Falsified invariant #7 'paid once': paid twice", "Falsified another"]
    assert lines[2].startswith("  at t=10 s, trace ")
    assert lines[3] == "  world: 1 of 1 deviation and 1 of 2 faults drawn came true"
    assert [line.strip() for line in lines[4:8]] == [
        "Demote(actor='bank', at=1)",
        "Duplicate(actor='client', at=1)",
        "Crash(actor='nobody', at=1)",
        "jitter of seed 2",
    ]
    assert lines[8].startswith("  timeline: last 24 of ")
    assert lines[9].split()[:1] == ["seconds"]
    assert lines[-2] == f"  pin it:   @example({TWICE!r})"
    assert lines[-1] == f"  replay:   pytest --sim-replay={TWICE.token}"
    assert eval(repr(TWICE)) == TWICE  # the line to pin is code


def test_what_an_exception_shows_is_one_line_and_the_page_is_a_note_where_no_plugin_shows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for sections, lines in ((True, 1), (False, 20)):
        monkeypatch.setattr(options, "sections", sections)
        with pytest.raises(Falsified) as caught:
            TWICE.run(planted.buy_a_lamp, check=[broken])
        assert str(caught.value) == "invariant #7 'paid once': paid twice (and 1 more)"
        [note] = caught.value.__notes__
        assert TWICE.token in note
        assert (len(note.splitlines()) > 1) is (lines > 1)


def test_what_main_raises_has_the_world_as_a_note() -> None:
    async def main() -> None:
        raise LookupError("a line\nand another")

    with pytest.raises(LookupError) as caught:
        World(seed=1).run(main)
    assert World(seed=1).token in caught.value.__notes__[0]


def test_a_timeline_has_a_column_for_each_of_the_last_actors_and_fits_the_width() -> None:
    trace = World(faults=(Crash("desk/worker", 1),)).run(planted.close_a_desk, check=())
    head, *rows = timeline(trace)[1:]
    columns = head.split()[1:]
    assert 3 <= len(columns) <= COLUMNS
    assert len(rows) == SHOWN
    assert max(map(len, [head, *rows])) <= WIDTH
    starts = {head.index(column) for column in columns}
    for row in rows:
        assert len(row[:13].split()) == 1
        text = row[13:].lstrip()
        assert len(row) - len(text) in starts


def test_a_long_cell_is_cut_a_fault_is_not_and_a_path_keeps_its_end() -> None:
    trace = Trace()
    for path in ("a", "b", "c", "d", "e", f"{'x' * 30}/last"):
        trace.add(Event(1, "begin", path, 1, 1, what="W" * 90))
    fault = Crash("last", 1, after=True)
    trace.add(Event(2, "fault", f"{'x' * 30}/last", 1, what="Crash", detail=repr(fault)))
    title, head, *rows = timeline(trace)
    assert title == "  timeline: last 7 of 7 events, 6 of 6 actors"
    assert head.endswith("x/last")
    assert rows[5].endswith("..")
    assert rows[6].endswith(repr(fault))
    assert max(map(len, rows)) <= WIDTH


def test_the_shutdown_at_the_end_is_counted_and_not_shown() -> None:
    trace = World().run(planted.buy_a_lamp)
    title = timeline(trace)[0]
    assert "of an orderly shutdown" in title
    assert not any("released" in row for row in timeline(trace))


def test_the_page_of_a_run_in_which_nothing_happened_and_of_nothing_planned() -> None:
    text = page(World(), Trace())
    assert "no deviation from first come, first served, and no fault" in text
    assert "timeline: nothing happened" in text
