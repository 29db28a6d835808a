"""Whether a program does the same every time it runs in a world; and if not, what differs first.

What may differ from run to run is an address (the order of a set of plain objects), a clock or chance that was reached
past the simulation, and, between processes, the order of a set of strings. So a world is run again with garbage
allocated in between, and by choice in processes with other hash seeds; compared are the events of the trace, what main
returned or raised, the number of callbacks and of virtual nanoseconds, and every callback with its moment.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.actors.testing.trace import Trace

if TYPE_CHECKING:
    from understudy.actors.testing.world import Main, World

_ADDRESS: Final = re.compile(r"0x[0-9a-f]+|(?<!\.)\b[0-9a-f]{9,}\b")
_PIECES: Final = 400
"""Pieces of garbage between two runs, of up to `_SIZE` bytes; three of four are freed again."""
_SIZE: Final = 2_000
PROCESS_SECONDS: Final = 300.0
"""How long a run in a process of its own may take."""
_CODE: Final = "import sys; from understudy.actors.testing.determinism import child; child(*sys.argv[1:])"


class NotDeterministic(AssertionError):
    """Two runs of one world differ. The text names the first difference of each kind."""


class Seen(Struct, frozen=True):
    """What one run shows. Addresses of objects in texts do not count."""

    events: tuple[str, ...]
    outcome: str
    callbacks: tuple[str, ...]

    def fingerprint(self) -> str:
        """16 hexadecimal digits: the same for the same run."""
        text = "\n".join([*self.events, self.outcome, *self.callbacks])
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def check(world: World, main: Main, *, times: int = 2, hash_seeds: Sequence[int] = ()) -> Trace:
    """See `World.check_determinism`."""
    if times < 1 or times + len(hash_seeds) < 2:
        raise UsageError(
            f"check_determinism: times {times} and {len(hash_seeds)} hash seeds; it takes two runs to compare"
        )
    place = _place(main) if hash_seeds else None
    trace, first = look(world, main)
    for number in range(1, times):
        litter(number)
        _compare(world, first, look(world, main)[1], f"run {number + 1} in this process")
    for seed in hash_seeds:
        assert place is not None
        _compare(world, first, _in_process(world, place, seed), f"a process with PYTHONHASHSEED={seed}")
    return trace


def look(world: World, main: Main) -> tuple[Trace, Seen]:
    """Run once, without invariants. What main raises is part of what is seen."""
    callbacks: list[str] = []

    def watch(now: int, ready: deque[asyncio.Handle]) -> None:
        callbacks.extend(f"{now} {_name(handle)}" for handle in ready)

    try:
        trace = world.run(main, check=(), watch=watch)
        outcome = f"returned {trace.result!r}"
    except Exception as error:
        from understudy.actors.testing import report

        assert report.last is not None
        trace = report.last[1]
        outcome = f"raised {type(error).__name__}: {error}"
    events = tuple(_ADDRESS.sub("_", str(event)) for event in trace)
    return trace, Seen(events, _ADDRESS.sub("_", outcome), tuple(callbacks))


# `Any`: callbacks of all kinds, which asyncio keeps under a private name.
def _name(handle: Any) -> str:
    call = handle._callback
    while isinstance(call, functools.partial):
        call = call.func
    owner = getattr(call, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    return str(getattr(call, "__qualname__", type(call).__name__))


_garbage: list[object] = []


def litter(seed: int) -> None:
    """Allocate objects and free most of them, so that what comes next has other addresses."""
    dice = random.Random(seed)
    _garbage.clear()
    made: list[object] = []
    for _ in range(_PIECES):
        made.append(bytearray(dice.randrange(16, _SIZE)))
        made.append(type("_Litter", (), {})() if dice.random() < 0.05 else {dice.random(): [object()]})
    dice.shuffle(made)
    _garbage.extend(made[: len(made) // 4])


def _compare(world: World, first: Seen, other: Seen, what: str) -> None:
    if first == other:
        return
    lines = [f"{world!r} does not do the same every time; {what} differs from the first:"]
    for name, ours, theirs in (
        ("event", first.events, other.events),
        ("outcome", (first.outcome,), (other.outcome,)),
        ("callback", first.callbacks, other.callbacks),
    ):
        found = _first_difference(ours, theirs)
        if found is not None:
            number, one, two = found
            lines.append(f"  {name} {number}: {one}\n    {'but ':>{len(name)}}{two}")
    raise NotDeterministic("\n".join(lines))


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> tuple[int, str, str] | None:
    """Number, from 1, and both texts of the first that differ."""
    if ours == theirs:
        return None
    end = "(nothing more)"
    for number in range(max(len(ours), len(theirs))):
        one = ours[number] if number < len(ours) else end
        two = theirs[number] if number < len(theirs) else end
        if one != two:
            return number + 1, one, two
    return None


# -- in a process of its own -----------------------------------------------------------------------------------


def _place(main: Main) -> tuple[str, str, str]:
    """File, module and name of a main that another process can find. Raises `UsageError` for others."""
    code = getattr(main, "__code__", None)
    name = str(getattr(main, "__qualname__", ""))
    if code is None or not name.isidentifier() or not Path(code.co_filename).is_file():
        raise UsageError(f"check_determinism: hash_seeds need a main that is a function of a module, not {main!r}")
    module = main.__module__
    return code.co_filename, "program_under_check" if module == "__main__" else module, name


def _in_process(world: World, place: tuple[str, str, str], seed: int) -> Seen:
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, *place, world.token],
            env=environment,
            capture_output=True,
            text=True,
            timeout=PROCESS_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"check_determinism: {place[2]} of {place[0]} did not end in another process within {PROCESS_SECONDS:g} s; "
            "the module is loaded there: what it does when it is imported is done again"
        ) from None
    if done.returncode:
        raise UsageError(f"check_determinism: {place[2]} of {place[0]} does not run in another process:\n{done.stderr}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Seen(tuple(said["events"]), said["outcome"], tuple(said["callbacks"]))


def child(file: str, module_name: str, name: str, token: str) -> None:
    """In the other process: run, and print what was seen as one line of JSON."""
    from understudy.actors.testing.world import World

    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    main: Callable[[], Any] = getattr(module, name)
    seen = look(World.from_token(token), main)[1]
    text = json.dumps({"events": seen.events, "outcome": seen.outcome, "callbacks": seen.callbacks})
    sys.stdout.write(f"\n{text}\n")
