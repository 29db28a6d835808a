"""Names, amounts and calls as people read them."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.supervisors.operator.text import (
    call_text,
    clean,
    count,
    dollars,
    duration,
    fit,
    many,
    name_of,
    pause,
    say,
    shorten,
    table,
)


@given(st.text())
def test_nothing_unprintable_gets_through(text: str) -> None:
    assert clean(text).isprintable()


def test_an_escape_sequence_is_shown_instead_of_obeyed() -> None:
    assert clean("\x1b[2Jgone\nnext") == r"\x1b[2Jgone\nnext"


@given(st.text(), st.integers(1, 40))
def test_a_limit_is_kept(text: str, limit: int) -> None:
    assert len(clean(text, limit)) <= limit


@pytest.mark.parametrize(
    ("path", "name"),
    [("audit/inspector/2", "inspector-2"), ("audit/reviewer", "reviewer"), ("solo", "solo"), ("2", "2"), ("", "")],
)
def test_a_member_of_a_pool_is_named_by_its_number(path: str, name: str) -> None:
    assert name_of(path) == name


@given(st.lists(st.text("0123456789abcdef", min_size=8, max_size=8), min_size=1, unique=True))
def test_a_short_id_names_one_run_and_has_four_digits_at_least(runs: list[str]) -> None:
    for run in runs:
        short = shorten(run, runs)
        assert len(short) >= 4
        assert [other for other in runs if other.startswith(short)] == [run]


def test_amounts_are_short() -> None:
    assert [count(n) for n in (0, 640, 1_900, 5_000, 38_400, 1_200_000)] == ["0", "640", "1.9k", "5k", "38k", "1.2M"]
    assert [duration(s) for s in (0.002, 0.5, 9.4, 187, 11_107)] == ["2 ms", "500 ms", "9.4 s", "3:07", "3:05:07"]
    assert [dollars(n) for n in (0, 250, 2_500_000)] == ["0.00", "0.00025", "2.50"]
    assert [many(1, "step"), many(3, "step"), pause(0.5)] == ["1 step", "3 steps", "0.5 s"]


def test_a_call_is_shown_as_a_person_would_write_it() -> None:
    assert call_text("read", '{"name": "attrs "}') == 'read("attrs ")'
    assert call_text("write", '{"path": "a.md", "n": 2}') == 'write(path="a.md", n=2)'
    assert call_text("write", "{broken") == "write({broken)"
    assert len(call_text("f", f'{{"x": "{"y" * 500}"}}', 20)) <= 23


def test_a_stream_that_cannot_say_a_sign_gets_a_question_mark() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say(stream, "→ done")
    stream.seek(0)
    assert stream.read() == "? done\n"
    assert fit("\ud800", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "?"


def test_columns_line_up() -> None:
    assert table([("A", "N"), ("bb", "10")], right=frozenset({1})) == ["A    N", "bb  10"]
    assert table([]) == []
