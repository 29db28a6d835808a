"""Asking: deadlines, cancellation, failures and call cycles."""

import asyncio
from typing import ClassVar

import pytest
from hops import Hop, Put, Through, alone, letters, quiet, slow

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.delivery import CHAIN_LIMIT
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    CallCycle,
    UsageError,
)
from understudy.actors.kernel import DETAIL_LENGTH, Kernel


@pytest.mark.promise(3)
def test_nothing_is_sent_until_an_ask_is_awaited() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        asking = ref.ask(Put(1))
        await asyncio.sleep(2)
        assert seen == []
        assert await asking == 1

    alone(main)


@pytest.mark.promise(3)
def test_an_ask_has_a_deadline_and_a_late_reply_is_a_dead_letter() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], name="slow")
        with pytest.raises(AskTimeout, match=r"slow: no reply within 0\.25 s"):
            await ref.ask(Put(1), timeout=0.25)
        assert kernel.loop.time() == pytest.approx(0.25, abs=1e-3)
        assert letters(kernel) == []
        await asyncio.sleep(2)
        assert letters(kernel) == [(1, "late")]

    alone(main)


@pytest.mark.promise(3)
def test_the_default_deadline_is_five_seconds() -> None:
    async def main(kernel: Kernel) -> None:
        hop = kernel.ref_of(kernel.spawn(Hop))
        with pytest.raises(AskTimeout, match="within 5 s"):
            await hop.ask(Through((), rest=1_000))
        assert kernel.loop.time() == pytest.approx(5, abs=1e-3)

    alone(main)


def test_an_ask_without_any_time_left_sends_nothing() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        for timeout in (0, -1):
            with pytest.raises(AskTimeout, match="within 0 s"):
                await ref.ask(Put(1), timeout=timeout)
        await quiet()
        assert seen == []

    alone(main)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
def test_a_wait_without_an_end_is_refused(seconds: float) -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], name="slow")
        for call in (ref.ask, ref.send):
            with pytest.raises(UsageError, match=f"slow: timeout of {seconds} seconds; it must have an end"):
                await call(Put(1), timeout=seconds)
        with pytest.raises(UsageError, match=f"slow: timer of {seconds} seconds; it must have an end"):
            kernel.timer(ref.cell(), seconds, Put(1))

    alone(main)


def test_accepted_work_is_put_in_whatever_the_size_and_is_a_dead_letter_when_the_actor_stopped() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        for n in range(5):
            kernel.force(ref.cell(), Put(n))
        await asyncio.sleep(10)
        assert seen == [0, 1, 2, 3, 4]
        await kernel.stop(ref.cell())
        kernel.force(ref.cell(), Put(5))
        assert letters(kernel) == [(Put(5), "stopped")]

    alone(main)


@pytest.mark.promise(102)
def test_a_request_that_expired_in_the_mailbox_is_not_served() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        ref.tell(Put(1))
        with pytest.raises(AskTimeout):
            await ref.ask(Put(2), timeout=0.5)
        await asyncio.sleep(5)
        assert seen == [1]
        assert letters(kernel) == [(Put(2), "expired")]

    alone(main)


def test_the_deadline_travels_with_the_chain() -> None:
    async def main(kernel: Kernel) -> None:
        for name in ("a", "b", "c"):
            kernel.spawn(Hop, name=name)
        a = kernel.registry.find("a")
        assert a is not None
        start = kernel.loop.time()
        assert await kernel.ref_of(a).ask(Through(("b", "c")), timeout=3) == pytest.approx(start + 3)
        with pytest.raises(AskTimeout):
            await kernel.ref_of(a).ask(Through(("b", "c"), rest=100), timeout=3)
        assert kernel.loop.time() == pytest.approx(start + 3, abs=1e-3)

    alone(main)


@pytest.mark.promise(103)
def test_cancelling_an_asker_does_not_stop_the_callee() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [])
        asking = asyncio.create_task(ref.ask(Put(1)))
        await quiet()
        asking.cancel()
        await asyncio.sleep(2)
        assert letters(kernel) == [(1, "late")]

    alone(main)


def test_an_asker_cancelled_in_the_moment_its_ask_fails_leaves_no_failure_unseen() -> None:
    async def main(kernel: Kernel) -> None:
        class Breaks(Actor[Put]):
            mailbox_limit: ClassVar[int] = 1

            def put(self, m: Put) -> int:
                raise LookupError(f"no {m.n}")

        def cancel(letter: object) -> None:
            for task in asking:
                task.cancel()

        cell = kernel.spawn(Breaks, on_exit=lambda c, number, exit: None)
        await kernel.wait_started(cell)
        ref = kernel.ref_of(cell)
        asking = [asyncio.create_task(ref.ask(Put(n), on_restart="fail")) for n in range(3)]
        kernel.telemetry.letters.add(cancel)
        await asyncio.wait(asking)  # one was served, one was in the mailbox, one waited for room
        assert [task.cancelled() for task in asking] == [True, True, True]

    alone(main)


@pytest.mark.promise(103)
def test_cancel_true_ends_the_handler_or_keeps_it_from_beginning_and_the_actor_lives() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        running = asyncio.create_task(ref.ask(Put(1), cancel=True))
        queued = asyncio.create_task(ref.ask(Put(2), cancel=True))
        await quiet()
        queued.cancel()
        running.cancel()
        await asyncio.wait([running, queued])
        assert running.cancelled()
        assert queued.cancelled()
        assert await ref.ask(Put(3), timeout=1.5) == 3
        assert seen == [1, 3]
        assert ref.cell().number == 1
        assert letters(kernel) == [(Put(2), "expired")]

    alone(main)


def test_a_crash_while_serving_reaches_the_asker_with_its_cause() -> None:
    async def main(kernel: Kernel) -> None:
        class Breaks(Actor[Put]):
            async def put(self, m: Put) -> int:
                raise LookupError(f"no {m.n}")

        ref = kernel.ref_of(kernel.spawn(Breaks, name="breaks"))
        with pytest.raises(ActorStopped, match=r"breaks: stopped: error\(LookupError: no 7\)") as caught:
            await ref.ask(Put(7))
        assert isinstance(caught.value.__cause__, LookupError)

    alone(main)


@pytest.mark.promise(101)
@pytest.mark.parametrize("path", [("a",), ("b", "a"), ("b", "c", "a"), ("b", "c", "b")])
def test_a_call_cycle_fails_at_once_and_names_the_actors(path: tuple[str, ...]) -> None:
    async def main(kernel: Kernel) -> None:
        cells: dict[str, Cell] = {name: kernel.spawn(Hop, name=name) for name in ("a", "b", "c")}
        with pytest.raises(ActorStopped) as caught:
            await kernel.ref_of(cells["a"]).ask(Through(path))
        error: BaseException | None = caught.value
        while error is not None and not isinstance(error, CallCycle):
            error = error.__cause__
        assert isinstance(error, CallCycle)
        whole = ("a", *path)
        assert error.cycle == whole[whole.index(whole[-1]) :]
        assert kernel.loop.time() < 0.1

    alone(main)


@pytest.mark.promise(135)
def test_an_actor_with_room_for_another_request_may_be_asked_by_its_own_chain() -> None:
    async def main(kernel: Kernel) -> None:
        a = kernel.spawn(Hop, name="a", concurrency=2)
        kernel.spawn(Hop, name="b")
        assert await kernel.ref_of(a).ask(Through(("b", "a"))) is not None

    alone(main)


@pytest.mark.promise(135)
def test_a_tell_does_not_belong_to_the_chain_of_asks() -> None:
    async def main(kernel: Kernel) -> None:
        answers: list[object] = []

        class Teller(Actor[Put]):
            """Asks `Late` and is asked back by it, after its own handler has ended: no cycle."""

            async def put(self, m: Put) -> int:
                if m.n == 0:
                    await late.ask(Put(0))
                    await asyncio.sleep(1)
                return m.n

        class Late(Actor[Put]):
            async def put(self, m: Put) -> int:
                if m.n == 0:
                    self.context.ref.tell(Put(1))
                else:
                    answers.append(await teller.ask(Put(2)))
                return 0

        teller = kernel.ref_of(kernel.spawn(Teller, name="teller"))
        late = kernel.ref_of(kernel.spawn(Late, name="late"))
        await teller.ask(Put(0))
        await asyncio.sleep(1)
        assert answers == [2]

    alone(main)


@pytest.mark.promise(135)
@pytest.mark.parametrize("hops", [CHAIN_LIMIT, CHAIN_LIMIT + 1])
def test_a_chain_of_asks_has_a_longest_length(hops: int) -> None:
    async def main(kernel: Kernel) -> None:
        names = tuple(f"n{n}" for n in range(hops + 1))
        first, *_ = [kernel.spawn(Hop, name=name) for name in names]
        asking = kernel.ref_of(first).ask(Through(names[1:]))
        if hops == CHAIN_LIMIT:
            assert await asking is not None
            return
        with pytest.raises(ActorStopped) as caught:
            await asking
        assert len(caught.value.exit.detail) <= DETAIL_LENGTH

    alone(main)
