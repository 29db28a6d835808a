"""Agents with a state machine: what they may do, how they move, what time does, and that it is all in the journal."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Any, TypeVar

import pytest
from acted import Acted, Says, call, calls, script, told, turns, words
from msgspec import Struct

from understudy import (
    Agent,
    Approvals,
    Call,
    ChildSpec,
    Errors,
    Loops,
    Message,
    Nudge,
    Restart,
    Result,
    Same,
    State,
    StateMachine,
    Stop,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import Overloaded, SpecError, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore, Row, chain
from understudy.actors.testing.simloop import SimClock, run
from understudy.supervisors.specs import Route

K = TypeVar("K", bound=ev.Event)


class S(StrEnum):
    CHECK = "check"
    PAY = "pay"
    PAID = "paid"
    DECLINED = "declined"


class E(StrEnum):
    OWED = "owed"
    NOT_OWED = "not_owed"
    SENT = "sent"
    REFUSED = "refused"
    AGAIN = "again"


class Answer(Struct, frozen=True):
    text: str


done: Counter[str] = Counter()


@tool(effect="read")
async def order(id: str) -> str:
    done["order"] += 1
    return f"order {id}"


@tool(effect="read")
async def now() -> str:
    return "noon"


@tool(effect="keyed")
async def note(call: Call, what: str) -> str:
    done[f"note {call.key}"] += 1
    return f"noted {what}"


@tool(effect="irreversible", approve="finance")
async def pay(cents: int) -> str:
    done["pay"] += 1
    return f"sent {cents}"


@tool(effect="irreversible", timeout=300)
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    done["slow"] += 1
    return "at last"


def make_machine(check: float | None = None, paying: float | None = None, to: S = S.DECLINED) -> StateMachine[S, E]:
    return StateMachine(
        S.CHECK,
        {
            S.CHECK: State(
                tools=[order, slow],
                on={E.OWED: S.PAY, E.NOT_OWED: S.DECLINED, E.AGAIN: S.CHECK},
                timeout=(check, to) if check else None,
            ),
            S.PAY: State(
                tools=[pay, note],
                on={E.SENT: S.PAID, E.REFUSED: S.DECLINED, E.AGAIN: S.CHECK},
                timeout=(paying, S.DECLINED) if paying else None,
            ),
            S.PAID: State(),
            S.DECLINED: State(),
        },
    )


REFUND = (
    calls(call("order", id="1042")),
    calls(call("move", event="owed")),
    calls(call("pay", cents=4000)),
    calls(call("move", event="sent")),
)


def make(says: Says, machine: Any = None, **options: Any) -> Agent[Any, Any]:
    return Agent("refunds", model=Acted(says), machine=machine or make_machine(), **options)


def model_of(agent: Agent[Any, Any]) -> Acted:
    assert isinstance(agent.model, Acted)
    return agent.model


def system_of(root: Any, store: MemoryStore | None = None, clock: SimClock | None = None) -> System:
    return System(root, journal=store or MemoryStore(), clock=clock or SimClock())


async def play(agent: Agent[Any, Any], *, yes: bool = True, text: str = "go") -> tuple[Any, list[Record]]:
    """Run to the end in virtual time, saying yes to everything; the result and the stream, which must replay."""
    async with system_of(agent) as system:
        result = await system.run(agent, text)
        while result.status == "waiting" and yes and system.approvals():
            await system.approve(result.pending[0], by="ana")
            result = await system.resume(result.run)
        records = await system.journal.read(result.run)
        assert replay(records, system.tree.policies).identical
        return result, records


def moves(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    return [(moved.source, moved.to, moved.event or moved.cause) for moved in events(records, ev.Moved)]


def events(records: Sequence[Record], kind: type[K]) -> list[K]:
    return [record.event for record in records if isinstance(record.event, kind)]


# --- what is offered ----------------------------------------------------------------------------------------


@pytest.mark.promise(70)
def test_the_model_is_offered_the_tools_and_events_of_the_present_state_and_the_general_tools() -> None:
    agent = make(script(*REFUND), tools=[now])
    result, _ = run(lambda: play(agent))
    assert (result.status, result.output, result.state) == ("complete", "paid", "paid")
    assert result.output == S.PAID
    checking, paying = ["now", "order", "slow", "move"], ["now", "pay", "note", "move"]
    assert model_of(agent).offers() == [checking, checking, paying, paying]
    ways = [json.dumps(request.tools[-1].parameters) for request in model_of(agent).seen]
    assert ['"enum": ["owed", "not_owed", "again"]' in way for way in ways] == [True, True, False, False]
    assert ['"enum": ["sent", "refused", "again"]' in way for way in ways] == [False, False, True, True]
    assert json.loads(told(model_of(agent).seen[2])[1]) == {
        "state": "pay",
        "tools": ["now", "pay", "note"],
        "events": ["sent", "refused", "again"],
    }


@pytest.mark.promise(70)
def test_calls_of_one_reply_are_judged_by_the_state_they_find() -> None:
    agent = make(script(calls(call("order", id="1"), call("move", event="owed"), call("pay", cents=1)), REFUND[3]))
    done.clear()
    result, records = run(lambda: play(agent))
    assert (result.output, done) == ("paid", {"order": 1, "pay": 1})
    assert moves(records) == [("", "check", "start"), ("check", "pay", "owed"), ("pay", "paid", "sent")]


@pytest.mark.promise(71)
@pytest.mark.parametrize(
    ("wrong", "allowed"),
    [
        (call("move", event="sent"), "state 'check' has no event 'sent'; its events: owed, not_owed, again"),
        (call("move", to="pay"), "unknown field `to`; its events: owed, not_owed, again"),
        (call("move"), "missing required field `event`; its events: owed, not_owed, again"),
        (call("pay", cents=1), "tool 'pay' is not offered in state 'check'; the tools of this state: order, slow"),
        (call("lay", cents=1), "there is no tool 'lay'; the tools are: order, slow"),
    ],
)
def test_an_illegal_transition_does_nothing_and_the_model_is_told_what_is_allowed(wrong: Any, allowed: str) -> None:
    agent = make(script(calls(wrong), *REFUND[1:]))
    done.clear()
    result, records = run(lambda: play(agent))
    assert (result.output, done) == ("paid", {"pay": 1})
    assert allowed in told(model_of(agent).seen[1])[0]
    assert len(events(records, ev.ToolRejected)) == 1


@pytest.mark.promise(71)
def test_illegal_transitions_count_as_errors_for_the_loop_guard() -> None:
    wrong = calls(call("move", event="sent"))
    agent = make(lambda request: wrong, loops=Loops(Same(3), ladder=[Nudge(), Stop()]))
    result, records = run(lambda: play(agent))
    assert result.status == "stopped"
    assert [type(judged.verdict.response) for judged in events(records, ev.Judged)] == [Nudge, Stop]
    other = ("sent", "refused", "sent", "refused")
    agent = make(
        lambda request: calls(call("move", event=other[turns(request) % 4])), loops=Loops(Errors(4), ladder=[Stop()])
    )
    assert run(lambda: play(agent))[0].status == "stopped"


def test_going_round_in_circles_through_states_is_a_loop_too() -> None:
    def says(request: ModelRequest) -> ModelReply:
        return calls(call("move", event="again" if turns(request) % 2 else "owed"))

    result, _ = run(lambda: play(make(says, loops=Loops(Same(3), ladder=[Stop()]))))
    assert result.status == "stopped"


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.promise(72)
def test_in_a_final_state_an_agent_with_an_output_type_is_asked_for_it_and_offered_no_tool() -> None:
    agent = make(script(*REFUND, words('{"text": "paid 40"}')), output=Answer, tools=[now])
    result, _ = run(lambda: play(agent))
    assert (result.status, result.output, result.state) == ("complete", Answer("paid 40"), "paid")
    requests = model_of(agent).seen
    assert [request.output_schema is not None for request in requests] == [False] * 4 + [True]
    assert requests[-1].tools == ()


@pytest.mark.promise(72)
def test_a_tool_called_in_a_final_state_is_refused_and_the_answer_still_taken() -> None:
    agent = make(
        script(calls(call("move", event="not_owed"), call("order", id="1")), words('{"text": "no"}')), output=Answer
    )
    done.clear()
    result, _ = run(lambda: play(agent))
    assert (result.output, result.state, done) == (Answer("no"), "declined", {})
    assert "state 'declined' is final" in told(model_of(agent).seen[1])[1]


@pytest.mark.promise(72)
def test_an_answer_in_a_state_that_is_not_final_is_none_and_each_state_has_its_own_repairs() -> None:
    talk = words("I think it is owed")
    agent = make(script(talk, talk, REFUND[1], talk, talk, REFUND[2], REFUND[3]), loops=Loops(Same(9)))
    result, records = run(lambda: play(agent))
    assert result.output == "paid"
    assert [rejected.repairs for rejected in events(records, ev.OutputRejected)] == [1, 2, 1, 2]
    assert (
        model_of(agent)
        .seen[1]
        .messages[-1]
        .content.endswith("Call move when one of its events has happened: owed, not_owed, again.")
    )
    agent = make(script(talk), loops=Loops(Same(9)))
    result, _ = run(lambda: play(agent))
    assert (result.status, result.state) == ("failed", "check")
    assert "an answer in state 'check', which is not final, after 2 repairs" in result.reason


# --- time ---------------------------------------------------------------------------------------------------


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


# --- the journal --------------------------------------------------------------------------------------------


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


async def cut(records: list[Record], length: int) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    await store.write(rows_of(records[:length]), [1.0] * length)
    return store


def rows_of(records: Sequence[Record]) -> list[Row]:
    rows: list[Row] = []
    crc = 0
    for record in records:
        payload = ev.encode(record)
        crc = chain(crc, record.run, record.seq, payload)
        rows.append(Row(record.run, record.seq, payload, len(payload), crc))
    return rows


# --- beside other things ------------------------------------------------------------------------------------


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


def test_a_handoff_leaves_the_machine_behind_and_begins_that_of_the_next_agent() -> None:
    writer = Agent(
        "writer",
        model=Acted(script(calls(call("move", event="not_owed")), words('{"type": "Draft", "text": "d"}'))),
        machine=make_machine(check=100),
        accepts=Ticket,
        output=Draft,
    )
    reviewer = Agent(
        "reviewer",
        model=Acted(
            script(calls(call("move", event="owed")), calls(call("move", event="sent")), words('{"text": "t"}'))
        ),
        machine=make_machine(paying=100),
        accepts=Draft,
    )
    plain = Agent("plain", model=Acted(script(words('{"text": "p"}'))), accepts=Draft)

    async def main() -> None:
        for to, state in ((reviewer, "paid"), (plain, "")):
            desk = Supervisor("desk", [writer, ChildSpec(to)], routes=[Route(Draft, to=to)])
            async with system_of(desk) as system:
                result = await system.ref(writer).ask(Ticket("late"))
                assert (result.status, result.state) == ("complete", state)
                assert replay(await system.journal.read(result.run), system.tree.policies).identical

    run(main)


def test_a_delegate_with_a_machine_answers_with_its_final_state() -> None:
    clerk = make(script(calls(call("move", event="not_owed"))))
    boss = Agent("boss", model=Acted(script(calls(call("refunds", text="check")), words("told"))), delegates=[clerk])

    async def main() -> None:
        async with system_of(Supervisor("desk", [boss, clerk])) as system:
            result = await system.run(boss, "go")
            assert (result.output, result.state) == ("told", "")
            assert '"output":"declined"' in told(model_of(boss).seen[1])[0]

    run(main)


def test_instructions_may_depend_on_the_state() -> None:
    agent = make(script(*REFUND[1:]), instructions=lambda ctx: f"You are in {ctx.state}.")
    run(lambda: play(agent))
    told_ = [request.messages[0].content for request in model_of(agent).seen]
    assert told_ == ["You are in check.", "You are in pay.", "You are in pay."]


class Clash(Enum):
    A = "a"
    B = 1


@pytest.mark.parametrize(
    ("machine", "options", "told_"),
    [
        (object(), {}, r"agent 'refunds': machine= takes a StateMachine, not <object"),
        (StateMachine(S.PAID, {S.PAID: State()}), {}, r"its machine begins in the final state 'paid'"),
        (
            StateMachine(S.CHECK, {S.CHECK: State(on={E.AGAIN: S.PAY}), S.PAY: State(on={E.AGAIN: S.CHECK})}),
            {},
            r"no final state, a State\(\) without rows, can be reached from 'check', 'pay'",
        ),
        (make_machine(), {"tools": [tool(effect="read", name="move")(lambda: "")]}, r"named 'move', which its machine"),
        (make_machine(), {"tools": [tool(effect="read", name="pay")(lambda: "")]}, r"two tools .* named 'pay'"),
        (
            StateMachine(S.CHECK, {S.CHECK: State(tools=[S.PAY], on={E.OWED: S.PAID}), S.PAID: State()}),
            {},
            r"a state offers <S.PAY: 'pay'>, which is not a tool",
        ),
    ],
)
def test_a_machine_that_no_agent_can_follow_is_refused(machine: Any, options: Any, told_: str) -> None:
    with pytest.raises(SpecError, match=told_):
        make(script(), machine, **options)


def test_the_approval_policy_of_a_states_tool_is_checked_as_any() -> None:
    with pytest.raises(SpecError, match=r"tool 'pay'"):
        System(make(script(), approvals=Approvals(by={"others": ["ana"]})))


def test_a_state_that_the_code_does_not_know_any_more_ends_the_run_as_failed() -> None:
    agent = make(script(*REFUND[1:]))

    async def main() -> None:
        store = MemoryStore()
        async with system_of(agent, store) as system:
            name = (await system.run(agent, "go")).run
        fewer = StateMachine(S.CHECK, {S.CHECK: State(on={E.OWED: S.PAID}), S.PAID: State()})
        other = make(script(*REFUND), fewer, tools=[pay])
        async with system_of(other, store) as system:
            await system.approve(system.approvals()[0], by="ana")
            result = await system.resume(name)
            assert (result.status, result.reason) == ("failed", "its machine has no state 'pay' any more")

    run(main)
