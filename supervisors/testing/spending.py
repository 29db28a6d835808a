"""Invariants 25 to 27: books of our own, kept from what the ledger was told and from what lies in the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Began, Evidence, LedgerOp, ModelBegan, Pot, Standing, Written
from understudy.actors.testing.play_invariants import play_invariant

UNITS: Final = ("steps", "model_calls", "tool_calls", "tokens", "usd")

Amounts = Mapping[str, int]


class _Pool(Struct):
    limits: Amounts
    spent: dict[str, int] = field(default_factory=dict[str, int])
    reserved: dict[str, int] = field(default_factory=dict[str, int])
    over: dict[str, int] = field(default_factory=dict[str, int])
    closed: bool = False


class _Books:
    """Double entry of one process. An operation that was refused changes nothing."""

    def __init__(self) -> None:
        self.pools: dict[str, _Pool] = {}
        self.tickets: dict[str, LedgerOp] = {}
        self.wrong: list[str] = []

    def take(self, op: LedgerOp) -> None:
        match op.kind:
            case "declare":
                self.pools[op.pools[0]] = _Pool(op.limits)
            case "reserve":
                if not op.answer:
                    self._reserve(op)
            case "settle":
                self._settle(op)
            case "book":
                for key in op.pools:
                    self._spend(key, op.amounts, {})
            case "close":
                pool = self.pools[op.pools[0]]
                _add(pool.over, op.amounts)
                pool.closed = True
            case _:
                self.pools.pop(op.pools[0], None)

    def _reserve(self, op: LedgerOp) -> None:
        for key in dict.fromkeys(op.pools):
            pool = self.pools[key]
            if pool.closed:
                self.wrong.append(f"{op.ticket} was granted by {key}, which is closed")
            _add(pool.reserved, op.amounts)
        self.tickets[op.ticket] = op

    def _settle(self, op: LedgerOp) -> None:
        taken = self.tickets.pop(op.ticket, None)
        if taken is None:
            self.wrong.append(f"{op.ticket} was settled and holds no reservation")
            return
        for key in dict.fromkeys(taken.pools):
            _add(self.pools[key].reserved, {unit: -amount for unit, amount in taken.amounts.items()})
            self._spend(key, op.amounts, taken.amounts, capped=True)

    def _spend(self, key: str, amounts: Amounts, caps: Amounts, *, capped: bool = False) -> None:
        pool = self.pools[key]
        for unit, amount in amounts.items():
            limit = pool.limits.get(unit)
            room = amount if limit is None else limit - pool.spent.get(unit, 0) - pool.reserved.get(unit, 0)
            if capped and limit is not None:
                room = caps.get(unit, 0)
            _add(pool.spent, {unit: min(amount, room)})
            if amount > room:
                _add(pool.over, {unit: amount - room})
                pool.closed = True


def _add(to: dict[str, int], amounts: Amounts) -> None:
    for unit, amount in amounts.items():
        to[unit] = to.get(unit, 0) + amount


def _same(one: Amounts, other: Amounts) -> bool:
    return all(one.get(unit, 0) == other.get(unit, 0) for unit in UNITS)


def _above(limits: Amounts, *amounts: Amounts) -> str:
    """The first unit in which amounts are together above a limit."""
    return next((unit for unit, limit in limits.items() if sum(each.get(unit, 0) for each in amounts) > limit), "")


@play_invariant(25)
def within_limits(evidence: Evidence) -> Iterator[str]:
    """By the ledger after every operation, and by what lies in the journal after every event."""
    books = _Books()
    for each in evidence.happened:
        if isinstance(each, Began):
            books = _Books()
        elif isinstance(each, LedgerOp):
            books.take(each)
            yield from _standings(books, each)
    if not evidence.lossy:
        yield from _journal_within_limits(evidence)


def _standings(books: _Books, op: LedgerOp) -> Iterator[str]:
    yield from books.wrong
    books.wrong = []
    what = f"{op.kind} {op.ticket}".rstrip()
    for standing in op.after:
        if unit := _above(standing.limits, standing.spent, standing.reserved):
            spent, held = standing.spent.get(unit, 0), standing.reserved.get(unit, 0)
            limit = standing.limits[unit]
            yield f"{standing.key} after {what}: {unit} {spent} spent + {held} reserved > {limit}"
        if any(standing.over.values()) and not standing.closed:
            yield f"{standing.key} after {what}: {dict(standing.over)} over, and it is open"
        own = books.pools[standing.key]
        if not (_same(own.spent, standing.spent) and _same(own.over, standing.over)) or own.closed != standing.closed:
            yield f"{standing.key} after {what}: {_shown(standing)}, by our books {_shown(own)}"


def _shown(pool: Standing | _Pool) -> str:
    spent = {unit: amount for unit, amount in pool.spent.items() if amount}
    return f"spent {spent}, over {dict(pool.over)}, {'closed' if pool.closed else 'open'}"


class _Tally:
    """What the journal says of every pool: the amounts of each open intent, and what was spent."""

    def __init__(self, evidence: Evidence) -> None:
        self._declared = evidence.declared
        self._agents: dict[tuple[str, int], str] = {}
        self._parents: dict[tuple[str, int], int] = {}
        self.pots: dict[str, Pot] = {}
        self.spent: dict[str, dict[str, int]] = {}
        self.tickets: dict[str, tuple[tuple[str, ...], Amounts]] = {}

    def take(self, record: Record) -> tuple[str, ...]:
        """Count one event; the pools that it changed."""
        event, key = record.event, (record.run, record.sub)
        match event:
            case ev.RunStarted():
                self._agents[key] = event.agent
            case ev.SubStarted():
                self._agents[key], self._parents[key] = event.agent, event.parent
            case ev.HandedOff():
                self._agents[key] = event.to
            case ev.ModelAsked():
                pools = self.chain(*key)
                self.tickets[event.ticket] = (pools, event.reserved)
                return pools
            case ev.ModelAnswered() | ev.ModelFailed():
                pools, _ = self.tickets.pop(event.ticket, ((), {}))
                self._spend(pools, event.spent)
                return pools
            case ev.ToolAsked():
                pools = self.chain(*key)
                self._spend(pools, {"tool_calls": 1})
                return pools
            case _:
                pass
        return ()

    def _spend(self, pools: Sequence[str], amounts: Amounts) -> None:
        for pool in pools:
            _add(self.spent.setdefault(pool, {}), amounts)

    def held(self, pool: str) -> dict[str, int]:
        """What open intents hold of a pool."""
        total: dict[str, int] = {}
        for pools, amounts in self.tickets.values():
            if pool in pools:
                _add(total, amounts)
        return total

    def chain(self, run: str, sub: int) -> tuple[str, ...]:
        """The pools of a (sub-)run: of its agent up to the root, and of those that asked for it."""
        keys: dict[str, None] = {}
        while sub >= 0 and (run, sub) in self._agents:
            declared = self._declared.get(self._agents[run, sub])
            for pot in declared.pots if declared is not None else ():
                keys[pot.key(run)] = None
                self.pots[pot.key(run)] = pot
            sub = self._parents.get((run, sub), -1)
        return tuple(keys)


def _journal_within_limits(evidence: Evidence) -> Iterator[str]:
    tally = _Tally(evidence)
    for each in evidence.happened:
        for record in each.records if isinstance(each, Written) else ():
            for pool in tally.take(record):
                spent, held, limits = tally.spent.get(pool, {}), tally.held(pool), tally.pots[pool].limits
                if unit := _above(limits, spent, held):
                    total = f"{spent.get(unit, 0)} spent + {held.get(unit, 0)} reserved > {limits[unit]}"
                    yield f"{record.place}, by the journal: {pool} has {unit} {total}"


@play_invariant(27)
def all_or_none(evidence: Evidence) -> Iterator[str]:
    """Reservations in the ledger, against our books; the pools of every intent, against the declared tree."""
    books = _Books()
    for each in evidence.happened:
        if isinstance(each, Began):
            books = _Books()
        elif isinstance(each, LedgerOp):
            books.take(each)
            for standing in each.after:
                own = books.pools[standing.key]
                if not _same(own.reserved, standing.reserved):
                    word = each.answer or "granted"
                    held = f"{dict(standing.reserved)} reserved, by our books {own.reserved}"
                    yield f"{each.kind} {each.ticket}, {word}: {standing.key} has {held}"
    yield from _whole_chains(evidence)


def _whole_chains(evidence: Evidence) -> Iterator[str]:
    granted: dict[str, LedgerOp] = {}
    tally = _Tally(evidence)
    for each in evidence.happened:
        if isinstance(each, LedgerOp) and each.kind == "reserve" and not each.answer:
            granted[each.ticket] = each
        for record in each.records if isinstance(each, Written) else ():
            event = record.event
            tally.take(record)
            if isinstance(event, ev.ModelAsked | ev.ToolAsked):
                chain = tally.chain(record.run, record.sub)
                ticket = event.ticket if isinstance(event, ev.ModelAsked) else event.ticket.rpartition(".")[0]
                op = granted.get(ticket)
                if op is None:
                    yield f"{record.place}: intent {event.ticket} without a reservation"
                elif set(op.pools) != set(chain):
                    yield f"{record.place}: {event.ticket} was reserved in {op.pools}, and its pools are {chain}"
                elif isinstance(event, ev.ModelAsked) and not _same(op.amounts, event.reserved):
                    yield f"{record.place}: {event.ticket} holds {dict(op.amounts)}, journalled is {event.reserved}"


@play_invariant(26)
def no_refunds(evidence: Evidence) -> Iterator[str]:
    """In a process the spent of a pool never falls; the next begins with all of it; calls cost what they cost."""
    tally = _Tally(evidence)
    last: dict[str, dict[str, int]] = {}
    named: set[str] = set()
    for each in evidence.happened:
        if isinstance(each, Began):
            last, named = {}, set()
        elif isinstance(each, Written):
            for record in each.records:
                tally.take(record)
        elif isinstance(each, LedgerOp):
            if each.kind == "reserve" and not evidence.lossy:
                fresh = [standing for standing in each.after if standing.key not in named]
                named.update(standing.key for standing in fresh)
                yield from _carried_over(fresh, tally, last)
            for standing in each.after:
                before = last.get(standing.key, {})
                for unit, amount in before.items():
                    if standing.spent.get(unit, 0) < amount:
                        now = standing.spent.get(unit, 0)
                        yield f"{standing.key}: {unit} spent fell from {amount} to {now} by {each.kind} {each.ticket}"
                last[standing.key] = dict(standing.spent)
    yield from _outcomes(evidence)


def _carried_over(fresh: Sequence[Standing], tally: _Tally, last: Mapping[str, Amounts]) -> Iterator[str]:
    """A pool that a process reserves in for the first time holds all that the journal knows of."""
    for standing in fresh:
        spent, held, now = tally.spent.get(standing.key, {}), tally.held(standing.key), last.get(standing.key, {})
        for unit, limit in standing.limits.items():
            total = spent.get(unit, 0) + held.get(unit, 0)
            if now.get(unit, 0) < min(total, limit):
                begins = f"the process begins with {now.get(unit, 0)} {unit} spent"
                yield f"{standing.key}: {begins}, and the journal knows of {total}"


def _outcomes(evidence: Evidence) -> Iterator[str]:
    """Every model call that was sent costs what the provider counted, or its cap where nobody knows."""
    calls = _calls(evidence)
    for run, records in evidence.runs():
        asked: dict[str, ev.ModelAsked] = {}
        done: set[str] = set()
        ended: set[int] = set()
        for record in records:
            event = record.event
            if isinstance(event, ev.ModelAsked):
                asked[event.ticket] = event
            elif isinstance(event, ev.ModelAnswered | ev.ModelFailed):
                if event.ticket in done:
                    yield f"{record.place}: {event.ticket} is settled a second time"
                if event.ticket not in asked:
                    yield f"{record.place}: {event.ticket} was never reserved"
                else:
                    yield from _cost(record, event, asked[event.ticket], calls.get((run, event.ticket), ()))
                done.add(event.ticket)
            elif isinstance(event, ev.Finished):
                ended.add(record.sub)
        if 0 in ended:
            yield from (
                f"run {run} has ended, and {ticket} was never settled" for ticket in asked if ticket not in done
            )


def _calls(evidence: Evidence) -> dict[tuple[str, str], list[bool]]:
    """By run and ticket: for each call of the model whether the provider counted it."""
    said = {(agent, each.call): each.billed is not None for agent, many in evidence.said.items() for each in many}
    tickets: dict[tuple[str, int], str] = {}
    found: dict[tuple[str, str], list[bool]] = {}
    for each in evidence.happened:
        if isinstance(each, Written):
            for record in each.records:
                if isinstance(record.event, ev.ModelAsked):
                    tickets[record.run, record.sub] = record.event.ticket
        elif isinstance(each, ModelBegan):
            ticket = tickets.get((each.run, each.sub), "")
            found.setdefault((each.run, ticket), []).append(said.get((each.agent, each.call), False))
    return found


def _cost(
    record: Record, event: ev.ModelAnswered | ev.ModelFailed, asked: ev.ModelAsked, calls: Sequence[bool]
) -> Iterator[str]:
    spent, cap = event.spent, asked.reserved
    if any(amount < 0 for amount in spent.values()):
        yield f"{record.place}: spent {spent}"
    if len(calls) > 1:
        yield f"{record.place}: {event.ticket} paid for {len(calls)} calls of the model"
    if isinstance(event, ev.ModelFailed):
        if event.estimated and not _same(spent, cap):
            yield f"{record.place}: nobody knows what it cost, and {spent} of {cap} are booked"
        if any(calls) and not event.estimated:
            yield f"{record.place}: the provider counted it, and {spent} are booked as known"
        return
    usage = event.reply.usage
    if usage is None:
        if not event.estimated or not _same(spent, cap):
            yield f"{record.place}: the provider did not count, and {spent} of {cap} are booked"
        return
    tokens = usage.input_tokens + usage.output_tokens
    if spent.get("tokens", 0) not in (tokens, min(tokens, cap.get("tokens", 0))):
        yield f"{record.place}: {tokens} tokens were used, {spent.get('tokens', 0)} are booked"
    if spent.get("model_calls", 0) != 1 or spent.get("steps", 0) != cap.get("steps", 0):
        yield f"{record.place}: booked as {spent}"
