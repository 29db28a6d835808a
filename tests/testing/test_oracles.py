"""Oracles on traces written by hand: what they say, and what they do not."""

from __future__ import annotations

import asyncio

import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.testing import invariants
from understudy.actors.testing.faults import Crash, Delay, Drop
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.trace import Event, Left, Trace
from understudy.actors.testing.world import World
from understudy.supervisors.specs import ChildSpec, Supervisor
from understudy.supervisors.testing import supervision


class Note(Message[int]):
    n: int


class Clerk(Actor[Note]):
    async def note(self, m: Note) -> int:
        await asyncio.sleep(0.1)
        return m.n


def trace(*events: Event) -> Trace:
    made = Trace()
    for event in events:
        made.add(event)
    return made


def sent(n: int, peer: str = "a", **more: object) -> Event:
    return Event(0, "sent", "b", 1, n, peer, "Note")


def begin(n: int, at: int = 0, number: int = 1) -> Event:
    return Event(at, "begin", "b", number, n, "", "Note")


LIVE = (Event(0, "spawned", "b"), Event(0, "starting", "b", 1, size=1), Event(0, "started", "b", 1))


@pytest.mark.promise(165)
def test_a_violation_names_the_invariant_the_incarnation_the_messages_and_the_time() -> None:
    found = list(invariants.fifo(trace(*LIVE, sent(1), sent(2), begin(2), begin(1, at=500_000_000))))
    assert found == ["invariant #1 'first in, first out': b #1 begins m1 of a after m2 at 0.5 s"]


def test_messages_of_two_senders_may_come_in_any_order() -> None:
    assert not list(invariants.fifo(trace(*LIVE, sent(1, "a"), sent(2, "c"), begin(2), begin(1))))


def test_what_a_planned_fault_delayed_may_be_overtaken() -> None:
    delayed = Event(0, "fault", "b", 1, 1, what="Delay")
    assert not list(invariants.fifo(trace(*LIVE, sent(1), delayed, sent(2), begin(2), begin(1))))


def test_a_message_that_begins_before_the_start_or_in_a_former_incarnation_is_found() -> None:
    early = trace(*LIVE[:2], begin(1))
    assert "while it is starting" in next(iter(invariants.one_live_incarnation(early)))
    former = trace(
        *LIVE, Event(0, "ended", "b", 1), Event(0, "starting", "b", 2), Event(0, "started", "b", 2), begin(1)
    )
    assert "and #2 is live" in next(iter(invariants.one_live_incarnation(former)))


def test_a_message_that_vanishes_is_found_and_one_that_waits_is_not() -> None:
    lost = trace(*LIVE, sent(1))
    assert "m1 Note, sent at 0 s by a, vanished" in next(iter(invariants.conservation(lost)))
    lost.queued[1] = Left("b", "running", 0)
    assert not list(invariants.conservation(lost))


def test_a_message_that_waits_for_nothing_is_found_when_the_tree_has_settled() -> None:
    stuck = trace(*LIVE, sent(1))
    stuck.settled = {1: Left("b", "running", 0)}
    assert "waits, and nothing runs there" in next(iter(invariants.liveness(stuck)))
    stuck.settled = {1: Left("b", "suspended", 0)}
    assert not list(invariants.liveness(stuck))


def test_an_effect_takes_hold_once_and_as_often_as_without_faults() -> None:
    pay = Event(0, "noted", "b", what="effect", detail="pay-7")
    assert "took hold" in next(iter(invariants.idempotency(trace(pay, pay))))
    assert not list(invariants.effects(trace(pay))(trace(pay)))
    assert "never took hold" in next(iter(invariants.effects(trace(pay))(trace())))
    assert "does not without faults" in next(iter(invariants.effects(trace())(trace(pay))))


def test_a_tree_that_never_rests_is_found() -> None:
    busy = [Event(second * 1_000_000_000, "begin", "b", 1, 1) for second in range(10)]
    restless = trace(Event(0, "settling", ""), *busy, Event(10_000_000_000, "settled", ""))
    assert "4 events after 5 s" in next(iter(invariants.quiescence(0.0)(restless)))
    assert not list(invariants.at_rest(restless))


def test_two_runs_that_differ_are_told_apart_at_the_first_event() -> None:
    check = invariants.determinism(trace(*LIVE, sent(1)))
    assert not list(check(trace(*LIVE, sent(1))))
    assert "event 3 was" in next(iter(check(trace(*LIVE, sent(2)))))
    assert "there were 4 events, and are 3" in next(iter(check(trace(*LIVE))))


def test_another_result_than_on_the_stock_loop_is_found() -> None:
    run = trace()
    run.result = 2
    assert not list(invariants.parity(2)(run))
    assert "returned 2 here, and 3" in next(iter(invariants.parity(3)(run)))


@pytest.mark.promise(165)
def test_every_number_has_a_sentence_and_an_oracle_or_says_what_it_needs() -> None:
    assert sorted(invariants.SENTENCES) == [*range(1, 25), 43, 44]
    for number in invariants.SENTENCES:
        if number in (11, 12, 13, 15, 16, 17):
            with pytest.raises(UsageError, match="supervision"):
                invariants.number(number)
        elif number > 24:
            with pytest.raises(UsageError, match="needs more than a trace"):
                invariants.number(number)
        else:
            assert invariants.number(number).number == number
            assert invariants.number(number).sentence == invariants.SENTENCES[number]
    with pytest.raises(UsageError, match="invariant 99: there are 1, 2"):
        invariants.number(99)


def test_a_world_holds_the_invariants_and_its_failure_names_them() -> None:
    async def main() -> None:
        kernel = await Kernel().__aenter__()
        ref = kernel.ref_of(kernel.spawn(Clerk, name="clerk"))
        assert await ref.ask(Note(1)) == 1
        await kernel.aclose()
        main.left = asyncio.ensure_future(asyncio.sleep(60))  # type: ignore[attr-defined]  # a task that is left

    with pytest.raises(Falsified, match="invariant #21 'nothing is left': 1 tasks are left: task-"):
        World().run(main)


def test_an_ask_that_a_planned_fault_keeps_from_its_actor_ends_with_the_kernel() -> None:
    async def main() -> str:
        async with Kernel() as kernel:
            ref = kernel.ref_of(kernel.spawn(Clerk, name="clerk"))
            asking = asyncio.ensure_future(ref.ask(Note(1)))
            await asyncio.sleep(0)
        done, _ = await asyncio.wait([asking], timeout=10)
        return type(done.pop().exception()).__name__

    for fault in (Drop("clerk", 1), Delay("clerk", 1, 20.0)):
        assert World(faults=(fault,), inline=False).run(main).result == "ActorStopped"


def test_settling_leaves_the_tree_alone_before_the_close() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            kernel.ref_of(kernel.spawn(Clerk, name="clerk")).tell(Note(1))

    run = World().run(main, settle=30.0)
    assert run.seconds == 30.0
    assert run.settled == {}
    assert [event.kind for event in run if event.kind in ("end", "settled", "closing")] == ["end", "settled", "closing"]


@pytest.mark.promise(167)
def test_supervision_reads_a_declared_tree() -> None:
    tree = Supervisor("desk", [ChildSpec(Clerk, count=2), Supervisor("back", [ChildSpec(Clerk, name="second")])])
    assert [oracle.number for oracle in supervision(tree)] == [*range(11, 19)]
    with pytest.raises(UsageError, match="give a Supervisor, or plans by path"):
        supervision(3)  # type: ignore[arg-type]  # as said
    with pytest.raises(SpecError):
        supervision(Supervisor("desk", [ChildSpec(Clerk, name="x"), Supervisor("b", [ChildSpec(Clerk, name="x")])]))


def test_a_supervisor_that_forgets_its_child_is_found() -> None:
    tree = Supervisor("desk", [ChildSpec(Clerk)])
    events = (
        Event(0, "starting", "desk", 1, size=1),
        Event(0, "spawned", "desk/clerk", peer="desk"),
        Event(0, "starting", "desk/clerk", 1, peer="desk", size=1),
        Event(0, "started", "desk/clerk", 1),
        Event(0, "started", "desk", 1),
        Event(0, "ending", "desk/clerk", 1, what="error"),
        Event(0, "ended", "desk/clerk", 1, what="error"),
        Event(0, "notice", "desk", 1, 1, "desk/clerk", "ChildDown", size=1),
        Event(0, "begin", "desk", 1, 1, what="ChildDown", detail="control"),
    )
    run = trace(*events)
    run.ended_at = 60_000_000_000
    found = [sentence for oracle in supervision(tree) for sentence in oracle(run)]
    assert found == [
        "invariant #17 'restart type': desk/clerk, permanent, failed at 0 s and is not started again",
    ]
    soon = Event(50_000_000, "starting", "desk/clerk", 2, peer="desk", size=1)
    found = [sentence for oracle in supervision(tree) for sentence in oracle(trace(*events, soon))]
    assert [sentence.split("'")[0] for sentence in found] == ["invariant #15 "]


def test_a_crash_of_a_whole_tree_in_a_world_breaks_nothing() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            cell = kernel.spawn(Clerk, name="clerk")
            kernel.ref_of(cell).tell(Note(1))
            await asyncio.sleep(1)

    run = World(faults=(Crash("clerk", at=1),)).run(main)
    assert run.faults == {"Crash": 1}
