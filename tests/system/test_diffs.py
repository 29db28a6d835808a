"""Where two runs part, with both sides shown, and what the one spent that the other did not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import shown
from acted import Acted, call, calls, told, turns, words
from shown_cast import CASES

from understudy import Agent, Prompt, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest
from understudy.actors.journal import events as ev
from understudy.actors.journal.differences import difference
from understudy.actors.journal.events import Record
from understudy.actors.testing.replays import read_history

pytestmark = pytest.mark.promise(286)


@tool(effect="read")
async def look(what: str) -> str:
    """Look something up."""
    return f"saw {what}"


def says(request: ModelRequest) -> ModelReply:
    """Looks twice unless it is to be quick, then says what it saw."""
    quick = "quick" in request.messages[0].content
    if turns(request) < (1 if quick else 2):
        return calls(call("look", what=f"lamp {turns(request)}"))
    return words(told(request)[-1])


def clerk(**options: Any) -> Agent[Any, Any]:
    options.setdefault("instructions", "Be kind.")
    return Agent("clerk", model=Acted(says), tools=[look], **options)


def place(records: Sequence[Record], kind: type[ev.Event], nth: int = 0) -> int:
    return [record.seq for record in records if isinstance(record.event, kind)][nth]


def renamed(records: Sequence[Record], run: str) -> list[Record]:
    """The same run under another id, as another day's."""
    text = b"[" + b",".join(map(ev.encode, records)) + b"]"
    other = msgspec.json.decode(text.replace(records[0].run.encode(), run.encode()), type=list[Record])
    return [msgspec.structs.replace(record, at=record.at + 1e6) for record in other]


@pytest.mark.parametrize("name", sorted(CASES))
def test_two_runs_that_did_the_same_are_the_same_whatever_their_ids_and_times(name: str) -> None:
    records = list(read_history(shown.kept(name)).values())[-1]
    found = difference(records, renamed(records, "12345678"))
    assert (found.same, found.recorded, found.now) == (True, "", "")
    assert found.equal > 0
    assert found.spent == found.other_spent


@pytest.mark.anyio
async def test_a_fork_parts_from_its_run_at_the_first_request_with_the_other_prompt() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        records = await system.journal.read(first.run)
        at = place(records, ev.ToolAnswered)
        other = await system.fork(first.run, at=at, instructions="Be quick.")
        await system.resume(other)
        found = await system.diff(first.run, other)
    assert (found.at, found.other_at) == (at + 1, at + 3)  # the fork and its attempt are events, too
    assert (found.path, found.step) == ("main/clerk", 2)
    assert found.recorded.startswith("call model, step 2: instructions ")
    assert found.now.startswith("call model, step 2: instructions ")
    assert found.recorded != found.now
    assert (found.spent.steps, found.other_spent.steps, found.after.steps) == (3, 2, 2)
    assert (found.ended, found.other_ended) == ("complete", "complete")


@pytest.mark.anyio
async def test_a_changed_result_is_shown_on_both_sides() -> None:
    agent = clerk()
    async with System(agent) as system:
        first = await system.run(agent, "go")
        at = place(await system.journal.read(first.run), ev.ToolAnswered)
        other = await system.fork(first.run, at=at, result="nothing")
        await system.resume(other)
        found = await system.diff(first.run, other)
    assert (found.at, found.other_at) == (at, at)
    assert (found.recorded, found.now) == ('call 0 of step 1 gives "saw lamp 0"', 'call 0 of step 1 gives "nothing"')


def test_a_run_that_was_cut_has_nothing_more_where_the_other_goes_on() -> None:
    records = list(read_history(shown.kept("same")).values())[-1]
    cut = place(records, ev.ModelAsked, 2) - 1
    found = difference(records, renamed(records[:cut], "12345678"))
    assert (found.at, found.other_at, found.now) == (cut + 1, 0, "nothing more")
    assert (found.ended, found.other_ended) == ("stopped", "")
    found = difference(renamed(records[:cut], "12345678"), records)
    assert (found.at, found.other_at, found.recorded) == (0, cut + 1, "nothing more")


def test_calls_of_one_batch_may_come_back_in_any_order() -> None:
    batch = [call("look", what="one"), call("look", what="two")]
    events: list[ev.AnyEvent] = [
        ev.RunStarted("clerk", "Prompt", '{"text": "go"}'),
        ev.ModelAsked(1, {}, 9, {}, (), "t"),
        ev.ModelAnswered(1, "t", calls(*batch), {}),
        *(ev.ToolAsked(1, n, "look", each.arguments, "read", "") for n, each in enumerate(batch)),
    ]
    ends = [ev.ToolAnswered(1, 0, '"one"'), ev.ToolAnswered(1, 1, '"two"')]

    def run(name: str, outcomes: Sequence[ev.AnyEvent]) -> list[Record]:
        every = [*events, *outcomes]
        return [Record(name, n, 1e9 + n, float(n), 0, "", 0, 0, event) for n, event in enumerate(every, 1)]

    assert difference(run("aaaaaaaa", ends), run("bbbbbbbb", ends[::-1])).same
    swapped = [msgspec.structs.replace(ends[0], result='"two"'), msgspec.structs.replace(ends[1], result='"one"')]
    found = difference(run("aaaaaaaa", ends), run("bbbbbbbb", swapped))
    assert (found.at, found.other_at, found.now) == (6, 6, 'call 0 of step 1 gives "two"')


# --- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "desk.db"
    shown.restored(shown.kept("same"), path)
    return path


def test_diff_shows_both_sides_and_the_cost(journal: Path) -> None:
    forked = ("fork", "@:9", "--journal", str(journal), "--app", "shown_loops:cycle", "--json")
    code, out, err = shown.command(*forked, "--instructions", "Be quick.")
    assert msgspec.json.decode(out)["status"] == "stopped", err
    code, out, err = shown.command("diff", "@2", "@", "--journal", str(journal))
    assert code == 5
    old, new = out.split()[1:]
    lines = [line.split(None, 1) for line in err.splitlines()]
    assert [line[0] for line in lines] == ["Diverged", old.split(":")[0], new.split(":")[0], "cost", "ended"]
    assert lines[3][1].startswith("steps 5 → ")
    assert lines[4][1] == "stopped → stopped"
    code, out, err = shown.command("diff", "@2", "@2", "--journal", str(journal))
    assert (code, out) == (0, "identical\n")
    code, out, _ = shown.command("diff", "@2", "@", "--json", "--journal", str(journal))
    assert (code, msgspec.json.decode(out)["spent"]["steps"]) == (5, 5)


def test_diff_now_compares_with_todays_code_and_says_what_the_recorded_run_spent_after_it(journal: Path) -> None:
    told = ("diff", "@", "--now", "--journal", str(journal), "--app")
    assert shown.command(*told, "shown_loops:same")[:2] == (0, "identical\n")
    code, out, err = shown.command(*told, "shown_loops:nudged")
    assert code == 5
    assert out.startswith("diverged ")
    assert [line.split()[0] for line in err.splitlines()][2:] == ["now", "after"]
    assert err.rstrip().endswith("alive: the most that can be saved")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["@"], "diff takes two runs, or one and --now"),
        (["@", "@2", "--now"], "diff takes two runs, or one and --now"),
        (["@:3", "@"], "diff takes whole runs, '@:3' names an event"),
        (["@", "@2"], "no run @2, the journal has 1"),
        (["@", "--now"], "diff --now needs the agents: --app module:attribute, or UNDERSTUDY_APP"),
    ],
)
def test_what_cannot_be_compared_is_one_line(journal: Path, argv: list[str], said: str) -> None:
    code, out, err = shown.command("diff", *argv, "--journal", str(journal))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


@pytest.mark.anyio
async def test_runs_of_two_requests_part_at_the_request() -> None:
    agent = clerk()
    async with System(Supervisor("desk", [agent])) as system:
        one, other = await system.ref("clerk").ask(Prompt("go")), await system.ref("clerk").ask(Prompt("stay"))
        found = await system.diff(one.run, other.run)
    assert (found.at, found.other_at, found.equal) == (1, 1, 0)
    assert (found.recorded, found.now) == (
        'ask clerk: {"$":"Prompt","text":"go"}',
        'ask clerk: {"$":"Prompt","text":"stay"}',
    )
