"""Full mailboxes: what the sender learns, what is lost, and that nobody who waits is overtaken."""

import asyncio
from typing import Any

import pytest
from hops import Put, Slow, alone, letters, quiet
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.actor import Actor
from understudy.actors.kernel import Kernel
from understudy.actors.mailbox import Overflow
from understudy.actors.refs import Ref, Refused


async def full(kernel: Kernel, overflow: Overflow, seen: list[int]) -> Ref[Put]:
    """A slow actor that is busy with -1 and has 0 and 1 waiting: no room for more."""

    class Box(Slow):
        pass

    Box.overflow = overflow
    cell = kernel.spawn(lambda: Box(seen), name="box")
    await kernel.wait_started(cell)
    ref = kernel.ref_of(cell)
    ref.tell(Put(-1))
    await quiet()
    for n in (0, 1):
        assert ref.tell(Put(n))
    return ref


@pytest.mark.promise(118)
@pytest.mark.parametrize(
    ("overflow", "told", "lost", "served"),
    [
        ("refuse", Refused("full", "box"), [(Put(2), "full")], [-1, 0, 1]),
        ("drop_newest", True, [(Put(2), "dropped")], [-1, 0, 1]),
        ("drop_oldest", True, [(Put(0), "dropped")], [-1, 1, 2]),
    ],
)
def test_overflow_is_a_result_a_count_and_a_dead_letter_and_never_raises_into_the_sender(
    overflow: Overflow, told: Any, lost: list[Any], served: list[int]
) -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await full(kernel, overflow, seen)
        results: list[object] = []

        class Sender(Actor[Put]):
            def put(self, m: Put) -> int:
                results.append(ref.tell(m))
                return m.n

        sender = kernel.ref_of(kernel.spawn(Sender, name="sender"))
        assert await sender.ask(Put(2)) == 2
        assert results == [told]
        assert letters(kernel) == lost
        assert ref.cell().box().statistics().dropped == 1
        await asyncio.sleep(10)
        assert seen == served
        assert sender.cell().number == 1

    alone(main)


@pytest.mark.promise(118)
@pytest.mark.parametrize("overflow", ["refuse", "drop_newest", "drop_oldest"])
def test_send_waits_for_room_only_where_messages_are_refused(overflow: Overflow) -> None:
    async def main(kernel: Kernel) -> None:
        ref = await full(kernel, overflow, [])
        began = kernel.loop.time()
        assert await ref.send(Put(2)) is True
        waited = kernel.loop.time() - began
        assert waited == pytest.approx(1 if overflow == "refuse" else 0, abs=1e-2)

    alone(main)


@pytest.mark.promise(118)
def test_a_sender_that_waited_in_vain_gets_a_result_and_the_message_is_a_dead_letter() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await full(kernel, "refuse", [])
        assert await ref.send(Put(2), timeout=0.5) == Refused("full", "box")
        assert letters(kernel) == [(Put(2), "full")]
        assert ref.cell().box().statistics().dropped == 1

    alone(main)


@pytest.mark.promise(118)
@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["send", "tell", "give up"]), st.booleans()), max_size=20))
def test_room_goes_to_who_has_waited_longest_and_a_tell_overtakes_nobody(plan: list[tuple[str, bool]]) -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await full(kernel, "refuse", seen)
        expected: list[int] = [-1, 0, 1]
        waiting: dict[int, asyncio.Task[Any]] = {}
        for n, (what, later) in enumerate(plan, 2):
            if what == "send":
                waiting[n] = asyncio.create_task(ref.send(Put(n), timeout=1_000))
                expected.append(n)
            elif what == "tell" and len(expected) - len(seen) >= 2:
                assert ref.tell(Put(n)) == Refused("full", "box")
            elif what == "give up" and waiting:
                number, task = waiting.popitem()
                task.cancel()
                await asyncio.wait([task])
                if task.cancelled():
                    expected.remove(number)
            await (asyncio.sleep(0.4) if later else quiet())
        await asyncio.sleep(60)
        assert seen == expected

    alone(main)
