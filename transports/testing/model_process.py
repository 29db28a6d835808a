"""Start the model server as a process of its own and end it for sure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import anyio
import msgspec
from anyio.abc import Process
from msgspec import Struct

from understudy.actors.errors import UnderstudyError, UsageError

MODULE = "understudy.transports.testing.model_server"
_MAX_LINE = 65_536
_END_SECONDS = 2.0


class _FirstLine(Struct):
    url: str = ""
    error: str = ""


class ModelServerProcess:
    """A model server in its own process, while the block is open.

    It ends when the block is left, and also when this process dies: its standard input ends then. It is in a session
    of its own, so that ctrl-C in a terminal leaves it to its parent.

    Args:
        policy: `module:attribute`, importable by the new process.
        port: Default 0: a free one.
        latency: Seconds before each answer. Default 0.
        start_timeout: Seconds for it to start. Default 60.
        env: Its whole environment. Default: that of this process.

    Raises, when the block is entered, `UsageError` with the server's own text when it refuses to start, and
    `UnderstudyError` when it does not start in time.
    """

    def __init__(
        self,
        policy: str,
        *,
        port: int = 0,
        latency: float = 0.0,
        start_timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", MODULE, "--policy", policy]
        self._command += ["--port", str(port), "--latency", str(latency * 1000)]
        self._start_timeout = start_timeout
        self._env = env
        self._process: Process | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL for a client, ending in /v1. Raises `UsageError` while the server is not open."""
        if not self._url:
            raise UsageError("the model server is not open: use `async with`")
        return self._url

    @property
    def pid(self) -> int:
        """Its process id. Raises `UsageError` while the server is not open."""
        if self._process is None:
            raise UsageError("the model server is not open: use `async with`")
        return self._process.pid

    async def __aenter__(self) -> Self:
        self._process = process = await anyio.open_process(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            env=self._env,
            start_new_session=True,
        )
        try:
            with anyio.fail_after(self._start_timeout):
                first = await _first_line(process)
        except TimeoutError:
            await self._end()
            raise UnderstudyError(f"the model server did not start within {self._start_timeout:g} s") from None
        except BaseException:
            await self._end()
            raise
        if not first.url:
            await self._end()
            raise UsageError(f"the model server did not start: {first.error or 'it ended at once'}")
        self._url = first.url
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        """Close its standard input, then SIGTERM, then SIGKILL, each with a deadline; never leaves it running."""
        process, self._process, self._url = self._process, None, ""
        if process is None:
            return
        with anyio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            for harder in (process.terminate, process.kill):
                with anyio.move_on_after(_END_SECONDS):
                    await process.wait()
                if process.returncode is not None:
                    break
                harder()
            await process.aclose()


async def _first_line(process: Process) -> _FirstLine:
    assert process.stdout is not None  # it was opened with a pipe
    line = b""
    while b"\n" not in line and len(line) < _MAX_LINE:
        try:
            line += await process.stdout.receive()
        except anyio.EndOfStream:
            break
    try:
        return msgspec.json.decode(line.partition(b"\n")[0], type=_FirstLine)
    except msgspec.DecodeError:
        return _FirstLine(error=line.decode("utf-8", "replace")[:300])
