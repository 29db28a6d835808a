"""Reading JSON schemas as msgspec makes them, and whether a value fits one. Pure."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import msgspec

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Schema: TypeAlias = Mapping[str, object]

# Type forms by the name of the format; a form has no precise type.
FORMATS: Final[Mapping[str, tuple[Any, Sequence[str]]]] = {
    "date-time": (datetime.datetime, ("2026-01-02T03:04:05Z", "1999-12-31T23:59:59.999999+14:00")),
    "date": (datetime.date, ("2026-01-02", "2024-02-29")),
    "duration": (datetime.timedelta, ("PT1S", "P1D", "PT0S")),
    "uuid": (uuid.UUID, ("00000000-0000-4000-8000-000000000000", "ffffffff-ffff-4fff-bfff-ffffffffffff")),
    "decimal": (decimal.Decimal, ("1.00", "0", "-12.345678901234567890")),
    "base64": (bytes, ("YQ==", "")),
}
"""By format: what decodes it, and texts of it, the simplest first."""


def resolved(root: Schema, schema: Schema) -> Schema:
    """The schema that a `$ref` leads to; any other as it is."""
    for _ in range(100):
        if "$ref" not in schema:
            break
        schema = cast("Schema", table(root, "$defs")[str(schema["$ref"]).rsplit("/", 1)[1]])
    return schema


def table(schema: Schema, key: str) -> Mapping[str, object]:
    """What a keyword holds by name, {} without it."""
    return cast("Mapping[str, object]", schema.get(key) or {})


def sequence(schema: Schema, key: str) -> Sequence[JSON]:
    """What a keyword lists, () without it."""
    return cast("Sequence[JSON]", schema.get(key) or ())


def number(schema: Schema, key: str, default: float) -> float:
    """The number of a keyword."""
    return cast("float", schema.get(key, default))


def fits(schema: Schema, value: JSON, root: Schema | None = None) -> bool:
    """Whether the value keeps every constraint of the schema. `root` holds the `$defs`, by default `schema` itself."""
    root = schema if root is None else root
    schema = resolved(root, schema)
    if "enum" in schema:
        return any(type(each) is type(value) and each == value for each in sequence(schema, "enum"))
    if "anyOf" in schema:
        return any(fits(cast("Schema", each), value, root) for each in cast("Sequence[object]", schema["anyOf"]))
    match schema.get("type"):
        case "object":
            return isinstance(value, dict) and _fits_object(root, schema, value)
        case "array":
            return isinstance(value, list) and _fits_array(root, schema, value)
        case "string":
            return _fits_string(schema, value)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool) and _within(schema, value)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool) and _within(schema, value)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return True


def _fits_object(root: Schema, schema: Schema, value: dict[str, JSON]) -> bool:
    properties, free = table(schema, "properties"), schema.get("additionalProperties", True)
    if any(name not in value for name in sequence(schema, "required")):
        return False
    if not number(schema, "minProperties", 0) <= len(value) <= number(schema, "maxProperties", float("inf")):
        return False
    names = {"type": "string", **table(schema, "propertyNames")}
    for name, each in value.items():
        if name in properties:
            if not fits(cast("Schema", properties[name]), each, root):
                return False
        elif free is False or not fits(names, name) or not fits(_as_schema(free), each, root):
            return False
    return True


def _as_schema(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def _fits_array(root: Schema, schema: Schema, value: list[JSON]) -> bool:
    first, items = sequence(schema, "prefixItems"), schema.get("items", {})
    if not number(schema, "minItems", 0) <= len(value) <= number(schema, "maxItems", float("inf")):
        return False
    if items is False and len(value) > len(first):
        return False
    forms = [cast("Schema", each) for each in first] + [_as_schema(items)] * len(value)
    return all(fits(form, each, root) for form, each in zip(forms, value, strict=False))


def _fits_string(schema: Schema, value: JSON) -> bool:
    form = str(schema.get("format") or schema.get("contentEncoding") or "")
    if form == "decimal" and isinstance(value, int | float) and not isinstance(value, bool):
        return True  # msgspec takes a number for a decimal
    if not isinstance(value, str):
        return False
    if not number(schema, "minLength", 0) <= len(value) <= number(schema, "maxLength", float("inf")):
        return False
    if (pattern := schema.get("pattern")) is not None and re.search(str(pattern), value) is None:
        return False
    return form not in FORMATS or _decodes(value, FORMATS[form][0], aware=form == "date-time")


# A type form has no precise type.
def _decodes(text: str, form: Any, *, aware: bool) -> bool:
    try:
        made: object = msgspec.convert(text, form)
    except (msgspec.ValidationError, ValueError):
        return False
    return not aware or (isinstance(made, datetime.datetime) and made.tzinfo is not None)


def _within(schema: Schema, value: float) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= number(schema, "minimum", float("-inf"))
        and value > number(schema, "exclusiveMinimum", float("-inf"))
        and value <= number(schema, "maximum", float("inf"))
        and value < number(schema, "exclusiveMaximum", float("inf"))
        and (step is None or value % cast("float", step) == 0)
    )
