"""A supervisor with children whose every move is seen, in virtual time and with fixed dice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.journal.events import AnyEvent, BackedOff
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit, ExitKind
from understudy.actors.messages import Message
from understudy.actors.testing.simloop import SimClock, run
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.handles import SupervisorRef
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import RestartType
from understudy.supervisors.supervisor import ChildPlan, SupervisorActor, SupervisorPlan

MANY = Intensity(1_000, 1_000.0)
EXACT = Backoff(first=1.0, factor=2.0, cap=8.0, jitter=0.5, healthy=100.0)


class Middle:
    """Dice that always show the middle: no jitter at all."""

    def random(self) -> float:
        return 0.5


class High:
    def random(self) -> float:
        return 0.75


class End(Message[None]):
    kind: ExitKind
    detail: str = ""


class Echo(Message[str]):
    text: str


class Hang(Message[None]):
    pass


class Child(Actor[End | Echo | Hang]):
    def __init__(self, desk: Desk, fails: list[str] | None = None) -> None:
        self.desk = desk
        self.fails = fails if fails is not None else []

    async def on_start(self) -> None:
        if self.fails:
            raise LookupError(self.fails.pop(0))
        self.desk.say(f"{self.context.path} up #{self.context.incarnation}")

    async def on_stop(self, exit: Exit) -> None:
        self.desk.say(f"{self.context.path} {exit.kind}")

    def end(self, m: End) -> None:
        if m.kind == "error":
            raise ValueError(m.detail)
        raise Leave(Exit(m.kind, m.detail))

    def echo(self, m: Echo) -> str:
        self.desk.say(m.text)
        return m.text

    async def hang(self, m: Hang) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(10_000)
            except asyncio.CancelledError:
                continue


class Desk:
    """A supervisor with children, and what was seen of them."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.log: list[str] = []
        self.times: list[float] = []
        self.events: list[AnyEvent] = []

    def say(self, what: str) -> None:
        self.log.append(what)
        self.times.append(round(self.kernel.loop.time(), 6))

    def child(self, name: str, restart: RestartType = "permanent", **options: Any) -> ChildPlan:
        fails: list[str] = options.pop("fails", [])
        return ChildPlan(name, lambda: Child(self, fails), restart, **options)

    def plan(self, *children: ChildPlan, intensity: Intensity = MANY, **options: Any) -> Callable[[], SupervisorActor]:
        options = {"backoff": EXACT, "dice": Middle(), **options}

        def make() -> SupervisorActor:
            return SupervisorActor(SupervisorPlan(children, intensity, observe=self._observe, **options))

        return make

    def _observe(self, cell: Cell, make: Callable[[], AnyEvent], loud: bool) -> None:
        self.events.append(make())

    async def start(self, factory: Callable[[], Actor[Any]], name: str = "desk") -> Cell:
        cell = self.kernel.spawn(factory, name=name)
        await self.kernel.wait_started(cell)
        return cell

    def cell(self, path: str) -> Cell:
        cell = self.kernel.registry.find(path)
        assert cell is not None, f"no {path} among {self.kernel.registry.names()}"
        return cell

    def tell(self, path: str, message: Message[Any]) -> None:
        assert self.kernel.ref_of(self.cell(path)).tell(message)

    def handle(self, path: str = "desk") -> SupervisorRef:
        return SupervisorRef(self.kernel, path)

    def states(self, path: str = "desk") -> dict[str, str]:
        return {child.name: child.state for child in self.handle(path).children()}

    def delays(self) -> list[float]:
        return [round(event.delay, 9) for event in self.events if isinstance(event, BackedOff)]


def alone(main: Callable[[Desk], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Kernel(clock=SimClock()) as kernel:
            await main(Desk(kernel))
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert not kernel.timers._heap

    run(whole)
