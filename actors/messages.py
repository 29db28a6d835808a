"""Messages: frozen msgspec structs that say what they are answered with.

    class Add(Message[int]):        # `await ref.ask(Add(2))` is an int to the type checker
        n: int

Rules, checked when an actor or agent that takes the message is declared (`check_message`):

- frozen, and deeply so: fields are tuples, frozen structs and mappings, not lists, dicts or sets, unless the class
  says `mutable: ClassVar[bool] = True`;
- the tag (the class name, or `tag="orders.Add"`) is unique among the messages that one actor takes.

Constructors check nothing (msgspec checks when it decodes); `System(check=True)` passes every message through
the codec, as a link would.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, get_args, get_origin

import msgspec
from msgspec import Struct

from understudy.actors.errors import ProtocolError, UsageError

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

R = TypeVar("R", covariant=True, default=None)
Mq = TypeVar("Mq", covariant=True)

if TYPE_CHECKING:
    from typing import Self

    from typing_extensions import dataclass_transform

    @dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
    class MessageMeta(msgspec.StructMeta):
        """What type checkers see: subclasses are frozen without saying so. At run time it would only cost."""

    class Message(Struct, Generic[R], metaclass=MessageMeta):
        """Base of every message; `R` is what it is answered with (None when left out)."""

        def __ask__(self) -> tuple[Self, R]: ...

else:

    class Message(Struct, Generic[R], frozen=True, tag=True, tag_field="$"):
        """Base of every message; `R` is what it is answered with (None when left out)."""


class Asks(Protocol[Mq, R]):
    """A message that a ref accepts and whose reply is `R`. Checkers use it; it is never called."""

    def __ask__(self) -> tuple[Mq, R]:
        """Not implemented anywhere."""
        ...


_MUTABLE: typing.Final = (list, dict, set, bytearray)


# A reply type may be any type form (a union, a generic alias), for which 3.11 has no precise type.
def reply_type(message: type[Message[Any]]) -> Any:
    """The declared reply type of a message class; `None` when it declares none."""
    for base in message.__mro__:
        for origin in getattr(base, "__orig_bases__", ()):
            if get_origin(origin) is Message:
                args = get_args(origin)
                return args[0] if args and not isinstance(args[0], TypeVar) else None
    return None


def tag_of(message: type[Message[Any]]) -> str:
    """The tag under which instances travel."""
    return str(message.__struct_config__.tag)


def members(bracket: object) -> tuple[type[Message[Any]], ...]:
    """The message classes of a bracket such as `Add | Total`, in order."""
    parts: Iterable[object] = get_args(bracket) or (bracket,)
    return tuple(p for p in parts if isinstance(p, type) and issubclass(p, Message))


def check_message(message: type[Message[Any]], where: str) -> None:
    """Check the rules of a message class. Raises `ProtocolError` naming the field."""
    if not message.__struct_config__.frozen:
        raise ProtocolError(f"{where}: message {message.__qualname__} is not frozen; drop frozen=False")
    if getattr(message, "mutable", False):
        return
    hints = typing.get_type_hints(message, localns={message.__name__: message})
    for name in message.__struct_fields__:
        found = mutable_part(hints.get(name), ())
        if found:
            raise ProtocolError(
                f"{where}: field {message.__qualname__}.{name} holds a {found}; use a tuple, a frozen struct or a"
                f" Mapping, or declare `mutable: ClassVar[bool] = True` on the message"
            )


def mutable_part(kind: object, seen: tuple[object, ...]) -> str:
    """The name of the first mutable type inside a type form, or ''."""
    origin = get_origin(kind) or kind
    if isinstance(origin, type):
        if origin in _MUTABLE:
            return str(origin.__name__)
        if issubclass(origin, Struct) and origin not in seen:
            if not origin.__struct_config__.frozen:
                return f"non-frozen struct {origin.__name__}"
            hints = typing.get_type_hints(origin)
            for name in origin.__struct_fields__:
                if found := mutable_part(hints.get(name), (*seen, origin)):
                    return found
    for part in get_args(kind):
        if found := mutable_part(part, seen):
            return found
    return ""


def check_tags(messages: Iterable[type[Message[Any]]], where: str) -> None:
    """Refuse two message classes with one tag. Raises `ProtocolError` naming both modules."""
    seen: dict[str, type[Message[Any]]] = {}
    for message in messages:
        other = seen.setdefault(tag_of(message), message)
        if other is not message:
            raise ProtocolError(
                f"{where}: {other.__module__}.{other.__qualname__} and {message.__module__}.{message.__qualname__}"
                f" share the tag {tag_of(message)!r}; give one of them tag='...'"
            )


def round_trip(message: Message[Any]) -> Message[Any]:
    """The message as a link would deliver it. Raises `UsageError` naming class and field."""
    try:
        copy: Message[Any] = msgspec.json.decode(msgspec.json.encode(message), type=type(message))
    except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, OverflowError) as error:
        raise UsageError(f"{type(message).__qualname__}: {error}") from error
    return copy


def on(message: type[Message[Any]]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Optional mark of a handler: names its message, where the annotation cannot be read."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__handles__ = message  # type: ignore[attr-defined]  # a mark on the function object
        return function

    return mark


class Down(Message[None]):
    """Notice to a watcher: the watched incarnation ended. Sent once a `watch`, after its name is free again.

    `restarting` is True when its supervisor will start another incarnation under the same address.
    """

    path: str
    incarnation: int
    kind: str
    detail: str = ""
    restarting: bool = False

    priority: ClassVar[bool] = True


class Exited(Message[None]):
    """Notice to an actor that traps exits: an incarnation it was linked with ended, whatever the reason.

    Sent once a link, after the name is free again. `kind` is `gone` when there was no incarnation to link with.
    """

    path: str
    incarnation: int
    kind: str
    detail: str = ""


class Tick(Message[None]):
    """To a state machine, from its own timer: the timeout `name` is due, if it is still the one that set `ref`."""

    name: str
    ref: int
