"""Who approves a call may change its arguments: the yes is bound to what it is then, and the model is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from acted import Acted, call, calls, script, told, turns, words

from understudy import Agent, Approvals, System, tool
from understudy.actors.agents.commands import call_digest
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.fold import fold
from understudy.actors.journal.replay import replay
from understudy.supervisors.operator import tree as trees
from understudy.supervisors.operator.log import entries

pytestmark = pytest.mark.promise(284)

sent: list[tuple[str, int]] = []


@tool(effect="irreversible", approve="finance")
async def pay(order: str, cents: int = 100) -> str:
    """Pay a customer back."""
    sent.append((order, cents))
    return f"sent {cents}"


@pay.approve_when
def large(order: str, cents: int = 100) -> bool:
    return cents > 2_000


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    sent.clear()


def echo(request: ModelRequest) -> ModelReply:
    """Pays 4,000 once, then repeats what it was told."""
    return words(told(request)[-1]) if turns(request) else calls(call("pay", order="1042", cents=4000))


def clerk(says: Any = echo) -> Agent[Any, Any]:
    return Agent("clerk", model=Acted(says), tools=[pay], approvals=Approvals(by={"finance": ["ana", "li"]}))


@pytest.mark.anyio
async def test_the_call_is_made_with_the_changed_arguments_and_the_model_is_told_by_whom() -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        assert waiting.status == "waiting"
        await system.approve(waiting.pending[0], by="ana", arguments={"cents": 2500})
        result = await system.resume(waiting.run)
        records = await system.journal.read(waiting.run)
        assert replay(records, system.tree.policies).identical
    assert sent == [("1042", 2500)]
    assert result.unwrap() == (
        "Note from the supervisor: ana approved this call with other arguments than you asked for. It was made with:"
        ' {"order":"1042","cents":2500}\n"sent 2500"'
    )
    [given] = [record.event for record in records if isinstance(record.event, ev.ApprovalGiven)]
    [asked] = [record.event for record in records if isinstance(record.event, ev.ApprovalAsked)]
    [begun] = [record.event for record in records if isinstance(record.event, ev.ToolAsked)]
    assert given.digest == call_digest("pay", begun.arguments) != asked.digest
    assert (given.by, given.policy, len(given.version)) == ("ana", "finance", 16)
    assert msgspec.json.decode(begun.arguments) == {"order": "1042", "cents": 2500}
    assert begun.approval == given.approval
    assert "changed to" in next(row.outcome for row in entries(records) if row.kind == "approval")
    assert "a1 approved by ana, changed" in [row.last for row in trees.tree(records, live=False).rows]


@pytest.mark.anyio
async def test_what_the_model_itself_asked_for_stays_in_its_window() -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        await system.approve(waiting.pending[0], by="ana", arguments={"cents": 2500})  # type: ignore[union-attr]  # it waits
        await system.resume(waiting.run)
    assert isinstance(agent.model, Acted)
    [spoken] = [message for message in agent.model.seen[-1].messages if message.role == "assistant"]
    assert msgspec.json.decode(spoken.calls[0].arguments) == {"order": "1042", "cents": 4000}


@pytest.mark.anyio
async def test_a_call_that_would_need_no_yes_as_changed_uses_its_yes_up_all_the_same() -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        await system.approve(waiting.run + "-a1", by="ana", arguments={"cents": 5})
        await system.resume(waiting.run)
        state = system.state(waiting.run)
    assert sent == [("1042", 5)]
    assert [yes.state for yes in state.approvals.values()] == ["used"]


@pytest.mark.anyio
async def test_a_change_that_changes_nothing_is_a_plain_yes() -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        await system.approve("a1", by="li", arguments={"cents": 4000, "order": "1042"})
        result = await system.resume(waiting.run)
    assert (result.unwrap(), sent) == ('"sent 4000"', [("1042", 4000)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"cents": "many"}, "the changed arguments of pay do not fit: Expected `int`, got `str` - at `$.cents`"),
        ({"centz": 5}, "do not fit: Object contains unknown field `centz`"),
        ({"cents": object()}, "arguments: Encoding objects of type object is unsupported"),
    ],
)
@pytest.mark.anyio
async def test_arguments_that_do_not_fit_are_refused_by_name_and_the_question_stays_open(
    arguments: dict[str, object], said: str
) -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        with pytest.raises(UsageError) as refused:
            await system.approve("a1", by="ana", arguments=arguments)
        assert said in str(refused.value)
        assert len(system.approvals()) == 1
        await system.approve("a1", by="ana")
        await system.resume(waiting.run)
    assert sent == [("1042", 4000)]


@pytest.mark.anyio
async def test_a_yes_that_was_given_is_not_changed_any_more() -> None:
    agent = clerk(script(calls(call("pay", order="1", cents=4000), call("pay", order="2", cents=9000)), words("done")))
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        await system.approve("a1", by="ana")
        with pytest.raises(UsageError, match=r"approval .*-a1 was approved already by ana|a1 was approved and used"):
            await system.approve(f"{waiting.run}-a1", by="li", arguments={"cents": 3000})
        assert (await system.resume(waiting.run)).status == "waiting"
        assert sent == [("1", 4000)]


@pytest.mark.anyio
async def test_arguments_that_were_changed_after_the_yes_are_refused_at_use() -> None:
    agent = clerk()
    async with System(agent) as system:
        waiting = await system.run(agent, "go")
        run = system.state(waiting.run)
        records = await system.journal.read(waiting.run)
        given = ev.ApprovalGiven(f"{run.id}-a1", "ana", call_digest("pay", '{"order":"1042","cents":1}'), "finance")
        forged = msgspec.structs.replace(given, arguments='{"order":"1042","cents":9999}')
        record = ev.Record(run.id, run.seq + 1, 1.0, 1.0, 0, "", 0, 0, forged)
        state = fold([*records, record])
        from understudy.actors.agents.decide import decide

        command = decide(state, state.main, system.tree.policies["clerk"])
        assert getattr(command, "reason", "") == "the arguments are not those that were approved"
    assert sent == []


@pytest.mark.anyio
async def test_a_changed_call_survives_the_process_and_is_finished_by_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    async with System(clerk(), journal=path) as system:
        waiting = await system.run(next(iter(system.tree.policies.values())).agent, "go")
    async with System(clerk(), journal=path) as system:
        await system.approve("a1", by="ana", arguments={"cents": 2100})
        result = await system.resume(waiting.run)
    assert sent == [("1042", 2100)]
    assert "ana approved this call with other arguments" in result.unwrap()


@pytest.mark.anyio
async def test_a_call_in_doubt_that_did_not_happen_is_asked_for_again_as_the_model_wanted_it() -> None:
    asked: list[ev.AnyEvent] = [
        ev.RunStarted("clerk", "Prompt", '{"text": "go"}'),
        ev.AttemptStarted(1),
        ev.ModelAsked(1, {}, 9, {}, (), "t"),
        ev.ModelAnswered(1, "t", calls(call("pay", order="1", cents=4000)), {}),
        ev.ApprovalAsked("7f3a-a1", 1, 0, "pay", '{"order": "1", "cents": 4000}', "d", "finance", 9e9),
        ev.ApprovalGiven("7f3a-a1", "ana", "e", "finance", '{"order":"1","cents":2100}'),
        ev.ToolAsked(1, 0, "pay", '{"order":"1","cents":2100}', "irreversible", "", approval="7f3a-a1"),
        ev.InDoubt("7f3a-d1", 1, 0, "pay", '{"order":"1","cents":2100}', "irreversible"),
        ev.DoubtSettled("7f3a-d1", False, "ana"),
    ]
    state = fold(ev.Record("7f3a", n, 1e9, float(n), 0, "clerk", 1, 0, event) for n, event in enumerate(asked, 1))
    found = state.main.find(1, 0)
    assert found is not None
    assert (found.approval, found.edited, msgspec.json.decode(found.arguments)["cents"]) == ("", "", 4000)
