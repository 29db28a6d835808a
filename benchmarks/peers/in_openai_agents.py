"""OpenAI Agents: a model of our own, tracing off, one agent for all runs; C12 by a session that shortens itself."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from agents import (  # type: ignore[import-not-found, unused-ignore]
    Agent,
    MaxTurnsExceeded,
    ModelResponse,
    Runner,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from agents import Model as BaseModel
from openai.types.responses import (  # type: ignore[import-not-found, unused-ignore]
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)

from benchmarks import scripts
from benchmarks.case import Case, Found, NotSupported
from benchmarks.peers.agents import ENOUGH, Asked, Limited, Model, program_for
from benchmarks.scripts import Said
from benchmarks.talk import Heard, Texts, Trimmer

set_tracing_disabled(True)
VERSION = f"openai-agents {version('openai-agents')}"


def response(said: Said, number: int) -> Any:
    """What a script says, as a response."""
    if isinstance(said, str):
        text = ResponseOutputText(text=said, type="output_text", annotations=[])
        out: Any = ResponseOutputMessage(
            id=f"m{number}", role="assistant", status="completed", type="message", content=[text]
        )
    else:
        out = ResponseFunctionToolCall(
            call_id=f"c{number}", name=said[0], arguments=json.dumps(said[1]), type="function_call"
        )
    usage = Usage(requests=1, input_tokens=20, output_tokens=20, total_tokens=40)
    return ModelResponse(output=[out], usage=usage, response_id=None)


def text_of(item: Any) -> str:
    """The text of an item of the input, "" for a call."""
    content = item.get("content", item.get("output", ""))
    return content if isinstance(content, str) else str(content[0]["text"])


class Scripted(BaseModel):  # type: ignore[misc, unused-ignore]
    """A model that is a function of the items it is given."""

    def __init__(self, complete: Callable[[list[Any], str], Any]) -> None:
        self._complete = complete

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **settings: Any) -> Any:
        return self._complete(input, system_instructions or "")

    def stream_response(self, *args: Any, **settings: Any) -> Any:
        raise NotImplementedError


class Shortened:
    """A session that keeps items in memory, shortened when one more turn would be too much."""

    session_id = "talk"
    session_settings = None

    def __init__(self, trimmer: Trimmer) -> None:
        self._trimmer = trimmer
        self._items: list[Any] = []

    async def get_items(self, limit: int | None = None) -> list[Any]:
        shorter = self._trimmer.trim(self._items, text_of, lambda text: {"role": "user", "content": text})
        self._items = shorter or self._items
        return self._items[-limit:] if limit else list(self._items)

    async def add_items(self, items: list[Any]) -> None:
        self._items.extend(items)

    async def pop_item(self) -> Any:
        return self._items.pop() if self._items else None

    async def clear_session(self) -> None:
        self._items.clear()


class Api:
    """See `agents.AgentApi`."""

    def tool(self, work: scripts.Tool) -> Any:
        return function_tool(work)

    def model(self, model: Model) -> Any:
        def complete(items: list[Any], told: str) -> Any:
            asked = Asked(items[0]["content"], len(items) // 2, text_of(items[-1]), told)
            return response(model(asked), asked.results)

        return Scripted(complete)

    def agent(self, model: Any, tools: Sequence[Any], instructions: str = "") -> Any:
        return Agent("agent", model=model, tools=tools, instructions=instructions or None)

    async def run(self, agent: Any, request: str, turns: int | None = ENOUGH) -> str:
        limit = {} if turns is None else {"max_turns": turns}
        try:
            return str((await Runner.run(agent, request, **limit)).final_output)
        except MaxTurnsExceeded as error:
            raise Limited(str(error)) from error

    async def talk(self, case: Case, texts: Texts, heard: Heard) -> int:
        """A run for each request, in one session."""
        if case.line == "steps":
            raise NotSupported("a run keeps all its items; only a session can be shortened")
        trimmer = Trimmer(texts, tail=1)

        def complete(items: list[Any], told: str) -> Any:
            heard.hear([text_of(item) for item in items])
            made = response("noted", len(heard.at))
            heard.done()
            return made

        case.start()
        made, session = Agent("agent", model=Scripted(complete)), Shortened(trimmer)
        for text in texts.texts:
            await Runner.run(made, text, session=session)
        case.stop()
        return trimmer.compactions

    async def budget(self, case: Case) -> Found:
        raise NotSupported("no budgets")


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    return program_for(Api(), case)
