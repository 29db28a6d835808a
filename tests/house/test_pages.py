"""The programs of the pages: each block that begins with an import runs, and prints what stands below."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from unhurried import complaints, hurried

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n((?:import|from) .*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
PROGRAMS = [
    pytest.param(program, said, id=f"{page.name}:{text[: found.start()].count(chr(10)) + 1}")
    for page in sorted((ROOT / "docs").glob("*.md"))
    for text in [page.read_text(encoding="utf-8")]
    for found in BLOCK.finditer(text)
    for program, said in [found.groups()]
]


def test_there_are_programs_to_run() -> None:
    assert len(PROGRAMS) >= 10


@pytest.mark.parametrize(("program", "said"), PROGRAMS)
def test_a_program_of_a_page_runs_as_printed(program: str, said: str | None, tmp_path: Path) -> None:
    assert said is not None, "show below the program what it prints, as ```text"
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-W", "error", str(file)],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if not hurried(done.stderr):
            break
    assert (done.returncode, complaints(done.stderr), done.stdout) == (0, "", said)
    assert {path.name for path in tmp_path.iterdir()} <= {"program.py", ".hypothesis"}  # which keeps what failed there
