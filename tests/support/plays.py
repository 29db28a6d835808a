"""Random programs of actors and supervised trees for `World.run`: messages say what their handlers do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import anyio.to_thread
from hypothesis import strategies as st

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.mailbox import Overflow
from understudy.actors.messages import Down, Exited, Message
from understudy.actors.refs import Ref
from understudy.actors.testing.faults import (
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    MailboxIsFull,
    ReplyLost,
    SlowConsumer,
)
from understudy.actors.testing.schedule import Demote, Deviation, Hold
from understudy.actors.testing.world import World
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import ChildPlan, SupervisorPlan
from understudy.supervisors.strategies import RESTART_TYPES, STRATEGIES, RestartType, Strategy
from understudy.supervisors.supervisor import SupervisorActor

Op = tuple[Any, ...]  # a name, and what it needs

DESK = ("desk/a", "desk/b", "desk/c")
PATHS = (*DESK, "x", "y", "pool/d")
EVERY = ("desk", *PATHS)


class Do(Message[object]):
    """For an `async def` handler."""

    ops: tuple[Any, ...]


class Now(Message[object]):
    """For a `def` handler."""

    ops: tuple[Any, ...]


class Ring(Message[None]):
    """Of a timer."""


class Over(Message[None]):
    """Of a watch that asked for it."""


class Odd(Message[None]):
    """Nobody has a handler for it."""


class Member(Actor[Do | Now | Ring | Over | Down]):
    """Does what it is told."""

    mailbox_limit = 3
    stash_limit = 2

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def on_start(self) -> None:
        seconds, fails = self.stage.start_of(self.context.path)
        if seconds:
            await asyncio.sleep(seconds)
        if fails:
            raise LookupError("does not start")

    async def do(self, m: Do) -> object:
        for op in m.ops:
            if not self.at_once(op):
                await self.later(op)
        return len(m.ops)

    def now(self, m: Now) -> object:
        for op in m.ops:
            self.at_once(op)
        return len(m.ops)

    def ring(self, m: Ring) -> None:
        pass

    def over(self, m: Over) -> None:
        pass

    def down(self, m: Down) -> None:
        pass

    def at_once(self, op: Op) -> bool:
        """Do what needs no waiting; False for another op."""
        stage, context = self.stage, self.context
        match op:
            case ("raise",):
                raise ValueError("raised")
            case ("leave", kind):
                raise Leave(Exit(kind, "left"))
            case ("leave soon", kind):
                context.stop(Exit(kind, "left soon"))
            case ("stash",):
                stage.stashes += 1
                if stage.stashes <= 6:  # one that puts itself aside and back again would never end
                    with contextlib.suppress(UnderstudyError):
                        context.stash()
            case ("unstash",):
                context.unstash_all()
            case ("timer", seconds):
                context.after(seconds, Ring())
            case ("watch", who, kind):
                with contextlib.suppress(UnderstudyError):
                    context.watch(stage.ref(who), message=Over() if kind else None)
            case ("unwatch", who):
                context.unwatch(stage.ref(who))
            case ("link", who):
                with contextlib.suppress(UnderstudyError):
                    context.link(stage.ref(who))
            case ("spawn", name, kind):
                with contextlib.suppress(UnderstudyError):
                    context.spawn(lambda: KINDS[kind % len(KINDS)](stage), name=name)
            case _:
                return stage.at_once(op)
        return True

    async def later(self, op: Op) -> None:
        match op:
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("clean up badly", seconds):
                try:
                    await asyncio.sleep(seconds)
                except asyncio.CancelledError:
                    raise ValueError("in the cleanup") from None
            case ("scope", seconds):
                with anyio.move_on_after(seconds):
                    await anyio.sleep(seconds * 2)
            case ("thread",):
                await anyio.to_thread.run_sync(int)
            case ("swallow", seconds):
                for _ in range(2):
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.sleep(seconds)
            case ("cancel self",):
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            case _:
                await self.stage.later(op)


class Again(Member):
    redeliver = 1

    async def on_stop(self, exit: Exit) -> None:
        await asyncio.sleep(0.25)


class Newest(Member):
    mailbox_limit = 2
    overflow: ClassVar[Overflow] = "drop_newest"


class Oldest(Member):
    mailbox_limit = 2
    overflow: ClassVar[Overflow] = "drop_oldest"


class Homely(Member):
    stops_together = False

    @contextlib.asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        async with anyio.create_task_group():
            yield

    async def on_stop(self, exit: Exit) -> None:
        if exit.kind == "error":
            raise ValueError("cannot stop")


class Trapper(Member):
    trap_exits = True

    def exited(self, m: Exited) -> None:
        pass


KINDS: tuple[type[Member], ...] = (Member, Again, Newest, Oldest, Homely, Trapper)


@dataclass(frozen=True)
class Play:
    """A tree and what is done to it from outside.

    `kinds`, `restarts`: of desk/a, b, c and pool/d. `starts`: (path, seconds, fails) of the next starts, in order.
    `linger`: seconds between the last step and the end. `cut`: the close is cancelled half-way.
    """

    steps: tuple[Op, ...] = ()
    strategy: Strategy = "one_for_one"
    kinds: tuple[int, int, int, int] = (0, 0, 0, 0)
    restarts: tuple[RestartType, RestartType, RestartType, RestartType] = ("permanent",) * 4
    intensity: int = 3
    own: int | None = None
    first: float = 1.0
    jitter: float = 0.0
    starts: tuple[tuple[str, float, bool], ...] = ()
    linger: float = 0.0
    concurrency: int = 1
    cut: bool = False

    def backoff(self) -> Backoff:
        return Backoff(first=self.first, factor=2.0, cap=max(4.0, self.first), jitter=self.jitter, healthy=20.0)

    def supervisor(self, stage: Stage | None = None) -> SupervisorPlan:
        """The plan of the desk; without a stage as what the oracles are given."""
        own = None if self.own is None else Intensity(self.own, 60.0)

        def factory(n: int) -> Callable[[], Actor[Any]]:
            def make() -> Actor[Any]:
                assert stage is not None
                return KINDS[self.kinds[n] % len(KINDS)](stage)

            return make

        children = tuple(
            ChildPlan(name, factory(n), self.restarts[n], 2.0, self.concurrency if n == 1 else 1, intensity=own)
            for n, name in enumerate("abc")
        )
        dice = stage.dice if stage is not None else _NoDice()
        return SupervisorPlan(children, Intensity(self.intensity, 30.0), self.backoff(), dice, strategy=self.strategy)

    def pool(self, stage: Stage | None = None) -> DynamicPlan:
        """The plan of the pool, as `supervisor`."""
        template = ChildPlan("", Actor, self.restarts[3], 2.0)
        dice = stage.dice if stage is not None else _NoDice()
        return DynamicPlan(template, Intensity(self.intensity, 30.0), self.backoff(), dice)

    async def main(self) -> None:
        """The whole program."""
        left: list[asyncio.Task[Any]] = []
        async with Kernel() as kernel:
            stage = Stage(kernel, self, left)
            await stage.open()
            for step in self.steps:
                await stage.step(step)
            if self.linger:
                await asyncio.sleep(self.linger)
            if self.cut:
                closing = asyncio.ensure_future(kernel.aclose())
                await asyncio.sleep(0)
                closing.cancel()
                await asyncio.wait([closing])
        if left:  # whoever is not answered by then never is
            done, _ = await asyncio.wait(left, timeout=60.0)
            for task in done:
                if not task.cancelled():
                    task.exception()


class _NoDice:
    def random(self) -> float:
        raise AssertionError("nobody throws these")


class Stage:
    """The kernel, and who is where."""

    def __init__(self, kernel: Kernel, play: Play, left: list[asyncio.Task[Any]]) -> None:
        self.kernel = kernel
        self.play = play
        self.left = left
        self.dice = getattr(kernel, "simulation").dice  # noqa: B009  # a simulated kernel has one
        self.stashes = 0
        self.starts = list(play.starts)
        self.known: dict[str, Cell] = {}
        self.pool: DynamicActor | None = None

    async def open(self) -> None:
        kernel = self.kernel
        desk = kernel.spawn(lambda: SupervisorActor(self.play.supervisor(self)), name="desk")
        await kernel.wait_started(desk)
        self.known["desk"] = desk
        self.known["x"] = kernel.spawn(lambda: Member(self), name="x")
        self.known["y"] = kernel.spawn(lambda: Trapper(self), name="y")
        pool = self.pool = DynamicActor(self.play.pool(self))
        cell = kernel.spawn(lambda: pool, name="pool")
        await kernel.wait_started(cell)
        self.known["pool"] = cell
        self.begin_child()

    def begin_child(self) -> None:
        if self.pool is not None:
            with contextlib.suppress(UnderstudyError):
                self.pool.begin(lambda: KINDS[self.play.kinds[3] % len(KINDS)](self), "d")

    def start_of(self, path: str) -> tuple[float, bool]:
        for index, (whose, seconds, fails) in enumerate(self.starts):
            if whose == path:
                del self.starts[index]
                return seconds, fails
        return 0.0, False

    def cell(self, who: int | str) -> Cell:
        """Who is there; else who was last."""
        path = PATHS[who % len(PATHS)] if isinstance(who, int) else who
        found = self.kernel.registry.find(path)
        if found is not None:
            self.known[path] = found
        return self.known.get(path) or self.known["x"]

    def ref(self, who: int | str) -> Ref[Any]:
        return self.kernel.ref_of(self.cell(who))

    def go_on(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self.left.append(task)
        return task

    async def step(self, op: Op) -> None:
        """One step from outside; what waits there goes on while the next ones are done."""
        match op:
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("turn",):
                await asyncio.sleep(0)
            case ("start child",):
                self.begin_child()
            case _:
                if not self.at_once(op):
                    self.go_on(self.later(op))

    def at_once(self, op: Op) -> bool:
        kernel = self.kernel
        match op:
            case ("tell", who, ops, sync):
                self.ref(who).tell(Now(tuple(ops)) if sync else Do(tuple(ops)))
            case ("odd", who):
                self.ref(who).tell(Odd())
            case ("stop", who):
                kernel.begin_stop(self.cell(who))
            case ("halt", who):
                if self.cell(who).on_exit is not None:
                    kernel.halt(self.cell(who), Exit("error", "halted"), deadline=0.5)
            case ("resume", who):
                with contextlib.suppress(UnderstudyError):
                    kernel.suspensions.resume(self.cell(who))
            case _:
                return False
        return True

    async def tell_later(self, who: int, seconds: float) -> None:
        """Raises `Fenced` when the handler it was begun in is of an incarnation that has ended."""
        await asyncio.sleep(seconds)
        self.ref(who).tell(Do(()))

    async def later(self, op: Op) -> None:
        with contextlib.suppress(UnderstudyError):
            match op:
                case ("ask", who, ops, timeout):
                    await self.ref(who).ask(Do(tuple(ops)), timeout=timeout)
                case ("ask now", who, ops):
                    await self.ref(who).ask(Now(tuple(ops)))
                case ("ask fast", who, ops):
                    await self.ref(who).ask(Do(tuple(ops)), on_restart="fail")
                case ("send", who, ops, timeout):
                    await self.ref(who).send(Do(tuple(ops)), timeout=timeout)
                case ("background", who, ops, timeout):
                    self.go_on(self.later(("ask", who, ops, timeout)))
                case ("ask and cancel", who, ops, seconds):
                    asking = self.go_on(self.ref(who).ask(Do(tuple(ops)), cancel=True))
                    await asyncio.sleep(seconds)
                    asking.cancel()
                    await asyncio.wait([asking])
                case ("tell later", who, seconds):
                    self.go_on(self.tell_later(who, seconds))
                case ("suspend", who):
                    await self.kernel.suspensions.suspend(self.cell(who), 0.7)
                case ("peek", who):
                    await self.kernel.suspensions.peek(self.cell(who), bool, 0.7)
                case _:
                    raise AssertionError(op)


# -- strategies ------------------------------------------------------------------------------------------------

_who = st.integers(0, len(PATHS) - 1)
_seconds = st.sampled_from([0.0, 0.1, 0.5, 3.0])
_timeouts = st.sampled_from([5.0, 1.0, 0.2])
_inside: st.SearchStrategy[Op] = st.one_of(
    st.tuples(st.just("sleep"), _seconds),
    st.just(("raise",)),
    st.tuples(st.sampled_from(["leave", "leave soon"]), st.sampled_from(["normal", "shutdown", "error"])),
    st.sampled_from([("stash",), ("unstash",), ("thread",), ("cancel self",)]),
    st.tuples(st.sampled_from(["timer", "scope", "swallow", "clean up badly"]), _seconds),
    st.tuples(st.sampled_from(["link", "unwatch", "suspend", "peek", "resume", "stop", "halt", "odd"]), _who),
    st.tuples(st.just("watch"), _who, st.booleans()),
    st.tuples(st.just("tell later"), _who, _seconds),
    st.tuples(st.just("spawn"), st.sampled_from(["k", "l"]), st.integers(0, len(KINDS) - 1)),
)


def _sending(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    ops = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("tell"), _who, ops, st.booleans()),
        st.tuples(st.sampled_from(["ask", "ask", "background"]), _who, ops, _timeouts),
        st.tuples(st.just("send"), _who, ops, _timeouts),
        st.tuples(st.sampled_from(["ask now", "ask fast"]), _who, ops),
        st.tuples(st.just("ask and cancel"), _who, ops, _seconds),
    )


_ops = st.recursive(_inside, lambda inner: st.one_of(inner, _sending(inner)), max_leaves=6)
_outside: st.SearchStrategy[Op] = st.one_of(
    _sending(_ops),
    _sending(_ops),
    st.tuples(st.just("sleep"), st.sampled_from([0.1, 1.0, 6.0, 40.0])),
    st.sampled_from([("turn",), ("start child",)]),
    st.tuples(st.sampled_from(["stop", "halt", "suspend", "resume", "peek"]), _who),
)
_restart = st.sampled_from(RESTART_TYPES)


def plays(steps: int = 12) -> st.SearchStrategy[Play]:
    """Trees and programs."""
    return st.builds(
        Play,
        steps=st.lists(_outside, max_size=steps).map(tuple),
        strategy=st.sampled_from(STRATEGIES),
        kinds=st.tuples(*(st.integers(0, len(KINDS) - 1),) * 4),
        restarts=st.tuples(*(_restart,) * 4),
        intensity=st.sampled_from([3, 10, 1, 0]),
        own=st.sampled_from([None, None, 1]),
        first=st.sampled_from([1.0, 0.0, 0.3]),
        jitter=st.sampled_from([0.0, 0.5]),
        starts=st.lists(
            st.tuples(st.sampled_from((*DESK, "pool/d")), st.sampled_from([0.0, 0.2, 2.0]), st.booleans()), max_size=3
        ).map(_not_at_first),
        linger=st.sampled_from([0.0, 10.0]),
        concurrency=st.sampled_from([1, 1, 2]),
        cut=st.sampled_from([False, False, True]),
    )


def crashing() -> st.SearchStrategy[Play]:
    """Trees whose children fail, or end, one after another and again and again."""
    does = st.sampled_from([("raise",), ("raise",), ("leave", "normal"), ("leave", "shutdown"), ("leave", "error")])
    whom = st.one_of(st.just(0), st.just(5), st.integers(0, 2))
    fails = st.builds(lambda who, op: ("tell", who, (op,), True), whom, does)
    rests = st.tuples(st.just("sleep"), st.sampled_from([1.0, 5.0, 12.0, 30.0]))
    stops = st.builds(
        lambda who, rest: (("tell", who, (("raise",),), True), ("sleep", 0.5), ("stop", who), rest), whom, rests
    )
    pair = st.one_of(st.tuples(fails, rests), st.tuples(fails, rests), st.tuples(fails, rests), stops)
    return st.builds(
        Play,
        steps=st.lists(pair, min_size=2, max_size=7).map(lambda pairs: tuple(op for pair in pairs for op in pair)),
        strategy=st.sampled_from(STRATEGIES),
        restarts=st.tuples(*(st.sampled_from(("permanent", "permanent", *RESTART_TYPES)),) * 4),
        intensity=st.sampled_from([10, 3, 1]),
        own=st.sampled_from([None, None, 1]),
        first=st.sampled_from([1.0, 2.0]),
        jitter=st.sampled_from([0.0, 0.25]),
        starts=st.lists(
            st.tuples(st.sampled_from((*DESK, "pool/d")), st.sampled_from([0.0, 0.5]), st.booleans()), max_size=3
        ).map(_not_at_first),
        linger=st.just(100.0),
    )


def flooding() -> st.SearchStrategy[Play]:
    """One actor that is busy, or fails, while one sender sends it more than it holds; some of it is put aside."""
    light = st.sampled_from([(), (), (("stash",),), (("unstash",),), (("raise",),), (("sleep", 0.1),)])
    sending = st.one_of(
        st.builds(lambda ops, sync: ("tell", 0, ops, sync), light, st.booleans()),
        st.builds(lambda ops: ("send", 0, ops, 5.0), light),
        st.builds(lambda ops: ("ask", 0, ops, 5.0), light),
        st.sampled_from([("sleep", 0.1), ("turn",), ("stop", 0), ("halt", 0), ("suspend", 0), ("resume", 0)]),
    )
    first = st.sampled_from([(("sleep", 0.5),), (("sleep", 0.5), ("raise",)), (("swallow", 3.0),)])
    busy = first.map(lambda ops: ("tell", 0, ops, False))
    paused = (("sleep", 2.0), ("suspend", 0), ("sleep", 0.1), ("tell", 0, (), False), ("sleep", 0.1), ("resume", 0))
    return st.builds(
        Play,
        steps=st.builds(
            lambda first, rest, last: (first, *rest, *last),
            busy,
            st.lists(sending, min_size=4, max_size=14),
            st.sampled_from([(), (), paused]),
        ),
        kinds=st.tuples(st.integers(0, len(KINDS) - 1), *(st.just(0),) * 3),
        first=st.sampled_from([0.0, 0.3]),
        intensity=st.just(10),
        linger=st.sampled_from([10.0, 0.0]),
    )


def watching() -> st.SearchStrategy[Play]:
    """Actors that watch and are linked with each other, and whose ends come while others are busy."""
    tie = st.one_of(
        st.tuples(st.just("watch"), st.integers(0, 2), st.booleans()),
        st.tuples(st.sampled_from(["unwatch", "link"]), st.integers(0, 2)),
        st.sampled_from([("sleep", 0.5), ("timer", 0.5)]),
    )
    tying = st.builds(
        lambda who, ops: ("tell", who, tuple(ops), False),
        st.sampled_from([0, 3, 4]),
        st.one_of(st.lists(tie, max_size=3), st.integers(0, 2).map(_watch_for_a_while)),
    )
    ending = st.one_of(
        st.builds(lambda who: ("tell", who, (("raise",),), True), st.integers(0, 3)),
        st.tuples(st.sampled_from(["stop", "halt"]), st.integers(0, 4)),
        st.sampled_from([("turn",), ("sleep", 0.1), ("sleep", 6.0)]),
    )
    return st.builds(
        Play,
        steps=st.lists(st.one_of(tying, ending), min_size=3, max_size=12).map(tuple),
        kinds=st.tuples(*(st.sampled_from([0, 5, 4]),) * 4),
        first=st.sampled_from([0.0, 0.3]),
        intensity=st.just(10),
        linger=st.sampled_from([10.0, 0.0]),
    )


def _watch_for_a_while(who: int) -> list[Op]:
    return [("watch", who, False), ("sleep", 0.5), ("unwatch", who)]


def _not_at_first(starts: list[tuple[str, float, bool]]) -> tuple[tuple[str, float, bool], ...]:
    """The first start of each succeeds: else there is no desk to play with."""
    seen: set[str] = set()
    out = []
    for path, seconds, fails in starts:
        out.append((path, seconds, fails and path in seen))
        seen.add(path)
    return tuple(out)


_at = st.integers(1, 4)
_everyone = st.sampled_from(EVERY)
_someone = st.sampled_from(PATHS)


def faults() -> st.SearchStrategy[Fault]:
    return st.one_of(
        st.builds(Crash, _someone, _at, st.booleans()),
        st.builds(Crash, _everyone, _at, st.booleans()),
        st.builds(Delay, _someone, _at, st.sampled_from([0.1, 2.0, 20.0])),
        st.builds(Duplicate, _someone, _at),
        st.builds(Drop, _someone, _at),
        st.builds(ReplyLost, _someone, _at),
        st.builds(SlowConsumer, _someone, _at, st.sampled_from([0.2, 3.0])),
        st.builds(MailboxIsFull, _someone, _at),
    )


def deviations() -> st.SearchStrategy[Deviation]:
    return st.one_of(
        st.builds(Hold, _everyone, st.integers(0, 4), st.integers(1, 9)),
        st.builds(Demote, _everyone, st.integers(1, 4)),
    )


def worlds() -> st.SearchStrategy[World]:
    """Worlds for plays."""
    return st.builds(
        World,
        faults=st.lists(faults(), max_size=3).map(tuple),
        schedule=st.lists(deviations(), max_size=4).map(tuple),
        inline=st.booleans(),
        seed=st.integers(0, 3),
    )
