"""The wheel as a stranger gets it: built from a clean copy, installed with no extra, the sources out of reach."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "understudy": "understudy",
    **{name: f"understudy/{name}" for name in ("actors", "supervisors", "transports")},
}
COMMANDS = ("approve", "demo", "doubts", "log", "refuse", "replay", "resume", "tree", "why")
# The suite's own surroundings must not reach the installed copy.
ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} and not key.startswith(("UNDERSTUDY_", "OPENAI_"))
}


def run(*command: str | Path, cwd: Path, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
    """Run to the end within `timeout` seconds; a status other than 0 fails the test and shows both outputs."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def files_of_the_project() -> Iterator[str]:
    """What a commit would hold: tracked, and untracked but not ignored; without git, all but the ignored folders."""
    if (ROOT / ".git").exists():
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout
        yield from (name for name in listed.split("\0") if name and os.path.lexists(ROOT / name))
        return
    for path in ROOT.rglob("*"):
        name = path.relative_to(ROOT)
        if not path.is_dir() and not name.parts[0].startswith((".venv", "build")) and "__pycache__" not in name.parts:
            yield str(name)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("out")
    for name in files_of_the_project():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, copy, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and its requirements, no extra."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=True, symlinks=os.name != "nt")
    python = home / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", wheel, cwd=home)
    return python


@pytest.fixture
def command(installed: Path) -> Path:
    return installed.with_name("understudy")


def test_the_wheel_holds_every_module_of_the_tree_and_nothing_else(wheel: Path) -> None:
    expected = {"understudy/py.typed"}
    for folder, target in FOLDERS.items():
        expected |= {f"{target}/{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).rglob("*.py")}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_carries_its_licence_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        by_name = {name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "the understudy authors" in archive.read(by_name["licenses/LICENSE"]).decode()
        assert "understudy = understudy.__main__:main" in archive.read(by_name["entry_points.txt"]).decode()


def test_the_installed_copy_is_used_and_the_sources_are_out_of_reach(installed: Path, tmp_path: Path) -> None:
    code = "import json, sys, understudy, understudy.transports as t; print(json.dumps([t.__file__, sys.path]))"
    file, path = json.loads(run(installed, "-I", "-c", code, cwd=tmp_path).stdout)
    home = installed.parents[1]
    assert Path(file).is_relative_to(home)
    assert [entry for entry in path if Path(entry).is_relative_to(ROOT)] == []


UNIMPORTABLE = (".__main__", ".pytest_plugin", ".testing.strategies", ".testing.agent_strategies", ".testing.machine")
"""The command, and what needs the extra `testing`."""


def test_every_module_of_the_wheel_imports_with_the_core_requirements_alone(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    names = sorted(name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py"))
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in names]
    modules = [name for name in modules if not name.endswith(UNIMPORTABLE)]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    run(installed, "-I", "-W", "error", "-c", code, cwd=tmp_path)


def test_importing_understudy_loads_no_http_client_no_database_and_no_test_tool(
    installed: Path, tmp_path: Path
) -> None:
    code = "import json, sys, understudy; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    loaded = set(json.loads(run(installed, "-I", "-c", code, cwd=tmp_path).stdout))
    assert loaded & {"aiosqlite", "h11", "httpcore", "httpx", "hypothesis", "pytest", "rich", "sqlite3"} == set()


def test_importing_understudy_is_quick(installed: Path, tmp_path: Path) -> None:
    """The promise is 150 ms on a quiet machine; the test allows a busy one twice that, of CPU time."""
    code = "import time; a = time.process_time(); import understudy; print(time.process_time() - a)"
    best, tries = float("inf"), 0
    while tries < 5 or (best > 0.3 and tries < 20):  # slower while others use the same core
        best, tries = min(best, float(run(installed, "-I", "-c", code, cwd=tmp_path).stdout)), tries + 1
    print(f"import understudy: {best * 1000:.0f} ms of CPU time (best of {tries})")
    assert best <= 0.3


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_explains_itself_with_no_extra(command: Path, tmp_path: Path, name: str) -> None:
    arguments = [name, "--help"] if name else ["--help"]
    assert f"understudy {name}".strip() in run(command, *arguments, cwd=tmp_path).stdout


def test_the_demo_completes_from_the_wheel_with_no_extra(command: Path, tmp_path: Path) -> None:
    summary = json.loads(run(command, "demo", "--yes", "--json", cwd=tmp_path).stdout.splitlines()[-1])
    assert summary["status"] == "complete"
    assert summary["loops_caught"] >= 1
    assert summary["restarts"] >= 1
    assert Path(summary["report_path"]).exists() or (tmp_path / summary["report_path"]).exists()


def test_the_demo_finds_its_code_also_in_a_folder_that_has_one_named_like_it(command: Path, tmp_path: Path) -> None:
    """A process the demo starts must not pick up what lies in the working directory."""
    (tmp_path / "understudy").mkdir()
    (tmp_path / "understudy" / "__init__.py").write_text("raise SystemExit('a stranger was imported')\n")
    summary = json.loads(run(command, "demo", "--yes", "--json", cwd=tmp_path).stdout.splitlines()[-1])
    assert summary["status"] == "complete"
