"""Tools: typed functions that an agent may call, with a declared effect.

    @tool(effect="read", timeout=10)
    async def order(id: str) -> dict[str, str]:
        '''Look up one order by its number.'''

The JSON schema comes from the signature (`msgspec.defstruct`), the description from the docstring. A first
parameter annotated `Call` is ours and not the model's. A plain `def` runs in a worker thread. A tool stays
callable in unit tests.

Effects: `read` may be repeated freely; `idempotent` too, though it changes something; `keyed` gets `call.key`, the
same at each try; `verifiable` can be asked, with its `verify`, whether it happened; `irreversible` is never run
twice: if its outcome is unknown it is *in doubt* and a person settles it.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, cast, get_args, overload

import msgspec
from msgspec import Struct

from understudy.actors.agents.models import ToolSchema
from understudy.actors.agents.schema import schema_of, strict
from understudy.actors.errors import SpecError
from understudy.actors.journal.events import Effect
from understudy.actors.redaction import MARK

P = ParamSpec("P")
T = TypeVar("T")

EFFECTS: Final = cast("tuple[Effect, ...]", get_args(Effect))
RESULT_LIMIT: Final = 256 * 1024
"""Bytes of JSON that a tool may answer with; more is a failed call."""


ERROR_LIMIT: Final = 8_000
"""Characters of an error that are journalled and told to the model."""


def described(error: BaseException) -> str:
    """An error in words, cut at `ERROR_LIMIT`; never raises, though an error's own `__str__` may."""
    try:
        text = str(error)
    except Exception:
        text = "it has no words for it"
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= ERROR_LIMIT else f"{text[: ERROR_LIMIT - 1]}…"


class Call:
    """What a tool may know of its own call: `key` (stable across tries), `attempt` (from 1) and recorded steps.

    `traceparent` is the W3C header for requests it makes. `said` is its last word of `progress`. Outside a run, as in
    unit tests, it keeps steps in memory.
    """

    def __init__(
        self,
        key: str = "test",
        attempt: int = 1,
        recorded: Mapping[str, str] | None = None,
        record: Callable[[str, str], Awaitable[None]] | None = None,
        spilled: Callable[[str], Awaitable[str]] | None = None,
        traceparent: str = "",
        sealed: Callable[[Any, bytes], bytes] | None = None,
    ) -> None:
        self.key = key
        self._sealed = sealed
        self.traceparent = traceparent
        self.attempt = attempt
        self._recorded = dict(recorded or {})
        self._record = record
        self._spilled = spilled
        self.said = ""
        self._heard: Callable[[], None] | None = None

    def progress(self, said: str = "") -> None:
        """Say that the call gets on: its `idle` timeout is put off. `said` is told if it times out. From any thread."""
        self.said = said[:200]
        if self._heard is not None:
            self._heard()

    def on_progress(self, heard: Callable[[], None]) -> None:
        """Whom to tell of progress; for the runtime."""
        self._heard = heard

    # A step's result is any JSON value; it comes back as such after a crash.
    async def step(self, name: str, fn: Callable[[], Any]) -> Any:
        """Run `fn` once ever under `name` (unique in the call); after a crash, give back what it gave."""
        if name in self._recorded:
            return msgspec.json.decode(self._recorded[name])
        value = fn()
        if inspect.isawaitable(value):
            value = await value
        data = msgspec.json.encode(value)
        self._recorded[name] = data.decode()
        if self._record is not None:
            await self._record(name, (self._sealed(value, data) if self._sealed is not None else data).decode())
        return msgspec.json.decode(data)

    async def turn_back(self, live: Callable[[Any], Awaitable[tuple[Any, str]]]) -> str:
        """Turn the marks of recorded steps back into secrets; what is missing, "" for nothing. For the runtime."""
        for name, text in self._recorded.items():
            if MARK in text:
                value, missing = await live(msgspec.json.decode(text))
                if missing:
                    return missing
                self._recorded[name] = msgspec.json.encode(value).decode()
        return ""

    async def spilled(self, handle: str) -> str:
        """A result that was left out of the context window, whole. Raises `LookupError` for an unknown handle."""
        if self._spilled is None:
            raise LookupError(f"no result {handle!r}: there is no run here")
        return await self._spilled(handle)


class Tool(Generic[P, T]):
    """A function with its schema and its declared effect. Made by `@tool`."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        effect: Effect,
        timeout: float,
        retries: int,
        approve: str | None,
        polling: bool,
        name: str | None,
        idle: float | None = None,
        concurrency: int | None = None,
    ) -> None:
        self.fn = fn
        self.name = name or fn.__name__
        where = f"tool {self.name!r}"
        if effect not in EFFECTS:
            raise SpecError(f"{where}: effect {effect!r}; one of {', '.join(EFFECTS)}")
        if not timeout > 0:
            raise SpecError(f"{where}: timeout {timeout!r} seconds; more than 0")
        if retries < 0:
            raise SpecError(f"{where}: retries {retries!r}; 0 or more")
        if retries and effect in ("verifiable", "irreversible"):
            raise SpecError(f"{where}: retries need an effect that may be repeated, not {effect!r}")
        if idle is not None and not 0 < idle <= timeout:
            raise SpecError(f"{where}: idle {idle!r} seconds; more than 0, and no more than its timeout of {timeout:g}")
        if concurrency is not None and concurrency < 1:
            raise SpecError(f"{where}: concurrency {concurrency!r}; at least 1, or None for no limit")
        self.effect: Effect = effect
        self.timeout = timeout
        self.retries = retries
        self.policy = approve
        self.polling = polling
        self.is_async = inspect.iscoroutinefunction(fn)
        self.idle = idle
        self.concurrency = concurrency
        self.takes_call, self.parameters = _parameters(fn, where)
        if idle is not None and not self.takes_call:
            raise SpecError(f"{where}: idle needs a first parameter `call: Call`, to say call.progress()")
        doc = (inspect.getdoc(fn) or "").strip()
        self.schema = ToolSchema(self.name, doc, strict(schema_of(self.parameters)))
        self._decoder = msgspec.json.Decoder(self.parameters)
        self._rule: Callable[..., bool] | None = None
        self._verify: Callable[..., Awaitable[bool | None]] | None = None
        self._loop_key: Callable[..., str] | None = None
        self.__doc__ = fn.__doc__
        self.__name__ = self.name

    def __repr__(self) -> str:
        return f"<tool {self.name} ({self.effect})>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function itself, outside of any run."""
        if self.takes_call and not (args and isinstance(args[0], Call)):
            return cast("T", self.fn(Call(), *args, **kwargs))
        return cast("T", self.fn(*args, **kwargs))

    def approve_when(self, rule: Callable[P, bool]) -> Callable[P, bool]:
        """Ask for a yes only when `rule` of the arguments is true. Pure and quick: `decide` calls it."""
        if self.policy is None:
            raise SpecError(f"tool {self.name!r}: approve_when needs approve='<policy>' on the tool")
        self._rule = rule
        return rule

    def verify(self, fn: Callable[P, Awaitable[bool | None]]) -> Callable[P, Awaitable[bool | None]]:
        """How to find out whether a call with these arguments happened: True, False, or None when unknown."""
        self._verify = fn
        return fn

    def loop_key(self, fn: Callable[P, str]) -> Callable[P, str]:
        """What makes two calls the same to the loop guard, instead of equal arguments."""
        self._loop_key = fn
        return fn

    def bind(self, arguments: str) -> tuple[dict[str, Any] | None, str]:
        """(keyword arguments, "") for JSON text that fits the schema, else (None, what is wrong and where)."""
        try:
            value = self._decoder.decode(arguments.encode("utf-8", "replace") or b"{}")
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return None, str(error)
        return {name: getattr(value, name) for name in self.parameters.__struct_fields__}, ""

    def needs_yes(self, arguments: Mapping[str, Any]) -> str:
        """The approval policy that a call with these arguments falls under, "" for none."""
        if self.policy is None or (self._rule is not None and not self._rule(**arguments)):
            return ""
        return self.policy

    def key_of(self, arguments: Mapping[str, Any]) -> str:
        """The loop key: the declared one, else the arguments in canonical JSON."""
        if self._loop_key is not None:
            return self._loop_key(**arguments)
        try:
            return msgspec.json.encode(dict(arguments), order="sorted").decode()
        except (TypeError, ValueError, OverflowError, RecursionError):  # a value that decodes and does not encode
            return repr(sorted(arguments.items(), key=lambda item: item[0]))

    async def verified(self, arguments: Mapping[str, Any]) -> bool | None:
        """What `verify` says; None without one."""
        return None if self._verify is None else await self._verify(**arguments)

    @property
    def can_verify(self) -> bool:
        """Whether `verify` was given."""
        return self._verify is not None


def _parameters(fn: Callable[..., Any], where: str) -> tuple[bool, type[Struct]]:
    """Whether the first parameter is ours, and a struct of the model's."""
    scope = inspect.currentframe()
    hints = _hints(fn, where, scope)
    fields: list[Any] = []
    takes_call = False
    for number, parameter in enumerate(inspect.signature(fn).parameters.values()):
        hint = hints.get(parameter.name)
        if number == 0 and hint is Call:
            takes_call = True
        elif hint is None:
            raise SpecError(f"{where}: parameter {parameter.name!r} has no annotation")
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SpecError(f"{where}: parameter {parameter.name!r} must be usable by name")
        elif parameter.default is parameter.empty:
            fields.append((parameter.name, hint))
        else:
            fields.append((parameter.name, hint, parameter.default))
    try:
        made = msgspec.defstruct(fn.__name__, fields, kw_only=True, forbid_unknown_fields=True, frozen=True)
        schema_of(made)
    except (TypeError, NotImplementedError) as error:
        raise SpecError(f"{where}: no JSON schema for its parameters: {error}") from error
    return takes_call, made


def _hints(fn: Callable[..., Any], where: str, frame: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    while frame is not None:  # a tool declared inside a function may use that function's names
        names = {**frame.f_locals, **names} if frame.f_globals is fn.__globals__ else names
        frame = frame.f_back
    try:
        return typing.get_type_hints(fn, localns=names, include_extras=True)
    except NameError as error:
        raise SpecError(f"{where}: {error}") from error


class _Decorator(typing.Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[Call, P], T], /) -> Tool[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Tool[P, T]: ...


def tool(
    *,
    effect: Effect,
    timeout: float = 30.0,
    retries: int = 0,
    approve: str | None = None,
    polling: bool = False,
    name: str | None = None,
    idle: float | None = None,
    concurrency: int | None = None,
) -> _Decorator:
    """Declare a tool. `effect` is required (see the module).

    `timeout` is seconds for one try; `retries` further tries after an error, only for effects that may be repeated;
    `approve` names the policy under which a person must say yes first; `polling` says that the call is meant to be
    repeated while its result changes. `idle` (None: no limit) is seconds without a `call.progress()`, after which a try
    has timed out before its `timeout`. `concurrency` (None: no limit) is how many calls of it one system makes at a
    time, of all its agents. Raises `SpecError`.
    """

    def decorate(fn: Callable[..., Any]) -> Tool[..., Any]:
        return Tool(
            fn,
            effect=effect,
            timeout=timeout,
            retries=retries,
            approve=approve,
            polling=polling,
            name=name,
            idle=idle,
            concurrency=concurrency,
        )

    return cast("_Decorator", decorate)
