"""The benchmarks whose actors are agents: scripted models, no network. The same for ours and for the peers."""

from __future__ import annotations

from benchmarks.case import Found
from benchmarks.lines import Args, Benchmark, Line, of_table, sizes_of, value_of
from benchmarks.reference import oracle
from benchmarks.scripts import STEPS as STEPS_EACH
from benchmarks.scripts import TEAM


def _compaction(args: Args) -> Found:
    value = value_of("compaction", args)
    return {"pinned": value["pinned"], "order_hash": value["order_hash"], "over": 0}


def _durable(args: Args) -> Found:
    """Each of 1,000 senders has sent the same count in 5 blocks, so its last number is five times that."""
    return {"kept": 5 * max(1, args[0] // 1_000) * 1_000, "wrong": 0}


DURABLE = Benchmark(
    "C14",
    "durable",
    "message",
    "Messages acknowledged after fsync, 1,000 in flight, beside a bare writer thread; what a kill leaves of them.",
    tuple(
        Line(
            name,
            ((1_000,), (5_000,), (50_000,)),
            lambda args: 4 * max(1, args[0] // 1_000) * 1_000,
            _durable,
            {"durability": "full", "senders": 1_000, "actors": 100, "handled": handled, "mailbox_limit": 1_000_000},
            variants=("def",),
        )
        for name, handled in (("accepted", "after the kill"), ("handled", "as they come"))
    ),
)

COMPACTION = Benchmark(
    "C12",
    "compaction",
    "turn",
    "An agent's context passes its limit again and again: what a turn costs when there were many, and what is kept.",
    tuple(
        Line(
            name,
            sizes_of("compaction"),
            lambda args: args[0],
            _compaction,
            {"window": "8000 tokens, at 0.8, first 5", "rule": f"summary of all but the last {keep}", "turn": turn},
            variants=("async",),
        )
        for name, keep, turn in (
            ("steps", "10 exchanges", "a tool's result, one run"),
            ("session", "20 items", "a request, one run each in one session"),
        )
    ),
)


def _ledger(args: Args) -> Found:
    """What is granted of each team's 60 %: by adding up, without a ledger."""
    n, steps = args
    cost = oracle().cost
    limits = [sum(cost(i, k) for i in range(t, min(t + TEAM, n)) for k in range(steps)) for t in range(0, n, TEAM)]
    flying: list[tuple[int, int]] = []
    spent, held, out = [0] * len(limits), [0] * len(limits), set[int]()

    def settle() -> None:
        team, amount = flying.pop(0)
        held[team] -= 100
        spent[team] += amount

    for k in range(steps):
        for i in range(n):
            team = i // TEAM
            limit = limits[team] * 60 // 100
            while i not in out and spent[team] + held[team] + 100 > limit:
                if spent[team] + 100 > limit:
                    out.add(i)
                else:
                    settle()
            if i not in out:
                held[team] += 100
                flying.append((team, cost(i, k)))
                if len(flying) >= 64:
                    settle()
    while flying:
        settle()
    total = sum(spent)
    return {"spent": total, "root": total, "within": True, "reserved": 0, "unspent_below_reserve": True}


_BOOKED: Found = {"within": True, "overspend": 0, "spent_is_billed": True, "reserved": 0, "others": [], "breached": []}


def _killed(args: Args) -> Found:
    n = args[0]
    sent, unsent = (sum(i % 20 == m for i in range(n)) for m in (3, 13))
    killed = {"sent": sent, "unsent": unsent}
    return _BOOKED | {"killed": killed, "estimated": sent, "estimated_left": 0, "complete": n}


def _provider(args: Args) -> Found:
    n = args[0]
    return {
        "within": True,
        "spent_is_billed": True,
        "reserved": 0,
        "others": [],
        "breached": sorted(f"a{i}" for i in range(0, n, 5)),
        "over": True,
        "over_as_planted": True,
        "estimated": [i for i in range(n) if i % 5 in (1, 2)],
    }


def _granted(args: Args) -> Found:
    return _BOOKED | {"refused_some": True, "unspent_below_reserve": True}


BUDGET = Benchmark(
    "C5",
    "budget",
    "call",
    "Agents want more than their budgets allow: no limit is ever exceeded, and nothing that fits is refused.",
    tuple(
        Line(name, sizes, lambda args: args[0] * args[1], expect, {"reserve": 100, **settings}, variants=("def",))
        for name, sizes, expect, settings in (
            ("ledger", sizes_of("budget"), _ledger, {"pools": 4, "agents": "none"}),
            ("tree", sizes_of("budget"), _granted, {"limited": "root"}),
            ("teams", sizes_of("budget"), _granted, {"limited": "each team of 20"}),
            ("kill", sizes_of("budget"), _killed, {"killed": "one in ten, with a reservation"}),
            ("provider", ((20, 10), (100, 10), (500, 10)), _provider, {"model": "loopback"}),
        )
    ),
)


def _loops(args: Args) -> Found:
    value = value_of("loops", args)
    return {
        "honest_sum": value["honest_sum"],
        "false_stops": 0,
        "false_nudges": 0,
        "stopped": value["looper"],
        "wasteful": 0,
    }


def _limited(args: Args) -> Found:
    return {"answers": "right", "ended": value_of("loops", args)["agents"]}


LOOPS = Benchmark(
    "C3",
    "loops",
    "agent",
    "One agent in twenty never stops: what it wastes until a guard or a limit ends it, and what the others keep.",
    tuple(
        Line(
            name,
            sizes_of("loops"),
            of_table("loops", "agents"),
            expect,
            {"tool_ms": 1, "steps": STEPS_EACH, **settings},
            variants=("async",),
        )
        for name, expect, settings in (
            ("default", _loops, {"ladder": "nudge, restart, stop"}),
            ("limit", _limited, {"ended by": "the library's own default limit, or after 200 calls"}),
            ("turns-25", _limited, {"ended by": "a limit of 25 turns"}),
        )
    ),
)


def _steps(args: Args) -> Found:
    value = value_of("agents", args)
    return {key: value[key] for key in ("tool_calls", "sum", "digest")}


STEPS = Benchmark(
    "C2",
    "steps",
    "step",
    "Many scripted agents at once, each ten times a model's word and a tool's result: what a library adds to a step.",
    tuple(
        Line(
            name,
            sizes_of("agents"),
            of_table("agents", "tool_calls"),
            _steps,
            {"tool_ms": tool_ms, "per_supervisor": TEAM, "journal": "memory", "guards": "default"},
            variants=("async",),
            fresh=True,
        )
        for name, tool_ms in (("tool-1ms", 1), ("tool-0", 0))
    ),
)

ROUNDS = 20
"""Of C6's kills at any instant."""


def _approved(args: Args) -> Found:
    value = value_of("agents", args[:2])
    each = {"repeated": 0, "missing": 0, "sum": value["sum"], "digest": value["digest"]}
    if len(args) > 2:
        return each | {"in_doubt_twice": 0, "rounds": args[2]}
    return each | {"asked": args[0], "parked_again": args[0], "left": 0}


APPROVAL = Benchmark(
    "C6",
    "approval",
    "step",
    "Agents wait for a yes half-way, and their process is killed: what is asked, done or lost twice or never.",
    tuple(
        Line(
            name,
            tuple((n, STEPS_EACH, *more) for n in (20, 200, 2_000)),  # type: ignore[arg-type]  # three of them
            ops,
            _approved,
            {"journal": "on disk, default durability", "effect": "irreversible", "killed": killed},
            variants=("async",),
            fresh=True,
        )
        for name, more, ops, killed in (
            ("parked", (), lambda args: args[0] * args[1], "when all wait"),
            (
                "kill-anywhere",
                (ROUNDS,),
                lambda args: args[0] * args[1] * args[2],
                "after drawn effects, in each round",
            ),
        )
    ),
)

CONSTRUCTION = Benchmark(
    "C13",
    "construction",
    "agent",
    "Make N agents with one tool, ten times over: time and bytes for each.",
    (
        Line(
            "one-tool",
            ((100, 10), (1_000, 10), (10_000, 10)),
            lambda args: args[0] * args[1],
            lambda args: {"answered": args[0]},
            {"tool": "made once"},
            variants=("async",),
            fresh=True,
        ),
    ),
)
