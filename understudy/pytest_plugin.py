"""The pytest plugin, loaded with every pytest where understudy is installed: options, one fixture, one report section.

    pytest tests/test_desk.py::test_nobody_is_paid_twice --sim-replay=w1:...
    pytest tests/test_desk.py --sim-soak=600

It loads neither Hypothesis nor a kernel before a test asks for a world. `-p no:understudy` leaves it out.
"""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from understudy.actors.testing import options

if TYPE_CHECKING:
    from understudy.actors.testing.world import World

_REPORT: Final = "understudy.actors.testing.report"
_BLOB: Final = re.compile(r"@reproduce_failure\(.*\)")
_BEFORE: Final = pytest.StashKey[tuple[str, bool]]()
_TOLD: Final = pytest.StashKey[str]()
"""What an item has to say in the summary."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two options."""
    group = parser.getgroup("understudy", "simulated worlds (understudy)")
    group.addoption(
        "--sim-replay",
        metavar="TOKEN",
        default="",
        help="run every test that takes a simulated world in the world of this token, once",
    )
    group.addoption(
        "--sim-soak",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="run every test that takes a simulated world for so long, in a new world each time",
    )


def _seconds(config: pytest.Config) -> float:
    """What `--sim-soak` says."""
    return float(config.getoption("--sim-soak") or 0.0)


def pytest_configure(config: pytest.Config) -> None:
    """Tell the kit. Raises `pytest.UsageError` for options that cannot be meant."""
    token = str(config.getoption("--sim-replay")).strip()
    seconds = _seconds(config)
    if token and not re.fullmatch(r"w\d+:[\w-]+=*", token):
        raise pytest.UsageError(f"--sim-replay={token[:20]}...: a token begins with w1: and has no spaces")
    if not 0 <= seconds < float("inf"):
        raise pytest.UsageError(f"--sim-soak={seconds}: a number of seconds")
    if token and seconds:
        raise pytest.UsageError("--sim-replay is one world, --sim-soak is many: give one of them")
    config.stash[_BEFORE] = options.replay, options.sections
    if token:
        _check(token)
    options.replay, options.sections = token, True


def _check(token: str) -> None:
    """Raise `pytest.UsageError` for a token that no test could replay."""
    from understudy.actors.errors import UsageError
    from understudy.actors.testing.world import unpacked

    try:
        unpacked(token)
    except UsageError as error:
        raise pytest.UsageError(f"--sim-replay: {error}") from None


def pytest_unconfigure(config: pytest.Config) -> None:
    """As it was: a pytest may run within a pytest."""
    options.replay, options.sections = config.stash.get(_BEFORE, ("", False))


@pytest.fixture
def world() -> World:
    """A simulated world: the one of `--sim-replay`, or the empty one; with `--sim-soak` another one each time."""
    from understudy.actors.testing.world import World

    return World.from_token(options.replay) if options.replay else World()


# -- the page of a failure ---------------------------------------------------------------------------------------


def pytest_runtest_setup() -> None:
    """What an earlier test ran is none of this one's."""
    if (report := _report()) is not None:
        report.last = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Of a test that runs many worlds, keep the log of the last one: the page is of that world, too."""
    handler = getattr(item.config.pluginmanager.get_plugin("logging-plugin"), "report_handler", None)
    searches = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
    before = options.begins
    if handler is not None and (searches or _seconds(item.config)):
        options.begins = handler.reset
    try:
        return (yield)
    finally:
        options.begins = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the page of the last world that a failed test ran: with Hypothesis that is the least one."""
    made = yield
    report = _report()
    if call.when == "call":
        if options.replay and report is not None and report.last is not None and report.last[1].replayable:
            item.stash[_TOLD] = f"replayed {item.nodeid}: {report.came_true(*report.last)}"
        made.__dict__["understudy"] = item.stash.get(_TOLD, "")  # goes with the report, also between processes
    if made.failed and call.when == "call" and report is not None and report.last is not None:
        error = None if call.excinfo is None else call.excinfo.value
        violations = getattr(error, "violations", ())
        page: str = report.page(
            *report.last,
            violations,
            test=shlex.quote(item.nodeid),
            blob="" if error is None else _blob_of(error),
            failure="" if violations or error is None else f"{type(error).__name__}: {error}",
        )
        made.sections.append(("simulated world", page))
    return made


def _report() -> Any:
    """The kit's module, if a test has loaded it, else None. Any: what a type checker sees of a module is no module."""
    return sys.modules.get(_REPORT)


def _blob_of(error: BaseException) -> str:
    """Hypothesis's line, from the notes of what it raised, or of a part of it."""
    for note in getattr(error, "__notes__", ()):
        if found := _BLOB.search(note):
            return found.group()
    parts: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return next((blob for part in parts if (blob := _blob_of(part))), "")


# -- soaking -----------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """With `--sim-soak`: run a test that takes a world again and again. Each failure is of one World, with a token."""
    seconds = _seconds(pyfuncitem.config)
    test = pyfuncitem.obj
    if not seconds or inspect.iscoroutinefunction(test):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    until = time.monotonic() + seconds
    if "world" in given:
        rounds = _soak_seeds(test, given, until)
    elif getattr(test, "is_hypothesis_test", False):
        rounds = _soak_searches(test, given, until)
    else:
        return None
    count = 0
    try:
        for _ in rounds:
            count += 1
    finally:
        pyfuncitem.stash[_TOLD] = f"soaked {pyfuncitem.nodeid}: {count:,} rounds"
    return True


def _soak_seeds(test: Callable[..., object], given: dict[str, Any], until: float) -> Iterator[None]:
    """Worlds of seeds 0, 1, 2 ...; one that fails is made small, and run once more for its page."""
    from understudy.actors.testing.sweeps import seeds, smallest

    def fails(world: World) -> bool:
        try:
            test(**{**given, "world": world})
        except Exception:
            return True
        return False

    for world in seeds():
        if fails(world):
            test(**{**given, "world": smallest(world, fails)})
            test(**{**given, "world": world})
            raise AssertionError(f"{world!r} failed once, and not again: the test depends on something outside of it")
        yield
        if time.monotonic() >= until:
            return


def _soak_searches(test: Callable[..., object], given: dict[str, Any], until: float) -> Iterator[None]:
    """One search of Hypothesis after another, each from a new seed; once, for a test that runs no world."""
    from understudy.actors.testing.strategies import reseed

    seed = 0
    while True:
        reseed(test, seed)
        test(**given)
        yield
        seed += 1
        report = _report()
        if report is None or report.last is None or time.monotonic() >= until:
            return


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much was soaked, and what came true of a world that was replayed: nothing, if it is of another tree."""
    for reports in terminalreporter.stats.values():
        for each in reports:
            if told := getattr(each, "understudy", ""):
                terminalreporter.write_line(told)
