"""Topics: who gets what is published, and that nobody's trouble is another's."""

import asyncio
from typing import ClassVar

import pytest
from probes import Log, Note, Probe, Silent, Work, alone, probe, quiet, reasons

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import SHUTDOWN, Exit
from understudy.actors.topics import TOPICS, Topic


class Blocked(Actor[Note]):
    mailbox_limit: ClassVar[int] = 1

    async def note(self, m: Note) -> None:
        await asyncio.sleep(1_000)


def notes(log: Log) -> Log:
    return [line for line in log if "started" not in line and "on_stop" not in line]


@pytest.mark.promise(117)
def test_every_subscriber_gets_what_is_published_in_order_until_it_unsubscribes() -> None:
    async def main(kernel: Kernel) -> None:
        logs: tuple[Log, Log] = ([], [])
        a, b = (kernel.ref_of(probe(kernel, log, name=name)) for name, log in zip("ab", logs, strict=True))
        topic: Topic[Note] = kernel.topics.find(Note)
        assert topic is kernel.topics.find(Note)
        assert topic is not kernel.topics.find(Note, "other")
        assert topic.publish(Note("nobody")) == 0
        assert topic.subscribe(a)
        assert topic.subscribe(b)
        assert not topic.subscribe(a)
        for n in range(5):
            assert topic.publish(Note(str(n))) == 2
        assert topic.unsubscribe(b)
        assert not topic.unsubscribe(b)
        assert topic.publish(Note("5")) == 1
        await quiet()
        assert [notes(log) for log in logs] == [["0", "1", "2", "3", "4", "5"], ["0", "1", "2", "3", "4"]]

    alone(main)


@pytest.mark.promise(117)
def test_a_full_a_failing_and_a_dead_subscriber_hide_nothing_from_the_others() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        blocked = kernel.spawn(Blocked, name="blocked")
        failing = probe(kernel, [], name="failing", on_exit=lambda cell, number, exit: kernel.restart(cell))
        dying = probe(kernel, [], asyncio.Event().wait, name="dying")
        last = probe(kernel, log, name="last")
        topic: Topic[Note] = kernel.topics.find(Note)
        for cell in (blocked, failing, dying, last):
            topic.subscribe(kernel.ref_of(cell))
        await quiet()
        kernel.ref_of(dying).tell(Work())
        assert topic.publish(Note("fail2")) == 4
        await quiet()
        assert topic.publish(Note("1")) == 4
        stopping = asyncio.create_task(kernel.stop(dying))
        await asyncio.sleep(0)
        assert dying.state == "stopping"
        assert topic.publish(Note("2")) == 2
        kernel.ref_of(failing).tell(Note("fail"))
        await quiet()
        assert topic.publish(Note("3")) == 2
        await quiet()
        assert notes(log) == ["fail2", "1", "2", "3"]
        assert failing.number == 2
        assert sorted(reasons(kernel))[:3] == ["failed", "full", "full"]
        await stopping

    alone(main)


@pytest.mark.promise(117)
def test_a_subscription_lasts_over_restarts_and_ends_with_the_address() -> None:
    async def main(kernel: Kernel) -> None:
        def again(cell: Cell, number: int, exit: Exit) -> None:
            kernel.will_restart(cell)

        log: Log = []
        cell = probe(kernel, log, name="a", on_exit=again)
        topic: Topic[Note] = kernel.topics.find(Note)
        topic.subscribe(kernel.ref_of(cell))
        await quiet()
        for number in (1, 2):
            assert cell.number == number
            kernel.ref_of(cell).tell(Note("fail"))
            await quiet()
            assert topic.publish(Note("in back-off")) == 1
            kernel.restart(cell)
            await quiet()
        assert notes(log) == ["in back-off", "in back-off"]
        kernel.leave(cell, SHUTDOWN)
        await quiet()
        await kernel.stop(cell)
        assert len(topic) == 0
        assert not topic.subscribe(kernel.ref_of(cell))
        assert topic.publish(Note("nobody")) == 0
        assert not cell.watchers

    alone(main)


@pytest.mark.promise(117)
def test_a_publisher_gets_its_own_message_only_if_it_subscribed_and_is_the_sender() -> None:
    async def main(kernel: Kernel) -> None:
        senders: list[tuple[str, str]] = []

        class Publisher(Probe):
            async def do(self, m: Work) -> object:
                return self.context.topic(Note).publish(Note(m.what))

            def note(self, m: Note) -> None:
                senders.append((self.context.path, self.context.sender))

        a, b = (kernel.ref_of(kernel.spawn(lambda: Publisher([]), name=name)) for name in "ab")
        topic: Topic[Note] = kernel.topics.find(Note)
        topic.subscribe(b)
        assert await a.ask(Work("x")) == 1
        topic.subscribe(a)
        assert await a.ask(Work("y")) == 2
        await quiet()
        assert sorted(senders) == [("a", "a"), ("b", "a"), ("b", "a")]

    alone(main)


@pytest.mark.promise(117)
def test_a_topic_has_room_for_so_many_and_takes_one_type() -> None:
    async def main(kernel: Kernel) -> None:
        class Deaf(Actor[Work]):
            def work(self, m: Work) -> object:
                return None

        topic: Topic[Note] = kernel.topics.find(Note, "small", limit=2)
        cells = [kernel.spawn(Silent, name=f"s{n}") for n in range(3)]
        for cell in cells[:2]:
            topic.subscribe(kernel.ref_of(cell))
        with pytest.raises(UsageError, match="topic 'small': no room for s2, it has 2 subscribers"):
            topic.subscribe(kernel.ref_of(cells[2]))
        with pytest.raises(UsageError, match="topic 'small' has a limit of 2, not 3"):
            kernel.topics.find(Note, "small", limit=3)
        with pytest.raises(UsageError, match="topic 'small': publish of Work"):
            topic.publish(Work())  # type: ignore[arg-type]  # the mistake
        with pytest.raises(UsageError, match="topic 'Note': deaf has no handler for Note"):
            kernel.topics.find(Note).subscribe(kernel.ref_of(kernel.spawn(Deaf, name="deaf")))
        for kind in (str, 5, None):
            with pytest.raises(UsageError, match="not a message class"):
                kernel.topics.find(kind)
        with pytest.raises(UsageError, match="limit 0; at least 1"):
            kernel.topics.find(Note, "none", limit=0)
        for n in range(TOPICS):
            kernel.topics.find(Note, f"t{n % (TOPICS - 2)}")
        with pytest.raises(UsageError, match="topic 'one more': no more than 10000 topics in one system"):
            kernel.topics.find(Note, "one more")

    alone(main)
