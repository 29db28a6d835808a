"""C6 on LangGraph: a graph of model and tool with the SQLite saver, a thread for each agent; a yes is an `interrupt`.

`durability="sync"`: a checkpoint is written before the next node begins, which is the most that it offers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found, unused-ignore]
from langgraph.graph import END, START, StateGraph  # type: ignore[import-not-found, unused-ignore]
from langgraph.types import Command, interrupt  # type: ignore[import-not-found, unused-ignore]

from benchmarks import scripts
from benchmarks.approval_life import Life, Rest

# A graph, its snapshots and configurations are LangGraph's own.
Graph = Any
Config = dict[str, Any]


class State(TypedDict):
    """The agent, results so far, the last one, and what the model said."""

    i: int
    k: int
    last: str
    said: Any  # scripts.Said


def _after(state: State) -> str:
    return str(END) if isinstance(state["said"], str) else "tool"


def _has_ended(snapshot: Any) -> bool:
    """Whether the agent has said its last word; `next` is empty also when a node's writes wait for their checkpoint."""
    return not snapshot.next and isinstance(snapshot.values.get("said"), str)


def _config(i: int) -> Config:
    return {"recursion_limit": 1_000, "configurable": {"thread_id": str(i)}}


def graph_of(life: Life) -> Graph:
    """The graph, not compiled."""

    async def ask(state: State) -> dict[str, object]:
        return {"said": scripts.say(state["i"], state["k"], life.steps, state["last"])}

    async def act(state: State) -> dict[str, object]:
        i, k = state["i"], state["k"]
        if k == life.half:
            interrupt({"i": i, "k": k})
        life.log.happen(i, k)
        return {"last": str(scripts.answer(state["said"][1]["a"])), "k": k + 1}

    graph = StateGraph(State)
    graph.add_node("model", ask)
    graph.add_node("tool", act)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", _after, ["tool", END])
    graph.add_edge("tool", "model")
    return graph


class OnLangGraph:
    """See `approval_life.Runtime`."""

    def __init__(self, graph: Graph, n: int) -> None:
        self._graph = graph
        self._n = n

    async def _snapshots(self) -> list[Any]:
        return await asyncio.gather(*(self._graph.aget_state(_config(i)) for i in range(self._n)))

    async def _run(self, i: int, given: object) -> None:
        await self._graph.ainvoke(given, _config(i), durability="sync")

    async def rest(self) -> Rest:
        snapshots = await self._snapshots()
        moving: list[Any] = []
        for i, snapshot in enumerate(snapshots):
            if not snapshot.values:
                moving.append(self._run(i, {"i": i, "k": 0, "last": "", "said": ""}))
            elif not (snapshot.interrupts or _has_ended(snapshot)):
                moving.append(self._run(i, None))
        if moving:
            await asyncio.gather(*moving)
            snapshots = await self._snapshots()
        parked = sum(bool(snapshot.interrupts) for snapshot in snapshots)
        return Rest(parked, sum(map(_has_ended, snapshots)), [])

    async def approve(self) -> bool:
        waiting = [i for i, snapshot in enumerate(await self._snapshots()) if snapshot.interrupts]
        await asyncio.gather(*(self._run(i, Command(resume=True)) for i in waiting))
        return False

    async def settle(self, doubt: str, did: bool) -> None:
        raise NotImplementedError("nothing is ever in doubt")

    async def finals(self) -> list[int]:
        return [int(snapshot.values["said"]) for snapshot in await self._snapshots()]


@asynccontextmanager
async def runtime(life: Life) -> AsyncIterator[OnLangGraph]:
    """See `approval_life.RuntimeModule`."""
    async with AsyncSqliteSaver.from_conn_string(str(life.folder / "checkpoints.db")) as saver:
        yield OnLangGraph(graph_of(life).compile(checkpointer=saver), life.n)
