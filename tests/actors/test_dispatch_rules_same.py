"""Whether asks are stepped at once or take the queue, programs of actors have the same outcomes.

Programs are made so that at any moment one handler acts: what is told, and what comes after it, is apart in (virtual)
time. Then the order of everything is determined, and must be the same: replies, errors, dead letters, final states.
"""

import asyncio
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import check
from programs import Op, Player, Trapper, World, actors, message

from understudy.actors.cell import Cell
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.testing.simloop import SimClock, run


class Way:
    """Steps all asks at once that may be, or none."""

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline
        self.stepped = 0

    def next_ready(self, ready: Sequence[Any]) -> int:
        return 0

    def inline(self, path: str) -> bool:
        self.stepped += self._inline
        return self._inline

    def end_turn(self, handled: int) -> bool:
        return False

    def next_timer(self, due: Sequence[float]) -> int:
        return 0


leaf: st.SearchStrategy[Op] = st.one_of(
    st.sampled_from([("note",), ("raise",), ("leave",), ("stash",), ("unstash",), ("swallow",)]),
    st.tuples(st.sampled_from(["stop", "halt", "suspend", "resume", "watch", "link"]), actors()),
    st.tuples(st.sampled_from(["sleep", "scope"]), st.sampled_from([0.1, 0.5, 2.0])),
)


def with_messages(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    ops = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("tell"), actors(), ops),
        st.tuples(st.sampled_from(["ask", "ask", "background"]), actors(), ops, st.sampled_from([0.2, 1.0, 5.0])),
        st.tuples(st.just("ask and cancel"), actors(), ops, st.sampled_from([0.05, 0.5])),
    )


op = st.recursive(leaf, lambda inner: st.one_of(inner, with_messages(inner)), max_leaves=10)
step = st.tuples(
    actors(), st.sampled_from(["ask", "tell"]), st.lists(op, max_size=4).map(tuple), st.sampled_from([0.0, 0.3, 3.0])
)

APART = (
    "tell",
    "ask",
    "ask and cancel",
    "background",
    "halt",
    "stop",
    "link",
    "raise",
    "leave",
    "unstash",
    "resume",
    "suspend",
)


def apart(ops: tuple[Op, ...], clock: Iterator[float]) -> tuple[Op, ...]:
    """The program with all times made different, and a pause after whatever sets something else going."""
    out: list[Op] = []
    for each in ops:
        match each:
            case ("sleep" | "scope" as name, seconds):
                out.append((name, seconds + next(clock)))
            case ("tell", to, inner):
                out.append(("tell", to, (("sleep", next(clock)), *apart(inner, clock), ("sleep", next(clock)))))
            case ("ask" | "background" as name, to, inner, timeout):
                out.append((name, to, apart(inner, clock), timeout + next(clock)))
            case ("ask and cancel", to, inner, seconds):
                out.append(("ask and cancel", to, apart(inner, clock), seconds + next(clock)))
            case _:
                out.append(each)
        if each[0] in APART:
            out.append(("sleep", next(clock)))
    return tuple(out)


def times() -> Iterator[float]:
    """Small times, no sums of which are equal."""
    small = random.Random(7)
    return (small.uniform(1e-4, 1e-3) for _ in itertools.count())


Outcome = dict[str, Any]


def by_subject(notes: list[tuple[Any, ...]]) -> dict[Any, list[tuple[Any, ...]]]:
    """What was noted, in order, of each actor's mailbox, and of each message.

    Not of all together: an ask within an ask may have the same deadline, and which of them ends first is not promised.
    """
    subjects: dict[Any, list[tuple[Any, ...]]] = {}
    for note in notes:
        subjects.setdefault(("in", note[1]) if note[0] in ("begin", "down", "exited") else note[1], []).append(note)
    return subjects


def play(plan: list[Any], *, inline: bool) -> Outcome:
    way = Way(inline=inline)

    async def main() -> Outcome:
        clock = times()
        async with Kernel(clock=SimClock(), scheduler=way) as kernel:
            world = World(kernel)

            def again(cell: Cell, number: int, exit: Exit) -> None:
                seconds = 0.25 + next(clock)
                kernel.timers.after(seconds, lambda: kernel.restart(cell) if cell.state == "failed" else None)

            def spawn(n: int) -> Cell:
                kind = Trapper if n == 3 else Player
                return kernel.spawn(
                    lambda: kind(world, starts=0.2 + next(clock) if n == 1 else None), name=f"p{n}", on_exit=again
                )

            world.cells = [spawn(n) for n in range(4)]
            await asyncio.sleep(1)
            asking: list[asyncio.Task[Any]] = []
            for who, verb, ops, then in plan:
                ref, sent = world.ref(who), message(world, apart(ops, clock))
                if verb == "tell":
                    ref.tell(sent)
                else:
                    asking.append(asyncio.ensure_future(ref.ask(sent, timeout=5 + next(clock))))
                await asyncio.sleep(then + next(clock))
                check(kernel)
            await asyncio.sleep(100)
            check(kernel)
            replies = await asyncio.gather(*asking, return_exceptions=True)
            letters = Counter(
                (letter.target, letter.sender, letter.reason, getattr(letter.message, "n", repr(letter.message)))
                for letter in kernel.telemetry.dead_letters()
            )
            return {
                "notes": by_subject(world.notes),
                "replies": [repr(reply) for reply in replies],
                "states": [(cell.path, cell.state, cell.number, str(cell.exit), cell.waiting) for cell in world.cells],
                "letters": letters,
                "fenced": kernel.fenced_handlers,
            }

    return run(main)


@pytest.mark.promise(141)
@given(plan=st.lists(step, max_size=6))
@settings(max_examples=int(os.environ.get("TRAPS_EXAMPLES", "150")), suppress_health_check=[HealthCheck.too_slow])
def test_asks_that_are_stepped_at_once_have_the_outcomes_of_those_that_take_the_queue(plan: list[Any]) -> None:
    inline, queued = play(plan, inline=True), play(plan, inline=False)
    for what in ("replies", "states", "letters", "notes", "fenced"):
        assert inline[what] == queued[what], what
