"""What the checks of `link_suite` are written with: nodes that meet over a kind of link, and an actor that is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

from understudy.actors.actor import Actor, Leave
from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.remote.nodes import NodeChange, Nodes, Rules
from understudy.actors.remote.refs import FarRef
from understudy.actors.watching import Watch
from understudy.transports.links.allow import AllowList
from understudy.transports.testing.journal_kit import expect as expect

SECONDS: Final = 30.0
"""What a check waits for comes at once; after so long it does not come."""
E = TypeVar("E", bound=BaseException)
Down = Callable[[], Awaitable[None]]


@runtime_checkable
class Wires(Protocol):
    """One kind of link, made anew for each check."""

    async def up(self, nodes: Nodes, to: tuple[str, ...]) -> Down:
        """Let a node listen for others and join those named, which are up; and again whenever a link is lost.

        What is returned says goodbye to all, and listens and joins no more. It is called once.
        """
        ...

    async def cut(self, one: str, other: str) -> None:
        """End the link between two nodes without a goodbye, as a network does. They join again."""
        ...


# -- messages, and who takes them ------------------------------------------------------------------------------


class Note(Message[None]):
    """Number `n` of those that `of` sends."""

    of: str
    n: int


class Numbered(Message[int]):
    """As `Note`, answered with its number."""

    of: str
    n: int


class Seen(Message[tuple[tuple[str, int], ...]]):
    """The notes there were, in their order."""


class Echo(Message[bytes]):
    """Answered with its body."""

    body: bytes


class Big(Message[bytes]):
    """Answered with so many bytes."""

    size: int


class Left(Message[float | None]):
    """Answered with the seconds that are left of its deadline."""


class Held(Message[int]):
    """Answered when the gate is open, with how many were before it."""


class Boom(Message[None]):
    """The handler raises."""


class End(Message[None]):
    """The actor ends, normally."""


class Unwritable(Message[int]):
    """Answered with what cannot be written."""


class Wrong(Message[int]):
    """Answered with a text."""


class Call(Message[str]):
    """Ask the first of `paths` to call the others; answered with "" or the error."""

    paths: tuple[str, ...]
    seconds: float = SECONDS


class Thing(Message[None]):
    """Anything can be in it, and not anything can be sent."""

    what: object


class Other(Message[int]):
    """Nobody takes it."""


Work = Note | Numbered | Seen | Echo | Big | Left | Held | Boom | End | Unwritable | Wrong | Call | Thing


class Gate:
    """What `Held` waits for. `entered` and `cancelled` count handlers."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self.entered = self.cancelled = self.left = 0

    def open(self) -> None:
        """Let all through, from now on."""
        self._open.set()

    async def through(self) -> int:
        """Wait until it is open."""
        before, self.entered = self.entered, self.entered + 1
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.left += 1
        return before


class Clerk(Actor[Work]):
    """Takes all of `Work`. `gate`: see `Gate`; `find` gives the ref of a path, for `Call`."""

    def __init__(self, gate: Gate | None = None, find: Callable[[str], Ref[Any]] | None = None) -> None:
        self.gate = gate or Gate()
        self.find = find
        self.notes: list[tuple[str, int]] = []

    def note(self, m: Note) -> None:
        """See `Note`."""
        self.notes.append((m.of, m.n))

    def numbered(self, m: Numbered) -> int:
        """See `Numbered`."""
        self.notes.append((m.of, m.n))
        return m.n

    def seen(self, m: Seen) -> tuple[tuple[str, int], ...]:
        """See `Seen`."""
        return tuple(self.notes)

    def echo(self, m: Echo) -> bytes:
        """See `Echo`."""
        return m.body

    def big(self, m: Big) -> bytes:
        """See `Big`."""
        return bytes(m.size)

    def left(self, m: Left) -> float | None:
        """See `Left`."""
        until = self.context.deadline
        return None if until is None else until - asyncio.get_running_loop().time()

    async def held(self, m: Held) -> int:
        """See `Held`."""
        return await self.gate.through()

    def boom(self, m: Boom) -> None:
        """See `Boom`."""
        raise ValueError("told to")

    def end(self, m: End) -> None:
        """See `End`."""
        raise Leave(Exit("normal", "had enough"))

    def unwritable(self, m: Unwritable) -> int:
        """See `Unwritable`."""
        return object()  # type: ignore[return-value]  # what a handler may do all the same

    def wrong(self, m: Wrong) -> int:
        """See `Wrong`."""
        return "seven"  # type: ignore[return-value]  # as above

    async def call(self, m: Call) -> str:
        """See `Call`."""
        if not m.paths:
            return ""
        assert self.find is not None  # who calls was made with it
        try:
            return await self.find(m.paths[0]).ask(Call(m.paths[1:], m.seconds), timeout=m.seconds)
        except UnderstudyError as error:
            return f"{type(error).__name__}: {error}"

    def thing(self, m: Thing) -> None:
        """See `Thing`."""


class Small(Clerk):
    """A clerk with a mailbox of ten messages."""

    mailbox_limit = 10


# -- nodes that meet -------------------------------------------------------------------------------------------


class Member:
    """One node: its kernel, its nodes, and what they said of others."""

    def __init__(self, kernel: Kernel, nodes: Nodes, down: Down) -> None:
        self.kernel = kernel
        self.nodes = nodes
        self.changes: list[NodeChange] = []
        self._down = down
        self._up = True
        nodes.listeners.append(self.changes.append)

    def spawn(self, name: str, kind: type[Clerk] = Clerk, gate: Gate | None = None, **options: Any) -> Ref[Work]:
        """Start a clerk."""
        return self.kernel.ref_of(self.kernel.spawn(lambda: kind(gate, self.ref), name=name, **options))

    def ref(self, path: str) -> Ref[Any]:
        """The address of an actor here, or as "node/path" at another node."""
        here = self.kernel.registry.find(path)
        if here is not None:
            return self.kernel.ref_of(here)
        cell = self.nodes.cell(path)
        assert cell is not None, path  # a check knows what there is
        return FarRef(cell)

    def watch(self, *refs: Ref[Any]) -> Watch:
        """See `System.watch`."""
        return Watch(self.kernel, refs, SECONDS)

    def letters(self, reason: str) -> list[object]:
        """The messages that became dead letters here, for a reason."""
        return [letter.message for letter in self.kernel.telemetry.dead_letters() if letter.reason == reason]

    async def met(self, *names: str) -> None:
        """Wait until these nodes are connected."""
        for name in names:
            await self.nodes.wait(name, up=True, seconds=SECONDS)

    async def leave(self, *, at_once: bool = False) -> None:
        """Stop as a process does that is told to; `at_once`: handlers are cancelled."""
        if self._up:
            self._up = False
            await self._down()
            for cell in list(self.kernel.registry.top.values()) if at_once else ():
                await self.kernel.stop(cell, deadline=0.0)
            await self.kernel.aclose()


class Brings(Protocol):
    """What brings a node up; see `Wires`."""

    async def up(self, nodes: Nodes, to: tuple[str, ...]) -> Down:
        """See `Wires`."""
        ...


class Meeting:
    """Nodes of one check."""

    def __init__(self, wires: Brings) -> None:
        self.wires = wires
        self.stack = AsyncExitStack()
        self._epoch = 0

    async def node(self, name: str, *to: str, rules: Rules | None = None, epoch: int = 0, wait: bool = True) -> Member:
        """Bring up a node that joins others, and `wait` until it has. Each later one has a larger epoch."""
        self._epoch = max(self._epoch + 1, epoch)
        kernel = await self.stack.enter_async_context(Kernel())

        def find(path: str) -> Ref[Any] | None:
            cell = kernel.registry.find(path)
            return None if cell is None else kernel.ref_of(cell)

        nodes = kernel.nodes = Nodes(kernel, name, self._epoch, find, rules or AllowList())
        member = Member(kernel, nodes, await self.wires.up(nodes, to))
        self.stack.push_async_callback(member.leave)
        if wait:
            await member.met(*to)
        return member

    async def cut(self, one: Member, other: Member) -> None:
        """End the link of two, and wait until both know."""
        before = [_downs(one, other), _downs(other, one)]
        assert isinstance(self.wires, Wires)  # of a check
        await self.wires.cut(one.nodes.name, other.nodes.name)
        await until(lambda: _downs(one, other) > before[0] and _downs(other, one) > before[1], "both know of the cut")

    async def cut_and_heal(self, one: Member, other: Member) -> None:
        """End the link of two, and wait until they have another one."""
        await self.cut(one, other)
        await one.met(other.nodes.name)
        await other.met(one.nodes.name)


def _downs(one: Member, other: Member) -> int:
    return sum(not change.up and change.node == other.nodes.name for change in one.changes)


@asynccontextmanager
async def meeting(wires: Wires) -> AsyncGenerator[Meeting, None]:
    """Nodes that all leave at the end, the last one first."""
    met = Meeting(wires)
    async with met.stack, asyncio.timeout(SECONDS * 2):
        yield met


@asynccontextmanager
async def two(wires: Wires) -> AsyncGenerator[tuple[Meeting, Member, Member], None]:
    """A node "a", and a node "b" that joined it."""
    async with meeting(wires) as met:
        a = await met.node("a")
        b = await met.node("b", "a")
        await a.met("b")
        yield met, a, b


# -- what is expected ------------------------------------------------------------------------------------------


def holds(fact: object, what: str) -> None:
    """Raise `AssertionError` unless it is so."""
    if not fact:
        raise AssertionError(what)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it is so; `AssertionError` when it never is."""
    try:
        async with asyncio.timeout(SECONDS):
            while not condition():  # noqa: ASYNC110  # nobody tells when
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {SECONDS:g} s") from None


async def raises(kind: type[E], attempt: Awaitable[object], what: str) -> E:
    """The error of `kind` that `attempt` raises; its text is one line."""
    try:
        got = await attempt
    except kind as error:
        expect(len(str(error).splitlines()), 1, f"{what}: lines of the error")
        return error
    raise AssertionError(f"{what}: expected {kind.__name__}, got {got!r:.300}")


def begun(attempt: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task of it. What it raises is looked at where it is awaited, or nowhere."""
    task = asyncio.ensure_future(attempt)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
