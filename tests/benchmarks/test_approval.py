"""C6 in small: the runtime is a process that is really killed, and a check that it does not pass says what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks import approval, ours, worker
from benchmarks.case import Case, CheckFailed, Found

SMALL = {"parked": (3, 4), "kill-anywhere": (3, 4, 1)}


def run(line: str, bug: str = "") -> worker.Reply:
    return worker.run_once(ours, Case("approval", line, SMALL[line], "async", bug))


@pytest.mark.parametrize("line", SMALL)
def test_agents_that_wait_for_a_yes_end_once_and_rightly_after_a_kill(line: str) -> None:
    reply = run(line)
    assert (reply["ok"], reply.get("error")) == (True, None)


@pytest.mark.parametrize("line", [pytest.param("parked", marks=pytest.mark.campaign), "kill-anywhere"])
def test_a_runtime_that_forgets_what_it_has_done_is_caught_and_gets_no_time(line: str) -> None:
    reply = run(line, "forgets")
    assert (reply["ok"], set(reply)) == (False, {"ok", "error"})
    assert str(reply["error"]).startswith("repeated: expected 0, got ")


def test_an_effect_that_is_missing_or_twice_is_counted(tmp_path: Path) -> None:
    log = approval.Log(tmp_path)
    for i, k in ((0, 0), (0, 1), (1, 0), (1, 0), (1, 0)):
        log.happen(i, k)
    found = approval.checked(log, Case("approval", "parked", (2, 2)), [7, 8])
    assert (found["repeated"], found["missing"], found["sum"]) == (2, 1, 15)


def test_a_runtime_that_ends_by_itself_has_failed_with_its_last_word(tmp_path: Path) -> None:
    async def play() -> Found:
        async with approval.process("nobody", tmp_path, Case("approval", "parked", (1, 2))) as life:
            await life.hear()
        return {}

    with pytest.raises(CheckFailed, match="the runtime ended: KeyError: 'nobody'"):
        asyncio.run(play())
