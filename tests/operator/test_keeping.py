"""`understudy salvage` and `prune` as they are typed: data on stdout, a verdict on stderr, and an exit status."""

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from damages import write_sample
from recorded import record

from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.journal_kit import opened


def understudy(*argv: str | Path) -> tuple[int, list[str], list[str]]:
    command = [sys.executable, "-P", "-m", "understudy", *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    path = tmp_path / "desk.db"
    anyio.run(write_sample, path)
    return path


@pytest.mark.promise(265)
def test_what_was_kept_and_lost_is_said_for_each_stream(desk: Path) -> None:
    whole, new = desk.read_bytes(), desk.with_name("new.db")
    assert understudy("salvage", desk, "--to", new) == (
        0,
        [f"{run:<20}  {12:>9} kept  whole" for run in (f"{number:04x}" for number in range(8))],
        [f"{new}: 96 events of 8 runs kept, 0 lost; 12 words of the inbox, 3 values", f"{desk} is as it was"],
    )
    at = whole.index(b'{"at":4.5')
    desk.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
    new.unlink()
    code, out, err = understudy("salvage", desk, "--to", new, "--json")
    assert code == 4
    streams = [json.loads(line) for line in out]
    [hit] = [each for each in streams if each["lost"]]
    assert (hit["kept"], hit["lost"], hit["reason"]) == (4, 8, "event 5 does not verify")
    assert err[0].startswith(f"{new}: 88 events of 8 runs kept, 8 lost")
    assert err[1] == f"{desk} is as it was; runs that lost their end are parked: look, then resume them"
    code, _, err = understudy("log", hit["run"], "--journal", new)
    assert code == 1  # the sample's events are none of a run


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["salvage"], 2, "salvage: the following arguments are required: DAMAGED, --to"),
        (["salvage", "desk.db"], 2, "salvage: the following arguments are required: --to"),
        (["salvage", "desk.db", "--to", ""], 2, "journal '' is no file name"),
        (["salvage", "{desk}", "--to", "{desk}"], 2, "there is a file already; name a new one"),
        (["salvage", "nothing.db", "--to", "new.db"], 1, "nothing.db: cannot be read: No such file or directory"),
        (["salvage", "{desk}", "--to", "new.db", "--journal", "x"], 2, "unrecognized arguments: --journal x"),
        (["prune", "--journal", "{desk}"], 2, "prune: the following arguments are required: --ended-before"),
        (["prune", "--journal", "{desk}", "--ended-before", "30"], 2, "'30' is no age: a number and one of s, m, h"),
        (["prune", "--journal", "{desk}", "--ended-before", "-1d"], 2, "expected one argument"),
        (["prune", "--journal", "nothing.db", "--ended-before", "30d"], 2, "nothing.db: no such journal"),
    ],
)
def test_a_wrong_use_is_one_line(argv: list[str], code: int, text: str, desk: Path) -> None:
    found, out, err = understudy(*(each.format(desk=desk) for each in argv))
    assert (found, out, len(err)) == (code, [], 1)
    assert text in err[0]


@pytest.mark.promise(267)
def test_runs_that_ended_long_ago_are_removed_and_said(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(record, path)

    async def runs() -> list[str]:
        async with opened(SQLiteStore(path), owner=False) as store:
            return [head.run for head in await store.heads() if not head.run.startswith("@")]

    before = anyio.run(runs)
    assert understudy("prune", "--journal", path, "--ended-before", "1d")[::2] == (
        0,
        [f"{path}: 0 runs with 0 events removed"],
    )
    code, out, err = understudy("prune", "--journal", path, "--ended-before", "0s", "--dry-run", "--json")
    assert (code, anyio.run(runs)) == (0, before)
    would = [json.loads(line)["run"] for line in out]
    assert 0 < len(would) < len(before)
    assert "would be removed; " in err[0]
    assert err[0].endswith("that ended before then kept, others need them")
    code, out, err = understudy("prune", "--journal", path, "--ended-before", "0s")
    assert (code, out) == (0, [])
    assert f"{path}: {len(would)} runs with " in err[0]
    assert anyio.run(runs) == [run for run in before if run not in would]


def test_a_journal_in_use_is_not_pruned_by_another_process(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    anyio.run(record, path)

    async def main() -> tuple[int, list[str], list[str]]:
        async with opened(SQLiteStore(path)):
            return await anyio.to_thread.run_sync(understudy, "prune", "--journal", path, "--ended-before", "0s")

    assert anyio.run(main) == (
        1,
        [],
        [f"understudy: {path}: another live process owns it, or another store in this one"],
    )
