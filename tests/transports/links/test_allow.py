"""Which messages and which actors a peer may reach."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import SpecError
from understudy.actors.messages import Message
from understudy.transports.links.allow import Allow, AllowList


class Ask(Message[int]):
    pass


class Order(Message, tag="shop.Order"):
    pass


NAMES = st.text("ab@$*/", max_size=6)


def test_without_a_list_a_peer_reaches_all_but_what_is_not_for_peers() -> None:
    everything = AllowList()
    assert everything.allows("a", "desk/writer/2", "Ask")
    for target in ("@node", "$7", "desk/$7", "desk/@inner/x"):
        assert not everything.allows("a", target, "Ask")
        assert not everything.reaches("a", target)
    for tag in ("@stop", "$"):
        assert not everything.allows("a", "desk", tag)


@pytest.mark.promise(317)
def test_a_peer_reaches_what_its_rule_says_and_nothing_else() -> None:
    rules = AllowList({"shop": Allow(messages=(Ask, Order), targets=("desk", "desk/writer*"))})
    assert rules.allows("shop", "desk", "Ask")
    assert rules.allows("shop", "desk", "shop.Order")
    assert rules.allows("shop", "desk/writer2", "Ask")
    assert not rules.allows("shop", "desk", "Order")
    assert not rules.allows("shop", "desk", "Stop")
    assert not rules.allows("shop", "desk/reader", "Ask")
    assert not rules.allows("shop", "till", "Ask")
    assert not rules.reaches("shop", "till")


@pytest.mark.promise(317)
def test_the_rule_of_a_name_comes_before_that_of_all_and_who_has_none_reaches_nothing() -> None:
    rules = AllowList({"shop": Allow(targets=("desk",)), "*": Allow(targets=("lobby",))})
    assert rules.reaches("shop", "desk")
    assert not rules.reaches("shop", "lobby")
    assert rules.reaches("anybody", "lobby")
    assert not rules.reaches("anybody", "desk")
    assert not AllowList({"shop": Allow()}).reaches("anybody", "desk")
    assert not AllowList({}).reaches("anybody", "desk")


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("desk", "desk", True),
        ("desk", "desk/writer", False),
        ("desk", "office/desk", False),
        ("desk", "desk\n", False),
        ("desk/*", "desk/writer", True),
        ("desk/*", "desk", False),
        ("desk/*", "desk/", False),
        ("desk/*", "desk/writer/2", False),
        ("desk/*/2", "desk/writer/2", True),
        ("desk/*", "desk/$7", False),
        ("desk/*", "desk/@inner", False),
        ("desk/$*", "desk/$7", True),
        ("@node", "@node", True),
        ("*", "desk", True),
        ("*", "@node", False),
        ("*/*", "desk/writer", True),
        ("wri*", "wri", True),
        ("wri*", "writer", True),
        ("wri*", "write\nr", True),
        ("wri*", "wri/ter", False),
        ("a.c", "abc", False),
    ],
)
def test_a_pattern_matches_whole_paths_segment_by_segment(pattern: str, path: str, matches: bool) -> None:
    rules = AllowList({"*": Allow(targets=(pattern,))})
    assert rules.reaches("a", path) is matches
    assert rules.allows("a", path, "Ask") is matches


@given(st.lists(NAMES, max_size=3), NAMES)
def test_no_pattern_reaches_a_name_with_a_mark_that_it_does_not_write(patterns: list[str], path: str) -> None:
    try:
        rules = AllowList({"*": Allow(targets=tuple(patterns))})
    except SpecError:
        return
    if rules.reaches("a", path):
        (found, *_) = [each for each in patterns if AllowList({"*": Allow(targets=(each,))}).reaches("a", path)]
        assert found.count("/") == path.count("/")
        for written, part in zip(found.split("/"), path.split("/"), strict=True):
            assert written == part or (written.endswith("*") and part.startswith(written[:-1]))
            assert part[0] not in "@$" or written[0] == part[0]


def test_a_rule_that_could_not_be_meant_is_refused_by_value() -> None:
    wrongs: list[tuple[Callable[[], object], str]] = [
        (lambda: Allow(targets=("desk/",)), "target 'desk/'"),
        (lambda: Allow(targets=("/desk",)), "target '/desk'"),
        (lambda: Allow(targets=("",)), "target ''"),
        (lambda: Allow(targets=("d*k",)), r"target 'd\*k'"),
        (lambda: Allow(targets=("desk/**",)), r"target 'desk/\*\*'"),
        (lambda: Allow(targets="desk"), "targets='desk'; a tuple"),  # type: ignore[arg-type]  # a frequent slip
        (lambda: Allow(messages=[Ask]), "messages=.*; a tuple"),  # type: ignore[arg-type]  # a frequent slip
        (lambda: Allow(messages=(int,)), "<class 'int'> is neither"),  # type: ignore[arg-type]  # a frequent slip
        (lambda: Allow(messages=("",)), "'' is neither"),
        (lambda: AllowList({"a b": Allow()}), "'a b' is no name of a node"),
        (lambda: AllowList({"a": ("desk",)}), "is no Allow"),  # type: ignore[dict-item]  # a frequent slip
    ]
    for wrong, text in wrongs:
        with pytest.raises(SpecError, match=text):
            wrong()
