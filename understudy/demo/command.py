"""`understudy demo`: a supervised team audits the Python environment it runs in.

Facts go to stderr while they happen, the summary object of `--json` is the last line of stdout. Writing the report
needs a yes: from the terminal, by `--yes`, or later from another process. Exit status: 0 complete, 1 failed or
stopped, 2 usage, 3 waiting, 4 partial, 130 interrupted in order.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import msgspec

from understudy.actors.agents.results import Approval, Result, Waiting
from understudy.actors.errors import ModelError, UsageError
from understudy.actors.journal.events import NODE_STREAM
from understudy.demo.app import APP, Options, Served, default_model, meta, model_for, team
from understudy.demo.asking import ask
from understudy.demo.findings import Report
from understudy.demo.messages import Audit
from understudy.demo.summary import (
    Overspend,
    bill,
    concluded,
    describe,
    failed_to_write,
    loops_caught,
    opening,
    overspend,
    overspent,
    summary,
)
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.operator.ending import FAILED, INTERRUPTED, ending, exit_code
from understudy.supervisors.operator.live import LiveView, listening
from understudy.supervisors.operator.reading import is_journal, reading
from understudy.supervisors.operator.shell import login, named
from understudy.supervisors.operator.text import clean, say, shorten
from understudy.system import System

JOURNAL: Final = "demo.db"
BILLING_SECONDS: Final = 5.0
GRACE: Final = 10.0
"""Seconds that a run has to end its present step after a signal."""
ROUNDS: Final = 20
"""How often a run may ask before it is left waiting."""


@dataclass(frozen=True)
class _Streams:
    stdin: TextIO
    stdout: TextIO
    stderr: TextIO


@dataclass(frozen=True)
class _Plan:
    """What is to be done and shown. `named`: the journal was named, so the next commands must name it too."""

    options: Options
    journal: str
    named: bool
    json: bool
    plain: bool

    @property
    def place(self) -> str:
        """The journal's whole path."""
        return os.path.abspath(self.journal)

    @property
    def exists(self) -> bool:
        """Whether the journal is there, with something in it."""
        return os.path.isfile(self.journal) and os.path.getsize(self.journal) > 0


@dataclass(frozen=True)
class _Ended:
    """How far the run came. `interrupted`: by a signal, or by the end of the input it waited for."""

    result: Result[Report]
    interrupted: bool = False


def demo(argv: Sequence[str]) -> int:
    """Run the command; `argv` without its name. The exit status.

    Raises `UsageError` for bad arguments, and `UnderstudyError` and `OSError` as they come: `operator.cli.main`
    makes one line of each.
    """
    parser = _parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit as shown:  # --help has been written
        return int(shown.code or 0)
    options = _options(args)
    plan = _Plan(options, _journal(args.journal), named=args.journal is not None, json=args.json, plain=args.plain)
    return asyncio.run(_run(plan, args.yes, _Streams(sys.stdin, sys.stdout, sys.stderr)))


# --- arguments ----------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise instead of writing usage and leaving the process."""
        raise UsageError(f"demo: {message}; see understudy demo --help")


def _parser() -> _Parser:
    about = "A supervised team audits the Python environment it runs in. Writing the report needs a yes."
    parser = _Parser(prog="understudy demo", description=about, allow_abbrev=False)
    add = parser.add_argument
    add("--yes", action="store_true", help="say yes to writing the report")
    add("--json", action="store_true", help="end with a summary object, the last line of stdout")
    add("--plain", action="store_true", help="lines only, no moving panel")
    add("--journal", metavar="FILE", help=f"the journal (default: UNDERSTUDY_JOURNAL, else {JOURNAL}); runs are added")
    add("--out", metavar="FILE", default="audit.md", help="the report, a file or folder (default: %(default)s)")
    add("--site", metavar="DIR", action="append", help="audit this folder of packages instead; may be repeated")
    add("--inspectors", metavar="N", type=_number(1, 50), default=3, help="size of the pool (default: %(default)s)")
    add("--steps", metavar="N", type=_number(1, 10_000), default=120, help="budget of steps (default: %(default)s)")
    add("--intensity", metavar="N", type=_number(0, 1_000), default=5, help="restarts in 60 s (default: %(default)s)")
    add("--no-loop-guard", action="store_true", help="without the loop guard: only the budget ends a loop")
    add("--no-loop-script", action="store_true", help="without the mistake that makes an inspector loop")
    add("--no-note", action="store_true", help="restart an inspector without a note of what failed")
    return parser


def _number(least: int, most: int) -> Any:  # what argparse calls
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return number


def _options(args: argparse.Namespace) -> Options:
    """The options of the team. Paths are made absolute: the report may be written by another process."""
    return Options(
        model=default_model(),
        inspectors=args.inspectors,
        out=_checked_out(args.out),
        path=None if args.site is None else tuple(_checked_site(site) for site in args.site),
        steps=args.steps,
        intensity=args.intensity,
        loop_guard=not args.no_loop_guard,
        loop_script=not args.no_loop_script,
        note=not args.no_note,
    )


def _checked_out(out: str) -> str:
    if not out or "\0" in out:
        raise UsageError(f"--out {out!r} is no file name")
    path = Path(out).absolute()
    folder = path if out.endswith("/") or path.is_dir() else path.parent
    if not folder.is_dir():
        raise UsageError(f"--out {out}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--out {out}: {os.strerror(errno.EACCES)}")
    return f"{path}/" if path.is_dir() else str(path)


def _checked_site(site: str) -> str:
    if not site or "\0" in site or not Path(site).is_dir():
        raise UsageError(f"--site {site!r} is no folder")
    return str(Path(site).absolute())


def _journal(given: str | None) -> str:
    """The journal's path, as it is to be shown. Raises `UsageError` for one that no file can have."""
    path: str = given if given is not None else os.environ.get("UNDERSTUDY_JOURNAL") or JOURNAL
    if not path or "\0" in path:
        raise UsageError(f"journal {path!r} is no file name")
    return path


async def _check_ours(path: str) -> None:
    """Raises `UsageError` for the journal of another app: its runs would be driven on by this team."""
    if not await is_journal(path):
        return  # opening it says what is wrong
    async with reading(path) as reader:
        app = reader.meta.get("app", "")
        if app != APP and (reader.runs or app):
            raise UsageError(f"{path} is the journal of {app or 'another app'!r}, not of the demo")


# --- the run ------------------------------------------------------------------------------------------------


async def _run(plan: _Plan, yes: bool, io: _Streams) -> int:
    if plan.exists:
        await _check_ours(plan.journal)
    options = plan.options
    async with model_for(options) as served:
        root = team(options, model=served.model)
        async with (
            _stopping(io.stderr) as stop,
            System(root, journal=plan.journal, meta=meta(options), grace=GRACE) as system,
        ):
            known = await _known(system)
            view = LiveView(
                io.stderr,
                plain=plan.plain,
                short=lambda run: shorten(run, known),
                describe=describe,
                opening=opening(options),
            )
            with listening(view, system.listen):
                ended = await _drive(system, options, _Person(yes, io, view), stop)
            await _tell(plan, io, system, ended, await _overspend(io, system, served, ended.result, root.budget))
            unwritten = failed_to_write(system.state(ended.result.run))
    if ended.interrupted:
        return INTERRUPTED
    return FAILED if unwritten else exit_code(ended.result.status)


async def _known(system: System) -> list[str]:
    """The runs of the journal, oldest first."""
    return [head.run for head in await system.journal.store.heads() if head.run != NODE_STREAM]


async def _tell(plan: _Plan, io: _Streams, system: System, ended: _Ended, over: Overspend) -> None:
    """The last lines and the summary."""
    result, run = ended.result, system.state(ended.result.run)
    records, known = await system.journal.read(run.id), await _known(system)

    def handle(approval: str) -> str:
        head, _, number = approval.rpartition("-")
        return f"{shorten(head, known)}-{number}"

    lines = ending(
        result,
        summary=concluded(result, run),
        facts=[f"loops caught {loops_caught(records)}", f"restarts {run.restarts}", f"overspend {overspent(over)}"],
        journal=plan.journal,
        name="@" if known[-1:] == [run.id] else shorten(run.id, known),
        handle=handle,
        option=named(plan.journal if plan.named else None),
    )
    say(io.stderr, *lines)
    if plan.json:
        body = summary(result, run, records, over, plan.place)
        say(io.stdout, msgspec.json.encode(body).decode())


async def _overspend(io: _Streams, system: System, served: Served, result: Result[Report], budget: object) -> Overspend:
    """What was billed beyond the limits; of a provider's bill only what the ledger was told is known."""
    billed: dict[str, int] = {}
    if served.url:
        from understudy.transports.testing.model_server import read_billing

        try:
            bills = await read_billing(served.url, timeout=BILLING_SECONDS)
            billed = bill(served.model, bills.calls, bills.input_tokens, bills.output_tokens)
        except ModelError as error:  # the run has its end all the same, and the journal what the ledger knows
            say(io.stderr, f"{'Unbilled':>12}  the model server's bill cannot be read: {clean(str(error), 200)}")
    assert isinstance(budget, Budget)  # noqa: S101  # the team's own
    return overspend(system.state(result.run), budget, billed)


@dataclass(frozen=True)
class _Person:
    """Who answers: `--yes`, somebody at the terminal, or nobody."""

    yes: bool
    io: _Streams
    view: LiveView

    async def answer(self, system: System, waiting: Waiting[Report]) -> str:
        """Answer what a run asks for: "" when it may go on, else why not (`later`, `gone`)."""
        for approval in waiting.pending:
            said = "yes" if self.yes else await self._asked(system, approval)
            if said in ("later", "gone"):
                return said
            if not _open(system, approval):
                continue
            if said == "yes":
                await system.approve(approval, by=login())
            else:
                await system.refuse(approval, by=login())
        return "" if waiting.pending else "later"

    async def _asked(self, system: System, approval: Approval) -> str:
        """What the person at the terminal says; "" when somebody else has answered meanwhile, or it expired."""
        if not self.io.stdin.isatty():
            return "later"
        answered = asyncio.Event()
        remove = system.listen(lambda _: None if _open(system, approval) else answered.set())
        try:
            with self.view.paused():
                said, elsewhere = await _unless(answered, None, ask(approval, self.io.stdin, self.io.stderr))
                return "" if elsewhere else said
        finally:
            remove()


def _open(system: System, approval: Approval) -> bool:
    """Whether nobody has answered yet."""
    return system.state(approval.run).approvals[approval.id].state == "pending"


async def _drive(system: System, options: Options, person: _Person, stop: asyncio.Event) -> _Ended:
    """Ask for the audit, and answer its questions until it has ended or is left waiting."""
    result: Result[Report]
    result, halted = await _unless(stop, system, system.ref("planner").ask(Audit(options)))
    for _ in range(ROUNDS):
        if halted or not isinstance(result, Waiting):
            break
        answering = asyncio.ensure_future(person.answer(system, result))
        why, halted = await _unless(stop, None, answering)
        if halted or why:
            return _Ended(result, halted or why == "gone")
        result, halted = await _unless(stop, system, system.resume(result.run))
    return _Ended(result, halted)


# Any: whatever is awaited.
async def _unless(stop: asyncio.Event, system: System | None, work: Any) -> tuple[Any, bool]:
    """What `work` gives, and whether `stop` came first. Then runs are parked; without a system the work is given up."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result(), False
        if system is not None:
            await system.drain()
            return await working, True
        return None, True
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait({working, stopping})


@asynccontextmanager
async def _stopping(stderr: TextIO) -> AsyncGenerator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set; a second one has its usual effect."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def halt() -> None:
        stop.set()
        with suppress(OSError):
            say(stderr, "", f"{'Stopping':>12}  when the present steps have ended, {GRACE:g} s at most")
        for number in numbers:
            loop.remove_signal_handler(number)

    with suppress(NotImplementedError, RuntimeError, ValueError):  # not the main thread, or no such signals here
        for number in numbers:
            loop.add_signal_handler(number, halt)
    try:
        yield stop
    finally:
        with suppress(NotImplementedError, RuntimeError, ValueError):
            for number in numbers:
                loop.remove_signal_handler(number)
