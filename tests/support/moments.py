"""What comes in the same moment: askers, room, replies and ends, turn by turn of the loop; timers, against a list."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from players import look_between_turns

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.testing.simloop import SimLoop
from understudy.actors.timers import Timer, Timers

# -- a counter with little room --------------------------------------------------------------------------------


class Serve(Message[str]):
    """`waits`: for its gate to be opened."""

    n: str
    waits: bool


@dataclass
class Book:
    """What has happened, in order; `gates` of the requests in hand."""

    events: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    gates: dict[str, asyncio.Future[None]] = field(default_factory=dict[str, asyncio.Future[None]])
    asking: dict[str, asyncio.Task[str]] = field(default_factory=dict[str, asyncio.Task[str]])

    def at(self, what: str, n: str) -> int:
        """When it happened; -1 for never."""
        return self.events.index((what, n)) if (what, n) in self.events else -1


class Counter(Actor[Serve]):
    """One at a time."""

    mailbox_limit = 1

    def __init__(self, book: Book) -> None:
        self.book = book

    async def serve(self, m: Serve) -> str:
        self.book.events.append(("begun", m.n))
        if m.waits:
            gate = self.book.gates[m.n] = asyncio.get_running_loop().create_future()
            try:
                await gate
            except asyncio.CancelledError:
                self.book.events.append(("cut", m.n))
                raise
            finally:
                del self.book.gates[m.n]
        self.book.events.append(("done", m.n))
        return m.n


crowd_move = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([True, True, False]), st.sampled_from([0.5, 3.0]), st.booleans()),
    st.tuples(st.just("ask"), st.sampled_from([True, True, False]), st.sampled_from([0.5, 3.0]), st.booleans()),
    st.just(("open",)),
    st.just(("open",)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.6])),
    st.tuples(st.just("strike"), st.integers(0, 2)),
    st.just(("halt",)),
)


def _changed_mind(turns: int, nth: int) -> list[Any]:
    """Who waits for room goes in the moment there is some, or about then."""
    asks = [("ask", waits, 3.0, False) for waits in (True, False, True)]
    return [*asks, ("turns", 3), ("open",), ("turns", turns), ("cancel", nth), ("turns", 2), ("open",)]


def _struck(nth: int, waits: bool, turns: int) -> list[Any]:
    """Somebody cancels a worker that has nothing to do, in the moment there is something."""
    return [("wait", 0.01), ("ask", waits, 3.0, False), ("turns", turns), ("strike", nth), ("turns", 4), ("open",)]


crowds = st.lists(
    st.one_of(
        st.lists(crowd_move, min_size=1, max_size=5),
        st.builds(_changed_mind, st.integers(0, 6), st.integers(0, 2)),
        st.builds(_struck, st.integers(0, 2), st.booleans(), st.integers(0, 1)),
    ),
    min_size=1,
    max_size=4,
).map(lambda groups: [move for group in groups for move in group])


async def play_crowd(moves: list[Any]) -> None:
    """Every request is answered, or its end is told, once; and a reply that comes too late is a dead letter."""
    async with Kernel() as kernel:
        look_between_turns(kernel)
        book = Book()

        def again(cell: Cell, number: int, exit: Exit) -> None:
            kernel.restart(cell)

        cell = kernel.spawn(lambda: Counter(book), name="counter", on_exit=again)
        await asyncio.sleep(0.01)
        for move in moves:
            match move:
                case ("ask", waits, seconds, fast):
                    n = str(len(book.asking))
                    request = kernel.ref_of(cell).ask(
                        Serve(n, waits), timeout=seconds, on_restart="fail" if fast else "wait"
                    )
                    book.asking[n] = asyncio.create_task(request)
                case ("open",):
                    for gate in [*book.gates.values()][:1]:
                        if not gate.done():
                            gate.set_result(None)
                case ("cancel", nth):
                    waiting = [n for n, task in book.asking.items() if not task.done()]
                    if waiting:
                        n = waiting[nth % len(waiting)]
                        book.asking[n].cancel()
                        book.events.append(("cancelled", n))
                case ("turns", count):
                    for _ in range(count):
                        await asyncio.sleep(0)
                case ("wait", seconds):
                    await asyncio.sleep(seconds)
                case ("strike", nth):
                    spares = kernel.dispatcher._spares
                    if spares:
                        spares[nth % len(spares)].task.cancel()
                case _:
                    kernel.halt(cell, deadline=0.1)
        while book.gates or not all(task.done() for task in book.asking.values()):
            for gate in book.gates.values():
                if not gate.done():
                    gate.set_result(None)
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        _account(kernel, book)
        cut = [n for what, n in book.events if what == "cut"]
        assert ("halt",) in moves or not cut, f"{cut}: cancelled, and by nobody"
        assert cell.waiting == cell.running == 0
        del kernel.loop._run_once  # type: ignore[attr-defined]  # as it was
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"


def _account(kernel: Kernel, book: Book) -> None:
    letters: dict[str, list[str]] = {n: [] for n in book.asking}
    for letter in kernel.telemetry.dead_letters():
        message: Any = letter.message
        letters[message if letter.reason == "late" else message.n].append(str(letter.reason))
    for n, task in book.asking.items():
        begun, done, gone = book.at("begun", n), book.at("done", n), book.at("cancelled", n)
        told = letters[n]
        assert book.events.count(("begun", n)) <= 1, f"{n} was begun twice"
        assert len(told) <= 1, f"{n}: {told}"
        if task.cancelled():
            assert gone >= 0, f"{n}: nobody cancelled it"
            if 0 <= gone < done:
                assert told == ["late"], f"{n}: its asker was gone when it was done, and its reply is {told}"
        elif task.exception() is None:
            assert task.result() == n
            assert done >= 0
            assert told == [], f"{n}: answered, and {told}"
        else:
            assert isinstance(task.exception(), UnderstudyError), task
            wanted = ["late"] if done >= 0 else ["failed"] if begun >= 0 else None
            assert wanted is None or told == wanted, f"{n}: {task.exception()!r}, and {told}"


# -- timers ----------------------------------------------------------------------------------------------------

alarms = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0]), st.integers(0, 2)),
        st.tuples(st.just("set"), st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0]), st.integers(0, 2)),
        st.tuples(st.just("many"), st.integers(60, 140), st.sampled_from([1.0, 4.0])),
        st.tuples(st.just("cancel"), st.integers(0, 200)),
        st.tuples(st.just("cancel half"), st.booleans()),
        st.tuples(st.just("pass"), st.sampled_from([0.25, 0.5, 1.0, 2.0])),
        st.just(("close",)),
    ),
    min_size=2,
    max_size=14,
)


def _calls(handle: Any) -> object:
    """What a handle of the loop calls: it has no public name."""
    return handle._callback


async def play_alarms(moves: list[Any]) -> None:
    """They fire when they are due, in order; cancelled ones never, and none after all were forgotten."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    timers = Timers(loop)
    fired: list[int] = []
    wanted: list[int] = []
    live: dict[int, tuple[float, int, Timer]] = {}
    count = most = 0

    def put(seconds: float, rank: int) -> None:
        nonlocal count
        n = count = count + 1
        when = loop.time() + seconds
        live[n] = when, rank, timers.at(when, lambda: fired.append(n), rank=rank)

    for move in [*moves, ("pass", 10.0)]:
        match move:
            case ("set", seconds, rank):
                put(seconds, rank)
            case ("many", number, seconds):
                for _ in range(number):
                    put(seconds, 0)
            case ("cancel", nth):
                if live:
                    n = [*live][nth % len(live)]
                    live.pop(n)[2].cancel()
            case ("cancel half", which):
                for n in [*live][int(which) :: 2]:
                    live.pop(n)[2].cancel()
            case ("pass", seconds):
                await asyncio.sleep(seconds)
                due = sorted((when, rank, n) for n, (when, rank, _) in live.items() if when <= loop.time())
                wanted += [n for _, _, n in due]
                for _, _, n in due:
                    live.pop(n)[2].cancel()  # says nothing: it has fired
            case _:
                timers.close()
                live.clear()
        assert fired == wanted, f"{fired[-5:]}, and not {wanted[-5:]}"
        armed = [each for _, _, each in loop._timers if _calls(each) == timers._fire and not each.cancelled()]
        assert len(armed) <= 1, f"{len(armed)} timers of the loop for one heap"
        assert armed or not live, "nothing of the loop's will fire them"
        assert not armed or move != ("close",), "the loop is to wake for timers that were forgotten"
        # They are counted when one is cancelled: as many as half of all there were then, and time may take the others.
        most = max(most, len(timers._heap))
        dead = len(timers._heap) - len(live)
        assert dead * 2 <= max(2 * 64, most), f"{dead} of {most} are kept for nothing"
