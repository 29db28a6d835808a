"""Test your own tree of agents in drawn worlds: what models say, what fails, who is killed when, and in which order.

    @given(worlds(refunds))
    def test_nobody_is_paid_twice(world: World) -> None:
        assert play(refunds, world, Prompt("Order 1042 arrived broken.")).effects(pay) <= 1

`worlds` draws and shrinks (it needs the extra `testing`, for hypothesis); `play` runs one world in virtual time and
without network. Your own tools run, so they may not reach for one: `Escape` says where they do. Unit tests of one agent
use `ScriptedModel`; code that is no tree `World.run`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, cast

from understudy.actors.agents.agent import Agent
from understudy.actors.errors import UsageError
from understudy.actors.messages import Message
from understudy.actors.testing import invariants, properties, report
from understudy.actors.testing.disk_faults import (
    DiskError,
    KillAfter,
    KillBefore,
    LostWrites,
    SlowDisk,
    TornWrite,
)
from understudy.actors.testing.faults import (
    ClockJump,
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    InjectedCrash,
    MailboxIsFull,
    ReplyLost,
    SlowConsumer,
)
from understudy.actors.testing.invariants import Oracle
from understudy.actors.testing.invariants import default as default_invariants
from understudy.actors.testing.model_faults import (
    CutStream,
    EmptyAnswer,
    MalformedJSON,
    ModelReplyLost,
    ModelTimeout,
    OverReported,
    RateLimited,
    Refusal,
    Rejected,
    RepeatOutput,
    ServerError,
    SlowTokens,
    UnknownTool,
    Unreachable,
    WrongSchema,
)
from understudy.actors.testing.outside import Escape, inside, no_escape, untraced
from understudy.actors.testing.play_invariants import PlayInvariant
from understudy.actors.testing.properties import (
    Buggify,
    Campaign,
    Vacuous,
    always,
    buggify,
    campaign,
    eventually,
    not_vacuous,
    note,
    sometimes,
)
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.schedule import Demote, Hold
from understudy.actors.testing.scripted_model import ScriptedModel, ScriptError, Step, call
from understudy.actors.testing.simloop import Deadlock, Livelock
from understudy.actors.testing.sweeps import sweep
from understudy.actors.testing.tool_faults import (
    ToolHangs,
    ToolLies,
    ToolRaises,
    ToolReplyLost,
    ToolSlow,
    ToolWrongType,
)
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World
from understudy.plays import PROCESSES, Main, Outcome, Play, Tree, agents_of, checked, paths_of
from understudy.supervisors.testing import plays

if TYPE_CHECKING:
    from understudy.actors.testing.agent_strategies import Worlds

__all__ = [
    "Buggify",
    "Campaign",
    "ClockJump",
    "Crash",
    "CutStream",
    "Deadlock",
    "Delay",
    "Demote",
    "DiskError",
    "Drop",
    "Duplicate",
    "EmptyAnswer",
    "Escape",
    "Falsified",
    "Fault",
    "Hold",
    "InjectedCrash",
    "KillAfter",
    "KillBefore",
    "Livelock",
    "LostWrites",
    "MailboxIsFull",
    "MalformedJSON",
    "ModelReplyLost",
    "ModelTimeout",
    "Outcome",
    "OverReported",
    "RateLimited",
    "Refusal",
    "Rejected",
    "RepeatOutput",
    "ReplyLost",
    "ScriptError",
    "ScriptedModel",
    "ServerError",
    "SlowConsumer",
    "SlowDisk",
    "SlowTokens",
    "Step",
    "ToolHangs",
    "ToolLies",
    "ToolRaises",
    "ToolReplyLost",
    "ToolSlow",
    "ToolWrongType",
    "TornWrite",
    "Trace",
    "UnknownTool",
    "Unreachable",
    "Vacuous",
    "World",
    "WrongSchema",
    "always",
    "buggify",
    "call",
    "campaign",
    "eventually",
    "not_vacuous",
    "note",
    "play",
    "sometimes",
    "sweep",
    "worlds",
]


KILLED: Final = tuple(invariants.number(n) for n in (1, 2, 3, 5, 8, 10))
"""What is held of a process that was killed: the rest speaks of how things end."""


def play(
    tree: Tree,
    world: World,
    message: Message[Any] | str | Main,
    *,
    to: Agent[Any, Any] | str | None = None,
    check: Iterable[Oracle | PlayInvariant] | None = None,
    again: bool = False,
    durability: str = "normal",
) -> Outcome:
    """Run a tree in a world until the message is answered for good, and hold the trace against invariants.

    `message` goes to `to`: an agent, the name of a child, or by default the agent that accepts it (the first of them)
    or the root supervisor's route. Its client is patient: when the process is killed before the request was taken it
    sends it again to the next one; it answers what people are asked, and settles doubts by what happened. A function is
    called with the running `System` instead, once in each process, and may do anything.

    `check`: oracles of traces, and invariants of plays; by default `invariants.default()` and
    `supervisors.testing.plays.default()`, that is 25 to 37; `()` for none. `again`: play it twice, and let both be the
    same (43). `durability`: of the journal, as `System`'s.

    Raises `Falsified` for a broken invariant, `Deadlock`, `Livelock`, `Escape`, and what a function raises; with this
    world as a note. `SpecError` for a tree that is none, `UsageError` for a message that nobody takes, for a world of
    another tree (its faults or `says` name an agent or tool that this one has not), and other arguments that cannot be.
    """
    root = checked(tree, "play")
    if not isinstance(world, World):
        raise UsageError(f"play: world is {world!r}; it is a World")
    chosen: tuple[Oracle | PlayInvariant, ...] = (*default_invariants(), *plays.default())
    if check is not None:
        chosen = _oracles(check)
    of_plays = [each for each in chosen if isinstance(each, PlayInvariant)]
    of_traces = [each for each in chosen if not isinstance(each, PlayInvariant)]
    of_killed = [each for each in of_traces if check is not None or each in KILLED]
    states = any(each.states for each in of_plays)
    trace = Trace()

    def once(into: Trace) -> tuple[Play, Outcome]:
        with inside(world.seed), untraced(), no_escape(), properties.running(world, into) as run:
            play = Play(root, world, message, to, into, durability, states=states)
            outcome = play.run()
            run.end()
            return play, outcome

    try:
        played, outcome = once(trace)
        found: list[str] = [sentence for each in of_plays for sentence in each(outcome.evidence)]
        if again:
            found += _differences(outcome, once(Trace())[1])
    except BaseException as error:
        trace.error = error
        report.last = (world, trace)
        if isinstance(error, Exception):
            report.explain(error, world, trace)
        raise
    report.last = (world, trace)
    for each, killed in played.traces:
        for oracle in of_killed if killed else of_traces:
            found += report.sentences(oracle, each)
    report.verify(world, trace, [lambda _: found])
    return outcome


def _oracles(check: object) -> tuple[Oracle | PlayInvariant, ...]:
    found = tuple(check) if isinstance(check, Iterable) else (None,)
    if not all(map(callable, found)):
        raise UsageError(f"play: check is {check!r}; it is a sequence of functions, as invariants.default()")
    return cast("tuple[Oracle | PlayInvariant, ...]", found)


def _differences(one: Outcome, other: Outcome) -> list[str]:
    """Invariant 43: the same world has the same trace, journal and results."""
    what = "invariant #43 'determinism': played again, this world has "
    found = []
    if one.trace.fingerprint() != other.trace.fingerprint():
        found.append(f"{what}trace {other.trace.fingerprint()}, and had {one.trace.fingerprint()}")
    if one.records != other.records:
        found.append(f"{what}another journal")
    if one.results != other.results:
        found.append(f"{what}results {other.results}, and had {one.results}")
    return found


def worlds(tree: Tree, *, kills: int = 0, faults: Collection[type[Fault]] | None = None) -> Worlds:
    """Worlds for a tree: what its models say, which calls fail, which actors crash or are held back, who says no.

    `kills`: how often the process may be killed, and taken up from the journal, at most. `faults`: the kinds that may
    happen; by default everything that can go wrong in one process, its models, tools and disk, but no lies of tools
    (these need an oracle of yours) and no messages lost between actors (that needs a link).

    Everything shrinks to the world in which nothing goes wrong. Raises `SpecError` for a tree that is none, and
    `UsageError` for more than 31 kills, and for faults that are no kinds, cannot be drawn, or have nothing to strike;
    `ModuleNotFoundError` without hypothesis.
    """
    try:
        from understudy.actors.testing import agent_strategies as drawing
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"worlds: {error}; pip install 'understudy[testing]'", name=error.name) from None
    tree = checked(tree, "worlds")
    if type(kills) is not int or not 0 <= kills < PROCESSES:
        raise UsageError(f"worlds: kills is {kills!r}; from 0 to {PROCESSES - 1}")
    agents = agents_of(tree)
    tools = dict.fromkeys(tool.name for agent in agents for tool in agent.all_tools)
    return drawing.tree_worlds(
        agents=[agent.name for agent in agents],
        tools=list(tools),
        paths=paths_of(tree),
        kills=kills,
        faults=drawing.DEFAULT if faults is None else faults,
    )
