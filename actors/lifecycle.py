"""The life of an actor as a table.

An actor *address* lives from spawn to `stopped`; under it incarnations come and go. The table is the whole
rule: `advance(state, event)` returns the next state or raises `IllegalTransition` and changes nothing.

    new ──start──▶ starting ──started──▶ running ──fail──▶ failed ──restart──▶ starting
                      │                     │ ╲                │
                      fail                 stop suspend      stop
                      ▼                     ▼    ▼             ▼
                    failed              stopping suspended   stopped

`failed` waits for its supervisor: the mailbox is kept, nothing is handled. `stopped` is final.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct

from understudy.actors.errors import UnderstudyError

LifeState = Literal["new", "starting", "running", "suspended", "failed", "stopping", "stopped"]
LifeEvent = Literal["start", "started", "fail", "restart", "suspend", "resume", "stop", "end"]

TABLE: Final[Mapping[LifeState, Mapping[LifeEvent, LifeState]]] = MappingProxyType(
    {
        "new": MappingProxyType({"start": "starting", "stop": "stopping"}),
        "starting": MappingProxyType({"started": "running", "fail": "failed", "stop": "stopping"}),
        "running": MappingProxyType({"fail": "failed", "suspend": "suspended", "stop": "stopping"}),
        "suspended": MappingProxyType({"resume": "running", "fail": "failed", "stop": "stopping"}),
        "failed": MappingProxyType({"restart": "starting", "stop": "stopping"}),
        "stopping": MappingProxyType({"end": "stopped", "stop": "stopping", "fail": "stopping"}),
        "stopped": MappingProxyType({}),
    }
)

ALIVE: Final = frozenset({"starting", "running", "suspended"})
"""States in which an incarnation exists."""

ExitKind = Literal["normal", "shutdown", "error", "loop", "escalate", "start", "killed", "gone", "no-connection"]


class IllegalTransition(UnderstudyError):
    """The event is not allowed in this state; the state is unchanged."""

    def __init__(self, state: LifeState, event: LifeEvent) -> None:
        allowed = ", ".join(TABLE[state]) or "none (final)"
        super().__init__(f"{event!r} is not allowed while {state}; allowed: {allowed}")
        self.state = state
        self.event = event


def advance(state: LifeState, event: LifeEvent) -> LifeState:
    """The state after `event`. Raises `IllegalTransition`."""
    try:
        return TABLE[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None


class Exit(Struct, frozen=True):
    """Why an incarnation ended.

    `normal` and `shutdown` are expected ends; `error` a raise in a handler, `start` a raise before the first
    message, `loop` a guard's verdict, `escalate` one that the supervisor above its own is to act on, `killed` a cancel
    that was not obeyed in time, `gone` an address that never existed or was released, `no-connection` that its node
    cannot be reached: what was there may be alive.
    """

    kind: ExitKind
    detail: str = ""

    @property
    def expected(self) -> bool:
        """True for `normal` and `shutdown`: what OTP calls an orderly exit."""
        return self.kind in ("normal", "shutdown")

    def __str__(self) -> str:
        return f"{self.kind}({self.detail})" if self.detail else self.kind


NORMAL: Final = Exit("normal")
SHUTDOWN: Final = Exit("shutdown")
GONE: Final = Exit("gone")
DECLINED: Final = Exit("normal", "declined to start")
"""Raised as `Leave(DECLINED)` in `on_start`: there is nothing to do. Its supervisor keeps the spec without an actor."""
