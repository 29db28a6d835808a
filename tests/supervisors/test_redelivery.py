"""A message during which an incarnation failed: a dead letter, or given to the next one, by choice."""

import asyncio

import pytest
from supervised import Desk, alone

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped
from understudy.actors.messages import Message
from understudy.supervisors.supervisor import ChildPlan


class Try(Message[int]):
    n: int


class Fails(Actor[Try]):
    """Fails at the first `bad` tries of each message."""

    redeliver = 2

    def __init__(self, tries: dict[int, int], bad: int) -> None:
        self.tries, self.bad = tries, bad

    async def attempt(self, m: Try) -> int:
        self.tries[m.n] = self.tries.get(m.n, 0) + 1
        if m.n and self.tries[m.n] <= self.bad:
            raise LookupError(str(m.n))
        return m.n


class Gives(Fails):
    redeliver = 0


async def started(desk: Desk, kind: type[Fails], bad: int) -> dict[int, int]:
    tries: dict[int, int] = {}
    await desk.start(desk.plan(ChildPlan("a", lambda: kind(tries, bad))))
    return tries


@pytest.mark.promise(151)
@pytest.mark.parametrize("told", [False, True])
def test_a_message_is_given_to_the_next_incarnation_and_its_asker_goes_on_waiting(told: bool) -> None:
    async def main(desk: Desk) -> None:
        tries = await started(desk, Fails, 2)
        ref = desk.kernel.ref_of(desk.cell("desk/a"))
        if told:
            ref.tell(Try(1))
        else:
            asking = asyncio.create_task(ref.ask(Try(1), timeout=100))
            await asyncio.sleep(0)
        behind = [asyncio.create_task(ref.ask(Try(0), timeout=100)) for _ in range(3)]
        assert await asyncio.gather(*behind) == [0, 0, 0]
        assert tries == {1: 3, 0: 3}
        assert list(tries) == [1, 0], "it comes before what waited behind it"
        if not told:
            assert await asking == 1
        assert desk.cell("desk/a").number == 3
        assert desk.kernel.telemetry.dead_letters() == ()

    alone(main)


@pytest.mark.promise(151)
@pytest.mark.parametrize(("kind", "tried"), [(Fails, 3), (Gives, 1)])
def test_in_the_end_it_is_a_dead_letter_and_the_asker_is_told(kind: type[Fails], tried: int) -> None:
    async def main(desk: Desk) -> None:
        tries = await started(desk, kind, 100)
        ref = desk.kernel.ref_of(desk.cell("desk/a"))
        with pytest.raises(ActorStopped, match="LookupError: 1"):
            await ref.ask(Try(1), timeout=1_000)
        assert tries == {1: tried}
        assert [letter.reason for letter in desk.kernel.telemetry.dead_letters()] == ["failed"]
        assert await ref.ask(Try(0), timeout=1_000) == 0

    alone(main)


@pytest.mark.promise(151)
def test_without_a_supervisor_there_is_nobody_to_give_it_to() -> None:
    async def main(desk: Desk) -> None:
        tries: dict[int, int] = {}
        cell = desk.kernel.spawn(lambda: Fails(tries, 1), name="a")
        with pytest.raises(ActorStopped, match="LookupError: 1"):
            await desk.kernel.ref_of(cell).ask(Try(1))
        assert tries == {1: 1}

    alone(main)
