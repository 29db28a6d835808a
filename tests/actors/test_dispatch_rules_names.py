"""Rule 10: private names of asyncio are tried before they are relied on, and the trial is tried by breaking them."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doers import Do, Run, alive, kernel_alone, me, ready_doer, run, way, workers

from understudy.actors import loop as dispatch
from understudy.actors import tasks
from understudy.actors.scheduling import Scheduler

__all__ = ["run", "way"]  # the fixtures

Way = Scheduler | None
ROOT = Path(__file__).resolve().parents[2]


async def never() -> None:
    await asyncio.get_running_loop().create_future()


# -- rule 10 ---------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
table = asyncio.tasks._current_tasks
def current(loop=None):
    return table.get(asyncio.get_running_loop() if loop is None else loop)
asyncio.current_task = asyncio.tasks.current_task = current  # asyncio itself goes on working, whatever is broken
BREAK
from understudy.actors import tasks
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message

class Do(Message[object]):
    what: str

class A(Actor[Do]):
    async def do(self, m: Do) -> object:
        task = asyncio.current_task()
        if m.what == "raise":
            raise ValueError("boom")
        if m.what == "wait":
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                pass
        return task is asyncio.current_task(), task.cancelling()

async def main() -> None:
    async with Kernel() as kernel:
        cell = kernel.spawn(A)
        ref = kernel.ref_of(cell)
        await kernel.wait_started(cell)
        print([await ref.ask(Do(what)) for what in ("now", "wait", "now", "wait")])
        try:
            await ref.ask(Do("raise"))
        except ActorStopped as error:
            print(type(error.__cause__))

asyncio.run(main())
print("inline", tasks.CURRENT is not None)
"""
RESULTS = "[(True, 0), (True, 0), (True, 0), (True, 0)]\n<class 'ValueError'>"
BREAKS = {
    "the table is not there": "del asyncio.tasks._current_tasks",
    "the table is another type": "asyncio.tasks._current_tasks = ()",
    "the table is a copy": "asyncio.tasks._current_tasks = dict(asyncio.tasks._current_tasks)",
    "entering is not there": "del asyncio.tasks._enter_task",
    "entering notes nothing": "asyncio.tasks._enter_task = lambda loop, task: None",
    "leaving is not there": "del asyncio.tasks._leave_task",
    "current_task looks elsewhere": """
there = lambda loop=None: current(loop) if isinstance(loop, asyncio.AbstractEventLoop | None) else None
asyncio.current_task = asyncio.tasks.current_task = there
""",
    "a future has no mark": """
class Bare:
    __class_getitem__ = classmethod(lambda cls, of: cls)
asyncio.Future = Bare
""",
}


def program(broken: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BREAK", broken)], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return "".join(line for line in done.stdout.splitlines(keepends=True) if "crashed" not in line)


@pytest.mark.promise(140)
def test_with_asyncio_as_it_is_asks_are_stepped_at_once_and_nothing_is_said() -> None:
    assert program("") == f"{RESULTS}\ninline True\n"


@pytest.mark.promise(140)
@pytest.mark.parametrize("what", BREAKS)
def test_with_an_asyncio_that_is_not_as_expected_asks_take_the_queue_and_a_warning_says_so(what: str) -> None:
    out = program(BREAKS[what])
    assert "asyncio's current tasks are not as expected" in out
    assert "every ask takes the queue" in out
    assert out.endswith(f"{RESULTS}\ninline False\n")


@pytest.mark.promise(140)
def test_the_self_test_leaves_no_trace() -> None:
    table = tasks.find_table()
    assert table is asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # what is tested
    assert table == {}


@pytest.mark.promise(140)
def test_without_the_table_every_ask_takes_the_queue_with_the_same_results(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "CURRENT", None)

    async def main() -> None:
        async with kernel_alone() as kernel:

            async def work() -> object:
                return me() in workers()

            ref = await ready_doer(kernel, work)
            turned: list[int] = []
            asyncio.get_running_loop().call_soon(turned.append, 1)
            assert await ref.ask(Do()) is True
            assert turned
            assert await alive(kernel)

    run(main)
