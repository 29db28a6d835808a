"""What all events have in common: their base, the words of status and effect, and how text is made fit to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

from msgspec import Struct

Status = Literal["complete", "degraded", "partial", "waiting", "stopped", "failed"]
Effect = Literal["read", "idempotent", "keyed", "verifiable", "irreversible"]


class Event(Struct, frozen=True, gc=False, tag=True, tag_field="$", omit_defaults=True):
    """Base of every event body."""


def without_surrogates(value: object) -> object:
    """The same builtins with every lone surrogate, which no UTF-8 can carry, as `?`."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return {without_surrogates(key): without_surrogates(item) for key, item in entries}
    if isinstance(value, list | tuple):
        return [without_surrogates(item) for item in cast("Sequence[object]", value)]
    return value
