"""An actor that is a state machine, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, ClassVar

import pytest

from understudy import Actor, Message, Next, StateMachineActor, System, Timeout
from understudy.actors.actor import Actor as Base
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, ProtocolError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Tick
from understudy.actors.refs import Ref
from understudy.actors.states import State, StateMachine
from understudy.actors.testing.simloop import SimClock, run


class Code(Message[bool]):
    digits: str


class Push(Message[str]):
    who: str = ""


class Look(Message[str]): ...


class S(Enum):
    LOCKED = 1
    OPEN = 2


Event = Code | Push | Timeout


class Door(StateMachineActor[Code | Push | Look, S]):
    initial = S.LOCKED

    def __init__(self) -> None:
        self.went: list[str] = []

    def handle(self, state: S, event: Code | Push | Look | Timeout) -> Next[S]:
        match state, event:
            case S.LOCKED, Code("1234"):
                return self.goto(S.OPEN).after(10).reply(True)
            case S.LOCKED, Push():
                return self.keep().postpone()
            case S.OPEN, Push(who):
                self.went.append(who)
                return self.keep().reply(f"{who} went through")
            case S.OPEN, Timeout("state"):
                return self.goto(S.LOCKED)
            case _, Code("boom"):
                raise RuntimeError("the lock broke")
            case _, Code("off"):
                return self.keep().reply(True).stop(Exit("normal", "switched off"))
            case _:
                return self.keep().reply(False)

    async def look(self, m: Look) -> str:
        await asyncio.sleep(0)
        return self.state.name


def with_door(
    main: Callable[[Kernel, Ref[Any], Cell], Awaitable[None]], factory: Callable[[], Base[Any]] = Door
) -> None:
    async def whole() -> None:
        async with Kernel(clock=SimClock()) as kernel:
            cell = kernel.spawn(factory, name="door")
            assert await kernel.wait_started(cell) is None
            await main(kernel, kernel.ref_of(cell), cell)

    run(whole)


@pytest.mark.promise(67)
def test_the_asker_of_a_postponed_event_waits_until_it_is_handled_at_last() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        asks = [asyncio.create_task(door.ask(Push(who), timeout=60)) for who in ("ana", "li", "eva")]
        await asyncio.sleep(1)
        assert not any(ask.done() for ask in asks)
        assert await door.ask(Look()) == "LOCKED"
        assert await door.ask(Code("0000")) is False
        assert await door.ask(Code("1234")) is True
        assert [await ask for ask in asks] == ["ana went through", "li went through", "eva went through"]
        await asyncio.sleep(0)
        assert (cell.concurrency, cell.running) == (1, 0)

    with_door(main)


@pytest.mark.promise(67)
def test_what_was_told_and_postponed_is_handled_too_in_its_order() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        for who in "abc":
            assert door.tell(Push(who))
        door.tell(Code("1234"))
        door.tell(Push("d"))
        await asyncio.sleep(0.1)
        assert cell.life is not None
        assert isinstance(cell.life.actor, Door)
        assert cell.life.actor.went == ["a", "b", "c", "d"]

    with_door(main)


@pytest.mark.promise(64)
def test_a_state_timeout_comes_to_the_second_and_one_that_was_left_does_not_come() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        await door.ask(Code("1234"))
        await asyncio.sleep(9.9)
        assert await door.ask(Look()) == "OPEN"
        await asyncio.sleep(0.2)
        assert await door.ask(Look()) == "LOCKED"

    with_door(main)


@pytest.mark.promise(65)
def test_a_tick_that_somebody_else_sends_is_not_a_timeout() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        await door.ask(Code("1234"))
        for ref in range(5):
            door.tell(Tick("own", ref))
            door.tell(Tick("state", ref + 2))
        assert await door.ask(Look()) == "OPEN"

    with_door(main)


@pytest.mark.promise(67)
def test_who_waits_with_a_postponed_event_is_told_when_the_actor_ends_at_once() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        waiting = asyncio.create_task(door.ask(Push("ana"), timeout=60))
        await asyncio.sleep(1)
        await kernel.stop(cell)
        assert asyncio.get_running_loop().time() == pytest.approx(1)
        with pytest.raises(ActorStopped):
            await waiting

    with_door(main)


@pytest.mark.promise(67)
def test_a_crash_tells_who_waits_and_the_next_incarnation_begins_anew() -> None:
    async def main() -> None:
        async with System() as system:
            door = system.spawn(Door, name="door")
            waiting = asyncio.create_task(door.ask(Push("ana"), timeout=60))
            await asyncio.sleep(1)
            await door.ask(Code("0000"))
            with pytest.raises(ActorStopped, match="the lock broke"):
                await door.ask(Code("boom"))
            with pytest.raises(ActorStopped):
                await waiting
            assert await door.ask(Look()) == "LOCKED"
            await door.ask(Code("1234"))
            assert await door.ask(Push("li")) == "li went through"

    run(main)


@pytest.mark.promise(67)
def test_an_asker_that_is_gone_leaves_its_postponed_event_and_one_that_cancels_takes_it_back() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        with pytest.raises(AskTimeout):
            await door.ask(Push("ana"), timeout=1)
        taken_back = asyncio.create_task(door.ask(Push("li"), timeout=60, cancel=True))
        await asyncio.sleep(1)
        taken_back.cancel()
        await asyncio.sleep(1)
        assert cell.concurrency == 2
        await door.ask(Code("1234"))
        await asyncio.sleep(1)
        assert cell.life is not None
        assert isinstance(cell.life.actor, Door)
        assert cell.life.actor.went == ["ana"]
        assert (cell.concurrency, cell.running) == (1, 0)

    with_door(main)


@pytest.mark.promise(66)
def test_a_stop_answers_first_and_tells_who_still_waits() -> None:
    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        waiting = asyncio.create_task(door.ask(Push("ana"), timeout=60))
        await asyncio.sleep(1)
        assert await door.ask(Code("off")) is True
        with pytest.raises(ActorStopped, match="switched off"):
            await waiting
        assert cell.exit == Exit("normal", "switched off")

    with_door(main)


@pytest.mark.promise(67)
def test_more_postponed_events_than_the_limit_fail_the_incarnation() -> None:
    class Narrow(Door):
        postponed_limit: ClassVar[int] = 3

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        asks = [asyncio.create_task(door.ask(Push(str(n)), timeout=60)) for n in range(4)]
        told = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(each, ActorStopped) for each in told)
        assert "more than 3 events are postponed" in str(told[3])

    with_door(main, Narrow)


@pytest.mark.promise(66)
def test_an_answer_that_is_none_fails_the_incarnation_and_is_named() -> None:
    class Silent(Door):
        def handle(self, state: S, event: Any) -> Any:
            return None

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        with pytest.raises(
            ActorStopped, match=r"state <S.LOCKED: 1>, event Push\(who='x'\): the handler returned None"
        ):
            await door.ask(Push("x"))

    with_door(main, Silent)


@pytest.mark.promise(61)
def test_entering_may_set_timeouts_before_the_first_event() -> None:
    class Blinking(StateMachineActor[Look | Push, S]):
        initial = S.LOCKED

        def __init__(self) -> None:
            self.seen: list[Any] = []

        async def on_start(self) -> None:
            self.seen.append("start")
            await super().on_start()

        def enter(self, state: S, previous: S) -> Next[S]:
            self.seen.append((state.name, previous.name))
            return self.keep().after(1)

        def handle(self, state: S, event: Any) -> Next[S]:
            other = S.OPEN if state is S.LOCKED else S.LOCKED
            return self.goto(other) if event == Timeout("state") else self.keep()

        def look(self, m: Look) -> str:
            return str(self.seen)

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        await asyncio.sleep(2.5)
        assert await door.ask(Look()) == str(["start", ("LOCKED", "LOCKED"), ("OPEN", "LOCKED"), ("LOCKED", "OPEN")])

    with_door(main, Blinking)


@pytest.mark.promise(64)
def test_absolute_event_and_named_timeouts_in_an_actor() -> None:
    class Busy(StateMachineActor[Push | Look, S]):
        initial = S.LOCKED

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def handle(self, state: S, event: Any) -> Next[S]:
            now = asyncio.get_running_loop().time()
            if isinstance(event, Timeout):
                self.seen.append((round(now, 3), event.name, event.payload))
                return self.keep()
            return self.keep().after(2, "event", "quiet").at(now + 3, "own", 1).at(now - 5, "past").after(0, "zero")

        def look(self, m: Look) -> str:
            return str(self.seen)

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        await door.ask(Push())
        await asyncio.sleep(1)
        await door.ask(Push())
        await asyncio.sleep(5)
        assert cell.life is not None
        assert isinstance(cell.life.actor, Busy)
        # The timeouts that fire at once are events, too, and cancel the event timeout.
        assert cell.life.actor.seen == [
            (0.0, "zero", None), (0.0, "past", None), (1.0, "zero", None), (1.0, "past", None), (4.0, "own", 1),
        ]  # fmt: skip

    with_door(main, Busy)


@pytest.mark.promise(62)
def test_events_inserted_by_an_actor_go_first_and_answer_nobody() -> None:
    class Two(StateMachineActor[Push, S]):
        initial = S.LOCKED

        def __init__(self) -> None:
            self.seen: list[Any] = []

        def handle(self, state: S, event: Any) -> Next[S]:
            self.seen.append(event if isinstance(event, str) else event.who)
            if event == Push("go"):
                return self.keep().insert("one").insert("two").reply(str(self.seen))
            return self.keep().reply(str(self.seen))

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        assert await door.ask(Push("go")) == "['go']"
        assert await door.ask(Push("x")) == "['go', 'one', 'two', 'x']"

    with_door(main, Two)


def test_a_table_drives_an_actor_as_it_drives_an_agent() -> None:
    class E(Enum):
        PUSH = "push"

    table = StateMachine(S.LOCKED, {S.LOCKED: State(on={E.PUSH: S.OPEN}), S.OPEN: State(timeout=(5, S.LOCKED))})

    class Turnstile(StateMachineActor[Push | Look, S]):
        initial = table.initial

        def handle(self, state: S, event: Any) -> Next[S]:
            given = E.PUSH if isinstance(event, Push) else event
            return table.react(state, given) or self.keep().postpone()

        def look(self, m: Look) -> str:
            return self.state.name

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        door.tell(Push())
        door.tell(Push())
        seen = []
        for _ in range(4):
            await asyncio.sleep(2.4)
            seen.append(await door.ask(Look()))
        assert seen == ["OPEN", "OPEN", "OPEN", "OPEN"], "the second push waited, and opened it again"
        await asyncio.sleep(1)
        assert await door.ask(Look()) == "LOCKED"

    with_door(main, Turnstile)


@pytest.mark.promise(68)
def test_handle_and_enter_are_plain_functions_and_the_bracket_is_checked_as_any() -> None:
    with pytest.raises(ProtocolError, match=r"Waits.handle: a plain `def`"):

        class Waits(StateMachineActor[Push, S]):
            async def handle(self, state: S, event: Any) -> Any:  # type: ignore[override]
                return self.keep()

    with pytest.raises(ProtocolError, match="handles Look, which the bracket does not name"):

        class More(StateMachineActor[Push, S]):
            def look(self, m: Look) -> str:
                return ""


def test_the_initial_state_must_be_said() -> None:
    class Nowhere(StateMachineActor[Push, S]):
        pass

    async def main() -> None:
        async with Kernel(clock=SimClock()) as kernel:
            exit = await kernel.wait_started(kernel.spawn(Nowhere, name="door"))
            assert exit is not None
            assert "Nowhere: say `initial = ...`" in (exit.detail or str(exit))

    run(main)


def test_a_subclass_of_a_machine_takes_the_same_messages_and_an_ordinary_actor_is_as_before() -> None:
    class Back(Door):
        pass

    assert set(Back.handlers) == set(Door.handlers) == {Code, Push, Look, Tick}

    class Own(Door):
        def push(self, m: Push) -> str:
            return "not an event here"

    async def main(kernel: Kernel, door: Ref[Any], cell: Cell) -> None:
        assert await door.ask(Push("ana")) == "not an event here"

    with_door(main, Own)

    class Plain(Actor[Push]):
        def push(self, m: Push) -> str:
            return ""

    assert set(Plain.handlers) == {Push}
