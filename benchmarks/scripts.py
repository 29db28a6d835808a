"""What scripted agents say and do, without any library: ours and the peers' agents get the same functions.

Agent i begins with the value 7919 i + 1. In step k its model asks for `work(a)`, a = 48271 times the value + i + k, and
the tool answers with the next value, 16807 a + 11; after the last step the model says the value. All modulo 2^31 - 1.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.case import Case, Found
from benchmarks.reference import oracle

M31: Final = 2**31 - 1
STEPS: Final = 10
"""Calls of `work` that an agent of C3 makes; in C2 the arguments say how many."""
TEAM: Final = 20
"""Agents under one supervisor."""

Call = tuple[str, dict[str, object]]
"""A tool's name and its arguments."""
Said = Call | str
"""What a model says: call this tool, or this is the answer."""
Tool = Callable[..., Awaitable[object]]


def first(i: int) -> int:
    """The value that agent i begins with."""
    return (i * 7919 + 1) % M31


def argument(i: int, k: int, value: int) -> int:
    """What the model of agent i asks the tool of step k."""
    return (value * 48271 + i + k) % M31


def answer(a: int) -> int:
    """What the tool answers."""
    return (a * 16807 + 11) % M31


def say(i: int, k: int, steps: int, last: str) -> Said:
    """The model of agent i after k results, the last of which was `last`."""
    value = int(last) if k else first(i)
    return str(value) if k == steps else ("work", {"a": argument(i, k, value)})


calls: Counter[str] = Counter()
"""Calls that were executed, by tool: the tools count them."""


def work_of(tool_ms: float) -> Tool:
    """The tool of a step. It sleeps for `tool_ms` milliseconds; for 0 it awaits nothing."""

    async def work(a: int) -> int:
        """The tool of a step."""
        calls["work"] += 1
        if tool_ms:
            await asyncio.sleep(tool_ms / 1000)
        return answer(a)

    return work


def finals(values: list[int]) -> Found:
    """What is checked when all agents have said their last value."""
    return {"tool_calls": calls["work"], "sum": sum(values), "digest": oracle().digest(values)}


# -- C3: what agents do besides ------------------------------------------------------------------------------------

LOOPER: Final = 7
"""Agent i loops for ever when this is i mod 20."""
CAP: Final = 200
"""Tool calls after which a run is ended that nothing else has ended."""
TURNS: Final = 25
"""The limit of the line `turns-25`, in words of the model."""
_failed: Counter[int] = Counter()
_polled: Counter[int] = Counter()


def forget() -> None:
    """Set the tools back to the beginning of a run."""
    for counted in (calls, _failed, _polled):
        counted.clear()


async def status(of: int) -> str:
    """Pending three times, then ready."""
    _polled[of] += 1
    return "ready" if _polled[of] > 3 else "pending"


async def fragile(of: int) -> str:
    """Fails twice in the same way."""
    _failed[of] += 1
    if _failed[of] <= 2:
        raise OSError("the shelf is locked")
    return "open"


async def search(of: int, shelf: int) -> str:
    """Found on the sixth shelf."""
    return "found" if shelf == 5 else "none"


async def look(at: str) -> str:
    """What a looper asks: an answer that never changes."""
    await asyncio.sleep(0.001)
    return f"the {at} of always" if at in ("hall", "yard", "roof") else "none"


class Script:
    """The model of agent i of C3: what it says depends on what it said before, not on what it is told."""

    def __init__(self, i: int) -> None:
        self.i, self.step, self.said, self.inserted = i, 0, 0, 0
        self.value = first(i)
        self.asked = False

    def next(self, last: str) -> Said:
        """The next call, or the final value, after the result `last`."""
        if self.asked:
            self.value, self.asked = int(last), False
            self.step += 1
        if self.step == 3 and (call := self.extra()) is not None:
            self.inserted += 1
        elif self.step == STEPS:
            return str(self.value)
        else:
            self.asked = True
            call = "work", {"a": argument(self.i, self.step, self.value)}
        self.said += 1
        return call

    def extra(self) -> Call | None:
        """What it does besides after its third step: for ever, when it loops."""
        n, i = self.inserted, self.i
        match i % TEAM:
            case 7:
                return "look", {"at": ("hall", ("hall", "yard", "roof")[n % 3], f"place {n}")[kind(i)]}
            case 3:
                return ("status", {"of": i}) if n < 4 else None
            case 13:
                return ("fragile", {"of": i}) if n < 3 else None
            case 17:
                return ("search", {"of": i, "shelf": n}) if n < 6 else None
        return None


def kind(i: int) -> int:
    """Of a looper: 0 the same call, 1 a cycle of three, 2 new arguments each time and always the same answer."""
    return i // TEAM % 3


def wasted(scripts: dict[int, Script]) -> dict[str, int]:
    """By kind, the most calls that a looper made after the third of its loop."""
    waste: dict[str, int] = {}
    for i, script in scripts.items():
        if i % TEAM == LOOPER:
            waste[str(kind(i))] = max(waste.get(str(kind(i)), 0), script.inserted - 3)
    return dict(sorted(waste.items()))


def limit_found(case: Case, scripts: dict[int, Script], said: dict[int, int], *, ended: int) -> Found:
    """What is checked where a limit ends all alike, and what is told: honest agents stopped, calls wasted."""
    honest = [i for i in scripts if i % TEAM != LOOPER]
    case.extra["false_stops"] = sum(i not in said for i in honest)
    case.extra["wasted_calls"] = wasted(scripts)
    wrong = [i for i, value in said.items() if value != oracle().chain(i, STEPS)]
    return {"answers": f"wrong: {wrong[:3]}" if wrong else "right", "ended": ended}
