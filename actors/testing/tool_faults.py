"""What can go wrong with tools, as values, and the copy of a tool to which it happens.

Addressed by the tool's name and its nth call, from 1, over a whole world: every run, agent, incarnation and process,
retries too. The user's own function runs, unless the fault comes before it.

An effect **counts** when the user's function returned, whatever then became of its reply; and, for an `irreversible`
tool, also when it was cut in the middle (a timeout, a stop, a kill): nobody can say that it did not happen. A function
that raised says itself that it failed, and does not count.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import anyio.to_thread
import msgspec
from msgspec import Struct, field

from understudy.actors.agents.schema import schema_of
from understudy.actors.agents.tools import Call, Tool
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.testing import faults, properties
from understudy.actors.testing.schemas import JSON, fits

MOST_EFFECTS: Final = 100_000
"""Calls that are kept; a world with more has run wild, and says so."""


def _tag(name: str) -> str:
    return f"tool:{name}"


class Fault(faults.Fault, frozen=True, tag=_tag):
    """Base: the tool named `tool` at its call number `call`. Raises `UsageError` for a number below 1 or no tool."""

    tool: str
    call: int
    needs_oracle: typing.ClassVar[bool] = False

    def __post_init__(self) -> None:
        where = type(self).__name__
        if not self.tool:
            raise UsageError(f"{where}: tool is empty; it is the name of a tool")
        if self.call < 1:
            raise UsageError(f"{where}({self.tool!r}): call {self.call}; calls are counted from 1")


class ToolRaises(Fault, frozen=True, tag=_tag):
    """It raises `ToolBroke` before the user's function began."""


class ToolHangs(Fault, frozen=True, tag=_tag):
    """It does nothing until its timeout; the user's function does not begin."""


class ToolWrongType(Fault, frozen=True, tag=_tag):
    """The user's function runs, and the result is JSON of another type than it gave."""


class ToolLies(Fault, frozen=True, tag=_tag):
    """The user's function runs, and the result is another value of the right type. A test needs an oracle of its own.

    A result that has no other value (None, {}) stays, and the fault does not fire.
    """

    needs_oracle: typing.ClassVar[bool] = True


class ToolReplyLost(Fault, frozen=True, tag=_tag):
    """The user's function runs to its end, then its reply is lost: `ConnectionResetError`."""


class ToolSlow(Fault, frozen=True, tag=_tag):
    """The user's function runs, and its result comes `seconds` later; past the timeout the effect has happened."""

    seconds: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isfinite(self.seconds) and self.seconds >= 0):
            raise UsageError(f"ToolSlow({self.tool!r}, call={self.call}): seconds {self.seconds}; at least 0")


ToolFault: TypeAlias = ToolRaises | ToolHangs | ToolWrongType | ToolLies | ToolReplyLost | ToolSlow
KINDS: Final[tuple[type[Fault], ...]] = get_args(ToolFault)


class ToolBroke(RuntimeError):
    """What a tool raises in a world that says so."""


class Effect(Struct):
    """One call of a tool. Times are the loop's, in seconds; `key` is that of the call, "" for one without.

    `outcome` of the user's function: "waiting" before it began (and for good when it never did), "cut" from when it
    began until it ended (and for good when it never did), then "returned" or "raised".
    """

    tool: str
    call: int
    effect: str
    arguments: Mapping[str, object]
    key: str
    began: float
    outcome: Literal["waiting", "cut", "returned", "raised"] = "waiting"
    done: float | None = None
    faults: tuple[ToolFault, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it happened, as the module says."""
        return self.outcome == "returned" or (self.outcome == "cut" and self.effect == "irreversible")


class Seen(Struct):
    """What the tools of one world did: `effects` in the order of calls, `calls` by tool, `fired` faults once each.

    `tools`: the names of all that were wrapped.
    """

    effects: list[Effect] = field(default_factory=list[Effect])
    calls: Counter[str] = field(default_factory=Counter[str])
    fired: list[ToolFault] = field(default_factory=list[ToolFault])
    tools: set[str] = field(default_factory=set[str])

    def of(self, tool: str | Tool[..., Any]) -> list[Effect]:
        """The effects of one tool that count, in the order of their calls. Raises `UsageError` for one of no agent."""
        name = tool if isinstance(tool, str) else tool.name
        if name not in self.tools:
            raise UsageError(f"no tool {name!r} in this world; tools: {', '.join(sorted(self.tools)) or 'none'}")
        return [effect for effect in self.effects if effect.tool == name and effect.counts]


# A call of the copy is awaited even where the user's function is a plain one, so its type is not the tool's.
def wrap_tool(tool: Tool[..., Any], plan: Iterable[ToolFault], seen: Seen) -> Tool[..., Any]:
    """A copy of a tool whose calls are counted and recorded in `seen`, and go wrong by `plan`; others' faults are left.

    The tool itself stays as it is, and the copy keeps its schema, effect, timeout, retries, approval rule, `verify` and
    loop key. Pass the same `seen` for every tool and process of a world.
    """
    made = copy.copy(tool)
    seen.tools.add(tool.name)
    faults = [fault for fault in plan if fault.tool == tool.name]
    made.fn = functools.partial(_called, tool, faults, seen)
    made.takes_call = True  # so that the key is seen; the user's function gets it only when it asks for it
    made.is_async = True
    return made


# A tool takes what its own signature says, and gives any JSON.
async def _called(
    tool: Tool[..., Any], faults: list[ToolFault], seen: Seen, ours: Call, /, *args: Any, **arguments: Any
) -> Any:
    named = dict(zip(tool.parameters.__struct_fields__, args, strict=False)) | arguments
    due, effect = _begin(tool, faults, seen, ours, named)
    for fault in due:
        if isinstance(fault, ToolRaises | ToolHangs):
            _fire(seen, effect, fault)
            await _fail(tool, fault)
    function = functools.partial(tool.fn, ours, *args, **arguments) if tool.takes_call else None
    function = function or functools.partial(tool.fn, *args, **arguments)
    effect.outcome = "cut"
    try:
        if tool.is_async:
            result = await function()
        else:
            result = await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
    except Exception:
        effect.outcome = "raised"
        raise
    else:
        effect.outcome = "returned"
    finally:
        if effect.outcome != "cut":
            effect.done = asyncio.get_running_loop().time()
        properties.note(tool.name, f"#{effect.call} {effect.outcome}")
    return await _delivered(tool, due, seen, effect, result)


def _begin(
    tool: Tool[..., Any], faults: list[ToolFault], seen: Seen, ours: Call, arguments: Mapping[str, object]
) -> tuple[list[ToolFault], Effect]:
    if len(seen.effects) >= MOST_EFFECTS:
        raise ToolBroke(f"more than {MOST_EFFECTS} calls of tools in one world")
    seen.calls[tool.name] += 1
    number = seen.calls[tool.name]
    key = ours.key if tool.effect in ("keyed", "verifiable", "irreversible") else ""
    began = asyncio.get_running_loop().time()
    effect = Effect(tool.name, number, tool.effect, arguments, key, began)
    seen.effects.append(effect)
    return [fault for fault in faults if fault.call == number], effect


def _fire(seen: Seen, effect: Effect, fault: ToolFault) -> None:
    effect.faults = (*effect.faults, fault)
    if fault not in seen.fired:
        seen.fired.append(fault)
        properties.came_true(fault)


async def _fail(tool: Tool[..., Any], fault: ToolRaises | ToolHangs) -> None:
    if isinstance(fault, ToolRaises):
        raise ToolBroke(f"{tool.name}: call {fault.call} was made to fail")
    await asyncio.sleep(tool.timeout + 1.0)  # the run ends it at the timeout; outside of a run, this does
    raise TimeoutError(f"{tool.name}: call {fault.call} hung")


# Results are any JSON.
async def _delivered(tool: Tool[..., Any], due: list[ToolFault], seen: Seen, effect: Effect, result: Any) -> Any:
    for fault in due:
        match fault:
            case ToolSlow():
                _fire(seen, effect, fault)
                await asyncio.sleep(fault.seconds)
            case ToolWrongType():
                _fire(seen, effect, fault)
                result = _of_other_type(_plain(result))
            case ToolLies():
                lie = next(_lies(tool, _plain(result)), None)
                if lie is not None:
                    _fire(seen, effect, fault)
                    result = lie
    for fault in due:
        if isinstance(fault, ToolReplyLost):
            _fire(seen, effect, fault)
            raise ConnectionResetError(f"{tool.name}: call {fault.call} was done, and its reply was lost")
    return result


def _plain(result: object) -> JSON:
    """The result as its JSON. Raises as the runtime would when it is none."""
    return cast("JSON", msgspec.json.decode(msgspec.json.encode(result)))


def _of_other_type(result: JSON) -> JSON:
    match result:
        case str():
            return 7
        case bool():
            return "yes"
        case dict():
            return [*result.values()]
        case _:
            return f"{result}"


def _lies(tool: Tool[..., Any], result: JSON) -> Iterator[JSON]:
    """Other values like the result, which fit what the function says that it returns."""
    schema = _returns(tool)
    return (lie for lie in _altered(result) if lie != result and (schema is None or fits(schema, lie)))


def _altered(result: JSON) -> Iterator[JSON]:
    match result:
        case bool():
            yield not result
        case int() | float():
            yield from (result + 1, result - 1, result * 10, 0)
        case str():
            yield from (f"{result}x", f"x{result}", result[:-1], result[::-1], "")
        case list():
            for n, each in enumerate(result):
                yield from ([*result[:n], lie, *result[n + 1 :]] for lie in _altered(each))
            yield from (result[:-1], [*result, *result[-1:]])
        case dict():
            for name, each in result.items():
                yield from ({**result, name: lie} for lie in _altered(each))
        case None:
            return


# A schema is nested JSON.
def _returns(tool: Tool[..., Any]) -> dict[str, Any] | None:
    """The schema of the declared result; None when there is none, or it cannot be told."""
    try:
        hint = typing.get_type_hints(inspect.unwrap(tool.fn), include_extras=True).get("return")
        return None if hint is None else schema_of(hint)
    except (NameError, TypeError, NotImplementedError, SpecError):
        return None
