"""C10 in small: each policy loses what it says and no more, and what waits, is lost or late unseen is caught."""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks import memory, ours, plain, slow, worker
from benchmarks.case import Case, CheckFailed
from benchmarks.slow import Heard, Notice, Outcome, payload
from benchmarks.suite import BENCHMARKS

LINES = ("wait", "refuse", "drop-newest", "drop-oldest", "roomy")


def case(line: str, bug: str = "", count: int = 40) -> Case:
    return Case("slow", line, (5, count, 0 if line == "roomy" else 50), "async", bug)


def test_every_line_is_here() -> None:
    assert {line.name for line in BENCHMARKS["slow"].lines} == {*LINES, "remote"}


def test_over_a_link_all_arrive_in_order_and_no_more_wait_than_there_is_room() -> None:
    reply: Any = worker.run_once(ours, Case("slow", "remote", (5, 100, 1_000), "async"))
    assert (reply["ok"], reply.get("error")) == (True, None)
    assert reply["extra"]["handled"] == 500


@pytest.mark.campaign  # each starts three processes
@pytest.mark.parametrize(
    ("bug", "error"),
    [
        ("leaks", "within_bound: expected True, got False"),
        ("reorders", "disorder: expected 0, got 2"),
    ],
)
def test_a_bug_at_the_other_end_of_a_link_is_caught(bug: str, error: str) -> None:
    reply = worker.run_once(ours, Case("slow", "remote", (10, 200, 1_000), "async", bug))
    assert (reply["ok"], reply["error"]) == (False, error)


@pytest.mark.parametrize("implementation", [ours, plain])
@pytest.mark.parametrize("line", LINES)
def test_a_policy_loses_what_it_says_counts_it_and_keeps_the_order(line: str, implementation: Any) -> None:
    reply: Any = worker.run_once(implementation, case(line))
    assert (reply["ok"], reply.get("error")) == (True, None)
    handled, lost = reply["extra"]["handled"], reply["extra"]["refused"]
    assert handled + lost == 200
    assert (lost == 0) is (line in ("wait", "roomy"))


@pytest.mark.parametrize(
    ("line", "bug", "error"),
    [
        ("wait", "leaks", "within_bound: expected True, got False"),
        ("wait", "reorders", "disorder: expected 0, got "),
        ("refuse", "reorders", "disorder: expected 0, got "),
        ("refuse", "leaks", "within_bound: expected True, got False"),
        ("drop-newest", "leaks", "within_bound: expected True, got False"),
        ("drop-oldest", "leaks", "within_bound: expected True, got False"),
        ("drop-newest", "forgets", "messages were lost and "),
        ("drop-oldest", "forgets", "messages were lost and "),
        ("refuse", "forgets", "messages were lost and "),
        ("roomy", "reorders", "disorder: expected 0, got "),
    ],
)
def test_a_deliberate_bug_is_caught_and_gets_no_time(line: str, bug: str, error: str) -> None:
    reply = worker.run_once(ours, case(line, bug))
    assert (reply["ok"], set(reply)) == (False, {"ok", "error"})
    assert error in str(reply["error"])


def test_a_notice_that_waits_behind_messages_is_caught() -> None:
    reply = worker.run_once(ours, Case("slow", "wait", (10, 200, 1_000), "async", "queues"))
    assert reply["ok"] is False
    assert str(reply["error"]).startswith("a notice waited for ")


# -- what a wrong library would say --------------------------------------------------------------------------------


def play_of(lost: int = 0, counted: int = 0, depth: int = 10, swaps: bool = False, keeps: int = 0) -> slow.Play:
    """Plays nothing: says what it is told to; `keeps` bytes a message."""

    async def play(producers: int, count: int) -> Outcome:
        heard = Heard(producers, depth=depth)
        for producer in range(producers):
            for number in range(count - lost * (producer == 0)):
                heard.hear(producer, payload(number ^ swaps))
        kept = b"x" * keeps * count
        return Outcome(heard, 1.0, counted=counted, grown=len(kept))

    return play


def wrong(play: slow.Play, line: str = "refuse") -> str:
    made = case(line)
    return worker.check(made, asyncio.run(slow.program(play, made)))


def test_a_right_library_passes() -> None:
    assert wrong(play_of()) == ""
    assert wrong(play_of(lost=3, counted=3)) == ""
    assert wrong(play_of(), "wait") == ""


def test_what_is_lost_and_not_counted_is_caught() -> None:
    assert wrong(play_of(lost=3, counted=2)) == "gap_is_counted: expected True, got False"
    assert wrong(play_of(counted=1)) == "gap_is_counted: expected True, got False"
    assert wrong(play_of(lost=1, counted=1), "wait") == "delivered: expected 1000, got 998"


def test_too_many_that_wait_or_the_wrong_order_or_memory_that_grows_with_n_are_caught() -> None:
    assert wrong(play_of(depth=51)) == "within_bound: expected True, got False"
    assert wrong(play_of(swaps=True)).startswith("disorder: expected 0, got ")
    assert wrong(play_of(keeps=100_000)) == "bounded_memory: expected True, got False"


def test_one_notice_of_many_that_was_overtaken_and_slow_is_too_many() -> None:
    made, quick = case("wait"), [Notice(1.0, 10)] * 99
    slow._check_notices([*quick, Notice(900.0, 10)], made)  # the consumer did nothing else meanwhile
    slow._check_notices([*quick, Notice(1.0, 900)], made)  # it was quick
    slow._check_notices([*quick, Notice(900.0, 900, 880.5)], made)  # the machine did something else
    assert made.extra["notice_ms_max"] == 900.0
    assert made.extra["notice_own_ms_max"] == 19.5
    with pytest.raises(CheckFailed, match="a notice waited for 11 messages and 21 ms, 0 for the machine"):
        slow._check_notices([*quick, Notice(21.0, 11)], made)
    with pytest.raises(CheckFailed, match="a notice waited for 900 messages and 900 ms, 879 for the machine"):
        slow._check_notices([*quick, Notice(900.0, 900, 879.0)], made)


def test_a_process_that_is_not_run_is_seen_to_wait() -> None:
    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("this system does not tell")
    before = memory.kept_waiting_ms()
    cores = os.sched_getaffinity(0)
    spin = "import time; t = time.monotonic() + 0.5\nwhile time.monotonic() < t: pass"
    os.sched_setaffinity(0, {min(cores)})  # together with another one on one core
    try:
        with subprocess.Popen([sys.executable, "-c", spin]) as other:
            while other.poll() is None:
                sum(range(10_000))
    finally:
        os.sched_setaffinity(0, cores)
    assert memory.kept_waiting_ms() - before > 20.0
    assert memory.kept_waiting_ms(2**22 + 1) == 0.0  # no such process


def test_the_peak_of_memory_is_that_since_it_was_forgotten() -> None:
    size = 32 << 20
    with mmap.mmap(-1, size) as pages:
        pages.write(b"x" * size)
    high = memory.rss_peak_bytes()
    if not memory.reset_rss_peak():
        pytest.skip("this system does not forget a peak")
    low = memory.rss_peak_bytes()
    assert low < high
    with mmap.mmap(-1, size) as pages:
        pages.write(b"y" * size)
    assert memory.rss_peak_bytes() >= low + size // 2
