"""What a simulated run may not reach: threads, sockets, processes, real sleep, the machine's clocks and entropy.

While a simulated loop runs (`inside`), names of the standard library and of anyio are replaced, for this thread, and
afterwards put back: what would leave the process raises `Escape`, the clocks tell virtual time, entropy comes from a
seeded generator, and anyio's threads run inline. Other threads of the process go on as before.

Not caught: names imported before (`from time import time`), `datetime.now` and `uuid1`, files, C extensions with clocks
or sockets of their own, and the order of sets of strings (`PYTHONHASHSEED`) and of other objects that hash to their
address. `World.check_determinism` finds what leaks through them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from threading import get_ident
from types import FrameType
from typing import Any, Final, NoReturn

import anyio

from understudy.actors.errors import UsageError
from understudy.actors.testing.anyio_seam import anyio_swaps
from understudy.actors.testing.identity import in_order

WALL: Final = 1_800_000_000
"""The wall clock at virtual time 0, in seconds since the epoch."""

_KIT: Final = "understudy.actors.testing"
_LOOP: Final = f"{_KIT}.simloop"
_LIBRARIES: Final = frozenset({*sys.stdlib_module_names, "anyio", "sniffio", "uvloop"}) - {"__main__"}
_SITES: Final = ("site-packages", "dist-packages")
_LEVELS: Final = 8
"""Tasks above one of a library's that are searched for the user's code."""

# Whose attribute is replaced by what: modules and classes, and functions of all kinds.
Swap = tuple[Any, str, Any]


class Escape(RuntimeError):
    """Something in a simulated run reached for the real world. The text names what, and who called."""


def refuse(what: str, *_: object, **__: object) -> NoReturn:
    """Raise `Escape`, naming the innermost line of the user's code."""
    global _first
    error = Escape(f"{what}, at {_caller()}; a simulated run has no outside")
    _first = _first or error
    raise error


_first: Escape | None = None
"""The first of the run. Whoever raised it may be an actor or a tool, whose errors end at its supervisor or model."""


def _first_escape() -> Escape | None:
    return _first


@contextlib.contextmanager
def no_escape() -> Iterator[None]:
    """Raise the first `Escape` of what runs within at its end, whatever became of it there."""
    global _first
    before, _first = _first, None
    try:
        yield
    except Exception as error:
        if (first := _first_escape()) is not None and error is not first:
            raise first from error
        raise
    else:
        if (first := _first_escape()) is not None:
            raise first
    finally:
        _first = before


def _caller() -> str:
    """The innermost frame of the user's own code since the loop began, else of a library, else the task."""
    frame: FrameType | None = sys._getframe(2)
    library = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == _LOOP and frame.f_code.co_name == "_run_once":
            break
        if not module.startswith(_KIT) and module.partition(".")[0] not in _LIBRARIES:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
            if module.partition(".")[0] != "understudy" and not any(s in frame.f_code.co_filename for s in _SITES):
                return place
            library = library or place
        frame = frame.f_back
    loop = asyncio._get_running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    if task is None:
        return library or "an unknown place"
    return _above(task) or library or f"an unknown place in task {task.get_name()!r}"


def _above(task: asyncio.Task[Any]) -> str:
    """Where the user's code waits for a task of anyio that a library began; "" if nobody's is found."""
    from understudy.actors.testing.standing import line_of

    known = {id(each): each for each in asyncio.all_tasks(task.get_loop())}
    above = anyio.get_current_task().parent_id
    for _ in range(_LEVELS):
        parent = known.get(above or 0)
        if parent is None:
            break
        line = line_of(parent)
        if line and not any(site in line for site in _SITES):
            return f"{line}, in its task {task.get_name()!r}"
        above = next((info.parent_id for info in anyio.get_running_tasks() if info.id == above), None)
    return ""


# -- whose thread, and whose time ------------------------------------------------------------------------------

_thread = 0
"""The thread that is inside; 0 for none. Everybody else has the real world."""
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


def in_thread() -> bool:
    """Whether a function for a thread is running, inline, in this thread."""
    return _thread_of is not None and get_ident() == _thread


def _virtual_loop() -> Any:
    """The simulated loop whose time counts here, or None for real time."""
    loop = asyncio._get_running_loop()
    if loop is None and get_ident() == _thread:
        loop = _thread_of
    return loop if getattr(loop, "virtual", False) else None


def _refusing(real: Callable[..., Any], what: str) -> Callable[..., Any]:
    """`real`, but for the thread that is inside. Works as a method, too."""

    def refused(*args: Any, **more: Any) -> Any:
        if get_ident() != _thread:
            return real(*args, **more)
        where = " in a function for a thread, which runs inline" if _thread_of is not None else ""
        refuse(f"{what}{where}")

    return refused


def _no_sleep(real: Callable[[float], None]) -> Callable[[float], None]:
    return _refusing(real, "time.sleep was called")


def _wait(real: Callable[..., bool]) -> Callable[..., bool]:
    """`threading.Condition.wait`, in which events, futures and queues of threads wait as well."""
    return _refusing(real, "a lock, event, queue or future of threads was waited for; nobody else runs")


def _no_loop(real: Callable[..., None]) -> Callable[..., None]:
    refused = _refusing(real, "another event loop was made")

    def init(self: Any, *args: Any, **more: Any) -> None:
        self._closed = True  # what its `__del__` looks at
        refused(self, *args, **more)

    return init


# -- clocks and chance -----------------------------------------------------------------------------------------


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


def _broken_down(real: Callable[..., Any]) -> Callable[..., Any]:
    """`time.localtime` and its like: of now, unless told otherwise."""

    def of(seconds: float | None = None) -> Any:
        loop = _virtual_loop() if seconds is None else None
        return real(seconds) if loop is None else real(WALL + loop.time())

    return of


_dice = random.Random(0)
_rolled = False
_seed = 0


def _entropy(size: int) -> bytes:
    global _rolled
    if not _rolled:  # most runs need none
        _rolled = True
        _REAL_SEED(_dice, _seed)
    return _dice.randbytes(size)


_REAL_SEED: Final = random.Random.seed


def _urandom(real: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda size: _entropy(size) if get_ident() == _thread else real(size)


def _seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
    """`random.Random.seed`: what is seeded by nothing is seeded by the run."""
    if a is None and get_ident() == _thread:
        a = int.from_bytes(_entropy(16))
    _REAL_SEED(self, a, version)


def _seeded_module(real: Callable[..., None]) -> Callable[..., None]:
    def seed(a: Any = None, version: int = 2) -> None:
        real(int.from_bytes(_entropy(16)) if a is None and get_ident() == _thread else a, version)

    return seed


# -- what is replaced ------------------------------------------------------------------------------------------

_REFUSED: Final[tuple[tuple[Any, str, str], ...]] = (
    (time, "a clock was read", "clock_gettime clock_gettime_ns"),
    (threading.Thread, "a thread was started", "start"),
    (subprocess.Popen, "a process was started", "__init__"),
    (os, "a process was started", "fork forkpty system posix_spawn posix_spawnp execv execve"),
    (signal, "a signal handler or alarm was set", "signal setitimer alarm pause"),
    (select, "a file descriptor was waited for", "select poll epoll kqueue"),
    (socket, "a name was looked up", "getaddrinfo gethostbyname gethostbyname_ex gethostbyaddr getnameinfo"),
    (socket.socket, "a socket was used", "connect connect_ex bind listen accept send sendall sendto sendmsg sendfile"),
    (socket.socket, "a socket was used", "recv recv_into recvfrom recvfrom_into recvmsg recvmsg_into"),
)
_LATER: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("ssl", "SSLSocket", "a socket was used", "read write do_handshake"),
    ("uvloop", "", "another event loop was made", "Loop"),
)
"""Of modules that may be imported, or not: module, class, and as in `_REFUSED`."""


def _refused(holder: Any, what: str, names: str) -> Iterator[Swap]:
    owner = getattr(holder, "__name__", "")
    for name in names.split():
        real = getattr(holder, name, None)  # not every system has every name
        if real is not None:
            which = "" if name in ("__init__", "start") else f" ({owner}.{name})"
            yield holder, name, _refusing(real, f"{what}{which}")


@functools.cache
def _swaps(later: tuple[str, ...]) -> list[Swap]:
    """Everything that is replaced. Made once, and again when a module of `_LATER` has been imported."""
    swaps: list[Swap] = [
        (time, "sleep", _no_sleep(time.sleep)),
        (threading.Condition, "wait", _wait(threading.Condition.wait)),
        (os, "urandom", _urandom(os.urandom)),
        (random, "_urandom", _urandom(os.urandom)),
        (random, "seed", _seeded_module(random.seed)),
        (random.Random, "seed", _seeded),
        (asyncio.SelectorEventLoop, "__init__", _no_loop(asyncio.SelectorEventLoop.__init__)),
        (asyncio, "as_completed", _as_completed(asyncio.as_completed)),
    ]
    for holder, what, names in _REFUSED:
        swaps += _refused(holder, what, names)
    for module, kind, what, names in _LATER:
        if module in later:
            holder = sys.modules[module]
            swaps += _refused(getattr(holder, kind) if kind else holder, what, names)
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        base = WALL if name == "time" else 0
        swaps.append((time, name, _clock(getattr(time, name), base)))
        swaps.append((time, f"{name}_ns", _clock_ns(getattr(time, f"{name}_ns"), base)))
    for name in ("localtime", "gmtime", "ctime"):
        swaps.append((time, name, _broken_down(getattr(time, name))))
    return swaps + anyio_swaps(refuse, in_thread)


def _as_completed(real: Callable[..., Any]) -> Callable[..., Any]:
    """`asyncio.as_completed` makes tasks of a set of coroutines, in the order of their addresses."""

    def as_completed(fs: Any, *, timeout: float | None = None) -> Any:
        if _virtual_loop() is not None and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
            fs = in_order(fs)
        return real(fs, timeout=timeout)

    return as_completed


_MISSING: Final = object()


@contextlib.contextmanager
def inside(seed: int = 0) -> Iterator[None]:
    """Replace what leads outside, for this thread, and put it back. `seed` is of entropy.

    Within another one, nothing happens. Raises `UsageError` while another thread is inside: one at a time.
    """
    global _thread, _seed, _rolled
    if _thread:
        if _thread != get_ident():
            raise UsageError("another thread of this process is in a simulated run; one at a time")
        yield
        return
    later = tuple(name for name, *_ in _LATER if name in sys.modules)
    swaps = _swaps(later)
    state = random.getstate()
    random.seed(seed)
    _seed, _rolled = seed, False
    before = [(holder, name, holder.__dict__.get(name, _MISSING)) for holder, name, _ in swaps]
    _thread = get_ident()
    try:
        for holder, name, new in swaps:
            setattr(holder, name, new)
        yield
    finally:
        for holder, name, old in before:
            if old is not _MISSING:
                setattr(holder, name, old)
            elif name in holder.__dict__:
                delattr(holder, name)
        _thread = 0
        random.setstate(state)


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
