"""Supervised trees for the kill suite: random moves against a supervisor, held against the plain rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from supervised import Desk, Echo, End, High
from supervisor_model import KINDS, NAMES, Kid, Model

from understudy.actors.errors import ActorStopped
from understudy.actors.journal.events import ChildExited, ChildStarted, GaveUp
from understudy.actors.kernel import Kernel
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import AUTO_SHUTDOWNS, RESTART_TYPES, STRATEGIES

Op = tuple[str, str, int]
moves = st.one_of(
    st.tuples(st.just("exit"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("exit"), st.sampled_from(NAMES), st.just(2)),
    st.tuples(st.just("wait"), st.just("a"), st.integers(0, 12)),
    st.tuples(
        st.sampled_from(["fail next start", "terminate", "stop", "start", "delete", "add", "ask"]),
        st.sampled_from(NAMES),
        st.integers(1, 2),
    ),
)
kids = st.tuples(
    st.sampled_from(RESTART_TYPES), st.sampled_from([None, None, None, 0, 1, 2]), st.sampled_from([False, False, True])
)
trees = st.tuples(
    st.sampled_from(STRATEGIES),
    st.lists(kids, min_size=1, max_size=4),
    st.integers(0, 5),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from(AUTO_SHUTDOWNS),
    st.lists(moves, max_size=14),
)


async def settle() -> None:
    """Whatever can happen without time passing, or nearly."""
    await asyncio.sleep(1e-6)


class Match:
    """One supervisor, and the rules."""

    def __init__(self, desk: Desk, tree: Any) -> None:
        strategy, given, limit, first, auto, self.moves = tree
        self.desk = desk
        intensity = Intensity(limit, within=20)
        backoff = Backoff(first=first, factor=2, cap=8, jitter=0.5, healthy=10 if limit % 2 else None)
        self.fails: dict[str, list[str]] = {name: [] for name in NAMES}
        self.model = Model(strategy, intensity, backoff, {}, auto=auto, jitter=1.25)
        plans = []
        for name, (restart, window, significant) in zip(NAMES, given, strict=False):
            significant = significant and auto != "never" and restart != "permanent"
            own = None if window is None else Intensity(window, within=15)
            self.model.kids[name] = Kid(name, restart, window=own, significant=significant)
            plans.append(desk.child(name, restart, fails=self.fails[name], intensity=own, significant=significant))
        self.factory = desk.plan(
            *plans, strategy=strategy, intensity=intensity, backoff=backoff, dice=High(), auto_shutdown=auto
        )

    async def act(self, move: Op) -> None:
        what, name, n = move
        desk, model = self.desk, self.model
        model.now = desk.kernel.loop.time()
        if what == "wait":
            await asyncio.sleep(n)
            model.pass_time(n)
        elif what == "add" and name not in model.kids and model.group is None:
            await self.add(name)
        elif name not in model.kids:
            return
        elif what == "exit" and model.kids[name].state == "running":
            desk.tell(f"desk/{name}", End(KINDS[n]))
            model.exits(name, KINDS[n])
        elif what == "fail next start":
            self.fails[name].extend(["no"] * n)
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
        elif what == "ask" and model.kids[name].state == "restarting":
            await self.ask(name)
        await settle()
        model.settle()

    async def add(self, name: str) -> None:
        """Start one more child by hand; one that does not start is forgotten."""
        kid = Kid(name, "transient", number=0)
        kid.fails = len(self.fails[name])
        self.model.kids[name] = kid
        actor = self.desk.handle()._actor()
        plan = self.desk.child(name, "transient", fails=self.fails[name])
        if not self.model.up(kid):
            del self.model.kids[name]
        cell = actor.add(plan)
        failed = await self.desk.kernel.wait_started(cell)
        actor.started(cell)
        assert (failed is None) == (name in self.model.kids)

    async def ask(self, name: str) -> None:
        """Ask one that is between two incarnations not to wait."""
        try:
            await self.desk.kernel.ref_of(self.desk.cell(f"desk/{name}")).ask(Echo("?"), on_restart="fail")
        except ActorStopped:
            return
        raise AssertionError(f"{name} is down, and answers")

    def compare(self) -> None:
        """Hold what was done against the rules."""
        desk, model = self.desk, self.model
        assert desk.log == model.log, (desk.log[-3:], model.log[-3:])
        assert desk.delays() == model.delays, (desk.delays(), model.delays)
        cell = desk.kernel.registry.find("desk")
        assert (cell is not None and cell.state == "running") == model.alive
        if not model.alive:
            assert desk.kernel.registry.names() == ()
            return
        seen = {child.name: (child.state, child.incarnation) for child in desk.handle().children()}
        assert seen == {kid.name: (kid.state, kid.number) for kid in model.kids.values()}
        told = {(event.child, event.number) for event in desk.events if isinstance(event, ChildStarted)}
        ups = {(line.split()[0], int(line.split("#")[1])) for line in desk.log if " up #" in line}
        assert ups <= told, "a start that nobody was told of"
        ended = sum(isinstance(event, ChildExited) and not event.intended for event in desk.events)
        assert ended >= len(model.delays)
        assert not any(isinstance(event, GaveUp) and event.supervisor != "desk" for event in desk.events)


async def play(tree: Any, look: Callable[[Kernel], None]) -> None:
    """The tree's moves, each held against the rules."""
    async with Kernel() as kernel:
        look(kernel)
        desk = Desk(kernel)
        match = Match(desk, tree)
        cell = await desk.start(match.factory)
        match.model.log += [f"desk/{name} up #1" for name in match.model.kids]
        for move in match.moves:
            await match.act(move)
            match.compare()
            if not match.model.alive:
                break
        else:
            await kernel.stop(cell)
            match.model.end()
            assert desk.log == match.model.log
        if hasattr(kernel.loop, "_run_once") and "_run_once" in vars(kernel.loop):
            del kernel.loop._run_once
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, f"left: {asyncio.all_tasks()}"
    assert not kernel.timers._heap, "timers are left"
