"""Asking the person at the terminal for a yes: shows what is asked for, and waits without a thread."""

from __future__ import annotations

import asyncio
import os
from typing import Literal, TextIO

import msgspec

from understudy.actors.agents.results import Approval
from understudy.demo import findings, report
from understudy.demo.summary import asked_to_write, counted
from understudy.supervisors.operator.text import call_text, clean, fit, say

Said = Literal["yes", "no", "later", "gone"]
"""What a person said; `gone`: the input ended."""

LINE = 1_024
"""Bytes of an answer that are looked at."""
_WORDS: dict[str, Said | Literal["details"]] = {
    "y": "yes", "yes": "yes", "n": "no", "no": "no", "d": "details", "details": "details", "l": "later",
    "later": "later",
}  # fmt: skip


async def ask(approval: Approval, stdin: TextIO, stderr: TextIO) -> Said:
    """Ask for `approval` until the answer is one; `d` shows the arguments in full and asks again."""
    say(stderr, *_shown(approval))
    while True:
        stderr.write(fit(" [y]es [n]o [d]etails [l]ater? ", stderr))
        stderr.flush()
        line = await read_line(stdin)
        if not line:
            say(stderr, "")
            return "gone"
        word = _WORDS.get(line.strip().lower())
        if word == "details":
            say(stderr, *_details(approval))
        elif word is not None:
            return word


async def read_line(stdin: TextIO) -> str:
    """One line of a terminal, "" at its end. A wait that is cancelled leaves no thread behind."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    number = stdin.fileno()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(number, wake)
    try:
        await ready
    finally:
        loop.remove_reader(number)
    try:
        return os.read(number, LINE).decode("utf-8", "replace")
    except OSError:  # the terminal has gone
        return ""


def _shown(approval: Approval) -> list[str]:
    """What the yes is about."""
    asked = asked_to_write(approval.tool, approval.arguments)
    if asked is None:
        return [f" ? {call_text(approval.tool, approval.arguments)}"]
    digest = findings.digest(asked.report.findings)
    return [f" ? {approval.tool}({clean(asked.path)!r}) · {counted(asked.report)} · digest {digest} · irreversible"]


def _details(approval: Approval) -> list[str]:
    asked = asked_to_write(approval.tool, approval.arguments)
    head = [f" approval {approval.id} · call {approval.digest} · policy {approval.policy}"]
    if asked is None:
        text = msgspec.json.format(approval.arguments, indent=2)
    else:
        head.append(f" path {clean(asked.path)}, beside it the same as JSON; files that stand there are replaced")
        text = report.to_markdown(asked.report)
    return head + [clean(line) for line in text.splitlines()]
