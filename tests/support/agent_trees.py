"""Trees for property tests of the testing kit: small, and together they have every kind of guard, effect and hand-over.

`TREES` is by name; each case has the tree, the message that it is sent, and the tools that have effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from understudy import (
    Agent,
    Approvals,
    Backoff,
    Budget,
    Call,
    ChildSpec,
    Errors,
    Idle,
    Intensity,
    Loops,
    Message,
    Nudge,
    OpenAIChat,
    Price,
    Prompt,
    Restart,
    Result,
    Route,
    Same,
    State,
    StateMachine,
    Stop,
    Supervisor,
    Talk,
    Window,
    tool,
)

model: Final = OpenAIChat("gpt-5-mini", api_key="k", price=Price(250_000, 2_000_000))


@dataclass(frozen=True)
class Case:
    """A tree and what it is sent."""

    tree: Supervisor | Agent[Any, Any]
    message: Message[Any] | str


# --- the desk of the documents: a pool, a hand-over, a budget, a ladder ---------------------------------------------


class Answer(Struct, frozen=True):
    text: str


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


writer = Agent("writer", model=model, accepts=Ticket, output=Draft, instructions="Write a draft.")
reviewer = Agent("reviewer", model=model, accepts=Draft, instructions="Check facts and tone.")
desk = Supervisor(
    "desk",
    [reviewer, ChildSpec(writer, restart="transient", count=3)],
    strategy="rest_for_one",
    intensity=Intensity(5, within=60),
    backoff=Backoff(first=0.5, cap=30.0),
    budget=Budget(steps=200, tokens=400_000, usd=2.50, seconds=900),
    loops=Loops(Same(3) | (Errors(4) & Idle(8)), ladder=[Nudge(), Restart(temperature=1.0), Stop()]),
    routes=[Route(Ticket, to=writer, spread="least_busy"), Route(Draft, to=reviewer)],
)


# --- the refund of the documents: a machine, a yes, an irreversible effect ------------------------------------------


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


@tool(effect="read")
async def order(id: str) -> str:
    return "1 lamp, 40.00, arrived broken"


@tool(effect="irreversible", approve="finance")
async def pay(call: Call, order: str, cents: int) -> str:
    return f"sent {cents}, key {call.key}"


@pay.approve_when
def large(order: str, cents: int) -> bool:
    return cents > 2_000


machine = StateMachine(
    S.CHECK,
    {
        S.CHECK: State(tools=[order], on={E.OWED: S.PAY, E.NOT_OWED: S.DECLINED}, timeout=(120, S.DECLINED)),
        S.PAY: State(tools=[pay], on={E.SENT: S.PAID, E.REFUSED: S.DECLINED}),
        S.PAID: State(),
        S.DECLINED: State(),
    },
)
refunds = Agent(
    "refunds",
    model=model,
    machine=machine,
    approvals=Approvals(expires=48 * 3600, by={"finance": ["ana", "li"]}),
)


# --- every effect, some under approval, and a budget of calls -------------------------------------------------------


@tool(effect="read", timeout=5)
def look(id: int) -> dict[str, int]:
    return {"id": id, "stock": id % 7}


@tool(effect="idempotent", timeout=5, retries=1)
async def mark(id: int, note: str = "") -> bool:
    return True


@tool(effect="keyed", timeout=5, retries=1, approve="boss")
async def ship(call: Call, id: int) -> str:
    return f"shipped {id} as {call.key}"


@tool(effect="verifiable", timeout=5)
async def book(id: int) -> str:
    return f"booked {id}"


@book.verify
async def booked(id: int) -> bool | None:
    return None if id % 3 == 2 else False


@tool(effect="irreversible", timeout=5, approve="boss")
async def destroy(id: int) -> str:
    return f"destroyed {id}"


@tool(effect="irreversible", timeout=5)
async def notify(text: str) -> str:
    return "sent"


class Report(Struct, frozen=True):
    text: str
    count: int = 0


keeper = Agent(
    "keeper",
    model=model,
    tools=[look, mark, ship, book, destroy, notify],
    output=Report,
    max_tokens=200,
    budget=Budget(tool_calls=9, model_calls=20),
    approvals=Approvals(expires=600, by={"boss": ["bo"]}),
    instructions="Keep the store.",
)
store = Supervisor(
    "store",
    [ChildSpec(keeper, restart="permanent")],
    budget=Budget(steps=14, tokens=30_000, seconds=7_200),
    backoff=Backoff(first=0.2, cap=5.0),
    loops=Loops(Same(2) | Talk(2) | (Errors(2) & Idle(3)), ladder=[Nudge(), Restart(), Stop()]),
)


# --- delegation to a pool, budgets on both chains, for the run and for life ------------------------------------------


class Question(Message[Result[str]]):
    text: str


class Task(Message[Result[Report]]):
    about: str


helper = Agent(
    "helper",
    model=model,
    accepts=Task,
    output=Report,
    tools=[look, notify],
    max_tokens=100,
    budget=Budget(steps=4, tool_calls=3),
    instructions="Find out.",
)
chief = Agent(
    "chief",
    model=model,
    accepts=Question,
    delegates=[helper],
    tools=[mark],
    max_tokens=100,
    budget=Budget(steps=8, usd=0.5),
    instructions="Ask the helpers.",
)
team = Supervisor(
    "team",
    [ChildSpec(helper, count=2, restart="transient")],
    budget=Budget(steps=12, tokens=40_000, per="life"),
    loops=Loops(Same(3), ladder=[Nudge(), Stop()]),
)
office = Supervisor(
    "office",
    [team, chief],
    budget=Budget(steps=20, tokens=60_000, tool_calls=10, seconds=1_800),
    backoff=Backoff(first=0.1, cap=2.0),
)


# --- loops: a ladder that restarts before it nudges, a tool that fails, and little room ------------------------------


@tool(effect="read", timeout=5)
async def search(text: str) -> str:
    if len(text) > 3:
        raise ValueError(f"nothing found for {len(text)} letters")
    return "nothing"


@tool(effect="read", polling=True, timeout=5)
async def poll() -> str:
    return "not yet"


clerk = Agent(
    "clerk",
    model=model,
    tools=[search, poll, mark],
    output=Report,
    max_tokens=100,
    instructions="Search.",
    loops=Loops(Same(2) | Errors(3) | Idle(6) | Talk(2), ladder=[Restart(temperature=1.0), Nudge(), Stop()]),
    budget=Budget(steps=16),
)

# --- nothing but a gate ----------------------------------------------------------------------------------------------

porter = Agent(
    "porter",
    model=model,
    tools=[destroy],
    approvals=Approvals(expires=600, by={"boss": ["bo"]}),
    instructions="Ask before you destroy.",
    budget=Budget(steps=16),
)

# --- every limit of a budget: by tool, by direction, by the hour, of delegation, with something set aside ------------


@tool(effect="idempotent", timeout=5)
async def drill(depth: int) -> str:
    return f"drilled {depth}"


class Dig(Message[Result[Report]]):
    where: str


class Search(Message[Result[Report]]):
    what: str


digger = Agent("digger", model=model, accepts=Dig, output=Report, tools=[drill], max_tokens=60, instructions="Dig.")
scout = Agent(
    "scout", model=model, accepts=Search, output=Report, tools=[look], delegates=[digger], max_tokens=60, concurrency=2
)
head = Agent("head", model=model, output=Report, tools=[drill], delegates=[scout, digger], max_tokens=60)
shaft = Supervisor("shaft", [digger], budget=Budget(model_calls=4, output_tokens=400, per=Window(3_600)))
lab = Supervisor(
    "lab",
    [shaft, scout, head],
    budget=Budget(
        steps=14,
        tools={"drill": 2, "scout": 3},
        input_tokens=4_000,
        output_tokens=900,
        depth=1,
        fan_out=2,
        last_answer=1_200,
        warn=0.5,
    ),
    backoff=Backoff(first=0.1, cap=2.0),
)

TREES: Final[Mapping[str, Case]] = {
    "desk": Case(desk, Ticket("My parcel is late.")),
    "refunds": Case(refunds, Prompt("Order 1042 arrived broken.")),
    "store": Case(store, "Parcel 7 is to leave."),
    "office": Case(office, Question("How many lamps are left?")),
    "porter": Case(porter, "Away with 3 lamps."),
    "clerk": Case(clerk, "Find 3 lamps."),
    "lab": Case(lab, "Find 3 lamps."),
}


# --- at most one payment a run, by the budget of an agent whose only tool it is ---------------------------------------


class Amount(Message[Result[str]]):
    cents: int


@tool(effect="irreversible")
async def transfer(cents: int) -> str:
    return f"sent {cents}"


payer = Agent("payer", model=model, accepts=Amount, tools=[transfer], budget=Budget(tool_calls=1))
refunder = Agent("refunder", model=model, tools=[order], delegates=[payer])
till = Supervisor("till", [payer, refunder])
