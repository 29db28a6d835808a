"""The engine of a state machine, with the semantics of OTP's `gen_statem`: `step(machine, input) -> (machine, effects)`

Pure: `StateMachineActor` drives it in an actor, and tests drive it without one. One event is one transition. Its order:
the answer of the handler is taken; if the state is entered, the enter call is made; a postponed event goes to the
postponed; a change of state cancels the state timeout and puts the postponed back, oldest first; any event cancels
the event timeout; inserted events go ahead of all others; then timeouts are set, changed and cancelled in the order
given, the last word for each name counting. The next event is the oldest of the queue (inserted, retried, older), else
the zero-time timeout that was started first, else whatever comes from outside.

Differences from OTP, on purpose: an enter call may not ask to be repeated (OTP lets it, without end); a message of a
timer that runs no longer is dropped (OTP hands it to the callback as an unknown message); an event is answered by what
handles it last, not by anybody who kept its address; there is no hibernation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from understudy.actors.errors import UsageError
from understudy.actors.lifecycle import NORMAL, Exit

S = TypeVar("S", bound=Enum)

STATE: Final = "state"
"""The name of the timeout that a change of state cancels."""
EVENT: Final = "event"
"""The name of the timeout that any event cancels."""


class Timeout(Struct, frozen=True):
    """The event of a timeout that fired: `"state"`, `"event"`, or a name of your own; `payload` as it was given."""

    name: str
    payload: Any = None  # whatever the actor's author put in


# --- what a handler answers -------------------------------------------------------------------------------


class Postpone(Struct, frozen=True, tag=True):
    """Handle the present event again after the next change of state. `on` False takes an earlier word back."""

    on: bool = True


class Insert(Struct, frozen=True, tag=True):
    """Handle `event` next, ahead of all others."""

    event: Any


class Arm(Struct, frozen=True, tag=True):
    """Set a timeout anew, in `seconds` or, with `absolute`, at that time of the loop's clock; infinity cancels."""

    name: str
    seconds: float
    payload: Any = None
    absolute: bool = False


class Cancel(Struct, frozen=True, tag=True):
    """Let a timeout never fire."""

    name: str


class Update(Struct, frozen=True, tag=True):
    """Change the payload of a timeout; one that does not run fires at once."""

    name: str
    payload: Any = None


class Reply(Struct, frozen=True, tag=True):
    """Answer whoever asked with the present event. Sent at once; the first one counts."""

    value: Any


class Quit(Struct, frozen=True, tag=True):
    """End the actor after the answer was sent."""

    exit: Exit


Action = Postpone | Insert | Arm | Cancel | Update | Reply | Quit


class Next(Struct, Generic[S], frozen=True):
    """What follows an event: another state (`goto`), the same (`keep`), or the same entered again (`repeat`).

    Actions are added by its methods, each of which gives a new `Next`; they are carried out in their order.
    """

    kind: Literal["goto", "keep", "repeat"]
    state: S | None = None
    actions: tuple[Action, ...] = ()

    def _and(self, action: Action) -> Next[S]:
        return replace(self, actions=(*self.actions, action))

    def after(self, seconds: float, name: str = STATE, payload: Any = None) -> Next[S]:
        """Set the timeout `name` to fire in `seconds`; set again it restarts, `math.inf` cancels it.

        `"state"` is cancelled by a change of state, `"event"` by any event, every other name only by `cancel`. With 0
        it fires when the events that are there already are handled. Raises `UsageError` for less than 0 or no number.
        """
        if not seconds >= 0:
            raise UsageError(f"timeout {name!r}: {seconds!r} seconds; 0 or more, math.inf for never")
        return self._and(Arm(_name(name), seconds, payload))

    def at(self, when: float, name: str = STATE, payload: Any = None) -> Next[S]:
        """As `after`, at an absolute time of the event loop's clock; one that has passed fires at once."""
        if math.isnan(when):
            raise UsageError(f"timeout {name!r}: {when!r} is no time")
        return self._and(Arm(_name(name), when, payload, absolute=True))

    def cancel(self, name: str) -> Next[S]:
        """Cancel the timeout `name`; nothing if it does not run."""
        return self._and(Cancel(_name(name)))

    def update(self, name: str, payload: Any = None) -> Next[S]:
        """Change what the timeout `name` brings; if it does not run, it fires at once."""
        return self._and(Update(_name(name), payload))

    def postpone(self, on: bool = True) -> Next[S]:
        """Keep the present event until the state changes, then handle it again, ahead of newer ones."""
        return self._and(Postpone(on))

    def insert(self, event: Any) -> Next[S]:
        """Handle `event` next, before anything else; several in the order they were inserted."""
        return self._and(Insert(event))

    def reply(self, value: Any) -> Next[S]:
        """Answer the asker of the present event; without it the answer is None, once the event is done with."""
        return self._and(Reply(value))

    def stop(self, exit: Exit = NORMAL) -> Next[S]:
        """End the actor, with `exit` as its reason, after the answer was sent."""
        return self._and(Quit(exit))


def _name(name: str) -> str:
    if not (name and isinstance(name, str)):
        raise UsageError(f"timeout name {name!r}; a text that is not empty")
    return name


# --- the engine -------------------------------------------------------------------------------------------


class Held(Struct, frozen=True):
    """An event and the number by which the driver knows who waits for it, 0 for nobody."""

    id: int
    event: Any


class Running(Struct, frozen=True):
    """A timeout that was set. `ref` 0 is a zero-time one, which has no timer."""

    ref: int
    payload: Any = None


class Machine(Struct, Generic[S], frozen=True):
    """Where a machine stands. Made by `new`; changed by `step` only.

    `timers` by name; `due` the zero-time ones, oldest first; `called` the event that a handler has now; `phase` says
    which answer is awaited. `carried` and `previous` belong to a transition whose enter call is under way.
    """

    state: S
    enters: bool = False
    phase: Literal["new", "idle", "handling", "entering", "ended"] = "new"
    queue: tuple[Held, ...] = ()
    postponed: tuple[Held, ...] = ()
    timers: Mapping[str, Running] = field(default_factory=dict[str, Running])
    due: tuple[str, ...] = ()
    called: Held | None = None
    carried: tuple[Action, ...] = ()
    previous: S | None = None
    refs: int = 0


class Begin(Struct, frozen=True):
    """Input: the machine starts."""


class Arrived(Struct, frozen=True):
    """Input: an event from outside. `id` is the driver's, unique and above 0."""

    id: int
    event: Any


class Fired(Struct, frozen=True):
    """Input: a timer came up. One whose `ref` is no longer that of the timeout is not treated as one."""

    name: str
    ref: int


class Returned(Struct, frozen=True):
    """Input: what the handler or the enter call answered."""

    answer: Any


class Forget(Struct, frozen=True):
    """Input: nobody wants the postponed event `id` any more."""

    id: int


Input = Begin | Arrived | Fired | Returned | Forget


class Handle(Struct, frozen=True):
    """Effect: call the handler with this event; its answer is the next input."""

    event: Any


class Enter(Struct, Generic[S], frozen=True):
    """Effect: make the enter call of the present state, which was `previous`; its answer is the next input."""

    previous: S


class Start(Struct, frozen=True):
    """Effect: start a timer that gives `Fired(name, ref)`."""

    name: str
    ref: int
    seconds: float
    absolute: bool = False


class Unset(Struct, frozen=True):
    """Effect: the timer with this `ref` is not wanted any more."""

    ref: int


class Answer(Struct, frozen=True):
    """Effect: answer the event `id`."""

    id: int
    value: Any


class Closed(Struct, frozen=True):
    """Effect: the event `id` is done with; if it was not answered, its answer is None."""

    id: int


class End(Struct, frozen=True):
    """Effect: the actor ends."""

    exit: Exit


Effect = Handle | Enter[Any] | Start | Unset | Answer | Closed | End
Stepped = tuple[Machine[S], tuple[Effect, ...]]


def new(initial: S, *, enters: bool = False) -> Machine[S]:
    """A machine that has not begun. With `enters`, states are entered by a call, the first one too."""
    return Machine(initial, enters)


def step(machine: Machine[S], given: Input) -> Stepped[S]:
    """One input. At most one effect asks for an answer (`Handle`, `Enter`), and it is the last.

    Raises `UsageError`, naming state, event and value, for an answer that is none, and for an input out of turn.
    """
    match given:
        case Returned(answer):
            if machine.phase == "handling":
                return _handled(machine, _checked(machine, answer))
            if machine.phase == "entering":
                return _entered(machine, _checked_entry(machine, answer))
        case Begin() if machine.phase == "new":
            if machine.enters:
                return replace(machine, phase="entering", previous=machine.state), (Enter(machine.state),)
            return _next(replace(machine, phase="idle"), ())
        case Arrived(id, event) if machine.phase == "idle":
            return _next(replace(machine, queue=(*machine.queue, Held(id, event))), ())
        case Fired(name, ref) if machine.phase == "idle":
            return _fired(machine, name, ref)
        case Forget(id):
            left = tuple(held for held in machine.postponed if held.id != id)
            return replace(machine, postponed=left, queue=tuple(h for h in machine.queue if h.id != id)), ()
        case _:
            pass
    if machine.phase == "ended":
        return machine, ()
    raise UsageError(f"{given!r} is out of turn: the machine is {machine.phase} in state {machine.state!r}")


def _fired(machine: Machine[S], name: str, ref: int) -> Stepped[S]:
    running = machine.timers.get(name)
    if running is None or running.ref != ref or not ref:
        return machine, ()
    event = Held(0, Timeout(name, running.payload))
    timers = {key: value for key, value in machine.timers.items() if key != name}
    return _next(replace(machine, timers=timers, queue=(*machine.queue, event)), ())


def _place(machine: Machine[Any]) -> str:
    event = machine.called.event if machine.called is not None and machine.phase == "handling" else None
    return f"state {machine.state!r}" + (f", event {event!r}" if event is not None else ", enter call")


def _checked(machine: Machine[S], answer: object) -> Next[S]:
    if not isinstance(answer, Next):
        raise UsageError(f"{_place(machine)}: the handler returned {answer!r}; goto(...), keep() or repeat()")
    if answer.kind == "goto" and type(answer.state) is not type(machine.state):
        kind = type(machine.state).__name__
        raise UsageError(f"{_place(machine)}: goto({answer.state!r}), which is no {kind}")
    for action in answer.actions:
        if not isinstance(action, Action):
            raise UsageError(f"{_place(machine)}: unknown action {action!r}")
    return answer


def _checked_entry(machine: Machine[S], answer: object) -> Next[S]:
    if answer is None:
        return Next("keep")
    given = _checked(machine, answer)
    bad = next((a for a in given.actions if isinstance(a, Postpone | Insert)), None)
    if given.kind != "keep" or bad is not None:
        what = f"{given.kind}({given.state!r})" if given.kind == "goto" else given.kind
        raise UsageError(
            f"{_place(machine)}: returned {what if bad is None else bad!r}; an enter call may set timeouts, reply and"
            " stop, but not change or repeat the state, postpone or insert"
        )
    return given


def _replies(machine: Machine[Any], actions: Iterable[Action]) -> tuple[Effect, ...]:
    called = machine.called
    if called is None or not called.id:
        return ()
    return tuple(Answer(called.id, action.value) for action in actions if isinstance(action, Reply))


def _handled(machine: Machine[S], answer: Next[S]) -> Stepped[S]:
    """Rules 1 and 2: replies go out at once, then the enter call, before anything else is settled."""
    effects = _replies(machine, answer.actions)
    old = machine.state
    state = answer.state if answer.kind == "goto" and answer.state is not None else old
    moved = replace(machine, state=state, previous=old, carried=answer.actions)
    if machine.enters and (state != old or answer.kind == "repeat"):
        return replace(moved, phase="entering"), (*effects, Enter(old))
    return _settle(moved, effects)


def _entered(machine: Machine[S], answer: Next[S]) -> Stepped[S]:
    effects = _replies(machine, answer.actions)
    return _settle(replace(machine, carried=machine.carried + answer.actions), effects)


def _settle(machine: Machine[S], effects: tuple[Effect, ...]) -> Stepped[S]:
    """Rules 3 to 6: postponed, cancelled, inserted, timeouts; then the next event."""
    called, actions = machine.called, machine.carried
    changed = machine.previous is not None and machine.state != machine.previous
    kept = [action for action in actions if isinstance(action, Postpone)]
    queue, postponed = machine.queue, machine.postponed
    if called is not None and kept and kept[-1].on:
        postponed = (*postponed, called)
    elif called is not None and called.id:
        effects = (*effects, Closed(called.id))
    if changed:
        queue, postponed = postponed + queue, ()
    inserted = tuple(Held(0, action.event) for action in actions if isinstance(action, Insert))
    clocks = _Clocks(machine)
    if changed:
        clocks.cancel(STATE)
    if called is not None:
        clocks.cancel(EVENT)
    clocks.carry_out(actions)
    settled = replace(
        machine,
        phase="idle",
        queue=inserted + queue,
        postponed=postponed,
        timers=MappingProxyType(clocks.timers),
        due=tuple(clocks.due),
        refs=clocks.refs,
        called=None,
        carried=(),
        previous=None,
    )
    effects += tuple(clocks.effects)
    quits = [action for action in actions if isinstance(action, Quit)]
    if quits:
        return replace(settled, phase="ended"), (*effects, End(quits[-1].exit))
    return _next(settled, effects)


class _Clocks:
    """The timeouts of a machine while one transition is settled."""

    def __init__(self, machine: Machine[Any]) -> None:
        self.timers = dict(machine.timers)
        self.due = list(machine.due)
        self.refs = machine.refs
        self.effects: list[Effect] = []

    def carry_out(self, actions: Sequence[Action]) -> None:
        """The last word for each name, in the order of those words."""
        last = {action.name: n for n, action in enumerate(actions) if isinstance(action, Arm | Cancel | Update)}
        for number, action in enumerate(actions):
            if not isinstance(action, Arm | Cancel | Update) or last[action.name] != number:
                continue
            if isinstance(action, Arm):
                self._arm(action)
            elif isinstance(action, Cancel):
                self.cancel(action.name)
            else:
                self._update(action)

    def cancel(self, name: str) -> None:
        running = self.timers.pop(name, None)
        if running is None:
            return
        if running.ref:
            self.effects.append(Unset(running.ref))
        else:
            self.due.remove(name)

    def _arm(self, action: Arm) -> None:
        self.cancel(action.name)
        if action.seconds == math.inf:
            return
        if action.seconds == 0 and not action.absolute:
            self._at_once(action.name, action.payload)
            return
        self.refs += 1
        self.timers[action.name] = Running(self.refs, action.payload)
        self.effects.append(Start(action.name, self.refs, action.seconds, action.absolute))

    def _update(self, action: Update) -> None:
        running = self.timers.get(action.name)
        if running is None:
            self._at_once(action.name, action.payload)
        else:
            self.timers[action.name] = replace(running, payload=action.payload)

    def _at_once(self, name: str, payload: object) -> None:
        self.timers[name] = Running(0, payload)
        self.due.append(name)


def _next(machine: Machine[S], effects: tuple[Effect, ...]) -> Stepped[S]:
    """Rule 5: the queue, then the zero-time timeouts, then wait."""
    if machine.queue:
        held, rest = machine.queue[0], machine.queue[1:]
        return replace(machine, phase="handling", called=held, queue=rest), (*effects, Handle(held.event))
    if machine.due:
        name, due = machine.due[0], machine.due[1:]
        timers = {key: value for key, value in machine.timers.items() if key != name}
        event = Timeout(name, machine.timers[name].payload)
        called = replace(machine, phase="handling", called=Held(0, event), timers=timers, due=due)
        return called, (*effects, Handle(event))
    return machine, effects
