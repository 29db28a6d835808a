"""Declaring an actor: handlers equal the bracket, one each, with the declared reply; and its side of the kernel."""

import asyncio

import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import ProtocolError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Message, on
from understudy.actors.testing.simloop import run


class Add(Message[int]):
    n: int


class Total(Message[int]):
    pass


class Counter(Actor[Add | Total]):
    def __init__(self, start: int = 0) -> None:
        self.total = start

    def add(self, m: Add) -> int:
        self.total += m.n
        return self.total

    async def read(self, m: Total) -> int:
        await asyncio.sleep(0)
        return self.total

    def helper(self, n: int) -> int:
        return n

    def _private(self, m: Add) -> int:
        return 0


def test_handlers_are_the_public_methods_that_take_one_message() -> None:
    assert {kind: handler.__name__ for kind, handler in Counter.handlers.items()} == {Add: "add", Total: "read"}


def test_a_subclass_may_replace_a_handler_and_add_one() -> None:
    class Doubling(Counter):
        def add(self, m: Add) -> int:
            return super().add(Add(2 * m.n))

        def ended(self, m: Down) -> None:
            pass

    assert set(Doubling.handlers) == {Add, Total, Down}
    assert Doubling.handlers[Add] is Doubling.add


def test_a_mark_says_what_an_annotation_cannot() -> None:
    class Marked(Actor[Add]):
        @on(Add)
        def take(self, m):  # type: ignore[no-untyped-def]
            return m.n

    assert Marked.handlers == {Add: Marked.take}


def test_a_missing_handler_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Half: no handler for Total, which the bracket names"):

        class Half(Actor[Add | Total]):
            def add(self, m: Add) -> int:
                return 0


def test_a_surplus_handler_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Surplus: handles Total, which the bracket does not name"):

        class Surplus(Actor[Add]):
            def add(self, m: Add) -> int:
                return 0

            def total(self, m: Total) -> int:
                return 0


def test_two_handlers_for_one_message_are_refused() -> None:
    with pytest.raises(ProtocolError, match="Twice: add and plus both handle Add; keep one"):

        class Twice(Actor[Add]):
            def add(self, m: Add) -> int:
                return 0

            def plus(self, m: Add) -> int:
                return 0


def test_a_wrong_reply_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"Wrong\.add returns str, but Add is answered with int"):

        class Wrong(Actor[Add]):
            def add(self, m: Add) -> str:
                return ""


def test_a_mark_on_a_function_with_another_shape_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"Shape\.add: a handler takes exactly one message"):

        class Shape(Actor[Add]):
            @on(Add)
            def add(self, m: Add, more: int) -> int:
                return 0


def test_context_before_spawn_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"Counter\.context: the actor was not spawned"):
        _ = Counter().context


def test_an_actor_finds_itself_and_starts_children_that_stop_with_it() -> None:
    async def main() -> None:
        class Parent(Actor[Add]):
            async def on_start(self) -> None:
                self.child = self.context.spawn(lambda: Counter(self.context.incarnation), name="child")
                self.context.watch(self.child)
                self.seen: list[Down] = []

            async def add(self, m: Add) -> int:
                assert self.context.path == "parent"
                assert self.context.ref.path == "parent"
                assert self.context.deadline is not None
                if m.n < 0:
                    self.context.stop(Exit("normal", "asked to"))
                return await self.child.ask(Add(m.n))

            def down(self, m: Down) -> None:
                self.seen.append(m)

        actors: list[Parent] = []

        def make() -> Parent:
            actors.append(Parent())
            return actors[-1]

        async with Kernel() as kernel:
            ref = kernel.ref_of(kernel.spawn(make, name="parent"))
            assert await ref.ask(Add(41)) == 42
            child = kernel.registry.find("parent/child")
            assert child is not None
            assert kernel.registry.find("child") is child
            await kernel.stop(child)
            await asyncio.sleep(0.1)
            assert [(m.path, m.kind) for m in actors[0].seen] == [("parent/child", "shutdown")]
        async with Kernel() as kernel:
            ref = kernel.ref_of(kernel.spawn(make, name="parent"))
            assert await ref.ask(Add(-1)) == 0
            await asyncio.sleep(0.1)
            assert kernel.registry.names() == ()

    run(main)
