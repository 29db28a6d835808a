"""The house rules that no tool checks: the list of packages, the links, the commands, the lock files."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAPPED = {"actors": "understudy.actors", "supervisors": "understudy.supervisors", "transports": "understudy.transports"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SOURCES = [path for folder in ("understudy", *MAPPED) for path in sorted((ROOT / folder).rglob("*.py"))]


def packages_in_the_tree() -> set[str]:
    """The dotted name of every folder of ours that has an `__init__.py` (rglob does not enter symlinks)."""
    found = set()
    for folder in ("understudy", *MAPPED):
        for init in (ROOT / folder).rglob("__init__.py"):
            first, *rest = init.parent.relative_to(ROOT).parts
            found.add(".".join([MAPPED.get(first, first), *rest]))
    return found


def test_every_folder_with_an_init_is_listed_as_a_package() -> None:
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_in_the_tree()


def test_every_folder_with_code_has_an_init() -> None:
    assert {path.parent for path in SOURCES} == {path.parent for path in SOURCES if path.name == "__init__.py"}


def test_the_three_folders_are_linked_into_the_front_door() -> None:
    """Then `python -m understudy` in the repository root, mypy and pyright all see one whole package."""
    for folder in MAPPED:
        link = ROOT / "understudy" / folder
        assert link.is_symlink()
        assert os.readlink(link) == f"../{folder}"


def test_a_checkout_is_whole_without_the_help_of_an_installation() -> None:
    """`python -m understudy` in the root puts ./understudy first, whatever is installed: it must not lack a part."""
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]\n"
        "import understudy.supervisors, understudy.transports, understudy.actors.errors as e; print(e.__file__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert Path(done.stdout.strip()) == ROOT / "understudy" / "actors" / "errors.py"


@pytest.mark.parametrize("cwd", [ROOT / "tests", Path(ROOT.anchor)], ids=["tests", "elsewhere"])
def test_the_installed_package_is_this_checkout_from_anywhere(cwd: Path) -> None:
    code = "import understudy.actors.errors as e; print(e.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert Path(done.stdout.strip()).resolve() == ROOT / "actors" / "errors.py"


def test_no_module_is_loaded_twice_under_two_names() -> None:
    """ruff bans the bare folders as import roots; here nothing of ours may have got in by string."""
    ours = {name.partition(".")[0] for name, module in sys.modules.items() if lies_in_a_mapped_folder(module)}
    assert ours <= {"understudy"}


def lies_in_a_mapped_folder(module: object) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return False
    path = Path(file).resolve()
    return any(path.is_relative_to(ROOT / folder) for folder in ("understudy", *MAPPED))


def test_no_source_file_is_longer_than_500_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count for path in SOURCES if (count := len(path.read_bytes().splitlines())) > 500
    }
    assert long == {}


def test_the_test_command_of_the_readme_is_the_one_that_ci_runs() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command.endswith("pytest -q")
    assert command in code_lines(ROOT / "README.md")
    assert command in code_lines(ROOT / "docs" / "contributing.md")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_first_command_of_the_readme_is_the_demo() -> None:
    commands = [line for line in code_lines(ROOT / "README.md") if "pip install" in line]
    assert commands[0] == "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/understudy demo --yes"


def code_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("name", ["requirements-dev.lock", "requirements-oldest.lock"])
def test_a_lock_file_has_a_hash_for_every_pin_and_names_no_host_and_no_path(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    pins = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin.split()[0] for pin in pins if "==" not in pin.split()[0] or "--hash=sha256:" not in pin] == []
    assert re.findall(r"://|--index|--find-links|--extra|(?:^|[\s=])/\S+", text) == []


def test_the_lock_file_pins_every_declared_requirement() -> None:
    pinned = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements-dev.lock").read_text(encoding="utf-8"), re.MULTILINE)
    )
    extras = PROJECT["project"]["optional-dependencies"]
    groups = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *extras.values()]
    names = {re.split(r"[\[>=<~! ]", line)[0].replace("_", "-") for group in groups for line in group} - {"understudy"}
    assert names - pinned == set()


def test_the_core_requires_only_what_the_design_names() -> None:
    names = {re.split(r"[>=]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert names == {"aiosqlite", "anyio", "h11", "httpx", "msgspec", "typing_extensions"}


def test_what_a_package_exports_is_sorted_and_public() -> None:
    """`__all__` of every `__init__.py`, where there is one."""
    for path in SOURCES:
        if path.name == "__init__.py" and (names := dunder_all(path)) is not None:
            assert names == sorted(set(names)), path
            assert [name for name in names if name.startswith("_") and name != "__version__"] == [], path


def dunder_all(path: Path) -> list[str] | None:
    for node in ast.parse(path.read_bytes()).body:
        target = (
            node.targets[0]
            if isinstance(node, ast.Assign)
            else node.target
            if isinstance(node, ast.AnnAssign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node, ast.Assign | ast.AnnAssign):
            value: object = ast.literal_eval(node.value) if node.value else []
            assert isinstance(value, list | tuple)
            return [str(name) for name in value]
    return None
