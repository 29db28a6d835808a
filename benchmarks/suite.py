"""What there is to run: for every benchmark its sentence, its lines, its sizes, its operations and its right result.

A *line* is one way to run a benchmark (`tell` or `ask`, for example) and becomes one row. Operations follow from the
arguments; no loop counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from benchmarks.agent_suite import APPROVAL, BUDGET, COMPACTION, CONSTRUCTION, DURABLE, LOOPS, STEPS
from benchmarks.case import Found
from benchmarks.durable_suite import JOURNAL, REPLAY
from benchmarks.lines import ROOMY, Args, Benchmark, Line, Settings, of_table, sizes_of, value_of
from benchmarks.remote_suite import ONEWAY, REMOTE, SLOW

MAILBOX = 1_000
"""The default bound of a mailbox."""
GROUP = 10
"""Agents per supervisor in the crash storm, and in Erlang's."""


def _pingpong(args: Args) -> Found:
    return {"sum": value_of("pingpong", args)["sum"], "handled": args[0]}


def _threadring(args: Args) -> Found:
    return {"zero_at": value_of("threadring", args)["zero_at"], "receipts": args[1] + 1, "ended": args[0]}


def _only(name: str, *keys: str) -> Callable[[Args], Found]:
    """What the oracle says under some of its keys."""

    def expect(args: Args) -> Found:
        value = value_of(name, args)
        return {key: value[key] for key in keys}

    return expect


def _fjthrput(args: Args) -> Found:
    actors, n = args
    return {"counts": [n] * actors, "sums": [n * (n - 1) // 2] * actors}


def _chameneos(args: Args) -> Found:
    creatures, meetings = args
    return {"sum_of_counts": 2 * meetings, "reports": creatures, "meetings": meetings, "strange_colours": []}


def _line(benchmark: str, name: str, ops: str, expect: Callable[[Args], Found], **settings: object) -> Line:
    return Line(name, sizes_of(benchmark), of_table(benchmark, ops), expect, settings)


def _dead_letter(args: Args) -> Found:
    agents, jobs = args
    value = value_of("crashstorm", args)
    crashes = int(str(value["first_attempt_crashes"]))
    lost = sum(i * jobs + j for i in range(agents) for j in range(jobs) if (i + j) % 7 == 0)
    return {
        "completed": agents * jobs - crashes,
        "once": True,
        "dead": crashes,
        "disjoint": True,
        "dead_letters": crashes,
        "restarts": crashes,
        "alive": agents,
        "sum": int(str(value["sum"])) - lost,
    }


def _redeliver(args: Args) -> Found:
    value = value_of("crashstorm", args)
    crashes = int(str(value["first_attempt_crashes"]))
    agents, jobs = args
    return {
        "completed": agents * jobs,
        "once": True,
        "dead": crashes,
        "disjoint": False,
        "dead_letters": 0,
        "restarts": crashes,
        "alive": agents,
        "sum": int(str(value["sum"])),
    }


LIMIT = 5
"""Restarts in 10 s after which a supervisor of `escalate` gives up."""


def _escalate(args: Args) -> Found:
    agents, jobs = args
    return {
        "escalations": 1,
        "siblings": (GROUP - 1) * jobs,
        "others": (agents - GROUP) * jobs,
        "crashes": LIMIT + 1,
        "alive": agents,
    }


def _storm(args: Args) -> Found:
    actors, times, _ = args
    return {"restarts": actors * times, "alive": list(range(actors))}


_ALL_RESTARTS: Settings = {"intensity": "more than there are", "backoff_first": 0.0}


CRASHSTORM = Benchmark(
    "C4",
    "crashstorm",
    "restart",
    "Agents crash under supervisors, with work waiting: restarts, their cost, and what is not lost.",
    (
        Line(
            "dead-letter",
            sizes_of("crashstorm"),
            of_table("crashstorm", "first_attempt_crashes"),
            _dead_letter,
            _ALL_RESTARTS | {"per_supervisor": GROUP, "state": "a book the factories share"},
        ),
        Line(
            "redeliver",
            sizes_of("crashstorm"),
            of_table("crashstorm", "first_attempt_crashes"),
            _redeliver,
            _ALL_RESTARTS | {"per_supervisor": GROUP, "redeliver": 1, "state": "a book the factories share"},
        ),
        Line(
            "escalate",
            sizes_of("crashstorm"),
            lambda args: LIMIT,
            _escalate,
            {"intensity": "5 in 10 s", "backoff_first": 0.01, "per_supervisor": GROUP},
        ),
        Line(
            "storm",
            ((20, 10, GROUP), (100, 50, GROUP), (1000, 20, GROUP)),
            lambda args: args[0] * args[1],
            _storm,
            _ALL_RESTARTS | {"per_supervisor": GROUP},
        ),
        Line(
            "flat",
            ((20, 10, 20), (100, 50, 100), (1000, 20, 1000)),
            lambda args: args[0] * args[1],
            _storm,
            _ALL_RESTARTS | {"per_supervisor": "all"},
        ),
    ),
)
DENSITY = Benchmark(
    "C13",
    "density",
    "actor",
    "N parked actors, each after one ask: bytes, collection time, and the latency of asking one of them.",
    tuple(
        Line(
            name,
            ((1_000,), (10_000,), (100_000,)),
            lambda args: args[0],
            lambda args: {"alive": args[0]},
            {"spawn": spawn},
            fresh=True,
        )
        for name, spawn in (
            ("anonymous", "System.spawn, one factory"),
            ("named", "System.spawn, own name and factory"),
            ("specs", "own name and child spec, 100 per supervisor"),
        )
    ),
)


def _stoptree(args: Args) -> Found:
    (n,) = args
    middles = isqrt(n)
    stubborn = [100 * k + 1 for k in range(n // 100) if 100 * k + 1 < n - 1 - middles]
    return {"stops": n, "distinct": n, "children_first": True, "stubborn": stubborn}


def _stoptree_supervised(args: Args) -> Found:
    leaves = args[0] - 1 - isqrt(args[0])  # supervisors have no clean-up of ours
    return _stoptree(args) | {"stops": leaves, "distinct": leaves}


STOPTREE = Benchmark(
    "C14",
    "stoptree",
    "actor",
    "Stop a tree of three levels while half its leaves wait and some ignore their cancellation for 200 ms.",
    tuple(
        Line(
            name,
            ((100,), (1_000,), (10_000,)),
            lambda args: args[0],
            expect,
            {"cancel_on_stop": True, "deadline_s": 1.0},
            variants=("async",),
        )
        for name, expect in (("spawned", _stoptree), ("supervised", _stoptree_supervised))
    ),
)

BENCHMARKS: dict[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark(
            "B1",
            "pingpong",
            "message",
            "Two actors exchange N numbered messages, one at a time: a wake-up, or an idle actor's reply.",
            (
                _line("pingpong", "tell", "messages", _pingpong, verb="tell"),
                _line("pingpong", "ask", "messages", _pingpong, verb="ask"),
            ),
        ),
        Benchmark(
            "B2",
            "counting",
            "message",
            "A producer sends N increments to one counter without waiting for answers: the cost of a mailbox.",
            (
                _line("counting", "bounded-1000", "messages", _only("counting", "total"), verb="send", mailbox=MAILBOX),
                _line("counting", "roomy", "messages", _only("counting", "total"), verb="tell", mailbox_limit=ROOMY),
            ),
        ),
        Benchmark(
            "B3",
            "threadring",
            "hop",
            "A token goes round a ring of 100 actors until it has counted down to zero: pure hand-over.",
            (_line("threadring", "tell", "hops", _threadring, verb="tell"),),
        ),
        Benchmark(
            "B4",
            "fjcreate",
            "actor",
            "Create N actors, give each one message, see each end: the price of a life.",
            tuple(
                _line(
                    "fjcreate",
                    name,
                    "actors",
                    lambda args: {"sum": args[0] ** 2, "terminations": args[0]},
                    spawn=spawn,
                    creator_mailbox_limit=ROOMY,
                )
                for name, spawn in (("child", "context.spawn"), ("supervised", "System.spawn"))
            ),
        ),
        Benchmark(
            "B5",
            "fjthrput",
            "message",
            "A master sends N messages to each of 60 actors, round robin: throughput over many mailboxes.",
            (_line("fjthrput", "send", "messages", _fjthrput, verb="send", mailbox=MAILBOX),),
        ),
        Benchmark(
            "B6",
            "chameneos",
            "message",
            "A hundred creatures meet in pairs at one mall: contention on one mailbox.",
            (_line("chameneos", "tell", "messages", _chameneos, verb="tell"),),
        ),
        Benchmark(
            "B7",
            "big",
            "message",
            "Each of 120 actors pings random others and answers theirs: many to many.",
            (_line("big", "tell", "messages", _only("big", "digest"), verb="tell"),),
        ),
        Benchmark(
            "B8",
            "concdict",
            "request",
            "Twenty workers ask one dictionary, one request in ten writes: a busy server.",
            (
                _line(
                    "concdict",
                    "ask",
                    "requests",
                    _only("concdict", "reads", "writes", "final_sum", "keys_written"),
                    verb="ask",
                ),
            ),
        ),
        Benchmark(
            "B14",
            "uts",
            "actor",
            "One actor per node of an unbalanced tree, made by its parent, reporting upwards.",
            (
                _line(
                    "uts",
                    "tell",
                    "nodes",
                    _only("uts", "nodes", "leaves", "depth", "hash_sum"),
                    verb="tell",
                    mailbox_limit=ROOMY,
                ),
            ),
        ),
        Benchmark(
            "C1",
            "skynet",
            "actor",
            "A tree of fan-out ten adds up its leaves' numbers: creating and ending, and sums on the way up.",
            (_line("skynet", "tell", "actors", _only("skynet", "sum"), verb="tell"),),
        ),
        CRASHSTORM,
        BUDGET,
        APPROVAL,
        COMPACTION,
        CONSTRUCTION,
        DENSITY,
        DURABLE,
        JOURNAL,
        LOOPS,
        ONEWAY,
        REMOTE,
        REPLAY,
        SLOW,
        STEPS,
        STOPTREE,
    )
}
