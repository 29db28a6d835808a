"""The context window in whole runs: what the model gets, killed and resumed, and across the runs of a session."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy import (
    Agent,
    Budget,
    ContextWindow,
    Message,
    Prompt,
    Result,
    Route,
    Slide,
    Summarise,
    Supervisor,
    System,
    __main__,
    tool,
)
from understudy.actors.agents.models import ModelReply, ModelRequest, Price, ToolCall, Usage, input_cap
from understudy.actors.errors import Overloaded, SessionBusy, SpecError, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.journal import decode_rows
from understudy.actors.journal.replay import replay
from understudy.actors.journal.sessions import completed
from understudy.actors.journal.store import MemoryStore
from understudy.actors.testing.replays import check_replay
from understudy.transports.journals.sqlite import SQLiteStore

HUGE = "".join(f"line {n}: {n * 7919 % 100_003};" for n in range(2_000))


class Told:
    """A model that answers by a function of the request, counts four bytes a token, and remembers what it was asked."""

    def __init__(
        self, answer: Callable[[ModelRequest], ModelReply], name: str = "told", price: Price | None = None
    ) -> None:
        self.name, self.price = name, price
        self.requests: list[ModelRequest] = []
        self._answer = answer

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Told]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.requests.append(request)
        reply = self._answer(request)
        return ModelReply(reply.content, reply.calls, reply.finish, Usage(input_cap(request) // 4, 5))


def ask(name: str, **arguments: object) -> ModelReply:
    return ModelReply(calls=(ToolCall(f"c{len(json.dumps(arguments))}", name, json.dumps(arguments)),))


def steps_of(*replies: ModelReply) -> Told:
    rest = list(replies)
    return Told(lambda request: rest.pop(0))


def texts(request: ModelRequest, role: str) -> list[str]:
    return [message.content for message in request.messages if message.role == role]


@tool(effect="read")
async def fetch(page: int) -> str:
    """Fetch a page."""
    return HUGE if page == 0 else f"page {page} " + "x" * 400


def counting(pages: int) -> Callable[[ModelRequest], ModelReply]:
    """Fetches pages one after another, whatever it still sees of the past, then answers."""
    done = iter(range(1, pages + 1))

    def answer(request: ModelRequest) -> ModelReply:
        page = next(done, None)
        return ask("fetch", page=page) if page is not None else ModelReply("that is all")

    return answer


async def replayed(system: System, run: str) -> list[Record]:
    records = await completed(await system.journal.read(run), system.journal.read)
    assert replay(records, system.tree.policies).identical
    assert fold(records).main.view.marks == system.state(run).main.view.marks
    return records


def of(records: Sequence[Record], kind: type) -> list[Any]:
    return [record.event for record in records if isinstance(record.event, kind)]


# --- one run ---------------------------------------------------------------------------------------------


@pytest.mark.promise(229)
@pytest.mark.anyio
async def test_a_huge_result_is_spilled_and_read_back_from_the_journal() -> None:
    def answer(request: ModelRequest) -> ModelReply:
        results = texts(request, "tool")
        if not results:
            return ask("fetch", page=0)
        if len(results) == 1:
            found = re.search(r'read_spilled\(id="([^"]+)", offset=(\d+)\)', results[0])
            assert found is not None
            return ask("read_spilled", id=found[1], offset=int(found[2]) + 20_000)
        if len(results) == 2:
            return ask("read_spilled", id="7f3a/0:1.0")
        return ModelReply("read")

    model = Told(answer)
    agent = Agent("reader", model=model, tools=[fetch], window=ContextWindow(3_000, pins=["Be brief."]))
    async with System(agent) as system:
        result = await system.run(agent, "read it")
        records = await replayed(system, result.run)
    assert result.status == "complete"
    whole = json.dumps(HUGE)
    assert [tool.name for tool in model.requests[0].tools] == ["fetch"]
    assert [tool.name for tool in model.requests[1].tools] == ["fetch", "read_spilled"]
    first, piece, error = texts(model.requests[-1], "tool")
    assert len(first) < 2_000
    assert json.loads(piece) == {"text": whole[21_000:23_000], "offset": 21_000, "left": len(whole) - 23_000}
    assert error.startswith("error: LookupError: no result '7f3a/0:1.0' was left out here")
    assert next(e for e in of(records, ev.ToolAnswered)).result == whole
    assert [texts(each, "system") for each in model.requests] == [["Be brief."]] * 4
    assert max(input_cap(each) // 4 for each in model.requests) <= 3_000


@pytest.mark.promise(226)
@pytest.mark.anyio
async def test_a_long_run_stays_within_its_window_and_keeps_its_pins() -> None:
    model = Told(counting(60))
    window = ContextWindow(1_500, pins=["Never write."], first=2)
    agent = Agent("reader", model=model, tools=[fetch], instructions="Read.", window=window)
    async with System(agent) as system:
        result = await system.run(agent, "all of it")
        records = await replayed(system, result.run)
    assert result.status == "complete"
    assert max(input_cap(request) // 4 for request in model.requests) <= 1_500
    for request in model.requests[3:]:
        assert texts(request, "system") == ["Read.", "Never write."]
        assert texts(request, "user").count("all of it") == 1
        assert [text[:7] for text in texts(request, "tool")[:2]] == ['"page 1', '"page 2']
    assert {event.rule for event in of(records, ev.Compacted)} == {"Slide"}


@pytest.mark.promise(227)
@pytest.mark.anyio
async def test_a_summary_is_asked_once_and_stays_through_a_crash_at_every_event() -> None:
    model, writer = Told(counting(12)), Told(lambda request: ModelReply(f"{len(request.messages)} seen"), "writer")

    def make(model: Told, writer: Told) -> Agent[str, Prompt]:
        window = ContextWindow(900, compact=[Summarise(keep=2, model=writer, max_tokens=60)])
        return Agent("reader", model=model, tools=[fetch], window=window)

    agent = make(model, writer)
    store = MemoryStore()
    async with System(agent, journal=store) as system:
        result = await system.run(agent, "go")
        records = await replayed(system, result.run)
        rows = await store.read(result.run)
    assert result.status == "complete"
    assert len(writer.requests) >= 2
    assert any(text.startswith("Summary of what came before:\n") for text in texts(model.requests[-1], "user"))
    assert all(texts(request, "system")[0].startswith("You keep the memory") for request in writer.requests)
    assert sum(event.reserved["steps"] for event in of(records, ev.ModelAsked)) == 13
    for cut in range(2, len(rows)):
        before = decode_rows(":memory:", rows[:cut])
        rest, again = Told(counting(0)), Told(lambda request: ModelReply("seen"), "writer")
        other = MemoryStore()
        await other.open()
        await other.write(rows[:cut], [0.0] * cut)
        await other.aclose()
        async with System(make(rest, again), journal=other) as system:
            resumed = await system.resume(result.run)
            after = await replayed(system, result.run)
        assert resumed.status == "complete", (cut, resumed.reason)
        written = {e.ticket for e in of(before, ev.ModelAnswered)}
        kept = [e.covers for e in of(before, ev.ModelAsked) if e.covers and e.ticket in written]
        spans = [e.covers for e in of(after, ev.ModelAsked) if e.covers]
        assert all(spans.count(each) == 1 for each in kept), "a summary that was written is not asked for again"


@pytest.mark.anyio
async def test_a_summary_is_charged_to_the_run_and_one_that_has_no_room_is_done_without() -> None:
    price = Price(1_000_000, 1_000_000)
    model, writer = Told(counting(12), price=price), Told(lambda request: ModelReply("seen"), "writer", price)
    window = ContextWindow(900, compact=[Summarise(keep=2, model=writer, max_tokens=60), Slide()])
    agent = Agent("reader", model=model, tools=[fetch], window=window, max_tokens=20)
    async with System(Supervisor("desk", [agent], budget=Budget(tokens=10**6, usd=9))) as system:
        result = await system.run(agent, "go")
        records = await replayed(system, result.run)
    asked = model.requests + writer.requests
    assert writer.requests
    assert result.spend.tokens == result.spend.usd == sum(input_cap(request) // 4 + 5 for request in asked)
    assert result.spend.model_calls == len(asked)
    assert result.spend.steps == len(model.requests)
    first = next(e for e in of(records, ev.ModelAsked) if e.covers)
    spent = sum(e.spent["tokens"] for e in of(records[: first_of(records, first)], ev.ModelAnswered))
    async with System(
        Supervisor("desk", [agent], budget=Budget(tokens=spent + first.reserved["tokens"] - 1))
    ) as system:
        model._answer = counting(12)
        writer.requests.clear()
        result = await system.run(agent, "go")
        records = await replayed(system, result.run)
    denied = of(records, ev.SummaryDenied)
    assert [(event.pool, event.unit) for event in denied] == [(f"desk@{result.run}", "tokens")]
    assert writer.requests == []
    assert "Slide" in {event.rule for event in of(records, ev.Compacted)}


def first_of(records: Sequence[Record], event: object) -> int:
    return next(n for n, record in enumerate(records) if record.event is event)


@pytest.mark.anyio
async def test_a_summariser_that_fails_is_tried_twice_and_then_another_rule_makes_room() -> None:
    def fail(request: ModelRequest) -> ModelReply:
        raise Overloaded("503")

    model, writer = Told(counting(8)), Told(fail, "writer")
    window = ContextWindow(900, compact=[Summarise(keep=2, model=writer), Slide(2)])
    agent = Agent("reader", model=model, tools=[fetch], window=window)
    async with System(agent) as system:
        result = await system.run(agent, "go")
        records = await replayed(system, result.run)
    assert result.status == "complete"
    kinds = [type(r.event).__name__ for r in records if isinstance(r.event, ev.ModelFailed | ev.Compacted)]
    assert kinds[:3] == ["ModelFailed", "ModelFailed", "Compacted"]


@pytest.mark.promise(228)
@pytest.mark.anyio
async def test_what_is_too_large_from_the_start_fails_before_the_model_is_asked() -> None:
    model = Told(counting(1))
    agent = Agent("reader", model=model, tools=[fetch], instructions="Read well. " * 500, window=ContextWindow(400))
    async with System(agent) as system:
        result = await system.run(agent, "go")
    assert (result.status, model.requests) == ("failed", [])
    assert re.match(
        r"context window: about \d+ tokens where 400 fit: instructions and pins \d+, the request 4", result.reason
    )


@pytest.mark.anyio
async def test_an_agent_that_declares_nothing_has_the_window_of_its_model_or_none() -> None:
    model = Told(counting(40))
    agent = Agent("reader", model=model, tools=[fetch], max_tokens=100)
    async with System(agent) as system:
        result = await system.run(agent, "go")
        assert system.tree.policies["reader"].limit is None
        assert of(await system.journal.read(result.run), ev.Compacted) == []
    model = Told(counting(40))
    model.context = 1_300  # type: ignore[attr-defined]  # an optional word of a model
    agent = Agent("reader", model=model, tools=[fetch], max_tokens=100)
    async with System(agent) as system:
        result = await system.run(agent, "go")
        assert system.tree.policies["reader"].limit == 1_200
        assert of(await system.journal.read(result.run), ev.Compacted) != []
    assert max(input_cap(request) // 4 for request in model.requests) <= 1_200
    with pytest.raises(SpecError, match="max_tokens 1300 leaves nothing of the 1300 tokens that told takes"):
        Agent("reader", model=model, max_tokens=1_300)


def test_the_name_of_the_tool_that_reads_back_is_taken() -> None:
    @tool(effect="read")
    def read_spilled(id: str) -> str:
        return id

    with pytest.raises(SpecError, match="a tool or delegate is named 'read_spilled', which reads back"):
        Agent("reader", model=Told(counting(1)), tools=[read_spilled])


# --- sessions --------------------------------------------------------------------------------------------


def chatty(window: ContextWindow | None = None) -> tuple[Told, Agent[str, Prompt]]:
    model = Told(lambda request: ModelReply(f"re: {texts(request, 'user')[-1]}"))
    return model, Agent("chat", model=model, instructions="Chat.", window=window)


@pytest.mark.promise(230)
@pytest.mark.anyio
async def test_a_run_of_a_session_goes_on_with_the_window_of_the_one_before_also_in_another_process(
    tmp_path: Path,
) -> None:
    path = tmp_path / "chat.db"
    words: list[str] = []
    for process in range(3):
        model, agent = chatty()
        async with System(agent, journal=path) as system:
            for number in range(3):
                words.append(f"word {process}.{number}")
                result = await system.run(agent, words[-1], session="ana")
                await replayed(system, result.run)
                other = await system.run(agent, "alone")
                assert len(model.requests[-1].messages) == 2
                assert system.state(other.run).session == ""
        shown = [f"{text}" for text in texts(model.requests[-2], "user")]
        assert shown == words
        assert texts(model.requests[-2], "assistant") == [f"re: {word}" for word in words[:-1]]
    model, agent = chatty()
    replays = await check_replay(SQLiteStore(path), System(agent).tree.policies)
    replays.check()
    assert len(replays.replayed) == 18


@pytest.mark.promise(231)
@pytest.mark.anyio
async def test_two_runs_of_one_session_at_once_are_refused_and_the_first_goes_on() -> None:
    @tool(effect="irreversible", approve="boss")
    def pay() -> str:
        return "paid"

    model = steps_of(ask("pay"), ModelReply("done"), ModelReply("thanks"))
    agent = Agent("chat", model=model, tools=[pay])
    async with System(agent) as system:
        first = await system.run(agent, "pay", session="ana")
        assert first.status == "waiting"
        with pytest.raises(SessionBusy) as caught:
            await system.run(agent, "and?", session="ana")
        assert str(caught.value) == f"session 'ana' is busy: its run {first.run} waits for approval; one run at a time"
        await system.approve(system.approvals()[0], by="bo")
        assert (await system.resume(first.run)).status == "complete"
        second = await system.run(agent, "and?", session="ana")
        assert second.status == "complete"
        assert texts(model.requests[-1], "user") == ["pay", "and?"]
        with pytest.raises(UsageError, match=f"session 'ana' has gone on with run {second.run}"):
            await system.resume(first.run)


@pytest.mark.anyio
async def test_of_two_that_begin_a_session_in_one_moment_one_is_refused() -> None:
    _, agent = chatty()
    async with System(agent) as system:
        both = await asyncio.gather(
            *(system.run(agent, f"word {n}", session="ana") for n in range(2)), return_exceptions=True
        )
    assert sorted(type(each).__name__ for each in both) == ["Complete", "SessionBusy"]


@pytest.mark.anyio
async def test_a_session_belongs_to_one_agent_and_its_name_is_checked() -> None:
    model, agent = chatty()
    other = Agent("other", model=model)
    async with System(Supervisor("desk", [agent, other])) as system:
        await system.run(agent, "hello", session="ana")
        with pytest.raises(UsageError, match="session 'ana' is of agent 'chat', and cannot go on with 'other'"):
            await system.run(other, "hello", session="ana")
        for bad in ("", "x" * 201, "a\nb"):
            with pytest.raises(UsageError, match="a printable text of 1 to 200 characters"):
                await system.run(agent, "hello", session=bad)
    with pytest.raises(UsageError, match="session 'ana' needs journal="):
        await agent.run("hello", session="ana")


@pytest.mark.anyio
async def test_agent_run_goes_on_with_a_session_in_a_journal(tmp_path: Path) -> None:
    model, agent = chatty()
    for word in ("one", "two"):
        await agent.run(word, journal=tmp_path / "chat.db", session="ana")
    assert texts(model.requests[-1], "user") == ["one", "two"]
    items = [item async for item in agent.stream("three", journal=tmp_path / "chat.db", session="ana")]
    assert texts(model.requests[-1], "user") == ["one", "two", "three"]
    assert not isinstance(items[-1], Record)


@pytest.mark.promise(232)
@pytest.mark.anyio
async def test_a_session_stays_in_its_window_and_its_journal_grows_with_what_is_said(tmp_path: Path) -> None:
    window = ContextWindow(600, compact=[Slide(2)])
    sizes: list[int] = []
    path = tmp_path / "chat.db"
    for process in range(4):
        model, agent = chatty(window)
        async with System(agent, journal=path) as system:
            for number in range(40):
                result = await system.run(agent, f"{process}.{number} " + "word " * 20, session="ana")
                assert result.status == "complete"
                if number % 10 == 0:
                    await replayed(system, result.run)
                sizes.append(sum(row.length for row in await system.journal.store.read(result.run)))
        assert max(input_cap(request) // 4 for request in model.requests) <= 600
    early, late = sizes[20:80], sizes[100:160]
    assert sum(late) <= 1.1 * sum(early)


@pytest.mark.anyio
async def test_an_unbounded_session_is_written_down_whole_only_as_it_doubles() -> None:
    _, agent = chatty()
    async with System(agent) as system:
        whole: list[int] = []
        for number in range(70):
            result = await system.run(agent, f"{number} " + "word " * 20, session="ana")
            [start] = of((await system.journal.read(result.run))[:1], ev.RunStarted)
            if start.window is not None:
                whole.append(number)
    assert len(whole) <= 8
    assert all(later >= 1.9 * earlier for earlier, later in itertools.pairwise(whole[1:]))


@pytest.mark.anyio
async def test_what_an_earlier_run_of_a_session_spilled_can_be_read_back_and_nobody_elses(tmp_path: Path) -> None:
    def answer(request: ModelRequest) -> ModelReply:
        newest = request.messages[-1]
        if newest.role == "tool":
            return ModelReply("read")
        if newest.content == "read":
            return ask("fetch", page=0)
        return ask("read_spilled", id=newest.content)

    model = Told(answer)
    path = tmp_path / "chat.db"
    agent = Agent("chat", model=model, tools=[fetch], window=ContextWindow(3_000))
    async with System(agent, journal=path) as system:
        first = await system.run(agent, "read", session="ana")
        await system.run(agent, "read", session="bo")
    for session, start in (("ana", {"text": json.dumps(HUGE)[:2_000]}), ("bo", None)):
        async with System(agent, journal=path) as system:
            result = await system.run(agent, f"{first.run}/0:1.0", session=session)
            told = of(await system.journal.read(result.run), ev.ToolAnswered)
            failed = of(await system.journal.read(result.run), ev.ToolFailed)
        if start is not None:
            assert json.loads(told[0].result)["text"] == start["text"]
        else:
            assert told == []
            assert failed[0].kind == "LookupError"


@pytest.mark.anyio
async def test_a_session_goes_on_after_a_run_that_was_ended_in_the_middle_of_its_calls() -> None:
    @tool(effect="irreversible", approve="boss")
    def pay() -> str:
        return "paid"

    model = steps_of(ask("pay"), ModelReply("well"))
    agent = Agent("chat", model=model, tools=[pay])
    async with System(agent) as system:
        first = await system.run(agent, "pay", session="ana")
        system.runs.end(first.run, 0, "stopped", "enough")
        second = await system.run(agent, "why?", session="ana")
        await replayed(system, second.run)
    assert second.status == "complete"
    roles = [message.role for message in model.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert texts(model.requests[-1], "tool") == ["error: it has no result, the run ended before it came"]


class Ticket(Message[Result[str]]):
    text: str


class Draft(Message[Result[str]]):
    text: str


@pytest.mark.anyio
async def test_an_agent_that_handed_its_request_on_goes_on_with_what_it_saw_itself() -> None:
    drafts = Told(lambda request: ModelReply(json.dumps({"$": "Draft", "text": f"{len(request.messages)} seen"})))
    writer = Agent("writer", model=drafts, accepts=Ticket, output=Draft)
    reviewer = Agent("reviewer", model=Told(lambda request: ModelReply("fine")), accepts=Draft)
    tree = Supervisor("desk", [writer, reviewer], routes=[Route(Draft, to=reviewer)])
    async with System(tree) as system:
        for text in ("late", "lost"):
            result = await system.run(writer, Ticket(text), session="ana")
            assert (result.status, result.output) == ("complete", "fine")
            await replayed(system, result.run)
    assert texts(drafts.requests[-1], "user") == ['{"text":"late"}', '{"text":"lost"}']
    assert texts(drafts.requests[-1], "assistant") == ['{"$": "Draft", "text": "1 seen"}']


@pytest.mark.anyio
async def test_a_delegate_has_a_window_of_its_own() -> None:
    helper_model = Told(lambda request: ModelReply("found"))
    helper = Agent("helper", model=helper_model)
    model = steps_of(ask("fetch", page=1), ask("helper", text="look"), ask("helper", text="again"), ModelReply("done"))
    agent = Agent("boss", model=model, tools=[fetch], delegates=[helper], window=ContextWindow(700, compact=[Slide(1)]))
    async with System(Supervisor("desk", [agent, helper])) as system:
        result = await system.run(agent, "go", session="ana")
        records = await replayed(system, result.run)
    assert result.status == "complete"
    assert [texts(request, "user") for request in helper_model.requests] == [["look"], ["again"]]
    assert {record.sub for record in records if isinstance(record.event, ev.Compacted)} <= {0}


@pytest.mark.anyio
async def test_a_session_goes_on_in_another_process_after_a_run_that_ended_with_a_call_in_doubt(tmp_path: Path) -> None:
    @tool(effect="irreversible")
    async def pay() -> str:
        raise TimeoutError("no answer")

    path = tmp_path / "chat.db"
    model = steps_of(*[ModelReply("hello")] * 6, ask("pay"), ModelReply("you are Ana"))
    agent = Agent("chat", model=model, tools=[pay])
    async with System(agent, journal=path) as system:
        for number in range(6):
            await system.run(agent, f"I am Ana {number}", session="ana")
        second = await system.run(agent, "pay", session="ana")
        [start] = of((await system.journal.read(second.run))[:1], ev.RunStarted)
        assert start.window is None, "or nothing of earlier runs would be needed"
        assert [doubt.tool for doubt in system.doubts()] == ["pay"]
        system.runs.end(second.run, 0, "stopped", "enough")
    async with System(agent, journal=path) as system:
        assert [doubt.tool for doubt in system.doubts()] == ["pay"]
        third = await system.run(agent, "who am I?", session="ana")
        await replayed(system, third.run)
    assert texts(model.requests[-1], "user") == [*(f"I am Ana {n}" for n in range(6)), "pay", "who am I?"]


def test_the_commands_show_and_replay_a_run_of_a_session_and_no_session_as_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
from understudy import Agent, Slide, ContextWindow
from understudy.actors.testing.scripted_model import ScriptedModel

model = ScriptedModel([f"noted {n}" for n in range(12)])
chat = Agent("chat", model=model, window=ContextWindow(220, compact=[Slide(1)]))
"""
    (tmp_path / "chatting.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("UNDERSTUDY_JOURNAL", str(tmp_path / "chat.db"))
    monkeypatch.setenv("UNDERSTUDY_APP", "chatting:chat")
    chat = importlib.import_module("chatting").chat

    async def talk() -> None:
        async with System(chat, journal=tmp_path / "chat.db") as system:
            for number in range(12):
                await system.run(chat, f"word {number} " * 10, session="ana")

    asyncio.run(talk())
    for argv in (["replay", "@"], ["replay", "@2"], ["replay", "@12"]):
        assert __main__.main(argv) == 0, argv
        assert capsys.readouterr().out == "identical\n"
    assert __main__.main(["replay", "@13"]) == 2
    assert "no run @13, the journal has 12" in capsys.readouterr().err
    assert __main__.main(["log", "@"]) == 0
    assert "Slide: " in capsys.readouterr().out
    for command in ("tree", "why"):
        assert __main__.main([command, "@"]) == 0
