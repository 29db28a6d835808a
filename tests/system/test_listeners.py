"""Listeners of committed events: in order, with their trace, behind a bounded buffer, and none can break the system."""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from understudy import Agent, Prompt, Supervisor, System, tool
from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.committed import Seen
from understudy.actors.testing.scripted_model import ScriptedModel, call
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import run
from understudy.supervisors.operator.exporters import SpanExporter

ASKER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


count = itertools.count()


@tool(effect="read")
async def look() -> str:
    return f"seen {'abcdefghij'[next(count) % 10] * 9}"


@tool(effect="irreversible", approve="boss")
async def pay() -> str:
    return "paid"


def desk(*replies: object) -> Agent[str, Prompt]:
    return Agent("desk", model=ScriptedModel(replies), tools=[look, pay])


class Kept:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.closed = 0

    def __call__(self, events: Sequence[Seen]) -> None:
        self.seen.extend(events)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.promise(298)
def test_a_listener_gets_every_committed_event_in_order_with_its_trace(tmp_path: Path) -> None:
    kept = Kept()

    async def main() -> None:
        agent = desk(call("look"), "done", call("look"), "done")
        async with System(agent, journal=tmp_path / "desk.db", listeners=[kept]) as system:
            first = await system.run(agent, "go", traceparent=ASKER)
            second = await system.run(agent, "go")
            journal = {run: await system.journal.read(run) for run in (first.run, second.run)}
        for name, records in journal.items():
            seen = [each for each in kept.seen if each.record.run == name]
            assert [each.record for each in seen] == records
            spans = {each.record.seq: each.span for each in seen}
            assert all(each.parent == spans[each.record.cause] for each in seen if each.record.cause)
        mine = [each for each in kept.seen if each.record.run == first.run]
        assert {each.trace.id for each in mine if each.trace is not None} == {ASKER[3:35]}
        assert mine[0].parent == ASKER[36:52]
        assert kept.closed == 1

    asyncio.run(main())


@pytest.mark.promise(298)
def test_nothing_is_told_that_was_not_committed() -> None:
    """At each moment the listener knows no more than the disk has."""
    ahead: list[int] = []
    disk = SimDisk()

    def hear(events: Sequence[Seen]) -> None:
        for each in events:
            stored = disk.streams().get(each.record.run, [])
            ahead.append(max(0, each.record.seq - len(stored)))

    async def main() -> None:
        agent = desk(call("look"), call("look"), "done")
        async with System(agent, journal=SimStore(disk), listeners=[hear]) as system:
            await system.run(agent, "go")

    run(main)
    assert len(ahead) > 10
    assert set(ahead) == {0}


@pytest.mark.promise(298)
def test_a_listener_that_is_stuck_makes_nobody_wait_and_leaving_waits_only_for_its_time(tmp_path: Path) -> None:
    free = threading.Event()

    def stuck(events: Sequence[Seen]) -> None:
        free.wait(60)

    async def main() -> None:
        agent = desk(*[call("look")] * 4, "done")
        async with System(agent, journal=tmp_path / "desk.db") as system:
            attached = system.attach(stuck, size=4, flush=0.05)
            assert (await system.run(agent, "go")).status == "complete"
            await system.journal.commit()
            assert attached.statistics().dropped > 0
            assert attached.statistics().waiting > 0
        free.set()

    asyncio.run(main())


@pytest.mark.promise(298)
def test_a_listener_that_raises_is_counted_and_the_others_hear_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept()

    def broken(events: Sequence[Seen]) -> None:
        raise LookupError("no")

    async def main() -> None:
        agent = desk(call("look"), "done")
        async with System(agent, journal=tmp_path / "desk.db", listeners=[kept]) as system:
            attached = system.attach(broken)
            result = await system.run(agent, "go")
            records = await system.journal.read(result.run)
        assert [each.record for each in kept.seen if each.record.run == result.run] == records
        assert attached.statistics().failed == attached.statistics().failed > 0
        assert attached.statistics().delivered == 0

    asyncio.run(main())
    assert len([line for line in caplog.records if "listener broken raised" in line.message]) == 1


def test_who_is_detached_hears_nothing_more_and_bad_sizes_are_refused() -> None:
    kept = Kept()

    async def main() -> None:
        agent = desk("done", "done")
        async with System(agent) as system:
            with pytest.raises(UsageError, match="size 0 must be at least 1"):
                system.attach(kept, size=0)
            attached = system.attach(kept)
            first = await system.run(agent, "go")
            await system.journal.commit()
            attached.detach()
            await system.run(agent, "go")
        assert {each.record.run for each in kept.seen} == {first.run}
        assert kept.closed == 1

    run(main)


# -- spans ---------------------------------------------------------------------------------------------------


def spans_in(text: str) -> list[dict[str, Any]]:
    return [
        span
        for line in text.splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


@pytest.mark.promise(299)
def test_a_run_is_written_as_spans_that_hang_together(tmp_path: Path) -> None:
    out = tmp_path / "spans.jsonl"
    worker = Agent("worker", model=ScriptedModel(["worked"]))
    model = ScriptedModel([call("look"), call("worker", text="go"), "done"])
    agent = Agent("desk", model=model, tools=[look], delegates=[worker])

    async def main() -> None:
        tree = Supervisor("main", [agent, worker])
        async with System(tree, journal=tmp_path / "desk.db", listeners=[SpanExporter.to_file(out)]) as system:
            await system.run(agent, "go", traceparent=ASKER)

    asyncio.run(main())
    spans = spans_in(out.read_text())
    named = {span["name"]: span for span in spans}
    assert sorted(span["name"] for span in spans) == [
        "chat scripted",
        "chat scripted",
        "chat scripted",
        "chat scripted",
        "execute_tool look",
        "execute_tool worker",
        "invoke_agent desk",
        "invoke_agent worker",
        "invoke_workflow desk",
    ]
    assert {span["traceId"] for span in spans} == {ASKER[3:35]}
    assert named["invoke_workflow desk"]["parentSpanId"] == ASKER[36:52]
    assert named["invoke_agent desk"]["parentSpanId"] == named["invoke_workflow desk"]["spanId"]
    assert named["execute_tool look"]["parentSpanId"] == named["invoke_agent desk"]["spanId"]
    assert named["invoke_agent worker"]["parentSpanId"] == named["execute_tool worker"]["spanId"]
    chats = {span["spanId"]: span for span in spans if span["name"] == "chat scripted"}
    assert {request.traceparent[36:52] for request in model.requests} <= chats.keys()
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)
    told = attributes(named["execute_tool look"])
    assert (told["gen_ai.operation.name"], told["gen_ai.tool.name"]) == ("execute_tool", "look")
    assert not any("seen" in json.dumps(span) for span in spans)


@pytest.mark.promise(299)
def test_a_run_that_the_next_process_goes_on_with_keeps_the_ids_of_its_spans(tmp_path: Path) -> None:
    out, trees = tmp_path / "spans.jsonl", [desk(call("pay")), desk("done")]

    async def main() -> None:
        async with System(trees[0], journal=tmp_path / "desk.db", listeners=[SpanExporter.to_file(out)]) as system:
            result = await system.run(trees[0], "go", traceparent=ASKER)
            assert result.status == "waiting"
        before = spans_in(out.read_text())
        async with System(trees[1], journal=tmp_path / "desk.db", listeners=[SpanExporter.to_file(out)]) as system:
            await system.approve(result.pending[0], by="ana")
            await system.runs.settled(result.run)
            root = system.runs.get(result.run).trace.span(result.run, 1)
        after = spans_in(out.read_text())[len(before) :]
        roots = [span for span in after if span["name"].startswith("invoke_workflow")]
        assert [(span["spanId"], span["parentSpanId"]) for span in roots] == [(root, ASKER[36:52])]
        assert {span["traceId"] for span in before + after} == {ASKER[3:35]}

    asyncio.run(main())


@pytest.mark.promise(299)
def test_spans_are_posted_to_a_listener_on_loopback_and_a_failing_one_is_counted(tmp_path: Path) -> None:
    bodies: list[bytes] = []
    statuses = [200, 503]

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    async def main() -> None:
        agent = desk("done", "done")
        exporter = SpanExporter.to_endpoint(f"http://127.0.0.1:{server.server_port}/v1/traces")
        async with System(agent, journal=tmp_path / "desk.db") as system:
            attached = system.attach(exporter, flush=30)
            await system.run(agent, "go")
            await system.journal.commit()
            until = time.monotonic() + 30
            while not attached.outlet.idle and time.monotonic() < until:  # noqa: ASYNC110  # bounded
                await asyncio.sleep(0.001)
            assert attached.statistics().failed == 0
            statuses[:] = [503]
            await system.run(agent, "go")
        assert attached.statistics().failed > 0

    try:
        asyncio.run(main())
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()
    names = [span["name"] for body in bodies for span in spans_in(body.decode())]
    assert {"chat scripted", "invoke_agent desk", "invoke_workflow desk"} <= set(names)


def test_a_run_that_fails_is_an_error_and_supervision_is_told_on_the_span() -> None:
    bodies: list[bytes] = []

    async def main() -> None:
        agent = desk(call("nobody"), "done")
        async with System(agent, listeners=[SpanExporter(bodies.append)]) as system:
            result = await system.run(agent, "go")
            assert result.status == "complete"
            system.runs.append(result.run, ev.BudgetBreached("main", "tokens", 5))

    run(main)
    spans = [span for body in bodies for span in spans_in(body.decode())]
    assert {span["status"]["code"] for span in spans} == {1}
