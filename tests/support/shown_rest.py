"""A tree for each guard that is neither budget nor loop rule, see `shown`."""

from __future__ import annotations

import asyncio
import contextlib
from enum import StrEnum
from typing import Any

from shown_cast import ORDER, Answer, Question, carrier, clerk, order, pay, says, shown

from understudy import (
    Agent,
    Approvals,
    Call,
    ChildSpec,
    ContextWindow,
    Intensity,
    Loops,
    Prompt,
    Restart,
    Same,
    State,
    StateMachine,
    Supervisor,
    System,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import AskTimeout, Overloaded
from understudy.actors.testing.scripted_model import ScriptedModel, Step, call
from understudy.actors.testing.simloop import SimClock

# --- answers ----------------------------------------------------------------------------------------------------


# The options are an agent's own.
def desk(*steps: object, **options: Any) -> Supervisor:
    return Supervisor("desk", [clerk(steps, **options)])


@shown()
def repairs() -> Supervisor:
    return desk("It is on its way.", '{"txt": "on its way"}', '{"text": 7}', output=Answer)


@shown("Where are the five parcels?")
def repairs_of_a_run() -> Supervisor:
    packer = Agent("packer", model=says(*_packed()), accepts=Question, checks=[says_where])
    halls = [call("packer", text=f"parcel {number}?") for number in range(5)]
    lead = clerk([*halls, "Four of five were found."], tools=[order], delegates=[packer])
    return Supervisor("desk", [lead, packer], loops=None)


def says_where(answer: str) -> str | None:
    return None if "hall" in answer else "say in which hall"


def _packed() -> list[str]:
    return [said for number in range(5) for said in ("It is here.", "It is there.", f"In hall {number}.")]


@shown()
def placeholder() -> Supervisor:
    return desk(Answer("TODO"), Answer("..."), Answer("<answer>"), output=Answer)


def cites(answer: Answer) -> str | None:
    return None if answer.sources else "name at least one source"


@shown()
def check() -> Supervisor:
    return desk(
        *[Answer(text) for text in ("In hall 6.", "In hall 6, I am sure.", "Hall 6.")], output=Answer, checks=[cites]
    )


async def in_stock(answer: Answer) -> str | None:
    raise ConnectionRefusedError("stock.example refused the connection")


@shown()
def check_skipped() -> Supervisor:
    return desk(Answer("A new lamp is on its way."), output=Answer, checks=[in_stock])


# --- tools ------------------------------------------------------------------------------------------------------


@tool(effect="read", timeout=5)
async def slow(parcel: str) -> str:
    """Ask a carrier who does not answer."""
    await asyncio.sleep(600)
    return "on its way"


@tool(effect="read", timeout=600, idle=20)
async def halls(call: Call, parcel: str) -> str:
    """Walk the halls, and stand still in the third."""
    for number in range(3):
        call.progress(f"looked into hall {number}")
        await asyncio.sleep(10)
    await asyncio.sleep(600)
    return "found"


@tool(effect="irreversible", timeout=5)
async def refund(order: str, cents: int) -> str:
    """Pay back through a bank that does not answer."""
    await asyncio.sleep(600)
    return "sent"


@shown("Where is parcel 7?")
def tool_timeout() -> Supervisor:
    return desk(call("slow", parcel="7"), "The carrier does not answer.", tools=[slow])


@shown("Where is parcel 7?")
def tool_idle() -> Supervisor:
    return desk(call("halls", parcel="7"), "It is not in the first two halls.", tools=[halls])


@shown()
def in_doubt() -> Supervisor:
    return desk(call("refund", order="1042", cents=4_000), "Paid back.", tools=[refund])


# --- window, models ----------------------------------------------------------------------------------------------


@shown()
def context() -> Supervisor:
    rules = " ".join(f"Rule {number}: be polite." for number in range(60))
    return desk("Sorry.", window=ContextWindow(400, pins=[rules]))


@shown()
def model_tries() -> Supervisor:
    return desk(*[Overloaded("503 the model is overloaded")] * 3, "Sorry.")


@shown()
def fallback() -> Supervisor:
    spare = ScriptedModel(["Please send it back."], name="spare")
    return desk(*[Step("too late", seconds=300)] * 3, fallback=spare)


# --- people ------------------------------------------------------------------------------------------------------


@tool(effect="irreversible", approve="finance")
async def payout(order: str, cents: int) -> str:
    """Pay a customer back, with a yes."""
    return f"sent {cents}"


async def _nobody_answers(system: System, clock: SimClock) -> None:
    result = await system.ref("clerk").ask(Prompt(ORDER))
    clock.jump(48 * 3_600)
    while result.status == "waiting":
        await asyncio.sleep(1)
        result = await system.result(result.run)


@shown(_nobody_answers)
def approval_expired() -> Supervisor:
    steps = [call("payout", order="1042", cents=4_000), "Nobody could approve it yet; please write again."]
    return desk(*steps, tools=[payout], approvals=Approvals(expires=48 * 3_600, by={"finance": ["ana", "li"]}))


async def _asker_leaves(system: System, clock: SimClock) -> None:
    with contextlib.suppress(AskTimeout):
        await system.ref("clerk").ask(Prompt(ORDER), timeout=20)
    while system.unfinished():  # noqa: ASYNC110  # virtual time
        await asyncio.sleep(1)


@shown(_asker_leaves)
def abandoned() -> Supervisor:
    return desk(*[call("carrier", parcel=str(number)) for number in range(9)], tools=[carrier])


# --- supervision -------------------------------------------------------------------------------------------------


class Broken(ScriptedModel):
    """A model whose adapter has a bug."""

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        raise KeyError("choices")


def broken(intensity: Intensity | None = None, own: Intensity | None = None) -> Supervisor:
    agent = Agent("clerk", model=Broken([]), instructions="You help.")
    return Supervisor("desk", [ChildSpec(agent, intensity=own)], intensity=intensity or Intensity())


@shown()
def intensity() -> Supervisor:
    return broken()


@shown()
def own_intensity() -> Supervisor:
    return broken(Intensity(20, within=60), Intensity(1, within=60))


@shown()
def attempts() -> Supervisor:
    return broken(Intensity(20, within=600))


@shown()
def restarted_too_often() -> Supervisor:
    steps = [call("order", id="1042")] * 20
    return Supervisor("desk", [clerk(steps)], loops=Loops(Same(3), ladder=[Restart()]))


# --- state machines ----------------------------------------------------------------------------------------------


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


machine = StateMachine(
    S.CHECK,
    {
        S.CHECK: State(
            tools=[order, slow, carrier], on={E.OWED: S.PAY, E.NOT_OWED: S.DECLINED}, timeout=(20, S.DECLINED)
        ),
        S.PAY: State(tools=[pay], on={E.SENT: S.PAID, E.REFUSED: S.DECLINED}),
        S.PAID: State(),
        S.DECLINED: State(),
    },
)


def refunds(*steps: object) -> Supervisor:
    return Supervisor("desk", [Agent("clerk", model=says(*steps), machine=machine)])


@shown()
def illegal_transition() -> Supervisor:
    wrong = [call("pay", order="1042", cents=4_000), call("move", event="sent"), call("move", event="refused")]
    return refunds(*wrong * 3)


@shown()
def state_timeout() -> Supervisor:
    return refunds(*[call("carrier", parcel=str(number)) for number in range(5)])


@shown()
def early_answer() -> Supervisor:
    return refunds(*["The customer was paid back."] * 4)
