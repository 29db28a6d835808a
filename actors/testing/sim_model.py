"""A model for simulated worlds: what it says is drawn before the world begins, what fails is planned.

    SimModel("writer", says=(1, 0, 2), faults=[RateLimited("writer", 2, retry_after=30)])

One per agent, named for it, and the same object in every process of a world: its calls are counted over all of them.
Each call takes the next decisions of `says`: to finish, to call one tool, to call two or three, to talk. When they are
used up it takes the straight way: the simplest valid output, and for an agent with a machine the next event of the
state it is in. Alternatives of an output, and the events of a state, then take turns, so that the straight way ends
(a rotor walk leaves every loop that has a way out). Time is the running loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from understudy.actors import errors
from understudy.actors.agents.machine import MOVE
from understudy.actors.agents.models import ModelReply, ModelRequest, Price, ToolCall, ToolSchema, Usage, input_cap
from understudy.actors.errors import ModelError, UsageError
from understudy.actors.testing import model_faults as mf
from understudy.actors.testing import properties
from understudy.actors.testing.model_faults import ModelFault
from understudy.actors.testing.schemas import JSON, Schema, fits
from understudy.actors.testing.usage import counted
from understudy.actors.testing.values import Choices, broken, value

LATENCY: Final = 0.2
"""Virtual seconds that a call takes."""
MOST_KEPT: Final = 10_000
"""Calls that are kept for reports, the newest."""
MOST_WORDS: Final = 8
TALK: Final = "Let me think about it."
TEXT: Final = "Done."
"""The output of an agent that answers in plain words."""


class Said(Struct):
    """One call, for reports. Times are the loop's, in seconds; `billed` is what the provider counted, None for nothing.

    `reply` and `error` are both empty while the call is under way, and for good when it was cut.
    """

    agent: str
    call: int
    request: ModelRequest
    began: float
    faults: tuple[ModelFault, ...] = ()
    reply: ModelReply | None = None
    error: str = ""
    billed: Usage | None = None
    done: float | None = None


class SimModel:
    """See the module.

    Args:
        agent: The agent's name, by which faults are addressed.
        says: Decisions, any integers; () is the straight way.
        faults: Those of other agents are passed over.
        machine: Whether the agent has a state machine: it then moves by the tool `move`, and where nothing but time
            leads on it waits for its deadline.
        name: The provider's name of the model. Default: the agent's.
        price: Default: unknown.
        latency: Seconds of each call. Default 0.2.

    `said` holds the newest calls, `calls` their number, `fired` the faults that took effect, each once.
    """

    def __init__(
        self,
        agent: str,
        *,
        says: Iterable[int] = (),
        faults: Iterable[ModelFault] = (),
        machine: bool = False,
        name: str = "",
        price: Price | None = None,
        latency: float = LATENCY,
    ) -> None:
        if not latency >= 0:
            raise UsageError(f"SimModel({agent!r}): latency {latency}; seconds, at least 0")
        self.agent = agent
        self.calls = 0
        self.said: deque[Said] = deque(maxlen=MOST_KEPT)
        self.fired: list[ModelFault] = []
        self._name = name or agent
        self._price = price
        self._latency = latency
        self._machine = machine
        self._choices = Choices(says)
        self._faults = [fault for fault in faults if fault.agent == agent]
        self._turns: Counter[str] = Counter()
        self._repeated: ModelReply | None = None

    @property
    def name(self) -> str:
        """The provider's name of the model."""
        return self._name

    @property
    def price(self) -> Price | None:
        """As given."""
        return self._price

    def __repr__(self) -> str:
        return f"SimModel({self.agent!r})"

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[SimSession]:
        """Open it. A call after its end is refused as unreachable, unsent, as that of a closed client."""
        session = SimSession(self)
        try:
            yield session
        finally:
            session.closed = True

    async def answer(self, request: ModelRequest, timeout: float) -> ModelReply:
        """Count the call and answer it, or raise the `ModelError` that is planned for it."""
        self.calls += 1
        loop = asyncio.get_running_loop()
        due = tuple(fault for fault in self._faults if fault.call == self.calls)
        said = Said(self.agent, self.calls, request, loop.time())
        self.said.append(said)
        try:
            said.reply = await self._answer(request, timeout, due, said)
        except ModelError as error:
            said.error = f"{type(error).__name__}: {error}"
            properties.note("model", f"#{said.call} {type(error).__name__}")
            raise
        finally:
            said.done = loop.time()
        properties.note("model", f"#{said.call} {_told(said.reply)}")
        return said.reply

    async def _answer(self, request: ModelRequest, timeout: float, due: Sequence[ModelFault], said: Said) -> ModelReply:
        for fault in due:
            if _unanswered(fault):
                self._fire(fault, said)
                await self._pass(timeout if isinstance(fault, mf.ModelTimeout) else self._latency, timeout, fault)
                raise self._error(fault, timeout)
        slow = [fault for fault in due if isinstance(fault, mf.SlowTokens)]
        lost = next((fault for fault in due if isinstance(fault, mf.CutStream | mf.ModelReplyLost)), None)
        seconds = self._latency + sum(fault.seconds for fault in slow)
        reply = self._reply(request, due, said, arrives=lost is None and seconds < timeout)
        if reply is None:  # only time leads on
            await self._pass(timeout, timeout)
            raise self._late(timeout)
        said.billed = reply.usage
        for fault in slow:
            self._fire(fault, said)
        await self._pass(seconds, timeout)
        if lost is not None:
            self._fire(lost, said)
            raise self._error(lost, timeout)
        return reply

    def _fire(self, fault: ModelFault, said: Said) -> None:
        said.faults = (*said.faults, fault)
        if fault not in self.fired:
            self.fired.append(fault)
            properties.came_true(fault)

    async def _pass(self, seconds: float, timeout: float, fault: ModelFault | None = None) -> None:
        """Let time pass. Raises `ModelTimeout` at the call's deadline."""
        await asyncio.sleep(min(seconds, timeout))
        if seconds >= timeout and not isinstance(fault, mf.ModelTimeout):
            raise self._late(timeout)

    def _late(self, timeout: float, *, sent: bool = True) -> ModelError:
        return errors.ModelTimeout(f"{self._name}: no answer within {timeout:g} s", sent=sent)

    def _error(self, fault: ModelFault, timeout: float) -> ModelError:
        """As `OpenAIChat` raises it; see the table in `model_faults`."""
        match fault:
            case mf.RateLimited():
                return errors.RateLimited(f"{self._name}: HTTP 429: rate limit reached", retry_after=fault.retry_after)
            case mf.ServerError():
                return errors.Overloaded(f"{self._name}: HTTP {fault.status}: the server had an error")
            case mf.Rejected():
                return errors.ModelRefused(f"{self._name}: HTTP {fault.status}: bad request")
            case mf.Unreachable():
                return errors.ModelUnreachable(f"{self._name}: no connection: refused", sent=False)
            case mf.ModelTimeout():
                return self._late(timeout, sent=fault.sent)
            case mf.MalformedJSON():
                return errors.BadReply(f"{self._name}: not JSON: <html>Bad gateway</html>")
            case _:
                return errors.BadReply(f"{self._name}: the answer was cut: the connection was closed")

    # -- what it says --------------------------------------------------------------------------------------

    def _reply(
        self, request: ModelRequest, due: Sequence[ModelFault], said: Said, *, arrives: bool
    ) -> ModelReply | None:
        """The answer as the provider counted it; None where the model can only wait.

        One that does not arrive takes no decision and no turn, and has no fault of its own.
        """
        taken, turns = self._choices.taken, self._turns.copy()
        raw = self._repeated if self._repeated is not None else self._drawn(request)
        if not arrives:
            self._choices.taken, self._turns = taken, turns
            return None if raw is None else counted(_numbered(raw, said.call), request, self._name)
        for fault in due:
            if (twisted := self._twisted(raw, fault, request)) is not None:
                raw = twisted
                self._fire(fault, said)
        if raw is None:
            return None
        reply = counted(_numbered(raw, said.call), request, self._name)
        for fault in due:
            if isinstance(fault, mf.OverReported):
                reply = msgspec.structs.replace(reply, usage=_over(reply, request, fault.factor))
                self._fire(fault, said)
        return reply

    def _drawn(self, request: ModelRequest) -> ModelReply | None:
        """The next answer of the stream."""
        ways = ["finish", "call", "calls", "talk"] if request.tools else ["finish", "talk"]
        match self._choices.among(ways):
            case "finish":
                return self._finish(request)
            case "call":
                return self._calling(request, 1)
            case "calls":
                return self._calling(request, 2 + self._choices.next(2))
            case _:
                return ModelReply(TALK)

    def _finish(self, request: ModelRequest) -> ModelReply | None:
        if request.output_schema is not None:
            made = value(request.output_schema, self._choices, words=_words(request), turn=self._turn("output"))
            return ModelReply(json.dumps(made, ensure_ascii=False))
        if not self._machine:
            return ModelReply(TEXT)
        move = next((tool for tool in request.tools if tool.name == MOVE), None)
        return None if move is None else _asking(ToolCall("", MOVE, self._event(move)))

    def _turn(self, what: str) -> int:
        self._turns[what] += 1
        return self._turns[what] - 1

    def _event(self, move: ToolSchema) -> str:
        """The arguments of a move: the events of a state take turns. Its description names the state."""
        events = _events(move)
        chosen = events[(self._choices.next(len(events)) + self._turn(move.description)) % len(events)]
        return json.dumps({"event": chosen})

    def _calling(self, request: ModelRequest, count: int) -> ModelReply:
        calls = []
        for _ in range(count):
            tool = self._choices.among(request.tools)
            calls.append(_call(tool, self._choices, _words(request)))
        return _asking(*calls)

    def _kept_up(self, raw: ModelReply | None, request: ModelRequest) -> ModelReply:
        if raw is not None and (raw.calls or not request.tools):
            return raw
        return _asking(_call(request.tools[0], Choices(), ())) if request.tools else ModelReply(TALK)

    def _twisted(self, raw: ModelReply | None, fault: ModelFault, request: ModelRequest) -> ModelReply | None:
        """The answer with a fault of its own in it; None for no change."""
        match fault:
            case mf.RepeatOutput():
                self._repeated = self._repeated or self._kept_up(raw, request)
                return self._repeated
            case mf.WrongSchema():
                return _wrong(raw, fault.way, request)
            case mf.UnknownTool():
                return _near_miss(raw, fault.way, request)
            case mf.MalformedJSON(part="answer"):
                return _half(raw, request)
            case mf.Refusal():
                return ModelReply(fault.text, finish="refusal")
            case mf.EmptyAnswer():
                return ModelReply()
            case _:
                return None


def _told(reply: ModelReply) -> str:
    """A reply in a few words, for the trace."""
    calls = ", ".join(f"{each.name}({each.arguments})" for each in reply.calls)
    return f"calls {calls}" if calls else f"says {reply.content!r:.60}"


def _unanswered(fault: ModelFault) -> bool:
    """Whether the provider gave no answer, so that nothing was decided."""
    kinds = mf.RateLimited | mf.ServerError | mf.Rejected | mf.Unreachable | mf.ModelTimeout
    return isinstance(fault, kinds) or (isinstance(fault, mf.MalformedJSON) and fault.part == "body")


class SimSession:
    """One session of a `SimModel`."""

    def __init__(self, model: SimModel) -> None:
        self._model = model
        self.closed = False

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """As `models.ModelSession`."""
        if self.closed:
            raise errors.ModelUnreachable(f"{self._model.name}: the session is closed", sent=False)
        return await self._model.answer(request, timeout)


def _asking(*calls: ToolCall) -> ModelReply:
    return ModelReply(calls=calls, finish="tool_calls")


def _call(tool: ToolSchema, choices: Choices, words: Sequence[str]) -> ToolCall:
    arguments = value(tool.parameters, choices, words=words)
    return ToolCall("", tool.name, json.dumps(arguments, ensure_ascii=False))


def _numbered(reply: ModelReply, call: int) -> ModelReply:
    calls = tuple(ToolCall(f"call_{call}_{n}", each.name, each.arguments) for n, each in enumerate(reply.calls))
    return msgspec.structs.replace(reply, calls=calls)


def _words(request: ModelRequest) -> list[str]:
    """Words of the newest message that a model may copy: numbers first."""
    found = dict.fromkeys(re.findall(r"[\w@.-]*\w", request.messages[-1].content[:2_000]))
    return sorted(found, key=lambda word: not any(char.isdigit() for char in word))[:MOST_WORDS]


def _events(move: ToolSchema) -> list[str]:
    parameters = msgspec.convert(move.parameters, _MoveParameters)
    return parameters.properties.event.enum


class _Enum(Struct):
    enum: list[str]


class _MoveProperties(Struct):
    event: _Enum


class _MoveParameters(Struct):
    properties: _MoveProperties


def _over(reply: ModelReply, request: ModelRequest, factor: int) -> Usage:
    usage = reply.usage or Usage(0, 0)
    return Usage(
        max(usage.input_tokens * factor, input_cap(request) + 1),
        max(usage.output_tokens * factor, request.max_tokens + 1),
    )


def _wrong(raw: ModelReply | None, way: int, request: ModelRequest) -> ModelReply | None:
    """One constraint of a call's arguments, else of the output, is broken."""
    raw = raw if raw is not None else ModelReply(TALK)
    by_name = {tool.name: tool for tool in request.tools}
    if not raw.calls and request.output_schema is not None:
        try:
            bad, _ = broken(request.output_schema, _output(raw.content, request.output_schema), Choices((way,)))
        except UsageError:
            return None
        return ModelReply(json.dumps(bad, ensure_ascii=False))
    calls = list(raw.calls) or [_call(tool, Choices(), ()) for tool in request.tools[:1]]
    if not calls or calls[0].name not in by_name:
        return None
    try:
        bad, _ = broken(by_name[calls[0].name].parameters, json.loads(calls[0].arguments), Choices((way,)))
    except (UsageError, ValueError):
        return None
    calls[0] = ToolCall("", calls[0].name, json.dumps(bad, ensure_ascii=False))
    return msgspec.structs.replace(_asking(*calls), content=raw.content if raw.calls else "")


def _output(content: str, schema: Schema) -> JSON:
    """The output that an answer holds; the simplest for one that holds none, such as talk."""
    try:
        made: JSON = json.loads(content)
    except ValueError:
        return value(schema, Choices())
    return made if fits(schema, made) else value(schema, Choices())


def near_misses(names: Sequence[str]) -> list[str]:
    """Names that no tool has, each close to one that some has; what a model makes up when there is none."""
    made = [
        near
        for name in names
        for near in (name[:-1], f"{name}s", f"get_{name}", name.replace("_", ""), name.upper(), name[::-1])
    ]
    return [near for near in dict.fromkeys(made) if near and near not in names] or ["search"]


def _near_miss(raw: ModelReply | None, way: int, request: ModelRequest) -> ModelReply:
    nears = near_misses([tool.name for tool in request.tools])
    calls = list(raw.calls) if raw is not None else []
    calls[:1] = [ToolCall("", nears[way % len(nears)], calls[0].arguments if calls else "{}")]
    return _asking(*calls)


def _half(raw: ModelReply | None, request: ModelRequest) -> ModelReply | None:
    """The JSON of the first call, else of the output, cut in the middle."""
    if raw is None or not (raw.calls or request.output_schema is not None):
        return None
    if not raw.calls:
        return msgspec.structs.replace(raw, content=_cut_open(raw.content))
    first = raw.calls[0]
    return msgspec.structs.replace(raw, calls=(ToolCall("", first.name, _cut_open(first.arguments)), *raw.calls[1:]))


def _cut_open(text: str) -> str:
    half = text[: max(1, len(text) // 2)]
    try:
        json.loads(half)
    except ValueError:
        return half
    return "{" + text  # a number, or another value of which a part is a whole
