"""The properties of the kill suite: what each draws, and what it does with it."""

from __future__ import annotations

from typing import Any, Final

import campaigns
import extremes
import moments
import players
import plays
import slow_trees
import trees
import watches
from hypothesis import strategies as st

from understudy.actors.kernel import Kernel
from understudy.actors.testing.faults import Crash
from understudy.actors.testing.schedule import Demote, Deviation, Hold
from understudy.actors.testing.simloop import SimLoop, run
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World

IDLE_STEPS: Final = 20_000
LIMIT: Final = 10_000

actors = st.one_of(st.sampled_from(players.NAMES))
schedules = st.lists(
    st.one_of(
        st.builds(Hold, actors, st.integers(0, 6), st.integers(1, 12)), st.builds(Demote, actors, st.integers(1, 6))
    ),
    max_size=4,
).map(tuple)


def run_world(world: World, main: Any) -> Trace:
    """Run, with the invariants that are known."""
    return world.run(main, idle_steps=IDLE_STEPS, limit=LIMIT)


# -- actors, against the rules ---------------------------------------------------------------------------------

crashes = st.lists(st.tuples(actors, st.integers(1, 6), st.booleans()), max_size=2)
played = st.tuples(players.plans, schedules, crashes, st.sampled_from(["inline", "queued", "undriven"]))


def check_players(drawn: Any) -> None:
    """A kernel does with a program what the rules say: in a drawn world, asks inline or queued, or with no world."""
    raw, schedule, crashed, way = drawn
    plan = players.concrete(raw)
    if way == "undriven":
        crashed = []
    crashing = {(actor, at): after for actor, at, after in crashed}
    said = players.by_model(plan, crashing)

    async def main() -> dict[str, Any]:
        return await players.by_kernel(plan, look=True)

    if way == "undriven":
        done = run(main, loop=SimLoop(idle_steps=IDLE_STEPS))
    else:
        faults = tuple(Crash(actor, at, after) for (actor, at), after in crashing.items())
        deviations: tuple[Deviation, ...] = schedule
        trace = run_world(World(faults=faults, schedule=deviations, inline=way == "inline"), main)
        done = trace.result  # type: ignore[assignment]  # what main returned
    difference = players.difference(said, done)
    assert not difference, difference


# -- supervised trees, against the rules -----------------------------------------------------------------------


def _look(kernel: Kernel) -> None:
    players.look_between_turns(kernel)


def check_tree(drawn: Any) -> None:
    """A supervisor does what the plain statement of the rules does."""
    tree, schedule, inline = drawn

    async def main() -> None:
        await trees.play(tree, _look)

    run_world(World(schedule=schedule, inline=inline), main)


tree_schedules = st.lists(
    st.builds(Hold, st.sampled_from(["desk", "desk/a", "desk/b", "desk/c"]), st.integers(0, 6), st.integers(1, 12)),
    max_size=3,
).map(tuple)

# -- watches, and dynamic supervisors --------------------------------------------------------------------------


def check_watch(drawn: Any) -> None:
    """A watch gives each notice once, to whoever has waited longest."""
    given, inline = drawn
    run_world(World(inline=inline), lambda: watches.play_watch(given))


def check_dynamic(drawn: Any) -> None:
    """A dynamic supervisor does what the plain statement of its rules does."""
    given, schedule, inline = drawn
    run_world(World(schedule=schedule, inline=inline), lambda: watches.play_dynamic(given))


dynamic_schedules = st.lists(
    st.builds(Hold, st.sampled_from(["desk", "desk/x", "desk/y"]), st.integers(0, 6), st.integers(1, 12)), max_size=3
).map(tuple)

# -- large numbers, and mistakes -------------------------------------------------------------------------------


def check_large(drawn: Any) -> None:
    """What holds of few holds of many."""
    given, inline, driven = drawn
    _run_either(lambda: extremes.play_large(given), inline, driven)


def check_mistakes(drawn: Any) -> None:
    """A mistake is one clear error, and changes nothing."""
    given, inline, driven = drawn
    _run_either(lambda: extremes.play_mistakes(given), inline, driven)


def _run_either(main: Any, inline: bool, driven: bool) -> None:
    if driven:
        run_world(World(inline=inline), main)
    else:
        run(main, loop=SimLoop(idle_steps=IDLE_STEPS))


# -- random plays, held against the invariants alone -----------------------------------------------------------


def check_plays(drawn: Any) -> None:
    """The invariants hold in every world, with faults."""
    play, world, settle = drawn
    campaigns.run(play, world, settle)


some_plays = st.tuples(
    st.one_of(plays.plays(8), plays.crashing(), plays.flooding(), plays.watching()),
    plays.worlds(),
    st.sampled_from([0.0, 60.0]),
)


def check_slow(drawn: Any) -> None:
    """Starts and stops that take time, one supervisor below another, go by the rules."""
    given, schedule, inline = drawn
    run_world(World(schedule=schedule, inline=inline), lambda: slow_trees.play_slow(given))


def check_crowd(drawn: Any) -> None:
    """What comes in the same moment is accounted for."""
    given, inline, driven = drawn
    _run_either(lambda: moments.play_crowd(given), inline, driven)


def check_alarms(drawn: Any) -> None:
    """Timers do what a plain list of them does."""
    run(lambda: moments.play_alarms(drawn), loop=SimLoop(idle_steps=IDLE_STEPS))


PROPERTIES: Final = [
    ("players", played, check_players, 1.0),
    ("tree", st.tuples(trees.trees, tree_schedules, st.booleans()), check_tree, 0.8),
    ("watch", st.tuples(watches.watched, st.booleans()), check_watch, 0.3),
    ("dynamic", st.tuples(watches.dynamics, dynamic_schedules, st.booleans()), check_dynamic, 0.6),
    ("slow", st.tuples(slow_trees.slow_trees, tree_schedules, st.booleans()), check_slow, 0.7),
    ("large", st.tuples(extremes.large, st.booleans(), st.booleans()), check_large, 0.12),
    ("mistakes", st.tuples(extremes.mistakes, st.booleans(), st.booleans()), check_mistakes, 0.3),
    ("window", st.tuples(st.integers(0, 4), extremes.stamps, st.integers(0, 12)), extremes.check_window, 0.2),
    ("crowd", st.tuples(moments.crowds, st.booleans(), st.booleans()), check_crowd, 0.4),
    ("alarms", moments.alarms, check_alarms, 0.2),
    ("plays", some_plays, check_plays, 0.5),
]
