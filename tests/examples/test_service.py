"""The service of `examples/` as it runs in production: a process of its own under uvicorn, a model server on loopback
that takes its time, httpx as the client, and signals by process id."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import Process
from anyio.from_thread import start_blocking_portal
from anyio.streams.text import TextReceiveStream

from understudy import Agent, Complete, OpenAIChat, System
from understudy.actors.journal.events import Finished, Record
from understudy.transports.testing.http import HttpReply, HttpRequest
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer, echo

SERVICE = Path(__file__).resolve().parents[2] / "examples" / "service.py"
SECONDS = 120.0  # of patience, everywhere: nothing here takes longer on a busy machine
Embedded = AsyncGenerator[tuple[Any, httpx.AsyncClient]]

pytestmark = pytest.mark.anyio


class Desk:
    """The policy of the model server; the events are set while a call, or one of the reviewer, is being answered."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.reviewing = asyncio.Event()
        self.calls = 0

    def __call__(self, request: ChatRequest) -> ChatAnswer:
        self.calls += 1
        self.arrived.set()
        if not request.tools:
            self.reviewing.set()
        text = next(message.content or "" for message in request.messages if message.role == "user")
        told = [message.content or "" for message in request.messages if message.role == "tool"]
        ticket = json.loads(text)["text"] if text.startswith("{") else text
        if "voucher" in ticket and request.tools and not told:
            return ChatAnswer("", (AnswerCall("voucher", '{"customer": "c7", "cents": 500}'),))
        return ChatAnswer(json.dumps({"text": f"{ticket} {' '.join(told)}>" if told else f"{ticket}>"}))


class Held(ModelServer):
    """Its answers are made at once and leave when `let_go` is set."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.let_go = asyncio.Event()

    async def _handle(self, request: HttpRequest) -> HttpReply:
        reply = await super()._handle(request)
        await self.let_go.wait()
        return reply


@dataclass
class Running:
    """A service process and a client of it."""

    process: Process
    client: httpx.AsyncClient

    async def ended(self) -> int:
        """Its exit status."""
        with anyio.fail_after(SECONDS):
            return await self.process.wait()

    async def get(self, path: str) -> Any:
        """The JSON of a page."""
        return (await self.client.get(path)).json()

    async def until(self, path: str, wanted: Callable[[httpx.Response], bool]) -> httpx.Response:
        """Ask until the page is as wanted; each try is a round trip."""
        with anyio.fail_after(SECONDS):
            while not wanted(response := await self.client.get(path)):
                pass
        return response


@asynccontextmanager
async def serving(model: ModelServer, journal: Path, *options: str) -> AsyncGenerator[Running]:
    """Run the service until the block is left; whoever wants its exit status ends it before."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("UNDERSTUDY_", "OPENAI_"))}
    env["OPENAI_BASE_URL"] = model.url
    command = [sys.executable, str(SERVICE), "--port", "0", "--journal", str(journal), *options]
    async with await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=None, env=env) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(SECONDS):
                line = await TextReceiveStream(process.stdout).receive()
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=json.loads(line)["url"], timeout=SECONDS, limits=limits, trust_env=False
            ) as client:
                yield Running(process, client)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)


async def test_200_concurrent_requests_over_the_team_are_all_answered(tmp_path: Path) -> None:
    desk = Desk()
    async with ModelServer(desk, latency=0.02) as model, serving(model, tmp_path / "desk.db") as service:
        asks = [service.client.post("/tickets", json={"text": f"ticket {n}"}) for n in range(200)]
        replies = await asyncio.gather(*asks)
        assert {reply.status_code for reply in replies} == {200}
        # Each went through the writer and the reviewer, and everybody got the answer to their own question.
        assert [reply.json()["answer"] for reply in replies] == [f"ticket {n}>>" for n in range(200)]
        assert desk.calls == 400
        assert len({reply.json()["run"] for reply in replies}) == 200


@asynccontextmanager
async def abandoned(journal: Path, on_abandon: str) -> AsyncGenerator[tuple[Running, str, Desk]]:
    """A client went away while the model was answering: the service, the run, the model's policy."""
    desk = Desk()
    async with Held(desk) as model, serving(model, journal, "--on-abandon", on_abandon) as service:
        async with httpx.AsyncClient(base_url=service.client.base_url, trust_env=False) as hasty:
            asking = asyncio.create_task(hasty.post("/tickets", json={"text": "late"}, timeout=SECONDS))
            with anyio.fail_after(SECONDS):
                await desk.arrived.wait()
            (run,) = await service.get("/runs")
            asking.cancel()
            await asyncio.wait([asking])
        for _ in range(20):  # the end of its connection was there before the first of them
            await service.get("/health")
        model.let_go.set()
        yield service, run, desk


@pytest.mark.promise(26)
async def test_a_client_that_goes_away_stops_its_run_after_the_present_step_by_default(tmp_path: Path) -> None:
    async with abandoned(tmp_path / "desk.db", "stop") as (service, run, desk):
        state = await service.get(f"/runs/{run}?wait=50")
        assert (state["status"], state["reason"]) == ("stopped", "abandoned")
        assert desk.calls == 1  # the writer's step was made, the reviewer was never asked
        resumed = await service.client.post(f"/runs/{run}/resume")
        assert (resumed.status_code, resumed.json()["answer"]) == (200, "late>>")


async def test_a_client_that_goes_away_parks_its_run_when_the_agent_says_park(tmp_path: Path) -> None:
    async with abandoned(tmp_path / "desk.db", "park") as (service, run, desk):
        state = await service.get(f"/runs/{run}?wait=50")
        assert (state["status"], state["reason"]) == ("waiting", "waits for asker")
        assert desk.calls == 1
        assert await service.get("/runs") == [run]
        resumed = await service.client.post(f"/runs/{run}/resume")
        assert (resumed.status_code, resumed.json()["answer"]) == (200, "late>>")


async def test_a_client_that_goes_away_lets_its_run_finish_when_the_agent_says_finish(tmp_path: Path) -> None:
    async with abandoned(tmp_path / "desk.db", "finish") as (service, run, desk):
        state = await service.get(f"/runs/{run}?wait=50")
        assert (state["status"], state["answer"]) == ("complete", "late>>")
        assert desk.calls == 2


@pytest.mark.promise(27)
async def test_sigterm_parks_what_is_open_and_the_next_process_finishes_it(tmp_path: Path) -> None:
    desk, journal = Desk(), tmp_path / "desk.db"
    async with Held(desk) as model:
        async with serving(model, journal, "--grace", "300") as service:
            asks = [
                asyncio.create_task(service.client.post("/tickets", json={"text": f"ticket {n}"})) for n in range(20)
            ]
            with anyio.fail_after(SECONDS):
                while desk.calls < 20:  # noqa: ASYNC110  # bounded by the block
                    await asyncio.sleep(0.01)
            os.kill(service.process.pid, signal.SIGTERM)
            await service.until("/health", lambda response: response.status_code == 503)
            refused = await service.client.post("/tickets", json={"text": "too late"})
            assert refused.status_code == 503
            model.let_go.set()
            replies = await asyncio.gather(*asks)
            assert await service.ended() == 0  # long before the grace is over
        assert {reply.status_code for reply in replies} == {202}
        assert {reply.json()["status"] for reply in replies} == {"waiting"}
        runs = {reply.json()["run"] for reply in replies}
        assert len(runs) == 20
        async with serving(model, journal) as service:
            states = [await service.get(f"/runs/{run}?wait=50") for run in sorted(runs)]
            assert {state["status"] for state in states} == {"complete"}
            assert {state["answer"] for state in states} == {f"ticket {n}>>" for n in range(20)}
            assert await service.get("/runs") == []


async def test_sigterm_ends_the_process_in_time_though_a_model_does_not_answer(tmp_path: Path) -> None:
    desk, journal = Desk(), tmp_path / "desk.db"
    async with (
        ModelServer(desk, latency=600.0) as model,
        serving(model, journal, "--grace", "0.5") as service,
    ):
        ask = asyncio.create_task(service.client.post("/tickets", json={"text": "late"}))
        with anyio.fail_after(SECONDS):
            await desk.arrived.wait()
        (run,) = await service.get("/runs")
        look = asyncio.create_task(service.client.get(f"/runs/{run}?wait=50"))
        await service.get("/health")
        os.kill(service.process.pid, signal.SIGTERM)
        reply = await ask
        assert (reply.status_code, reply.json()["status"], reply.json()["run"]) == (202, "waiting", run)
        assert (await look).status_code == 202
        assert await service.ended() == 0
    async with ModelServer(Desk()) as model, serving(model, journal) as service:
        state = await service.get(f"/runs/{reply.json()['run']}?wait=50")
        assert (state["status"], state["answer"]) == ("complete", "late>>")


async def test_a_voucher_waits_for_a_yes_across_a_restart_and_is_sent_once(tmp_path: Path) -> None:
    journal = tmp_path / "desk.db"
    async with ModelServer(Desk()) as model:
        async with serving(model, journal) as service:
            reply = await service.client.post("/tickets", json={"text": "voucher"})
            assert (reply.status_code, reply.json()["status"]) == (202, "waiting")
            (approval,) = reply.json()["approvals"]
            assert (approval["tool"], json.loads(approval["arguments"])["cents"]) == ("voucher", 500)
            stranger = await service.client.post(f"/approvals/{approval['id']}", json={"by": "eve", "yes": True})
            assert (stranger.status_code, "ana" in stranger.json()["error"]) == (409, True)
            os.kill(service.process.pid, signal.SIGTERM)
            assert await service.ended() == 0
        async with serving(model, journal) as service:
            said = await service.client.post(f"/approvals/{approval['id']}", json={"by": "ana", "yes": True})
            assert said.status_code == 200
            state = await service.get(f"/runs/{said.json()['run']}?wait=50")
            assert state["status"] == "complete"
            assert "voucher of 500 cents sent to c7" in state["answer"]
            again = await service.client.post(f"/approvals/{approval['id']}", json={"by": "li", "yes": True})
            assert again.status_code in (404, 409)


@asynccontextmanager
async def embedded(
    model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[tuple[Any, httpx.AsyncClient]]:
    """The service in this loop, without uvicorn: the module's `Service`, and a client of its application."""
    monkeypatch.setenv("OPENAI_BASE_URL", model.url)
    spec = spec_from_file_location("service_example", SERVICE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    desk, writer = module.team()
    service = module.Service(System(desk), writer)
    transport = httpx.ASGITransport(service.app)
    async with service.lifespan(service.app), httpx.AsyncClient(transport=transport, base_url="http://desk") as client:
        yield service, client


BAD = [
    ("POST", "/tickets", b"{", 400, "Input data was truncated"),
    ("POST", "/tickets", b'{"text": 7}', 400, "Expected `str`, got `int` - at `$.text`"),
    ("POST", "/tickets", b'{"text": "%s"}' % (b"x" * 70_000), 413, "larger than 65536 bytes"),
    ("POST", "/approvals/nothing", b'{"by": "ana", "yes": true}', 404, "no approval 'nothing'"),
    ("GET", "/runs/nothing", b"", 404, "no run 'nothing'"),
    ("GET", "/runs/nothing?wait=long", b"", 400, "'long' is not a number"),
    ("POST", "/runs/nothing/resume", b"", 404, "no run 'nothing'"),
]


async def test_bad_requests_get_one_clear_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ModelServer(Desk()) as model, embedded(model, monkeypatch) as (_, client):
        for method, path, body, status, said in BAD:
            reply = await client.request(method, path, content=body)
            assert (path, reply.status_code) == (path, status)
            assert said in reply.json()["error"]


async def test_a_drained_service_takes_nothing_new_and_may_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ModelServer(Desk()) as model, embedded(model, monkeypatch) as (service, client):
        assert (await client.get("/health")).status_code == 200
        await service.drain()
        assert (await client.get("/health")).status_code == 503
        refused = await client.post("/tickets", json={"text": "too late"})
        assert (refused.status_code, refused.json()["error"]) == (503, "shutting down")
        assert (await client.post("/runs/any/resume")).status_code == 503


async def test_a_drain_in_the_middle_of_handoffs_leaves_nobody_without_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    async with ModelServer(desk, latency=0.01) as model, embedded(model, monkeypatch) as (service, client):
        asks = [asyncio.create_task(client.post("/tickets", json={"text": f"ticket {n}"})) for n in range(60)]
        with anyio.fail_after(SECONDS):
            await desk.reviewing.wait()  # some drafts are with the reviewer, some on their way, most not written
            await service.drain()
            replies = await asyncio.gather(*asks)
        assert {reply.status_code for reply in replies} <= {200, 202}
        unfinished = {reply.json()["run"] for reply in replies if reply.status_code == 202}
        assert unfinished == set((await client.get("/runs")).json())
        states = [service.system.state(run) for run in unfinished]
        assert {state.main.parked.on for state in states} == {"shutdown"}
        assert {state.main.agent for state in states} == {"writer", "reviewer"}


async def test_a_run_that_is_resumed_in_the_moment_it_ends_goes_on(tmp_path: Path) -> None:
    """Its end is on the way to the disk, and its agent still at it."""
    resumed: list[asyncio.Task[Any]] = []
    desk = Desk()
    async with ModelServer(desk, latency=0.05) as model:
        agent = Agent("solo", model=OpenAIChat("scripted", base_url=model.url))
        async with System(agent, journal=tmp_path / "solo.db") as system:

            def hear(record: Record) -> None:
                if isinstance(record.event, Finished) and not resumed:
                    resumed.append(asyncio.ensure_future(system.resume(record.run)))

            system.listen(hear)
            ask = asyncio.create_task(system.run(agent, "late"))
            with anyio.fail_after(SECONDS):
                await desk.arrived.wait()
                ask.cancel()
                (run,) = system.unfinished()
                await system.runs.ended(run)
                result = await resumed[0]
    assert isinstance(result, Complete)
    assert json.loads(result.output) == {"text": "late>"}


@pytest.mark.promise(28)
async def test_a_system_lives_in_a_loop_that_already_runs_and_leaves_it_as_it_was() -> None:
    def handlers() -> list[object]:
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async with ModelServer(Desk()) as model:
        agent = Agent("solo", model=OpenAIChat("scripted", base_url=model.url))
        system = System(agent)
        loop = asyncio.get_running_loop()
        before = (asyncio.all_tasks(), handlers(), loop.get_exception_handler(), loop.get_task_factory())
        for _ in range(2):  # entered again after it was left
            async with system.lifespan(None):
                result = await system.run(agent, "hello")
                assert isinstance(result, Complete)
                assert "hello" in result.output
        served = {task for task in asyncio.all_tasks() - before[0] if "serve" in repr(task) or "enter" in repr(task)}
        assert asyncio.all_tasks() - served == before[0]
        assert (handlers(), loop.get_exception_handler(), loop.get_task_factory()) == before[1:]


def test_an_agent_runs_under_asyncio_run() -> None:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(ModelServer(echo)) as model:
        agent = Agent("solo", model=OpenAIChat("scripted", base_url=model.url))
        result = asyncio.run(agent.run("hello"))
    assert isinstance(result, Complete)
    assert result.output == "hello"
