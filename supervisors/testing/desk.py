"""One supervisor as its rules and a trace tell of it: what it was told, what it should do, and what it does.

Nothing of the product decides here: the rules of OTP and of the back-off are stated once more, and plainly. Where a
trace does not say enough (a failure while a group restart is under way may be a casualty of it), both readings are
allowed: `sure` counts what is certain, `unsure` what may be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from understudy.actors.testing.invariants.base import when, who
from understudy.actors.testing.trace import Event
from understudy.supervisors.testing.rules import ChildRules, Rules

Finding = tuple[int, str]
"""The number of an invariant, and a sentence."""

EXPECTED: Final = ("normal", "shutdown")
GIVEN_UP: Final = "gave up"
DECLINED: Final = "declined to start"
ROUNDING: Final = 1e-6
"""Seconds by which a timer may differ from a sum of floats."""
PATIENCE: Final = 60.0
"""Seconds that a group restart may take beyond its delay: stops and starts have deadlines of their own."""


@dataclass
class Pending:
    """A restart that was decided on: when (`at`, seconds), after `n` failures, and whether the last life was healthy.

    `before`: the failures that counted until then.
    """

    at: float
    n: int
    before: int
    index: int


@dataclass
class Kid:
    """One child. `state`: `gone` (no address), `up`, `down`. `why`: how the last incarnation ended."""

    rules: ChildRules
    place: int
    state: str = "gone"
    number: int = 0
    began: float = 0.0
    began_at: int = 0
    started: bool = False
    by_hand: bool = False
    why: Event | None = None
    asked: bool = False
    told: bool = True
    over: bool = False
    resting: bool = False
    failures: int = 0
    sure: bool = True
    stopping: bool = False
    quarantine: Event | None = None
    pending: Pending | None = None
    stamps: deque[float] = field(default_factory=deque[float])


class Desk:
    """See the module. `see` takes the events in order and yields what is wrong."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.group = rules.strategy != "one_for_one"
        self.kids: dict[str, Kid] = {}
        self.alive = False
        self.ending: Event | None = None
        self.interrupted = False
        self.blurred = False
        self.by_hand = False
        self.notices: dict[int, Event] = {}
        self.told: dict[tuple[str, int], int] = {}
        self.low: int | None = None
        self.sure: deque[float] = deque()
        self.unsure: deque[float] = deque()
        self.must_end: Event | None = None

    # -- what happens --------------------------------------------------------------------------------------

    def kid(self, path: str) -> Kid | None:
        """The child with this path."""
        found = self.kids.get(path)
        if found is None:
            rules = self.rules.children.get(path, self.rules.template)
            if rules is None:
                return None
            place = list(self.rules.children).index(path) if self.rules.template is None else 0
            found = self.kids[path] = Kid(rules, place)
        return found

    def own(self, index: int, event: Event) -> Iterator[Finding]:
        """An event of the supervisor itself."""
        kind = event.kind
        if kind == "starting":
            self.__init__(self.rules)  # type: ignore[misc]  # another actor, which remembers nothing
            self.alive = True
        elif kind in ("ending", "halting", "stopping"):
            if self.alive:
                yield from self._ends(event)
            self.alive = False
        elif kind == "notice" and event.what == "ChildDown":
            self.notices[event.message] = event
        elif kind == "begin" and event.message in self.notices:
            notice = self.notices.pop(event.message)
            kid = self.kids.get(notice.peer)
            if kid is not None and self.alive:
                self._decide(index, event, notice, kid)
        elif kind == "fault" and event.what == "SlowConsumer":
            self.blurred = True

    def of_child(self, index: int, event: Event, kid: Kid) -> Iterator[Finding]:
        """An event of one of its children."""
        kind = event.kind
        if kind == "starting":
            yield from self._begins(index, event, kid)
            kid.state, kid.number, kid.began, kid.began_at = "up", event.number, event.at / 1e9, index
            kid.started = kid.stopping = kid.asked = kid.over = kid.resting = False
            kid.why = kid.pending = kid.quarantine = None
            kid.by_hand = event.peer != self.rules.path
            if kid.by_hand and self.rules.template is None:
                self.by_hand = True
        elif kind == "started":
            kid.started = True
            if self.low is not None and all(each.state != "down" for each in self.kids.values()) and self._all_up():
                self.low = None
        elif kind in ("halting", "stopping"):
            yield from self._is_ended(event, kid)
            kid.asked = kid.asked or (kind == "halting" and event.peer == self.rules.path and event.what == "shutdown")
            kid.stopping = kid.stopping or kind == "stopping"
        elif kind == "ended":
            kid.state, kid.why, kid.told = "down", event, False
        elif kind == "released":
            kid.state, kid.pending = "gone", None
            if self.rules.template is not None:
                self.kids.pop(event.path, None)

    def _all_up(self) -> bool:
        return all(each.started or each.state != "up" for each in self.kids.values())

    # -- order and range (13, 14) --------------------------------------------------------------------------

    def _begins(self, index: int, event: Event, kid: Kid) -> Iterator[Finding]:
        if self.must_end is not None and self.alive and event.peer == self.rules.path:
            most = self.rules.intensity
            yield 11, f"{who(event)} starts {when(event)}; more than {most} failed {when(self.must_end)}"
        if event.peer != self.rules.path:
            return
        if kid.number and kid.state == "gone" and not self.group and not self.by_hand:
            yield 18, f"{who(event)} is started again by {self.rules.path} {when(event)}, and was stopped for good"
        others = [(path, each) for path, each in self.kids.items() if each is not kid]
        if self.rules.template is None and (self.group or kid.number == 0):
            for path, each in others:
                if each.state == "up" and not each.started:
                    yield 14, f"{who(event)} starts {when(event)}, before {path} has"
        if kid.number == 0 and self.rules.template is None and event.number == 1:
            for path, each in others:
                if each.place > kid.place:
                    yield 14, f"{who(event)} starts {when(event)}, after {path}, which is declared later"
        yield from self._comes_back(event, kid)
        if kid.pending is not None and self.group and not self.by_hand:
            for path, each in others:
                if not self._concerns(kid, each):
                    continue
                if each.state == "up" and each.began_at < kid.pending.index:
                    yield 13, f"{who(event)} starts again {when(event)}; {path} was not stopped before"
                if each.state == "down" and each.place < kid.place and self._returns(each):
                    yield 14, f"{who(event)} starts again {when(event)}, before {path}, which is declared earlier"

    def _concerns(self, kid: Kid, other: Kid) -> bool:
        return self.rules.strategy == "one_for_all" or (
            self.rules.strategy == "rest_for_one" and other.place > kid.place
        )

    @staticmethod
    def _returns(kid: Kid) -> bool:
        return kid.pending is not None or (kid.resting and kid.rules.restart != "temporary")

    def _is_ended(self, event: Event, kid: Kid) -> Iterator[Finding]:
        """The end of a child begins."""
        given_up = event.kind == "stopping" and event.peer == self.rules.path and kid.pending is not None
        if given_up and self.alive and kid.sure and not (self.group and kid.rules.intensity is not None):
            yield 17, f"{who(event)}, {kid.rules.restart}, failed, and is stopped for good {when(event)}"
        if event.peer != self.rules.path or kid.state != "up" or kid.stopping or self.by_hand:
            return
        later = [path for path, each in self.kids.items() if each.place > kid.place and each.state == "up"]
        if not self.alive:
            if later and self.rules.template is None and self.ending is not None:
                yield 14, f"{who(event)} is stopped {when(event)}, before {later[0]}, which started later"
            return
        if event.what != "shutdown" or kid.asked:
            return
        if self.low is None or kid.place < self.low:
            yield 13, f"{who(event)} is stopped {when(event)}; {self.rules.strategy} does not concern it"
        elif later:
            yield 14, f"{who(event)} is stopped {when(event)}, before {later[0]}, which started later"

    # -- restarts (11, 15 to 17) ---------------------------------------------------------------------------

    def _decide(self, index: int, event: Event, notice: Event, kid: Kid) -> None:
        why = kid.why
        if kid.state != "down" or notice.size != kid.number or why is None or kid.told or kid.stopping:
            return
        kid.told = True
        if DECLINED in why.detail:
            kid.over = True
            return
        if kid.asked and why.what in (*EXPECTED, "killed"):
            kid.resting = True
            return
        if why.what == "start" and kid.by_hand:
            kid.sure = False
            self.unsure.append(event.at / 1e9)
            return
        expected = why.what in EXPECTED
        if kid.rules.restart == "temporary" or (kid.rules.restart == "transient" and expected):
            kid.over = True
            return
        self._restarts(index, event, kid, why)

    def _restarts(self, index: int, event: Event, kid: Kid, why: Event) -> None:
        now = event.at / 1e9
        sure = self.low is None
        own = kid.rules.intensity
        if own is not None and _count(kid.stamps, now, own.within) > own.restarts and sure:
            kid.quarantine = event  # it alone stays stopped
            return
        if sure:
            self.sure.append(now)
        self.unsure.append(now)
        most = self.rules.intensity
        if most is not None:
            _drop(self.sure, now, most.within)
            if len(self.sure) > most.restarts:
                self.must_end = event
                return
        backoff, before = self.rules.backoff, kid.failures
        healthy = why.what != "start" and now - kid.began >= backoff.healthy_after
        n = 0 if healthy else before
        kid.failures = n + 1
        kid.sure = kid.sure and sure
        kid.pending = Pending(now, n, before, index)
        if self.group:
            place = 0 if self.rules.strategy == "one_for_all" else kid.place
            self.low = place if self.low is None else min(self.low, place)

    def _comes_back(self, event: Event, kid: Kid) -> Iterator[Finding]:
        """A child is started again by its supervisor."""
        if kid.quarantine is not None and not self.group:
            yield 11, f"{who(event)} starts again {when(event)}; it alone failed too often {when(kid.quarantine)}"
        if kid.over and (kid.rules.restart == "temporary" or not self.group) and event.number > 1:
            why = kid.why
            yield (
                17,
                f"{who(event)} starts again {when(event)}; it is {kid.rules.restart}, and ended as {why and why.what}",
            )
        pending = kid.pending
        if pending is None or not kid.sure:
            return
        waited, (low, high) = event.at / 1e9 - pending.at, self._bounds(pending.n)
        late = waited > high + ROUNDING and not (self.group or self.blurred)
        if waited < low - ROUNDING or late:
            other = pending.before if pending.n == 0 else 0
            near, far = self._bounds(other)
            number = 16 if other != pending.n and near - ROUNDING <= waited <= far + ROUNDING else 15
            text = f"{who(event)} starts again {when(event)}, after {waited:g} s; failure {pending.n + 1} in a row"
            yield number, f"{text} waits {low:g} to {high:g} s"

    def _bounds(self, n: int) -> tuple[float, float]:
        """The shortest and the longest delay after `n` failures."""
        backoff = self.rules.backoff
        delay = 0.0 if backoff.first == 0 else min(backoff.cap, backoff.first * backoff.factor ** min(n, 200))
        return delay * (1 - backoff.jitter), delay * (1 + backoff.jitter)

    # -- the end -------------------------------------------------------------------------------------------

    def _ends(self, event: Event) -> Iterator[Finding]:
        self.ending = event
        most = self.rules.intensity
        if GIVEN_UP in event.detail and event.kind == "ending":
            now = event.at / 1e9
            if most is not None:
                _drop(self.unsure, now, most.within)
                if len(self.unsure) <= most.restarts:
                    yield 11, f"{self.rules.path} gave up {when(event)} after {len(self.unsure)} failures, of {most}"
        elif self.must_end is not None and event.at > self.must_end.at:
            yield 11, f"{self.rules.path} did not give up {when(self.must_end)}, with more than {most}"
        yield from self.overdue(event.at)

    def overdue(self, at: int) -> Iterator[Finding]:
        """Restarts that should have happened by `at`, and have not."""
        if not self.alive or self.interrupted or self.must_end is not None:
            return
        for path, kid in self.kids.items():
            if kid.state != "down" or kid.stopping:
                continue
            if kid.pending is not None and not self.blurred:
                _, high = self._bounds(kid.pending.n if kid.sure else 200)
                if at / 1e9 - kid.pending.at > high + ROUNDING + (PATIENCE if self.group else 0.0):
                    yield 17, f"{path}, {kid.rules.restart}, failed at {kid.pending.at:g} s and is not started again"
            elif kid.resting and kid.rules.restart != "temporary" and kid.why is not None and not self.by_hand:
                rested = (at - kid.why.at) / 1e9
                if rested > PATIENCE + 2 * self.rules.backoff.cap:
                    yield 13, f"{path} was stopped for a restart {when(kid.why)} and is not started again"


def _drop(stamps: deque[float], now: float, within: float) -> None:
    while stamps and now - stamps[0] > within:
        stamps.popleft()


def _count(stamps: deque[float], now: float, within: float) -> int:
    """Note one more, and how many are within the window."""
    _drop(stamps, now, within)
    stamps.append(now)
    return len(stamps)
