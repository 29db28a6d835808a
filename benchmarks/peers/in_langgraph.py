"""LangGraph: a graph of two nodes, model and tool, compiled once for all runs; C12 has a third that trims. C6 is in
`approval_langgraph`.

The state of C2, C3 and C13 is four plain channels: a list of messages, which most programs would keep, costs more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any, TypedDict

from langchain_core.messages import (  # type: ignore[import-not-found, unused-ignore]
    AIMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)
from langgraph.checkpoint.memory import InMemorySaver  # type: ignore[import-not-found, unused-ignore]
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found, unused-ignore]
from langgraph.errors import GraphRecursionError  # type: ignore[import-not-found, unused-ignore]
from langgraph.graph import END, START, MessagesState, StateGraph  # type: ignore[import-not-found, unused-ignore]
from langgraph.graph.message import REMOVE_ALL_MESSAGES  # type: ignore[import-not-found, unused-ignore]

from benchmarks import approval, scripts
from benchmarks.case import Case, Found, NotSupported
from benchmarks.peers import agents
from benchmarks.peers.agents import ENOUGH, Asked, Limited, Model, as_text, program_for
from benchmarks.talk import Heard, Texts, Trimmer

VERSION = f"langgraph {version('langgraph')}"


class State(TypedDict):
    """The request, results so far, the last one, and what the model said."""

    request: str
    results: int
    last: str
    said: Any  # scripts.Said


def text_of(message: Any) -> str:
    """The text of a message."""
    return str(message.content)


def _after(state: State) -> str:
    return str(END) if isinstance(state["said"], str) else "tool"


def _called(state: MessagesState) -> str:
    return "tool" if state["messages"][-1].tool_calls else str(END)


class Api:
    """See `agents.AgentApi`. With a `saver` each run is a thread, and each superstep waits for its checkpoint."""

    def __init__(self, saver: Any = None) -> None:
        self.saver = saver

    def tool(self, work: scripts.Tool) -> Any:
        return as_text(work)

    def model(self, model: Model) -> Any:
        return model

    def agent(self, model: Any, tools: Sequence[Any], instructions: str = "") -> Any:
        named = {tool.__name__: tool for tool in tools}

        async def ask(state: State) -> dict[str, object]:
            return {"said": model(Asked(state["request"], state["results"], state["last"], instructions))}

        async def act(state: State) -> dict[str, object]:
            name, arguments = state["said"]
            return {"last": str(await named[name](**arguments)), "results": state["results"] + 1}

        graph = StateGraph(State)
        graph.add_node("model", ask)
        graph.add_node("tool", act)
        graph.add_edge(START, "model")
        graph.add_conditional_edges("model", _after, ["tool", END])
        graph.add_edge("tool", "model")
        return graph.compile(checkpointer=self.saver)

    async def run(self, agent: Any, request: str, turns: int | None = ENOUGH) -> str:
        """A turn is two supersteps."""
        config: dict[str, Any] = {} if turns is None else {"recursion_limit": 2 * turns}
        options: dict[str, str] = {}
        if self.saver is not None:
            config["configurable"], options = {"thread_id": request}, {"durability": "sync"}
        try:
            state = await agent.ainvoke({"request": request, "results": 0, "last": "", "said": ""}, config, **options)
        except GraphRecursionError as error:
            raise Limited(str(error)) from error
        return str(state["said"])

    async def talk(self, case: Case, texts: Texts, heard: Heard) -> int:
        """Messages in the state, trimmed by a node before the model's. A session is a thread of an in-memory saver."""
        tools = case.line == "steps"
        trimmer = Trimmer(texts, lead=int(tools), tail=int(not tools))

        async def trim(state: MessagesState) -> dict[str, object]:
            shorter = trimmer.trim(state["messages"], text_of, HumanMessage)
            return {} if shorter is None else {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), *shorter]}

        async def ask(state: MessagesState) -> dict[str, object]:
            turn = len(heard.at)
            heard.hear([text_of(message) for message in state["messages"]])
            if tools and turn < len(texts.texts):
                call = {"name": "turn", "args": {"number": turn}, "id": f"c{turn}"}
                said = AIMessage("", tool_calls=[call])
            else:
                said = AIMessage("noted")
            heard.done()
            return {"messages": [said]}

        async def act(state: MessagesState) -> dict[str, object]:
            (call,) = state["messages"][-1].tool_calls
            return {"messages": [ToolMessage(texts.texts[call["args"]["number"]], tool_call_id=call["id"])]}

        graph = StateGraph(MessagesState)
        for name, node in (("trim", trim), ("model", ask), ("tool", act)):
            graph.add_node(name, node)
        graph.add_edge(START, "trim")
        graph.add_edge("trim", "model")
        graph.add_conditional_edges("model", _called, ["tool", END])
        graph.add_edge("tool", "trim")
        config = {"recursion_limit": 4 * len(texts.texts), "configurable": {"thread_id": "talk"}}
        case.start()
        made = graph.compile(checkpointer=None if tools else InMemorySaver())
        for text in ["begin"] if tools else texts.texts:
            await made.ainvoke({"messages": [HumanMessage(text)]}, config)
        case.stop()
        return trimmer.compactions

    async def budget(self, case: Case) -> Found:
        raise NotSupported("no budgets")


async def _journal(case: Case) -> Found:
    """C7: without a saver, with the one in memory, and with SQLite's, which flushes as ours does with `normal`."""
    if case.line == "off":
        return await agents.steps(Api(), case)
    if case.line == "memory":
        return await agents.steps(Api(InMemorySaver()), case)
    if case.line != "normal":
        raise NotSupported("one saver in memory, and one in SQLite")
    n = case.args[0]
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncSqliteSaver.from_conn_string(f"{folder}/saver.db") as saver:
            await saver.conn.execute("PRAGMA synchronous = NORMAL")
            found = await agents.steps(Api(saver), case)
            states = [await saver.aget_tuple({"configurable": {"thread_id": str(i)}}) for i in range(n)]
    return found | {"read_back": sum(state.checkpoint["channel_values"]["results"] for state in states)}


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    if case.name == "approval":
        return lambda case: approval.program("langgraph", case)
    if case.name == "journal":
        return _journal
    return program_for(Api(), case)
