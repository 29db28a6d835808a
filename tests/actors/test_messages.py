"""Message classes: what is checked when they are declared, and how they travel."""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec import Struct

from understudy.actors.errors import ProtocolError, UsageError
from understudy.actors.messages import (
    Down,
    Message,
    check_message,
    check_tags,
    members,
    reply_type,
    round_trip,
    tag_of,
)


class Point(Struct, frozen=True):
    x: int


class Loose(Struct):
    x: int


class Leaf(Struct, frozen=True):
    below: "tuple[Leaf, ...]" = ()


class Fine(Message[int]):
    n: int
    names: tuple[str, ...] = ()
    where: Mapping[str, Point] | None = None
    tree: Leaf = Leaf()


class Bare(Message):
    pass


class WithList(Message[None]):
    rows: tuple[list[int], ...]


class WithDict(Message[None]):
    rows: dict[str, int] | None


class WithLoose(Message[None]):
    point: tuple[Loose, ...]


class Allowed(Message[None]):
    rows: list[int]

    mutable: ClassVar[bool] = True


class Thawed(Message[None], frozen=False):
    n: int


def test_messages_are_frozen_without_saying_so() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Fine(1).n = 2


def test_the_reply_type_is_what_the_bracket_says_or_none() -> None:
    assert reply_type(Fine) is int
    assert reply_type(Bare) is None
    assert reply_type(WithList) is type(None)

    class Special(Fine):
        pass

    assert reply_type(Special) is int


def test_a_deeply_immutable_message_passes() -> None:
    check_message(Fine, "here")
    check_message(Allowed, "here")
    check_message(Down, "here")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WithList, "here: field WithList.rows holds a list"),
        (WithDict, "here: field WithDict.rows holds a dict"),
        (WithLoose, "here: field WithLoose.point holds a non-frozen struct Loose"),
        (Thawed, "here: message Thawed is not frozen"),
    ],
)
def test_a_mutable_message_is_refused_naming_the_field(kind: type[Message[Any]], text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        check_message(kind, "here")


def test_two_classes_with_one_tag_are_refused_naming_both() -> None:
    def other() -> type[Message[Any]]:
        class Fine(Message[None]):
            pass

        return Fine

    class Cured(Message[None], tag="orders.Fine"):
        pass

    check_tags([Fine, Fine, Cured], "here")
    assert tag_of(Cured) == "orders.Fine"
    with pytest.raises(ProtocolError, match=r"here: .*\.Fine and .*other.*\.Fine share the tag 'Fine'"):
        check_tags([Fine, other()], "here")


def test_a_message_travels_and_comes_back_equal() -> None:
    message = Fine(1, ("a",), {"here": Point(2)}, Leaf((Leaf(),)))
    copy = round_trip(message)
    assert copy == message
    assert copy is not message
    assert msgspec.json.decode(msgspec.json.encode(message))["$"] == "Fine"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Fine("x"), r"Fine: Expected `int`, got `str` - at `\$.n`"),  # type: ignore[arg-type]
        (Fine(1, ("\ud800",)), "Fine: "),
        (Fine(1, (object(),)), "Fine: "),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_travel_is_refused_at_the_sender_naming_the_class(message: Message[Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        round_trip(message)


def test_a_bracket_is_taken_apart_in_order() -> None:
    assert members(Fine | Bare) == (Fine, Bare)
    assert members(Fine) == (Fine,)
    assert members(Any) == ()
