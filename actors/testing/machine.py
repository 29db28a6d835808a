"""A rule-based machine over actors: Hypothesis picks what is told, asked, crashed and held back, step by step.

    class TestBank(ActorMachine):
        messages = {"bank": st.builds(Pay, cents=st.integers(1, 9))}

        async def begin(self, stack: AsyncExitStack) -> Mapping[str, Ref[Any]]:
            system = await stack.enter_async_context(System())
            return {"bank": system.spawn(Bank, name="bank")}

    TestCase = TestBank.TestCase

Rules are ordinary functions between which a simulated loop stands still: each runs it for a while, in virtual time.
After each step `always` properties and the invariants that hold of every prefix are checked. The end takes back what
faults are left, lets `settle` seconds pass, demands that every ask has ended and that no running actor leaves a message
lying, leaves what `begin` entered, and holds the whole trace against `invariants.default()`.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import SearchStrategy

from understudy.actors.errors import AskError, UsageError
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.testing import invariants, options, properties, report
from understudy.actors.testing.faults import Crash, Fault
from understudy.actors.testing.invariants import Oracle
from understudy.actors.testing.outside import inside, untraced
from understudy.actors.testing.schedule import Deviation, Hold
from understudy.actors.testing.simloop import SimLoop
from understudy.actors.testing.strategies import worlds
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World, look

T = TypeVar("T")

__all__ = ["ActorMachine"]

PREFIXES: Final = frozenset({1, 2, 3, 5})
"""Numbers of the invariants of which every beginning of a trace is to be free."""
_SECONDS: Final = (0.001, 0.1, 1.0, 5.0, 60.0)
_TIMEOUTS: Final = (5.0, 0.5, 20.0)
_STEPS: Final = (1, 2, 4, 8, 16)


class ActorMachine(RuleBasedStateMachine):
    """See the module. Subclass it, give `messages` and `begin`; add rules and invariants of your own.

    `refs` are what `begin` returned. Override `answered` to compare replies with a model, and `healthy` for what must
    hold when all is healed. A rule of your own reaches the actors through `drive(coroutine)`.
    """

    messages: ClassVar[Mapping[str, SearchStrategy[Any]]] = {}
    """What each actor may be sent, by the names that `begin` gives."""
    drawn: ClassVar[SearchStrategy[World]] = worlds(schedules=st.just(()))
    """The world that a machine begins in; faults and deviations are added to it by rules."""
    crashes: ClassVar[bool] = True
    """Whether to crash actors."""
    settle: ClassVar[float] = 30.0
    """Virtual seconds that all has to come to rest in, once it is healed. The asks of the rules take 20 at most."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not cls.messages:
            return
        for name, strategy in cls.messages.items():
            if not isinstance(strategy, SearchStrategy):
                raise UsageError(f"{cls.__qualname__}.messages[{name!r}] is {strategy!r}; it is a strategy of messages")
        named = st.one_of([_of(name, strategy) for name, strategy in cls.messages.items()])
        who = st.sampled_from(tuple(cls.messages))
        rules: dict[str, Any] = {  # Any: Hypothesis's markers
            "start": initialize(world=cls.drawn)(_begin),
            "tell": rule(to=named)(_tell),
            "ask": rule(to=named, timeout=st.sampled_from(_TIMEOUTS))(_ask),
            "advance": rule(seconds=st.sampled_from(_SECONDS))(_advance),
            "hold": rule(actor=who, steps=st.sampled_from(_STEPS))(_hold),
        }
        if cls.crashes:
            rules["crash"] = rule(actor=who, after=st.booleans())(_crash)
        for name, function in rules.items():
            setattr(cls, name, function)

    def __init__(self) -> None:
        if not self.messages:
            raise UsageError(f"{type(self).__qualname__}.messages: say what each actor may be sent")
        super().__init__()
        self.world = World()
        self.trace = Trace()
        self.refs: Mapping[str, Ref[Any]] = {}
        self._steps = 0
        self._asks: list[tuple[str, Message[Any], asyncio.Task[Any]]] = []
        self._loop: SimLoop | None = None

    # -- to override ---------------------------------------------------------------------------------------

    async def begin(self, stack: AsyncExitStack) -> Mapping[str, Ref[Any]]:
        """Enter systems or kernels on `stack`, start the actors; a ref for each name of `messages`."""
        raise NotImplementedError

    def answered(self, to: str, message: Message[Any], outcome: object) -> None:
        """An ask has ended: with a reply, or with an `AskError`."""

    async def healthy(self) -> None:
        """Assert what must hold when faults are healed and `settle` seconds have passed."""

    # -- driving -------------------------------------------------------------------------------------------

    def drive(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the simulated loop until a coroutine has ended; what it returns or raises."""
        loop = self._loop
        assert loop is not None, "no rule runs before the machine has begun"
        self._steps += 1
        collecting = gc.isenabled()
        gc.disable()
        try:
            with inside(self.world.seed + 1_000_003 * self._steps), untraced(), properties.resumed(self._run):
                result = loop.run_until_complete(main)
        finally:
            if collecting:
                gc.enable()
        self._hear()
        return result

    def _begin_in(self, world: World) -> None:
        self.world = world
        self._loop = SimLoop()
        self._simulation = world.simulate(self._loop, self.trace)
        self._run = properties.Run(world, self.trace)
        self.trace.replayable = False
        self._over = self._loop.create_future()
        self._ready = self._loop.create_future()
        report.last = self.world, self.trace
        options.begins()
        self._main = self._loop.create_task(self._live(), name="main")
        self.drive(self._wait())
        missing = set(self.messages) - set(self.refs)
        if missing:
            raise UsageError(f"{type(self).__qualname__}.begin: no ref for {', '.join(sorted(missing))}")

    async def _wait(self) -> None:
        await asyncio.wait([self._main, self._ready], return_when=asyncio.FIRST_COMPLETED)
        if self._main.done():
            self._main.result()

    async def _live(self) -> None:
        """One task enters and leaves all, as scopes demand."""
        async with AsyncExitStack() as stack:
            self.refs = _refs(self, await self.begin(stack))
            self._ready.set_result(None)
            await self._over

    def plan(self, *, fault: Fault | None = None, deviation: Deviation | None = None) -> None:
        """Add a fault or a deviation to the world while it runs. Its coordinates count what has happened."""
        if fault is not None:
            self.world = msgspec.structs.replace(self.world, faults=(*self.world.faults, fault))
            self._simulation.faults.add(fault)
        if deviation is not None:
            self.world = msgspec.structs.replace(self.world, schedule=(*self.world.schedule, deviation))
            self._simulation.plan.add(deviation)
        report.last = self.world, self.trace

    def _next(self, actor: str) -> tuple[str, int]:
        """The path of an actor, and the number of the message it begins next."""
        path = self.refs[actor].path
        return path, self._simulation.plan.begun.get(path, 0) + 1

    def _hear(self) -> None:
        """Tell of asks that have ended. What is no `AskError` is raised."""
        ended = [each for each in self._asks if each[2].done()]
        self._asks = [each for each in self._asks if not each[2].done()]
        for to, message, task in ended:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, AskError):
                raise error
            self.answered(to, message, task.result() if error is None else error)

    # -- what is checked -----------------------------------------------------------------------------------

    @invariant()
    def _prefix_holds(self) -> None:
        """`always`, and the invariants of which every beginning of a trace is free."""
        oracles = [each for each in invariants.default() if getattr(each, "number", 0) in PREFIXES]
        report.verify(self.world, self.trace, oracles)

    def teardown(self) -> None:
        """Heal, settle, look, leave. After a failure only leave."""
        loop = self._loop
        if loop is None:
            return
        failing = sys.exc_info()[0] is not None
        try:
            if not failing:
                self._end_well()
        finally:
            with inside(self.world.seed):
                try:
                    loop.end()
                finally:
                    loop.close()
            self._run.tell(self.world)

    def _end_well(self) -> None:
        loop = self._loop
        assert loop is not None
        self._simulation.faults.clear()
        self._simulation.plan.clear()
        self.drive(asyncio.sleep(self.settle))
        late = [f"liveness: an ask of {to} ({type(m).__name__}) has not ended" for to, m, _ in self._asks]
        report.verify(self.world, self.trace, [_said([*late, *self._lying()])])
        self.drive(self.healthy())
        self._over.set_result(None)
        self.drive(_result(self._main))
        self._run.end()
        with inside(self.world.seed):
            look(loop, self._simulation, self.trace)
        report.verify(self.world, self.trace, invariants.default())

    def _lying(self) -> Iterable[str]:
        for kernel in self._simulation.kernels:
            for cell in kernel.registry:
                if cell.waiting and cell.state == "running" and not cell.running:
                    yield f"liveness: {cell.path} is running, and {cell.waiting} messages lie before it"


def _refs(machine: ActorMachine, begun: object) -> dict[str, Ref[Any]]:
    if not isinstance(begun, Mapping):
        raise UsageError(
            f"{type(machine).__qualname__}.begin returned {begun!r}; it returns a ref for each of `messages`"
        )
    return dict(begun)


def _of(name: str, strategy: SearchStrategy[Any]) -> SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(name), strategy)


def _said(sentences: list[str]) -> Oracle:
    return lambda _: sentences


async def _result(task: asyncio.Task[None]) -> None:
    await task


async def _call(function: Callable[[], object]) -> None:
    function()


# -- the rules: each subclass marks them anew, with its own actors ------------------------------------------------


def _begin(self: ActorMachine, world: World) -> None:
    self._begin_in(world)


def _tell(self: ActorMachine, to: tuple[str, Any]) -> None:
    name, message = to
    self.drive(_call(lambda: self.refs[name].tell(message)))


def _ask(self: ActorMachine, to: tuple[str, Any], timeout: float) -> None:
    name, message = to
    ref = self.refs[name]

    async def ask() -> Any:
        return await ref.ask(message, timeout=timeout)

    async def start() -> None:
        self._asks.append((name, message, asyncio.ensure_future(ask())))
        await asyncio.sleep(0)

    self.drive(start())


def _advance(self: ActorMachine, seconds: float) -> None:
    self.drive(asyncio.sleep(seconds))


def _hold(self: ActorMachine, actor: str, steps: int) -> None:
    path, at = self._next(actor)
    self.plan(deviation=Hold(path, at, steps))


def _crash(self: ActorMachine, actor: str, after: bool) -> None:
    path, at = self._next(actor)
    self.plan(fault=Crash(path, at, after))


for _rule, _name in (
    (_begin, "start"),
    (_tell, "tell"),
    (_ask, "ask"),
    (_advance, "advance"),
    (_hold, "hold"),
    (_crash, "crash"),
):
    _rule.__name__ = _name
