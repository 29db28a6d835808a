"""One message object may be sent twice, and passed on: in a trace each sending is a message of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from understudy import Actor, Message, Ref, System
from understudy.actors.errors import AskError
from understudy.actors.testing.faults import Drop, MailboxIsFull
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World


class Job(Message[int]):
    n: int


class Last(Actor[Job]):
    mailbox_limit = 2

    def job(self, m: Job) -> int:
        return m.n


class First(Actor[Job]):
    """Passes on what it was sent: `how` is the method of the ref."""

    def __init__(self, last: Ref[Job], how: str) -> None:
        self.last = last
        self.how = how

    async def job(self, m: Job) -> int:
        if self.how == "ask":
            return await self.last.ask(m) + await self.last.ask(m)
        for _ in range(4):
            if self.how == "tell":
                self.last.tell(m)
            else:
                await self.last.send(m)
        return 0


async def pass_on(how: str, asked: bool) -> None:
    async with System() as system:
        last = system.spawn(Last, name="last")
        first = system.spawn(lambda: First(last, how), name="first")
        job = Job(1)
        for _ in range(2):  # the same object: a client that tries again
            if asked:
                with contextlib.suppress(AskError):
                    await first.ask(job)
            else:
                first.tell(job)
        await asyncio.sleep(1)


def numbers(trace: Trace, kind: str, path: str) -> list[int]:
    return [event.message for event in trace.events if event.kind == kind and event.path == path]


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("how", ["tell", "send", "ask"])
def test_a_message_that_is_sent_again_or_passed_on_is_another_message(how: str, asked: bool, inline: bool) -> None:
    trace = World(inline=inline).run(lambda: pass_on(how, asked))  # holds the invariants, too
    sent = numbers(trace, "sent", "last")
    assert len(sent) == (4 if how == "ask" else 8)
    assert max(Counter(event.message for event in trace.of("sent")).values()) == 1
    assert set(numbers(trace, "begin", "last")) <= set(sent)
    if how != "tell":  # a full mailbox refuses some of these
        assert numbers(trace, "begin", "last") == sent


@pytest.mark.parametrize("fault", [Drop("last", 1), MailboxIsFull("last", 2)])
def test_a_fault_of_a_message_that_is_passed_on_comes_true(fault: Drop | MailboxIsFull) -> None:
    trace = World(faults=(fault,)).run(lambda: pass_on("tell", asked=False))
    assert trace.came_true(fault)


def test_what_is_passed_on_to_one_that_has_stopped_is_a_dead_letter_of_its_own() -> None:
    class Quits(Last):
        async def on_start(self) -> None:
            self.context.stop()

    async def main() -> None:
        async with System() as system:
            last = system.spawn(Quits, name="last")
            first = system.spawn(lambda: First(last, "tell"), name="first")
            await system.watch(last)
            await first.ask(Job(1))

    trace = World().run(main)
    [begun] = numbers(trace, "begin", "first")
    assert begun not in numbers(trace, "letter", "last")
    assert len(numbers(trace, "letter", "last")) == 4
