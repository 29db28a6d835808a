"""What the journal says of plain actors: kept states, messages that wait, dead ones. Pure: a fold of `@actors/N`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

from understudy.actors.journal.durable_events import ActorsKept, ActorsWorked, Handled, Sent, Tried

T = TypeVar("T")

CHUNK: Final = 1_000
"""States and messages that one event of a snapshot holds at most."""
DEAD: Final = 10_000
"""Dead messages that are kept; with more, the oldest are forgotten."""
_NONE: Final[dict[int, Sent]] = {}


class Book:
    """See the module. `waiting` is by target and id, oldest first; `states` by path; `tried` by id.

    `size` is about what a snapshot would take, in bytes.
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
        """The messages that wait for an actor, by id, oldest first."""
        return self.waiting.get(path, _NONE)

    def tries(self, id: int) -> int:
        """How often a message was handled in vain."""
        found = self.tried.get(id)
        return found.tries if found is not None else 0

    def apply(self, event: ActorsWorked | ActorsKept) -> None:
        """Go on with the next event."""
        if isinstance(event, ActorsKept):
            self._begin(event)
            return
        for sent in event.sent:
            self._wait(sent)
        for tried in event.tried:
            self._try(tried)
        for handled in event.handled:
            self._handled(handled)

    def _begin(self, event: ActorsKept) -> None:
        self.next, self.complete = event.next, not event.more
        for path, state in event.states:
            self._keep(path, state)
        for sent in event.waiting:
            self._wait(sent)
        for sent in event.dead:
            self.dead[sent.id] = sent
            self.size += _size(sent)
        self.tried.update((tried.id, tried) for tried in event.tried)

    def _wait(self, sent: Sent) -> None:
        waiting = self.waiting.get(sent.to)
        if waiting is None:
            waiting = self.waiting[sent.to] = {}
        waiting[sent.id] = sent
        self.size += _size(sent)
        if sent.id >= self.next:
            self.next = sent.id + 1

    def _keep(self, path: str, state: str) -> None:
        self.size += len(state) - len(self.states.get(path, "")) + (path not in self.states) * len(path)
        self.states[path] = state

    def _handled(self, handled: Handled) -> None:
        if handled.state:
            self._keep(handled.actor, handled.state)
        if handled.consumed:
            waiting = self.waiting.get(handled.actor, _NONE)
            for id in handled.consumed:
                self._done(waiting.pop(id, None) or self.dead.pop(id, None))
            if not waiting:
                self.waiting.pop(handled.actor, None)
        for sent in handled.sent:
            self._wait(sent)

    def _done(self, sent: Sent | None) -> None:
        if sent is not None:
            self.size -= _size(sent)
            if self.tried:
                self.tried.pop(sent.id, None)

    def _try(self, tried: Tried) -> None:
        waiting = self.waiting.get(tried.to, _NONE)
        if tried.dead and tried.id in waiting:
            self.dead[tried.id] = waiting.pop(tried.id)
            if not waiting:
                self.waiting.pop(tried.to, None)
            if len(self.dead) > DEAD:
                self._done(self.dead.pop(next(iter(self.dead))))
        elif not tried.dead and tried.id in self.dead:
            self._again(self.dead.pop(tried.id))
        if tried.tries or tried.dead:
            self.tried[tried.id] = tried
        else:
            self.tried.pop(tried.id, None)

    def _again(self, sent: Sent) -> None:
        """A dead message waits again, in its old place."""
        waiting = [*self.of(sent.to).values(), sent]
        self.waiting[sent.to] = {each.id: each for each in sorted(waiting, key=lambda each: each.id)}

    def snapshot(self) -> Iterator[ActorsKept]:
        """Events from which a book like this one is folded."""
        waiting = sorted((sent for each in self.waiting.values() for sent in each.values()), key=lambda sent: sent.id)
        for states in _parts(tuple(self.states.items())):
            yield ActorsKept(self.next, states=states, more=True)
        for sent in _parts(tuple(waiting)):
            yield ActorsKept(self.next, waiting=sent, more=True)
        for dead in _parts(tuple(self.dead.values())):
            yield ActorsKept(self.next, dead=dead, more=True)
        for tried in _parts(tuple(self.tried.values())):
            yield ActorsKept(self.next, tried=tried, more=True)
        yield ActorsKept(self.next)


def _parts(items: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    return (items[begin : begin + CHUNK] for begin in range(0, len(items), CHUNK))


def _size(sent: Sent) -> int:
    return len(sent.body) + len(sent.to) + len(sent.by) + 40
