"""What runs spend: their pools in the ledger, their seconds alive, and who waits for room or for time to pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

from understudy.actors.agents.guards import Breach, Ledger
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Run, Sub
from understudy.actors.kernel import Kernel


class Books:
    """The accounts of one node's runs."""

    def __init__(self, kernel: Kernel, ledger: Ledger, policies: Mapping[str, Policy]) -> None:
        self.kernel = kernel
        self.ledger = ledger
        self.policies = policies
        self.closing = False
        self._freed: list[asyncio.Future[None]] = []
        self._pauses: set[asyncio.Future[None]] = set()

    def policy(self, agent: str) -> Policy:
        """The policy of an agent by name. Raises `UsageError`."""
        try:
            return self.policies[agent]
        except KeyError:
            known = ", ".join(sorted(self.policies)) or "none"
            raise UsageError(f"agent {agent!r} is not part of this system; its agents: {known}") from None

    # -- waiting -------------------------------------------------------------------------------------------

    def settle(self, ticket: str, spent: dict[str, int]) -> tuple[Breach, ...]:
        """Settle a reservation and wake who waits for room in a pool."""
        breaches = self.ledger.settle(ticket, spent)
        self._wake_waiting()
        return breaches

    def forfeit(self, asking: ev.ModelAsked) -> ev.ModelFailed:
        """Settle a model call that a former process or incarnation began, and that has no outcome: it costs its cap."""
        spent = dict(asking.reserved)
        with contextlib.suppress(UsageError):  # of a former process: booked when the run was loaded
            self.settle(asking.ticket, spent)
        text = "in flight when the former process or incarnation ended"
        return ev.ModelFailed(asking.step, asking.ticket, "interrupted", text, True, spent, estimated=True)

    def _wake_waiting(self) -> None:
        freed, self._freed = self._freed, []
        _resolve(freed)

    async def room(self, seconds: float) -> None:
        """Wait until something was settled or the system closes, at most `seconds`."""
        future = self.kernel.loop.create_future()
        self._freed.append(future)
        await asyncio.wait([future], timeout=seconds)
        with contextlib.suppress(ValueError):
            self._freed.remove(future)

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
        self._wake_waiting()

    # -- pools ---------------------------------------------------------------------------------------------

    def rebook(self, run: Run, *, own: bool, shared: bool) -> None:
        """Give the ledger what the run has spent in a former process: in its `own` pools, in those `shared` by runs.

        What was in flight counts with its cap, at once: its outcome is told later, when its turn comes.
        """
        if own:
            self.declare_pools(run)
        for pool, spent in _spent(run):
            if shared if not _is_own(pool, run.id) else own:
                with contextlib.suppress(UsageError):  # a pool of a former tree that this one does not have
                    self.ledger.book([pool], spent)
        for pool, over in run.over.items():
            if shared if not _is_own(pool, run.id) else own:
                with contextlib.suppress(UsageError):
                    for unit, amount in over.items():
                        self.ledger.close(pool, unit, amount)

    def forget_pools(self, run: Run) -> None:
        """Drop the pools that counted this run alone."""
        for pool in run.booked:
            if _is_own(pool, run.id):
                with contextlib.suppress(UsageError):
                    self.ledger.forget(pool)

    def counts_beyond_runs(self) -> bool:
        """Whether some pool counts more than one run, so that ended runs matter to it."""
        budgets = [pair for policy in self.policies.values() for pair in policy.budgets]
        return any(not _is_own(budget.pool(owner, "run").key, "run") for owner, budget in budgets)

    def declare_pools(self, run: Run) -> None:
        """Make the pools of every agent known for this run."""
        for policy in self.policies.values():
            for owner, budget in policy.budgets:
                self.ledger.declare(budget.pool(owner, run.id))

    def pools_of(self, run: Run, sub: Sub) -> tuple[str, ...]:
        """The union of both chains: the agent up to the root, and the (sub-)runs that asked for this one."""
        keys: dict[str, None] = {}
        current: Sub | None = sub
        while current is not None:
            for owner, budget in self.policy(current.agent).budgets:
                pool = budget.pool(owner, run.id)
                self.ledger.declare(pool)
                keys[pool.key] = None
            current = run.subs.get(current.parent)
        return tuple(keys)

    # -- seconds -------------------------------------------------------------------------------------------

    def alive(self, run: Run) -> float:
        """Seconds the run was alive until now; waiting for a person does not count."""
        running = 0.0 if run.mono is None or run.resting else self.kernel.clock.monotonic() - run.mono
        return run.spend.alive + max(0.0, running)

    def seconds_left(self, run: Run, sub: Sub) -> tuple[float, str, float]:
        """(seconds the run may still be alive, the pool that says so, its limit); infinity without a limit."""
        best = (float("inf"), "", float("inf"))
        current: Sub | None = sub
        alive = self.alive(run)
        while current is not None:
            known = self.policies.get(current.agent)
            for owner, budget in known.budgets if known is not None else ():
                pool = budget.pool(owner, run.id)
                if pool.seconds is not None and pool.seconds - alive < best[0]:
                    best = (pool.seconds - alive, pool.key, pool.seconds)
            current = run.subs.get(current.parent)
        return best

    def late(self, run: Run, sub: Sub) -> ev.BudgetDenied | None:
        """What to journal when the (sub-)run has used up its seconds."""
        left, pool, limit = self.seconds_left(run, sub)
        if left > 0:
            return None
        # Rounded so that what was spent is never told as less than the limit.
        return ev.BudgetDenied(pool, "seconds", int(limit), -int(-self.alive(run) // 1), 0, 0)


def _resolve(futures: Iterator[asyncio.Future[None]] | list[asyncio.Future[None]] | set[asyncio.Future[None]]) -> None:
    for future in list(futures):
        if not future.done():
            future.set_result(None)


def _is_own(pool: str, run: str) -> bool:
    return pool.endswith(f"@{run}")


def _spent(run: Run) -> Iterator[tuple[str, dict[str, int]]]:
    yield from run.booked.items()
    for pools, reserved in run.tickets.values():
        for pool in pools:
            yield pool, reserved
