"""What guards see and what they may answer: data, and the contracts that `supervisors.guards` implements.

A guard is asked before and after each step. It is policy that the supervisor hands to the runtime that
drives an agent; the agent never sees it. The loop guard is pure and is called by `decide`; the ledger keeps
accounts and is called by the driver, which journals its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Final, Literal, Protocol

from msgspec import Struct, field

Unit = Literal["steps", "model_calls", "tool_calls", "tokens", "input_tokens", "output_tokens", "usd"]
"""What every pool can count. `tokens` are input plus output; `usd` is in micro-dollars."""
TOOL: Final = "tool:"
"""Prefix of the units that count the calls of one tool or delegate, as in `tool:pay`."""


def said(unit: str) -> str:
    """A unit in words: `calls of pay`, `model calls`."""
    return f"calls of {unit.removeprefix(TOOL)}" if unit.startswith(TOOL) else unit.replace("_", " ")


def amount(unit: str, number: int) -> str:
    """So much of a unit in words: money in dollars, which is counted in micro-dollars."""
    return f"{number / 1_000_000:.6f}".rstrip("0").rstrip(".") if unit == "usd" else str(number)


class Step(Struct, frozen=True, gc=False):
    """One act of an agent, as evidence for the loop guard: a tool call, or talk without one.

    `action` is the tool's name ("" for talk), `arguments` its loop key (canonical JSON of the arguments unless
    the tool declares another), `outcome` a digest of what came back, `error` the error's text or "".
    `world` is True when the act changed the world: a call that is not `read` and succeeded. `unsure` says that nobody
    knows whether it did, as of a trace from elsewhere. `polling` is the tool's own word that it is meant to be
    repeated. `step` is the number of the model step it belongs to, `event` the sequence number of its intent in the
    run's stream. `text` is what came back, or what was said, "" when it is long or not known.
    `blank`: it came back with nothing. `malformed`: the call or the answer did not fit its schema. `to` names the
    worker that it instructs, "" for none.
    """

    step: int
    agent: str
    action: str
    arguments: str
    outcome: str
    error: str = ""
    world: bool = False
    polling: bool = False
    event: int = 0
    text: str = ""
    unsure: bool = False
    blank: bool = False
    malformed: bool = False
    to: str = ""


class Nudge(Struct, frozen=True, tag=True):
    """Tell the agent what repeated; it goes on. `text` replaces the default wording; `{what}` is filled in."""

    text: str = ""


class Restrict(Struct, frozen=True, tag=True):
    """Offer the agent no tool of the loop for the next `steps` model steps (default 5), and tell it which those are."""

    steps: int = 5


class Conclude(Struct, frozen=True, tag=True):
    """Offer the agent no tool any more, and tell it to answer with what it has."""


class Restart(Struct, frozen=True, tag=True):
    """End the incarnation; the supervisor starts the next one after back-off, with an altered context.

    `rewind` drops the exchanges of the loop, `note` puts one note of what failed in their place,
    `temperature` is used from then on (None keeps the agent's own), and so is `model`: the name of a model that the
    agent has, its own, its `fallback` or one of its `alternatives` ("" keeps the one it has).
    """

    temperature: float | None = 0.7
    rewind: bool = True
    note: bool = True
    model: str = ""


class Escalate(Struct, frozen=True, tag=True):
    """End the incarnation, and its supervisor with it, as past its intensity: whoever supervises that one decides.

    The request ends as `stopped`, with its checkpoint; those of the supervisor's other agents, too. Taken up again
    (`understudy resume`), it goes on without the exchanges of the loop, and with a note of what failed.
    """


class Quarantine(Struct, frozen=True, tag=True):
    """End the request as `stopped`, and take no more for the agent, from nobody, until a person releases it.

    New requests and delegations are refused; those that the agent has, or that are handed on to it, wait.
    """


class Stop(Struct, frozen=True, tag=True):
    """End the request as `stopped`; the last checkpoint is kept."""


Response = Nudge | Restrict | Conclude | Restart | Escalate | Quarantine | Stop


class Verdict(Struct, frozen=True):
    """A loop guard's finding about the newest step.

    `rule` names the rule with its threshold, as "loops.same(3)". `what` is one readable line. `key` identifies the
    evidence: two verdicts with one key are about one loop. `evidence` lists `Step.event` of the steps that prove
    it, oldest first; `since` is the number of the first model step of the loop. `rung` counts from 0. `round` is how
    many acts one more round of the loop costs, `wasted` how many of its acts brought nothing new, `tools` whose calls
    they were.
    """

    rule: str
    what: str
    key: str
    evidence: tuple[int, ...]
    since: int
    rung: int
    response: Response
    round: int = 1
    wasted: int = 0
    tools: tuple[str, ...] = ()


class LoopWatch(Protocol):
    """What a guard remembers of one sub-run, so that it need not read all of it at every step."""

    @property
    def guard(self) -> LoopGuard:
        """Whose watch it is."""
        ...

    def judge(self, steps: Sequence[Step], total: int, past: Sequence[Verdict]) -> Verdict | None:
        """The same answer as the guard's `judge`; `steps` are the last of `total` that there ever were."""
        ...


class LoopGuard(Protocol):
    """Pure: the same arguments give the same answer, and nothing else is looked at."""

    def watch(self) -> LoopWatch:
        """A watch over one sub-run, from its first step."""
        ...

    def judge(self, steps: Sequence[Step], past: Sequence[Verdict]) -> Verdict | None:
        """Judge the newest of `steps` (oldest first); `past` are this sub-run's verdicts so far.

        Returns None when there is nothing to say, and also when the newest step was judged already.
        """
        ...

    @property
    def rungs(self) -> int:
        """How many rungs the ladder has."""
        ...


class Pool(Struct, frozen=True):
    """Limits that belong to one owner (an agent or a supervisor) for one scope.

    `key` is unique in the node: `"audit@7f3a"` per run, `"audit"` per life or window. A unit without an entry in
    `limits` is unlimited. `seconds` limits the time a run is alive: waiting for a person does not count. `depth` and
    `fan_out` limit delegation. `window`: seconds after which what was spent no longer counts; None for never; `waits`
    says that a call which does not fit now waits until it does. `warn`: the share of a limit at which the agent is told
    what is left; None for never. `last_answer`: tokens that each (sub-)run sets aside for an answer at the limit.
    """

    key: str
    owner: str
    limits: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float | None = None
    depth: int | None = None
    fan_out: int | None = None
    window: float | None = None
    waits: bool = False
    warn: float | None = None
    last_answer: int | None = None


class Denied(Struct, frozen=True, tag=True):
    """The reservation does not fit and nothing in flight could free enough. Nothing was taken."""

    pool: str
    unit: str
    limit: int
    spent: int
    reserved: int
    wanted: int
    closed: bool = False

    def __str__(self) -> str:
        if self.closed:
            return f"{self.pool}: closed, since more {said(self.unit)} were billed than its cap"
        spent, reserved, wanted, limit = (
            amount(self.unit, number) for number in (self.spent, self.reserved, self.wanted, self.limit)
        )
        return f"{self.pool}: {said(self.unit)} {spent} spent + {reserved} reserved + {wanted} wanted > {limit}"


class Busy(Struct, frozen=True, tag=True):
    """The reservation does not fit now, and will: try again after a settlement, or in `after` seconds.

    `after` is infinite unless what was spent leaves a window that lets calls wait.
    """

    pool: str
    unit: str
    after: float = inf


class Breach(Struct, frozen=True):
    """A provider reported more than the cap. The cap was spent, `over` is booked apart, the pool is closed."""

    pool: str
    unit: str
    over: int


class Low(Struct, frozen=True):
    """A pool has come to the share of a limit at which agents are told."""

    pool: str
    unit: str
    limit: int
    spent: int


class Ledger(Protocol):
    """Accounts of every pool of one node. Synchronous, so check and reservation cannot be torn apart.

    spent + reserved <= limit holds for every pool after every operation. `now` is the wall clock in seconds; only pools
    with a window look at it.
    """

    def declare(self, pool: Pool) -> None:
        """Make the pool known. Declaring it again with the same limits does nothing."""
        ...

    def reserve(
        self, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], *, now: float = 0.0, keep: bool = False
    ) -> Denied | Busy | None:
        """Take `amounts` from all pools or from none. None means granted, under `ticket`.

        `keep`: it may be held for long, so nobody waits for it to be returned.
        """
        ...

    def settle(self, ticket: str, spent: Mapping[str, int], *, now: float = 0.0) -> tuple[Breach, ...]:
        """Replace the reservation by what was spent. Exactly once a ticket."""
        ...

    def book(self, pools: Sequence[str], spent: Mapping[str, int], *, at: float = 0.0, now: float = 0.0) -> object:
        """Enter spend of an earlier process, of the time `at`, without a reservation."""
        ...

    def correct(
        self, pools: Sequence[str], booked: Mapping[str, int], spent: Mapping[str, int], *, at: float = 0.0
    ) -> tuple[Breach, ...]:
        """Replace `booked`, an estimate that was entered at the time `at`, by what was really spent."""
        ...

    def close(self, key: str, unit: str, over: int, *, at: float = 0.0, now: float = 0.0) -> None:
        """Enter a breach of an earlier process: the pool admits nothing more."""
        ...

    def forget(self, key: str) -> object:
        """Drop a pool whose run has ended. Raises `UsageError` while it holds reservations."""
        ...

    def left(self, pools: Sequence[str], *, now: float = 0.0) -> dict[str, int]:
        """The least that is left in any of the pools, by unit; unlimited units are missing."""
        ...

    def low(self, pools: Sequence[str], *, now: float = 0.0) -> list[Low]:
        """The limits that are near enough for an agent to be told."""
        ...


class BudgetRule(Protocol):
    """Limits as declared on an agent or a supervisor; `supervisors.guards.budgets.Budget` is one."""

    def pool(self, owner: str, run: str) -> Pool:
        """The pool that `owner` has for `run`."""
        ...


class ApprovalRule(Protocol):
    """Who may say yes, and for how long; `supervisors.guards.approvals.Approvals` is one."""

    @property
    def expires(self) -> float:
        """Seconds a yes may be waited for, and used."""
        ...

    @property
    def by(self) -> Mapping[str, Sequence[str]]:
        """Names that may answer, by policy; a policy without an entry may be answered by anybody."""
        ...
