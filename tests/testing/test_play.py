"""`play`: what its client does, what a kill leaves of a process, and what it says when it cannot."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator

import pytest
from agent_trees import TREES, Report, clerk, destroy, keeper, order, refunds, store
from cuts import CASES

from understudy import Actor, Agent, Message, OpenAIChat, Prompt, Supervisor, System, tool
from understudy.actors.errors import UsageError
from understudy.actors.testing.evidence import Word
from understudy.supervisors.testing import plays
from understudy.testing import (
    Crash,
    DiskError,
    Falsified,
    KillAfter,
    KillBefore,
    Livelock,
    SlowConsumer,
    ToolReplyLost,
    TornWrite,
    World,
    play,
)

model = OpenAIChat("gpt-5-mini", api_key="k")
done: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def fresh() -> None:
    done.clear()


class Ask(Message[int]):
    n: int


class Counted(Actor[Ask]):
    def __init__(self) -> None:
        self.total = 0

    def ask(self, m: Ask) -> int:
        done["asked"] += 1
        self.total += m.n
        return self.total


class Nobody(Message[None]): ...


@tool(effect="irreversible", timeout=5)
async def charge(cents: int) -> str:
    done["charged"] += 1
    return "charged"


@tool(effect="keyed", timeout=5)
async def send(cents: int) -> str:
    done["sent"] += 1
    return "sent"


shop = Agent("shop", model=model, tools=[charge])
post = Agent("post", model=model, tools=[send])
counting = Supervisor("counting", [Counted])
CALL = (("shop", (1,)),)


# --- the client ------------------------------------------------------------------------------------------------------


@pytest.mark.promise(198)
@pytest.mark.parametrize("write", range(1, 9))
def test_a_request_that_a_kill_swallowed_is_sent_again_and_one_that_was_taken_is_not(write: int) -> None:
    for fault in (KillBefore(write), KillAfter(write)):
        outcome = play(clerk, World(faults=(fault,)), "Find it.")
        assert isinstance(outcome.result.output, Report)
        assert outcome.processes == (2 if fault in outcome.fired else 1)


@pytest.mark.promise(198)
def test_a_doubt_is_settled_by_what_happened() -> None:
    happened = play(shop, World(faults=(ToolReplyLost("charge", 1),), says=CALL), "Charge 5.")
    assert (happened.effects(charge), happened.result.status) == (1, "complete")
    assert done["charged"] == 1


@pytest.mark.promise(198)
@pytest.mark.parametrize(("word", "paid"), [(0, 1), (1, 0), (2, 0), (3, 1)])
def test_people_say_yes_no_nothing_or_yes_twice(word: int, paid: int) -> None:
    outcome = play(store, World(says=(("keeper", (1, 4)),), people=(word,)), "Away with 7.")
    words = [each for each in outcome.evidence.happened if isinstance(each, Word)]
    assert outcome.effects(destroy) == paid
    assert [(each.yes, each.taken) for each in words] == {
        0: [(True, True)],
        1: [(False, True)],
        2: [],
        3: [(True, True), (True, False)],
    }[word]


@pytest.mark.promise(198)
def test_a_tree_that_gives_up_answers_with_what_there_is() -> None:
    world = World(faults=tuple(Crash("main/clerk", at=n) for n in (1, 2, 3, 4)))
    outcome = play(clerk, world, "Find it.")
    assert outcome.result.status == "stopped"


def test_a_plain_actor_is_asked_by_name_and_its_answer_returned() -> None:
    assert play(counting, World(), Ask(3), to="counted").returned == 3


def test_a_function_is_called_in_each_process_with_the_running_system() -> None:
    async def main(system: System) -> int:
        done["mains"] += 1
        return int(await system.ref("counted").ask(Ask(2), timeout=5))

    assert play(counting, World(), main).returned == 2
    assert done["mains"] == 1

    async def twice(system: System) -> str:
        done["mains"] += 1
        result = await system.run(system.tree.policies["clerk"].agent, "x")
        return result.status

    done.clear()
    outcome = play(clerk, World(faults=(KillAfter(4),)), twice)
    assert (outcome.returned, done["mains"], outcome.processes) == ("complete", 2, 2)


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.promise(199)
@pytest.mark.parametrize("write", range(1, 9))
def test_nothing_of_a_killed_process_acts(write: int) -> None:
    for effect, tool_, agent in (("charged", charge, shop), ("sent", send, post)):
        done.clear()
        outcome = play(agent, World(faults=(KillAfter(write),), says=((agent.name, (1,)),)), "Charge 5.", check=())
        alive = sum(1 for each in outcome.seen.effects if each.outcome == "returned")
        assert done[effect] == alive
        assert outcome.effects(tool_) == alive
        assert list(plays.number(33)(outcome.evidence)) == []


@pytest.mark.promise(199)
def test_the_end_of_a_killed_process_uses_up_no_fault_and_no_count() -> None:
    plain = play(clerk, World(faults=(KillAfter(3),)), "Find it.")
    at = sum(1 for e in plain.trace.of("begin") if e.path == "main") + 1
    late = World(faults=(KillAfter(3), Crash("main", at=at)))
    assert play(clerk, late, "Find it.").trace.faults["Crash"] == 0


def test_a_disk_that_refuses_once_costs_a_process_and_nothing_else() -> None:
    outcome = play(clerk, World(faults=(DiskError(4),)), "Find it.")
    assert (outcome.processes, outcome.result.status) == (2, "complete")


def test_a_disk_that_always_refuses_is_no_endless_play() -> None:
    with pytest.raises(Livelock, match="32 processes"):
        play(clerk, World(faults=(DiskError(3, once=False),)), "Find it.")


def test_what_was_logged_before_is_logged_after() -> None:
    logging.disable(logging.WARNING)
    try:
        play(clerk, World(faults=(KillAfter(3),)), "Find it.")
        assert logging.root.manager.disable == logging.WARNING
    finally:
        logging.disable(logging.NOTSET)


# --- checks ----------------------------------------------------------------------------------------------------------


@pytest.mark.promise(195)
def test_a_broken_invariant_names_its_number_and_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    from mutants_guards import MUTANTS

    next(each for each in MUTANTS if each.name == "it is done before it is written").patch(monkeypatch)
    world = World(says=(("keeper", (1, 1)),))
    with pytest.raises(Falsified, match=r"#33 'write-ahead'.*\n(.*\n)*.*world") as caught:
        play(store, world, "x")
    assert caught.value.violations[0].startswith("invariant #33")
    assert play(store, world, "x", check=()).result.status == "complete"


def test_an_invariant_of_plays_is_known_by_its_number() -> None:
    assert [each.number for each in plays.default()] == list(range(25, 38))
    assert "within limits" in plays.number(25).sentence
    with pytest.raises(UsageError, match="invariant 99"):
        plays.number(99)


# --- errors ----------------------------------------------------------------------------------------------------------


def errors() -> Iterator[tuple[object, object, str]]:
    yield Nobody(), None, "nobody in the tree accepts Nobody; agents: keeper"
    yield "x", refunds, "agent 'refunds' is not in the tree; agents: keeper"
    yield Prompt("x"), "kepeer", "kepeer"


@pytest.mark.promise(200)
@pytest.mark.parametrize(("message", "to", "said"), list(errors()))
def test_a_message_that_nobody_takes_is_one_clear_error(message: object, to: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        play(store, World(), message, to=to)  # type: ignore[arg-type]  # what is wrong on purpose


def test_the_agents_that_were_given_stay_as_they_were() -> None:
    before = (keeper.model, keeper.tools, order.fn)
    play(store, World(), "x")
    assert before == (keeper.model, keeper.tools, order.fn)


# --- what plays have found in the runtime: the smallest worlds -------------------------------------------------------

FOUND = {
    "an end that its supervisor made was told before it was committed": (
        "clerk",
        33,
        World(faults=tuple(Crash("main/clerk", at=n) for n in (1, 2, 3, 4))),
    ),
    "an end that nobody waited for yet was told before it was committed": (
        "desk",
        33,
        World(faults=(Crash("desk/writer/2", at=1), Crash("desk", at=2, after=True)), seed=2),
    ),
    "a call that a kill cut cost nothing when its run was ended from outside": (
        "desk",
        26,
        World(faults=(SlowConsumer("desk/writer/2", at=1, seconds=600.0), TornWrite(write=4)), seed=2),
    ),
}


@pytest.mark.promise(201)
@pytest.mark.parametrize("what", FOUND)
def test_a_world_that_found_something_finds_it_no_more(what: str) -> None:
    name, number, world = FOUND[what]
    outcome = play(TREES[name].tree, world, TREES[name].message, check=())
    assert list(plays.number(number)(outcome.evidence)) == []
    assert outcome.result.status == "stopped"


def test_runs_that_were_pruned_break_no_invariant() -> None:
    case = CASES["a pruning"]
    for fault in (None, KillAfter(11), KillAfter(12), KillAfter(13), KillBefore(12)):
        outcome = play(case.tree, World(faults=() if fault is None else (fault,)), case.message, check=plays.thorough())
        assert "@pruned" in outcome.records
        assert (fault is None) or fault in outcome.fired


def test_a_machine_that_only_waits_for_its_clock_is_waited_for() -> None:
    case = CASES["a machine"]
    outcome = play(case.tree, World(), case.message)
    assert (outcome.result.status, outcome.result.state) == ("complete", "paid")
    assert outcome.seconds < 60, "nothing but polling is not played"
