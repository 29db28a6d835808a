"""Timers of one incarnation that go by a key, and its idle timeout.

A key has one timer: to start it again, or to cancel it, takes the former one back, even when its message is waiting in
the control lane already. So a handler never meets a message of a timer it has replaced (Pekko's generations, kept by
taking back instead of by counting: it costs nothing per message). A periodic timer has at most one message waiting;
what would be due meanwhile is skipped. All end with the incarnation.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Coroutine, Hashable
from math import floor
from typing import TYPE_CHECKING, Any, Final, Literal

from understudy.actors.delivery import CLOSED
from understudy.actors.errors import ActorStopped, NotHandled, UsageError
from understudy.actors.kit import kit_of
from understudy.actors.refs import check_seconds

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.delivery import Life, Notice
    from understudy.actors.messages import Message
    from understudy.actors.timers import Timer

Repeat = Literal[False, True, "delay", "rate"]
_REPEATS: Final = (False, True, "delay", "rate")
_SWEEP: Final = 64


class Keyed:
    """One timer under a key. See `start`."""

    __slots__ = ("_began", "_cell", "_count", "_message", "_repeat", "_seconds", "_sent", "_timer")

    def __init__(self, cell: Cell, seconds: float, message: Message[Any], repeat: Repeat) -> None:
        self._cell = cell
        self._message = message
        self._seconds = seconds
        self._repeat = repeat
        self._count = 1
        self._sent: Notice | None = None
        self._began = cell.kernel.loop.time()
        self._timer: Timer | None = cell.kernel.timers.after(seconds, self._fire)

    def cancel(self) -> None:
        """Never fire (again), and take back what was sent and not handled yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sent, self._sent = self._sent, None
        if sent is not None and self._cell.mailbox is not None:
            self._cell.mailbox.withdraw_control(lambda waiting: waiting is sent)

    @property
    def waiting(self) -> bool:
        """Whether a message of it waits to be handled."""
        box = self._cell.mailbox
        return self._sent is not None and box is not None and box.holds_control(self._sent)

    @property
    def active(self) -> bool:
        """Whether it will send a message, or has sent one that was not handled yet."""
        return self._timer is not None or self.waiting

    def _fire(self) -> None:
        self._timer = None
        if not self.waiting:
            self._sent = self._cell.kernel.control(self._cell, self._message, bounded=False)  # one a key
        if self._repeat == "rate":
            loop = self._cell.kernel.loop
            passed = floor((loop.time() - self._began) / self._seconds)
            self._count = max(self._count, passed) + 1
            self._timer = self._cell.kernel.timers.at(self._began + self._count * self._seconds, self._fire)
        elif self._repeat:
            self._timer = self._cell.kernel.timers.after(self._seconds, self._fire)


def start(cell: Cell, key: Hashable, seconds: float, message: Message[Any], repeat: Repeat) -> None:
    """See `ActorContext.timer`."""
    life = _life_of(cell)
    _check(cell, seconds, message)
    if repeat not in _REPEATS:
        raise UsageError(f"{cell.path}: timer {key!r}: repeat={repeat!r}; one of False, True, 'delay', 'rate'")
    if repeat and seconds <= 0:
        raise UsageError(f"{cell.path}: timer {key!r} of {seconds!r} seconds cannot repeat; more than 0")
    kit = kit_of(life)
    if key in kit.timers:
        kit.timers.pop(key).cancel()
    if len(kit.timers) >= kit.sweep:
        kit.timers = {kept: timer for kept, timer in kit.timers.items() if timer.active}
        kit.sweep = max(_SWEEP, 2 * len(kit.timers))
    kit.timers[key] = Keyed(cell, seconds, message, repeat)


def cancel(cell: Cell, key: Hashable) -> bool:
    """See `ActorContext.cancel_timer`."""
    kit = cell.life.kit if cell.life is not None else None
    timer = kit.timers.pop(key, None) if kit is not None else None
    if timer is None:
        return False
    active = timer.active
    timer.cancel()
    return active


def is_active(cell: Cell, key: Hashable) -> bool:
    """See `ActorContext.timer_active`."""
    kit = cell.life.kit if cell.life is not None else None
    timer = kit.timers.get(key) if kit is not None else None
    return timer is not None and timer.active


def _life_of(cell: Cell) -> Life:
    if cell.life is None:
        raise ActorStopped(cell.path, cell.exit)
    return cell.life


def _check(cell: Cell, seconds: float, message: Message[Any]) -> None:
    check_seconds(cell, seconds, "timer")
    if cell.table is not None and type(message) not in cell.table:
        raise NotHandled(cell.path, type(message), cell.takes())


# A handler is called with the actor and the message, and returns what it likes.
_Handler = Callable[..., Any]


class Idle:
    """Sends `message` whenever an incarnation has handled nothing for `seconds`.

    Only while one is set, no message takes the short way, and each handler is called through here: it notes when it
    ended.
    """

    __slots__ = ("_cell", "_last", "_message", "_seconds", "_timer")

    def __init__(self, cell: Cell, seconds: float, message: Message[Any]) -> None:
        self._cell = cell
        self._message = message
        self._seconds = seconds
        self._last = cell.kernel.loop.time()
        cell.door = CLOSED
        self._timer = cell.kernel.timers.after(seconds, self._fire)

    def cancel(self) -> None:
        """Never fire again, and let handlers be called as before."""
        self._timer.cancel()
        self._cell.kernel.open_door(self._cell)

    def _fire(self) -> None:
        cell, kernel = self._cell, self._cell.kernel
        now = kernel.loop.time()
        if cell.running or cell.waiting or cell.state != "running":
            self._last = now
        elif self._last + self._seconds <= now:
            kernel.control(cell, self._message)
            self._last = now
        self._timer = kernel.timers.at(self._last + self._seconds, self._fire)

    def _end(self) -> None:
        self._last = self._cell.kernel.loop.time()

    def through(self, handler: _Handler) -> _Handler:
        """The handler, noting when it ended."""

        @functools.wraps(handler)
        def call(actor: object, message: object) -> Any:  # what the handler returns
            try:
                value = handler(actor, message)
            finally:
                self._end()
            return self._until(value) if type(value) is types.CoroutineType else value

        return call

    async def _until(self, handling: Coroutine[Any, Any, Any]) -> Any:  # what the handler returns
        try:
            return await handling
        finally:
            self._end()


def set_idle(cell: Cell, seconds: float | None, message: Message[Any] | None) -> None:
    """See `ActorContext.idle_timeout`."""
    kit = kit_of(_life_of(cell))
    if seconds is not None and message is None:
        raise UsageError(f"{cell.path}: idle_timeout({seconds!r}) needs the message to send")
    if seconds is not None and message is not None:
        _check(cell, seconds, message)
        if seconds <= 0:
            raise UsageError(f"{cell.path}: idle_timeout of {seconds!r} seconds; more than 0")
    if kit.idle is not None:
        kit.idle.cancel()
        kit.idle = None
    if seconds is not None and message is not None:
        kit.idle = Idle(cell, seconds, message)
