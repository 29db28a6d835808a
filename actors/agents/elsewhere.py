"""Delegating to an agent of another node: the request travels with an escrow, and comes back with what was spent.

The escrow is reserved here before anything is sent, in every pool that a delegation within the node would be charged
to; the run there cannot spend more (it is a pool of that run), and what it has spent takes the escrow's place when the
result is here. The request has a key, from which the name of the run there is made: asked again, after a lost
connection or a crash of either node, it is the same run. While its node is not connected it is waited for, `patience`
seconds; then the call has failed, and the whole escrow counts as spent, as an estimate that can be corrected.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, field

from understudy.actors.agents.guards import BudgetRule
from understudy.actors.errors import ActorStopped, AskError, AskTimeout, MailboxFull, SpecError
from understudy.actors.journal import events as ev
from understudy.actors.messages import Message
from understudy.actors.refs import Ref

if TYPE_CHECKING:
    from understudy.actors.agents.agent import Agent, Delegate
    from understudy.actors.agents.delegating import Delegating

PATIENCE: Final = 10.0
LOOK_SECONDS: Final = 0.05
"""How often it is looked whether a node is connected again."""

STOP_SECONDS: Final = 0.25
"""How often it is looked whether the run is to stop, while a request is at another node."""

Far = Callable[[str], Ref[Any] | None]
"""Finds the address "node/path"; None when no such node is known."""


class Elsewhere:
    """An agent of other nodes, as a delegate: `delegates=[Elsewhere(inspector, "w1/desk/inspector", escrow=...)]`.

    `agent`: its description, as there (name, `accepts` and output count). `at`: addresses "node/path"; the next one
    whose node is connected is taken in turn. `escrow`: a budget, the most that one request may spend there; required.
    `patience`: seconds that a node which is not connected is waited for. Raises `SpecError`.
    """

    def __init__(self, agent: Agent[Any, Any], *at: str, escrow: BudgetRule, patience: float = PATIENCE) -> None:
        where = f"Elsewhere({agent.name!r})"
        if not at or not all(node and path for node, _, path in (each.partition("/") for each in at)):
            raise SpecError(f"{where}: at={at!r}; addresses as 'node/path'")
        pool = escrow.pool("escrow", "")
        if not pool.limits:
            raise SpecError(f"{where}: the escrow limits nothing that is counted; give steps, tokens or usd")
        if not 0 <= patience < float("inf"):
            raise SpecError(f"{where}: patience {patience!r}: seconds, 0 or more")
        self.agent = agent
        self.name = agent.name
        self.at = at
        self.patience = patience
        self.limits = dict(pool.limits)
        self.seconds = pool.seconds
        self._turn = 0

    def choose(self, find: Far) -> str:
        """Where the next request goes: the next in turn whose node is connected, else simply the next."""
        places = [self.at[(self._turn + n) % len(self.at)] for n in range(len(self.at))]
        self._turn = (self._turn + 1) % len(self.at)
        return next((place for place in places if is_up(find, place)), places[0])


def is_up(find: Far, place: str) -> bool:
    """Whether the node of an address is connected."""
    ref = find(place)
    return ref is not None and ref.cell().state == "running"


class Escrow(Struct, frozen=True):
    """The most that a run may spend for its asker at another node: amounts by unit, and seconds."""

    limits: dict[str, int]
    seconds: float | None = None


class DelegatedResult(Struct, frozen=True):
    """How the run `run` there stands: `output` is JSON, `spent` by unit."""

    run: str
    status: str
    output: str
    reason: str
    spent: dict[str, int]


class Delegated(Message[DelegatedResult], frozen=True, tag="understudy.Delegated"):
    """A request for an agent of another node: `message` is its JSON, `parent` the place of the call ("a/7f3a:58")."""

    mutable = True
    key: str
    parent: str
    message: str
    escrow: Escrow
    traceparent: str = ""


class Undelegate(Message[None], frozen=True, tag="understudy.Undelegate"):
    """Nobody waits for the run of this key any more."""

    key: str


def run_of(key: str) -> str:
    """The name of the run that serves a key: no two have one, and none that was drawn has it."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


class Spent(Struct):
    """What came of a request: the outcome, and the part of the escrow that is spent."""

    result: str = ""
    error: str = ""
    kind: str = ""
    spent: dict[str, int] = field(default_factory=dict[str, int])
    estimated: bool = False


async def ask_elsewhere(acts: Delegating, act: Delegate, far: Elsewhere, event: ev.ToolAsked) -> Spent:
    """Ask the other node, as often as it takes within the time there is."""
    find = acts.far
    message, error = act.message(event.arguments)
    if error:
        return Spent(error=error, kind="arguments")
    place = far.choose(find)
    seconds = acts.seconds_left() if far.seconds is None else min(acts.seconds_left(), far.seconds)
    until = acts.now() + seconds
    escrow = Escrow(far.limits, far.seconds)
    request = Delegated(f"{acts.node}:{event.key}", acts.place_of(event), message, escrow, acts.traceparent_of(event))
    lost = ""
    gone_since: float | None = None
    while (left := until - acts.now()) > 0:
        ref = find(place)
        if ref is not None and is_up(find, place):
            gone_since = None
            try:
                told = await _ask(acts, ref, request, min(left, 3_600.0))
            except asyncio.CancelledError:
                if not acts.resting:
                    ref.tell(Undelegate(request.key))
                raise
            except ActorStopped as stopped:
                lost = str(stopped)
                if stopped.exit.kind != "no-connection":
                    return Spent(error=lost, kind="elsewhere")
            except (MailboxFull, AskTimeout) as busy:
                lost = str(busy)
            except AskError as refused:
                return Spent(error=str(refused), kind="elsewhere")
            else:
                return _spent(told, place, far)
        else:
            gone_since = acts.now() if gone_since is None else gone_since
            if acts.now() - gone_since >= far.patience:
                break
        await asyncio.sleep(min(LOOK_SECONDS, max(0.0, left)))
    why = lost or "its node is not connected"
    text = f"{place}: {why}; what it did is not known, and its escrow counts as spent"
    return Spent(error=text, kind="no-connection", spent=dict(far.limits), estimated=True)


async def _ask(acts: Delegating, ref: Ref[Any], request: Delegated, seconds: float) -> DelegatedResult:
    """Wait for the reply; a stop that is asked for meanwhile is passed on, once, and the reply waited for."""
    asking: asyncio.Task[DelegatedResult] = asyncio.ensure_future(ref.ask(request, timeout=seconds))
    passed_on = False
    try:
        while not (await asyncio.wait([asking], timeout=STOP_SECONDS))[0]:
            if acts.to_stop and not passed_on:
                passed_on = True
                ref.tell(Undelegate(request.key))
        return asking.result()
    finally:
        asking.cancel()


def _spent(told: DelegatedResult, place: str, far: Elsewhere) -> Spent:
    spent = {unit: min(told.spent.get(unit, 0), limit) for unit, limit in far.limits.items()}
    reason = told.reason
    if told.status == "waiting":
        reason = f"{place} run {told.run}: {reason}"
    answer = {"status": told.status, "output": msgspec.Raw(told.output.encode() or b"null"), "reason": reason}
    return Spent(result=msgspec.json.encode(answer).decode(), spent=spent, estimated=told.status == "waiting")
