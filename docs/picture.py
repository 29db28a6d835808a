"""Draws docs/supervised-run.svg from the journal of a run that really happens, here and now.

    python docs/picture.py [FILE]

A writer looks an order up by a name that does not exist, again and again. Its supervisor nudges it, then restarts it
after back-off with the loop taken out of its context; it then answers, and a reviewer takes the draft over. The model
is a server on loopback that reads what it is sent. Every mark is an event of the journal.
"""

from __future__ import annotations

import asyncio
import json
import sys
from html import escape
from pathlib import Path

import anyio
import msgspec
from msgspec import Struct

from understudy import (
    Agent,
    Backoff,
    Loops,
    Message,
    Nudge,
    OpenAIChat,
    Restart,
    Result,
    Route,
    Same,
    Stop,
    Supervisor,
    System,
    tool,
)
from understudy.actors.journal import events as ev
from understudy.transports.testing.model_server import AnswerCall, ChatAnswer, ChatRequest, ModelServer

OUT = Path(__file__).with_name("supervised-run.svg")
LATENCY, TOOL_SECONDS, BACK_OFF = 0.09, 0.03, 0.35


# --- the run ---------------------------------------------------------------------------------------------


class Answer(Struct, frozen=True):
    text: str


class Ticket(Message[Result[Answer]]):
    text: str


class Draft(Message[Result[Answer]]):
    text: str


@tool(effect="read")
async def order(id: str) -> str:
    """Look up one order by its number."""
    await anyio.sleep(TOOL_SECONDS)
    if id != "1042":
        raise LookupError(f"no order {id!r}")
    return "packed, ships tomorrow"


def policy(request: ChatRequest) -> ChatAnswer:
    """Loops on the wrong name until the note of a restart says what went wrong."""
    said = [message.content or "" for message in request.messages]
    if not request.tools:
        return ChatAnswer(json.dumps({"text": "Your parcel ships tomorrow."}))
    if any("packed" in text for text in said):
        return ChatAnswer(json.dumps({"text": "it ships tomorrow"}))
    wrong = not any("former attempt got stuck" in text for text in said)
    return ChatAnswer("", (AnswerCall("order", json.dumps({"id": "1042 " if wrong else "1042"})),))


class OneName:
    """The only run there is."""

    def run(self) -> str:
        """See `Ids`."""
        return "7f3a"


async def record() -> list[ev.Record]:
    """Run it; its events."""
    events: list[ev.Record] = []
    async with ModelServer(policy, latency=LATENCY) as server:
        model = OpenAIChat("scripted", base_url=server.url)
        writer = Agent("writer", model=model, accepts=Ticket, output=Draft, tools=[order])
        reviewer = Agent("reviewer", model=model, accepts=Draft)
        desk = Supervisor(
            "desk",
            [writer, reviewer],
            backoff=Backoff(first=BACK_OFF, jitter=0.0),
            loops=Loops(Same(3), ladder=[Nudge(), Restart(), Stop()]),
            routes=[Route(Ticket, to=writer), Route(Draft, to=reviewer)],
        )
        async with System(desk, ids=OneName()) as system:
            system.listen(lambda record: events.append(record) if record.run == "7f3a" else None)
            result = await system.ref(desk).ask(Ticket("Where is order 1042?"), timeout=30)
            assert result.status == "complete", result
    return events


# --- the picture -----------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT = 960, 92, 24
LANES = {"desk": 148, "desk/writer": 214, "desk/reviewer": 270}
BAR = 18
HEIGHT = 356

STYLE = """
  svg { --ink: #1f2328; --soft: #656d76; --line: #d0d7de; --paper: #ffffff;
        --step: #54aeff; --good: #2da44e; --bad: #cf222e; --warn: #bf8700; --rest: #eac54f; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --soft: #8d96a0; --line: #30363d; --paper: #0d1117;
          --step: #388bfd; --good: #3fb950; --bad: #f85149; --warn: #d29922; --rest: #9e6a03; } }
  text { font: 12px ui-sans-serif, system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: var(--ink); }
  .soft { fill: var(--soft); } .small { font-size: 10.5px; } .head { font-size: 14px; font-weight: 600; }
  .num { font-size: 10px; fill: #ffffff; text-anchor: middle; } .mid { text-anchor: middle; }
  .end { text-anchor: end; }
"""


class Picture:
    """Collects shapes; x is time."""

    def __init__(self, events: list[ev.Record]) -> None:
        self.events = events
        self.began = events[0].mono
        self.seconds = events[-1].mono - self.began
        self.parts: list[str] = []

    def x(self, mono: float) -> float:
        """Where a moment is."""
        return round(LEFT + (mono - self.began) / self.seconds * (WIDTH - LEFT - RIGHT - 70), 1)

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words at a place."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>')

    def bar(self, x: float, end: float, y: float, colour: str, words: str, height: float = BAR) -> None:
        """A bar around the middle of a lane, at least 3 wide, that tells its story when pointed at."""
        wide = max(3.0, end - x)
        self.parts.append(
            f'<rect x="{x:g}" y="{y - height / 2:g}" width="{wide:g}" height="{height:g}" rx="2.5"'
            f' fill="{colour}"><title>{escape(words)}</title></rect>'
        )

    def line(self, x: float, y: float, x2: float, y2: float, colour: str, more: str = "") -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{x:g}" y1="{y:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" {more}/>')

    def draw(self) -> str:
        """The whole picture."""
        self._lanes()
        self._acts()
        self._verdicts()
        self._restart()
        self._handoff()
        self._axis()
        self._head()
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
            f' height="{HEIGHT}" role="img" aria-label="A supervised run: a loop is nudged, restarted after back-off,'
            f' and the run completes">\n<style>{STYLE}</style>\n<defs><pattern id="rest" width="7" height="7"'
            ' patternTransform="rotate(45)" patternUnits="userSpaceOnUse"><rect width="3.5" height="7"'
            ' fill="var(--rest)"/></pattern></defs>\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="6" fill="var(--paper)"/>\n{body}\n</svg>\n'
        )

    def _lanes(self) -> None:
        for path, y in LANES.items():
            self.text(16, y + 4, path.rpartition("/")[2])
            self.line(LEFT - 8, y, self.x(self.events[-1].mono), y, "var(--line)")

    def _acts(self) -> None:
        """Model calls and tool calls: from their intent to their outcome."""
        asked: dict[object, ev.Record] = {}
        for record in self.events:
            event, y = record.event, LANES.get(record.path, 0)
            if isinstance(event, ev.ModelAsked):
                asked[event.ticket] = record
            elif isinstance(event, ev.ToolAsked):
                asked[event.step, event.index] = record
            elif isinstance(event, ev.ModelAnswered):
                x, end = self.x(asked[event.ticket].mono), self.x(record.mono)
                self.bar(x, end, y, "var(--step)", f"{record.place} step {event.step}: model answered")
                self.text((x + end) / 2, y + 3.5, str(event.step), "num")
            elif isinstance(event, ev.ToolAnswered | ev.ToolFailed):
                x, end = self.x(asked[event.step, event.index].mono), self.x(record.mono)
                failed = isinstance(event, ev.ToolFailed)
                said = event.error if isinstance(event, ev.ToolFailed) else event.result
                self.bar(x + 1, end, y, "var(--bad)" if failed else "var(--good)", f"{record.place} {said}")

    def _verdicts(self) -> None:
        row = 0
        for record in self.events:
            if isinstance(record.event, ev.Judged):
                verdict = record.event.verdict
                x, y, top = self.x(record.mono), LANES["desk"], 82 + 22 * row
                word = type(verdict.response).__name__.lower()
                self.line(x, top + 5, x, LANES["desk/writer"] - BAR / 2, "var(--warn)", 'stroke-dasharray="3 2"')
                self.parts.append(f'<path d="M{x:g} {y - 7} l7 7 l-7 7 l-7 -7 z" fill="var(--warn)"/>')
                self.text(x + 6, top + 4, f"{verdict.what} → {word}")
                row += 1

    def _restart(self) -> None:
        judged = next(record for record in self.events if isinstance(record.event, ev.Judged) and record.event.dropped)
        rested = next(record for record in self.events if isinstance(record.event, ev.BackedOff))
        again = next(record for record in self.events if isinstance(record.event, ev.ChildStarted))
        assert isinstance(judged.event, ev.Judged)
        assert isinstance(rested.event, ev.BackedOff)
        x, end, y = self.x(rested.mono), self.x(again.mono), LANES["desk/writer"]
        self.bar(x, end, y, "url(#rest)", f"{rested.place} back-off", BAR)
        self.text((x + end) / 2, y - 14, f"back-off {rested.event.delay:.2g} s", "small mid")
        self.text((x + end) / 2, y + 22, f"{judged.event.dropped} exchanges → 1 note", "small mid soft")
        self.line(end, y - 16, end, y + 14, "var(--good)", 'stroke-width="2"')
        self.text(end + 4, y - 14, f"restart: attempt 2, temperature {judged.event.temperature:g}", "small")

    def _handoff(self) -> None:
        record = next(record for record in self.events if isinstance(record.event, ev.HandedOff))
        x, y, y2 = self.x(record.mono), LANES["desk/writer"], LANES["desk/reviewer"]
        self.line(x + 2, y + BAR / 2, x + 2, y2 - BAR / 2, "var(--soft)", 'stroke-width="1.5"')
        self.text(x - 4, (y + y2) / 2 + 6, "handoff: Draft", "small end soft")
        end = next(record for record in self.events if isinstance(record.event, ev.Finished))
        assert isinstance(end.event, ev.Finished)
        x = self.x(end.mono)
        self.line(x, 60, x, y2 + 20, "var(--good)", 'stroke-width="2"')
        self.text(x + 6, y2 + 4, end.event.status)

    def _axis(self) -> None:
        y = LANES["desk/reviewer"] + 34
        for tenth in range(0, int(self.seconds * 10) + 1, 2):
            x = self.x(self.began + tenth / 10)
            self.line(x, y - 6, x, y - 2, "var(--soft)")
            self.text(x, y + 10, f"{tenth / 10:.1f} s", "small soft mid")
        key = [("var(--step)", "model call"), ("var(--good)", "tool call"), ("var(--bad)", "failed tool call")]
        x, y = LEFT, HEIGHT - 18
        for colour, words in [*key, ("url(#rest)", "waiting to start again"), ("var(--warn)", "verdict")]:
            self.bar(x, x + 14, y - 4, colour, words, 11)
            self.text(x + 19, y, words, "small soft")
            x += 34 + 6.2 * len(words)

    def _head(self) -> None:
        steps = sum(isinstance(record.event, ev.ModelAnswered) for record in self.events)
        spent = [record.event.spent for record in self.events if isinstance(record.event, ev.ModelAnswered)]
        tokens = sum(amounts.get("tokens", 0) for amounts in spent)
        restarts = sum(isinstance(record.event, ev.ChildStarted) for record in self.events)
        self.text(16, 28, "One supervised run, as its journal tells it", "head")
        line = f"run 7f3a · {len(self.events)} events · {steps} steps · {tokens} tokens · {restarts} restart"
        self.text(16, 48, line, "soft")


def main(argv: list[str]) -> None:
    """Record, draw, write."""
    events = asyncio.run(record())
    decoded = [msgspec.json.decode(ev.encode(event), type=ev.Record) for event in events]  # as a reader gets them
    (Path(argv[0]) if argv else OUT).write_text(Picture(decoded).draw(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
