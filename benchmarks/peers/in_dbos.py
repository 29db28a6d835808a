"""DBOS on SQLite: C6 and C7. A workflow for each agent, model and tool as steps; a yes is a message."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from importlib.metadata import version
from typing import Any

from dbos import DBOS, SetWorkflowID  # type: ignore[import-not-found, unused-ignore]

from benchmarks import approval, scripts
from benchmarks.approval_life import Life, Rest
from benchmarks.case import Case, Found, NotSupported

VERSION = f"dbos {version('dbos')}"
PATIENCE = 86_400.0
"""Seconds that an agent waits for its yes."""
POLL = 0.005
"""Seconds between two looks at who is parked."""


def program(case: Case) -> Callable[[Case], Awaitable[Found]]:
    """The program of a case. Raises `NotSupported`."""
    if case.name == "approval":
        return lambda case: approval.program("dbos", case)
    if case.name == "journal" and case.line == "normal":
        return _journal
    raise NotSupported("durable workflows, without agents or actors")


def _configure(name: str, file: str) -> None:
    url = f"sqlite:///{file}"
    DBOS(config={"name": name, "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})


async def _journal(case: Case) -> Found:
    """C7: model and tool as steps, each with a row of its own."""
    n, steps = case.args
    work = scripts.work_of(0)

    @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # typed where it is installed
    async def ask(i: int, k: int, last: str) -> Any:  # scripts.Said
        return scripts.say(i, k, steps, last)

    @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # typed where it is installed
    async def act(a: int) -> Any:  # what the tool answers
        return await work(a)

    @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    async def agent(i: int) -> int:
        last, k = "", 0
        while not isinstance(said := await ask(i, k, last), str):
            last, k = str(await act(said[1]["a"])), k + 1
        return int(said)

    async def play(many: int, mark: str) -> list[int]:
        handles = []
        for i in range(many):
            with SetWorkflowID(f"{mark}{i}"):
                handles.append(await DBOS.start_workflow_async(agent, i))
        return [await handle.get_result() for handle in handles]

    with tempfile.TemporaryDirectory() as folder:
        _configure("journal", f"{folder}/dbos.sqlite")
        DBOS.launch()
        try:
            await play(max(scripts.TEAM, n // 10), "w")  # a process warms up in itself
            scripts.forget()
            case.start()
            values = await play(n, "a")
            case.stop()
        finally:
            DBOS.destroy()
        with closing(sqlite3.connect(f"{folder}/dbos.sqlite")) as db:
            sql = "SELECT count(*) FROM operation_outputs WHERE function_name LIKE '%act' AND workflow_uuid LIKE 'a%'"
            (kept,) = db.execute(sql).fetchone()
    return scripts.finals(values) | {"read_back": kept}


class OnDbos:
    """See `approval_life.Runtime`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._parked: set[int] = set()
        self._handles: list[Any] = []
        self._workflow = self._workflow_of()

    def _workflow_of(self) -> Any:  # decorated by DBOS
        life = self._life

        @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # typed where it is installed
        async def ask(i: int, k: int, last: str) -> Any:  # scripts.Said
            return scripts.say(i, k, life.steps, last)

        @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]  # typed where it is installed
        async def act(i: int, k: int, a: int) -> int:
            life.log.happen(i, k)
            return scripts.answer(a)

        @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
        async def agent(i: int) -> int:
            last, k = "", 0
            while not isinstance(said := await ask(i, k, last), str):
                if k == life.half:
                    self._parked.add(i)
                    await DBOS.recv_async("yes", timeout_seconds=PATIENCE)
                    self._parked.discard(i)
                last, k = str(await act(i, k, said[1]["a"])), k + 1
            return int(said)

        return agent

    async def begin(self) -> None:
        """Start what was not started before; DBOS has taken up the rest by itself."""
        for i in range(self._life.n):
            with SetWorkflowID(str(i)):
                self._handles.append(await DBOS.start_workflow_async(self._workflow, i))

    async def _ended(self) -> int:
        return len(await DBOS.list_workflows_async(status="SUCCESS", load_input=False, load_output=False))

    async def rest(self) -> Rest:
        # Nobody is told of who waits: the workflows themselves say so, by what they have in memory.
        while len(self._parked) + (ended := await self._ended()) < self._life.n:  # noqa: ASYNC110
            await asyncio.sleep(POLL)
        return Rest(len(self._parked), ended, [])

    async def approve(self) -> bool:
        waiting = sorted(self._parked)
        await asyncio.gather(*(DBOS.send_async(str(i), True, "yes") for i in waiting))
        self._parked -= set(waiting)
        return True

    async def settle(self, doubt: str, did: bool) -> None:
        raise NotImplementedError("nothing is ever in doubt")

    async def finals(self) -> list[int]:
        return [await handle.get_result() for handle in self._handles]


@asynccontextmanager
async def runtime(life: Life) -> AsyncIterator[OnDbos]:
    """See `approval_life.RuntimeModule`."""
    _configure("approval", f"{life.folder / 'dbos.sqlite'}")
    on = OnDbos(life)
    DBOS.launch()
    try:
        await on.begin()
        yield on
    finally:
        DBOS.destroy()
