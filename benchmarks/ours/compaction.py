"""C12: every turn adds a message of 200 tokens to a window that holds 8,000; summaries take the place of the old ones.

Line `steps`: a turn is a call of a tool and its result, all in one run. Line `session`: a turn is a request, in a run
of its own of one session. A scripted provider counts what messages are declared to be, sees each request, and notes
the CPU time; a scripted summariser continues a hash over what it is given, so a message lost or out of order is seen.
The journal is held to the same rule as the CPU: its events, and what they take in a file (`disk`).
"""

from typing import Final

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours import inside
from benchmarks.ours.scripted import Scripted
from benchmarks.talk import ENDS, JUDGED, KEPT, LIMIT, PINNED, STEEP, SUMMARY, TURN, Heard, Texts, compare
from understudy import Agent, Budget, ContextWindow, Prompt, Summarise, Supervisor, System, tool
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage

KEEP: Final = {"steps": KEPT, "session": 2 * KEPT}
"""Exchanges of a run; requests and answers of a session."""


class Summariser(Scripted):
    """Continues the hash of the summary before over the turns it is given."""

    leave: int | None = None

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.calls = 0

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        self.calls += 1
        value, turns = self.texts.hashed((message.content for message in request.messages), self.leave)
        return ModelReply(f"hash {value}", usage=Usage(TURN * turns + SUMMARY, SUMMARY))


class Forgetful(Summariser):
    """Leaves one turn out of its summaries."""

    leave = 7


class Provider(Scripted):
    """Notes each request."""

    def __init__(self, texts: Texts, turns: int, line: str) -> None:
        self.heard = Heard(texts, tools=line == "steps")
        self.texts, self.turns, self.line = texts, turns, line

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        turn = len(self.heard.at)
        usage = Usage(self.heard.hear([message.content for message in request.messages]), 1)
        if self.line == "session" or turn == self.turns:
            reply = ModelReply("noted", usage=usage)
        else:
            reply = ModelReply(calls=(ToolCall(f"c{turn}", "turn", f'{{"number":{turn}}}'),), usage=usage)
        self.heard.done()
        return reply


BUGS: dict[str, dict[type, type]] = {"forgets": {Summariser: Forgetful}, "unpins": {}, "swells": {}}


def make_agent(case: Case, provider: Provider, summariser: Summariser) -> Agent[str, Prompt]:
    """The agent of the workload."""
    texts = provider.texts.texts

    @tool(effect="read")
    async def turn(number: int) -> str:
        return texts[number]

    rule = Summarise(keep=KEEP[case.line], model=summariser, max_tokens=SUMMARY, budget=10**12)
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
        found = provider.heard.found()
        rows = await _rows(system, runs, turns)
        bytes_each = [float(sum(row.length for row in turn)) for turn in rows]
        if (again := await inside.replayed(system, runs[-1])) != "identical":
            raise CheckFailed(f"replay: {again}")
    provider.heard.compare(case)
    compare(case, "journal", bytes_each, [1.0] * len(bytes_each))
    if turns >= JUDGED:
        await _stored(case, rows)
    case.extra["compactions"] = summariser.calls
    return found


async def _play(system: System, agent: Agent[str, Prompt], provider: Provider) -> list[str]:
    """All turns; the runs that they took."""
    texts = provider.texts.texts if provider.line == "session" else ["begin"]
    runs: list[str] = []
    for text in texts:
        session = "talk" if provider.line == "session" else None
        result = await system.run(agent, text, session=session)
        if result.status != "complete":
            raise CheckFailed(f"turn {len(provider.heard.at)}: {result.status}: {result.reason}")
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
