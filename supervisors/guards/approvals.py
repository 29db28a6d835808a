"""Approvals: who may say yes, how long a question stays open, and which rule wins.

A question names the policies that ask (the tool's own, the supervisor's, or both). Who answers must satisfy all
of them: the stricter wins. A policy that names nobody lets nobody answer; silence never becomes a yes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

from msgspec import Struct, field

from understudy.actors.errors import SpecError
from understudy.supervisors.checks import check_number

ApprovalRule = Literal["allow", "ask", "refuse"]
"""What a rule says about one call, from the mildest to the strictest."""

RULES: Final[tuple[ApprovalRule, ...]] = get_args(ApprovalRule)

ANYONE: Final = ""
"""The policy of a call that must be approved but names no policy: every named person may answer it."""


class Approvals(Struct, frozen=True):
    """`expires`: seconds until an open question becomes a no (default 48 hours). `by`: policy -> people who may answer.

    Raises `SpecError` for a duration that is not > 0, a policy without people, or people given as one string.
    """

    expires: float = 48 * 3600.0
    by: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])

    def __post_init__(self) -> None:
        check_number("Approvals.expires", self.expires, above=True, unit="seconds")
        for policy, people in self.by.items():
            if isinstance(people, str) or not people or not all(people):
                raise SpecError(f"Approvals.by[{policy!r}] must list the names of people, got {people!r}")

    def people(self, policies: Iterable[str]) -> tuple[str, ...] | None:
        """Who may answer a question of all `policies`, in the order of the first; None is anyone.

        Of no policy, or of `ANYONE` alone, anyone may. A policy that is not in the table lets nobody.
        """
        allowed: tuple[str, ...] | None = None
        for policy in policies:
            if policy == ANYONE and policy not in self.by:
                continue
            named = self.by.get(policy, ())
            allowed = tuple(person for person in (named if allowed is None else allowed) if person in named)
        return allowed

    def may(self, policies: Iterable[str], by: str) -> bool:
        """Whether the person `by` may answer a question of all `policies`. Nobody without a name may."""
        allowed = self.people(policies)
        return bool(by) and (allowed is None or by in allowed)

    def check(self, policy: str, where: str) -> None:
        """Raise `SpecError` unless somebody may answer `policy`, asked for by `where`. Called at start."""
        if policy != ANYONE and policy not in self.by:
            known = ", ".join(repr(name) for name in self.by) or "none"
            raise SpecError(f"{where} needs approval {policy!r}, which nobody may give; Approvals.by has: {known}")


def stricter(tool_rule: ApprovalRule, policy_rule: ApprovalRule) -> ApprovalRule:
    """The stricter of what the tool and the supervisor's policy say. Raises `SpecError` for an unknown rule."""
    for rule in (tool_rule, policy_rule):
        if rule not in RULES:
            raise SpecError(f"approval rule {rule!r} is unknown; allowed: {', '.join(RULES)}")
    return tool_rule if RULES.index(tool_rule) >= RULES.index(policy_rule) else policy_rule
