"""Plain actors in a system: watched from outside, spread by hash, told by topic, linked, at home."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from understudy import Actor, ChildSpec, Message, Ref, Route, Supervisor, System, Topic, Watch
from understudy.actors.errors import NameTaken, UsageError, WatchTimeout
from understudy.actors.testing.simloop import run


class Order(Message[str]):
    customer: str


class Ended(Message[None]):
    pass


class Desk(Actor[Order]):
    def __init__(self) -> None:
        self.orders: list[str] = []

    def order(self, m: Order) -> str:
        if m.customer == "bad":
            raise LookupError("no such customer")
        self.orders.append(m.customer)
        return f"{self.context.path}: {' '.join(self.orders)}"


@pytest.mark.promise(97)
def test_code_outside_sees_the_end_of_every_actor() -> None:
    async def main() -> None:
        async with System() as system:
            refs = [system.spawn(Desk, name=f"d{n}") for n in range(3)]
            watch = system.watch(*refs, timeout=1)
            assert isinstance(watch, Watch)
            with pytest.raises(WatchTimeout, match="d0, d1, d2: still there after 1 s"):
                await watch
            refs[1].tell(Order("bad"))
            first = await watch
            assert (first.path, first.kind, first.restarting) == ("d1", "error", True)
            rest = asyncio.create_task(anext(aiter(watch)))
            await asyncio.sleep(0)
        assert (await rest).kind == "shutdown"

    run(main)


@pytest.mark.promise(98)
def test_a_name_that_is_taken_is_named_with_who_has_it() -> None:
    async def main() -> None:
        async with System() as system:
            await system.spawn(Desk, name="desk").ask(Order("a"))
            with pytest.raises(NameTaken, match="the name 'desk' is taken by its incarnation 1, which is running"):
                system.spawn(Desk, name="desk")

    run(main)


@pytest.mark.promise(114)
@pytest.mark.parametrize("through", ["supervisor", "pool"])
def test_a_route_by_hash_leads_each_customer_to_one_desk(through: str) -> None:
    async def main() -> None:
        pool = ChildSpec(Desk, name="desk", count=4)
        route = Route(Order, to=pool, spread="consistent_hash", by="customer")
        async with System(Supervisor("shop", [pool], routes=[route])) as system:
            ref: Ref[Order] = system.ref("shop") if through == "supervisor" else system.ref(pool)
            for n in range(1, 4):
                for name in "abcdefgh":
                    answer = await ref.ask(Order(name))
                    assert answer.count(name) - answer.split(":")[0].count(name) == n
            assert len({(await ref.ask(Order(name))).split(":")[0] for name in "abcdefgh"}) > 1

    run(main)


@pytest.mark.promise(115)
def test_a_route_to_all_tells_every_member_and_cannot_be_asked() -> None:
    async def main() -> None:
        pool = ChildSpec(Desk, name="desk", count=3)
        async with System(Supervisor("shop", [pool], routes=[Route(Order, to=pool, spread="broadcast")])) as system:
            assert system.ref("shop").tell(Order("a"))
            with pytest.raises(UsageError, match="shop/desk: ask of a broadcast"):
                await system.ref("shop").ask(Order("a"))
            answers = [await system.ref(f"desk/{n}").ask(Order("b")) for n in (1, 2, 3)]
            assert [answer.split(": ")[1] for answer in answers] == ["a b"] * 3

    run(main)


@pytest.mark.promise(110, 117)
def test_a_topic_is_one_for_system_and_actors_and_a_lifespan_may_subscribe() -> None:
    class Listener(Actor[Order]):
        def __init__(self, heard: list[str]) -> None:
            self.heard = heard

        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None, None]:
            topic = self.context.topic(Order)
            topic.subscribe(self.context.ref)
            yield
            topic.unsubscribe(self.context.ref)

        def order(self, m: Order) -> str:
            self.heard.append(m.customer)
            return ""

    async def main() -> None:
        heard: list[str] = []
        async with System() as system:
            ref = system.spawn(lambda: Listener(heard), name="listener")
            await ref.ask(Order("first"))
            topic: Topic[Order] = system.topic(Order)
            assert topic.publish(Order("second")) == 1
            await asyncio.sleep(0.1)
            assert heard == ["first", "second"]
        assert len(topic) == 0

    run(main)


@pytest.mark.promise(89)
def test_linked_actors_come_back_together_under_their_supervisor() -> None:
    class Pair(Desk):
        def __init__(self, log: list[str]) -> None:
            super().__init__()
            self.log = log

        async def on_start(self) -> None:
            self.log.append(f"{self.context.path} #{self.context.incarnation}")
            if self.context.path == "b":
                self.context.link(systems[0].ref("a"))

    systems: list[System] = []

    async def main() -> None:
        log: list[str] = []
        async with System() as system:
            systems.append(system)
            a, b = (system.spawn(lambda: Pair(log), name=name) for name in "ab")
            await b.ask(Order("x"))
            ended = system.watch(a, b)
            a.tell(Order("bad"))
            assert {(down.path, down.kind, down.restarting) async for down in ended} == {
                ("a", "error", True),
                ("b", "error", True),
            }
            assert "b: x y" not in await b.ask(Order("y"))
            assert log[:2] == ["a #1", "b #1"]
            assert {"a #2", "b #2"} <= set(log)

    run(main)
