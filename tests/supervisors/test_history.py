"""What supervisors remember of the process before: pure fold, and a real `kill -9`."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from crashing import CrashingModel
from hypothesis import given
from hypothesis import strategies as st

from understudy import Actor, Agent, Backoff, ChildSpec, Intensity, Message, Prompt, Supervisor, System
from understudy.actors.agents.outcomes import counted_of
from understudy.actors.journal import events as ev
from understudy.actors.lifecycle import Exit
from understudy.supervisors.history import History, Past
from understudy.supervisors.keeping import Record

BROKEN = Exit("error", "LookupError: broken")


class Break(Message[None]):
    pass


class Worker(Actor[Break]):
    def break_(self, m: Break) -> None:
        raise LookupError("broken")


def tree(**child: object) -> Supervisor:
    """Three restarts an hour, of the supervisor or of the child alone."""
    if child:
        spec = ChildSpec(Worker, name="w", intensity=Intensity(3, within=3600))
        return Supervisor("desk", [spec], intensity=Intensity(100, within=1), backoff=Backoff(first=0.001, cap=0.01))
    worker = ChildSpec(Worker, name="w")
    return Supervisor("desk", [worker], intensity=Intensity(3, within=3600), backoff=Backoff(first=0.001, cap=0.01))


async def break_it(system: System, path: str, times: int) -> None:
    """Let a child fail so often, each time waiting until it is up again."""
    for _ in range(times):
        ref = system.ref(path)
        before = system.inspect(ref).incarnation
        ref.tell(Break())
        async with asyncio.timeout(30):
            while system.inspect(ref).incarnation == before:  # noqa: ASYNC110  # bounded
                await asyncio.sleep(0)


async def victim(folder: Path) -> None:
    """One child of each kind fails three times; then the process is killed in the middle of things."""
    async with AsyncExitStack() as stack:
        for kind in ("plain", "alone", "spawned"):
            made = tree(alone=True) if kind == "alone" else tree()
            system = await stack.enter_async_context(System(made, journal=folder / f"{kind}.db"))
            if kind == "spawned":
                system.spawn(Worker, name="free")
            await break_it(system, "free" if kind == "spawned" else "w", 3)
            await system.journal.commit()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the journals of one process that was killed, by kind."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, __file__, str(folder)], timeout=120, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL
    return folder


async def gone(system: System, path: str) -> ev.AnyEvent:
    """Wait until an address is gone; the last event of the node."""
    async with asyncio.timeout(30):
        while system.kernel.registry.find(path) is not None:  # noqa: ASYNC110  # bounded
            await asyncio.sleep(0)
    await system.journal.commit()
    return (await system.journal.read(ev.NODE_STREAM))[-1].event


@pytest.mark.promise(293)
def test_a_crash_looping_child_gets_no_fresh_allowance_from_kill_9(killed: Path) -> None:
    journal = killed / "plain.db"

    async def main() -> None:
        async with System(tree(), journal=journal) as system:
            system.ref("w").tell(Break())
            last = await gone(system, "desk")
        assert isinstance(last, ev.GaveUp)
        assert (last.supervisor, last.child, last.alone) == ("desk", "desk/w", False)

    asyncio.run(main())


@pytest.mark.promise(293)
def test_a_child_with_an_intensity_of_its_own_is_set_aside_after_kill_9_and_its_supervisor_goes_on(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = killed / "alone.db"

    async def main() -> None:
        async with System(tree(alone=True), journal=journal) as system:
            system.ref("w").tell(Break())
            last = await gone(system, "desk/w")
            assert "desk/w stays stopped, more than 3 restarts in 3600 s" in caplog.text
            assert system.kernel.registry.find("desk") is not None
        assert isinstance(last, ev.GaveUp)
        assert last.alone

    asyncio.run(main())


@pytest.mark.promise(293)
def test_a_spawned_actor_keeps_its_failures_over_kill_9(killed: Path) -> None:
    journal = killed / "spawned.db"

    async def main() -> None:
        async with System(tree(), journal=journal) as system:
            system.spawn(Worker, name="free").tell(Break())
            told: ev.AnyEvent | None = None
            async with asyncio.timeout(30):
                while not isinstance(told, ev.GaveUp | ev.BackedOff):
                    await asyncio.sleep(0)
                    told = (await system.journal.read(ev.NODE_STREAM))[-1].event
        # Its window is 5 s, and the healthy period 15 s: the machine may have been too slow for the one, not for both.
        assert told.alone if isinstance(told, ev.GaveUp) else told.failures == 4

    asyncio.run(main())


def test_after_a_supervisor_has_given_up_the_next_process_begins_anew(tmp_path: Path) -> None:
    async def main() -> None:
        async with System(tree(), journal=tmp_path / "desk.db") as system:
            await break_it(system, "w", 3)
            system.ref("w").tell(Break())
            await gone(system, "desk")
        async with System(tree(), journal=tmp_path / "desk.db") as system:
            await break_it(system, "w", 3)
            assert system.kernel.registry.find("desk") is not None

    asyncio.run(main())


def test_restarts_of_an_agent_count_whatever_became_of_its_runs(tmp_path: Path) -> None:
    """They are in the streams of runs that have ended, which are not read again."""

    broken = RuntimeError("the adapter is broken")

    def desk() -> tuple[Agent[str, Prompt], Supervisor]:
        agent = Agent("a", model=CrashingModel([broken, broken, broken, "done"]))
        return agent, Supervisor("desk", [agent], intensity=Intensity(3, within=3600), backoff=Backoff(first=0.001))

    async def main() -> None:
        agent, tree = desk()
        async with System(tree, journal=tmp_path / "desk.db") as system:
            assert (await system.run(agent, "go")).status == "complete"
        agent, tree = desk()
        async with System(tree, journal=tmp_path / "desk.db") as system:
            result = await system.run(agent, "go")
        assert (result.status, "gave up" in result.reason) == ("stopped", True)

    asyncio.run(main())


# -- the fold ------------------------------------------------------------------------------------------------


def record(at: float, event: ev.AnyEvent) -> ev.Record:
    return ev.Record("@node", 1, at, at, 0, "", 0, 0, event)


def test_the_past_of_a_supervisor_is_taken_once_and_in_the_time_of_the_new_loop() -> None:
    events = [
        record(100.0, ev.BackedOff("desk", "desk/a", 2.0, 1, 1)),
        record(103.0, ev.BackedOff("desk", "desk/a", 4.0, 2, 2)),
    ]
    history = History(events, wall=110.0, now=5.0)
    past = history.take("desk")
    assert past.stamps == [-5.0, -2.0]
    assert (past.children["desk/a"].failures, past.children["desk/a"].up_at) == (2, 2.0)
    assert history.take("desk") == Past()


def test_a_wall_clock_that_was_set_back_puts_no_restart_into_the_future() -> None:
    history = History(
        [record(100.0 - n, ev.BackedOff("desk", "desk/a", 0.0, 1, 1)) for n in range(3)], wall=50.0, now=7.0
    )
    past = history.take("desk")
    assert past.stamps == [7.0, 7.0, 7.0]


def test_a_supervisor_that_ended_takes_its_history_and_that_of_those_below_with_it() -> None:
    kept = record(1.0, ev.BackedOff("top", "top/desk", 0.0, 1, 1))
    events = [
        record(1.0, ev.BackedOff("top/desk", "top/desk/a", 0.0, 1, 1)),
        record(1.0, ev.BackedOff("top/desk/in", "top/desk/in/b", 0.0, 1, 1)),
        kept,
        record(2.0, ev.ChildExited("top/desk", 1, BROKEN)),
    ]
    history = History(events, wall=3.0, now=3.0)
    assert history.take("top") != Past()
    assert (history.take("top/desk"), history.take("top/desk/in")) == (Past(), Past())


@pytest.mark.parametrize(
    ("up_for", "counts"), [(14.0, True), (16.0, False)], ids=["just restarted", "healthy for long"]
)
def test_failures_count_on_until_the_child_has_been_up_for_a_healthy_period(up_for: float, counts: bool) -> None:
    history = History([record(0.0, ev.BackedOff("desk", "desk/a", 3.0, 5, 1))], wall=3.0 + up_for, now=0.0)
    past = history.take("desk")
    kept = Record(0.0, None)
    kept.remember(past.children["desk/a"], Backoff(healthy=15.0), 0.0)
    assert kept.failures == (5 if counts else 0)


paths = st.sampled_from(["top", "top/desk", "top/desk/a", "top/b"])
happenings = st.one_of(
    st.builds(ev.BackedOff, paths, paths, st.floats(0, 9), st.integers(1, 9), st.just(1)),
    st.builds(ev.GaveUp, paths, paths, st.just(3), st.just(5.0), st.just(BROKEN), st.booleans()),
    st.builds(ev.Escalated, paths, paths, st.just(BROKEN)),
    st.builds(ev.ChildExited, paths, st.just(1), st.just(BROKEN)),
)


@given(st.lists(st.tuples(st.floats(0, 1e6), happenings)), st.floats(0, 1e6), st.floats(0, 1e6))
def test_what_is_remembered_of_a_restart_is_the_same_whether_it_was_in_a_run_or_not(
    told: list[tuple[float, ev.AnyEvent]], wall: float, now: float
) -> None:
    direct = [record(at, event) for at, event in told]
    through = [record(r.at, counted_of(r) or r.event) for r in direct]
    one, other = History(direct, wall=wall, now=now), History(through, wall=wall, now=now)
    for path in ("top", "top/desk", "top/desk/a", "top/b"):
        past = one.take(path)
        assert past == other.take(path)
        assert past.stamps == sorted(past.stamps)
        assert all(stamp <= now for stamp in past.stamps)


def test_the_end_of_a_stream_is_read_without_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        async with System(journal=tmp_path / "desk.db") as system:
            for number in range(30):
                system.journal.append(ev.NODE_STREAM, ev.ChildStarted("a", number))
            await system.journal.commit()
            ends = [record.event for record in await system.journal.recent(ev.NODE_STREAM, 2)]
            whole = await system.journal.recent(ev.NODE_STREAM, 1_000)
        assert ends == [ev.ChildStarted("a", 28), ev.ChildStarted("a", 29)]
        assert len(whole) >= 30

    asyncio.run(main())


if __name__ == "__main__":
    asyncio.run(victim(Path(sys.argv[1])))
