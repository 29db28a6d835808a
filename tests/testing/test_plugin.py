"""The pytest plugin, in pytests of its own."""

from __future__ import annotations

import importlib.metadata
import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

# Loaded here for good: a pytest within a pytest unloads what it loaded, and the package would still have it.
from understudy.actors.testing import report  # noqa: F401
from understudy.actors.testing.faults import Crash, Duplicate
from understudy.actors.testing.world import World

pytest_plugins = ["pytester"]

INSTALLED = any(
    each.value == "understudy.pytest_plugin"
    for found in importlib.metadata.distributions()
    for each in found.entry_points.select(group="pytest11")
)
PLUGIN = [] if INSTALLED else ["-p", "understudy.pytest_plugin"]
"""An installation of before this plugin does not name it."""

PROGRAM = """
    import asyncio
    from hypothesis import given, settings, HealthCheck
    from understudy import Actor, Message, System
    from understudy.actors.testing.strategies import network_faults, worlds
    from understudy.actors.testing.world import World

    ran = []

    class Pay(Message[None]):
        pass

    async def main():
        paid = []
        class Bank(Actor[Pay]):
            def pay(self, m: Pay) -> None:
                paid.append(1)
        async with System() as system:
            system.spawn(Bank, name="bank").tell(Pay())
            await asyncio.sleep(1)
        return len(paid)
"""
SEARCH = (
    PROGRAM
    + """
    @settings(deadline=None, database=None, print_blob=True, derandomize=True)
    @given(worlds(faults=network_faults(actors=("bank",))))
    def test_paid_once(world):
        ran.append(world)
        assert world.run(main).result <= 1
"""
)
PLAIN = (
    PROGRAM
    + """
    def test_plain(world):
        ran.append(world)
        print("ran", len(ran), world)
        assert world.run(main).result <= 1
"""
)


def run(pytester: pytest.Pytester, program: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(program)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist", *PLUGIN, *options)


@pytest.fixture
def tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin's clock: each look at it is a tenth of a second later, however long the machine stood still."""
    ticks = itertools.count(start=100.0, step=0.1)
    monkeypatch.setattr("understudy.pytest_plugin.time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.mark.promise(183)
def test_the_page_of_a_failed_search_is_a_section_with_the_name_of_the_test_and_the_blob(
    pytester: pytest.Pytester,
) -> None:
    result = run(pytester, SEARCH)
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    page = text[text.index("simulated world") :]
    least = World(faults=(Duplicate("bank", 1),))
    assert "Failed AssertionError: assert 2 <= 1" in page
    assert "0 of 0 deviations and 1 of 1 fault drawn came true" in page
    assert f"@example({least!r})" in page
    assert f"pytest {result_name('test_paid_once', text)} --sim-replay={least.token}" in page
    assert "or:       @reproduce_failure(" in page


def result_name(test: str, text: str) -> str:
    return next(word for word in text.split() if word.endswith(f"::{test}") and "FAILED" not in word and ".py" in word)


@pytest.mark.promise(184)
def test_a_token_replays_its_world_once_for_drawn_worlds_and_for_the_fixture(pytester: pytest.Pytester) -> None:
    token = World(faults=(Duplicate("bank", 1),)).token
    tail = """
    def test_count():
        assert len(ran) <= 2 and ran[0].faults
"""
    result = run(pytester, SEARCH.rstrip() + "\n" + tail, f"--sim-replay={token}")
    result.assert_outcomes(failed=1, passed=1)
    run(pytester, PLAIN, f"--sim-replay={token}").assert_outcomes(failed=1)
    fine = World(faults=(Crash("bank", 7),)).token
    run(pytester, SEARCH, f"--sim-replay={fine}").assert_outcomes(passed=1)
    run(pytester, PLAIN).assert_outcomes(passed=1)


@pytest.mark.usefixtures("tenths")
def test_a_soak_runs_new_worlds_until_its_time_is_up(pytester: pytest.Pytester) -> None:
    result = run(pytester, PLAIN, "--sim-soak=0.45", "-s")
    result.assert_outcomes(passed=1)
    text = result.stdout.str()
    assert "ran 1 World()" in text
    assert text.count("ran ") == 5
    assert "test_plain: 5 rounds" in text


def test_a_seed_that_fails_is_made_a_small_world_with_a_token(pytester: pytest.Pytester) -> None:
    program = (
        PROGRAM
        + """
    def test_order(world):
        world.run(main)
        assert not any(type(each).__name__ == "Hold" and each.at > 1 for each in world.schedule)
"""
    )
    result = run(pytester, program, "--sim-soak=20")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    page = text[text.index("simulated world") :]
    assert page.count("Hold(actor=") == 2  # of the world, and in the line to pin
    assert "steps=1)" in page
    assert "--sim-replay=w1:" in page


@pytest.mark.usefixtures("tenths")
def test_a_search_is_soaked_from_one_seed_after_another(pytester: pytest.Pytester) -> None:
    program = (
        PROGRAM
        + """
    seen = []

    @settings(deadline=None, database=None, max_examples=3, derandomize=True)
    @given(worlds())
    def test_search(world):
        seen.append(world)
        world.run(main)

    @given(worlds())
    def test_of_no_run(world):
        pass

    def test_count():
        assert len(seen) > 6 and len(set(map(repr, seen))) > 3  # more than two searches of three worlds
"""
    )
    run(pytester, program, "--sim-soak=0.35").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--sim-replay=x"], "a token begins with w1:"),
        (["--sim-soak=-1"], "a number of seconds"),
        (["--sim-soak=1", "--sim-replay=w1:abc"], "give one of them"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(pytester: pytest.Pytester, options: list[str], says: str) -> None:
    result = run(pytester, "def test_nothing(): pass", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert says in result.stderr.str()


@pytest.mark.parametrize(
    ("token", "says"), [(World(faults=(Crash("bank", 7),)).token[:-6], "not whole"), ("w2:abc", "this kit reads w1:")]
)
def test_a_token_that_nobody_can_read_is_said_once_and_before_any_test(
    pytester: pytest.Pytester, token: str, says: str
) -> None:
    result = run(pytester, PLAIN, f"--sim-replay={token}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().count(says) == 1


def test_a_replay_says_how_much_of_its_world_came_true(pytester: pytest.Pytester) -> None:
    text = run(pytester, PLAIN, f"--sim-replay={World(faults=(Crash('vault', 1),)).token}").stdout.str()
    assert "test_plain: 0 of 0 deviations and 0 of 1 fault drawn came true" in text


def test_what_was_soaked_or_replayed_is_told_from_other_processes_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)
    done = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "1", "--sim-soak=0.1", *PLUGIN)
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["soaked *test_plain: * rounds"])


LOGS = (
    PROGRAM
    + """
    import logging

    @settings(deadline=None, database=None, derandomize=True)
    @given(worlds())
    def test_search(world):
        logging.warning("before %r", world)
        world.run(main)
        logging.warning("after %r", world)
        assert world.seed < 2

    def test_one():
        logging.warning("the first line")
        World(seed=5).run(main)
        assert False
"""
)


def test_a_failed_search_shows_the_log_of_its_last_world_alone_and_other_tests_show_all(
    pytester: pytest.Pytester,
) -> None:
    text = run(pytester, LOGS).stdout.str()
    search, one = text.split("_ test_one _")
    assert search.count("after World(") == 1
    assert "after World(seed=2)" in search
    assert "the first line" in one


def test_other_tests_are_left_alone(pytester: pytest.Pytester) -> None:
    result = run(pytester, "def test_fails(): assert False", "--sim-soak=5")
    result.assert_outcomes(failed=1)
    assert "simulated world" not in result.stdout.str()


def test_without_the_plugin_there_is_no_option_and_the_page_is_a_note(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SEARCH)
    done = pytester.runpytest_subprocess("-p", "no:understudy", "-p", "no:cacheprovider")
    done.assert_outcomes(failed=1)
    assert pytester.runpytest_subprocess("-p", "no:understudy", "--sim-soak=1").ret == pytest.ExitCode.USAGE_ERROR


def test_loading_the_plugin_loads_neither_hypothesis_nor_a_kernel() -> None:
    code = (
        "import sys, understudy.pytest_plugin\n"
        "print([name for name in ('hypothesis', 'understudy.actors.kernel', 'understudy.actors.testing.world',"
        " 'understudy.system', 'httpx', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.strip() == "[]", done.stderr
