"""What an answer must pass beside its schema: it says something, and the user's checks have no objection.

A check takes the decoded answer and gives None (or "") when it has no objection, else words that the model is told:

    def cites(answer: Answer) -> str | None:
        return None if answer.sources else "name at least one source"

    @tool(effect="read", timeout=5)
    async def in_stock(answer: Answer) -> str | None: ...

A plain function is pure and is called by `decide`, and again by replay. One that must look at the world is an
`async def`, or a tool of effect `read`: it is called once for an answer, within its timeout, and its word is
journalled.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from msgspec import Struct

from understudy.actors.agents.tools import ERROR_LIMIT, Tool
from understudy.actors.errors import SpecError

CHECK_SECONDS: Final = 30.0
"""Seconds that an `async def` check has; a tool has its own timeout."""

PLACEHOLDERS: Final = frozenset(
    {
        "todo",
        "tbd",
        "fixme",
        "placeholder",
        "lorem ipsum",
        "insert text here",
        "insert answer here",
        "your answer here",
        "your text here",
        "answer goes here",
        "text goes here",
        "to be determined",
        "to be filled in",
        "to be completed",
    }
)
"""Whole texts that say nothing, without case, brackets and punctuation at the ends."""

_EDGES: Final = re.compile(r"^[\W_]+|[\W_]+$")
_TEMPLATE: Final = re.compile(
    r"\A\s*(?:<[^<>\n]{1,60}>|\{\{[^{}\n]{1,60}\}\}|\[(?:your|insert|todo|tbd)\b[^\[\]\n]{0,60}\])\s*\Z", re.IGNORECASE
)
"""A text that is nothing but a slot of a template: `<answer>`, `{{name}}`, `[your text]`."""

Check = Callable[[Any], "str | None"] | Callable[[Any], "Awaitable[str | None]"] | Tool[..., Any]
"""What users give. The answer's type is the agent's; a module-level name cannot say it."""


class Look(Struct, frozen=True):
    """A check that looks at the world: `seconds` for one try, and `retries` further ones after an error."""

    name: str
    fn: Callable[[Any], Any]
    seconds: float
    retries: int


class Checks:
    """The checks of one agent, in the order they were given: the pure ones first, then those that look.

    Raises `SpecError` for what is no check, and for two of one name.
    """

    def __init__(self, checks: Sequence[Check], where: str) -> None:
        self.pure: dict[str, Callable[[Any], Any]] = {}
        self.looks: dict[str, Look] = {}
        for check in checks:
            name = _name(check, where)
            if name in self.pure or name in self.looks:
                raise SpecError(f"{where}: two checks are named {name!r}")
            if isinstance(check, Tool):
                self.looks[name] = _of_tool(check, where)
            elif inspect.iscoroutinefunction(check):
                self.looks[name] = Look(name, check, CHECK_SECONDS, 0)
            else:
                self.pure[name] = check

    def objection(self, value: object) -> str:
        """What the first pure check that objects says, "" for none. Raises what a check raises, and `TypeError` for a
        word that is neither text nor None.
        """
        for name, check in self.pure.items():
            if said := word(name, check(value)):
                return said
        return ""


def word(name: str, said: object) -> str:
    """What a check said: "" for no objection. Raises `TypeError` for what is neither text nor None."""
    if said is None or isinstance(said, str):
        return (said or "")[:ERROR_LIMIT]
    raise TypeError(f"check {name!r} answered {said!r}; None for no objection, else words")


def empty(value: object, placeholders: Collection[str] = PLACEHOLDERS, words: Collection[str] = ()) -> str:
    """Why an answer says nothing, with the places; "" when it says something. `value` is the decoded answer.

    A text says nothing when it is blank, punctuation alone, one of `placeholders`, or a template's slot. An answer is
    empty when it has texts and none of them says anything; `words` (those that its schema lists) are no texts.
    """
    hollow: list[str] = []
    for path, text in _texts(value, ""):
        if text in words:
            continue
        if not _says_nothing(text, placeholders):
            return ""
        hollow.append(f"{text.strip()[:80]!r}{f' at {path}' if path else ''}")
    return f"the answer says nothing: {', '.join(hollow[:5])}" if hollow else ""


def _says_nothing(text: str, placeholders: Collection[str]) -> bool:
    bare = _EDGES.sub("", text).casefold()
    return bare in placeholders or bool(_TEMPLATE.match(text)) or (not bare and not _is_symbol(text))


def _is_symbol(text: str) -> bool:
    """A sign that stands for something, such as 👍 or ±; not dots, dashes, quotes and brackets."""
    return any(not char.isascii() and not char.isspace() and char not in "…–—·•“”‘’«»" for char in text)


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    """Every text of an answer with its place, as "$.items[0].name"; keys of mappings are no texts."""
    if isinstance(value, str):
        yield path, value
        return
    plain = value if isinstance(value, Mapping | list | tuple | set | frozenset) else _plain(value)
    if isinstance(plain, Mapping):
        for key, item in cast("Mapping[object, object]", plain).items():
            yield from _texts(item, f"{path or '$'}.{key}")
    elif isinstance(plain, list | tuple | set | frozenset):
        for index, item in enumerate(cast("Iterable[object]", plain)):
            yield from _texts(item, f"{path or '$'}[{index}]")


def _plain(value: object) -> object:
    """The fields of a structure by name; what has none is no text."""
    if isinstance(value, Struct):
        return {name: getattr(value, name) for name in value.__struct_fields__}
    fields = getattr(type(value), "__dataclass_fields__", None) or getattr(type(value), "model_fields", None)
    return {name: getattr(value, name, None) for name in fields} if isinstance(fields, Mapping) else None


def _name(check: object, where: str) -> str:
    if not callable(check):
        raise SpecError(f"{where}: check {check!r} is not a function")
    return str(getattr(check, "__name__", None) or type(check).__name__)


def _of_tool(tool: Tool[..., Any], where: str) -> Look:
    place = f"{where}: check {tool.name!r}"
    if tool.effect != "read":
        raise SpecError(f"{place}: a check only reads, and this tool is {tool.effect!r}")
    if not tool.is_async or tool.takes_call or len(tool.parameters.__struct_fields__) != 1:
        raise SpecError(f"{place}: a check is an `async def` of one parameter, the answer")
    return Look(tool.name, tool.fn, tool.timeout, tool.retries)
