"""What goes wrong in a world, as plain records: the base of all, and the faults of actors, mailboxes and clocks.

A fault is addressed by stable logical coordinates: an actor's path and the nth message it begins or is sent, counted
from 1 over all its incarnations; an actor may be named by a number, as in `schedule`. Faults of models, tools and the
journal's disk are in the modules of those.
"""

from __future__ import annotations

from math import isfinite
from typing import ClassVar

from msgspec import Struct

from understudy.actors.errors import UsageError


class Fault(Struct, frozen=True, tag=True, tag_field="$", repr_omit_defaults=True):
    """The base of all faults. Its repr is the code that makes it."""


def known() -> dict[str, type[Fault]]:
    """Every kind of fault that is loaded, by its tag."""
    found: dict[str, type[Fault]] = {}
    todo = [Fault]
    while todo:
        for kind in todo.pop().__subclasses__():
            tag = kind.__struct_config__.tag
            if isinstance(tag, str) and not kind.__subclasses__():  # what has some is the base of several
                found[tag] = kind
            todo.append(kind)
    return found


def check_address(where: str, actor: object, at: object, first: int) -> None:
    """Raise `UsageError` for an actor that is neither a path nor a number, or an `at` that is not from `first` on."""
    if not (isinstance(actor, str) and actor) and not (type(actor) is int and actor >= 0):
        raise UsageError(f"{where}: actor is {actor!r}; it is a path, or a number from 0")
    if type(at) is not int or at < first:
        raise UsageError(
            f"{where}({actor!r}): at is {at!r}; messages are counted from 1{', 0 is the start' * (not first)}"
        )


class _ActorFault(Fault, frozen=True):
    """Base: the actor `actor` at its message number `at`. Raises `UsageError` for numbers that cannot be."""

    first: ClassVar[int] = 1
    backwards: ClassVar[bool] = False
    """Whether `seconds` may be negative."""

    actor: str | int
    at: int

    def __post_init__(self) -> None:
        where = type(self).__name__
        check_address(where, self.actor, self.at, self.first)
        seconds = getattr(self, "seconds", 0.0)
        if not (isinstance(seconds, int | float) and isfinite(seconds) and (seconds >= 0 or self.backwards)):
            least = "" if self.backwards else ", at least 0"
            raise UsageError(
                f"{where}({self.actor!r}, at={self.at}): seconds is {seconds!r}; a number of seconds{least}"
            )


class Crash(_ActorFault, frozen=True):
    """The actor's `at`th message: `InjectedCrash` is raised before its handler runs, or when it has run.

    `after=True`: the effects have happened, the reply is not given. `at=0`: the start fails instead.
    """

    first = 0

    after: bool = False


class Drop(_ActorFault, frozen=True):
    """The `at`th message sent to the actor is lost on its way. Only over a link can that happen."""


class Duplicate(_ActorFault, frozen=True):
    """The `at`th message sent to the actor arrives twice. The reply to the first copy counts."""


class Delay(_ActorFault, frozen=True):
    """The `at`th message sent to the actor arrives `seconds` later; later ones may overtake it."""

    seconds: float


class ReplyLost(_ActorFault, frozen=True):
    """The `at`th message sent to the actor is handled, and its reply is lost: the asker meets its deadline."""


class SlowConsumer(_ActorFault, frozen=True):
    """From its `at`th message on the actor takes `seconds` longer for each."""

    seconds: float


class MailboxIsFull(_ActorFault, frozen=True):
    """The `at`th message sent to the actor meets a full mailbox."""


class ClockJump(_ActorFault, frozen=True):
    """Before the actor's `at`th message the wall clock is set `seconds` forward, or back. Monotonic time goes on."""

    backwards = True

    seconds: float


class InjectedCrash(Exception):
    """What a planned `Crash` raises."""


ActorFault = Crash | Drop | Duplicate | Delay | ReplyLost | SlowConsumer | MailboxIsFull | ClockJump
