"""Texts that match a regular expression, drawn from a stream of choices."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Final, Protocol

_PRINTABLE: Final = "".join(map(chr, range(97, 123))) + "0123456789" + "".join(map(chr, range(32, 127)))
_MORE: Final = 3
"""Repetitions that choices may ask for beyond the least number."""


class Chooser(Protocol):
    """Where decisions come from, such as `values.Choices`."""

    def next(self, n: int) -> int:
        """From 0 to n - 1."""
        ...


def matching(pattern: str, choices: Chooser) -> str | None:
    """A text in which `re.search` finds the pattern; None when none is known (lookarounds, back references)."""
    try:
        # Private, and the only parser of these patterns there is; a change of it is told as "none known".
        text = _sequence(import_module("re._parser").parse(pattern), choices)
        return text if re.search(pattern, text) else None
    except (ImportError, AttributeError, LookupError, TypeError, ValueError, re.error):
        return None


# The parser's nodes are untyped pairs of an opcode and what it needs.
def _sequence(nodes: Any, choices: Chooser) -> str:
    return "".join(_one(str(op), argument, choices) for op, argument in nodes)


def _one(op: str, argument: Any, choices: Chooser) -> str:
    match op:
        case "LITERAL":
            return chr(argument)
        case "AT":
            return ""
        case "ANY":
            return _PRINTABLE[choices.next(len(_PRINTABLE))]
        case "NOT_LITERAL":
            return next(char for char in _PRINTABLE if char != chr(argument))
        case "IN":
            return _of_set(argument, choices)
        case "BRANCH":
            ways = argument[1]
            return _sequence(ways[choices.next(len(ways))], choices)
        case "SUBPATTERN" | "ATOMIC_GROUP":
            return _sequence(argument[-1] if op == "SUBPATTERN" else argument, choices)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, inner = argument
            count = least + choices.next(min(int(most), least + _MORE) - least + 1)
            return "".join(_sequence(inner, choices) for _ in range(count))
        case _:
            raise ValueError(op)


def _of_set(items: Any, choices: Chooser) -> str:
    negated = str(items[0][0]) == "NEGATE"
    members = [char for char in _PRINTABLE if any(_is_in(str(op), what, char) for op, what in items) is not negated]
    if not members and not negated:
        members = [chr(what if str(op) == "LITERAL" else what[0]) for op, what in items if str(op) != "CATEGORY"]
    return members[choices.next(len(members))]


def _is_in(op: str, what: Any, char: str) -> bool:
    match op:
        case "LITERAL":
            return ord(char) == int(what)
        case "RANGE":
            return bool(what[0] <= ord(char) <= what[1])
        case "CATEGORY":
            name = str(what)
            form = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}[name.rsplit("_", 1)[1]]
            return bool(re.match(form, char)) is not ("_NOT_" in name)
        case _:
            return False
