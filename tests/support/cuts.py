"""Trees whose models go by the conversation, so that a run ends the same however often its process is killed.

A simulated model takes its next decision at each call, and after a kill a call is made again. Here the nth answer is a
function of what the model is shown: `Scripted` puts that in the place of what `play` draws.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from acted import turns
from msgspec import Struct

from understudy import (
    Agent,
    Approvals,
    Backoff,
    Budget,
    Call,
    ChildSpec,
    Message,
    OpenAIChat,
    Price,
    Prompt,
    Result,
    Route,
    State,
    StateMachine,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall
from understudy.actors.agents.results import Waiting
from understudy.actors.testing.sim_model import SimModel

Script = Sequence[ModelReply]
model: Final = OpenAIChat("gpt-5-mini", api_key="k", price=Price(250_000, 2_000_000))


def say(text: str) -> ModelReply:
    return ModelReply(text)


def do(*calls: tuple[str, dict[str, object]]) -> ModelReply:
    made = tuple(ToolCall(f"c{n}", name, json.dumps(arguments)) for n, (name, arguments) in enumerate(calls))
    return ModelReply(calls=made, finish="tool_calls")


@dataclass(frozen=True)
class Case:
    """A tree, what it is sent, what its models say, and the tools that must not take effect twice."""

    tree: Supervisor | Agent[Any, Any]
    message: Message[Any] | str | Callable[[System], Any]
    scripts: Mapping[str, Script]
    once: tuple[str, ...] = ()


def drawn(scripts: Mapping[str, Script]) -> Callable[[SimModel, ModelRequest], ModelReply | None]:
    """For `SimModel._drawn`."""

    def answer(self: SimModel, request: ModelRequest) -> ModelReply:
        script = scripts[self.agent]
        return script[min(turns(request), len(script) - 1)]

    return answer


# --- every effect, two approvals, recorded steps ---------------------------------------------------------------------


@tool(effect="read", timeout=5)
async def look(id: int) -> int:
    return id * 2


@tool(effect="idempotent", timeout=5)
async def mark(id: int) -> bool:
    return True


@tool(effect="keyed", timeout=5, approve="boss")
async def ship(call: Call, id: int) -> str:
    return f"shipped {id}"


@tool(effect="verifiable", timeout=5)
async def book(id: int) -> str:
    return f"booked {id}"


@book.verify
async def booked(id: int) -> bool | None:
    return None  # cannot be told: a person says


@tool(effect="irreversible", timeout=5, approve="boss")
async def send(id: int) -> str:
    return f"sent {id}"


@tool(effect="idempotent", timeout=5)
async def long(call: Call, id: int) -> list[int]:
    return [await call.step(f"part {n}", functools.partial(int, id + n)) for n in range(2)]


keeper = Agent(
    "keeper",
    model=model,
    tools=[look, mark, ship, book, send, long],
    approvals=Approvals(expires=600, by={"boss": ["bo"]}),
    budget=Budget(tool_calls=40, model_calls=40),
)
store = Supervisor("store", [keeper], budget=Budget(steps=60), backoff=Backoff(first=0.2, cap=5.0))
ACTS: Final = (
    do(("look", {"id": 1}), ("look", {"id": 2})),
    do(("mark", {"id": 1}), ("ship", {"id": 1})),
    do(("book", {"id": 1})),
    do(("send", {"id": 1})),
    do(("long", {"id": 1}), ("look", {"id": 3})),
    say("all is done"),
)


# --- a machine whose states move by the model, by a yes, and by the clock alone ---------------------------------------


class S(StrEnum):
    CHECK = "check"
    PAY = "pay"
    COOL = "cool"
    PAID = "paid"


class E(StrEnum):
    OWED = "owed"
    SENT = "sent"


@tool(effect="irreversible", timeout=5, approve="finance")
async def pay(cents: int) -> str:
    return f"paid {cents}"


machine = StateMachine(
    S.CHECK,
    {
        S.CHECK: State(tools=[look], on={E.OWED: S.PAY}),
        S.PAY: State(tools=[pay], on={E.SENT: S.COOL}),
        S.COOL: State(timeout=(90, S.PAID)),
        S.PAID: State(),
    },
)
refunds = Agent("refunds", model=model, machine=machine, approvals=Approvals(expires=3_600, by={"finance": ["ana"]}))
REFUNDS: Final = (
    do(("look", {"id": 1})),
    do(("move", {"event": "owed"})),
    do(("pay", {"cents": 4_000})),
    do(("move", {"event": "sent"})),
    say("paid"),
)


# --- delegation to a pool, a hand-over, a yes far below ---------------------------------------------------------------


class Report(Struct, frozen=True):
    text: str


class Question(Message[Result[Report]]):
    text: str


class Task(Message[Result[Report]]):
    about: str


class Draft(Message[Result[Report]]):
    text: str


helper = Agent(
    "helper",
    model=model,
    accepts=Task,
    output=Report,
    tools=[look, ship],
    approvals=Approvals(expires=600, by={"boss": ["bo"]}),
    budget=Budget(steps=20),
)
reviewer = Agent("reviewer", model=model, accepts=Draft, output=Report, tools=[mark])
chief = Agent("chief", model=model, accepts=Question, output=Draft, delegates=[helper], tools=[mark])
office = Supervisor(
    "office",
    [ChildSpec(helper, count=2), reviewer, chief],
    routes=[Route(Draft, to=reviewer)],
    budget=Budget(steps=80),
    backoff=Backoff(first=0.1, cap=2.0),
)
OFFICE: Final = {
    "chief": (
        do(("helper", {"about": "lamps"}), ("helper", {"about": "chairs"}), ("mark", {"id": 1})),
        say('{"text": "a draft"}'),
    ),
    "helper": (do(("look", {"id": 1})), do(("ship", {"id": 7})), say('{"text": "found"}')),
    "reviewer": (do(("mark", {"id": 2})), say('{"text": "reviewed"}')),
}


# --- runs one after another, a session, and a pruning between them ----------------------------------------------------


clerk = Agent("clerk", model=model, tools=[mark], budget=Budget(steps=50, per="life"))
CLERK: Final = (do(("mark", {"id": 1})), say("done"))


async def prune_between(system: System) -> object:
    """Three runs, the first two pruned before the third; called again in each process."""
    agent = system.tree.policies["clerk"].agent
    runs = [head.run for head in await system.journal.store.heads() if not head.run.startswith("@")]
    ended: list[str] = []
    for run in runs:
        result: Result[Any] = await system.result(run)
        ended.append((await system.resume(run) if isinstance(result, Waiting) else result).status)
    pruned = [head for head in await system.journal.store.heads() if head.run == "@pruned"]
    if not pruned:
        while len(ended) < 2:
            ended.append((await system.run(agent, Prompt(f"number {len(ended)}"))).status)
        assert set(ended) == {"complete"}
        await system.prune(ended_before=0)
        ended = []
    while len(ended) < 2:
        ended.append((await system.run(agent, Prompt("after"), session="s")).status)
    return ended


# --- a yes that another process puts into the inbox -------------------------------------------------------------------


async def answered_from_outside(system: System) -> object:
    """A run whose yes comes through the inbox, as from `understudy approve` beside a live owner."""
    agent = system.tree.policies["keeper"].agent
    runs = [head.run for head in await system.journal.store.heads() if not head.run.startswith("@")]
    result: Result[Any] = await (system.resume(runs[0]) if runs else system.run(agent, Prompt("go")))
    for _ in range(10):
        if not isinstance(result, Waiting):
            break
        for doubt in system.doubts():
            await system.settle(doubt.id, did=True, by="bo")
        for asked in result.pending:
            word = json.dumps({"id": asked.id, "by": "bo", "digest": asked.digest}).encode()
            await system.journal.store.post("approve", word, system.kernel.clock.wall())
            await asyncio.sleep(1.0)  # virtual: the owner looks at its inbox meanwhile
        result = await system.resume(result.run)
    return result.status, result.output


CASES: Final[Mapping[str, Case]] = {
    "every effect": Case(store, "Parcel 1 is to leave.", {"keeper": ACTS}, ("ship", "book", "send")),
    "a machine": Case(refunds, "Order 1 arrived broken.", {"refunds": REFUNDS}, ("pay",)),
    "delegates": Case(office, Question("What is left?"), OFFICE, ("ship",)),
    "a pruning": Case(clerk, prune_between, {"clerk": CLERK}),
    "the inbox": Case(store, answered_from_outside, {"keeper": ACTS}, ("ship",)),
}
