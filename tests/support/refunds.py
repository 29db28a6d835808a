"""What the tests of state machines share: a machine of refunds, its tools, and a way to run an agent through it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypeVar

from acted import Acted, Says, call, calls
from msgspec import Struct

from understudy import (
    Agent,
    Call,
    State,
    StateMachine,
    System,
    tool,
)
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.actors.journal.store import MemoryStore, Row, chain
from understudy.actors.testing.simloop import SimClock

K = TypeVar("K", bound=ev.Event)


class S(StrEnum):
    CHECK = "check"
    PAY = "pay"
    PAID = "paid"
    DECLINED = "declined"


class E(StrEnum):
    OWED = "owed"
    NOT_OWED = "not_owed"
    SENT = "sent"
    REFUSED = "refused"
    AGAIN = "again"


class Answer(Struct, frozen=True):
    text: str


done: Counter[str] = Counter()


@tool(effect="read")
async def order(id: str) -> str:
    done["order"] += 1
    return f"order {id}"


@tool(effect="read")
async def now() -> str:
    return "noon"


@tool(effect="keyed")
async def note(call: Call, what: str) -> str:
    done[f"note {call.key}"] += 1
    return f"noted {what}"


@tool(effect="irreversible", approve="finance")
async def pay(cents: int) -> str:
    done["pay"] += 1
    return f"sent {cents}"


@tool(effect="irreversible", timeout=300)
async def slow(seconds: float) -> str:
    await asyncio.sleep(seconds)
    done["slow"] += 1
    return "at last"


def make_machine(check: float | None = None, paying: float | None = None, to: S = S.DECLINED) -> StateMachine[S, E]:
    return StateMachine(
        S.CHECK,
        {
            S.CHECK: State(
                tools=[order, slow],
                on={E.OWED: S.PAY, E.NOT_OWED: S.DECLINED, E.AGAIN: S.CHECK},
                timeout=(check, to) if check else None,
            ),
            S.PAY: State(
                tools=[pay, note],
                on={E.SENT: S.PAID, E.REFUSED: S.DECLINED, E.AGAIN: S.CHECK},
                timeout=(paying, S.DECLINED) if paying else None,
            ),
            S.PAID: State(),
            S.DECLINED: State(),
        },
    )


REFUND = (
    calls(call("order", id="1042")),
    calls(call("move", event="owed")),
    calls(call("pay", cents=4000)),
    calls(call("move", event="sent")),
)


def make(says: Says, machine: Any = None, **options: Any) -> Agent[Any, Any]:
    return Agent("refunds", model=Acted(says), machine=machine or make_machine(), **options)


def model_of(agent: Agent[Any, Any]) -> Acted:
    assert isinstance(agent.model, Acted)
    return agent.model


def system_of(root: Any, store: MemoryStore | None = None, clock: SimClock | None = None) -> System:
    return System(root, journal=store or MemoryStore(), clock=clock or SimClock())


async def play(agent: Agent[Any, Any], *, yes: bool = True, text: str = "go") -> tuple[Any, list[Record]]:
    """Run to the end in virtual time, saying yes to everything; the result and the stream, which must replay."""
    async with system_of(agent) as system:
        result = await system.run(agent, text)
        while result.status == "waiting" and yes and system.approvals():
            await system.approve(result.pending[0], by="ana")
            result = await system.resume(result.run)
        records = await system.journal.read(result.run)
        assert replay(records, system.tree.policies).identical
        return result, records


def moves(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    return [(moved.source, moved.to, moved.event or moved.cause) for moved in events(records, ev.Moved)]


def events(records: Sequence[Record], kind: type[K]) -> list[K]:
    return [record.event for record in records if isinstance(record.event, kind)]


async def cut(records: list[Record], length: int) -> MemoryStore:
    """A journal that holds the first `length` events of a run."""
    store = MemoryStore()
    await store.open()
    await store.write(rows_of(records[:length]), [1.0] * length)
    await store.aclose()
    return store


def rows_of(records: Sequence[Record]) -> list[Row]:
    rows: list[Row] = []
    crc = 0
    for record in records:
        payload = ev.encode(record)
        crc = chain(crc, record.run, record.seq, payload)
        rows.append(Row(record.run, record.seq, payload, len(payload), crc))
    return rows
