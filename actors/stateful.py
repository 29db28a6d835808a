"""An actor that is a state machine, with the semantics of OTP's `gen_statem`.

    class Door(StateMachineActor[Code | Push, S]):
        initial = S.LOCKED

        def handle(self, state: S, event: Code | Push | Timeout) -> Next[S]:
            match state, event:
                case S.LOCKED, Code("1234"):
                    return self.goto(S.OPEN).after(10).reply(True)
                case S.LOCKED, Push():
                    return self.keep().postpone()          # handled again when the door is open
                case S.OPEN, Timeout("state"):
                    return self.goto(S.LOCKED)
            return self.keep()

Every message of the bracket that has no handler of its own is an event for `handle`, which is a plain `def`: it
decides, and what it returns says what follows. `enter`, if there is one, is called whenever a state is entered. What
an asker gets is `reply`; the asker of a postponed event waits until it is handled at last. A handler of its own, `def`
or `async def`, may do what takes time; it reads `self.state` and changes nothing.

A postponed event keeps the handler of its message waiting; more than `postponed_limit` of them fail the incarnation,
as a full stash does in Pekko. A new incarnation begins in the initial state; timers and postponed events of the
former one are gone, and its askers are told.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, cast, get_args, get_origin

from understudy.actors import machine as engine
from understudy.actors.actor import Actor, M
from understudy.actors.errors import ProtocolError, UsageError
from understudy.actors.machine import Machine, Next, Timeout
from understudy.actors.messages import Message, Tick, members, on

if sys.version_info >= (3, 13):  # pragma: no cover
    from typing import TypeVar
else:
    from typing_extensions import TypeVar

if TYPE_CHECKING:
    from understudy.actors.timers import Timer

S = TypeVar("S", bound=Enum, default=Any)

POSTPONED: Final = 1_000
"""Events that an actor may have postponed at a time, unless it says otherwise."""


class _Slot:
    """The answer to one event, and who waits for it."""

    __slots__ = ("answered", "closed", "value", "waiter")

    def __init__(self) -> None:
        self.value: Any = None  # the reply's type is known to the message alone
        self.answered = False
        self.closed = False
        self.waiter: asyncio.Future[None] | None = None

    def answer(self, value: object) -> None:
        if not self.answered:
            self.value, self.answered = value, True
            self.wake()

    def close(self) -> None:
        self.closed = True
        self.wake()

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class StateMachineActor(Actor[M], Generic[M, S]):
    """Base of actors that are state machines. See the module.

    `initial` is the first state, set on the class or in `__init__`. An answer of `handle` that is no `Next`, a state of
    another enum, or an action that an enter call may not ask for is an error that names it, and fails the incarnation.
    """

    initial: S
    postponed_limit: ClassVar[int] = POSTPONED
    cancel_on_stop: ClassVar[bool] = True  # who waits with a postponed event must not hold up the end

    _machine: Machine[Any] | None = None
    _slots: dict[int, _Slot]
    _timers: dict[int, Timer]
    _events = 0

    def __init_subclass__(cls, **options: Any) -> None:  # passed on to other bases
        for name in ("handle", "enter"):
            if inspect.iscoroutinefunction(getattr(cls, name)):
                raise ProtocolError(f"{cls.__qualname__}.{name}: a plain `def`; it decides, and does not wait")
        own = {_message_of(function) for function in vars(cls).values() if inspect.isfunction(function)}
        for message in _bracket(cls):
            if message.__name__ not in own:
                setattr(cls, f"_event_{message.__name__}", _handler_of(message))
        for name in own:
            if hasattr(cls, f"_event_{name}"):  # of a base, where it was an event
                setattr(cls, f"_event_{name}", None)
        super().__init_subclass__(**options)

    # -- what a subclass writes ----------------------------------------------------------------------------

    def handle(self, state: S, event: M | Timeout) -> Next[S]:
        """What follows `event` in `state`."""
        raise NotImplementedError(f"{type(self).__qualname__}.handle")

    def enter(self, state: S, previous: S) -> Next[S] | None:
        """Called when `state` is entered, by `goto` another one or by `repeat`, and at first with itself as `previous`.

        May set timeouts, reply and stop, as `keep()...`; None is `keep()`.
        """
        return None

    # -- what it says --------------------------------------------------------------------------------------

    @property
    def state(self) -> S:
        """The present state."""
        return cast("S", self._machine.state if self._machine is not None else self.initial)

    def goto(self, state: S) -> Next[S]:
        """Go to `state`; to go where it is, is to keep it."""
        return Next("goto", state)

    def keep(self) -> Next[S]:
        """Stay: timeouts of the state go on, postponed events stay postponed."""
        return Next("keep")

    def repeat(self) -> Next[S]:
        """Stay, and make the enter call again."""
        return Next("repeat")

    # -- driving the engine --------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Begins the machine. Override it with `await super().on_start()` where the machine is to begin."""
        self._begin()

    def _begin(self) -> None:
        if self._machine is None:
            if not isinstance(getattr(self, "initial", None), Enum):
                raise UsageError(f"{type(self).__qualname__}: say `initial = ...`, a member of an enum")
            self._slots, self._timers = {}, {}
            enters = type(self).enter is not StateMachineActor.enter
            self._machine = engine.new(self.initial, enters=enters)
            self._drive(engine.Begin())

    async def _take(self, message: Message[Any]) -> Any:
        self._begin()
        self._events += 1
        number, slot = self._events, _Slot()
        self._slots[number] = slot
        self._drive(engine.Arrived(number, message))
        if not (slot.answered or slot.closed):
            await self._wait(number, slot)
        return slot.value

    async def _wait(self, number: int, slot: _Slot) -> None:
        """Wait for the event to be handled at last; one more message may be served meanwhile."""
        machine, cell = self._machine, self._cell
        assert machine is not None  # noqa: S101  # it handles a message
        assert cell is not None  # noqa: S101  # as above
        if len(machine.postponed) > self.postponed_limit:
            raise UsageError(f"{cell.path}: more than {self.postponed_limit} events are postponed")
        slot.waiter = asyncio.get_running_loop().create_future()
        cell.kernel.widen(cell, 1)
        try:
            await slot.waiter
        finally:
            cell.kernel.widen(cell, -1)
            self._slots.pop(number, None)
            if not (slot.answered or slot.closed) and self._machine is not None:
                self._machine, _ = engine.step(self._machine, engine.Forget(number))

    @on(Tick)
    def _tick(self, m: Tick) -> None:
        self._timers.pop(m.ref, None)
        self._drive(engine.Fired(m.name, m.ref))

    def _drive(self, given: engine.Input) -> None:
        """Step until nothing is left to handle: a transition never waits."""
        following: engine.Input | None = given
        while following is not None:
            assert self._machine is not None  # noqa: S101  # it has begun
            self._machine, effects = engine.step(self._machine, following)
            following = None
            for effect in effects:
                following = self._carry_out(effect)

    def _carry_out(self, effect: engine.Effect) -> engine.Input | None:
        machine = cast("Machine[Any]", self._machine)
        match effect:
            case engine.Handle(event):
                return engine.Returned(self.handle(machine.state, event))
            case engine.Enter(previous):
                return engine.Returned(self.enter(machine.state, previous))
            case engine.Answer(id, value):
                if id in self._slots:
                    self._slots[id].answer(value)
            case engine.Closed(id):
                if (slot := self._slots.pop(id, None)) is not None:
                    slot.close()
            case engine.Start():
                self._start(effect)
            case engine.Unset(ref):
                if (timer := self._timers.pop(ref, None)) is not None:
                    timer.cancel()
            case engine.End(exit):
                self.context.stop(exit)
        return None

    def _start(self, timer: engine.Start) -> None:
        now = asyncio.get_running_loop().time()
        seconds = max(0.0, timer.seconds - now) if timer.absolute else timer.seconds
        if seconds < math.inf:
            self._timers[timer.ref] = self.context.after(seconds, Tick(timer.name, timer.ref))


def _bracket(cls: type) -> tuple[type[Message[Any]], ...]:
    for base in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, StateMachineActor):
            return members(get_args(base)[0])
    return ()


def _message_of(function: Any) -> str:
    """The name of the class that a function marks or annotates as its message, "" for none."""
    names = list(inspect.signature(function).parameters)
    told = inspect.get_annotations(function).get(names[1], "") if len(names) == 2 else ""
    marked = getattr(function, "__handles__", told)
    return str(getattr(marked, "__name__", marked))


def _handler_of(message: type[Message[Any]]) -> Any:
    """The handler of a message that is an event."""

    async def take(self: StateMachineActor[Any, Any], m: Any) -> Any:
        return await self._take(m)

    return on(message)(take)
