"""C5: one budget over a tree of agents that want more than there is, with kills, and with a provider that lies."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.checked import BUGS, RESERVE, UNIT, Checked
from benchmarks.ours.scripted import Scripted
from benchmarks.reference import oracle
from benchmarks.scripts import TEAM, answer, argument, first
from understudy import Agent, Backoff, Budget, Intensity, OpenAIChat, Supervisor, System, tool
from understudy.actors.agents.guards import Busy, Denied, Pool
from understudy.actors.agents.models import ModelReply, ModelRequest, ToolCall, Usage
from understudy.actors.journal import events as ev
from understudy.actors.journal.store import MemoryStore
from understudy.actors.lifecycle import Exit
from understudy.supervisors.guards.accounts import Accounts
from understudy.transports.testing.chats import charge
from understudy.transports.testing.model_server import (
    AnswerCall,
    ChatAnswer,
    ChatRequest,
    CutStream,
    LostReply,
    ModelServer,
    OverReport,
)

FAULTY_STEP = 3
SHARE = 60  # of a hundred: what is granted of the demand
LEDGER_WINDOW = 64
"""Reservations held at a time in the line that has no agents."""
C = TypeVar("C", bound=type)


def ledger_of(case: Case) -> type[Checked]:
    return BUGS[case.bug][Checked] if case.bug else Checked


class Watched(System):
    """A system whose ledger is checked."""

    ledger: Checked
    kind: type[Checked] = Checked
    breaches: list[ev.BudgetBreached]

    def _make_ledger(self) -> Checked:
        return self.kind()


# -- the agents ------------------------------------------------------------------------------------------------


@tool(effect="read")
async def advance(i: int, k: int, v: int) -> int:
    """The tool's half of a step."""
    executed.append((i, k))
    return answer(v)


executed: list[tuple[int, int]] = []
"""Steps whose tool was called, in the present run."""


class Provider(Scripted):
    """A model in this process: it answers by what it is asked, and keeps the bills."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.bills: list[tuple[int, int]] = []
        self.held: dict[int, asyncio.Future[None]] = {}
        self.hold: set[int] = set()

    async def complete(self, request: ModelRequest, *, timeout: float) -> ModelReply:
        """The next act of the agent that asks."""
        i, k, v = where(request)
        if k == self.steps:
            return ModelReply(str(v), usage=Usage(1, 0))
        self.bills.append((i, k))
        if i in self.hold and k == FAULTY_STEP:
            self.hold.discard(i)
            self.held[i] = asyncio.get_running_loop().create_future()
            await self.held[i]
        await asyncio.sleep(0)
        arguments = f'{{"i":{i},"k":{k},"v":{argument(i, k, v)}}}'
        return ModelReply(calls=(ToolCall(f"c{k}", "advance", arguments),), usage=Usage(1, oracle().cost(i, k)))


def where(request: ModelRequest | ChatRequest) -> tuple[int, int, int]:
    """(agent, step, value) from the conversation."""
    i = int(request.messages[0].content or "0")
    k = sum(message.role == "assistant" for message in request.messages)
    results = [message.content for message in request.messages if message.role == "tool"]
    return i, k, int(results[-1] or "0") if results else first(i)


def teams(agents: Sequence[Agent[Any, Any]], root: Budget | None, team: Callable[[int], Budget | None]) -> Supervisor:
    """Supervisors of 20 under one root."""
    groups = [agents[n : n + TEAM] for n in range(0, len(agents), TEAM)]
    found = [
        Supervisor(
            f"team-{n}", group, budget=team(n), intensity=Intensity(10**6, within=1.0), backoff=Backoff(first=0.0)
        )
        for n, group in enumerate(groups)
    ]
    return Supervisor("root", found, budget=root)


def life(limit: int) -> Budget:
    return Budget(output_tokens=limit, per="life", warn=None)


def bill(bills: Sequence[tuple[int, int]]) -> int:
    return sum(oracle().cost(i, k) for i, k in bills)


async def ask_all(case: Case, system: System, agents: Sequence[Agent[Any, Any]]) -> list[Any]:
    asking = [system.run(agent, str(i), timeout=0.8 * case.deadline) for i, agent in enumerate(agents)]
    return list(await asyncio.gather(*asking))


def counted(ledger: Checked, results: Sequence[Any], limited: Sequence[str], spent: int) -> Found:
    """What is the same in every variant."""
    steps = sum(result.status == "complete" for result in results)
    if any(result.status == "stopped" and "output tokens" not in result.reason for result in results):
        raise CheckFailed(f"stopped by something else: {[r.reason for r in results if r.status == 'stopped'][:3]}")
    statements = [ledger.statement(pool) for pool in limited]
    return {
        "within": ledger.wrong == 0,
        "overspend": sum(sum(each.over.values()) for each in statements),
        "spent_is_billed": sum(each.spent.get(UNIT, 0) for each in statements) == spent,
        "reserved": sum(ledger.held.values()) + sum(sum(each.reserved.values()) for each in statements),
        "others": sorted({result.status for result in results} - {"complete", "stopped"}),
        "refused_some": steps < len(results),
    }


async def tree(case: Case) -> Found:
    """Variant a: the root's limit only. Variant b: each team is limited to 60 % of its own demand."""
    n, steps = case.args
    model = Provider(steps)
    agents = [Agent(f"a{i}", model=model, tools=[advance], max_tokens=RESERVE) for i in range(n)]
    limits = team_limits(n, steps)
    by_team = case.line == "teams"
    root = teams(
        agents,
        None if by_team else life(sum(demand(range(n), steps)) * SHARE // 100),
        lambda number: life(limits[number]) if by_team else None,
    )
    executed.clear()
    async with watched(case, root) as system:
        case.start()
        results = await ask_all(case, system, agents)
        case.stop()
        ledger = system.ledger
        pools = [f"team-{number}" for number in range(len(limits))] if by_team else ["root"]
        found = counted(ledger, results, pools, bill(executed))
        left = [ledger.left((pool,))[UNIT] for pool in pools]
    case.extra["unspent_share"] = sum(left) / sum(ledger.statement(pool).limits[UNIT] for pool in pools)
    case.extra["ledger_operations"] = ledger.operations
    return found | {"unspent_below_reserve": all(each < RESERVE for each in left), "breached": breached(system)}


@asynccontextmanager
async def watched(case: Case, root: Supervisor, store: MemoryStore | None = None) -> AsyncIterator[Watched]:
    system = Watched(root, journal=store or MemoryStore())
    system.kind = ledger_of(case)
    system.breaches = []
    async with system:
        system.listen(lambda record: noted(system, record.event))
        yield system


def noted(system: Any, event: ev.AnyEvent) -> None:
    if isinstance(event, ev.BudgetBreached):
        system.breaches.append(event)


def breached(system: Any) -> list[str]:
    """The owners of pools that were breached."""
    return sorted({event.pool.partition("@")[0] for event in system.breaches})


def demand(agents: Sequence[int] | range, steps: int) -> Iterator[int]:
    return (oracle().cost(i, k) for i in agents for k in range(steps))


def team_limits(n: int, steps: int) -> list[int]:
    return [sum(demand(range(t, min(t + TEAM, n)), steps)) * SHARE // 100 for t in range(0, n, TEAM)]


# -- variant c: kills -------------------------------------------------------------------------------------------


class Gate(MemoryStore):
    """A store whose commits wait while its gate is shut: what is reserved then has not been sent."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def write(self, rows: Any, at: Any) -> None:
        """See `MemoryStore.write`."""
        await self.gate.wait()
        await super().write(rows, at)


async def kill(case: Case) -> Found:
    """One agent in ten is killed with a reservation: half when it was sent, half when no byte has left."""
    n, steps = case.args
    model, store = Provider(steps), Gate()
    agents = [Agent(f"a{i}", model=model, tools=[advance], max_tokens=RESERVE) for i in range(n)]
    model.hold = {i for i in range(n) if i % 20 == 3}
    unsent = {f"a{i}": i for i in range(n) if i % 20 == 13}
    wanted = len(model.hold) + len(unsent)
    limit = sum(demand(range(n), steps)) + n * RESERVE
    kills = Counter[str]()
    async with watched(case, teams(agents, life(limit), lambda _: None), store) as system:

        def end(path: str, how: str) -> None:
            cell = system.kernel.registry.find(path)
            if cell is None or cell.life is None:
                raise CheckFailed(f"{path} was not there to be killed")
            kills[how] += 1
            system.kernel._endings.end_incarnation(cell, cell.life, Exit("killed", "by the benchmark"))

        def hear(record: ev.Record) -> None:
            name = record.path.rpartition("/")[2]
            if isinstance(record.event, ev.ModelAsked) and record.event.step == FAULTY_STEP + 1 and name in unsent:
                del unsent[name]
                store.gate.clear()
                asyncio.get_running_loop().call_soon(unsent_end, record.path)

        def unsent_end(path: str) -> None:
            end(path, "unsent")
            asyncio.get_running_loop().call_soon(store.gate.set)

        async def reap() -> None:
            while kills["sent"] + kills["unsent"] < wanted:
                await asyncio.sleep(0.001)
                for i in list(model.held):
                    del model.held[i]
                    end(f"root/team-{i // TEAM}/a{i}", "sent")

        system.listen(hear)
        case.start()
        reaper = asyncio.create_task(reap())
        results = await ask_all(case, system, agents)
        await reaper
        case.stop()
        estimated = 0
        for i, result in enumerate(results):
            for estimate in await system.estimates(result.run):
                estimated += estimate.spent[UNIT] == RESERVE
                true = oracle().cost(i, FAULTY_STEP)
                await system.correct(result.run, estimate.ticket, input_tokens=1, output_tokens=true)
        found = counted(system.ledger, results, ["root"], bill(model.bills))
        left = sum([len(await system.estimates(result.run)) for result in results])
    found |= {"killed": dict(sorted(kills.items())), "estimated": estimated, "estimated_left": left}
    return found | {"complete": sum(result.status == "complete" for result in results), "breached": breached(system)}


# -- variant d: a provider that over-reports, loses replies and cuts streams ---------------------------------------


FAULTS: dict[int, Callable[[ChatAnswer], Any]] = {
    0: lambda said: OverReport(100, said),
    1: LostReply,
    2: CutStream,
}


async def provider(case: Case) -> Found:
    """Each agent has a budget of its own, so that a breach closes one pool; the model is on loopback."""
    n, steps = case.args
    faulty: dict[int, int] = {}
    over: dict[str, int] = {}

    def policy(request: ChatRequest) -> Any:
        i, k, v = where(request)
        if k == steps:
            return ChatAnswer(str(v))
        said = ChatAnswer("", (AnswerCall("advance", f'{{"i":{i},"k":{k},"v":{argument(i, k, v)}}}'),))
        fault = FAULTS.get(i % 5)
        if fault is None or k != FAULTY_STEP or i in faulty:
            return said
        faulty[i] = charge(request, said).output_tokens
        if i % 5 == 0:
            over[f"a{i}"] = 100 * faulty[i] - RESERVE
        return fault(said)

    async with ModelServer(policy) as server:
        model = OpenAIChat("scripted", base_url=server.url, api_key="k")
        own = Budget(output_tokens=RESERVE * (steps + 2), warn=None)
        agents = [Agent(f"a{i}", model=model, tools=[advance], max_tokens=RESERVE, budget=own) for i in range(n)]
        async with watched(case, teams(agents, Budget(steps=10**9), lambda _: None)) as system:
            case.start()
            results = await ask_all(case, system, agents)
            case.stop()
            estimated = [
                (i, result.run, each) for i, result in enumerate(results) for each in await system.estimates(result.run)
            ]
            for i, run, each in estimated:
                await system.correct(run, each.ticket, input_tokens=1, output_tokens=faulty[i])
            pools = [f"a{i}@{result.run}" for i, result in enumerate(results)]
            statements = [system.ledger.statement(pool) for pool in pools]
        billed = server.billing.output_tokens
    found = counted(system.ledger, results, [], 0)
    counts = sum(each.spent.get(UNIT, 0) + each.over.get(UNIT, 0) for each in statements)
    del found["overspend"]
    return found | {
        "spent_is_billed": counts == billed,
        "reserved": sum(sum(each.reserved.values()) for each in statements),
        "breached": breached(system),
        "over_as_planted": {each.owner: each.over[UNIT] for each in statements if each.over} == over,
        "over": sum(over.values()) > 0,
        "estimated": sorted({i for i, _, _ in estimated}),
    }


# -- the ledger alone -------------------------------------------------------------------------------------------


Operation = tuple[str, tuple[str, ...], Mapping[str, int]]
"""A reservation in a chain of pools, or a settlement (of no pools)."""


async def ledger(case: Case) -> Found:
    """The operations of variant b without agents: a chain of four pools, up to 64 reservations at a time.

    The clock is for the whole program; what one operation costs is measured on the same operations once more.
    """
    n, steps = case.args
    books, chains = ledger_books(case, n, steps)
    case.start()
    operations, spent = run_ledger(books, chains, steps)
    case.stop()
    again, _ = ledger_books(case, n, steps)
    case.extra["cpu_us_per_ledger_operation"] = timed(again, operations) / len(operations) * 1e6
    limited = [books.statement("root"), *(books.statement(f"team-{t}") for t in range(-(-n // TEAM)))]
    return {
        "spent": spent,
        "root": limited[0].spent.get(UNIT, 0),
        "within": all(each.spent.get(UNIT, 0) <= each.limits[UNIT] for each in limited),
        "reserved": sum(sum(each.reserved.values()) for each in limited),
        "unspent_below_reserve": all(each.limits[UNIT] - each.spent.get(UNIT, 0) < RESERVE for each in limited[1:]),
    }


def ledger_books(case: Case, n: int, steps: int) -> tuple[Accounts, list[tuple[str, ...]]]:
    """A fresh ledger, and the chain of each agent."""
    books, limits = ledger_of(case)() if case.bug else Accounts(), team_limits(n, steps)
    pools = {"root": sum(limits), "half": 10**12, **{f"team-{t}": limit for t, limit in enumerate(limits)}}
    for name, limit in [*pools.items(), *((f"a{i}", RESERVE * steps) for i in range(n))]:
        books.declare(Pool(name, name, {UNIT: limit}))
    return books, [(f"a{i}", f"team-{i // TEAM}", "half", "root") for i in range(n)]


def timed(books: Accounts, operations: Sequence[Operation]) -> float:
    """CPU seconds of the operations alone."""
    reserve, settle = books.reserve, books.settle
    began = time.process_time()
    for ticket, pools, amounts in operations:
        if pools:
            reserve(ticket, pools, amounts)
        else:
            settle(ticket, amounts)
    return time.process_time() - began


def run_ledger(books: Accounts, chains: Sequence[tuple[str, ...]], steps: int) -> tuple[list[Operation], int]:
    """(operations, what was spent): all agents in turn, step by step; who is refused is out."""
    out: set[int] = set()
    flying: dict[str, Mapping[str, int]] = {}
    operations: list[Operation] = []
    amounts, spent = {UNIT: RESERVE}, 0

    def settle() -> None:
        ticket = next(iter(flying))
        operations.append((ticket, (), flying[ticket]))
        books.settle(ticket, flying.pop(ticket))

    def reserve(ticket: str, pools: tuple[str, ...]) -> Denied | Busy | None:
        operations.append((ticket, pools, amounts))
        return books.reserve(ticket, pools, amounts)

    for k in range(steps):
        for i, pools in enumerate(chains):
            if i in out:
                continue
            ticket = f"{i}.{k}"
            answer = reserve(ticket, pools)
            while isinstance(answer, Busy):
                settle()
                answer = reserve(ticket, pools)
            if answer is not None:
                out.add(i)
                continue
            flying[ticket] = {UNIT: oracle().cost(i, k)}
            spent += flying[ticket][UNIT]
            if len(flying) >= LEDGER_WINDOW:
                settle()
    while flying:
        settle()
    return operations, spent


LINES: dict[str, Callable[[Case], Awaitable[Found]]] = {
    "ledger": ledger,
    "tree": tree,
    "teams": tree,
    "kill": kill,
    "provider": provider,
}


async def program(case: Case) -> Found:
    return await LINES[case.line](case)
