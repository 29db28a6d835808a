"""How long a tool may take, how often it is tried, and how many calls of it run at a time; in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from understudy import Agent, Budget, Call, Supervisor, System, tool
from understudy.actors.errors import SpecError
from understudy.actors.testing.scripted_model import ScriptedModel, Step, call
from understudy.actors.testing.simloop import SimClock, run


def now() -> float:
    return asyncio.get_running_loop().time()


def go(tools: Sequence[Any], steps: Sequence[object], **options: Any) -> Any:
    model = ScriptedModel(steps)

    async def main() -> Any:
        agent: Agent[str, Any] = Agent("clerk", model=model, tools=tools, **options)
        async with System(agent) as system:
            return await system.run(agent, "go")

    result = run(main)
    model.done()
    return result


@pytest.mark.promise(239)
def test_a_call_that_says_nothing_for_its_idle_time_has_timed_out() -> None:
    @tool(effect="read", timeout=100, idle=5)
    async def crawl(call: Call, pages: int) -> str:
        for page in range(pages):
            await anyio.sleep(4)
            call.progress(f"page {page + 1}")
        await anyio.sleep(50)
        return "all"

    heard = Step("seen", sees="no progress for 5 s; its last word was 'page 3'")
    assert go([crawl], [call("crawl", pages=3), heard]).status == "complete"
    silent = Step("seen", sees="no progress for 5 s")
    assert go([crawl], [call("crawl", pages=0), silent]).status == "complete"


@pytest.mark.promise(239)
def test_progress_puts_off_the_idle_timeout_but_never_the_hard_one() -> None:
    times: list[float] = []

    @tool(effect="read", timeout=20, idle=5)
    async def crawl(call: Call) -> str:
        times.append(now())
        try:
            while True:
                await anyio.sleep(4)
                call.progress()
        finally:
            times.append(now())

    go([crawl], [call("crawl"), Step("seen", sees="no result within 20 s")])
    assert times[1] - times[0] == pytest.approx(20.0)


@pytest.mark.promise(240)
def test_a_tool_with_a_limit_runs_so_many_calls_at_a_time_for_all_agents_together() -> None:
    inside = most = 0

    @tool(effect="read", timeout=3, concurrency=2)
    async def busy(n: int) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await anyio.sleep(2)
        inside -= 1
        return n

    agents: list[Agent[str, Any]] = [
        Agent(f"a{k}", model=ScriptedModel([tuple(call("busy", n=n) for n in range(3)), "done"]), tools=[busy])
        for k in range(2)
    ]

    async def main() -> float:
        async with System(Supervisor("team", agents)) as system:
            began = now()
            results = await asyncio.gather(*(system.run(agent, "go") for agent in agents))
            assert [result.status for result in results] == ["complete", "complete"]
            return now() - began

    assert run(main) == pytest.approx(6.0, abs=0.1)  # waiting takes nothing of the 3 s that each call has
    assert most == 2


@pytest.mark.promise(240)
def test_a_call_that_finds_no_place_while_the_run_may_last_is_not_made() -> None:
    made: list[int] = []

    @tool(effect="irreversible", timeout=100, concurrency=1)
    async def slow(n: int) -> int:
        made.append(n)
        await anyio.sleep(50)
        return n

    first: Agent[str, Any] = Agent("first", model=ScriptedModel([call("slow", n=1), "done"]), tools=[slow])
    second: Agent[str, Any] = Agent(
        "second", model=ScriptedModel([call("slow", n=2), "never"]), tools=[slow], budget=Budget(seconds=10)
    )

    async def main() -> Any:
        async with System(Supervisor("team", [first, second]), clock=SimClock()) as system:
            return await asyncio.gather(system.run(first, "go"), system.run(second, "go"))

    one, two = run(main)
    assert one.status == "complete"
    assert two.status == "stopped"
    assert "seconds used up" in two.reason
    assert made == [1]


@pytest.mark.promise(241)
def test_the_calls_of_one_step_share_their_further_tries() -> None:
    tries: list[int] = []

    @tool(effect="read", retries=5)
    async def down(n: int) -> int:
        tries.append(n)
        raise ConnectionError("down")

    first, second = tuple(call("down", n=n) for n in range(3)), tuple(call("down", n=n + 10) for n in range(2))
    result = go([down], [first, second, "it is down"])
    assert result.status == "complete"
    assert len([n for n in tries if n < 10]) == 3 + 8
    assert len([n for n in tries if n >= 10]) == 2 + 8


@pytest.mark.promise(239)
def test_a_tool_in_a_thread_may_tell_progress_too() -> None:
    idle, waiting = 0.2, threading.Event()

    def heard() -> tuple[str, float]:
        """What the model is told of a tool that takes three times its idle time; its longest silence, in seconds."""
        told: list[float] = []

        @tool(effect="read", timeout=600, idle=idle)
        def crawl(call: Call) -> str:
            told.append(time.monotonic())
            while told[-1] - told[0] < 3 * idle:
                waiting.wait(0.01)
                told.append(time.monotonic())
                call.progress("on")
            return "all"

        model = ScriptedModel([call("crawl"), "done"])
        agent: Agent[str, Any] = Agent("clerk", model=model, tools=[crawl])
        result = asyncio.run(agent.run("go"))
        assert (result.status, result.spend.tool_calls) == ("complete", 1)
        return model.requests[1].messages[-1].content, max(b - a for a, b in itertools.pairwise(told))

    for _ in range(10):  # a machine that stands still makes it silent
        said, silence = heard()
        if "all" in said or silence < idle / 2:
            break
    assert "all" in said
    assert "no progress" not in said


def declared(**options: Any) -> Callable[[], object]:
    async def plain(n: int) -> int:
        return n

    return lambda: tool(effect="read", **options)(plain)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (declared(idle=0), "tool 'plain': idle 0 seconds"),
        (declared(idle=31), "no more than its timeout of 30"),
        (declared(idle=3), "idle needs a first parameter"),
        (declared(concurrency=0), "tool 'plain': concurrency 0; at least 1"),
    ],
)
def test_times_and_limits_that_cannot_be_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        make()
