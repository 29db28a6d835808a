"""Finding journals and apps, and resolving what people type."""

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from understudy.actors.errors import JournalForeign, JournalNewer, UnderstudyError, UsageError
from understudy.supervisors.operator.desk import ConnectOptions
from understudy.supervisors.operator.reading import Place, find_app, find_journal, reading

Make = Callable[..., Path]


def resolve(path: Path, *texts: str) -> list[Place | str]:
    async def look() -> list[Place | str]:
        found: list[Place | str] = []
        async with reading(str(path)) as reader:
            for text in texts:
                try:
                    found.append(reader.resolve(text))
                except UnderstudyError as error:
                    found.append(f"{type(error).__name__}: {error}")
        return found

    return anyio.run(look)


def test_runs_are_named_by_age_and_by_their_beginning(desk_db: Path) -> None:
    assert resolve(desk_db, "@", "@1", "@2", "c0f", "7f3a1111", "7f3b:12", ":3", "@2:1") == [
        Place("c0ffee00"),
        Place("c0ffee00"),
        Place("7f3b2222"),
        Place("c0ffee00"),
        Place("7f3a1111"),
        Place("7f3b2222", 12),
        Place("c0ffee00", 3),
        Place("7f3b2222", 1),
    ]


def test_what_is_ambiguous_unknown_or_malformed_is_said_in_one_line(desk_db: Path) -> None:
    found = resolve(desk_db, "7f3", "beef", "@9", "@0", "a b", "7f3a:x", "", "@@", "@٣")
    assert found[0] == "UsageError: run '7f3' is ambiguous: 7f3a, 7f3b"
    assert found[1] == f"UnknownRun: {desk_db}: no run 'beef'; newest: c0ff, 7f3b, 7f3a"
    assert found[2] == f"UnknownRun: {desk_db}: no run @9, the journal has 3"
    assert isinstance(found[3], str)
    assert found[3].startswith("UnknownRun")
    assert all(isinstance(each, str) and each.startswith("UsageError") for each in found[4:])


def test_an_empty_journal_has_no_newest_run(journal: Make) -> None:
    path = journal("empty.db")
    assert resolve(path, "@") == [f"UnknownRun: {path}: no run in this journal yet"]


def find(given: str | None, environ: dict[str, str], folder: Path) -> str:
    return anyio.run(find_journal, given, environ, folder)


def test_the_option_wins_over_the_environment_over_the_folder(desk_db: Path) -> None:
    folder = desk_db.parent
    assert find("a.db", {"UNDERSTUDY_JOURNAL": "b.db"}, folder) == "a.db"
    assert find(None, {"UNDERSTUDY_JOURNAL": "b.db"}, folder) == "b.db"
    assert find(None, {}, folder) == "desk.db"


def test_only_journals_count_in_the_folder(desk_db: Path) -> None:
    (desk_db.parent / "notes.db").write_text("no SQLite at all " * 100)
    (desk_db.parent / "empty.db").touch()
    (desk_db.parent / "folder.db").mkdir()
    assert find(None, {}, desk_db.parent) == "desk.db"


def test_several_journals_are_listed_and_none_is_said(desk_db: Path, journal: Make, tmp_path: Path) -> None:
    journal("other.db")
    with pytest.raises(UsageError, match=r"2 journals in this folder, choose one with --journal: desk\.db, other\.db"):
        find(None, {}, desk_db.parent)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no journal"):
        find(None, {}, tmp_path / "none")


def test_a_newer_journal_is_found_and_then_refused(newer_db: Path) -> None:
    assert find(None, {}, newer_db.parent) == "newer.db"
    with pytest.raises(JournalNewer, match="format version 99"):
        resolve(newer_db, "@")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no SQLite at all " * 100)
    with pytest.raises(JournalForeign):
        resolve(tmp_path / "notes.db", "@")
    for bad in ("missing.db", "nul\0.db"):
        with pytest.raises(UsageError):
            resolve(tmp_path / bad, "@")


def test_looking_neither_owns_nor_changes_a_journal(desk_db: Path) -> None:
    before = desk_db.read_bytes()
    resolve(desk_db, "@")
    assert desk_db.read_bytes() == before


def test_the_app_comes_from_option_environment_or_project(tmp_path: Path) -> None:
    assert find_app(None, {}, tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[tool.understudy]\napp = "shop.desk:tree"\n')
    assert find_app(None, {}, tmp_path) == "shop.desk:tree"
    assert find_app(None, {"UNDERSTUDY_APP": "env:app"}, tmp_path) == "env:app"
    assert find_app("given:app", {"UNDERSTUDY_APP": "env:app"}, tmp_path) == "given:app"


@pytest.mark.parametrize("app", ["", "desk", "desk:", ":tree", "a b:c", "a:b:c", "a..b:c", "os;x:y"])
def test_an_app_that_is_not_module_and_attribute_is_refused(app: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--app is"):
        find_app(app, {}, tmp_path)


@pytest.mark.parametrize(
    "text", ["[tool", "tool = 3", '[tool]\nunderstudy = "x"', "[tool.understudy]\napp = 3", "\xff"]
)
def test_a_broken_project_file_is_one_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        find_app(None, {}, tmp_path)


def test_the_demo_is_known_by_its_journal_and_other_apps_are_not() -> None:
    assert ConnectOptions("d.db", None, {"app": "understudy.demo"}).runnable
    assert not ConnectOptions("d.db", None, {"app": "shop.desk:tree"}).runnable
    assert ConnectOptions("d.db", "shop.desk:tree").runnable
