"""Finding a journal, opening it beside its owner, and resolving what people type: `@`, `@2`, `7f3a`, `7f3a:58`."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from understudy.actors.errors import JournalDamaged, JournalError, JournalFailed, JournalForeign, UnknownRun, UsageError
from understudy.actors.journal.events import Record, is_run
from understudy.actors.journal.fold import fold
from understudy.actors.journal.history import TITLE, HistoryStore
from understudy.actors.journal.rows import check_version, decode_rows
from understudy.actors.journal.state import Run
from understudy.actors.journal.store import Head
from understudy.supervisors.operator.text import shorten

if TYPE_CHECKING:
    from understudy.transports.journals.sqlite import SQLiteLook, SQLiteStore

CANDIDATES: Final = 200
"""Files `*.db` of a folder that are looked at to find a journal."""
_TARGET: Final = re.compile(r"(?P<run>@[0-9]{0,6}|[^@:\s]*)(?::(?P<seq>[0-9]{1,12}))?", re.ASCII)


class Place(Struct, frozen=True):
    """A run by its whole id, and one of its events, or 0 for all of it."""

    run: str
    seq: int = 0


class _Own(Struct, frozen=True):
    app: object = None


class _Tool(Struct, frozen=True):
    understudy: _Own = _Own()


class _Project(Struct, frozen=True):
    """What of a pyproject.toml is ours."""

    tool: _Tool = _Tool()


class Glance:
    """A journal opened for a look at one run. Nothing here waits, and nothing takes longer with more runs."""

    def __init__(self, store: SQLiteLook, meta: Mapping[str, str]) -> None:
        self.store = store
        self.meta = meta

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self.store.path

    def short(self, run: str) -> str:
        """The id as shown: the shortest unique prefix of at least four characters."""
        return shorten(run, self.store.beside(run))

    async def records(self, run: str) -> list[Record]:
        """A whole stream, verified. Raises `JournalDamaged`."""
        return decode_rows(self.path, await self.store.read(run))

    async def owned(self) -> bool:
        """Whether a live process owns the journal."""
        return await self.store.owned()

    def resolve(self, text: str) -> Place:
        """What `text` names. Raises `UnknownRun` when nothing, `UsageError` when it is ambiguous or malformed."""
        return _resolved(text, self._run)

    def _run(self, name: str) -> str:
        if self.store.newest() is None:
            raise UnknownRun(f"{self.path}: no run in this journal yet")
        found = self.store.beginning(name, MOST + 1) if name and not name.startswith("@") else []
        if len(found) == 1 or name in found:
            return name if name in found else found[0]
        if found:
            raise UsageError(f"run {name!r} is ambiguous: {listed(self.short(run) for run in found)}")
        if name and not name.startswith("@"):
            newest = [run for n in range(1, MOST + 1) if (run := self.store.newest(n)) is not None]
            raise UnknownRun(f"{self.path}: no run {name!r}; newest: {listed(self.short(run) for run in newest)}")
        number = int(name[1:] or 1)
        run = self.store.newest(number) if number else None
        if run is None:
            raise UnknownRun(f"{self.path}: no run @{number}, the journal has {self.store.count()}")
        return run


class Reader:
    """A journal opened without owning it. Nothing here writes events."""

    def __init__(self, store: SQLiteStore | HistoryStore, heads: Sequence[Head], meta: Mapping[str, str]) -> None:
        self.store = store
        self.runs = [head.run for head in heads if is_run(head.run)]
        self.meta = meta

    @property
    def path(self) -> str:
        """The file, as it was given."""
        return self.store.path

    def short(self, run: str) -> str:
        """The id as shown: the shortest unique prefix of at least four characters."""
        return shorten(run, self.runs)

    async def records(self, run: str) -> list[Record]:
        """A whole stream, verified. Raises `JournalDamaged`."""
        return decode_rows(self.path, await self.store.read(run))

    async def state(self, run: str) -> Run:
        """The folded state of a run. Raises `JournalDamaged`."""
        return folded(self.path, await self.records(run))

    async def owned(self) -> bool:
        """Whether a live process owns the journal."""
        return await self.store.owned()

    def resolve(self, text: str) -> Place:
        """What `text` names. Raises `UnknownRun` when nothing, `UsageError` when it is ambiguous or malformed."""
        return _resolved(text, self._run)

    def _run(self, name: str) -> str:
        if not self.runs:
            raise UnknownRun(f"{self.path}: no run in this journal yet")
        if name in self.runs:
            return name
        if name in ("", "@") or name.startswith("@"):
            return self._newest(int(name[1:] or 1))
        found = [run for run in self.runs if run.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"run {name!r} is ambiguous: {listed(self.short(run) for run in found)}")
        raise UnknownRun(f"{self.path}: no run {name!r}; newest: {listed(self.short(r) for r in self.runs[::-1])}")

    def _newest(self, number: int) -> str:
        if not 1 <= number <= len(self.runs):
            raise UnknownRun(f"{self.path}: no run @{number}, the journal has {len(self.runs)}")
        return self.runs[-number]


def _resolved(text: str, run: Callable[[str], str]) -> Place:
    found = _TARGET.fullmatch(text)
    if found is None or not text:
        raise UsageError(f"{text!r} names no run: it is @ (newest), @2, a run id, its beginning, or one with :event")
    return Place(run(found["run"]), int(found["seq"] or 0))


MOST: Final = 8
"""Names that a line lists."""


def listed(names: Iterable[str], most: int = MOST) -> str:
    """Names with commas, the first `most` of them."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def folded(path: str, records: list[Record]) -> Run:
    """The state after `records`. Raises `JournalDamaged` when they do not fit together."""
    try:
        return fold(records)
    except (LookupError, ValueError, AssertionError) as error:
        run = records[0].run if records else "?"
        raise JournalDamaged(path, run, len(records), f"events do not fit together: {error}") from error


@asynccontextmanager
async def reading(path: str) -> AsyncGenerator[Reader, None]:
    """Open the journal at `path` beside its owner, if any, or a history that was exported.

    Raises `JournalError`, and `UsageError` for a bad path.
    """
    from understudy.transports.journals.sqlite import SQLiteStore

    history = _checked(path)
    store = SQLiteStore(path) if history is None else HistoryStore(path, history)
    await store.open(owner=False)
    try:
        meta = await store.meta()
        check_version(path, meta)
        yield Reader(store, await store.heads(), meta)
    finally:
        await store.aclose()


@asynccontextmanager
async def looking(path: str) -> AsyncGenerator[Glance | Reader, None]:
    """As `reading`, for a look at one run. Never waits: it takes no event loop."""
    history = _checked(path)
    if history is not None:
        store = HistoryStore(path, history)
        await store.open(owner=False)
        yield Reader(store, await store.heads(), await store.meta())
        return
    from understudy.transports.journals.sqlite import SQLiteLook

    look = SQLiteLook(path)
    look.open()
    try:
        meta = look.meta()
        check_version(path, meta)
        yield Glance(look, meta)
    finally:
        look.close()


def _checked(path: str) -> bytes | None:
    """The bytes of a history, None for a journal. Raises `UsageError` for what can be neither."""
    checked_path(path)
    if not os.path.exists(path):
        raise UsageError(f"{path}: no such journal")
    if _is_empty(path):
        raise UsageError(f"{path}: an empty file, not a journal")
    return _history(path) if os.path.isfile(path) else None


def _history(path: str) -> bytes | None:
    """The bytes of a history, None for any other file."""
    with open(path, "rb") as file:
        begin = file.read(len(TITLE))
        return begin + file.read() if begin == TITLE.encode() else None


def _is_empty(path: str) -> bool:
    """Whether it is a file without a byte, as an owner leaves it that died before its first write."""
    return os.path.isfile(path) and os.path.getsize(path) == 0


def _has_content(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def checked_path(path: str) -> str:
    """`path` unless no file can have that name. Raises `UsageError`."""
    if not path or "\0" in path:
        raise UsageError(f"journal {path!r} is no file name")
    return path


async def find_journal(given: str | None, environ: Mapping[str, str], folder: Path) -> str:
    """The journal: `given`, else UNDERSTUDY_JOURNAL, else the only one in `folder`. Raises `UsageError`."""
    if given is not None:
        return checked_path(given)
    if environ.get("UNDERSTUDY_JOURNAL"):
        return checked_path(environ["UNDERSTUDY_JOURNAL"])
    found = _journals(folder)
    if not found:
        raise UsageError("no journal (*.db) in this folder; name one with --journal or UNDERSTUDY_JOURNAL")
    if len(found) > 1:
        raise UsageError(f"{len(found)} journals in this folder, choose one with --journal: {listed(found)}")
    return found[0]


def _journals(folder: Path) -> list[str]:
    return [file.name for file in sorted(folder.glob("*.db"))[:CANDIDATES] if _is_journal(str(file))]


async def is_journal(path: str) -> bool:
    """Whether the file is an understudy journal, of whatever version and in whatever state. Blocks for a moment."""
    return _is_journal(path)


def _is_journal(path: str) -> bool:
    from understudy.transports.journals.sqlite import SQLiteLook

    look = SQLiteLook(path)
    try:
        look.open()
    except JournalForeign:
        return False
    except JournalFailed:  # empty or gone; else it may be ours, and opening it says why it cannot be read
        return _has_content(path)
    except JournalError:  # newer or damaged: ours all the same, and told when it is opened
        return True
    look.close()
    return True


def find_app(given: str | None, environ: Mapping[str, str], folder: Path) -> str | None:
    """The app: `given`, else UNDERSTUDY_APP, else `[tool.understudy] app` of pyproject.toml, else None.

    Raises `UsageError` for one that is not `module:attribute` or a pyproject.toml that cannot be read.
    """
    if given is not None:
        return checked_app(given, "--app")
    if environ.get("UNDERSTUDY_APP"):
        return checked_app(environ["UNDERSTUDY_APP"], "UNDERSTUDY_APP")
    app = _configured(folder / "pyproject.toml")
    return None if app is None else checked_app(app, "pyproject.toml [tool.understudy] app")


def _configured(file: Path) -> object:
    import tomllib

    if not file.is_file():
        return None
    try:
        return msgspec.convert(tomllib.loads(file.read_text("utf-8")), _Project).tool.understudy.app
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or `tool` is no table
        raise UsageError(f"pyproject.toml cannot be read: {error}") from error


def checked_app(app: object, where: str) -> str:
    """`app`, if it is written as module:attribute. Raises `UsageError` naming `where` it stands."""
    if isinstance(app, str):
        module, _, attribute = app.partition(":")
        if all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
            return app
    raise UsageError(f"{where} is {app!r}: it must be module:attribute")
