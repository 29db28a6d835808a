"""The watchdog: real threads and real time, in milliseconds; whoever blocks, blocks until it was seen."""

import asyncio
import contextlib
import itertools
import logging
import math
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio.to_thread
import pytest
from doers import Do, Doer, PlainDoer
from probes import quiet
from unhurried import complaints

from understudy import Blocked
from understudy.actors.cell import Cell
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.testing import simloop
from understudy.actors.watchdog import MOST_LATE, Watchdog, _is_idle, is_real
from understudy.system import System

SHORT = 0.02
COMPUTES = "in compute\n    busy("


def run(main: Callable[[], Coroutine[Any, Any, None]], *, uvloop: bool = False) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    factory = None
    if uvloop:
        factory = pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(limited())


def busy(until: Callable[[], object], seconds: float = 10.0) -> None:
    """Keep this thread until something is true, computing."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        pass


def in_do(report: Blocked) -> bool:
    """Whether a report is about the handling of `Do`."""
    return report.message == "Do"


@contextlib.contextmanager
def watched(
    kernel: Kernel, threshold: float = SHORT, wanted: Callable[[Blocked], object] = in_do
) -> Iterator[list[Blocked]]:
    """The reports that are wanted: a machine that stands still holds up a loop as well, anywhere, and that is told."""
    reports: list[Blocked] = []
    kernel.telemetry.blockages.add(lambda report: reports.append(report) if wanted(report) else None)
    with Watchdog(kernel, threshold):
        yield reports


async def told(reports: list[Blocked]) -> None:
    """Wait until the end of the blockage was told."""
    while not (reports and reports[-1].ended):  # noqa: ASYNC110  # bounded by the test's time
        await asyncio.sleep(0)


@pytest.mark.promise(84)
@pytest.mark.parametrize("uvloop", [False, True])
@pytest.mark.parametrize("kind", ["def", "async", "resumed"])
def test_a_handler_that_blocks_the_loop_is_reported_with_path_message_and_stack(
    kind: str, uvloop: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel) as reports:

                def compute() -> object:
                    began = time.monotonic()
                    # No generator: one that has ended meanwhile does not say who called it.
                    busy(lambda: [r for r in reports if COMPUTES in r.stack] and time.monotonic() - began > 0.05)
                    return "done"

                async def work() -> object:
                    if kind == "resumed":
                        await asyncio.sleep(0)
                    return compute()

                factory = (lambda: PlainDoer(compute)) if kind == "def" else (lambda: Doer(work))
                asking = kernel.ref_of(kernel.spawn(factory, name="hog")).ask(Do())
                assert await asking == "done"
                await told(reports)
            first = next(place for place, report in enumerate(reports) if COMPUTES in report.stack)
            end = next(place for place, report in enumerate(reports) if place > first and report.ended)
            before, last = reports[end - 1], reports[end]
            assert (reports[first].path, reports[first].ended) == ("hog", False)
            assert "run_forever" not in reports[first].stack
            assert SHORT <= reports[first].seconds < last.seconds
            assert (last.path, last.message, last.stack) == ("hog", "Do", before.stack)
            assert last.seconds >= 0.05 - 0.015
            flights = [(f.path, f.what) for f in kernel.telemetry.flights()]
            assert ("hog", "blocked the loop") in flights

    with caplog.at_level(logging.WARNING, "understudy.actors"):
        run(main, uvloop=uvloop)
    assert "hog (Do) blocks the event loop" in caplog.text
    assert "in compute" in caplog.text
    assert "hog (Do) blocked the event loop for" in caplog.text
    assert complaints("".join(f"{record.getMessage()}\n" for record in caplog.records)) == ""


@pytest.mark.promise(84)
def test_when_another_holds_the_loop_the_end_of_the_first_is_told() -> None:
    async def attempt() -> tuple[bool, list[Blocked], list[str]]:
        """Whether nothing went back to the loop from the first to the last, what was reported, and the flights."""
        turned: list[bool] = []
        async with Kernel() as kernel:
            # Neither the actor between two messages, nor what was not seen while it stood still.
            with watched(kernel, wanted=lambda report: report.stack and (in_do(report) or not report.path)) as reports:
                doer = kernel.spawn(lambda: PlainDoer(lambda: busy(lambda: reports and reports[-1].path)), name="hog")
                await kernel.wait_started(doer)
                asyncio.get_running_loop().call_soon(turned.append, True)
                await kernel.ref_of(doer).ask(Do(), timeout=20)  # served at once, but for a turn that was over
                at_once = not turned
                busy(lambda: not reports[-1].path)
                await told(reports)
            return at_once, reports, [f.path for f in kernel.telemetry.flights() if f.what == "blocked the loop"]

    async def main() -> None:
        for _ in range(20):
            at_once, reports, flights = await attempt()
            if at_once:
                break
        else:
            pytest.fail("no ask was served at once")
        heard = [(report.path, report.message, report.ended) for report in reports]
        start = heard.index(("hog", "Do", False))
        assert [who for who, _ in itertools.groupby(heard[start:])] == [
            ("hog", "Do", False),
            ("hog", "Do", True),
            ("", "", False),
            ("", "", True),
        ]
        seconds = [report.seconds for report in reports[start:]]
        assert seconds == sorted(seconds)
        assert flights[-2:] == ["hog", ""]

    run(main)


@pytest.mark.promise(84)
def test_a_blockage_is_reported_again_with_doubling_intervals() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel) as reports:
                doer = kernel.spawn(lambda: PlainDoer(lambda: busy(lambda: len(reports) >= 3)), name="hog")
                await kernel.ref_of(doer).ask(Do(), timeout=20)
                await told(reports)
        seconds = [report.seconds for report in reports]
        assert [report.ended for report in reports] == [*(len(reports) - 1) * [False], True]
        assert len(reports) >= 4
        assert seconds[1] >= 2 * SHORT
        for before, after in itertools.pairwise(seconds[:-1]):
            assert after >= SHORT * 2 ** math.floor(math.log2(before / SHORT) + 1)

    run(main)


def test_each_blockage_is_reported_anew() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel) as reports:
                for name in ("one", "two"):
                    seen = len(reports)
                    doer = kernel.spawn(lambda: PlainDoer(lambda: busy(lambda: len(reports) > seen)), name=name)  # noqa: B023
                    await kernel.ref_of(doer).ask(Do(), timeout=20)
                    while not reports[-1].ended:  # noqa: ASYNC110  # bounded by the test's time
                        await asyncio.sleep(0)
        assert [r.path for r in reports if r.ended] == ["one", "two"]

    run(main)


def test_code_outside_of_actors_is_reported_without_a_path() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, wanted=lambda report: not report.path) as reports:
                await asyncio.sleep(0)
                busy(lambda: reports and "in main\n" in reports[-1].stack)
                assert "in main\n" in reports[-1].stack
                await told(reports)
        assert {report.message for report in reports} == {""}

    run(main)


def test_the_actor_of_another_system_is_its_own_watchdogs_matter() -> None:
    async def main() -> None:
        async with Kernel() as other, Kernel() as kernel:
            mine = watched(kernel, wanted=lambda report: "busy(" in report.stack)
            with mine as reports, watched(other) as theirs:
                doer = other.spawn(lambda: PlainDoer(lambda: busy(lambda: len(theirs) >= 2)), name="hog")
                await other.ref_of(doer).ask(Do(), timeout=20)
                await told(theirs)
        assert theirs[0].path == "hog"
        assert reports == []

    run(main)


@pytest.mark.promise(84)
def test_what_works_in_a_thread_is_not_reported() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            mine = watched(kernel, 0.1, wanted=lambda report: "busy(" in report.stack)
            with mine as reports, Watchdog(kernel, 0.1) as watchdog:
                beats: set[float] = set()

                def beaten() -> bool:
                    beats.add(watchdog._beat)
                    return len(beats) > 4

                def tool() -> str:
                    busy(beaten)
                    return "computed"

                async def work() -> object:
                    return await anyio.to_thread.run_sync(tool)

                asking = kernel.ref_of(kernel.spawn(lambda: Doer(work))).ask(Do(), timeout=20)
                assert await asking == "computed"
                assert len(beats) > 4
                assert reports == []

    run(main)


# -- clocks, threads, ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_clock_that_jumps_reports_no_loop_that_is_idle(uvloop: bool) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, 1_000.0, lambda report: True) as reports, Watchdog(kernel, 1_000.0) as watchdog:
                loop = threading.get_ident()

                def jump() -> None:
                    busy(lambda: _is_idle(sys._current_frames()[loop]))
                    for now in (1e9, -1e9, 1e9):
                        watchdog._look(now)

                await asyncio.to_thread(jump)
                assert reports == []

    run(main, uvloop=uvloop)


def test_a_loop_that_was_late_unseen_is_told_without_a_stack(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, 10.0, lambda report: True) as reports, Watchdog(kernel, 10.0) as watchdog:
                watchdog._beat -= 100  # as if the process had been stopped
                watchdog._on_beat()
                watchdog._look(time.monotonic())
                watchdog._look(time.monotonic())
                (report,) = reports
                assert (report.path, report.stack, report.ended) == ("", "", True)
                assert report.seconds == pytest.approx(95, abs=5)

    with caplog.at_level(logging.WARNING, "understudy.actors"):
        run(main)
    assert "by what could not be seen" in caplog.text
    assert complaints(f"this\n{caplog.records[-1].getMessage()}\nstays\n") == "this\nstays\n"


@pytest.mark.promise(84)
def test_two_late_beats_between_two_looks_are_told_apart() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, 10.0, lambda report: True) as reports, Watchdog(kernel, 10.0) as watchdog:
                watchdog._beat -= 100
                watchdog._look(time.monotonic())
                watchdog._on_beat()
                watchdog._beat -= 40
                watchdog._on_beat()
                watchdog._look(time.monotonic())
            assert [(report.ended, bool(report.stack)) for report in reports] == [
                (False, True),
                (True, True),
                (True, False),
            ]
            assert [report.seconds for report in reports] == pytest.approx([95, 95, 35], abs=4)
            assert reports[1].seconds >= reports[0].seconds
            assert [f.what for f in kernel.telemetry.flights()].count("blocked the loop") == 1

    run(main)


def test_the_end_of_a_blockage_is_told_though_its_late_beat_was_pushed_out() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, 10.0, lambda report: report.stack) as reports, Watchdog(kernel, 10.0) as watchdog:
                watchdog._beat -= 100
                watchdog._look(time.monotonic())
                for _ in range(MOST_LATE + 1):
                    watchdog._beat -= 40
                    watchdog._on_beat()
                watchdog._look(time.monotonic())
                watchdog._look(time.monotonic())
            assert [report.ended for report in reports] == [False, True]

    run(main)


def test_a_listener_that_raises_does_not_end_the_watch() -> None:
    async def main() -> None:
        async with Kernel() as kernel:

            def breaks(report: Blocked) -> None:
                raise ValueError("listener")

            kernel.telemetry.blockages.add(breaks)
            with watched(kernel, wanted=lambda report: True) as reports:
                await asyncio.sleep(0)
                busy(lambda: len(reports) >= 2)
                assert len(reports) >= 2

    run(main)


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "understudy-watchdog"]


@pytest.mark.promise(84)
def test_there_is_one_daemon_thread_from_enter_to_exit_and_an_idle_loop_wakes_twice_a_threshold() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with Kernel() as kernel:
            watchdog = Watchdog(kernel, 2.0)
            assert not watchdogs()
            entered = loop.time()
            with watchdog:
                assert [thread.daemon for thread in watchdogs()] == [True]
                assert watchdog.watching
                assert watchdog._handle is not None
                assert entered + 1.0 <= watchdog._handle.when() <= loop.time() + 1.0
            watchdog.close()
            assert not watchdogs()
            assert not watchdog.watching

    run(main)


def test_a_loop_that_is_closed_or_does_not_run_is_not_blocked() -> None:
    loop = asyncio.new_event_loop()
    reports: list[Blocked] = []

    async def enter() -> Watchdog:
        kernel = await Kernel().__aenter__()
        kernel.telemetry.blockages.add(reports.append)
        return Watchdog(kernel, 1.0).__enter__()

    watchdog = loop.run_until_complete(enter())
    watchdog._look(time.monotonic() + 1_000)  # nobody runs the loop
    assert reports == []
    assert watchdog.watching
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    busy(lambda: not watchdog.watching)
    assert not watchdog.watching


def test_in_virtual_time_there_is_no_watchdog_and_its_timer_does_not_keep_time_running() -> None:
    async def main() -> None:
        async with System(watchdog=SHORT):
            assert not watchdogs()
            await quiet()

    async def bare() -> None:
        async with Kernel() as kernel:
            with Watchdog(kernel, SHORT) as watchdog:
                assert not watchdog.watching
                await asyncio.get_running_loop().create_future()

    simloop.run(main)
    with pytest.raises(simloop.Deadlock):
        simloop.run(bare)


def test_a_loop_with_another_clock_is_taken_for_virtual() -> None:
    class Ahead(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return super().time() + 1_000.0

    for factory, real in ((Ahead, False), (asyncio.new_event_loop, True)):
        loop = factory()
        assert is_real(loop) is real
        loop.close()


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_threshold_that_is_no_time_is_refused_when_the_system_is_made(seconds: float) -> None:
    with pytest.raises(SpecError, match="watchdog threshold"):
        System(watchdog=seconds)


@pytest.mark.promise(84)
@pytest.mark.parametrize("seconds", [None, 1.0])
def test_a_system_watches_from_enter_to_exit_unless_told_not_to(seconds: float | None) -> None:
    async def main() -> None:
        async with System(watchdog=seconds):
            assert len(watchdogs()) == (0 if seconds is None else 1)
        assert not watchdogs()

    run(main)


def test_a_cell_that_blocks_in_its_start_is_named() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, wanted=lambda report: report.message == "on_start") as reports:

                class Slow(Doer):
                    def __init__(self) -> None:
                        busy(lambda: reports)
                        super().__init__(quiet)

                cell: Cell = kernel.spawn(Slow, name="slow")
                await kernel.wait_started(cell)
                await told(reports)
            assert (reports[0].path, reports[0].message) == ("slow", "on_start")

    run(main)


def test_a_cell_that_blocks_in_its_end_is_named() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with watched(kernel, wanted=lambda report: report.path and not report.message) as reports:

                class Slow(Doer):
                    async def on_stop(self, exit: Exit) -> None:
                        busy(lambda: reports and "in on_stop" in reports[-1].stack)
                        assert "in on_stop" in reports[-1].stack

                cell = kernel.spawn(lambda: Slow(quiet), name="slow")
                await kernel.wait_started(cell)
                await kernel.stop(cell)
                await told(reports)
            assert {report.path for report in reports} == {"slow"}

    run(main)


def test_a_watchdog_is_entered_once() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            with Watchdog(kernel) as watchdog, pytest.raises(UsageError, match="entered once"):
                watchdog.__enter__()
            with pytest.raises(UsageError, match="entered once"):
                watchdog.__enter__()

    run(main)


# -- programs --------------------------------------------------------------------------------------------------------

PROGRAM = """
    import asyncio, signal, sys, time
    from understudy import Actor, Message, System

    class Block(Message[None]):
        pass

    class Hog(Actor[Block]):
        def block(self, m: Block) -> None:
            if ACTION == "interrupt":
                signal.raise_signal(signal.SIGINT)  # the runner cancels the main task, which is not heard here
                signal.raise_signal(signal.SIGINT)  # and gives up
            end = time.monotonic() + 3_600
            while time.monotonic() < end:
                pass

    async def main() -> None:
        system = System(watchdog=0.01)
        if ACTION == "abandon":
            await system.__aenter__()
            return
        if ACTION == "exit":
            await system.__aenter__()
            sys.exit(7)
        async with system:
            await system.spawn(Hog, name="hog").ask(Block(), timeout=4_000)

    if ACTION == "keep":
        loop = asyncio.new_event_loop()
        system = System(watchdog=0.01)
        loop.run_until_complete(system.__aenter__())
    else:
        asyncio.run(main())
"""


@pytest.mark.promise(84)
@pytest.mark.parametrize(("action", "code"), [("interrupt", -signal.SIGINT), ("abandon", 0), ("exit", 7), ("keep", 0)])
def test_a_program_with_a_watchdog_ends_when_it_is_interrupted_or_at_its_end(action: str, code: int) -> None:
    program = f"ACTION = {action!r}\n{textwrap.dedent(PROGRAM)}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == code, ended.stderr
    assert "Exception ignored in thread" not in ended.stderr
    assert "Fatal Python error" not in ended.stderr
    assert "watchdog" not in ended.stderr
