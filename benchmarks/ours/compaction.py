"""C12: every turn adds a message of 200 tokens to a window that holds 8,000; summaries take the place of the old ones.

Line `steps`: a turn is a call of a tool and its result, all in one run. Line `session`: a turn is a request, in a run
of its own of one session. A scripted provider counts what messages are declared to be, sees each request, and notes
the CPU time; a scripted summariser continues a hash over what it is given, so a message lost or out of order is seen.

What a turn costs is told in microseconds and compared in *beats*: a fixed piece of work done beside each turn. A
machine at work is now quick, now slow, by more than what is looked for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours import inside
from benchmarks.reference import oracle
from understudy import Agent, Budget, ContextWindow, Prompt, Summarise, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage

LIMIT: Final = 8_000
TURN: Final = 200
SUMMARY: Final = 100
PINNED: Final = 5
KEPT: Final = {"steps": 10, "session": 20}
ENDS: Final = 100
"""Turns at both ends whose costs are compared."""
STEEP: Final = 1.5
"""A turn at the end may not take this many times as much as one at the beginning. The aim is 1.2."""
DEAR: Final = 2
"""The dearest turns of each end are left out: a full garbage collection comes ever more rarely, and falls anywhere."""
JUDGED: Final = 1_000
_HASH = re.compile(r"hash (\d+)")


class Texts:
    """The messages, made beforehand: 50 draws below 1000 from the seed 9, joined by blanks."""

    def __init__(self, turns: int) -> None:
        random = oracle().Lehmer(9)
        self.texts = [" ".join(str(random.below(1000)) for _ in range(50)) for _ in range(turns)]
        self.numbers = {text: number for number, text in enumerate(self.texts)}
        self.modulus: int = oracle().M31

    def turns_in(self, text: str) -> Iterator[int]:
        """The turns whose message is in a text: a line of it, without quotes or role."""
        for line in text.split("\n"):
            number = self.numbers.get(line.rpartition(": ")[2].strip('"'))
            if number is not None:
                yield number

    def on(self, value: int, turn: int) -> int:
        return (value * 48271 + turn + 1) % self.modulus


class Summariser:
    """Continues the hash of the summary before over the turns it is given."""

    name, price = "summariser", None

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.calls = 0

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Summariser]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.calls += 1
        value, turns = 0, 0
        for message in request.messages:
            found = _HASH.search(message.content)
            value = int(found[1]) if found is not None else value
            for turn in self.turns(message.content):
                value, turns = self.texts.on(value, turn), turns + 1
        return ModelReply(f"hash {value}", usage=Usage(TURN * turns + SUMMARY, SUMMARY))

    def turns(self, text: str) -> Iterator[int]:
        return self.texts.turns_in(text)


class Forgetful(Summariser):
    """Leaves one turn out of its summaries."""

    def turns(self, text: str) -> Iterator[int]:
        return (turn for turn in super().turns(text) if turn != 7)


class Provider:
    """Counts declared tokens, and keeps of every request what the check needs."""

    name, price = "provider", None

    def __init__(self, texts: Texts, turns: int, line: str) -> None:
        self.texts, self.turns, self.line = texts, turns, line
        self.at: list[tuple[float, float, float]] = []
        """By turn, CPU seconds: when the provider was asked, when it began its beat, when it had ended."""
        self.over = 0
        self.unpinned = ""
        self.last: ModelRequest | None = None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[Provider]:
        yield self

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        asked, turn = time.process_time(), len(self.at)
        reply = self.reply(request, turn)
        began = time.process_time()
        beat()
        self.at.append((asked, began, time.process_time()))
        return reply

    def reply(self, request: ModelRequest, turn: int) -> ModelReply:
        self.last = request
        shown = [message for message in request.messages if len(message.content) > 100 or _is_summary(message.content)]
        tokens = sum(SUMMARY if _is_summary(message.content) else TURN for message in shown)
        self.over += tokens > LIMIT
        pinned = self.texts.texts[: min(turn + (self.line == "session"), PINNED)]
        if [message.content.strip('"') for message in shown[: len(pinned)]] != pinned:
            self.unpinned = self.unpinned or f"turn {turn}: the first {PINNED} messages are not there, or changed"
        usage = Usage(tokens, 1)
        if self.line == "session" or turn == self.turns:
            return ModelReply("noted", usage=usage)
        return ModelReply(calls=(ToolCall(f"c{turn}", "turn", f'{{"number":{turn}}}'),), usage=usage)

    def found(self) -> tuple[int, int]:
        """Pinned messages in the last request, and the hash of the summary continued over the other ones kept."""
        assert self.last is not None
        value, pinned = 0, 0
        for message in self.last.messages:
            found = _HASH.search(message.content)
            value = int(found[1]) if found is not None else value
            for turn in self.texts.turns_in(message.content):
                pinned += turn < PINNED
                value = self.texts.on(value, turn) if turn >= PINNED else value
        return pinned, value


_WORDS: Final = [f"word {number}" for number in range(40)]


def beat() -> None:
    """A fixed piece of work of the kind that a turn is made of."""
    for _ in range(6):
        json.loads(json.dumps({word: [len(word), word] for word in _WORDS}))


def _is_summary(text: str) -> bool:
    return text.startswith("Summary of what came before:\nhash ")


BUGS: dict[str, dict[type, type]] = {"forgets": {Summariser: Forgetful}, "unpins": {}, "swells": {}}


def make_agent(case: Case, provider: Provider, summariser: Summariser) -> Agent[str, Prompt]:
    """The agent of the workload."""
    texts = provider.texts.texts

    @tool(effect="read")
    async def turn(number: int) -> str:
        return texts[number]

    rule = Summarise(keep=KEPT[case.line], model=summariser, max_tokens=SUMMARY, budget=10**12)
    limit = 2 * LIMIT if case.bug == "swells" else LIMIT
    window = ContextWindow(limit, compact=[rule], at=0.8, first=PINNED - (case.bug == "unpins"))
    tools = [turn] if case.line == "steps" else []
    return Agent("talker", model=provider, tools=tools, window=window)


async def program(case: Case) -> Found:
    (turns,) = case.args
    texts = Texts(turns)
    provider = Provider(texts, turns, case.line)
    summariser = BUGS.get(case.bug, {}).get(Summariser, Summariser)(texts)
    agent = make_agent(case, provider, summariser)
    budget = Budget(steps=turns + 1, tokens=10**12, seconds=case.deadline)
    async with System(Supervisor("desk", [agent], budget=budget)) as system:
        case.start()
        runs = await _play(system, agent, provider)
        case.stop()
        if provider.unpinned:
            raise CheckFailed(provider.unpinned)
        rows = await _rows(system, runs, turns)
        bytes_each = [float(sum(row.length for row in turn)) for turn in rows]
        again = await inside.replayed(system, runs[-1])
    costs = [(later[0] - done) * 1e6 for (_, _, done), later in itertools.pairwise(provider.at)]
    beats = [(done - began) * 1e6 for _, began, done in provider.at[1:]]
    _compare(case, "cpu", costs, beats)
    _compare(case, "journal", bytes_each, [1.0] * len(bytes_each))
    if turns >= JUDGED:
        await _stored(case, rows)
    case.extra["compactions"] = summariser.calls
    pinned, value = provider.found()
    return {"pinned": pinned, "order_hash": value, "over": provider.over, "replay": again}


async def _play(system: System, agent: Agent[str, Prompt], provider: Provider) -> list[str]:
    """All turns; the runs that they took."""
    texts = provider.texts.texts if provider.line == "session" else ["begin"]
    runs: list[str] = []
    for text in texts:
        session = "talk" if provider.line == "session" else None
        result = await system.run(agent, text, session=session)
        if result.status != "complete":
            raise CheckFailed(f"turn {len(provider.at)}: {result.status}: {result.reason}")
        runs.append(result.run)
    return runs


async def _rows(system: System, runs: list[str], turns: int) -> list[list[inside.Row]]:
    """The rows that each turn put into the journal."""
    if len(runs) > 1:
        index = [row for row, _ in await inside.journalled(system, f"{inside.SESSION}talk")]
        each = [[row for row, _ in await inside.journalled(system, run)] for run in runs]
        return [[*rows, other] for rows, other in zip(each, index, strict=True)]
    found: list[list[inside.Row]] = [[] for _ in range(turns + 1)]
    turn = 0
    for row, event in await inside.journalled(system, runs[0]):
        if isinstance(event, inside.ModelAsked) and not event.covers:
            turn = event.step - 1
        found[turn].append(row)
    return found[:turns]


async def _stored(case: Case, rows: list[list[inside.Row]]) -> None:
    """What a journal on disk grows by in the first turns and in the last."""
    parts = [[row for turn in part for row in turn] for part in (rows[:ENDS], rows[ENDS:-ENDS], rows[-ENDS:])]
    first, _, last = await inside.stored([part for part in parts if part])
    case.extra["disk_first"], case.extra["disk_last"] = round(first / ENDS, 1), round(last / ENDS, 1)
    case.extra["disk_ratio"] = ratio = round(last / first, 3)
    if ratio > STEEP:
        raise CheckFailed(f"disk: a turn at the end takes {ratio:.2f} times as much as one at the beginning")


def _compare(case: Case, what: str, each: list[float], beats: list[float]) -> None:
    """The last turns against the first. Raises `CheckFailed` where a turn costs the more the more there were."""
    ends = [
        sum(sorted(cost / beat for cost, beat in zip(each[part], beats[part], strict=True))[:-DEAR])
        for part in (slice(ENDS), slice(-ENDS, None))
    ]
    ratio = ends[1] / ends[0]
    case.extra[f"{what}_first"] = round(sum(each[:ENDS]) / ENDS, 1)
    case.extra[f"{what}_last"] = round(sum(each[-ENDS:]) / ENDS, 1)
    case.extra[f"{what}_ratio"] = round(ratio, 3)
    if len(each) >= JUDGED and ratio > STEEP:
        raise CheckFailed(f"{what}: a turn at the end takes {ratio:.2f} times as much as one at the beginning")
