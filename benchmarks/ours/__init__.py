"""Our programs: the public API with default settings, supervision on. Other settings are printed with the row."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable

import understudy
from benchmarks.case import Case, Found

VERSION = understudy.__version__
STRICT = True
"""No task may be left over, and the interpreter has nothing to say."""


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case."""
    module = importlib.import_module(f"benchmarks.ours.{case.name}")
    run: Callable[[Case], Awaitable[Found]] = module.program
    return run


def bugs(name: str) -> tuple[str, ...]:
    """The deliberate bugs of a benchmark."""
    return tuple(importlib.import_module(f"benchmarks.ours.{name}").BUGS)
