"""The table of states: what is refused when it is made, and what an actor gets from it."""

from __future__ import annotations

import math
from enum import Enum, StrEnum
from typing import Any

import pytest

from understudy import State, StateMachine, Timeout, tool
from understudy.actors.errors import ProtocolError, UsageError


class S(StrEnum):
    A = "a"
    B = "b"
    C = "c"


class E(StrEnum):
    GO = "go"
    BACK = "back"


class Foreign(Enum):
    A = "a"


@tool(effect="read")
def look() -> str:
    return ""


Row: Any = State
"""A row whose parts the checkers would refuse."""


def make(**rows: Any) -> StateMachine[Any, Any]:
    return StateMachine(S.A, {S[name]: row for name, row in rows.items()})


@pytest.mark.promise(68)
@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"A": State(on={E.GO: S.B})}, r"<S.A: 'a'>: leads to <S.B: 'b'>, which has no row"),
        ({"A": State(timeout=(1, S.B))}, r"<S.A: 'a'>: leads to <S.B: 'b'>, which has no row"),
        ({"B": State()}, r"the initial state <S.A: 'a'> has no row"),
        ({"A": State(), "B": State()}, r"nothing leads to <S.B: 'b'> from <S.A: 'a'>"),
        ({"A": State(on={E.GO: S.A}), "B": State(on={E.GO: S.C}), "C": State()}, r"nothing leads to <S.B.*<S.C"),
        ({"A": State(on={E.GO: S.B}), "B": State(tools=[look])}, r"<S.B: 'b'>: offers look but has no way out"),
        ({"A": State(on={E.GO: Foreign.A})}, r"leads to <Foreign.A: 'a'>, which has no row"),
        ({"A": State(on={E.GO: S.B, Foreign.A: S.B}), "B": State()}, r"event <Foreign.A: 'a'> is not of one enum"),
        ({"A": Row(on={"go": S.A})}, r"event 'go' is not of one enum"),
        ({"A": {E.GO: S.A}}, r"its row is \{.*\}, not a State"),
        ({"A": State(timeout=(0, S.B)), "B": State()}, r"timeout \(0, <S.B"),
        ({"A": State(timeout=(-1, S.B)), "B": State()}, r"timeout \(-1, <S.B"),
        ({"A": State(timeout=(math.inf, S.B)), "B": State()}, r"timeout \(inf, <S.B"),
        ({"A": State(timeout=(math.nan, S.B)), "B": State()}, r"timeout \(nan, <S.B"),
        ({"A": Row(timeout=("1", S.B)), "B": State()}, r"timeout \('1', <S.B"),
        ({"A": Row(timeout=5), "B": State()}, r"timeout 5"),
        ({"A": State(timeout=(5, S.A))}, r"its timeout leads to itself"),
    ],
)
def test_a_table_with_a_hole_is_refused_when_it_is_made(rows: dict[str, Any], told: str) -> None:
    with pytest.raises(ProtocolError, match=told):
        make(**rows)


@pytest.mark.promise(68)
def test_a_foreign_state_as_a_row_or_as_the_beginning_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"<Foreign.A: 'a'>: not a S, as the initial state is"):
        StateMachine(S.B, {S.B: State(), Foreign.A: State()})
    with pytest.raises(ProtocolError, match=r"'a' is no member of an enum"):
        StateMachine("a", {"a": State()})  # type: ignore[type-var]


def test_a_circle_without_an_end_is_a_machine_too() -> None:
    machine = make(A=State(on={E.GO: S.B}), B=State(on={E.BACK: S.A}))
    assert machine.dead_ends() == (S.A, S.B)


def test_states_from_which_no_end_is_reached_are_told() -> None:
    machine = make(A=State(on={E.GO: S.B, E.BACK: S.C}), B=State(on={E.GO: S.B}), C=State())
    assert machine.dead_ends() == (S.B,)


def test_a_table_says_what_follows_an_event() -> None:
    machine = make(A=State(on={E.GO: S.B, E.BACK: S.A}), B=State(timeout=(5, S.C)), C=State())
    assert machine.react(S.A, E.BACK) is not None
    there = machine.react(S.A, E.GO)
    assert there is not None
    assert (there.kind, there.state) == ("goto", S.B)
    assert there == machine.entering(S.B)
    assert machine.react(S.B, Timeout("state")) == machine.entering(S.C)
    assert machine.react(S.B, E.GO) is None
    assert machine.react(S.A, Timeout("state")) is None
    assert machine.react(S.B, Timeout("own")) is None
    with pytest.raises(UsageError, match="no state 'nowhere'"):
        machine.row("nowhere")
