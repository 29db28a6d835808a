"""An agent's state machine as a Mermaid state diagram, with the way that a run took drawn on it. Pure.

    print(mermaid(table_of(machine, "refunds"), path_of(records)))

States that the run was in are filled, the one it is or ended in has a thick border, and the transitions it took carry
their numbers in order. Mermaid shows it in README files, issues and notebooks without further tools.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from msgspec import Struct

from understudy.actors.agents.machine import Row, Table
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record


class Taken(Struct, frozen=True):
    """One transition that a run took. `source` is "" for its beginning; `by` is the event, "" for a timeout."""

    source: str
    to: str
    by: str


def path_of(records: Iterable[Record], sub: int = 0) -> list[Taken]:
    """The transitions of one (sub-)run, oldest first; those that a restart took back are still among them."""
    moves = [record.event for record in records if record.sub == sub and isinstance(record.event, ev.Moved)]
    return [Taken(move.source, move.to, move.event) for move in moves]


def mermaid(table: Table | None, path: Sequence[Taken] = ()) -> str:
    """The diagram as text, one statement a line. Without a table, the states and transitions of `path` alone."""
    rows = table.rows if table is not None else {}
    initial = table.initial if table is not None else path[0].to if path else ""
    states = [*rows, *(state for taken in path for state in (taken.source, taken.to) if state)]
    names = {state: _id(number, state) for number, state in enumerate(dict.fromkeys(states))}
    numbers: dict[tuple[str, str, str], list[int]] = {}
    for number, taken in enumerate((taken for taken in path if taken.source), 1):
        numbers.setdefault((taken.source, taken.to, taken.by), []).append(number)
    lines = ["stateDiagram-v2"]
    lines += [f"    state {_quoted(state)} as {name}" for state, name in names.items() if state != name]
    lines += [f"    [*] --> {names[initial]}"] if initial else []
    for state, row in rows.items():
        for source, to, by in _ways(state, row):
            label = by or f"after {row.seconds:g} s"
            lines.append(_arrow(names, source, to, label, numbers.pop((source, to, by), [])))
        if row.final:
            lines.append(f"    {names[state]} --> [*]")
    for (source, to, by), found in numbers.items():  # what the table does not have, or no longer
        lines.append(_arrow(names, source, to, by or "timeout", found))
    return "\n".join(lines + _colours(names, path))


def _ways(state: str, row: Row) -> list[tuple[str, str, str]]:
    ways = [(state, to, event) for event, to in row.events.items()]
    if row.seconds is not None:
        ways.append((state, row.expires_to, ""))
    return ways


def _arrow(names: dict[str, str], source: str, to: str, label: str, numbers: list[int]) -> str:
    told = f"{', '.join(map(str, numbers))} · {label}" if numbers else label
    return f"    {names[source]} --> {names[to]}: {_text(told)}"


def _colours(names: dict[str, str], path: Sequence[Taken]) -> list[str]:
    visited = dict.fromkeys(taken.to for taken in path)
    if not visited:
        return []
    last = path[-1].to
    lines = ["    classDef visited fill:#cfe8cf,stroke:#2e7d32", "    classDef last stroke-width:4px"]
    lines.append(f"    class {','.join(names[state] for state in visited)} visited")
    return [*lines, f"    class {names[last]} last"]


def _id(number: int, state: str) -> str:
    """A name that Mermaid takes."""
    return state if re.fullmatch(r"[A-Za-z_]\w*", state) and state not in _WORDS else f"s{number}"


_WORDS = frozenset({"state", "end", "note", "class", "classDef", "direction", "as", "default"})


def _quoted(state: str) -> str:
    return f'"{_text(state)}"'


def _text(text: str) -> str:
    return " ".join(text.replace('"', "'").replace(":", "∶").replace(";", ",").split())[:80]
