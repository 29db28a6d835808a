"""Every guard of an agent, and what it did in a run: `understudy guards`. Pure.

A guard is `off` when it cannot fire as it is set, and says why: it was taken away, or it has nothing to go by. Else it
is `armed` until an event of the run shows that it fired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, cast

from msgspec import Struct

from understudy.actors.agents.decide import RUN_REPAIRS
from understudy.actors.agents.machine import MOVE
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.supervisors.guards.budgets import Budget, Window
from understudy.supervisors.guards.combining import LoopRule
from understudy.supervisors.guards.tried import makes_room

Kind = Literal["loops", "budget", "window", "answers", "tool", "approval", "machine", "handing on", "model"]
LATE: Final = frozenset({"timeout", "busy", "too_large"})
"""Kinds of a tool's error that its own limits make."""
_Fires = Callable[[Record], bool]


class Armed(Struct, frozen=True):
    """One guard of one agent, and what it did in a run: how often it fired, and at which event last (0 for never).

    `off` says why it cannot fire, "" when it can.
    """

    agent: str
    kind: Kind
    guard: str
    fired: int = 0
    last: int = 0
    off: str = ""

    @property
    def state(self) -> Literal["armed", "fired", "off"]:
        """Whether it fired, or can."""
        return "fired" if self.fired else "off" if self.off else "armed"


def armed(policies: Mapping[str, Policy], records: Sequence[Record]) -> list[Armed]:
    """Every guard of the configured agents, in their order, with what it did in the run of `records`.

    A verdict of a rule that is not configured any more, and a pool that no agent has, are left out.
    """
    seen = _Seen(records)
    return [row for name, policy in policies.items() for row in _Lister(name, policy, seen).rows()]


class _Seen:
    """The events of a run by the agent that they belong to; a sub-run's agent is the one it was handed to last."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = list(records)
        self.asked: dict[tuple[int, int, int], str] = {}
        self._agents: dict[int, str] = {}
        self._of: dict[str, list[Record]] = {}
        for record in self.records:
            self._take(record)

    def _take(self, record: Record) -> None:
        match record.event:
            case ev.RunStarted() | ev.SubStarted():
                self._agents[record.sub] = record.event.agent
            case ev.ToolAsked(step=step, index=index, name=name):
                self.asked[record.sub, step, index] = name
            case _:
                pass
        self._of.setdefault(self._agents.get(record.sub, ""), []).append(record)
        if isinstance(record.event, ev.HandedOff):
            self._agents[record.sub] = record.event.to

    def of(self, agent: str) -> list[Record]:
        return self._of.get(agent, [])

    def tool(self, record: Record) -> str:
        """The tool whose call an event closed."""
        event = record.event
        found = self.asked.get((record.sub, event.step, event.index)) if isinstance(event, ev.ToolFailed) else None
        return found or ""


class _Lister:
    def __init__(self, name: str, policy: Policy, seen: _Seen) -> None:
        self._name = name
        self._policy = policy
        self._seen = seen

    def rows(self) -> Iterator[Armed]:
        """Its guards, kind by kind."""
        yield from self._loops()
        yield from self._budgets()
        yield from self._window()
        yield from self._answers()
        yield from self._tools()
        yield from self._machine()
        yield from self._model()

    def _row(self, kind: Kind, guard: str, fires: _Fires, *, off: str = "", whole: bool = False) -> Armed:
        """A guard with the events that `fires` is true of: those of the agent, or with `whole` of the whole run."""
        records = self._seen.records if whole else self._seen.of(self._name)
        fired = [record.seq for record in records if fires(record)]
        return Armed(self._name, kind, guard, len(fired), max(fired, default=0), off)

    def _loops(self) -> Iterator[Armed]:
        loops = self._policy.loops
        rule = getattr(loops, "rule", None)
        if not isinstance(rule, LoopRule):  # none, or a guard of the user's own, whose rules nobody here knows
            guard, off = (type(loops).__name__, "") if loops is not None else ("none", "loops=None")
            yield self._row("loops", guard, lambda record: isinstance(record.event, ev.Judged), off=off)
            return
        for part in rule.parts():
            yield self._row("loops", str(part), _judged(part.name))

    def _budgets(self) -> Iterator[Armed]:
        if not self._policy.budgets:
            yield self._row("budget", "none", _never, off="budget=None")
        for owner, budget in self._policy.budgets:
            told, off = _told(budget), ""
            pool = budget.pool(owner, "")
            if not pool.limits and pool.seconds is None and pool.depth is None and pool.fan_out is None:
                off = "it limits nothing"
            yield self._row("budget", f"{owner}: {told}", _denied(owner), off=off, whole=True)

    def _window(self) -> Iterator[Armed]:
        limit, rules = self._policy.limit, self._policy.window.rules
        names = ", ".join(type(rule).__name__ for rule in rules) or "no rules"
        if limit is None:
            yield self._row(
                "window", names, _never, off="nobody says how much the model takes: tokens=, or its context"
            )
            return
        idle = ", ".join(type(rule).__name__ for rule in rules if not makes_room(rule, limit))
        off = f"{idle} makes no room in a full window" if idle else ""
        yield self._row("window", f"{limit} tokens: {names}", _windowed, off=off)

    def _answers(self) -> Iterator[Armed]:
        agent = self._policy.agent
        checks = [*agent.checks.pure, *agent.checks.looks]
        told = f"{agent.repairs} repairs, {RUN_REPAIRS} a run" + (f"; checks {', '.join(checks)}" if checks else "")
        off = "" if agent.output.accept("")[1] else "an empty answer passes"
        yield self._row("answers", told, _is(ev.OutputRejected), off=off)

    def _tools(self) -> Iterator[Armed]:
        for tool in self._policy.agent.all_tools:
            yield self._row("tool", f"{tool.name}: {_times(tool)}", self._late(tool.name))
            if tool.policy is not None:
                who = ", ".join(self._policy.who(tool.policy)) or "anybody"
                yield self._row("approval", f"{tool.name}: {tool.policy} ({who})", _asked(tool.name))

    def _late(self, name: str) -> _Fires:
        def fires(record: Record) -> bool:
            event = record.event
            return isinstance(event, ev.ToolFailed) and event.kind in LATE and self._seen.tool(record) == name

        return fires

    def _machine(self) -> Iterator[Armed]:
        table = self._policy.table
        if table is not None:
            timed = [f"{row.state} {row.seconds:g} s" for row in table.rows.values() if row.seconds is not None]
            states = f"{len(table.rows)} states" + (f", {', '.join(timed)}" if timed else "")
            yield self._row("machine", states, _illegal)
        if self._policy.routes:
            yield self._row("handing on", f"{self._policy.hops} times", _handed_too_often)

    def _model(self) -> Iterator[Armed]:
        agent = self._policy.agent
        fallback = f", then {agent.fallback.name}" if agent.fallback is not None else ""
        yield self._row("model", f"{agent.model_tries} tries{fallback}", _model_failed)


def _is(kind: type[ev.Event]) -> _Fires:
    return lambda record: isinstance(record.event, kind)


def _never(record: Record) -> bool:
    return False


def _judged(rule: str) -> _Fires:
    return lambda record: isinstance(record.event, ev.Judged) and record.event.verdict.rule == rule


def _denied(owner: str) -> _Fires:
    """A refused reservation, a bill above the cap, or a refused delegation."""

    def fires(record: Record) -> bool:
        match record.event:
            case ev.BudgetDenied(pool=pool) | ev.BudgetBreached(pool=pool):
                return pool.partition("@")[0] == owner
            case ev.ToolFailed(kind="budget", error=error):
                return error.startswith((f"refused: budget {owner}@", f"refused: budget {owner}:"))
            case _:
                return False

    return fires


def _windowed(record: Record) -> bool:
    event = record.event
    return isinstance(event, ev.Compacted) or (isinstance(event, ev.Finished) and event.reason.startswith("context w"))


def _asked(name: str) -> _Fires:
    return lambda record: isinstance(record.event, ev.ApprovalAsked) and record.event.name == name


def _illegal(record: Record) -> bool:
    """A state that timed out, a wrong move, or a tool that another state has."""
    match record.event:
        case ev.StateTimedOut():
            return True
        case ev.ToolRejected(name=name, error=error):
            return name == MOVE or "is not offered in state" in error
        case _:
            return False


def _handed_too_often(record: Record) -> bool:
    return isinstance(record.event, ev.Finished) and record.event.reason.startswith("handed on ")


def _model_failed(record: Record) -> bool:
    return isinstance(record.event, ev.ModelFailed) and record.event.kind != "interrupted"


def _times(tool: Tool[..., object]) -> str:
    """The limits of a tool in words."""
    idle = f", idle {tool.idle:g} s" if tool.idle is not None else ""
    places = f", {tool.concurrency} at a time" if tool.concurrency is not None else ""
    return f"{tool.timeout:g} s{idle}{places}"


def _told(budget: object) -> str:
    """The limits of a budget in words."""
    if not isinstance(budget, Budget):
        return type(budget).__name__
    limits = [
        (unit, cast("object", getattr(budget, unit)))
        for unit in budget.__struct_fields__
        if unit not in ("per", "warn", "tools")
    ]
    limits += [(f"calls of {name}", limit) for name, limit in budget.tools.items()]
    told = ", ".join(f"{unit} {limit}" for unit, limit in limits if limit is not None) or "no limits"
    if isinstance(budget.per, Window):
        return f"{told} per {budget.per.seconds:g} s"
    return told if budget.per == "run" else f"{told} per life"
