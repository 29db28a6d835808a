from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.errors import SpecError
from understudy.supervisors.guards.approvals import RULES, ApprovalRule, Approvals, stricter

TABLE = Approvals(by={"finance": ["ana", "li"], "legal": ("li", "bo")})
RULE = st.sampled_from(RULES)


def test_the_default_expires_in_two_days_and_names_nobody() -> None:
    assert Approvals().expires == 172_800
    assert Approvals().by == {}


def test_only_the_people_of_a_policy_may_answer_it() -> None:
    assert TABLE.may(["finance"], "ana")
    assert not TABLE.may(["finance"], "bo")
    assert TABLE.people(["finance"]) == ("ana", "li")


def test_who_answers_two_policies_must_satisfy_both() -> None:
    assert TABLE.people(["finance", "legal"]) == ("li",)
    assert not TABLE.may(["finance", "legal"], "ana")
    assert TABLE.may(["legal", "finance"], "li")


def test_a_policy_outside_the_table_lets_nobody_answer() -> None:
    assert TABLE.people(["finence"]) == ()
    assert not TABLE.may(["finance", "finence"], "ana")


def test_a_question_of_no_policy_may_be_answered_by_anyone_with_a_name() -> None:
    assert TABLE.people([]) is None
    assert TABLE.people([""]) is None
    assert TABLE.may([""], "zoe")
    assert not TABLE.may([""], "")


def test_the_nameless_policy_can_be_given_people_too() -> None:
    assert Approvals(by={"": ["ana"]}).people([""]) == ("ana",)
    assert TABLE.people(["", "finance"]) == ("ana", "li")


def test_a_policy_nobody_may_answer_is_refused_at_start_with_the_place() -> None:
    TABLE.check("finance", "tool pay")
    TABLE.check("", "tool pay")
    with pytest.raises(SpecError, match=r"tool pay needs approval 'finence'.* has: 'finance', 'legal'"):
        TABLE.check("finence", "tool pay")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"expires": 0}, r"Approvals\.expires must be a finite number of seconds > 0, got 0"),
        ({"expires": math.inf}, r"Approvals\.expires .* got inf"),
        ({"by": {"finance": []}}, r"Approvals\.by\['finance'\] must list the names of people, got \[\]"),
        ({"by": {"finance": "ana"}}, r"Approvals\.by\['finance'\] .* got 'ana'"),
        ({"by": {"finance": [""]}}, r"Approvals\.by\['finance'\]"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        Approvals(**options)


@pytest.mark.parametrize(
    ("tool", "policy", "wins"),
    [("allow", "ask", "ask"), ("ask", "allow", "ask"), ("ask", "refuse", "refuse"), ("allow", "allow", "allow")],
)
def test_the_stricter_rule_wins(tool: ApprovalRule, policy: ApprovalRule, wins: ApprovalRule) -> None:
    assert stricter(tool, policy) == wins


@given(RULE, RULE)
def test_which_side_says_it_makes_no_difference(one: ApprovalRule, other: ApprovalRule) -> None:
    assert stricter(one, other) == stricter(other, one)
    assert RULES.index(stricter(one, other)) >= max(RULES.index(one), RULES.index(other))


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="approval rule 'maybe' is unknown; allowed: allow, ask, refuse"):
        stricter("allow", "maybe")  # type: ignore[arg-type]  # the mistake under test
