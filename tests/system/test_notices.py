"""What an operator reads in the log at WARNING: one line for each thing that went wrong, and not a flood."""

from __future__ import annotations

import logging

import pytest
from desks import agent_on, answer, call, calls, script

from understudy import Backoff, Budget, Loops, Supervisor, System, tool
from understudy.transports.testing.model_server import RateLimit


@tool(effect="read")
async def look(what: str) -> str:
    """Look."""
    raise LookupError(f"no {what}")


@pytest.mark.anyio
async def test_a_run_that_is_stopped_for_looping_leaves_its_story_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    policy = script(calls(call("look", what="x")))
    async with agent_on(policy, [look]) as agent:
        tree = Supervisor("desk", [agent], loops=Loops(), backoff=Backoff(first=0, jitter=0))
        async with System(tree) as system:
            with caplog.at_level(logging.WARNING):
                result = await system.run(agent, "go")
    assert result.status == "stopped"
    told = [r.getMessage() for r in caplog.records if r.name == "understudy.runs"]
    assert [line.split(": ", 1)[1].split(",")[0].split(" ")[0] for line in told] == [
        "loop",
        "loop",
        "restarts",
        "loop",
        "stopped:",
    ]
    assert all(line.startswith(f"{result.run}:") and "\n" not in line for line in told)


@pytest.mark.anyio
async def test_a_quiet_run_logs_nothing_at_warning(caplog: pytest.LogCaptureFixture) -> None:
    async with agent_on(script(answer("fine"))) as agent, System(agent) as system:
        with caplog.at_level(logging.WARNING):
            assert (await system.run(agent, "go")).status == "complete"
    assert [r for r in caplog.records if r.name.startswith("understudy")] == []


@pytest.mark.anyio
async def test_a_provider_that_refuses_costs_the_call_and_no_tokens() -> None:
    async with agent_on(lambda request: RateLimit(retry_after=0), model_tries=3) as agent:
        async with System(Supervisor("desk", [agent], budget=Budget(tokens=100_000))) as system:
            result = await system.run(agent, "go")
    assert result.status == "failed"
    assert (result.spend.model_calls, result.spend.tokens, result.spend.usd) == (3, 0, 0)
    assert not result.spend.estimated
