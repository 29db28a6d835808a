"""The state of a run, as the fold makes it: what was asked, said, done, spent, and what is still open.

A run holds sub-runs; sub-run 0 is the request itself. A *turn* is one reply of the model with the calls it asks for,
or a note that the runtime put into the conversation. Only `fold.apply` changes these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, get_args

from msgspec import Struct, field

from understudy.actors.agents.guards import TOOL, BudgetRule, LoopWatch, Step, Unit, Verdict
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.view import View
from understudy.actors.trace import Trace, trace_of

KNOWN: Final[frozenset[str]] = frozenset(get_args(Unit))
USABLE: Final = frozenset({"complete", "degraded", "partial"})
"""Statuses of a delegation whose result can be built on."""


def digest(*parts: str) -> str:
    """16 hexadecimal digits over the parts and their order."""
    pieces: list[bytes] = []
    for part in parts:
        data = part.encode("utf-8", "replace")
        pieces += (len(data).to_bytes(8, "big"), data)
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:16]


def digest_of(data: bytes) -> str:
    """`digest` of one part that is encoded already."""
    return hashlib.sha256(len(data).to_bytes(8, "big") + data).hexdigest()[:16]


EVIDENCE: Final = 256
"""Acts kept as evidence for the loop guard, newest last."""


class Evidence(list[Step]):
    """The last `EVIDENCE` acts of a sub-run, oldest first, of `total` that there ever were.

    `watch` is what a loop guard remembers of them, so that it need not read all at each step. It follows from the acts
    and the verdicts alone, is made anew when it is missing, and is no part of the state: two with equal acts are equal.
    """

    __slots__ = ("total", "watch")

    def __init__(self, acts: Iterable[Step] = ()) -> None:
        super().__init__(acts)
        self.total = len(self)
        self.watch: LoopWatch | None = None

    def __reduce__(self) -> tuple[type[Evidence], tuple[list[Step]]]:
        return Evidence, (list(self),)

    def witness(self, act: Step) -> None:
        """One more act."""
        self.append(act)
        self.total += 1
        if len(self) > EVIDENCE:
            del self[0]

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self.total, self.watch = 0, None


class Spend(Struct, gc=False):
    """What was spent. `usd` is in micro-dollars; `estimated` says that some of it is a cap, not a bill.

    `tokens` are `input_tokens` plus `output_tokens`; `tools` has the calls of tools that a budget limits by name.
    """

    steps: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    tokens: int = 0
    usd: int = 0
    alive: float = 0.0
    estimated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    tools: dict[str, int] = field(default_factory=dict[str, int])

    def within(self, budget: BudgetRule) -> bool:
        """Whether no amount is more than a budget allows. Seconds are a deadline and not looked at."""
        limits = budget.pool("", "").limits
        return all(self.amount(unit) <= limit for unit, limit in limits.items())

    def amount(self, unit: str) -> int:
        """What was spent of a unit."""
        if unit.startswith(TOOL):
            return self.tools.get(unit.removeprefix(TOOL), 0)
        found: int = getattr(self, unit, 0)
        return found

    def amounts(self) -> dict[str, int]:
        """All of it by unit."""
        return {unit: self.amount(unit) for unit in KNOWN} | {TOOL + name: count for name, count in self.tools.items()}

    def add(self, amounts: Mapping[str, int], *, estimated: bool = False) -> None:
        """Add amounts by unit."""
        for unit, amount in amounts.items():
            if unit in KNOWN:
                setattr(self, unit, getattr(self, unit) + amount)
            elif unit.startswith(TOOL):
                name = unit.removeprefix(TOOL)
                self.tools[name] = self.tools.get(name, 0) + amount
        if estimated and amounts:
            self.estimated = True


class Yes(Struct):
    """An approval as far as it has come: `pending`, `granted`, `refused` or `used`.

    `digest` and `arguments` are those of the yes; no `arguments` are those that were asked for.
    """

    id: str
    sub: int
    asked: ev.ApprovalAsked
    state: str = "pending"
    by: str = ""
    reason: str = ""
    digest: str = ""
    seq: int = 0
    arguments: str = ""


class Doubt(Struct):
    """A call in doubt; `settled` is None while nobody has said whether it happened."""

    id: str
    sub: int
    event: ev.InDoubt
    settled: bool | None = None


class Estimate(Struct, frozen=True):
    """A model call of which nobody knows what it cost: its cap counts as `spent`, in `pools`, since `at`."""

    ticket: str
    sub: int
    seq: int
    at: float
    pools: tuple[str, ...]
    spent: dict[str, int]


class CallState(Struct, gc=False):
    """One call of a turn. `outcome` is JSON when `ok`, else the error text.

    `edited` are the arguments that `editor` put in the place of the model's, "" for none.
    """

    call: ToolCall
    asked: ev.ToolAsked | None = None
    done: bool = False
    ok: bool = False
    outcome: str = ""
    kind: str = ""
    approval: str = ""
    doubt: str = ""
    recorded: dict[str, str] = field(default_factory=dict[str, str])
    seq: int = 0
    edited: str = ""
    editor: str = ""

    @property
    def arguments(self) -> str:
        """What it is made with: what the model asked for, or what the person who approved it made of that."""
        return self.edited or self.call.arguments


class Turn(Struct, gc=False):
    """One reply and its calls, or a note (`reply` is None). `checked` holds what was said of an answer, by check."""

    step: int
    reply: ModelReply | None = None
    calls: list[CallState] = field(default_factory=list[CallState])
    note: str = ""
    rejected: str = ""
    told: str = ""
    seq: int = 0
    checked: dict[str, ev.OutputChecked] = field(default_factory=dict[str, ev.OutputChecked])

    @property
    def open(self) -> bool:
        """Whether a call has no outcome yet."""
        for call in self.calls:  # noqa: SIM110  # a loop, and below: both are asked at every event
            if not call.done:
                return True
        return False


class Stood(Struct):
    """A state of the agent's machine that was left: by which event, at which step, and until when it might last."""

    seq: int
    step: int
    state: str
    until: float


class Sub(Struct, gc=False):
    """The state of one (sub-)run.

    `state` is that of the agent's machine ("" without one, and before it begins), `until` when it times out by the wall
    clock (0 for never), `expired` whether the clock has said so. `stood` are the states left, oldest first; `changed`
    is the intent of the last call that changed the world. `turns` are all that happened, `view` is what the model is
    shown of it; `left` is what the agent saw that handed a request of a session on. `lows` are the pools and units
    whose agent was told what is left, `children` counts its delegations, `concluding` says that its last answer was
    asked for. `closed` are the tools that a guard has closed, each with the last model step for which it is; "*" stands
    for all of them, for ever.
    """

    id: int
    agent: str
    type: str
    message: str
    parent: int = -1
    parent_step: int = 0
    parent_index: int = 0
    attempt: int = 0
    path: str = ""
    incarnation: int = 0
    hops: int = 0
    step: int = 0
    answered: int = 0
    turns: list[Turn] = field(default_factory=list[Turn])
    view: View = field(default_factory=View)
    left: View | None = None
    asking: ev.ModelAsked | None = None
    failures: int = 0
    switched: str = ""
    """Why the fallback model is asked, "" while the agent's own is."""
    model: str = ""
    """The model that a restart or a fork has put in the place of the agent's own, by name."""
    last_failure: ev.ModelFailed | None = None
    repairs: int = 0
    closed: dict[str, int] = field(default_factory=dict[str, int])
    evidence: Evidence = field(default_factory=Evidence)
    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    restart: Record | None = None
    rest_until: float = 0.0
    stop_verdict: Verdict | None = None
    denied: ev.BudgetDenied | None = None
    parked: ev.Parked | None = None
    temperature: float | None = None
    finished: ev.Finished | None = None
    spend: Spend = field(default_factory=Spend)
    seq: int = 0
    state: str = ""
    until: float = 0.0
    expired: bool = False
    stood: list[Stood] = field(default_factory=list[Stood])
    changed: int = 0
    lows: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    children: int = 0
    concluding: bool = False
    instructions: str | None = None
    """What a fork has put in the place of the agent's own; None for nothing."""
    crash: str = ""
    """With what its agent crashed on it, until it has taken the consequence."""
    unserved: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    """Delegations to other nodes that gave nothing and were not made good: why, by agent and arguments."""

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    def calls(self) -> Iterable[CallState]:
        """All calls, oldest first."""
        for turn in self.turns:
            yield from turn.calls

    def is_closed(self, tool: str, step: int) -> bool:
        """Whether a guard has closed a tool for a model step."""
        return "*" in self.closed or step <= self.closed.get(tool, 0)

    def turn(self, step: int) -> Turn | None:
        """The reply of a step."""
        for turn in reversed(self.turns):
            if turn.step == step and turn.reply is not None:
                return turn
        return None

    def find(self, step: int, index: int) -> CallState | None:
        """The call keyed (step, index)."""
        turn = self.turn(step)
        return turn.calls[index] if turn is not None and index < len(turn.calls) else None


class Changed(Struct, frozen=True):
    """What an agent has in place of its own since the run was forked; None and "" for nothing."""

    instructions: str | None = None
    model: str = ""


class Run(Struct, gc=False):
    """The state of a run: its sub-runs by number, and what belongs to all of them.

    `tickets` are the reservations of calls in flight, `booked` is what was spent by the pools it was charged to,
    `estimates` are the parts of it that are caps and not bills, by ticket. `before` is the window of the run of its
    `session` before it, given to a fold that is to know what the model is shown. `last_sub` is the highest number of a
    sub-run that was asked for. `changed` is what agents have in place of their own, by name.
    """

    id: str
    asked_agent: str = ""
    session: str = ""
    before: View | None = None
    subs: dict[int, Sub] = field(default_factory=dict[int, Sub])
    approvals: dict[str, Yes] = field(default_factory=dict[str, Yes])
    doubts: dict[str, Doubt] = field(default_factory=dict[str, Doubt])
    tickets: dict[str, tuple[tuple[str, ...], dict[str, int]]] = field(
        default_factory=dict[str, tuple[tuple[str, ...], dict[str, int]]]
    )
    booked: dict[tuple[str, ...], Spend] = field(default_factory=dict[tuple[str, ...], Spend])
    estimates: dict[str, Estimate] = field(default_factory=dict[str, Estimate])
    over: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    pools: tuple[str, ...] = ()
    stop: ev.StopAsked | None = None
    spend: Spend = field(default_factory=Spend)
    last_sub: int = 0
    restarts: int = 0
    fruitless: int = 0
    begun: bool = False
    """Whether an agent took it up since a process last did."""
    resumed: bool = False
    """Whether a process took it up since it last got on."""
    repairs: int = 0
    """Answers handed back, of all its sub-runs together."""
    traceparent: str = ""
    parent: str = ""
    escrow: dict[str, int] | None = None
    escrow_seconds: float | None = None
    seq: int = 0
    started_at: float = 0.0
    last_at: float = 0.0
    mono: float | None = None
    changed: dict[str, Changed] = field(default_factory=dict[str, Changed])

    @property
    def trace(self) -> Trace:
        """The trace it belongs to."""
        return trace_of(self.id, self.traceparent)

    def traced(self, sub: int) -> str:
        """The `traceparent` for what the newest event of a sub-run causes."""
        return self.trace.header(self.id, self.subs[sub].seq if sub in self.subs else 1)

    @property
    def main(self) -> Sub:
        """Sub-run 0, the request itself."""
        return self.subs[0]

    @property
    def finished(self) -> ev.Finished | None:
        """How the run ended, None while it has not."""
        return self.subs[0].finished if 0 in self.subs else None

    @property
    def resting(self) -> bool:
        """Whether nothing of it is active: every unfinished sub-run is parked."""
        for sub in self.subs.values():  # a loop: this is asked several times a step  # noqa: SIM110
            if sub.finished is None and sub.parked is None:
                return False
        return True
