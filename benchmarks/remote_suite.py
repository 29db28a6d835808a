"""The benchmarks of what goes to another process, and of a consumer that is slower than those who send to it."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.case import Found
from benchmarks.lines import ROOMY, Args, Benchmark, Line

SHORT, LONG = 100, 10_000
"""Bytes of a payload."""


def _answered(args: Args) -> Found:
    return {"answered": args[0]} | _handled(args)


def _handled(args: Args) -> Found:
    return {"handled": args[0], "disorder": 0, "wrong": 0}


def _first(args: Args) -> int:
    return args[0]


def _line(name: str, counts: Args, *more: int, expect: Callable[[Args], Found], **settings: object) -> Line:
    small, medium, large = counts
    sizes = (small, *more), (medium, *more), (large, *more)
    return Line(name, sizes, _first, expect, {"net": "tcp, loopback, HMAC"} | settings)


def _asks(name: str, window: int, size: int) -> Line:
    return _line(name, (500, 5_000, 50_000), window, size, expect=_answered, verb="ask", window=window, bytes=size)


def _partition(args: Args) -> Found:
    return {"before": args[0], "lost": args[1], "late": 0, "downs": 1, "again": args[0]}


REMOTE = Benchmark(
    "C9",
    "remote",
    "round trip",
    "A process asks an actor in another one, one request at a time or 64; or that process is killed, and comes again.",
    (
        _asks("window-1", 1, SHORT),
        _asks("window-64", 64, SHORT),
        _asks("window-1-10kb", 1, LONG),
        _asks("window-64-10kb", 64, LONG),
        _line("partition", (150, 1_500, 15_000), 64, SHORT, expect=_partition, verb="ask", window=64, bytes=SHORT),
    ),
)

ONEWAY = Benchmark(
    "C9",
    "oneway",
    "message",
    "A process sends to an actor in another one, without answers, as fast as that one takes them.",
    (_line("send", (5_000, 100_000, 1_000_000), SHORT, expect=_handled, verb="send", bytes=SHORT),),
)


SENDERS, BOUND = 10, 1_000


def _accounted(args: Args) -> Found:
    return {
        "disorder": 0,
        "gap_is_counted": True,
        "told_is_counted": True,
        "within_bound": True,
        "bounded_memory": True,
    }


def _all_there(args: Args) -> Found:
    return {"delivered": 5 * args[0] * args[1], "disorder": 0}  # with n messages each, and with 4n


def _slow(name: str, expect: Callable[[Args], Found], bound: int = BOUND, **settings: object) -> Line:
    return Line(
        name,
        ((SENDERS, 200, bound), (SENDERS, 2_000, bound), (SENDERS, 20_000, bound)),
        lambda args: args[0] * args[1],
        expect,
        settings,
        variants=("async",),
        fresh=True,
    )


SLOW = Benchmark(
    "C10",
    "slow",
    "message",
    "Ten producers send faster than one consumer takes: what waits, what is lost, and does a notice get through?",
    (
        _slow("wait", lambda args: _all_there(args) | _accounted(args), verb="send"),
        _slow("refuse", _accounted, verb="tell"),
        _slow("drop-newest", _accounted, verb="tell", overflow="drop_newest"),
        _slow("drop-oldest", _accounted, verb="tell", overflow="drop_oldest"),
        _slow("remote", lambda args: _all_there(args) | _accounted(args), verb="send", net="tcp, loopback, HMAC"),
        _slow("roomy", _all_there, 0, verb="tell", mailbox_limit=ROOMY),
    ),
)
