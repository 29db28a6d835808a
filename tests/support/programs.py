"""Random programs of actors: messages that carry what their handlers do, and an actor that does it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anyio
from hypothesis import strategies as st

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Exited, Message
from understudy.actors.refs import Ref

Op = tuple[Any, ...]  # a name, and what it needs
Note = Callable[..., None]


class Act(Message[object]):
    """For an `async def` handler. `n` is its number, `ops` what to do."""

    n: str
    ops: tuple[Any, ...]


class Now(Message[object]):
    """For a `def` handler, which does only what needs no waiting."""

    n: str
    ops: tuple[Any, ...]


class World:
    """The kernel, the actors by number, and what was noted."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cells: list[Cell] = []
        self.notes: list[tuple[Any, ...]] = []
        self.left: list[asyncio.Task[Any]] = []
        self.numbers = self.stashes = 0

    def ref(self, who: int) -> Ref[Any]:
        return self.kernel.ref_of(self.cells[who % len(self.cells)])

    def note(self, *what: Any) -> None:
        self.notes.append(what)

    def number(self) -> str:
        self.numbers += 1
        return str(self.numbers)


def message(world: World, ops: tuple[Op, ...], n: str = "") -> Act | Now:
    """The message that has this done; a `def` handler does what it can. `n` is "3.2" in the third op of "3"."""
    sync = all(op[0] in SYNC for op in ops) and len(ops) % 2 == 0
    return (Now if sync else Act)(n or world.number(), ops)


SYNC = frozenset({"note", "raise", "leave", "tell", "stop", "halt", "stash", "unstash", "link", "watch", "resume"})


class Player(Actor[Any]):
    """Does what it is told; notes when a handler begins, and how it ends."""

    mailbox_limit = 6
    stash_limit = 3

    def __init__(self, world: World, *, starts: float | None = None, stops: bool = False) -> None:
        self.world, self.starts, self.stops = world, starts, stops
        self.busy = 0

    async def on_start(self) -> None:
        if self.starts is not None:
            await asyncio.sleep(self.starts)

    async def on_stop(self, exit: Exit) -> None:
        if self.stops:
            await asyncio.sleep(0)

    def now(self, m: Now) -> object:
        cell = self.context._cell
        self.begin(m.n)
        for index, op in enumerate(m.ops):
            self.world.note("op", m.n, op[0])
            self.at_once(op, cell, f"{m.n}.{index}")
        self.end(m.n)
        return m.n

    async def act(self, m: Act) -> object:
        task, cell = asyncio.current_task(), self.context._cell
        self.begin(m.n)
        try:
            for index, op in enumerate(m.ops):
                self.world.note("op", m.n, op[0])
                if not self.at_once(op, cell, f"{m.n}.{index}"):
                    await self.later(op, f"{m.n}.{index}")
                assert asyncio.current_task() is task, "one task for the life of a handler"
        finally:
            self.end(m.n)
        return m.n

    def down(self, m: Down) -> None:
        self.world.note("down", self.context.path, m.path, m.kind)

    def begin(self, n: str) -> None:
        self.busy += 1
        assert self.busy <= max(1, self.context._cell.concurrency), "too many handlers at once"
        self.world.note("begin", self.context.path, n)

    def end(self, n: str) -> None:
        self.busy -= 1
        self.world.note("end", n)

    def at_once(self, op: Op, cell: Cell, n: str) -> bool:
        """Do what needs no waiting; False for another op."""
        world, kernel = self.world, self.world.kernel
        match op:
            case ("note",):
                pass
            case ("raise",):
                raise ValueError("raised")
            case ("leave",):
                self.context.stop(Exit("error", "left"))
            case ("tell", to, ops):
                told = message(world, ops, n)
                world.note("told", told.n, bool(world.ref(to).tell(told)))
            case ("stop", who):
                kernel.begin_stop(world.cells[who % len(world.cells)])
            case ("halt", who):
                kernel.halt(world.cells[who % len(world.cells)], deadline=0.5)
            case ("stash",):
                self.world.stashes += 1
                if self.world.stashes > 8:
                    return True  # a message that puts itself aside and back again would never end
                with contextlib.suppress(UnderstudyError):
                    self.context.stash()
            case ("unstash",):
                self.context.unstash_all()
            case ("link", who):
                if world.cells[who % len(world.cells)].life is not None:
                    self.context.link(world.ref(who))
            case ("watch", who):
                self.context.watch(world.ref(who))
            case ("resume", who):
                with contextlib.suppress(ActorStopped):
                    kernel.suspensions.resume(world.cells[who % len(world.cells)])
            case _:
                return False
        return True

    async def later(self, op: Op, n: str) -> None:
        world = self.world
        match op:
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("turns", count):
                for _ in range(count):
                    await asyncio.sleep(0)
            case ("scope", seconds):
                with anyio.move_on_after(seconds):
                    await anyio.sleep(seconds * 2)
            case ("ask", to, ops, timeout):
                await self.ask(to, ops, timeout, n)
            case ("ask and cancel", to, ops, seconds):
                asking = asyncio.ensure_future(self.ask(to, ops, 5.0, n, cancel=True))
                world.left.append(asking)
                await asyncio.sleep(seconds)
                asking.cancel()
                await asyncio.wait([asking])
            case ("background", to, ops, timeout):
                world.left.append(asyncio.ensure_future(self.ask(to, ops, timeout, n)))
            case ("suspend", who):
                with contextlib.suppress(UnderstudyError):
                    await world.kernel.suspensions.suspend(world.cells[who % len(world.cells)], 0.7)
            case ("cancel self",):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            case ("swallow",):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3)
            case ("cancel worker", which):
                workers = list(world.kernel.dispatcher._tasks)
                workers[which % len(workers)].cancel()
            case ("open",):
                anyio.CancelScope().__enter__()
            case _:
                raise AssertionError(op)

    async def ask(self, to: int, ops: tuple[Op, ...], timeout: float, n: str, *, cancel: bool = False) -> None:
        asked = message(self.world, ops, n)
        mine = asyncio.current_task()
        try:
            outcome: object = await self.world.ref(to).ask(asked, timeout=timeout, cancel=cancel)
        except (UnderstudyError, AskTimeout) as error:
            outcome = describe(error)
        except asyncio.CancelledError:
            self.world.note("asked", asked.n, "cancelled")
            raise
        assert asyncio.current_task() is mine
        self.world.note("asked", asked.n, outcome)


class Trapper(Player):
    """As `Player`, and outlives those it is linked with."""

    trap_exits = True

    def exited(self, m: Exited) -> None:
        self.world.note("exited", self.context.path, m.path, m.kind)


def describe(error: BaseException) -> str:
    """What of an error is to be the same in every run."""
    return f"{type(error).__name__}: {getattr(error, 'exit', '')}"


def actors(count: int = 4) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)
