"""An agent: an inert description of instructions, model, tools and what it answers.

Nothing runs and nothing is opened here; one description may serve in many systems and loops. `run` and `stream`
need a composition root, which the front door installs (see `running`): this module imports nothing above it.

`O` is what the asker gets, `M` the message it accepts: `Prompt` unless `accepts` says otherwise. With `accepts`
and `output` both given, `output` is the agent's own answer; members of it that are routed go on to another agent
(a handoff), and `O` comes from the declared reply of `accepts`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, get_args, overload

import msgspec

from understudy.actors.agents.checks import PLACEHOLDERS, Check, Checks
from understudy.actors.agents.elsewhere import Elsewhere
from understudy.actors.agents.guards import ApprovalRule, BudgetRule, LoopGuard
from understudy.actors.agents.machine import MOVE, table_of, tools_of
from understudy.actors.agents.models import Model, ToolSchema
from understudy.actors.agents.outputs import OutputSpec
from understudy.actors.agents.results import Result
from understudy.actors.agents.running import runner
from understudy.actors.agents.schema import schema_of, strict
from understudy.actors.agents.spilled import read_spilled
from understudy.actors.agents.tools import Tool
from understudy.actors.agents.window import ContextWindow
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal.events import Record
from understudy.actors.journal.state import Sub
from understudy.actors.messages import Message, check_message, reply_type
from understudy.actors.states import StateMachine

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from understudy.actors.messages import Asks

O = TypeVar("O")  # noqa: E741  # the name that users see: output
M = TypeVar("M")
T = TypeVar("T")
X = TypeVar("X", bound="Message[Any]")

OnAbandon = Literal["stop", "park", "finish"]


# The reply is Result of the agent's output, which a module-level class cannot name.
class Prompt(Message[Any]):
    """A request in plain words: what an agent accepts when it does not say."""

    text: str


class Ctx:
    """What hooks that `decide` calls may look at. The same journal gives the same `Ctx`: no clock, no chance.

    `state` is the state of the agent's machine, "" without one.
    """

    def __init__(self, run: str, agent: str, sub: Sub, message: Message[Any]) -> None:
        self.run = run
        self.agent = agent
        self.attempt = sub.attempt
        self.step = sub.step
        self.state = sub.state
        self.message = message
        self._sub = sub

    # A tool's results are whatever JSON the tool answered.
    def results(self, tool: str) -> list[Any]:
        """The results of the successful calls of one tool or delegate, oldest first, rewound ones left out."""
        return [msgspec.json.decode(c.outcome) for c in self._sub.calls() if c.ok and c.call.name == tool]

    def calls(self, tool: str) -> list[tuple[Mapping[str, Any], Any]]:
        """(arguments, result) of the successful calls of one tool or delegate, oldest first."""
        found = [c for c in self._sub.calls() if c.ok and c.call.name == tool]
        return [(msgspec.json.decode(c.arguments), msgspec.json.decode(c.outcome)) for c in found]


def _kept(session: str | None, journal: object) -> str | None:
    """A session that somebody can go on with."""
    if session is not None and journal is None:
        raise UsageError(f"session {session!r} needs journal=: without one, nothing of it is left for the next run")
    return session


Instructions = str | Callable[[Ctx], str]


class Agent(Generic[O, M]):
    """See the module.

    `model`: whose `session` answers; `fallback`: the model that does when it fails for good, and then the result is
    `degraded`. `alternatives`: models that a guard's restart may put in its place (`Restart(model=...)`), each with a
    name of its own. `instructions`: text, or a pure function of `Ctx`. `tools`: made by `@tool`. `delegates`: agents it
    may ask as if they were tools, each named by its agent. `machine`: its states, what each offers and where it leads;
    `tools` and `delegates` are then offered in every state. `temperature` None leaves it to the provider; `max_tokens`
    (default 1024) caps each answer and is what a step reserves. `repairs` (2): how often an invalid answer is handed
    back. `model_tries` (3): calls of the model for one step. `concurrency` (1): active runs at a time. `on_abandon`:
    what happens when the asker is gone. `checkpoint`: a pure function that makes a partial output of what there is, for
    a run that is stopped. `window` (default `ContextWindow()`): how much the model is shown, what always, and what is
    left out when that is too much. `checks`: what its answers must pass beside the schema, and `placeholders` the texts
    that are no answer, see `checks`. `budget`, `loops`, `approvals`: guards of its own, beside those of its supervisor.

    Raises `SpecError` for bad values.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: Agent[str, Prompt],
            name: str,
            *,
            model: Model,
            fallback: Model | None = ...,
            alternatives: Sequence[Model] = ...,
            instructions: Instructions = ...,
            tools: Sequence[Tool[..., Any]] = ...,
            delegates: Sequence[Agent[Any, Any] | Elsewhere] = ...,
            machine: StateMachine[Any, Any] | None = ...,
            temperature: float | None = ...,
            max_tokens: int = ...,
            repairs: int = ...,
            model_tries: int = ...,
            concurrency: int = ...,
            on_abandon: OnAbandon = ...,
            checkpoint: Callable[[Ctx], str | None] | None = ...,
            checks: Sequence[Check] = ...,
            placeholders: Collection[str] = ...,
            budget: BudgetRule | None = ...,
            loops: LoopGuard | None = ...,
            approvals: ApprovalRule | None = ...,
            window: ContextWindow | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Agent[T, Prompt],
            name: str,
            *,
            model: Model,
            fallback: Model | None = ...,
            alternatives: Sequence[Model] = ...,
            output: TypeForm[T],
            instructions: Instructions = ...,
            tools: Sequence[Tool[..., Any]] = ...,
            delegates: Sequence[Agent[Any, Any] | Elsewhere] = ...,
            machine: StateMachine[Any, Any] | None = ...,
            temperature: float | None = ...,
            max_tokens: int = ...,
            repairs: int = ...,
            model_tries: int = ...,
            concurrency: int = ...,
            on_abandon: OnAbandon = ...,
            checkpoint: Callable[[Ctx], T | None] | None = ...,
            checks: Sequence[Check] = ...,
            placeholders: Collection[str] = ...,
            budget: BudgetRule | None = ...,
            loops: LoopGuard | None = ...,
            approvals: ApprovalRule | None = ...,
            window: ContextWindow | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Agent[T, X],
            name: str,
            *,
            model: Model,
            fallback: Model | None = ...,
            alternatives: Sequence[Model] = ...,
            accepts: type[Asks[X, Result[T]]],
            instructions: Instructions = ...,
            tools: Sequence[Tool[..., Any]] = ...,
            delegates: Sequence[Agent[Any, Any] | Elsewhere] = ...,
            machine: StateMachine[Any, Any] | None = ...,
            temperature: float | None = ...,
            max_tokens: int = ...,
            repairs: int = ...,
            model_tries: int = ...,
            concurrency: int = ...,
            on_abandon: OnAbandon = ...,
            checkpoint: Callable[[Ctx], T | None] | None = ...,
            checks: Sequence[Check] = ...,
            placeholders: Collection[str] = ...,
            budget: BudgetRule | None = ...,
            loops: LoopGuard | None = ...,
            approvals: ApprovalRule | None = ...,
            window: ContextWindow | None = ...,
        ) -> None: ...
        @overload
        def __init__(
            self: Agent[T, X],
            name: str,
            *,
            model: Model,
            fallback: Model | None = ...,
            alternatives: Sequence[Model] = ...,
            accepts: type[Asks[X, Result[T]]],
            output: TypeForm[Any],
            instructions: Instructions = ...,
            tools: Sequence[Tool[..., Any]] = ...,
            delegates: Sequence[Agent[Any, Any] | Elsewhere] = ...,
            machine: StateMachine[Any, Any] | None = ...,
            temperature: float | None = ...,
            max_tokens: int = ...,
            repairs: int = ...,
            model_tries: int = ...,
            concurrency: int = ...,
            on_abandon: OnAbandon = ...,
            checkpoint: Callable[[Ctx], T | None] | None = ...,
            checks: Sequence[Check] = ...,
            placeholders: Collection[str] = ...,
            budget: BudgetRule | None = ...,
            loops: LoopGuard | None = ...,
            approvals: ApprovalRule | None = ...,
            window: ContextWindow | None = ...,
        ) -> None: ...

    def __init__(  # the one body behind the overloads above
        self,
        name: str,
        *,
        model: Model,
        fallback: Model | None = None,
        alternatives: Sequence[Model] = (),
        accepts: Any = None,
        output: Any = None,
        instructions: Instructions = "",
        tools: Sequence[Tool[..., Any]] = (),
        delegates: Sequence[Agent[Any, Any] | Elsewhere] = (),
        machine: StateMachine[Any, Any] | None = None,
        temperature: float | None = None,
        max_tokens: int = 1024,
        repairs: int = 2,
        model_tries: int = 3,
        concurrency: int = 1,
        on_abandon: OnAbandon = "stop",
        checkpoint: Callable[[Ctx], Any] | None = None,
        checks: Sequence[Check] = (),
        placeholders: Collection[str] = PLACEHOLDERS,
        budget: BudgetRule | None = None,
        loops: LoopGuard | None = None,
        approvals: ApprovalRule | None = None,
        window: ContextWindow | None = None,
    ) -> None:
        where = f"agent {name!r}"
        if not name or "/" in name or name.startswith(("@", "$")):
            raise SpecError(f"{where}: a name is not empty, has no '/' and begins with neither '@' nor '$'")
        if max_tokens < 1 or repairs < 0 or model_tries < 1 or concurrency < 1:
            raise SpecError(
                f"{where}: max_tokens {max_tokens}, model_tries {model_tries} and concurrency {concurrency} are at"
                f" least 1, repairs {repairs} at least 0"
            )
        if on_abandon not in get_args(OnAbandon):
            raise SpecError(f"{where}: on_abandon {on_abandon!r}; one of {', '.join(get_args(OnAbandon))}")
        self.name = name
        self.model = model
        self.fallback = fallback
        self.alternatives = tuple(alternatives)
        self.instructions = instructions
        self.tools = tuple(tools)
        self.delegates = tuple(delegates)
        self.machine = machine
        self.table = table_of(machine, where) if machine is not None else None
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.repairs = repairs
        self.model_tries = model_tries
        self.concurrency = concurrency
        self.on_abandon: OnAbandon = on_abandon
        self.checkpoint = checkpoint
        self.budget = budget
        self.loops = loops
        self.approvals = approvals
        self.window = window if window is not None else ContextWindow()
        self._named = _by_name(model, fallback, self.alternatives, where)
        for each in self._named.values():
            self.window.limit(each, max_tokens)
        self.accepts: type[Message[Any]] = accepts if accepts is not None else Prompt
        self.checks = Checks(checks, where)
        self.result = OutputSpec(_result_form(self.accepts, output, where), where, placeholders)
        self.output = self.result if output is None else OutputSpec(output, where, placeholders)
        self._check_names(where)

    def __repr__(self) -> str:
        return f"<agent {self.name}>"

    async def run(
        self, task: str | M, *, journal: PathLike[str] | str | None = None, session: str | None = None
    ) -> Result[O]:
        """Run the agent once, in a system of its own: under an implicit supervisor with the default guards.

        `task` is a message it accepts, or text for an agent that accepts `Prompt`. Without `journal` the run is kept in
        memory: a `waiting` result then says that it cannot be answered later. With `session` it goes on with the
        context window of the session's last run in that journal. How the run ends is the result; raises `UsageError`,
        `SessionBusy` and `JournalError` only.
        """
        result: Result[O] = await runner().run(self, task, journal, _kept(session, journal))
        return result

    async def stream(
        self, task: str | M, *, journal: PathLike[str] | str | None = None, session: str | None = None
    ) -> AsyncIterator[Record | Result[O]]:
        """As `run`, giving every journalled event as it happens; the last item is the result."""
        async for item in runner().stream(self, task, journal, _kept(session, journal)):
            yield item

    def _check_names(self, where: str) -> None:
        check_message(self.accepts, where)
        seen: set[str] = set()
        for name in [t.name for t in self.all_tools] + [d.name for d in self.delegates]:
            if name in seen:
                raise SpecError(f"{where}: two tools or delegates are named {name!r}")
            if name == read_spilled.name:
                raise SpecError(f"{where}: a tool or delegate is named {name!r}, which reads back what was left out")
            if name == MOVE and self.table is not None:
                raise SpecError(f"{where}: a tool or delegate is named {name!r}, which its machine moves by")
            seen.add(name)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that it may ask: its own, its fallback, its alternatives, and the one that writes summaries."""
        summariser = self.window.summariser
        others = (self.fallback, *self.alternatives, summariser.model if summariser is not None else None)
        return (self.model, *(model for model in others if model is not None))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models that may answer for it."""
        return tuple(self._named)

    def stand_in(self, model: Model) -> None:
        """Let one model answer under the names of all, for the testing kit."""
        self.alternatives, self._named = (), dict.fromkeys(self._named, model)

    def named(self, name: str) -> Model | None:
        """The model of this name that may answer for it; None without one."""
        return self._named.get(name)

    @property
    def all_tools(self) -> tuple[Tool[..., Any], ...]:
        """Its general tools, then those of the states of its machine."""
        return (*self.tools, *(tool for tool in tools_of(self.machine) if tool not in self.tools))

    def decode(self, message: str) -> Message[Any]:
        """The request from its JSON. Raises `msgspec.MsgspecError`."""
        request: Message[Any] = msgspec.json.decode(message.encode(), type=self.accepts)
        return request

    def encode(self, message: object) -> str:
        """The JSON of a request: a message it accepts, or text for an agent that accepts `Prompt`.

        Raises `SpecError` naming what it was given.
        """
        if isinstance(message, str) and self.accepts is Prompt:
            message = Prompt(message)
        if type(message) is not self.accepts:
            raise SpecError(f"agent {self.name!r} accepts {self.accepts.__name__}, not {type(message).__name__}")
        try:
            text = msgspec.json.encode(message).decode()
            self.decode(text)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:  # UnicodeEncodeError is a ValueError
            raise SpecError(f"agent {self.name!r}: {type(message).__name__}: {error}") from error
        return text


# The result's type form: a class, a union or a generic alias.
def _result_form(accepts: Any, output: Any, where: str) -> Any:
    if accepts is Prompt:
        return str if output is None else output
    replies = get_args(reply_type(accepts))
    if not replies or not get_args(replies[0]):
        raise SpecError(f"{where}: {accepts.__name__} must be answered with Result[...], as Message[Result[Answer]]")
    return get_args(replies[0])[0]


def _by_name(model: Model, fallback: Model | None, alternatives: Sequence[Model], where: str) -> dict[str, Model]:
    """The models of an agent by name. Raises `SpecError` for an alternative that cannot be chosen by its name."""
    found = {each.name: each for each in (fallback, model) if each is not None}
    for each in alternatives:
        if each.name in found:
            raise SpecError(f"{where}: two of its models are named {each.name!r}, and alternatives are chosen by name")
        found[each.name] = each
    return found


class Delegate:
    """Another agent, as a tool: its fields are the parameters, its result comes back as the tool's.

    `far`: it is one of other nodes; then a call of it is `keyed`.
    """

    policy: str | None = None
    polling = False

    def __init__(self, to: Agent[Any, Any] | Elsewhere) -> None:
        self.far = to if isinstance(to, Elsewhere) else None
        self.effect: Literal["read", "keyed"] = "read" if self.far is None else "keyed"
        self.agent = agent = to.agent if isinstance(to, Elsewhere) else to
        self.name = agent.name
        fields = [
            (f.name, f.type) if f.required else (f.name, f.type, f.default)
            for f in msgspec.structs.fields(agent.accepts)
        ]
        self.parameters = msgspec.defstruct(
            agent.accepts.__name__, cast("Any", fields), kw_only=True, forbid_unknown_fields=True, frozen=True
        )
        text = f"Delegate to the agent {agent.name}."
        self.schema = ToolSchema(self.name, text, strict(schema_of(self.parameters)))
        self._decoder = msgspec.json.Decoder(self.parameters)

    def message(self, arguments: str) -> tuple[str, str]:
        """(JSON of the request, "") for arguments that fit, else ("", what is wrong and where)."""
        try:
            value = self._decoder.decode(arguments.encode("utf-8", "replace") or b"{}")
            fields = {name: getattr(value, name) for name in self.parameters.__struct_fields__}
            return self.agent.encode(self.agent.accepts(**fields)), ""
        except (msgspec.MsgspecError, SpecError) as error:
            return "", str(error)
