"""Promises and their tests belong together: each number has tests that carry it, and each named test is one of them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
PROMISES = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")


def promised() -> dict[int, list[str]]:
    """By number, the tests that the page names, as `tests/file.py::name`."""
    parts = re.split(r"^(\d+)\. ", PROMISES.split("\n## What is lost")[0], flags=re.MULTILINE)[1:]
    return {int(number): named_in(text) for number, text in zip(parts[::2], parts[1::2], strict=True)}


def named_in(text: str) -> list[str]:
    return re.findall(r"`(tests/[\w/]+\.py::\w+)`", text)


def numbers_of(node: ast.expr) -> list[int] | None:
    """What `pytest.mark.promise(1, 2)` marks; None for any other expression."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "pytest.mark.promise":
        return None
    numbers: list[object] = [ast.literal_eval(argument) for argument in node.args]
    assert numbers, "a mark without a number"
    return [number for number in numbers if isinstance(number, int)]


def of_the_module(node: ast.stmt) -> list[int]:
    """What `pytestmark = pytest.mark.promise(1)` says of every test of a file."""
    if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != "pytestmark":
        return []
    return numbers_of(node.value) or []


def marked_in(tree: ast.Module) -> Iterator[tuple[str, list[int]]]:
    """Every test of a file with the numbers it carries: a function, or what `TestName = mark(cases)` names."""
    whole = [number for node in tree.body for number in of_the_module(node)]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            marked = [numbers_of(each) for each in node.decorator_list]
            yield node.name, whole + [number for numbers in marked if numbers for number in numbers]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            yield node.targets[0].id, (numbers_of(value.func) if isinstance(value, ast.Call) else None) or []


def carried() -> dict[str, list[int]]:
    """By test, the numbers it carries. The files are read, not imported."""
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, numbers in marked_in(ast.parse(file.read_bytes())):
            if name.lower().startswith("test"):
                found[f"{file.relative_to(ROOT).as_posix()}::{name}"] = numbers
    return found


WRITTEN, CARRIED = promised(), carried()
BY_NUMBER: defaultdict[int, list[str]] = defaultdict(list)
for test, each in CARRIED.items():
    for number in each:
        BY_NUMBER[number].append(test)


def test_every_promise_is_carried_by_a_test() -> None:
    assert len(WRITTEN) > 100
    assert [number for number in WRITTEN if not BY_NUMBER[number]] == []


def test_every_number_that_a_test_carries_is_a_promise() -> None:
    assert {number: tests for number, tests in BY_NUMBER.items() if number not in WRITTEN} == {}


def test_every_mark_is_seen_by_reading() -> None:
    """A mark at a place that `marked_in` does not look at would carry nothing."""
    marks = seen = 0
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_bytes())
        whole = sum(bool(of_the_module(node)) for node in tree.body)
        marks += sum(isinstance(node, ast.expr) and numbers_of(node) is not None for node in ast.walk(tree)) - whole
        tree.body = [node for node in tree.body if not of_the_module(node)]
        seen += sum(1 for name, numbers in marked_in(tree) if numbers and name.lower().startswith("test"))
    assert marks == seen


def test_a_promise_names_a_test_and_that_test_carries_its_number() -> None:
    for number, tests in WRITTEN.items():
        assert tests, f"promise {number} names no test"
        for test in tests:
            assert number in CARRIED.get(test, ()), f"{test} does not carry promise {number}"


def test_a_number_is_given_once_and_shown_as_it_is_written() -> None:
    """Where a list is rendered, only its first number counts: within a section they must follow on each other."""
    given = re.findall(r"^(\d+)\. ", PROMISES, re.MULTILINE)
    assert len(given) == len(set(given))
    for section in PROMISES.split("\n## ")[1:]:
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", section, re.MULTILINE)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True, section[:40]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """Pages name tests as `tests/file.py` or `tests/file.py::test_name`."""
    text = page.read_text(encoding="utf-8")
    assert [test for test in named_in(text) if test not in CARRIED] == []
    assert [file for file in re.findall(r"`(tests/[\w/]+\.py)`", text) if not (ROOT / file).is_file()] == []
