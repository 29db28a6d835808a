"""Write an actor: a class with one handler a message.

    class Counter(Actor[Add | Total]):
        def __init__(self, start: int = 0) -> None:
            self.total = start

        def add(self, m: Add) -> int:            # `def`: runs at once
            self.total += m.n
            return self.total

        async def read(self, m: Total) -> int:   # `async def`: may wait
            return self.total

Handlers are the public methods with exactly one parameter that is annotated with a message class; `@on(Add)`
says so where the annotation cannot be read. Defining the class checks that the handlers equal the bracket, one
each, and that a return annotation is the message's declared reply. `Actor` without a bracket takes whatever it
has handlers for. A handler of `Down` is never part of the bracket.

Inside handlers and hooks `self.context` is the actor's side of the kernel.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, get_args, get_origin

from understudy.actors.cell import current
from understudy.actors.errors import ProtocolError, UsageError
from understudy.actors.lifecycle import NORMAL, Exit
from understudy.actors.mailbox import DEFAULT_LIMIT, Overflow
from understudy.actors.messages import Down, Message, Tick, check_message, check_tags, members, reply_type

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.refs import Ref
    from understudy.actors.timers import Timer

M = TypeVar("M", default=Any)
N = TypeVar("N")

Handler = Callable[..., Any]


class Leave(Exception):  # not an error: an actor's way to end its own incarnation with a reason
    """Raise in a handler to end the incarnation with `exit` as its reason; the supervisor acts on it."""

    def __init__(self, exit: Exit) -> None:
        super().__init__(str(exit))
        self.exit = exit


class Actor(Generic[M]):
    """Base of every actor. See the module for what a subclass writes."""

    handlers: ClassVar[Mapping[type, Handler]] = {}
    mailbox_limit: ClassVar[int] = DEFAULT_LIMIT
    """Messages that wait at most; see `mailbox` for what happens then."""
    overflow: ClassVar[Overflow] = "refuse"
    cancel_on_stop: ClassVar[bool] = False
    """Cancel the running handler at once when stopped, instead of letting it finish within the deadline."""

    _cell: Cell | None = None

    def __init_subclass__(cls, **options: Any) -> None:  # passed on to other bases
        super().__init_subclass__(**options)
        frame = sys._getframe(1)
        while frame.f_code.co_name == "__init_subclass__" and frame.f_back is not None:
            frame = frame.f_back  # of a base between, such as a state machine's
        scope = frame.f_locals
        cls.handlers = _collect(cls, scope)
        _check_bracket(cls)

    @property
    def context(self) -> ActorContext:
        """The actor's side of the kernel. Raises `UsageError` before the actor was spawned."""
        if self._cell is None:
            raise UsageError(f"{type(self).__qualname__}.context: the actor was not spawned by a system")
        return ActorContext(self._cell)

    async def on_start(self) -> None:
        """Runs before the first message of an incarnation; a raise is a failed start."""

    async def on_stop(self, exit: Exit) -> None:
        """Runs once at the end of an incarnation that was not killed, after its children stopped."""


class ActorContext:
    """What an actor may do beside answering: find itself, start children, watch, set timers, stop."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    @property
    def path(self) -> str:
        """The address, as "audit/inspector/2"."""
        return self._cell.path

    @property
    def incarnation(self) -> int:
        """Counts from 1."""
        return self._cell.number

    @property
    def ref(self) -> Ref[Any]:
        """The actor's own ref."""
        current()
        return self._cell.kernel.ref_of(self._cell)

    @property
    def sender(self) -> str:
        """The path of the actor that sent the message being handled, "" for code outside of actors."""
        delivery = current()
        return delivery.envelope.sender if delivery is not None else ""

    @property
    def deadline(self) -> float | None:
        """The loop time until which the reply is wanted, None without an asker."""
        delivery = current()
        return delivery.envelope.deadline if delivery is not None else None

    def spawn(self, factory: Callable[[], Actor[N]], *, name: str = "") -> Ref[N]:
        """Start a child. It is not restarted when it fails, and stops with this incarnation."""
        current()
        return self._cell.kernel.ref_of(self._cell.kernel.spawn(factory, name=name, parent=self._cell))

    def watch(self, ref: Ref[Any]) -> None:
        """Be sent one `Down` when the present incarnation of `ref` ends; at once if it has none."""
        current()
        self._cell.kernel.watch(self._cell, ref.cell())

    def unwatch(self, ref: Ref[Any]) -> None:
        """Take a `watch` back; a notice on its way may still arrive."""
        current()
        self._cell.kernel.unwatch(self._cell, ref.cell())

    def after(self, seconds: float, message: Message[Any]) -> Timer:
        """Send `message` to this incarnation in `seconds`; forgotten when the incarnation ends."""
        current()
        return self._cell.kernel.timer(self._cell, seconds, message)

    def stop(self, exit: Exit = NORMAL) -> None:
        """End this incarnation after the present message, with `exit` as its reason."""
        current()
        self._cell.kernel.leave(self._cell, exit)


def _collect(cls: type, scope: Mapping[str, Any]) -> dict[type, Handler]:
    found: dict[type, Handler] = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if not inspect.isfunction(function) or hasattr(Actor, name):
            continue
        message = _handled(cls, name, function, scope)
        if message is None:
            continue
        if message in found:
            raise ProtocolError(
                f"{cls.__qualname__}: {found[message].__name__} and {name} both handle {message.__name__}; keep one"
            )
        check_message(message, cls.__qualname__)
        found[message] = function
    check_tags(found, cls.__qualname__)
    return found


def _handled(cls: type, name: str, function: Handler, scope: Mapping[str, Any]) -> type[Message[Any]] | None:
    """The message class a function handles, after checking its return annotation; None if it is no handler."""
    marked: type[Message[Any]] | None = getattr(function, "__handles__", None)
    if marked is None and name.startswith("_"):
        return None
    parameters = list(inspect.signature(function).parameters.values())[1:]
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if len(required) != 1:
        if marked is not None:
            raise ProtocolError(f"{cls.__qualname__}.{name}: a handler takes exactly one message")
        return None
    hints = _hints(cls, name, function, scope)
    message = marked or hints.get(required[0].name)
    if not (isinstance(message, type) and issubclass(message, Message)):
        return None
    _check_reply(cls, name, message, hints)
    return message


def _hints(cls: type, name: str, function: Handler, scope: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns={**scope, cls.__name__: cls})
    except NameError as error:
        if "Message" not in str(function.__annotations__) and not hasattr(function, "__handles__"):
            return {}
        raise ProtocolError(
            f"{cls.__qualname__}.{name}: {error}; import the name at run time or mark the handler with @on(...)"
        ) from error


def _check_reply(cls: type, name: str, message: type[Message[Any]], hints: Mapping[str, Any]) -> None:
    declared = reply_type(message)
    returned = hints.get("return", declared)
    if returned is Any or declared is Any or isinstance(declared, TypeVar) or returned is typing.NoReturn:
        return
    same = returned == declared or {returned, declared} <= {None, type(None)}
    if isinstance(returned, type) and isinstance(declared, type):
        same = same or issubclass(returned, declared)
    if not same:
        raise ProtocolError(
            f"{cls.__qualname__}.{name} returns {_name(returned)}, but {message.__name__} is answered with"
            f" {_name(declared)}"
        )


def _name(form: object) -> str:
    return getattr(form, "__name__", None) or str(form)


def _check_bracket(cls: type[Actor[Any]]) -> None:
    for base in getattr(cls, "__orig_bases__", ()):
        if get_origin(base) is not None and issubclass(get_origin(base), Actor):
            declared = set(members(get_args(base)[0]))
            handled = set(cls.handlers) - {Down, Tick}
            if not declared:
                continue
            for message in declared - handled:
                raise ProtocolError(f"{cls.__qualname__}: no handler for {message.__name__}, which the bracket names")
            for message in handled - declared:
                raise ProtocolError(f"{cls.__qualname__}: handles {message.__name__}, which the bracket does not name")
