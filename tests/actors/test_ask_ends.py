"""How an ask ends when it is not answered in time, or at all: every way there is (gen_server's call, and ours)."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hops import Hop, Put, Slow, Through, alone, letters, quiet, slow

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, CallCycle, Fenced, MailboxFull
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import NORMAL, SHUTDOWN, Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimClock, run


class Ender(Actor[Put]):
    """Ends itself with `exit` while it handles a message, with or without having waited."""

    exit: ClassVar[Exit] = NORMAL
    rest: ClassVar[float] = 0.0

    async def put(self, m: Put) -> int:
        if self.rest:
            await asyncio.sleep(self.rest)
        raise Leave(self.exit)


def parked(cell: Cell, number: int, exit: Exit) -> None:
    """A supervisor that takes its time."""


@pytest.mark.promise(99)
def test_a_reply_that_is_there_when_the_deadline_passes_wins() -> None:
    async def main(kernel: Kernel) -> None:
        class Blocks(Actor[Put]):
            async def put(self, m: Put) -> int:
                await asyncio.sleep(0.5)
                kernel.loop.hold_up(10)  # type: ignore[attr-defined]  # a handler that blocks the loop
                return m.n

        ref = kernel.ref_of(kernel.spawn(Blocks))
        assert await ref.ask(Put(3), timeout=1) == 3
        assert kernel.loop.time() > 10
        assert letters(kernel) == []

    alone(main)


@pytest.mark.promise(99)
def test_after_the_deadline_the_target_completes_its_work_and_the_next_request_is_served() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        with pytest.raises(AskTimeout):
            await ref.ask(Put(1), timeout=0.5)
        assert await ref.ask(Put(2)) == 2
        assert seen == [1, 2]
        assert letters(kernel) == [(1, "late")]

    alone(main)


@pytest.mark.promise(100)
@pytest.mark.parametrize("exit", [NORMAL, SHUTDOWN, Exit("loop", "period 2"), Exit("error", "mine")], ids=str)
@pytest.mark.parametrize("rest", [0.0, 0.5])
def test_a_target_that_ends_without_a_reply_fails_the_ask_with_its_exit_reason(exit: Exit, rest: float) -> None:
    async def main(kernel: Kernel) -> None:
        kind = type("Ends", (Ender,), {"exit": exit, "rest": rest})
        ref = kernel.ref_of(kernel.spawn(kind, name="ends"))
        with pytest.raises(ActorStopped) as caught:
            await ref.ask(Put(1))
        assert caught.value.exit == exit
        assert kernel.loop.time() == pytest.approx(rest, abs=1e-3)

    alone(main)


@pytest.mark.promise(100)
def test_what_still_waited_when_a_target_stopped_for_good_fails_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [])
        asking = [asyncio.create_task(ref.ask(Put(n), timeout=60)) for n in range(5)]  # two of them wait for room
        await quiet()
        await kernel.stop(ref.cell(), NORMAL)
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert outcomes[0] == 0
        assert [outcome.exit for outcome in outcomes[1:] if isinstance(outcome, ActorStopped)] == [NORMAL] * 4
        assert kernel.loop.time() == pytest.approx(1, abs=1e-3)
        with pytest.raises(ActorStopped, match="stopped: normal"):
            await ref.ask(Put(9))

    alone(main)


@pytest.mark.promise(101)
def test_an_actor_that_asks_itself_is_told_so_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        kernel.spawn(Hop, name="me")
        me = kernel.registry.find("me")
        assert me is not None
        with pytest.raises(ActorStopped) as caught:
            await kernel.ref_of(me).ask(Through(("me",)), timeout=60)
        assert isinstance(caught.value.__cause__, CallCycle)
        assert caught.value.__cause__.cycle == ("me", "me")
        assert str(caught.value.__cause__) == "me: call cycle me -> me"
        assert kernel.loop.time() < 0.1

    alone(main)


@pytest.mark.promise(102)
def test_a_request_whose_deadline_passes_in_the_mailbox_is_dropped_there_and_what_follows_is_served() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        first = asyncio.create_task(ref.ask(Put(1)))
        await quiet()
        short, long = (asyncio.create_task(ref.ask(Put(n), timeout=s)) for n, s in ((2, 0.9), (3, 5.0)))
        await asyncio.wait([first, short, long])
        assert isinstance(short.exception(), AskTimeout)
        assert (first.result(), long.result(), seen) == (1, 3, [1, 3])
        assert letters(kernel) == [(Put(2), "expired")]

    alone(main)


@pytest.mark.promise(103)
@pytest.mark.parametrize("cancel", [False, True])
def test_an_asker_that_goes_stops_the_target_only_if_it_asked_for_that(cancel: bool) -> None:
    async def main(kernel: Kernel) -> None:
        ended: list[str] = []

        class Long(Actor[Put]):
            async def put(self, m: Put) -> int:
                try:
                    await asyncio.sleep(m.n)
                except asyncio.CancelledError:
                    ended.append("cancelled")
                    raise
                ended.append("done")
                return m.n

        ref = kernel.ref_of(kernel.spawn(Long, name="long"))
        asking = asyncio.create_task(ref.ask(Put(2), cancel=cancel))
        await quiet()
        asking.cancel()
        await asyncio.wait([asking])
        assert await ref.ask(Put(0)) == 0
        assert ended == (["cancelled", "done"] if cancel else ["done", "done"])
        assert (ref.cell().state, ref.cell().number) == ("running", 1)

    alone(main)


@pytest.mark.promise(104)
def test_an_ask_during_back_off_waits_for_the_next_incarnation_or_fails_at_once_as_it_says() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen, on_exit=parked)
        cell = ref.cell()
        kernel.leave(cell, Exit("error", "x"))
        waits = asyncio.create_task(ref.ask(Put(1), timeout=10))
        with pytest.raises(ActorStopped, match=r"error\(x\)"):
            await ref.ask(Put(2), on_restart="fail")
        with pytest.raises(AskTimeout):
            await ref.ask(Put(3), timeout=2)
        kernel.restart(cell)
        assert await waits == 1
        assert seen == [1]
        assert letters(kernel)[-1] == (Put(3), "expired")

    alone(main)


@pytest.mark.promise(104)
def test_a_request_in_the_mailbox_when_an_incarnation_ends_stays_or_fails_as_it_says() -> None:
    async def main(kernel: Kernel) -> None:
        class Picky(Slow):
            async def put(self, m: Put) -> int:
                if m.n < 0:
                    await asyncio.sleep(1)
                    raise LookupError("bad")
                return await super().put(m)

        cell = kernel.spawn(lambda: Picky([]), on_exit=lambda cell, number, exit: kernel.restart(cell))
        await kernel.wait_started(cell)
        ref = kernel.ref_of(cell)
        culprit = asyncio.create_task(ref.ask(Put(-1)))
        await quiet()
        fails = asyncio.create_task(ref.ask(Put(1), on_restart="fail"))
        stays = asyncio.create_task(ref.ask(Put(2)))
        await asyncio.wait([culprit, fails, stays])
        assert isinstance(culprit.exception(), ActorStopped)
        assert isinstance(fails.exception(), ActorStopped)
        assert stays.result() == 2
        assert cell.number == 2

    alone(main)


@pytest.mark.promise(104)
def test_an_ask_that_waits_out_a_back_off_fails_at_once_when_no_restart_comes() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await slow(kernel, [], on_exit=parked)
        kernel.leave(ref.cell(), Exit("error", "x"))
        waits = asyncio.create_task(ref.ask(Put(1), timeout=60))
        await asyncio.sleep(1)
        await kernel.stop(ref.cell(), Exit("shutdown", "gave up"))
        with pytest.raises(ActorStopped, match=r"shutdown\(gave up\)"):
            await waits
        assert kernel.loop.time() == pytest.approx(1, abs=1e-3)

    alone(main)


@pytest.mark.promise(105)
def test_an_ask_of_a_full_mailbox_waits_for_room_within_its_deadline() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[int] = []
        ref = await slow(kernel, seen)
        for n in range(3):
            ref.tell(Put(n))
            await quiet()
        with pytest.raises((MailboxFull, AskTimeout)) as caught:
            await ref.ask(Put(3), timeout=0.5)
        assert isinstance(caught.value, MailboxFull)
        assert caught.value.limit == 2
        assert await ref.ask(Put(4), timeout=10) == 4
        assert seen == [0, 1, 2, 4]
        assert letters(kernel) == [(Put(3), "full")]

    alone(main)


@pytest.mark.promise(100, 101)
def test_no_failure_of_an_ask_ends_an_asker_that_expects_it() -> None:
    async def main(kernel: Kernel) -> None:
        class Asker(Actor[Put]):
            async def put(self, m: Put) -> int:
                target: Callable[..., Any] = kernel.ref_of(cells[m.n]).ask
                try:
                    return int(await target(Put(0), timeout=0.5))
                except (ActorStopped, AskTimeout, CallCycle):
                    return -1

        kinds: list[Any] = [Ender, lambda: Slow([]), Asker]
        cells = [kernel.spawn(kind, name=f"c{n}") for n, kind in enumerate(kinds)]
        asker = kernel.ref_of(cells[2])
        assert [await asker.ask(Put(n)) for n in (0, 0, 1, 2)] == [-1, -1, -1, -1]
        assert cells[2].number == 1

    alone(main)


class Go(Message[None]):
    pass


class Hasty(Actor[Go]):
    """Begins to ask when the turn is used up, and fails while the ask waits for the next one."""

    def __init__(self, whom: Ref[Any], asking: list[asyncio.Future[Any]]) -> None:
        self.whom, self.asking = whom, asking

    async def go(self, m: Go) -> None:
        self.asking.append(asyncio.ensure_future(self.whom.ask(Go())))
        self.context._cell.kernel.dispatcher.left = 0
        await asyncio.sleep(0)
        raise ValueError("too late")


class Counting(Actor[Go]):
    def __init__(self, begun: list[int]) -> None:
        self.begun = begun

    def go(self, m: Go) -> None:
        self.begun.append(1)


@pytest.mark.promise(5)
def test_an_incarnation_that_ends_while_its_ask_waits_for_a_turn_sends_nothing() -> None:
    async def main() -> None:
        begun: list[int] = []
        asking: list[asyncio.Future[Any]] = []
        async with Kernel(clock=SimClock()) as kernel:
            target = kernel.ref_of(kernel.spawn(lambda: Counting(begun), name="target"))
            await target.ask(Go())
            kernel.ref_of(kernel.spawn(lambda: Hasty(target, asking), name="hasty")).tell(Go())
            await asyncio.sleep(1)
            assert isinstance(asking[0].exception(), Fenced)
            assert begun == [1]

    run(main)
