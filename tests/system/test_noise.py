"""A hook that is no function of the state is found by `understudy replay` and named: by another process, with another
hash seed and another environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
HOOKS = {
    "instructions": "instructions (noisy.agent_of.<locals>.greeting) of agent '{name}'",
    "check": "check 'fits' (noisy.agent_of.<locals>.fits) of agent '{name}'",
    "loop_key": "loop_key of tool 'look' (noisy.agent_of.<locals>.<lambda>) of agent '{name}'",
    "window": "the window's rule Noisy of agent '{name}'",
}
STEADY = {"clock": False, "date": False, "set": True, "random": False, "environment": True}
"""Whether it says the same twice within one process."""

Found = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """By agent, what `understudy replay` of its run said in a process of its own."""
    folder = tmp_path_factory.mktemp("noise")
    path = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(SUPPORT)]

    def process(noise: str, seed: str, *arguments: str, stdin: str = "") -> str:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONHASHSEED": seed}
        return subprocess.run(
            [sys.executable, str(SUPPORT / "noisy.py"), str(folder / "desk.db"), *arguments],
            env={**environment, "NOISE": noise},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout

    runs = process("fair", "1")
    process("foul", "2", str(folder / "said.json"), stdin=runs)
    found: Found = {name: (code, said) for name, (code, said) in json.loads((folder / "said.json").read_text()).items()}
    assert len(found) == len(HOOKS) * len(STEADY)
    return found


@pytest.mark.promise(281)
@pytest.mark.parametrize("kind", STEADY)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_noisy_hook_is_found_and_named(hook: str, kind: str, replayed: Found) -> None:
    name = f"{hook}-{kind}"
    code, said = replayed[name]
    assert code == 5
    (line,) = [line.strip() for line in said.splitlines() if line.strip().startswith("from ")]
    assert line.startswith(f"from  {HOOKS[hook].format(name=name)}")
    assert ("not the same twice" in line) is not STEADY[kind]
