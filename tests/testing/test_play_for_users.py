"""What a user of `play` sees: an outcome in one line, a page that tells what models and tools did, and every escape."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from understudy import Actor, Agent, Call, Message, OpenAIChat, Prompt, System, tool
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import UsageError
from understudy.actors.testing import report
from understudy.testing import (
    DiskError,
    Escape,
    Falsified,
    Hold,
    RateLimited,
    ToolReplyLost,
    World,
    always,
    campaign,
    note,
    play,
    sometimes,
)

paid: list[int] = []


@tool(effect="keyed", retries=2)
async def pay(call: Call) -> str:
    """Pay."""
    paid.append(1)
    note("key", call.key)
    return "paid"


@tool(effect="idempotent", retries=2)
async def post() -> str:
    """Post."""
    return "posted"


def clerk_with(*tools: Tool[..., Any]) -> Agent[str, Prompt]:
    return Agent("clerk", model=OpenAIChat("gpt-5-mini"), tools=tools)


CALLS = World(says=(("clerk", (1,)),))
LOST = World(says=(("clerk", (1,)),), faults=(ToolReplyLost("pay", 1),))


def test_tries_with_one_key_are_one_effect_and_those_without_are_several() -> None:
    paid.clear()
    assert (play(clerk_with(pay), LOST, "go").effects(pay), len(paid)) == (1, 2)
    lost = World(says=CALLS.says, faults=(ToolReplyLost("post", 1),))
    assert play(clerk_with(post), lost, "go").effects("post") == 2


def test_the_effects_of_a_tool_that_nobody_has_are_refused() -> None:
    with pytest.raises(UsageError, match="no tool 'pya' in this world; tools: pay"):
        play(clerk_with(pay), CALLS, "go").effects("pya")


def test_an_outcome_is_shown_in_one_line() -> None:
    lost = repr(play(clerk_with(pay), LOST, "go"))
    assert lost.startswith("<Outcome: complete 'Done.'; ")
    assert lost.endswith(" s; came true: [ToolReplyLost(tool='pay', call=1)]>")
    assert repr(play(clerk_with(pay), World(), "go")).endswith("came true: no fault>")


def test_the_page_of_a_play_tells_what_the_model_said_what_the_tool_did_and_which_faults_came_true() -> None:
    faults = (*LOST.faults, RateLimited("clerk", 2), DiskError(99))
    world = World(says=CALLS.says, faults=faults, schedule=(Hold("main/clerk", 1, 2),))
    outcome = play(clerk_with(pay), world, "go")
    assert outcome.trace.faults == {"ToolReplyLost": 1, "RateLimited": 1}
    page = report.page(world, outcome.trace)
    assert "1 of 1 deviation and 2 of 3 faults drawn came true" in page
    rows = ["model #1 calls pay({})", "key 0", "pay #1 returned", "ToolReplyLost(", "pay #2 returned", "RateLimited"]
    places = [page.index(row, page.index("timeline")) for row in rows]
    assert places == sorted(places)
    assert "model #3 says 'Done.'" in page
    assert "closing" not in page.partition("timeline")[2]  # how all is shut down explains nothing


def test_what_is_always_so_is_checked_while_a_play_goes_on() -> None:
    @tool(effect="read")
    async def look() -> str:
        """Look."""
        begun = asyncio.get_running_loop().time()
        always("early", lambda: asyncio.get_running_loop().time() < begun + 1)
        await asyncio.sleep(5)
        return "seen"

    with pytest.raises(Falsified, match=r"always 'early': false at 5\.\d+ s"):
        play(clerk_with(look), CALLS, "go")


def test_a_test_says_sometimes_when_its_play_is_over() -> None:
    with campaign() as counts:
        outcome = play(clerk_with(pay), LOST, "go")
        sometimes("paid", outcome.effects(pay) == 1)
        sometimes("paid twice", outcome.effects(pay) == 2)
    assert counts.reached == {"paid": 1, "paid twice": 0}
    counts.assert_fired(ToolReplyLost)


@tool(effect="read")
async def dial() -> str:
    """Reach for the network."""
    with socket.socket() as line:
        line.connect(("127.0.0.1", 9))
    return "never"


class Dial(Message[None]): ...


class Dialler(Actor[Dial]):
    def dial(self, m: Dial) -> None:
        with socket.socket() as line:
            line.connect(("127.0.0.1", 9))


@pytest.mark.promise(203)
def test_an_escape_in_a_tool_is_not_left_to_its_model() -> None:
    with pytest.raises(Escape, match=r"socket\.connect.*test_play_for_users\.py:\d+ dial"):
        play(clerk_with(dial), CALLS, "go")


@pytest.mark.promise(203)
def test_an_escape_in_an_actor_is_not_left_to_its_supervisor() -> None:
    async def main() -> None:
        async with System() as system:
            system.spawn(Dialler).tell(Dial())

    with pytest.raises(Escape, match=r"socket\.connect.*Dialler\.dial"):
        World().run(main)


def test_an_escape_that_the_test_trips_over_comes_first() -> None:
    async def main(system: System) -> None:
        result = await system.run(clerk, "go", timeout=60)
        assert result.status == "failed"

    clerk = clerk_with(dial)
    with pytest.raises(Escape) as caught:
        play(clerk, CALLS, main)
    assert isinstance(caught.value.__cause__, AssertionError)
    play(clerk_with(dial), World(), "go")  # the next run is its own
