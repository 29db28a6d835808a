"""The scripted model of the demo: `policy(request)` answers as a model would that follows its instructions.

A function of the request alone: it keeps nothing, and reads everything it says out of the conversation, above all
the results of the tools. It knows who it is by the tools it is offered.

One weakness is built in. A name with a blank at its end is looked up as it stands, and looked up again when that
fails, whatever it is told; only when it reads in a note that a former attempt got stuck does it try without. And
when the request says so, the planner lets such a name slip into its second batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from understudy.demo import findings
from understudy.demo.environment import DistributionRef, Facts, Files, Licence
from understudy.demo.findings import Report
from understudy.demo.messages import Audit, Draft, Inspect, Inspected, assemble, inspected
from understudy.demo.requirements import Graph
from understudy.transports.testing.chats import AnswerCall, ChatAnswer, ChatRequest

STUCK = "a former attempt got stuck"
"""What a note says that makes the inspector try another way."""
AT_ONCE = 4
"""Names an inspector reads in one reply, unless its batch would then take more than `READS` replies."""
READS = 8

T = TypeVar("T")


class _Call(NamedTuple):
    """A call of the conversation with what came back: JSON when `ok`, else the error."""

    name: str
    arguments: str
    ok: bool
    text: str


class _Named(msgspec.Struct):
    name: str


class _Told(msgspec.Struct):
    """The result of a delegation."""

    status: str
    output: Inspected | None = None


def policy(request: ChatRequest) -> ChatAnswer:
    """The answer to a request of one of the three members of the team."""
    offered = {tool.function.name for tool in request.tools}
    calls = tuple(_calls(request))
    if "list_distributions" in offered:
        return _plan(_request(request, Audit), calls)
    if "read_metadata" in offered:
        return _inspect(_request(request, Inspect), calls, warned=_warned(request))
    if "write_report" in offered:
        return _review(_request(request, Draft), calls)
    return ChatAnswer(f"I was offered {', '.join(sorted(offered)) or 'no tool'}: that is none of my roles.")


# --- the roles ----------------------------------------------------------------------------------------------


def _plan(request: Audit, calls: Sequence[_Call]) -> ChatAnswer:
    listed = [call for call in calls if call.name == "list_distributions" and call.ok]
    if not listed:
        return ChatAnswer(calls=(AnswerCall("list_distributions"),))
    installed = _decoded(listed[-1].text, tuple[DistributionRef, ...])
    batches = split([ref.key for ref in installed], request.options.inspectors)
    delegated = [call for call in calls if call.name == "inspector"]
    if batches and not delegated:
        if request.options.loop_script:
            batches = _slip(batches)
        return ChatAnswer(calls=tuple(_call("inspector", Inspect(batch)) for batch in batches))
    told = [_decoded(call.text, _Told) for call in delegated if call.ok]
    report = assemble(installed, batches, [one.output for one in told if one.output is not None])
    return _answer(Draft(report, request.options.out))


def _inspect(request: Inspect, calls: Sequence[_Call], *, warned: bool) -> ChatAnswer:
    names = [name.strip() if warned else name for name in request.names]
    facts = _results(calls, "read_metadata", Facts)
    files = _results(calls, "read_files", Files)
    # A clean name that failed is left out; one with a blank is tried again.
    failed = {_name(call) for call in calls if not call.ok and _name(call) == _name(call).strip()}
    todo = [name for name in names if not ((name in facts and name in files) or name in failed)]
    if not todo:
        return _answer(inspected(facts.values(), {one.key: one for one in files.values()}))
    if _blank(todo[0]):
        return ChatAnswer(calls=(_read("read_metadata", todo[0]),))
    reads = [
        _read(tool, name)
        for name in _group(todo, max(AT_ONCE, -(-len(names) // READS)))
        for tool, have in (("read_metadata", facts), ("read_files", files))
        if name not in have
    ]
    return ChatAnswer(calls=tuple(reads))


def _review(request: Draft, calls: Sequence[_Call]) -> ChatAnswer:
    graphs = [_decoded(call.text, Graph) for call in calls if call.name == "check_requirements" and call.ok]
    if not graphs:
        return ChatAnswer(calls=(AnswerCall("check_requirements"),))
    report = _weighed(request.report, graphs[-1])
    if any(call.name == "write_report" for call in calls):
        return _answer(report)
    arguments = {"path": request.out, "report": report}
    return ChatAnswer(calls=(AnswerCall("write_report", msgspec.json.encode(arguments).decode()),))


# --- their thoughts -----------------------------------------------------------------------------------------


def split(keys: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """`keys` in their order as at most `most` batches, none empty, whose sizes differ by one at most."""
    count = min(most, len(keys))
    small, larger = divmod(len(keys), count) if count else (0, 0)
    sizes = [small + (number < larger) for number in range(count)]
    starts = [sum(sizes[:number]) for number in range(count)]
    return [tuple(keys[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def _slip(batches: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The batches with a blank behind a name in the middle of the second, or of the only one."""
    at = min(1, len(batches) - 1)
    middle = len(batches[at]) // 2
    slipped = tuple(f"{name} " if nth == middle else name for nth, name in enumerate(batches[at]))
    return [slipped if nth == at else batch for nth, batch in enumerate(batches)]


def _group(todo: Sequence[str], most: int) -> Iterator[str]:
    """The first names to read together: those before one with a blank."""
    for name in todo[:most]:
        if _blank(name):
            return
        yield name


def _blank(name: str) -> bool:
    return name != name.strip()


def _weighed(report: Report, graph: Graph) -> Report:
    """The report with what the whole environment says of each distribution."""
    keys = {one.key for one in graph.unused} | {one.key for one in graph.pins}
    sound = Licence(expression="MIT")  # of these facts, the graph alone has anything to say
    found = [one for key in keys for one in findings.judge(Facts(key, key, "", licence=sound), None, graph)]
    return msgspec.structs.replace(report, findings=findings.merge((*report.findings, *found)))


# --- the conversation ---------------------------------------------------------------------------------------


def _request(request: ChatRequest, kind: type[T]) -> T:
    """The request itself: the first thing that was said to it."""
    return _decoded(next(m.content or "" for m in request.messages if m.role == "user"), kind)


def _warned(request: ChatRequest) -> bool:
    return any(STUCK in (message.content or "") for message in request.messages if message.role == "user")


def _calls(request: ChatRequest) -> Iterator[_Call]:
    """Every call that has a result, oldest first."""
    asked = {call.id: call.function for message in request.messages for call in message.tool_calls or ()}
    for message in request.messages:
        if message.role == "tool" and (function := asked.get(message.tool_call_id or "")) is not None:
            text = message.content or ""
            yield _Call(function.name, function.arguments, not text.startswith("error: "), text)


def _results(calls: Iterable[_Call], tool: str, kind: type[T]) -> dict[str, T]:
    """What a tool answered, by the name it was asked for."""
    return {_name(call): _decoded(call.text, kind) for call in calls if call.name == tool and call.ok}


def _name(call: _Call) -> str:
    return _decoded(call.arguments, _Named).name


def _decoded(text: str, kind: type[T]) -> T:
    return msgspec.json.decode(text.encode(), type=kind)


def _read(tool: str, name: str) -> AnswerCall:
    return AnswerCall(tool, msgspec.json.encode(_Named(name)).decode())


def _call(name: str, message: Inspect) -> AnswerCall:
    fields = {field: getattr(message, field) for field in message.__struct_fields__}
    return AnswerCall(name, msgspec.json.encode(fields).decode())


def _answer(output: msgspec.Struct) -> ChatAnswer:
    return ChatAnswer(msgspec.json.encode(output).decode())
