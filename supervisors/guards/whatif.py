"""What other guards would have made of a recorded run: the first thing they would have decided otherwise, and what
the run spent after it. Pure.

The run is folded as it was recorded, and at each place where a guard is asked, the other guards are asked instead:
the loop guard before a model call, a ledger of its own for each reservation, approvals before each call of a tool. At
the first answer that is not the recorded one it ends, for nobody knows how the run would have gone on.

Pools per life or window count this run alone. What other (sub-)runs of it have set aside at that moment for a last
answer is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from understudy.actors.agents.chains import Chain, chain_of, cost, no_delegation
from understudy.actors.agents.concluding import last_tokens
from understudy.actors.agents.context import model_of
from understudy.actors.agents.decide import denied_text, judge
from understudy.actors.agents.guards import (
    TOOL,
    Busy,
    Denied,
    Escalate,
    Pool,
    Quarantine,
    Response,
    Stop,
    Verdict,
)
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import Tool, described
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.differences import since
from understudy.actors.journal.fold import apply
from understudy.actors.journal.replay import describe, describe_event
from understudy.actors.journal.spends import is_own
from understudy.actors.journal.state import Run, Spend, Sub
from understudy.supervisors.guards.accounts import Accounts

_JUDGED_BEFORE: Final = (ev.ModelAsked, ev.Judged, ev.Compacted, ev.ModelSwitched)
"""Commands that are decided after the loop guard was asked."""


class WhatIf(Struct, frozen=True):
    """What other guards would have decided in a run.

    `at` is the number of the first event that would not have come, or not so, None when there is none; then `path`,
    `step`, `recorded` and `now` say what it was and what comes in its place. `ends`: the (sub-)run would have ended
    there, so `saved` is what it and its delegations spent from there on; else `saved` is the most that could have been
    saved. It is empty where the recorded guards were the stricter ones. `equal` counts verdicts that were the same,
    `unknown` are agents of the run that the other guards say nothing about, `shared` the pools of which only this
    run's part is known.
    """

    run: str
    events: int
    equal: int
    at: int | None = None
    path: str = ""
    step: int = 0
    recorded: str = ""
    now: str = ""
    ends: bool = False
    saved: Spend = field(default_factory=Spend)
    unknown: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether they would have decided as the recorded guards did."""
        return self.at is None


class _Other(Struct, frozen=True):
    """What would have been decided instead. `stricter`: the recorded event would not have come."""

    now: str
    ends: bool = False
    stricter: bool = True


def what_if(records: Sequence[ev.Record], policies: Mapping[str, Policy]) -> WhatIf:
    """Ask the guards of `policies`, by agent name, instead of those that were asked.

    Raises `ValueError` for an empty stream, `UsageError` for a rule of an approval that raises.
    """
    if not records:
        raise ValueError("an empty stream has no guards")
    asking = _Asking(records, policies)
    run = Run(records[0].run)
    found = WhatIf(run.id, len(records), 0)
    for number, record in enumerate(records):
        other = asking.ask(run, record, number)
        if other is not None:
            sub = run.subs.get(record.sub)
            found = replace(
                found,
                at=record.seq,
                path=record.path,
                step=getattr(record.event, "step", sub.step if sub is not None else 0),
                recorded=describe_event(record.event),
                now=other.now,
                ends=other.ends,
                saved=_spent(run, record.sub, records[number:]) if other.stricter else Spend(),
            )
            break
        asking.enter(run, record)
        run = apply(run, record)
    return replace(found, equal=asking.equal, unknown=asking.unknown(), shared=asking.shared(found.run))


def _spent(run: Run, number: int, rest: Sequence[ev.Record]) -> Spend:
    """What a (sub-)run and those it delegated to spend in the rest of the stream. Owns `run`."""
    before = _sum(run, number)
    for record in rest:
        run = apply(run, record)
    return since(before, _sum(run, number))


def _sum(run: Run, number: int) -> Spend:
    total = Spend(alive=run.spend.alive if number == 0 else 0.0)
    for sub in run.subs.values():
        if _is_below(run, sub, number):
            total.add(sub.spend.amounts(), estimated=sub.spend.estimated)
    return total


def _is_below(run: Run, sub: Sub, number: int) -> bool:
    current: Sub | None = sub
    while current is not None and current.id != number:
        current = run.subs.get(current.parent)
    return current is not None


class _Asking:
    """The other guards, with their own books of this run."""

    def __init__(self, records: Sequence[ev.Record], policies: Mapping[str, Policy]) -> None:
        self.equal = 0
        self._records = records
        self._policies = policies
        self._ledger = Accounts()
        self._chains: dict[tuple[int, str], Chain] = {}
        self._pools: dict[str, Pool] = {}
        self._open: dict[str, tuple[str, ...]] = {}
        self._free: set[str] = set()
        self._batch = 0
        self._unknown: dict[str, None] = {}

    def unknown(self) -> tuple[str, ...]:
        """Agents of the run that have no guards here."""
        return tuple(self._unknown)

    def shared(self, run: str) -> tuple[str, ...]:
        """Pools that count more than this run."""
        return tuple(key for key in self._pools if not is_own(key, run))

    def ask(self, run: Run, record: ev.Record, number: int) -> _Other | None:
        """What would have been decided instead of an event, None for the same."""
        sub = run.subs.get(record.sub)
        if sub is None:
            return self._delegated(run, record)
        policy = self._policies.get(sub.agent)
        if policy is None:
            self._unknown[sub.agent] = None
            return None
        event = record.event
        found = None
        if isinstance(event, _JUDGED_BEFORE) and not (isinstance(event, ev.ModelAsked) and event.last):
            found = self._verdict(sub, policy, event)
        chain = self._chain(run, sub)
        if found is None and isinstance(event, ev.COMMANDS) and sub.denied is None:
            found = self._late(run, record, chain)
        if found is not None:
            return found
        match event:
            case ev.ModelAsked():
                return self._model(record, event, sub, policy, chain)
            case ev.ToolAsked():
                return self._yes(run, event, policy) or self._tools(record, number, chain)
            case ev.ApprovalAsked():
                return self._question(event, policy)
            case ev.ApprovalGiven():
                return _who(event.by, event.policy, policy)
            case ev.BudgetDenied():
                return self._denied(run, record, event, policy, chain)
            case _:
                return None

    # -- loops ---------------------------------------------------------------------------------------------

    def _verdict(self, sub: Sub, policy: Policy, event: ev.AnyEvent) -> _Other | None:
        act = judge(sub, policy)
        theirs = event.verdict if isinstance(event, ev.Judged) else None
        if act is None and theirs is None:
            return None
        if act is not None and act.verdict == theirs:
            self.equal += 1
            return None
        if act is None:
            return _Other("no verdict: it goes on", stricter=False)
        stricter = theirs is None or _harder(act.verdict, theirs)
        return _Other(describe(act), _ends(act.verdict.response), stricter)

    # -- budgets -------------------------------------------------------------------------------------------

    def _chain(self, run: Run, sub: Sub) -> Chain:
        key = (sub.id, sub.agent)
        chain = self._chains.get(key)
        if chain is None:
            chain, pools = chain_of(run, sub, self._policies)
            for pool in pools:
                self._pools[pool.key] = pool
                self._ledger.declare(pool)
            self._chains[key] = chain
        return chain

    def _late(self, run: Run, record: ev.Record, chain: Chain) -> _Other | None:
        limit, pool = chain.seconds
        alive = _alive(run, record)
        if not pool or alive < limit:
            return None
        denied = ev.BudgetDenied(pool, "seconds", int(limit), -int(-alive // 1), 0, 0)
        return _Other(f"finish stopped ({denied_text(denied)})", ends=True)

    def _model(self, record: ev.Record, event: ev.ModelAsked, sub: Sub, policy: Policy, chain: Chain) -> _Other | None:
        amounts = _priced(event.reserved, sub, policy, event.size, event.max_tokens)
        aside = chain.last_answer and not event.last and self._set_aside(sub, policy, chain, record.at)
        answer = self._ledger.reserve(event.ticket, chain.pools, amounts, now=record.at)
        if aside:
            self._ledger.settle("aside", {}, now=record.at)
        self._open[event.ticket] = chain.pools
        if answer is not None:
            self._free.add(event.ticket)
        return _refused(answer, chain) if not event.covers else None  # a run goes on without a summary

    def _set_aside(self, sub: Sub, policy: Policy, chain: Chain, at: float) -> bool:
        most = last_tokens(policy.agent.max_tokens, chain.last_answer)
        amounts = cost(model_of(sub, policy), chain.last_answer - most, most, steps=1)
        return self._ledger.reserve("aside", chain.pools, amounts, now=at, keep=True) is None

    def _tools(self, record: ev.Record, number: int, chain: Chain) -> _Other | None:
        """The calls of one group are admitted together: their intents follow on each other."""
        if record.seq <= self._batch:
            return None
        names: list[str] = []
        for each in self._records[number:]:
            if not isinstance(each.event, ev.ToolAsked) or each.sub != record.sub:
                break
            names.append(each.event.name)
            self._batch = each.seq
        amounts = {"tool_calls": len(names)}
        for unit in (TOOL + name for name in names):
            if unit in chain.tools:
                amounts[unit] = amounts.get(unit, 0) + 1
        ticket = f"tools:{record.seq}"
        answer = self._ledger.reserve(ticket, chain.pools, amounts, now=record.at)
        if answer is None:
            self._ledger.settle(ticket, amounts, now=record.at)
        elif isinstance(answer, Busy):
            self._ledger.book(chain.pools, amounts, at=record.at, now=record.at)
        return _refused(answer, chain)

    def _denied(
        self, run: Run, record: ev.Record, event: ev.BudgetDenied, policy: Policy, chain: Chain
    ) -> _Other | None:
        """A reservation that was refused: here too?"""
        limit, pool = chain.seconds
        if event.unit == "seconds":
            refused = bool(pool) and _alive(run, record) >= limit
        else:
            aside = chain.last_answer and self._set_aside(run.subs[record.sub], policy, chain, record.at)
            answer = self._ledger.reserve("probe", chain.pools, {event.unit: max(1, event.wanted)}, now=record.at)
            refused = isinstance(answer, Denied)
            for ticket in (*(["aside"] if aside else []), *(["probe"] if answer is None else [])):
                self._ledger.settle(ticket, {}, now=record.at)
        if refused:
            self.equal += 1
            return None
        return _Other("no budget refuses it: it goes on", stricter=False)

    def _delegated(self, run: Run, record: ev.Record) -> _Other | None:
        event = record.event
        parent = run.subs.get(event.parent) if isinstance(event, ev.SubStarted) else None
        if parent is None:
            return None
        why = no_delegation(self._chain(run, parent), parent)
        return _Other(f"the delegation is refused: {why}") if why else None

    def enter(self, run: Run, record: ev.Record) -> None:
        """Enter what an event settles into the books, before it is folded."""
        event, at = record.event, record.at
        sub = run.subs.get(record.sub)
        policy = self._policies.get(sub.agent) if sub is not None else None
        if sub is None or policy is None:
            return
        if isinstance(event, ev.ModelAnswered | ev.ModelFailed) and event.ticket in self._open:
            pools = self._open.pop(event.ticket)
            counted = event.spent.get("input_tokens", 0), event.spent.get("output_tokens", 0)
            spent = _priced(event.spent, sub, policy, *counted)
            if event.ticket in self._free:
                self._free.discard(event.ticket)
                self._ledger.book(pools, spent, at=at, now=at)
            else:
                self._ledger.settle(event.ticket, spent, now=at)
        elif isinstance(event, ev.BudgetBreached):
            for key in self._chain(run, sub).pools:
                if event.unit in self._pools[key].limits:
                    self._ledger.close(key, event.unit, event.over, at=at, now=at)
        elif isinstance(event, ev.OutputChecked):
            self._ledger.book(self._chain(run, sub).pools, event.spent, at=at, now=at)
        elif isinstance(event, ev.SpendCorrected) and (estimate := run.estimates.get(event.ticket)) is not None:
            self._ledger.correct(self._chain(run, sub).pools, estimate.spent, event.spent, at=estimate.at)

    # -- approvals -----------------------------------------------------------------------------------------

    def _yes(self, run: Run, event: ev.ToolAsked, policy: Policy) -> _Other | None:
        """A call that was made without a yes, and needs one here."""
        wanted = _needs(event.name, event.arguments, policy)
        if not wanted or event.approval:
            return None
        people = ", ".join(policy.who(wanted)) or "anybody"
        return _Other(f"ask {people} for a yes to {event.name}({event.arguments}), policy {wanted!r}")

    def _question(self, event: ev.ApprovalAsked, policy: Policy) -> _Other | None:
        """A question that is not asked here."""
        if not isinstance(policy.acts.get(event.name), Tool) or _needs(event.name, event.arguments, policy):
            self.equal += 1
            return None
        return _Other(f"call {event.name}({event.arguments}): no yes is needed", stricter=False)


def _who(by: str, wanted: str, policy: Policy) -> _Other | None:
    people = policy.who(wanted)
    if not people or by in people:
        return None
    return _Other(f"not taken: {by!r} may not answer under {wanted!r}, {', '.join(people)} may")


def _needs(name: str, arguments: str, policy: Policy) -> str:
    """The policy under which a call needs a yes, "" for none."""
    act = policy.acts.get(name)
    bound = act.bind(arguments)[0] if isinstance(act, Tool) else None
    if not isinstance(act, Tool) or bound is None:
        return ""
    try:
        return act.needs_yes(bound)
    except Exception as error:
        raise UsageError(f"approve_when of tool {name!r} raised {described(error)}") from error


def _ends(response: Response) -> bool:
    return isinstance(response, Stop | Quarantine | Escalate)


def _harder(one: Verdict, other: Verdict) -> bool:
    """Whether the other run would have gone on less far after the verdict."""
    return _ends(one.response) or not _ends(other.response)


def _alive(run: Run, record: ev.Record) -> float:
    """Seconds that the run was alive when an event came."""
    since = 0.0 if run.mono is None or run.resting else max(0.0, record.mono - run.mono)
    return run.spend.alive + since


def _refused(answer: Denied | Busy | None, chain: Chain) -> _Other | None:
    """What follows from a ledger's answer; one that is busy only makes the call wait."""
    if not isinstance(answer, Denied):
        return None
    fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
    text = denied_text(ev.BudgetDenied(**fields))
    if chain.last_answer and not answer.closed:
        return _Other(f"one last answer, then finish partial ({text})")
    return _Other(f"finish stopped ({text})", ends=True)


def _priced(amounts: Mapping[str, int], sub: Sub, policy: Policy, tokens_in: int, tokens_out: int) -> dict[str, int]:
    """Amounts with what they cost at the price of the agent's model, where it had none when they were recorded."""
    price = model_of(sub, policy).price
    if "usd" in amounts or price is None or not amounts.get("model_calls"):
        return dict(amounts)
    return {**amounts, "usd": price.cost(tokens_in, tokens_out)}
