"""Agents with a state machine: what they may do, how they move, how they end, and what stands beside them."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest
from acted import Acted, call, calls, script, told, turns, words
from refunds import (
    REFUND,
    Answer,
    E,
    S,
    done,
    events,
    make,
    make_machine,
    model_of,
    moves,
    now,
    pay,
    play,
    system_of,
)

from understudy import (
    Agent,
    Approvals,
    ChildSpec,
    Errors,
    Loops,
    Message,
    Nudge,
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
from understudy.actors.errors import SpecError
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.simloop import run
from understudy.supervisors.specs import Route

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
