"""One implementation in a process of its own: runs one program at a time, when asked over a pipe.

`python -m benchmarks.worker IMPL [LOOP]` reads one JSON object per line and answers each with one. What a program
prints does not reach the pipe. The result is checked here, after the clock has stopped: a wrong one has no time.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

from benchmarks.case import Case, CheckFailed, Found, NotSupported
from benchmarks.memory import rss_peak_kb
from benchmarks.suite import BENCHMARKS

Reply = dict[str, object]

PROGRAMS = {
    "ours": "benchmarks.ours",
    "floor": "benchmarks.plain",
    "xoscar": "benchmarks.peers.in_xoscar",
    "pykka": "benchmarks.peers.in_pykka",
    "autogen": "benchmarks.peers.in_autogen",
    "eia": "benchmarks.peers.in_eia",
    "langgraph": "benchmarks.peers.in_langgraph",
    "dbos": "benchmarks.peers.in_dbos",
    "pydantic-ai": "benchmarks.peers.in_pydantic_ai",
    "openai-agents": "benchmarks.peers.in_openai_agents",
}


class Implementation(Protocol):
    """What the module of an implementation has."""

    VERSION: str

    def program(self, case: Case) -> Callable[[Case], Awaitable[Found]]:
        """The program for a case. Raises `NotSupported`."""
        ...


class RunnerFactory(Protocol):
    """`asyncio.Runner` with or without another loop."""

    def __call__(self) -> AbstractContextManager[asyncio.Runner]: ...


def runner_of(loop: str) -> RunnerFactory:
    """How to start an event loop of the kind named. Raises `NotSupported` where it is not installed."""
    if loop == "uvloop":
        if importlib.util.find_spec("uvloop") is None:
            raise NotSupported("uvloop is not installed there")
        import uvloop  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an extra

        return lambda: asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner


def check(case: Case, found: Found) -> str:
    """What is wrong with a result, "" for nothing. Everything expected must be there."""
    expected = BENCHMARKS[case.name].line(case.line).expect(case.args)
    for key, value in expected.items():
        if key not in found:
            return f"{key}: the program did not say"
        if found[key] != value:
            return f"{key}: expected {_short(value)}, got {_short(found[key])}"
    return ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


async def _counted(run: Callable[[Case], Awaitable[Found]], case: Case) -> Found:
    """Run a program; the tasks of the loop are afterwards what they were before."""
    before = len(asyncio.all_tasks())
    found = await run(case)
    for _ in range(5):
        if len(asyncio.all_tasks()) <= before:
            break
        await asyncio.sleep(0)
    case.extra["tasks_left"] = len(asyncio.all_tasks()) - before
    return found


def run_once(implementation: Implementation, case: Case, loop: str = "asyncio") -> Reply:
    """One run in a fresh event loop, checked."""
    said: list[str] = []
    gc.collect()
    try:
        program = implementation.program(case)
        with warnings.catch_warnings(record=True) as caught, runner_of(loop)() as runner:
            warnings.simplefilter("ignore")
            for kind in (RuntimeWarning, ResourceWarning):  # never awaited, never closed
                warnings.simplefilter("always", kind)
            runner.get_loop().set_exception_handler(lambda _, context: said.append(str(context.get("message"))))
            kept, sys.unraisablehook = sys.unraisablehook, lambda hook: said.append(str(hook.exc_value))
            try:
                found = runner.run(_counted(program, case))
                gc.collect()
            finally:
                sys.unraisablehook = kept
        said += [str(warning.message) for warning in caught]
    except NotSupported as error:
        return {"ok": None, "error": f"not supported: {error}"}
    except CheckFailed as error:
        return {"ok": False, "error": str(error)}
    except Exception as error:
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    wrong = check(case, found)
    if not wrong and getattr(implementation, "STRICT", False):
        left = case.extra.pop("tasks_left")
        wrong = f"{left} tasks left over" if left else "; ".join(said[:3])
    if wrong:
        return {"ok": False, "error": wrong}
    case.extra.pop("tasks_left", None)
    return {"ok": True, "wall": case.wall, "cpu": case.cpu, "extra": case.extra, "rss_peak_kb": rss_peak_kb()}


def case_of(request: dict[str, Any]) -> Case:  # decoded JSON
    """The case that a request describes."""
    return Case(**{**request, "args": tuple(request["args"])})


def main(argv: list[str]) -> None:
    """Serve requests until standard input ends."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    implementation = cast("Implementation", importlib.import_module(PROGRAMS[argv[0]]))
    loop = argv[1] if len(argv) > 1 else "asyncio"
    print(json.dumps({"version": implementation.VERSION, "python": sys.version.split()[0]}), file=pipe, flush=True)
    for text in sys.stdin:
        print(json.dumps(run_once(implementation, case_of(json.loads(text)), loop)), file=pipe, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
