"""The command `fork`: a new run that goes on from an event of another, as the owner of the journal."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import msgspec

from understudy.actors.errors import JournalOwned, UsageError
from understudy.actors.journal.events import Record
from understudy.supervisors.operator import ending
from understudy.supervisors.operator.answering import by_of, end, view_of
from understudy.supervisors.operator.live import listening
from understudy.supervisors.operator.reading import reading
from understudy.supervisors.operator.shell import Shell, no_app


async def fork(shell: Shell, args: Namespace) -> int:
    """`understudy fork RUN --at EVENT`: run on from there, with something changed, until it ends or waits."""
    changed, by = _changed(args), by_of(args)
    async with reading(await shell.journal(args.journal)) as reader:
        place = reader.resolve(args.run)
        at = _event(args, place.seq)
        options = shell.options(args.app, reader)
        if await reader.owned():
            raise JournalOwned(reader.path, "a live process owns this journal and drives its runs")
        if not options.runnable:
            raise no_app(options, "fork")
    async with shell.connect(options) as desk:
        begun: list[Record] = []
        remove = desk.listen(begun.append)
        try:
            run = await desk.fork(place.run, at=at, by=by, **changed)
            view = await view_of(shell, args, options, {run: at})
        finally:
            remove()
        with listening(view, desk.listen):
            for record in begun:  # what came while the view was made
                if record.run == run:
                    view(record)
            result = await desk.resume(run)
        await end(shell, args, options, result)
    return ending.exit_code(result.status)


# Any: the options of `Desk.fork`, by name.
def _changed(args: Namespace) -> dict[str, Any]:
    changed: dict[str, Any] = {"instructions": args.instructions, "model": args.model or "", "agent": args.agent or ""}
    if args.result is not None:
        try:
            changed["result"] = msgspec.json.decode(args.result.encode("utf-8", "replace"))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise UsageError(f"--result is no JSON: {error}") from error
    return changed


def _event(args: Namespace, seq: int) -> int:
    """The event to fork at, from `--at 58`, `--at :58` or `RUN:58`."""
    text: str | None = args.at
    if text is None:
        if not seq:
            raise UsageError("fork needs an event: --at EVENT, or RUN:EVENT")
        return seq
    number = text.removeprefix(":")
    if seq or not (number.isascii() and number.isdecimal() and len(number) < 12):
        raise UsageError(f"--at {text!r} is no event; it is a number, given once")
    return int(number)
