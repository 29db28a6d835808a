"""The example with two nodes prints what its page says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_nodes_send_ask_and_lose_each_other() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "nodes.py")], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["sent True", "asked 42", "lost no-connection", "refused False"]
