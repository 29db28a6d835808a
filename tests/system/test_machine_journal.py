"""Agents with a state machine: all of it is in the journal, and goes on from there."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from acted import Acted, call, calls, script, turns, words
from refunds import (
    REFUND,
    Answer,
    E,
    S,
    cut,
    done,
    events,
    make,
    make_machine,
    moves,
    play,
    system_of,
)

from understudy import (
    Agent,
    Loops,
    Restart,
    Same,
    State,
    StateMachine,
    Stop,
    System,
)
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.actors.testing.simloop import SimClock, run


@pytest.mark.promise(74)
def test_a_changed_machine_diverges_where_it_first_matters() -> None:
    agent = make(script(*REFUND))

    async def main() -> None:
        _, records = await play(agent)
        other = make_machine(paying=5)
        policies = System(make(script(*REFUND), other)).tree.policies
        report = replay(records, policies)
        moved = [r.seq for r in records if isinstance(r.event, ev.Moved)]
        assert (report.at, report.recorded) == (moved[1], "move from check to pay on owed")
        assert report.now == "move from check to pay on owed, for 5 s"
        renamed = StateMachine(S.PAY, {S.PAY: State(on={E.SENT: S.PAID}), S.PAID: State()})
        report = replay(records, System(make(script(*REFUND), renamed)).tree.policies)
        assert (report.at, report.recorded, report.now) == (moved[0], "begin in state check", "begin in state pay")
        report = replay(records, System(Agent("refunds", model=Acted(script()))).tree.policies)
        assert report.at == moved[0]

    run(main)


@pytest.mark.promise(74)
def test_a_stream_brings_the_transitions() -> None:
    agent = make(script(calls(call("move", event="not_owed"))))

    async def main() -> list[Any]:
        async with system_of(agent) as system:
            return [item async for item in system.stream(agent, "go")]

    items = run(main)
    assert moves([item for item in items if isinstance(item, Record)])[-1] == ("check", "declined", "not_owed")
    assert items[-1].state == "declined"


@pytest.mark.promise(74)
def test_a_restart_takes_back_the_transitions_whose_exchanges_it_drops() -> None:
    """The loop goes through two states: the rewind to its first step is one to the state it began in."""

    def says(request: ModelRequest) -> ModelReply:
        if any("former attempt" in message.content for message in request.messages):
            return calls(call("move", event="not_owed"))
        return calls(call("move", event="again" if turns(request) % 2 else "owed"))

    agent = make(says, loops=Loops(Same(3), ladder=[Restart(), Stop()]))
    result, records = run(lambda: play(agent))
    assert (result.status, result.output) == ("complete", "declined")
    assert moves(records)[-1] == ("check", "declined", "not_owed")
    assert events(records, ev.Judged)[0].rewind_to == 1


@pytest.mark.promise(74)
def test_a_restart_takes_no_transition_back_that_came_before_a_change_of_the_world() -> None:
    def says(request: ModelRequest) -> ModelReply:
        if any("former attempt" in message.content for message in request.messages):
            return calls(call("move", event="sent"))
        return (*REFUND[1:3], calls(call("move", event="nonsense")))[min(turns(request), 2)]

    agent = make(says, loops=Loops(Same(3), ladder=[Restart(), Stop()]))
    done.clear()
    result, records = run(lambda: play(agent))
    assert (result.output, done) == ("paid", {"pay": 1})
    assert moves(records)[-1] == ("pay", "paid", "sent")


PLAN = (
    calls(call("order", id="1"), call("order", id="2")),
    calls(call("move", event="wrong"), call("move", event="owed"), call("note", what="a")),
    calls(call("pay", cents=1)),
    calls(call("note", what="b"), call("move", event="again")),
    calls(call("order", id="3"), call("move", event="owed"), call("move", event="sent")),
    words('{"text": "done"}'),
)


@pytest.mark.promise(74)
def test_a_crash_after_every_event_ends_in_the_same_state_and_does_nothing_twice() -> None:
    agent = make(script(*PLAN), make_machine(check=900, paying=900), output=Answer, loops=Loops(Same(9)))

    async def main() -> None:
        done.clear()
        whole, records = await play(agent)
        assert (whole.status, whole.state) == ("complete", "paid")
        before = moves(records)
        assert len(before) == 5
        late = [await check_cut(agent, records, length, True, before) for length in range(1, len(records))]
        assert Counter(late).keys() == {"declined", "paid"}
        assert {await check_cut(agent, records, length, False, before) for length in range(1, len(records))} == {"paid"}

    run(main)


async def check_cut(
    agent: Agent[Any, Any], records: list[Record], length: int, late: bool, before: list[tuple[str, str, str]]
) -> str:
    """The state it ends in, resumed from a prefix: at once or, with `late`, when the time of its state has passed."""
    store, where = await cut(records, length), f"cut after {length}, {records[length - 1].event}, late: {late}"
    ahead = Counter(asked.name for asked in events(records[:length], ev.ToolAsked))
    done.clear()
    clock = SimClock(records[length - 1].at - asyncio.get_running_loop().time() + (1000 if late else 0))
    async with system_of(agent, store, clock) as system:
        result = await system.resume(records[0].run)
        for _ in range(10):
            if result.status != "waiting":
                break
            for asked in system.approvals():
                await system.approve(asked, by="ana")
            for doubt in system.doubts():
                await system.settle(doubt.id, did=True, by="ana")
            result = await system.resume(result.run)
        after = await system.journal.read(result.run)
        assert replay(after, system.tree.policies).identical, where
    assert after[:length] == records[:length], where
    assert (result.status, system.doubts()) == ("complete", []), where
    assert ahead["pay"] + done["pay"] <= 1, where
    assert all(count == 1 for name, count in done.items() if name.startswith("note")), where
    if late and events(after, ev.StateTimedOut):
        assert result.state in ("declined", "paid"), where
    else:
        assert (result.state, result.output) == ("paid", Answer("done")), where
        assert moves(after) == before, where
    return str(result.state)
