"""A refund that needs a person's yes: the run waits in the journal, as long as it takes, and is finished after it."""

import asyncio

from understudy import Agent, Approvals, Call, OpenAIChat, System, tool


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


refunds = Agent(
    "refunds",
    model=OpenAIChat("gpt-5-mini"),
    tools=[order, pay],
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
