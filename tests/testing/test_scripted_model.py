"""A scripted model answers by its script, and what is not in the script fails the test."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from desks import Answer
from providers import SCHEMA, WEATHER, say

from understudy import Agent, Result, tool
from understudy.actors.agents.models import ModelReply, Usage
from understudy.actors.errors import ModelRefused, ModelTimeout, Overloaded, UsageError
from understudy.actors.testing.scripted_model import ScriptedModel, ScriptError, Step, call
from understudy.actors.testing.simloop import run


@tool(effect="read")
async def order(id: str) -> str:
    """Look up an order."""
    return f"order {id} is packed"


def ask(model: ScriptedModel, text: str = "Where is order 1042?") -> Result[Answer]:
    agent = Agent("support", model=model, tools=[order], output=Answer)
    return run(lambda: agent.run(text))


@pytest.mark.promise(155)
def test_a_script_that_is_followed_passes() -> None:
    with ScriptedModel(
        [
            Step(call("order", id="1042"), sees="1042", offers=["order"]),
            Step(Answer("Tomorrow."), sees=lambda message: message.role == "tool" and "packed" in message.content),
        ]
    ) as model:
        result = ask(model)
    assert result.output == Answer("Tomorrow.")
    assert [len(request.messages) for request in model.requests] == [1, 3]


@pytest.mark.promise(155)
def test_a_call_that_the_script_does_not_have_fails_the_test_and_ends_the_run() -> None:
    model = ScriptedModel([call("order", id="1042")])
    result = ask(model)
    assert result.status == "failed"
    assert result.reason is not None
    assert "script step 2: expected no further call" in result.reason
    with pytest.raises(ScriptError, match="'\"order 1042 is packed\"'; on offer: order") as caught:
        model.done()
    assert (caught.value.step, isinstance(caught.value, AssertionError)) == (2, True)


@pytest.mark.promise(155)
@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step(Answer("x"), sees="9999"), "step 1: expected to see '9999', but the newest message is user: 'Where is"),
        (Step(Answer("x"), sees=lambda _: False), "step 1: expected a message that <lambda> accepts, but"),
        (Step(Answer("x"), offers=[]), "step 1: expected these tools on offer: none, but these are: order"),
        (Step(Answer("x"), offers=["order", "pay"]), "expected these tools on offer: order, pay, but these are: order"),
    ],
)
def test_an_expectation_that_is_not_met_is_named_with_what_came(step: Step, text: str) -> None:
    model = ScriptedModel([step])
    assert ask(model).status == "failed"
    with pytest.raises(ScriptError) as caught:
        model.done()
    assert text in str(caught.value)
    assert len(model.requests) == 1, "it is not tried again"


@pytest.mark.promise(155)
def test_steps_that_were_not_used_fail_the_test() -> None:
    with (
        pytest.raises(ScriptError, match=r'a call to be answered with order\(\'\{"id":"1"\}\'\), but .* 1 of 2 steps'),
        ScriptedModel([Answer("x"), call("order", id="1")]) as model,
    ):
        ask(model)


def test_only_the_first_violation_is_kept() -> None:
    model = ScriptedModel([Step("x", sees="nothing like it"), "y"])
    asyncio.run(_twice(model))
    with pytest.raises(ScriptError, match="step 1"):
        model.done()


async def _twice(model: ScriptedModel) -> None:
    async with model.session() as one, model.session() as other:
        with pytest.raises(ModelRefused) as caught:
            await one.complete(say("hello"), timeout=5)
        assert (caught.value.sent, caught.value.retryable) == (False, False)
        assert (await other.complete(say("hello"), timeout=5)).content == "y"
        with pytest.raises(ModelRefused):
            await one.complete(say("hello"), timeout=5)


def test_what_the_script_says_is_raised_before_what_the_test_found_because_of_it() -> None:
    with pytest.raises(ScriptError) as caught, ScriptedModel([Step(Answer("x"), sees="9999")]) as model:
        assert ask(model).status == "complete"
    assert isinstance(caught.value.__cause__, AssertionError)


def test_what_the_test_found_is_raised_when_the_script_was_followed_so_far() -> None:
    with pytest.raises(ZeroDivisionError), ScriptedModel(["never said"]):
        _ = 1 / 0


def test_an_error_is_raised_and_tried_again() -> None:
    with ScriptedModel([Overloaded("HTTP 503: busy"), Answer("x")]) as model:
        assert ask(model).status == "complete"


def test_several_calls_and_whole_replies_are_said_as_they_are() -> None:
    whole = ModelReply("odd", finish="length", usage=Usage(1, 2))
    model = ScriptedModel([(call("order", id="1"), call("order", id="2")), whole, Step("late", seconds=9)])

    async def main() -> None:
        request = say("hello", tools=(WEATHER,), output_schema=SCHEMA)
        async with model.session() as session:
            first = await session.complete(request, timeout=5)
            assert [each.arguments for each in first.calls] == ['{"id":"1"}', '{"id":"2"}']
            assert len({each.id for each in first.calls}) == 2
            assert first.usage is not None
            assert await session.complete(request, timeout=5) == whole
            with pytest.raises(ModelTimeout):
                await session.complete(request, timeout=5)
        model.done()

    run(main)


def test_sessions_side_by_side_follow_one_script() -> None:
    model = ScriptedModel([Step(str(n), seconds=5 - n) for n in range(5)])

    async def one() -> str:
        async with model.session() as session:
            return (await session.complete(say("hello"), timeout=60)).content

    async def main() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(5)))

    assert run(main) == ["0", "1", "2", "3", "4"]
    model.done()


def test_what_is_no_json_is_refused_when_the_script_is_made() -> None:
    with pytest.raises(UsageError, match=r"script step 2: .* cannot be said as JSON"):
        ScriptedModel(["x", object()])
    bad: Any = object()
    with pytest.raises(UsageError, match=r"call\('order'\)"):
        call("order", id=bad)
