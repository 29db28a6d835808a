"""What a simulated run may not reach: threads, sockets, processes, real sleep, the machine's clocks and entropy.

While a simulated loop runs (`inside`), a few names of the standard library and of anyio are replaced and afterwards put
back: what would leave the process raises `Escape`, the clocks tell virtual time, entropy comes from a seeded generator,
and anyio's threads run inline. Not caught: names imported before (`from time import time`), `datetime.now`, files,
C extensions with clocks or sockets of their own, and the order of sets of strings (`PYTHONHASHSEED`). The determinism
check of a world (see `World.run`) finds what leaks through them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import random
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

from understudy.actors.testing.identity import scope_class

_OURS: Final = ("/actors/testing/", "/asyncio/", "/anyio/", "/threading.py", "/concurrent/")


WALL: Final = 1_800_000_000
"""The wall clock at virtual time 0, in seconds since the epoch."""


class Escape(RuntimeError):
    """Something in a simulated run reached for the real world. The text names what, and who called."""


def refuse(what: str, *_: object, **__: object) -> NoReturn:
    """Raise `Escape`, naming the innermost caller that is not the testing kit or asyncio."""
    stack = [each for each in traceback.extract_stack()[:-1] if not any(part in each.filename for part in _OURS)]
    caller = f"{stack[-1].filename}:{stack[-1].lineno} {stack[-1].name}" if stack else "an unknown place"
    raise Escape(f"{what}, at {caller}; a simulated run has no outside")


_thread_of: Any = None
"""The simulated loop that a function for a thread runs for, while it runs: there is no running loop then."""


@contextlib.contextmanager
def thread_of(loop: object) -> Iterator[None]:
    """Run as a thread of `loop` would: with no loop running, and its virtual clocks."""
    global _thread_of
    running, before = asyncio._get_running_loop(), _thread_of
    asyncio._set_running_loop(None)
    _thread_of = loop
    try:
        yield
    finally:
        _thread_of = before
        asyncio._set_running_loop(running)


def _virtual_loop() -> Any:
    """The simulated loop whose time counts here, or None: a real loop in a function for a thread has real time."""
    loop = asyncio._get_running_loop() or _thread_of
    return loop if getattr(loop, "virtual", False) else None


def _clock(real: Callable[[], float], base: int) -> Callable[[], float]:
    def virtual() -> float:
        loop = _virtual_loop()
        return real() if loop is None else float(base + loop.time())

    return virtual


def _clock_ns(real: Callable[[], int], base: int) -> Callable[[], int]:
    def virtual() -> int:
        loop = _virtual_loop()
        return real() if loop is None else int(base * 1_000_000_000 + loop.nanoseconds)

    return virtual


_dice = random.Random(0)

_NO_THREAD = functools.partial(refuse, "a thread was started")
_NO_PROCESS = functools.partial(refuse, "a process was started")
_NO_SLEEP = functools.partial(refuse, "time.sleep was called")


@functools.cache
def _swaps() -> list[tuple[Any, str, Any]]:
    """Whose attribute is replaced by what. Made once."""
    swaps: list[tuple[Any, str, Any]] = [
        (time, "sleep", _NO_SLEEP),
        (threading.Thread, "start", _NO_THREAD),
        (subprocess.Popen, "__init__", _NO_PROCESS),
        (os, "urandom", lambda size: _dice.randbytes(size)),
        (random, "_urandom", lambda size: _dice.randbytes(size)),
    ]
    for name in ("connect", "connect_ex", "bind", "listen", "sendto"):
        swaps.append((socket.socket, name, functools.partial(refuse, f"socket.{name} was called")))
    for name in ("time", "monotonic", "perf_counter"):
        base = WALL if name == "time" else 0
        swaps.append((time, name, _clock(getattr(time, name), base)))
        swaps.append((time, f"{name}_ns", _clock_ns(getattr(time, f"{name}_ns"), base)))
    return swaps + _anyio_swaps()


def _anyio_swaps() -> list[tuple[Any, str, Any]]:
    """Anyio's cancel scope with a stable hash, and its threads inline. Private names, tried in tests."""
    from anyio._backends import _asyncio as backend

    module: Any = backend
    name = "run_sync_in_worker_thread"
    real: Any = vars(backend.AsyncIOBackend)[name].__func__

    async def inline(
        cls: Any, func: Callable[..., Any], args: Any, abandon_on_cancel: bool = False, limiter: Any = None
    ) -> Any:
        loop = asyncio.get_running_loop()
        if not getattr(loop, "virtual", False):
            return await real(cls, func, args, abandon_on_cancel, limiter)
        await cls.checkpoint()
        async with limiter or cls.current_default_thread_limiter():
            with module.CancelScope(shield=not abandon_on_cancel):
                context = contextvars.copy_context()
                return await loop.run_in_executor(None, functools.partial(context.run, func, *args))

    return [
        (module, "CancelScope", scope_class(backend.CancelScope)),
        (backend.AsyncIOBackend, name, classmethod(inline)),
    ]


_inside = False
_MISSING: Final = object()


@contextlib.contextmanager
def inside(seed: int = 0) -> Iterator[None]:
    """Replace what leads outside, and put it back. `seed` is of entropy. Within another one, nothing happens."""
    global _inside
    if _inside:
        yield
        return
    _inside = True
    state = random.getstate()
    random.seed(seed)
    _dice.seed(seed)
    before = [(holder, name, vars(holder).get(name, _MISSING)) for holder, name, _ in _swaps()]
    for holder, name, new in _swaps():
        setattr(holder, name, new)
    try:
        yield
    finally:
        for holder, name, old in before:
            if old is _MISSING:
                delattr(holder, name)
            else:
                setattr(holder, name, old)
        random.setstate(state)
        _inside = False


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Without Hypothesis's line tracer, which makes a run ten times as long to compare the lines of failing examples.

    It is there on Python 3.11 while an example is shrunk. Other tracers (coverage, debuggers) stay.
    """
    tracer = sys.gettrace()
    if type(getattr(tracer, "__self__", None)).__module__.partition(".")[0] != "hypothesis":
        yield
        return
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracer)
