"""The programs of the documentation, as they are: each in a process of its own, with a model on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from understudy import Agent, OpenAIChat
from understudy.actors.errors import SpecError
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def policy(request: ChatRequest) -> ChatAnswer:
    """Each program's model, told apart by the tools on offer and the instructions."""
    tools = {tool.function.name for tool in request.tools}
    told = [message.content or "" for message in request.messages if message.role == "tool"]
    said = [message.content or "" for message in request.messages if message.role != "tool"]
    if "pay" in tools:
        if not told:
            return ChatAnswer("", (AnswerCall("order", '{"id": "1042"}'),))
        if len(told) == 1:
            return ChatAnswer("", (AnswerCall("pay", '{"order": "1042", "cents": 4000}'),))
        return ChatAnswer(f"Done: {told[1]}")
    if "order" in tools:
        if not told:
            return ChatAnswer("", (AnswerCall("order", '{"id": "1042"}'),))
        return ChatAnswer(json.dumps({"text": "on its way", "ships_on": json.loads(told[0])["ships_on"]}))
    text = json.loads(said[1])["text"]
    return ChatAnswer(json.dumps({"text": f"checked: {text}" if "Check" in said[0] else f"draft: {text}"}))


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(ModelServer(policy)) as running:
        yield running


def run(name: str, server: ModelServer, cwd: Path) -> str:
    """Run an example where its journal may be written; what it prints. It must be silent otherwise."""
    environment = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "none-is-needed"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_hello_agent_looks_the_order_up_and_answers(server: ModelServer, tmp_path: Path) -> None:
    said = run("hello.py", server, tmp_path)
    assert said.startswith("complete Answer(text='on its way', ships_on='2026-12-01')")


def test_plain_actors_count(server: ModelServer, tmp_path: Path) -> None:
    assert run("counter.py", server, tmp_path) == "42\n"
    assert server.billing.calls == 0


def test_a_team_hands_the_draft_to_the_reviewer_who_answers(server: ModelServer, tmp_path: Path) -> None:
    assert run("team.py", server, tmp_path) == "checked: draft: My parcel is late.\n"
    assert server.billing.calls == 2
    assert (tmp_path / "desk.db").stat().st_size > 0


def test_a_refund_waits_for_its_yes_and_is_paid_once(server: ModelServer, tmp_path: Path) -> None:
    said = run("refund.py", server, tmp_path)
    assert said.startswith('complete Done: "sent 4000, key ')
    assert server.billing.calls == 3  # nothing was asked twice to go on after the yes


def test_the_part_of_the_refund_that_is_not_there_yet_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match=r"agent 'refunds': machine= is not supported yet"):
        Agent("refunds", model=OpenAIChat("gpt-5-mini"), machine=object())  # type: ignore[call-overload]
