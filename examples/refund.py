"""A refund as a state machine, with a person's yes: it is checked, then paid once, or declined.

The run waits in the journal for the yes, as long as it takes, and is finished after it. What may be called depends on
the state, and the model moves from one to the next by `move`, which offers the events of the present state alone.
"""

import asyncio
from enum import StrEnum

from understudy import Agent, Approvals, Call, OpenAIChat, State, StateMachine, System, tool


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
    """Look up one order by its number."""
    return "1 lamp, 40.00, arrived broken"


@tool(effect="irreversible", approve="finance")
async def pay(call: Call, order: str, cents: int) -> str:
    """Pay money back for an order."""
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
    model=OpenAIChat("gpt-5-mini"),
    machine=machine,
    instructions="Refund what is owed, once.",
    approvals=Approvals(expires=48 * 3600, by={"finance": ["ana", "li"]}),
)


async def main() -> None:
    async with System(refunds, journal="refunds.db") as system:
        result = await system.run(refunds, "Order 1042 arrived broken.")
        if result.status == "waiting":  # or `understudy approve ID --by ana`, days later, elsewhere
            await system.approve(result.pending[0], by="ana")
            result = await system.resume(result.run)
        print(result.status, result.output)


if __name__ == "__main__":
    asyncio.run(main())
