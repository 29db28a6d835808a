"""A send to an actor of another node waits for room there, and is not refused for want of it."""

import asyncio
from collections.abc import Callable

import pytest

from understudy import Actor, Message, System

SECRET = b"a secret of at least thirty-two bytes"


class Note(Message[None]):
    number: int


class Heard(Message[tuple[int, ...]]): ...


class Notes(Actor[Note | Heard]):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def note(self, m: Note) -> None:
        self.numbers.append(m.number)

    def heard(self, m: Heard) -> tuple[int, ...]:
        return tuple(self.numbers)


def uvloop() -> asyncio.AbstractEventLoop:
    made: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return made


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop])
def test_more_messages_than_the_first_credit_are_all_sent_and_handled_in_order(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        async with (
            System(listen="tcp://127.0.0.1:0", name="b", secret=SECRET) as far,
            System(name="a", join={"b": far.listening[0]}, secret=SECRET) as near,
        ):
            far.spawn(Notes, name="notes")
            await near.joined("b")
            ref = near.ref("b/notes")
            for number in range(5_000):
                assert await ref.send(Note(number), timeout=60) is True
            assert list(await ref.ask(Heard(), timeout=60)) == list(range(5_000))

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), 120))
