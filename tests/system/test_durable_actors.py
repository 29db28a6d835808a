"""Plain actors with declared state, and durable messages: what they promise, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

import pytest
from msgspec import Struct

from understudy import Actor, CrashReport, DeadLetter, Message, Ref, Refused, System
from understudy.actors.cell import Cell
from understudy.actors.durable import segments
from understudy.actors.errors import ActorStopped, JournalFailed, ProtocolError, SpecError, UsageError
from understudy.actors.journal.durable_events import ACTORS
from understudy.actors.journal.store import MemoryStore
from understudy.actors.lifecycle import Exit
from understudy.actors.testing.disk_faults import DiskError
from understudy.actors.testing.sim_disk import SimDisk, SimStore
from understudy.actors.testing.simloop import SimClock, run


class Add(Message[int]):
    n: int


class Total(Message[int]): ...


class Fail(Message[None]): ...


class Count(Struct, frozen=True):
    total: int = 0
    handled: int = 0


class Counter(Actor[Add | Total | Fail]):
    state: Count = Count()
    tries: ClassVar[int] = 0

    def add(self, m: Add) -> int:
        self.state = Count(self.state.total + m.n, self.state.handled + 1)
        return self.state.total

    def read(self, m: Total) -> int:
        return self.state.total

    async def fail(self, m: Fail) -> None:
        Counter.tries += 1
        self.state = Count(-1)
        await asyncio.sleep(0)
        raise RuntimeError("poison")


def system_on(store: Any, **options: Any) -> System:
    return System(journal=store, clock=SimClock(), watchdog=None, **options)


def simulated(main: Callable[[SimDisk], Coroutine[Any, Any, None]], *faults: Any) -> SimDisk:
    disk = SimDisk(faults)
    run(lambda: main(disk))
    return disk


@pytest.mark.promise(303)
def test_declared_state_comes_back_by_path_in_the_next_process() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            counter.tell(Add(1))
            assert await counter.ask(Add(2)) == 3
        async with system_on(SimStore(disk)) as system:
            assert await system.spawn(Counter, name="other").ask(Total()) == 0
            assert await system.spawn(Counter, name="counter").ask(Total()) == 3

    simulated(main)


@pytest.mark.promise(303)
def test_an_answer_is_given_when_what_it_tells_of_is_committed() -> None:
    async def main(disk: SimDisk) -> None:
        system = system_on(SimStore(disk))
        async with system:
            counter = system.spawn(Counter, name="counter")
            await asyncio.sleep(0.1)
            counter.tell(Add(5))
            before = disk.writes
            assert await counter.ask(Total()) == 5
            assert disk.writes > before
        async with system_on(SimStore(disk)) as system:
            assert await system.spawn(Counter, name="counter").ask(Total()) == 5

    simulated(main)


@pytest.mark.promise(303)
def test_a_handler_that_fails_leaves_the_state_as_it_was_and_so_finds_it_the_next_incarnation() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            await counter.ask(Add(7))
            with pytest.raises(ActorStopped):
                await counter.ask(Fail())
            assert await counter.ask(Total()) == 7

    simulated(main)


@pytest.mark.promise(304)
def test_a_durable_message_waits_for_the_next_process_if_this_one_does_not_come_to_it() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            await system.suspend(counter)
            for n in range(1, 101):
                assert await counter.post(Add(n))
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            await asyncio.sleep(1)
            assert await system.peek(counter, lambda actor: actor.state) == Count(5050, 100)

    simulated(main)


@pytest.mark.promise(304)
def test_an_actor_without_declared_state_takes_durable_messages_too() -> None:
    heard: list[int] = []

    class Ear(Actor[Add]):
        def hear(self, m: Add) -> int:
            heard.append(m.n)
            return 0

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            ear = system.spawn(lambda: Ear(), name="ear")
            await system.suspend(ear)
            await ear.post(Add(1))
        async with system_on(SimStore(disk)) as system:
            ear = system.spawn(lambda: Ear(), name="ear")
            await ear.post(Add(2))
            await asyncio.sleep(1)
        async with system_on(SimStore(disk)) as system:
            system.spawn(lambda: Ear(), name="ear")
            await asyncio.sleep(1)
        assert heard == [1, 2]

    simulated(main)


class Order(Message[None]):
    n: int
    fails: bool = False


class Shop(Actor[Order]):
    """Posts to a counter, and fails after that if it is told to."""

    state: Count = Count()
    counter: ClassVar[Ref[Any]]

    async def order(self, m: Order) -> None:
        self.state = Count(self.state.total + m.n)
        assert self.context.post(self.counter, Add(m.n))
        await asyncio.sleep(0.01)
        if m.fails:
            raise RuntimeError("no")


@pytest.mark.promise(305)
def test_what_a_handler_posts_is_sent_with_its_end_and_not_at_all_when_it_fails() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            Shop.counter = counter = system.spawn(Counter, name="counter")
            shop = system.spawn(Shop, name="shop")
            shop.tell(Order(1))
            await asyncio.sleep(0.005)
            assert await counter.ask(Total()) == 0
            shop.tell(Order(10, fails=True))
            shop.tell(Order(100))
            await asyncio.sleep(1)
            assert await counter.ask(Total()) == 101
            assert await system.peek(shop, lambda actor: actor.state) == Count(101)

    simulated(main)


@pytest.mark.promise(306)
def test_a_message_that_fails_is_tried_so_often_then_it_is_dead_listed_revived_or_discarded() -> None:
    Counter.tries = 0

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            letters: list[DeadLetter] = []
            system.telemetry.letters.add(letters.append)
            counter = system.spawn(Counter, name="counter")
            await counter.post(Fail())
            await counter.post(Add(1))
            await asyncio.sleep(5)
            assert Counter.tries == 3
            assert await counter.ask(Total()) == 1
            (letter,) = letters
            assert (letter.target, letter.reason, letter.message) == ("counter", "failed", Fail())
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            await asyncio.sleep(5)
            assert Counter.tries == 3
            (dead,) = system.dead_posts()
            assert (dead.to, dead.by, dead.tag, dead.tries) == ("counter", "", "Fail", 3)
            assert dead.error == "RuntimeError: poison"
            await system.revive(dead)
            assert system.dead_posts() == ()
            await asyncio.sleep(5)
            assert Counter.tries == 6
            (dead,) = system.dead_posts()
            await system.discard(dead)
        async with system_on(SimStore(disk)) as system:
            assert system.dead_posts() == ()
            with pytest.raises(UsageError, match=f"there is no dead message {dead.id}"):
                await system.revive(dead)

    simulated(main)


@pytest.mark.promise(306)
def test_a_message_during_which_processes_are_killed_is_found_and_given_up_and_no_other() -> None:
    handled: list[int] = []

    class Fuse(Actor[Add]):
        state: Count = Count()

        def add(self, m: Add) -> int:
            if m.n == 150:
                disk.kill()
                raise asyncio.CancelledError
            handled.append(m.n)
            self.state = Count(self.state.total + m.n, self.state.handled + 1)
            return 0

    disk = SimDisk()

    async def life(post: bool) -> None:
        async with system_on(SimStore(disk)) as system:
            fuse = system.spawn(Fuse, name="fuse")
            if post:
                await system.suspend(fuse)
                for n in range(1, 201):
                    await fuse.post(Add(n))
                return
            for _ in range(100):
                await asyncio.sleep(0.05)
                if disk._owner is None:
                    disk.bury()
                    return
            assert [dead.body for dead in system.dead_posts()] == ['{"$":"Add","n":150}']
            state = await system.peek(fuse, lambda actor: actor.state)
            assert state == Count(sum(range(1, 201)) - 150, 199)

    async def main() -> None:
        await life(post=True)
        for _ in range(6):
            await life(post=False)

    run(main)
    assert set(handled) == set(range(1, 201)) - {150}


@pytest.mark.promise(307)
def test_a_durable_message_is_refused_where_it_could_not_be_kept() -> None:
    class Roomy(Counter):
        overflow = "drop_oldest"

    class Plain(Actor[Add]):
        def add(self, m: Add) -> int:
            return 0

    async def main() -> None:
        async with System() as system:
            counter = system.spawn(Counter, name="counter")
            with pytest.raises(
                UsageError, match=r"post to counter: a durable message needs a journal: System\(journal="
            ):
                await counter.post(Add(1))
            assert await counter.ask(Add(1)) == 1
        async with System(durability="off") as system:
            with pytest.raises(UsageError, match="with durability 'off' nothing is kept"):
                await system.spawn(Counter, name="counter").post(Add(1))
        async with System(durability="memory") as system:
            with pytest.raises(SpecError, match=r"\$\d is a name that nobody chose"):
                await system.spawn(Plain).post(Add(1))
            with pytest.raises(UsageError, match="it drops the oldest"):
                await system.spawn(Roomy, name="roomy").post(Add(1))
            counter = system.spawn(Counter, name="counter")
            with pytest.raises(UsageError, match=r"Add cannot be sent durably: Expected `int`, got `str`"):
                await counter.post(Add("1"))  # type: ignore[arg-type]  # on purpose
            assert await counter.ask(Add(1)) == 1
            context = await system.peek(counter, lambda actor: actor.context)
            with pytest.raises(UsageError, match=r"outside of an actor: context.post rides"):
                context.post(counter, Add(1))
            assert await counter.post(Order(1)) == Refused("unknown", "counter")  # type: ignore[arg-type]  # on purpose
            await system.kernel.stop(counter.cell())
            assert await counter.post(Add(1)) == Refused("dead", "counter")

    asyncio.run(main())


@pytest.mark.promise(307)
def test_in_a_handler_that_is_journalled_a_post_rides_with_its_end_and_elsewhere_it_does_not() -> None:
    class Eager(Actor[Order]):
        state: Count = Count()

        async def order(self, m: Order) -> None:
            await self.context.ref.post(m)

    class Loose(Actor[Order]):
        def order(self, m: Order) -> None:
            self.context.post(self.context.ref, m)

    async def main() -> None:
        async with System(durability="memory") as system:
            for kind, text in ((Eager, "use self.context.post"), (Loose, "else use `await ref.post")):
                crashed: asyncio.Future[CrashReport] = asyncio.get_running_loop().create_future()
                stop = system.telemetry.crashes.add(crashed.set_result)
                system.spawn(kind, name=kind.__name__).tell(Order(1))
                assert text in (await crashed).exit.detail
                stop()

    asyncio.run(main())


@pytest.mark.promise(307)
def test_an_actor_without_a_chosen_name_cannot_declare_state() -> None:
    async def main() -> None:
        async with System() as system:
            counter = system.spawn(Counter)
            with pytest.raises(ActorStopped, match="is a name that nobody chose"):
                await counter.ask(Total(), timeout=30)

    run(main)


@pytest.mark.promise(304)
def test_an_address_that_is_taken_again_at_once_goes_on_where_the_one_before_it_ended() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            posts = []
            for _ in range(20):
                counter = system.spawn(Counter, name="counter")
                await system.peek(counter, lambda actor: None)
                posts += [asyncio.create_task(counter.post(Add(1))) for _ in range(5)]
                for _ in range(len(posts) % 7):
                    await asyncio.sleep(0)
                await asyncio.sleep(len(posts) % 3 / 1000)
                await system.kernel.stop(counter.cell())
            accepted = [await post for post in posts]
            counter = system.spawn(Counter, name="counter")
            await asyncio.sleep(1)
            state = await system.peek(counter, lambda actor: actor.state)
            assert state == Count(accepted.count(True), accepted.count(True))
            assert accepted.count(True) > 20

    simulated(main)


@pytest.mark.promise(303)
def test_who_takes_an_address_in_the_moment_it_is_free_finds_what_was_just_done() -> None:
    class Once(Counter):
        def add(self, m: Add) -> int:
            self.context.stop()
            return super().add(m)

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            kernel = system.kernel
            told, left = kernel.on_released, [1, 2, 3]
            assert told is not None

            def again(cell: Cell, exit: Exit) -> None:
                told(cell, exit)
                if left:
                    kernel.spawn(Once, name="once")
                    kernel.ref_of(kernel.registry.top["once"]).tell(Add(left.pop()))

            kernel.on_released = again
            kernel.ref_of(kernel.spawn(Once, name="once")).tell(Add(4))
            await asyncio.sleep(1)
            kernel.on_released = told
            assert await kernel.ref_of(kernel.spawn(Counter, name="once")).ask(Total()) == 10

    simulated(main)


@pytest.mark.promise(308)
def test_of_many_who_wait_for_room_no_more_are_let_in_than_there_is_room_for() -> None:
    class Small(Counter):
        mailbox_limit = 3

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            small = system.spawn(Small, name="small")
            posts = [asyncio.create_task(small.post(Add(1), timeout=60)) for _ in range(50)]
            most = 0
            while not all(post.done() for post in posts):
                await asyncio.sleep(0.0001)
                waiting = system.kernel.office.book.of("small") if system.kernel.office is not None else {}
                most = max(most, len(waiting))
            assert [await post for post in posts] == [True] * 50
            assert await small.ask(Total()) == 50
            assert most == 3

    simulated(main)


@pytest.mark.promise(308)
def test_no_more_durable_messages_wait_for_an_actor_than_its_mailbox_holds() -> None:
    class Small(Counter):
        mailbox_limit = 3

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            small = system.spawn(Small, name="small")
            await system.suspend(small)
            for n in range(3):
                assert await small.post(Add(n))
            assert await small.post(Add(9), timeout=0.5) == Refused("full", "small")
            waiting = [asyncio.create_task(small.post(Add(10 + n), timeout=9)) for n in range(3)]
            await asyncio.sleep(0.1)
            waiting[1].cancel()
            await system.resume(small)
            assert await waiting[0] is True
            assert await waiting[2] is True
            assert await small.ask(Total()) == 0 + 1 + 2 + 10 + 12

    simulated(main)


@pytest.mark.promise(308)
def test_the_stream_of_actors_does_not_grow_with_what_they_have_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "LEAST", 2_000)
    sizes: list[int] = []

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            for n in range(400):
                await counter.post(Add(n))
                streams = [rows for name, rows in disk.streams().items() if name.startswith(ACTORS)]
                sizes.append(sum(row.length for rows in streams for row in rows))
            assert await counter.ask(Total()) == sum(range(400))
        async with system_on(SimStore(disk)) as system:
            assert await system.spawn(Counter, name="counter").ask(Total()) == sum(range(400))

    simulated(main)
    assert max(sizes[200:]) <= max(sizes[:200]) + 500
    assert max(sizes) < 20_000


# -- the shape of a state changes --------------------------------------------------------------------------------


class Older(Struct, frozen=True):
    sum: int = 0


class Before(Actor[Add]):
    state: Older = Older()

    def add(self, m: Add) -> int:
        self.state = Older(self.state.sum + m.n)
        return self.state.sum


class Upgrading(Counter):
    @classmethod
    def upgrade_state(cls, kept: Any) -> Count:
        return Count(kept["sum"])


@pytest.mark.promise(309)
def test_a_kept_state_of_another_shape_is_refused_by_name_or_upgraded() -> None:
    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            await system.spawn(Before, name="counter").ask(Add(4))
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            with pytest.raises(
                ActorStopped, match=r"counter: the kept state is no Count: there is no field 'sum' any more"
            ):
                await counter.ask(Total(), timeout=60)
        async with system_on(SimStore(disk)) as system:
            assert await system.spawn(Upgrading, name="counter").ask(Total()) == 4

    simulated(main)


@pytest.mark.promise(309)
def test_a_durable_message_that_its_actor_does_not_know_any_more_is_a_dead_one() -> None:
    class Deaf(Actor[Total]):
        def read(self, m: Total) -> int:
            return 0

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            counter = system.spawn(Counter, name="counter")
            await system.suspend(counter)
            await counter.post(Add(1))
        async with system_on(SimStore(disk)) as system:
            system.spawn(Deaf, name="counter")
            await asyncio.sleep(1)
            assert [dead.error for dead in system.dead_posts()] == ["no handler for Add"]

    simulated(main)


class Loose(Struct):
    n: int = 0


class Listed(Struct, frozen=True):
    items: list[int] = []


@pytest.mark.promise(309)
@pytest.mark.parametrize(
    ("kind", "first", "text"),
    [
        (int, 0, "declared state is a frozen msgspec struct, not"),
        (Loose, Loose(), "Loose is not frozen"),
        (Listed, Listed(), "field Listed.items holds a list, whose changes nobody would see"),
        (Count, None, "it needs a first value"),
    ],
)
def test_a_declared_state_is_checked_where_the_class_is_defined(kind: type, first: object, text: str) -> None:
    fields: dict[str, Any] = {"__annotations__": {"state": kind}}
    if first is not None:
        fields["state"] = first
    with pytest.raises(ProtocolError, match=rf"Wrong.state: .*{text}"):
        type("Wrong", (Actor,), fields)


@pytest.mark.promise(309)
def test_a_state_that_could_not_be_read_back_is_the_failure_of_its_handler() -> None:
    class Careless(Actor[Add]):
        state: Count = Count()

        def add(self, m: Add) -> int:
            self.state = Count("many") if m.n else m  # type: ignore[arg-type, assignment]  # on purpose
            return 0

    async def main(disk: SimDisk) -> None:
        async with system_on(SimStore(disk)) as system:
            careless = system.spawn(Careless, name="careless")
            for n, text in ((1, "careless.state cannot be kept: Expected `int`"), (0, "careless.state is of type Add")):
                with pytest.raises(ActorStopped, match=text):
                    await careless.ask(Add(n), timeout=9)

    simulated(main)


@pytest.mark.promise(304)
def test_when_the_disk_fails_nobody_is_told_that_a_message_was_accepted() -> None:
    async def main(disk: SimDisk) -> None:
        system = system_on(SimStore(disk))
        await system.__aenter__()
        counter = system.spawn(Counter, name="counter")
        assert await counter.post(Add(1))
        results = await asyncio.gather(
            *(counter.post(Add(n)) for n in range(9)), counter.ask(Add(1)), return_exceptions=True
        )
        assert [type(result) for result in results] == [JournalFailed] * 10
        with pytest.raises(JournalFailed):
            await counter.post(Add(1))
        await system.__aexit__(None, None, None)

    simulated(main, DiskError(3, once=False))


@pytest.mark.promise(303)
def test_without_a_file_the_declared_state_outlives_an_incarnation() -> None:
    async def main() -> None:
        async with System() as system:
            counter = system.spawn(Counter, name="counter")
            await counter.ask(Add(3))
            with pytest.raises(ActorStopped):
                await counter.ask(Fail())
            assert await counter.ask(Total(), timeout=30) == 3

    run(main)


def test_leaving_a_system_is_not_cut_short_by_cancellation() -> None:
    async def main() -> None:
        store = MemoryStore()
        system = System(journal=store, clock=SimClock(), watchdog=None)
        await system.__aenter__()
        system.spawn(Counter, name="counter")
        leaving = asyncio.create_task(system.__aexit__(None, None, None))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert system.kernel.registry.top == {}

    run(main)
