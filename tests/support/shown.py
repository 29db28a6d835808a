"""The guards, each shown in a recorded journal: record them, put them back into a journal, and print the page.

    python tests/support/shown.py           # record all of tests/data/guards anew, and print docs/why.md anew
    python tests/support/shown.py NAME …    # these only

A recording is a history (see `understudy.actors.testing.replays`) under gzip: real runs of the trees in
`shown_budgets`, `shown_loops` and `shown_rest`, on a real SQLite file, with virtual time and ids that are made from
the name.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import shown_budgets as shown_budgets
import shown_loops as shown_loops
import shown_rest as shown_rest
from shown_cast import CASES, Shown

from understudy import System, __main__
from understudy.actors.journal.events import is_run
from understudy.actors.testing.replays import record_history, write_history
from understudy.actors.testing.simloop import SimClock, run
from understudy.transports.journals.sqlite import SQLiteStore
from understudy.transports.testing.inline_sqlite import inline_sqlite

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "tests" / "data" / "guards"
PAGE: Final = ROOT / "docs" / "why.md"
BLOCK: Final = re.compile(r"^(```\n\$ understudy why --journal (\w+)\.db\n)(.*?)(^```\n)", re.MULTILINE | re.DOTALL)
"""A shown guard on the page: what stands before the lines, its name, the lines, and the end."""


class NamedIds:
    """Ids of runs that are made from a name: the same at each recording, and different from each other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def run(self) -> str:
        self._count += 1
        return sha256(f"{self._name} {self._count}".encode()).hexdigest()[:8]


def recorded(case: Shown) -> bytes:
    """The history of a case, played now."""
    with tempfile.TemporaryDirectory() as folder, inline_sqlite():
        path = Path(folder) / f"{case.name}.db"

        async def main() -> bytes:
            clock = SimClock()
            async with System(case.tree(), journal=path, clock=clock, ids=NamedIds(case.name)) as system:
                await case.play(system, clock)
            store = SQLiteStore(str(path))
            await store.open(owner=False)
            runs = [head.run for head in await store.heads() if is_run(head.run)]
            await store.aclose()
            return await record_history(SQLiteStore(str(path)), runs)

        return run(main)


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.history.gz"


def kept(name: str) -> bytes:
    """The committed history of a case."""
    return gzip.decompress(file_of(name).read_bytes())


def restored(history: bytes, path: Path) -> None:
    """Write a history into a new journal."""
    asyncio.run(write_history(SQLiteStore(str(path)), history))


def command(*argv: str) -> tuple[int, str, str]:
    """One command of the terminal: exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = __main__.main(argv)
    return code, out.getvalue(), err.getvalue()


def why(name: str, history: bytes) -> str:
    """What `understudy why` says of the newest run of a history, in a journal that is named for the case."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        restored(history, Path(f"{name}.db"))
        code, out, err = command("why", "--journal", f"{name}.db")
        assert (code, err) == (0, "")
        return out


def app_of(name: str) -> str:
    return f"{CASES[name].tree.__module__}:{name}"


def printed() -> dict[str, str]:
    """By name, what the page prints."""
    return {found[2]: found[3] for found in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))}


def main(names: Sequence[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.history.gz"):
        if old.name.partition(".")[0] not in CASES:
            old.unlink()
    for name in names or CASES:
        file_of(name).write_bytes(gzip.compress(recorded(CASES[name]), mtime=0))
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    text = BLOCK.sub(
        lambda found: found[1] + why(found[2], kept(found[2])) + found[4] if found[2] in CASES else found[0], text
    )
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
