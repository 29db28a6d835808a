"""Agents with a state machine: what the time of a state does."""

from __future__ import annotations

import asyncio
from enum import StrEnum

import pytest
from acted import call, calls, script, told
from refunds import (
    REFUND,
    E,
    S,
    cut,
    done,
    events,
    make,
    make_machine,
    model_of,
    moves,
    now,
    play,
    system_of,
)

from understudy import (
    State,
    StateMachine,
)
from understudy.actors.errors import Overloaded, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.simloop import SimClock, run


@pytest.mark.promise(73)
def test_a_state_times_out_by_the_wall_clock_also_while_a_person_is_waited_for() -> None:
    agent = make(script(*REFUND[1:]), make_machine(paying=3600))
    done.clear()

    async def main() -> None:
        async with system_of(agent) as system:
            result = await system.run(agent, "go")
            assert (result.status, result.state) == ("waiting", "pay")
            (asked,) = system.approvals()
            await asyncio.sleep(3599)
            assert [a.id for a in system.approvals()] == [asked.id]
            await asyncio.sleep(2)
            result = await system.result(result.run)
            assert (result.status, result.output, result.state) == ("complete", "declined", "declined")
            assert system.approvals() == []
            with pytest.raises((UsageError, LookupError)):
                await system.approve(asked, by="ana")
            records = await system.journal.read(result.run)
            assert replay(records, system.tree.policies).identical
            assert events(records, ev.ApprovalRefused)[0].reason == "state 'pay' timed out"
            assert moves(records)[-1] == ("pay", "declined", "timeout")

    run(main)
    assert done == {}


@pytest.mark.promise(73)
def test_a_timeout_that_passed_while_no_process_was_alive_fires_at_once_when_one_is() -> None:
    agent = make(script(*REFUND[1:]), make_machine(paying=3600))

    async def main() -> None:
        store, clock = MemoryStore(), SimClock()
        async with system_of(agent, store, clock) as system:
            name = (await system.run(agent, "go")).run
        await asyncio.sleep(4000)
        async with system_of(agent, store, clock) as system:
            began = clock.monotonic()
            state = system.state(name)
            await system.runs.ended(name)
            assert clock.monotonic() - began < 1
            assert (await system.result(name)).output == "declined"
            assert state.main.stood[-1].state == "pay"

    run(main)


@pytest.mark.promise(73)
def test_a_yes_given_in_time_is_used_and_the_timeout_of_a_state_that_was_left_never_fires() -> None:
    agent = make(script(*REFUND[1:]), make_machine(check=60, paying=3600))

    async def main() -> None:
        async with system_of(agent) as system:
            result = await system.run(agent, "go")
            await asyncio.sleep(3500)
            await system.approve(system.approvals()[0], by="ana")
            result = await system.resume(result.run)
            assert result.output == "paid"
            await asyncio.sleep(4000)
            records = await system.journal.read(result.run)
            assert events(records, ev.StateTimedOut) == []

    run(main)


@pytest.mark.promise(73)
def test_a_call_that_was_begun_ends_first_and_what_the_reply_still_wanted_is_dropped() -> None:
    plan = calls(call("slow", seconds=90.0), call("order", id="1"), call("move", event="again"))
    agent = make(script(plan, calls(call("move", event="sent"))), make_machine(check=60, to=S.PAY))
    done.clear()
    result, records = run(lambda: play(agent))
    assert done == {"slow": 1}
    assert (result.output, moves(records)[1]) == ("paid", ("check", "pay", "timeout"))
    assert next(r for r in records if isinstance(r.event, ev.StateTimedOut)).at >= records[0].at + 90
    first, second, third = told(model_of(agent).seen[1])
    assert first == '"at last"'
    assert second == third
    assert second.startswith("error: state 'check' timed out, and what was not begun is dropped; the state is now {")


@pytest.mark.promise(73)
def test_a_model_that_does_not_answer_in_time_is_cut_when_the_state_times_out() -> None:
    agent = make(script(100.0), make_machine(check=60))

    async def main() -> None:
        result, records = await play(agent)
        assert (result.output, result.spend.estimated) == ("declined", True)
        cut = next(r for r in records if isinstance(r.event, ev.ModelFailed))
        failed = events(records, ev.ModelFailed)[0]
        assert (cut.at - records[0].at, failed.kind) == (60.0, "interrupted")
        assert "state 'check' timed out" in failed.error

    run(main)


@pytest.mark.promise(73)
def test_a_model_that_is_not_to_be_had_is_not_tried_again_when_the_state_has_timed_out() -> None:
    agent = make(script(Overloaded("503", retry_after=25.0)), make_machine(check=60), model_tries=9)
    result, records = run(lambda: play(agent))
    assert (result.output, records[-1].at - records[0].at) == ("declined", 60.0)
    assert len(model_of(agent).seen) == 3


@pytest.mark.promise(73)
def test_a_crash_between_the_timeout_and_what_follows_is_made_good() -> None:
    agent = make(script(*REFUND[1:]), make_machine(paying=3600))

    async def main() -> None:
        async with system_of(agent) as system:
            name = (await system.run(agent, "go")).run
            await asyncio.sleep(3601)
            records = await system.journal.read(name)
        where = next(r.seq for r in records if isinstance(r.event, ev.StateTimedOut))
        for length in range(where - 1, len(records)):
            clock = SimClock(records[-1].at - asyncio.get_running_loop().time())
            async with system_of(agent, await cut(records, length), clock) as system:
                async with asyncio.timeout(5):
                    await system.runs.ended(name)
                assert (await system.result(name)).output == "declined"
                after = await system.journal.read(name)
                assert len(events(after, ev.StateTimedOut)) == len(events(after, ev.ApprovalRefused)) == 1

    run(main)


@pytest.mark.promise(73)
def test_a_state_with_nothing_to_do_rests_until_its_time_and_holds_no_worker() -> None:
    class T(StrEnum):
        COOL = "cool"
        GO = "go"
        END = "end"

    machine = StateMachine(
        T.COOL, {T.COOL: State(timeout=(7200, T.GO)), T.GO: State(on={E.SENT: T.END}), T.END: State()}
    )
    agent = make(script(calls(call("move", event="sent"))), machine, tools=[now])

    async def main() -> None:
        async with system_of(agent) as system:
            result = await system.run(agent, "go")
            assert (result.status, result.state) == ("waiting", "cool")
            assert "timer" in result.reason
            assert model_of(agent).seen == []
            await asyncio.sleep(7201)
            result = await system.result(result.run)
            assert (result.status, result.output) == ("complete", "end")
            assert result.spend.alive < 2
            assert replay(await system.journal.read(result.run), system.tree.policies).identical

    run(main)


@pytest.mark.promise(73)
def test_moving_to_the_same_state_does_not_extend_its_time() -> None:
    agent = make(lambda request: calls(call("slow", seconds=20.0), call("move", event="again")), make_machine(check=50))
    result, records = run(lambda: play(agent))
    assert result.output == "declined"
    assert records[-1].at - records[0].at == pytest.approx(60, abs=1)
