"""A tree with all that a kill may cut: every kind of effect, recorded steps, delegations, yeses, timers, restarts.

What its tools do is done outside of the process, by whoever listens at the other end of `Outside`. Its models are plain
functions of the conversation, so a run comes to one end, however often it was killed. A call is named by a *label*:
`clerk-0/pay` is made by the request `clerk-0`, once.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final, Protocol

from understudy import (
    Agent,
    Approvals,
    Backoff,
    Call,
    ChildSpec,
    Intensity,
    Loops,
    Restart,
    Same,
    State,
    StateMachine,
    Stop,
    Supervisor,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, ModelSession, ToolCall, Usage

REQUESTS: Final = ("clerk-0", "planner-0", "refunds-0", "looper-0", "clerk-1", "clerk-2", "refunds-1")
"""What is asked of the agents, all at once; two clerks serve three requests."""
LOOKED_AGAIN: Final = 3
"""How often a looper looks at the same until it is stopped."""
REST: Final = 0.15
"""Seconds that a refund rests in one state, and that a looper rests before its restart."""


class Outside(Protocol):
    """The world outside of the process."""

    async def act(self, tool: str, label: str, key: str) -> str:
        """Have an effect; a value that depends on the label alone."""
        ...

    async def happened(self, label: str) -> bool | None:
        """Whether it has had it; None for one that cannot say."""
        ...

    async def asked(self, label: str, turn: int) -> None:
        """A model was asked."""
        ...


class Nothing:
    """An outside for who only looks at the tree."""

    async def act(self, tool: str, label: str, key: str) -> str:
        raise RuntimeError("nobody is outside")

    async def happened(self, label: str) -> bool | None:
        return None

    async def asked(self, label: str, turn: int) -> None:
        raise RuntimeError("nobody is outside")


def value_of(label: str) -> str:
    """What a call gives."""
    return f"{zlib.crc32(label.encode()):08x}"


# -- what models say ---------------------------------------------------------------------------------------

Turn = tuple[tuple[str, str], ...]
"""The calls of one reply: tool and the last part of the label."""

CLERK: Final[tuple[Turn, ...]] = (
    (("look", "a"), ("look", "b")),
    (("put", "put"), ("pay", "pay")),
    (("book", "book"), ("ship", "ship"), ("look", "c")),
    (("long", "long"), ("look", "d")),
    (("send", "send"),),
    (("wire", "wire"), ("look", "e")),
)
PLANNER: Final[tuple[Turn, ...]] = ((("writer", "w1"), ("writer", "w2"), ("look", "a")), (("put", "put"),))
WRITER: Final[tuple[Turn, ...]] = ((("look", "a"),), (("pay", "pay"), ("wire", "wire")))
REFUNDS: Final[tuple[Turn, ...]] = ((("look", "a"),), (("move", "owed"),), (("back", "back"),), (("move", "sent"),))
STEPS_OF_LONG: Final = ("one", "two", "three")


def _said(turn: Turn, label: str) -> ModelReply:
    calls: list[ToolCall] = []
    for name, last in turn:
        fields = {"move": {"event": last}, "writer": {"text": f"{label}/{last}"}}.get(name)
        calls.append(ToolCall(f"c{len(calls)}", name, json.dumps(fields or {"label": f"{label}/{last}"})))
    return ModelReply(calls=tuple(calls), usage=Usage(20, 20))


def _answered(label: str, request: ModelRequest) -> ModelReply:
    """An answer that depends on every result; that a call was made is the same whoever says so."""
    told = [message.content for message in request.messages if message.role == "tool"]
    results = ["done" if "it happened" in each else json.loads(each) for each in told]
    return ModelReply(answer_of(label, results), usage=Usage(20, 20))


def answer_of(label: str, results: Sequence[object]) -> str:
    """What an agent answers that was told these results."""
    text = json.dumps([label, results], sort_keys=True)
    return f"{label} {zlib.crc32(text.encode()):08x}"


def script(turns: Sequence[Turn]) -> Callable[[str, ModelRequest], ModelReply]:
    def says(label: str, request: ModelRequest) -> ModelReply:
        number = sum(message.role == "assistant" for message in request.messages)
        return _said(turns[number], label) if number < len(turns) else _answered(label, request)

    return says


def loops(label: str, request: ModelRequest) -> ModelReply:
    """Looks at the same until it is told off, then at something else."""
    if not any("got stuck" in message.content for message in request.messages):
        return _said((("look", "again"),), label)
    told = [message.content for message in request.messages if message.role == "tool"]
    if json.dumps(value_of(f"{label}/b")) not in told:
        return _said((("look", "b"),), label)
    return ModelReply(answer_of(label, []), usage=Usage(20, 20))


class Scripted:
    """A model of this process that tells the outside that it was asked."""

    price = None

    def __init__(self, name: str, outside: Outside, says: Callable[[str, ModelRequest], ModelReply]) -> None:
        self.name = name
        self._outside = outside
        self._says = says

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[ModelSession]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        label = next(message.content for message in request.messages if message.role == "user")
        await self._outside.asked(label, sum(message.role == "assistant" for message in request.messages))
        return self._says(label, request)


# -- tools ---------------------------------------------------------------------------------------------------


class Tools:
    """The tools, each with its kind of effect."""

    def __init__(self, outside: Outside) -> None:
        @tool(effect="read")
        async def look(label: str) -> str:
            return await outside.act("look", label, "")

        @tool(effect="idempotent")
        async def put(label: str) -> str:
            return await outside.act("put", label, "")

        @tool(effect="keyed")
        async def pay(call: Call, label: str) -> str:
            return await outside.act("pay", label, call.key)

        @tool(effect="verifiable")
        async def book(call: Call, label: str) -> str:
            await outside.act("book", label, call.key)
            return "done"

        @book.verify
        async def booked(label: str) -> bool | None:
            return await outside.happened(label)

        @tool(effect="verifiable")
        async def ship(call: Call, label: str) -> str:
            await outside.act("ship", label, call.key)
            return "done"

        @ship.verify
        async def shipped(label: str) -> bool | None:
            return await outside.happened(label)

        @tool(effect="idempotent")
        async def long(call: Call, label: str) -> list[str]:
            names = [f"{label}/{name}" for name in STEPS_OF_LONG]
            return [await call.step(name, partial(outside.act, "long", name, call.key)) for name in names]

        @tool(effect="irreversible", approve="boss")
        async def send(label: str) -> str:
            await outside.act("send", label, "")
            return "done"

        @tool(effect="irreversible")
        async def wire(call: Call, label: str) -> str:
            await outside.act("wire", label, call.key)
            return "done"

        @tool(effect="irreversible", approve="boss")
        async def back(label: str) -> str:
            await outside.act("back", label, "")
            return "done"

        self.look, self.put, self.pay, self.book, self.ship = look, put, pay, book, ship
        self.long, self.send, self.wire, self.back = long, send, wire, back


READS: Final = frozenset({"look"})
AGAIN: Final = frozenset({"look", "put", "pay", "long"})
"""Tools that may be called again when their outcome was lost; the others once for ever."""
CANNOT_SAY: Final = "ship"


class S(StrEnum):
    CHECK = "check"
    REST = "rest"
    PAY = "pay"
    PAID = "paid"
    DECLINED = "declined"


class E(StrEnum):
    OWED = "owed"
    SENT = "sent"
    REFUSED = "refused"


def tree(outside: Outside) -> Supervisor:
    """The tree, anew."""
    have = Tools(outside)
    machine = StateMachine(
        S.CHECK,
        {
            S.CHECK: State(tools=[have.look], on={E.OWED: S.REST}),
            S.REST: State(timeout=(REST, S.PAY)),
            S.PAY: State(tools=[have.back], on={E.SENT: S.PAID, E.REFUSED: S.DECLINED}, timeout=(900, S.DECLINED)),
            S.PAID: State(),
            S.DECLINED: State(),
        },
    )

    def agent(name: str, says: Callable[[str, ModelRequest], ModelReply], **options: Any) -> Agent[str, Any]:
        return Agent(name, model=Scripted(f"as {name}", outside, says), **options)

    clerk = agent(
        "clerk",
        script(CLERK),
        tools=[have.look, have.put, have.pay, have.book, have.ship, have.long, have.send, have.wire],
    )
    writer = agent("writer", script(WRITER), tools=[have.look, have.pay, have.wire])
    planner = agent("planner", script(PLANNER), tools=[have.look, have.put], delegates=[writer])
    refunds = agent("refunds", script(REFUNDS), machine=machine)
    looper = agent("looper", loops, tools=[have.look])
    return Supervisor(
        "yard",
        [ChildSpec(clerk, count=2), planner, ChildSpec(writer, count=2), refunds, looper],
        loops=Loops(Same(LOOKED_AGAIN), ladder=[Restart(temperature=1.0), Stop()]),
        backoff=Backoff(first=REST, cap=REST),
        intensity=Intensity(20, within=1.0),
        approvals=Approvals(by={"boss": ["ana"]}),
    )


def app() -> Supervisor:
    """What `--app kill_tree:app` names."""
    return tree(Nothing())


# -- what must come of it --------------------------------------------------------------------------------------


def _labels(label: str, turns: Sequence[Turn]) -> list[str]:
    found: list[str] = []
    for name, last in (each for turn in turns for each in turn):
        if name == "writer":
            found += _labels(f"{label}/{last}", WRITER)
        elif name == "long":
            found += [f"{label}/{last}/{step}" for step in STEPS_OF_LONG]
        elif name != "move":
            found.append(f"{label}/{last}")
    return found


def wanted() -> Counter[str]:
    """Every effect that the requests take, and how often."""
    turns = {"clerk": CLERK, "planner": PLANNER, "refunds": REFUNDS}
    found: Counter[str] = Counter()
    for request in REQUESTS:
        kind = request.partition("-")[0]
        if kind == "looper":
            found.update({f"{request}/again": LOOKED_AGAIN, f"{request}/b": 1})
        else:
            found.update(_labels(request, turns[kind]))
    return found


def ends() -> dict[str, list[tuple[str, str]]]:
    """Status and output of each request and of the sub-runs it takes, as they must be."""
    found: dict[str, list[tuple[str, str]]] = {}
    for request in REQUESTS:
        match request.partition("-")[0]:
            case "refunds":
                outputs = [S.PAID.value]
            case "looper":
                outputs = [answer_of(request, [])]
            case "planner":
                parts = [_output(f"{request}/{part}", WRITER) for part in ("w1", "w2")]
                outputs = [_output(request, PLANNER, parts), *parts]
            case _:
                outputs = [_output(request, CLERK)]
        found[request] = [("complete", json.dumps(output)) for output in outputs]
    return found


def _output(label: str, turns: Sequence[Turn], parts: Sequence[str] = ()) -> str:
    """What an agent says whose every call was made; `parts` are what its delegations said."""
    left, results = list(parts), list[object]()
    for name, last in (each for turn in turns for each in turn):
        if name == "writer":
            results.append({"status": "complete", "output": left.pop(0), "reason": ""})
        elif name == "long":
            results.append([value_of(f"{label}/{last}/{step}") for step in STEPS_OF_LONG])
        else:
            results.append(value_of(f"{label}/{last}") if name in AGAIN else "done")
    return answer_of(label, results)
