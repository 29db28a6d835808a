"""How a run ends, as a union whose tag is the status: expected ends are results, not exceptions.

    result = await agent.run("…")
    match result:
        case Complete(output=answer): …
        case Waiting(pending=approvals): …

`complete`: validated, nothing missing. `degraded`: validated, but a declared fallback was used. `partial`: a
validated output that names what is missing. `waiting`: parked for a person or a doubt. `stopped`: ended by
guard, budget, person or supervisor; `output` is the last valid checkpoint or None. `failed`: error, or invalid
output after the repairs. `state` of each is that of the agent's machine, "" without one.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, NoReturn, TypeVar, cast

from msgspec import Struct, field

from understudy.actors.errors import Incomplete
from understudy.actors.journal.events import Effect, Status
from understudy.actors.journal.state import Spend

O = TypeVar("O")  # noqa: E741  # the name that users see: output


class Approval(Struct, frozen=True):
    """A yes that is asked for: `id` answers it, `digest` is of tool and exact arguments, `expires` is wall time."""

    id: str
    run: str
    tool: str
    arguments: str
    digest: str
    policy: str
    expires: float
    who: tuple[str, ...] = ()


class OpenDoubt(Struct, frozen=True):
    """A call of which nobody knows whether it happened. `arguments` is JSON, `key` its idempotency key or ""."""

    id: str
    run: str
    tool: str
    arguments: str
    effect: Effect
    key: str


class Complete(Struct, Generic[O], frozen=True, tag="complete", tag_field="status"):
    """Validated, nothing missing."""

    status: ClassVar[Literal["complete"]] = "complete"
    """The tag."""

    run: str
    output: O
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> O:
        """The output."""
        return self.output


class Degraded(Struct, Generic[O], frozen=True, tag="degraded", tag_field="status"):
    """Validated, with a declared fallback that `reason` names."""

    status: ClassVar[Literal["degraded"]] = "degraded"
    """The tag."""

    run: str
    output: O
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> O:
        """The output."""
        return self.output


class Partial(Struct, Generic[O], frozen=True, tag="partial", tag_field="status"):
    """Validated; `reason` names what is missing."""

    status: ClassVar[Literal["partial"]] = "partial"
    """The tag."""

    run: str
    output: O
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> O:
        """The output."""
        return self.output


class Waiting(Struct, Generic[O], frozen=True, tag="waiting", tag_field="status"):
    """Parked: `pending` lists the approvals that are asked for, `reason` says what else it waits for."""

    status: ClassVar[Literal["waiting"]] = "waiting"
    """The tag."""

    run: str
    pending: tuple[Approval, ...] = ()
    output: None = None
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> NoReturn:
        """Raises `Incomplete`."""
        raise _incomplete(self)


class Stopped(Struct, Generic[O], frozen=True, tag="stopped", tag_field="status"):
    """Ended by guard, budget, person or supervisor; `output` is the last valid checkpoint or None."""

    status: ClassVar[Literal["stopped"]] = "stopped"
    """The tag."""

    run: str
    output: O | None = None
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> NoReturn:
        """Raises `Incomplete`: a checkpoint is not the answer."""
        raise _incomplete(self)


class Failed(Struct, Generic[O], frozen=True, tag="failed", tag_field="status"):
    """Error, or invalid output after the repairs."""

    status: ClassVar[Literal["failed"]] = "failed"
    """The tag."""

    run: str
    output: O | None = None
    reason: str = ""
    spend: Spend = field(default_factory=Spend)
    state: str = ""

    def unwrap(self) -> NoReturn:
        """Raises `Incomplete`."""
        raise _incomplete(self)


Result = Complete[O] | Degraded[O] | Partial[O] | Waiting[O] | Stopped[O] | Failed[O]

CLASSES = {
    "complete": Complete,
    "degraded": Degraded,
    "partial": Partial,
    "stopped": Stopped,
    "failed": Failed,
}


def _incomplete(result: Any) -> Incomplete:
    return Incomplete(result, f"run {result.run} is {result.status}: {result.reason or 'no reason given'}")


# The output has the type of the agent that ran, which the caller's signature knows and this table does not.
def make(status: Status, run: str, output: Any, reason: str, spend: Spend, state: str = "") -> Result[Any]:
    """The result of a status other than `waiting`."""
    return cast("Result[Any]", CLASSES[status](run, output, reason, spend, state))
