"""Runs the tests on every supported Python found here, each on asyncio, in debug mode, and on uvloop;
and once, on the first of them, with the oldest versions of what the core requires.

    python3 tests/matrix.py [INTERPRETER ...] [-- PYTEST_ARGUMENT ...]

Without interpreters it takes python3.11, python3.12 and python3.13 from PATH and from pyenv. Each gets an
environment of its own, `.venv-3.x`. The last line is the verdict; the exit status is 1 if any run failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUPPORTED = ("3.11", "3.12", "3.13")
# name, interpreter flags, environment, pytest arguments. The house is the same on every loop: once is enough.
Round = tuple[str, list[str], dict[str, str], list[str]]
ROUNDS: tuple[Round, ...] = (
    ("asyncio", [], {}, []),
    ("debug", ["-X", "dev"], {"PYTHONASYNCIODEBUG": "1"}, ["--ignore=tests/house"]),
    ("uvloop", [], {"UNDERSTUDY_TEST_LOOP": "uvloop"}, ["--ignore=tests/house"]),
)
OLDEST: tuple[Round, ...] = (("oldest", [], {}, ["--ignore=tests/house"]),)


def version_of(python: str) -> str | None:
    """`3.x` if `python` starts, else None: a pyenv shim may be on PATH and lead nowhere."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def find(version: str) -> str | None:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)),
    ]
    return next((python for python in candidates if python and version_of(python) == version), None)


def prepare(python: str, name: str, *more: str) -> Path:
    """The environment `.venv-NAME`, made from the lock of the test command and, if given, more locks."""
    venv = ROOT / f".venv-{name}"
    inside = venv / "bin" / "python"
    pip = [str(inside), "-m", "pip", "install", "-q"]
    for command in (
        [python, "-m", "venv", str(venv)],
        [*pip, "-r", "requirements-dev.lock"],
        *([*pip, "-r", lock] for lock in more),
        [*pip, "--no-deps", "--no-build-isolation", "-e", "."],
    ):
        subprocess.run(command, cwd=ROOT, check=True)
    return inside


def run(python: Path, version: str, rounds: tuple[Round, ...], pytest_arguments: list[str]) -> list[str]:
    """The verdict of each round, as one line each."""
    lines = []
    for name, flags, environment, arguments in rounds:
        print(f"\n== Python {version}, {name}", flush=True)
        started = time.monotonic()
        status = subprocess.run(
            [str(python), *flags, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, *pytest_arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            check=False,
        ).returncode
        verdict = "passed" if status == 0 else f"FAILED ({status})"
        lines.append(f"{version:<6}{name:<9}{verdict:<12}{time.monotonic() - started:6.1f} s")
    return lines


def main(argv: list[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)
    given, pytest_arguments = argv[:split], argv[split + 1 :]
    if any(argument.startswith("-") for argument in given):
        print(__doc__)
        return 0 if given in (["-h"], ["--help"]) else 2
    pythons: dict[str, str] = {}
    for python in given:
        version = version_of(python)
        if version is None:
            print(f"matrix: {python!r} does not start", file=sys.stderr)
            return 2
        pythons[version] = python
    if not given:
        pythons = {version: found for version in SUPPORTED if (found := find(version)) is not None}
    missing = [version for version in SUPPORTED if version not in pythons]
    lines: list[str] = []
    for version, python in pythons.items():
        lines += run(prepare(python, version), version, ROUNDS, pytest_arguments)
    for version, python in list(pythons.items())[:1]:
        lines += run(prepare(python, "oldest", "requirements-oldest.lock"), version, OLDEST, pytest_arguments)
    failed = sum("FAILED" in line for line in lines)
    print("\n" + "\n".join(lines))
    not_tried = f", not found: {', '.join(missing)}" if missing else ""
    print(f"{len(lines) - failed} of {len(lines)} rounds passed{not_tried}")
    return 1 if failed or not lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
