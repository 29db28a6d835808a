"""What kills mutants: random programs and trees in drawn worlds, held against plain rules and invariants.

    PYTHONPATH=.:tests/support python tests/mutation/kill_suite.py                    # once, as for a mutant
    PYTHONPATH=.:tests/support python tests/mutation/kill_suite.py --worlds 100000    # for false alarms; counts them

At most 500 examples of each property, in rounds, so that what is easily seen is seen early. Nothing is shrunk: a kill
is all that is wanted. With `--seed` other examples are drawn.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import understudy

EXAMPLES: Final = 500
ROUNDS: Final = (10, 40, 120, 330)
HANG_SECONDS: Final = 10.0
"""Of CPU, of one example; an ordinary one takes a hundredth of a second."""
MEMORY: Final = 2_000_000_000
CPU_SECONDS: Final = 120
"""Of the whole suite for one mutant, which takes an eighth of it on what is not mutated; then the system ends it.
CPU time, so that a busy machine, or one that pauses it, makes no kill."""


DROPPED: Final[list[str]] = []
"""What nobody could raise: a coroutine that was never awaited, say."""


class Hang(BaseException):
    """One example took too long."""


@dataclass
class Property:
    """One property: what it draws, what it does with it, and the share of the examples that it gets."""

    name: str
    drawn: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    share: float = 1.0
    examples: int = 0

    def run(self, count: int, number: int) -> None:
        """`count` more examples. Raises what an example raises."""

        @seed(number)
        @settings(
            max_examples=max(1, count),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(self.drawn)
        def one(value: Any) -> None:
            self.examples += 1
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS, 1.0)
            try:
                self.check(value)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            assert not DROPPED, f"dropped: {DROPPED[0]}"

        one()


def properties() -> list[Property]:
    """All of them. Imported here: a mutant may break an import, which is a kill."""
    import worlds

    return [Property(*each) for each in worlds.PROPERTIES]


def _hang(*_: object) -> None:
    raise Hang(f"an example took more than {HANG_SECONDS:g} s")


def run(rounds: tuple[int, ...], number: int, only: str = "", progress: bool = False) -> tuple[str, int, str]:
    """The property that fails, after how many examples of it, and the error; "" when none does."""
    try:
        chosen = [each for each in properties() if only in each.name]
    except Exception as error:
        return "import", 0, f"{type(error).__name__}: {error}"
    for nth, count in enumerate(rounds):
        for each in chosen:
            began = time.process_time()
            try:
                each.run(round(count * each.share), number * 1000 + nth)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                return each.name, each.examples, _line(error)
            if progress:
                print(f"{each.name}: {each.examples} examples, {time.process_time() - began:.1f} s", file=sys.stderr)
    return "", sum(each.examples for each in chosen), ""


def _line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="say the outcome as one line of JSON")
    parser.add_argument("--expect", default="", help="the folder the product is to be imported from")
    parser.add_argument("--plant", default="", help="a planted mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", type=int, default=0, help="run about so many examples in all, for false alarms")
    parser.add_argument("--only", default="", help="properties whose name contains this")
    parser.add_argument("--trace", action="store_true", help="raise the error")
    given_ = parser.parse_args()
    if given_.expect and not Path(understudy.__file__).resolve().is_relative_to(Path(given_.expect).resolve()):
        print(f"understudy was imported from {understudy.__file__}", file=sys.stderr)
        return 3
    warnings.simplefilter("error")
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda what: DROPPED.append(repr(what.exc_value))
    signal.signal(signal.SIGVTALRM, _hang)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if given_.json:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 10))
    if given_.plant:
        from mutants import MUTANTS

        next(each for each in MUTANTS if each.name == given_.plant).patch(pytest.MonkeyPatch())
    rounds = ROUNDS
    if given_.worlds:
        shares = sum(each.share for each in properties() if given_.only in each.name)
        each_round = 500
        rounds = (each_round,) * max(1, round(given_.worlds / shares / each_round))
    by, examples, why = run(rounds, given_.seed, given_.only, progress=not given_.json)
    if given_.json:
        print(json.dumps({"by": by, "examples": examples, "why": why, "seconds": time.process_time()}))
    else:
        print(f"{by} fails after {examples} examples: {why}" if by else f"{examples:,} worlds, none falsified")
    return 1 if by else 0


if __name__ == "__main__":
    sys.exit(main())
