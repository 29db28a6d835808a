"""A wrapped tool is the user's own, counted and recorded, and goes wrong where a world says so."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal

import msgspec
import pytest
from desks import Answer
from msgspec import Struct

from understudy import Agent, Call, System, tool
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing import tool_faults as tf
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.actors.testing.simloop import SimClock, run
from understudy.actors.testing.tool_faults import Effect, Seen, ToolBroke, ToolFault, wrap_tool

ALL: list[ToolFault] = [
    tf.ToolRaises("t", 1),
    tf.ToolHangs("t", 1),
    tf.ToolWrongType("t", 1),
    tf.ToolLies("t", 1),
    tf.ToolReplyLost("t", 1),
    tf.ToolSlow("t", 1, seconds=5),
]


class Parcel(Struct):
    id: str
    grams: int


class Shop:
    """Tools that note what they did."""

    def __init__(self) -> None:
        self.done: list[object] = []

    def tool(self, effect: Any = "read", **options: Any) -> Tool[..., Any]:
        @tool(effect=effect, name="t", **options)
        async def t(call: Call, what: str = "x") -> Parcel:
            """Send a parcel."""
            self.done.append((what, call.key))
            return Parcel(what, 500)

        return t


def ran(wrapped: Tool[..., Any], *, count: int = 1, **options: Any) -> list[ev.Event]:
    """A run whose model calls the tool, `count` times one after the other."""
    model = ScriptedModel([*(call("t", what=str(n)) for n in range(count)), Answer("done")])
    agent = Agent("clerk", model=model, tools=[wrapped], output=Answer, **options)

    async def main() -> list[ev.Event]:
        async with System(agent, journal=MemoryStore(), clock=SimClock()) as system:
            result = await system.run(agent, "go")
            return [record.event for record in await system.journal.read(result.run)]

    return run(main)


def outcomes(events: list[ev.Event]) -> list[Any]:
    return [
        msgspec.json.decode(event.result) if isinstance(event, ev.ToolAnswered) else event.kind
        for event in events
        if isinstance(event, ev.ToolAnswered | ev.ToolFailed)
    ]


def wrapped(shop: Shop, *plan: ToolFault, **options: Any) -> tuple[Tool[..., Any], Seen]:
    seen = Seen()
    return wrap_tool(shop.tool(**options), plan, seen), seen


@pytest.mark.promise(156)
def test_without_faults_a_wrapped_tool_does_what_it_did_and_is_recorded() -> None:
    shop = Shop()
    made, seen = wrapped(shop, effect="keyed")
    assert outcomes(ran(made, count=2)) == [{"id": "0", "grams": 500}, {"id": "1", "grams": 500}]
    assert [(each.call, each.arguments, each.outcome, each.counts) for each in seen.effects] == [
        (1, {"what": "0"}, "returned", True),
        (2, {"what": "1"}, "returned", True),
    ]
    assert [(each.arguments["what"], each.key) for each in seen.effects] == shop.done
    assert len({each.key for each in seen.effects}) == 2
    assert (seen.calls["t"], seen.fired) == (2, [])


@pytest.mark.promise(156)
@pytest.mark.parametrize(
    ("fault", "outcome", "happened"),
    [
        (tf.ToolRaises("t", 2), "ToolBroke", False),
        (tf.ToolHangs("t", 2), "timeout", False),
        (tf.ToolWrongType("t", 2), ["1", 500], True),
        (tf.ToolLies("t", 2), {"id": "1x", "grams": 500}, True),
        (tf.ToolReplyLost("t", 2), "lost", True),
        (tf.ToolSlow("t", 2, seconds=5), {"id": "1", "grams": 500}, True),
        (tf.ToolSlow("t", 2, seconds=31), "timeout", True),
    ],
    ids=repr,
)
def test_a_fault_hits_exactly_its_call(fault: ToolFault, outcome: object, happened: bool) -> None:
    shop = Shop()
    made, seen = wrapped(shop, fault, tf.ToolRaises("other", 1))
    good = [{"id": str(n), "grams": 500} for n in range(3)]
    assert outcomes(ran(made, count=3)) == [good[0], outcome, good[2]]
    assert len(shop.done) == len(seen.of("t")) == 2 + happened
    assert seen.fired == [fault]
    assert [each.faults for each in seen.effects] == [(), (fault,), ()]


@pytest.mark.promise(21, 156)
@pytest.mark.parametrize("effect", ["irreversible", "verifiable"])
@pytest.mark.parametrize(
    "fault", [tf.ToolReplyLost("t", 1), tf.ToolHangs("t", 1), tf.ToolSlow("t", 1, seconds=99)], ids=repr
)
def test_an_irreversible_call_whose_reply_is_lost_is_in_doubt(fault: ToolFault, effect: str) -> None:
    shop = Shop()
    made, seen = wrapped(shop, fault, effect=effect)
    events = ran(made)
    assert [event.effect for event in events if isinstance(event, ev.InDoubt)] == [effect]
    assert outcomes(events) == []
    assert len(seen.of(made)) == len(shop.done)


@pytest.mark.promise(156)
def test_calls_are_counted_over_copies_retries_and_processes() -> None:
    shop, seen = Shop(), Seen()
    plan = [tf.ToolRaises("t", 1), tf.ToolRaises("t", 4)]
    first = outcomes(ran(wrap_tool(shop.tool(effect="idempotent", retries=1), plan, seen), count=2))
    second = outcomes(ran(wrap_tool(shop.tool(effect="idempotent"), plan, seen)))
    assert [type(each) for each in first] == [dict, dict]
    assert second == ["ToolBroke"]
    assert [each.call for each in seen.effects] == [1, 2, 3, 4]


def test_an_irreversible_call_that_was_cut_counts_and_another_does_not() -> None:
    seen = Seen()

    def slow(effect: Any) -> Tool[..., Any]:
        @tool(effect=effect, name="t", timeout=3)
        async def t(what: str) -> str:
            await asyncio.sleep(100)
            return what

        return wrap_tool(t, (), seen)

    ran(slow("irreversible"))
    ran(slow("read"))
    assert [(each.outcome, each.done, each.counts) for each in seen.effects] == [
        ("cut", None, True),
        ("cut", None, False),
    ]


def test_a_function_that_raises_says_that_nothing_happened() -> None:
    seen = Seen()

    @tool(effect="irreversible", name="t")
    async def t(what: str) -> str:
        raise ValueError("no such parcel")

    assert outcomes(ran(wrap_tool(t, (), seen))) == ["ValueError"]
    assert (seen.effects[0].outcome, seen.of("t")) == ("raised", [])


@pytest.mark.promise(156)
def test_the_copy_keeps_what_the_tool_declares_and_the_tool_stays_as_it_is() -> None:
    @tool(effect="verifiable", approve="boss", timeout=7, polling=True)
    def pay(order: str, cents: int) -> str:
        """Pay."""
        return f"{order}: {cents}"

    @pay.approve_when
    def large(order: str, cents: int) -> bool:
        return cents > 100

    @pay.verify
    async def paid(order: str, cents: int) -> bool | None:
        return cents == 1

    @pay.loop_key
    def key(order: str, cents: int) -> str:
        return order

    before = dict(vars(pay))
    made = wrap_tool(pay, [tf.ToolRaises("pay", 1)], Seen())
    assert vars(pay) == before
    for name in ("name", "effect", "timeout", "retries", "policy", "polling", "schema", "parameters"):
        assert getattr(made, name) == getattr(pay, name)
    arguments: dict[str, Any] = {"order": "a", "cents": 500}
    assert (made.needs_yes(arguments), made.needs_yes({**arguments, "cents": 5})) == ("boss", "")
    assert (made.key_of(arguments), made.can_verify) == ("a", True)
    assert asyncio.run(made.verified({**arguments, "cents": 1})) is True
    assert pay("a", 1) == "a: 1"


def test_a_plain_function_runs_in_a_thread_as_it_would() -> None:
    where: list[str] = []

    @tool(effect="read", name="t")
    def t(what: str) -> str:
        where.append(threading.current_thread().name)
        return what

    seen = Seen()
    made = wrap_tool(t, (), seen)
    assert asyncio.run(made("x")) == "x"
    assert where != [threading.current_thread().name]
    assert seen.effects[0].arguments == {"what": "x"}


@pytest.mark.parametrize(
    ("result", "hint", "lied"),
    [
        ("abc", str, "abcx"),
        (3, int, 4),
        (True, bool, False),
        ([1, 2], list[int], [2, 2]),
        ({"a": [None, "b"]}, dict[str, Any], {"a": [None, "bx"]}),
        (None, type(None), None),
        ({}, dict[str, int], {}),
    ],
)
def test_a_lie_is_another_value_of_the_declared_type(result: Any, hint: Any, lied: Any) -> None:
    async def fn(call: Call, what: str) -> Any:
        return result

    fn.__annotations__ = {"call": Call, "what": str, "return": hint}
    seen = Seen()
    made = wrap_tool(tool(effect="read", name="t")(fn), [tf.ToolLies("t", 1)], seen)
    assert outcomes(ran(made)) == [lied]
    assert len(seen.fired) == (result != lied)


def test_a_lie_keeps_to_an_enumeration() -> None:
    async def fn(call: Call, what: str) -> Any:
        return {"state": "packed", "grams": 1}

    class Told(Struct):
        state: Literal["packed"]
        grams: int

    fn.__annotations__ = {"call": Call, "what": str, "return": Told}
    made = wrap_tool(tool(effect="read", name="t")(fn), [tf.ToolLies("t", 1)], Seen())
    assert outcomes(ran(made)) == [{"state": "packed", "grams": 2}]


def test_a_call_outside_of_a_run_hangs_no_longer_than_its_timeout() -> None:
    made, _ = wrapped(Shop(), tf.ToolHangs("t", 1), tf.ToolRaises("t", 2))

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await made(what="x")
        with pytest.raises(ToolBroke):
            await made(what="x")
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(31)


@pytest.mark.parametrize("fault", ALL, ids=repr)
def test_a_fault_is_a_value_whose_repr_is_code_and_that_json_carries(fault: ToolFault) -> None:
    assert {type(each) for each in ALL} == set(tf.KINDS)
    assert eval(repr(fault), vars(tf)) == fault
    assert msgspec.json.decode(msgspec.json.encode(fault), type=ToolFault) == fault


def test_only_a_lie_needs_an_oracle_of_the_test() -> None:
    assert [kind.__name__ for kind in tf.KINDS if kind.needs_oracle] == ["ToolLies"]


def test_a_fault_that_cannot_be_says_what_and_where() -> None:
    with pytest.raises(UsageError, match=r"ToolHangs\('t'\): call 0"):
        tf.ToolHangs("t", 0)
    with pytest.raises(UsageError, match="tool is empty"):
        tf.ToolLies("", 1)
    with pytest.raises(UsageError, match=r"ToolSlow\('t', call=2\): seconds -1"):
        tf.ToolSlow("t", 2, seconds=-1)


def test_an_effect_is_a_value_for_reports() -> None:
    effect = Effect("t", 1, "read", {"a": 1}, "", 0.5)
    assert msgspec.json.decode(msgspec.json.encode(effect), type=Effect) == effect
