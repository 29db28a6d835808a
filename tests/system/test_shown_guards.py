"""Each guard, shown: the recorded journals of docs/why.md are replayed, explained, and made again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import shown
from shown_cast import CASES

from understudy.actors.testing.replays import read_history

pytestmark = pytest.mark.promise(247)
EACH = pytest.mark.parametrize("name", CASES)


@EACH
def test_the_page_prints_what_why_says_of_the_recorded_run(name: str) -> None:
    assert shown.why(name, shown.kept(name)) == shown.printed()[name]


@EACH
def test_todays_code_decides_the_recorded_run_as_it_was(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown.restored(shown.kept(name), Path("guard.db"))
    code, out, err = shown.command("replay", "@", "--journal", "guard.db", "--app", shown.app_of(name))
    assert (code, out) == (0, "identical\n"), err


@EACH
def test_a_run_of_today_is_explained_as_the_recorded_one(name: str) -> None:
    history = shown.recorded(CASES[name])
    assert shown.why(name, history) == shown.printed()[name]
    assert list(read_history(history)) == list(read_history(shown.kept(name)))


def test_the_page_shows_every_recording_and_every_recording_is_of_a_case() -> None:
    assert set(shown.printed()) == set(CASES) == {file.name.partition(".")[0] for file in shown.FOLDER.iterdir()}
    assert sum(file.stat().st_size for file in shown.FOLDER.iterdir()) < 300_000


def test_why_of_a_recording_says_the_same_from_a_terminal(tmp_path: Path) -> None:
    shown.restored(shown.kept("same"), tmp_path / "same.db")
    said = subprocess.run(
        [sys.executable, "-P", "-m", "understudy", "why", "--journal", "same.db"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert (said.returncode, said.stderr, said.stdout) == (0, "", shown.printed()["same"])
