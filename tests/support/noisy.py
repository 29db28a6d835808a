"""An app whose hooks are not functions of the state: each kind of noise in each hook, one agent each.

python noisy.py JOURNAL        # a run of each agent; the name of each, and its run, on one line
python noisy.py JOURNAL OUT    # `understudy replay` of each: its exit status and what it said, as JSON
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from acted import Acted, call, calls, script, words
from msgspec.structs import replace

from understudy import Agent, ContextWindow, Supervisor, System, tool
from understudy.__main__ import main
from understudy.actors.agents.models import ModelReply, ModelRequest, Usage, input_cap
from understudy.actors.agents.window import Pressed, Smaller
from understudy.actors.journal.view import spans_of
from understudy.transports.journals.sqlite import SQLiteStore

NOISES: Final[Mapping[str, Callable[[], str]]] = {
    "clock": lambda: str(time.time()),
    "date": lambda: datetime.datetime.now(tz=datetime.UTC).isoformat(),
    "set": lambda: ", ".join({"amber", "blue", "cyan", "green", "lime", "pink", "red", "teal", "white", "yellow"}),
    "random": lambda: str(random.random()),
    "environment": lambda: os.environ["NOISE"],
}
HOOKS: Final = ("instructions", "check", "loop_key", "window")
PAGE: Final = "a line of a page that is long\n" * 30


class Noisy:
    """A rule of a window that says how the day is."""

    def __init__(self, noise: Callable[[], str]) -> None:
        self.noise = noise

    def plan(self, window: Pressed) -> Smaller | None:
        free = [item.number for item in window.free]
        return Smaller(spans_of(free[:1]), self.noise()) if len(free) > 1 else None


def agent_of(hook: str, kind: str) -> Agent[Any, Any]:
    """An agent that looks four times and answers, with one hook that is noisy."""
    noise = NOISES[kind]

    @tool(effect="read")
    async def look(what: str) -> str:
        return PAGE

    def greeting(ctx: Any) -> str:
        return f"Today: {noise()}"

    def fits(answer: Any) -> str | None:
        return f"not on a day like {noise()}"

    if hook == "loop_key":
        look.loop_key(lambda what: noise())
    answers = script(*(calls(call("look", what=f"{number}")) for number in range(4)), words("done"))

    def says(request: ModelRequest) -> ModelReply:
        made = answers(request)
        assert isinstance(made, ModelReply)
        return replace(made, usage=Usage(input_cap(request) // 2, 5))

    return Agent(
        f"{hook}-{kind}",
        model=Acted(says),
        tools=[look],
        instructions=greeting if hook == "instructions" else "Look.",
        checks=[fits] if hook == "check" else [],
        window=ContextWindow(1_500, compact=[Noisy(noise)]) if hook == "window" else ContextWindow(None),
        max_tokens=200,
        repairs=1,
    )


desk = Supervisor("desk", [agent_of(hook, kind) for hook in HOOKS for kind in NOISES])


async def record(path: str) -> dict[str, str]:
    async with System(desk, journal=SQLiteStore(path)) as system:
        agents = {name: policy.agent for name, policy in system.tree.policies.items()}
        return {name: (await system.run(agent, "go")).run for name, agent in agents.items()}


def replay(path: str, runs: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    for name, run in runs.items():
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            code = main(["replay", run, "--journal", path, "--app", "noisy:desk"])
        found[name] = code, out.getvalue()
    return found


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(asyncio.run(record(sys.argv[1]))))
    else:
        Path(sys.argv[2]).write_text(json.dumps(replay(sys.argv[1], json.loads(sys.stdin.read()))))
