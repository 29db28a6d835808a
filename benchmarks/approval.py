"""C6: agents that wait for a yes, in a process that is killed. The driver's side, the same for ours and the peers.

The runtime lives in a process of its own (`approval_life`), so that it can be killed. Its tool appends `i k` to an
effect log and flushes it to the disk before it returns: what is in the log has happened, whatever else is remembered.

Line `parked`: killed when all agents are parked, started again, everybody gets a yes. Line `kill-anywhere`: so many
rounds, each killed after a number of effects that its seed draws; doubts that the runtime lists are settled by the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.reference import oracle
from benchmarks.workers import ROOT

LINE: Final = len("000000 00\n")
"""Bytes of one effect in the log."""
PATIENCE: Final = 400.0
"""Seconds that a runtime may say nothing."""
POLL: Final = 0.001
"""Seconds between two looks at the log: a kill may come some effects late."""


class Log:
    """The effect log of one round."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "effects.log", os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)

    def happen(self, i: int, k: int) -> None:
        """Step k of agent i takes effect: it is on the disk when this returns."""
        os.write(self._file, b"%06d %02d\n" % (i, k))
        os.fsync(self._file)

    def length(self) -> int:
        """How many effects there were."""
        return os.fstat(self._file).st_size // LINE

    def counted(self) -> Counter[tuple[int, int]]:
        """How often each was."""
        lines = os.pread(self._file, os.fstat(self._file).st_size, 0).decode().splitlines()
        return Counter((int(line[:6]), int(line[7:])) for line in lines)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Lost(Exception):
    """The runtime's process has ended."""


class Process:
    """One process of the runtime, spoken to in lines of JSON."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path, patience: float) -> None:
        self._process = process
        self._errors = errors
        self._patience = patience

    async def hear(self) -> Any:
        """What it says next. Raises `Lost` when it has ended, `CheckFailed` when it failed or says nothing."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._patience):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise CheckFailed(f"the runtime said nothing for {self._patience:g} s") from None
        if not line.endswith(b"\n"):
            if await self._process.wait() == -signal.SIGKILL:
                raise Lost
            lines = self._errors.read_text().strip().splitlines()
            raise CheckFailed(f"the runtime ended: {lines[-1] if lines else 'no word'}")
        return json.loads(line)

    def say(self, what: str, *more: object) -> None:
        """Tell it what to do."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, *more]).encode() + b"\n")

    async def kill(self) -> None:
        """`kill -9`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def leave(self) -> None:
        """Let it close its store and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(self._patience):
                await self._process.wait()
        except TimeoutError:
            raise CheckFailed(f"the runtime did not end within {self._patience:g} s") from None


@contextlib.asynccontextmanager
async def process(impl: str, folder: Path, case: Case) -> AsyncIterator[Process]:
    """A process of the runtime on the store in a folder."""
    n, steps = case.args[:2]
    errors = folder / "errors.txt"
    argv = [sys.executable, "-m", "benchmarks.approval_life", impl, str(folder), str(n), str(steps), case.bug]
    with errors.open("ab") as err:
        made = await asyncio.create_subprocess_exec(
            *argv,
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=err,
            limit=1 << 24,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    said = Process(made, errors, PATIENCE)
    try:
        yield said
    finally:
        await said.kill()


async def program(impl: str, case: Case) -> Found:
    """C6 with the runtime `impl`."""
    with tempfile.TemporaryDirectory() as name:
        case.start()
        found = await (_parked if case.line == "parked" else _rounds)(impl, Path(name), case)
        case.stop()
    case.extra["runtime_rss_peak_kb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return found


# -- line `parked` -------------------------------------------------------------------------------------------


async def _parked(impl: str, folder: Path, case: Case) -> Found:
    n, log = case.args[0], Log(folder)
    async with process(impl, folder, case) as first:
        asked = (await first.hear())["parked"]
        await first.kill()
    began = time.perf_counter()
    async with process(impl, folder, case) as second:
        rest = await second.hear()
        again = rest["parked"]
        case.extra["park_again_ms"] = round((time.perf_counter() - began) * 1e3, 1)
        case.extra["without_start_ms"] = rest["ms"]
        began = time.perf_counter()
        second.say("approve")
        given = await second.hear()
        if given["taken"]:
            case.extra["approvals_per_s"] = round(n / (time.perf_counter() - began))
        rest = await second.hear()
        case.extra["approved_to_end_ms"] = round((time.perf_counter() - began) * 1e3, 1)
        values = await _values(second)
        await second.leave()
    case.extra["journal_bytes_per_agent"] = round(_stored(folder) / n)
    found = {"asked": asked, "parked_again": again, "left": n - rest["ended"]}
    return found | checked(log, case, values)


async def _values(life: Process) -> list[int]:
    life.say("finals")
    values: list[int] = (await life.hear())["finals"]
    return values


def _stored(folder: Path) -> int:
    """Bytes of what the runtime keeps."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.name not in ("effects.log", "errors.txt"))


def checked(log: Log, case: Case, values: list[int]) -> Found:
    """What the log and the last values say."""
    n, steps = case.args[:2]
    times = log.counted()
    log.close()
    wanted = Counter({(i, k): 1 for i in range(n) for k in range(steps)})
    return {
        "repeated": sum((times - wanted).values()),
        "missing": sum((wanted - times).values()),
        "sum": sum(values),
        "digest": oracle().digest(values),
    }


# -- line `kill-anywhere` ------------------------------------------------------------------------------------


async def _rounds(impl: str, folder: Path, case: Case) -> Found:
    rounds = case.args[2]
    doubts, listed_twice, founds = 0, 0, list[Found]()
    for seed in range(rounds):
        place = folder / str(seed)
        place.mkdir()
        found, listed = await _round(impl, place, case, seed)
        founds.append(found)
        doubts += sum(listed.values())
        listed_twice += sum(times > 1 for times in listed.values())
    case.extra["doubts"] = doubts
    totals: Found = {key: sum(int(str(each[key])) for each in founds) for key in ("repeated", "missing")}
    ends = {(each["sum"], each["digest"]) for each in founds}
    value, digest = ends.pop() if len(ends) == 1 else ("different ones", "different ones")
    return totals | {"in_doubt_twice": listed_twice, "sum": value, "digest": digest, "rounds": rounds}


async def _round(impl: str, folder: Path, case: Case, seed: int) -> tuple[Found, Counter[int]]:
    """One round: what is checked, and the doubts of each agent."""
    n, steps = case.args[:2]
    log = Log(folder)
    listed: Counter[int] = Counter()
    async with process(impl, folder, case) as first:
        killing = asyncio.create_task(_kill_after(first, log, oracle().Lehmer(seed).below(n * steps)))
        with contextlib.suppress(Lost):
            await _drive(first, n, log, listed)
        await killing
    if listed:
        raise CheckFailed(f"in doubt before the kill: {dict(listed)}")
    async with process(impl, folder, case) as second:
        await _drive(second, n, log, listed)
        values = await _values(second)
        await second.leave()
    return checked(log, case, values), listed


async def _kill_after(life: Process, log: Log, effects: int) -> None:
    while log.length() < effects:  # noqa: ASYNC110  # the log is another process's
        await asyncio.sleep(POLL)
    await life.kill()


async def _drive(life: Process, n: int, log: Log, listed: Counter[int]) -> None:
    """Settle what is in doubt by the log and say yes to the rest, until all have ended."""
    while True:
        rest = await life.hear()
        if rest["ended"] == n:
            return
        happened = log.counted()
        for doubt, i, k in rest["doubts"]:
            listed[i] += 1
            life.say("settle", doubt, happened[i, k] > 0)
            await life.hear()
        life.say("approve" if rest["parked"] else "go on")
        await life.hear()
