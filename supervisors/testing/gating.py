"""Invariants 29 to 31: what was done in the world, against yeses, people and the declared tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import msgspec
from msgspec import Struct, field

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Declared, Evidence, ToolBegan, Word, Written, given, meant, plain
from understudy.actors.testing.play_invariants import play_invariant
from understudy.actors.testing.schemas import JSON, Schema, fits, table

At = tuple[str, int, int, int]
"""A call: run, sub-run, step and index."""


class _Yes(Struct):
    asked: ev.ApprovalAsked
    at: At
    given: ev.ApprovalGiven | None = None
    refused: bool = False
    used: bool = False

    @property
    def agreed(self) -> str:
        """The arguments that were said yes to: those asked for, or what the person made of them."""
        return self.given.arguments if self.given is not None and self.given.arguments else self.asked.arguments


class _Known(Struct):
    """What the journal has said so far."""

    agents: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    states: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    replies: dict[tuple[str, int, int], ev.ModelAnswered] = field(
        default_factory=dict[tuple[str, int, int], ev.ModelAnswered]
    )
    intents: dict[At, ev.ToolAsked] = field(default_factory=dict[At, ev.ToolAsked])
    yeses: dict[str, _Yes] = field(default_factory=dict[str, _Yes])

    def take(self, record: Record) -> None:
        event, key = record.event, (record.run, record.sub)
        match event:
            case ev.RunStarted() | ev.SubStarted():
                self.agents[key] = event.agent
            case ev.HandedOff():
                self.agents[key] = event.to
            case ev.Moved():
                self.states[key] = event.to
            case ev.ModelAnswered():
                self.replies[(*key, event.step)] = event
            case ev.ToolAsked():
                self.intents[(*key, event.step, event.index)] = event
                if (yes := self.yeses.get(event.approval)) is not None:
                    yes.used = True
            case ev.ApprovalAsked():
                self.yeses[event.approval] = _Yes(event, (*key, event.step, event.index))
            case ev.ApprovalGiven() if event.approval in self.yeses:
                self.yeses[event.approval].given = event
            case ev.ApprovalRefused() if event.approval in self.yeses:
                self.yeses[event.approval].refused = True
            case _:
                pass


def _walk(evidence: Evidence) -> Iterator[tuple[_Known, Record | ToolBegan | Word]]:
    """Each event of the journal as it was committed, with what was known before, and what was done between."""
    known = _Known()
    for each in evidence.happened:
        if isinstance(each, Written):
            for record in each.records:
                yield known, record
                known.take(record)
        elif isinstance(each, ToolBegan | Word):
            yield known, each


@play_invariant(29)
def gated(evidence: Evidence) -> Iterator[str]:
    """Of intents in the journal, and of tools as they begin."""
    if evidence.lossy:
        return
    for known, each in _walk(evidence):
        if isinstance(each, Record) and isinstance(each.event, ev.ToolAsked):
            yield from _intent(evidence, known, each, each.event)
        elif isinstance(each, ToolBegan) and each.sub >= 0:
            declared = evidence.declared.get(known.agents.get((each.run, each.sub), ""))
            intent = known.intents.get((each.run, each.sub, each.step, each.index))
            if declared is None or not _needs_yes(declared, each.tool, each.arguments):
                continue
            what = f"run {each.run}/{each.sub}: {each.tool}({dict(each.arguments)}) was done"
            yes = known.yeses.get(intent.approval) if intent is not None else None
            if yes is None or yes.given is None:
                yield f"{what} without a yes"
            elif yes.asked.name != each.tool or not _equal(yes.agreed, each.arguments):
                yield f"{what}, and approved was {yes.asked.name}({yes.agreed})"


def _intent(evidence: Evidence, known: _Known, record: Record, asked: ev.ToolAsked) -> Iterator[str]:
    declared = evidence.declared.get(known.agents.get((record.run, record.sub), ""))
    arguments = given(asked.arguments)
    if declared is None or arguments is None or not _needs_yes(declared, asked.name, arguments):
        return
    what = f"{record.place}: {asked.name}({asked.arguments})"
    yes = known.yeses.get(asked.approval)
    if yes is None or yes.given is None:
        yield f"{what} needs a yes, and has none"
        return
    name = yes.asked.approval
    if yes.at != (record.run, record.sub, asked.step, asked.index):
        yield f"{what} uses {name}, which was asked for another call"
    if yes.asked.name != asked.name or given(yes.agreed) != arguments:
        yield f"{what} uses {name}, which is for {yes.asked.name}({yes.agreed})"
    if yes.given.digest != yes.asked.digest and not yes.given.arguments:
        yield f"{what} uses {name}, given for digest {yes.given.digest}, asked for {yes.asked.digest}"
    if yes.used:
        yield f"{what} uses {name} a second time"
    if yes.refused:
        yield f"{what} uses {name}, which was refused"
    if record.at >= yes.asked.expires:
        yield f"{what} uses {name} {record.at - yes.asked.expires:g} s after it expired"


def _needs_yes(declared: Declared, name: str, arguments: Mapping[str, object]) -> bool:
    tool = declared.tools.get(name)
    if tool is None or tool.policy is None:
        return False
    if tool._rule is None:
        return True
    try:
        made = msgspec.convert(plain(arguments), tool.parameters)
    except msgspec.ValidationError:
        return False  # no such call: see 31
    return bool(tool._rule(**{field: getattr(made, field) for field in tool.parameters.__struct_fields__}))


def _equal(text: str, arguments: Mapping[str, object]) -> bool:
    said = given(text)
    return said is not None and all(meant(each, arguments.get(name)) for name, each in said.items())


@play_invariant(30)
def silence_is_no_yes(evidence: Evidence) -> Iterator[str]:
    """Every yes in the journal was said by somebody who may, while it was asked for and in time."""
    words = [each for each in evidence.happened if isinstance(each, Word) and each.yes]
    for known, record in _walk(evidence):
        if not isinstance(record, Record) or not isinstance(record.event, ev.ApprovalGiven):
            continue
        event, yes = record.event, known.yeses.get(record.event.approval)
        what = f"{record.place}: {event.approval} is approved by {event.by!r}"
        if yes is None:
            yield f"{what}, and nobody asked"
            continue
        if not any(event.approval.endswith(word.approval) and word.by == event.by for word in words):
            yield f"{what}, who did not say so"
        allowed = _people(evidence, known, record, yes)
        if allowed and event.by not in allowed:
            yield f"{what}; {', '.join(allowed)} may"
        if yes.given is not None or yes.refused or yes.used:
            yield f"{what}, which was answered before"
        if record.at >= yes.asked.expires:
            yield f"{what} {record.at - yes.asked.expires:g} s after it expired"


def _people(evidence: Evidence, known: _Known, record: Record, yes: _Yes) -> tuple[str, ...]:
    declared = evidence.declared.get(known.agents.get((record.run, yes.at[1]), ""))
    tool = declared.tools.get(yes.asked.name) if declared is not None else None
    return tuple(declared.by.get(tool.policy or "", ())) if declared is not None and tool is not None else ()


@play_invariant(31)
def registry(evidence: Evidence) -> Iterator[str]:
    """Of intents, against the reply that asked for them; of tools as they begin, against their intent."""
    if evidence.lossy:
        return
    for known, each in _walk(evidence):
        if isinstance(each, Record) and isinstance(each.event, ev.ToolAsked):
            yield from _declared_call(evidence, known, each, each.event)
        elif isinstance(each, ToolBegan):
            what = f"run {each.run}/{each.sub}: {each.tool}({dict(each.arguments)}) was called"
            intent = known.intents.get((each.run, each.sub, each.step, each.index))
            declared = evidence.declared.get(known.agents.get((each.run, each.sub), ""))
            if declared is None or each.tool not in declared.tools:
                yield f"{what}, which is no tool of its agent"
            elif not _fits(declared, each.tool, each.arguments):
                yield f"{what}, which do not fit its schema"
            elif intent is not None and not (intent.name == each.tool and _equal(intent.arguments, each.arguments)):
                yield f"{what}, its intent says {intent.name}({intent.arguments})"


def _declared_call(evidence: Evidence, known: _Known, record: Record, asked: ev.ToolAsked) -> Iterator[str]:
    key = (record.run, record.sub)
    what = f"{record.place}: {asked.name}({asked.arguments})"
    declared = evidence.declared.get(known.agents.get(key, ""))
    reply = known.replies.get((*key, asked.step))
    calls = reply.reply.calls if reply is not None else ()
    yes = known.yeses.get(asked.approval)
    changed = yes.given.arguments if yes is not None and yes.given is not None else ""
    wanted = (calls[asked.index].name, changed or calls[asked.index].arguments) if asked.index < len(calls) else None
    if wanted != (asked.name, asked.arguments):
        yield f"{what} is not what the model asked for"
    if declared is None or (asked.name not in declared.tools and asked.name not in declared.delegates):
        yield f"{what} is begun, and there is no such tool"
        return
    if declared.states and asked.name not in declared.states.get(known.states.get(key, ""), frozenset()):
        yield f"{what} is begun in state {known.states.get(key, '')!r}, which does not offer it"
    arguments = given(asked.arguments)
    if asked.name in declared.tools and (arguments is None or not _fits(declared, asked.name, arguments)):
        yield f"{what} is begun, and does not fit the schema"


def _fits(declared: Declared, name: str, arguments: Mapping[str, object]) -> bool:
    """Whether each argument is declared, and fits; those that are left out have a default, or are missing."""
    schema = declared.tools[name].schema.parameters
    properties = table(schema, "properties")
    needed = [each.encode_name for each in msgspec.structs.fields(declared.tools[name].parameters) if each.required]
    return all(each in arguments for each in needed) and all(
        each in properties and fits(cast("Schema", properties[each]), cast("JSON", plain(value)), schema)
        for each, value in arguments.items()
    )
