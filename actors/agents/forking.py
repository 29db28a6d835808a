"""Forking a run: what it takes is checked, the new stream is written at once, and the new run is driven on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from understudy.actors.agents.chains import chain_of
from understudy.actors.agents.runs import Runs
from understudy.actors.errors import ActorStopped, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.forks import Change, forked
from understudy.actors.journal.state import Run, Sub
from understudy.actors.lifecycle import Exit
from understudy.actors.tasks import new_task


async def fork(runs: Runs, records: Sequence[ev.Record], at: int, change: Change, by: str = "") -> str:
    """Begin a run that goes on from event `at` of the run with these records; its id. See `journal.forks`.

    What is written of it is there as a whole or not at all, also when the caller is cancelled. Raises `UsageError`
    where it cannot be forked or changed so, `ActorStopped`, `AgentQuarantined`, and `JournalError`.
    """
    name = runs.fresh()

    def pools(run: Run, sub: Sub) -> tuple[str, ...]:
        return chain_of(run, sub, runs.policies)[0].pools

    clock = runs.kernel.clock
    made = forked(records, at, name, pools, change, now=(clock.wall(), clock.monotonic()), by=by)
    _check_change(runs, made[at].event)
    state = fold(made)
    for sub in state.subs.values():
        if sub.finished is None:
            policy = runs.policy(sub.agent)
            runs.quarantine.check(sub.agent, policy.path)
            if runs.closing:
                raise ActorStopped(policy.path, Exit("shutdown", "the system accepts nothing new"))
    await asyncio.shield(new_task(_begin(runs, made), runs.kernel.loop, name="understudy-fork"))
    return name


def _check_change(runs: Runs, event: ev.AnyEvent) -> None:
    if not isinstance(event, ev.Forked) or not event.agent:
        return
    agent = runs.policy(event.agent).agent
    if event.model and agent.named(event.model) is None:
        names = ", ".join(agent.names)
        raise UsageError(f"agent {agent.name!r} has no model {event.model!r}; its models are: {names}")


async def _begin(runs: Runs, made: Sequence[ev.Record]) -> None:
    state = fold(await runs.journal.begin(made))
    runs.keep(state)
    runs.rebook(state, own=True, shared=False)
    runs.drive_on(state)
