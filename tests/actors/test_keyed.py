"""Timers by key and idle timeouts: what is replaced, skipped and forgotten; in virtual time."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import Log, Note, Probe, Work, alone, probe, quiet

from understudy.actors.cell import Cell
from understudy.actors.errors import NotHandled, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.keyed import cancel, is_active, set_idle, start
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Message


class Timed(Probe):
    """Logs when it was told what."""

    def note(self, m: Note) -> None:
        if m.text == "fail":
            raise ValueError("told to")
        assert self._cell is not None
        self.log.append(f"{m.text} {self._cell.kernel.loop.time():g}")


async def timed(kernel: Kernel, log: Log, **options: Any) -> Cell:
    cell = kernel.spawn(lambda: Timed(log, asyncio.Event().wait), name="t", **options)
    await kernel.wait_started(cell)
    log.clear()
    return cell


@pytest.mark.promise(106)
def test_a_timer_started_again_replaces_the_former_and_other_keys_go_on() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        start(cell, "a", 1, Note("first"), False)
        start(cell, ("b", 1), 2, Note("other"), False)
        start(cell, "a", 3, Note("second"), False)
        assert is_active(cell, "a")
        await asyncio.sleep(10)
        assert log == ["other 2", "second 3"]
        assert not is_active(cell, "a")
        assert not cancel(cell, "a")
        assert not cancel(cell, "never set")

    alone(main)


@pytest.mark.promise(106)
@pytest.mark.parametrize("again", [False, True])
def test_a_replaced_or_cancelled_timer_is_not_handled_even_when_its_message_is_waiting(again: bool) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        kernel.ref_of(cell).tell(Work())  # keeps it busy for ever
        start(cell, "k", 1, Note("stale"), False)
        start(cell, "other", 1, Note("fine"), False)
        await asyncio.sleep(2)
        assert cell.box().statistics().control == 2
        assert is_active(cell, "k")
        if again:
            start(cell, "k", 5, Note("fresh"), False)
        else:
            assert cancel(cell, "k")
        assert cell.box().statistics().control == 1
        await asyncio.sleep(10)
        assert cell.box().statistics().control == 1 + again

    alone(main)


@pytest.mark.promise(107)
def test_a_fixed_rate_keeps_its_grid_and_a_fixed_delay_counts_from_the_last_message() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        start(cell, "rate", 1.0, Note("rate"), "rate")
        start(cell, "delay", 1.0, Note("delay"), "delay")
        await asyncio.sleep(2.1)
        kernel.loop.hold_up(1.4)  # type: ignore[attr-defined]
        await asyncio.sleep(1.75)
        assert [float(line.split()[1]) for line in log if line.startswith("rate")] == [1, 2, 3.5, 4, 5]
        assert [float(line.split()[1]) for line in log if line.startswith("delay")] == [1, 2, 3.5, 4.5]
        cancel(cell, "rate")
        start(cell, "delay", 1, Note("once"), False)
        log.clear()
        await asyncio.sleep(10)
        assert log == ["once 6.25"]

    alone(main)


@pytest.mark.promise(107)
@pytest.mark.parametrize("repeat", [True, "delay", "rate"])
def test_a_periodic_timer_has_one_message_waiting_at_most(repeat: Any) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work(), timeout=10, cancel=True))
        start(cell, "k", 1, Note("tick"), repeat)
        await asyncio.sleep(5.5)
        assert cell.box().statistics().control == 1
        asking.cancel()
        await asyncio.sleep(2)
        assert log == ["did ", "tick 5.5", "tick 6", "tick 7"]

    alone(main)


@pytest.mark.promise(107)
@settings(max_examples=20)
@given(st.floats(0.001, 1e4), st.integers(1, 40))
def test_a_fixed_rate_never_fires_twice_in_one_moment(seconds: float, count: int) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        start(cell, "k", seconds, Note("tick"), "rate")
        await asyncio.sleep(seconds * (count + 0.5))
        assert len(log) == count

    alone(main)


@pytest.mark.promise(108)
@pytest.mark.parametrize("how", ["stop", "restart"])
def test_timers_end_with_their_incarnation_also_those_that_wait(how: str) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log, on_exit=lambda cell, number, exit: kernel.restart(cell))
        kernel.ref_of(cell).tell(Work())
        start(cell, "waiting", 1, Note("waiting"), False)
        start(cell, "later", 5, Note("later"), "rate")
        set_idle(cell, 5, Note("idle"))
        await asyncio.sleep(2)
        if how == "stop":
            await kernel.stop(cell, deadline=0)
        else:
            assert cell.life is not None
            kernel.end(cell, cell.life, Exit("error", "x"))
        await asyncio.sleep(20)
        assert [line for line in log if not line.startswith(("t ", "did"))] == []
        if how == "restart":
            assert cell.number == 2
            assert not is_active(cell, "later")

    alone(main)


def test_spent_keys_are_forgotten() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        for n in range(1_000):
            start(cell, n, 0.5, Note("x"), False)
            await asyncio.sleep(1)
        assert len(log) == 1_000
        assert cell.life is not None
        assert cell.life.kit is not None
        assert len(cell.life.kit.timers) <= 64

    alone(main)


def test_a_timer_with_a_mistake_in_it_is_refused_naming_it() -> None:
    class Unknown(Message[None]):
        pass

    async def main(kernel: Kernel) -> None:
        cell = await timed(kernel, [])
        with pytest.raises(NotHandled, match="t: does not handle Unknown"):
            start(cell, "k", 1, Unknown(), False)
        with pytest.raises(UsageError, match="t: timer of inf seconds; it must have an end"):
            start(cell, "k", float("inf"), Note(""), False)
        with pytest.raises(UsageError, match="timer 'k' of 0 seconds cannot repeat; more than 0"):
            start(cell, "k", 0, Note(""), "rate")
        with pytest.raises(UsageError, match="repeat='always'; one of False, True, 'delay', 'rate'"):
            start(cell, "k", 1, Note(""), "always")  # type: ignore[arg-type]  # the mistake
        with pytest.raises(UsageError, match="idle_timeout of 0 seconds; more than 0"):
            set_idle(cell, 0, Note(""))
        with pytest.raises(UsageError, match=r"idle_timeout\(5\) needs the message to send"):
            set_idle(cell, 5, None)
        with pytest.raises(NotHandled):
            set_idle(cell, 5, Unknown())
        assert cell.life is not None
        assert cell.life.kit is None or not cell.life.kit.timers

    alone(main)


@pytest.mark.promise(109)
def test_an_idle_timeout_comes_after_each_quiet_time_and_any_message_begins_it_anew() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await timed(kernel, log)
        plain = cell.table
        set_idle(cell, 10, Note("idle"))
        await asyncio.sleep(6)
        kernel.ref_of(cell).tell(Note("work"))
        await asyncio.sleep(6)
        kernel.control(cell, Down("x", 1, "normal"))
        await asyncio.sleep(25)
        assert log == ["work 6", "down x normal False", "idle 22", "idle 32"]
        set_idle(cell, 1, Note("sooner"))
        await asyncio.sleep(1.5)
        assert log[4:] == ["sooner 38"]
        set_idle(cell, None, None)
        await asyncio.sleep(60)
        assert len(log) == 5
        assert cell.table is plain

    alone(main)


@pytest.mark.promise(109)
def test_an_actor_that_is_busy_is_not_idle() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = kernel.spawn(lambda: Timed(log, lambda: asyncio.sleep(25, "done")), name="t")
        await kernel.wait_started(cell)
        set_idle(cell, 10, Note("idle"))
        assert await kernel.ref_of(cell).ask(Work(), timeout=60) == "done"
        await asyncio.sleep(31)
        assert log[1:] == ["did ", "idle 35", "idle 45", "idle 55"]

    alone(main)


@pytest.mark.promise(109)
def test_failures_and_answers_pass_an_idle_timeout_unchanged() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, lambda: asyncio.sleep(1, 7), name="t", on_exit=lambda c, n, e: kernel.restart(c))
        await quiet()
        set_idle(cell, 10, Note("idle"))
        assert await kernel.ref_of(cell).ask(Work("1")) == 7
        kernel.ref_of(cell).tell(Note("fail"))
        await quiet()
        assert cell.number == 2
        await asyncio.sleep(30)
        assert "idle" not in log

    alone(main)
