"""What our programs share: the two kinds of handlers from one source, deliberate bugs, and seeing actors end."""

import ast
import asyncio
import inspect
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from benchmarks.case import Case, CheckFailed
from understudy import Actor, Down, Ref, System

A = TypeVar("A", bound=Actor[Any])
T = TypeVar("T")
Bugs = Mapping[str, Mapping[type[Actor[Any]], type[Actor[Any]]]]
"""By name: which actor classes a deliberate bug replaces by which."""
LONG = 300.0
"""Seconds an ask may take that stands for a whole workload."""


def asynchronous(cls: type[A]) -> type[A]:
    """The same class with `async def` for each of its `def` handlers, made from its source so that they cannot differ.

    A handler here is a public method with one parameter.
    """
    if cls not in _MADE:
        _MADE[cls] = _remade(cls)
    return cast("type[A]", _MADE[cls])


_MADE: dict[type[Actor[Any]], type[Actor[Any]]] = {}


def _remade(cls: type[A]) -> type[A]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    (definition,) = tree.body
    assert isinstance(definition, ast.ClassDef)
    definition.body = [_asynchronous(statement) for statement in definition.body]
    made: dict[str, type[A]] = {}
    code = compile(ast.fix_missing_locations(tree), inspect.getfile(cls), "exec", dont_inherit=True)
    exec(code, vars(sys.modules[cls.__module__]), made)
    return made[cls.__name__]


def _asynchronous(statement: ast.stmt) -> ast.stmt:
    if not isinstance(statement, ast.FunctionDef) or statement.name.startswith("_") or len(statement.args.args) != 2:
        return statement
    fields = {name: getattr(statement, name) for name in statement._fields}
    return ast.copy_location(ast.AsyncFunctionDef(**fields), statement)


def pick(case: Case, cls: type[A], bugs: Bugs) -> type[A]:
    """The class to run: with a deliberate bug, with `async def` handlers, or as it is written."""
    if case.bug:
        found = bugs[case.bug].get(cls, cls)
        assert issubclass(found, cls)
        return found
    return asynchronous(cls) if case.variant == "async" else cls


class Watcher(Actor):
    """Sets a future when the last of `refs` has ended."""

    def __init__(self, refs: Sequence[Ref[Any]], ended: asyncio.Future[int]) -> None:
        self._refs, self._ended, self._seen = refs, ended, 0

    async def on_start(self) -> None:
        for ref in self._refs:
            self.context.watch(ref)

    def down(self, m: Down) -> None:
        if m.kind not in ("normal", "gone"):
            return  # the run fails with "did not end"
        self._seen += 1
        if self._seen == len(self._refs):
            self._ended.set_result(self._seen)
            self.context.stop()


async def all_ended(case: Case, system: System, refs: Sequence[Ref[Any]]) -> int:
    """Wait until each of `refs` has ended normally; how many. Raises `CheckFailed`."""
    ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    system.spawn(lambda: Watcher(refs, ended))
    return await arrived(case, ended, f"{len(refs)} actors to end")


async def arrived(case: Case, future: asyncio.Future[T], what: str) -> T:
    """A program's own end, within its deadline. Raises `CheckFailed` naming what did not come."""
    seconds = case.patience
    await (_stalled(future, seconds) if case.bug else asyncio.wait([future], timeout=seconds))
    if not future.done():
        raise CheckFailed(f"waited {seconds:g} s for {what}")
    return future.result()


async def _stalled(future: asyncio.Future[Any], seconds: float) -> None:
    """Wait for it, and give up when nothing was done for `seconds` in all, or after a minute.

    A machine that is busy with something else, or stands still, takes none of them.
    """
    idle, until = 0.0, time.monotonic() + 60
    while idle < seconds and time.monotonic() < until:
        before = time.process_time()
        await asyncio.wait([future], timeout=0.01)
        if future.done():
            return
        if time.process_time() - before < 0.001:
            idle += 0.01
