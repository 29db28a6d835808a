"""Invariants 29 to 31 know that who approves a call may change it, and let nothing else pass."""

from __future__ import annotations

from typing import Any

import pytest
from acted import call, calls

from understudy import tool
from understudy.actors.agents.commands import call_digest
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Declared, Evidence, ToolBegan, Word, Written
from understudy.supervisors.testing.gating import gated, registry, silence_is_no_yes

pytestmark = pytest.mark.promise(284)

ASKED, EDITED = '{"order": "1", "cents": 4000}', '{"order":"1","cents":5}'


@tool(effect="irreversible", approve="finance")
async def pay(order: str, cents: int) -> str:
    """Pay a customer back."""
    return "sent"


def evidence(used: str, *, given: str = EDITED) -> Evidence:
    """A call that was asked for with `ASKED`, approved as `given`, and made with `used`."""
    yes = ev.ApprovalGiven("7f3a-a1", "ana", call_digest("pay", given or ASKED), "finance", given)
    events: list[ev.AnyEvent] = [
        ev.RunStarted("clerk", "Prompt", '{"text": "go"}'),
        ev.ModelAnswered(1, "t", calls(call("pay", order="1", cents=4000)), {}),
        ev.ApprovalAsked("7f3a-a1", 1, 0, "pay", ASKED, call_digest("pay", ASKED), "finance", 9e9),
        yes,
        ev.ToolAsked(1, 0, "pay", used, "irreversible", "", approval="7f3a-a1"),
    ]
    records = [Record("7f3a", n, 1.0, 1.0, 0, "", 0, 0, event) for n, event in enumerate(events, 1)]
    cents = 4000 if used == ASKED else 5 if used == EDITED else 9
    began = ToolBegan("7f3a", 0, 1, 0, "pay", {"order": "1", "cents": cents}, "", 1.0)
    said = Word("7f3a-a1", "ana", True, 1.0)
    nothing: Any = {}  # nothing was seen by models and clients, and these look at none of it
    declared = {"clerk": Declared((), {"pay": pay}, by={"finance": ["ana"]})}
    return Evidence([said, Written(tuple(records)), began], nothing, nothing, [], nothing, nothing, declared)


def violations(found: Evidence) -> list[str]:
    return [*gated(found), *silence_is_no_yes(found), *registry(found)]


def test_a_call_that_is_made_as_it_was_changed_violates_nothing() -> None:
    assert violations(evidence(EDITED)) == []
    assert violations(evidence(ASKED, given="")) == []


@pytest.mark.parametrize(("used", "given"), [(ASKED, EDITED), (EDITED, ""), ('{"order":"1","cents":9}', EDITED)])
def test_a_call_that_is_made_otherwise_than_it_was_approved_is_found(used: str, given: str) -> None:
    found = violations(evidence(used, given=given))
    assert any("which is for pay" in each for each in found)
    assert any("is not what the model asked for" in each for each in found)
