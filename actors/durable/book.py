"""What the journal says of plain actors: kept states, messages that wait, dead ones. Pure: a fold of `@actors/N`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from understudy.actors.journal.durable_events import ActorsKept, ActorsWorked, Sent, Tried, packed, unpacked

T = TypeVar("T")

CHUNK: Final = 1_000
"""States and messages that one event of a snapshot holds at most."""
DEAD: Final = 10_000
"""Dead messages that are kept; with more, the oldest are forgotten."""
_NONE: Final[dict[int, Sent]] = {}


class Book:
    """See the module. `waiting` is by target and id; `states` by path; `dead` and `tried` by id. Ids follow the time.

    `size` is that of the states and bodies, in characters.
    """

    def __init__(self) -> None:
        self.next = 1
        self.states: dict[str, str] = {}
        self.waiting: dict[str, dict[int, Sent]] = {}
        self.dead: dict[int, Sent] = {}
        self.tried: dict[int, Tried] = {}
        self.size = 0
        self.complete = False

    def of(self, path: str) -> dict[int, Sent]:
        """The messages that wait for an actor, by id; in no order."""
        return self.waiting.get(path, _NONE)

    def tries(self, id: int) -> int:
        """How often a message was handled in vain."""
        found = self.tried.get(id)
        return found.tries if found is not None else 0

    def why(self, id: int) -> tuple[int, str]:
        """How often a message was handled in vain, and the last reason."""
        found = self.tried.get(id)
        return (found.tries, found.error) if found is not None else (0, "")

    def apply(self, event: ActorsWorked | ActorsKept) -> None:
        """Go on with the next event."""
        if isinstance(event, ActorsKept):
            self._begin(event)
            return
        self.take(unpacked(event.sent))
        self.note(event.tried)
        for handled in event.handled:
            self.keep(handled.actor, handled.state, handled.consumed)
            self.take(unpacked(handled.sent))

    def _begin(self, event: ActorsKept) -> None:
        self.next, self.complete = event.next, not event.more
        for path, state in event.states:
            self.keep(path, state, ())
        self.take(unpacked(event.waiting))
        for sent in unpacked(event.dead):
            self.dead[sent.id] = sent
            self.size += len(sent.body)
        self.tried.update((tried.id, tried) for tried in event.tried)

    def take(self, messages: Iterable[Sent]) -> None:
        """Messages are accepted."""
        waiting, size, next = self.waiting, 0, self.next
        for sent in messages:
            mine = waiting.get(sent.to)
            if mine is None:
                mine = waiting[sent.to] = {}
            mine[sent.id] = sent
            size += len(sent.body)
            if sent.id >= next:
                next = sent.id + 1
        self.size += size
        self.next = next

    def keep(self, path: str, state: str, consumed: Iterable[int]) -> None:
        """Handlers of an actor ended well: its state, "" if it is as it was, and what it is done with."""
        if state:
            self.size += len(state) - len(self.states.get(path, ""))
            self.states[path] = state
        waiting = self.waiting.get(path, _NONE)
        for id in consumed:
            self._done(waiting.pop(id, None) or self.dead.pop(id, None))
        if not waiting:
            self.waiting.pop(path, None)

    def _done(self, sent: Sent | None) -> None:
        if sent is not None:
            self.size -= len(sent.body)
            if self.tried:
                self.tried.pop(sent.id, None)

    def note(self, tried: Iterable[Tried]) -> None:
        """Messages were handled in vain, or are not to count as that any more."""
        for each in tried:
            self._try(each)

    def _try(self, tried: Tried) -> None:
        waiting = self.waiting.get(tried.to, _NONE)
        if tried.dead and tried.id in waiting:
            self.dead[tried.id] = waiting.pop(tried.id)
            if not waiting:
                self.waiting.pop(tried.to, None)
            if len(self.dead) > DEAD:
                self._done(self.dead.pop(next(iter(self.dead))))
        elif not tried.dead and tried.id in self.dead:
            self.waiting.setdefault(tried.to, {})[tried.id] = self.dead.pop(tried.id)
        if tried.tries or tried.dead:
            self.tried[tried.id] = tried
        else:
            self.tried.pop(tried.id, None)

    def snapshot(self) -> Iterator[ActorsKept]:
        """Events from which a book like this one is folded."""
        waiting = [sent for each in self.waiting.values() for sent in each.values()]
        for states in _parts(tuple(self.states.items())):
            yield ActorsKept(self.next, states=states, more=True)
        for sent in _parts(tuple(waiting)):
            yield ActorsKept(self.next, waiting=packed(sent), more=True)
        for dead in _parts(tuple(self.dead.values())):
            yield ActorsKept(self.next, dead=packed(dead), more=True)
        for tried in _parts(tuple(self.tried.values())):
            yield ActorsKept(self.next, tried=tried, more=True)
        yield ActorsKept(self.next)


def _parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    return (items[begin : begin + CHUNK] for begin in range(0, len(items), CHUNK))
