"""A tree for each rule that finds loops and each rung of the ladder, see `shown`."""

from __future__ import annotations

from typing import Any

from shown_cast import Answer, Draft, Question, Ticket, clerk, order, says, search, shown

from understudy import (
    Agent,
    Conclude,
    Errors,
    Escalate,
    Idle,
    Loops,
    Near,
    Nudge,
    Price,
    Quarantine,
    Resent,
    Restart,
    Restrict,
    Route,
    Same,
    Stop,
    Supervisor,
    System,
    Talk,
    tool,
)
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.actors.testing.simloop import SimClock


# The options are an agent's own.
def desk(*steps: object, loops: Loops | None = None, **options: Any) -> Supervisor:
    return Supervisor("desk", [clerk(steps, **options)], loops=Loops() if loops is None else loops)


@shown()
def same() -> Supervisor:
    return desk(*[call("order", id="1042")] * 5)


@shown()
def cycle() -> Supervisor:
    round = [call("order", id="1042"), call("search", text="broken lamp"), call("order", id="1043")]
    return desk(*round * 4)


@shown()
def reworded() -> Supervisor:
    asks = ["desk lamp broken on arrival", "broken desk lamp on arrival", "on arrival desk lamp broken"]
    return desk(
        *[call("search", text=text) for text in [*asks, "lamp desk broken on arrival", "arrival broken desk lamp on"]]
    )


@shown()
def near() -> Supervisor:
    seen: list[str] = []
    colours = ["red", "blue", "green", "black", "white", "brass"]

    @tool(effect="read")
    async def page(name: str) -> str:
        """Show a page of the shop."""
        seen.append(name)
        words = " ".join(f"line{number}" for number in range(40))
        return f"{words}; lamp of the hour: {colours[len(seen) % 6]}"

    return desk(*[call("page", name="lamps")] * 6, tools=[page], loops=Loops(Near(4)))


@shown()
def errors() -> Supervisor:
    @tool(effect="read")
    async def stock(hall: str) -> str:
        """How full a hall is."""
        if hall.startswith("hall"):
            raise LookupError("the stock list is locked by another user")
        return f"{hall}: half full"

    halls = ["hall 1", "annex a", "hall 2", "annex b", "hall 3", "annex c", "hall 4", "hall 5", "hall 6", "hall 7"]
    return desk(*[call("stock", hall=hall) for hall in [*halls, "hall 8", "hall 9"]], tools=[stock])


@shown()
def errors_and_idle() -> Supervisor:
    @tool(effect="read")
    async def stock(hall: str) -> str:
        """How full a hall is."""
        raise LookupError("the stock list is locked by another user")

    names = ["north", "south", "east", "west", "upper", "lower", "inner", "outer", "old"]
    pairs = [[call("stock", hall=name), call("search", text=name)] for name in names]
    loops = Loops(Errors(4) & Idle(8))
    return desk(*[each for pair in pairs for each in pair], tools=[stock, search], loops=loops)


@shown()
def idle() -> Supervisor:
    @tool(effect="read")
    async def tick(box: str) -> str:
        """Whether a box was ticked."""
        return "ok"

    names = ["lamp", "cord", "bulb", "foot", "shade", "switch", "plug", "box", "foil", "note", "label", "tape"]
    return desk(
        *[call("tick", box=name) for name in [*names, "bag", "seal", "card", "bow"]],
        tools=[tick],
        loops=Loops(Idle(12)),
    )


@shown()
def talk() -> Supervisor:
    said = [
        "I will look into your order and come back to you.",
        "I will now look into your order and come back to you.",
    ]
    return desk(*said * 4, output=Answer, repairs=9)


@shown("Where is my parcel?")
def errand() -> Supervisor:
    packer = Agent("packer", model=says(*["The parcel is not here."] * 9), accepts=Question, instructions="You pack.")
    ways = ["please look for the parcel of order 1042", "look for the parcel of order 1042 please"]
    lead = clerk([call("packer", text=text) for text in ways * 4], tools=[order], delegates=[packer])
    return Supervisor("desk", [lead, packer], loops=Loops(Resent(3)))


async def _ticket(system: System, clock: SimClock) -> None:
    await system.ref("writer").ask(Ticket("My parcel is late."))


@shown(_ticket)
def ping_pong() -> Supervisor:
    writer = Agent("writer", model=says(*[Draft("Thank you, please have a look.")] * 9), accepts=Ticket, output=Draft)
    reviewer: Agent[Any, Any] = Agent(
        "reviewer",
        model=says(*[Ticket("Thank you too, please have another look.")] * 9),
        accepts=Draft,
        output=Ticket | Answer,
    )
    routes = [Route(Ticket, to=writer), Route(Draft, to=reviewer)]
    return Supervisor("desk", [writer, reviewer], routes=routes, loops=Loops(Talk(3), ladder=[Stop()]))


@shown(_ticket)
def hops() -> Supervisor:
    kinds = ["tone", "facts", "length", "names", "dates", "prices"]
    writer = Agent(
        "writer", model=says(*[Draft(f"A draft, {kind} done.") for kind in kinds]), accepts=Ticket, output=Draft
    )
    reviewer: Agent[Any, Any] = Agent(
        "reviewer",
        model=says(*[Ticket(f"Now change the {kind}.") for kind in kinds]),
        accepts=Draft,
        output=Ticket | Answer,
    )
    return Supervisor(
        "desk", [writer, reviewer], routes=[Route(Ticket, to=writer), Route(Draft, to=reviewer)], loops=None
    )


@shown()
def malformed() -> Supervisor:
    wrong = [call("orders", id="1042"), call("order", number=1042), call("get_order", id="1042"), call("order")]
    return desk(*wrong, *wrong)


@shown()
def restricted() -> Supervisor:
    steps = [*[call("order", id="1042")] * 4, call("search", text="broken"), "Please send it back."]
    return desk(*steps, loops=Loops(Same(3), ladder=[Restrict(steps=5), Stop()]))


@shown()
def concluded() -> Supervisor:
    steps = [*[call("order", id="1042")] * 3, "It was packed in hall 6; I know nothing more."]
    return desk(*steps, loops=Loops(Same(3), ladder=[Conclude(), Stop()]))


@shown()
def other_model() -> Supervisor:
    spare = ScriptedModel(["It was packed in hall 6; I know nothing more."], name="larger", price=Price(1, 1))
    agent = clerk([call("order", id="1042")] * 3, alternatives=[spare])
    return Supervisor("desk", [agent], loops=Loops(Same(3), ladder=[Restart(model="larger"), Stop()]))


@shown()
def escalated() -> Supervisor:
    team = Supervisor(
        "team", [clerk([call("order", id="1042")] * 9)], loops=Loops(Same(3), ladder=[Nudge(), Escalate()])
    )
    return Supervisor("desk", [team])


@shown()
def quarantined() -> Supervisor:
    return desk(*[call("order", id="1042")] * 9, loops=Loops(Same(3), ladder=[Nudge(), Quarantine()]))


@shown()
def nudged() -> Supervisor:
    steps = [*[call("order", id="1042")] * 3, call("search", text="broken"), "Please send it back."]
    return desk(*steps, loops=Loops(Same(3), ladder=[Nudge(), Stop()]))
