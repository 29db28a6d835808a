"""Invariants 25 to 27: books of our own, kept from what the ledger was told and from what lies in the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Final

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.testing.evidence import Began, Evidence, LedgerOp, ModelBegan, Pot, Slept, Standing, Written
from understudy.actors.testing.play_invariants import play_invariant
from understudy.supervisors.testing.books import Amounts, Books, OwnPool, same, within
from understudy.supervisors.testing.tallies import Tally, tallied

SLICE: Final = 1 / 60
"""Share of a window by which what was spent may count longer."""
EACH_STEP: Final = ("steps", "model_calls")


def _above(limits: Amounts, *amounts: Amounts) -> str:
    """The first unit in which amounts are together above a limit."""
    return next((unit for unit, limit in limits.items() if sum(each.get(unit, 0) for each in amounts) > limit), "")


@play_invariant(25)
def within_limits(evidence: Evidence) -> Iterator[str]:
    """By the ledger after every operation, and by what lies in the journal after every event.

    By the journal also: agents are told what is left, and delegate as deep and as often as they may.
    """
    books = Books()
    for each in evidence.happened:
        if isinstance(each, Began):
            books = Books()
        elif isinstance(each, LedgerOp):
            books.take(each)
            yield from _standings(books, each)
    if not evidence.lossy:
        yield from _journal_within_limits(evidence)
        yield from _told_what_is_left(evidence)
        yield from _shape(evidence)


def _standings(books: Books, op: LedgerOp) -> Iterator[str]:
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
        if own.window is not None:
            yield from _window(books, own, standing, what)
        elif (
            not (same(own.spent, standing.spent, own.limits) and same(own.over, standing.over, own.limits))
            or own.closed != standing.closed
        ):
            yield f"{standing.key} after {what}: {_shown(standing)}, by our books {_shown(own)}"


def _window(books: Books, own: OwnPool, standing: Standing, what: str) -> Iterator[str]:
    """What was spent counts for the whole window, and hardly longer."""
    assert own.window is not None  # the caller asked
    # Two slices: one that was begun when it was spent, and one that is not over.
    most = within(own.dated, books.now - own.window * (1 + 2 * SLICE) - 1e-6)
    least = within(own.dated, books.now - own.window + 1e-6)
    for unit in own.limits:
        spent = standing.spent.get(unit, 0)
        if spent > most.get(unit, 0) or (spent < least.get(unit, 0) and not standing.over):
            bounds = f"from {least.get(unit, 0)} to {most.get(unit, 0)}"
            yield f"{standing.key} after {what}: {spent} {unit} spent in the window, by our books {bounds}"


def _shown(pool: Standing | OwnPool) -> str:
    spent = {unit: amount for unit, amount in pool.spent.items() if amount}
    return f"spent {spent}, over {dict(pool.over)}, {'closed' if pool.closed else 'open'}"


def _journal_within_limits(evidence: Evidence) -> Iterator[str]:
    for tally, record, pools in tallied(evidence):
        for pool in pools:
            spent, held, limits = tally.spent(pool), tally.held(pool), tally.pots[pool].limits
            if unit := _above(limits, spent, held):
                total = f"{spent.get(unit, 0)} spent + {held.get(unit, 0)} reserved > {limits[unit]}"
                yield f"{record.place}, by the journal: {pool} has {unit} {total}"


def _told_what_is_left(evidence: Evidence) -> Iterator[str]:
    """No model is asked before its agent was told which limits its own spending has come near."""
    told: set[tuple[str, int, str, str]] = set()
    closed: set[str] = set()
    for tally, record, pools in tallied(evidence):
        event, key = record.event, (record.run, record.sub)
        if isinstance(event, ev.BudgetLow):
            if (*key, event.pool, event.unit) in told:
                yield f"{record.place}: of {event.unit} in {event.pool} the agent was told before"
            told.add((*key, event.pool, event.unit))
        elif isinstance(event, ev.HandedOff) or (isinstance(event, ev.AttemptStarted) and event.altered):
            told = {each for each in told if each[:2] != key}
        elif isinstance(event, ev.BudgetBreached):
            closed.add(event.pool)
        elif isinstance(event, ev.ModelAsked) and not event.last:
            for pool in pools:
                for unit in _near(tally.pots[pool], tally.spent_by(pool, *key)):
                    if pool not in closed and tally.pots[pool].window is None and (*key, pool, unit) not in told:
                        yield f"{record.place}: the agent was never told what is left of {unit} in {pool}"


def _near(pot: Pot, spent: Amounts) -> Iterator[str]:
    for unit, limit in pot.limits.items():
        most = limit - (unit in EACH_STEP)
        if pot.warn is not None and most > 0 and spent.get(unit, 0) >= min(ceil(limit * pot.warn), most):
            yield unit


def _shape(evidence: Evidence) -> Iterator[str]:
    """How deep delegations are nested, and how often one (sub-)run delegates."""
    children: dict[tuple[str, int], int] = {}
    for tally, record, _ in tallied(evidence):
        event = record.event
        if not isinstance(event, ev.SubStarted):
            continue
        many = children[record.run, event.parent] = children.get((record.run, event.parent), 0) + 1
        for pool, distance in tally.distances(record.run, event.parent).items():
            pot = tally.pots[pool]
            if pot.depth is not None and distance + 1 > pot.depth:
                yield f"{record.place}: a delegation {distance + 1} deep, and {pool} allows {pot.depth}"
            if pot.fan_out is not None and many > pot.fan_out:
                yield f"{record.place}: delegation {many} of {event.parent}, and {pool} allows {pot.fan_out}"


@play_invariant(27)
def all_or_none(evidence: Evidence) -> Iterator[str]:
    """Reservations in the ledger, against our books; the pools of every intent, against the declared tree."""
    books = Books()
    for each in evidence.happened:
        if isinstance(each, Began):
            books = Books()
        elif isinstance(each, LedgerOp):
            books.take(each)
            for standing in each.after:
                own = books.pools[standing.key]
                if not same(own.reserved, standing.reserved, own.limits):
                    word = each.answer or "granted"
                    held = f"{dict(standing.reserved)} reserved, by our books {own.reserved}"
                    yield f"{each.kind} {each.ticket}, {word}: {standing.key} has {held}"
    yield from _whole_chains(evidence)


def _whole_chains(evidence: Evidence) -> Iterator[str]:
    granted: dict[str, LedgerOp] = {}
    tally = Tally(evidence)
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
                elif isinstance(event, ev.ModelAsked) and not same(
                    op.amounts, event.reserved, {**op.amounts, **event.reserved}
                ):
                    yield f"{record.place}: {event.ticket} holds {dict(op.amounts)}, journalled is {event.reserved}"


@play_invariant(26)
def no_refunds(evidence: Evidence) -> Iterator[str]:
    """In a process the spent of a pool never falls; the next begins with all of it; calls cost what they cost."""
    tally = Tally(evidence)
    last: dict[str, dict[str, int]] = {}
    named: set[str] = set()
    held: set[str] = set()
    for each in evidence.happened:
        if isinstance(each, Began):
            last, named, held = {}, set(), set()
            tally.began()
        elif isinstance(each, Written):
            for record in each.records:
                tally.take(record)
        elif isinstance(each, Slept) and not each.killed:
            yield from (f"the process has ended in order, and {ticket} was never returned" for ticket in sorted(held))
        elif isinstance(each, LedgerOp):
            held = _held(held, each)
            if each.kind == "reserve" and not evidence.lossy:
                fresh = [standing for standing in each.after if standing.key not in named]
                named.update(standing.key for standing in fresh)
                yield from _carried_over(fresh, tally, last)
            for standing in each.after:
                yield from _fell(each, standing, last.get(standing.key, {}), tally)
                last[standing.key] = dict(standing.spent)
    yield from _outcomes(evidence)


def _held(held: set[str], op: LedgerOp) -> set[str]:
    """The tickets that hold something after an operation."""
    if op.kind == "reserve" and not op.answer:
        return held | {op.ticket}
    return held - {op.ticket} if op.kind == "settle" else held


def _fell(op: LedgerOp, standing: Standing, before: Amounts, tally: Tally) -> Iterator[str]:
    pot = tally.pots.get(standing.key)
    if op.kind == "correct" or (pot is not None and pot.window is not None):
        return
    for unit, amount in before.items():
        if (now := standing.spent.get(unit, 0)) < amount:
            yield f"{standing.key}: {unit} spent fell from {amount} to {now} by {op.kind} {op.ticket}"


def _carried_over(fresh: Sequence[Standing], tally: Tally, last: Mapping[str, Amounts]) -> Iterator[str]:
    """A pool that a process reserves in for the first time holds all that the journal knows of."""
    for standing in fresh:
        spent, held, now = tally.spent(standing.key), tally.held(standing.key), last.get(standing.key, {})
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
        if event.estimated and not same(spent, cap, cap):
            yield f"{record.place}: nobody knows what it cost, and {spent} of {cap} are booked"
        if any(calls) and not event.estimated:
            yield f"{record.place}: the provider counted it, and {spent} are booked as known"
        return
    usage = event.reply.usage
    if usage is None:
        if not event.estimated or not same(spent, cap, cap):
            yield f"{record.place}: the provider did not count, and {spent} of {cap} are booked"
        return
    tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    for unit, used in {**tokens, "tokens": sum(tokens.values())}.items():
        if spent.get(unit, 0) not in (used, min(used, cap.get(unit, 0))):
            yield f"{record.place}: {used} {unit.replace('_', ' ')} were used, {spent.get(unit, 0)} are booked"
    if spent.get("model_calls", 0) != 1 or spent.get("steps", 0) != cap.get("steps", 0):
        yield f"{record.place}: booked as {spent}"
