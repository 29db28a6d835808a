"""A run in one file: it replays and is explained without its journal, and opens to a prefix wherever it is cut."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest
import shown
from acted import Acted, script, words
from shown_cast import CASES, clerk

from understudy import Agent, Supervisor, System
from understudy.actors.testing.replays import check_history, read_history
from understudy.supervisors import tree

pytestmark = pytest.mark.promise(287)


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("UNDERSTUDY_JOURNAL", "UNDERSTUDY_APP"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "desk.db"
    shown.restored(shown.kept("nudged"), path)
    return path


def exported(journal: Path, *runs: str) -> Path:
    to = journal.parent / "desk.history"
    code, out, err = shown.command("export", *(runs or ("@",)), "--to", str(to), "--journal", str(journal))
    assert (code, out) == (0, ""), err
    assert "in clear" in err
    return to


def test_an_export_replays_with_the_test_kit_and_without_the_journal(journal: Path) -> None:
    to = exported(journal)
    journal.unlink()
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    found = check_history(to.read_bytes(), tree.plan(CASES["nudged"].tree()).policies)
    found.check()
    assert len(found.replayed) == 1
    changed = Supervisor("desk", [clerk([], instructions="Be short.")])
    other = check_history(to.read_bytes(), tree.plan(changed).policies)
    assert len(other.violations) == 1


def test_the_commands_that_look_say_of_an_export_what_they_say_of_its_journal(journal: Path) -> None:
    to = exported(journal)
    for command in ("log", "why", "tree", "log --raw", "why --json"):
        name, *options = command.split()
        code, out, _ = shown.command(name, "@", *options, "--journal", str(journal))
        again, same, _ = shown.command(name, "@", *options, "--journal", str(to))
        assert (code, again) == (0, 0)
        if name == "tree":  # the limits of its owners are kept beside the events
            assert [line.split()[0] for line in same.splitlines()] == [line.split()[0] for line in out.splitlines()]
        else:
            assert same.replace(to.name, journal.name) == out
    found = shown.command("replay", "--app", "shown_loops:nudged", "--journal", str(to))
    assert found[:2] == (0, "identical\n")
    assert shown.command("diff", "@", "@", "--journal", str(to))[:2] == (0, "identical\n")


def test_an_export_that_was_cut_opens_to_a_prefix(journal: Path) -> None:
    to = exported(journal)
    data = to.read_bytes()
    whole = len(next(iter(read_history(data).values())))
    for cut in range(40, len(data), 997):
        to.write_bytes(data[:cut])
        code, out, err = shown.command("log", "--raw", "--journal", str(to))
        if data[:cut].count(b"\n") < 2:
            assert (code, "no run in this journal yet" in err) == (2, True)
        else:
            assert (code, len(out.splitlines())) == (0, data[:cut].count(b"\n") - 1)
    assert len(data.splitlines()) - 1 == whole


def test_a_run_of_a_session_comes_with_those_whose_window_it_goes_on_with(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    agent = Agent("clerk", model=Acted(script(words("yes"))))

    async def talk() -> None:
        async with System(agent, journal=path) as system:
            for number in range(6):
                await system.run(agent, f"question {number}", session="s")

    asyncio.run(talk())
    counts: list[int] = []
    for number in range(1, 7):
        to = exported(path, f"@{number}")
        found = check_history(to.read_bytes(), tree.plan(tree.root_of(agent)).policies)
        found.check()
        counts.append(len(found.replayed))
        to.unlink()
    assert max(counts) > 1  # where the window was not written down whole


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["@:3", "--to", "new.history"], "export takes whole runs, '@:3' names an event"),
        (["zz", "--to", "new.history"], "no run 'zz'"),
        (["@"], "export: the following arguments are required: --to"),
        (["@", "--to", ""], "journal '' is no file name"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    journal: Path, argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journal.parent)
    code, out, err = shown.command("export", *argv, "--journal", str(journal))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
    assert not Path("new.history").exists()


def test_a_file_that_is_there_is_not_overwritten_and_a_history_is_only_read(journal: Path) -> None:
    to = exported(journal)
    before = to.read_bytes()
    code, _, err = shown.command("export", "@", "--to", str(to), "--journal", str(journal))
    assert (code, err) == (2, f"understudy: {to}: exists already; an export is a new file\n")
    code, _, err = shown.command("log", "--follow", "--journal", str(to))
    assert (code, "a history does not grow" in err) == (2, True)
    code, _, err = shown.command("resume", "--app", "shown_loops:nudged", "--journal", str(to))
    assert (code, len(err.splitlines())) == (2, 1)
    assert to.read_bytes() == before


def test_a_damaged_history_is_refused_with_the_place(journal: Path) -> None:
    to = exported(journal)
    lines = to.read_bytes().splitlines(keepends=True)
    to.write_bytes(b"".join([*lines[:4], lines[4].replace(b'"at":', b'"aT":'), *lines[5:]]))
    code, _, err = shown.command("log", "--journal", str(to))
    assert code == 1
    assert ":4" in err
    assert len(err.splitlines()) == 1
