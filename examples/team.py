"""A team: a pool of writers hands its drafts to a reviewer, whose answer reaches whoever asked."""

import asyncio

from msgspec import Struct

from understudy import (
    Agent,
    Backoff,
    Budget,
    ChildSpec,
    Errors,
    Idle,
    Intensity,
    Loops,
    Message,
    Nudge,
    OpenAIChat,
    Restart,
    Result,
    Route,
    Same,
    Stop,
    Supervisor,
    System,
)


class Answer(Struct, frozen=True):
    text: str


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


model = OpenAIChat("gpt-5-mini")
# A Draft is routed on: a handoff. The reviewer's Answer reaches the asker of the Ticket.
writer = Agent("writer", model=model, accepts=Ticket, output=Draft, instructions="Write a draft.")
reviewer = Agent("reviewer", model=model, accepts=Draft, instructions="Check facts and tone.")
desk = Supervisor(
    "desk",
    [reviewer, ChildSpec(writer, restart="transient", count=3)],
    intensity=Intensity(5, within=60),
    backoff=Backoff(first=0.5, cap=30.0),
    budget=Budget(steps=200, tokens=400_000, usd=2.50, seconds=900),
    loops=Loops(Same(3) | (Errors(4) & Idle(8)), ladder=[Nudge(), Restart(temperature=1.0), Stop()]),
    routes=[Route(Ticket, to=writer, spread="least_busy"), Route(Draft, to=reviewer)],
)


async def main() -> None:
    async with System(desk, journal="desk.db") as system:
        result = await system.ref(writer).ask(Ticket("My parcel is late."), timeout=60)
        print(result.unwrap().text)


if __name__ == "__main__":
    asyncio.run(main())
