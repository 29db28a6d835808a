"""Runs the kill suite against mutants, each in a copy of the product and a process of its own.

    PYTHONPATH=tests/support python tests/mutation/campaign.py                # the sample of 100, and planted ones
    PYTHONPATH=tests/support python tests/mutation/campaign.py --only 'drop await:actors/refs' --all
    PYTHONPATH=tests/support python tests/mutation/campaign.py --list

Exits with 0 when at least `--rate` (0.9) of the machine-made mutants and all of the planted ones are killed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from mutations import Mutant, all_of, sample

ROOT: Final = Path(__file__).resolve().parents[2]
SUITE: Final = "tests/mutation/kill_suite.py"
FOLDERS: Final = ("actors", "supervisors", "transports", "understudy", "tests/mutation", "tests/support")
SECONDS: Final = 3_600.0
"""Of one mutant, wall clock: a net below the limit of CPU time, which the suite sets itself."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant: by which property it was killed, "" for a survivor, after how many examples of it.

    `seconds` are of CPU.
    """

    id: str
    by: str
    examples: int
    seconds: float
    why: str

    def row(self) -> str:
        """One line of the table."""
        by = self.by or "SURVIVED"
        return f"{self.id:<78} {by:<12} {self.examples:>5} {self.seconds:>6.1f}  {self.why[:90]}"


class Copy:
    """The product in a folder of its own, to mutate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))

    def judge(self, mutant: Mutant) -> Verdict:
        """Make the edit, run the suite, and take the edit back."""
        file = self.folder / mutant.file
        source = file.read_bytes()
        try:
            file.write_bytes(mutant.apply(source))
            self._forget(file)
            return self.run(mutant.id)
        finally:
            file.write_bytes(source)
            self._forget(file)

    @staticmethod
    def _forget(file: Path) -> None:
        """Compiled files are known by whole seconds and size: an edit may change neither."""
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()

    def run(self, name: str, *more: str) -> Verdict:
        """Run the suite as the product is now."""
        path = os.pathsep.join([str(self.folder), str(self.folder / "tests" / "support")])
        command = [sys.executable, str(self.folder / SUITE), "--json", "--expect", str(self.folder), *more]
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        try:
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name}: no end within {SECONDS:g} s, and little CPU time used") from None
        if done.returncode == -signal.SIGXCPU:
            return Verdict(name, "hang", 0, inf, "no end within the CPU time that the suite has")
        if done.returncode == 3:
            raise SystemExit(done.stderr)
        try:
            told = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            if done.returncode < 0 or "Error" not in last:
                raise RuntimeError(f"{name}: no verdict, exit code {done.returncode}: {last}") from None
            return Verdict(name, "import", 0, 0.0, last)
        return Verdict(name, told["by"], told["examples"], told["seconds"], told["why"])


def campaign(jobs: list[tuple[str, Callable[[Copy], Verdict]]], processes: int) -> list[Verdict]:
    """All verdicts, in order; printed as they come."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(processes):
            copies.put(Copy(Path(folder) / str(number)))
        if jobs:
            _must_pass(copies)

        def judge(job: tuple[str, Callable[[Copy], Verdict]]) -> Verdict:
            copy = copies.get()
            try:
                verdict = job[1](copy)
            finally:
                copies.put(copy)
            print(verdict.row(), flush=True)
            return verdict

        with ThreadPoolExecutor(processes) as pool:
            return list(pool.map(judge, jobs))


def _must_pass(copies: SimpleQueue[Copy]) -> None:
    """The suite must find nothing in the product as it is: else it would kill everything."""
    copy = copies.get()
    verdict = copy.run("the product as it is")
    copies.put(copy)
    print(verdict.row().replace("SURVIVED", "passes  "), flush=True)
    if verdict.by:
        raise SystemExit("the kill suite fails without a mutant")


def planted() -> list[str]:
    """Names of the mutants that were planted by hand, if there are any."""
    try:
        from mutants import MUTANTS  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return []
    return [str(getattr(each, "name", each)) for each in MUTANTS]


def _judge(mutant: Mutant) -> Callable[[Copy], Verdict]:
    return lambda copy: copy.judge(mutant)


def _plant(name: str) -> Callable[[Copy], Verdict]:
    return lambda copy: copy.run(f"planted:{name}", "--plant", name)


def summary(what: str, verdicts: list[Verdict]) -> float:
    """Print the rate and the survivors."""
    if not verdicts:
        return 1.0
    survivors = [each for each in verdicts if not each.by]
    rate = 1 - len(survivors) / len(verdicts)
    killed = sorted(each.seconds for each in verdicts if each.by) or [0.0]
    print(f"\n{what}: {len(verdicts) - len(survivors)} of {len(verdicts)} killed, rate {rate:.2f};", end=" ")
    print(f"a kill takes {killed[len(killed) // 2]:.1f} s (median), {killed[-1]:.1f} s at most")
    for each in survivors:
        print(f"  survived: {each.id}")
    return rate


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all mutants there are, not the sample")
    parser.add_argument("--only", action="append", default=[], help="those whose id contains this")
    parser.add_argument("--seed", type=int, default=None, help="of another sample")
    parser.add_argument("--count", type=int, default=None, help="size of the sample")
    parser.add_argument("--rate", type=float, default=0.9, help="the least rate of kills")
    parser.add_argument("--kind", choices=("both", "made", "planted"), default="both", help="which mutants")
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    mutants = all_of(ROOT)
    if not given.all:
        options = {name: value for name in ("seed", "count") if (value := getattr(given, name)) is not None}
        mutants = sample(mutants, **options)
    if given.only:
        mutants = [each for each in mutants if any(part in each.id for part in given.only)]
    if given.list:
        for each in mutants:
            print(f"{each.id}  line {each.line}: [{each.before}] -> [{each.text}]")
        return 0
    made = mutants if given.kind != "planted" else []
    machine = campaign([(each.id, _judge(each)) for each in made], given.processes)
    known = planted() if given.kind != "made" else []
    names = [name for name in known if not given.only or any(part in f"planted:{name}" for part in given.only)]
    by_hand = campaign([(name, _plant(name)) for name in names], given.processes)
    enough = summary("made by operators", machine) >= given.rate
    return 0 if (summary("planted by hand", by_hand) == 1.0) and enough else 1


if __name__ == "__main__":
    sys.exit(main())
