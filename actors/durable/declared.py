"""The state that an actor declares: checked where the class is defined, and read back by name when it starts.

    class Counter(Actor[Add]):
        state: Count = Count(0)      # a frozen struct, and its first value

A kept state that does not fit the class any more is refused, unless `upgrade_state` says what becomes of it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct

from understudy.actors.errors import ProtocolError, SpecError, UsageError
from understudy.actors.messages import mutable_part

if TYPE_CHECKING:
    from understudy.actors.actor import Actor

STATE = "state"


def declared(cls: type, scope: Mapping[str, Any]) -> type[Struct] | None:
    """The type of the declared state of a class of actors; None if it declares none. Raises `ProtocolError`."""
    owner = next((base for base in cls.__mro__ if STATE in inspect.get_annotations(base)), None)
    if owner is None:
        return None
    if owner is not cls:
        return cast("type[Struct] | None", getattr(cls, "_keeps", None))
    where = f"{cls.__qualname__}.state"
    alone = type(cls.__name__, (), {"__module__": cls.__module__, "__annotations__": {STATE: _annotation(cls)}})
    try:
        kind = typing.get_type_hints(alone, localns={**scope, cls.__name__: cls})[STATE]
    except NameError as error:
        raise ProtocolError(f"{where}: {error}; import the name at run time") from error
    if not (isinstance(kind, type) and issubclass(kind, Struct)):
        raise ProtocolError(
            f"{where}: declared state is a frozen msgspec struct, not {kind!r}; else choose another name"
        )
    if not kind.__struct_config__.frozen:
        raise ProtocolError(f"{where}: {kind.__name__} is not frozen; declare it with frozen=True")
    _check_immutable(kind, where)
    first = inspect.getattr_static(cls, STATE, None)
    if not isinstance(first, kind):
        raise ProtocolError(f"{where}: it needs a first value: `state: {kind.__name__} = {kind.__name__}(...)`")
    return kind


def _annotation(cls: type) -> object:
    return inspect.get_annotations(cls)[STATE]


def _check_immutable(kind: type[Struct], where: str) -> None:
    hints = typing.get_type_hints(kind)
    for name in kind.__struct_fields__:
        if found := mutable_part(hints.get(name), ()):
            text = f"field {kind.__name__}.{name} holds a {found}, whose changes nobody would see"
            raise ProtocolError(f"{where}: {text}; use a tuple, a frozen struct or a Mapping")


class Form:
    """How the state of one class is written and read."""

    def __init__(self, kind: type[Struct]) -> None:
        self.kind = kind
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode
        self._names = frozenset(kind.__struct_encode_fields__)

    def encode(self, state: object, where: str) -> str:
        """A state as JSON. Raises `UsageError` for another type, and for a value that could not be read back."""
        if type(state) is not self.kind:
            raise UsageError(f"{where}.state is of type {type(state).__name__}, and declared as {self.kind.__name__}")
        try:
            data = self._encode(state)
            self._decode(data)
        except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, OverflowError, RecursionError) as error:
            raise UsageError(f"{where}.state cannot be kept: {error}") from error
        return data.decode()

    def decode(self, data: str, where: str, actor: type[Actor[Any]]) -> Struct:
        """The state from its JSON. Raises `SpecError` naming the field when it is not that of the class any more."""
        wrong = ""
        try:
            state: Struct = self._decode(data)
            kept: object = msgspec.json.decode(data)
            unknown = sorted(kept.keys() - self._names - self._tag()) if isinstance(kept, dict) else []
            if not unknown:
                return state
            wrong = f"there is no field {unknown[0]!r} any more"
        except msgspec.MsgspecError as error:
            wrong = str(error)
        try:
            state = actor.upgrade_state(msgspec.json.decode(data))
            self.encode(state, where)
        except NotImplementedError:
            name = self.kind.__name__
            raise SpecError(
                f"{where}: the kept state is no {name}: {wrong}; define upgrade_state on the actor"
            ) from None
        except Exception as error:
            raise SpecError(f"{where}: upgrade_state of what is kept ({wrong}): {error}") from error
        return state

    def _tag(self) -> set[str]:
        field = self.kind.__struct_config__.tag_field
        return {field} if field is not None else set()
