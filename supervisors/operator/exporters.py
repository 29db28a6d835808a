"""Spans for tracing backends, made from committed events: OTLP as JSON, to a file or over HTTP. No library is needed.

    System(desk, journal="desk.db", listeners=[SpanExporter.to_file("spans.jsonl")])
    System(desk, journal="desk.db", listeners=[SpanExporter.to_endpoint("http://127.0.0.1:4318/v1/traces")])

A run is a span `invoke_workflow`, each attempt of an agent `invoke_agent`, each call of a model `chat`, of a tool or
delegate `execute_tool`; what guards, supervisors and people did are events of the agent's span. Names are those of the
GenAI conventions 1.41.1, ours begin with `understudy.`. A span's id is that of the event it begins with, so the id
that a tool or a model was given as `traceparent` is the id of its span, and a run that another process goes on with
keeps its ids. Arguments and results are left out unless `content` is True; either way they were redacted before they
were journalled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Final

import msgspec

from understudy.actors.journal import events as ev
from understudy.actors.journal.committed import Seen
from understudy.actors.journal.replay import describe_event
from understudy.transports.otlp import post

INTERNAL: Final = 1
CLIENT: Final = 3
OK: Final = 1
ERROR: Final = 2
OPEN: Final = 10_000
"""Spans that may be open; beyond, the oldest is given up and counted in `lost`."""
EVENTS: Final = 200
"""Events of one span; further ones are left out."""

_TOLD: Final = (
    ev.Judged,
    ev.Recalled,
    ev.BackedOff,
    ev.GaveUp,
    ev.Escalated,
    ev.ApprovalAsked,
    ev.ApprovalGiven,
    ev.ApprovalRefused,
    ev.InDoubt,
    ev.DoubtSettled,
    ev.BudgetDenied,
    ev.BudgetLow,
    ev.BudgetBreached,
    ev.Compacted,
    ev.ModelSwitched,
    ev.Moved,
    ev.Parked,
    ev.Unparked,
    ev.Resumed,
    ev.HandedOff,
)
_encoder: Final = msgspec.json.Encoder()

Key = tuple[object, ...]


class _Span:
    """One span that is open. An attribute is text, a number, a flag, or a list of texts."""

    def __init__(self, seen: Seen, name: str, kind: int, parent: str, attributes: Mapping[str, Any]) -> None:
        self.trace = seen.trace.id if seen.trace is not None else ""
        self.id = seen.span
        self.parent = parent
        self.name = name
        self.kind = kind
        self.start = seen.record.at
        self.attributes = dict(attributes)
        self.events: list[dict[str, Any]] = []

    def ended(self, at: float, error: str = "") -> dict[str, Any]:
        """As OTLP says it in JSON: ids in hexadecimal, nanoseconds as text."""
        if error:
            self.attributes["error.type"] = error
        span: dict[str, Any] = {
            "traceId": self.trace,
            "spanId": self.id,
            "name": self.name,
            "kind": self.kind,
            "startTimeUnixNano": _nano(self.start),
            "endTimeUnixNano": _nano(max(at, self.start)),
            "attributes": _attributes(self.attributes),
            "status": {"code": ERROR, "message": error} if error else {"code": OK},
        }
        if self.parent:
            span["parentSpanId"] = self.parent
        if self.events:
            span["events"] = self.events
        return span


class SpanExporter:
    """A listener for `System(listeners=[...])`: makes spans and gives each batch to `send`, as OTLP's JSON.

    `service`: `service.name` of the resource. `provider`: `gen_ai.provider.name` of the model calls. `content`: also
    arguments and results of tools. `close`: called last. `lost` counts spans that were given up.
    """

    def __init__(
        self,
        send: Callable[[bytes], object],
        *,
        service: str = "understudy",
        provider: str = "openai",
        content: bool = False,
        close: Callable[[], object] | None = None,
    ) -> None:
        self.lost = 0
        self._send = send
        self._resource = {"attributes": _attributes({"service.name": service})}
        self._provider = provider
        self._content = content
        self._close = close
        self._open: dict[Key, _Span] = {}
        self._agents: dict[tuple[str, int], str] = {}

    @classmethod
    def to_file(cls, path: PathLike[str] | str, **options: Any) -> SpanExporter:
        """One line for each batch, appended; the file is made with the first. Options as of the class."""
        name = fspath(path)

        def write(body: bytes) -> None:
            with open(name, "ab") as file:
                file.write(body + b"\n")

        return cls(write, **options)

    @classmethod
    def to_endpoint(
        cls, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0, **options: Any
    ) -> SpanExporter:
        """OTLP over HTTP, as JSON: `http://host:4318/v1/traces`. Nothing is sent again; what fails is counted."""
        return cls(lambda body: post(url, body, headers or {}, timeout), **options)

    def __call__(self, events: Sequence[Seen]) -> None:
        """Take a batch. Raises what `send` raises."""
        spans = [span for seen in events for span in self._take(seen)]
        if spans:
            scope = {"scope": {"name": "understudy"}, "spans": spans}
            self._send(_encoder.encode({"resourceSpans": [{"resource": self._resource, "scopeSpans": [scope]}]}))

    def close(self) -> None:
        """Spans that are open now belong to runs that go on: who goes on with them ends them, under the same ids."""
        self._open.clear()
        if self._close is not None:
            self._close()

    # -- from events to spans ------------------------------------------------------------------------------

    def _take(self, seen: Seen) -> Iterable[dict[str, Any]]:
        if seen.trace is None:
            return
        record, event = seen.record, seen.record.event
        run, sub = record.run, record.sub
        root = self._root(seen)
        if isinstance(event, _TOLD):
            self._note(seen)
        match event:
            case ev.SubStarted(agent=agent):
                self._agents[run, sub] = agent
            case ev.AttemptStarted(attempt=attempt, crash=crash):
                yield from self._end(seen, ("agent", run, sub), crash or "restarted")
                self._begin_agent(seen, root, attempt)
            case ev.HandedOff(to=to):
                yield from self._end(seen, ("agent", run, sub))
                self._agents[run, sub] = to
            case ev.ModelAsked(ticket=ticket, max_tokens=most):
                given = {"gen_ai.provider.name": self._provider, "gen_ai.request.max_tokens": most}
                self._begin(seen, ("model", run, ticket), "chat", "", CLIENT, given)
            case ev.ModelAnswered(ticket=ticket) as answer:
                yield from self._answered(seen, ("model", run, ticket), answer)
            case ev.ModelFailed(ticket=ticket, kind=kind):
                yield from self._end(seen, ("model", run, ticket), kind)
            case ev.ToolAsked() as asked:
                self._begin_tool(seen, asked)
            case ev.ToolAnswered(step=step, index=index, result=result):
                more = {"gen_ai.tool.call.result": result} if self._content else {}
                yield from self._end(seen, ("tool", run, sub, step, index), "", more)
            case ev.ToolFailed(step=step, index=index, kind=kind):
                yield from self._end(seen, ("tool", run, sub, step, index), kind)
            case ev.InDoubt(step=step, index=index):
                yield from self._end(seen, ("tool", run, sub, step, index), "in_doubt")
            case ev.Finished(status=status):
                error = status if status in ("failed", "stopped") else ""
                yield from self._end(seen, ("agent", run, sub), error, {"understudy.status": status})
                if sub == 0:
                    yield from self._end_run(seen, error, status)
            case _:
                pass

    def _root(self, seen: Seen) -> _Span:
        """The span of the run; of one that another process began, from now on, under the id that it has."""
        record, key = seen.record, ("run", seen.record.run)
        root = self._open.get(key)
        if root is None:
            event = record.event
            agent = event.agent if isinstance(event, ev.RunStarted) else record.path.rpartition("/")[2]
            first = Seen(msgspec.structs.replace(record, seq=1, cause=0), seen.trace)
            given = {"gen_ai.workflow.name": agent, "understudy.run": record.run}
            if isinstance(event, ev.RunStarted) and event.session:
                given["gen_ai.conversation.id"] = event.session
            root = self._begin(first, key, "invoke_workflow", agent, INTERNAL, given, parent=first.parent)
            self._agents.setdefault((record.run, 0), agent)
        return root

    def _begin(
        self,
        seen: Seen,
        key: Key,
        operation: str,
        name: str,
        kind: int,
        attributes: Mapping[str, Any],
        *,
        parent: str | None = None,
    ) -> _Span:
        if parent is None:
            above = self._open.get(("agent", seen.record.run, seen.record.sub)) or self._root(seen)
            parent = above.id
        given = {"gen_ai.operation.name": operation, **attributes, "understudy.event": seen.record.place}
        span = self._open[key] = _Span(seen, f"{operation} {name}".rstrip(), kind, parent, given)
        while len(self._open) > OPEN:
            del self._open[next(iter(self._open))]
            self.lost += 1
        return span

    def _begin_agent(self, seen: Seen, root: _Span, attempt: int) -> None:
        record = seen.record
        name = self._agents.get((record.run, record.sub), record.path.rpartition("/")[2])
        given = {
            "gen_ai.provider.name": self._provider,
            "gen_ai.agent.name": name,
            "understudy.path": record.path,
            "understudy.incarnation": record.incarnation,
            "understudy.attempt": attempt,
        }
        above = self._open.get(("call", record.run, record.sub), root)
        self._begin(seen, ("agent", record.run, record.sub), "invoke_agent", name, INTERNAL, given, parent=above.id)

    def _begin_tool(self, seen: Seen, asked: ev.ToolAsked) -> None:
        run, sub = seen.record.run, seen.record.sub
        given = {"gen_ai.tool.name": asked.name, "understudy.effect": asked.effect}
        if self._content:
            given["gen_ai.tool.call.arguments"] = asked.arguments
        span = self._begin(
            seen, ("tool", run, sub, asked.step, asked.index), "execute_tool", asked.name, INTERNAL, given
        )
        if asked.sub:
            self._open["call", run, asked.sub] = span

    def _answered(self, seen: Seen, key: Key, answer: ev.ModelAnswered) -> Iterable[dict[str, Any]]:
        reply = answer.reply
        more: dict[str, Any] = {"gen_ai.response.finish_reasons": [reply.finish]}
        if reply.usage is not None:
            more["gen_ai.usage.input_tokens"] = reply.usage.input_tokens
            more["gen_ai.usage.output_tokens"] = reply.usage.output_tokens
        if reply.model:
            more["gen_ai.response.model"] = reply.model
            if (span := self._open.get(key)) is not None:
                span.name = f"chat {reply.model}"
        yield from self._end(seen, key, "", more)

    def _end(
        self, seen: Seen, key: Key, error: str = "", more: Mapping[str, Any] | None = None
    ) -> Iterable[dict[str, Any]]:
        span = self._open.pop(key, None)
        if span is not None:
            span.attributes.update(more or {})
            yield span.ended(seen.record.at, error)

    def _end_run(self, seen: Seen, error: str, status: str) -> Iterable[dict[str, Any]]:
        run = seen.record.run
        for key in [key for key in self._open if key[1] == run and key[0] not in ("run", "call")]:
            yield from self._end(seen, key, "cut")
        for key in [key for key in self._open if key[:2] == ("call", run)]:
            del self._open[key]
        for known in [known for known in self._agents if known[0] == run]:
            del self._agents[known]
        yield from self._end(seen, ("run", run), error, {"understudy.status": status})

    def _note(self, seen: Seen) -> None:
        record = seen.record
        span = self._open.get(("agent", record.run, record.sub)) or self._open.get(("run", record.run))
        if span is not None and len(span.events) < EVENTS:
            what = describe_event(record.event) if self._content else type(record.event).__name__
            told = {"understudy.event": record.place, "understudy.what": what}
            name = f"understudy.{type(record.event).__name__}"
            span.events.append({"name": name, "timeUnixNano": _nano(record.at), "attributes": _attributes(told)})


def _nano(seconds: float) -> str:
    return str(round(seconds * 1e9))


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value).encode("utf-8", "replace").decode()}
