"""The driver's side of the processes that run programs: start one, ask it for one run, end it by its id.

Every wait has a deadline. A worker that misses it, or says what it should not, is ended, and the run failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.case import Case

ROOT = Path(__file__).resolve().parent.parent
VENVS = Path(__file__).resolve().parent / ".venvs"
START_SECONDS = 60.0
END_SECONDS = 5.0
LINE_LIMIT = 1 << 20
"""Bytes of one answer."""

Reply = dict[str, Any]  # decoded JSON

PEERS = {
    "xoscar": "py311",
    "pykka": "py311",
    "autogen": "autogen",
    "eia": "py312",
    "langgraph": "agents",
    "dbos": "agents",
    "pydantic-ai": "agents",
    "openai-agents": "agents",
}
"""The environment of each Python peer, below `.venvs`."""
IMPLS = ("ours", "floor", "erlang", *PEERS)


class WorkerLost(Exception):
    """The process ended, said nothing in time, or said nonsense."""


class Missing(Exception):
    """What the implementation needs is not on this machine."""


class Worker(Protocol):
    """One implementation in its own process."""

    version: str
    python: str

    def run(self, case: Case, deadline: float) -> Reply:
        """One run within `deadline` seconds: `ok`, and `wall`, `cpu`, `rss_peak_kb`, `extra` or `error`."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class Pipe:
    """A child process that is spoken to in lines."""

    def __init__(self, command: list[str], env: dict[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=env
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def say(self, line: str) -> None:
        """Write one line. Raises `WorkerLost`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerLost(self._last_words() or str(error)) from error

    def hear(self, seconds: float) -> str:
        """Read one line within `seconds`. Raises `WorkerLost`."""
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise WorkerLost(f"no answer within {seconds:g} s")
            read = os.read(self._process.stdout.fileno(), 65536)
            if not read or len(self._rest) > LINE_LIMIT:
                raise WorkerLost(self._last_words() or "the process ended")
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("utf-8", "replace")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    def cpu_seconds(self) -> float:
        """CPU seconds of the process so far, all its threads."""
        return cpu_seconds_of(self.pid)

    def peak_rss_kb(self) -> int | None:
        """The most KiB that were ever resident in the process."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
        return None

    def close(self) -> None:
        """End the process: by the end of its input, else by signal."""
        process = self._process
        with contextlib.suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        ends: tuple[Callable[[], None], ...] = (lambda: None, process.terminate, process.kill)
        for end in ends:
            end()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
                break
        assert process.stdout is not None
        process.stdout.close()
        self._errors.close()


class PythonWorker:
    """`python -m benchmarks.worker`, in this interpreter or in a peer's environment."""

    def __init__(self, impl: str, loop: str = "asyncio") -> None:
        # The checkout, not a copy of it that may be installed.
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._pipe = Pipe([str(python_of(impl)), "-m", "benchmarks.worker", impl, loop], env)
        try:
            hello = self._read(START_SECONDS)
        except BaseException:
            self._pipe.close()
            raise
        self.version, self.python = str(hello["version"]), str(hello["python"])

    def _read(self, seconds: float) -> Reply:
        line = self._pipe.hear(seconds)
        try:
            reply: Reply = json.loads(line)
        except ValueError as error:
            raise WorkerLost(f"not JSON: {line[:80]!r}") from error
        return reply

    def run(self, case: Case, deadline: float) -> Reply:
        fields = ("name", "line", "args", "variant", "bug")
        request = {key: getattr(case, key) for key in fields} | {"deadline": deadline}
        self._pipe.say(json.dumps(request))
        return self._read(deadline)

    def close(self) -> None:
        self._pipe.close()


def python_of(impl: str) -> Path:
    """The interpreter that runs an implementation. Raises `Missing` for a peer that is not installed."""
    if impl not in PEERS:
        return Path(sys.executable)
    python = VENVS / PEERS[impl] / "bin" / "python"
    if not python.exists():
        raise Missing("peer not installed")
    return python


ERLANG = {
    ("pingpong", "tell"): "pingpong",
    ("pingpong", "ask"): "call",
    ("counting", "bounded-1000"): "counting",
    ("counting", "roomy"): "counting",
    ("threadring", "tell"): "threadring",
    ("fjcreate", "child"): "fjcreate",
    ("fjthrput", "send"): "fjthrput",
    ("chameneos", "tell"): "chameneos",
    ("big", "tell"): "big",
    ("concdict", "ask"): "concdict",
    ("uts", "tell"): "uts",
    ("skynet", "tell"): "skynet",
    ("crashstorm", "storm"): "supstorm",
    ("crashstorm", "flat"): "supstorm",
    ("density", "anonymous"): "density",
    ("stoptree", "spawned"): "stoptree",
    ("remote", "window-1"): "remote",
    ("remote", "window-64"): "remote",
    ("remote", "window-1-10kb"): "remote",
    ("remote", "window-64-10kb"): "remote",
    ("oneway", "send"): "oneway",
    ("slow", "roomy"): "slow",
}
"""The program for a line; it takes the line's arguments. A mailbox of Erlang's has no bound."""


class ErlangWorker:
    """`erl` with one scheduler. CPU is read from outside, at the two moments it names."""

    python = ""

    def __init__(self) -> None:
        if shutil.which("erl") is None or shutil.which("erlc") is None:
            raise Missing("erl is not installed")
        self._beams = tempfile.TemporaryDirectory()
        sources = [str(path) for path in sorted((Path(__file__).parent / "erlang").glob("*.erl"))]
        command = ["erlc", "-o", self._beams.name, *sources]
        compiled = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if compiled.returncode:
            raise Missing(f"erlc: {(compiled.stdout + compiled.stderr).strip().splitlines()[0]}")
        options = ["+S", "1:1", "+P", "4000000", "-noshell", "-pa", self._beams.name, "-s", "worker", "main"]
        between = ["-start_epmd", "false", "-erl_epmd_port", str(free_port())]  # for programs with a second node
        self._pipe = Pipe(["erl", *options, *between])
        try:
            self.version = "OTP " + self._pipe.hear(START_SECONDS).removeprefix("ready ")
        except BaseException:
            self.close()
            raise

    def run(self, case: Case, deadline: float) -> Reply:
        program = ERLANG.get((case.name, case.line))
        if program is None:
            return {"ok": None, "error": "not supported: no Erlang program"}
        self._pipe.say(" ".join([program, *map(str, case.args)]))
        said = self._pipe.hear(deadline)
        before = self._pipe.cpu_seconds()
        self._pipe.say("go")
        said = self._pipe.hear(deadline)
        cpu = self._pipe.cpu_seconds() - before
        if said == "ran":
            self._pipe.say("check")
            said = self._pipe.hear(deadline)
        word, _, rest = said.partition(" ")
        if word != "ok":
            return {"ok": False, "error": rest or said}
        wall, ops, told = rest.split(" ", 2)
        extra = dict(_number(pair) for pair in told.split() if "=" in pair)
        return {
            "ok": True,
            "wall": int(wall) / 1e6,
            "cpu": cpu + _elsewhere(extra, cpu, int(ops)),
            "ops": int(ops),
            "extra": extra,
            "rss_peak_kb": self._pipe.peak_rss_kb(),
        }

    def close(self) -> None:
        if hasattr(self, "_pipe"):
            self._pipe.close()
        self._beams.cleanup()


def _elsewhere(extra: dict[str, float], cpu: float, ops: int) -> float:
    """CPU seconds of a second node, which its program tells; both in microseconds an operation go to `extra`."""
    far = extra.pop("far_cpu_s", None)
    if far is None:
        return 0.0
    extra["near_cpu_us"], extra["far_cpu_us"] = round(cpu / ops * 1e6, 3), round(far / ops * 1e6, 3)
    return far


def cpu_seconds_of(pid: int) -> float:
    """CPU seconds of a process so far, all its threads: its clock as Linux numbers it."""
    return time.clock_gettime(((~pid) << 3) | 2)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _number(pair: str) -> tuple[str, float]:
    key, _, value = pair.partition("=")
    return key, float(value)


def start(impl: str, loop: str = "asyncio") -> Worker:
    """Start the worker of an implementation. Raises `Missing`, `WorkerLost`."""
    return ErlangWorker() if impl == "erlang" else PythonWorker(impl, loop)
