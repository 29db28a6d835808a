"""An agent's state machine: what each state offers the model, in words that go into the journal. Pure.

The model moves by the tool `move`, whose only parameter is one of the present state's events; offered beside it are the
agent's general tools and those of the state. A state is named by its value if that is text, else by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from understudy.actors.agents.models import ToolSchema
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import SpecError
from understudy.actors.states import State, StateMachine

MOVE: Final = "move"
"""The tool by which the model moves; no other tool or delegate may have its name."""

A = TypeVar("A")


class Row(Struct, frozen=True):
    """One state in words. `events` maps each event to the state it leads to; `tools` are names."""

    state: str
    events: Mapping[str, str]
    tools: tuple[str, ...]
    seconds: float | None
    expires_to: str

    @property
    def final(self) -> bool:
        """Whether the run ends here."""
        return not self.events and self.seconds is None

    @property
    def rests(self) -> bool:
        """Whether there is nothing for the model to do here: only time leads on."""
        return not self.events and not self.tools and self.seconds is not None


class Table(Struct, frozen=True):
    """A whole machine in words."""

    initial: str
    rows: Mapping[str, Row]


class _Event(Struct, frozen=True, forbid_unknown_fields=True):
    event: str


def word(member: Enum) -> str:
    """The name of a state or event as the model and the journal have it."""
    return member.value if isinstance(member.value, str) else member.name


def table_of(machine: StateMachine[Any, Any], where: str) -> Table:
    """The machine in words. Raises `SpecError`: not fit for an agent, which must begin somewhere and can end."""
    if not isinstance(machine, StateMachine):
        raise SpecError(f"{where}: machine= takes a StateMachine, not {machine!r}")
    _check_words(machine.states, where)
    for row in machine.states.values():
        _check_words(row.on, where)
        for tool in row.tools:
            if not isinstance(tool, Tool):
                raise SpecError(f"{where}: a state offers {tool!r}, which is not a tool")
    if machine.row(machine.initial).final:
        raise SpecError(f"{where}: its machine begins in the final state {word(machine.initial)!r}")
    if ends := machine.dead_ends():
        names = ", ".join(repr(word(state)) for state in ends)
        raise SpecError(f"{where}: no final state, a State() without rows, can be reached from {names}")
    return Table(word(machine.initial), {word(state): _row(state, row) for state, row in machine.states.items()})


def _check_words(members: Iterable[Enum], where: str) -> None:
    seen: dict[str, Enum] = {}
    for member in members:
        other = seen.setdefault(word(member), member)
        if other is not member or not word(member):
            raise SpecError(f"{where}: {other!r} and {member!r} are both named {word(member)!r}; name each its own way")


def _row(state: Enum, row: State[Any, Any]) -> Row:
    events = {word(event): word(target) for event, target in row.on.items()}
    seconds, target = row.timeout if row.timeout is not None else (None, None)
    tools = tuple(tool.name for tool in row.tools)
    return Row(
        word(state), events, tools, float(seconds) if seconds is not None else None, word(target) if target else ""
    )


def tools_of(machine: StateMachine[Any, Any] | None) -> tuple[Tool[..., Any], ...]:
    """Every tool that some state offers, each once, in the order of the rows."""
    rows = machine.states.values() if machine is not None else ()
    return tuple(dict.fromkeys(tool for row in rows for tool in row.tools if isinstance(tool, Tool)))


def offered(acts: Mapping[str, A], general: Iterable[str], row: Row | None) -> dict[str, A]:
    """Of all acts of an agent, those that may be called in a state: the general ones and its own; none in a final."""
    if row is None:
        return dict(acts)
    names = () if row.final else (*general, *row.tools)
    return {name: acts[name] for name in dict.fromkeys(names)}


def move_schema(row: Row) -> ToolSchema | None:
    """The tool `move` in a state, None where no event leads on."""
    if not row.events:
        return None
    ways = ", ".join(f"{event} (to {to})" for event, to in row.events.items())
    text = f"The request is in state {row.state!r}. When one of its events has happened, say so to move on: {ways}."
    parameters = {
        "type": "object",
        "properties": {"event": {"type": "string", "enum": list(row.events)}},
        "additionalProperties": False,
        "required": ["event"],
    }
    return ToolSchema(MOVE, text, parameters)


def event_of(row: Row, arguments: str) -> tuple[str, str]:
    """(the event, "") of a call of `move`, else ("", what is wrong and what is allowed)."""
    try:
        event = msgspec.json.decode(arguments.encode("utf-8", "replace") or b"{}", type=_Event).event
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return "", f"{error}; {ways_of(row)}"
    return (event, "") if event in row.events else ("", f"state {row.state!r} has no event {event!r}; {ways_of(row)}")


def ways_of(row: Row) -> str:
    """What leads on from a state, for the model."""
    return f"its events: {', '.join(row.events)}" if row.events else "no event leads on from it"


def refusal(row: Row, name: str, names: Iterable[str]) -> str:
    """Why a tool that the agent has cannot be called in this state."""
    if row.final:
        return f"state {row.state!r} is final, and no tool is offered in it: answer now"
    listed = ", ".join(names) or "none"
    return f"tool {name!r} is not offered in state {row.state!r}; the tools of this state: {listed}; {ways_of(row)}"


def arrived(row: Row, names: Iterable[str]) -> str:
    """The result of `move` as JSON: the new state and what it offers."""
    told: dict[str, object] = {"state": row.state}
    if row.final:
        told["final"] = True
    else:
        told["tools"], told["events"] = list(names), list(row.events)
    return msgspec.json.encode(told).decode()
