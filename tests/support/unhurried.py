"""A busy machine in a process that a test starts: what Hypothesis and the watchdog say of it is not the program's.

As a plugin of a pytest, `-p unhurried`: no clock judges a test, or ends a search. Ten seconds after its first failure
Hypothesis looks for no other one, and on a busy machine it would begin to make another one small.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import engine

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])

ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))}
"""For the plugin to be found."""
STOOD_STILL = re.compile(
    r"^(?:.* blocks the event loop, for .* now\n(?: .*\n)*"
    r"|.* blocked the event loop for .*\n"
    r"|the event loop did not come back for .*\n)",
    re.MULTILINE,
)


def stop_the_clock() -> None:
    """Hypothesis's search has none any more; `max_examples` and its counts of calls end it."""
    vars(engine)["time"] = SimpleNamespace(monotonic=lambda: 0.0, perf_counter=lambda: 0.0)


def pytest_configure() -> None:
    """Of the plugin."""
    settings.load_profile("unhurried")
    stop_the_clock()


def complaints(stderr: str) -> str:
    """What a program says on standard error but for the watchdog's words, which a machine that stands still causes."""
    return STOOD_STILL.sub("", stderr)


def hurried(output: str) -> bool:
    """Whether Hypothesis has judged a program by the clock: run it again."""
    return "HealthCheck.too_slow" in output
