"""A table of states, one row each, so that a checker refuses a foreign enum. Pure.

    machine = StateMachine(S.CHECK, {
        S.CHECK: State(tools=[order], on={E.OWED: S.PAY, E.NOT_OWED: S.DECLINED}, timeout=(120, S.DECLINED)),
        S.PAY: State(tools=[pay], on={E.SENT: S.PAID, E.REFUSED: S.DECLINED}),
        S.PAID: State(), S.DECLINED: State()})

An agent follows it as `Agent(machine=...)`; a `StateMachineActor` may, by answering with `react`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from understudy.actors.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from understudy.actors.machine import Next, Timeout

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)


class Named(Protocol):
    """What a state offers: a tool."""

    @property
    def name(self) -> str:
        """Its name."""
        ...


class State(Generic[S, E]):
    """One row of a table.

    `on` maps each event that the state takes to the state it leads to. `tools` are what an agent may call in this state
    beside its general ones; a machine of a plain actor has none. `timeout` is (seconds, state): how long the state may
    last by the wall clock, and where it then leads. A state without `on` and `timeout` is final.
    """

    __slots__ = ("on", "timeout", "tools")

    def __init__(
        self, *, on: Mapping[E, S] | None = None, tools: Sequence[Named] = (), timeout: tuple[float, S] | None = None
    ) -> None:
        self.on: Mapping[E, S] = MappingProxyType(dict(on or {}))
        self.tools = tuple(tools)
        self.timeout = timeout

    @property
    def final(self) -> bool:
        """Whether nothing leads on."""
        return not self.on and self.timeout is None

    def leads_to(self) -> tuple[S, ...]:
        """The states it leads to, in the order they are named."""
        targets = dict.fromkeys(self.on.values())
        if self.timeout is not None:
            targets.setdefault(self.timeout[1])
        return tuple(targets)


class StateMachine(Generic[S, E]):
    """A table of states: `initial`, and a row for each. See the module and `State`.

    Raises `ProtocolError` naming the place: a state that leads to one without a row; a state or event of another enum;
    a timeout that is not more than 0, has no end, or leads to its own state; a state that nothing leads to; one that
    offers tools but has no way out.
    """

    def __init__(self, initial: S, states: Mapping[S, State[S, E]]) -> None:
        self.initial = initial
        self.states: Mapping[S, State[S, E]] = MappingProxyType(dict(states))
        self._check_rows()
        self._check_reach()

    def __repr__(self) -> str:
        return f"<state machine of {len(self.states)} states, from {self.initial!r}>"

    def row(self, state: S) -> State[S, E]:
        """The row of a state. Raises `UsageError` naming one that has none."""
        try:
            return self.states[state]
        except (KeyError, TypeError):
            raise UsageError(f"{self!r}: no state {state!r}") from None

    def react(self, state: S, event: E | Timeout) -> Next[S] | None:
        """What a `StateMachineActor` that follows this table answers; None for an event that the state does not take.

        A state's timeout is set when it is entered from another one.
        """
        from understudy.actors.machine import STATE, Next, Timeout  # not loaded with a description of an agent

        row = self.row(state)
        target = row.on.get(event) if isinstance(event, Enum) else None
        if isinstance(event, Timeout) and event.name == STATE and row.timeout is not None:
            target = row.timeout[1]
        if target is None:
            return None
        return self.entering(target) if target != state else Next("keep")

    def entering(self, state: S) -> Next[S]:
        """Go to `state`, with its timeout set."""
        from understudy.actors.machine import Next

        timeout = self.row(state).timeout
        found: Next[S] = Next("goto", state)
        return found.after(timeout[0] if timeout is not None else math.inf)

    def dead_ends(self) -> tuple[S, ...]:
        """The states from which no final state can be reached, in the order of the rows."""
        ends = {state for state, row in self.states.items() if row.final}
        while True:
            more = {s for s, row in self.states.items() if s not in ends and any(t in ends for t in row.leads_to())}
            if not more:
                return tuple(state for state in self.states if state not in ends)
            ends |= more

    def _check_rows(self) -> None:
        if not isinstance(self.initial, Enum):
            raise ProtocolError(f"state machine: the initial state {self.initial!r} is no member of an enum")
        if self.initial not in self.states:
            raise ProtocolError(f"state machine: the initial state {self.initial!r} has no row")
        events: type[Enum] | None = None
        for state, row in self.states.items():
            where = f"state machine, {state!r}"
            if type(state) is not type(self.initial):
                raise ProtocolError(f"{where}: not a {type(self.initial).__name__}, as the initial state is")
            if not isinstance(row, State):
                raise ProtocolError(f"{where}: its row is {row!r}, not a State(...)")
            for event in row.on:
                events = events or type(event)
                if type(event) is not events or Enum not in events.__mro__:
                    raise ProtocolError(f"{where}: event {event!r} is not of one enum with the others")
            self._check_timeout(where, state, row)
            for target in row.leads_to():
                if target not in self.states:
                    raise ProtocolError(f"{where}: leads to {target!r}, which has no row")
            if row.final and row.tools:
                names = ", ".join(tool.name for tool in row.tools)
                raise ProtocolError(f"{where}: offers {names} but has no way out; give it events or a timeout")

    def _check_timeout(self, where: str, state: S, row: State[S, E]) -> None:
        if row.timeout is None:
            return
        try:
            seconds, _ = row.timeout
            good = 0 < seconds < math.inf
        except (TypeError, ValueError):
            good = False
        if not good:
            raise ProtocolError(f"{where}: timeout {row.timeout!r}; (seconds, state) with more than 0 and an end")
        if row.timeout[1] == state:
            raise ProtocolError(f"{where}: its timeout leads to itself; name another state")

    def _check_reach(self) -> None:
        reached, ahead = {self.initial}, [self.initial]
        while ahead:
            for target in self.states[ahead.pop()].leads_to():
                if target not in reached:
                    reached.add(target)
                    ahead.append(target)
        lost = [state for state in self.states if state not in reached]
        if lost:
            names = ", ".join(repr(state) for state in lost)
            raise ProtocolError(f"state machine: nothing leads to {names} from {self.initial!r}")
