"""A plain statement of what an actor does with its messages: one at a time, stash, timers, watches, links, ends.

`Model` plays a program in time of its own, with no event loop, no queue of ready actors and no tasks. What it says is
compared with what a kernel did. At any moment one thing happens: all times of a program are apart.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

Op = tuple[Any, ...]
GRACE: Final = 1.0
SHUTDOWN_SECONDS: Final = 5.0
SHUT: Final = ("shutdown", "")
ALIVE: Final = ("starting", "running", "suspended")


@dataclass(frozen=True)
class Traits:
    """What the actors of a program differ in. `restart`: seconds until the next incarnation; None: no supervisor."""

    limit: int = 1000
    overflow: str = "refuse"
    stash: int = 3
    starts: float = 0.0
    stops: float = 0.0
    restart: float | None = 0.25
    trap: bool = False
    redeliver: int = 0
    fails: tuple[int, ...] = ()
    cancel_on_stop: bool = False


AWAIT: Final = ("sleep", "stubborn", "ask z", "self suspend", "self peek")
"""What only an `async def` handler can do."""


def waits(ops: tuple[Op, ...]) -> bool:
    """Whether a program is for an `async def` handler."""
    return any(op[0] in AWAIT for op in ops)


def told(exit: tuple[str, str]) -> str:
    """As an exit is written."""
    return f"{exit[0]}({exit[1]})" if exit[1] else exit[0]


@dataclass(eq=False)
class Ask:
    """An ask, or a send: who waits for its outcome."""

    n: str
    until: float
    done: bool = False
    timed: bool = True
    then: Callable[[Any], None] | None = None


@dataclass(eq=False)
class Entry:
    """What waits. `about`: of a notice, whom it is about; `what` says which notice."""

    n: str
    ops: tuple[Op, ...] = ()
    ask: Ask | None = None
    what: str = ""
    about: str = ""
    cancelled: bool = False
    tries: int = 0
    fast: bool = False
    send: Ask | None = None
    sender: str = ""


@dataclass(eq=False)
class Handling:
    """One message in hand."""

    entry: Entry
    life: Life
    at: int = 0
    stashed: bool = False
    stubborn: float | None = None
    over: bool = False
    crash: bool = False
    idle: Idle | None = None
    sleep: int = 0
    asking: Ask | None = None


@dataclass(eq=False)
class Life:
    """One incarnation."""

    number: int
    begun: bool = False
    ready: bool = False
    fenced: bool = False
    leaving: bool = False
    links: dict[str, None] = field(default_factory=dict[str, None])
    watching: dict[str, None] = field(default_factory=dict[str, None])
    timers: dict[Any, Any] = field(default_factory=dict[Any, Any])
    stash: list[Entry] = field(default_factory=list[Entry])
    idle: Idle | None = None
    stuck: Ask | None = None
    afters: int = 0


@dataclass(eq=False)
class Keyed:
    """A timer under a key."""

    entry: Entry | None = None
    set: bool = True


@dataclass(eq=False)
class Idle:
    """An idle timeout."""

    seconds: float
    last: float
    off: bool = False


@dataclass(eq=False)
class Hold:
    """A suspension. `exit` is that of the incarnation, when it ended first."""

    over: bool = False
    exit: Any = None
    settled: bool = False
    waiting: int = 0


@dataclass(eq=False)
class MActor:
    """One address."""

    name: str
    traits: Traits
    state: str = "new"
    life: Life | None = None
    number: int = 0
    exit: tuple[str, str] = ("gone", "")
    hand: Handling | None = None
    work: deque[Entry] = field(default_factory=deque[Entry])
    waiting: deque[Entry] = field(default_factory=deque[Entry])
    control: deque[Entry] = field(default_factory=deque[Entry])
    watchers: dict[str, None] = field(default_factory=dict[str, None])
    ending: bool = False
    begun: int = 0
    stashes: set[str] = field(default_factory=set[str])
    idlers: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    own_stop: bool = False
    hold: Hold | None = None


class Model:
    """See the module. `log` is by actor, `results` by ask, `letters` by target."""

    def __init__(self, traits: dict[str, Traits], crashes: dict[tuple[str, int], bool]) -> None:
        self.now = 0.0
        self.actors = {name: MActor(name, each) for name, each in traits.items()}
        self.log: dict[str, list[Any]] = {name: [] for name in traits}
        self.results: dict[str, Any] = {}
        self.letters: dict[str, list[tuple[str, str]]] = {name: [] for name in traits}
        self.crashes = dict(crashes)
        self.asks: list[Ask] = []
        self.restarts = 0
        self.soon: list[Callable[[], None]] = []
        self.polls: list[Callable[[], bool]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        for actor in self.actors.values():
            self._start(actor)

    # -- time ----------------------------------------------------------------------------------------------

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + max(0.0, seconds), call)

    def at(self, when: float, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, call))

    def until(self, when: float) -> None:
        while self._events and self._events[0][0] <= when:
            self.now, _, call = heapq.heappop(self._events)
            call()
            self.settle()
        self.now = when

    def settle(self) -> None:
        """Whatever can happen without time passing."""
        while True:
            if self.soon:
                self.soon.pop(0)()
            elif not self._pump_all() and not self._poll_all():
                return

    def note(self, actor: MActor, *what: Any) -> None:
        self.log[actor.name].append((self.now, *what))

    def letter(self, actor: MActor, entry: Entry, reason: str) -> None:
        self.letters[actor.name].append((entry.n, reason))

    def result(self, ask: Ask, outcome: Any) -> None:
        if not ask.done:
            ask.done = True
            if ask.then is not None:
                ask.then(outcome)
            else:
                self.results[ask.n] = (self.now, outcome)

    def timers(self) -> int:
        """How many there must be: none is left of what is over."""
        count = self.restarts
        self.asks = [ask for ask in self.asks if not ask.done]
        count += len(self.asks)
        for actor in self.actors.values():
            if actor.life is not None:
                life = actor.life
                count += life.afters + (life.idle is not None) + sum(each.set for each in life.timers.values())
        return count

    def new_ask(self, n: str, seconds: float) -> Ask:
        ask = Ask(n, self.now + seconds)
        self.asks.append(ask)
        return ask

    # -- lives ---------------------------------------------------------------------------------------------

    def _start(self, actor: MActor) -> None:
        actor.number += 1
        actor.state = "starting"
        actor.life = life = Life(actor.number)

        def started() -> None:
            if actor.life is not life or life.fenced:
                return
            if actor.state != "starting":
                return
            if actor.number in actor.traits.fails:
                self.end(actor, ("start", "LookupError"))
                return
            life.ready = True
            actor.state = "running"
            self.note(actor, "up", actor.number)

        def begin() -> None:
            if actor.life is not life:
                return
            life.begun = True
            if actor.traits.starts:
                self.after(actor.traits.starts, started)
            else:
                started()

        self.soon.append(begin)

    def _pump_all(self) -> bool:
        """Let every actor go on; whether one could."""
        went = [self._pump(each) for each in self.actors.values()]
        return any(went)

    def _poll_all(self) -> bool:
        went = [poll() for poll in self.polls[:]]
        return any(went)

    def _pump(self, actor: MActor) -> bool:
        """Begin what can begin; whether something did."""
        if actor.hand is not None or actor.state not in ("running", "suspended"):
            return False
        if actor.control:
            self._begin(actor, actor.control.popleft())
            return True
        if actor.state == "suspended" or not actor.work:
            return False
        entry = actor.work.popleft()
        self._grant(actor)
        ask = entry.ask
        if ask is not None and (entry.cancelled or ask.until <= self.now):
            self.letter(actor, entry, "expired")
        else:
            self._begin(actor, entry)
        return True

    def _grant(self, actor: MActor) -> None:
        while actor.waiting and len(actor.work) < actor.traits.limit:
            entry = actor.waiting.popleft()
            actor.work.append(entry)
            if entry.send is not None:
                self.result(entry.send, "sent")

    def _begin(self, actor: MActor, entry: Entry) -> None:
        life = actor.life
        assert life is not None
        actor.begun += 1
        crash = self.crashes.pop((actor.name, actor.begun), None)
        actor.hand = hand = Handling(entry, life, idle=life.idle)
        if crash is False:
            self.ended(actor, hand, "InjectedCrash", quiet=True)
            if entry.what == "peek" and entry.ask is not None:
                if actor.life is life:
                    life.stuck = entry.ask
                else:
                    self.result(entry.ask, ("ActorStopped", told(actor.exit)))
            return
        hand.crash = crash is True
        if entry.what == "peek":
            assert entry.ask is not None
            self.result(entry.ask, ("peeked", actor.number))
            hand.idle = None
            self.ended(actor, hand, "ok", quiet=True)
            return
        self.note(actor, "begin", entry.what or entry.n, entry.about)
        self.go(actor, hand)

    # -- handlers ------------------------------------------------------------------------------------------

    def go(self, actor: MActor, hand: Handling) -> None:
        ops = hand.entry.ops
        while hand.at < len(ops):
            op = ops[hand.at]
            hand.at += 1
            how = self.do(actor, hand, op)
            if how == "sleep":
                return
            if how:
                self.ended(actor, hand, how)
                return
        self.ended(actor, hand, "ok")

    def do(self, actor: MActor, hand: Handling, op: Op) -> str:
        life = hand.life
        if life.fenced and op[0] not in ("sleep", "stubborn", "raise", "raise base", "quit", "note", "later"):
            return "Fenced"
        match op:
            case ("sleep", seconds):
                return self.sleep(actor, hand, seconds)
            case ("stubborn", seconds):
                hand.stubborn = seconds
                return self.sleep(actor, hand, seconds)
            case ("raise",):
                return "ValueError"
            case ("raise base",):
                return "GeneratorExit"
            case ("ask z", n, length, timeout):
                return self.ask_sink(actor, hand, n, length, timeout)
            case ("send z", n):
                self.actors["z"].work.append(Entry(n, sender=actor.name))
            case ("later", length, how, n):
                outer = hand.entry.ask if waits(hand.entry.ops) else None
                self.after(length, lambda: self._later(actor, life, how, n, outer))
            case ("self suspend" | "self peek",):
                self.note(actor, "refused", "self")
            case ("quit", kind):
                return f"Leave {kind}"
            case ("leave", kind):
                if actor.state in ALIVE:
                    actor.exit = (kind, "left")
                    life.leaving = True
            case ("stash",):
                self.stash(actor, hand)
            case ("unstash",):
                kept, life.stash = life.stash, []
                actor.work.extendleft(reversed(kept))
            case ("watch", name):
                self.watch(actor, self.actors[name])
            case ("unwatch", name):
                target = self.actors[name]
                target.watchers.pop(actor.name, None)
                life.watching.pop(name, None)
                self._withdraw(actor, lambda entry: entry.about == name and entry.what.startswith("down"))
            case ("link", name):
                self.link(actor, self.actors[name])
            case ("unlink", name):
                target = self.actors[name]
                life.links.pop(name, None)
                if target.life is not None:
                    target.life.links.pop(actor.name, None)
                self._withdraw(actor, lambda entry: entry.about == name and entry.what.startswith("exited"))
            case ("after", seconds, n, aside):
                life.afters += 1
                self.after(seconds, lambda: self._ring(actor, life, n, (("stash",),) if aside else ()))
            case ("timer", key, seconds, repeat, n):
                self.timer(actor, life, key, seconds, repeat, n)
            case ("cancel timer", key):
                timer = life.timers.pop(key, None)
                self.note(actor, "cancelled", key, timer is not None and self._active(actor, timer))
                if timer is not None:
                    self._off(actor, timer)
            case ("idle", seconds):
                if life.idle is not None:
                    life.idle.off = True
                    life.idle = None
                if seconds is not None:
                    life.idle = Idle(seconds, self.now)
                    self.after(seconds, self._idle(actor, life, life.idle))
        return ""

    def _later(self, actor: MActor, life: Life, how: str, n: str, outer: Ask | None) -> None:
        """What a handler has left behind, which runs for the incarnation that began it."""
        outcome: Any = "done"
        if life.fenced:
            outcome = "Fenced"
        elif how == "ask":
            ask = self.new_ask(n, 0.5)
            ask.until = min(ask.until, outer.until) if outer is not None else ask.until
            ask.then = lambda outcome: self.note(actor, "later", n, outcome)
            if ask.until <= self.now:
                self.result(ask, ("AskTimeout", ""))
                return
            self.actors["z"].work.append(Entry(n, ask=ask, sender=actor.name))
            self.at(ask.until, lambda: self.result(ask, ("AskTimeout", "")))
            return
        elif how == "tell":
            self.actors["z"].work.append(Entry(n, sender=actor.name))
        elif how == "unstash":
            kept, life.stash = life.stash, []
            actor.work.extendleft(reversed(kept))
        elif how == "after":
            life.afters += 1
            self.after(0.05, lambda: self._ring(actor, life, n))
        elif actor.state in ALIVE:
            actor.exit = ("error", "later")
            life.leaving = True
            if actor.hand is None and actor.state != "starting":
                self.end(actor, actor.exit)
        self.note(actor, "later", n, outcome)

    def _ring(self, actor: MActor, life: Life, n: str, ops: tuple[Op, ...] = ()) -> None:
        life.afters -= 1
        self.control(actor, life, Entry(n, ops, what=f"tick {n}"))

    def ask_sink(self, actor: MActor, hand: Handling, n: str, length: float, timeout: float) -> str:
        """Ask the one that everybody asks, and wait; never past the asker's own deadline."""
        outer = hand.entry.ask
        ask = self.new_ask(n, timeout)
        if outer is not None and outer.until < ask.until:
            ask.until = outer.until
        if ask.until <= self.now:
            ask.done = True
            self.note(actor, "asked", n, ("AskTimeout", ""))
            return ""
        hand.sleep += 1
        number, hand.asking = hand.sleep, ask

        def go_on(outcome: Any) -> None:
            if not hand.over and hand.sleep == number:
                hand.asking = None
                self.note(actor, "asked", n, outcome)
                self.go(actor, hand)

        ask.then = lambda outcome: self.soon.append(lambda: go_on(outcome))
        ops = (("sleep", length),) if length else ()
        self.actors["z"].work.append(Entry(n, ops, ask=ask, sender=actor.name))
        self.at(ask.until, lambda: self.result(ask, ("AskTimeout", "")))
        return "sleep"

    def _withdraw(self, actor: MActor, wanted: Callable[[Entry], bool]) -> None:
        actor.control = deque(entry for entry in actor.control if not wanted(entry))

    def sleep(self, actor: MActor, hand: Handling, seconds: float) -> str:
        hand.sleep += 1
        number = hand.sleep

        def wake() -> None:
            if not hand.over and hand.sleep == number:
                hand.stubborn = None
                self.go(actor, hand)

        self.after(seconds, wake)
        return "sleep"

    def cancel(self, actor: MActor, hand: Handling) -> None:
        """Its task is cancelled while it sleeps."""
        if hand.over:
            return
        if hand.asking is not None:
            hand.asking.done = True
            hand.asking = None
        if hand.stubborn is not None:
            seconds, hand.stubborn = hand.stubborn, None
            hand.sleep += 1
            number = hand.sleep
            self.after(seconds, lambda: self.go(actor, hand) if hand.sleep == number and not hand.over else None)
        else:
            self.ended(actor, hand, "CancelledError")

    def ended(self, actor: MActor, hand: Handling, how: str, *, quiet: bool = False) -> None:
        """A handler has ended."""
        hand.over = True
        entry, life, ask = hand.entry, hand.life, hand.entry.ask
        if not quiet:
            self.note(actor, "end", entry.what or entry.n, how.split()[0])
        if how == "ok" and hand.crash:
            how = "InjectedCrash"
        if hand.idle is not None:
            hand.idle.last = self.now
        if life.fenced:
            return
        actor.hand = None
        if how == "ok":
            if ask is not None and not hand.stashed and entry.what != "peek":
                if ask.done:
                    self.letters.setdefault(entry.sender, []).append((entry.n, "late"))
                else:
                    self.result(ask, entry.n)
            if life.leaving and actor.state in ("running", "suspended"):
                self.end(actor, actor.exit)
        else:
            self._failed(actor, hand, how)
        for idler in actor.idlers[:]:
            idler()

    def _failed(self, actor: MActor, hand: Handling, how: str) -> None:
        entry, life, ask = hand.entry, hand.life, hand.entry.ask
        cut = how == "CancelledError"
        if cut and entry.cancelled and actor.state in ("running", "suspended"):
            life.stash = [kept for kept in life.stash if kept is not entry]
            if hand.stashed:
                actor.work = deque(kept for kept in actor.work if kept is not entry)
            if life.leaving:
                self.end(actor, actor.exit)
            return
        leave = how.startswith("Leave")
        if cut:
            exit = actor.exit if actor.state not in ALIVE else ("error", "CancelledError")
        elif leave:
            exit = (how.split()[1], "quit")
        else:
            exit = ("error", how)
        traits = actor.traits
        again = (
            not leave
            and not (cut and actor.state not in ALIVE)
            and entry.tries < traits.redeliver
            and traits.restart is not None
            and not entry.what
            and not hand.stashed
            and actor.state in ALIVE
        )
        if again:
            entry.tries += 1
            actor.work.appendleft(entry)
        else:
            if hand.stashed:
                life.stash = [kept for kept in life.stash if kept is not entry]
                actor.work = deque(kept for kept in actor.work if kept is not entry)
                self._grant(actor)
            if ask is not None and entry.what != "peek":
                self.result(ask, ("ActorStopped", told(exit)))
            if not leave:
                self.letter(actor, entry, "failed")
        if actor.state in ALIVE:
            self.end(actor, exit)

    # -- stash, watches, links, timers ---------------------------------------------------------------------

    def stash(self, actor: MActor, hand: Handling) -> None:
        entry, life = hand.entry, hand.life
        if entry.n in actor.stashes and not hand.stashed:
            return
        if hand.stashed:
            self.note(actor, "refused", "twice")
            return
        if len(life.stash) >= actor.traits.stash:
            for kept in life.stash[:]:
                if kept.ask is not None and (kept.cancelled or kept.ask.until <= self.now):
                    life.stash.remove(kept)
                    self.letter(actor, kept, "expired")
        if len(life.stash) >= actor.traits.stash:
            self.note(actor, "refused", "full")
            return
        actor.stashes.add(entry.n)
        hand.stashed = True
        life.stash.append(entry)

    def watch(self, actor: MActor, target: MActor) -> None:
        life = actor.life
        if life is None or target.name in life.watching:
            return
        if target.life is None and target.state in ("failed", "stopped"):
            kind = "gone" if target.state == "stopped" else target.exit[0]
            self.control(actor, life, Entry("Down", what=f"down {kind}", about=target.name))
            return
        target.watchers[actor.name] = None
        life.watching[target.name] = None

    def notify(self, target: MActor, restarting: bool) -> None:
        watchers, target.watchers = target.watchers, {}
        for name in watchers:
            actor = self.actors[name]
            if actor.life is not None:
                actor.life.watching.pop(target.name, None)
                self.control(actor, actor.life, Entry("Down", what=f"down {target.exit[0]}", about=target.name))

    def link(self, actor: MActor, target: MActor) -> None:
        life = actor.life
        assert life is not None
        if target is actor:
            return
        if target.life is None:
            detail = "" if target.state == "stopped" else f"between two incarnations: {told(target.exit)}"
            self._receive(actor, life, target, ("gone", detail))
            return
        life.links[target.name] = None
        target.life.links[actor.name] = None

    def _receive(self, actor: MActor, life: Life, source: MActor, exit: tuple[str, str]) -> None:
        if actor.life is not life:
            return
        if actor.traits.trap:
            self.control(actor, life, Entry("Exited", what=f"exited {exit[0]}", about=source.name))
        elif exit[0] != "normal" and actor.state in ALIVE:
            detail = exit[1] if exit[1].startswith("linked ") else f"linked {source.name}: {told(exit)}"
            self.end(actor, ("shutdown" if exit[0] == "shutdown" else "error", detail))

    def control(self, actor: MActor, life: Life, entry: Entry) -> Entry | None:
        if actor.life is not life:
            return None
        actor.control.append(entry)
        return entry

    def timer(self, actor: MActor, life: Life, key: str, seconds: float, repeat: Any, n: str) -> None:
        if key in life.timers:
            self._off(actor, life.timers.pop(key))
        timer = life.timers[key] = Keyed()
        began, count = self.now, 1

        def fire() -> None:
            nonlocal count
            if not timer.set:
                return
            timer.set = bool(repeat)
            if timer.entry is None or timer.entry not in actor.control:
                timer.entry = self.control(actor, life, Entry(n, what=f"tick {n}"))
            if repeat == "rate":
                count += 1
                self.after(began + count * seconds - self.now, fire)
            elif repeat:
                self.after(seconds, fire)

        self.after(seconds, fire)

    def _active(self, actor: MActor, timer: Keyed) -> bool:
        return timer.set or (timer.entry is not None and timer.entry in actor.control)

    def _off(self, actor: MActor, timer: Keyed) -> None:
        timer.set = False
        self._withdraw(actor, lambda entry: entry is timer.entry)

    def _idle(self, actor: MActor, life: Life, idle: Idle) -> Callable[[], None]:
        def fire() -> None:
            if idle.off or actor.life is not life:
                return
            if actor.hand is not None or actor.work or actor.control or actor.state != "running":
                idle.last = self.now
            elif idle.last + idle.seconds <= self.now + 1e-9:
                self.control(actor, life, Entry("idle", what="tick idle"))
                idle.last = self.now
            self.after(idle.last + idle.seconds - self.now, fire)

        return fire

    # -- ends ----------------------------------------------------------------------------------------------

    def end(self, actor: MActor, exit: tuple[str, str]) -> None:
        """The incarnation ends because of `exit`, at once."""
        actor.state, actor.exit = "failed", exit
        self._quiesce(actor, exit, 0.0)

    def halt(self, actor: MActor, seconds: float) -> None:
        if actor.state not in ALIVE:
            return
        patience = 0.0 if actor.state == "starting" or actor.traits.cancel_on_stop else seconds
        actor.state, actor.exit = "failed", SHUT
        self._quiesce(actor, SHUT, patience)

    def stop(self, actor: MActor, exit: tuple[str, str] = SHUT) -> None:
        if actor.state in ("stopping", "stopped"):
            return
        patience = SHUTDOWN_SECONDS
        if actor.state == "starting" or actor.traits.cancel_on_stop:
            patience = 0.0
        actor.state, actor.exit = "stopping", exit
        if not actor.ending:
            actor.own_stop = True
            self._quiesce(actor, exit, patience)

    def _quiesce(self, actor: MActor, exit: tuple[str, str], patience: float) -> None:
        """Running handlers have `patience`, then they are cancelled, then fenced; then the life is wound up."""
        life = actor.life
        if life is None:
            self._gone(actor, None, exit)
            return
        actor.ending = True
        hand = actor.hand
        over = False

        def on() -> None:
            nonlocal over
            if not over and actor.hand is None:
                over = True
                if on in actor.idlers:
                    actor.idlers.remove(on)
                self._wind_up(actor, life, exit)

        def cut() -> None:
            if over or hand is None or hand.over:
                return
            self.after(GRACE, fence)
            self.cancel(actor, hand)

        def fence() -> None:
            nonlocal over
            if over or actor.hand is None:
                return
            over = True
            if on in actor.idlers:
                actor.idlers.remove(on)
            life.fenced = True
            entry = actor.hand.entry
            killed = ("killed", told(exit)) if exit[0] in ("normal", "shutdown") else exit
            if entry.ask is not None:
                self.result(entry.ask, ("ActorStopped", told(("killed", told(actor.exit)))))
            self.letter(actor, entry, "failed")
            actor.hand = None
            if actor.state == "failed":
                actor.exit = killed
            elif actor.own_stop:
                killed = ("killed", told(exit))
            self._gone(actor, life, killed)

        if hand is None:
            over = True
            if actor.traits.stops if life.ready else life.begun:  # that takes turns of the loop, if no time
                self.soon.append(lambda: self._wind_up(actor, life, exit))
            else:
                self._wind_up(actor, life, exit)
        else:
            actor.idlers.append(on)
            if patience > 0:
                self.after(patience, cut)
            else:
                self.soon.append(cut)

    def _wind_up(self, actor: MActor, life: Life, exit: tuple[str, str]) -> None:
        if actor.traits.stops and life.ready:
            self.note(actor, "stop", exit[0])
            self.after(actor.traits.stops, lambda: self._gone(actor, life, exit))
        else:
            self._gone(actor, life, exit)

    def _gone(self, actor: MActor, life: Life | None, exit: tuple[str, str]) -> None:
        """The life is over, and perhaps the address."""
        signals: list[tuple[MActor, Life]] = []
        actor.ending = False
        if life is not None:
            signals = self._cut_off(actor, life)
        final = actor.state == "stopping" or actor.traits.restart is None
        if not final:
            for entry in [each for each in (*actor.work, *actor.waiting) if each.fast]:
                for lane in (actor.work, actor.waiting):
                    if entry in lane:
                        lane.remove(entry)
                if entry.ask is not None:
                    self.result(entry.ask, ("ActorStopped", told(exit)))
                self.letter(actor, entry, "stopped")
            self._grant(actor)
            self.notify(actor, restarting=True)
            number = actor.number

            def restart() -> None:
                self.restarts -= 1
                if actor.state == "failed" and actor.number == number:
                    self._start(actor)

            self.restarts += 1
            if actor.traits.restart:
                self.after(self.pause(actor), restart)
            else:
                restart()
        else:
            final_exit = actor.exit if life is None or (actor.state == "stopping" and not actor.own_stop) else exit
            actor.state, actor.exit = "stopped", final_exit
            for entry in actor.work:
                if entry.ask is not None:
                    self.result(entry.ask, ("ActorStopped", told(final_exit)))
                self.letter(actor, entry, "stopped")
            actor.work.clear()
            for entry in actor.waiting:
                if entry.send is not None:
                    self.result(entry.send, "dead")
                if entry.ask is not None:
                    self.result(entry.ask, ("ActorStopped", told(final_exit)))
                self.soon.append(lambda entry=entry: self.letter(actor, entry, "stopped"))  # type: ignore[misc]
            actor.waiting.clear()
            self.notify(actor, restarting=False)
        for other, theirs in signals:
            self._receive(other, theirs, actor, exit)

    def pause(self, actor: MActor) -> float:
        assert actor.traits.restart is not None
        return actor.traits.restart + ((ord(actor.name[-1]) * 31 + actor.number * 17) % 97) * 1.3e-5

    def _cut_off(self, actor: MActor, life: Life) -> list[tuple[MActor, Life]]:
        life.fenced = True
        actor.life = None
        if actor.hold is not None:
            actor.hold.over = True
            actor.hold.exit = actor.exit
            actor.hold = None
        for name in life.watching:
            self.actors[name].watchers.pop(actor.name, None)
        for timer in life.timers.values():
            timer.set = False
        if life.idle is not None:
            life.idle.off = True
        if life.stuck is not None:
            self.result(life.stuck, ("ActorStopped", told(actor.exit)))
        for entry in actor.control:
            if entry.what == "peek" and entry.ask is not None:
                self.result(entry.ask, ("ActorStopped", told(actor.exit)))
        actor.control.clear()
        actor.work = deque(entry for entry in actor.work if not entry.what)
        self._grant(actor)
        actor.work.extendleft(reversed([entry for entry in life.stash if not entry.what]))
        signals = []
        for name in life.links:
            other = self.actors[name]
            if other.life is not None and actor.name in other.life.links:
                del other.life.links[actor.name]
                signals.append((other, other.life))
        return signals

    # -- what a driver does --------------------------------------------------------------------------------

    def tell(self, name: str, n: str, ops: tuple[Op, ...]) -> str:
        actor, entry = self.actors[name], Entry(n, ops)
        if actor.state in ("stopping", "stopped"):
            self.letter(actor, entry, "stopped")
            return "dead"
        if len(actor.work) < actor.traits.limit and not actor.waiting:
            actor.work.append(entry)
        elif actor.traits.overflow == "refuse":
            self.letter(actor, entry, "full")
            return "full"
        elif actor.traits.overflow == "drop_newest":
            self.letter(actor, entry, "dropped")
        else:
            self._drop(actor, actor.work.popleft())
            actor.work.append(entry)
        return "True"

    def force(self, name: str, n: str, ops: tuple[Op, ...]) -> None:
        """Put in, whatever the size."""
        actor = self.actors[name]
        if actor.state in ("stopping", "stopped"):
            self.letter(actor, Entry(n, ops), "stopped")
        else:
            actor.work.append(Entry(n, ops))

    def _drop(self, actor: MActor, oldest: Entry) -> None:
        if oldest.ask is not None:
            self.result(oldest.ask, ("MailboxFull", ""))
        self.letter(actor, oldest, "dropped")

    def send(self, name: str, n: str, ops: tuple[Op, ...], seconds: float) -> None:
        actor = self.actors[name]
        ask = self.new_ask(n, seconds)
        full = len(actor.work) >= actor.traits.limit or actor.waiting
        if actor.state in ("stopping", "stopped") or not full or actor.traits.overflow != "refuse":
            said = self.tell(name, n, ops)
            self.result(ask, "sent" if said == "True" else said)
            return
        entry = Entry(n, ops, send=ask)
        actor.waiting.append(entry)

        def give_up() -> None:
            if not ask.done:
                actor.waiting.remove(entry)
                dead = actor.state == "stopping"
                self.letter(actor, entry, "stopped" if dead else "full")
                self.result(ask, "dead" if dead else "full")

        self.after(seconds, give_up)

    def ask(self, name: str, n: str, ops: tuple[Op, ...], seconds: float, *, fast: bool) -> Entry | None:
        actor = self.actors[name]
        ask = self.new_ask(n, seconds)
        entry = Entry(n, ops, ask=ask, fast=fast)
        down = actor.state == "failed" or (actor.state == "starting" and actor.number > 1)
        if fast and down:
            self.result(ask, ("ActorStopped", told(actor.exit)))
            return None
        if actor.state in ("stopping", "stopped"):
            self.result(ask, ("ActorStopped", told(actor.exit)))
            self.letter(actor, entry, "stopped")
            return None
        waits = False
        if len(actor.work) < actor.traits.limit and not actor.waiting:
            actor.work.append(entry)
        elif actor.traits.overflow == "refuse":
            actor.waiting.append(entry)
            waits = True
        elif actor.traits.overflow == "drop_newest":
            self._drop(actor, entry)
        else:
            self._drop(actor, actor.work.popleft())
            actor.work.append(entry)

        def give_up() -> None:
            if ask.done:
                return
            if waits and entry in actor.waiting:
                actor.waiting.remove(entry)
                dead = actor.state == "stopping"
                self.letter(actor, entry, "stopped" if dead else "full")
                self.result(ask, ("ActorStopped", told(actor.exit)) if dead else ("MailboxFull", ""))
            else:
                self.result(ask, ("AskTimeout", ""))

        self.after(seconds, give_up)
        return entry

    def give_up_ask(self, name: str, entry: Entry, *, cancel: bool) -> None:
        """The asker is cancelled."""
        actor, ask = self.actors[name], entry.ask
        assert ask is not None
        if ask.done:
            return
        self.result(ask, "cancelled")
        if entry in actor.waiting:
            actor.waiting.remove(entry)
            return
        if cancel:
            entry.cancelled = True
            hand = actor.hand
            if hand is not None and hand.entry is entry:
                self.cancel(actor, hand)

    def peek(self, name: str, n: str, seconds: float) -> None:
        actor, ask = self.actors[name], Ask(n, self.now + seconds)
        if actor.life is None or actor.state not in ALIVE:
            self.result(ask, ("ActorStopped", told(actor.exit)))
            return
        entry = Entry("Peek", ask=ask, what="peek")
        actor.control.append(entry)

        def give_up() -> None:
            if not ask.done:
                self.result(ask, ("AskTimeout", ""))
                self._withdraw(actor, lambda each: each is entry)

        self.after(seconds, give_up)

    def suspend(self, name: str, n: str, seconds: float) -> None:
        actor, ask = self.actors[name], Ask(n, self.now + seconds)
        if actor.state == "running":
            actor.state, actor.hold = "suspended", Hold()
        hold = actor.hold if actor.state == "suspended" else None
        if hold is None:
            self.result(ask, ("ActorStopped", told(actor.exit)))
            return
        hold.waiting += 1
        life = actor.life

        def finish(outcome: Any) -> None:
            self.polls.remove(poll)
            self.result(ask, outcome)
            hold.waiting -= 1
            if not hold.settled and not hold.waiting and actor.hold is hold:
                self._resume(actor)

        def poll() -> bool:
            if actor.hand is not None and not hold.over:
                return False
            look()
            return True

        def look() -> None:
            if actor.state == "suspended" and not hold.over:
                hold.settled = actor.hand is None
                finish("suspended" if hold.settled else ("AskTimeout", ""))
            else:
                alive = hold.exit is None and actor.life is life and actor.state in ALIVE
                finish("UsageError" if alive else ("ActorStopped", told(hold.exit or actor.exit)))

        self.polls.append(poll)
        self.after(seconds, lambda: look() if not ask.done else None)

    def resume(self, name: str) -> str:
        actor = self.actors[name]
        if actor.state in ("stopping", "stopped"):
            return "ActorStopped"
        if actor.state == "suspended":
            self._resume(actor)
        return "ok"

    def _resume(self, actor: MActor) -> None:
        if actor.hold is not None:
            actor.hold.over = True
            actor.hold = None
        if actor.state == "suspended":
            actor.state = "running"
