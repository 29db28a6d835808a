"""The state of a run as plain JSON, to be kept beside a history and compared after years: for invariant 38."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AnySet
from typing import Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from understudy.actors.journal.state import Evidence, Run, digest

State: TypeAlias = Mapping[str, object]
"""A state as JSON: what `told` makes."""

LONGEST: Final = 100
"""Characters of a text that are kept as they are; of a longer one its beginning, its length and its digest."""


def told(run: Run) -> dict[str, object]:
    """Everything that is in a state, as JSON. What a loop guard remembers is left out: it follows from the rest."""
    made = _plain(run)
    return cast("dict[str, object]", msgspec.json.decode(msgspec.json.encode(made)))


def differences(then: object, now: object, place: str = "") -> Iterator[str]:
    """Where what was told `then` is not so `now`, one sentence each. What there was no word for then may be anything.

    So a field that a later version adds is no difference; one that it drops, or means otherwise, is.
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        was, is_ = cast("State", then), cast("State", now)
        for name, each in was.items():
            where = f"{place}.{name}" if place else name
            if name in is_:
                yield from differences(each, is_[name], where)
            else:
                yield f"{where}: {_short(each)} then, not there now"
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):  # pyright: ignore[reportUnknownArgumentType]
        for number, (each, other) in enumerate(zip(cast("list[object]", then), cast("list[object]", now), strict=True)):
            yield from differences(each, other, f"{place}[{number}]")
    elif then != now:
        yield f"{place}: {_short(then)} then, {_short(now)} now"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _plain(value: object) -> object:
    match value:
        case Struct():
            names = value.__struct_fields__
            return {"is": type(value).__name__} | {name: _plain(getattr(value, name)) for name in names}
        case Evidence():
            return {"acts": [_plain(each) for each in value], "total": value.total}
        case str():
            return value if len(value) <= LONGEST else f"{value[:40]}… {len(value)} {digest(value)}"
        case Mapping():
            entries = cast("Mapping[object, object]", value)
            return {_name(key): _plain(each) for key, each in entries.items()}
        case AnySet():
            return sorted((_plain(each) for each in cast("AnySet[object]", value)), key=repr)
        case bytes():
            return value.hex()
        case Sequence():
            return [_plain(each) for each in cast("Sequence[object]", value)]
        case _:
            return value


def _name(key: object) -> str:
    return " + ".join(map(str, cast("tuple[object, ...]", key))) if isinstance(key, tuple) else str(key)
