"""What a (sub-)run is charged to: the union of the executor chain and the request chain, with its limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from understudy.actors.agents.guards import TOOL, Pool
from understudy.actors.agents.models import Model
from understudy.actors.agents.policy import Policy
from understudy.actors.journal.state import Run, Sub


@dataclass(frozen=True, slots=True)
class Chain:
    """What a (sub-)run is charged to, found once: the union of executor chain and request chain.

    `pools` are their keys. `seconds` is (limit, pool) of the tightest deadline, infinite without one, `warn` what
    agents are told of: (limit, told at, pool). `tools` are the units that count calls of one tool. `depth` is (what is
    left of it, limit, pool), `fan_out` (limit, pool). `last_answer`: tokens set aside, 0 for none. `missing` names
    an agent that is not part of this system.
    """

    pools: tuple[str, ...]
    seconds: tuple[float, str]
    warn: tuple[tuple[float, float, str], ...]
    tools: frozenset[str]
    depth: tuple[int, int, str] | None
    fan_out: tuple[int, str] | None
    last_answer: int
    missing: str


def chain_of(run: Run, sub: Sub, policies: Mapping[str, Policy]) -> tuple[Chain, list[Pool]]:
    """The chain of a (sub-)run under `policies`, by agent name, and its pools: of the agent up to the root, and of the
    (sub-)runs that asked for this one.
    """
    found: dict[str, tuple[Pool, int]] = {}
    missing, distance = "", 0
    current: Sub | None = sub
    while current is not None:
        policy = policies.get(current.agent)
        missing = missing or (current.agent if policy is None else "")
        for owner, budget in policy.budgets if policy is not None else ():
            pool = budget.pool(owner, run.id)
            found[pool.key] = (pool, distance)  # the farthest counts: there the pool was charged first
        current, distance = run.subs.get(current.parent), distance + 1
    if run.escrow is not None:
        pool = escrow_pool(run)
        found[pool.key] = (pool, distance)
    pools = [pool for pool, _ in found.values()]
    timed = [(pool.seconds, pool.key, pool.warn) for pool in pools if pool.seconds is not None]
    depths = [(pool.depth - far, pool.depth, pool.key) for pool, far in found.values() if pool.depth is not None]
    chain = Chain(
        tuple(found),
        min(((seconds, key) for seconds, key, _ in timed), default=(inf, "")),
        tuple((seconds, seconds * warn, key) for seconds, key, warn in timed if warn is not None),
        frozenset(unit for pool in pools for unit in pool.limits if unit.startswith(TOOL)),
        min(depths, default=None),
        min(((pool.fan_out, pool.key) for pool in pools if pool.fan_out is not None), default=None),
        max((pool.last_answer or 0 for pool in pools), default=0),
        missing,
    )
    return chain, pools


def escrow_pool(run: Run) -> Pool:
    """The pool of a run that another node delegated: what that node reserved for it."""
    return Pool(f"escrow@{run.id}", "escrow", run.escrow or {}, run.escrow_seconds)


def no_delegation(chain: Chain, sub: Sub) -> str:
    """Why a (sub-)run may not delegate once more: the pool and its limit; "" if it may."""
    if chain.depth is not None and chain.depth[0] <= 0:
        return f"budget {chain.depth[2]}: delegations are nested {chain.depth[1]} deep at most"
    if chain.fan_out is not None and sub.children >= chain.fan_out[0]:
        return f"budget {chain.fan_out[1]}: one agent delegates {chain.fan_out[0]} times at most in a request"
    return ""


def cost(model: Model, tokens_in: int, tokens_out: int, *, steps: int) -> dict[str, int]:
    """What a call of a model costs that counts so many tokens, by unit; money only with a price."""
    amounts = {
        "steps": steps,
        "model_calls": 1,
        "tokens": tokens_in + tokens_out,
        "input_tokens": tokens_in,
        "output_tokens": tokens_out,
    }
    if (price := model.price) is not None:
        amounts["usd"] = price.cost(tokens_in, tokens_out)
    return amounts
