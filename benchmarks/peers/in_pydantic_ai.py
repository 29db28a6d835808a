"""Pydantic AI: its function model, one agent for all runs, limits by `UsageLimits`, C12 by a history processor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from pydantic_ai import Agent, Tool, UsageLimitExceeded, UsageLimits  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.capabilities import ProcessHistory  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.messages import (  # type: ignore[import-not-found, unused-ignore]
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import FunctionModel  # type: ignore[import-not-found, unused-ignore]
from pydantic_ai.usage import RequestUsage, RunUsage  # type: ignore[import-not-found, unused-ignore]

from benchmarks import scripts
from benchmarks.case import Case, Found, NotSupported
from benchmarks.peers.agents import ENOUGH, Asked, Limited, Model, as_text, overspent, program_for
from benchmarks.reference import oracle
from benchmarks.scripts import TEAM, Said
from benchmarks.talk import Heard, Texts, Trimmer

RESERVE = 100
"""Tokens of a budget that may be left."""
VERSION = f"pydantic-ai-slim {version('pydantic-ai-slim')}"


def response(said: Said, number: int, tokens: int = 20) -> Any:
    """What a script says, as a response."""
    usage = RequestUsage(input_tokens=20, output_tokens=tokens)
    if isinstance(said, str):
        return ModelResponse(parts=[TextPart(said)], usage=usage)
    return ModelResponse(parts=[ToolCallPart(said[0], said[1], tool_call_id=f"c{number}")], usage=usage)


def asked(messages: Sequence[Any], info: Any) -> Asked:
    """The conversation: a request, then a call and its result for every step."""
    return Asked(messages[0].parts[-1].content, len(messages) // 2, text_of(messages[-1]), info.instructions or "")


def text_of(message: Any) -> str:
    """The text of a message's first part, "" for a call."""
    return _text(message.parts[0])


def _text(part: Any) -> str:
    return str(getattr(part, "content", ""))


def split(messages: Sequence[Any]) -> list[Any]:
    """The messages with one part each: a summary was joined with what stands before or after it."""
    return [
        each
        for message in messages
        for each in ([message] if len(message.parts) == 1 else [ModelRequest(parts=[part]) for part in message.parts])
    ]


def summary_of(text: str) -> Any:
    """A summary as a message."""
    return ModelRequest(parts=[UserPromptPart(text)])


class Api:
    """See `agents.AgentApi`."""

    def tool(self, work: scripts.Tool) -> Any:
        return Tool(as_text(work))

    def model(self, model: Model) -> Any:
        async def complete(messages: list[Any], info: Any) -> Any:
            heard = asked(messages, info)
            return response(model(heard), heard.results)

        return FunctionModel(complete)

    def agent(self, model: Any, tools: Sequence[Any], instructions: str = "") -> Any:
        return Agent(model, tools=tools, instructions=instructions or None)

    async def run(self, agent: Any, request: str, turns: int | None = ENOUGH) -> str:
        limits = None if turns is None else UsageLimits(request_limit=turns)
        try:
            return str((await agent.run(request, usage_limits=limits)).output)
        except UsageLimitExceeded as error:
            raise Limited(str(error)) from error

    async def talk(self, case: Case, texts: Texts, heard: Heard) -> int:
        """A run of many calls, or a run for each request that is given the messages of the one before."""
        tools = case.line == "steps"
        trimmer = Trimmer(texts, lead=int(tools), tail=int(not tools))

        async def process(messages: list[Any]) -> list[Any]:
            return trimmer.trim(split(messages), text_of, summary_of) or messages

        async def complete(messages: list[Any], info: Any) -> Any:
            turn = len(heard.at)
            heard.hear([_text(part) for message in messages for part in message.parts])
            call = tools and turn < len(texts.texts)
            made = response(("turn", {"number": turn}) if call else "noted", turn)
            heard.done()
            return made

        async def turn(number: int) -> str:
            return texts.texts[number]

        limits = UsageLimits(request_limit=None)
        turns = [Tool(turn)] if tools else []
        case.start()
        made = Agent(FunctionModel(complete), tools=turns, capabilities=[ProcessHistory(process)])
        history: list[Any] = []
        for text in ["begin"] if tools else texts.texts:
            history = (await made.run(text, message_history=history, usage_limits=limits)).all_messages()
        case.stop()
        return trimmer.compactions

    async def budget(self, case: Case) -> Found:
        """Runs share a usage object, and with it a limit: the whole tree one, or each team its own."""
        if case.line not in ("tree", "teams"):
            raise NotSupported("no such reservation")
        n, each = case.args
        cost, billed = oracle().cost, list[int]()

        async def complete(messages: list[Any], info: Any) -> Any:
            heard = asked(messages, info)
            i, k = int(heard.request), heard.results
            await asyncio.sleep(0)
            tokens = cost(i, k) if k < each else 0
            billed.append(tokens)
            return response(scripts.say(i, k, each, heard.last), k, tokens)

        async def one(i: int) -> bool:
            usage, limit = shared[i // size]
            limits = UsageLimits(output_tokens_limit=limit, request_limit=None)
            try:
                await made.run(str(i), usage=usage, usage_limits=limits)
            except UsageLimitExceeded:
                return False
            return True

        size = TEAM if case.line == "teams" else n
        groups = [range(at, min(at + size, n)) for at in range(0, n, size)]
        shared = [(RunUsage(), sum(cost(i, k) for i in group for k in range(each)) * 60 // 100) for group in groups]
        case.start()
        made = Agent(FunctionModel(complete), tools=[self.tool(scripts.work_of(0))])
        complete_runs = await asyncio.gather(*(one(i) for i in range(n)))
        case.stop()
        pools = [(usage.output_tokens, limit) for usage, limit in shared]
        overspent(pools)
        return {
            "within": True,
            "overspend": 0,
            "spent_is_billed": sum(spent for spent, _ in pools) == sum(billed),
            "reserved": 0,
            "others": [],
            "breached": [],
            "refused_some": not all(complete_runs),
            "unspent_below_reserve": all(limit - spent < RESERVE for spent, limit in pools),
        }


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    return program_for(Api(), case)
