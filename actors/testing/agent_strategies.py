"""Hypothesis strategies for worlds with agents: what their models say, what goes wrong with models, tools and the disk.

Everything shrinks to nothing: no fault, no deviation, the straight way through a run, and people who say yes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st

from understudy.actors.errors import UsageError
from understudy.actors.testing import disk_faults as disk
from understudy.actors.testing import faults as acting
from understudy.actors.testing import model_faults as models
from understudy.actors.testing import tool_faults as tools
from understudy.actors.testing.faults import Fault
from understudy.actors.testing.schedule import Demote, Deviation, Hold
from understudy.actors.testing.strategies import made, replayable
from understudy.actors.testing.world import World

MOST_FAULTS: Final = 8
MOST_DEVIATIONS: Final = 4
MOST_SAID: Final = 24
CALLS: Final = 6
"""Calls of a model or tool, and messages of an actor, that faults are aimed at."""
WRITES: Final = 40
"""Writes to the journal that faults are aimed at."""
EARLY: Final = 10
"""Writes that half of these faults are aimed at: a short run makes no more."""

_SECONDS: Final = st.sampled_from([1.0, 10.0, 0.1, 60.0, 600.0])
_NTH: Final = (1, 2, 1, 3, 2, 1, 4, 5, CALLS)
"""Early ones are aimed at more often: in most worlds there are few."""
_CALL: Final = st.sampled_from(_NTH)
_WRITE: Final = st.integers(1, EARLY) | st.integers(1, WRITES)
_WAY: Final = st.integers(0, 15)

Worlds: TypeAlias = st.SearchStrategy[World]

_Maker = Callable[[st.SearchStrategy[str]], st.SearchStrategy[Fault]]


def _model(kind: type[models.Fault], **more: st.SearchStrategy[Any]) -> _Maker:
    return lambda agent: made(kind, agent, _CALL, **more)


def _tool(kind: type[tools.Fault], **more: st.SearchStrategy[Any]) -> _Maker:
    return lambda tool: made(kind, tool, _CALL, **more)


def _actor(kind: Callable[..., Fault], **more: st.SearchStrategy[Any]) -> _Maker:
    return lambda path: made(kind, path, _CALL, **more)


MODEL: Final[Mapping[type[Fault], _Maker]] = {
    models.RateLimited: _model(models.RateLimited, retry_after=st.none() | _SECONDS),
    models.ServerError: _model(models.ServerError, status=st.sampled_from([500, 503, 529])),
    models.Unreachable: _model(models.Unreachable),
    models.SlowTokens: _model(models.SlowTokens, seconds=_SECONDS),
    models.ModelTimeout: _model(models.ModelTimeout, sent=st.booleans()),
    models.CutStream: _model(models.CutStream),
    models.ModelReplyLost: _model(models.ModelReplyLost),
    models.MalformedJSON: _model(models.MalformedJSON, part=st.sampled_from(["answer", "body"])),
    models.WrongSchema: _model(models.WrongSchema, way=_WAY),
    models.UnknownTool: _model(models.UnknownTool, way=_WAY),
    models.RepeatOutput: _model(models.RepeatOutput),
    models.EmptyAnswer: _model(models.EmptyAnswer),
    models.Refusal: _model(models.Refusal),
    models.Rejected: _model(models.Rejected, status=st.sampled_from([400, 401, 413])),
    models.OverReported: _model(models.OverReported),
}
TOOL: Final[Mapping[type[Fault], _Maker]] = {
    tools.ToolSlow: _tool(tools.ToolSlow, seconds=_SECONDS),
    tools.ToolRaises: _tool(tools.ToolRaises),
    tools.ToolHangs: _tool(tools.ToolHangs),
    tools.ToolReplyLost: _tool(tools.ToolReplyLost),
    tools.ToolWrongType: _tool(tools.ToolWrongType),
    tools.ToolLies: _tool(tools.ToolLies),
}
ACTOR: Final[Mapping[type[Fault], _Maker]] = {
    acting.SlowConsumer: _actor(acting.SlowConsumer, seconds=_SECONDS),
    acting.ClockJump: _actor(acting.ClockJump, seconds=st.sampled_from([60.0, -60.0, 86_400.0, -86_400.0])),
    acting.Crash: _actor(acting.Crash, after=st.booleans()),
}
NETWORK: Final[Mapping[type[Fault], _Maker]] = {
    acting.Delay: _actor(acting.Delay, seconds=_SECONDS),
    acting.Duplicate: _actor(acting.Duplicate),
    acting.Drop: _actor(acting.Drop),
    acting.ReplyLost: _actor(acting.ReplyLost),
    acting.MailboxIsFull: _actor(acting.MailboxIsFull),
}
ACTORS: Final = {**ACTOR, **NETWORK}
DISK: Final[Mapping[type[Fault], st.SearchStrategy[Fault]]] = {
    disk.SlowDisk: made(disk.SlowDisk, _WRITE, seconds=st.sampled_from([0.1, 5.0, 20.0])),
    disk.DiskError: made(disk.DiskError, _WRITE),
}
_NOT_DRAWN: Final = "is not drawn for a tree: kills are asked for by `kills=`, others are put into a World by hand"
KILLS: Final = made(disk.KillAfter, _WRITE) | made(disk.KillBefore, _WRITE) | made(disk.TornWrite, _WRITE)

DEFAULT: Final[tuple[type[Fault], ...]] = (
    *MODEL,
    *(kind for kind in TOOL if not getattr(kind, "needs_oracle", False)),
    *ACTOR,
    *DISK,
)
"""What a tree must survive in one process on one machine. Not in it: lies of tools, which need an oracle, and messages
lost or doubled on their way, which happen over links only."""


def tree_worlds(
    *,
    agents: Sequence[str],
    tools: Sequence[str] = (),
    paths: Sequence[str] = (),
    kills: int = 0,
    faults: Collection[type[Fault]] = DEFAULT,
) -> Worlds:
    """Worlds for a tree with these agents, tools and actors.

    `kills`: how often the process may be killed at most. `faults`: the kinds that may happen. Raises `UsageError` for a
    kind that cannot be drawn.
    """
    kinds = _kinds(faults, agents, tools, paths)
    return replayable(
        made(
            World,
            faults=_swarm(kinds, kills),
            schedule=_schedule(paths),
            says=_said(agents),
            people=st.lists(st.integers(0, 3), max_size=6).map(tuple),
            seed=st.integers(0, 3),
        )
    )


def _said(agents: Sequence[str]) -> st.SearchStrategy[tuple[tuple[str, tuple[int, ...]], ...]]:
    each = (made(_one, st.just(name), st.lists(st.integers(0, 63), max_size=MOST_SAID)) for name in agents)
    return made(lambda *said: tuple(one for one in said if one[1]), *each)


def _one(name: str, said: list[int]) -> tuple[str, tuple[int, ...]]:
    return name, tuple(said)


def _swarm(kinds: Sequence[st.SearchStrategy[Fault]], kills: int) -> st.SearchStrategy[tuple[Fault, ...]]:
    """A few faults of all kinds, or of one: with many kinds at once each happens too seldom to meet its like."""
    some: st.SearchStrategy[list[Fault]] = st.just([])
    if kinds:
        some = st.lists(st.one_of(kinds), max_size=MOST_FAULTS, unique_by=_once)
        some |= st.one_of(*(st.lists(kind, max_size=MOST_FAULTS, unique_by=_once) for kind in kinds))
    ends = st.lists(KILLS, max_size=kills, unique_by=_once)
    return made(lambda faults, kill: (*faults, *kill), some, ends)


def _once(fault: Fault) -> tuple[object, ...]:
    """What there may be one of: a kind of fault at one place."""
    return (type(fault), *(getattr(fault, name) for name in fault.__struct_fields__[:2] if name not in ("seconds",)))


def _schedule(paths: Sequence[str]) -> st.SearchStrategy[tuple[Deviation, ...]]:
    if not paths:
        return st.just(())
    path = st.sampled_from(paths)
    hold = made(Hold, path, st.sampled_from((*_NTH, 0)), st.integers(1, 16))
    demote = made(Demote, path, _CALL)
    return st.lists(hold | demote, max_size=MOST_DEVIATIONS).map(tuple)


def _kinds(
    faults: Collection[type[Fault]], agents: Sequence[str], tools: Sequence[str], paths: Sequence[str]
) -> list[st.SearchStrategy[Fault]]:
    found: list[st.SearchStrategy[Fault]] = []
    for kind in _all_kinds(faults):
        for makers, places, what in ((MODEL, agents, "agent"), (TOOL, tools, "tool"), (ACTORS, paths, "actor")):
            if kind in makers:
                if places:
                    found.append(makers[kind](st.sampled_from(places)))
                elif faults is not DEFAULT:
                    raise UsageError(f"faults: {kind.__name__} has nothing to strike: the tree has no {what}")
                break
        else:
            if kind not in DISK:
                raise UsageError(f"faults: {kind.__name__} {_NOT_DRAWN}")
            found.append(DISK[kind])
    return found


def _all_kinds(faults: object) -> list[type[Fault]]:
    if not isinstance(faults, Collection):
        raise UsageError(f"faults is {faults!r}; it is a list of kinds of faults, as [Crash, ToolSlow]")
    found: list[type[Fault]] = []
    for each in faults:
        if not (isinstance(each, type) and issubclass(each, Fault)):
            raise UsageError(f"faults has {each!r}; it is a list of kinds of faults, as [Crash, ToolSlow]")
        found.append(each)
    return found
