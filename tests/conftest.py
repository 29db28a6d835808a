"""Settings for every test: the event loop, and how long Hypothesis looks."""

import asyncio
import os
import sys

import pytest
from hypothesis import HealthCheck, settings
from unhurried import stop_the_clock

LOOP = os.environ.get("UNDERSTUDY_TEST_LOOP", "asyncio")

# What everybody runs before a change lands is the same each time; "search" and "campaign" look for what is new.
# No clock judges a test: a machine that stands still for a second while an example is drawn is no slow strategy.
SLOW = (HealthCheck.too_slow,)
settings.register_profile(
    "default", deadline=None, max_examples=100, print_blob=True, derandomize=True, suppress_health_check=SLOW
)
settings.register_profile("search", deadline=None, max_examples=100, print_blob=True, suppress_health_check=SLOW)
settings.register_profile("campaign", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=SLOW)
settings.load_profile(os.environ.get("UNDERSTUDY_TEST_PROFILE", "default"))
stop_the_clock()

if LOOP == "uvloop":
    import uvloop  # type: ignore[import-not-found, unused-ignore]  # only the matrix installs it

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # for tests that call asyncio.run themselves
elif LOOP != "asyncio":
    raise pytest.UsageError(f"UNDERSTUDY_TEST_LOOP is {LOOP!r}; it must be 'asyncio' or 'uvloop'")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The one supported backend; anyio's plugin runs `@pytest.mark.anyio` tests on it."""
    return "asyncio", {"use_uvloop": LOOP == "uvloop"}


def pytest_report_header() -> str:
    debug = bool(os.environ.get("PYTHONASYNCIODEBUG")) or sys.flags.dev_mode
    return f"event loop: {LOOP}, debug {'on' if debug else 'off'}"
