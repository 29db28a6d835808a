"""The commands that change a run: `approve`, `refuse`, `doubts`, `resume`.

Whoever owns the journal is told through its inbox. If nobody does, this process becomes the owner and finishes the
run; without an app it leaves the answer in the inbox for the next owner, says so and ends as waiting.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from understudy.actors.agents.answers import Word, as_json
from understudy.actors.agents.results import Result, Waiting
from understudy.actors.errors import JournalOwned, UsageError
from understudy.actors.journal.state import Doubt, Run
from understudy.supervisors.operator import ending
from understudy.supervisors.operator.desk import ConnectOptions, Desk
from understudy.supervisors.operator.inbox import (
    changed,
    check_answerable,
    described,
    find_doubt,
    find_yes,
    handle,
    post,
    quarantined,
    released,
    taken,
)
from understudy.supervisors.operator.live import LiveView, listening
from understudy.supervisors.operator.reading import Reader, reading
from understudy.supervisors.operator.shell import Shell, login, named, no_app
from understudy.supervisors.operator.text import call_text, clean, shorten

ROUNDS: Final = 100
"""How often `resume --yes` answers the questions of one run before it leaves it waiting."""


async def answer(shell: Shell, args: Namespace) -> int:
    """`understudy approve ID` and `understudy refuse ID`."""
    by = by_of(args)
    path = await shell.journal(args.journal)
    async with reading(path) as reader:
        run, yes = await find_yes(reader, args.id)
        check_answerable(yes, by, shell.clock.wall())
        shell.fact(*described(yes, shell.clock.wall()))
        options = shell.options(args.app, reader)
        changes = _changes(args)
        if changes is not None:
            policies = shell.configured(options, await reader.records(run.id)) if options.runnable else None
            shell.fact(*changed(run, yes, changes, policies))
        edit = "" if changes is None else as_json(changes, "--edit")
        word = Word(yes.id, by, reason=args.reason, digest=yes.asked.digest, arguments=edit)
        if await reader.owned() or not options.runnable:
            return await _post(shell, reader, options, args.command, word, run.id)

    async def act(desk: Desk) -> str:
        if args.command == "approve":
            return await desk.approve(yes.id, by=by, arguments=changes)
        return await desk.refuse(yes.id, by=by, reason=args.reason)

    try:
        return await _drive(shell, args, options, act)
    except JournalOwned:  # somebody was quicker
        async with reading(path) as reader:
            return await _post(shell, reader, options, args.command, word, run.id)


def _changes(args: Namespace) -> dict[str, object] | None:
    """What `--edit` says. Raises `UsageError` for anything but a JSON object."""
    if args.edit is None:
        return None
    try:
        return msgspec.json.decode(args.edit.encode("utf-8", "replace"), type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"--edit is no JSON object of arguments: {error}") from error


def by_of(args: Namespace) -> str:
    """Who answers. Raises `UsageError` for nobody."""
    by: str = login() if args.by is None else args.by
    if not by.strip():
        raise UsageError("--by is empty: say who answers")
    return by


# --- through the inbox -----------------------------------------------------------------------------------------


async def _post(shell: Shell, reader: Reader, options: ConnectOptions, kind: str, word: Word, run: str) -> int:
    """Leave the answer to the owner, and wait a while for it to be taken if one lives."""
    owned = await reader.owned()
    await post(reader, kind, word, shell.clock.wall())
    name = handle(reader, word.id)
    if not owned:
        shell.fact(f"{'Kept':>12}  {name}: nobody runs this journal; the answer waits in its inbox for who does")
        shell.fact(f"{'Next':>12}  {no_app(options, 'finishing the run here')}")
        return ending.WAITING
    said = await taken(reader, run, lambda state: _answered(state, word.id))
    if not said:
        shell.fact(f"{'Kept':>12}  {name}: the owner of {clean(reader.path)} has not taken it yet; it is in its inbox")
        return ending.WAITING
    shell.fact(f"{said.partition(' ')[0]:>12}  {name} {said.partition(' ')[2]}")
    return ending.COMPLETE


def _answered(run: Run, name: str) -> str:
    """What became of a question, verb first, "" while it is open."""
    if (doubt := run.doubts.get(name)) is not None:
        if doubt.settled is None:
            return ""
        return "Settled: it did happen" if doubt.settled else "Settled: it did not happen"
    yes = run.approvals[name]
    if yes.state == "pending":
        return ""
    reason = f": {clean(yes.reason, 200)}" if yes.reason else ""
    return f"{'Refused' if yes.state == 'refused' else 'Approved'} by {clean(yes.by)}{reason}"


# --- as the owner ----------------------------------------------------------------------------------------------


async def _drive(shell: Shell, args: Namespace, options: ConnectOptions, act: Callable[[Desk], Awaitable[str]]) -> int:
    """Own the journal, do `act`, and run on to the end of the run it names."""
    async with shell.connect(options) as desk:
        view = await view_of(shell, args, options)
        with listening(view, desk.listen):
            run = await act(desk)
            result = await desk.resume(run)
        await end(shell, args, options, result)
    return ending.exit_code(result.status)


async def view_of(
    shell: Shell, args: Namespace, options: ConnectOptions, upto: Mapping[str, int] | None = None
) -> LiveView:
    """A view that knows the past of every run; of those in `upto`, up to that event."""
    async with reading(options.journal) as reader:
        known = tuple(reader.runs)
        view = LiveView(shell.stderr, plain=args.plain, short=lambda run: shorten(run, known))
        for run in known:
            records = await reader.records(run)
            view.learn(records[: (upto or {}).get(run)])
    return view


async def end(shell: Shell, args: Namespace, options: ConnectOptions, result: Result[Any]) -> None:  # Any: see Desk
    """The last lines of a run; the result itself as data if it was asked for."""
    async with reading(options.journal) as reader:
        short = reader.short(result.run)
        state = await reader.state(result.run)
        lines = ending.ending(
            result,
            journal=reader.path,
            name=short,
            handle=lambda approval: handle(reader, approval),
            option=named(args.journal),
        )
        shell.fact(*lines, *_doubt_lines(reader, state))
    if args.json:
        shell.data(ending.as_json(result))


def _doubt_lines(reader: Reader, run: Run) -> list[str]:
    left = [doubt for doubt in run.doubts.values() if doubt.settled is None]
    return [f"{'Doubted':>12}  {line}" for doubt in left for line in [_doubt_line(reader, doubt)]]


def _doubt_line(reader: Reader, doubt: Doubt) -> str:
    event = doubt.event
    key = f" · key {clean(event.key)}" if event.key else ""
    return f"{handle(reader, doubt.id)}  {call_text(event.name, event.arguments, 0)} · {event.effect}{key}"


# --- doubts ----------------------------------------------------------------------------------------------------


async def doubts(shell: Shell, args: Namespace) -> int:
    """`understudy doubts`: list calls in doubt; with an id and `--did` or `--did-not`, settle one."""
    if (args.id is None) != (args.did is None):
        raise UsageError("doubts lists; doubts ID --did or doubts ID --did-not settles")
    path = await shell.journal(args.journal)
    if args.id is None:
        return await _list_doubts(shell, path)
    by = by_of(args)
    async with reading(path) as reader:
        run, doubt = await find_doubt(reader, args.id)
        if doubt.settled is not None:
            raise UsageError(f"{doubt.id} was settled already: it {'did' if doubt.settled else 'did not'} happen")
        options = shell.options(args.app, reader)
        word = Word(doubt.id, by, did=args.did)
        if await reader.owned() or not options.runnable:
            return await _post(shell, reader, options, "settle", word, run.id)
    try:
        async with shell.connect(options) as desk:
            await desk.settle(doubt.id, did=args.did, by=by)
    except JournalOwned:
        async with reading(path) as reader:
            return await _post(shell, reader, options, "settle", word, run.id)
    async with reading(path) as reader:
        said = "did happen" if args.did else "did not happen"
        shell.fact(f"{'Settled':>12}  {handle(reader, doubt.id)} {said}, says {clean(by)}")
        shell.fact(f"{'Next':>12}  understudy resume {reader.short(run.id)}{named(args.journal)}")
    return ending.COMPLETE


async def _list_doubts(shell: Shell, path: str) -> int:
    async with reading(path) as reader:
        found = [
            _doubt_line(reader, doubt)
            for name in reader.runs
            for doubt in (await reader.state(name)).doubts.values()
            if doubt.settled is None
        ]
        shell.data(*found)
        if not found:
            shell.fact(f"{clean(reader.path)}: no call is in doubt")
    return ending.COMPLETE


# --- quarantine ------------------------------------------------------------------------------------------------


async def release(shell: Shell, args: Namespace) -> int:
    """`understudy release`: list the agents that take no requests; with a name, let one of them take them again."""
    path = await shell.journal(args.journal)
    by = by_of(args)
    async with reading(path) as reader:
        held = await quarantined(reader)
        if args.agent is None:
            shell.data(
                *(
                    f"{clean(each.agent)}  {reader.short(each.run)}:{each.seq}  {clean(each.reason)}"
                    for each in held.values()
                )
            )
            if not held:
                shell.fact(f"{clean(reader.path)}: no agent is quarantined")
            return ending.COMPLETE
        if args.agent not in held:
            raise UsageError(f"agent {args.agent!r} is not quarantined; quarantined: {', '.join(held) or 'none'}")
        options = shell.options(args.app, reader)
        if await reader.owned() or not options.runnable:
            return await _post_release(shell, reader, options, Word(args.agent, by))
    try:
        async with shell.connect(options) as desk:
            await desk.release(args.agent, by=by)
    except JournalOwned:
        async with reading(path) as reader:
            return await _post_release(shell, reader, options, Word(args.agent, by))
    shell.fact(f"{'Released':>12}  {clean(args.agent)}, says {clean(by)}")
    shell.fact(f"{'Next':>12}  understudy resume{named(args.journal)}")
    return ending.COMPLETE


async def _post_release(shell: Shell, reader: Reader, options: ConnectOptions, word: Word) -> int:
    """Leave the word to the owner, as `_post` does."""
    owned = await reader.owned()
    await post(reader, "release", word, shell.clock.wall())
    if not owned:
        shell.fact(f"{'Kept':>12}  nobody runs this journal; the word waits in its inbox for who does")
        shell.fact(f"{'Next':>12}  {no_app(options, 'carrying it out here')}")
        return ending.WAITING
    if not await released(reader, word.id):
        shell.fact(f"{'Kept':>12}  the owner of {clean(reader.path)} has not taken it yet; it is in its inbox")
        return ending.WAITING
    shell.fact(f"{'Released':>12}  {clean(word.id)}, says {clean(word.by)}")
    return ending.COMPLETE


# --- resume ----------------------------------------------------------------------------------------------------


async def resume(shell: Shell, args: Namespace) -> int:
    """`understudy resume [RUN]`: drive one run, or every unfinished one, on until it ends or waits for somebody."""
    by = by_of(args)
    async with reading(await shell.journal(args.journal)) as reader:
        wanted = reader.resolve(args.run) if args.run is not None else None
        if wanted is not None and wanted.seq:
            raise UsageError(f"resume takes a whole run, {args.run!r} names an event")
        if wanted is not None and (end := (await reader.state(wanted.run)).finished) is not None and end.decided:
            shell.fact(f"run {reader.short(wanted.run)} has ended: {end.status}")
            return ending.exit_code(end.status)
        options = shell.options(args.app, reader)
        if await reader.owned():
            raise JournalOwned(reader.path, "a live process owns this journal and drives its runs")
        if not options.runnable:
            raise no_app(options, "resume")
    async with shell.connect(options) as desk:
        runs = [wanted.run] if wanted is not None else desk.unfinished()
        codes = [await _resume_one(shell, args, options, desk, run, by) for run in runs]
    if not runs:
        shell.fact(f"{clean(options.journal)}: every run has ended")
    return ending.worst(codes)


async def _resume_one(shell: Shell, args: Namespace, options: ConnectOptions, desk: Desk, run: str, by: str) -> int:
    with listening(await view_of(shell, args, options), desk.listen):
        result = await desk.resume(run)
        for _ in range(ROUNDS):
            if not args.yes or not await _agreed(shell, desk, result, by):
                break
            result = await desk.resume(run)
    await end(shell, args, options, result)
    return ending.exit_code(result.status)


async def _agreed(shell: Shell, desk: Desk, result: Result[Any], by: str) -> bool:  # Any: see Desk
    """Say yes to what a run waits for; whether there was anything, and it may go on."""
    if not isinstance(result, Waiting) or not result.pending:
        return False
    for approval in result.pending:
        try:
            await desk.approve(approval.id, by=by)
        except UsageError as error:  # not for this person, or expired: the run waits on
            shell.fact(f"understudy: {clean(str(error))}")
            return False
    return True
