"""What must hold always, in the end, or at least sometimes, and places where a simulation may do the unlikely.

    sometimes("two restarts overlap", self.restarting > 1)
    if buggify("short read"):
        data = data[:1]

All four may stand in product code: outside of a simulated run they cost a call and one comparison, `buggify` is False,
and no function given to them is called. A run checks `always` and `eventually` after each event of its trace, and what
`sometimes` reached is counted over a `campaign`: a test whose premise never came true has shown nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from understudy.actors.errors import UsageError
from understudy.actors.testing import options
from understudy.actors.testing.faults import Fault

if TYPE_CHECKING:
    from understudy.actors.testing.trace import Event, Kind, Trace
    from understudy.actors.testing.world import World

P = ParamSpec("P")
T = TypeVar("T")

__all__ = [
    "Buggify",
    "Campaign",
    "Vacuous",
    "always",
    "buggify",
    "campaign",
    "eventually",
    "not_vacuous",
    "note",
    "sometimes",
]


class Buggify(Fault, frozen=True, tag=True):
    """`buggify(site)` is True the `hit`th time it is asked, from 1. Without one, a site is off in its world."""

    site: str
    hit: int

    def __post_init__(self) -> None:
        if not self.site or not isinstance(self.site, str):
            raise UsageError(f"Buggify: site is {self.site!r}; it is the text that is given to `buggify`")
        if type(self.hit) is not int or self.hit < 1:
            raise UsageError(f"Buggify({self.site!r}): hit is {self.hit!r}; hits are counted from 1")


class Vacuous(AssertionError):
    """A campaign in which something that had to happen never did. The text names it, and what did happen."""


# -- in test or product code -------------------------------------------------------------------------------------


def always(name: str, holds: Callable[[], object]) -> None:
    """From now to the end of the run `holds()` is true after each event. The name takes the place of an earlier one."""
    if _run is not None:
        _run.watch(name, holds, None)


def eventually(name: str, holds: Callable[[], object], *, within: float) -> None:
    """`holds()` becomes true within so many virtual seconds from now, and before the run ends."""
    if _run is not None:
        _run.watch(name, holds, within)


def sometimes(name: str, condition: object) -> None:
    """In some world of a campaign the condition is true: said within a run or, when it is over, by the test."""
    if _run is not None:
        _run.reached[name] += bool(condition)
    elif asyncio._get_running_loop() is None:
        for each in _campaigns:
            each.reached[name] += bool(condition)


def buggify(site: str) -> bool:
    """Whether to do the unlikely here. Two levels: a world enables a site, and of that site one hit or more."""
    return _run is not None and _run.hit(site)


def note(what: str, detail: str = "") -> None:
    """A line of your own in the trace of a run and in the page of its failure, at the actor whose handler runs."""
    if _run is not None:
        _run.note("noted", what, detail)


def came_true(fault: Fault) -> None:
    """Tell the run, if there is one, of a planned fault of a model, a tool or a disk, so that its trace has it."""
    if _run is not None:
        _run.note("fault", type(fault).__name__, repr(fault))


# -- one run -----------------------------------------------------------------------------------------------------


class Run:
    """What the functions above keep for one run of a world."""

    def __init__(self, world: World, trace: Trace) -> None:
        self.reached: Counter[str] = Counter()
        self._trace = trace
        self._sites: dict[str, set[int]] = {}
        self._hits: Counter[str] = Counter()
        self._always: dict[str, Callable[[], object]] = {}
        self._eventually: dict[str, tuple[float, Callable[[], object]]] = {}
        self._looking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        for fault in world.faults:
            if isinstance(fault, Buggify):
                self._sites.setdefault(fault.site, set()).add(fault.hit)

    def _now(self) -> int:
        """Virtual nanoseconds. A world with several processes has several loops, and one time."""
        self._loop = asyncio._get_running_loop() or self._loop
        nanoseconds: int = getattr(self._loop, "nanoseconds", 0)
        return nanoseconds

    def _current(self) -> Trace:
        """The trace that is being written: each process of a play has its own, a killed one has one for nobody."""
        trace: Trace = getattr(getattr(self._loop, "simulation", None), "trace", self._trace)
        return trace

    def hit(self, site: str) -> bool:
        """See `buggify`."""
        hits = self._sites.get(site)
        if hits is None:
            return False
        self._hits[site] += 1
        if self._hits[site] not in hits:
            return False
        self.note("fault", "Buggify", repr(Buggify(site, self._hits[site])))
        return True

    def note(self, kind: Kind, what: str, detail: str) -> None:
        """Add to the trace, at the actor whose handler runs. The end of a killed process is not told."""
        from understudy.actors.delivery import DELIVERY, Envelope
        from understudy.actors.testing.trace import Event

        now, trace = self._now(), self._current()
        record = DELIVERY.get(None)
        life = record.life if isinstance(record, Envelope) else record
        path = life.cell.path if life is not None else ""
        trace.add(Event(now, kind, path, what=what, detail=detail))

    def watch(self, name: str, holds: Callable[[], object], within: float | None) -> None:
        """See `always` and `eventually`."""
        self._now()
        self._current().watch = self._trace.watch = self.look
        if within is None:
            self._always[name] = holds
        else:
            until = self._now() / 1e9 + within
            self._eventually[name] = until, holds
            asyncio.get_running_loop().call_at(until, self.look)
        self.look()

    def look(self, event: Event | None = None) -> None:
        """Ask all that is watched. What a question raises is an answer, too."""
        if self._looking:
            return
        self._looking = True
        try:
            now = self._now() / 1e9
            for name, holds in list(self._always.items()):
                if wrong := _asked(holds):
                    del self._always[name]
                    self._trace.broken.append(f"always {name!r}: {wrong} at {now:g} s")
            for name, (until, holds) in list(self._eventually.items()):
                wrong = _asked(holds)
                if not wrong:
                    del self._eventually[name]
                elif now >= until:
                    del self._eventually[name]
                    self._trace.broken.append(f"eventually {name!r}: {wrong} at {now:g} s, when its time was up")
        finally:
            self._looking = False

    def tell(self, world: World) -> None:
        """Tell campaigns and observers that the run of a world is over."""
        for each in _campaigns:
            each.add(world, self._trace, self.reached)
        for observer in observers:
            observer(world, self._trace)

    def end(self) -> None:
        """The last look."""
        self.look()
        now = self._now() / 1e9
        for name, (until, holds) in self._eventually.items():
            self._trace.broken.append(
                f"eventually {name!r}: {_asked(holds)} when the run ended at {now:g} s of {until:g}"
            )
        self._eventually.clear()


def _asked(holds: Callable[[], object]) -> str:
    """What is wrong, "" if nothing is."""
    try:
        return "" if holds() else "false"
    except Exception as error:
        return f"raised {error!r}"


_run: Run | None = None


@contextlib.contextmanager
def resumed(run: Run) -> Iterator[None]:
    """Be the run that the functions of this module speak to."""
    global _run
    before, _run = _run, run
    try:
        yield
    finally:
        _run = before


@contextlib.contextmanager
def running(world: World, trace: Trace) -> Iterator[Run]:
    """A run, from its beginning to its end. For `World.run` and its like."""
    run = Run(world, trace)
    options.begins()
    try:
        with resumed(run):
            yield run
    finally:
        run.tell(world)


observers: Final[list[Callable[[World, Trace], None]]] = []
"""Are told of each world that was run."""


# -- campaigns ---------------------------------------------------------------------------------------------------


class Campaign:
    """What came true in the worlds of a campaign, by kind of fault and by name of `sometimes`.

    `planned` counts the faults that the worlds held, `fired` those that came true; `reached` has a 0 for each
    `sometimes` that was only asked.
    """

    def __init__(self) -> None:
        self.worlds = 0
        self.planned: Counter[str] = Counter()
        self.fired: Counter[str] = Counter()
        self.reached: Counter[str] = Counter()

    def add(self, world: World, trace: Trace, reached: Counter[str]) -> None:
        """Count one world that was run."""
        self.worlds += 1
        self.planned.update(type(fault).__name__ for fault in world.faults)
        self.fired.update(trace.faults)
        for name, count in reached.items():
            self.reached[name] += count

    def assert_reached(self, *names: str) -> None:
        """Raise `Vacuous` if one of these `sometimes`, or without names one that was asked, was never true."""
        self._assert("sometimes", names or tuple(self.reached), self.reached)

    def assert_fired(self, *kinds: str | type[Fault]) -> None:
        """Raise `Vacuous` if one of these kinds of faults, or without kinds one that was planned, never came true."""
        asked = [kind if isinstance(kind, str) else kind.__name__ for kind in kinds]
        self._assert("fault", tuple(asked) or tuple(self.planned), self.fired)

    def _assert(self, what: str, wanted: tuple[str, ...], counts: Counter[str]) -> None:
        missing = [repr(name) for name in wanted if not counts[name]]
        if missing or not self.worlds:
            did = ", ".join(f"{name!r} {count} times" for name, count in sorted(counts.items()) if count)
            names = ", ".join(missing) or "anything"
            raise Vacuous(f"{what} {names}: never in {self.worlds:,} worlds; came true: {did or 'nothing'}")


_campaigns: Final[list[Campaign]] = []


@contextlib.contextmanager
def campaign() -> Iterator[Campaign]:
    """Count what comes true in all worlds that are run within."""
    counts = Campaign()
    _campaigns.append(counts)
    try:
        yield counts
    finally:
        _campaigns.remove(counts)


def not_vacuous(*names: str, faults: bool = True) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """For above `@given`: the test fails with `Vacuous` if all its worlds together did not reach what they should.

    That is each `sometimes` of `names`, or each that was asked; and, with `faults`, every kind of fault that a world
    planned. A replayed world (`--sim-replay`) alone is not held against it.
    """

    def decorate(test: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(test)
        def counted(*args: P.args, **kwargs: P.kwargs) -> T:
            from understudy.actors.testing import options

            with campaign() as counts:
                result = test(*args, **kwargs)
            if not options.replay:
                counts.assert_reached(*names)
                if faults:
                    counts.assert_fired()
            return result

        return counted

    return decorate
