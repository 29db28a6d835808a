"""Sending: `tell`, `send` and `ask`, and everything that may come of them."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from understudy.actors.actor import Actor
from understudy.actors.cell import CHAIN_LIMIT, Cell
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    CallCycle,
    MailboxFull,
    NotHandled,
    UsageError,
)
from understudy.actors.kernel import DETAIL_LENGTH, Kernel
from understudy.actors.mailbox import Overflow
from understudy.actors.messages import Message
from understudy.actors.refs import Ref, Refused
from understudy.actors.testing.simloop import SimClock, run


class Put(Message[int]):
    n: int


class Through(Message[object]):
    """Ask the next of `path` to go on; the last one sleeps `rest` seconds."""

    path: tuple[str, ...]
    rest: float = 0.0


class Strange(Message[None]):
    pass


class Slow(Actor[Put]):
    """Takes a second for each message; room for two."""

    mailbox_limit: ClassVar[int] = 2

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    async def put(self, m: Put) -> int:
        self.seen.append(m.n)
        await asyncio.sleep(1)
        return m.n


class Hop(Actor[Through]):
    async def on_through(self, m: Through) -> object:
        if not m.path:
            await asyncio.sleep(m.rest)
            return self.context.deadline
        kernel = self.context.ref.cell().kernel
        cell = kernel.registry.find(m.path[0])
        assert cell is not None
        return await kernel.ref_of(cell).ask(Through(m.path[1:], m.rest))


def alone(main: Callable[[Kernel], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with Kernel(clock=SimClock(), **options) as kernel:
            await main(kernel)
        gc.collect()  # a future whose exception nobody took says so when it goes
        assert failures == []
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(whole)


async def slow(kernel: Kernel, seen: list[int], **options: Any) -> Ref[Put]:
    cell = kernel.spawn(lambda: Slow(seen), **options)
    assert await kernel.wait_started(cell) is None
    return kernel.ref_of(cell)


async def quiet() -> None:
    await asyncio.sleep(1e-6)


def letters(kernel: Kernel) -> list[tuple[object, str]]:
    return [(letter.message, letter.reason) for letter in kernel.telemetry.dead_letters()]


def test_tell_delivers_at_the_call_and_is_refused_when_full() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen, name="slow")
        assert [ref.tell(Put(n)) for n in (1, 2)] == [True, True]
        refused = ref.tell(Put(3))
        assert refused == Refused("full", "slow")
        assert not refused
        assert letters(kernel) == [(Put(3), "full")]
        assert ref.cell().box().statistics().dropped == 1
        await asyncio.sleep(3)
        assert seen == [1, 2]

    alone(main)


def test_a_class_as_factory_limits_its_mailbox_before_it_has_started() -> None:
    async def main(kernel: Kernel) -> None:
        class Small(Slow):
            def __init__(self) -> None:
                super().__init__([])

        ref = kernel.ref_of(kernel.spawn(Small))
        assert [bool(ref.tell(Put(n))) for n in range(3)] == [True, True, False]

    alone(main)


def test_an_unknown_type_is_refused_at_the_door_and_raised_by_ask() -> None:
    async def main(kernel: Kernel) -> None:
        untyped: Ref[Any] = await slow(kernel, [], name="slow")
        assert untyped.tell(Strange()) == Refused("unknown", "slow")
        assert await untyped.send(Strange()) == Refused("unknown", "slow")
        with pytest.raises(NotHandled, match="slow: does not handle Strange; it takes Put"):
            await untyped.ask(Strange())
        assert letters(kernel) == [(Strange(), "unknown")] * 3

    alone(main)


def test_what_a_lambda_makes_is_known_only_once_it_started_and_then_the_asker_is_told() -> None:
    async def main(kernel: Kernel) -> None:
        untyped: Ref[Any] = kernel.ref_of(kernel.spawn(lambda: Slow([]), name="slow"))
        assert untyped.tell(Strange())
        with pytest.raises(NotHandled, match="slow: does not handle Strange; it takes Put"):
            await untyped.ask(Strange())
        assert letters(kernel) == [(Strange(), "unknown")] * 2

    alone(main)


def test_a_stopped_actor_refuses_and_fails_an_ask_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], name="slow")
        await kernel.stop(ref.cell())
        assert ref.tell(Put(1)) == Refused("dead", "slow")
        assert await ref.send(Put(2)) == Refused("dead", "slow")
        with pytest.raises(ActorStopped, match="slow: stopped: shutdown"):
            await ref.ask(Put(3))
        assert kernel.loop.time() < 0.1
        assert letters(kernel) == [(Put(n), "stopped") for n in (1, 2, 3)]

    alone(main)


def test_senders_that_wait_for_room_get_it_in_order_and_are_not_overtaken() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        assert [bool(ref.tell(Put(n))) for n in (1, 2)] == [True, True]
        sending = []
        for n in (3, 4, 5):
            sending.append(asyncio.create_task(ref.send(Put(n), timeout=60)))
            await asyncio.sleep(0)
        asking = asyncio.create_task(ref.ask(Put(6), timeout=60))
        await quiet()
        assert not ref.tell(Put(7)), "a tell does not pass those who wait"
        await asking
        assert [task.result() for task in sending] == [True, True, True]
        assert seen == [1, 2, 3, 4, 5, 6]

    alone(main)


def test_a_sender_gives_up_after_its_timeout_and_leaves_nothing_behind() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], name="slow")
        for n in (1, 2, 3):
            await ref.send(Put(n))
        sent = await ref.send(Put(4), timeout=0.25)
        assert sent == Refused("full", "slow")
        assert kernel.loop.time() == pytest.approx(0.25, abs=1e-3)
        with pytest.raises(MailboxFull, match=r"slow: mailbox full \(2 messages\)"):
            await ref.ask(Put(5), timeout=0.25)
        assert ref.cell().box().statistics().waiting == 0
        assert letters(kernel) == [(Put(4), "full"), (Put(5), "full")]

    alone(main)


def test_senders_that_wait_learn_at_once_that_the_actor_stopped() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], name="slow")
        for n in (1, 2, 3):
            await ref.send(Put(n))
        sending = asyncio.create_task(ref.send(Put(4), timeout=600))
        asking = asyncio.create_task(ref.ask(Put(5), timeout=600))
        await quiet()
        await kernel.stop(ref.cell(), deadline=0)
        assert await sending == Refused("dead", "slow")
        with pytest.raises(ActorStopped):
            await asking
        assert kernel.loop.time() < 1

    alone(main)


def test_a_sender_that_is_cancelled_sends_nothing() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        for n in (1, 2, 3):
            await ref.send(Put(n))
        sending = asyncio.create_task(ref.send(Put(4), timeout=60))
        await quiet()
        sending.cancel()
        await asyncio.wait([sending])
        await asyncio.sleep(10)
        assert seen == [1, 2, 3]

    alone(main)


@pytest.mark.parametrize(
    ("overflow", "seen", "lost"), [("drop_newest", [0, 1, 2], [3, 4]), ("drop_oldest", [0, 3, 4], [1, 2])]
)
def test_a_dropping_mailbox_takes_everything_and_what_it_drops_is_a_dead_letter(
    overflow: Overflow, seen: list[int], lost: list[int]
) -> None:
    async def main(kernel: Kernel) -> None:
        class Dropping(Slow):
            pass

        Dropping.overflow = overflow
        served: list[int] = []
        ref = kernel.ref_of(kernel.spawn(lambda: Dropping(served)))
        await kernel.wait_started(ref.cell())
        ref.tell(Put(0))
        await quiet()  # it is being handled
        asking = [asyncio.create_task(ref.ask(Put(n), timeout=60)) for n in (1, 2, 3, 4)]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert served == seen
        assert letters(kernel) == [(Put(n), "dropped") for n in lost]
        assert [n for n, outcome in enumerate(outcomes, 1) if isinstance(outcome, MailboxFull)] == lost
        assert ref.cell().box().statistics().dropped == 2

    alone(main)


def test_nothing_is_sent_until_an_ask_is_awaited() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        asking = ref.ask(Put(1))
        await asyncio.sleep(2)
        assert seen == []
        assert await asking == 1

    alone(main)


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


def test_cancelling_an_asker_does_not_stop_the_callee() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [])
        asking = asyncio.create_task(ref.ask(Put(1)))
        await quiet()
        asking.cancel()
        await asyncio.sleep(2)
        assert letters(kernel) == [(1, "late")]

    alone(main)


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


def test_an_actor_with_room_for_another_request_may_be_asked_by_its_own_chain() -> None:
    async def main(kernel: Kernel) -> None:
        a = kernel.spawn(Hop, name="a", concurrency=2)
        kernel.spawn(Hop, name="b")
        assert await kernel.ref_of(a).ask(Through(("b", "a"))) is not None

    alone(main)


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


def test_the_sender_is_the_actor_whose_handler_sent_it() -> None:
    async def main(kernel: Kernel) -> None:
        senders: list[str] = []

        class Target(Actor[Strange]):
            def hear(self, m: Strange) -> None:
                senders.append(self.context.sender)

        class Source(Actor[Put]):
            async def put(self, m: Put) -> int:
                target.tell(Strange())
                await target.send(Strange())
                await asyncio.to_thread(target.tell_threadsafe, Strange())
                return 0

        target = kernel.ref_of(kernel.spawn(Target, name="target"))
        source = kernel.ref_of(kernel.spawn(Source, name="source"))
        target.tell(Strange())
        await source.ask(Put(1))
        await quiet()
        assert senders == ["", "source", "source", "source"]

    alone(main)


def test_check_passes_every_message_through_the_codec() -> None:
    async def main(kernel: Kernel) -> None:
        got: list[object] = []

        class Target(Actor[Put]):
            def put(self, m: Put) -> int:
                got.append(m)
                return m.n

        ref = kernel.ref_of(kernel.spawn(Target))
        sent = Put(1)
        assert await ref.ask(sent) == 1
        assert got == [sent]
        assert got[0] is not sent
        wrong: Any = Put("x")  # type: ignore[arg-type]  # constructors check nothing
        for call in (ref.ask, ref.send):
            with pytest.raises(UsageError, match="Put: Expected `int`, got `str`"):
                await call(wrong)
        with pytest.raises(UsageError, match="Put"):
            ref.tell(wrong)

    alone(main, check=True)


def test_order_is_kept_between_one_sender_and_one_receiver() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []

        class Target(Actor[Put]):
            async def put(self, m: Put) -> int:
                if m.n % 3 == 0:
                    await asyncio.sleep(0.01)
                seen.append(m.n)
                return m.n

        ref = kernel.ref_of(kernel.spawn(Target))
        for n in range(100):
            ref.tell(Put(n))
        assert await ref.ask(Put(100), timeout=60) == 100
        assert seen == list(range(101))

    alone(main)


def test_refs_to_one_address_are_equal() -> None:
    async def main(kernel: Kernel) -> None:
        a, b = kernel.spawn(Hop), kernel.spawn(Hop)
        assert kernel.ref_of(a) == kernel.ref_of(a)
        assert len({kernel.ref_of(a), kernel.ref_of(a), kernel.ref_of(b)}) == 2
        assert repr(kernel.ref_of(a)) == f"<Ref {a.path}>"

    alone(main)
