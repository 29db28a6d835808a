"""The processes around a killed one: the tool process, the model server, and the commands that clean up after it.

Tools and model run in the test's own process, so what they counted survives the kill. A *trap* kills the victim at a
chosen instant: when the nth call of a tool arrives or has been done, when the nth model request arrives or was
answered, or when the victim has committed its nth event of a kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.journal import decode_rows
from understudy.demo import policy, tools
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.model_server import ChatRequest, ModelServer

SUPPORT = Path(__file__).parent
DEADLINE = 300.0


@dataclass(frozen=True)
class Trap:
    """Kill at the `nth` (from 1) occurrence of `what`: a tool's name, "model", or an event's name.

    `slow`: seconds that the victim's disk takes longer for each write.
    """

    when: Literal["arrives", "done", "event"]
    what: str
    nth: int
    slow: float = 0.0

    def __str__(self) -> str:
        return f"{self.when}:{self.what}:{self.nth}" + (":slow" if self.slow else "")


@dataclass
class Yard:
    """What the outside processes know. `calls` are tool executions, `requests` model requests, in order."""

    site: Path
    out: Path
    journal: Path
    trap: Trap | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    victim: asyncio.subprocess.Process | None = None
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    env: dict[str, str] = field(default_factory=dict)

    def spring(self, when: str, what: str) -> bool:
        """Kill the victim if this is the trap's instant."""
        self.seen[when, what] += 1
        trap = self.trap
        if trap is None or self.killed.is_set() or (trap.when, trap.what) != (when, what):
            return False
        if self.seen[when, what] != trap.nth:
            return False
        assert self.victim is not None
        self.victim.send_signal(signal.SIGKILL)
        self.killed.set()
        return True

    async def serve_tool(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line = await reader.readline()
            if not line.endswith(b"\n"):
                return  # the victim died while it asked
            request = msgspec.json.decode(line)
            name = request["tool"]
            if not self.spring("arrives", name):
                answer = self._do(name, request["arguments"])
                if not self.spring("done", name):
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()

    def _do(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        have = tools.tools((str(self.site),))
        tool = {t.name: t for t in (*have.planner, *have.inspector, *have.reviewer)}[name]
        self.calls.append((name, msgspec.json.encode(arguments, order="sorted").decode()))
        bound, error = tool.bind(msgspec.json.encode(arguments).decode())
        assert bound is not None, error
        try:
            return {"result": tool.fn(**bound)}
        except LookupError as failed:
            return {"error": str(failed)}

    def answer_model(self, request: ChatRequest) -> Any:
        self.requests.append("model")
        self.spring("arrives", "model")
        answer = policy.policy(request)
        self.spring("done", "model")
        return answer

    async def start_victim(self) -> None:
        slow = {"KILL_SLOW": str(self.trap.slow)} if self.trap is not None and self.trap.slow else {}
        self.victim = await asyncio.create_subprocess_exec(
            sys.executable,
            str(SUPPORT / "kill_app.py"),
            str(self.journal),
            env={**self.env, **slow},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def watch_victim(self) -> str:
        """Follow the victim until it is killed or its run rests; its standard error."""
        victim = self.victim
        assert victim is not None
        assert victim.stdout is not None
        assert victim.stderr is not None
        errors = asyncio.create_task(victim.stderr.read())
        async with asyncio.timeout(DEADLINE):
            # What has no end of line was cut by the kill.
            while (told := await victim.stdout.readline()).endswith(b"\n"):
                line = told.decode().split()
                if line[0] == "0" or self.spring("event", line[1]):
                    break
        if victim.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                victim.kill()
        await victim.wait()
        return (await errors).decode()

    async def command(self, *argv: str) -> tuple[int, str, str]:
        """One `understudy` command in a process of its own: exit code, output, errors."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "understudy",
            *argv,
            "--journal",
            str(self.journal),
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def records(self) -> list[Record]:
        """The run's events as they are on the disk."""
        store = SQLiteStore(str(self.journal))
        await store.open(owner=False)
        try:
            runs = [head.run for head in await store.heads() if head.run != ev.NODE_STREAM]
            assert len(runs) == 1, runs
            return decode_rows(store.path, await store.read(runs[0]))
        finally:
            await store.aclose()


@contextlib.asynccontextmanager
async def yard(site: Path, at: Path, trap: Trap | None = None) -> AsyncIterator[Yard]:
    """The tool process and the model server, ready for a victim."""
    at.mkdir(parents=True, exist_ok=True)
    made = Yard(site, at / "audit.md", at / "j.db", trap)
    tool_server = await asyncio.start_server(made.serve_tool, "127.0.0.1", 0, limit=1 << 24)
    async with tool_server, ModelServer(made.answer_model) as model_server:
        host, port = tool_server.sockets[0].getsockname()
        made.env = {
            **os.environ,
            "KILL_SITE": str(site),
            "KILL_OUT": str(made.out),
            "KILL_MODEL": model_server.url,
            "KILL_TOOLS": f"{host}:{port}",
            "UNDERSTUDY_APP": "kill_app:team",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")])),
        }
        if trap is not None and trap.what == "write_report":
            made.env["KILL_YES"] = "1"
        try:
            yield made
        finally:
            if made.victim is not None and made.victim.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    made.victim.kill()
                await made.victim.wait()
