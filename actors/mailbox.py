"""A bounded mailbox with two lanes.

The *control* lane carries what must overtake work (down notices, timers, a supervisor's own notices); the *work*
lane everything else, first in, first out. When the work lane is full, by `overflow`:

- ``refuse``: the new message is not taken; `offer` says so;
- ``drop_newest``: the new message is dropped, which the sender does not see;
- ``drop_oldest``: the oldest waiting message is dropped for it.

Senders that wait for room queue up in order; room goes to the longest waiting first, so nobody is overtaken.
Nothing here knows an event loop: what is waiting is told by a callback.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from understudy.actors.errors import SpecError

E = TypeVar("E")

Overflow = Literal["refuse", "drop_newest", "drop_oldest"]
Offer = Literal["taken", "full", "dropped"]

Settle = Callable[[bool], bool]
"""Told True: room is given; it says whether that is still wanted. Told False: there will be none."""


class Bulk(Protocol):
    """Messages that were taken already and wait for room together."""

    def pour(self, room: int) -> bool:
        """Put at most `room` of them into `work`; whether there are more."""
        ...

    def lost(self) -> None:
        """There will be no room."""
        ...

    # Any: entries of the mailbox's type
    def held(self) -> Iterable[Any]:
        """Those that still wait."""
        ...


DEFAULT_LIMIT: Final = 1_000
CONTROL_LIMIT: Final = 4_096
NO_FLOOR: Final = sys.maxsize


class MailboxStatistics(Struct, frozen=True):
    """Counts of one mailbox: messages waiting in each lane, senders waiting for room, messages lost to overflow."""

    work: int
    control: int
    waiting: int
    dropped: int
    limit: int


class Mailbox(Generic[E]):
    """See the module. `limit` is in messages and counts the work lane only. Raises `SpecError` below 1.

    `work` and `waiting` are open to `Ref.tell`, which puts into the one where no policy is asked: while there is room,
    and nobody waits for it; and, with the control lane `ahead`, to the dispatcher, which takes out of `work` while
    there is more in it than `floor`: then nobody is to be given room. `waiting` and `ahead` are made when first needed.
    """

    __slots__ = ("_dropped", "ahead", "floor", "limit", "overflow", "waiting", "work")

    def __init__(self, limit: int = DEFAULT_LIMIT, overflow: Overflow = "refuse") -> None:
        if limit < 1:
            raise SpecError(f"mailbox limit {limit!r}: at least 1")
        self.limit = limit
        self.overflow = overflow
        self.work: deque[E] = deque()
        self.ahead: deque[E] | None = None
        self.waiting: deque[tuple[E, Settle] | Bulk] | None = None
        self.floor = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self.work) + (len(self.ahead) if self.ahead else 0)

    def __bool__(self) -> bool:
        return bool(self.work or self.ahead)

    @property
    def has_control(self) -> bool:
        """Whether the control lane holds something."""
        return bool(self.ahead)

    @property
    def has_work(self) -> bool:
        """Whether the work lane holds something."""
        return bool(self.work)

    @property
    def unused(self) -> bool:
        """Whether nothing would be forgotten with it: empty, nobody waits, and nothing was ever dropped."""
        return not (self.work or self.ahead or self.waiting or self._dropped)

    @property
    def room(self) -> bool:
        """Whether the next message is taken without asking the policy."""
        return len(self.work) < self.limit and not self.waiting

    def offer(self, entry: E) -> tuple[Offer, E | None]:
        """Put `entry` into the work lane if the policy allows; the second value is what was dropped, if any."""
        if self.room:
            self.work.append(entry)
            return "taken", None
        if self.overflow == "refuse":
            return "full", None
        self._dropped += 1
        if self.overflow == "drop_newest":
            return "dropped", entry
        oldest = self.work.popleft()
        self.work.append(entry)
        return "taken", oldest

    def count_lost(self) -> None:
        """Count a message that its sender gave up because there was no room."""
        self._dropped += 1

    def force(self, entry: E) -> None:
        """Put `entry` into the work lane whatever its size: for work that was accepted before (a resume)."""
        self.work.append(entry)

    def put_control(self, entry: E, *, bounded: bool = True) -> bool:
        """Put `entry` into the control lane; False when even that is full and `bounded`."""
        if self.ahead is None:
            self.ahead = deque()
        if bounded and len(self.ahead) >= CONTROL_LIMIT:
            self._dropped += 1
            return False
        self.ahead.append(entry)
        return True

    def wait_for_room(self, entry: E, settle: Settle) -> None:
        """Queue up for room. `settle` is called once, when `entry` was put in or never will be."""
        waiting = self.waiting or deque()
        waiting.append((entry, settle))
        self._look(waiting)

    def wait_in_bulk(self, bulk: Bulk) -> None:
        """Queue up for room for many: they are poured in whenever half of the mailbox is free, without a call each."""
        waiting = self.waiting or deque()
        waiting.append(bulk)
        self._look(waiting)

    def give_up(self, entry: E) -> None:
        """Take a waiting sender out of the queue; one that is not in it is passed over."""
        if self.waiting is not None:
            kept = (each for each in self.waiting if not (isinstance(each, tuple) and each[0] is entry))
            self.waiting = deque(kept) or None
            self._grant()

    def take(self) -> E | None:
        """The oldest entry, control first."""
        return self.ahead.popleft() if self.ahead else self.take_work()

    def take_control(self) -> E | None:
        """The oldest entry of the control lane."""
        return self.ahead.popleft() if self.ahead else None

    def take_work(self) -> E | None:
        """The oldest entry of the work lane; the freed place goes to the longest waiting sender."""
        if not self.work:
            return None
        entry = self.work.popleft()
        if self.waiting:
            self._grant()
        return entry

    def _grant(self) -> None:
        waiting = self.waiting
        while waiting and len(self.work) < self.limit:
            first = waiting[0]
            if not isinstance(first, tuple):
                if len(self.work) * 2 > self.limit or first.pour(self.limit - len(self.work)):
                    break
                waiting.popleft()
                continue
            waiting.popleft()
            entry, settle = first
            if settle(True):
                self.work.append(entry)
        self._look(waiting)

    def _look(self, waiting: deque[tuple[E, Settle] | Bulk] | None) -> None:
        """Say anew what waits, and so where `floor` is."""
        self.waiting = waiting or None
        if not waiting:
            self.floor = 0
        else:
            self.floor = NO_FLOOR if isinstance(waiting[0], tuple) else self.limit // 2 + 1

    def withdraw(self, wanted: Callable[[E], bool]) -> list[E]:
        """Take out of the work lane, and from among the waiting, what `wanted` chooses; in order."""
        out = [entry for entry in self.work if wanted(entry)]
        waiting = [pair for pair in self.waiting or () if isinstance(pair, tuple) and wanted(pair[0])]
        if out:
            self.work = deque(entry for entry in self.work if not wanted(entry))
        if waiting and self.waiting:
            self.waiting = deque(pair for pair in self.waiting if pair not in waiting)
        for _, settle in waiting:
            settle(False)
        self._grant()
        return out + [entry for entry, _ in waiting]

    def put_back(self, entries: Sequence[E]) -> None:
        """Put `entries`, which were taken before, ahead of the work lane in their order, whatever its size."""
        self.work.extendleft(reversed(entries))

    def put_back_first(self, entry: E, *, control: bool) -> None:
        """Put back what `take` has just given, in the lane it came from."""
        if control:
            self.put_control(entry, bounded=False)
            assert self.ahead is not None  # noqa: S101  # it was put there
            self.ahead.rotate(1)
        else:
            self.work.appendleft(entry)

    def holds_control(self, entry: E) -> bool:
        """Whether `entry` still waits in the control lane."""
        return any(held is entry for held in self.ahead or ())

    def withdraw_control(self, wanted: Callable[[E], bool]) -> list[E]:
        """Take out of the control lane what `wanted` chooses; in order."""
        control = self.ahead or ()
        out = [entry for entry in control if wanted(entry)]
        if out:
            self.ahead = deque(entry for entry in control if not wanted(entry))
        return out

    def clear_control(self) -> None:
        """Forget the control lane: it is addressed to one incarnation."""
        self.ahead = None

    def drain(self) -> Iterator[E]:
        """Empty everything: forget the control lane, give the work lane, refuse the waiting senders."""
        self.ahead = None
        while self.work:
            yield self.work.popleft()
        while self.waiting:
            first = self.waiting.popleft()
            if isinstance(first, tuple):
                first[1](False)
            else:
                first.lost()
        self.floor = 0

    def outside(self) -> Iterator[E]:
        """What waits for room."""
        for each in self.waiting or ():
            if isinstance(each, tuple):
                yield each[0]
            else:
                yield from each.held()

    def statistics(self) -> MailboxStatistics:
        """Counts, now."""
        waiting = len(self.waiting) if self.waiting else 0
        control = len(self.ahead) if self.ahead else 0
        return MailboxStatistics(len(self.work), control, waiting, self._dropped, self.limit)
