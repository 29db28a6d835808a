"""Watches from outside of actors, and dynamic supervisors: random moves, held against plain rules."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from players import look_between_turns
from supervised import Child, Desk, End, High
from supervisor_model import KINDS
from trees import settle

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, SpecError, UsageError, WatchTimeout
from understudy.actors.journal.events import ChildStarted
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.watching import Watch
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.handles import DynamicRef
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import ChildPlan
from understudy.supervisors.strategies import RESTART_TYPES

# -- watches ---------------------------------------------------------------------------------------------------

watch_moves = st.lists(
    st.one_of(
        st.tuples(st.just("end"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("next"), st.sampled_from([0.3, 1.0, 3.0])),
        st.tuples(st.just("next"), st.sampled_from([0.3, 1.0, 3.0])),
        st.tuples(st.just("add"), st.integers(0, 3)),
        st.tuples(st.just("give up"), st.integers(0, 3)),
        st.tuples(st.just("halt and give up"), st.integers(0, 3), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 0.5, 2.0])),
        st.just(("close",)),
        st.just(("all",)),
    ),
    max_size=14,
)
watched = st.tuples(st.sets(st.integers(0, 3)).map(sorted), watch_moves)


@dataclass(eq=False)
class Waiter:
    """Somebody who waits for the next notice."""

    until: float
    outcome: Any = None


@dataclass
class Rules:
    """What a watch gives to whom."""

    open: dict[int, None] = field(default_factory=dict[int, None])
    notices: deque[tuple[int, str]] = field(default_factory=deque[tuple[int, str]])
    waiting: deque[Waiter] = field(default_factory=deque[Waiter])
    numbers: list[int] = field(default_factory=lambda: [1, 1, 1, 1])
    gone: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, who: int) -> None:
        if who in self.gone:
            self.notices.append((who, self.gone[who]))
        else:
            self.open[who] = None
        self.settle()

    def ended(self, who: int, kind: str, *, final: bool) -> None:
        if who in self.open:
            del self.open[who]
            self.notices.append((who, kind))
        if final:
            self.gone[who] = "gone"
        self.settle()

    def settle(self) -> None:
        while self.waiting and self.notices:
            self.waiting.popleft().outcome = self.notices.popleft()
        if not self.open and not self.notices:
            while self.waiting:
                self.waiting.popleft().outcome = "UsageError"

    def next(self, until: float) -> Waiter:
        waiter = Waiter(until)
        self.waiting.append(waiter)
        self.settle()
        return waiter

    def close(self) -> None:
        self.open.clear()
        self.notices.clear()
        self.settle()

    def expire(self, now: float) -> None:
        for waiter in list(self.waiting):
            if waiter.until <= now:
                self.waiting.remove(waiter)
                waiter.outcome = "WatchTimeout"


class Mortal(Actor[End]):
    """Ends as it is told."""

    def end(self, m: End) -> None:
        if m.kind == "error":
            raise ValueError(m.detail)
        raise Leave(Exit(m.kind, m.detail))


async def play_watch(drawn: Any) -> None:
    """0 and 1 are restarted, 2 and 3 are not."""
    first, moves = drawn
    async with Kernel() as kernel:
        look_between_turns(kernel)
        loop = kernel.loop

        def again(cell: Cell, number: int, exit: Exit) -> None:
            kernel.will_restart(cell)
            kernel.restart(cell)

        cells = [kernel.spawn(Mortal, name=f"m{n}", on_exit=again if n < 2 else None) for n in range(4)]
        await asyncio.sleep(0.01)
        rules = Rules()
        watch = Watch(kernel, tuple(kernel.ref_of(cells[n]) for n in first), timeout=2.0)
        for n in first:
            rules.add(n)
        asked: list[tuple[Waiter, asyncio.Task[Any]]] = []
        shift = 0.0
        for move in moves:
            shift += 0.00037
            match move:
                case ("end", who, kind):
                    if kernel.ref_of(cells[who]).tell(End(KINDS[kind])):
                        await asyncio.sleep(0.001)
                        rules.ended(who, KINDS[kind], final=who >= 2)
                case ("next", seconds):
                    asked.append(
                        (rules.next(loop.time() + seconds + shift), asyncio.create_task(_next(watch, seconds + shift)))
                    )
                case ("all",):
                    asked.append((rules.next(loop.time() + 2.0), asyncio.create_task(_next(watch, None))))
                case ("add", who):
                    watch.add(kernel.ref_of(cells[who]))
                    rules.add(who)
                case ("give up", nth):
                    open_ = [(waiter, task) for waiter, task in asked if not task.done()]
                    if open_:
                        waiter, task = open_[nth % len(open_)]
                        task.cancel()
                        waiter.outcome = "CancelledError"
                        rules.waiting.remove(waiter)
                case ("halt and give up", who, nth):
                    _halt_and_give_up(kernel, cells[who], rules, asked, nth)
                    if who >= 2:
                        rules.gone[who] = "gone"
                case ("wait", seconds):
                    await _pass(rules, seconds + shift)
                case _:
                    watch.close()
                    rules.close()
            await _pass(rules, 0.001)
            _compare(rules, watch, asked)
        await _pass(rules, 10.0)
        _compare(rules, watch, asked)
        assert all(task.done() for _, task in asked), "somebody waits for ever"
        watch.close()
        assert len(watch) == 0
        assert not any(cell.watchers for cell in cells), "a closed watch watches"
        del loop._run_once  # type: ignore[attr-defined]  # as it was


def _halt_and_give_up(
    kernel: Kernel, cell: Cell, rules: Rules, asked: list[tuple[Waiter, asyncio.Task[Any]]], nth: int
) -> None:
    """The notice comes, and in the same moment somebody gives up who waits for it: it is the next one's."""
    open_ = [(waiter, task) for waiter, task in asked if not task.done()]
    chosen = open_[nth % len(open_)] if open_ else None
    alive = cell.state == "running"
    kernel.halt(cell, Exit("error", "halted"))
    if chosen is not None:
        chosen[1].cancel()
        chosen[0].outcome = "CancelledError"
        rules.waiting.remove(chosen[0])
    if alive:
        rules.ended(int(cell.label[1:]), "error", final=False)


async def _pass(rules: Rules, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(seconds)
    rules.expire(loop.time())


async def _next(watch: Watch, seconds: float | None) -> Any:
    try:
        down = await (watch.next(timeout=seconds) if seconds is not None else watch)
    except (WatchTimeout, UsageError, asyncio.CancelledError) as error:
        return type(error).__name__
    return int(down.path[1:]), down.kind


def _compare(rules: Rules, watch: Watch, asked: list[tuple[Waiter, asyncio.Task[Any]]]) -> None:
    for waiter, task in asked:
        outcome = task.result() if task.done() and not task.cancelled() else "CancelledError" if task.done() else None
        assert outcome == waiter.outcome, f"{outcome}, and not {waiter.outcome}"
    assert len(watch) == len(rules.open) + len(rules.notices)


# -- dynamic supervisors ---------------------------------------------------------------------------------------

NAMES = ("x", "y", "z")
dynamic_moves = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(NAMES), st.sampled_from([None, *RESTART_TYPES]), st.booleans()),
        st.tuples(st.just("start"), st.sampled_from(NAMES), st.sampled_from([None, *RESTART_TYPES]), st.booleans()),
        st.tuples(st.just("exit"), st.sampled_from(NAMES), st.integers(0, 3)),
        st.tuples(st.just("exit"), st.sampled_from(NAMES), st.just(2)),
        st.tuples(st.just("exit"), st.sampled_from(NAMES), st.just(2)),
        st.tuples(st.just("fail"), st.sampled_from(NAMES), st.integers(1, 2)),
        st.tuples(st.just("terminate"), st.sampled_from(NAMES)),
        st.tuples(st.just("stop"), st.sampled_from(NAMES)),
        st.tuples(st.just("wait"), st.integers(0, 12)),
    ),
    max_size=14,
)
dynamics = st.tuples(
    st.sampled_from(RESTART_TYPES),
    st.sampled_from([None, 0, 1, 3]),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, None, 0, 1, 2]),
    dynamic_moves,
)


@dataclass
class Kid:
    """One child, as the rules know it."""

    name: str
    restart: str
    window: Intensity | None = None
    state: str = "running"
    number: int = 1
    failures: int = 0
    failed_once: bool = False
    began: float = 0.0
    due: float | None = None
    stamps: list[float] = field(default_factory=list[float])


class DynamicModel:
    """Every child for itself; one that ends for good is gone."""

    def __init__(self, intensity: Intensity | None, backoff: Backoff) -> None:
        self.intensity, self.backoff = intensity, backoff
        self.kids: dict[str, Kid] = {}
        self.fails = dict.fromkeys(NAMES, 0)
        self.now = 0.0
        self.alive = True
        self.log: list[str] = []
        self.delays: list[float] = []
        self.stamps: list[float] = []
        self.together: int | None = None

    def same(self, log: list[str]) -> bool:
        end = self.together
        return log[:end] == self.log[:end] and sorted(log) == sorted(self.log)

    def up(self, kid: Kid) -> bool:
        if self.fails[kid.name]:
            self.fails[kid.name] -= 1
            return False
        kid.state = "running"
        self.log.append(f"desk/{kid.name} up #{kid.number}")
        return True

    def start(self, kid: Kid, *, by_hand: bool) -> bool:
        self.kids[kid.name] = kid
        if self.up(kid):
            return True
        if by_hand or kid.restart == "temporary":
            del self.kids[kid.name]
        else:
            self.failed(kid, "start")
        return False

    def exits(self, name: str, kind: str) -> None:
        kid = self.kids[name]
        self.log.append(f"desk/{name} {kind}")
        if kid.restart == "temporary" or (kid.restart == "transient" and kind in ("normal", "shutdown")):
            del self.kids[name]
        else:
            self.failed(kid, kind)

    def failed(self, kid: Kid, kind: str) -> None:
        while True:
            kid.state = "restarting"
            if kid.window is not None and not self._admit(kid.stamps, kid.window):
                del self.kids[kid.name]
                return
            if self.intensity is not None and not self._admit(self.stamps, self.intensity):
                self.end()
                return
            if not kid.failed_once:
                kid.failed_once, kid.began = True, self.now
            healthy = self.backoff.healthy or (self.backoff.first + self.backoff.cap) / 2
            if kind != "start" and self.now - kid.began >= healthy:
                kid.failures = 0
            delay = min(self.backoff.cap, self.backoff.first * 2**kid.failures) * 1.25
            kid.failures += 1
            self.delays.append(round(delay, 6))
            if delay:
                kid.due = self.now + delay
                return
            if self.again(kid):
                return
            kind = "start"

    def again(self, kid: Kid) -> bool:
        kid.number += 1
        kid.began, kid.due = self.now, None
        return self.up(kid)

    def _admit(self, stamps: list[float], intensity: Intensity) -> bool:
        stamps[:] = [stamp for stamp in stamps if self.now - stamp <= intensity.within] + [self.now]
        return len(stamps) <= intensity.restarts

    def end(self) -> None:
        """All at once: their order is not promised."""
        self.alive = False
        self.together = len(self.log)
        for kid in reversed(list(self.kids.values())):
            if kid.state == "running":
                self.log.append(f"desk/{kid.name} shutdown")

    def remove(self, name: str) -> None:
        kid = self.kids.pop(name)
        if kid.state == "running":
            self.log.append(f"desk/{name} shutdown")

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.alive:
            due = [(kid.due, n) for n, kid in enumerate(self.kids.values()) if kid.due is not None and kid.due <= until]
            if not due:
                break
            self.now, n = min(due)
            kid = list(self.kids.values())[n]
            if not self.again(kid):
                self.failed(kid, "start")
        self.now = until


async def play_dynamic(drawn: Any) -> None:
    """The moves, each held against the rules."""
    restart, limit, first, window, most, moves = drawn
    backoff = Backoff(first=first, factor=2, cap=8, jitter=0.5, healthy=10)
    intensity = None if limit is None else Intensity(limit, within=20)
    own = None if window is None else Intensity(window, within=15)
    async with Kernel() as kernel:
        look_between_turns(kernel)
        desk = Desk(kernel)
        model = DynamicModel(intensity, backoff)
        fails: dict[str, list[str]] = {name: [] for name in NAMES}
        template = ChildPlan("", Actor, restart, intensity=own)
        plan = DynamicPlan(template, intensity, backoff, High(), desk._observe, most)
        cell = await desk.start(lambda: DynamicActor(plan))
        handle = DynamicRef(kernel, "desk", None)
        for move in moves:
            model.now = kernel.loop.time()
            match move:
                case ("wait", seconds):
                    await asyncio.sleep(seconds)
                    model.pass_time(seconds)
                case ("start", name, kind, by_hand):
                    await _start(desk, handle, model, fails, (name, kind, by_hand, own, restart, most))
                case ("fail", name, count):
                    fails[name].extend(["no"] * count)
                    model.fails[name] += count
                case (_, name, *_) if name not in model.kids:
                    try:
                        await handle.terminate_child(name)
                    except UsageError:
                        continue
                    raise AssertionError(f"{name} is a stranger, and was terminated")
                case ("exit", name, kind):
                    if model.kids[name].state == "running":
                        desk.tell(f"desk/{name}", End(KINDS[kind]))
                        model.exits(name, KINDS[kind])
                case ("terminate", name):
                    model.remove(name)
                    await handle.terminate_child(name)
                case ("stop", name):
                    model.remove(name)
                    await kernel.stop(desk.cell(f"desk/{name}"))
            await settle()
            assert model.same(desk.log), (desk.log[-3:], model.log[-3:])
            assert desk.delays() == model.delays, (desk.delays(), model.delays)
            assert (cell.state == "running") == model.alive
            if not model.alive:
                assert kernel.registry.names() == ()
                break
            seen = {child.name: (child.state, child.incarnation, child.restart) for child in handle.children()}
            assert seen == {kid.name: (kid.state, kid.number, kid.restart) for kid in model.kids.values()}, seen
            actor = handle._actor()
            assert len(actor._records) <= len(model.kids)
            assert len(actor._plans) <= len(model.kids)
            assert not actor._by_hand
            told = {(event.child, event.number) for event in desk.events if isinstance(event, ChildStarted)}
            ups = {(line.split()[0], int(line.split("#")[1])) for line in desk.log if " up #" in line}
            assert {up for up in ups if up[1] > 1} <= told, "a start that nobody was told of"
        else:
            await kernel.stop(cell)
            model.end()
            assert model.same(desk.log), (desk.log[-3:], model.log[-3:])
        del kernel.loop._run_once  # type: ignore[attr-defined]  # as it was
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"
    assert not kernel.timers._heap, "timers are left"


async def _start(desk: Desk, handle: DynamicRef, model: DynamicModel, fails: Any, how: Any) -> None:
    name, kind, by_hand, own, restart, most = how
    kid = Kid(name, kind or restart, None if kind else own, began=model.now)
    plan = None if kind is None else ChildPlan(name, Actor, kind)
    full = most is not None and len(model.kids) >= most
    try:
        cell = handle._actor().begin(lambda: Child(desk, fails[name]), name, plan, by_hand=by_hand)
    except SpecError:
        assert name in model.kids, "the name is free"
        assert not full
        return
    except UsageError:
        assert full, "there is room"
        return
    assert name not in model.kids
    assert not full
    started = model.start(kid, by_hand=by_hand)
    try:
        if by_hand:
            await handle._wait_for(handle._actor(), cell)
    except ActorStopped:
        assert not started
    else:
        assert started or not by_hand
