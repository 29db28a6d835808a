"""Operating a supervisor by hand: list, start, terminate, restart and delete children.

    team = system.supervisor("team")
    for child in team.children():
        print(child.name, child.state)
    await team.terminate_child("writer")          # stays stopped: never restarted, never counted
    await team.restart_child("writer")            # not counted either

What a person does is never counted in an intensity and never triggers an automatic shutdown. An operation acts at
the call; where it waits, it waits for what it began: cancelling the wait does not undo it. A handle is an address:
it stays good when the supervisor is restarted, and raises `ActorStopped` while that is down.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, overload

import anyio

from understudy.actors.actor import Actor
from understudy.actors.agents.agent import Agent
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import DECLINED, GONE
from understudy.actors.refs import Ref, check_seconds
from understudy.supervisors.dynamic import DynamicActor
from understudy.supervisors.keeping import Keeper
from understudy.supervisors.plans import ChildInfo, ChildPlan
from understudy.supervisors.specs import ChildSpec
from understudy.supervisors.supervisor import SupervisorActor

M = TypeVar("M")
A = TypeVar("A", bound=Keeper[Any])

REGROUP_SECONDS: Final = 30.0
"""How long a manual start waits for a group restart that goes on."""


class _Handle:
    """What both handles have."""

    def __init__(self, kernel: Kernel, path: str) -> None:
        self._kernel = kernel
        self._path = path

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._path}>"

    @property
    def path(self) -> str:
        """The address of the supervisor."""
        return self._path

    def _running(self, kind: type[A]) -> A:
        self._kernel.check_thread()
        cell = self._kernel.registry.find(self._path)
        life = cell.life if cell is not None else None
        actor = life.actor if life is not None else None
        if cell is None or cell.state not in ("running", "suspended") or not isinstance(actor, kind):
            raise ActorStopped(self._path, cell.exit if cell is not None else GONE)
        return actor

    async def _wait_for(self, actor: SupervisorActor | DynamicActor, cell: Cell) -> Ref[Any]:
        try:
            failed = await self._kernel.wait_started(cell)
        finally:
            actor.started(cell)
        if failed is not None and failed != DECLINED and (failed.kind == "start" or cell.state == "stopped"):
            raise ActorStopped(cell.path, failed)
        return self._kernel.ref_of(cell)


class SupervisorRef(_Handle):
    """The handle of a supervisor; see the module. `system.supervisor(name)` gives it."""

    def _actor(self) -> SupervisorActor:
        return self._running(SupervisorActor)

    def children(self) -> tuple[ChildInfo, ...]:
        """All children, in start order, stopped ones whose spec is kept too. Raises `ActorStopped`."""
        return self._actor().infos()

    async def terminate_child(self, name: str) -> None:
        """Stop a child for good; returns when it is gone. It is not restarted, and a pending restart is off.

        Its spec is kept, but a temporary child's. Raises `UsageError` for a stranger, `ActorStopped`.
        """
        await self._kernel.stop(self._actor().terminate(name))

    async def start_child(
        self, child: ChildSpec[M] | Callable[[], Actor[M]], *, timeout: float = REGROUP_SECONDS
    ) -> Ref[M]:
        """Start one more child, last in start order, and wait until it has started.

        It lives as long as this incarnation of the supervisor: a restarted one has the children of its description.
        While a group restart goes on this waits for its end, `timeout` seconds (default 30) at most (`AskTimeout`).
        A child that does not start is forgotten, and `ActorStopped` says why. Raises `SpecError` for a taken name.
        """
        plan = plan_of(child)
        actor = await self._settled(timeout)
        return cast("Ref[M]", await self._wait_for(actor, actor.add(plan)))

    async def restart_child(self, name: str, *, timeout: float = REGROUP_SECONDS) -> Ref[Any]:
        """Start a stopped child again and wait until it has started; it stays stopped if that fails.

        Waits as `start_child` does. Raises `UsageError` unless it is stopped, `ActorStopped` when it does not start.
        """
        actor = await self._settled(timeout)
        return await self._wait_for(actor, actor.start(name))

    def delete_child(self, name: str) -> None:
        """Forget the spec of a stopped child. Raises `UsageError` unless it is stopped."""
        self._actor().delete(name)

    async def _settled(self, timeout: float) -> SupervisorActor:
        check_seconds(self._path, timeout)
        with anyio.move_on_after(max(0.0, timeout)):
            while (over := self._actor().regrouping()) is not None:
                await asyncio.wait([over], timeout=0.5)  # looks whether the supervisor itself has ended
            return self._actor()
        raise AskTimeout(self._path, timeout)


class DynamicRef(_Handle):
    """The handle of a dynamic supervisor; see the module. `system.dynamic(name)` gives it."""

    def __init__(self, kernel: Kernel, path: str, template: Callable[..., Actor[Any]] | None) -> None:
        super().__init__(kernel, path)
        self._template = template

    def _actor(self) -> DynamicActor:
        return self._running(DynamicActor)

    def children(self) -> tuple[ChildInfo, ...]:
        """All children, in the order they were started. Raises `ActorStopped`."""
        return self._actor().infos()

    async def terminate_child(self, child: str | Ref[Any]) -> None:
        """Stop a child, by ref, name or path; returns when it is gone. A pending restart is off.

        Raises `UsageError` for a stranger, `ActorStopped`.
        """
        name = child if isinstance(child, str) else child.path
        await self._kernel.stop(self._actor().terminate(name))

    @overload
    async def start_child(self, child: None = None, *args: object, name: str = "") -> Ref[Any]: ...
    @overload
    async def start_child(self, child: ChildSpec[M] | Callable[[], Actor[M]], *, name: str = "") -> Ref[M]: ...
    async def start_child(
        self, child: ChildSpec[Any] | Callable[[], Actor[Any]] | None = None, *args: object, name: str = ""
    ) -> Ref[Any]:
        """Start a child and wait until it has started. One that does not start is removed: `ActorStopped` says why.

        `child` is a spec of its own, a factory that is kept as the template says, or None for the template's factory,
        which is called with `args` at each start. `name` is made up when left out. Raises `UsageError` past
        `max_children`, `SpecError` for a name that is taken.
        """
        actor = self._actor()
        return await self._wait_for(actor, self._begin(actor, child, args, name, by_hand=True))

    @overload
    def start_child_nowait(self, child: None = None, *args: object, name: str = "") -> Ref[Any]: ...
    @overload
    def start_child_nowait(self, child: ChildSpec[M] | Callable[[], Actor[M]], *, name: str = "") -> Ref[M]: ...
    def start_child_nowait(
        self, child: ChildSpec[Any] | Callable[[], Actor[Any]] | None = None, *args: object, name: str = ""
    ) -> Ref[Any]:
        """As `start_child` without waiting: a start that fails is then a failure like any other."""
        return self._kernel.ref_of(self._begin(self._actor(), child, args, name, by_hand=False))

    def _begin(
        self,
        actor: DynamicActor,
        child: ChildSpec[Any] | Callable[[], Actor[Any]] | None,
        args: tuple[object, ...],
        name: str,
        *,
        by_hand: bool,
    ) -> Cell:
        plan: ChildPlan | None = None
        if isinstance(child, ChildSpec):
            plan = plan_of(child)
            name, factory = name or child.name, plan.factory
        elif child is not None:
            if args:
                raise UsageError(f"{self._path}: arguments are for the template; bind them to the factory yourself")
            factory = child
        elif self._template is None:
            raise SpecError(f"{self._path}: no template; give start_child a spec or a factory")
        else:
            factory = self._template
        if "/" in name or name.startswith(("@", "$")):
            raise SpecError(f"{self._path}: child name {name!r}: no '/', and '@' and '$' do not begin it")
        return actor.begin(functools.partial(factory, *args) if args else factory, name, plan, by_hand=by_hand)


def plan_of(child: ChildSpec[Any] | Callable[[], Actor[Any]]) -> ChildPlan:
    """The plan of a child that is started by hand. Raises `SpecError` for agents and pools: those are in the tree."""
    spec = child if isinstance(child, ChildSpec) else ChildSpec(child)
    if isinstance(spec.child, Agent):
        raise SpecError(f"child {spec.name!r}: an agent is part of the tree from the start; use count= for more")
    if spec.count > 1:
        raise SpecError(f"child {spec.name!r}: count={spec.count}; start one child at a time")
    return spec.plan(spec.name, spec.child)
