"""The import contracts of pyproject.toml hold, and each of them can fail: a planted breach is reported."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actors", "supervisors", "transports")
# contract, file that gets the line, the line
BREACHES = (
    ("layers", "actors/errors.py", "import understudy.supervisors.specs"),
    ("layers", "actors/errors.py", "import understudy.transports.models"),
    ("layers", "supervisors/specs.py", "import understudy.system"),
    ("layers", "transports/models/__init__.py", "import understudy.agent"),
    ("layers", "understudy/system.py", "import understudy.demo"),
    ("layers", "understudy/node.py", "import understudy.system"),
    ("front-door", "actors/errors.py", "from understudy import Agent"),
    ("front-door", "supervisors/specs.py", "import understudy"),
    ("operator", "supervisors/specs.py", "import understudy.transports.journals"),
    ("operator", "supervisors/guards/loops.py", "import understudy.transports.models"),
    ("operator-on-top", "supervisors/specs.py", "import understudy.supervisors.operator"),
    ("transports", "transports/models/__init__.py", "import understudy.supervisors.guards.loops"),
    ("edge-libraries", "actors/errors.py", "import httpx"),
    ("edge-libraries", "supervisors/operator/__init__.py", "import sqlite3"),
    ("extras", "actors/testing/__init__.py", "from hypothesis import strategies"),
    ("extras", "transports/testing/__init__.py", "import pytest"),
    ("extras", "understudy/pytest_plugin.py", "import hypothesis"),
    ("pure", "actors/agents/decide.py", "import time"),
    ("pure", "actors/journal/fold.py", "from datetime import datetime"),
    ("pure", "actors/lifecycle.py", "import asyncio"),
    ("pure", "actors/machine.py", "import time"),
    ("pure", "supervisors/backoff.py", "from random import random"),
    ("pure", "supervisors/guards/budgets.py", "import anyio"),
)


def lint(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run([*command, *options], cwd=root, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("contracts")
    shutil.copy2(ROOT / "pyproject.toml", root)
    for folder in (*FOLDERS, "understudy"):
        shutil.copytree(ROOT / folder, root / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@contextmanager
def planted(file: Path, line: str) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(before + b"\n" + line.encode() + b"\n")
    try:
        yield
    finally:
        file.write_bytes(before)


def test_an_untouched_copy_keeps_every_contract(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("contract", sorted({contract for contract, _, _ in BREACHES}))
def test_every_planted_breach_of_a_contract_is_reported(copy: Path, contract: str) -> None:
    breaches = [(file, line) for name, file, line in BREACHES if name == contract]
    with ExitStack() as stack:
        for file, line in breaches:
            stack.enter_context(planted(copy / file, line))
        done = lint(copy, "--contract", contract)
    assert "0 kept, 1 broken" in done.stdout, done.stdout + done.stderr
    assert [file for file, _ in breaches if f"{module(file)} ->" not in done.stdout] == []


def module(file: str) -> str:
    name = file.removeprefix("understudy/").removesuffix(".py").removesuffix("/__init__")
    return f"understudy.{name.replace('/', '.')}"


def test_the_breaches_try_every_contract() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[[tool.importlinter.contracts]]")[1:]
    ids = {entry.split('id = "')[1].split('"')[0] for entry in listed}
    assert {contract for contract, _, _ in BREACHES} == ids


@pytest.mark.parametrize(
    "statement", ["import actors", "from supervisors import specs", "import transports.models", "from . import x"]
)
def test_ruff_refuses_a_bare_folder_as_import_root(statement: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--output-format",
        "concise",
        "--stdin-filename",
        "actors/x.py",
        "-",
    ]
    done = subprocess.run(command, cwd=ROOT, input=f"{statement}\n", capture_output=True, text=True, check=False)
    assert "TID25" in done.stdout
