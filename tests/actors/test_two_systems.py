"""Several systems, in one event loop and in threads with loops of their own, do not disturb one another."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from doers import LOOPS, Do, Ping, PlainDoer, Run, alive, doer, me, new_loop, ready_doer, run, turns

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped, CallCycle, WrongLoop
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.system import System

__all__ = ["run"]  # the fixture

pytestmark = pytest.mark.promise(139)


class Down(Message[int]):
    n: int


class Hop(Actor[Down]):
    """Asks the next, which may be of another system."""

    def __init__(self) -> None:
        self.following: Ref[Any] | None = None
        self.on: list[asyncio.Task[Any]] = []

    async def down(self, m: Down) -> int:
        self.on.append(me())
        if not m.n:
            return 0
        if m.n % 5 == 0:
            await asyncio.sleep(0)
        assert self.following is not None
        value = await self.following.ask(Down(m.n - 1))
        assert me() is self.on[-1]
        return value + 1


def test_asks_go_to_and_fro_between_two_systems_in_one_loop(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as one, Kernel() as two:
            cells = [(one, two)[n % 2].spawn(Hop) for n in range(24)]
            refs = [kernel_of.ref_of(cell) for kernel_of, cell in zip([one, two] * 12, cells, strict=True)]
            await turns()
            for cell, following in zip(cells, refs[1:], strict=False):
                assert isinstance(cell.life and cell.life.actor, Hop)
                cell.life.actor.following = following  # type: ignore[union-attr]  # as asserted
            for _ in range(3):
                assert await refs[0].ask(Down(23)) == 23
            assert one.dispatcher._depth == two.dispatcher._depth == 0

    run(main)


def test_a_call_cycle_through_two_systems_is_named(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as one, Kernel() as two:

            async def there() -> object:
                return await second.ask(Do())

            async def back() -> object:
                with pytest.raises(CallCycle):
                    await first.ask(Do())
                return "named"

            first, second = await ready_doer(one, there), await ready_doer(two, back)
            assert await first.ask(Do()) == "named"

    run(main)


def test_one_system_ends_and_the_other_goes_on(run: Run) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        async with Kernel() as one:
            gate = asyncio.Event()
            async with Kernel() as two:

                async def wait() -> object:
                    await gate.wait()
                    return "one"

                async def ask_other() -> object:
                    try:
                        return await other.ask(Ping())
                    except ActorStopped:
                        return "gone"

                waiting = asyncio.create_task((await ready_doer(one, wait)).ask(Do()))
                other = await ready_doer(two, turns)
                asker = await ready_doer(one, ask_other)
                assert await asker.ask(Do()) == "pong"
            assert await asker.ask(Do()) == "gone"
            with pytest.raises(ActorStopped):
                await other.ask(Ping())
            gate.set()
            assert await waiting == "one"
            assert await alive(one)
        await turns(2)
        assert asyncio.all_tasks() <= before

    run(main)


def test_an_interrupt_in_one_system_stops_that_one(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as one, Kernel() as two:

            async def fail() -> object:
                raise KeyboardInterrupt

            async def ask() -> object:
                with pytest.raises(ActorStopped):
                    await failing.ask(Do())
                return "still here"

            failing, asker = await ready_doer(one, fail), await ready_doer(two, ask)
            assert await asker.ask(Do()) == "still here"
            assert isinstance(one.interrupted, KeyboardInterrupt)
            assert two.interrupted is None
            assert await alive(two)

    run(main)


def test_a_flood_in_one_system_lets_the_other_work(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as one, Kernel() as two:

            def again() -> None:
                flood.tell(Do())

            flood = one.ref_of(one.spawn(lambda: PlainDoer(again)))
            await turns()
            flood.tell(Do())
            for _ in range(20):
                assert await alive(two)
            one.begin_stop(flood.cell())

    run(main)


@pytest.mark.parametrize("other", LOOPS)
def test_a_system_in_a_thread_with_a_loop_of_its_own(run: Run, other: str) -> None:
    class Thread:
        """A system that serves until it is told to end."""

        def __init__(self) -> None:
            self.up = threading.Event()
            self.error: BaseException | None = None
            self.heard: list[int] = []
            self.thread = threading.Thread(target=self.work, daemon=True)

        def work(self) -> None:
            try:
                with asyncio.Runner(debug=other.endswith("debug"), loop_factory=lambda: new_loop(other)) as runner:
                    runner.run(self.main())
            except BaseException as error:
                self.error = error
                self.up.set()

        async def main(self) -> None:
            async with Kernel() as kernel:
                self.end = asyncio.Event()
                self.loop = asyncio.get_running_loop()

                async def hear() -> None:
                    self.heard.append(threading.get_ident())
                    if len(self.heard) == 200:
                        self.end.set()

                self.ref = doer(kernel, hear)
                self.up.set()
                while not self.end.is_set():
                    assert await alive(kernel)
                with pytest.raises(WrongLoop):
                    await main_ref[0].ask(Ping())

    main_ref: list[Ref[Any]] = []

    async def main() -> None:
        async with Kernel() as kernel:

            async def work() -> object:
                await asyncio.sleep(0)
                return threading.get_ident()

            ref = await ready_doer(kernel, work)
            main_ref.append(ref)
            there = Thread()
            there.thread.start()
            await asyncio.to_thread(there.up.wait, 60)
            assert there.error is None, there.error
            with pytest.raises(WrongLoop, match="tell_threadsafe"):
                there.ref.tell(Do())
            with pytest.raises(WrongLoop, match="tell_threadsafe"):
                await there.ref.ask(Do())
            for _ in range(200):
                there.ref.tell_threadsafe(Do())
                assert await ref.ask(Do()) == threading.get_ident()
            await asyncio.to_thread(there.thread.join, 60)
            assert there.error is None, there.error
            assert set(there.heard) == {there.thread.ident}
            assert await alive(kernel)

    run(main)


def test_public_systems_side_by_side_and_one_after_another(run: Run) -> None:
    class Echo(Actor[Ping]):
        def ping(self, m: Ping) -> str:
            return "pong"

    async def main() -> None:
        for _ in range(2):
            async with System() as one, System() as two:
                first, second = one.spawn(Echo, name="echo"), two.spawn(Echo, name="echo")
                assert [await first.ask(Ping()), await second.ask(Ping())] == ["pong", "pong"]
                assert await asyncio.to_thread(asyncio.run, served()) == "pong"

    async def served() -> str:
        async with System() as there:
            return await there.spawn(Echo, name="echo").ask(Ping())

    run(main)


# -- the anyio plugin of pytest: fixtures and tests run in one task of its own, on a loop that it drives by hand -------


@pytest.fixture
async def kernel(anyio_backend: object) -> AsyncGenerator[Kernel]:
    async with Kernel() as kernel:
        yield kernel


@pytest.fixture
async def second(anyio_backend: object, kernel: Kernel) -> AsyncGenerator[Ref[Any]]:
    async def work() -> object:
        await asyncio.sleep(0)
        return me()

    async with Kernel() as other:
        yield await ready_doer(other, work)


@pytest.mark.anyio
async def test_a_system_made_in_a_fixture_serves_the_test(kernel: Kernel, second: Ref[Any]) -> None:
    async def work() -> object:
        return await second.ask(Do())

    ref = await ready_doer(kernel, work)
    assert await ref.ask(Do()) is not me()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ref.ask, Do())
    with anyio.move_on_after(0) as scope:
        await ref.ask(Do())
    assert scope.cancelled_caught or not scope.cancel_called
    assert me().cancelling() == 0
    assert await alive(kernel)


@pytest.mark.anyio
async def test_a_system_of_its_own_beside_that_of_a_fixture(kernel: Kernel) -> None:
    async with Kernel() as own:
        assert await alive(own)
        assert await alive(kernel)
    assert await alive(kernel)


@pytest.mark.anyio
async def test_asks_are_stepped_at_once_under_the_plugin_as_well(kernel: Kernel) -> None:
    ref = await ready_doer(kernel, turns)
    await turns()
    most = 0
    for _ in range(10):  # tries: a turn is over after a millisecond, which a busy machine may take for each ask
        at_once = 0
        for _ in range(50):
            turned: list[int] = []
            asyncio.get_running_loop().call_soon(turned.append, 1)
            await ref.ask(Ping())
            at_once += not turned
        most = max(most, at_once)
        if most >= 25:
            break
    assert most >= 25
