"""What the trees of the shown guards are made of: a shop's tools, models that follow a script, and what a case is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct

from understudy import Agent, Message, Price, Prompt, Result, Supervisor, System, tool
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.actors.testing.simloop import SimClock

Play = Callable[[System, SimClock], Awaitable[object]]


@dataclass(frozen=True)
class Shown:
    """A guard that ends or changes a run. `play` makes the runs of the journal; the last one begun is shown."""

    name: str
    tree: Callable[[], Supervisor]
    play: Play


CASES: Final[dict[str, Shown]] = {}
"""By name, in the order of the page."""


def asked(*tasks: str, to: str = "clerk") -> Play:
    """Ask an agent, once for each task."""

    async def play(system: System, clock: SimClock) -> None:
        for task in tasks:
            await system.ref(to).ask(Prompt(task))

    return play


ORDER: Final = "Order 1042 arrived broken. What now?"


def shown(play: str | Play = ORDER) -> Callable[[Callable[[], Supervisor]], Callable[[], Supervisor]]:
    """Show the tree that a function makes, under the function's name; as `--app` it is the function."""

    def keep(tree: Callable[[], Supervisor]) -> Callable[[], Supervisor]:
        CASES[tree.__name__] = Shown(tree.__name__, tree, asked(play) if isinstance(play, str) else play)
        return tree

    return keep


def says(*steps: object) -> ScriptedModel:
    """A model that follows a script, and has a price."""
    return ScriptedModel(steps, price=Price(250_000, 2_000_000))


# The options are an agent's own.
def clerk(steps: Sequence[object], *, tools: Sequence[Any] = (), **options: Any) -> Agent[Any, Any]:
    """The agent that most cases are about."""
    options.setdefault("instructions", "You help customers of a lamp shop.")
    return Agent("clerk", model=says(*steps), tools=tools or [order, search, pay], **options)


class Answer(Struct, frozen=True):
    text: str
    sources: list[str] = []


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


class Question(Message[Result[str]]):
    text: str


@tool(effect="read")
async def order(id: str) -> str:
    """Look one order up."""
    return f"order {id}: one lamp, packed in hall {int(id) % 7}"


@tool(effect="read")
async def search(text: str) -> str:
    """Search the help pages."""
    return "no page matches"


@tool(effect="irreversible")
async def pay(order: str, cents: int) -> str:
    """Pay a customer back."""
    return f"sent {cents} for order {order}"


@tool(effect="read", timeout=60)
async def carrier(parcel: str) -> str:
    """Ask the carrier, who takes eight seconds."""
    await asyncio.sleep(8)
    return f"parcel {parcel}: on its way"
