"""What an operator does to the actors of a running system: look, hold still, look into; in virtual time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

import pytest

import understudy
from understudy import Actor, ChildSpec, CrashReport, Inspection, Message, Supervisor, System
from understudy.actors.errors import AskTimeout, UnknownRun, UsageError
from understudy.actors.testing.simloop import SimClock, run


class Add(Message[int]):
    n: int


class Wait(Message[None]):
    pass


class Counter(Actor[Add | Wait]):
    def __init__(self) -> None:
        self.total = 0

    def add(self, m: Add) -> int:
        if m.n < 0:
            raise ValueError(m.n)
        self.total += m.n
        return self.total

    async def wait(self, m: Wait) -> None:
        await asyncio.sleep(3)


TREE = Supervisor("desk", [ChildSpec(Counter, name="one"), ChildSpec(Counter, name="many", count=2)])


def alone(main: Callable[[System], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with System(TREE, clock=SimClock()) as system:
            await main(system)

    run(whole)


@pytest.mark.promise(75, 76)
def test_actors_are_inspected_by_ref_and_by_path_and_all_at_once() -> None:
    async def main(system: System) -> None:
        counter = system.spawn(Counter, name="counter")
        counter.tell(Wait())
        await asyncio.sleep(1)
        seen = system.inspect(counter)
        assert isinstance(seen, Inspection)
        assert seen == system.inspect("counter")
        assert (seen.state, seen.supervisor, seen.handlers[0].message) == ("running", "spawned", "Wait")
        assert system.inspect("one").supervisor == "desk"
        paths = [each.path for each in system.inspect_tree().actors]
        assert paths == ["desk", "desk/one", "desk/many/1", "desk/many/2", "spawned", "counter"]
        assert system.inspect_tree(limit=2).left_out == 4
        with pytest.raises(UsageError, match="no actor 'nobody'"):
            system.inspect("nobody")

    alone(main)


def test_a_pool_is_inspected_by_its_members() -> None:
    async def main(system: System) -> None:
        with pytest.raises(UsageError, match=r"is a pool; name one member, as 'desk/many/\d'"):
            system.inspect(system.ref("many"))
        assert system.inspect("many/2").path == "desk/many/2"
        assert system.inspect(system.ref("desk")).path == "desk"

    alone(main)


@pytest.mark.promise(77, 80)
def test_an_actor_is_suspended_looked_into_and_resumed() -> None:
    async def main(system: System) -> None:
        counter = system.spawn(Counter, name="counter")
        assert await counter.ask(Add(1)) == 1
        await system.suspend("counter")
        with pytest.raises(AskTimeout):
            await counter.ask(Add(2), timeout=1)
        counter.tell(Add(40))
        assert await system.peek(counter, lambda actor: actor.total) == 1
        assert system.inspect(counter).state == "suspended"
        await system.resume(counter)
        assert await counter.ask(Add(1)) == 42

    alone(main)


def test_a_name_given_to_resume_is_that_of_a_run() -> None:
    async def main(system: System) -> None:
        system.spawn(Counter, name="counter")
        with pytest.raises(UnknownRun):
            await system.resume("counter")

    alone(main)


@pytest.mark.promise(79)
def test_a_supervisor_restarts_a_suspended_child_that_was_looked_into_too_hard() -> None:
    async def main(system: System) -> None:
        reports: list[CrashReport] = []
        system.telemetry.crashes.add(reports.append)
        one = system.ref("one")
        kernel = system.kernel
        await system.suspend(one)
        kernel.timer(one.cell(), 1, Add(-1))
        await asyncio.sleep(30)
        assert [(report.path, report.message) for report in reports] == [("desk/one", Add(-1))]
        assert (system.inspect(one).state, system.inspect(one).restarts) == ("running", 1)
        assert await one.ask(Add(5)) == 5

    alone(main)


def test_nothing_of_it_works_before_the_system_runs() -> None:
    async def main() -> None:
        system = System(TREE, clock=SimClock())
        for call in (lambda: system.inspect("one"), system.inspect_tree):
            with pytest.raises(UsageError, match="not running"):
                call()
        with pytest.raises(UsageError, match="not running"):
            await system.suspend("one")
        with pytest.raises(UsageError, match="not running"):
            _ = await system.peek("one", str)

    run(main)


def test_every_public_name_can_be_had_and_no_other() -> None:
    names = [name for name in understudy.__all__ if name not in {"__version__", "Result"}]
    assert all(inspect.getdoc(getattr(understudy, name)) for name in names)
    with pytest.raises(AttributeError, match="Nothing"):
        understudy.Nothing  # noqa: B018
