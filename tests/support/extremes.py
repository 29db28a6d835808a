"""Programs for the kill suite at the ends: large numbers, and mistakes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from math import inf, nan
from typing import Any

from hypothesis import strategies as st
from supervised import Child, Desk, High

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import (
    ActorStopped,
    AskTimeout,
    CallCycle,
    NameTaken,
    NotHandled,
    SpecError,
    UnderstudyError,
    UsageError,
    WrongLoop,
)
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref, Refused
from understudy.actors.scheduling import TURN
from understudy.actors.stash import Stash
from understudy.actors.testing.simloop import SimLoop
from understudy.actors.watching import Watch
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.handles import DynamicRef
from understudy.supervisors.intensity import Intensity, RestartWindow
from understudy.supervisors.plans import ChildPlan
from understudy.supervisors.strategies import affected, check_significant, decide_exit

# -- large numbers ---------------------------------------------------------------------------------------------


class Go(Message[int]):
    """`ops`: what to do."""

    ops: tuple[Any, ...] = ()


class Beat(Message[None]):
    """Of a timer."""

    n: int


class Worker(Actor[Go | Beat]):
    """Does as it is told; counts."""

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def beat(self, m: Beat) -> None:
        self.seen.append(m.n)

    def find(self, name: str) -> Ref[Any]:
        kernel = self.context._cell.kernel
        cell = kernel.registry.find(name)
        assert cell is not None
        return kernel.ref_of(cell)

    async def go(self, m: Go) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self.seen.append(loop.steps)
        for op in m.ops:
            match op:
                case ("link", name):
                    self.context.link(self.find(name))
                case ("raise",):
                    raise ValueError("raised")
                case ("ask", name, ops, times):
                    for _ in range(times):
                        await self.find(name).ask(Go(ops))
                case ("sleep", seconds):
                    await asyncio.sleep(seconds)
                case ("timers", count, seconds):
                    for n in range(count):
                        self.context.timer(n, seconds * (1 + n % 3), Beat(n))
                case ("afters", count, seconds):
                    for n in range(count):
                        self.context.after(seconds * (1 + n % 3), Beat(n))
        return len(self.seen)


large = st.tuples(
    st.sampled_from(
        ["chain of links", "flood", "many asks", "failing asks", "keyed", "afters", "timers", "chain of asks", "pool"]
    ),
    st.sampled_from([1, 3, 20, 31, 33, 64, 65, 100, 140, 200]),
    st.integers(1, 3),
)


def _calls(handle: Any) -> object:
    """What a handle of the loop calls: it has no public name."""
    return handle._callback


async def play_large(drawn: Any) -> None:
    """One of the programs, in some size."""
    what, count, more = drawn
    async with Kernel() as kernel:
        await LARGE[what](kernel, count, more)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"


def _workers(kernel: Kernel, count: int, seen: list[Any]) -> list[Ref[Any]]:
    return [kernel.ref_of(kernel.spawn(lambda: Worker(seen), name=f"w{n}")) for n in range(count)]


async def _chain_of_links(kernel: Kernel, count: int, more: int) -> None:
    refs = _workers(kernel, count, [])
    for one, other in itertools.pairwise(refs):
        await one.ask(Go((("link", other.path),)))
    refs[count // more - 1].tell(Go((("raise",),)))
    await asyncio.sleep(1)
    assert [ref.cell().state for ref in refs] == ["stopped"] * count
    details = {ref.cell().exit.kind for ref in refs}
    assert details == {"error"}, details


async def _flood(kernel: Kernel, count: int, more: int) -> None:
    seen: list[int] = []
    refs = _workers(kernel, more, seen)
    await asyncio.sleep(0.001)
    for n in range(count):
        assert refs[n % more].tell(Go())
    begun: list[int] = []
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        begun.append(len(seen))
        ticks += 1
        if len(seen) < count and ticks < 1_000:
            asyncio.get_running_loop().call_soon(tick)

    asyncio.get_running_loop().call_soon(tick)
    await asyncio.sleep(1)
    assert len(seen) == count
    most = max((after - before for before, after in zip([0, *begun], begun, strict=False)), default=0)
    assert most <= 2 * TURN, f"{most} messages before the loop had a turn"
    worked = {step: seen.count(step) for step in set(seen)}
    assert max(worked.values()) <= TURN, f"{max(worked.values())} messages in one turn"


async def _many_asks(kernel: Kernel, count: int, more: int) -> None:
    seen: list[int] = []
    refs = _workers(kernel, more + 1, seen)
    await asyncio.sleep(0.001)
    asking = [asyncio.ensure_future(refs[0].ask(Go((("ask", ref.path, (), count),)))) for ref in refs[1:]]
    await asyncio.wait(asking)
    assert not any(task.exception() for task in asking)
    assert len(seen) == more * (count + 1)
    worked = {step: seen.count(step) for step in set(seen)}
    assert max(worked.values()) <= 2 * TURN, f"{max(worked.values())} messages before the loop had a turn"


async def _failing_asks(kernel: Kernel, count: int, more: int) -> None:
    """What is handled at once is told at once, failures too: it takes no turn of the loop."""
    seen: list[int] = []
    cell = kernel.spawn(lambda: Worker(seen), name="w", on_exit=lambda cell, *_: kernel.restart(cell))
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    for _ in range(min(count, 20)):
        await asyncio.sleep(0.001)
        asked = loop.steps
        try:
            await kernel.ref_of(cell).ask(Go((("raise",),) * more))
        except ActorStopped:
            assert seen[-1] != asked or loop.steps == asked, "a failure that had to wait for its turn"
        else:
            raise AssertionError("it failed, and answers")


async def _keyed(kernel: Kernel, count: int, more: int) -> None:
    seen: list[Any] = []
    ref = _workers(kernel, 1, seen)[0]
    for _ in range(more):
        await ref.ask(Go((("timers", count, 0.1),)))
        life = ref.cell().life
        assert life is not None
        assert life.kit is not None
        assert len(life.kit.timers) <= max(64, 2 * count)
        heap = kernel.timers._heap
        live = sum(entry[3].call is not None for entry in heap)
        assert live == count
        assert len(heap) <= live + max(64, live), "cancelled timers are kept"
    await asyncio.sleep(1)
    assert sorted(each for each in seen if each < 1_000)[-count:]
    assert [seen.count(n) >= 1 for n in range(count)] == [True] * count
    assert not any(entry[3].call for entry in kernel.timers._heap)


async def _afters(kernel: Kernel, count: int, more: int) -> None:
    seen: list[Any] = []
    ref = _workers(kernel, 1, seen)[0]
    for _ in range(more):
        await ref.ask(Go((("afters", count, 0.1),)))
        await asyncio.sleep(1)
    life = ref.cell().life
    assert life is not None
    assert len(life.timers or ()) <= count + 64, "timers that have fired are kept"
    await ref.ask(Go((("afters", count, 0.1),)))
    before = len(seen)
    await kernel.stop(ref.cell())
    assert not any(entry[3].call for entry in kernel.timers._heap), "timers of one that has ended"
    await asyncio.sleep(1)
    assert len(seen) == before


async def _timers(kernel: Kernel, count: int, more: int) -> None:
    """Timers that are due together fire in the order they were set; cancelled ones never."""
    fired: list[int] = []
    timers = [kernel.timers.after(1 + (n % more), lambda n=n: fired.append(n)) for n in range(count)]  # type: ignore[misc]
    early = kernel.timers.after(0.5, lambda: fired.append(-1))
    for n, timer in enumerate(timers):
        if n % 4:
            timer.cancel()
            timer.cancel()
    heap = kernel.timers._heap
    live = sum(entry[3].call is not None for entry in heap)
    assert live == len(range(0, count, 4)) + 1
    assert len(heap) <= live + max(64, live), f"{len(heap)} timers are kept for {live}"
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    armed = [each for _, _, each in loop._timers if _calls(each) == kernel.timers._fire and not each.cancelled()]
    assert len(armed) == 1, f"{len(armed)} timers of the loop for one heap"
    await asyncio.sleep(10)
    kept = list(range(0, count, 4))
    assert fired == [-1, *sorted(kept, key=lambda n: (n % more, n))]
    early.cancel()
    assert kernel.timers._cancelled == 0, "what has fired cannot be cancelled"


async def _chain_of_asks(kernel: Kernel, count: int, more: int) -> None:
    seen: list[int] = []
    count = min(count, 40)
    refs = _workers(kernel, count, seen)
    await asyncio.sleep(0.001)
    ops: tuple[Any, ...] = (("sleep", 0.1 * more),)
    for ref in reversed(refs[1:]):
        ops = (("ask", ref.path, ops, 1),)
    try:
        await refs[0].ask(Go(ops), timeout=1.0)
    except ActorStopped as error:
        if count <= 33:
            raise AssertionError(f"{count} actors in a chain: {error}") from error
        cause = error.__cause__
        while isinstance(cause, ActorStopped):
            cause = cause.__cause__
        assert isinstance(cause, CallCycle), cause
    else:
        assert count <= 33, "a longer chain than is carried"
        assert len(seen) == count


async def _pool(kernel: Kernel, count: int, more: int) -> None:
    """Many children of one supervisor begin to start together, some never do."""
    desk = Desk(kernel)
    plan = DynamicPlan(ChildPlan("", Actor, "temporary", start_within=2.0), None, Backoff(), High(), desk._observe)
    cell = await desk.start(lambda: DynamicActor(plan))
    handle = DynamicRef(kernel, "desk", None)
    starting = [
        asyncio.create_task(_started(handle, lambda n=n: Sleeper(desk, 100.0 if n % 4 == 0 else 0.2 * more), f"c{n}"))  # type: ignore[misc]
        for n in range(count)
    ]
    await asyncio.sleep(1.99)
    assert len(handle.children()) == count
    await asyncio.sleep(0.1)
    assert all(task.done() for task in starting)
    slow = len(range(0, count, 4))
    assert sum(task.result() == "not started within 2 s" for task in starting) == slow
    assert len(handle.children()) == count - slow
    limits = handle._actor()._limits
    await asyncio.sleep(5)
    assert not any(batch.lives for batch in limits._batches), "those that have started are kept"
    assert not any(entry[3].call for entry in kernel.timers._heap), "nobody starts, and a timer is set"
    await kernel.stop(cell)
    assert kernel.registry.names() == ()


class Sleeper(Child):
    """Takes its time to start."""

    def __init__(self, desk: Desk, seconds: float) -> None:
        super().__init__(desk)
        self.seconds = seconds

    async def on_start(self) -> None:
        await asyncio.sleep(self.seconds)


async def _started(handle: DynamicRef, factory: Callable[[], Actor[Any]], name: str) -> str:
    try:
        await handle.start_child(factory, name=name)
    except ActorStopped as error:
        return error.exit.detail
    return "started"


LARGE: dict[str, Callable[[Kernel, int, int], Coroutine[Any, Any, None]]] = {
    "chain of links": _chain_of_links,
    "flood": _flood,
    "many asks": _many_asks,
    "failing asks": _failing_asks,
    "keyed": _keyed,
    "afters": _afters,
    "timers": _timers,
    "chain of asks": _chain_of_asks,
    "pool": _pool,
}

# -- mistakes --------------------------------------------------------------------------------------------------


class Odd(Message[None]):
    """Nobody has a handler for it."""


class Try(Message[object]):
    """Do it as a handler, and say what came of it."""

    what: str


class Clumsy(Actor[Try]):
    """Makes mistakes."""

    stash_limit = 1

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def attempt(self, m: Try) -> object:
        try:
            result = MISTAKES_INSIDE[m.what][0](self)
            if asyncio.iscoroutine(result):
                await result
        except UnderstudyError as error:
            return type(error).__name__
        return "nothing"


class Other(Actor[Odd]):
    """Takes what the first incarnation of `Changing` does not."""

    def odd(self, m: Odd) -> None:
        pass


class Bench:
    """Where mistakes are made: an actor, another one, and a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.cell = kernel.spawn(lambda: Clumsy(self), name="clumsy")
        self.other = kernel.spawn(lambda: Clumsy(self), name="other")
        self.gone = kernel.spawn(lambda: Clumsy(self), name="gone")
        self.ref = kernel.ref_of(self.cell)


Inside = Callable[[Clumsy], Any]
MISTAKES_INSIDE: dict[str, tuple[Inside, str]] = {
    "be busy": (lambda a: asyncio.sleep(0.1), "nothing"),
    "stash of another": (lambda a: _context(a.bench.other).stash(), "UsageError"),
    "stash of another that is busy": (lambda a: _while_busy(a, lambda: _context(a.bench.other).stash()), "UsageError"),
    "suspend oneself": (lambda a: a.bench.kernel.suspensions.suspend(a._own(), 1.0), "UsageError"),  # type: ignore[attr-defined]
    "peek at oneself": (lambda a: a.bench.kernel.suspensions.peek(a._own(), type, 1.0), "UsageError"),  # type: ignore[attr-defined]
    "timer of no message": (lambda a: a.context.timer("k", 1.0, Odd()), "NotHandled"),
    "timer without end": (lambda a: a.context.timer("k", inf, Try("")), "UsageError"),
    "timer of no number": (lambda a: a.context.timer("k", nan, Try("")), "UsageError"),
    "timer that repeats at once": (lambda a: a.context.timer("k", 0.0, Try(""), repeat=True), "UsageError"),
    "timer of a strange kind": (lambda a: a.context.timer("k", 1.0, Try(""), repeat="ever"), "UsageError"),  # type: ignore[arg-type]
    "after of no message": (lambda a: a.context.after(1.0, Odd()), "NotHandled"),
    "after without end": (lambda a: a.context.after(inf, Try("")), "UsageError"),
    "idle without a message": (lambda a: a.context.idle_timeout(1.0), "UsageError"),
    "idle at once": (lambda a: a.context.idle_timeout(0.0, Try("")), "UsageError"),
    "idle without end": (lambda a: a.context.idle_timeout(inf, Try("")), "UsageError"),
    "idle of no message": (lambda a: a.context.idle_timeout(1.0, Odd()), "NotHandled"),
    "idle off": (lambda a: a.context.idle_timeout(None), "nothing"),
    "watch without a handler": (lambda a: a.context.watch(a.bench.kernel.ref_of(a.bench.other)), "UsageError"),
    "watch with two messages": (lambda a: _twice(a), "UsageError"),
    "ask without end": (lambda a: a.bench.kernel.ref_of(a.bench.other).ask(Try(""), timeout=inf), "UsageError"),
    "ask in no time": (lambda a: a.bench.kernel.ref_of(a.bench.other).ask(Try("idle off"), timeout=0), "AskTimeout"),
    "ask oneself": (lambda a: a.context.ref.ask(Try("idle off")), "CallCycle"),
    "ask of no message": (lambda a: a.bench.kernel.ref_of(a.bench.other).ask(Odd()), "NotHandled"),
    "ask who is gone": (lambda a: a.bench.kernel.ref_of(a.bench.gone).ask(Try("")), "ActorStopped"),
    "send without end": (lambda a: a.bench.kernel.ref_of(a.bench.other).send(Try(""), timeout=inf), "UsageError"),
    "spawn by a name that is taken": (lambda a: _spawn_twice(a), "NameTaken"),
    "resume who is gone": (lambda a: a.bench.kernel.suspensions.resume(a.bench.gone), "ActorStopped"),
    "suspend who is gone": (lambda a: a.bench.kernel.suspensions.suspend(a.bench.gone, 1.0), "ActorStopped"),
    "suspend without end": (lambda a: a.bench.kernel.suspensions.suspend(a.bench.other, inf), "UsageError"),
}


async def _while_busy(actor: Clumsy, call: Callable[[], None]) -> None:
    """While the other one handles something."""
    asking = asyncio.ensure_future(actor.bench.kernel.ref_of(actor.bench.other).ask(Try("be busy")))
    await asyncio.sleep(0.01)
    try:
        call()
    finally:
        assert await asking == "nothing"


def _context(cell: Cell) -> Any:
    assert cell.life is not None
    assert cell.life.actor is not None
    return cell.life.actor.context


def _twice(actor: Clumsy) -> None:
    ref = actor.bench.kernel.ref_of(actor.bench.other)
    actor.context.watch(ref, message=Try("one"))
    actor.context.watch(ref, message=Try("one"))
    try:
        actor.context.watch(ref, message=Try("two"))
    finally:
        actor.context.unwatch(ref)


def _spawn_twice(actor: Clumsy) -> None:
    name = f"child{len(actor.context._cell.children)}"
    actor.context.spawn(lambda: Clumsy(actor.bench), name=name)
    actor.context.spawn(lambda: Clumsy(actor.bench), name=name)


def _own(self: Clumsy) -> Cell:
    return self.context._cell


Clumsy._own = _own  # type: ignore[attr-defined]  # shorter above

Outside = Callable[[Bench], Any]
MISTAKES_OUTSIDE: dict[str, tuple[Outside, type[Exception]]] = {
    "stash outside": (lambda b: _context(b.cell).stash(), UsageError),
    "peek with a coroutine function": (lambda b: b.kernel.suspensions.peek(b.cell, _coroutine), UsageError),
    "peek that gives a coroutine": (lambda b: b.kernel.suspensions.peek(b.cell, lambda a: _coroutine(a)), UsageError),
    "peek that raises": (lambda b: b.kernel.suspensions.peek(b.cell, lambda a: dict[str, int]()["x"]), KeyError),
    "peek at who is gone": (lambda b: b.kernel.suspensions.peek(b.gone, type), ActorStopped),
    "watch without end": (lambda b: Watch(b.kernel, (), inf), UsageError),
    "watch nobody": (lambda b: Watch(b.kernel, ()).next(), UsageError),
    "name with an @": (lambda b: b.kernel.spawn(lambda: Clumsy(b), name="@x"), SpecError),
    "name with nothing": (lambda b: b.kernel.spawn(lambda: Clumsy(b), name="x//y"), SpecError),
    "name that is taken": (lambda b: b.kernel.spawn(lambda: Clumsy(b), name="other"), NameTaken),
    "restart of the living": (lambda b: b.kernel.restart(b.cell), UsageError),
    "enter twice": (lambda b: b.kernel.__aenter__(), UsageError),
    "ask of no message": (lambda b: b.ref.ask(Odd()), NotHandled),
    "ask in no time": (lambda b: b.ref.ask(Try("idle off"), timeout=-1), AskTimeout),
    "tell elsewhere": (lambda b: _elsewhere(b, lambda: b.ref.tell(Try("idle off"))), WrongLoop),
    "tell who is busy elsewhere": (lambda b: _elsewhere(b, lambda: b.ref.tell(Odd())), WrongLoop),
    "resume elsewhere": (lambda b: _elsewhere(b, lambda: b.kernel.suspensions.resume(b.cell)), WrongLoop),
    "ask elsewhere": (lambda b: _later(b, lambda: b.ref.ask(Try("idle off"))), WrongLoop),
    "suspend elsewhere": (lambda b: _later(b, lambda: b.kernel.suspensions.suspend(b.cell)), WrongLoop),
    "peek elsewhere": (lambda b: _later(b, lambda: b.kernel.suspensions.peek(b.cell, type)), WrongLoop),
    "watch elsewhere": (lambda b: _elsewhere(b, lambda: Watch(b.kernel, (b.ref,))), WrongLoop),
    "intensity below 0": (lambda b: Intensity(-1), SpecError),
    "intensity within nothing": (lambda b: Intensity(1, 0.0), SpecError),
    "window that goes back": (lambda b: _window(5.0, 4.0), UsageError),
    "window of no order": (lambda b: RestartWindow(Intensity()).restore((2.0, 1.0)), UsageError),
    "window of no numbers": (lambda b: RestartWindow(Intensity()).restore((inf,)), UsageError),
    "first below 0": (lambda b: Backoff(first=-1.0), SpecError),
    "factor below 1": (lambda b: Backoff(factor=0.9), SpecError),
    "cap below first": (lambda b: Backoff(first=2.0, cap=1.0), SpecError),
    "cap below 0": (lambda b: Backoff(first=-2.0, cap=-1.0), SpecError),
    "jitter of 1": (lambda b: Backoff(jitter=1.0), SpecError),
    "jitter above 1": (lambda b: Backoff(jitter=1.5), SpecError),
    "jitter below 0": (lambda b: Backoff(jitter=-0.1), SpecError),
    "healthy after nothing": (lambda b: Backoff(healthy=0.0), SpecError),
    "delay after fewer than none": (lambda b: Backoff().delay(-1, 0.5), UsageError),
    "delay of no chance": (lambda b: Backoff().delay(1, 1.0), UsageError),
    "delay of less than no chance": (lambda b: Backoff().delay(1, -0.1), UsageError),
    "failed stranger": (lambda b: affected("one_for_all", ("a",), "b"), UsageError),
    "strange strategy": (lambda b: affected("some", ("a",), "a"), SpecError),  # type: ignore[arg-type]
    "strange restart": (lambda b: decide_exit("often", Exit("error")), SpecError),  # type: ignore[arg-type]
    "significant and permanent": (lambda b: check_significant("x", "permanent", "any_significant"), SpecError),
    "significant to nobody": (lambda b: check_significant("x", "transient", "never"), SpecError),
    "stash of nothing": (lambda b: Stash(b.cell, 0), SpecError),
}

stamps = st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.5, 5.0, 5.5]), max_size=12)


def check_window(drawn: tuple[int, list[float], int]) -> None:
    """A window of restarts, kept over a restart of the process at some time, against a plain list."""
    restarts, gaps, kept_at = drawn
    intensity = Intensity(restarts, 5.0)
    window, plain, now = RestartWindow(intensity), [0.0][:0], 0.0
    for place, gap in enumerate(gaps):
        now += gap
        if place == kept_at:
            snapshot = window.snapshot()
            window = RestartWindow(intensity)
            window.restore(snapshot)
        plain = [stamp for stamp in plain if now - stamp <= 5.0]
        assert window.count(now) == min(len(plain), restarts + 1), f"{window.count(now)}, and not {len(plain)}"
        plain.append(now)
        assert window.admit(now) == (len(plain) <= restarts), f"at {now:g} s"


mistakes = st.lists(
    st.one_of(
        st.tuples(st.just("inside"), st.sampled_from(sorted(MISTAKES_INSIDE))),
        st.tuples(st.just("outside"), st.sampled_from(sorted(MISTAKES_OUTSIDE))),
        st.tuples(st.just("outside"), st.sampled_from(sorted(MISTAKES_OUTSIDE))),
    ),
    min_size=4,
    max_size=12,
)


async def _coroutine(_: object) -> None:
    return None


def _window(*times: float) -> None:
    window = RestartWindow(Intensity(1, 10.0))
    for now in times:
        window.admit(now)


def _elsewhere(bench: Bench, call: Callable[[], Any]) -> Any:
    """As if it were called in another thread."""
    kernel, own = bench.kernel, bench.kernel.thread
    kernel.thread = kernel.dispatcher.thread = -1  # type: ignore[misc]
    try:
        return call()
    finally:
        kernel.thread = kernel.dispatcher.thread = own  # type: ignore[misc]


async def _later(bench: Bench, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    work = call()
    _elsewhere(bench, lambda: work.send(None))


async def play_mistakes(drawn: Any) -> None:
    """Every mistake is told, by its error, and changes nothing."""
    async with Kernel() as kernel:
        bench = Bench(kernel)
        await asyncio.sleep(0.001)
        await kernel.stop(bench.gone)
        for where, what in drawn:
            if where == "inside":
                said = await bench.ref.ask(Try(what))
                assert said == MISTAKES_INSIDE[what][1], f"{what}: {said}"
            else:
                await _outside(bench, what)
            assert (bench.cell.state, bench.cell.number, bench.cell.status) == ("running", 1, bench.other.status), what
            assert await bench.ref.ask(Try("idle off")) == "nothing"
        await asyncio.sleep(20)
        assert not any(entry[3].call for entry in kernel.timers._heap), "a timer by mistake"
        assert bench.cell.waiting == bench.other.waiting == 0
        assert not bench.other.watchers
        assert kernel.ref_of(bench.gone).tell(Try("")) == Refused("dead", "gone")
        assert kernel.ref_of(bench.cell).tell(Odd()) == Refused("unknown", "clumsy")
        await _changed(kernel)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"


async def _outside(bench: Bench, what: str) -> None:
    call, kind = MISTAKES_OUTSIDE[what]
    try:
        result = call(bench)
        if asyncio.iscoroutine(result):
            await result
    except Exception as error:
        if type(error) is not kind and (kind is UsageError or not isinstance(error, kind)):
            raise AssertionError(f"{what}: {error!r}") from error
    else:
        raise AssertionError(f"{what}: nothing was said")


async def _changed(kernel: Kernel) -> None:
    """What waits for an incarnation that has no handler for it any more is a dead letter, and its asker is told."""
    makes: list[Callable[[], Actor[Any]]] = [Other, lambda: Clumsy(bench)]
    bench: Any = None
    cell = kernel.spawn(lambda: makes.pop(0)(), name="changing", on_exit=lambda *_: None)
    await kernel.wait_started(cell)
    ref = kernel.ref_of(cell)
    kernel.halt(cell)
    await asyncio.sleep(0.001)
    before = len(kernel.telemetry.dead_letters())
    assert ref.tell(Odd())
    asking = asyncio.create_task(ref.ask(Odd()))
    await asyncio.sleep(0.001)
    kernel.restart(cell)
    await asyncio.wait([asking])
    assert isinstance(asking.exception(), NotHandled), asking
    letters = kernel.telemetry.dead_letters()[before:]
    assert [(type(letter.message), letter.reason) for letter in letters] == [(Odd, "unknown")] * 2, letters
