"""What can go wrong with a model, as values: addressed by the agent's name and its nth call, from 1.

Calls are counted over a whole world: every run, incarnation and process of the agent, retries and failed calls too. The
agent's name is the address because a `ModelRequest` does not carry it: each agent of a world has a `SimModel` of its
own. Each fault is what `OpenAIChat` gives for the real thing (`transports/models/openai.py` and `chat_wire.py`):

    RateLimited      HTTP 429                        errors.RateLimited, sent, refused    (chat_wire.refusal)
    ServerError      HTTP 5xx                        errors.Overloaded, sent              (chat_wire.refusal)
    Rejected         another 4xx                     errors.ModelRefused, sent, refused   (chat_wire.refusal)
    Unreachable      no connection                   errors.ModelUnreachable, not sent    (openai._foreign)
    ModelTimeout     silence                         errors.ModelTimeout, sent or not     (openai._Session.complete)
    SlowTokens       the answer dribbles             the answer, or errors.ModelTimeout, sent
    CutStream        half of the body                errors.BadReply, sent, billed        (openai._foreign)
    ModelReplyLost   no byte of the answer           errors.BadReply, sent, billed        (openai._foreign)
    MalformedJSON    body: no JSON at all            errors.BadReply, sent                (chat_wire.decode)
                     answer: its JSON is cut         the answer with half of its JSON
    WrongSchema      one constraint is broken        the answer with that value
    UnknownTool      a name near a real one          the answer with that call
    RepeatOutput     the same answer for ever        that answer, from this call on
    Refusal          the model declines              finish "refusal", the refusal as content (chat_wire._reply)
    EmptyAnswer      nothing                         content "", no calls
    OverReported     usage above the cap             the answer with that usage, billed

An error takes no decision of the drawn stream, so that the next call answers as this one would have.
"""

from __future__ import annotations

from math import isfinite
from typing import Literal, TypeAlias, get_args

from understudy.actors.errors import UsageError
from understudy.actors.testing import faults


def _tag(name: str) -> str:
    return f"model:{name}"


class Fault(faults.Fault, frozen=True, tag=_tag):
    """Base: the agent `agent` at its call number `call`. Raises `UsageError` for a number below 1 or no agent."""

    agent: str
    call: int

    def __post_init__(self) -> None:
        where = type(self).__name__
        if not self.agent:
            raise UsageError(f"{where}: agent is empty; it is the name of an agent")
        if self.call < 1:
            raise UsageError(f"{where}({self.agent!r}): call {self.call}; calls are counted from 1")
        self._check(f"{where}({self.agent!r}, call={self.call})")

    def _check(self, where: str) -> None:
        """What a kind checks besides."""


def _check_seconds(where: str, name: str, seconds: float) -> None:
    if not (isfinite(seconds) and seconds >= 0):
        raise UsageError(f"{where}: {name} {seconds}; seconds, at least 0")


class RateLimited(Fault, frozen=True, tag=_tag):
    """HTTP 429; with `retry_after` seconds, or without that header when None. Nothing is billed."""

    retry_after: float | None = None

    def _check(self, where: str) -> None:
        if self.retry_after is not None:
            _check_seconds(where, "retry_after", self.retry_after)


class ServerError(Fault, frozen=True, tag=_tag):
    """HTTP `status`, 500 to 599. What was billed is unknown to the client; nothing was."""

    status: int = 500

    def _check(self, where: str) -> None:
        if not 500 <= self.status <= 599:
            raise UsageError(f"{where}: status {self.status}; 500 to 599")


class Rejected(Fault, frozen=True, tag=_tag):
    """HTTP `status`, 400 to 499 but not 429: a bad key, a request too long. Nothing is billed; never retried."""

    status: int = 400

    def _check(self, where: str) -> None:
        if not 400 <= self.status <= 499 or self.status == 429:
            raise UsageError(f"{where}: status {self.status}; 400 to 499, and not 429, which is RateLimited")


class Unreachable(Fault, frozen=True, tag=_tag):
    """No connection: no byte left the process."""


class ModelTimeout(Fault, frozen=True, tag=_tag):
    """Silence until the call's deadline. With `sent=False` no connection came about in time. Nothing is billed."""

    sent: bool = True


class SlowTokens(Fault, frozen=True, tag=_tag):
    """The answer is complete only `seconds` later; past the call's deadline it is a timeout, and billed."""

    seconds: float = 30.0

    def _check(self, where: str) -> None:
        _check_seconds(where, "seconds", self.seconds)


class CutStream(Fault, frozen=True, tag=_tag):
    """The connection ends within the answer. Billed."""


class ModelReplyLost(Fault, frozen=True, tag=_tag):
    """The provider answered and billed, and nothing of it arrived."""


class MalformedJSON(Fault, frozen=True, tag=_tag):
    """`part` "body": the response is no JSON, as of a broken gateway; not billed. "answer": the model's JSON is cut.

    "answer" does nothing to an answer in plain words.
    """

    part: Literal["answer", "body"] = "answer"

    def _check(self, where: str) -> None:
        if self.part not in ("answer", "body"):
            raise UsageError(f"{where}: part {self.part!r}; 'answer' or 'body'")


class WrongSchema(Fault, frozen=True, tag=_tag):
    """Valid JSON that breaks its schema in exactly one place: arguments of the first call, else the output.

    `way` chooses the place and how, modulo their number; see `values.broken`. An answer in plain words becomes a call
    of the first tool; without tools the fault does nothing.
    """

    way: int = 0


class UnknownTool(Fault, frozen=True, tag=_tag):
    """A call whose name is near that of a tool on offer; `way` chooses which, modulo their number."""

    way: int = 0


class RepeatOutput(Fault, frozen=True, tag=_tag):
    """From this call on the same answer for ever. An answer that would end the run is a call of the first tool."""


class Refusal(Fault, frozen=True, tag=_tag):
    """The model declines to answer."""

    text: str = "I cannot help with that."


class EmptyAnswer(Fault, frozen=True, tag=_tag):
    """An answer without text and without calls."""


class OverReported(Fault, frozen=True, tag=_tag):
    """The provider says, and bills, `factor` times what it counted, and more than the cap in any case."""

    factor: int = 100

    def _check(self, where: str) -> None:
        if self.factor < 1:
            raise UsageError(f"{where}: factor {self.factor}; at least 1")


ModelFault: TypeAlias = (
    RateLimited
    | ServerError
    | Rejected
    | Unreachable
    | ModelTimeout
    | SlowTokens
    | CutStream
    | ModelReplyLost
    | MalformedJSON
    | WrongSchema
    | UnknownTool
    | RepeatOutput
    | Refusal
    | EmptyAnswer
    | OverReported
)
KINDS: tuple[type[Fault], ...] = get_args(ModelFault)
"""Every kind, the gentlest for a run not first: in the order of the table above."""
