"""The commands of the terminal. Facts go to stderr, data to stdout, and every mistake is one line.

Exit status: 0 complete, 1 failed or stopped, 2 usage, 3 waiting, 4 partial or degraded, 5 replay diverged,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from understudy.actors.errors import JournalForeign, JournalNewer, UnderstudyError, UnknownRun, UsageError
from understudy.supervisors.operator.ending import FAILED, INTERRUPTED, USAGE
from understudy.supervisors.operator.shell import Shell
from understudy.supervisors.operator.text import clean, say

if TYPE_CHECKING:
    from understudy.actors.clock import Clock
    from understudy.supervisors.operator.desk import Configured, Connect, Replayer

Command = Callable[[Shell, argparse.Namespace], Coroutine[Any, Any, int]]

_RUN: Final = "@ newest (default), @2 the one before, an id or its beginning"
_ABOUT: Final[Mapping[str, str]] = {
    "approve": "say yes to a call that waits for a person, and finish the run",
    "refuse": "say no to it; the agent is told, and the run goes on",
    "resume": "drive unfinished runs on after a crash or a stop",
    "doubts": "list calls of which nobody knows whether they happened, or settle one",
    "release": "let an agent that a guard has quarantined take requests again, or list them",
    "tree": "the actors of a run: status, restarts, steps, tokens",
    "log": "what happened in a run, an act a row",
    "why": "what went wrong in a run, with proof",
    "machine": "the state machine of a run's agent and the way it took, as a Mermaid diagram",
    "replay": "decide a run again from its journal and compare",
    "export": "whole runs as one file that replays without the journal",
    "diff": "where two runs part, or a run and today's code, and what it costs",
    "fork": "a new run that goes on from an event of another, with something changed",
    "guards": "the guards of the agents: armed, or fired in a run, and when last",
    "prune": "remove runs that ended long ago, and that nobody needs",
    "salvage": "what verifies of a damaged journal, in a new file",
}
_BY_NAME: Final = ("salvage",)
"""Commands whose journal is named as what they work on."""
_DEMO: Final = "a supervised team audits the Python environment it runs in"
_LAST: Final = "Journal: --journal, else UNDERSTUDY_JOURNAL, else the only one in this folder."


class _Shown(Exception):
    """Help or version was asked for."""


class _Show(argparse.Action):
    """Ends parsing with a text; argparse's own action writes to the process's stdout."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this and end")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Raise the help."""
        raise _Shown(parser.format_help())


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str) -> None:
        super().__init__(
            prog=f"understudy {command}",
            description=_ABOUT[command],
            epilog="" if command in _BY_NAME else _LAST,
            add_help=False,
            allow_abbrev=False,
        )
        self.set_defaults(command=command)
        self.add_argument("-h", "--help", action=_Show)
        if command not in _BY_NAME:
            self.add_argument("--journal", metavar="FILE", help="the journal")

    def error(self, message: str) -> NoReturn:
        """Raise instead of writing usage and leaving the process."""
        raise UsageError(f"{self.prog.partition(' ')[2]}: {message}; see {self.prog} --help")

    def app(self) -> _Parser:
        """Add what a command needs that runs agents."""
        self.add_argument("--app", metavar="MODULE:ATTR", help="the tree or agent; else UNDERSTUDY_APP, pyproject.toml")
        return self

    def answers(self) -> _Parser:
        """Add what a command needs that answers for a person and runs on."""
        self.app().add_argument("--by", metavar="NAME", help="who answers (default: the login name)")
        self.add_argument("--plain", action="store_true", help="no moving panel")
        self.add_argument("--json", action="store_true", help="the result as one line on stdout")
        return self

    def place(self, *, default: str | None = "@") -> _Parser:
        """Add the run."""
        self.add_argument("run", metavar="RUN", nargs="?", default=default, help=_RUN)
        return self


def _parser(command: str) -> _Parser:
    parser = _Parser(command)
    match command:
        case "approve" | "refuse":
            parser.answers().add_argument("id", metavar="ID", help="the approval: a1, or 7f3a-a1")
            parser.set_defaults(reason="", edit=None)
            if command == "refuse":
                parser.add_argument("--reason", metavar="TEXT", help="why not; the agent is told")
            else:
                parser.add_argument("--edit", metavar="JSON", help='arguments to change, as {"cents": 5}')
        case "resume":
            parser.answers().place(default=None)
            parser.add_argument("--yes", action="store_true", help="say yes to everything that is asked")
        case "doubts":
            parser.app().add_argument("id", metavar="ID", nargs="?", help="the doubt: d1, or 7f3a-d1")
            how = parser.add_mutually_exclusive_group()
            how.add_argument("--did", dest="did", action="store_const", const=True, help="the call happened")
            how.add_argument("--did-not", dest="did", action="store_const", const=False, help="it did not")
            parser.add_argument("--by", metavar="NAME", help="who says so (default: the login name)")
        case "release":
            parser.app().add_argument("agent", metavar="AGENT", nargs="?", help="its name; without one, list them")
            parser.add_argument("--by", metavar="NAME", help="who says so (default: the login name)")
        case "log":
            how = parser.place().add_mutually_exclusive_group()
            how.add_argument("--raw", action="store_true", help="every event")
            how.add_argument("--json", action="store_true", help="every event as JSON, one a line")
            parser.add_argument("--actor", metavar="NAME", help="of one actor or pool only")
            parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
        case "replay":
            parser.place().app()
            parser.add_argument("--guards", metavar="MODULE:ATTR", help="what these guards would have stopped instead")
        case "machine":
            parser.place().app()
        case "export":
            parser.add_argument("runs", metavar="RUN", nargs="+", help=_RUN)
            parser.add_argument("--to", metavar="FILE", required=True, help="the file to make")
        case "diff":
            parser.add_argument("run", metavar="RUN", help=_RUN)
            parser.add_argument("other", metavar="RUN2", nargs="?", help="the run to compare it with")
            parser.app().add_argument("--now", action="store_true", help="compare it with what today's code decides")
            parser.add_argument("--json", action="store_true", help="as one line of JSON")
        case "fork":
            parser.answers().add_argument("run", metavar="RUN", help=_RUN)
            parser.add_argument("--at", metavar="EVENT", help="the last event that is taken over; or RUN:EVENT")
            parser.add_argument("--agent", metavar="NAME", help="whose; by default the one that the event belongs to")
            parser.add_argument("--instructions", metavar="TEXT", help="other instructions, from there on")
            parser.add_argument("--model", metavar="NAME", help="another model that the agent has, from there on")
            parser.add_argument("--result", metavar="JSON", help="another result of the call that the event ends")
        case "prune":
            parser.add_argument("--ended-before", metavar="AGE", required=True, help="30d, 12h, 90m: so long ago")
            parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
            parser.add_argument("--json", action="store_true", help="each run as one line of JSON")
        case "salvage":
            parser.add_argument("damaged", metavar="DAMAGED", help="the journal; it is only read")
            parser.add_argument("--to", metavar="NEW", required=True, help="the file to make")
            parser.add_argument("--json", action="store_true", help="each stream as one line of JSON")
        case "guards":
            parser.place().app().add_argument("--json", action="store_true", help="as one line of JSON")
        case _:
            parser.place().add_argument("--json", action="store_true", help="as one line of JSON")
    return parser


_COMMANDS: Final[Mapping[str, str]] = {
    "approve": "answering.answer",
    "refuse": "answering.answer",
    "resume": "answering.resume",
    "doubts": "answering.doubts",
    "release": "answering.release",
    "tree": "looking.show_tree",
    "log": "looking.show_log",
    "why": "looking.show_why",
    "machine": "rechecking.show_machine",
    "replay": "rechecking.replay",
    "guards": "rechecking.show_guards",
    "fork": "forking.fork",
    "diff": "comparing.diff",
    "export": "exporting.export",
    "prune": "keeping.prune_journal",
    "salvage": "keeping.salvage_file",
}
"""Module and function of each; loaded when it is called, for most take what runs agents."""
_AT_ONCE: Final = ("tree", "log", "why")
"""Commands that never wait, so that they need no event loop."""


def _command(name: str) -> Command:
    module, _, function = _COMMANDS[name].partition(".")
    found: Command = getattr(import_module(f"understudy.supervisors.operator.{module}"), function)
    return found


def main(
    argv: Sequence[str],
    *,
    connect: Connect,
    replayer: Replayer,
    configured: Configured,
    commands: Mapping[str, Callable[[Sequence[str]], int]],
    clock: Clock,
    stdin: TextIO,
    stdout: TextIO,
    stderr: TextIO,
) -> int:
    """Run one command (`argv` without the program's name) and return the exit status; see the module.

    `commands` are run elsewhere: their arguments are passed on as they are. What they and the rest raise of
    `UnderstudyError`, `OSError` and `KeyboardInterrupt` becomes one line; anything else is a defect and is raised.
    """
    shell = Shell(connect, replayer, configured, clock, stdin, stdout, stderr, os.environ, Path())
    try:
        return _dispatch(shell, argv, commands)
    except _Shown as text:
        return _written(stdout, str(text))
    except KeyboardInterrupt:
        return _complain(stderr, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        _mute(stdout)
        return FAILED
    except (UnderstudyError, OSError) as error:
        return _complain(stderr, _text(error), _code(error))
    except BaseExceptionGroup as group:
        first = _first(group)
        if first is None:
            raise
        return _complain(stderr, _text(first), _code(first))


def _dispatch(shell: Shell, argv: Sequence[str], commands: Mapping[str, Callable[[Sequence[str]], int]]) -> int:
    known = (*commands, *_COMMANDS)
    if not argv:
        raise UsageError(f"no command; there are {', '.join(known)}; see understudy --help")
    name, *rest = argv
    if name in ("-h", "--help"):
        raise _Shown(_help(commands))
    if name == "--version":
        raise _Shown(f"understudy {version()}")
    if name in commands:
        return commands[name](rest)
    if name not in _COMMANDS:
        what = "option before the command" if name.startswith("-") else "command"
        raise UsageError(f"unknown {what} {name!r}; there are {', '.join(known)}")
    args = _parser(name).parse_args(rest)
    act = _command(name)(shell, args)
    if name in _AT_ONCE and not getattr(args, "follow", False):
        return _at_once(act)
    import asyncio

    return asyncio.run(act)


def _at_once(act: Coroutine[Any, Any, int]) -> int:
    """What a coroutine that never waits comes to."""
    try:
        act.send(None)
    except StopIteration as end:
        return int(end.value)
    act.close()
    raise RuntimeError("a command that only looks has waited for something")


def _help(commands: Mapping[str, object]) -> str:
    about = {name: _DEMO if name == "demo" else "" for name in commands} | dict(_ABOUT)
    lines = [f"  {name:<9} {text}".rstrip() for name, text in about.items()]
    ends = "Exit: 0 complete, 1 failed or stopped, 2 usage, 3 waiting, 4 partial or degraded, 5 replay diverged."
    head = "usage: understudy COMMAND …    understudy COMMAND --help    understudy --version"
    return "\n".join([head, "", *lines, "", _LAST, ends])


def version() -> str:
    """The installed version."""
    from importlib import metadata

    try:
        return metadata.version("understudy")
    except metadata.PackageNotFoundError:
        return "unknown"


def _written(stream: TextIO, text: str) -> int:
    try:
        say(stream, *text.splitlines())
    except OSError:
        _mute(stream)
    return 0


def _complain(stderr: TextIO, text: str, code: int) -> int:
    with suppress(OSError):
        say(stderr, f"understudy: {clean(text, 1_000)}")
    return code


def _text(error: BaseException) -> str:
    if isinstance(error, UnderstudyError):
        return str(error)
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    name = getattr(error, "filename", None)
    return f"{name}: {reason}" if name else str(reason)


def _code(error: BaseException) -> int:
    usage = (UsageError, UnknownRun, JournalForeign, JournalNewer)
    return USAGE if isinstance(error, usage) else INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first error of a group that is ours to tell, if all of them are."""
    ours, others = group.split((UnderstudyError, OSError, KeyboardInterrupt))
    if ours is None or others is not None:
        return None
    found: BaseException = ours
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _mute(stream: TextIO) -> None:
    """Who read our output has left: what is still buffered goes nowhere, without a word at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
