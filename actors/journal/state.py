"""The state of a run, as the fold makes it: what was asked, said, done, spent, and what is still open.

A run holds sub-runs; sub-run 0 is the request itself. A *turn* is one reply of the model with the calls it asks for,
or a note that the runtime put into the conversation. Only `fold.apply` changes these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct, field

from understudy.actors.agents.guards import BudgetRule, Step, Verdict
from understudy.actors.agents.models import ModelReply, ToolCall
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.view import View


def digest(*parts: str) -> str:
    """16 hexadecimal digits over the parts and their order."""
    pieces: list[bytes] = []
    for part in parts:
        data = part.encode("utf-8", "replace")
        pieces += (len(data).to_bytes(8, "big"), data)
    return hashlib.sha256(b"".join(pieces)).hexdigest()[:16]


class Spend(Struct):
    """What was spent. `usd` is in micro-dollars; `estimated` says that some of it is a cap, not a bill."""

    steps: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    tokens: int = 0
    usd: int = 0
    alive: float = 0.0
    estimated: bool = False

    def within(self, budget: BudgetRule) -> bool:
        """Whether no amount is more than a budget allows. Seconds are a deadline and not looked at."""
        limits = budget.pool("", "").limits
        return all(getattr(self, unit, 0) <= limit for unit, limit in limits.items())

    def add(self, amounts: dict[str, int], *, estimated: bool = False) -> None:
        """Add amounts by unit."""
        for unit, amount in amounts.items():
            setattr(self, unit, getattr(self, unit) + amount)
        self.estimated = self.estimated or (estimated and bool(amounts))


class Yes(Struct):
    """An approval as far as it has come: `pending`, `granted`, `refused` or `used`."""

    id: str
    sub: int
    asked: ev.ApprovalAsked
    state: str = "pending"
    by: str = ""
    reason: str = ""
    digest: str = ""
    seq: int = 0


class Doubt(Struct):
    """A call in doubt; `settled` is None while nobody has said whether it happened."""

    id: str
    sub: int
    event: ev.InDoubt
    settled: bool | None = None


class CallState(Struct):
    """One call of a turn. `outcome` is JSON when `ok`, else the error text."""

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


class Turn(Struct):
    """One reply and its calls, or a note (`reply` is None)."""

    step: int
    reply: ModelReply | None = None
    calls: list[CallState] = field(default_factory=list[CallState])
    note: str = ""
    rejected: str = ""
    told: str = ""
    seq: int = 0

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


class Sub(Struct):
    """The state of one (sub-)run.

    `state` is that of the agent's machine ("" without one, and before it begins), `until` when it times out by the wall
    clock (0 for never), `expired` whether the clock has said so. `stood` are the states left, oldest first; `changed`
    is the intent of the last call that changed the world. `turns` are all that happened, `view` is what the model is
    shown of it; `left` is what the agent saw that handed a request of a session on.
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
    last_failure: ev.ModelFailed | None = None
    repairs: int = 0
    evidence: list[Step] = field(default_factory=list[Step])
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

    @property
    def last(self) -> Turn | None:
        """The newest turn."""
        return self.turns[-1] if self.turns else None

    def calls(self) -> Iterable[CallState]:
        """All calls, oldest first."""
        for turn in self.turns:
            yield from turn.calls

    def find(self, step: int, index: int) -> CallState | None:
        """The call keyed (step, index)."""
        for turn in reversed(self.turns):
            if turn.step == step and turn.reply is not None:
                return turn.calls[index] if index < len(turn.calls) else None
        return None


class Run(Struct):
    """The state of a run: its sub-runs by number, and what belongs to all of them.

    `before` is the window of the run of its `session` before it, given to a fold that is to know what the model is
    shown. `newest_sub` is the highest number of a sub-run that was asked for.
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
    booked: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    over: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    pools: tuple[str, ...] = ()
    stop: ev.StopAsked | None = None
    spend: Spend = field(default_factory=Spend)
    restarts: int = 0
    fruitless: int = 0
    newest_sub: int = 0
    seq: int = 0
    started_at: float = 0.0
    last_at: float = 0.0
    mono: float | None = None

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
        for sub in self.subs.values():  # noqa: SIM110
            if sub.finished is None and sub.parked is None:
                return False
        return True
