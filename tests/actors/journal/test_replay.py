"""Replay names the first command that depends on a change, and only a change."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from streams import Play, make_policy

from understudy.actors.agents.models import ModelReply
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.replay import replay
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Same


def scripted(replies: Sequence[str]) -> list[Record]:
    rest = list(replies)

    def choose(what: str, options: Sequence[str]) -> str:
        if what == "reply":
            return rest.pop(0) if rest else "answer"
        return {"outcome": "error", "person": "yes"}.get(what, options[0])

    return Play(make_policy(), choose).run()


def changed(records: list[Record], kind: type, edit: dict[str, object], nth: int = 0) -> tuple[list[Record], int]:
    positions = [n for n, r in enumerate(records) if isinstance(r.event, kind)]
    at = positions[nth]
    event = msgspec.structs.replace(records[at].event, **edit)
    return [*records[:at], msgspec.structs.replace(records[at], event=event), *records[at + 1 :]], at


def first_after(records: list[Record], at: int, kinds: tuple[type, ...]) -> int:
    return next(r.seq for r in records[at + 1 :] if isinstance(r.event, kinds))


def test_a_changed_tool_result_diverges_at_the_next_model_call() -> None:
    records = scripted(["looks", "look"])
    other, at = changed(records, ev.ToolFailed, {"error": "OSError: another"})
    report = replay(other, {"clerk": make_policy()})
    assert report.at == first_after(records, at, (ev.ModelAsked,))
    assert "history" in report.now
    assert "history" in report.recorded


def test_a_changed_model_reply_diverges_at_the_call_it_asked_for() -> None:
    records = scripted(["look", "put"])
    reply = next(r.event for r in records if isinstance(r.event, ev.ModelAnswered)).reply
    call = msgspec.structs.replace(reply.calls[0], arguments='{"what": "z"}')
    other, at = changed(records, ev.ModelAnswered, {"reply": msgspec.structs.replace(reply, calls=(call,))})
    report = replay(other, {"clerk": make_policy()})
    assert report.at == first_after(records, at, (ev.ToolAsked,))
    assert report.recorded == 'call look({"what": "a"})'
    assert report.now == 'call look({"what": "z"})'


def test_a_changed_final_answer_diverges_at_the_end() -> None:
    records = scripted(["look"])
    answers = [n for n, r in enumerate(records) if isinstance(r.event, ev.ModelAnswered)]
    other, _ = changed(records, ev.ModelAnswered, {"reply": ModelReply('{"text": "other"}')}, nth=len(answers) - 1)
    report = replay(other, {"clerk": make_policy()})
    assert report.at == records[-1].seq
    assert "other" in report.now


@pytest.mark.promise(19)
def test_a_changed_prompt_template_diverges_at_the_first_model_call() -> None:
    report = replay(scripted(["look"]), {"clerk": make_policy(instructions="Do it well.")})
    assert (report.at, report.step) == (3, 1)
    assert "instructions" in report.now


@pytest.mark.parametrize("threshold", [2, 4])
def test_a_changed_guard_threshold_diverges_where_the_verdict_was_or_would_be(threshold: int) -> None:
    records = scripted(["look"] * 3)
    judged = next(r.seq for r in records if isinstance(r.event, ev.Judged))
    report = replay(records, {"clerk": make_policy(loops=Loops(Same(threshold)))})
    assert report.at is not None
    if threshold > 3:
        assert report.at == judged
        assert "verdict" in report.recorded
        assert report.now.startswith("call model")
    else:
        assert report.at < judged
        assert "verdict loops.same(2)" in report.now


def test_an_agent_that_the_app_does_not_have_is_named() -> None:
    report = replay(scripted([]), {})
    assert report.at == 3
    assert "no agent 'clerk'" in report.now


def test_the_seed_of_these_streams_does_not_matter() -> None:
    dice = random.Random(7)
    play = Play(make_policy(), lambda what, options: dice.choice(options))
    assert replay(play.run(), {"clerk": make_policy()}).identical
