"""The tutorial of the testing kit is one program: its files are written, changed and run as the page says.

```python file=NAME        writes a file
```python add=NAME         adds to its end
```diff file=NAME          changes it: the lines with "-" or " " must be in it, once; "@@" goes on elsewhere
```sh                      runs `$ pytest ...`
```text                    has to be in what that printed, but for times, addresses and hashes; "..." is any lines
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from unhurried import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing-tutorial.md"
BLOCK = re.compile(r"^```(\w+)(?: (file|add)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLED = any(
    each.value == "understudy.pytest_plugin"
    for found in importlib.metadata.distributions()
    for each in found.entry_points.select(group="pytest11")
)
OPTIONS = ["-p", "no:cacheprovider", "-p", "unhurried", "--hypothesis-seed=0"]
OPTIONS += [] if INSTALLED else ["-p", "understudy.pytest_plugin"]
VARIES = (
    (r"0x[0-9a-f]+", "0x"),
    (r"trace [0-9a-f]{16}, [\d,]+ events", "trace"),
    (r"last \d+ of [\d,]+ events", "events"),
    (r"w1:[\w-]+", "w1:"),
    (r" in [\d.]+s\b.*", " in time"),
    (r"[\d,]+ rounds", "rounds"),
    (r"[-=_]{3,}", "---"),
    (r"\s+", " "),
)


@pytest.mark.promise(204)
def test_the_tutorial_runs_as_printed(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    printed, runs = "", 0
    for found in BLOCK.finditer(text):
        language, how, name, body = found.groups()
        where = f"{PAGE.name}:{text[: found.start()].count(chr(10)) + 1}"
        if language == "python" and how is not None:
            with (tmp_path / name).open("a" if how == "add" else "w", encoding="utf-8") as file:
                file.write(body)
        elif language == "diff":
            change(tmp_path / name, body, where)
        elif language == "sh" and body.startswith("$ pytest "):
            printed, runs = run(body, tmp_path), runs + 1
        elif language == "text":
            compare(body, printed, where)
    assert runs >= 6
    program = (tmp_path / "box_office.py").read_text(encoding="utf-8").splitlines()
    assert len(program) <= 60, "the program of the tutorial is to stay small"


def change(file: Path, diff: str, where: str) -> None:
    """Put the new lines in the place of the old ones."""
    text = file.read_text(encoding="utf-8")
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        assert all(line[0] in "+- " for line in lines), where
        old = "".join(line[1:] for line in lines if line[0] != "+")
        new = "".join(line[1:] for line in lines if line[0] != "-")
        assert text.count(old) == 1, f"{where}: {text.count(old)} places in {file.name} have the old lines:\n{old}"
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def run(command: str, cwd: Path) -> str:
    """What pytest prints, with one seed for Hypothesis and without what the environment says of it."""
    argv = shlex.split(command.removeprefix("$ pytest "))
    kept = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "SYSTEMROOT", "TMPDIR")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *argv],
        cwd=cwd,
        env={name: os.environ[name] for name in kept if name in os.environ} | {"COLUMNS": "120"} | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def compare(said: str, printed: str, where: str) -> None:
    """Each part between two "..." is in what was printed, one after another."""
    rest = plain(printed)
    for part in re.split(r"^\s*\.\.\.\n", said, flags=re.MULTILINE):
        wanted = plain(part)
        _, there, rest = rest.partition(wanted) if wanted else ("", "nothing", rest)
        assert there, f"{where}: not printed (any more):\n{part}\nin\n{printed}"


def plain(text: str) -> str:
    """Lines without what differs from run to run."""
    lines = []
    for line in text.splitlines():
        for pattern, word in VARIES:
            line = re.sub(pattern, word, line)
        lines.append(line.strip())
    return "\n".join(lines).strip("\n")
