"""What runs spend: their pools in the ledger, their seconds alive, and who waits for room or for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Any

import anyio

from understudy.actors.agents.chains import Chain, chain_of, escrow_pool, no_delegation
from understudy.actors.agents.guards import Breach, Busy, Denied, Ledger, Low
from understudy.actors.agents.policy import Policy
from understudy.actors.agents.tools import Tool
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.spends import dated, is_own
from understudy.actors.journal.state import Estimate, Run, Sub
from understudy.actors.kernel import Kernel


class Books:
    """The accounts of one node's runs."""

    def __init__(self, kernel: Kernel, ledger: Ledger, policies: Mapping[str, Policy]) -> None:
        self.kernel = kernel
        self.ledger = ledger
        self.policies = policies
        self.closing = False
        self._slots: dict[int, anyio.CapacityLimiter] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._pauses: set[asyncio.Future[None]] = set()
        self._chains: dict[str, dict[tuple[int, str], Chain]] = {}
        declared = [budget.pool(owner, "run") for policy in policies.values() for owner, budget in policy.budgets]
        self._windows = {pool.key: pool.window for pool in declared if pool.window is not None}
        self._shared = {pool.key for pool in declared if not is_own(pool.key, "run")}

    def policy(self, agent: str) -> Policy:
        """The policy of an agent by name. Raises `UsageError`."""
        try:
            return self.policies[agent]
        except KeyError:
            known = ", ".join(sorted(self.policies)) or "none"
            raise UsageError(f"agent {agent!r} is not part of this system; its agents: {known}") from None

    def slots_of(self, act: Tool[..., Any]) -> anyio.CapacityLimiter | None:
        """The places of a tool in this node; None for one without a limit."""
        if act.concurrency is None:
            return None
        found = self._slots.get(id(act))
        if found is None:
            found = self._slots[id(act)] = anyio.CapacityLimiter(act.concurrency)
        return found

    # -- waiting -------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The time that the ledger is told: the wall clock's where a pool has a window."""
        return self.kernel.clock.wall() if self._windows else 0.0

    def reserve(
        self, ticket: str, pools: tuple[str, ...], amounts: dict[str, int], *, keep: bool = False
    ) -> Denied | Busy | None:
        """Take a reservation in all pools or in none."""
        return self.ledger.reserve(ticket, pools, amounts, now=self.now(), keep=keep)

    def settle(self, ticket: str, spent: dict[str, int]) -> tuple[Breach, ...]:
        """Settle a reservation and wake who waits longest for room in a pool."""
        breaches = self.ledger.settle(ticket, spent, now=self.now())
        for pool in list(self._waiting) if self._waiting else ():
            self.pass_on(pool)
        return breaches

    def forfeit(self, asking: ev.ModelAsked) -> ev.ModelFailed:
        """Settle a model call that a former process or incarnation began, and that has no outcome: it costs its cap."""
        spent = dict(asking.reserved)
        with contextlib.suppress(UsageError):  # of a former process: booked when the run was loaded
            self.settle(asking.ticket, spent)
        text = "in flight when the former process or incarnation ended"
        return ev.ModelFailed(asking.step, asking.ticket, "interrupted", text, True, spent, estimated=True)

    def pass_on(self, pool: str) -> None:
        """Wake the one that waits longest for room in a pool. Whoever was woken and waits no more passes it on.

        So a settlement wakes one, not all: a thousand that wait cost no more than those that get room.
        """
        queue = self._waiting.get(pool)
        while queue:
            future = queue.popleft()
            if not future.done():
                future.set_result(None)
                break
        if not queue:
            self._waiting.pop(pool, None)

    async def room(self, pool: str, seconds: float, *, first: bool = False) -> None:
        """Wait until something was settled or the system closes, at most `seconds`; behind the others, or `first`."""
        if self.closing:
            return
        future = self.kernel.loop.create_future()
        queue = self._waiting.setdefault(pool, deque())
        if first:
            queue.appendleft(future)
        else:
            queue.append(future)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            if not future.done():
                future.cancel()

    async def pause(self, seconds: float) -> None:
        """Let `seconds` pass; less when the system closes."""
        if self.closing:
            return
        future = self.kernel.loop.create_future()
        self._pauses.add(future)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._pauses.discard(future)

    def shut(self) -> None:
        """Nothing new begins from here on; who pauses or waits for room is woken."""
        self.closing = True
        _resolve(self._pauses)
        waiting, self._waiting = self._waiting, {}
        for queue in waiting.values():
            _resolve(list(queue))

    # -- pools ---------------------------------------------------------------------------------------------

    def rebook(self, run: Run, *, own: bool, shared: bool) -> None:
        """Give the ledger what the run has spent in a former process: in its `own` pools, in those `shared` by runs.

        What was in flight counts with its cap, at once: its outcome is told later, when its turn comes. Pools with a
        window are left to `book_dated`, which knows the times.
        """
        if own:
            self.declare_pools(run)

        def wanted(pool: str) -> bool:
            return pool not in self._windows and (own if is_own(pool, run.id) else shared)

        for pools, spent in _spent(run):
            for pool in pools:
                if wanted(pool):
                    with contextlib.suppress(UsageError):  # a pool of a former tree that this one does not have
                        self.ledger.book((pool,), spent)
        for pool, over in run.over.items():
            if wanted(pool):
                with contextlib.suppress(UsageError):
                    for unit, amount in over.items():
                        self.ledger.close(pool, unit, amount)

    def book_dated(self, records: Iterable[ev.Record]) -> None:
        """Give the pools that have a window what a run spent in a former process, with the times when it did."""
        now = self.now()
        for at, pools, spent in dated(records) if self._windows else ():
            for pool in pools:
                if pool in self._windows:
                    self.ledger.book((pool,), spent, at=now if at is None else min(at, now), now=now)
        for record in records if self._windows else ():
            event = record.event
            if isinstance(event, ev.BudgetBreached) and event.pool in self._windows:
                self.ledger.close(event.pool, event.unit, event.over, at=min(record.at, now), now=now)

    def book_pruned(self, records: Iterable[ev.Record]) -> None:
        """Give the ledger what runs spent that were pruned since, in pools that count more than one run."""
        now = self.now()
        for event in [record.event for record in records if isinstance(record.event, ev.Pruned)]:
            for each in event.spends:
                at = min(each.at, now) if each.pool in self._windows else 0.0
                with contextlib.suppress(UsageError):  # a pool of a former tree that this one does not have
                    self.ledger.book((each.pool,), each.spent, at=at, now=now if at else 0.0)
            for each in event.over:
                at = min(each.at, now) if each.pool in self._windows else 0.0
                with contextlib.suppress(UsageError):
                    for unit, amount in each.spent.items():
                        self.ledger.close(each.pool, unit, amount, at=at, now=now if at else 0.0)

    def forget_pools(self, run: Run) -> None:
        """Drop the pools that counted this run alone."""
        self._chains.pop(run.id, None)
        own = dict.fromkeys(pool for pools in run.booked for pool in pools if is_own(pool, run.id))
        for pool in own:
            with contextlib.suppress(UsageError):
                self.ledger.forget(pool)

    def counted_since(self) -> float:
        """Runs that ended before this wall time matter to no pool that counts more than one: infinite without such."""
        if len(self._windows) < len(self._shared):
            return -inf
        return self.now() - 2 * max(self._windows.values()) if self._windows else inf

    def declare_pools(self, run: Run) -> None:
        """Make the pools of every agent known for this run."""
        for policy in self.policies.values():
            for owner, budget in policy.budgets:
                self.ledger.declare(budget.pool(owner, run.id))
        if run.escrow is not None:
            self.ledger.declare(escrow_pool(run))

    def chain_of(self, run: Run, sub: Sub) -> Chain:
        """What a (sub-)run is charged to: the agent up to the root, and the (sub-)runs that asked for this one.

        Found once for each agent that it is at.
        """
        chains = self._chains.get(run.id)
        if chains is None:
            chains = self._chains[run.id] = {}
        key = (sub.id, sub.agent)
        chain = chains.get(key)
        if chain is None:
            chain = chains[key] = self._find_chain(run, sub)
        return chain

    def _find_chain(self, run: Run, sub: Sub) -> Chain:
        chain, pools = chain_of(run, sub, self.policies)
        for pool in pools:
            self.ledger.declare(pool)
        return chain

    def low(self, run: Run, chain: Chain) -> list[Low]:
        """The limits of a (sub-)run that have come near, its seconds among them."""
        found = self.ledger.low(chain.pools, now=self.now())
        if chain.warn and (alive := self.alive(run)) > 0:
            found += [Low(key, "seconds", int(limit), int(alive)) for limit, soft, key in chain.warn if alive >= soft]
        return found

    def no_delegation(self, run: Run, sub: Sub) -> str:
        """Why a (sub-)run may not delegate once more: the pool and its limit; "" if it may."""
        return no_delegation(self.chain_of(run, sub), sub)

    # -- corrections ---------------------------------------------------------------------------------------

    def correct(self, estimate: Estimate, spent: dict[str, int]) -> tuple[Breach, ...]:
        """Put what a call really cost in the place of its cap, in the pools that are still known."""
        breaches: list[Breach] = []
        for pool in estimate.pools:
            with contextlib.suppress(UsageError):  # of a run that was forgotten
                breaches += self.ledger.correct((pool,), estimate.spent, spent, at=estimate.at)
            self.pass_on(pool)
        return tuple(breaches)

    def return_escrow(self, event: ev.ToolAsked, escrow: dict[str, int], spent: dict[str, int]) -> None:
        """Put what was spent at another node in the place of the escrow; of a former process the whole was booked."""
        try:
            self.settle(event.ticket, spent)
        except UsageError:
            for pool in event.pools:
                with contextlib.suppress(UsageError):
                    self.ledger.correct((pool,), escrow, spent, at=self.now())
                self.pass_on(pool)

    # -- seconds -------------------------------------------------------------------------------------------

    def alive(self, run: Run) -> float:
        """Seconds the run was alive until now; waiting for a person does not count."""
        running = 0.0 if run.mono is None or run.resting else self.kernel.clock.monotonic() - run.mono
        return run.spend.alive + max(0.0, running)

    def seconds_left(self, run: Run, chain: Chain) -> tuple[float, str, float]:
        """(seconds the run may still be alive, the pool that says so, its limit); infinity without a limit."""
        limit, pool = chain.seconds
        return (limit - self.alive(run) if pool else inf), pool, limit

    def late(self, run: Run, chain: Chain) -> ev.BudgetDenied | None:
        """What to journal when the (sub-)run has used up its seconds."""
        left, pool, limit = self.seconds_left(run, chain)
        if left > 0:
            return None
        # Rounded so that what was spent is never told as less than the limit.
        return ev.BudgetDenied(pool, "seconds", int(limit), -int(-self.alive(run) // 1), 0, 0)


def _resolve(futures: Iterator[asyncio.Future[None]] | list[asyncio.Future[None]] | set[asyncio.Future[None]]) -> None:
    for future in list(futures):
        if not future.done():
            future.set_result(None)


def _spent(run: Run) -> Iterator[tuple[tuple[str, ...], Mapping[str, int]]]:
    for pools, spend in run.booked.items():
        yield pools, spend.amounts()
    yield from run.tickets.values()
