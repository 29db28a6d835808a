"""Invariants 14 and 18 to 20: parents and children, stops, crashes, watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from understudy.actors.testing.invariants.base import CONTROL, invariant, when, who
from understudy.actors.testing.trace import Event, Trace

EXPECTED = ("normal", "shutdown")


@invariant(14)
def no_child_outlives_its_parent(trace: Trace) -> Iterator[str]:
    """The part that holds of every parent; the order of supervised children is in `understudy.supervisors.testing`."""
    below: dict[str, set[str]] = {}
    above: dict[str, str] = {}
    for event in trace.events:
        if event.kind == "spawned" and event.peer:
            below.setdefault(event.peer, set()).add(event.path)
            above[event.path] = event.peer
        elif event.kind == "released":
            parent = above.pop(event.path, "")
            if parent:
                below[parent].discard(event.path)
            for child in sorted(below.pop(event.path, ())):
                above.pop(child, None)
                yield f"{child} is there when its parent {event.path} is gone {when(event)}"


@invariant(18)
def stop_wins(trace: Trace) -> Iterator[str]:
    """Of an address and of those below it; also no incarnation has started once its end has begun."""
    stopping: dict[str, Event] = {}
    ending: dict[str, set[int]] = {}
    above: dict[str, str] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind == "stopping":
            stopping[path] = event
        elif kind in ("ending", "halting"):
            ending.setdefault(path, set()).add(event.number)
        elif kind == "spawned":
            stopping.pop(path, None)
            above[path] = event.peer
            ending.pop(path, None)
            if event.peer in stopping:
                yield f"{path} is spawned {when(event)} below {event.peer}, whose stop began before"
        elif kind in ("starting", "started", "begin"):
            if path in stopping:
                yield f"{who(event)}: {kind} {when(event)}, and its stop began {when(stopping[path])}"
            elif kind == "starting" and above.get(path, "") in stopping:
                yield f"{who(event)} starts {when(event)}, and the stop of {above[path]} began before"
            elif kind == "started" and event.number in ending.get(path, ()):
                yield f"{who(event)} has started {when(event)}, and its end began before"


_ENDS = frozenset({"starting", "ending", "halting", "stopping", "end", "crashed", "ended"})


class _Ends:
    """What invariant 19 knows of one incarnation."""

    __slots__ = ("cause", "crashes", "ended", "errors")

    def __init__(self) -> None:
        self.cause: Event | None = None
        self.ended: Event | None = None
        self.errors = 0
        self.crashes: Counter[str] = Counter()


@invariant(19)
def what_is_a_crash(trace: Trace) -> Iterator[str]:
    """An incarnation ends once, and as what first ended it; a handler's failure is counted once."""
    lives: dict[tuple[str, int], _Ends] = {}
    for event in trace.events:
        kind = event.kind
        if kind not in _ENDS:
            continue
        key = event.path, event.number
        if kind == "starting":
            lives[key] = _Ends()
            continue
        life = lives.get(key)
        if life is None:
            continue
        if kind in ("ending", "halting", "stopping"):
            life.cause = life.cause or event
        elif kind == "end" and event.detail not in ("ok", "Leave"):
            life.errors += 1
        elif kind == "crashed":
            yield from _crashed(life, event)
        elif kind == "ended":
            if life.ended is not None:
                yield f"{who(event)} ends {when(event)}, and ended {when(life.ended)} already"
            life.ended = event
            if life.cause is not None and not _follows(life.cause.what, event.what):
                yield f"{who(event)} ends {when(event)} as {event.what}, and what ended it was {life.cause.what}"


def _follows(cause: str, exit: str) -> bool:
    return exit in (cause, "killed") or (cause in EXPECTED and exit in EXPECTED)


def _crashed(life: _Ends, event: Event) -> Iterator[str]:
    cause = life.cause
    if event.peer == "CancelledError" and cause is not None:
        yield f"{who(event)}: a cancellation counts as a crash {when(event)}, and it was ending ({cause.what})"
    source = "lifespan" if "lifespan: " in event.detail else "start" if event.what == "start" else "handlers"
    life.crashes[source] += 1
    most = life.errors if source == "handlers" else 1
    if life.crashes[source] > most:
        yield f"{who(event)}: {life.crashes[source]} crashes are counted {when(event)}, of {most} failures ({source})"


class _Watches:
    """Open watches, by watcher and by target."""

    def __init__(self) -> None:
        self.of: dict[str, dict[str, Event]] = {}
        self.by: dict[str, dict[str, None]] = {}
        self.surplus: dict[tuple[str, str, str], Event] = {}
        self.down: dict[str, int] = {}
        self.gone: set[str] = set()
        self.notices: dict[tuple[str, str], list[int]] = {}
        self.taken_back: set[int] = set()
        self.severed: dict[str, Event] = {}

    def open(self, event: Event) -> None:
        self.of.setdefault(event.path, {})[event.peer] = event
        self.by.setdefault(event.peer, {})[event.path] = None

    def close(self, watcher: str, target: str) -> Event | None:
        if watcher in self.by.get(target, ()):
            del self.by[target][watcher]
        return self.of.get(watcher, {}).pop(target, None)

    def forget(self, watcher: str) -> None:
        for target in self.of.pop(watcher, {}):
            self.by.get(target, {}).pop(watcher, None)


@invariant(20)
def one_notice(trace: Trace) -> Iterator[str]:
    """Of watches by actors. An effect is a message that a handler of the incarnation begins, or sends itself."""
    watches = _Watches()
    for event in trace.events:
        kind, path = event.kind, event.path
        if watches.severed and event.at > next(iter(watches.severed.values())).at:
            yield from _unsignalled(watches)
        if kind in ("ending", "stopping", "halting") or (kind == "notice" and event.what == "Exited"):
            watches.severed.pop(path, None)
        if kind == "ended":
            watches.down[path] = event.number
            watches.forget(path)
            watches.severed.pop(path, None)
        elif kind == "severed" and event.what != "normal":
            watches.severed[path] = event
        elif kind in ("spawned", "starting"):
            yield from _untold(watches, event)
            watches.down.pop(path, None)
            watches.gone.discard(path)
        elif kind == "released":
            watches.down.setdefault(path, event.number)
            watches.gone.add(path)
            watches.forget(path)
        elif kind == "watch":
            if event.detail != "gone":
                watches.open(event)
            else:
                watches.surplus.pop((path, event.peer, event.what), None)
        elif kind == "unwatch":
            watches.close(path, event.peer)
            watches.taken_back.update(watches.notices.pop((path, event.peer), ()))
        elif kind == "begin" and event.message in watches.taken_back:
            yield f"{who(event)} is told {event.what} {when(event)}, and the watch was taken back before"
        elif kind == "notice" and event.peer:
            if event.what != "Exited":
                watches.notices.setdefault((path, event.peer), []).append(event.message)
            yield from _told(watches, event)
        elif kind == "begin" and path in watches.down and event.detail != CONTROL:
            yield f"{who(event)} begins m{event.message} {when(event)}, after its end"
        elif kind == "sent" and event.peer in watches.down and event.detail in ("", "ask", "ask at once"):
            number = watches.down[event.peer]
            yield f"{event.peer} #{number} sends m{event.message} to {path} {when(event)}, after its end"
    yield from _unsignalled(watches)
    for event in watches.surplus.values():
        yield f"{who(event)} is told {when(event)} of the end of {event.peer}, which it does not watch (any more)"
    for watcher, open_ in watches.of.items():
        for target, watch in open_.items():
            if target in watches.gone:
                yield f"{watcher} was never told of the end of {target} #{watch.size}, which it watched {when(watch)}"


def _unsignalled(watches: _Watches) -> Iterator[str]:
    for event in watches.severed.values():
        yield f"{who(event)} was linked with {event.peer}, which ended {when(event)}; it goes on, and was told nothing"
    watches.severed.clear()


def _untold(watches: _Watches, event: Event) -> Iterator[str]:
    for watcher in list(watches.by.get(event.path, ())):
        watch = watches.of[watcher][event.path]
        if event.kind == "spawned" or watch.size < event.number:
            watches.close(watcher, event.path)
            yield f"{watcher} was not told of the end of {watch.peer} #{watch.size}, which starts again {when(event)}"


def _told(watches: _Watches, event: Event) -> Iterator[str]:
    watch = watches.of.get(event.path, {}).get(event.peer)
    if watch is not None and watch.what == event.what:
        watches.close(event.path, event.peer)
        if event.peer not in watches.down:
            yield f"{who(event)} is told {when(event)} of the end of {event.peer} #{watch.size}, which lives"
    elif event.what == "Down":
        watches.surplus[event.path, event.peer, event.what] = event
