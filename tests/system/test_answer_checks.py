"""No answer passes by accident: checks, repairs and their limits, in whole runs with virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from msgspec import Struct

from understudy import Agent, Budget, Price, Supervisor, System, tool
from understudy.actors.errors import ModelRefused, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.testing.scripted_model import ScriptedModel, Step, call
from understudy.actors.testing.simloop import run


class Answer(Struct, frozen=True):
    text: str


def short(answer: Answer) -> str | None:
    return f"{len(answer.text)} characters are too many; at most 5" if len(answer.text) > 5 else None


class Shop:
    """What a check that looks at the world looks at."""

    def __init__(self, *said: object, seconds: float = 0.0) -> None:
        self.said = list(said)
        self.asked: list[str] = []
        self.seconds = seconds

    async def in_stock(self, answer: Answer) -> str | None:
        self.asked.append(answer.text)
        await anyio.sleep(self.seconds)
        said = self.said.pop(0) if self.said else None
        if isinstance(said, BaseException):
            raise said
        return said  # type: ignore[return-value]  # a planted wrong word


def go(steps: Sequence[object], *, tree: Any = None, **options: Any) -> tuple[Any, list[ev.Record], ScriptedModel]:
    """One run of the agent `clerk` in virtual time: its result, its journal, its model."""
    model = ScriptedModel(steps)

    async def main() -> tuple[Any, list[ev.Record]]:
        agent: Agent[Answer, Any] = Agent("clerk", model=model, output=Answer, **options)
        async with System(agent) as system:
            result = await system.run(agent, "go")
            await system.journal.barrier()
            records = await system.journal.read(result.run)
            assert replay(records, system.runs.policies).identical
            return result, records

    result, records = run(main)
    return result, records, model


@pytest.mark.promise(236)
def test_a_pure_check_hands_the_answer_back_in_its_own_words() -> None:
    result, records, model = go([Answer("a lamp, 40.00"), Step(Answer("lamp"), sees="at most 5")], checks=[short])
    assert result.unwrap() == Answer("lamp")
    assert [r.event.error for r in records if isinstance(r.event, ev.OutputRejected)] == [
        "13 characters are too many; at most 5"
    ]
    model.done()


@pytest.mark.promise(236)
def test_a_check_that_looks_is_journalled_once_for_an_answer_and_costs_a_tool_call() -> None:
    shop = Shop("it is sold out")
    result, records, model = go([Answer("lamp"), Step(Answer("desk"), sees="sold out")], checks=[shop.in_stock])
    assert result.unwrap() == Answer("desk")
    assert shop.asked == ["lamp", "desk"]
    checked = [(r.event.step, r.event.check, r.event.error) for r in records if isinstance(r.event, ev.OutputChecked)]
    assert checked == [(1, "in_stock", "it is sold out"), (2, "in_stock", "")]
    assert result.spend.tool_calls == 2
    model.done()


@pytest.mark.promise(236)
def test_a_check_is_not_asked_about_an_answer_that_a_pure_one_refused() -> None:
    shop = Shop()
    go([Answer("too long for it"), Answer("lamp")], checks=[shop.in_stock, short])
    assert shop.asked == ["lamp"]


@pytest.mark.promise(237)
@pytest.mark.parametrize(
    ("shop", "words"),
    [
        (Shop(LookupError("no such shop")), "check 'in_stock' was skipped: LookupError: no such shop"),
        (Shop(seconds=31.0), "check 'in_stock' was skipped: TimeoutError: no word within 30 s"),
        (Shop(True), "check 'in_stock' was skipped: TypeError: check 'in_stock' answered True"),
    ],
)
def test_an_answer_whose_check_could_not_look_is_degraded_and_says_so(shop: Shop, words: str) -> None:
    result, _, _ = go([Answer("lamp")], checks=[shop.in_stock])
    assert result.status == "degraded"
    assert result.output == Answer("lamp")
    assert result.reason.startswith(words)


@pytest.mark.promise(237)
def test_a_check_that_is_a_tool_is_tried_again_as_the_tool_says() -> None:
    tries: list[float] = []

    async def listed(answer: Answer) -> str | None:
        tries.append(asyncio.get_running_loop().time())
        if len(tries) < 3:
            raise ConnectionError("no route")
        return None

    check = tool(effect="read", timeout=5, retries=2)(listed)
    result, _, _ = go([Answer("lamp")], checks=[check])
    assert result.status == "complete"
    assert len(tries) == 3
    assert 0.12 <= tries[1] - tries[0] <= 0.38
    assert 0.25 <= tries[2] - tries[1] <= 0.75


@pytest.mark.promise(236)
def test_a_pure_check_that_raises_ends_the_run_and_names_itself() -> None:
    def broken(answer: Answer) -> str | None:
        raise KeyError("price")

    result, _, _ = go([Answer("lamp")], checks=[broken])
    assert result.status == "failed"
    assert "a hook of agent 'clerk' raised KeyError: 'price'" in result.reason


@pytest.mark.promise(238)
def test_a_check_beyond_the_budget_stops_the_run_and_names_the_pool() -> None:
    shop = Shop("no", "no", "no")
    result, _, _ = go([Answer("lamp"), Answer("desk")], checks=[shop.in_stock], budget=Budget(tool_calls=1))
    assert result.status == "stopped"
    assert "tool calls used up (1 of 1 spent)" in result.reason
    assert shop.asked == ["lamp"]


@pytest.mark.promise(238)
def test_the_repairs_of_all_layers_of_a_run_are_counted_together() -> None:
    """Three delegates that are wrong twice each, and a caller that is wrong for ever: 8 repairs, not 5 and 6."""

    def wrong(answer: Answer) -> str | None:
        return "wrong" if answer.text == "wrong" else None

    helpers: list[Agent[Any, Any]] = [
        Agent(
            f"h{n}",
            model=ScriptedModel([Answer("wrong"), Answer("wrong"), Answer("right")]),
            output=Answer,
            checks=[wrong],
        )
        for n in range(3)
    ]
    model = ScriptedModel([(*(call(f"h{n}", text="go") for n in range(3)),), *[Answer("wrong")] * 3])
    chief: Agent[Any, Any] = Agent("chief", model=model, output=Answer, checks=[wrong], delegates=helpers, repairs=5)

    async def main() -> Any:
        async with System(Supervisor("team", [chief, *helpers])) as system:
            return await system.run(chief, "go")

    result = run(main)
    assert result.status == "failed"
    assert result.reason == "invalid output after 8 repairs in the whole run: wrong"
    model.done()


@pytest.mark.promise(235)
def test_a_placeholder_never_passes_as_complete() -> None:
    result, _, _ = go([Answer("TODO")] * 3)
    assert result.status == "failed"
    assert result.reason == "invalid output after 2 repairs: the answer says nothing: 'TODO' at $.text"


def test_an_agent_that_is_given_what_is_no_check_is_refused() -> None:
    with pytest.raises(SpecError, match="agent 'clerk': check 'x' is not a function"):
        Agent("clerk", model=ScriptedModel([]), output=Answer, checks=["x"])  # type: ignore[list-item]


@pytest.mark.promise(243)
def test_when_the_model_fails_for_good_the_fallback_is_asked_and_the_result_says_so() -> None:
    spare = ScriptedModel([Answer("lamp")], name="spare")
    result, records, model = go([ModelRefused("no such deployment")], fallback=spare)
    assert result.status == "degraded"
    assert result.output == Answer("lamp")
    assert "no such deployment" in result.reason
    assert result.reason.endswith("; answered by spare")
    assert sum(isinstance(r.event, ev.ModelSwitched) for r in records) == 1
    spare.done()
    model.done()


@pytest.mark.promise(243)
def test_when_the_fallback_fails_too_the_run_fails_with_its_reason() -> None:
    spare = ScriptedModel([ModelRefused("not here either")], name="spare")
    result, _, _ = go([ModelRefused("no such deployment")], fallback=spare)
    assert result.status == "failed"
    assert "not here either" in result.reason


@pytest.mark.promise(243)
def test_a_budget_in_money_wants_a_price_of_the_fallback_too() -> None:
    agent: Agent[Any, Any] = Agent(
        "clerk",
        model=ScriptedModel([], price=Price(1, 1)),
        fallback=ScriptedModel([], name="spare"),
        budget=Budget(usd=1.0),
    )
    with pytest.raises(SpecError, match="model 'spare' has no price"):
        System(agent)
