"""What goes wrong in a world, as plain records: the base of all, and the faults of actors, mailboxes and clocks.

A fault is addressed by stable logical coordinates: an actor's path and the nth message it begins or is sent, counted
from 1 over all its incarnations; an actor may be named by a number, as in `schedule`. Faults of models, tools and the
journal's disk are in the modules of those.
"""

from __future__ import annotations

from msgspec import Struct


class Fault(Struct, frozen=True, tag=True, tag_field="$", repr_omit_defaults=True):
    """The base of all faults. Its repr is the code that makes it."""


def known() -> dict[str, type[Fault]]:
    """Every kind of fault that is loaded, by its tag."""
    found: dict[str, type[Fault]] = {}
    todo = [Fault]
    while todo:
        for kind in todo.pop().__subclasses__():
            tag = kind.__struct_config__.tag
            if isinstance(tag, str):
                found[tag] = kind
            todo.append(kind)
    return found


class Crash(Fault, frozen=True):
    """The actor's `at`th message: `InjectedCrash` is raised before its handler runs, or when it has run.

    `after=True`: the effects have happened, the reply is not given. `at=0`: the start fails instead.
    """

    actor: str | int
    at: int
    after: bool = False


class Drop(Fault, frozen=True):
    """The `at`th message sent to the actor is lost on its way. Only over a link can that happen."""

    actor: str | int
    at: int


class Duplicate(Fault, frozen=True):
    """The `at`th message sent to the actor arrives twice. The reply to the first copy counts."""

    actor: str | int
    at: int


class Delay(Fault, frozen=True):
    """The `at`th message sent to the actor arrives `seconds` later; later ones may overtake it."""

    actor: str | int
    at: int
    seconds: float


class ReplyLost(Fault, frozen=True):
    """The `at`th message sent to the actor is handled, and its reply is lost: the asker meets its deadline."""

    actor: str | int
    at: int


class SlowConsumer(Fault, frozen=True):
    """From its `at`th message on the actor takes `seconds` longer for each."""

    actor: str | int
    at: int
    seconds: float


class MailboxIsFull(Fault, frozen=True):
    """The `at`th message sent to the actor meets a full mailbox."""

    actor: str | int
    at: int


class ClockJump(Fault, frozen=True):
    """Before the actor's `at`th message the wall clock is set `seconds` forward, or back. Monotonic time goes on."""

    actor: str | int
    at: int
    seconds: float


class InjectedCrash(Exception):
    """What a planned `Crash` raises."""


ActorFault = Crash | Drop | Duplicate | Delay | ReplyLost | SlowConsumer | MailboxIsFull | ClockJump
