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
has handlers for. A handler of `Down` or `Exited` is never part of the bracket.

Inside handlers and hooks `self.context` is the actor's side of the kernel.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, get_args, get_origin

from msgspec import Struct

from understudy.actors import keyed, links, stash
from understudy.actors.delivery import Door, Envelope, current_entry, current_life, path_of, sender_of
from understudy.actors.durable.declared import declared
from understudy.actors.errors import ProtocolError, UsageError
from understudy.actors.lifecycle import NORMAL, Exit
from understudy.actors.mailbox import DEFAULT_LIMIT, Overflow
from understudy.actors.messages import Down, Exited, Message, Tick, check_message, check_tags, members, reply_type

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.keyed import Repeat
    from understudy.actors.refs import Ref, Refused
    from understudy.actors.timers import Timer
    from understudy.actors.topics import Topic

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
    _door: ClassVar[Door] = {}
    """`handlers` as the dispatcher reads it."""
    _starts: ClassVar[bool] = False
    """Whether there is something to await at the start of an incarnation, and, `stops`, at its end."""
    _stops: ClassVar[bool] = False
    _keeps: ClassVar[type[Struct] | None] = None
    """The type of the declared state."""
    _hears_children: ClassVar[bool] = False
    """Whether `_child_released` does anything."""
    mailbox_limit: ClassVar[int] = DEFAULT_LIMIT
    """Messages that wait at most; see `mailbox` for what happens then."""
    overflow: ClassVar[Overflow] = "refuse"
    cancel_on_stop: ClassVar[bool] = False
    """Cancel the running handler at once when stopped, instead of letting it finish within the deadline."""
    redeliver: ClassVar[int] = 0
    """How often a message during which an incarnation failed is given to the next one; 0: it is a dead letter, and its
    asker is told. Only under a supervisor. A handler that was cut short has left behind what it did."""
    durable_tries: ClassVar[int] = 3
    """How often a durable message is handled, in this process and those after it, until it is a dead one."""
    trap_exits: ClassVar[bool] = False
    """Be sent `Exited` when a linked incarnation ends, instead of ending with it; needs a handler for `Exited`."""
    stash_limit: ClassVar[int] = 100
    """Messages that can be put aside by `context.stash()`; one more raises `StashFull`."""

    stops_together: ClassVar[bool] = True
    """Stop the children at once, last started first and each within its own deadline, not one after another's end."""

    _cell: Cell | None = None

    def __init_subclass__(cls, **options: Any) -> None:  # passed on to other bases
        super().__init_subclass__(**options)
        frame = sys._getframe(1)
        while frame.f_code.co_name == "__init_subclass__" and frame.f_back is not None:
            frame = frame.f_back  # of a base between, such as a state machine's
        scope = frame.f_locals
        cls.handlers = _collect(cls, scope)
        cls._stops = cls.on_stop is not Actor.on_stop or cls.lifespan is not Actor.lifespan
        cls._starts = cls.on_start is not Actor.on_start or cls.lifespan is not Actor.lifespan
        cls._door = {message: (function, _is_async(function)) for message, function in cls.handlers.items()}
        cls._keeps = declared(cls, scope)
        cls._starts = cls._starts or cls._keeps is not None
        _check_bracket(cls)
        _check_lifespan(cls)
        if cls.trap_exits and Exited not in cls.handlers:
            raise ProtocolError(f"{cls.__qualname__}: trap_exits without a handler for Exited")

    @property
    def context(self) -> ActorContext:
        """The actor's side of the kernel. Raises `UsageError` before the actor was spawned."""
        if self._cell is None:
            raise UsageError(f"{type(self).__qualname__}.context: the actor was not spawned by a system")
        return ActorContext(self._cell)

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """What is open from before `on_start` until after `on_stop`: sessions, task groups, subscriptions.

            @contextlib.asynccontextmanager
            async def lifespan(self) -> AsyncGenerator[None]:
                async with anyio.create_task_group() as self.tasks:
                    yield

        Entered and left in one task, made for the incarnation. A raise on entering is a failed start; a raise while
        the actor lives (of a task in the group, say) ends the incarnation with `error`. Leaving has the seconds of
        `shutdown`, then it is cancelled, then fenced. Handlers see the context variables that it sets.
        """
        return nullcontext()

    async def on_start(self) -> None:
        """Runs before the first message of an incarnation; a raise is a failed start."""

    async def on_stop(self, exit: Exit) -> None:
        """Runs once at the end of an incarnation that was not killed, after its children stopped."""

    @classmethod
    def upgrade_state(cls, kept: Any) -> Any:  # JSON in, the declared struct out
        """Make the declared state out of one that was kept by an older version of the class and does not fit any more.

        `kept` is its JSON, decoded. Not defined: the actor does not start, and says which field is wrong.
        """
        raise NotImplementedError

    def _child_released(self, cell: Cell) -> None:
        """An address below is gone, whoever stopped it. For supervisors."""


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
        current_life()
        return self._cell.kernel.ref_of(self._cell)

    @property
    def sender(self) -> str:
        """The path of the actor that sent the message being handled, "" for code outside of actors."""
        entry = current_entry()
        return path_of(sender_of(entry)) if entry is not None else ""

    @property
    def deadline(self) -> float | None:
        """The loop time until which the reply is wanted, None without an asker."""
        entry = current_entry()
        return entry.deadline if isinstance(entry, Envelope) else None

    def spawn(self, factory: Callable[[], Actor[N]], *, name: str = "") -> Ref[N]:
        """Start a child. It is not restarted when it fails, and stops with this incarnation."""
        current_life()
        cell = self._cell
        return cell.kernel.ref_of(cell.kernel.spawn(factory, name=name, parent=cell))

    def watch(self, ref: Ref[Any], *, message: Message[Any] | None = None) -> None:
        """Be sent one `Down`, or `message`, when the present incarnation of `ref` ends; at once if it has none.

        To watch again before it ended changes nothing. Raises `UsageError` without a handler for the notice, and for
        a second watch with another message: `unwatch` first.
        """
        current_life()
        self._cell.kernel.watch(self._cell, ref.cell(), message)

    def unwatch(self, ref: Ref[Any]) -> None:
        """Take a `watch` back. No notice of it arrives afterwards, not even one that is waiting already."""
        current_life()
        self._cell.kernel.unwatch(self._cell, ref.cell())

    def link(self, ref: Ref[Any]) -> None:
        """End together: when one of the two present incarnations ends but normally, the other ends, too. Idempotent.

        Without an incarnation behind `ref` the signal (`gone`) comes at once. See `links`, and `trap_exits`.
        """
        current_life()
        links.link(self._cell, ref.cell())

    def unlink(self, ref: Ref[Any]) -> None:
        """Take a link back, whichever side made it; no `Exited` of it arrives afterwards."""
        current_life()
        links.unlink(self._cell, ref.cell())

    def stash(self) -> None:
        """Put the message being handled aside, with its asker, until `unstash_all`. The handler answers nobody.

        The asker goes on waiting within its deadline. Raises `StashFull` at `stash_limit` messages, and `UsageError`
        outside of a handler or the second time in one. A handler that raises after it loses the message.
        """
        stash.put_aside(self._cell)

    def unstash_all(self) -> int:
        """Put what is in the stash now back ahead of the mailbox, oldest first; how many messages that were."""
        current_life()
        return stash.take_up(self._cell)

    @property
    def stashed(self) -> int:
        """How many messages are put aside."""
        return stash.count(self._cell)

    def post(self, ref: Ref[N], message: N) -> Literal[True] | Refused:
        """Send a durable message when the handler has ended well: in one commit with the state it leaves.

        True, or `Refused` at once (`full`, `dead`, `unknown`). Nothing is sent when the handler raises. Raises
        `UsageError` in a handler whose end is not journalled: of an actor without declared `state`, for a message that
        was not posted itself; and as `Ref.post` does.
        """
        current_life()
        return self._cell.kernel.the_office(ref.path).ride(ref.post_to(message), message)

    def topic(self, accepts: type[N], name: str = "") -> Topic[N]:
        """The topic of a message type in this system; see `topics`."""
        current_life()
        return self._cell.kernel.topics.find(accepts, name)

    def after(self, seconds: float, message: Message[Any]) -> Timer:
        """Send `message` to this incarnation in `seconds`; forgotten when the incarnation ends."""
        current_life()
        return self._cell.kernel.timer(self._cell, seconds, message)

    def timer(self, key: Hashable, seconds: float, message: Message[Any], *, repeat: Repeat = False) -> None:
        """Send `message` to this incarnation in `seconds`, in place of any timer with this `key`.

        A message of the replaced timer is never handled, not even one that is waiting already. `repeat`: False once;
        "delay" (or True) again `seconds` after it was sent; "rate" at every multiple of `seconds` from now. At most
        one message of a key waits; what would be due meanwhile is skipped. All timers end with the incarnation.
        Raises `NotHandled`; `UsageError` for endless seconds, and for none with `repeat`.
        """
        current_life()
        keyed.start(self._cell, key, seconds, message, repeat)

    def cancel_timer(self, key: Hashable) -> bool:
        """Take the timer with this key back, and its message if it is waiting; False when there was neither."""
        current_life()
        return keyed.cancel(self._cell, key)

    def timer_active(self, key: Hashable) -> bool:
        """Whether a message of the timer with this key is still to be handled."""
        return keyed.is_active(self._cell, key)

    def idle_timeout(self, seconds: float | None, message: Message[Any] | None = None) -> None:
        """Send `message` each time this incarnation has handled nothing for `seconds`; None ends it.

        Any message handled begins the time anew, timers and notices too. Raises as `timer`.
        """
        current_life()
        keyed.set_idle(self._cell, seconds, message)

    def stop(self, exit: Exit = NORMAL) -> None:
        """End this incarnation after the present message, with `exit` as its reason."""
        current_life()
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


def _is_async(function: Handler) -> bool:
    """Whether calling it gives a coroutine, and nothing else; what a decorator says about it is not believed."""
    return bool(function.__code__.co_flags & inspect.CO_COROUTINE)


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
            handled = set(cls.handlers)
            if not declared:
                continue
            for message in declared - handled:
                raise ProtocolError(f"{cls.__qualname__}: no handler for {message.__name__}, which the bracket names")
            for message in handled - declared - {Down, Exited, Tick}:
                raise ProtocolError(f"{cls.__qualname__}: handles {message.__name__}, which the bracket does not name")


def _check_lifespan(cls: type[Actor[Any]]) -> None:
    if inspect.isasyncgenfunction(cls.lifespan) or inspect.iscoroutinefunction(cls.lifespan):
        raise ProtocolError(f"{cls.__qualname__}.lifespan: decorate it with @contextlib.asynccontextmanager")
