"""What can be seen: bounded, and watching never breaks what is watched."""

import asyncio
import gc
import logging
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes import Note, Probe, Work, alone, probe

from understudy.actors.clock import SystemClock
from understudy.actors.errors import ActorStopped
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.telemetry import (
    FLIGHT_LENGTH,
    LETTERS_KEPT,
    LINES_PER_SECOND,
    SUPERVISORS_LIMITED,
    CrashReport,
    DeadLetter,
    LineLimit,
    Telemetry,
    heard,
    log,
)


def test_the_flight_recorder_is_a_ring_and_can_be_filtered_by_actor() -> None:
    now = iter(float(n) for n in range(10_000))
    telemetry = Telemetry(lambda: next(now))
    for n in range(FLIGHT_LENGTH + 10):
        telemetry.flight("even" if n % 2 == 0 else "odd", "beat", str(n))
    assert len(telemetry.flights(last=10_000)) == FLIGHT_LENGTH
    assert telemetry.flights(last=10_000)[0].detail == "10"
    assert [flight.detail for flight in telemetry.flights("odd", last=2)] == ["4103", "4105"]
    assert [flight.at for flight in telemetry.flights(last=1)] == [FLIGHT_LENGTH + 9]


def test_dead_letters_are_all_counted_and_the_last_ones_kept() -> None:
    telemetry = Telemetry(lambda: 0.0)
    for n in range(LETTERS_KEPT + 5):
        telemetry.dead(DeadLetter("a", "", "full", n))
    assert telemetry.letter_count == LETTERS_KEPT + 5
    assert [letter.message for letter in telemetry.dead_letters()] == list(range(5, LETTERS_KEPT + 5))


def test_a_listener_that_raises_is_removed_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    telemetry = Telemetry(lambda: 0.0)
    heard: list[object] = []

    def breaks(letter: DeadLetter) -> None:
        raise ValueError("listener")

    telemetry.letters.add(breaks)
    remove = telemetry.letters.add(lambda letter: heard.append(letter.message))
    with caplog.at_level(logging.ERROR, "understudy.actors"):
        telemetry.dead(DeadLetter("a", "", "full", 1))
        telemetry.dead(DeadLetter("a", "", "full", 2))
    assert heard == [1, 2]
    assert caplog.text.count("was removed") == 1
    remove()
    remove()
    telemetry.dead(DeadLetter("a", "", "full", 3))
    assert heard == [1, 2]
    assert not telemetry.letters


def test_a_crash_report_carries_the_actors_last_happenings() -> None:
    telemetry = Telemetry(lambda: 0.0)
    reports: list[CrashReport] = []
    telemetry.crashes.add(reports.append)
    telemetry.flight("a", "started")
    telemetry.flight("b", "started")
    error = ValueError("x")
    telemetry.crash("a", 3, Exit("error", "ValueError: x"), "message", error)
    (report,) = reports
    assert (report.path, report.incarnation, report.error) == ("a", 3, error)
    assert [(flight.path, flight.what) for flight in report.flights] == [("a", "started"), ("a", "crash")]


# -- the flight recorder and crash reports -----------------------------------------------------------------------


class Named:
    """Has a path that is rendered when asked."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.asked = 0

    @property
    def path(self) -> str:
        self.asked += 1
        return self._path


def crashed(telemetry: Telemetry, path: str, times: int = 1) -> None:
    for _ in range(times):
        telemetry.crash(path, 1, Exit("error", "ValueError: x"), None, None)


def test_a_happening_becomes_text_when_it_is_read() -> None:
    telemetry = Telemetry(lambda: 0.0)
    named = Named("a")
    telemetry.flight(named, "ended", Exit("error", "x"))
    telemetry.flight(named, "took", Note)
    assert named.asked == 0
    assert [(f.path, f.detail) for f in telemetry.flights()] == [("a", "error(x)"), ("a", "Note")]


@pytest.mark.promise(81)
def test_a_crash_report_carries_the_happenings_of_the_actor_and_of_its_chain_and_50_at_most() -> None:
    telemetry = Telemetry(lambda: 0.0)
    reports: list[CrashReport] = []
    telemetry.crashes.add(reports.append)
    for path in ("asker", "stranger", "between"):
        telemetry.flight(path, "started")
    telemetry.crash(Named("a"), 1, Exit("error"), "message", None, ["asker", Named("between")])
    for n in range(100):
        telemetry.flight("a", "beat", n)
    crashed(telemetry, "a")
    first, second = reports
    assert [(f.path, f.what) for f in first.flights] == [("asker", "started"), ("between", "started"), ("a", "crash")]
    assert first.chain == ("asker", "between")
    assert [f.detail for f in second.flights] == [*(str(n) for n in range(51, 100)), "error(ValueError: x)"]


@pytest.mark.promise(81)
def test_the_report_of_a_crash_names_the_chain_of_asks_that_led_to_it() -> None:
    async def main(kernel: Kernel) -> None:
        reports: list[CrashReport] = []
        kernel.telemetry.crashes.add(reports.append)

        async def fail() -> object:
            raise ValueError("at the end of the chain")

        last = kernel.ref_of(probe(kernel, [], fail, name="last"))
        middle = kernel.ref_of(probe(kernel, [], lambda: last.ask(Work()), name="middle"))
        first = kernel.ref_of(probe(kernel, [], lambda: middle.ask(Work()), name="first"))
        with pytest.raises(ActorStopped):
            await first.ask(Work())
        report = reports[0]
        assert (report.path, report.chain) == ("last", ("first", "middle"))
        assert {f.path for f in report.flights} == {"last", "middle", "first"}
        text = report.text()
        assert "last #1 crashed: error(ValueError: at the end of the chain)" in text
        assert "handling Work" in text
        assert "asked by first -> middle" in text
        assert 'raise ValueError("at the end of the chain")' in text

    alone(main)


@pytest.mark.promise(83)
@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize("listening", [False, True])
def test_what_is_kept_of_a_crash_pins_no_frame(suspended: bool, listening: bool) -> None:
    class Large:
        pass

    async def main(kernel: Kernel) -> None:
        locals_of: list[weakref.ref[Large]] = []
        actors: list[weakref.ref[Probe]] = []
        texts: list[str] = []
        if listening:
            kernel.telemetry.crashes.add(lambda report: texts.append(report.text()))

        async def work() -> object:
            large = Large()
            locals_of.append(weakref.ref(large))
            if suspended:
                await asyncio.sleep(1)
            raise ValueError(large)

        def make() -> Probe:
            actor = Probe([], work)
            actors.append(weakref.ref(actor))
            return actor

        cell = kernel.spawn(make, on_exit=lambda cell, number, exit: kernel.restart(cell))
        asker = probe(kernel, [], lambda: kernel.ref_of(cell).ask(Work()))
        with pytest.raises(ActorStopped) as caught:
            await kernel.ref_of(asker).ask(Work())
        assert isinstance(caught.value.__cause__, ActorStopped)  # the reason is with who asked, while he keeps it
        assert locals_of[0]() is not None
        del caught
        kernel.ref_of(cell).tell(Note("alive"))
        await asyncio.sleep(1)
        gc.collect()
        assert locals_of[0]() is None
        assert [actor() is None for actor in actors] == [True, False]
        assert len(texts) == (2 if listening else 0)

    alone(main)


# -- the operator's line -----------------------------------------------------------------------------------------


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a handler of `logging` at level WARNING is given, and nothing of pytest's own handlers."""
    taken: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            taken.append(record.getMessage() + (" +traceback" if record.exc_info else ""))

    handler = Keep(logging.WARNING)
    handler.name = "ours"
    log.propagate = False
    log.addHandler(handler)
    yield taken
    log.removeHandler(handler)
    log.propagate = True


def ours(monkeypatch: pytest.MonkeyPatch) -> logging.Handler:
    """The handler of `lines`, from here on alone: pytest adds its own to a logger that does not propagate."""
    (handler,) = (each for each in log.handlers if each.name == "ours")
    monkeypatch.setattr(log, "handlers", [handler])
    return handler


@pytest.mark.promise(82)
def test_at_most_ten_lines_a_second_and_supervisor_and_the_rest_is_counted(lines: list[str]) -> None:
    now = [100.0]
    telemetry = Telemetry(lambda: now[0])
    crashed(telemetry, "desk/a", 600)
    crashed(telemetry, "desk/b", 644)
    crashed(telemetry, "other/a", 3)
    assert len(lines) == 13
    now[0] += 0.999
    crashed(telemetry, "desk/a")
    assert len(lines) == 13
    now[0] += 0.001
    crashed(telemetry, "desk/a", 2)
    assert lines[13:] == [
        "desk/a crashed: error(ValueError: x) (and 1,235 more in the last second)",
        "desk/a crashed: error(ValueError: x)",
    ]
    crashed(telemetry, "desk/a", 20)
    now[0] += 60
    crashed(telemetry, "desk/a")
    assert lines[-1] == "desk/a crashed: error(ValueError: x) (and 12 more in the last 60.0 s)"


@pytest.mark.promise(82)
def test_what_was_left_out_at_the_end_is_said_at_the_end(lines: list[str]) -> None:
    telemetry = Telemetry(lambda: 0.0)
    crashed(telemetry, "desk/a", 15)
    crashed(telemetry, "top", 11)
    telemetry.close()
    telemetry.close()
    assert lines[20:] == ["5 more crashes below desk", "1 more crashes at the top"]


def test_only_so_many_supervisors_are_counted_apart(lines: list[str]) -> None:
    telemetry = Telemetry(lambda: 0.0)
    crashed(telemetry, "first/a", 12)
    for n in range(SUPERVISORS_LIMITED):
        crashed(telemetry, f"{n}/a")
    assert lines.count("2 more crashes below first") == 1
    assert len(telemetry._limit._each) == SUPERVISORS_LIMITED


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 0.01, 0.1, 0.3, 2.0])), max_size=200))
def test_a_limit_admits_what_a_plain_model_admits(steps: list[tuple[str, float]]) -> None:
    limit, now = LineLimit(), 0.0
    written: dict[str, list[float]] = {"a": [], "b": []}
    left_out = {"a": 0, "b": 0}
    for key, pause in steps:
        now += pause
        admitted = limit.admit(key, now)
        if sum(now - at < 1.0 for at in written[key]) >= LINES_PER_SECOND:
            left_out[key] += 1
            assert admitted is None
        else:
            assert admitted == (left_out[key], written[key][-1] if written[key] else now)
            left_out[key] = 0
            written[key].append(now)


@pytest.mark.promise(82)
def test_text_is_rendered_for_a_listener_only(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []

    class Silent(Exit, frozen=True):
        def __str__(self) -> str:
            rendered.append("rendered")
            return "text"

    telemetry = Telemetry(lambda: 0.0)
    handler = ours(monkeypatch)
    handler.setLevel(logging.ERROR)
    telemetry.crash("a", 1, Silent("error"), None, None)
    handler.setLevel(logging.WARNING)
    log.disabled = True
    try:
        telemetry.crash("a", 1, Silent("error"), None, None)
    finally:
        log.disabled = False
    assert (lines, rendered) == ([], [])
    telemetry.crash("a", 1, Silent("error"), None, None)  # and with a listener it is
    assert rendered


def test_the_line_has_the_traceback_when_the_logger_is_at_debug(lines: list[str]) -> None:
    telemetry = Telemetry(lambda: 0.0)
    error = ValueError("x")
    telemetry.crash("a", 1, Exit("error"), None, error)
    log.setLevel(logging.DEBUG)
    try:
        telemetry.crash("a", 1, Exit("error"), None, error)
    finally:
        log.setLevel(logging.NOTSET)
    assert lines == ["a crashed: error", "a crashed: error +traceback"]


def test_whether_somebody_hears_is_what_logging_itself_would_do() -> None:
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    parent = logging.getLogger("understudy")
    handlers, root = parent.handlers, logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        assert not heard()
        for where in (root, parent):
            handler = Keep()
            where.addHandler(handler)
            assert heard()
            handler.setLevel(logging.ERROR)
            assert not heard()
            where.removeHandler(handler)
        root.addHandler(Keep())
        parent.propagate = False
        assert not heard()
        log.warning("nobody")
        parent.propagate = True
        assert heard()
        log.warning("somebody")
    finally:
        root.handlers, parent.handlers, parent.propagate = before, handlers, True
    assert [record.getMessage() for record in kept] == ["somebody"]


def cost(call: Callable[[], object], count: int = 20_000) -> float:
    """Nanoseconds of this process's CPU time a call, the best of seven."""
    best = float("inf")
    for _ in range(7):
        begin = time.process_time_ns()
        for _ in range(count):
            call()
        best = min(best, (time.process_time_ns() - begin) / count)
    return best


@pytest.mark.promise(82)
def test_a_happening_and_a_crash_that_nobody_hears_cost_a_few_reads_of_the_clock(
    lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ratios, so that it holds on any machine: about 3 and 15 here, for 150 ns and 0.7 µs."""
    ours(monkeypatch).setLevel(logging.ERROR)
    telemetry = Telemetry(SystemClock().monotonic)
    exit = Exit("error", "ValueError: x")
    ratios: list[tuple[float, float]] = []
    for _ in range(10):  # CPU time is not the same from one moment to the next, when others share the core
        read = cost(SystemClock().monotonic)
        happening = cost(lambda: telemetry.flight("a", "beat", exit))
        crash = cost(lambda: telemetry.crash("a", 1, exit, None, None))
        ratios.append((happening / read, crash / read))
        if ratios[-1][0] < 8 and ratios[-1][1] < 40:
            return
    pytest.fail(f"times the cost of a look at the clock, in each try: {ratios}")
