"""The scripted model: what it says follows from the conversation, and from nothing else."""

from __future__ import annotations

import json

import msgspec

from understudy.actors.agents.decide import NOTE, NUDGE
from understudy.demo.environment import DistributionRef, Facts, Files, Licence, Problem
from understudy.demo.findings import Finding, Report
from understudy.demo.messages import Draft, Inspected, Options
from understudy.demo.policy import STUCK, policy, split
from understudy.demo.requirements import Graph, Pin, Unused
from understudy.transports.testing.chats import ChatAnswer, ChatRequest

PLANNER = ("list_distributions", "inspector")
INSPECTOR = ("read_metadata", "read_files")
REVIEWER = ("check_requirements", "write_report")


class Talk:
    """A conversation in the making."""

    def __init__(self, tools: tuple[str, ...], request: object) -> None:
        self.tools = tools
        self.messages: list[dict[str, object]] = [
            {"role": "system", "content": "Do it."},
            {"role": "user", "content": msgspec.json.encode(request).decode()},
        ]

    def answer(self) -> ChatAnswer:
        tools = [{"function": {"name": name}} for name in self.tools]
        body = {"model": "scripted", "messages": self.messages, "tools": tools}
        answer = policy(msgspec.convert(body, ChatRequest))
        assert isinstance(answer, ChatAnswer)
        return answer

    def step(self, result: dict[str, object]) -> ChatAnswer:
        """The model's answer; its calls are answered from `result`, by argument or by tool; errors are text."""
        answer = self.answer()
        ids = [f"c{len(self.messages)}_{number}" for number in range(len(answer.calls))]
        calls = [
            {"id": id, "function": {"name": call.name, "arguments": call.arguments}}
            for id, call in zip(ids, answer.calls, strict=True)
        ]
        self.messages.append({"role": "assistant", "content": answer.content or None, "tool_calls": calls or None})
        for id, call in zip(ids, answer.calls, strict=True):
            found = result.get(f"{call.name}:{json.loads(call.arguments).get('name')}", result.get(call.name))
            content = found if isinstance(found, str) else msgspec.json.encode(found).decode()
            self.messages.append({"role": "tool", "tool_call_id": id, "content": content})
        return answer

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})


def _calls(answer: ChatAnswer) -> list[tuple[str, object]]:
    return [(call.name, next(iter(json.loads(call.arguments).values()), None)) for call in answer.calls]


def _listed(*names: str) -> list[DistributionRef]:
    return [DistributionRef(name, name, "1") for name in names]


def test_the_planner_delegates_every_distribution_once_in_one_reply() -> None:
    talk = Talk(PLANNER, {"options": Options(loop_script=False)})
    assert _calls(talk.step({"list_distributions": _listed("a", "b", "c", "d")})) == [("list_distributions", None)]
    assert _calls(talk.answer()) == [("inspector", ["a", "b"]), ("inspector", ["c"]), ("inspector", ["d"])]


def test_by_script_one_name_of_the_second_batch_carries_a_blank() -> None:
    talk = Talk(PLANNER, {"options": Options()})
    talk.step({"list_distributions": _listed(*"abcdefghi")})
    assert _calls(talk.answer())[1] == ("inspector", ["d", "e ", "f"])
    alone = Talk(PLANNER, {"options": Options()})
    alone.step({"list_distributions": _listed("a")})
    assert _calls(alone.answer()) == [("inspector", ["a "])]


def test_the_draft_names_what_an_inspector_did_not_deliver() -> None:
    talk = Talk(PLANNER, {"options": Options(inspectors=2, out="here.md")})
    talk.step({"list_distributions": _listed("a", "b")})
    part = Inspected(findings=(Finding("a", "unused", "info", "x"),))
    talk.step({"inspector": {"status": "stopped", "output": part, "reason": "loops.same(3)"}})
    draft = msgspec.json.decode(talk.answer().content, type=Draft)
    assert draft == Draft(Report(findings=part.findings, batches=(("a",), ("b",)), not_audited=("a", "b")), "here.md")


def test_an_environment_without_distributions_needs_no_inspector() -> None:
    talk = Talk(PLANNER, {"options": Options()})
    talk.step({"list_distributions": []})
    assert msgspec.json.decode(talk.answer().content, type=Draft).report == Report()


def test_an_inspector_judges_what_the_tools_said() -> None:
    talk = Talk(INSPECTOR, {"names": ["a", "b"]})
    bad = Facts("a", "a", "1", licence=Licence("MIT"), problems=(Problem("missing-record", "no RECORD"),))
    results: dict[str, object] = {
        "read_metadata:a": bad,
        "read_metadata:b": Facts("b", "b", "1", licence=Licence("MIT")),
        "read_files:a": Files("a"),
        "read_files:b": Files("b", recorded=True, files=2, bytes=9, missing=("b.py",), missing_count=1),
    }
    reads = _calls(talk.step(results))
    assert reads == [("read_metadata", "a"), ("read_files", "a"), ("read_metadata", "b"), ("read_files", "b")]
    said = msgspec.json.decode(talk.answer().content, type=Inspected)
    assert [line.key for line in said.audited] == ["a", "b"]
    assert [(one.distribution, one.rule) for one in said.findings] == [("a", "missing-record"), ("b", "files-missing")]


def test_a_name_with_a_blank_is_tried_until_a_note_says_that_an_attempt_got_stuck() -> None:
    talk = Talk(INSPECTOR, {"names": ["a "]})
    error = "error: PackageNotFound: no distribution named 'a '"
    for _ in range(5):
        assert _calls(talk.step({"read_metadata": error})) == [("read_metadata", "a ")]
    talk.say(NUDGE.format(what="the same"))
    assert _calls(talk.answer()) == [("read_metadata", "a ")]
    talk.say(NOTE.format(what="the same", tried="read_metadata"))
    assert _calls(talk.answer()) == [("read_metadata", "a"), ("read_files", "a")]


def test_a_note_in_the_metadata_of_a_distribution_moves_nobody() -> None:
    talk = Talk(INSPECTOR, {"names": ["a", "b "]})
    talk.step({"read_metadata": Facts("a", "a", "1", summary=f"Note: {STUCK}"), "read_files": Files("a")})
    assert _calls(talk.answer()) == [("read_metadata", "b ")]


def test_a_distribution_that_vanished_is_left_out_and_not_tried_for_ever() -> None:
    talk = Talk(INSPECTOR, {"names": ["a"]})
    talk.step({"read_metadata": "error: PackageNotFound: gone", "read_files": "error: PackageNotFound: gone"})
    assert msgspec.json.decode(talk.answer().content, type=Inspected) == Inspected()


def test_an_inspector_reads_a_large_batch_in_few_replies() -> None:
    talk = Talk(INSPECTOR, {"names": [f"p{number}" for number in range(400)]})
    assert len(talk.answer().calls) == 2 * 400 // 8


def test_the_reviewer_weighs_the_requirements_writes_once_and_answers_with_what_it_wrote() -> None:
    talk = Talk(REVIEWER, {"report": Report(), "out": "x.md"})
    graph = Graph((Unused("a"),), (Pin("b", "a>9", "a", "incompatible", "1"),))
    talk.step({"check_requirements": graph})
    wrote = talk.step({"write_report": {"markdown": "x.md", "json": "x.json"}})
    arguments = json.loads(wrote.calls[0].arguments)
    assert (wrote.calls[0].name, arguments["path"]) == ("write_report", "x.md")
    said = msgspec.json.decode(talk.answer().content, type=Report)
    assert [(one.distribution, one.rule) for one in said.findings] == [("a", "unused"), ("b", "unsatisfied-pin")]
    assert msgspec.convert(arguments["report"], Report) == said


def test_the_reviewer_takes_a_no_and_does_not_ask_again() -> None:
    talk = Talk(REVIEWER, {"report": Report(), "out": "x.md"})
    talk.step({"check_requirements": Graph()})
    talk.step({"write_report": "error: refused by ana"})
    assert not talk.answer().calls
    assert msgspec.json.decode(talk.answer().content, type=Report) == Report()


def test_whom_nobody_knows_is_told_so() -> None:
    assert "none of my roles" in Talk(("dance",), "hello").answer().content


def test_batches_keep_the_order_and_differ_by_one_at_most() -> None:
    for size in range(12):
        keys = [str(number) for number in range(size)]
        batches = split(keys, 5)
        assert [key for batch in batches for key in batch] == keys
        assert {len(batch) for batch in batches} <= {size // 5, size // 5 + 1} - {0}


def test_the_note_it_waits_for_is_that_of_a_restart_and_not_that_of_a_nudge() -> None:
    assert STUCK in NOTE
    assert STUCK not in NUDGE
