"""What every command is given: where to write, how to connect, which journal and app are meant."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.supervisors.operator.options import ConnectOptions
from understudy.supervisors.operator.reading import Reader, checked_app, find_app, find_journal
from understudy.supervisors.operator.text import say

if TYPE_CHECKING:
    from understudy.actors.clock import Clock
    from understudy.supervisors.operator.desk import Configured, Connect, Replayer


class Shell(Struct, frozen=True):
    """Streams, clock and connections of one call of `main`."""

    connect: Connect
    replayer: Replayer
    configured: Configured
    clock: Clock
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str]
    folder: Path

    def data(self, *lines: str) -> None:
        """Lines for the next program."""
        say(self.stdout, *lines)

    def fact(self, *lines: str) -> None:
        """Lines for people."""
        say(self.stderr, *lines)

    async def journal(self, given: str | None) -> str:
        """The journal that is meant. Raises `UsageError`."""
        return await find_journal(given, self.environ, self.folder)

    def options(self, app: str | None, reader: Reader, guards: str | None = None) -> ConnectOptions:
        """How to connect to the journal of `reader`. Raises `UsageError` for a malformed app or name of guards."""
        found = find_app(app, self.environ, self.folder)
        other = None if guards is None else checked_app(guards, "--guards")
        return ConnectOptions(reader.path, found, dict(reader.meta), other)


def no_app(options: ConnectOptions, what: str) -> UsageError:
    """The error for a command that cannot do without the agents; the journal's own word is only a hint."""
    said = options.meta.get("app", "")
    hint = f"; the journal says that {said!r} wrote it" if said else ""
    return UsageError(f"{what} needs the agents: --app module:attribute, or UNDERSTUDY_APP{hint}")


def named(journal: str | None) -> str:
    """What the next command needs to mean the same journal: nothing, unless this one named it."""
    return "" if journal is None else f" --journal {shlex.quote(journal)}"


def login() -> str:
    """Who sits at the terminal: the login name, else the user's number."""
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid-{os.getuid()}" if hasattr(os, "getuid") else "unknown"
