"""Invariants 1 to 7 and 10, of messages: their order, how often they begin, and that none vanishes.

What a planned fault touched counts as planned: a delayed message may be overtaken, a dropped one never begins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from understudy.actors.testing.invariants.base import CONTROL, Invariant, invariant, touched, when, who
from understudy.actors.testing.trace import Event, Trace

_GONE: Final = frozenset({"letter", "lost", "refused", "withdrawn"})


@invariant(1)
def fifo(trace: Trace) -> Iterator[str]:
    """Order is by the numbers of messages. One that was put aside comes back when its actor wants.

    What is forced into a mailbox may overtake what waits for room in it, and nothing else.
    """
    faulted = touched(trace)
    aside: set[int] = set()
    forced: set[int] = set()
    waited: set[int] = set()
    senders: dict[int, str] = {}
    last: dict[tuple[str, str, int, bool], int] = {}
    for event in trace.events:
        kind, number = event.kind, event.message
        if kind == "sent":
            senders[number] = event.peer
            if event.detail == "forced":
                forced.add(number)
        elif kind == "overflow" and event.what == "waits":
            waited.add(number)
        elif kind == "stashed":
            aside.add(number)
        elif kind == "begin" and number in senders and number not in faulted and number not in aside:
            key = senders[number], event.path, event.number
            rivals = [way for way in (True, False) if number not in (forced if way else waited)]
            before = max(last.get((*key, way), 0) for way in rivals) if rivals else 0
            if number < before:
                sender = senders[number] or "outside"
                yield f"{who(event)} begins m{number} of {sender} after m{before} {when(event)}"
            for way in rivals:
                last[(*key, way)] = number


@invariant(2)
def one_at_a_time(trace: Trace) -> Iterator[str]:
    """Handlers that ignore their end are fenced, and count no more."""
    running: dict[str, dict[int, int]] = {}
    limits: dict[str, int] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind == "begin" and event.message:
            handlers = running.setdefault(path, {})
            if len(handlers) >= limits.get(path, 1):
                others = ", ".join(f"m{number}" for number in handlers)
                yield f"{who(event)} begins m{event.message} {when(event)} while it runs {others}"
            handlers[event.message] = event.number
        elif kind == "end" and path in running:
            running[path].pop(event.message, None)
        elif kind in ("starting", "widened"):
            limits[path] = event.size
        elif kind == "spawned":
            running.pop(path, None)
        elif kind == "fenced" and path in running:
            running[path] = {number: life for number, life in running[path].items() if life != event.number}


class _Live:
    """One address, as invariant 3 sees it."""

    __slots__ = ("number", "running", "state")

    def __init__(self) -> None:
        self.number = 0
        self.state = "new"
        self.running: set[int] = set()


_STATES: Final = {"started": "live", "resumed": "live", "suspended": "suspended", "ending": "ending"}
_STATES_TOO: Final = {"halting": "ending", "stopping": "stopping", "released": "stopped"}


@invariant(3)
def one_live_incarnation(trace: Trace) -> Iterator[str]:
    """A suspended incarnation begins nothing but what the runtime sends."""
    states = _STATES | _STATES_TOO
    lives: dict[str, _Live] = {}
    notices: dict[int, int] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind == "notice":
            notices[event.message] = event.number
        elif kind == "begin":
            if event.detail == CONTROL and notices.get(event.message, event.number) != event.number:
                yield f"{who(event)} is told {event.what} {when(event)}, which was for #{notices[event.message]}"
            live = lives.get(path)
            if live is None or not (live.state == "live" or (live.state == "suspended" and event.detail == CONTROL)):
                yield f"{who(event)} begins m{event.message} {when(event)} while it is {live and live.state}"
            elif event.number != live.number:
                yield f"{who(event)} begins m{event.message} {when(event)}, and #{live.number} is live"
            if live is not None and event.message:
                live.running.add(event.message)
        elif kind == "end":
            if path in lives:
                lives[path].running.discard(event.message)
        elif kind == "spawned":
            lives[path] = _Live()
        elif kind in ("starting", "ended", "fenced") or kind in states:
            yield from _move(lives.setdefault(path, _Live()), event, states)


def _move(live: _Live, event: Event, states: dict[str, str]) -> Iterator[str]:
    kind = event.kind
    if kind == "starting":
        if live.state not in ("new", "down"):
            yield f"{who(event)} starts {when(event)} while #{live.number} is {live.state}"
        live.number, live.state = event.number, "starting"
        live.running.clear()
    elif kind == "ended":
        if live.running:
            which = ", ".join(f"m{number}" for number in sorted(live.running))
            yield f"{who(event)} is over {when(event)} while it runs {which}"
        live.state = "stopping" if live.state == "stopping" else "down"
    elif kind == "fenced":
        live.running.clear()
    elif kind != "resumed" or live.state == "suspended":
        live.state = states[kind]


@invariant(4)
def conservation(trace: Trace) -> Iterator[str]:
    """Also: what a handler failed with is a dead letter, or comes again."""
    planned = touched(trace)
    open_: dict[int, Event] = {}
    owed: dict[int, Event] = {}
    fenced: set[tuple[str, int]] = set()
    excused: set[int] = set()
    over: dict[int, str] = {}
    running: dict[str, dict[int, Event]] = {}
    notices: set[int] = set()
    cancelled: set[int] = set()
    for event in trace.events:
        kind, number = event.kind, event.message
        if kind == "sent":
            open_[number] = event
        elif kind == "begin":
            if number and event.detail != CONTROL:
                running.setdefault(event.path, {})[number] = event
            open_.pop(number, None)
            owed.pop(number, None)
            if number in over:
                yield f"{who(event)} begins m{number} {when(event)}, which was given up as {over[number]!r}"
        elif kind in _GONE:
            if kind == "letter" and number and event.detail not in ("failed", "late"):
                if number in over:
                    yield f"{event.path}: m{number} is a dead letter twice, {over[number]!r} and {event.detail!r}"
                over[number] = event.detail
            open_.pop(number, None)
            owed.pop(number, None)
        elif kind == "answered" and event.detail == "cancelled" and number in open_ and not open_[number].size:
            del open_[number]  # its asker gave up while it waited for room
        elif kind == "fenced":
            fenced.add((event.path, event.number))
            for cut, begin in running.pop(event.path, {}).items():
                owed[cut] = begin
        elif kind in ("redelivered", "stashed", "cancelled"):
            owed.pop(number, None)
            excused.add(number)
            if kind != "cancelled" and number not in notices:
                open_[number] = event  # it is to begin once more
            elif kind == "cancelled":
                cancelled.add(number)
        elif kind == "notice":
            notices.add(number)
        elif kind == "end" and number:
            running.get(event.path, {}).pop(number, None)
            if event.detail == "Leave" or number in cancelled:
                open_.pop(number, None)  # what it had put aside is not wanted any more
            if event.detail in ("ok", "Leave"):
                continue
            if number in excused or (event.path, event.number) in fenced:
                continue
            owed[number] = event
    for number, event in open_.items():
        if number not in planned and number not in trace.queued:
            yield f"{event.path}: m{number} {event.what}, sent {when(event)} by {event.peer or 'outside'}, vanished"
    for number, event in owed.items():
        if number not in planned and number not in notices and number not in trace.queued:
            yield f"{who(event)} failed with m{number} {when(event)} ({event.detail}), which is no dead letter"


@invariant(5)
def at_most_once(trace: Trace) -> Iterator[str]:
    """Also: no message comes again more often than its actor allows."""
    begun: dict[int, int] = {}
    again: Counter[int] = Counter()
    allowed: Counter[int] = Counter()
    for event in trace.events:
        kind, number = event.kind, event.message
        if not number:
            continue
        if kind == "begin":
            times = begun[number] = begun.get(number, 0) + 1
            if times > 1 + allowed[number]:
                yield f"{who(event)} begins m{number} {when(event)} for the {times}. time"
        elif kind == "stashed":
            allowed[number] += 1
        elif kind == "redelivered":
            allowed[number] += 1
            again[number] += 1
            if again[number] > event.size:
                yield f"{event.path}: m{number} is redelivered {again[number]} times, {event.size} are allowed"


@invariant(6)
def liveness(trace: Trace) -> Iterator[str]:
    """Looked at when the time to settle is over (`World.run(settle=...)`): planned faults have come true by then."""
    for number, where in (trace.settled or {}).items():
        if where.state == "running" and not where.running:
            yield f"{where.path}: m{number} waits, and nothing runs there"


@invariant(7)
def idempotency(trace: Trace) -> Iterator[str]:
    """Of what the tree noted as `effect`, with a key."""
    yield from _twice(trace)


def _twice(trace: Trace) -> Iterator[str]:
    if "noted" not in trace.kinds:
        return
    seen: dict[str, Event] = {}
    for event in trace.events:
        if event.kind == "noted" and event.what == "effect":
            if event.detail in seen:
                yield f"effect {event.detail!r} took hold {when(seen[event.detail])} and again {when(event)}"
            seen.setdefault(event.detail, event)


def effects(reference: Trace) -> Invariant:
    """Invariant 7 against a run without faults: exactly its effects take hold, and each once."""

    def check(trace: Trace) -> Iterator[str]:
        yield from _twice(trace)
        want, have = _effects(reference), _effects(trace)
        for key in sorted(want - have):
            yield f"effect {key!r} never took hold"
        for key in sorted(have - want):
            yield f"effect {key!r} took hold, and does not without faults"

    return Invariant(7, check)


def _effects(trace: Trace) -> set[str]:
    return {event.detail for event in trace.events if event.kind == "noted" and event.what == "effect"}


@invariant(10)
def stopped_stays_stopped(trace: Trace) -> Iterator[str]:
    """From the moment the stop begins nothing more is put into the mailbox."""
    stopped: dict[str, Event] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind in ("stopping", "released"):
            stopped[path] = event
        elif kind == "spawned":
            stopped.pop(path, None)
        elif kind == "raised":
            yield f"{path}: sending m {event.what} {when(event)} raised {event.detail}; the address is stopped"
        elif path in stopped and kind in ("sent", "starting") and event.detail != "forced":
            done = "takes" if kind == "sent" else "starts"
            yield f"{who(event)} {done} m{event.message} {when(event)}, stopped {when(stopped[path])}"
