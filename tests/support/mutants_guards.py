"""Defects planted in guards, runs and the journal, each with the invariants of plays that must find it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Final, cast

import msgspec
import pytest

from understudy.actors.agents import answers, booking, decide
from understudy.actors.agents.acting import Acts
from understudy.actors.agents.resuming import go_on
from understudy.actors.agents.runs import Runs
from understudy.actors.agents.tools import Tool
from understudy.actors.journal import events as ev
from understudy.actors.journal import fold as folding
from understudy.actors.journal import state as states
from understudy.actors.journal import store as stores
from understudy.actors.journal.journal import Journal
from understudy.actors.journal.state import Run
from understudy.actors.testing.faults import Fault
from understudy.actors.testing.sim_disk import SimStore
from understudy.supervisors.guards import accounts, budgets, loops, rules
from understudy.testing import ClockJump, Crash, OverReported, RepeatOutput, UnknownTool, WrongSchema

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A defect: how it is planted, the invariants of which at least one must find it, and the worlds that are tried.

    `tree` is a name in `agent_trees.TREES`; `faults` are the kinds drawn, None for all; `deaths` the most kills.
    """

    name: str
    patch: Patch
    kills: tuple[int, ...]
    tree: str
    faults: Collection[type[Fault]] | None = None
    deaths: int = 3


# --- 25: within limits -----------------------------------------------------------------------------------------------


def _no_limits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounts, "_refusal", lambda accounts, amounts: None)
    reserve = accounts.Accounts.reserve

    def granted(self: Any, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], **more: Any) -> Any:
        if reserve(self, ticket, pools, amounts, **more) is None and ticket not in self._tickets:
            for _, cells in self._find(pools).cells:
                for cell in cells:
                    cell.limit += 10**9
                    cell.room += 10**9
            reserve(self, ticket, pools, amounts, **more)

    patch.setattr(accounts.Accounts, "reserve", granted)


def _stays_open(patch: pytest.MonkeyPatch) -> None:
    breach = accounts._Account.breach

    def kept_open(self: Any, unit: str, over: int) -> Any:
        found = breach(self, unit, over)
        self.closed = None
        return found

    patch.setattr(accounts._Account, "breach", kept_open)


def _without(patch: pytest.MonkeyPatch, *units: str) -> None:
    """Some limits of a budget never reach the ledger."""
    pool = budgets.Budget.pool

    def fewer(self: Any, owner: str, run: str) -> Any:
        made = pool(self, owner, run)
        left = {unit: limit for unit, limit in made.limits.items() if not unit.startswith(units)}
        return msgspec.structs.replace(made, limits=left)

    patch.setattr(budgets.Budget, "pool", fewer)


def _tools_are_not_limited(patch: pytest.MonkeyPatch) -> None:
    _without(patch, "tool:")


def _input_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    _without(patch, "input_tokens")


def _windows_forget_early(patch: pytest.MonkeyPatch) -> None:
    init = accounts._Slices.__init__

    def shorter(self: Any, seconds: float) -> None:
        init(self, seconds / 10_000)

    patch.setattr(accounts._Slices, "__init__", shorter)


def _depth_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    no_delegation = booking.Books.no_delegation

    def shallow(self: Any, run: Run, sub: Any) -> str:
        why = no_delegation(self, run, sub)
        return "" if "nested" in why else why

    patch.setattr(Runs, "no_delegation", shallow)


def _delegations_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    no_delegation = booking.Books.no_delegation
    patch.setattr(
        Runs, "no_delegation", lambda self, run, sub: no_delegation(self, run, msgspec.structs.replace(sub, children=0))
    )


def _nobody_is_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runs, "low", lambda self, run, sub: [])


# --- 26: no refunds --------------------------------------------------------------------------------------------------


def _refunds_on_restart(patch: pytest.MonkeyPatch) -> None:
    def nothing(run: Run) -> Iterator[tuple[tuple[str, ...], Mapping[str, int]]]:
        yield from ()

    patch.setattr(booking, "_spent", nothing)


def _a_restart_empties_windows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runs, "book_dated", lambda self, records: None)


def _what_is_set_aside_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Acts, "give_back", lambda self: None)


def _cut_calls_are_free(patch: pytest.MonkeyPatch) -> None:
    forfeit = booking.Books.forfeit

    def free(self: Any, asking: ev.ModelAsked) -> ev.ModelFailed:
        return forfeit(self, msgspec.structs.replace(asking, reserved={}))

    patch.setattr(booking.Books, "forfeit", free)


def _unknown_costs_nothing(patch: pytest.MonkeyPatch) -> None:
    failed = Acts._model_failed

    def known(self: Any, step: int, ticket: str, error: Any, reserved: dict[str, int], seconds: float) -> None:
        error.refused = True
        failed(self, step, ticket, error, reserved, seconds)

    patch.setattr(Acts, "_model_failed", known)


# --- 27: all or none -------------------------------------------------------------------------------------------------


def _nearest_pool_only(patch: pytest.MonkeyPatch) -> None:
    find = booking.Books._find_chain

    def nearest(self: Any, run: Run, sub: Any) -> Any:
        chain = find(self, run, sub)
        return dataclasses.replace(chain, pools=chain.pools[:1])

    patch.setattr(Runs, "_find_chain", nearest)


def _own_chain_only(patch: pytest.MonkeyPatch) -> None:
    find = booking.Books._find_chain

    def own(self: Any, run: Run, sub: Any) -> Any:
        return find(self, run, msgspec.structs.replace(sub, parent=-1))

    patch.setattr(Runs, "_find_chain", own)


def _denied_pools_keep_it(patch: pytest.MonkeyPatch) -> None:
    reserve = accounts.Accounts.reserve

    def torn(self: Any, ticket: str, pools: Sequence[str], amounts: Mapping[str, int], **more: Any) -> Any:
        answer = reserve(self, ticket, pools, amounts, **more)
        if answer is not None:
            for unit, cell in self._accounts[pools[0]].cells.items():
                cell.room -= min(cell.room, amounts.get(unit, 0))
        return answer

    patch.setattr(accounts.Accounts, "reserve", torn)


# --- 28: loops -------------------------------------------------------------------------------------------------------


def _restart_clears_evidence(patch: pytest.MonkeyPatch) -> None:
    started = folding._attempt_started

    def cleared(run: Run, record: ev.Record, event: ev.AttemptStarted) -> None:
        started(run, record, event)
        run.subs[record.sub].evidence.clear()

    handlers: dict[Any, Any] = {**folding._HANDLERS, ev.AttemptStarted: cleared}
    patch.setattr(folding, "_HANDLERS", handlers)


def _never_climbs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(loops, "next_rung", lambda ladder, past, key: (0, ladder[0]))


def _one_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rules.Same, "_limit", lambda self, step: (self.times + 1) * (3 if step.polling else 1))


def _changes_count_as_repeats(patch: pytest.MonkeyPatch) -> None:
    witness = states.Evidence.witness
    patch.setattr(
        states.Evidence, "witness", lambda self, step: witness(self, msgspec.structs.replace(step, world=False))
    )


# --- 29: gated -------------------------------------------------------------------------------------------------------


def _a_yes_is_for_all(patch: pytest.MonkeyPatch) -> None:
    granted = decide._granted

    def reused(run: Run, *rest: Any) -> Any:
        old = [yes.id for yes in run.approvals.values() if yes.state in ("granted", "used")]
        return old[0] if old else granted(run, *rest)

    patch.setattr(decide, "_granted", reused)


def _gates_are_open(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tool, "needs_yes", lambda self, arguments: "")


def _expiry_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Acts, "_still_valid", lambda self, calls: True)


# --- 30: silence is no yes -------------------------------------------------------------------------------------------


def _silence_is_a_yes(patch: pytest.MonkeyPatch) -> None:
    def agreed(runs: Runs, run: Run, yes: Any) -> None:
        runs.append(run.id, ev.ApprovalGiven(yes.id, "clock", yes.asked.digest, yes.asked.policy), sub=yes.sub)

    patch.setattr(answers, "expire", agreed)


def _a_restart_is_a_yes(patch: pytest.MonkeyPatch) -> None:
    def agreeing(runs: Runs, names: Any) -> None:
        names = list(names)
        for run in [runs.get(name) for name in names]:
            for yes in list(run.approvals.values()):
                if yes.state == "pending":
                    who = yes.asked.who[0]
                    given = ev.ApprovalGiven(yes.id, who, yes.asked.digest, yes.asked.policy)
                    runs.append(run.id, given, sub=yes.sub)
        go_on(runs, names)

    patch.setattr("understudy.node.go_on", agreeing)


# --- 31: registry ----------------------------------------------------------------------------------------------------


def _arguments_are_not_checked(patch: pytest.MonkeyPatch) -> None:
    bind = Tool.bind

    def loose(self: Any, arguments: str) -> tuple[dict[str, Any] | None, str]:
        bound = bind(self, arguments)
        if bound[0] is None:
            with contextlib.suppress(msgspec.MsgspecError):
                raw = msgspec.json.decode(arguments)
                if isinstance(raw, dict):
                    return cast("dict[str, Any]", raw), ""
        return bound

    patch.setattr(Tool, "bind", loose)
    patch.setattr(Tool, "needs_yes", lambda self, arguments: "")


def _unknown_is_the_nearest(patch: pytest.MonkeyPatch) -> None:
    plan = decide._plan

    def guessed(run: Run, sub: Any, policy: Any, step: int, index: int, state: Any) -> Any:
        acts = policy.offer(sub.state).acts
        if state.call.name not in acts and "poll" in acts:
            call = msgspec.structs.replace(state.call, name="poll", arguments="{}")
            state = msgspec.structs.replace(state, call=call)
        return plan(run, sub, policy, step, index, state)

    patch.setattr(decide, "_plan", guessed)


# --- 32 to 37: the journal -------------------------------------------------------------------------------------------


def _acknowledges_first(patch: pytest.MonkeyPatch) -> None:
    write = SimStore.write

    async def early(self: Any, rows: Any, at: Any) -> None:
        self.under_way = asyncio.ensure_future(write(self, rows, at))
        self.under_way.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(0)

    patch.setattr(SimStore, "write", early)


def _acts_before_commit(patch: pytest.MonkeyPatch) -> None:
    async def at_once(self: Any) -> None:
        await asyncio.sleep(0)

    patch.setattr(Acts, "commit", at_once)


def _answers_before_commit(patch: pytest.MonkeyPatch) -> None:
    def told(self: Runs, tell: Callable[[str, int], None], run: str, sub: int) -> None:
        tell(run, sub)

    patch.setattr(Runs, "after_commit", told)
    patch.setattr(Journal, "pending", lambda self, run: False)


def _state_beside_the_journal(patch: pytest.MonkeyPatch) -> None:
    append = Runs.append

    def beside(self: Runs, run: str, event: ev.AnyEvent, **more: Any) -> ev.Record:
        record = append(self, run, event, **more)
        if isinstance(event, ev.ModelAnswered):
            self.get(run).restarts += 1
        return record

    patch.setattr(Runs, "append", beside)


def _the_fold_remembers(patch: pytest.MonkeyPatch) -> None:
    apply = folding.apply
    seen: set[int] = set()

    def remembering(run: Run, record: ev.Record) -> Run:
        made = apply(run, record)
        made.fruitless += id(record) in seen
        seen.add(id(record))
        return made

    patch.setattr(folding, "apply", remembering)


def _incarnations_count_anew(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Runs, "incarnation", lambda self, path: 0)


def _checksums_are_not_read(patch: pytest.MonkeyPatch) -> None:
    def trusting(path: str, rows: Sequence[Any]) -> None:
        return None

    patch.setattr(stores.verify, "__code__", cast("FunctionType", trusting).__code__)


MUTANTS: Final = (
    Mutant("the ledger grants beyond its limits", _no_limits, (25,), "lab"),
    Mutant("a breached pool stays open", _stays_open, (25,), "store", (OverReported,)),
    Mutant("a limit for one tool is not looked at", _tools_are_not_limited, (25,), "lab"),
    Mutant("input tokens are not counted", _input_is_not_counted, (25,), "lab"),
    Mutant("a window forgets too early", _windows_forget_early, (25,), "lab"),
    Mutant("depth is not looked at", _depth_is_not_looked_at, (25,), "lab"),
    Mutant("delegations are not counted", _delegations_are_not_counted, (25,), "lab"),
    Mutant("nobody is told what is left", _nobody_is_told, (25,), "lab"),
    Mutant("a restart empties a window", _a_restart_empties_windows, (25, 26), "lab"),
    Mutant("what is set aside is never returned", _what_is_set_aside_is_kept, (26,), "lab"),
    Mutant("a restart refunds", _refunds_on_restart, (26,), "desk"),
    Mutant("a call that a kill cut is free", _cut_calls_are_free, (26,), "desk"),
    Mutant("a lost reply costs nothing", _unknown_costs_nothing, (26,), "desk"),
    Mutant("the nearest pool pays alone", _nearest_pool_only, (27,), "store"),
    Mutant("those who asked do not pay for a delegate", _own_chain_only, (27,), "office"),
    Mutant("a pool keeps what was denied", _denied_pools_keep_it, (27,), "office"),
    Mutant("a restart clears the evidence", _restart_clears_evidence, (28,), "clerk", (RepeatOutput,)),
    Mutant("the ladder is never climbed", _never_climbs, (28,), "clerk", (RepeatOutput,)),
    Mutant("the verdict comes one step late", _one_too_late, (28,), "store", (RepeatOutput,)),
    Mutant("a change of the world is a repeat", _changes_count_as_repeats, (28,), "store", (RepeatOutput,)),
    Mutant("one yes is for all calls", _a_yes_is_for_all, (29,), "porter", ()),
    Mutant("no gate is shut", _gates_are_open, (29,), "porter"),
    Mutant("a yes is used after it expired", _expiry_is_not_looked_at, (29,), "porter", (ClockJump,), 0),
    Mutant("silence is a yes", _silence_is_a_yes, (30,), "porter"),
    Mutant("a restart is a yes", _a_restart_is_a_yes, (30,), "porter"),
    Mutant("arguments are not checked", _arguments_are_not_checked, (31,), "store", (WrongSchema,)),
    Mutant("an unknown tool is the nearest one", _unknown_is_the_nearest, (31,), "clerk", (UnknownTool,)),
    Mutant("the disk acknowledges first", _acknowledges_first, (32, 33), "desk"),
    Mutant("it is done before it is written", _acts_before_commit, (33,), "store"),
    Mutant("the asker hears before the disk", _answers_before_commit, (33,), "clerk", (Crash,)),
    Mutant("state is kept beside the journal", _state_beside_the_journal, (34,), "clerk"),
    Mutant("the fold remembers", _the_fold_remembers, (35, 34), "clerk"),
    Mutant("a process counts incarnations anew", _incarnations_count_anew, (36,), "clerk", (Crash,)),
    Mutant("checksums are not read", _checksums_are_not_read, (37,), "clerk"),
)
