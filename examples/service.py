"""A web service in front of a team: Starlette under uvicorn, with the `System` in the lifespan.

    python examples/service.py --port 8000 --journal desk.db

    POST /tickets          {"text": "My parcel is late."}   the answer, or 202 while the run waits for somebody
    GET  /runs             ids of the runs that have not ended
    GET  /runs/{id}        how a run stands; `?wait=5` waits for its end, or for it to park, 5 seconds at most
    POST /runs/{id}/resume go on with a run that was parked or abandoned
    POST /approvals/{id}   {"by": "ana", "yes": true}       a person's answer
    GET  /health           200, or 503 from SIGTERM on

A client that goes away before its answer leaves its run to the writer's `on_abandon`: `stop` ends it after the present
step, `park` lets it rest in the journal, `finish` lets it go on. At SIGTERM the service takes nothing new (503), every
run ends its present step and parks, open requests get 202 with the id of their run, and the process ends with status 0.
Started again with the same journal, it finishes what it had parked.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from types import FrameType
from typing import Any, TypeVar, get_args

import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Path

from understudy import (
    Agent,
    Approval,
    Approvals,
    Budget,
    ChildSpec,
    Complete,
    Degraded,
    Message,
    OpenAIChat,
    Partial,
    Result,
    Route,
    Supervisor,
    System,
    Waiting,
    tool,
)
from understudy.actors.agents.agent import OnAbandon
from understudy.actors.errors import ActorStopped, AskTimeout, MailboxFull, UnknownRun, UsageError
from understudy.actors.journal.events import Finished, Parked, Record

T = TypeVar("T")
ASK_SECONDS = 120.0
LONGEST_WAIT = 60.0
"""Seconds: `?wait=` beyond this is cut."""
MOST_BYTES = 64 * 1024
"""Of a request's body."""


class Answer(Struct, frozen=True):
    text: str


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


@tool(effect="irreversible", approve="desk")
async def voucher(customer: str, cents: int) -> str:
    """Send a voucher to a customer."""
    return f"voucher of {cents} cents sent to {customer}"


def team(on_abandon: OnAbandon = "stop") -> tuple[Supervisor, Agent[Answer, Ticket]]:
    """A pool of writers that hand their drafts to a reviewer; and the writer, to ask."""
    model = OpenAIChat("gpt-5-mini")
    writer: Agent[Answer, Ticket] = Agent(
        "writer",
        model=model,
        accepts=Ticket,
        output=Draft,
        tools=[voucher],
        instructions="Draft an answer to the ticket. A voucher needs a person's yes.",
        concurrency=16,
        on_abandon=on_abandon,
    )
    reviewer: Agent[Answer, Draft] = Agent(
        "reviewer", model=model, accepts=Draft, instructions="Check facts and tone, then answer.", concurrency=16
    )
    desk = Supervisor(
        "desk",
        [ChildSpec(reviewer, count=2), ChildSpec(writer, count=2)],
        budget=Budget(steps=40, tokens=200_000, seconds=600),
        approvals=Approvals(by={"desk": ["ana", "li"]}),
        routes=[Route(Ticket, to=writer, spread="least_busy"), Route(Draft, to=reviewer, spread="least_busy")],
    )
    return desk, writer


class Text(Struct, frozen=True):
    """The body of a ticket."""

    text: str


class Pending(Struct, frozen=True):
    """A yes that is asked for, as shown to a client."""

    id: str
    tool: str
    arguments: str
    expires: float


class View(Struct, frozen=True, omit_defaults=True):
    """What clients see of a run."""

    run: str
    status: str
    answer: str | None = None
    reason: str = ""
    approvals: tuple[Pending, ...] = ()


class Yes(Struct, frozen=True):
    """The body of an answer to an approval."""

    by: str
    yes: bool


class Problem(Exception):
    """Ends a request with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Service:
    """The routes, around one system."""

    def __init__(self, system: System, writer: Agent[Answer, Ticket]) -> None:
        self.system = system
        self.writer = writer
        self.draining = False
        self._waiting: set[asyncio.Event] = set()
        self.app = Starlette(
            routes=[
                Path("/tickets", self.ticket, methods=["POST"]),
                Path("/runs", self.runs),
                Path("/runs/{run}", self.run),
                Path("/runs/{run}/resume", self.resume, methods=["POST"]),
                Path("/approvals/{approval}", self.answer, methods=["POST"]),
                Path("/health", self.health),
            ],
            lifespan=self.lifespan,
            exception_handlers={Problem: _problem},
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        """The system lives as long as the application."""
        self.draining = False
        async with self.system.lifespan(app):
            yield

    async def drain(self) -> None:
        """Take nothing new and park every run after its present step; open requests are answered by that."""
        self.draining = True
        await self.system.drain()
        for waiting in self._waiting:
            waiting.set()

    async def ticket(self, request: Request) -> Response:
        """Ask the team; a client that goes away takes its ask back."""
        text = (await _body(request, Text)).text
        self._check_open()
        ask = self.system.ref(self.writer).ask(Ticket(text), timeout=ASK_SECONDS)
        return _view(await _unless_gone(request, ask))

    def _check_open(self) -> None:
        if self.draining:
            raise Problem(503, "shutting down")

    async def runs(self, request: Request) -> Response:
        """The runs that have not ended."""
        return _reply(200, self.system.unfinished())

    async def run(self, request: Request) -> Response:
        """How a run stands, now or after `?wait=` seconds at most."""
        name = request.path_params["run"]
        try:
            seconds = float(request.query_params.get("wait", "0"))
        except ValueError:
            raise Problem(400, f"wait: {request.query_params['wait']!r} is not a number of seconds") from None
        with _translated():
            await self._wait(name, min(seconds, LONGEST_WAIT))
            return _view(await self.system.result(name))

    async def _wait(self, name: str, seconds: float) -> None:
        """Until the run ends or parks. Unlike an ask, leaving does not make an abandoned run of it."""
        settled = asyncio.Event()

        def hear(record: Record) -> None:
            if record.run == name and record.sub == 0 and isinstance(record.event, Finished | Parked):
                settled.set()

        unlisten = self.system.listen(hear)
        self._waiting.add(settled)
        try:
            state = self.system.state(name)
            if seconds > 0 and state.finished is None and not state.resting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(settled.wait(), seconds)
        finally:
            self._waiting.discard(settled)
            unlisten()

    async def resume(self, request: Request) -> Response:
        """Go on with a run and answer as `POST /tickets` does."""
        self._check_open()
        return _view(await _unless_gone(request, self.system.resume(request.path_params["run"], timeout=ASK_SECONDS)))

    async def answer(self, request: Request) -> Response:
        """A person's yes or no; the run goes on by itself."""
        said = await _body(request, Yes)
        name = request.path_params["approval"]
        with _translated():
            run = await (self.system.approve(name, by=said.by) if said.yes else self.system.refuse(name, by=said.by))
        return _reply(200, {"run": run})

    async def health(self, request: Request) -> Response:
        """For the load balancer."""
        return _reply(503 if self.draining else 200, {"status": "draining" if self.draining else "ok"})


async def _body(request: Request, kind: type[T]) -> T:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Problem(413, f"the body is larger than {MOST_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise Problem(400, str(error)) from None


async def _unless_gone(request: Request, asking: Awaitable[Result[Answer]]) -> Result[Answer]:
    """Wait for the result, or until the client is gone: then the ask is cancelled, and `on_abandon` decides."""
    ask = asyncio.ensure_future(asking)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({ask, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not ask.done():
            raise Problem(499, "the client is gone")
        with _translated():
            return ask.result()
    finally:
        ask.cancel()
        gone.cancel()
        await asyncio.wait({ask, gone})


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextlib.contextmanager
def _translated() -> Generator[None]:
    """Errors of the system as statuses of HTTP."""
    try:
        yield
    except UnknownRun as error:
        raise Problem(404, str(error)) from error
    except UsageError as error:
        raise Problem(409, str(error)) from error
    except AskTimeout as error:
        raise Problem(504, str(error)) from error
    except (ActorStopped, MailboxFull) as error:
        raise Problem(503, str(error)) from error


def _view(result: Result[Answer]) -> Response:
    match result:
        case Complete(output=output) | Degraded(output=output) | Partial(output=output):
            return _reply(200, View(result.run, result.status, output.text, result.reason))
        case Waiting(pending=pending):
            return _reply(202, View(result.run, "waiting", None, result.reason, tuple(map(_pending, pending))))
        case _:
            return _reply(502, View(result.run, result.status, None, result.reason))


def _pending(approval: Approval) -> Pending:
    return Pending(approval.id, approval.tool, approval.arguments, approval.expires)


def _reply(status: int, value: object) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _reply(error.status, {"error": error.text})


class Server(uvicorn.Server):
    """uvicorn that drains the system at SIGTERM and SIGINT, still listening, before it stops.

    uvicorn alone would wait for open requests first, and they for their runs. The second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: Any = None) -> None:
        """Say where it listens, as one line of JSON on standard output."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(msgspec.json.encode({"url": f"http://{host}:{port}"}).decode(), flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain. uvicorn's own would raise the signal again at the end, for a status that is not 0."""
        if self._loop is None or self.should_exit or self._draining is not None:
            self.should_exit = True
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._draining = asyncio.ensure_future(self._drain_then_exit())

    async def _drain_then_exit(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM; 0."""
    parser = argparse.ArgumentParser(description="a web service in front of a supervised team")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--journal", default="desk.db")
    parser.add_argument("--grace", type=float, default=10.0, help="seconds that running steps have at SIGTERM")
    parser.add_argument("--on-abandon", choices=get_args(OnAbandon), default="stop")
    options = parser.parse_args(argv)
    desk, writer = team(options.on_abandon)
    service = Service(System(desk, journal=options.journal, grace=options.grace), writer)
    config = uvicorn.Config(service.app, host=options.host, port=options.port, log_level="warning")
    config.timeout_graceful_shutdown = 2  # seconds for answers that are on their way once the system is drained
    Server(config, service.drain).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
