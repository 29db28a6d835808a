"""The Mermaid diagram of a state machine, with the way of a run."""

from __future__ import annotations

import re
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refunds import S as Refund
from refunds import make_machine

from understudy import State, StateMachine
from understudy.actors.agents.diagram import Taken, mermaid, path_of
from understudy.actors.agents.machine import Row, Table, table_of
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record

ARROW = re.compile(r"    (\S+) --> (\S+?)(?:: (.*))?")


def table() -> Table:
    return table_of(make_machine(check=120.0, to=Refund.DECLINED), "refunds")


@pytest.mark.promise(242)
def test_the_whole_table_is_drawn_with_ends_and_timeouts() -> None:
    drawn = mermaid(table()).splitlines()
    assert drawn[0] == "stateDiagram-v2"
    assert "    [*] --> check" in drawn
    assert "    check --> pay: owed" in drawn
    assert "    check --> declined: after 120 s" in drawn
    assert "    paid --> [*]" in drawn
    assert "    declined --> [*]" in drawn
    assert not any("class" in line for line in drawn)


@pytest.mark.promise(242)
def test_the_way_of_a_run_is_numbered_and_its_states_are_filled() -> None:
    path = [Taken("", "check", ""), Taken("check", "check", "again"), Taken("check", "pay", "owed")]
    drawn = mermaid(table(), path).splitlines()
    assert "    check --> check: 1 · again" in drawn
    assert "    check --> pay: 2 · owed" in drawn
    assert "    check --> declined: not_owed" in drawn
    assert "    class check,pay visited" in drawn
    assert "    class pay last" in drawn


def test_without_a_table_the_way_alone_is_drawn() -> None:
    drawn = mermaid(None, [Taken("", "a b", ""), Taken("a b", "end", ""), Taken("end", "a b", "back")]).splitlines()
    assert drawn[1:6] == [
        '    state "a b" as s0',
        '    state "end" as s1',
        "    [*] --> s0",
        "    s0 --> s1: 1 · timeout",
        "    s1 --> s0: 2 · back",
    ]
    assert mermaid(None) == "stateDiagram-v2"


def test_the_way_is_read_from_the_moves_of_one_sub_run() -> None:
    moves = [ev.Moved("", "check", "start"), ev.Moved("check", "pay", "model", "owed"), ev.Moved("", "x", "start")]
    records = [Record("r", n, 0.0, 0.0, int(n == 3), "p", 1, 0, move) for n, move in enumerate(moves, 1)]
    assert path_of(records) == [Taken("", "check", ""), Taken("check", "pay", "owed")]
    assert path_of(records, sub=1) == [Taken("", "x", "")]


def test_a_state_that_the_code_has_no_more_is_still_drawn() -> None:
    drawn = mermaid(table(), [Taken("", "check", ""), Taken("check", "gone", "lost")]).splitlines()
    assert "    check --> gone: 1 · lost" in drawn


states = st.text(min_size=1, max_size=8)


@pytest.mark.promise(242)
@given(
    st.dictionaries(states, st.dictionaries(states, st.integers(0, 9), max_size=3), min_size=1, max_size=5), st.data()
)
def test_whatever_states_are_named_every_line_is_one_statement(
    table: dict[str, dict[str, int]], data: st.DataObject
) -> None:
    names = list(table)
    rows = {
        name: Row(name, {event: names[to % len(names)] for event, to in ways.items()}, (), None, "")
        for name, ways in table.items()
    }
    ways = [(source, to, event) for source, row in rows.items() for event, to in row.events.items()]
    taken = data.draw(st.lists(st.sampled_from(ways), max_size=4)) if ways else []
    path = [Taken("", names[0], ""), *(Taken(*way) for way in taken)]
    drawn = mermaid(Table(names[0], rows), path).splitlines()
    for line in drawn[1:]:
        assert ARROW.fullmatch(line) or re.fullmatch(r'    (state "[^"]*" as s\d+|class(Def)? .*)', line), line
    numbers = [int(n) for line in drawn if (m := re.search(r": ([\d, ]+) · ", line)) for n in m.group(1).split(", ")]
    assert sorted(numbers) == list(range(1, len(taken) + 1))


class Odd(StrEnum):
    NEW = "new"
    DONE = "all done"


class Go(StrEnum):
    ON = "on: now"


def test_words_that_mermaid_would_misread_are_quoted() -> None:
    machine = StateMachine(Odd.NEW, {Odd.NEW: State(on={Go.ON: Odd.DONE}), Odd.DONE: State()})
    drawn = mermaid(table_of(machine, "odd")).splitlines()
    assert '    state "all done" as s1' in drawn
    assert "    new --> s1: on∶ now" in drawn
