"""Defects planted by hand: each changes one thing of the product, and names the invariants that must find it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from understudy.actors.cell import BUSY, Cell
from understudy.actors.delivery import Envelope, Life
from understudy.actors.endings import Endings
from understudy.actors.errors import ActorStopped
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import ALIVE, SHUTDOWN, Exit
from understudy.actors.links import Links
from understudy.actors.loop import Dispatcher
from understudy.actors.mailbox import Mailbox
from understudy.actors.messages import Down
from understudy.actors.posting import Posting
from understudy.actors.registry import parse
from understudy.actors.stash import Stash
from understudy.actors.suspension import Suspensions
from understudy.actors.timers import Timers
from understudy.actors.workers import Workers
from understudy.supervisors import dynamic, groups, supervisor
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor
from understudy.supervisors.intensity import RestartWindow
from understudy.supervisors.keeping import Record
from understudy.supervisors.plans import StartAgain
from understudy.supervisors.strategies import affected, decide_exit
from understudy.supervisors.supervisor import SupervisorActor

Patch = Callable[[pytest.MonkeyPatch], None]
Any_ = Any  # a patched method takes what the original takes


@dataclass(frozen=True)
class Mutant:
    """`file`: what is changed. `kills`: the invariants of which one must find it. `like`: which plays show it."""

    name: str
    file: str
    patch: Patch
    kills: tuple[int, ...]
    like: str = "any"


MUTANTS: list[Mutant] = []


def plant(name: str, file: str, *kills: int, like: str = "any") -> Callable[[Patch], Patch]:
    """Add a mutant."""

    def add(patch: Patch) -> Patch:
        MUTANTS.append(Mutant(name, file, patch, kills, like))
        return patch

    return add


def instead(holder: Any_, name: str, new: Any_) -> Patch:
    """Another function in place of one."""

    def patch(m: pytest.MonkeyPatch) -> None:
        m.setattr(holder, name, new)

    return patch


def nothing(*args: object, **more: object) -> None:
    """In place of what does something."""


def handle(m: pytest.MonkeyPatch, actor: Any_, message: type, new: Any_) -> None:
    """Another handler: actors collect theirs when their class is made."""
    m.setitem(actor.handlers, message, new)
    m.setitem(actor._door, message, (new, False))


def put(name: str, file: str, *kills: int, of: Any_, attribute: str, new: Any_ = nothing, like: str = "any") -> None:
    """Add a mutant that replaces one attribute."""
    plant(name, file, *kills, like=like)(instead(of, attribute, new))


# -- mailbox ---------------------------------------------------------------------------------------------------


@plant("the mailbox gives the newest message first", "actors/mailbox.py", 1, like="flooding")
def _newest_first(m: pytest.MonkeyPatch) -> None:
    def take_work(self: Mailbox[Any_]) -> Any_:
        if not self.work:
            return None
        entry = self.work.pop()
        if self.waiting:
            self._grant()
        return entry

    m.setattr(Mailbox, "take_work", take_work)


put(
    "a mailbox takes one more than its limit",
    "actors/mailbox.py",
    8,
    of=Mailbox,
    attribute="room",
    new=property(lambda self: len(self.work) <= self.limit and not self.waiting),
    like="flooding",
)


def _offer(self: Mailbox[Any_], entry: Any_, *, oldest: bool, quiet: bool) -> Any_:
    if self.room:
        self.work.append(entry)
        return "taken", None
    if self.overflow == "refuse":
        return ("taken", None) if quiet else ("full", None)
    self._dropped += 1
    if self.overflow == "drop_newest":
        return "dropped", None if quiet else entry
    gone = self.work.popleft() if oldest else self.work.pop()
    self.work.append(entry)
    return "taken", None if quiet else gone


put(
    "drop_oldest drops the newest that waits",
    "actors/mailbox.py",
    8,
    of=Mailbox,
    attribute="offer",
    new=lambda self, entry: _offer(self, entry, oldest=False, quiet=False),
    like="flooding",
)
put(
    "what overflows vanishes",
    "actors/mailbox.py",
    4,
    8,
    of=Mailbox,
    attribute="offer",
    new=lambda self, entry: _offer(self, entry, oldest=True, quiet=True),
    like="flooding",
)


def _grant(self: Mailbox[Any_], *, limit: bool, keep: bool) -> None:
    waiting = self.waiting
    while waiting and (not limit or len(self.work) < self.limit):
        entry, settle = cast("tuple[Any, Any]", waiting.popleft())
        if settle(True) and keep:
            self.work.append(entry)
    if not waiting:
        self.waiting = None


put(
    "room is given to all who wait for it",
    "actors/mailbox.py",
    8,
    of=Mailbox,
    attribute="_grant",
    new=lambda self: _grant(self, limit=False, keep=True),
    like="flooding",
)
put(
    "who is given room is not put in",
    "actors/mailbox.py",
    4,
    9,
    of=Mailbox,
    attribute="_grant",
    new=lambda self: _grant(self, limit=True, keep=False),
    like="flooding",
)


@plant("a mailbox that is drained gives one message", "actors/mailbox.py", 4, 9, like="flooding")
def _drain(m: pytest.MonkeyPatch) -> None:
    def drain(self: Mailbox[Any_]) -> Any_:
        self.ahead = None
        if self.work:
            yield self.work.popleft()
        self.work.clear()
        while self.waiting:
            cast("tuple[Any, Any]", self.waiting.popleft())[1](False)

    m.setattr(Mailbox, "drain", drain)


put(
    "what is put back goes to the end",
    "actors/mailbox.py",
    1,
    of=Mailbox,
    attribute="put_back",
    new=lambda self, entries: self.work.extend(entries),
    like="flooding",
)
put(
    "notices outlive the incarnation they are for",
    "actors/mailbox.py",
    3,
    of=Mailbox,
    attribute="clear_control",
    like="watching",
)

# -- posting ---------------------------------------------------------------------------------------------------


@plant("what a stopped address loses is no dead letter", "actors/posting.py", 4)
def _lose_quietly(m: pytest.MonkeyPatch) -> None:
    def lose(self: Posting, cell: Cell, entry: Any_, reason: Any_) -> None:
        if isinstance(entry, Envelope):
            entry.fail(ActorStopped(cell.path, cell.exit))

    m.setattr(Posting, "lose", lose)


put(
    "who asked what is lost is not told",
    "actors/posting.py",
    9,
    of=Posting,
    attribute="lose",
    new=lambda self, cell, entry, reason: self.letter(cell, entry, reason),
    like="flooding",
)


@plant("a stopping address takes messages", "actors/posting.py", 10, 18)
def _open_door(m: pytest.MonkeyPatch) -> None:
    before = Posting._door

    def door(self: Posting, cell: Cell, entry: Any_) -> Any_:
        return None if cell.state == "stopping" else before(self, cell, entry)

    m.setattr(Posting, "_door", door)


@plant("sending to a stopped address raises", "actors/posting.py", 10)
def _door_raises(m: pytest.MonkeyPatch) -> None:
    before = Posting._door

    def door(self: Posting, cell: Cell, entry: Any_) -> Any_:
        if cell.state == "stopped":
            raise ActorStopped(cell.path, cell.exit)
        return before(self, cell, entry)

    m.setattr(Posting, "_door", door)


@plant("a full mailbox makes no dead letter", "actors/posting.py", 8, like="flooding")
def _no_full_letters(m: pytest.MonkeyPatch) -> None:
    def _put(self: Any_, cell: Cell, entry: Any_, *, quiet: bool) -> Any_:
        from understudy.actors.refs import Refused

        if cell.first is None and cell.mailbox is None:
            cell.first = entry
        else:
            offer, dropped = cell.box().offer(entry)
            if offer == "full":
                return Refused("full", cell.path)
            if dropped is not None:
                self.lose(cell, dropped, "dropped")
        self.wake(cell)
        return True

    m.setattr(Posting, "_put", _put)


# -- dispatch and kernel ---------------------------------------------------------------------------------------


@plant("an actor takes a message while it handles one", "actors/cell.py", 2)
def _two_at_once(m: pytest.MonkeyPatch) -> None:
    m.setattr(Cell, "runnable", lambda self: _runnable(self))

    def take(self: Cell) -> Any_:
        if self.state == "suspended" and self.mailbox is not None:
            return self.mailbox.take_control()
        if self.state != "running":
            return None
        if self.first is not None:
            entry, self.first = self.first, None
            return entry
        return self.mailbox.take() if self.mailbox is not None else None

    m.setattr(Cell, "take", take)


def _runnable(cell: Cell) -> bool:
    if cell.state == "running":
        return cell.first is not None or bool(cell.mailbox)
    if cell.state == "suspended":
        return cell.mailbox is not None and cell.mailbox.has_control
    return cell.fresh and cell.state == "starting"


@plant("a suspended actor works on", "actors/cell.py", 3, like="flooding")
def _suspended_works(m: pytest.MonkeyPatch) -> None:
    take, runnable = Cell.take, Cell.runnable

    def as_running(method: Callable[[Cell], Any_]) -> Callable[[Cell], Any_]:
        def call(self: Cell) -> Any_:
            suspended = self.state == "suspended"
            if suspended:
                self.state = "running"
            try:
                return method(self)
            finally:
                if suspended:
                    self.state = "suspended"

        return call

    m.setattr(Cell, "take", as_running(take))
    m.setattr(Cell, "runnable", as_running(runnable))


@plant("a wake-up is lost when a handler ends", "actors/loop.py", 6, like="flooding")
def _lost_wake_up(m: pytest.MonkeyPatch) -> None:
    before = Dispatcher.rest

    def rest(self: Dispatcher, cell: Cell) -> None:
        if cell.state == "running" and cell.running == 0 and cell.mailbox is not None and len(cell.mailbox.work) > 1:
            cell.status = BUSY
            return
        before(self, cell)

    m.setattr(Dispatcher, "rest", rest)


put("an actor that is resumed is not woken", "actors/kernel.py", 6, of=Kernel, attribute="come_back", like="flooding")


@plant("a late reply is forgotten", "actors/delivery.py", 9)
def _forget_late(m: pytest.MonkeyPatch) -> None:
    def answer(self: Envelope, value: object) -> bool:
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(value)
        return True

    m.setattr(Envelope, "answer", answer)


@plant("a message is redelivered without end", "actors/kernel.py", 5, like="flooding")
def _redeliver_always(m: pytest.MonkeyPatch) -> None:
    before = Kernel._redeliver

    def again(self: Kernel, cell: Cell, envelope: Envelope, error: BaseException) -> bool:
        if envelope.tries < 4:
            tries, envelope.tries = envelope.tries, 0
            done = before(self, cell, envelope, error)
            envelope.tries = tries + 1
            return done
        return before(self, cell, envelope, error)

    m.setattr(Kernel, "_redeliver", again)


@plant("a message is redelivered, and a dead letter", "actors/kernel.py", 4, 5, like="flooding")
def _redeliver_too(m: pytest.MonkeyPatch) -> None:
    before = Kernel._redeliver

    def again(self: Kernel, cell: Cell, envelope: Envelope, error: BaseException) -> bool:
        before(self, cell, envelope, error)
        return False

    m.setattr(Kernel, "_redeliver", again)


@plant("who asked for what failed is not told", "actors/kernel.py", 9)
def _no_failure(m: pytest.MonkeyPatch) -> None:
    def answer(self: Kernel, cell: Cell, envelope: Envelope, exit: Exit, error: BaseException) -> None:
        self.letter(cell, envelope, "failed", str(exit))

    m.setattr(Kernel, "_answer_failure", answer)


@plant("what failed is no dead letter", "actors/kernel.py", 4)
def _no_failed_letter(m: pytest.MonkeyPatch) -> None:
    def answer(self: Kernel, cell: Cell, envelope: Envelope, exit: Exit, error: BaseException) -> None:
        envelope.fail(ActorStopped(cell.path, exit))

    m.setattr(Kernel, "_answer_failure", answer)


@plant("a cancellation counts as a crash", "actors/kernel.py", 19)
def _cancel_is_crash(m: pytest.MonkeyPatch) -> None:
    before = Kernel.failed

    def failed(self: Kernel, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and not life.fenced and cell.state not in ALIVE:
            self.telemetry.crash(cell, life.number, cell.exit, envelope.message, error)
        before(self, cell, life, envelope, error)

    m.setattr(Kernel, "failed", failed)


@plant("a crash counts twice", "actors/kernel.py", 19)
def _crash_twice(m: pytest.MonkeyPatch) -> None:
    before = Kernel.failed

    def failed(self: Kernel, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        before(self, cell, life, envelope, error)
        if isinstance(error, ValueError):
            self.telemetry.crash(cell, life.number, cell.exit, envelope.message, error)

    m.setattr(Kernel, "failed", failed)


put(
    "a name that is taken is given again",
    "actors/kernel.py",
    14,
    23,
    of=Kernel,
    attribute="_name",
    new=lambda self, name, parent: parse(name),
)


@plant("an incarnation keeps the number of the last one", "actors/kernel.py", 15, 17, 18, 19)
def _same_number(m: pytest.MonkeyPatch) -> None:
    before = Kernel._begin

    def begin(self: Kernel, cell: Cell, event: Any_) -> None:
        before(self, cell, event)
        if event == "restart" and cell.life is not None:
            cell.number -= 1
            cell.life.number -= 1

    m.setattr(Kernel, "_begin", begin)


@plant("a close that is cancelled is cut short", "actors/kernel.py", 21, 23)
def _close_cut(m: pytest.MonkeyPatch) -> None:
    async def aclose(self: Kernel) -> None:
        if self._open:
            self._open = False
            await self._close()

    m.setattr(Kernel, "aclose", aclose)


async def _leave_workers(self: Workers, grace: float = 1.0) -> int:
    return 0


put(
    "workers are left when a kernel is closed",
    "actors/workers.py",
    21,
    of=Workers,
    attribute="aclose",
    new=_leave_workers,
)

# -- timers, stash, suspension ---------------------------------------------------------------------------------


@plant("timers are left when a kernel is closed", "actors/timers.py", 21)
def _timers_left(m: pytest.MonkeyPatch) -> None:
    m.setattr(Timers, "close", nothing)


@plant("timers fire half a second late", "actors/timers.py", 9, 15)
def _late_timers(m: pytest.MonkeyPatch) -> None:
    before = Timers.at

    def at(self: Timers, when: float, call: Callable[[], None], *, rank: int = 0) -> Any_:
        return before(self, when + 0.5, call, rank=rank)

    m.setattr(Timers, "at", at)


@plant("of timers that are due together one fires", "actors/timers.py", 9, 15, 17)
def _one_timer(m: pytest.MonkeyPatch) -> None:
    from understudy.actors import timers

    ran: list[float] = []
    before = timers._run

    def run(call: Callable[[], None]) -> None:
        now = asyncio.get_running_loop().time()
        if ran and ran[-1] == now:
            return
        ran.append(now)
        before(call)

    m.setattr(timers, "_run", run)


put(
    "what was put aside is lost with its incarnation",
    "actors/stash.py",
    4,
    of=Stash,
    attribute="give_back",
    like="flooding",
)


@plant("what was put aside comes back twice", "actors/stash.py", 5, like="flooding")
def _stash_twice(m: pytest.MonkeyPatch) -> None:
    before = Stash._put_back

    def back(self: Stash, envelopes: list[Envelope]) -> None:
        before(self, envelopes)
        before(self, envelopes)

    m.setattr(Stash, "_put_back", back)


@plant("a suspension holds for the next incarnation", "actors/suspension.py", 3, 6, 17, 21)
def _suspended_for_ever(m: pytest.MonkeyPatch) -> None:
    before = Suspensions.suspend

    async def suspend(self: Suspensions, cell: Cell, timeout: float = 5.0) -> None:
        cell.fresh = False
        await before(self, cell, timeout)
        if cell.status != 1:
            self._kernel.dispatcher.schedule(cell)
        cell.state = "running"

    m.setattr(Suspensions, "suspend", suspend)


# -- ends, watches, links --------------------------------------------------------------------------------------

put("watchers are told of nothing", "actors/endings.py", 20, of=Endings, attribute="notify", like="watching")


@plant("watchers are told twice", "actors/endings.py", 20, like="watching")
def _told_twice(m: pytest.MonkeyPatch) -> None:
    def notify(self: Endings, cell: Cell, *, restarting: bool) -> None:
        notice = Down(cell.path, cell.number, cell.exit.kind, cell.exit.detail, restarting)
        for watcher in cell.take_watchers():
            if isinstance(watcher, Cell) and watcher.life is not None:
                if watcher.life.watching is not None:
                    watcher.life.watching.pop(cell, None)
                for _ in range(2):
                    self._kernel.control(watcher, notice, bounded=False, about=cell)

    m.setattr(Endings, "notify", notify)


put("watchers are not told of a restart", "actors/kernel.py", 20, of=Kernel, attribute="will_restart", like="watching")


@plant("a watch that was taken back is told", "actors/watching.py", 20, like="watching")
def _unwatch(m: pytest.MonkeyPatch) -> None:
    from understudy.actors import watching

    def unwatch(watcher: Cell, target: Cell) -> None:
        target.unwatch(watcher)
        if watcher.life is not None and watcher.life.watching is not None:
            watcher.life.watching.pop(target, None)

    m.setattr(watching, "unwatch", unwatch)


put("links are cut without a signal", "actors/links.py", 20, of=Links, attribute="signal", like="watching")


@plant("children are left when their parent ends", "actors/endings.py", 14, 23)
def _orphans(m: pytest.MonkeyPatch) -> None:
    async def stop_children(self: Endings, cell: Cell, exit: Exit, *, together: bool = False) -> None:
        return

    m.setattr(Endings, "_stop_children", stop_children)


@plant("a parent does not wait for its children", "actors/endings.py", 14)
def _no_wait(m: pytest.MonkeyPatch) -> None:
    async def stop_children(self: Endings, cell: Cell, exit: Exit, *, together: bool = False) -> None:
        for child in reversed(list(cell.children.values())):
            self.begin_stop(child, SHUTDOWN)

    m.setattr(Endings, "_stop_children", stop_children)


@plant("a handler that is fenced is not told of", "actors/endings.py", 4, 9, like="flooding")
def _fence_quietly(m: pytest.MonkeyPatch) -> None:
    def fence(self: Endings, cell: Cell, life: Life) -> None:
        life.fenced = True

    m.setattr(Endings, "_fence", fence)


@plant("a handler has twice its time when it is stopped", "actors/endings.py", 22)
def _patient(m: pytest.MonkeyPatch) -> None:
    before = Endings._quiesce

    async def quiesce(self: Endings, cell: Cell, life: Life, seconds: float) -> bool:
        return await before(self, cell, life, seconds * 2 + 2)

    m.setattr(Endings, "_quiesce", quiesce)


@plant("an incarnation that ended can still send", "actors/endings.py", 20)
def _not_cut_off(m: pytest.MonkeyPatch) -> None:
    before = Endings._cut_off

    def cut_off(self: Endings, cell: Cell, life: Life, exit: Exit) -> None:
        before(self, cell, life, exit)
        life.fenced = False

    m.setattr(Endings, "_cut_off", cut_off)


@plant("a supervisor is told of an end twice", "actors/endings.py", 12, 15, 17, 19)
def _exit_twice(m: pytest.MonkeyPatch) -> None:
    before = SupervisorActor._on_exit

    def on_exit(self: SupervisorActor, cell: Cell, number: int, exit: Exit) -> None:
        for _ in range(3):
            before(self, cell, number, exit)

    m.setattr(SupervisorActor, "_on_exit", on_exit)


put("a supervisor is not told of an end", "supervisors/supervisor.py", 12, of=SupervisorActor, attribute="_on_exit")


@plant("the end of a child is told above its parent", "supervisors/supervisor.py", 12)
def _told_above(m: pytest.MonkeyPatch) -> None:
    from understudy.supervisors.plans import ChildDown

    def on_exit(self: DynamicActor, cell: Cell, number: int, exit: Exit) -> None:
        desk = self._kernel.registry.find("desk")
        if desk is not None:
            self._kernel.control(desk, ChildDown(cell, number, exit), bounded=False)

    m.setattr(DynamicActor, "_on_exit", on_exit)


# -- supervisors -----------------------------------------------------------------------------------------------


def _decide(change: Callable[[Any_, Exit], Any_]) -> Patch:
    before = decide_exit

    def decide(restart: Any_, exit: Exit) -> Any_:
        return change(restart, exit) or before(restart, exit)

    def patch(m: pytest.MonkeyPatch) -> None:
        m.setattr(supervisor, "decide_exit", decide)
        m.setattr(dynamic, "decide_exit", decide)

    return patch


plant("a temporary child is restarted", "supervisors/strategies.py", 17, like="crashing")(
    _decide(lambda restart, exit: "restart" if restart == "temporary" else None)
)
plant("a transient child is restarted after a normal end", "supervisors/strategies.py", 17, like="crashing")(
    _decide(lambda restart, exit: "restart" if restart == "transient" else None)
)
plant("a permanent child is not restarted after a normal end", "supervisors/strategies.py", 17, like="crashing")(
    _decide(lambda restart, exit: "keep" if exit.expected else None)
)
put(
    "a back-off without a cap",
    "supervisors/backoff.py",
    15,
    of=Backoff,
    attribute="_grown",
    new=lambda self, failures: self.first * self.factor ** min(failures, 30),
    like="crashing",
)
put(
    "a back-off that does not grow",
    "supervisors/backoff.py",
    15,
    16,
    of=Backoff,
    attribute="_grown",
    new=lambda self, failures: self.first,
    like="crashing",
)
put(
    "a back-off that counts this failure, too",
    "supervisors/backoff.py",
    15,
    16,
    of=Backoff,
    attribute="_grown",
    new=lambda self, failures: min(self.cap, self.first * self.factor ** (failures + 1)),
    like="crashing",
)
put(
    "a jitter twice as wide",
    "supervisors/backoff.py",
    15,
    of=Backoff,
    attribute="delay",
    new=lambda self, failures, u: self._grown(failures) * (1.0 - 2 * self.jitter + 4.0 * self.jitter * u),
    like="crashing",
)
put(
    "failures are never forgiven",
    "supervisors/backoff.py",
    15,
    16,
    of=Backoff,
    attribute="failures_after",
    new=lambda self, previous, ran_for: previous,
    like="crashing",
)
put(
    "failures are forgiven after half the time",
    "supervisors/backoff.py",
    16,
    of=Backoff,
    attribute="failures_after",
    new=lambda self, previous, ran_for: 0 if ran_for >= self.healthy_after / 2 else previous,
    like="crashing",
)


@plant("a start that took long and failed counts as a healthy life", "supervisors/keeping.py", 15, 16, like="crashing")
def _healthy_start(m: pytest.MonkeyPatch) -> None:
    def next_delay(self: Record, backoff: Backoff, dice: Any_, exit: Exit, now: float) -> float:
        before = 0 if exit.kind == "start" else backoff.failures_after(self.failures, now - self.began)
        self.failures = before + 1
        return backoff.delay(before, dice.random())

    m.setattr(Record, "next_delay", next_delay)


def _admit(allow: Callable[[int, int], bool], *, drop: bool = True) -> Callable[[RestartWindow, float], bool]:
    def admit(self: RestartWindow, now: float) -> bool:
        if drop:
            self._drop(now)
        self._stamps.append(now)
        return allow(len(self._stamps), self.intensity.restarts)

    return admit


put(
    "a supervisor never gives up",
    "supervisors/intensity.py",
    11,
    of=RestartWindow,
    attribute="admit",
    new=_admit(lambda count, most: True),
    like="crashing",
)
put(
    "a supervisor gives up one restart early",
    "supervisors/intensity.py",
    11,
    17,
    of=RestartWindow,
    attribute="admit",
    new=_admit(lambda count, most: count < most),
    like="crashing",
)
put(
    "restarts count for ever",
    "supervisors/intensity.py",
    11,
    17,
    of=RestartWindow,
    attribute="admit",
    new=_admit(lambda count, most: count <= most, drop=False),
    like="crashing",
)


@plant("the window of a child is not asked", "supervisors/supervisor.py", 11, like="crashing")
def _no_quarantine(m: pytest.MonkeyPatch) -> None:
    before = Record.__init__

    def init(self: Record, began: float, intensity: Any_) -> None:
        before(self, began, None)

    m.setattr(Record, "__init__", init)


def _range(plan: Callable[[Any_, Any_, str], tuple[str, ...]]) -> Patch:
    def patch(m: pytest.MonkeyPatch) -> None:
        m.setattr(groups, "affected", plan)

    return patch


plant("a group restart restarts the failed one alone", "supervisors/strategies.py", 13, like="crashing")(
    _range(lambda strategy, order, failed: (failed,))
)
plant("rest_for_one restarts all", "supervisors/strategies.py", 13, like="crashing")(
    _range(lambda strategy, order, failed: affected("one_for_all", order, failed))
)
plant("one_for_all restarts the rest alone", "supervisors/strategies.py", 13, like="crashing")(
    _range(lambda strategy, order, failed: affected("rest_for_one", order, failed))
)


@plant("one_for_one restarts all", "supervisors/supervisor.py", 13, like="crashing")
def _all_for_one(m: pytest.MonkeyPatch) -> None:
    before = SupervisorActor.__init__

    def init(self: SupervisorActor, plan: Any_) -> None:
        before(self, plan)
        self._alone = False

    m.setattr(SupervisorActor, "__init__", init)
    m.setattr(groups, "affected", lambda strategy, order, failed: affected("one_for_all", order, failed))


@plant("a group is stopped in start order", "supervisors/groups.py", 14, like="crashing")
def _stop_forward(m: pytest.MonkeyPatch) -> None:
    def stop(self: groups.Group) -> None:
        self.step = "stop"
        self.todo = list(reversed(self.members))

    m.setattr(groups.Group, "stop", stop)


@plant("a group is started in reverse", "supervisors/groups.py", 14, like="crashing")
def _start_backward(m: pytest.MonkeyPatch) -> None:
    def start(self: groups.Group, known: Any_) -> None:
        self.step = "start"
        self.todo = [name for name in self.members if name in known and name not in self.held]

    m.setattr(groups.Group, "start", start)


@plant("a group is started before its delay is over", "supervisors/supervisor.py", 15, like="crashing")
def _no_group_delay(m: pytest.MonkeyPatch) -> None:
    def wait(self: groups.Group) -> None:
        self.step, self.todo, self.due = "wait", [], 0.0

    m.setattr(groups.Group, "wait", wait)


@plant("children start all at once", "supervisors/supervisor.py", 14, like="crashing")
def _start_together(m: pytest.MonkeyPatch) -> None:
    async def on_start(self: SupervisorActor) -> None:
        for plan in self._plan.children:
            self._begin_new(plan)

    m.setattr(SupervisorActor, "on_start", on_start)


@plant("children start in reverse", "supervisors/supervisor.py", 14)
def _start_reversed(m: pytest.MonkeyPatch) -> None:
    before = SupervisorActor.__init__

    def init(self: SupervisorActor, plan: Any_) -> None:
        before(self, plan)
        import dataclasses

        self._plan = dataclasses.replace(plan, children=tuple(reversed(plan.children)))

    m.setattr(SupervisorActor, "__init__", init)


put(
    "a supervisor stops its children together",
    "supervisors/supervisor.py",
    14,
    of=SupervisorActor,
    attribute="stops_together",
    new=True,
)


@plant("a child that is stopped during its back-off starts again", "supervisors/supervisor.py", 18, like="crashing")
def _restart_stopped(m: pytest.MonkeyPatch) -> None:
    def start_again(self: SupervisorActor, m: Any_) -> None:
        kept = self._kept.get(m.cell.label)
        if kept is not None and m.cell.state in ("failed", "stopped"):
            self._begin(kept)

    handle(m, SupervisorActor, StartAgain, start_again)


@plant(
    "a dynamic child that is stopped during its back-off starts again",
    "supervisors/dynamic.py",
    10,
    18,
    like="crashing",
)
def _restart_dynamic(m: pytest.MonkeyPatch) -> None:
    def start_again(self: DynamicActor, m: Any_) -> None:
        if m.cell.state == "stopped":
            m.cell.state = "failed"
            self._kernel.restart(m.cell)
        else:
            self.start_again(m)

    handle(m, DynamicActor, StartAgain, start_again)


@plant("a dynamic child waits the first delay each time", "supervisors/dynamic.py", 15, 16, like="crashing")
def _dynamic_forgets(m: pytest.MonkeyPatch) -> None:
    before = DynamicActor._restart

    def restart(self: DynamicActor, cell: Cell, plan: Any_, exit: Exit) -> None:
        if cell in self._records:
            self._records[cell].failures = 0
        before(self, cell, plan, exit)

    m.setattr(DynamicActor, "_restart", restart)


@plant("a dynamic child restarts without a delay", "supervisors/dynamic.py", 15, like="crashing")
def _dynamic_at_once(m: pytest.MonkeyPatch) -> None:
    def restart(self: DynamicActor, cell: Cell, plan: Any_, exit: Exit) -> None:
        self._kernel.restart(cell)

    m.setattr(DynamicActor, "_restart", restart)


plant("a dynamic child is never restarted", "supervisors/dynamic.py", 17, like="crashing")(
    lambda m: handle(m, DynamicActor, StartAgain, nothing)
)
plant("a child is never restarted", "supervisors/supervisor.py", 17, like="crashing")(
    lambda m: handle(m, SupervisorActor, StartAgain, nothing)
)
