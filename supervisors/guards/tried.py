"""Budgets and rules of windows, fired once on something made up for them: a limit must hold, a full window get smaller.

A limit is tried when the tree is made, and one that does not hold is refused.
"""

from __future__ import annotations

from understudy.actors.agents.guards import BudgetRule
from understudy.actors.agents.models import ChatMessage, ToolCall
from understudy.actors.agents.window import Pressed, Rule
from understudy.actors.errors import SpecError, UnderstudyError
from understudy.actors.journal.view import View
from understudy.supervisors.guards.accounts import Accounts
from understudy.supervisors.guards.trail import REACH


def check_budget(where: str, owner: str, rule: BudgetRule) -> None:
    """Raise `SpecError` unless each limit of the pool that `rule` makes admits what it says, and no more than that."""
    for unit, limit in rule.pool(owner, "check").limits.items():
        if not _holds(rule, owner, unit, limit):
            raise SpecError(f"{where}: the budget of {owner!r} cannot fire: it does not hold {unit} to {limit}")


def _holds(rule: BudgetRule, owner: str, unit: str, limit: int) -> bool:
    """Whether a ledger with nothing in it admits a limit's amount, and refuses one more."""
    ledger, pool = Accounts(), rule.pool(owner, "check")
    try:
        ledger.declare(pool)
        beyond = ledger.reserve("beyond", [pool.key], {unit: limit + 1})
        within = ledger.reserve("within", [pool.key], {unit: limit})
    except UnderstudyError as error:
        raise SpecError(f"the budget of {owner!r}: {error}") from error
    return beyond is not None and within is None


def makes_room(rule: Rule, limit: int) -> bool:
    """Whether a rule does something about a full window of `limit` tokens, half of it failures, with long results."""
    keep, over = getattr(rule, "keep", 0), getattr(rule, "over", 0)
    view, steps = View(), 8 + 2 * min(keep, REACH)
    text = "a result " * (max(2 * over, view.room(limit) // steps) // 9 + 1)
    view.add("task", 0, [ChatMessage("user", "do it")], pinned=True)
    for step in range(1, steps + 1):
        call = ToolCall(f"c{step}", "sample", "{}")
        result = ChatMessage("tool", text, call_id=call.id)
        failed = step % 2 == 1
        view.show(step, [ChatMessage("assistant", "", (call,)), result], origin=f"0/{step}", failed=failed)
    free = [item for item in view.items if not item.pinned]
    size = view.size
    return rule.plan(Pressed(view, free, view.items[-1].number, size, size // 4, size // 2, limit)) is not None
