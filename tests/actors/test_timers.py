"""Timers: one heap, stable, and a scheduler may choose among those due together."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.testing.simloop import Deadlock, SimClock, run
from understudy.actors.timers import Timer, Timers


def note(log: list[object], what: object) -> Callable[[], None]:
    return lambda: log.append(what)


def test_timers_fire_at_their_time_and_those_of_one_time_in_the_order_they_were_set() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers, log = Timers(loop), []  # type: tuple[Timers, list[object]]
        for what, when in (("d", 2.0), ("a", 1.0), ("b", 1.0), ("e", 2.0), ("c", 1.0)):
            timers.at(when, note(log, what))
        await asyncio.sleep(0.999)
        assert log == []
        await asyncio.sleep(0.002)
        assert log == ["a", "b", "c"]
        await asyncio.sleep(1)
        assert log == ["a", "b", "c", "d", "e"]
        timers.after(-5, note(log, "at once"))
        await asyncio.sleep(0.001)
        assert log[-1] == "at once"

    run(main)


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=300))
def test_what_was_not_cancelled_fires_in_order_and_exactly_once(plan: list[tuple[float, bool]]) -> None:
    async def main() -> None:
        timers, log = Timers(asyncio.get_running_loop()), []  # type: tuple[Timers, list[object]]
        kept: list[tuple[float, int]] = []
        cancelled: list[Timer] = []
        for number, (when, cancel) in enumerate(plan):
            timer = timers.at(when, note(log, (when, number)))
            if cancel:
                cancelled.append(timer)
            else:
                kept.append((when, number))
        for timer in cancelled:
            timer.cancel()
            timer.cancel()
        await asyncio.sleep(101)
        assert log == sorted(kept)
        assert timers._heap == []
        assert timers._cancelled == 0

    run(main)


def test_cancelled_timers_do_not_pile_up() -> None:
    async def main() -> None:
        timers = Timers(asyncio.get_running_loop())
        timers.after(1_000, lambda: None)
        for _ in range(10_000):
            timers.after(500, lambda: None).cancel()
        assert len(timers._heap) < 200
        timers.close()

    run(main)


def test_a_scheduler_chooses_among_timers_that_are_due_together() -> None:
    async def main() -> None:
        asked: list[Sequence[float]] = []

        def last(due: Sequence[float]) -> int:
            asked.append(list(due))
            return len(due) - 1

        timers, log = Timers(asyncio.get_running_loop(), last), []  # type: tuple[Timers, list[object]]
        for what in "abc":
            timers.at(1.0, note(log, what))
        timers.at(2.0, note(log, "alone"))
        await asyncio.sleep(3)
        assert log == ["c", "b", "a", "alone"]
        assert asked == [[1.0] * 3, [1.0] * 2]

    run(main)


def test_a_call_that_raises_is_logged_and_the_others_fire(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        timers, log = Timers(asyncio.get_running_loop()), []  # type: tuple[Timers, list[object]]

        def breaks() -> None:
            raise LookupError("in a timer")

        timers.at(1.0, breaks)
        timers.at(1.0, note(log, "same time"))
        timers.at(2.0, note(log, "later"))
        await asyncio.sleep(3)
        assert log == ["same time", "later"]

    with caplog.at_level(logging.ERROR, "understudy.actors"):
        run(main)
    assert "in a timer" in caplog.text


def test_calls_are_made_in_the_context_of_the_timers_not_of_who_set_them() -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="unset")

    async def main() -> None:
        log: list[str] = []
        timers = Timers(asyncio.get_running_loop(), context=contextvars.copy_context())
        seen.set("the setter's")
        timers.after(1, lambda: log.append(seen.get()))
        await asyncio.sleep(2)
        assert log == ["unset"]

    run(main)


def test_a_timer_may_set_and_cancel_others() -> None:
    async def main() -> None:
        timers, log = Timers(asyncio.get_running_loop()), []  # type: tuple[Timers, list[object]]
        second: list[Timer] = []

        def first() -> None:
            second[0].cancel()
            timers.after(0, note(log, "third"))

        timers.at(1.0, first)
        second.append(timers.at(1.0, note(log, "second")))
        await asyncio.sleep(2)
        assert log == ["third"]

    run(main)


def test_virtual_time_passes_without_waiting_and_a_deadlock_is_named() -> None:
    async def main() -> None:
        clock = SimClock(start=1_000.0)
        await asyncio.sleep(86_400 * 30)
        assert clock.monotonic() == pytest.approx(86_400 * 30)
        assert clock.wall() == pytest.approx(1_000 + 86_400 * 30)
        assert await asyncio.to_thread(lambda: 7) == 7
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"nothing is ready at 2\.592e\+06 s"):
        run(main)
