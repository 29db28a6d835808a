"""Structured logs: one JSON object a line, with run, place, trace and span; and no handler breaks or delays anybody."""

import asyncio
import io
import itertools
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from crashing import CrashingModel
from hypothesis import given
from hypothesis import strategies as st

from understudy import Agent, Backoff, Supervisor, System, tool
from understudy.actors.journal.events import Record
from understudy.actors.logs import BufferedHandler, JSONFormatter
from understudy.actors.outlet import Outlet
from understudy.actors.testing.scripted_model import call
from understudy.actors.testing.simloop import run

count = itertools.count()


@tool(effect="read")
async def look() -> str:
    return f"seen {'abcdefghij'[next(count) % 10] * 9}"


class Lines(logging.Handler):
    """Keeps what it is given, as JSON."""

    def __init__(self, level: int = logging.DEBUG) -> None:
        super().__init__(level)
        self.setFormatter(JSONFormatter())
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("understudy")
    level, handlers = found.level, list(found.handlers)
    yield found
    found.setLevel(level)
    found.handlers[:] = handlers


def played(*replies: object) -> list[Record]:
    agent = Agent("desk", model=CrashingModel(replies), tools=[look])
    records: list[Record] = []

    async def main() -> None:
        async with System(Supervisor("main", [agent], backoff=Backoff(jitter=0))) as system:
            result = await system.run(agent, "go")
            records.extend(await system.journal.read(result.run))

    run(main)
    return records


@pytest.mark.promise(297)
def test_every_event_is_one_line_with_run_place_actor_cause_and_spans(logger: logging.Logger) -> None:
    handler = Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    records = played(call("look"), RuntimeError("broke"), "done")
    lines = [line for line in handler.lines if line.get("run") == records[0].run]
    assert [line["seq"] for line in lines] == [record.seq for record in records]
    spans = {line["seq"]: line["span_id"] for line in lines}
    for line, record in zip(lines, records, strict=True):
        assert (line["event"], line["path"], line["incarnation"], line["cause"]) == (
            type(record.event).__name__,
            record.path,
            record.incarnation,
            record.cause,
        )
        assert line["parent_id"] == (spans[record.cause] if record.cause else "")
    assert len({line["trace_id"] for line in lines}) == 1


@pytest.mark.promise(297)
@pytest.mark.parametrize(
    ("level", "seen", "unseen"),
    [
        (logging.WARNING, {"BackedOff"}, {"RunStarted", "ModelAsked", "Finished"}),
        (logging.INFO, {"BackedOff", "RunStarted", "Finished"}, {"ModelAsked", "ToolAnswered"}),
        (logging.DEBUG, {"BackedOff", "RunStarted", "Finished", "ModelAsked", "ToolAnswered"}, set()),
    ],
)
def test_the_level_says_how_much_is_told(logger: logging.Logger, level: int, seen: set[str], unseen: set[str]) -> None:
    handler = Lines()
    logger.addHandler(handler)
    logger.setLevel(level)
    played(call("look"), RuntimeError("broke"), "done")
    events = {line["event"] for line in handler.lines if "event" in line}
    assert seen <= events
    assert not unseen & events


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")

    def handleError(self, record: logging.LogRecord) -> None:
        raise OSError("and none for saying so")


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise LookupError("filter")


@pytest.mark.promise(297)
def test_a_handler_that_raises_breaks_nothing_and_silences_nobody(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    broken, handler = Broken(), Lines()
    broken.addFilter(BrokenFilter())
    logger.addHandler(broken)
    logger.addHandler(Broken())
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    records = played(call("look"), RuntimeError("broke"), "done")
    assert [line["seq"] for line in handler.lines if line.get("run") == records[0].run] == [r.seq for r in records]


def test_a_filter_of_the_logger_that_raises_breaks_nothing(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Lines())
    broken, runs = BrokenFilter(), logging.getLogger("understudy.runs")
    runs.addFilter(broken)
    try:
        assert played("done")
    finally:
        runs.removeFilter(broken)


@pytest.mark.promise(297)
def test_a_handler_that_is_stuck_makes_nobody_wait_and_what_does_not_fit_is_counted(logger: logging.Logger) -> None:
    free, first = threading.Event(), threading.Event()

    class Stuck(Lines):
        def emit(self, record: logging.LogRecord) -> None:
            first.set()
            free.wait(30)
            super().emit(record)

    stuck = Stuck()
    handler = BufferedHandler(stuck, size=5)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    agent = Agent("desk", model=CrashingModel(["done", *[call("look")] * 3, "done"]), tools=[look])

    async def main() -> None:
        async with System(agent) as system:
            await system.run(agent, "go")
            assert (await system.run(agent, "go")).status == "complete"
            assert handler.dropped > 0

    asyncio.run(main())
    assert first.wait(30)
    free.set()
    handler.close()
    assert len(stuck.lines) >= 5


values = st.one_of(st.text(), st.integers(), st.floats(), st.binary(), st.none(), st.dictionaries(st.text(), st.text()))


@given(st.text(), values, st.lists(values, max_size=2))
def test_whatever_is_logged_is_one_line_of_json(message: str, value: Any, arguments: list[Any]) -> None:
    record = logging.LogRecord("understudy.runs", 30, "x.py", 1, message, tuple(arguments), None)
    record.path, record.odd = value, value
    line = JSONFormatter(fields=("odd",)).format(record)
    assert "\n" not in line
    assert json.loads(line)["level"] == "WARNING"


def test_what_is_very_long_is_cut_and_a_traceback_is_kept() -> None:
    try:
        raise LookupError("x" * 100_000)
    except LookupError as error:
        record = logging.LogRecord("a", 30, "x.py", 1, "y" * 100_000, (), (type(error), error, error.__traceback__))
    line = json.loads(JSONFormatter().format(record))
    assert (len(line["message"]), len(line["error"])) == (16_000, 16_000)
    assert "LookupError" in line["error"]


def test_a_stream_handler_gets_lines() -> None:
    stream = io.StringIO()
    handler = BufferedHandler(logging.StreamHandler(stream))
    handler.setFormatter(JSONFormatter())
    handler.handle(logging.LogRecord("a", 30, "x.py", 1, "%s", ("hi",), None))
    handler.flush()
    assert json.loads(stream.getvalue())["message"] == "hi"
    handler.close()


# -- the outlet ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(), max_size=200), st.integers(1, 50))
def test_an_outlet_delivers_in_order_what_it_took_and_counts_the_rest(items: list[int], size: int) -> None:
    got: list[int] = []
    gate = threading.Event()

    def deliver(batch: list[int]) -> None:
        gate.wait(30)
        got.extend(batch)

    outlet: Outlet[int] = Outlet("test", deliver, size=size)
    taken = [item for item in items if outlet.put(item)]
    gate.set()
    assert outlet.close(30)
    assert got == taken
    assert outlet.dropped == len(items) - len(taken)
    assert not outlet.put(1)


def test_an_outlet_that_fails_counts_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    got: list[int] = []

    def deliver(batch: list[int]) -> None:
        if batch[0] % 2:
            raise OSError("odd")
        got.extend(batch)

    outlet: Outlet[int] = Outlet("test", deliver)
    for number in range(6):
        outlet.put(number)
        assert outlet.flush(30)
    assert outlet.close(30)
    assert got == [0, 2, 4]
    assert (outlet.statistics().failed, outlet.statistics().delivered) == (3, 3)
    assert len([line for line in caplog.records if "raised" in line.message]) == 1
