"""Values of a schema decode with the type it came from; a broken one is refused, and says where."""

from __future__ import annotations

import datetime
import decimal
import enum
import json
import uuid
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from understudy.actors.agents.schema import schema_of, strict
from understudy.actors.agents.tools import tool
from understudy.actors.errors import UsageError
from understudy.actors.testing.values import Choices, broken, fits, value


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 5


class Cat(Struct, tag=True, forbid_unknown_fields=True):
    lives: Annotated[int, Meta(ge=0, lt=10)]


class Dog(Struct, tag=True, forbid_unknown_fields=True):
    name: str
    friends: list[Cat | Dog]


class Node(Struct, forbid_unknown_fields=True):
    item: str
    below: Node | None


class Pair(NamedTuple):
    left: int
    right: str


class Row(Struct, array_like=True, forbid_unknown_fields=True):
    a: int
    b: bool


class Note(Struct, forbid_unknown_fields=True):
    text: str


class Order(Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(pattern=r"^[A-Z]{2}-\d{3,5}$")]
    cents: Annotated[int, Meta(gt=0, le=100_000, multiple_of=5)]
    weight: Annotated[float, Meta(ge=0.5, lt=30)]
    tags: Annotated[list[Colour], Meta(min_length=1, max_length=3)]
    notes: Annotated[dict[Annotated[str, Meta(min_length=2)], Note], Meta(max_length=2)]
    pet: Cat | Dog | None
    when: datetime.date
    default: Literal["yes", "no"]
    enum: int
    properties: bool


FORMS: list[Any] = [
    None,
    bool,
    int,
    float,
    str,
    bytes,
    datetime.date,
    datetime.timedelta,
    Annotated[datetime.datetime, Meta(tz=True)],
    uuid.UUID,
    decimal.Decimal,
    list[int],
    Annotated[set[Literal["a", "b", "c"]], Meta(min_length=3)],
    tuple[int, str],
    tuple[Colour, ...],
    dict[str, int],
    Annotated[dict[str, int], Meta(min_length=2)],
    Literal["a", 1, None],
    Literal[7],
    Colour,
    Level,
    int | str | None,
    list[int] | str,
    Cat | Dog,
    Node,
    Pair,
    Row,
    Note,
    Order,
    list[Order],
    Annotated[int, Meta(lt=-3)],
    Annotated[int, Meta(gt=2**40)],
    Annotated[float, Meta(gt=0, lt=1e-3)],
    Annotated[str, Meta(min_length=3, max_length=4)],
    Annotated[str, Meta(pattern=r"^(?:GET|PUT) /[^ ?]+\?x=.$")],
    Annotated[str, Meta(pattern=r"^(?=q)q(.)\1$", examples=["qaa"])],
]
INTS = st.lists(st.integers(0, 1_000), max_size=40)
BY_FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: getattr(form, "__name__", str(form))[:30])


def made(form: Any, ints: list[int]) -> Any:
    return value(strict(schema_of(form)), Choices(ints))


@pytest.mark.promise(152)
@BY_FORM
@settings(max_examples=30)
@given(ints=INTS)
def test_every_value_decodes_with_the_type_its_schema_came_from(form: Any, ints: list[int]) -> None:
    drawn = made(form, ints)
    assert fits(strict(schema_of(form)), drawn)
    msgspec.json.decode(json.dumps(drawn), type=form)


@pytest.mark.promise(152)
@BY_FORM
@settings(max_examples=30)
@given(ints=INTS, where=st.integers(0, 1_000))
def test_every_broken_value_is_refused_and_says_where(form: Any, ints: list[int], where: int) -> None:
    schema = strict(schema_of(form))
    before = made(form, ints)
    kept = json.dumps(before)
    bad, what = broken(schema, before, Choices([where]))
    assert json.dumps(before) == kept
    assert what.startswith("$")
    assert not fits(schema, bad)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(bad), type=form)


def test_each_kind_of_constraint_gets_broken() -> None:
    schema = strict(schema_of(Order))
    whole = value(schema, Choices())
    said = [broken(schema, whole, Choices([n]))[1] for n in range(120)]
    assert "$.cents: 100005 is more than the maximum 100000" in said
    assert "$.cents: 0 is not more than the exclusiveMinimum 0" in said
    assert "$.cents: '7' is not of type integer" in said
    assert "$.tags: fewer than 1 items" in said
    assert "$.pet: the required property is missing" in said
    assert "$.extra: a property that is not allowed" in said
    assert any(text.startswith("$.default: 'yesx' is not one of") or "'nox'" in text for text in said)
    assert any("does not match" in text for text in said)


def test_only_one_place_of_a_broken_value_differs() -> None:
    schema = strict(schema_of(Order))
    whole = value(schema, Choices())
    assert isinstance(whole, dict)
    for n in range(120):
        bad, _ = broken(schema, whole, Choices([n]))
        if isinstance(bad, dict):
            names = whole.keys() | bad.keys()
            assert sum(bad.get(name, ...) != whole.get(name, ...) for name in names) == 1


def test_without_choices_a_value_is_the_simplest_and_ends() -> None:
    assert made(Node, []) == {"item": "a", "below": None}
    assert made(Cat | Dog, []) == {"type": "Cat", "lives": 0}
    assert value(strict(schema_of(Node)), Choices([1] * 500)) is not None


def test_alternatives_of_the_root_take_turns() -> None:
    schema = strict(schema_of(Cat | Dog))
    kinds = [value(schema, Choices(), turn=turn) for turn in range(3)]
    assert [kind["type"] for kind in kinds if isinstance(kind, dict)] == ["Cat", "Dog", "Cat"]


def test_words_of_a_conversation_can_be_chosen() -> None:
    assert value({"type": "string"}, Choices([1]), words=["1042"]) == "1042"
    assert {value({"type": "integer"}, Choices([n]), words=["1042"]) for n in range(40)} >= {1042, 0, -1}


def test_what_cannot_be_drawn_or_broken_is_said() -> None:
    with pytest.raises(UsageError, match=r"\$\.a: no text that fits .* Meta\(examples="):
        value(
            strict(schema_of(msgspec.defstruct("S", [("a", Annotated[str, Meta(pattern=r"^(?=b)a$")])]))),
            Choices(),
        )
    with pytest.raises(UsageError, match="nothing can be broken"):
        broken({}, 1, Choices())
    with pytest.raises(UsageError, match="does not fit"):
        broken({"type": "string"}, 1, Choices())
    with pytest.raises(UsageError, match="at least one way"):
        Choices().next(0)


def test_a_parameter_may_be_named_like_a_keyword_of_schemas() -> None:
    @tool(effect="read")
    def settings(default: str, enum: int, properties: bool) -> str:
        return default

    parameters = settings.schema.parameters
    assert parameters["required"] == ["default", "enum", "properties"]
    drawn = value(parameters, Choices())
    assert settings.bind(json.dumps(drawn))[0] == {"default": "a", "enum": 0, "properties": False}
