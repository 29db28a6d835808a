"""Random programs against a supervisor under virtual time, and against a plain re-statement of OTP's rules."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervised import Desk, End, Middle, alone

from understudy.actors.lifecycle import ExitKind
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import STRATEGIES, RestartType, Strategy

NAMES = ("a", "b", "c", "d")
KINDS: tuple[ExitKind, ...] = ("normal", "shutdown", "error", "loop")


@dataclass
class Kid:
    name: str
    restart: RestartType
    state: str = "running"
    number: int = 1
    failures: int = 0
    began: float = 0.0
    fails: int = 0
    due: tuple[float, int] | None = None


@dataclass
class Model:
    """Starts and stops take no time here, so a group is only ever seen waiting."""

    strategy: Strategy
    intensity: Intensity
    backoff: Backoff
    kids: dict[str, Kid]
    now: float = 0.0
    alive: bool = True
    log: list[str] = field(default_factory=list[str])
    stamps: list[float] = field(default_factory=list[float])
    group: list[str] | None = None
    group_due: tuple[float, int] = (0.0, 0)
    held: set[str] = field(default_factory=set[str])
    seq: int = 0

    def up(self, kid: Kid) -> bool:
        kid.number += 1
        kid.began, kid.due = self.now, None
        if kid.fails:
            kid.fails -= 1
            return False
        kid.state = "running"
        self.log.append(f"desk/{kid.name} up #{kid.number}")
        return True

    def down(self, kid: Kid, why: str, state: str) -> None:
        self.log.append(f"desk/{kid.name} {why}")
        kid.state = state
        if kid.restart == "temporary":
            del self.kids[kid.name]

    def end(self) -> None:
        self.alive = False
        for kid in reversed(list(self.kids.values())):
            if kid.state == "running":
                self.log.append(f"desk/{kid.name} shutdown")

    def exits(self, name: str, kind: str) -> None:
        kid = self.kids[name]
        if kid.state != "running":
            return
        expected = kind in ("normal", "shutdown")
        if kid.restart == "temporary" or (kid.restart == "transient" and expected):
            self.down(kid, kind, "stopped")
            if self.group is not None:
                self.held.add(name)
            return
        self.down(kid, kind, "restarting")
        self.failed(kid, kind)

    def failed(self, kid: Kid, kind: str, retry: bool = False) -> None:
        kid.state = "restarting"
        self.stamps = [stamp for stamp in self.stamps if self.now - stamp <= self.intensity.within] + [self.now]
        if len(self.stamps) > self.intensity.restarts:
            self.end()
            return
        if kind != "start" and self.now - kid.began >= self.backoff.healthy_after:
            kid.failures = 0
        delay = min(self.backoff.cap, self.backoff.first * 2**kid.failures)
        kid.failures += 1
        self.seq += 1
        due = (self.now + delay, self.seq)
        if self.strategy == "one_for_one":
            kid.due = due
            return
        order = list(self.kids)
        members = order if self.strategy == "one_for_all" else order[order.index(kid.name) :]
        if self.group is not None:  # the larger range and the longer delay win
            old = [name for name in self.group if name in self.kids]
            members = max(members, old, key=len)
            due = (max(due[0], self.group_due[0]), self.seq)
        self.group, self.group_due = members, due
        if not retry:
            self.stop_members()

    def stop_members(self) -> None:
        for name in reversed(self.group or []):
            if name in self.kids and self.kids[name].state == "running":
                self.down(self.kids[name], "shutdown", "restarting")

    def go(self) -> bool:
        """The next thing that is due; False when there is none now."""
        due = [(kid.due, kid) for kid in self.kids.values() if kid.due is not None]
        if self.group is not None and self.group_due[0] <= self.now:
            self.start_group()
            return True
        due = [pair for pair in due if pair[0][0] <= self.now]
        if not due:
            return False
        kid = min(due, key=lambda pair: pair[0])[1]
        if not self.up(kid):
            self.failed(kid, "start")
        return True

    def start_group(self) -> None:
        members, held = self.group or [], self.held
        self.stop_members()  # a retry's
        self.group = None
        for name in members:
            kid = self.kids.get(name)
            if kid is None or name in held or kid.state == "running":
                continue
            if not self.up(kid):
                self.failed(kid, "start", retry=True)
                return
        self.held = set()

    def settle(self) -> None:
        while self.alive and self.go():
            pass

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.alive:
            self.settle()
            times = [kid.due[0] for kid in self.kids.values() if kid.due is not None]
            times += [self.group_due[0]] if self.group is not None else []
            times = [time for time in times if time <= until]
            if not times:
                break
            self.now = min(times)
        self.now = until

    def terminate(self, name: str) -> None:
        kid = self.kids[name]
        if kid.state == "running":
            self.log.append(f"desk/{name} shutdown")
        kid.state, kid.due = "stopped", None
        if kid.restart == "temporary":
            del self.kids[name]
        if self.group is not None:
            self.held.add(name)

    def start(self, name: str) -> None:
        kid = self.kids[name]
        if kid.state == "stopped" and self.group is None and not self.up(kid):
            kid.state = "stopped"


Op = tuple[str, str, int]
OPS = st.one_of(
    st.tuples(st.just("exit"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("exit"), st.sampled_from(NAMES), st.just(2)),
    st.tuples(st.just("wait"), st.just("a"), st.integers(0, 12)),
    st.tuples(
        st.sampled_from(["fail next start", "terminate", "stop", "start", "delete"]),
        st.sampled_from(NAMES),
        st.integers(1, 2),
    ),
)


async def settle() -> None:
    for _ in range(80):
        await asyncio.sleep(0)


async def act(desk: Desk, model: Model, fails: dict[str, list[str]], op: Op) -> None:
    what, name, n = op
    if what == "wait":
        await asyncio.sleep(n)
        model.pass_time(n)
    elif name not in model.kids:
        return
    elif what == "exit" and model.kids[name].state == "running":
        desk.tell(f"desk/{name}", End(KINDS[n]))
        model.exits(name, KINDS[n])
    elif what == "fail next start":
        fails[name].extend(["no"] * n)
        model.kids[name].fails += n
    elif what == "terminate":
        model.terminate(name)
        await desk.handle().terminate_child(name)
    elif what == "stop" and model.kids[name].state == "running":  # by somebody who knows nothing of the supervisor
        model.terminate(name)
        await desk.kernel.stop(desk.cell(f"desk/{name}"))
    elif what == "start" and model.kids[name].state == "stopped" and model.group is None:
        model.start(name)
        task = asyncio.create_task(desk.handle().restart_child(name))
        await asyncio.wait([task])
        assert (task.exception() is None) == (model.kids[name].state == "running")
    elif what == "delete" and model.kids[name].state == "stopped":
        del model.kids[name]
        desk.handle().delete_child(name)
    await settle()
    model.settle()


def states(model: Model) -> dict[str, tuple[str, int]]:
    return {kid.name: (kid.state, kid.number) for kid in model.kids.values()}


@pytest.mark.promise(30, 31, 32, 35, 36, 37, 41, 42)
@settings(max_examples=250, deadline=None)
@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.sampled_from(["permanent", "transient", "temporary"]), min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.lists(OPS, max_size=14),
)
def test_a_supervisor_does_what_a_plain_statement_of_the_rules_does(
    strategy: Strategy, restarts: list[RestartType], limit: int, first: float, ops: list[Op]
) -> None:
    async def main(desk: Desk) -> None:
        intensity = Intensity(limit, within=20)
        backoff = Backoff(first=first, factor=2, cap=8, jitter=0, healthy=10)
        fails: dict[str, list[str]] = {name: [] for name in NAMES}
        kids = {name: Kid(name, restart) for name, restart in zip(NAMES, restarts, strict=False)}
        model = Model(strategy, intensity, backoff, kids)
        children = [desk.child(kid.name, kid.restart, fails=fails[kid.name]) for kid in kids.values()]
        plan = desk.plan(*children, strategy=strategy, intensity=intensity, backoff=backoff, dice=Middle())
        cell = await desk.start(plan)
        model.log += [f"desk/{name} up #1" for name in kids]
        for op in ops:
            await act(desk, model, fails, op)
            assert desk.log == model.log
            assert (cell.state == "running") == model.alive
            if not model.alive:
                assert desk.kernel.registry.names() == ()
                return
            seen = {child.name: (child.state, child.incarnation) for child in desk.handle().children()}
            assert seen == states(model)
        await desk.kernel.stop(cell)
        model.end()
        assert desk.log == model.log

    alone(main)
