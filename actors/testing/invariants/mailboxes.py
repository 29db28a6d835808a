"""Invariants 8 and 9: full mailboxes, and what becomes of asks."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.actors.testing.invariants.base import invariant, touched, when, who
from understudy.actors.testing.trace import Event, Trace

ROUNDING = 1_000
"""Nanoseconds that a deadline may be missed by: seconds are floats."""


class _Box:
    """One mailbox, as invariant 8 sees it. `mixed`: something was put back, which no limit holds off."""

    __slots__ = ("limit", "mixed", "queue")

    def __init__(self) -> None:
        self.limit: int | None = None
        self.queue: dict[int, None] = {}
        self.mixed = False


@invariant(8)
def bounded_mailbox(trace: Trace) -> Iterator[str]:
    """What was accepted before (a redelivery, a stash) may come back above the limit."""
    if not ("overflow" in trace.kinds or "refused" in trace.kinds):
        return  # whoever fills a mailbox is seen to, before the mailbox is asked
    boxes: dict[str, _Box] = {}
    met: set[int] = touched(trace)
    events = trace.events
    for index, event in enumerate(events):
        kind, path, number = event.kind, event.path, event.message
        if kind == "spawned":
            boxes[path] = _Box()
            continue
        box = boxes.get(path)
        if box is None:
            continue
        if kind == "known":
            box.limit = event.size
            box.mixed = box.mixed or len(box.queue) > event.size  # what came before the class was known stays
        elif kind == "sent":
            box.mixed = box.mixed or event.detail == "forced"
            if event.size:
                box.queue[number] = None
                if box.limit is not None and event.size > box.limit and not box.mixed:
                    yield f"{path} holds {event.size} messages {when(event)}, its limit is {box.limit}"
        elif kind == "overflow":
            met.add(number)
            if box.limit is not None and event.size > box.limit and not box.mixed:
                yield f"{path} held {event.size} messages {when(event)}, its limit is {box.limit}"
            if event.what != "waits":
                yield from _policy(event, events[index + 1 : index + 4], box)
        elif kind in ("begin", "letter"):
            box.queue.pop(number, None)
            if kind == "letter" and event.detail == "full" and number not in met and box.limit is not None:
                yield f"{path} refuses m{number} {when(event)} with room in its mailbox"
        elif kind in ("stashed", "redelivered") or (kind == "fault" and number):
            box.mixed = True


def _policy(event: Event, after: list[Event], box: _Box) -> Iterator[str]:
    letters = [each for each in after if each.kind == "letter" and each.path == event.path]
    letter = letters[0] if letters else None
    number, policy = event.message, event.detail
    got = "nothing" if letter is None else f"m{letter.message} ({letter.detail})"
    text = f"{event.path}, {policy}: m{number} met a full mailbox {when(event)}, was {event.what}; given up: {got}"
    if policy == "refuse":
        right = event.what == "refused" and letter is not None and (letter.message, letter.detail) == (number, "full")
    elif policy == "drop_oldest" and box.mixed and (letter is None or letter.detail != "dropped"):
        right = event.what == "taken"  # for a notice that had been put aside: those have no number
    elif letter is None or letter.detail != "dropped" or event.what != "taken":
        right = False
    elif policy == "drop_newest":
        right = letter.message == number
    else:
        oldest = next(iter(box.queue), letter.message)
        right = letter.message != number and (box.mixed or letter.message == oldest)
    if not right:
        yield text


class _Asks:
    """The requests of a trace."""

    def __init__(self) -> None:
        self.open: dict[int, Event] = {}
        self.answered: dict[int, Event] = {}
        self.late: dict[int, Event] = {}
        self.fenced: set[tuple[str, int]] = set()
        self.aside: set[int] = set()
        self.due: list[tuple[int, Event]] = []
        """Requests whose handler has ended: they are answered in the same moment."""


@invariant(9)
def every_ask_ends(trace: Trace) -> Iterator[str]:
    """Answered is also who was refused. Deadlines count unless something blocked the loop."""
    planned, asks = touched(trace), _Asks()
    for event in trace.events:
        kind, number = event.kind, event.message
        if asks.due and event.at > asks.due[0][1].at:
            yield from _overdue(asks, planned)
        if kind == "sent" and event.detail.startswith("ask"):
            asks.open[number] = event
        elif kind == "answered":
            yield from _answer(asks, event, patient=trace.held_up)
        elif kind == "letter":
            if event.detail == "late":
                asks.late.pop(number, None)
            elif event.detail in ("full", "stopped"):
                asks.open.pop(number, None)  # who has not been answered yet was refused
        elif kind == "refused" or kind == "withdrawn":
            asks.open.pop(number, None)
        elif kind == "fenced":
            asks.fenced.add((event.path, event.number))
        elif kind in ("stashed", "redelivered"):
            asks.aside.add(number)
        elif kind == "end" and number in asks.open:
            asks.due.append((number, event))
        elif kind == "end" and event.detail == "ok" and number in asks.answered:
            before = asks.answered[number]
            if before.detail != "ok" and number not in asks.aside and (event.path, event.number) not in asks.fenced:
                asks.late[number] = event
    for number, event in asks.open.items():
        due = trace.unanswered.get(number, ("", 0))[1] - ROUNDING <= trace.ended_at and not trace.held_up
        if number not in planned and (trace.closed or due):
            yield f"{event.path}: the ask m{number} of {event.peer or 'outside'} {when(event)} was never answered"
    for number, event in asks.late.items():
        if number not in planned:
            yield f"{who(event)} replied to m{number} {when(event)}, too late, and it is no dead letter"


def _overdue(asks: _Asks, planned: set[int]) -> Iterator[str]:
    for number, event in asks.due:
        if number in asks.open and number not in planned and number not in asks.aside:
            yield f"{who(event)} is done with m{number} {when(event)} ({event.detail}), and its asker was told nothing"
    asks.due.clear()


def _answer(asks: _Asks, event: Event, *, patient: bool) -> Iterator[str]:
    number = event.message
    asks.open.pop(number, None)
    if number in asks.answered:
        yield f"{event.path}: the ask m{number} was answered {when(asks.answered[number])} and again {when(event)}"
    asks.answered[number] = event
    if event.size > ROUNDING and not patient:
        yield f"{event.path}: the ask m{number} was answered {when(event)}, {event.size / 1e9:g} s after its deadline"
