"""Random programs against a supervisor under virtual time, and against a plain re-statement of OTP's rules."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervised import Desk, End, Middle, alone
from supervisor_model import KINDS, NAMES, Kid, Model

from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import STRATEGIES, RestartType, Strategy

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
