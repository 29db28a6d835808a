"""`kill -9` of a real process that keeps pages in SQLite: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import json
from posts import Left, faulty

APP = Path(__file__).parents[1] / "support" / "posting_app.py"
SECONDS = 60.0


def pages(told: Path) -> list[tuple[str, int]]:
    """The pages that were acknowledged; the last line may be cut."""
    lines = told.read_text().split("\n")[:-1] if told.exists() else []
    return [(by, int(number)) for by, number in (line.split() for line in lines)]


def run(journal: Path, told: Path, count: int, durability: str) -> subprocess.CompletedProcess[bytes]:
    """Run the process."""
    command = [sys.executable, str(APP), str(journal), str(told), str(count), durability]
    return subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)


@pytest.mark.promise(303, 304, 305)
@pytest.mark.parametrize("durability", ["full", pytest.param("normal", marks=pytest.mark.campaign)])
def test_of_a_killed_process_everything_acknowledged_is_done_once(tmp_path: Path, durability: str) -> None:
    journal, told = tmp_path / "pages.db", tmp_path / "told"
    for count in (20, 1):
        assert run(journal, told, count, durability).returncode == -signal.SIGKILL
    asked = run(journal, told, 0, durability)
    assert asked.returncode == 0, asked.stderr
    written, copied = json.decode(asked.stdout, type=tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]])
    assert len(pages(told)) >= 21
    assert faulty(Left(pages(told), written, copied, (), [])) == []
