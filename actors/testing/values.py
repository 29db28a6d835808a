"""JSON values from a JSON schema and a stream of small integers.

    value(schema, Choices((2, 0, 1)))            # fits the schema
    broken(schema, fitting, Choices((3,)))       # ({...}, "$.cents: -1 is less than the minimum 0")

Made for the schemas that msgspec makes of types (`agents.schema`): objects, arrays, enums, tags, unions, `$ref` into
`$defs`, strings with length, pattern or format, numbers with bounds, booleans and null. An exhausted stream gives the
simplest value: that is what shrinking walks to. What a schema does not say cannot be kept: msgspec shows a `datetime`
without `Meta(tz=...)` and a `time` as any string, and the keys of `dict[int, ...]` as any names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar, cast

from understudy.actors.errors import UsageError
from understudy.actors.testing.patterns import matching
from understudy.actors.testing.schemas import FORMATS, JSON, Schema, fits, number, resolved, sequence, table

__all__ = ["JSON", "Choices", "broken", "fits", "value"]

T = TypeVar("T")
Words: TypeAlias = Sequence[str]

DEEPEST: Final = 8
"""Levels of nesting that a stream may ask for; below them the simplest is taken."""
MOST_ITEMS: Final = 3
"""Items that a stream may ask for beyond the least number."""
_TRIES: Final = 64

_WORDS: Final = ("a", "", "b", "two words", "Ünïcode ✓", "0", "x" * 200)
_NUMBERS: Final = (0, 1, 2, -1, 7, 10, 100, 1_000, 4_000, 10_000, 1_000_000, -1_000, 2**31, 2**53 - 1)
_FRACTIONS: Final = (0.5, -0.5, 1e-9, 3.75, 1e18)
_ANYTHING: Final[tuple[JSON, ...]] = (None, "a", 0, True, [], {}, 1.5, ["a"], {"a": None})


class Choices:
    """A stream of decisions. `next(n)` is from 0 to n - 1, and 0 when the stream is exhausted: 0 is the simplest.

    Any integers will do; each is taken modulo `n`, and a choice among one takes none. `taken` is how many were taken,
    and may be set back.
    """

    def __init__(self, ints: Iterable[int] = ()) -> None:
        self._ints = tuple(ints)
        self.taken = 0

    def next(self, n: int) -> int:
        """Raises `UsageError` when there is nothing to choose from."""
        if n < 1:
            raise UsageError(f"Choices.next({n}): there must be at least one way")
        if n == 1 or self.taken >= len(self._ints):
            return 0
        self.taken += 1
        return self._ints[self.taken - 1] % n

    def among(self, options: Sequence[T]) -> T:
        """One of them, the first when the stream is exhausted. Raises `UsageError` for none."""
        return options[self.next(len(options))]


def value(schema: Schema, choices: Choices, *, words: Words = (), turn: int = 0) -> JSON:
    """A value that fits the schema.

    `words` are further texts (and numbers, where they are some) that may be chosen, such as those of a conversation.
    `turn` shifts the choice among the alternatives of the root, so that the simplest values take turns with them.
    Raises `UsageError` naming the place when no fitting value is known: a pattern needs `Meta(examples=[...])` then.
    """
    return _Maker(schema, choices, words, turn).make(schema, "$", 0)


class _Maker:
    def __init__(self, root: Schema, choices: Choices, words: Words, turn: int) -> None:
        self._root = root
        self._choices = choices
        self._words = words
        self._turn = turn

    def make(self, schema: Schema, at: str, level: int) -> JSON:
        schema = resolved(self._root, schema)
        if "enum" in schema:
            return self._among(sequence(schema, "enum"), level)
        if "anyOf" in schema:
            return self._alternative(schema, at, level)
        match schema.get("type"):
            case "object":
                return self._object(schema, at, level)
            case "array":
                return self._array(schema, at, level)
            case "string":
                return self._among(self._strings(schema, at), level)
            case "integer" | "number":
                return self._among(self._numbers(schema, at), level)
            case "boolean":
                return self._among((False, True), level)
            case "null":
                return None
            case _:
                return self._among(_ANYTHING, level)

    def _next(self, n: int, level: int) -> int:
        return 0 if level > DEEPEST else self._choices.next(n)

    def _among(self, options: Sequence[T], level: int) -> T:
        return options[self._next(len(options), level)]

    def _alternative(self, schema: Schema, at: str, level: int) -> JSON:
        """The shallowest first: a tree without choices ends."""
        depths = [(_depth(self._root, each, ()), each) for each in _schemas(schema, "anyOf")]
        ways = [each for depth, each in sorted(depths, key=lambda pair: pair[0]) if depth < math.inf]
        if not ways:
            raise UsageError(f"{at}: a value of this schema has no end")
        shift = self._turn if level == 0 else 0
        return self.make(ways[(self._next(len(ways), level) + shift) % len(ways)], at, level + 1)

    def _object(self, schema: Schema, at: str, level: int) -> JSON:
        made: dict[str, JSON] = {}
        needed = sequence(schema, "required")
        for name, inner in table(schema, "properties").items():
            if name in needed or self._next(2, level):
                made[name] = self.make(cast("Schema", inner), f"{at}.{name}", level + 1)
        free = schema.get("additionalProperties", "properties" not in schema)
        if free is not False and "properties" not in schema:
            self._entries(schema, made, free if isinstance(free, Mapping) else {}, at, level)
        return made

    def _entries(self, schema: Schema, made: dict[str, JSON], inner: Schema, at: str, level: int) -> None:
        least, most = _sizes(schema, "Properties")
        size = least + self._next(most - least + 1, level)
        names = {"type": "string", **table(schema, "propertyNames")}
        keys = dict.fromkeys(self._strings(names, f"{at} (a key)"))
        keys.update(dict.fromkeys(k for n in range(size) if fits(names, k := f"key{n}")))
        if len(keys) < size:
            raise UsageError(f"{at}: only {len(keys)} names are known, and {size} are needed")
        for key in list(keys)[:size]:
            made[key] = self.make(inner, f"{at}.{key}", level + 1)

    def _array(self, schema: Schema, at: str, level: int) -> JSON:
        first = _schemas(schema, "prefixItems")
        made = [self.make(inner, f"{at}[{n}]", level + 1) for n, inner in enumerate(first)]
        items = schema.get("items", {} if not first else False)
        if items is False:
            return made
        least, most = _sizes(schema, "Items")
        inner = cast("Schema", items)
        size = least + self._next(most - least + 1, level) - len(made)
        made += [self.make(inner, f"{at}[{n}]", level + 1) for n in range(size)]
        return self._distinct(made, inner, at, level, least) if schema.get("uniqueItems") else made

    def _distinct(self, made: list[JSON], inner: Schema, at: str, level: int, least: int) -> list[JSON]:
        kept: list[JSON] = []
        for each in made:
            if each not in kept:
                kept.append(each)
        for shift in range(_TRIES):
            if len(kept) >= least:
                return kept
            other = _Maker(self._root, Choices((shift,) * DEEPEST), self._words, 0).make(inner, at, level + 1)
            if other not in kept:
                kept.append(other)
        raise UsageError(f"{at}: only {len(kept)} distinct items are known, and {least} are needed")

    def _strings(self, schema: Schema, at: str) -> Sequence[str]:
        known: Iterable[str] = _WORDS[:1] + tuple(self._words) + _WORDS[1:]
        form = str(schema.get("format") or schema.get("contentEncoding") or "")
        if form in FORMATS:
            known = FORMATS[form][1]
        if (examples := sequence(schema, "examples")) or form:
            known = (*(each for each in examples if isinstance(each, str)), *known)
        least, most = int(number(schema, "minLength", 0)), number(schema, "maxLength", math.inf)
        sized = (each[: int(min(most, len(each)))].ljust(least, "a") for each in known)
        fitting = [each for each in dict.fromkeys(sized) if fits(schema, each)]
        if (pattern := schema.get("pattern")) is not None:
            drawn = (matching(str(pattern), way) for way in (Choices(), self._choices, Choices((1,) * 20)))
            fitting += [each for each in drawn if each is not None and each not in fitting and fits(schema, each)]
        if not fitting:
            raise UsageError(f"{at}: no text that fits {dict(schema)} is known; give one by Meta(examples=[...])")
        return fitting

    def _numbers(self, schema: Schema, at: str) -> Sequence[int | float]:
        whole = schema["type"] == "integer"
        step = number(schema, "multipleOf", 1)
        low = max(number(schema, "minimum", -math.inf), number(schema, "exclusiveMinimum", -math.inf))
        high = min(number(schema, "maximum", math.inf), number(schema, "exclusiveMaximum", math.inf))
        known: list[int | float] = [*_NUMBERS, *(() if whole else _FRACTIONS), *_numbers_of(self._words)]
        known += [step, *(base for end in (low, high) if math.isfinite(end) for base in _around(end, step))]
        if math.isfinite(low) and math.isfinite(high):
            known.append((low + high) / 2)
        fitting = dict.fromkeys(int(each) if whole else each for each in known if not whole or each == int(each))
        found = [each for each in fitting if fits(schema, each)]
        if not found:
            raise UsageError(f"{at}: no number that fits {dict(schema)} is known")
        return found


def _around(end: float, step: float) -> Iterator[float]:
    """The bound itself, and the multiples of `step` beside it."""
    yield end
    for count in (math.ceil(end / step), math.floor(end / step)):
        yield from (count * step, (count + 1) * step, (count - 1) * step)
    yield from (end + 1e-6, end - 1e-6)


def _numbers_of(words: Words) -> Iterator[int]:
    return (int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 16)


def _schemas(schema: Schema, key: str) -> list[Schema]:
    return [cast("Schema", each) for each in sequence(schema, key)]


def _sizes(schema: Schema, what: str) -> tuple[int, int]:
    """The least and the most entries to make."""
    least = int(number(schema, f"min{what}", 0))
    return least, int(min(number(schema, f"max{what}", math.inf), least + MOST_ITEMS))


def _depth(root: Schema, schema: Schema, inside: tuple[str, ...]) -> float:
    """Levels of the shallowest value; infinity for one that cannot end."""
    if (name := str(schema.get("$ref", ""))) in inside and name:
        return math.inf
    inside = (*inside, name) if name else inside
    schema = resolved(root, schema)
    if "anyOf" in schema:
        return min((_depth(root, each, inside) for each in _schemas(schema, "anyOf")), default=math.inf)
    within: list[Schema] = []
    if schema.get("type") == "object":
        properties = table(schema, "properties")
        within = [cast("Schema", properties[str(name)]) for name in sequence(schema, "required")]
    elif schema.get("type") == "array":
        within = _schemas(schema, "prefixItems")
        if isinstance(items := schema.get("items"), Mapping) and number(schema, "minItems", 0) > len(within):
            within.append(items)
    return 1 + max((_depth(root, each, inside) for each in within), default=0) if within else 0


# --- breaking ---------------------------------------------------------------------------------------------


def broken(schema: Schema, value: JSON, choices: Choices) -> tuple[JSON, str]:
    """A copy of a fitting `value` that breaks exactly one constraint, and a sentence that says where and which.

    In the order of choices: a wrong type, a value outside an enum, outside bounds, of a wrong format or length, a
    missing property, a property too many. Raises `UsageError` when `value` does not fit, or anything would.
    """
    if not fits(schema, value):
        raise UsageError(f"{value!r} does not fit the schema, so it cannot be broken in one place")
    ways = sorted(_ways(schema, schema, value, ()), key=lambda way: way.rank)
    found = [(made, way.what) for way in ways if not fits(schema, made := _edited(value, way))]
    if not found:
        raise UsageError("the schema allows anything: nothing can be broken")
    return choices.among(found)


class _Way:
    """One edit: at `path`, put `new`; `new` is `_GONE` to take away."""

    def __init__(self, rank: int, path: tuple[str | int, ...], new: object, what: str) -> None:
        self.rank = rank
        self.path = path
        self.new = new
        self.what = f"{_place(path)}: {what}"


_GONE: Final = object()
_WRONG: Final[Mapping[object, Sequence[JSON]]] = {
    "string": (7, True),
    "integer": ("7", 0.5),
    "number": ("7",),
    "boolean": ("yes", 1),
    "null": (0,),
    "array": ("a", {}),
    "object": ([], "a"),
}


def _place(path: tuple[str | int, ...]) -> str:
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)


def _edited(value: JSON, way: _Way) -> JSON:
    return _put(value, way.path, way.new)


def _put(value: JSON, path: tuple[str | int, ...], new: object) -> JSON:
    if not path:
        return cast("JSON", new)
    step, rest = path[0], path[1:]
    if isinstance(value, list):
        return [_put(each, rest, new) if n == step else each for n, each in enumerate(value)] + (
            [cast("JSON", new)] if step == len(value) else []
        )
    assert isinstance(value, dict)
    assert isinstance(step, str)
    if not rest and new is _GONE:
        return {name: each for name, each in value.items() if name != step}
    return {**value, step: _put(value.get(step), rest, new)}


def _ways(root: Schema, schema: Schema, value: JSON, path: tuple[str | int, ...]) -> Iterator[_Way]:
    schema = resolved(root, schema)
    if "anyOf" in schema:
        inner = [each for each in _schemas(schema, "anyOf") if fits(each, value, root)]
        yield from _wrong_type(schema, path, ("string", "object", "array", "boolean", "integer"))
        yield from _ways(root, inner[0], value, path)
        return
    yield from _wrong_type(schema, path, (schema.get("type"),))
    if "enum" in schema:
        members = sequence(schema, "enum")
        for near in [f"{value}x", "none of these", max((m for m in members if isinstance(m, int)), default=0) + 1]:
            yield _Way(1, path, near, f"{near!r} is not one of {', '.join(map(repr, members))}")
    elif isinstance(value, dict):
        yield from _ways_of_object(root, schema, value, path)
    elif isinstance(value, list):
        yield from _ways_of_array(root, schema, value, path)
    elif isinstance(value, str):
        yield from _ways_of_string(schema, value, path)
    elif isinstance(value, int | float):
        yield from _ways_of_number(schema, path)


def _wrong_type(schema: Schema, path: tuple[str | int, ...], kinds: Iterable[object]) -> Iterator[_Way]:
    wanted = str(schema.get("type") or "any of its alternatives")
    for kind in kinds:
        for wrong in _WRONG.get(kind, ()):
            yield _Way(0, path, wrong, f"{wrong!r} is not of type {wanted}")


def _ways_of_object(
    root: Schema, schema: Schema, value: dict[str, JSON], path: tuple[str | int, ...]
) -> Iterator[_Way]:
    properties, free = table(schema, "properties"), schema.get("additionalProperties", True)
    for name, inner in value.items():
        form = properties.get(name, free if isinstance(free, Mapping) else {})
        yield from _ways(root, cast("Schema", form), inner, (*path, name))
    for required in sequence(schema, "required"):
        yield _Way(4, (*path, str(required)), _GONE, "the required property is missing")
    if free is False:
        extra = next(name for name in ("extra", "extra_", "extra__") if name not in properties)
        yield _Way(5, (*path, extra), "a", "a property that is not allowed")
    yield from _sized(schema, "Properties", path, {}, {**value, **{f"more{n}": None for n in range(_TRIES)}})


def _ways_of_array(root: Schema, schema: Schema, value: list[JSON], path: tuple[str | int, ...]) -> Iterator[_Way]:
    first, items = _schemas(schema, "prefixItems"), schema.get("items", {})
    for n, inner in enumerate(value):
        form = first[n] if n < len(first) else items
        yield from _ways(root, cast("Schema", form), inner, (*path, n))
    if (least := int(number(schema, "minItems", 0))) > 0:
        yield _Way(3, path, value[: least - 1], f"fewer than {least} items")
    if math.isfinite(most := number(schema, "maxItems", math.inf)) and value:
        yield _Way(3, path, (value * (int(most) + 1))[: int(most) + 1], f"more than {most:g} items")


def _sized(schema: Schema, what: str, path: tuple[str | int, ...], few: JSON, many: JSON) -> Iterator[_Way]:
    if number(schema, f"min{what}", 0) > 0:
        yield _Way(3, path, few, "too few entries")
    if f"max{what}" in schema:
        yield _Way(3, path, many, "too many entries")


def _ways_of_string(schema: Schema, value: str, path: tuple[str | int, ...]) -> Iterator[_Way]:
    if form := schema.get("format") or schema.get("contentEncoding"):
        yield _Way(2, path, "not so", f"'not so' is not of format {form}")
    if (pattern := schema.get("pattern")) is not None:
        for wrong in (f"{value}?", f"?{value}", "?" * max(1, len(value))):
            yield _Way(2, path, wrong, f"{wrong!r} does not match {pattern}")
    if (least := int(number(schema, "minLength", 0))) > 0:
        yield _Way(3, path, value[: least - 1], f"shorter than {least} characters")
    if math.isfinite(most := number(schema, "maxLength", math.inf)):
        yield _Way(3, path, (value or "a") * (int(most) + 1), f"longer than {most:g} characters")


def _ways_of_number(schema: Schema, path: tuple[str | int, ...]) -> Iterator[_Way]:
    bounds = (("minimum", -1, "less than"), ("exclusiveMinimum", 0, "not more than"))
    ends = (("maximum", 1, "more than"), ("exclusiveMaximum", 0, "not less than"))
    for key, shift, words in (*bounds, *ends):
        if key in schema:
            out = number(schema, key, 0) + shift * number(schema, "multipleOf", 1)
            made = int(out) if out == int(out) else out
            yield _Way(2, path, made, f"{made!r} is {words} the {key} {schema[key]}")
    if "multipleOf" in schema:
        step = number(schema, "multipleOf", 1)
        for part in (step / 2, step + 1):
            made = int(part) if part == int(part) else part
            yield _Way(2, path, made, f"{made!r} is no multiple of {step:g}")
