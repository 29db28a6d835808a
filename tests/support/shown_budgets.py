"""A tree for each limit of a budget, see `shown`. Each function is an app: `--app shown_budgets:steps`."""

from __future__ import annotations

from shown_cast import Question, asked, carrier, clerk, order, says, shown

from understudy import Agent, Budget, Supervisor, Window
from understudy.actors.agents.models import ModelReply, Usage
from understudy.actors.testing.scripted_model import call

ORDERS = [call("order", id=str(number)) for number in range(1042, 1062)]
"""Calls that each bring something new, so that no loop is seen in them."""


def desk(*steps: object, budget: Budget, tools: object = None) -> Supervisor:
    found = [carrier] if tools == "carrier" else []
    return Supervisor("desk", [clerk(steps or ORDERS, tools=found)], budget=budget)


@shown()
def steps() -> Supervisor:
    return desk(budget=Budget(steps=3))


@shown()
def model_calls() -> Supervisor:
    return desk(budget=Budget(model_calls=2))


@shown()
def tool_calls() -> Supervisor:
    return desk(ORDERS[0], tuple(ORDERS[1:4]), budget=Budget(tool_calls=3))


@shown("Pay both orders back.")
def one_tool() -> Supervisor:
    first, second = call("pay", order="1042", cents=4_000), call("pay", order="1043", cents=2_500)
    return desk(first, second, "Both were paid back.", budget=Budget(tools={"pay": 1}))


@shown()
def tokens() -> Supervisor:
    return desk(budget=Budget(tokens=4_000))


@shown()
def input_tokens() -> Supervisor:
    return desk(budget=Budget(input_tokens=2_200))


@shown()
def output_tokens() -> Supervisor:
    return desk(budget=Budget(output_tokens=1_050))


@shown()
def usd() -> Supervisor:
    return desk(budget=Budget(usd=0.003))


@shown()
def seconds() -> Supervisor:
    calls = [call("carrier", parcel=str(number)) for number in range(8)]
    return desk(*calls, budget=Budget(seconds=20), tools="carrier")


@shown(asked("Where is order 1042?", "Where is order 1043?"))
def life() -> Supervisor:
    return desk(ORDERS[0], "In hall 6.", *ORDERS[1:], budget=Budget(steps=3, per="life"))


@shown(asked("Where is order 1042?", "Where is order 1043?"))
def window() -> Supervisor:
    return desk(ORDERS[0], "In hall 6.", *ORDERS[1:], budget=Budget(steps=3, per=Window(3_600)))


@shown()
def last_answer() -> Supervisor:
    steps = (*ORDERS[:2], "One lamp was packed in hall 6; nobody could look at the carrier's side.")
    return desk(*steps, budget=Budget(steps=3, last_answer=3_000))


@shown()
def breached() -> Supervisor:
    bill = ModelReply(calls=(ORDERS[0],), usage=Usage(900, 9_000))
    return desk(bill, *ORDERS, budget=Budget(tokens=8_000))


@shown("Which of the halls are full?")
def depth() -> Supervisor:
    porter = Agent("porter", model=says("Hall 6 is full."), accepts=Question, instructions="You walk the halls.")
    keeper = Agent(
        "keeper", model=says(call("porter", text="hall 6?"), "I could not ask."), accepts=Question, delegates=[porter]
    )
    lead = clerk(
        [call("keeper", text="Which halls are full?"), "Nobody could look."], tools=[order], delegates=[keeper]
    )
    return Supervisor("desk", [lead, keeper, porter], budget=Budget(depth=1))


@shown("Which of the halls are full?")
def fan_out() -> Supervisor:
    porter = Agent("porter", model=says("Half full.", "Empty."), accepts=Question, instructions="You walk the halls.")
    halls = [call("porter", text=f"hall {number}?") for number in (4, 5, 6)]
    lead = clerk([*halls, "Hall 4 is half full, hall 5 is empty."], tools=[order], delegates=[porter])
    return Supervisor("desk", [lead, porter], budget=Budget(fan_out=2))


@shown("Which of the halls are full?")
def of_a_delegate() -> Supervisor:
    porter = Agent("porter", model=says(*ORDERS), tools=[order], accepts=Question, budget=Budget(steps=2))
    lead = clerk([call("porter", text="hall 6?"), "I do not know."], tools=[order], delegates=[porter])
    return Supervisor("desk", [lead, porter])
