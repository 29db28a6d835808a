"""Messages put aside: order, askers, limits, crashes and stops; in virtual time."""

import asyncio
from typing import ClassVar

import pytest
from hops import Put, alone, letters, quiet
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, SpecError, StashFull, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Message


class Open(Message[int]):
    """Serve from now on, and first what was put aside."""


class Door(Actor[Put | Open]):
    """Puts everything aside until it is opened. A negative number fails, once it is open."""

    stash_limit: ClassVar[int] = 3

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen
        self.opened = False

    def put(self, m: Put) -> int:
        if not self.opened:
            self.context.stash()
            return -1
        if m.n < 0:
            raise LookupError(f"bad {m.n}")
        self.seen.append(m.n)
        return m.n

    def open(self, m: Open) -> int:
        self.opened = True
        return self.context.unstash_all()


def door(kernel: Kernel, seen: list[int], kind: type[Door] = Door, *, restart: bool = False) -> Cell:
    on_exit = (lambda cell, number, exit: kernel.restart(cell)) if restart else None
    return kernel.spawn(lambda: kind(seen), name="door", on_exit=on_exit)


@pytest.mark.promise(85)
def test_what_was_put_aside_comes_back_in_order_ahead_of_the_mailbox() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen))
        for n in (1, 2):
            ref.tell(Put(n))
        await quiet()
        assert seen == []
        opening = asyncio.create_task(ref.ask(Open()))
        await asyncio.sleep(0)
        ref.tell(Put(3))
        assert await opening == 2
        await quiet()
        assert seen == [1, 2, 3]

    alone(main)


@pytest.mark.promise(85)
def test_unstash_gives_back_what_is_there_at_the_call_and_not_what_comes_later() -> None:
    class Once(Door):
        def put(self, m: Put) -> int:
            self.seen.append(m.n)
            self.context.stash()
            return 0

    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen, Once))
        ref.tell(Put(1))
        ref.tell(Put(2))
        await quiet()
        assert await ref.ask(Open()) == 2
        await quiet()
        assert seen == [1, 2, 1, 2], "each was put aside again and waits for another call"

    alone(main)


@pytest.mark.promise(85)
def test_a_message_put_aside_and_taken_up_in_one_handler_is_the_next_one() -> None:
    class Turner(Door):
        def put(self, m: Put) -> int:
            self.seen.append(m.n)
            if self.seen.count(m.n) == 1:
                self.context.stash()
                assert self.context.unstash_all() == 1
            return m.n * 10

    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen, Turner))
        answers = [asyncio.create_task(ref.ask(Put(n))) for n in (1, 2)]
        assert await asyncio.gather(*answers) == [10, 20]
        assert seen == [1, 1, 2, 2]

    alone(main)


@pytest.mark.promise(86)
@pytest.mark.parametrize("suspend", [False, True])
def test_an_asker_whose_request_was_put_aside_waits_on_and_gets_the_later_answer(suspend: bool) -> None:
    class Slow(Door):
        async def put(self, m: Put) -> int:  # type: ignore[override]
            if self.opened:
                return m.n
            if suspend:
                await asyncio.sleep(0.1)
            self.context.stash()
            if suspend:
                await asyncio.sleep(0.1)
            return -1

    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(door(kernel, [], Slow))
        asking = asyncio.create_task(ref.ask(Put(7)))
        await asyncio.sleep(1)
        assert not asking.done()
        await ref.ask(Open())
        assert await asking == 7
        assert letters(kernel) == []

    alone(main)


@pytest.mark.promise(86)
def test_a_request_in_the_stash_keeps_its_deadline_and_is_not_served_after_it() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen))
        with pytest.raises(AskTimeout, match=r"within 0\.5 s"):
            await ref.ask(Put(1), timeout=0.5)
        assert await ref.ask(Open()) == 1
        await quiet()
        assert seen == []
        assert letters(kernel) == [(Put(1), "expired")]

    alone(main)


@pytest.mark.promise(86)
def test_a_deadline_that_passes_while_the_handler_is_still_busy_is_the_askers_and_nothing_comes_late() -> None:
    class Busy(Door):
        async def put(self, m: Put) -> int:  # type: ignore[override]
            self.context.stash()
            await asyncio.sleep(2)
            return 1

    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(door(kernel, [], Busy))
        with pytest.raises(AskTimeout):
            await ref.ask(Put(1), timeout=1)
        await asyncio.sleep(5)
        assert letters(kernel) == []
        await ref.ask(Open())
        await quiet()
        assert letters(kernel) == [(Put(1), "expired")]

    alone(main)


@pytest.mark.promise(86)
def test_an_asker_may_cancel_a_request_that_was_put_aside() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen))
        asking = asyncio.create_task(ref.ask(Put(1), cancel=True))
        await quiet()
        asking.cancel()
        await asyncio.wait([asking])
        await ref.ask(Open())
        await quiet()
        assert (seen, letters(kernel)) == ([], [(Put(1), "expired")])

    alone(main)


@pytest.mark.promise(87)
def test_a_full_stash_raises_and_stays_as_it_is() -> None:
    class Careful(Door):
        def put(self, m: Put) -> int:
            try:
                return super().put(m)
            except StashFull as error:
                return 99 if (error.path, error.limit) == ("door", 3) else 0

    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen, Careful))
        for n in (1, 2, 3):
            ref.tell(Put(n))
        assert await ref.ask(Put(4)) == 99
        assert await ref.ask(Open()) == 3
        await quiet()
        assert seen == [1, 2, 3]

    alone(main)


@pytest.mark.promise(87)
def test_expired_requests_make_room_in_a_full_stash() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(door(kernel, seen))
        ref.tell(Put(1))
        short = [asyncio.create_task(ref.ask(Put(n), timeout=0.1)) for n in (2, 3)]
        await asyncio.wait(short)
        assert all(isinstance(asking.exception(), AskTimeout) for asking in short)
        ref.tell(Put(4))
        await quiet()
        assert letters(kernel) == [(Put(2), "expired"), (Put(3), "expired")]
        await ref.ask(Open())
        await quiet()
        assert seen == [1, 4]

    alone(main)


@pytest.mark.promise(88)
def test_a_crash_among_what_was_taken_up_loses_the_culprit_and_keeps_the_rest() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        cell = door(kernel, seen, restart=True)
        ref = kernel.ref_of(cell)
        asking = [asyncio.create_task(ref.ask(Put(n))) for n in (1, -2, 3)]
        await quiet()
        await ref.ask(Open())
        await quiet()
        assert cell.number == 2
        assert seen == [1]
        assert await asking[0] == 1
        with pytest.raises(ActorStopped, match="LookupError: bad -2"):
            await asking[1]
        assert not asking[2].done(), "it was kept, and is put aside by the next incarnation"
        assert await ref.ask(Open()) == 1
        assert await asking[2] == 3
        assert letters(kernel) == [(Put(-2), "failed")]

    alone(main)


@pytest.mark.promise(88)
def test_a_restart_returns_the_stash_to_the_front_of_the_mailbox_in_order() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        cell = door(kernel, seen)
        cell.on_exit = lambda cell, number, exit: None
        ref = kernel.ref_of(cell)
        ref.tell(Put(1))
        ref.tell(Put(2))
        await quiet()
        kernel.leave(cell, Exit("error", "told to"))
        ref.tell(Put(3))
        ref.tell(Open())
        kernel.restart(cell)
        await quiet()
        assert seen == [1, 2, 3]

    alone(main)


@pytest.mark.promise(88)
@pytest.mark.parametrize("leave", [False, True])
def test_a_handler_that_fails_after_stash_loses_its_message_and_its_asker_is_told(leave: bool) -> None:
    class Breaks(Door):
        def put(self, m: Put) -> int:
            self.context.stash()
            if m.n < 0:
                self.context.unstash_all()
                raise Leave(Exit("error", "bad")) if leave else LookupError("bad")
            return 0

    async def main(kernel: Kernel) -> None:
        cell = door(kernel, [], Breaks, restart=True)
        ref = kernel.ref_of(cell)
        ref.tell(Put(1))
        with pytest.raises(ActorStopped, match="bad"):
            await ref.ask(Put(-1))
        await quiet()
        assert cell.number == 2, "a message that fails twice would end the incarnation twice"
        assert await ref.ask(Open()) == 1
        assert letters(kernel) == ([] if leave else [(Put(-1), "failed")])

    alone(main)


@pytest.mark.promise(88)
def test_a_stop_makes_dead_letters_of_the_stash_and_tells_the_askers() -> None:
    async def main(kernel: Kernel) -> None:
        cell = door(kernel, [])
        ref = kernel.ref_of(cell)
        ref.tell(Put(1))
        asking = asyncio.create_task(ref.ask(Put(2)))
        await quiet()
        await kernel.stop(cell)
        with pytest.raises(ActorStopped, match="shutdown"):
            await asking
        assert letters(kernel) == [(Put(1), "stopped"), (Put(2), "stopped")]

    alone(main)


def test_what_reached_one_incarnation_as_a_notice_is_not_handed_to_the_next() -> None:
    class Keeps(Door):
        def down(self, m: Down) -> None:
            if self.opened:
                self.seen.append(-1)
            else:
                self.context.stash()

    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        cell = door(kernel, seen, Keeps, restart=True)
        await quiet()
        for _ in range(2):
            kernel.control(cell, Down("x", 1, "normal"))
            await quiet()
            assert cell.life is not None
            kernel.end(cell, cell.life, Exit("error"))
            await quiet()
            assert await kernel.ref_of(cell).ask(Open()) == 0
            assert cell.life is not None
            kernel.end(cell, cell.life, Exit("error"))
            await quiet()
        assert seen == []

    alone(main)


def test_with_several_handlers_at_once_a_message_in_hand_comes_back_when_its_handler_has_ended() -> None:
    class Busy(Door):
        async def put(self, m: Put) -> int:  # type: ignore[override]
            self.seen.append(m.n)
            if not self.opened:
                self.context.stash()
                await asyncio.sleep(1)
            return m.n

    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = kernel.ref_of(kernel.spawn(lambda: Busy(seen), name="door", concurrency=2))
        asking = asyncio.create_task(ref.ask(Put(1)))
        await quiet()
        assert await ref.ask(Open()) == 1
        await quiet()
        assert seen == [1]
        assert await asking == 1
        assert kernel.loop.time() == pytest.approx(1, abs=1e-3)

    alone(main)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_stash_has_room_for_one_at_least(limit: int) -> None:
    async def main(kernel: Kernel) -> None:
        class None_(Door):
            stash_limit: ClassVar[int] = limit

        ref = kernel.ref_of(door(kernel, [], None_))
        with pytest.raises(ActorStopped) as caught:
            await ref.ask(Put(1))
        assert isinstance(caught.value.__cause__, SpecError)
        assert f"stash_limit {limit}; at least 1" in str(caught.value)

    alone(main)


def test_stash_outside_of_a_handler_or_twice_in_one_is_a_mistake() -> None:
    class Wrong(Door):
        def put(self, m: Put) -> int:
            self.context.stash()
            with pytest.raises(UsageError, match=r"door: stash\(\) twice of one Put"):
                self.context.stash()
            return 0

    async def main(kernel: Kernel) -> None:
        actors: list[Wrong] = []

        def make() -> Wrong:
            actors.append(Wrong([]))
            return actors[-1]

        ref = kernel.ref_of(kernel.spawn(make, name="door"))
        ref.tell(Put(1))
        await quiet()
        assert actors[0].context.stashed == 1
        with pytest.raises(UsageError, match="here is none"):
            actors[0].context.stash()

    alone(main)


@pytest.mark.promise(85, 88)
@settings(max_examples=40)
@given(st.lists(st.sampled_from(["put", "open", "close", "crash"]), max_size=25))
def test_nothing_is_lost_doubled_or_overtaken_whatever_is_put_aside_and_whenever_it_crashes(plan: list[str]) -> None:
    """Against a model: a queue, and a list of what is aside, which goes back to its front."""

    class Valve(Actor[Put | Open | Close | Crash]):
        stash_limit: ClassVar[int] = 1_000

        def __init__(self) -> None:
            self.opened = False

        def put(self, m: Put) -> int:
            if not self.opened:
                self.context.stash()
            else:
                seen.append(m.n)
            return 0

        def open(self, m: Open) -> int:
            self.opened = True
            return self.context.unstash_all()

        def close(self, m: Close) -> None:
            self.opened = False

        def crash(self, m: Crash) -> None:
            raise LookupError

    seen: list[int] = []

    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(kernel.spawn(Valve, on_exit=lambda cell, number, exit: kernel.restart(cell)))
        expected, aside, opened = [], [], False  # type: tuple[list[int], list[int], bool]
        for n, what in enumerate(plan):
            if what == "put":
                ref.tell(Put(n))
                (expected if opened else aside).append(n)
            elif what == "open":
                ref.tell(Open())
                expected += aside
                aside, opened = [], True
            else:
                ref.tell(Close() if what == "close" else Crash())
                opened = False
            await quiet()
        assert seen == expected

    seen.clear()
    alone(main)


class Close(Message[None]):
    pass


class Crash(Message[None]):
    pass
