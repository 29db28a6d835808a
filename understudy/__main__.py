"""`understudy …` and `python -m understudy …`: gives the commands what they need, and imports only what they use."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.actors.agents.agent import Agent
    from understudy.actors.agents.policy import Policy
    from understudy.actors.journal.events import Record
    from understudy.actors.journal.replay import ReplayReport
    from understudy.supervisors.operator.desk import ConnectOptions
    from understudy.supervisors.specs import Supervisor
    from understudy.system import System


def _demo(argv: Sequence[str]) -> int:
    from understudy.demo.command import demo

    return demo(argv)


def load(name: str, what: str) -> object:
    """The object that `module:attribute` names; what a function makes, if it names one.

    Raises `UsageError` naming what is missing.
    """
    from understudy.actors.errors import UsageError

    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{what} {name!r}: write it as module:attribute")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(import_module(module_name), attribute)
    except ImportError as error:
        raise UsageError(f"{what} {name!r}: {error}") from error
    except AttributeError:
        raise UsageError(f"{what} {name!r}: module {module_name!r} has no {attribute!r}") from None
    return found() if callable(found) else found


def load_app(app: str) -> Supervisor | Agent[Any, Any]:
    """The tree that `module:attribute` names: a supervisor, an agent, or a function without parameters that makes one.

    Raises `UsageError` naming what is missing.
    """
    from understudy.actors.agents.agent import Agent
    from understudy.actors.errors import UsageError
    from understudy.supervisors.specs import Supervisor

    found = load(app, "app")
    if not isinstance(found, Supervisor | Agent):
        raise UsageError(f"app {app!r} is a {type(found).__name__}, not a supervisor or an agent")
    return found


@contextlib.asynccontextmanager
async def connect(options: ConnectOptions) -> AsyncGenerator[System, None]:
    """The system that owns the journal, for one command."""
    from understudy.system import System

    if options.app is None:
        from understudy.demo.app import open_demo, options_of

        async with open_demo(options.journal, options_of(options.meta)) as system:
            yield system
    else:
        async with System(load_app(options.app), journal=options.journal) as system:
            yield system


def configured(options: ConnectOptions, records: list[Record]) -> Mapping[str, Policy]:
    """The policies of the app's agents, without a system."""
    from understudy.supervisors import tree

    if options.guards is None:
        return _policies(options, records)
    policies = _policies(options, records) if options.runnable else {}
    return tree.with_guards(policies, load(options.guards, "guards"))


def _policies(options: ConnectOptions, records: list[Record]) -> Mapping[str, Policy]:
    from understudy.supervisors import tree

    if options.app is None:
        from understudy.demo.app import offline, options_of_run
        from understudy.demo.team import team

        chosen = options_of_run(records)
        root = team(chosen, model=offline(chosen))
    else:
        root = tree.root_of(load_app(options.app))
    return tree.plan(root).policies


def replayer(options: ConnectOptions, records: list[Record]) -> ReplayReport:
    """Replay without network, tools or ownership."""
    from understudy.actors.journal.replay import replay

    return replay(records, configured(options, records))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    from understudy.actors.clock import SystemClock
    from understudy.supervisors.operator import cli

    return cli.main(
        sys.argv[1:] if argv is None else argv,
        connect=connect,
        replayer=replayer,
        configured=configured,
        commands={"demo": _demo},
        clock=SystemClock(),
        stdin=sys.stdin,
        stdout=sys.stdout,
        stderr=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
