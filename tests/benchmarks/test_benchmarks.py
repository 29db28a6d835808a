"""The benchmarks themselves: each proves its result, each check catches a deliberate bug, rows say everything."""

import gc
import importlib
import inspect
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import cli, driver, gate, ours, plain, reference, worker, workers
from benchmarks.case import Case
from benchmarks.ours.common import asynchronous
from benchmarks.ours.pingpong import Pong
from benchmarks.suite import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]
LINES = [f"{benchmark.name}:{line.name}" for benchmark in BENCHMARKS.values() for line in benchmark.lines]
APART = {"density:named", "density:specs"} | {
    line for line in LINES if line.partition(":")[0] in ("approval", "oneway", "remote", "slow")
}
"""Lines of `density` that differ from `anonymous` in how actors are made, not in what is checked; those that start
processes or take their time are in test files of their own."""
FIELDS = {
    "suite", "name", "size", "params", "impl", "version", "ok", "error", "wall", "cpu", "ops", "unit", "ops_per_s",
    "floor_ratio", "extra", "rss_peak_kb", "python", "cores", "load_before", "load_after", "commit", "variant",
}  # fmt: skip


class Here:
    """A worker without a process of its own: what a test wants to know of a program needs none."""

    version = python = ""

    def __init__(self, impl: str, loop: str) -> None:
        self.implementation = cast("worker.Implementation", importlib.import_module(worker.PROGRAMS[impl]))
        self.loop = loop

    def run(self, case: Case, deadline: float) -> workers.Reply:
        return worker.run_once(self.implementation, case, self.loop)

    def close(self) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Each run collects garbage twice: not all that the suite holds. Hundreds of crashes need no captured log lines."""
    gc.collect()
    gc.freeze()
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)
    gc.unfreeze()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "start", Here)


def run(*argv: str) -> tuple[int, list[Row]]:
    out = io.StringIO()
    status = cli.main([*argv, "--size", "small", "--rounds", "1", "--json"], out)
    return status, [json.loads(line) for line in out.getvalue().splitlines()]


def title(row: Row) -> str:
    return f"{row['name']}:{row['params']['line']}"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Everything once, by ours and the floor."""
    pairs = tuple(
        (each, line) for each in BENCHMARKS.values() for line in each.lines if f"{each.name}:{line.name}" not in APART
    )
    plan = driver.Plan(pairs, "small", ("ours", "floor"), ("def", "async"), rounds=1, warm_up=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "start", Here)
        with driver.Driver(plan) as driven:
            found = list(driven.rows())
    assert [(title(row), row["error"]) for row in found if row["ok"] is False] == []
    return found


@pytest.mark.parametrize("line", [line for line in LINES if line not in APART])
def test_every_line_is_right_with_both_kinds_of_handlers(rows: list[Row], line: str) -> None:
    found = {row["variant"]: row["ok"] for row in rows if title(row) == line and row["impl"] == "ours"}
    wanted = dict.fromkeys(variants(line), True)
    assert found == wanted


def variants(line: str) -> tuple[str, ...]:
    name, _, part = line.partition(":")
    return BENCHMARKS[name].line(part).variants


def test_what_is_not_supported_says_so_and_has_no_numbers(rows: list[Row]) -> None:
    unsupported = [row for row in rows if row["ok"] is None]
    assert not [title(row) for row in unsupported if row["impl"] == "ours"]
    assert all(row["error"].startswith("not supported: ") for row in unsupported)
    assert numbers(unsupported) == {None}


def numbers(found: list[Row]) -> set[object]:
    return {row[key] for row in found for key in ("wall", "cpu", "ops_per_s", "floor_ratio", "rss_peak_kb")}


def test_a_row_has_every_field_and_a_ratio_to_the_floor(rows: list[Row]) -> None:
    assert [row for row in rows if set(row) != FIELDS] == []
    ring = next(row for row in rows if title(row) == "threadring:tell" and row["variant"] == "def")
    floor = next(row for row in rows if title(row) == "threadring:tell" and row["impl"] == "floor")
    assert (ring["ok"], ring["error"], ring["ops"], ring["unit"], ring["suite"]) == (
        True,
        None,
        5038,
        "hop",
        "understudy",
    )
    assert ring["params"] == {"line": "tell", "args": [100, 5037], "loop": "asyncio", "verb": "tell"}
    assert ring["wall"]["min"] <= ring["wall"]["median"] <= ring["wall"]["max"]
    assert ring["floor_ratio"] == pytest.approx(ring["cpu"] / floor["cpu"], rel=0.01)
    assert ring["extra"]["floor_digest"] == reference.floor_digest()
    assert floor["floor_ratio"] == 1.0


def test_the_floor_and_the_oracle_are_the_copies_that_the_ratios_refer_to() -> None:
    """Change them, and every ratio means something else: then change this, too, and say so."""
    assert reference.floor_digest() == "a0fea157e17197f1"
    assert reference.oracle().digest([1, 2, 3]) == "e2353910701f1c2a"
    assert [reference.oracle().Lehmer(seed).below(120) for seed in (0, 1, 2, 119)] == [1, 115, 109, 28]


# -- deliberate bugs -------------------------------------------------------------------------------------------

BUGS = {
    "pingpong:tell": ("twice", "reply 100 where 101 was due"),
    "pingpong:ask": ("off", "reply 101 where 100 was due"),
    "counting:bounded-1000": ("impatient", "total: expected 10000, got 1000"),
    "counting:roomy": ("forgets", "total: expected 10000, got 777"),
    "threadring:tell": ("skips", "zero_at: expected 37, got 36"),
    "fjcreate:child": ("wrong", "sum: expected 1000000, got 1000002"),
    "fjcreate:supervised": ("stays", "waited 1.5 s for 1000 answers and 1000 ends"),
    "fjthrput:send": ("loses", "counts: expected "),
    "chameneos:tell": ("shy", "sum_of_counts: expected 2000, got "),
    "big:tell": ("miscounts", "digest: expected '5f7ea3e2a4413b52', got "),
    "concdict:ask": ("forgets", "final_sum: expected 746194, got "),
    "uts:tell": ("shallow", "depth: expected 4, got 1"),
    "skynet:tell": ("miscounts", "sum: expected 499500, got 499441"),
    "crashstorm:dead-letter": ("skips", "completed: expected 343, got 340"),
    "crashstorm:redeliver": ("gives-up", "completed: expected 400, got 343"),
    "crashstorm:escalate": ("recovers", "waited 1.5 s for the supervisor to give up"),
    "crashstorm:storm": ("pretends", "restarts: expected 200, got 199"),
    "crashstorm:flat": ("pretends", "restarts: expected 200, got 199"),
    "budget:ledger": ("generous", "spent: expected 14895, got 25300"),
    "budget:tree": ("generous", "within: expected True, got False"),
    "budget:teams": ("generous", "within: expected True, got False"),
    "budget:kill": ("refunds", "spent_is_billed: expected True, got False"),
    "budget:provider": ("blind", "spent_is_billed: expected True, got False"),
    "compaction:steps": ("forgets", "order_hash: expected 638554473, got "),
    "compaction:session": ("forgets", "order_hash: expected 638554473, got "),
    "density:anonymous": ("swapped", "actor 123 says it is 124"),
    "construction:one-tool": ("swapped", "answered: expected 100, got 99"),
    "durable:accepted": ("early", "kept: expected 5000, got 0"),
    "durable:handled": ("twice", "wrong: expected 0, got "),
    "steps:tool-1ms": ("short", "tool_calls: expected 1000, got 999"),
    "steps:tool-0": ("short", "tool_calls: expected 1000, got 999"),
    "loops:limit": ("wrong", "answers: expected 'right', got 'wrong: [1]'"),
    "loops:turns-25": ("wrong", "answers: expected 'right', got 'wrong: [1]'"),
    "loops:default": ("stubborn", "honest_sum: expected 61323853871, got 60800993223"),
    "journal:off": ("short", "tool_calls: expected 1000, got 900"),
    "journal:memory": ("short", "tool_calls: expected 1000, got 900"),
    "journal:relaxed": ("loses", "read_back: expected 1000, got 990"),
    "journal:normal": ("loses", "read_back: expected 1000, got 990"),
    "journal:full": ("loses", "read_back: expected 1000, got 990"),
    "journal:bare": ("loses", "rows: expected True, got False"),
    "replay:rebuild": ("calls", "tool_calls: expected 0, got 1"),
    "replay:replay": ("trusts", "divergence: expected True, got False"),
    "replay:long": ("calls", "tool_calls: expected 0, got 1"),
    "stoptree:spawned": ("leaks", "1 tasks left over"),
    "stoptree:supervised": ("silent", "stops: expected 89, got 88"),
}
OTHER_BUGS = [
    ("durable:accepted", "disorder", "wrong: expected 0, got "),
    ("loops:default", "eager", "false_nudges: expected 0, got 3"),
    ("loops:default", "late", "stopped: expected 3, got 2"),
    ("threadring:tell", "stays", "waited 1.5 s for 100 actors to end"),
    ("big:tell", "stranger", "was due"),
    ("compaction:steps", "unpins", "the first 5 messages are not there, or changed"),
    ("compaction:session", "swells", "over: expected 0, got "),
    ("stoptree:spawned", "twice", "stops: expected 100, got 101"),
    ("stoptree:spawned", "unawaited", "coroutine 'sleep' was never awaited"),
]


def test_every_line_has_a_bug_that_its_check_must_catch() -> None:
    assert set(BUGS) == {line for line in LINES if line not in APART}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("line", "bug", "error"), [*((line, *bug) for line, bug in BUGS.items()), *OTHER_BUGS])
def test_a_deliberate_bug_is_caught_and_gets_no_time(line: str, bug: str, error: str) -> None:
    status, found = run(line, "--impl", "ours", "--variant", variants(line)[0], "--bug", bug)
    assert status == 1
    assert [row["ok"] for row in found] == [False]
    assert error in found[0]["error"]
    assert numbers(found) == {None}
    assert set(found[0]["extra"]) == {"floor_digest"}


def test_a_bug_of_the_floor_is_caught_by_its_own_assertion(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgets(n: int) -> int:
        assert n == 1999
        return 2 * n

    monkeypatch.setattr(reference.floor(), "pingpong", forgets)
    reply = worker.run_once(plain, Case("pingpong", "tell", (2000,)))
    assert (reply["ok"], set(reply)) == (False, {"ok", "error"})


# -- the command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "name a benchmark, or `all`; --list says what there is"),
        (["pingpogn"], "benchmark 'pingpogn': one of pingpong, "),
        (["pingpong:shout"], "line of pingpong 'shout': one of tell, ask"),
        (["pingpong", "--size", "huge"], "--size 'huge': one of small, medium, large"),
        (["pingpong", "--impl", "ours,go"], "--impl 'go': one of ours, floor, erlang, "),
        (["pingpong", "--variant", "lambda"], "--variant 'lambda': one of def, async"),
        (["pingpong", "--rounds", "0"], "--rounds 0: from 1 to 1000"),
        (["pingpong", "--rounds", "many"], "argument --rounds: invalid int value: 'many'"),
        (["pingpong", "--deadline", "0"], "--deadline 0: seconds, above 0"),
        (["pingpong", "--loop", "trio"], "--loop 'trio': one of asyncio, uvloop"),
        (["pingpong", "--bug", "bug"], "bug of pingpong 'bug': one of twice, off"),
        (["pingpong", "--update"], "--update goes with `gate`"),
        (["pingpong", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_wrong_question_gets_one_line_and_status_2(
    argv: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"benchmarks: {error}")
    assert told.err.count("\n") == 1


def test_the_command_runs_from_the_root_of_a_checkout_and_lists_what_there_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(BENCHMARKS)


@pytest.mark.usefixtures("here")
def test_the_table_shows_the_failure_in_the_place_of_numbers() -> None:
    out = io.StringIO()
    argv = ["pingpong:tell", "--impl", "ours,floor", "--variant", "def", "--size", "small", "--rounds", "1"]
    assert cli.main([*argv, "--bug", "twice"], out) == 1
    ours_row, floor_row = out.getvalue().splitlines()[1:]
    assert ours_row.split(None, 2) == ["pingpong:tell", "ours/def", "FAILED: reply 100 where 101 was due"]
    assert floor_row.split()[0] == "floor"
    assert floor_row.split()[4] == "1.000"


# -- what may be missing, and what may hang --------------------------------------------------------------------


def test_without_erlang_or_a_peer_the_rows_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(workers, "VENVS", tmp_path)
    status, found = run("pingpong:tell", "--impl", "erlang,xoscar,eia")
    assert status == 0
    errors = [(row["impl"], row["ok"], row["error"]) for row in found]
    peer = "not supported: peer not installed"
    assert errors == [
        ("erlang", None, "not supported: erl is not installed"),
        ("xoscar", None, peer),
        ("eia", None, peer),
    ]


def test_a_worker_that_says_nothing_in_time_is_ended_and_the_next_line_gets_a_new_one() -> None:
    argv = ["threadring", "pingpong:ask", "--impl", "ours", "--variant", "def"]
    for _ in range(5):
        status, found = run(*argv, "--deadline", "0.001")
        errors = [row["error"] for row in found]
        if None not in errors:  # it had not answered before anybody listened, since the machine stood still
            break
    assert status == 1
    assert errors == ["no answer within 0.001 s"] * 2


def test_a_worker_that_dies_is_reported_with_its_last_words() -> None:
    pipe = workers.Pipe([sys.executable, "-c", "raise SystemExit('no memory')"])
    try:
        with pytest.raises(workers.WorkerLost, match="no memory"):
            pipe.hear(60)
    finally:
        pipe.close()


def test_the_two_kinds_of_handlers_come_from_one_source() -> None:
    made = asynchronous(Pong)
    assert {name: inspect.iscoroutinefunction(getattr(Pong, name)) for name in ("ball", "number", "finish")} == {
        "ball": False, "number": False, "finish": False,
    }  # fmt: skip
    assert all(inspect.iscoroutinefunction(getattr(made, name)) for name in ("ball", "number", "finish"))
    assert ours.bugs("pingpong") == ("twice", "off")


def test_what_only_some_runs_could_tell_is_the_median_of_those() -> None:
    told: list[dict[str, object]] = [{"late": None}, {"late": 3.0}, {"late": 1.0}, {"late": None}]
    assert driver.medians(told) == {"late": 2.0}
    assert driver.medians(told[:1]) == {"late": None}
    assert driver.medians([{"rules": ["a"], "same": True}, {"rules": ["b"], "same": False}]) == {
        "rules": ["b"], "same": False,
    }  # fmt: skip


# -- the gate --------------------------------------------------------------------------------------------------


def test_the_gate_lets_a_ratio_grow_by_the_threshold_and_no_more(tmp_path: Path) -> None:
    gate.save(tmp_path / "baseline.json", {"a": 1.0, "b": 1.0, "c": 2.0})
    verdicts = gate.judge({"a": 1.149, "b": 1.151, "d": 9.0}, gate.load(tmp_path / "baseline.json"))
    assert [(each.title, each.worse) for each in verdicts] == [("a", False), ("b", True), ("d", False)]
    out = io.StringIO()
    assert gate.report(verdicts, out) == 1
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["ok", "WORSE", "new"]
    assert gate.report(verdicts[:1], io.StringIO()) == 0


def test_an_update_keeps_what_was_not_run(tmp_path: Path) -> None:
    gate.save(tmp_path / "baseline.json", {"a": 1.0, "b": 1.0})
    gate.save(tmp_path / "baseline.json", {"b": 0.5})
    assert gate.load(tmp_path / "baseline.json") == {"a": 1.0, "b": 0.5}


def test_a_baseline_of_another_floor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text('{"floor_digest": "0000", "ratios": {}}')
    with pytest.raises(gate.NoBaseline, match="is of the floor 0000"):
        gate.load(path)


@pytest.mark.usefixtures("here")
def test_the_gate_runs_and_exits_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    argv = ["gate", "pingpong:tell", "--variant", "def", "--size", "small", "--rounds", "1"]
    assert cli.main(argv, io.StringIO()) == 2
    assert "gate --update" in capsys.readouterr().err
    assert cli.main([*argv, "--update"], io.StringIO()) == 0
    gate.save(gate.BASELINE, {"pingpong:tell/def@small": 1e-6})
    assert cli.main(argv, io.StringIO()) == 1
    out = io.StringIO()
    assert cli.main([*argv, "--bug", "twice"], out) == 1
    assert out.getvalue() == "FAILED pingpong:tell/def@small: reply 100 where 101 was due\n"
