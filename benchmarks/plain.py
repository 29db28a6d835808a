"""The floor as an implementation: every program of `floor.py`, unchanged, which checks itself by assertion.

What goes to another process has a floor of its own, `remote_floor`, and the checks of `remote`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final

from benchmarks import remote, remote_floor, slow
from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.probe import probed
from benchmarks.reference import floor, floor_digest, oracle
from benchmarks.suite import BENCHMARKS

VERSION: Final = f"{floor_digest()} on {sys.version.split()[0]}"

WITHOUT: Final = (
    "approval",
    "budget",
    "compaction",
    "construction",
    "crashstorm",
    "density",
    "durable",
    "journal",
    "loops",
    "replay",
    "stoptree",
)

NAMES: Final = {("steps", "tool-1ms"): "agents", ("steps", "tool-0"): "agents0"}
"""Where its name in the floor is another."""


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The floor has one program for all lines of a benchmark. Raises `NotSupported` where it has none."""
    if case.name in WITHOUT:
        raise NotSupported("the floor has no such program")
    if case.line == "partition":
        raise NotSupported("the floor does not connect again")
    if case.name in ("remote", "oneway"):
        case.extra["remote_floor_digest"] = remote_floor.digest()
        return partial(remote.program, remote_floor.opened)
    if case.name == "slow" and case.line == "remote":
        raise NotSupported("the floor has no credit")
    if case.name == "slow":
        return partial(slow.program, slow.plain(case))
    return _run


async def _run(case: Case) -> Found:
    run: Callable[..., Awaitable[Any]] = getattr(floor(), NAMES.get((case.name, case.line), case.name))
    case.start()
    async with probed(case) if case.name == "steps" else nullcontext():
        result = await run(*case.args)
    case.stop()
    ops, got = result if isinstance(result, tuple) else (result, {})
    line = BENCHMARKS[case.name].line(case.line)
    if ops != line.ops(case.args):
        raise CheckFailed(f"ops: expected {line.ops(case.args)}, got {ops}")
    want = oracle().TABLE["agents" if case.name == "steps" else case.name][0](*case.args)
    for key, value in got.items():
        if want[key] != value:
            raise CheckFailed(f"{key}: expected {want[key]}, got {value}")
    return line.expect(case.args)  # what it does not return, it has asserted
