"""Sending: `tell` and `send`, and everything that may come of them."""

import asyncio
from typing import Any

import pytest
from hops import Hop, Put, Slow, Strange, alone, letters, quiet, slow

from understudy.actors.actor import Actor
from understudy.actors.errors import (
    ActorStopped,
    MailboxFull,
    NotHandled,
    UsageError,
)
from understudy.actors.kernel import Kernel
from understudy.actors.mailbox import Overflow
from understudy.actors.refs import Ref, Refused


@pytest.mark.promise(1)
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


@pytest.mark.promise(4)
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


@pytest.mark.promise(3)
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


@pytest.mark.promise(2)
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


@pytest.mark.promise(1)
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


@pytest.mark.promise(1)
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


@pytest.mark.promise(2)
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
