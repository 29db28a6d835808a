"""Each fault of a simulated model is what the OpenAI client gives for the same fault over real HTTP."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec
import pytest
from providers import SCHEMA, WEATHER, say
from servers import nobody

from understudy.actors.agents.models import ModelReply, ModelRequest, ModelSession, ToolCall, input_cap
from understudy.actors.errors import ModelError, UsageError
from understudy.actors.testing import model_faults as mf
from understudy.actors.testing.model_faults import KINDS, ModelFault
from understudy.actors.testing.sim_model import SimModel
from understudy.actors.testing.simloop import run
from understudy.transports.models.openai import OpenAIChat
from understudy.transports.testing.model_server import Billing, ModelServer
from understudy.transports.testing.wire_faults import on_wire

REQUEST = say("What is the weather in Oslo 0150?", tools=(WEATHER,), output_schema=SCHEMA)
PLAIN = say("hello")
CALLING = (1, 0)  # the first answer is a call of the first tool

ANSWERED: list[ModelFault] = [
    mf.SlowTokens("a", 1, seconds=0.05),
    mf.MalformedJSON("a", 1, part="answer"),
    mf.WrongSchema("a", 1),
    mf.WrongSchema("a", 1, way=1),
    mf.UnknownTool("a", 1),
    mf.UnknownTool("a", 1, way=5),
    mf.RepeatOutput("a", 1),
    mf.Refusal("a", 1),
    mf.EmptyAnswer("a", 1),
    mf.OverReported("a", 1),
]
FAILED: list[ModelFault] = [
    mf.RateLimited("a", 1),
    mf.RateLimited("a", 1, retry_after=0),
    mf.RateLimited("a", 1, retry_after=30),
    mf.ServerError("a", 1),
    mf.ServerError("a", 1, status=503),
    mf.Rejected("a", 1),
    mf.Rejected("a", 1, status=401),
    mf.ModelTimeout("a", 1),
    mf.SlowTokens("a", 1, seconds=600),
    mf.CutStream("a", 1),
    mf.ModelReplyLost("a", 1),
    mf.MalformedJSON("a", 1, part="body"),
]
UNSENT: list[ModelFault] = [mf.Unreachable("a", 1), mf.ModelTimeout("a", 1, sent=False)]


async def heard(session: ModelSession, request: ModelRequest, timeout: float) -> ModelReply | ModelError:
    try:
        return await session.complete(request, timeout=timeout)
    except ModelError as error:
        return error


def simulated(
    fault: ModelFault | None, request: ModelRequest, timeout: float = 0.4, says: tuple[int, ...] = ()
) -> tuple[ModelReply | ModelError, SimModel]:
    model = SimModel("a", says=says, faults=[fault] if fault else [], name="m")

    async def main() -> ModelReply | ModelError:
        async with model.session() as session:
            return await heard(session, request, timeout)

    return run(main), model


def over_http(
    fault: ModelFault, reply: ModelReply, request: ModelRequest, timeout: float
) -> tuple[ModelReply | ModelError, Billing]:
    async def main() -> tuple[ModelReply | ModelError, Billing]:
        async with ModelServer(lambda _: on_wire(fault, reply)) as server:
            async with OpenAIChat("m", base_url=server.url).session() as session:
                return await heard(session, request, timeout), server.billing

    return asyncio.run(main())


def without_ids(reply: ModelReply | ModelError) -> ModelReply:
    assert isinstance(reply, ModelReply), reply
    calls = tuple(ToolCall("", call.name, call.arguments) for call in reply.calls)
    return msgspec.structs.replace(reply, calls=calls)


def told(error: ModelReply | ModelError) -> tuple[Any, ...]:
    assert isinstance(error, ModelError), error
    return type(error), error.kind, error.sent, error.refused, error.retryable, error.retry_after


def test_every_kind_of_fault_is_compared() -> None:
    assert {type(fault) for fault in ANSWERED + FAILED + UNSENT} == set(KINDS)


@pytest.mark.promise(153)
@pytest.mark.parametrize("fault", FAILED, ids=repr)
def test_an_error_is_the_one_that_the_client_raises(fault: ModelFault) -> None:
    sim, model = simulated(fault, REQUEST, 0.4)
    straight, _ = simulated(None, REQUEST)
    assert isinstance(straight, ModelReply)
    for seconds in (0.4, 2, 10, 50):  # whatever a busy machine takes to connect, and to answer
        wire, billing = over_http(fault, straight, REQUEST, seconds)
        if told(sim) == told(wire):
            break
    assert told(sim) == told(wire)
    assert model.fired == [fault]
    billed = model.said[0].billed
    assert (billing.input_tokens, billing.output_tokens) == (
        (billed.input_tokens, billed.output_tokens) if billed else (0, 0)
    )


@pytest.mark.promise(153)
@pytest.mark.parametrize("says", [(), CALLING], ids=["output", "call"])
@pytest.mark.parametrize("fault", ANSWERED, ids=repr)
def test_an_answer_is_the_one_that_the_client_reads(fault: ModelFault, says: tuple[int, ...]) -> None:
    sim, model = simulated(fault, REQUEST, 5, says)
    assert isinstance(sim, ModelReply)
    wire, billing = over_http(fault, sim, REQUEST, 60)
    mine, theirs = without_ids(sim), without_ids(wire)
    if isinstance(fault, mf.OverReported):
        for usage in (mine.usage, theirs.usage):
            assert usage is not None
            assert usage.input_tokens > input_cap(REQUEST)
            assert usage.output_tokens > 0
        mine, theirs = (msgspec.structs.replace(each, usage=None) for each in (mine, theirs))
    assert mine == theirs
    assert billing.calls == 1
    assert model.fired == [fault]


@pytest.mark.promise(153)
def test_an_unreachable_provider_is_not_sent_to() -> None:
    sim, _ = simulated(mf.Unreachable("a", 1), PLAIN)

    async def main() -> ModelReply | ModelError:
        with nobody() as url:
            async with OpenAIChat("m", base_url=url).session() as session:
                return await heard(session, PLAIN, 60)

    assert told(sim) == told(asyncio.run(main()))


@pytest.mark.promise(153)
def test_a_call_that_got_no_connection_in_time_is_not_sent() -> None:
    sim, _ = simulated(mf.ModelTimeout("a", 1, sent=False), PLAIN)

    async def main() -> ModelReply | ModelError:
        arrived = asyncio.Event()

        def policy(_: object) -> Any:
            arrived.set()
            return on_wire(mf.ModelTimeout("a", 1), ModelReply())

        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(ModelServer(policy))
            model = OpenAIChat("m", base_url=server.url, max_connections=1)
            session = await stack.enter_async_context(model.session())
            group = await stack.enter_async_context(anyio.create_task_group())
            group.start_soon(heard, session, PLAIN, 60.0)
            await arrived.wait()  # the only connection is taken
            error = await heard(session, PLAIN, 0.05)
            group.cancel_scope.cancel()
            return error

    assert told(sim) == told(asyncio.run(main()))


@pytest.mark.parametrize("fault", ANSWERED + FAILED + UNSENT, ids=repr)
def test_a_fault_is_a_value_whose_repr_is_code_and_that_json_carries(fault: ModelFault) -> None:
    assert eval(repr(fault), vars(mf)) == fault
    assert msgspec.json.decode(msgspec.json.encode(fault), type=ModelFault) == fault


def test_a_fault_that_cannot_be_says_what_and_where() -> None:
    with pytest.raises(UsageError, match=r"RateLimited\('a'\): call 0; calls are counted from 1"):
        mf.RateLimited("a", 0)
    with pytest.raises(UsageError, match="agent is empty"):
        mf.CutStream("", 1)
    with pytest.raises(UsageError, match="status 429; 400 to 499, and not 429"):
        mf.Rejected("a", 1, status=429)
    with pytest.raises(UsageError, match=r"ServerError\('a', call=2\): status 404"):
        mf.ServerError("a", 2, status=404)
    with pytest.raises(UsageError, match="retry_after -1"):
        mf.RateLimited("a", 1, retry_after=-1)
    with pytest.raises(UsageError, match="nothing reaches the server"):
        on_wire(mf.Unreachable("a", 1), ModelReply())
