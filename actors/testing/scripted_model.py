"""A model that follows a script, for unit tests of one agent: anything unexpected fails the test.

    with ScriptedModel([call("order", id="1042"), Step(Answer("It ships tomorrow."), sees="packed")]) as model:
        result = asyncio.run(Agent("support", model=model, tools=[order], output=Answer).run("Where is order 1042?"))
        assert result.status == "complete"

A step is a reply, or a `Step` that also says what it expects: a text is said as it is, tool calls (`call(...)`, or a
tuple of them) are asked for, a `ModelError` is raised, a `ModelReply` is given as it is, and anything else is an output
and goes out as its JSON. Steps are taken in the order of the calls, whatever session they come through; agents that
run at the same time get a script each.

A call that the script did not expect is refused (`ModelRefused`, unsent, never retried), so the run ends as `failed`
with the reason; the first such `ScriptError` is kept and raised by `done()`, which also complains of unused steps.
Leaving the `with` block calls `done()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from math import isfinite
from types import TracebackType
from typing import Final, Self, TypeAlias, cast

import msgspec
from msgspec import Struct

from understudy.actors import errors
from understudy.actors.agents.models import ChatMessage, ModelReply, ModelRequest, Price, ToolCall
from understudy.actors.errors import ModelError, UsageError
from understudy.actors.testing.usage import counted

_SHOWN: Final = 200
Sees: TypeAlias = str | Callable[[ChatMessage], bool]


class ScriptError(AssertionError):
    """The conversation was not as the script says. `step` counts from 1; `expected` and `came` are in words."""

    def __init__(self, step: int, expected: str, came: str) -> None:
        super().__init__(f"script step {step}: expected {expected}, but {came}")
        self.step = step
        self.expected = expected
        self.came = came


# Arguments of a call are whatever JSON the tool takes.
def call(name: str, /, **arguments: object) -> ToolCall:
    """A call of a tool, as a reply of a script. Raises `UsageError` for arguments that are no JSON."""
    try:
        return ToolCall("", name, msgspec.json.encode(arguments).decode())
    except (TypeError, ValueError) as error:
        raise UsageError(f"call({name!r}): {error}") from error


class Step(Struct, frozen=True):
    """One step. `reply` as the module says.

    `sees`: a part of the newest message's text, or a predicate of that message. `offers`: the names of all tools that
    must be on offer, in any order. `seconds`: time before the answer, default 0; past the call's deadline it is a
    `ModelTimeout`. Raises `UsageError` for seconds that are no time.
    """

    reply: object
    sees: Sees | None = None
    offers: Sequence[str] | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if type(self.seconds) not in (int, float) or not isfinite(self.seconds) or self.seconds < 0:
            raise UsageError(f"Step({self.reply!r:.40}): seconds is {self.seconds!r}; a number, at least 0")


class ScriptedModel:
    """See the module.

    Args:
        steps: Replies, or `Step`s.
        name: The provider's name of the model.
        price: Default: unknown.

    `requests` holds what was asked, oldest first. Raises `UsageError` for a step that cannot be said as JSON, and for
    steps that are no sequence.
    """

    def __init__(self, steps: Sequence[object], *, name: str = "scripted", price: Price | None = None) -> None:
        if isinstance(steps, str) or not isinstance(steps, Sequence):
            raise UsageError(f"ScriptedModel: steps is {steps!r:.40}; it is a list of them")
        self.requests: list[ModelRequest] = []
        self._steps = [step if isinstance(step, Step) else Step(step) for step in steps]
        self._said = [_said(number, step.reply) for number, step in enumerate(self._steps, 1)]
        self._next = 0
        self._violation: ScriptError | None = None
        self._name = name
        self._price = price

    @property
    def name(self) -> str:
        """The provider's name of the model."""
        return self._name

    @property
    def price(self) -> Price | None:
        """As given."""
        return self._price

    def __repr__(self) -> str:
        return f"<ScriptedModel {self._name}: {self._next} of {len(self._steps)} steps used>"

    def done(self) -> None:
        """Raise the first `ScriptError`, if any: of a call that was not as expected, or of steps that were not used."""
        if self._violation is not None:
            raise self._violation
        if self._next < len(self._steps):
            left = len(self._steps) - self._next
            came = f"the model was called {self._next} times; {left} of {len(self._steps)} steps were not used"
            raise ScriptError(self._next + 1, f"a call to be answered with {_words(self._said[self._next])}", came)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.done()
        elif self._violation is not None and isinstance(error, Exception):
            raise self._violation from error  # what the test found came of it

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """Open it; any number of sessions follow the one script."""
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """As `models.ModelSession`: the next step."""
        self.requests.append(request)
        self._next += 1
        number = self._next
        violation = self._unlike(number, request)
        if violation is not None:
            self._next = min(self._next, len(self._steps))
            self._violation = self._violation or violation
            raise errors.ModelRefused(str(violation), sent=False)
        seconds = self._steps[number - 1].seconds
        await asyncio.sleep(min(seconds, timeout))
        if seconds >= timeout:
            raise errors.ModelTimeout(f"{self._name}: no answer within {timeout:g} s")
        said = self._said[number - 1]
        if isinstance(said, ModelError):
            raise said
        return said if said.usage is not None else counted(_numbered(said, number), request, self._name)

    def _unlike(self, number: int, request: ModelRequest) -> ScriptError | None:
        newest = request.messages[-1]
        came = f"the newest message is {newest.role}: {_short(newest.content)}"
        offered = [tool.name for tool in request.tools]
        if number > len(self._steps):
            told = f"a call came: {came}; on offer: {', '.join(offered) or 'nothing'}"
            return ScriptError(number, f"no further call (the script has {len(self._steps)} steps)", told)
        step = self._steps[number - 1]
        if isinstance(step.sees, str) and step.sees not in newest.content:
            return ScriptError(number, f"to see {step.sees!r}", came)
        if callable(step.sees) and not step.sees(newest):
            return ScriptError(number, f"a message that {_name_of(step.sees)} accepts", came)
        if step.offers is not None and sorted(step.offers) != sorted(offered):
            told = f"these are: {', '.join(sorted(offered)) or 'none'}"
            return ScriptError(number, f"these tools on offer: {', '.join(sorted(step.offers)) or 'none'}", told)
        return None


def _said(number: int, reply: object) -> ModelReply | ModelError:
    match reply:
        case ModelReply() | ModelError():
            return reply
        case str():
            return ModelReply(reply)
        case ToolCall():
            return ModelReply(calls=(reply,), finish="tool_calls")
        case tuple() | list() if reply and all(isinstance(each, ToolCall) for each in reply):
            return ModelReply(calls=tuple(cast("Sequence[ToolCall]", reply)), finish="tool_calls")
        case _:
            try:
                return ModelReply(json.dumps(msgspec.to_builtins(reply), ensure_ascii=False))
            except (TypeError, ValueError) as error:
                raise UsageError(f"script step {number}: {reply!r} cannot be said as JSON: {error}") from error


def _numbered(reply: ModelReply, step: int) -> ModelReply:
    calls = tuple(
        ToolCall(each.id or f"call_{step}_{n}", each.name, each.arguments) for n, each in enumerate(reply.calls)
    )
    return msgspec.structs.replace(reply, calls=calls)


def _words(said: ModelReply | ModelError) -> str:
    if isinstance(said, ModelError):
        return f"{type(said).__name__}: {said}"
    return ", ".join(f"{each.name}({_short(each.arguments)})" for each in said.calls) or _short(said.content)


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")


def _name_of(fn: Callable[..., object]) -> str:
    return getattr(fn, "__name__", repr(fn))
