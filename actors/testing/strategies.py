"""Hypothesis strategies for worlds. With `machine`, the only part of the kit that needs Hypothesis.

    @given(worlds(faults=crash_faults() | network_faults(), schedules=schedules(actors=6)))
    def test_the_desk_survives(world: World) -> None:
        world.run(main)

A strategy of faults draws ONE fault; `|` and sequences join them, and `worlds` draws the lists. Fault records of other
modules need no more than a strategy that draws one. All is drawn before the run, faults before the schedule, by short
flat lists of choices whose first is the simplest: shrinking walks to few faults and deviations, each with small
numbers, and in the end to the empty world. Most worlds are sparse, some dense; a third of them draw, first of all,
the few kinds of faults that they enable (swarm testing: Groce et al., 2012).

An actor is named by a path, or by the number of its address in the order of spawning, from 0. `actors=8` stands for the
first eight numbers, `actors=("desk", "desk/writer")` for these two paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import hypothesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from understudy.actors.errors import UsageError
from understudy.actors.testing import options, properties
from understudy.actors.testing.faults import (
    ClockJump,
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    MailboxIsFull,
    ReplyLost,
    SlowConsumer,
)
from understudy.actors.testing.properties import Buggify
from understudy.actors.testing.schedule import Demote, Deviation, Hold
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World

T = TypeVar("T")

__all__ = [
    "actor_faults",
    "answers",
    "buggify_faults",
    "clock_faults",
    "crash_faults",
    "made",
    "mailbox_faults",
    "network_faults",
    "replayable",
    "reseed",
    "sayings",
    "schedules",
    "worlds",
]

Actors: TypeAlias = int | Sequence[int | str]
"""How many of the first addresses, or which ones: numbers or paths."""
Faults: TypeAlias = "SearchStrategy[Any] | Sequence[SearchStrategy[Any]]"
"""Strategies that each draw one fault. Any: Hypothesis's `|` loses the type."""

ACTORS: Final = 8
"""Addresses that a strategy names when it is told nothing."""
MESSAGES: Final = 8
"""Messages of an actor that it aims at."""
MAX_HOLDS: Final = 8
MAX_FAULTS: Final = 10

_NTH: Final = (1, 2, 1, 3, 2, 1, 4, 2, 3, 5, 6, 7, 8)
"""Early messages are aimed at more often, and every nth up to the bound is."""
_STEPS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
_SECONDS: Final = (0.01, 0.1, 1.0, 3.0, 10.0, 60.0)
_JUMPS: Final = (1.0, -1.0, 60.0, -60.0, 3_600.0, -3_600.0, 86_400.0)
_SIZES: Final = (1, 2, 1, 2, 3, MAX_FAULTS)
"""How long a list of faults may be in one world: mostly sparse, sometimes dense."""
_SWARM: Final = 3
"""Kinds that a swarm enables at most."""
_SAYS: Final = 24
"""Small numbers of one agent at most, and how many differ."""


# -- who and when ------------------------------------------------------------------------------------------------


def _who(actors: Actors) -> SearchStrategy[int | str]:
    named = _names(actors)
    if not named or "" in named:
        raise UsageError(f"actors={actors!r}: at least one, and no empty path")
    return st.sampled_from(named)


def _names(actors: Actors) -> tuple[int | str, ...]:
    if isinstance(actors, int):
        return tuple(range(actors))
    return (actors,) if isinstance(actors, str) else tuple(actors)


def _nth(messages: int, *, start: bool = False) -> SearchStrategy[int]:
    """1 first; 0, the start, last."""
    if messages < 1:
        raise UsageError(f"messages={messages}: at least 1")
    near = [each for each in _NTH if each <= messages]
    return st.sampled_from([*near, *range(len(_NTH) - 4, messages + 1), *([0] if start else [])])


@st.composite
def made(draw: st.DrawFn, /, kind: Callable[..., T], *fields: SearchStrategy[Any], **named: SearchStrategy[Any]) -> T:
    """As `st.builds`. Its arguments, and those of `st.tuples`, Hypothesis explains with 100 runs each."""
    return kind(*[draw(field) for field in fields], **{name: draw(field) for name, field in named.items()})


# -- schedules ---------------------------------------------------------------------------------------------------


def _joined(some: Sequence[Deviation], more: Sequence[Deviation]) -> list[Deviation]:
    return [*some, *more]


def _only(demotions: Sequence[Demote]) -> list[Deviation]:
    return [*demotions]


def schedules(
    max_holds: int = MAX_HOLDS, depth: int = 3, *, actors: Actors = ACTORS, messages: int = MESSAGES
) -> SearchStrategy[tuple[Deviation, ...]]:
    """Deviations from first come, first served: none is the simplest.

    One of: a hold or two; up to `depth` demotions, as in probabilistic concurrency testing; both, with up to
    `max_holds` holds; or a whole order of all `actors`, written as demotions. Each aims at one of the first `messages`
    messages of an actor; 0 holds its start. Raises `UsageError` for bounds that allow nothing.
    """
    if max_holds < 0 or depth < 0:
        raise UsageError(f"schedules(max_holds={max_holds}, depth={depth}): neither may be negative")
    who = _who(actors)
    hold = made(Hold, who, _nth(messages, start=True), st.sampled_from(_STEPS))
    demote = made(Demote, who, _nth(messages))
    demotions = st.lists(demote, max_size=depth)
    names = _names(actors)
    ways: list[SearchStrategy[list[Deviation]]] = [st.lists(hold, max_size=min(2, max_holds))]
    if depth:
        ways.append(demotions.map(_only))
    if depth or max_holds > 2:
        ways.append(made(_joined, st.lists(hold, max_size=max_holds), demotions))
    if depth and len(names) > 1:
        ways.append(st.permutations(range(len(names))).map(lambda order: ordered(names, order)))
    return st.one_of(ways).map(tuple)


def ordered(names: Sequence[int | str], order: Sequence[int]) -> list[Deviation]:
    """The fewest demotions after which those that are ready together are served in this order."""
    first = 1
    while first < len(order) and order[first] > order[first - 1]:
        first += 1
    return [Demote(names[each], at=1) for each in order[first:]]


# -- faults ------------------------------------------------------------------------------------------------------


def crash_faults(*, actors: Actors = ACTORS, messages: int = MESSAGES, starts: bool = False) -> SearchStrategy[Fault]:
    """One `Crash`: before a message, or after it; with `starts` also (`at=0`) of the first start of an actor.

    A supervisor whose child does not start the first time does not start either: that is no fault to survive.
    """
    return made(Crash, _who(actors), _nth(messages, start=starts), st.booleans())


def mailbox_faults(*, actors: Actors = ACTORS, messages: int = MESSAGES) -> SearchStrategy[Fault]:
    """One `SlowConsumer`, or one `MailboxIsFull`."""
    who, nth = _who(actors), _nth(messages)
    slow = made(SlowConsumer, who, nth, st.sampled_from(_SECONDS))
    return st.one_of(slow, made(MailboxIsFull, who, nth))


def network_faults(*, actors: Actors = ACTORS, messages: int = MESSAGES) -> SearchStrategy[Fault]:
    """One of `Delay`, `Duplicate`, `ReplyLost` and `Drop`. Within a process messages are neither lost nor doubled."""
    who, nth = _who(actors), _nth(messages)
    return st.one_of(
        made(Delay, who, nth, st.sampled_from(_SECONDS)),
        made(Duplicate, who, nth),
        made(ReplyLost, who, nth),
        made(Drop, who, nth),
    )


def clock_faults(*, actors: Actors = ACTORS, messages: int = MESSAGES) -> SearchStrategy[Fault]:
    """One `ClockJump`, by a second to a day, forward or back."""
    return made(ClockJump, _who(actors), _nth(messages), st.sampled_from(_JUMPS))


def actor_faults(*, actors: Actors = ACTORS, messages: int = MESSAGES) -> SearchStrategy[Fault]:
    """Any of the four above, those of messages first."""
    return st.one_of(
        network_faults(actors=actors, messages=messages),
        mailbox_faults(actors=actors, messages=messages),
        clock_faults(actors=actors, messages=messages),
        crash_faults(actors=actors, messages=messages),
    )


def buggify_faults(*sites: str, hits: int = MESSAGES) -> SearchStrategy[Fault]:
    """One `Buggify` of a site of the program; see `properties.buggify`. Raises `UsageError` without a site."""
    if not sites:
        raise UsageError("buggify_faults(): name the sites")
    return made(Buggify, st.sampled_from(sites), _nth(hits))


# -- what models and people say ----------------------------------------------------------------------------------


def sayings(agents: Sequence[str], *, most: int = _SAYS) -> SearchStrategy[tuple[tuple[str, tuple[int, ...]], ...]]:
    """For `World.says`: at most `most` small numbers for each agent; an agent without any takes the straight way."""
    each = st.lists(st.integers(0, _SAYS - 1), max_size=most).map(_without_trailing_zeros)
    return made(lambda *said: tuple(pair for pair in zip(agents, said, strict=True) if pair[1]), *[each] * len(agents))


def answers(*, most: int = 4, choices: int = 4) -> SearchStrategy[tuple[int, ...]]:
    """For `World.people`: a number from 0 to `choices` - 1 for each of the first `most` questions."""
    return st.lists(st.integers(0, choices - 1), max_size=most).map(_without_trailing_zeros)


def _without_trailing_zeros(ints: Sequence[int]) -> tuple[int, ...]:
    """What is missing counts as 0, so this is the shorter way to say the same."""
    end = len(ints)
    while end and ints[end - 1] == 0:
        end -= 1
    return tuple(ints[:end])


# -- worlds ------------------------------------------------------------------------------------------------------


def worlds(
    *,
    faults: Faults = (),
    schedules: SearchStrategy[tuple[Deviation, ...]] | None = None,
    max_faults: int = MAX_FAULTS,
    says: SearchStrategy[tuple[tuple[str, tuple[int, ...]], ...]] | None = None,
    people: SearchStrategy[tuple[int, ...]] | None = None,
    inline: SearchStrategy[bool] | None = None,
    seeds: int = 16,
) -> SearchStrategy[World]:
    """Worlds with up to `max_faults` faults, of `faults`, and a schedule; the simplest is the empty one.

    `faults`: a strategy that draws one fault, several of them joined by `|`, or a sequence of such; none by default.
    `schedules`: by default `schedules()`; `st.just(())` for none. `says`, `people`: see `sayings` and `answers`; empty
    by default. `inline`: by default both, the way of production first. `seeds`: how many different seeds of jitter.

    With `pytest --sim-replay=TOKEN` it draws that world and no other.
    """
    if max_faults < 0 or seeds < 1:
        raise UsageError(f"worlds(max_faults={max_faults}, seeds={seeds}): at least 0 and 1")
    parts = (
        _lists_of(faults, max_faults),
        st.just(()) if says is None else says,
        st.just(()) if people is None else people,
        _schedules() if schedules is None else schedules,
        st.sampled_from((True, False)) if inline is None else inline,
        st.integers(0, seeds - 1),
    )
    return replayable(made(_world, *parts))


def replayable(drawn: SearchStrategy[World]) -> SearchStrategy[World]:
    """These worlds, or with `--sim-replay` that one alone. For strategies of worlds that are made elsewhere."""
    return st.deferred(lambda: st.just(World.from_token(options.replay)) if options.replay else drawn)


_schedules: Final = schedules


def _world(
    faults: tuple[Fault, ...],
    says: tuple[tuple[str, tuple[int, ...]], ...],
    people: tuple[int, ...],
    schedule: tuple[Deviation, ...],
    inline: bool,
    seed: int,
) -> World:
    """Of its parts, in the order they are drawn."""
    return World(faults=faults, schedule=schedule, says=says, people=people, inline=inline, seed=seed)


def _lists_of(faults: Faults, most: int) -> SearchStrategy[tuple[Fault, ...]]:
    kinds = _kinds(faults)
    return _some_faults(_Swarm(kinds, most)) if kinds and most else st.just(())


def _kinds(faults: Faults) -> list[SearchStrategy[Any]]:
    """The strategies that were joined. One that Hypothesis joined in a way unknown here counts as one kind."""
    if isinstance(faults, SearchStrategy):
        joined: Sequence[SearchStrategy[Any]] | None = getattr(faults, "original_strategies", None)
        return [faults] if joined is None else _kinds(joined)
    return [kind for each in faults for kind in _kinds(each)]


class _Swarm:
    """Strategies of lists of faults, by the kinds that are enabled and how long they may be. Each is made once."""

    def __init__(self, kinds: Sequence[SearchStrategy[Any]], most: int) -> None:
        self.kinds = kinds
        self.sizes = st.sampled_from([min(size, most) for size in _SIZES])
        few = st.lists(st.sampled_from(range(len(kinds))), min_size=1, max_size=_SWARM)
        self.enabled: SearchStrategy[list[int]] = (
            st.one_of(st.just([]), st.just([]), few) if len(kinds) > 1 else st.just([])
        )
        self._lists: dict[tuple[tuple[int, ...], int], SearchStrategy[list[Fault]]] = {}

    def lists(self, enabled: Sequence[int], size: int) -> SearchStrategy[list[Fault]]:
        """Lists of faults of these kinds, of all when there are none."""
        chosen = tuple(sorted(set(enabled)))
        found = self._lists.get((chosen, size))
        if found is None:
            kinds = [self.kinds[index] for index in chosen] or self.kinds
            found = self._lists[chosen, size] = st.lists(st.one_of(kinds), max_size=size)
        return found


@st.composite
def _some_faults(draw: st.DrawFn, swarm: _Swarm) -> tuple[Fault, ...]:
    enabled, size = draw(swarm.enabled), draw(swarm.sizes)
    return tuple(draw(swarm.lists(enabled, size)))


def reseed(test: Callable[..., object], seed: int) -> None:
    """Let the next call of a `@given` test search from this seed."""
    found: Any = getattr(test, "__func__", test)
    while found is not None:
        if getattr(found, "is_hypothesis_test", False):
            hypothesis.seed(seed)(found)
        found = getattr(found, "__wrapped__", None)


def _tell(world: World, trace: Trace) -> None:
    """Let Hypothesis count, and show with `--hypothesis-show-statistics`, which faults came true."""
    if hypothesis.currently_in_test_context():
        for kind in sorted(trace.faults):
            hypothesis.event(f"{kind} came true")


properties.observers.append(_tell)
