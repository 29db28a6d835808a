"""JSON schemas as models take them, from msgspec types.

msgspec puts the root behind a `$ref`; here it is inlined. `strict` rewrites a schema the way strict providers want
it: every object closed and all of its properties required, so users' types need not be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

TEMPLATE = "#/$defs/{name}"


# JSON schemas are nested JSON values; their precise type is recursive and helps nobody here.
def schema_of(form: Any) -> dict[str, Any]:
    """The JSON schema of a type form, root inlined, definitions under `$defs`. Raises `TypeError`."""
    (root,), definitions = msgspec.json.schema_components([form], ref_template=TEMPLATE)
    definitions = dict(definitions)
    if "$ref" in root:
        name = str(root["$ref"]).rsplit("/", 1)[1]
        inlined = definitions[name]
        if not _refers_to(inlined, name) and not any(_refers_to(d, name) for n, d in definitions.items() if n != name):
            definitions.pop(name)
        root = inlined
    root = dict(root)
    if definitions:
        root["$defs"] = definitions
    return root


def _refers_to(value: object, name: str) -> bool:
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value)
        return items.get("$ref") == TEMPLATE.format(name=name) or any(_refers_to(v, name) for v in items.values())
    if isinstance(value, list | tuple):
        return any(_refers_to(v, name) for v in cast("list[object]", value))
    return False


_NAMED = frozenset({"properties", "$defs"})
"""Keywords that hold schemas by name: such a name is no keyword, whatever it is."""
_VALUES = frozenset({"enum", "const", "examples", "required", "discriminator"})
"""Keywords that hold values, not schemas."""


def strict(value: Any) -> Any:
    """The same schema with every object closed and every property required."""
    if isinstance(value, list | tuple):
        return [strict(v) for v in cast("list[object]", value)]
    if not isinstance(value, Mapping):
        return value
    schema = cast("Mapping[str, object]", value)
    result = {keyword: _strict_at(keyword, held) for keyword, held in schema.items() if keyword != "default"}
    if "properties" in result:
        result["additionalProperties"] = False
        result["required"] = list(result["properties"])
    if "enum" in result and "type" not in result and all(isinstance(v, str) for v in result["enum"]):
        result["type"] = "string"
    return result


# What a keyword holds may be any JSON value.
def _strict_at(keyword: str, held: Any) -> Any:
    if keyword in _VALUES:
        return held
    if keyword in _NAMED and isinstance(held, Mapping):
        return {name: strict(schema) for name, schema in cast("Mapping[str, object]", held).items()}
    return strict(held)
