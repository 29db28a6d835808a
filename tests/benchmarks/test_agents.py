"""The programs of libraries of agents: on a library of twenty lines they pass, and a wrong library is caught."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli, reference, scripts, worker, workers
from benchmarks.case import Case, Found, NotSupported
from benchmarks.peers import agents, setup
from benchmarks.probe import probed
from benchmarks.scripts import Script
from benchmarks.talk import KEPT, PINNED, Heard, Texts, Trimmer, compare


class Plain:
    """A loop around model and tool: the smallest library there can be."""

    VERSION = ""
    limit = 50

    def program(self, case: Case) -> Callable[[Case], Awaitable[Found]]:
        return agents.program_for(self, case)

    def tool(self, work: scripts.Tool) -> scripts.Tool:
        return agents.as_text(work)

    def model(self, model: agents.Model) -> agents.Model:
        return model

    def agent(self, model: agents.Model, tools: Any, instructions: str = "") -> Any:
        return model, {tool.__name__: tool for tool in tools}, instructions

    async def run(self, agent: Any, request: str, turns: int | None = agents.ENOUGH) -> str:
        model, tools, instructions = agent
        last = ""
        for turn in range(self.limit if turns is None else turns):
            said = model(agents.Asked(request, turn, last, instructions))
            if isinstance(said, str):
                return self.answer(request, said)
            last = str(await tools[said[0]](**said[1]))
        raise agents.Limited

    def answer(self, request: str, said: str) -> str:
        return said

    async def talk(self, case: Case, texts: Texts, heard: Heard) -> int:
        trimmer = Trimmer(texts)
        items: list[str] = []
        case.start()
        for text in texts.texts:
            items = trimmer.trim(items, str, self.summary) or items
            items.append(text)
            heard.hear(items)
            heard.done()
        case.stop()
        return trimmer.compactions

    def summary(self, text: str) -> str:
        return text

    async def budget(self, case: Case) -> Found:
        raise NotSupported("no budgets")


class Hasty(Plain):
    """Its limit is less than an honest agent needs."""

    limit = 10


class Mixed(Plain):
    """Two runs' answers are one."""

    def answer(self, request: str, said: str) -> str:
        return self.kept.setdefault("both", said) if request in ("5", "8") else said

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}


class Same(Plain):
    """All agents have the instructions of one."""

    def agent(self, model: agents.Model, tools: Any, instructions: str = "") -> Any:
        return super().agent(model, tools, "4" if instructions == "5" else instructions)


class Lossy(Plain):
    """A summary says nothing of what it stands for."""

    def summary(self, text: str) -> str:
        return "Summary of what came before:\nhash 0"


SMALL = {
    "steps:tool-1ms": (20, 3),
    "steps:tool-0": (20, 3),
    "loops:limit": (1,),
    "loops:turns-25": (1,),
    "compaction:session": (200,),
    "construction:one-tool": (10, 2),
}


def run(library: Plain, title: str) -> worker.Reply:
    name, _, line = title.partition(":")
    return worker.run_once(library, Case(name, line, SMALL[title]))


@pytest.mark.parametrize("title", SMALL)
def test_a_right_library_passes_the_check_of_every_program(title: str) -> None:
    reply = run(Plain(), title)
    assert (reply["ok"], reply.get("error")) == (True, None)


@pytest.mark.parametrize(
    ("library", "title", "error"),
    [
        (Mixed(), "steps:tool-0", "sum: expected "),
        (Mixed(), "loops:turns-25", "answers: expected 'right', got 'wrong: ["),
        (Same(), "construction:one-tool", "answered: expected 10, got 9"),
        (Lossy(), "compaction:session", "order_hash: expected "),
    ],
)
def test_a_wrong_library_is_caught_and_gets_no_time(library: Plain, title: str, error: str) -> None:
    reply = run(library, title)
    assert (reply["ok"], set(reply)) == (False, {"ok", "error"})
    assert str(reply["error"]).startswith(error)


def test_a_limit_below_what_honest_agents_need_is_counted_in_false_stops() -> None:
    extra: Any = run(Hasty(), "loops:limit")["extra"]
    assert (extra["false_stops"], extra["wasted_calls"]) == (19, {"0": 4})
    extra = run(Plain(), "loops:limit")["extra"]
    assert (extra["false_stops"], extra["wasted_calls"]) == (0, {"0": 44})


def test_what_a_library_cannot_do_has_no_numbers() -> None:
    def asked(name: str, line: str) -> worker.Reply:
        return worker.run_once(Plain(), Case(name, line, (1, 1)))

    assert asked("budget", "tree") == {"ok": None, "error": "not supported: no budgets"}
    assert asked("loops", "default") == {"ok": None, "error": "not supported: no detection of loops"}
    assert asked("pingpong", "tell") == {"ok": None, "error": "not supported: a library of agents, without actors"}


def test_overspend_in_one_pool_is_not_made_good_by_what_another_has_left() -> None:
    agents.overspent([(90, 100), (100, 100)])
    with pytest.raises(Exception, match="overspend: 7 tokens beyond 200"):
        agents.overspent([(50, 100), (107, 100)])


def test_a_scripted_agent_comes_to_the_value_that_the_oracle_says() -> None:
    for i in range(40):
        value, k = "", 0
        while isinstance(said := scripts.say(i, k, 10, value), tuple):
            value, k = str(scripts.answer(int(str(said[1]["a"])))), k + 1
        assert int(said) == reference.oracle().chain(i, 10)


@pytest.mark.parametrize("kind", range(3))
def test_a_looper_goes_on_and_its_neighbours_end_with_the_value_of_the_oracle(kind: int) -> None:
    for i in range(kind * 20, kind * 20 + 20):
        script, last = Script(i), ""
        while isinstance(said := script.next(last), tuple) and script.said < 100:
            last = str(scripts.answer(int(str(said[1]["a"])))) if said[0] == "work" else "?"
        ended = isinstance(said, str)
        assert ended == (i % 20 != 7)
        assert not ended or int(str(said)) == reference.oracle().chain(i, 10)


def test_a_trimmed_history_keeps_the_pinned_turns_the_last_ones_and_the_hash_of_the_others() -> None:
    texts = Texts(60)
    trimmer = Trimmer(texts)
    assert trimmer.trim(texts.texts[:31], str, str) is None
    items = trimmer.trim(texts.texts[:32], str, str)
    assert items is not None
    assert (items[:PINNED], items[-KEPT:]) == (texts.texts[:PINNED], texts.texts[22:32])
    heard = Heard(texts, tools=False)
    heard.hear(items)
    assert heard.found() == {"pinned": 5, "order_hash": reference.oracle().compaction(32)["order_hash"], "over": 0}


def test_a_turn_that_costs_ever_more_is_refused() -> None:
    case = Case("compaction", "session", (1000,))
    with pytest.raises(Exception, match=r"cpu: a turn at the end takes 7\.\d+ times as much"):
        compare(case, "cpu", [100.0 + turn for turn in range(1000)], [1.0] * 1000)


def test_the_probe_counts_what_is_still_under_way() -> None:
    case = Case("steps", "tool-0", ())

    async def blocked() -> None:
        begun = asyncio.Event()

        async def ask() -> None:
            begun.set()
            await asyncio.Event().wait()

        async with probed(case, ask):
            await asyncio.wait_for(begun.wait(), 60)

    asyncio.run(blocked())
    assert case.extra["probes"] == 1
    assert float(str(case.extra["probe_ms_p99"])) >= 0


def test_every_peer_has_an_environment_with_pinned_versions() -> None:
    assert set(workers.PEERS.values()) == set(setup.PINS)
    assert all("==" in package for _, packages in setup.PINS.values() for package in packages)


def test_without_their_environment_the_rows_of_libraries_of_agents_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "VENVS", tmp_path)
    out = io.StringIO()
    names = ["langgraph", "pydantic-ai", "openai-agents"]
    assert cli.main(["steps:tool-0", "--impl", ",".join(names), "--size", "small", "--json"], out) == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["impl"], row["ok"]) for row in rows] == [(name, None) for name in names]
    assert {row["error"] for row in rows} == {"not supported: peer not installed"}
