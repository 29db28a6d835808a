"""One agent, one tool, one question. Needs OPENAI_API_KEY, or OPENAI_BASE_URL of a server that speaks its protocol."""

import asyncio

from msgspec import Struct

from understudy import Agent, OpenAIChat, tool


class Answer(Struct):
    text: str
    ships_on: str | None = None


@tool(effect="read", timeout=10)
async def order(id: str) -> dict[str, str]:
    """Look up one order by its number."""
    return {"id": id, "state": "packed", "ships_on": "2026-12-01"}


support = Agent("support", model=OpenAIChat("gpt-5-mini"), tools=[order], output=Answer, instructions="Be brief.")

if __name__ == "__main__":
    result = asyncio.run(support.run("Where is order 1042?"))
    print(result.status, result.output, result.spend, result.reason)
