"""Budgets over chains of pools, runs and processes, against a model that adds everything up anew each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from desks import FakeClock, make_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from understudy import Budget, Window
from understudy.actors.agents.booking import Books
from understudy.actors.agents.guards import Denied, Pool
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.supervisors.guards.accounts import SLICES, Accounts

UNITS = ("steps", "tokens", "tool:pay")
LENGTH = 60
BUDGETS = {
    "chief": Budget(steps=9, tokens=60),
    "helper": Budget(tokens=40, tools={"pay": 2}),
    "team": Budget(steps=14, tokens=120, per="life"),
    "hour": Budget(tokens=70, tools={"pay": 4}, per=Window(LENGTH)),
    "root": Budget(tokens=90, steps=20),
}
CHAINS = {"chief": ("chief", "root"), "helper": ("helper", "team", "hour", "root")}
PLACES = [("r1", 0), ("r1", 1), ("r2", 0), ("r2", 1)]
AMOUNTS = st.fixed_dictionaries({}, optional={unit: st.integers(0, 25 if unit == "tokens" else 2) for unit in UNITS})


class Spent:
    """One call in the model: which pools it is charged to, when, and how much now."""

    def __init__(self, pools: tuple[str, ...], at: float, amounts: dict[str, int]) -> None:
        self.pools, self.at, self.amounts = pools, at, amounts


class BudgetMachine(RuleBasedStateMachine):
    """Calls of two runs, each with a delegation, in one process after the other; the journal is all that survives."""

    def __init__(self) -> None:
        super().__init__()
        agent: Any = make_agent("http://127.0.0.1:9/v1")
        self.policies = {
            name: Policy(agent, name, budgets=tuple((owner, BUDGETS[owner]) for owner in chain))
            for name, chain in CHAINS.items()
        }
        self.clock = FakeClock()
        self.records: dict[str, list[ev.Record]] = {"r1": [], "r2": []}
        for run in self.records:
            self.write(run, 0, ev.RunStarted("chief", "T", "{}"))
            self.write(run, 1, ev.SubStarted(0, 1, 0, "helper", "T", "{}"))
        self.tickets = 0
        self.spent: dict[str, Spent] = {}
        self.estimated: set[str] = set()
        self.over: list[tuple[str, str, int, float]] = []
        self.lost: dict[str, tuple[str, int]] = {}
        self.found: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """A process begins: it has the journal, and nothing else."""
        self.ledger = Accounts()
        self.books = Books(cast("Any", SimpleNamespace(clock=self.clock)), self.ledger, self.policies)
        for owner in ("team", "hour"):
            self.ledger.declare(BUDGETS[owner].pool(owner, ""))
        self.runs: dict[str, Run] = {}
        for name, records in self.records.items():
            self.runs[name] = fold(records)
            self.books.book_dated(records)
            self.books.rebook(self.runs[name], own=True, shared=True)
        self.open: dict[str, tuple[str, int, dict[str, int]]] = {}
        self.aside: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {}
        self.latest = self.clock.now
        for ticket in self.lost:  # nobody knows when it was spent: it counts from now
            self.spent[ticket].at = self.clock.now
        for ticket, at in self.found.items():
            self.spent[ticket].at = at
        self.found = {}

    def write(self, run: str, sub: int, event: ev.AnyEvent) -> None:
        records = self.records[run]
        records.append(ev.Record(run, len(records) + 1, self.clock.now, 0.0, sub, "", 0, 0, event))
        if hasattr(self, "runs"):
            self.runs[run] = fold(records[-1:], self.runs[run])

    def pools(self, place: tuple[str, int]) -> tuple[str, ...]:
        run = self.runs[place[0]]
        return self.books.chain_of(run, run.subs[place[1]]).pools

    def ticket(self) -> str:
        self.tickets += 1
        return str(self.tickets)

    # -- what happens --------------------------------------------------------------------------------------

    @rule(place=st.sampled_from(PLACES), amounts=AMOUNTS)
    def reserve(self, place: tuple[str, int], amounts: dict[str, int]) -> None:
        ticket, pools = self.ticket(), self.pools(place)
        answer = self.books.reserve(ticket, pools, amounts)
        short = {pool for pool in pools if self.is_short(pool, amounts)}
        if answer is None:
            assert not short
            self.open[ticket] = (*place, amounts)
            self.write(*place, ev.ModelAsked(1, {}, 1, amounts, pools, ticket))
            return
        assert answer.pool in short
        held = self.held(answer.pool, answer.unit) - self.held(answer.pool, answer.unit, aside_only=True)
        if isinstance(answer, Denied) and not answer.closed:
            assert self.room(answer.pool, answer.unit) + held < amounts.get(answer.unit, 0)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), end=st.sampled_from(["counted", "refused", "unknown", "over"]), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, end: str, share: float) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        run, sub, caps = self.open.pop(ticket)
        pools = self.pools((run, sub))
        spent = {unit: int(cap * share) + (end == "over") for unit, cap in caps.items()}
        if end in ("refused", "unknown"):
            spent = dict(caps) if end == "unknown" else {}
        breaches = self.books.settle(ticket, spent)
        spent = self.breached(run, sub, breaches, spent, caps)
        if end == "unknown" and spent:
            self.estimated.add(ticket)
        self.spent[ticket] = Spent(pools, self.clock.now, spent)
        self.write(run, sub, ev.ModelFailed(1, ticket, "x", "", True, spent, estimated=end == "unknown"))

    def breached(
        self, run: str, sub: int, breaches: Any, spent: dict[str, int], caps: dict[str, int]
    ) -> dict[str, int]:
        for breach in breaches:
            self.over.append((breach.pool, breach.unit, breach.over, self.latest))
            self.write(run, sub, ev.BudgetBreached(breach.pool, breach.unit, breach.over))
        capped = {breach.unit for breach in breaches}
        return {unit: min(amount, caps[unit]) if unit in capped else amount for unit, amount in spent.items()}

    @precondition(lambda self: self.estimated)
    @rule(data=st.data(), share=st.floats(0, 1), more=st.integers(0, 1))
    def correct(self, data: st.DataObject, share: float, more: int) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.estimated)))
        self.estimated.discard(ticket)
        run = next(name for name, state in self.runs.items() if ticket in state.estimates)
        estimate = self.runs[run].estimates[ticket]
        real = {unit: int(amount * share) + more * amount for unit, amount in estimate.spent.items()}
        breaches = self.books.correct(estimate, real)
        kept = self.breached(run, estimate.sub, breaches, real, estimate.spent)
        self.spent[ticket].amounts = {unit: min(amount, estimate.spent[unit]) for unit, amount in kept.items()}
        self.write(run, estimate.sub, ev.SpendCorrected(ticket, kept))

    @rule(place=st.sampled_from(PLACES), tokens=st.integers(1, 20))
    def set_aside(self, place: tuple[str, int], tokens: int) -> None:
        ticket, pools = self.ticket(), self.pools(place)
        if self.books.reserve(ticket, pools, {"tokens": tokens}, keep=True) is None:
            self.aside[ticket] = (pools, {"tokens": tokens})

    @precondition(lambda self: self.aside)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.aside)))
        del self.aside[ticket]
        assert self.books.settle(ticket, {}) == ()

    @rule(data=st.data())
    def nothing_is_returned_twice(self, data: st.DataObject) -> None:
        held = {*self.open, *self.aside}
        gone = [str(n) for n in range(self.tickets + 2) if str(n) not in held]
        with pytest.raises(UsageError, match="holds no reservation"):
            self.books.settle(data.draw(st.sampled_from(gone)), {"steps": 1})

    @rule(seconds=st.sampled_from([0.5, 1, 20, 61.5]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.latest = self.clock.now

    @rule()
    def the_process_is_killed(self) -> None:
        """What was in flight costs its cap from now on, whoever looks; the outcome is journalled when it is found."""
        for ticket, (run, sub, caps) in self.open.items():
            self.spent[ticket] = Spent(self.pools((run, sub)), self.clock.now, dict(caps))
            self.lost[ticket] = (run, sub)
        self.begin()

    @precondition(lambda self: self.lost)
    @rule()
    def what_was_in_flight_is_found(self) -> None:
        ticket, (run, sub) = self.lost.popitem()
        spent = dict(self.spent[ticket].amounts)
        with pytest.raises(UsageError, match="holds no reservation"):
            self.books.settle(ticket, spent)
        if spent and "hour" not in self.spent[ticket].pools:  # a window has it under another time, in this process
            self.estimated.add(ticket)
        self.found[ticket] = self.clock.now
        self.write(run, sub, ev.ModelFailed(1, ticket, "interrupted", "", True, spent, estimated=True))

    # -- the model -----------------------------------------------------------------------------------------

    def limits(self, pool: str) -> dict[str, int]:
        return BUDGETS[pool.partition("@")[0]].limits()

    def all_pools(self) -> set[str]:
        return {pool for place in PLACES for pool in self.pools(place)}

    def counted(self, pool: str, unit: str, seconds: float = float("inf")) -> int:
        since = self.latest - seconds
        mine = (each for each in self.spent.values() if pool in each.pools and each.at > since)
        return sum(each.amounts.get(unit, 0) for each in mine)

    def held(self, pool: str, unit: str, *, aside_only: bool = False) -> int:
        total = sum(amounts.get(unit, 0) for pools, amounts in self.aside.values() if pool in pools)
        if not aside_only:
            calls = [(self.pools((run, sub)), amounts) for run, sub, amounts in self.open.values()]
            total += sum(amounts.get(unit, 0) for pools, amounts in calls if pool in pools)
        return total

    def room(self, pool: str, unit: str) -> int:
        spent = self.ledger.statement(pool, now=self.latest).spent.get(unit, 0)
        return self.limits(pool).get(unit, 10**9) - spent - self.held(pool, unit)

    def is_short(self, pool: str, amounts: dict[str, int]) -> bool:
        closed = self.ledger.statement(pool, now=self.latest).closed
        return closed or any(amount > self.room(pool, unit) for unit, amount in amounts.items())

    # -- what holds ----------------------------------------------------------------------------------------

    @invariant()
    def every_book_adds_up_and_no_limit_is_exceeded(self) -> None:
        for pool in self.all_pools():
            statement = self.ledger.statement(pool, now=self.latest)
            for unit, limit in self.limits(pool).items():
                spent, reserved = statement.spent.get(unit, 0), statement.reserved.get(unit, 0)
                assert spent + reserved <= limit
                assert reserved == self.held(pool, unit)
                assert statement.kept.get(unit, 0) == self.held(pool, unit, aside_only=True)
                if pool != "hour":
                    assert spent == self.counted(pool, unit)

    @invariant()
    def a_window_holds_what_was_spent_in_it_and_hardly_more(self) -> None:
        statement = self.ledger.statement("hour", now=self.latest)
        for unit in self.limits("hour"):
            spent = statement.spent.get(unit, 0)
            assert self.counted("hour", unit, LENGTH) <= spent <= self.counted("hour", unit, LENGTH * (1 + 2 / SLICES))

    @invariant()
    def a_breach_closes_its_pool_in_every_process(self) -> None:
        for pool in self.all_pools():
            over = [at for where, _, _, at in self.over if where == pool]
            if pool != "hour":
                assert self.ledger.statement(pool).closed == bool(over)

    @invariant()
    def what_the_runs_tell_is_what_was_spent(self) -> None:
        for name, run in self.runs.items():
            mine = [each for each in self.spent if each not in self.lost and self.belongs(each, name)]
            assert run.spend.tokens == sum(self.spent[each].amounts.get("tokens", 0) for each in mine)

    def belongs(self, ticket: str, run: str) -> bool:
        return any(pool.endswith(f"@{run}") for pool in self.spent[ticket].pools)


@pytest.mark.promise(215)
def test_over_chains_runs_and_processes_no_limit_is_exceeded_and_nothing_is_returned_twice() -> None:
    run_state_machine_as_test(BudgetMachine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None))


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), max_size=12),
    st.sampled_from(["returned", "down", "down and told later"]),
)
def test_an_escrow_is_taken_before_the_send_and_returned_once_with_the_reply(
    limit: int, calls: list[tuple[int, float]], end: str
) -> None:
    """A node that is lent a part of a pool spends no more; if it goes down, all of it counts until it tells."""
    home, away = Accounts(), Accounts()
    home.declare(Pool("team", "team", {"tokens": 60}))
    assert home.reserve("escrow", ("team",), {"tokens": limit}) is None
    away.declare(Pool("escrow", "escrow", {"tokens": limit}))
    for number, (cap, share) in enumerate(calls):
        if away.reserve(str(number), ("escrow",), {"tokens": cap}) is None:
            away.settle(str(number), {"tokens": int(cap * share)})
    spent = dict(away.statement("escrow").spent)
    estimate = {"tokens": limit}
    home.settle("escrow", spent if end == "returned" else estimate)
    if end == "down and told later":
        assert home.correct(("team",), estimate, spent) == ()
    counts = limit if end == "down" else spent.get("tokens", 0)
    assert home.statement("team").spent.get("tokens", 0) == counts <= limit
    assert home.left(("team",)) == {"tokens": 60 - counts}
    with pytest.raises(UsageError, match="holds no reservation"):
        home.settle("escrow", spent)
