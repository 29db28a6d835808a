"""What `decide` may choose: commands, as data, and the digests by which they are journalled and compared on replay."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Struct

from understudy.actors.agents.guards import Verdict
from understudy.actors.journal.event import Effect, Status, without_surrogates
from understudy.actors.journal.state import digest, digest_of
from understudy.actors.journal.view import Cut, Spans


class CallModel(Struct, frozen=True, gc=False, tag=True, tag_field="$", omit_defaults=True):
    """Call the model. `parts` are digests of what the request is made of, `size` is the most its input can count.

    With `covers`: for a summary of these items, which takes their place. `last`: for an answer only, at a limit. See
    `events.ModelAsked`.
    """

    step: int
    try_: int
    parts: dict[str, str]
    max_tokens: int
    size: int
    covers: Spans = ()
    last: bool = False


class SwitchModel(Struct, frozen=True, tag=True, tag_field="$"):
    """Ask the agent's fallback model from now on."""

    step: int
    model: str
    reason: str


class Compact(Struct, frozen=True, tag=True, tag_field="$"):
    """Make the context window smaller. See `events.Compacted`."""

    rule: str
    dropped: Spans
    text: str
    cuts: tuple[Cut, ...]
    tokens: int
    left: int


class PlannedCall(Struct, frozen=True, gc=False, tag=True, tag_field="$"):
    """One call to make. `delegate` names the agent of a delegation, whose request is `message`."""

    step: int
    index: int
    name: str
    arguments: str
    effect: Effect
    loop_key: str
    polling: bool = False
    key: str = ""
    approval: str = ""
    delegate: str = ""
    message: str = ""


class CallTools(Struct, frozen=True, gc=False, tag=True, tag_field="$"):
    """Make these calls, together."""

    calls: tuple[PlannedCall, ...]


class Reject(Struct, frozen=True, tag=True, tag_field="$"):
    """Tell the model that the call cannot be made."""

    step: int
    index: int
    name: str
    arguments: str
    error: str


# Without defaults, so that digests are those of before there was `told`.
class RejectOutput(Struct, frozen=True, tag=True, tag_field="$", omit_defaults=True):
    """Tell the model that its answer is not valid; in the words of `told`, if there are any."""

    step: int
    error: str
    repairs: int
    told: str = ""


class CheckOutput(Struct, frozen=True, tag=True, tag_field="$"):
    """Let a check look at the answer of a step, which is `output` as JSON."""

    step: int
    check: str
    output: str


class Move(Struct, frozen=True, tag=True, tag_field="$"):
    """The agent's machine goes to another state, which lasts `seconds` at most (None: no limit). See `events.Moved`.

    If it stays in its state, that goes on to last until when it did; `seconds` is then None.
    """

    source: str
    to: str
    cause: Literal["start", "model", "timeout"]
    event: str
    step: int
    index: int
    result: str
    seconds: float | None


class Judge(Struct, frozen=True, tag=True, tag_field="$"):
    """A loop guard's verdict and what follows from it."""

    verdict: Verdict
    note: str
    rewind_to: int
    dropped: int
    temperature: float | None


class Recall(Struct, frozen=True, tag=True, tag_field="$"):
    """After a crash: drop the exchanges from step `rewind_to` on, and tell the agent `note`. See `recall`."""

    memory: str
    note: str
    rewind_to: int
    dropped: int


class AskYes(Struct, frozen=True, tag=True, tag_field="$"):
    """Ask a person for a yes to exactly this call."""

    approval: str
    step: int
    index: int
    name: str
    arguments: str
    digest: str
    policy: str
    who: tuple[str, ...]


class RefuseYes(Struct, frozen=True, tag=True, tag_field="$"):
    """A yes does not fit the call it is about to be used for."""

    approval: str
    reason: str


class HandOff(Struct, frozen=True, tag=True, tag_field="$"):
    """The output goes on to another agent."""

    to: str
    type: str
    message: str
    hops: int


class Finish(Struct, frozen=True, tag=True, tag_field="$"):
    """The (sub-)run ends."""

    status: Status
    output: str
    reason: str


class EndIncarnation(Struct, frozen=True, tag=True, tag_field="$"):
    """A verdict of restart or above: the incarnation ends with this reason, and the supervisor acts, or its own."""

    reason: str
    escalate: bool = False


class Park(Struct, frozen=True, tag=True, tag_field="$"):
    """Nothing to do until something outside happens."""

    on: Literal["approval", "doubt", "sub", "timer", "asker", "quarantine"]
    ids: tuple[str, ...]


class Wait(Struct, frozen=True, tag=True, tag_field="$"):
    """Outcomes are outstanding, or it is over."""


Command = (
    CallModel
    | SwitchModel
    | Compact
    | CallTools
    | Reject
    | RejectOutput
    | CheckOutput
    | Move
    | Judge
    | Recall
    | AskYes
    | RefuseYes
    | HandOff
    | Finish
    | EndIncarnation
    | Park
    | Wait
)


_encoder: Final = msgspec.json.Encoder(order="deterministic")


def command_digest(command: Command | PlannedCall) -> str:
    """What is journalled of a command, and compared on replay."""
    try:
        return digest_of(_encoder.encode(command))
    except UnicodeEncodeError:
        return digest_of(_encoder.encode(without_surrogates(msgspec.to_builtins(command))))


def call_digest(name: str, arguments: str) -> str:
    """What a yes is bound to: the tool's name and the exact arguments, whatever the order of their keys."""
    try:
        canonical = msgspec.json.encode(msgspec.json.decode(arguments), order="sorted").decode()
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        canonical = arguments
    return digest(name, canonical)
