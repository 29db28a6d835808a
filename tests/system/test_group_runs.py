"""Agents in a group restart: the siblings' runs go on from their fold, as the same attempt."""

from __future__ import annotations

import asyncio

import pytest
from desks import answer, call, calls, make_agent, script

from understudy import Backoff, Supervisor, System, tool
from understudy.actors.actor import Actor
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.messages import Message
from understudy.transports.testing.model_server import ModelServer


class Boom(Message[None]):
    pass


class Crashes(Actor[Boom]):
    def boom(self, m: Boom) -> None:
        raise ValueError("boom")


@pytest.mark.promise(34)
@pytest.mark.parametrize("nested", [False, True])
def test_a_sibling_agents_run_goes_on_as_the_same_attempt_and_its_asker_keeps_waiting(*, nested: bool) -> None:
    async def main() -> None:
        entered, gate = asyncio.Event(), asyncio.Event()

        @tool(effect="read")
        async def look(what: str) -> str:
            """Look."""
            entered.set()
            await gate.wait()
            return f"saw {what}"

        async with ModelServer(script(calls(call("look", what="x")), answer("done"))) as server:
            agent = make_agent(server.url, [look])
            below = Supervisor("team", [agent]) if nested else agent
            desk = Supervisor("desk", [below, Crashes], strategy="one_for_all", backoff=Backoff(first=0.01))
            async with System(desk) as system, asyncio.timeout(60):
                asking = asyncio.create_task(system.run(agent, "look at x", timeout=50))
                await entered.wait()
                entered.clear()
                system.ref("crashes").tell(Boom())
                await entered.wait()  # the call that was cut is a `read`: the next incarnation makes it again
                gate.set()
                result = await asking
                records = await system.journal.read(result.run)
                assert replay(records, system.tree.policies).identical
        assert result.status == "complete"
        events = [record.event for record in records]
        assert [event.attempt for event in events if isinstance(event, ev.AttemptStarted)] == [1, 1]
        assert not [event for event in events if isinstance(event, ev.BackedOff)]

    asyncio.run(main())
