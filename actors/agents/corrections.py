"""Bills that come later: what a model call really cost, in the place of the cap that was counted.

A call whose outcome is unknown (a lost reply, a process that ended, a provider that does not count) costs its full
cap and is `estimated`. Who learns of its real cost says so here, once a call.
"""

from __future__ import annotations

from understudy.actors.agents.context import model_of
from understudy.actors.agents.models import Usage
from understudy.actors.agents.runs import Runs
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.state import Estimate, Run


async def estimates(runs: Runs, run: str) -> list[Estimate]:
    """The calls of a run that are counted with their caps, oldest first. Raises `UnknownRun`."""
    return list((await runs.find(run)).estimates.values())


async def correct(runs: Runs, run: str, ticket: str, usage: Usage) -> Run:
    """Put what a call cost in the place of its cap; committed when it returns.

    `usage` of no tokens: it was never billed. More than the cap is overspend: reported, and the pool is closed. Raises
    `UnknownRun`, and `UsageError` for a call that is not estimated, or was corrected already.
    """
    state = await runs.find(run)
    estimate = state.estimates.get(ticket)
    if estimate is None:
        known = ", ".join(state.estimates) or "none"
        raise UsageError(f"run {run} has no estimated call {ticket!r}; estimated are: {known}")
    if min(usage.input_tokens, usage.output_tokens) < 0:
        raise UsageError(f"call {ticket!r} cannot have cost {usage!r}")
    runs.keep(state)
    spent = _cost(runs, state, estimate, usage)
    breaches = runs.correct(estimate, spent)
    for breach in breaches:
        runs.append(run, ev.BudgetBreached(breach.pool, breach.unit, breach.over), sub=estimate.sub)
    capped = {breach.unit for breach in breaches}
    kept = {unit: min(amount, estimate.spent[unit]) if unit in capped else amount for unit, amount in spent.items()}
    runs.append(run, ev.SpendCorrected(ticket, kept), sub=estimate.sub)
    await runs.journal.barrier()
    return state


def _cost(runs: Runs, state: Run, estimate: Estimate, usage: Usage) -> dict[str, int]:
    tokens = {
        "tokens": usage.input_tokens + usage.output_tokens,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
    }
    sub = state.subs[estimate.sub]
    policy = runs.policies.get(sub.agent)
    price = model_of(sub, policy).price if policy is not None else None
    if price is not None and "usd" in estimate.spent:
        tokens["usd"] = price.cost(usage.input_tokens, usage.output_tokens)
    return {**estimate.spent, **tokens}
