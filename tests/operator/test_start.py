"""Commands that only look start fast: they load nothing that runs agents, and read no more than the run they show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import shown
from looked import cpu_seconds

HEAVY = (
    "aiosqlite",
    "asyncio",
    "dataclasses",
    "httpx",
    "importlib.metadata",
    "tomllib",
    "understudy.actors.agents.agent",
    "understudy.actors.agents.decide",
    "understudy.actors.journal.journal",
    "understudy.actors.kernel",
    "understudy.supervisors.guards",
    "understudy.supervisors.operator.answering",
    "understudy.system",
)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "desk.db"
    shown.restored(shown.kept("nudged"), path)
    return path


@pytest.mark.promise(288)
@pytest.mark.parametrize("command", ["tree", "log", "why"])
def test_a_command_that_only_looks_loads_nothing_that_runs_agents(command: str, journal: Path) -> None:
    code = (
        "import sys; from understudy.__main__ import main\n"
        f"assert main([{command!r}, '--journal', {str(journal)!r}]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.splitlines()[-1].split()
    assert "understudy.supervisors.operator.why" in loaded
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.promise(288)
@pytest.mark.parametrize("command", ["tree", "log", "why"])
def test_a_look_at_a_run_takes_little_of_the_cpu_start_up_included(command: str, journal: Path) -> None:
    """The promise is 250 ms on a quiet machine; the test allows a busy one four times that."""
    argv = ("-m", "understudy", command, "--journal", str(journal))
    assert min(cpu_seconds(*argv, compiled=journal.parent) for _ in range(3)) < 1.0


def test_the_front_door_loads_a_name_when_it_is_asked_for() -> None:
    code = (
        "import sys, understudy\n"
        "before = 'understudy.actors.agents.agent' in sys.modules\n"
        "from understudy import Agent, System\n"
        "missing = [name for name in understudy.__all__ if name not in dir(understudy)]\n"
        "print(before, Agent.__module__, System.__module__, missing)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "understudy.actors.agents.agent", "understudy.system", "[]"]


def test_a_name_that_there_is_not_is_refused_by_the_front_door() -> None:
    code = "import understudy; understudy.Nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "module 'understudy' has no attribute 'Nothing'" in done.stderr


def test_an_agent_runs_by_itself_whatever_was_imported_first() -> None:
    code = (
        "import asyncio\n"
        "from understudy.actors.agents.agent import Agent\n"
        "from understudy.actors.testing.scripted_model import ScriptedModel\n"
        "print(asyncio.run(Agent('clerk', model=ScriptedModel(['done'])).run('go')).status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "complete\n"
