"""The programs of the documentation, as they are: each in a process of its own, with a model on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from unhurried import ENVIRONMENT, complaints

from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


REFUND = (
    ("order", '{"id": "1042"}'),
    ("move", '{"event": "owed"}'),
    ("pay", '{"order": "1042", "cents": 4000}'),
    ("move", '{"event": "sent"}'),
)


def policy(request: ChatRequest) -> ChatAnswer:
    """Each program's model, told apart by the tools on offer and the instructions."""
    tools = {tool.function.name for tool in request.tools}
    told = [message.content or "" for message in request.messages if message.role == "tool"]
    said = [message.content or "" for message in request.messages if message.role != "tool"]
    if "move" in tools:
        act = REFUND[len(told)]
        assert {tool for tool in tools if tool != "move"} == ({"pay"} if len(told) > 1 else {"order"})
        return ChatAnswer("", (AnswerCall(*act),))
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
        timeout=300,
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, "")
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


@pytest.mark.promise(70)
def test_a_refund_waits_for_its_yes_and_is_paid_once(server: ModelServer, tmp_path: Path) -> None:
    assert run("refund.py", server, tmp_path) == "complete paid\n"
    assert server.billing.calls == 4  # nothing was asked twice to go on after the yes, and nothing in the final state


def test_the_refund_is_told_state_by_state(server: ModelServer, tmp_path: Path) -> None:
    run("refund.py", server, tmp_path)
    log = told("log", "@", cwd=tmp_path)
    wanted = ("begins in check", 'order("1042")', "check → pay", 'pay(order="1042"', "pay → paid", "✓ complete")
    places = [log.index(text) for text in wanted]
    assert places == sorted(places)
    assert "state paid" in told("tree", "@", cwd=tmp_path)


def told(*argv: str, cwd: Path) -> str:
    """What a command of the operator says of the journal in `cwd`."""
    command = [sys.executable, "-m", "understudy", *argv]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_property_tests_of_two_trees_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-p", "unhurried"]
    done = subprocess.run(
        [*command, "examples/test_trees.py"],
        cwd=EXAMPLES.parent,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr
