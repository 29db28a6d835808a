"""The command `export`: runs as one file that needs no journal."""

from __future__ import annotations

import os
from argparse import Namespace

import anyio.to_thread

from understudy.actors.errors import UsageError
from understudy.actors.journal.history import history_of
from understudy.supervisors.operator.ending import COMPLETE
from understudy.supervisors.operator.reading import checked_path, reading
from understudy.supervisors.operator.shell import Shell
from understudy.supervisors.operator.text import clean, many


async def export(shell: Shell, args: Namespace) -> int:
    """`understudy export RUN... --to FILE`: the whole streams of these runs; see `journal.history`."""
    to = checked_path(args.to)
    async with reading(await shell.journal(args.journal)) as reader:
        runs: list[str] = []
        for text in args.runs:
            place = reader.resolve(text)
            if place.seq:
                raise UsageError(f"export takes whole runs, {text!r} names an event")
            runs.append(place.run)
        data = await history_of(reader.store, runs)
    await anyio.to_thread.run_sync(_write, to, data)
    events = data.count(b"\n") - 1
    shell.fact(f"{clean(to)}: {many(events, 'event')}, {many(len(data), 'byte')}")
    shell.fact("it holds their prompts, replies, arguments and results, in clear")
    return COMPLETE


def _write(to: str, data: bytes) -> None:
    """Into a file that nobody else may read. Raises `UsageError` for one that is there, `OSError`."""
    try:
        file = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{to}: exists already; an export is a new file") from error
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
