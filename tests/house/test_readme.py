"""The README keeps its word: its program runs as printed, its numbers are the code's, its links lead somewhere."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from unhurried import complaints

import understudy
from understudy import Approvals, Backoff, Intensity, Same
from understudy.actors.mailbox import DEFAULT_LIMIT
from understudy.supervisors.guards.responses import LADDER
from understudy.supervisors.tree import DEFAULT_BUDGET
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])


def support(request: ChatRequest) -> ChatAnswer:
    """Look the order up, then answer with what came back."""
    told = [json.loads(message.content or "") for message in request.messages if message.role == "tool"]
    if not told:
        return ChatAnswer("", (AnswerCall("order", '{"id": "1042"}'),))
    return ChatAnswer(json.dumps({"text": f"It is {told[0]['state']}.", "ships_on": told[0]["ships_on"]}))


@pytest.fixture
def base_url() -> Iterator[str]:
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(ModelServer(support)) as server:
        yield server.url


def test_the_program_within_the_first_25_lines_runs_as_printed(base_url: str, tmp_path: Path) -> None:
    top = "\n".join(README.splitlines()[:25])
    (program,) = re.findall(r"^```python\n(.*?)^```", top, re.MULTILINE | re.DOTALL)
    environment = {**os.environ, "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none-is-needed"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, complaints(done.stderr)) == (0, "")
    assert done.stdout.startswith("complete Answer(text='It is packed.', ships_on='2026-12-01') Spend(steps=2, ")
    assert list(tmp_path.iterdir()) == []  # it keeps its journal in memory


def test_the_program_of_the_readme_is_the_first_example() -> None:
    (program, *_) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    example = ast.parse((ROOT / "examples" / "hello.py").read_text(encoding="utf-8"))
    flat: list[ast.stmt] = []
    for node in example.body[1:]:
        flat += node.body if isinstance(node, ast.If) else [node]
    assert [ast.dump(node) for node in ast.parse(program).body] == [ast.dump(node) for node in flat]


def test_the_numbers_of_the_readme_are_the_defaults_of_the_code() -> None:
    backoff, intensity, limits = Backoff(), Intensity(), DEFAULT_BUDGET.limits()
    text = " ".join(README.split())
    assert f"holds {DEFAULT_LIMIT:,} messages" in text
    steps, tokens, seconds = limits["steps"], limits["tokens"], DEFAULT_BUDGET.seconds
    assert f"{steps} steps, {tokens:,} tokens and {seconds:,.0f} seconds" in text
    assert f"{backoff.first:g} s after the first failure, twice as long" in text
    assert (backoff.factor, f"{backoff.cap:g} s at most" in text) == (2.0, True)
    assert f"past {intensity.restarts} restarts in {intensity.within:g} s" in text
    assert f"same outcome {Same().times} times" in text
    assert [type(rung).__name__ for rung in LADDER] == ["Nudge", "Restart", "Stop"]
    assert f"no after {Approvals().expires / 3600:.0f} hours" in text


def test_the_readme_is_short_and_says_what_it_must() -> None:
    assert len(README.splitlines()) < 150
    for heading in ("Promises", "What it is not", "Where things live"):
        assert re.search(rf"^## {heading}", README, re.MULTILINE)
    assert "docs/supervised-run.svg" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_public_name_is_explained() -> None:
    names = [name for name in understudy.__all__ if name not in {"__version__", "Result"}]
    bare = [name for name in names if not (inspect.getdoc(getattr(understudy, name)) or "").strip()]
    assert bare == []
