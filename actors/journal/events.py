"""The events of a run: everything that belongs to it, as versioned frozen structs.

A run has one stream; every event carries its sequence number there, the sub-run it belongs to (0 is the
run itself), the actor path and incarnation that wrote it, and the sequence number of its cause.

Three sorts, told apart by how replay treats them:

- **commands** (`COMMANDS`): what `decide` chose. They carry `command`, the digest of the command that `decide`
  returned; replay computes it again and compares.
- **outcomes**: what the world answered (replies, results, ledger's answers, a person's yes). Replay believes them.
- **supervision**: exits, back-off, starts. Replay passes over them.

Changing the shape of an event means a new `VERSION` and a recorded history in `tests/histories/`.
Durations are seconds, `at` is seconds since the epoch by the wall clock, `mono` the node's monotonic clock.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.models import ModelReply
from understudy.actors.journal.durable_events import ActorsKept as ActorsKept
from understudy.actors.journal.durable_events import ActorsWorked as ActorsWorked
from understudy.actors.journal.event import Effect as Effect
from understudy.actors.journal.event import Event as Event
from understudy.actors.journal.event import Status as Status
from understudy.actors.journal.fork_events import Forked as Forked
from understudy.actors.journal.guard_events import BudgetBreached as BudgetBreached
from understudy.actors.journal.guard_events import BudgetDenied as BudgetDenied
from understudy.actors.journal.guard_events import BudgetLow as BudgetLow
from understudy.actors.journal.guard_events import Judged as Judged
from understudy.actors.journal.guard_events import Quarantined as Quarantined
from understudy.actors.journal.guard_events import Released as Released
from understudy.actors.journal.guard_events import SpendCorrected as SpendCorrected
from understudy.actors.journal.people_events import ApprovalAsked as ApprovalAsked
from understudy.actors.journal.people_events import ApprovalGiven as ApprovalGiven
from understudy.actors.journal.people_events import ApprovalRefused as ApprovalRefused
from understudy.actors.journal.people_events import DoubtSettled as DoubtSettled
from understudy.actors.journal.people_events import InDoubt as InDoubt
from understudy.actors.journal.pruned_events import Pruned as Pruned
from understudy.actors.journal.supervision_events import BackedOff as BackedOff
from understudy.actors.journal.supervision_events import ChildExited as ChildExited
from understudy.actors.journal.supervision_events import ChildStarted as ChildStarted
from understudy.actors.journal.supervision_events import Escalated as Escalated
from understudy.actors.journal.supervision_events import GaveUp as GaveUp
from understudy.actors.journal.supervision_events import RestartCounted as RestartCounted
from understudy.actors.journal.view import Spans
from understudy.actors.journal.window_events import Compacted as Compacted
from understudy.actors.journal.window_events import InSession as InSession
from understudy.actors.journal.window_events import Kept as Kept
from understudy.actors.journal.window_events import SummaryDenied as SummaryDenied

VERSION: Final = 2
EVENTS: Final = "events"
"""The name under which the version of the events is kept in the values of a journal."""
NODE_STREAM: Final = "@node"
"""The stream of events that belong to no run."""
QUARANTINE: Final = "@quarantine"
"""The stream that says which agents take no requests."""
SESSION: Final = "@session/"
"""What the name of a session's stream begins with; its id follows."""


def is_run(stream: str) -> bool:
    """Whether a stream is a run's: the names of others begin with `@`."""
    return not stream.startswith("@")


# --- a run and its sub-runs ------------------------------------------------------------------------------


class RunStarted(Event, frozen=True):
    """A request from outside was accepted. `message` is its JSON, `type` its tag, `agent` the name asked.

    A run of a `session` goes on with the window of the run `continues` ("" for the first one), as it was after that
    run's event `upto`; or with `window`, where that was written down. `traceparent`: see `trace.Trace.kept`.
    One that another node delegated has the place of the call there as `parent` ("a/7f3a:58"), and spends its `escrow`
    (by unit) and `escrow_seconds` at most.
    """

    agent: str
    type: str
    message: str
    pools: tuple[str, ...] = ()
    session: str = ""
    continues: str = ""
    upto: int = 0
    window: Kept | None = None
    traceparent: str = ""
    parent: str = ""
    escrow: dict[str, int] | None = None
    escrow_seconds: float | None = None


class SubStarted(Event, frozen=True):
    """The run began a sub-run for the call (`step`, `index`) of sub-run `parent`."""

    parent: int
    step: int
    index: int
    agent: str
    type: str
    message: str


class AttemptStarted(Event, frozen=True):
    """An incarnation took the (sub-)run up. `altered` names the verdict (its event) whose alteration applies now.

    `crash`: the error with which the former incarnation crashed on it, "" when it did not.
    """

    attempt: int
    altered: int = 0
    crash: str = ""


class Recalled(Event, frozen=True):
    """What the (sub-)run keeps of itself after a crash, by the memory policy of its agent (see `agents.recall`)."""

    memory: str
    note: str
    rewind_to: int
    dropped: int
    command: str = ""


class Resumed(Event, frozen=True):
    """A process took the run up again. `reopen` is True when a person asked to go on with an ended one."""

    by: str = ""
    reopen: bool = False


class StopAsked(Event, frozen=True):
    """Somebody wants the run to end (`stop`) or to rest (`park`) after its present step. `reason` is one word."""

    reason: str
    how: Literal["stop", "park"] = "stop"
    by: str = ""


class Finished(Event, frozen=True):
    """The (sub-)run ended. `output` is JSON or "". `decided` is False when the supervisor or a person ended it."""

    status: Status
    output: str = ""
    reason: str = ""
    decided: bool = True
    command: str = ""


class HandedOff(Event, frozen=True):
    """The output was routed: agent `to` goes on with the request, in the same (sub-)run."""

    to: str
    type: str
    message: str
    hops: int
    command: str = ""


class Parked(Event, frozen=True):
    """The (sub-)run waits and holds no worker. `on` says for what; `ids` are approvals, doubts or sub-runs."""

    on: Literal["approval", "doubt", "sub", "timer", "asker", "shutdown", "quarantine"]
    ids: tuple[str, ...]


class Unparked(Event, frozen=True):
    """What it waited for is there."""

    why: str


# --- steps -----------------------------------------------------------------------------------------------


class ModelAsked(Event, frozen=True):
    """Intent: one model call. `parts` are digests of what the request is made of, so a difference can be named.

    `last`: it is the answer-only step at a limit, paid from what was set aside. `size` is the most tokens that its
    input can count. With `covers` the reply is no turn of the agent's: it is a summary, and takes the place of those
    items of the context window.
    """

    step: int
    parts: dict[str, str]
    max_tokens: int
    reserved: dict[str, int]
    pools: tuple[str, ...]
    ticket: str
    try_: int = field(default=1, name="try")
    command: str = ""
    last: bool = False
    size: int = 0
    covers: Spans = ()


class ModelAnswered(Event, frozen=True):
    """Outcome of a model call. `estimated` when the provider did not report usage: then the cap counts as spent."""

    step: int
    ticket: str
    reply: ModelReply
    spent: dict[str, int]
    estimated: bool = False
    seconds: float = 0.0


class ModelFailed(Event, frozen=True):
    """Outcome of a model call: an error. `spent` is empty when no byte left, the full cap when that is unknown."""

    step: int
    ticket: str
    kind: str
    error: str
    retryable: bool
    spent: dict[str, int]
    estimated: bool = False
    retry_after: float | None = None
    seconds: float = 0.0


class ModelSwitched(Event, frozen=True):
    """The agent's model did not answer; from `step` on its fallback is asked. `reason` says which and why."""

    step: int
    model: str
    reason: str
    command: str = ""


class ToolAsked(Event, frozen=True):
    """Intent: one tool call or delegation, keyed (`step`, `index`).

    `loop_key` and `polling` are evidence for the loop guard, `key` is the idempotency key of a keyed tool,
    `approval` the id of the yes it uses up, `sub` the sub-run of a delegation.
    """

    step: int
    index: int
    name: str
    arguments: str
    effect: Effect
    loop_key: str
    polling: bool = False
    key: str = ""
    approval: str = ""
    sub: int = 0
    ticket: str = ""
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    pools: tuple[str, ...] = ()
    command: str = ""


class ToolStepped(Event, frozen=True):
    """A recorded sub-result inside a long tool: `call.step(name, ...)`."""

    step: int
    index: int
    name: str
    result: str


class ToolAnswered(Event, frozen=True):
    """Outcome of a tool call: `result` is JSON. `spent`: of the escrow of a delegation to another node, else None."""

    step: int
    index: int
    result: str
    seconds: float = 0.0
    spent: dict[str, int] | None = None
    estimated: bool = False


class ToolFailed(Event, frozen=True):
    """Outcome of a tool call: an error that the model is told. `kind` is the exception's or `timeout`, `refused`, …"""

    step: int
    index: int
    kind: str
    error: str
    seconds: float = 0.0
    spent: dict[str, int] | None = None
    estimated: bool = False


class ToolRejected(Event, frozen=True):
    """The call was never made: unknown name or arguments that do not fit the schema. The model is told."""

    step: int
    index: int
    name: str
    arguments: str
    error: str
    command: str = ""


class OutputRejected(Event, frozen=True):
    """The answer is not a valid output; the error path is handed back, or `told`. `repairs` counts from 1."""

    step: int
    error: str
    repairs: int
    command: str = ""
    told: str = ""


class OutputChecked(Event, frozen=True):
    """A check that looks at the world has seen the answer of `step`: `error` is its objection, "" for none.

    `skipped` says why it could not look; then the answer counts without it, and the run is `degraded`.
    """

    step: int
    check: str
    error: str
    skipped: str = ""
    pools: tuple[str, ...] = ()
    spent: dict[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0
    command: str = ""


# --- state machines --------------------------------------------------------------------------------------


class Moved(Event, frozen=True):
    """The agent's machine went from one state to another; the first time `source` is "".

    `cause` says by what: the beginning, the model's call (`step`, `index`) of `move` with `event`, or the timeout of
    the state. `result` is what the model is told. `until` is when the new state times out by the wall clock, 0 for
    never.
    """

    source: str = field(name="from")
    to: str
    cause: Literal["start", "model", "timeout"]
    event: str = ""
    step: int = 0
    index: int = 0
    result: str = ""
    until: float = 0.0
    command: str = ""


class StateTimedOut(Event, frozen=True):
    """The clock has passed `until`, and the machine was still in `state`. What follows is a `Moved`."""

    state: str
    until: float


AnyEvent = (
    RunStarted
    | InSession
    | SubStarted
    | AttemptStarted
    | Recalled
    | Resumed
    | StopAsked
    | Finished
    | HandedOff
    | Parked
    | Unparked
    | ModelAsked
    | ModelAnswered
    | ModelFailed
    | ModelSwitched
    | Compacted
    | SummaryDenied
    | ToolAsked
    | ToolStepped
    | ToolAnswered
    | ToolFailed
    | ToolRejected
    | OutputRejected
    | OutputChecked
    | Moved
    | StateTimedOut
    | Judged
    | Quarantined
    | Released
    | BudgetDenied
    | BudgetLow
    | BudgetBreached
    | SpendCorrected
    | ApprovalAsked
    | ApprovalGiven
    | ApprovalRefused
    | InDoubt
    | DoubtSettled
    | ChildStarted
    | ChildExited
    | BackedOff
    | Escalated
    | GaveUp
    | RestartCounted
    | Pruned
    | Forked
    | ActorsWorked
    | ActorsKept
)

COMMANDS: Final = (
    HandedOff,
    ModelAsked,
    ModelSwitched,
    Compacted,
    ToolAsked,
    ToolRejected,
    OutputRejected,
    OutputChecked,
    Moved,
    Judged,
    Recalled,
    ApprovalAsked,
    Finished,
)


class Record(Struct, frozen=True, gc=False):
    """One event in its stream."""

    run: str
    seq: int
    at: float
    mono: float
    sub: int
    path: str
    incarnation: int
    cause: int
    event: AnyEvent

    @property
    def place(self) -> str:
        """`7f3a:58`, the one name of this event."""
        return f"{self.run}:{self.seq}"


encoder = msgspec.json.Encoder()
decoder = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """The bytes that are stored and checksummed."""
    return encoder.encode(record)


def decode(data: bytes) -> Record:
    """The record of `encode`. Raises `msgspec.DecodeError` for anything else."""
    return decoder.decode(data)
