"""Answers that say nothing, and checks: pure parts."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from understudy import tool
from understudy.actors.agents.checks import PLACEHOLDERS, Checks, empty, word
from understudy.actors.agents.outputs import OutputSpec
from understudy.actors.errors import SpecError


class Item(Struct):
    name: str
    state: Literal["todo", "done"] = "todo"


class Report(Struct):
    title: str
    items: list[Item]
    note: str | None = None


@dataclass
class Plain:
    text: str
    count: int = 0


@pytest.mark.promise(235)
@pytest.mark.parametrize(
    "text",
    ["", "  \n", "...", "…", "-", "TODO", "todo.", "[TBD]", "<answer>", "{{name}}", "[your text here]", "Lorem ipsum"],
)
def test_a_text_that_says_nothing_is_no_answer(text: str) -> None:
    assert OutputSpec(str, "agent 'a'").accept(text)[1]


@pytest.mark.promise(235)
@pytest.mark.parametrize(
    "text", ["no", "None", "0", "n/a", "👍", "±", "I have to do it: todo", "x", "a < b", "<b>bold</b> words"]
)
def test_a_short_answer_is_an_answer(text: str) -> None:
    assert OutputSpec(str, "agent 'a'").accept(text)[1] == ""


@pytest.mark.promise(235)
def test_a_structure_of_placeholders_is_no_answer_and_the_places_are_named() -> None:
    spec = OutputSpec(Report, "agent 'a'")
    output, error = spec.accept('{"title": "TODO", "items": [{"name": "", "state": "todo"}]}')
    assert output == ""
    assert error == "the answer says nothing: 'TODO' at $.title, '' at $.items[0].name"


@pytest.mark.promise(235)
@pytest.mark.parametrize(
    "answer",
    [
        '{"title": "Plan", "items": [{"name": "", "state": "todo"}]}',
        '{"title": "", "items": [{"name": "Buy milk", "state": "todo"}]}',
        '{"title": "TODO", "items": [], "note": "the list is empty"}',
    ],
)
def test_a_structure_that_says_something_somewhere_is_an_answer(answer: str) -> None:
    assert OutputSpec(Report, "agent 'a'").accept(answer)[1] == ""


def test_an_answer_without_texts_is_never_a_placeholder() -> None:
    assert OutputSpec(list[int], "agent 'a'").accept("[]")[1] == ""
    assert OutputSpec(bool, "agent 'a'").accept("false")[1] == ""
    assert OutputSpec(Literal["todo", "done"], "agent 'a'").accept('"todo"')[1] == ""
    assert empty(Plain("", 3)) == "the answer says nothing: '' at $.text"


@given(st.text(alphabet=string.ascii_letters + " .,", min_size=1))
def test_only_listed_words_and_punctuation_are_placeholders(text: str) -> None:
    bare = text.strip(" .,").casefold()
    assert bool(empty(text)) == (not bare or bare in PLACEHOLDERS)


def test_an_agent_may_name_its_own_placeholders() -> None:
    spec = OutputSpec(str, "agent 'a'", {"n/a"})
    assert spec.accept("N/A")[1]
    assert not spec.accept("TODO")[1]


class FakePydantic:
    """What pydantic offers, without it: the duck."""

    def __init__(self, n: int, name: str = "x") -> None:
        self.n, self.name = n, name

    model_fields: dict[str, Any] = {"n": None, "name": None}  # as pydantic has it

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        return {"type": "object", "properties": {"n": {"type": "integer"}, "name": {"type": "string"}}}

    @classmethod
    def model_validate_json(cls, data: bytes) -> FakePydantic:
        import json

        value = json.loads(data)
        if not isinstance(value.get("n"), int):
            raise ValueError("n: an integer is wanted")  # as pydantic raises
        return cls(**value)

    def model_dump_json(self) -> str:
        return f'{{"n":{self.n},"name":"{self.name}"}}'


def test_a_model_of_pydantic_is_known_by_what_it_can_do() -> None:
    spec = OutputSpec(FakePydantic, "agent 'a'")
    assert spec.schema is not None
    assert spec.schema["required"] == ["n", "name"]
    assert spec.schema["additionalProperties"] is False
    output, error = spec.accept('{"n": 3, "name": "lamp"}')
    assert (output, error) == ('{"n":3,"name":"lamp"}', "")
    assert spec.decode(output).n == 3
    assert spec.accept('{"n": "3"}') == ("", "n: an integer is wanted")
    assert "at $.name" in spec.accept('{"n": 3, "name": "TODO"}')[1]


def short(value: str) -> str | None:
    return "too long" if len(value) > 5 else None


async def cited(value: str) -> str | None:
    return None


@tool(effect="read", timeout=3, retries=2)
async def known(value: str) -> str | None:
    """Look it up."""
    return None


@tool(effect="idempotent")
async def writes(value: str) -> str | None:
    """Write."""
    return None


@tool(effect="read")
async def two(value: str, other: int) -> None:
    """Take two."""


def test_checks_are_told_apart_by_what_they_need() -> None:
    checks = Checks([short, cited, known], "agent 'a'")
    assert list(checks.pure) == ["short"]
    assert [(look.name, look.seconds, look.retries) for look in checks.looks.values()] == [
        ("cited", 30.0, 0),
        ("known", 3, 2),
    ]
    assert checks.objection("abc") == ""
    assert checks.objection("abcdef") == "too long"


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ([short, short], "two checks are named 'short'"),
        ([3], "check 3 is not a function"),
        ([writes], "a check only reads, and this tool is 'idempotent'"),
        ([two], "a check is an `async def` of one parameter"),
    ],
)
def test_what_is_no_check_is_refused_by_name(given_: list[Any], words: str) -> None:
    with pytest.raises(SpecError, match=f"agent 'a'.*{words}"):
        Checks(given_, "agent 'a'")


def test_a_check_that_answers_neither_words_nor_none_is_named() -> None:
    with pytest.raises(TypeError, match="check 'c' answered True"):
        word("c", True)
