"""`python -m benchmarks.peers.setup`: make the environments of the peers, with pinned versions.

`PYTHON311` and `PYTHON312` name the interpreters, default `python3.11` and `python3.12` on the path. An environment
that exists is brought to the pins. Exit 1 when an interpreter or a package is missing; the
others are made all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VENVS = Path(__file__).resolve().parent.parent / ".venvs"
PINS = {
    "py311": ("python3.11", ("xoscar==0.12.2", "pykka==4.5.0")),
    "py312": ("python3.12", ("everything-is-an-actor==0.1.6", "uvloop==0.23.0")),
    "autogen": ("python3.11", ("autogen-core==0.7.5", "autogen-ext[grpc]==0.7.5", "uvloop==0.23.0")),
    "agents": (
        "python3.11",
        (
            "langgraph==1.2.22",
            "langchain-core==1.7.2",
            "langgraph-checkpoint-sqlite==3.1.2",
            "dbos==3.4.0",
            "pydantic-ai-slim==2.68.0",
            "openai-agents==0.24.0",
            "openai==3.54.0",
            "pydantic==2.14.3",
            "uvloop==0.23.0",
        ),
    ),
}
SECONDS = 900.0


def make(name: str) -> None:
    """Make one environment. Raises `OSError` or `subprocess.SubprocessError`."""
    python, packages = PINS[name]
    python = os.environ.get(python.replace("python3.", "PYTHON3"), python)
    home = VENVS / name
    if not (home / "bin" / "python").exists():
        subprocess.run([python, "-m", "venv", str(home)], check=True, timeout=SECONDS)
    subprocess.run([str(home / "bin" / "python"), "-m", "pip", "install", "-q", *packages], check=True, timeout=SECONDS)


def main() -> int:
    """Make all; the exit status."""
    failed = 0
    for name, (_, packages) in PINS.items():
        try:
            make(name)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"{VENVS / name}: {', '.join(packages)}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
