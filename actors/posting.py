"""How a message gets into a mailbox by the long way: the door, room, overflow, the control lane, timers, dead letters.

The short way, for an address that takes the message and has room, is in `Ref.tell`.
"""

from __future__ import annotations

import asyncio
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

from understudy.actors.cell import QUEUED, Cell
from understudy.actors.delivery import Entry, Envelope, Notice, message_of, path_of, sender_of
from understudy.actors.errors import ActorStopped, AskTimeout, MailboxFull, NotHandled, UsageError, WrongLoop
from understudy.actors.loop import Dispatcher
from understudy.actors.messages import Message, round_trip
from understudy.actors.refs import Refused, check_seconds
from understudy.actors.telemetry import DeadLetter, LetterReason, Telemetry
from understudy.actors.timers import Timer, Timers

if TYPE_CHECKING:
    from understudy.actors.durable.office import Office


class Posting:
    """The part of a kernel that takes messages in. `check` passes every message through the codec, as a link would."""

    check: bool
    thread: int
    loop: asyncio.AbstractEventLoop
    dispatcher: Dispatcher
    telemetry: Telemetry
    timers: Timers

    office: Office | None

    def the_office(self, path: str) -> Office:
        """Who takes durable messages in. Raises `UsageError` without one."""
        self.check_thread()
        if self.office is None:
            raise UsageError(f"post to {path}: a durable message needs a system, which has a journal")
        return self.office

    def check_thread(self) -> None:
        """Raise `WrongLoop` when called from another thread."""
        if get_ident() != self.thread:
            raise WrongLoop("a ref was used from another thread; use ref.tell_threadsafe(...) there")

    def wake(self, cell: Cell) -> None:
        """Let a worker look at a cell that something was put into."""
        if cell.status != QUEUED and cell.runnable():
            self.dispatcher.schedule(cell)

    def post(self, cell: Cell, entry: Entry, *, quiet: bool = False) -> Literal[True] | Refused:
        """Put an entry into the mailbox: True or `Refused`. `quiet` leaves a refusal for `full` to the caller."""
        self.check_thread()
        if cell.far is not None:
            return cell.far.post(entry, quiet=quiet)
        refused = self._door(cell, entry)
        if refused is not None:
            self.letter(cell, entry, "stopped" if refused.reason == "dead" else "unknown")
            return refused
        if self.check:
            entry = _checked(entry)
        return self._put(cell, entry, quiet=quiet)

    def post_all(self, cell: Cell, entries: list[Entry]) -> int:
        """Put entries, which the cell takes, into its mailbox as far as there is room now; how many were put there."""
        if len(entries) == 1 and cell.first is None and cell.mailbox is None:
            cell.first = entries[0]
            taken = 1
        else:
            box = cell.box()
            room = 0 if box.waiting else box.limit - len(box.work)
            if len(entries) > room:
                entries = entries[: max(0, room)]
            taken = len(entries)
            box.work.extend(entries)
        if taken and cell.status != QUEUED and cell.runnable():
            self.dispatcher.schedule(cell)
        return taken

    def _put(self, cell: Cell, entry: Entry, *, quiet: bool) -> Literal[True] | Refused:
        """Put in what the door lets through."""
        if cell.first is None and cell.mailbox is None:
            cell.first = entry
        else:
            offer, dropped = cell.box().offer(entry)
            if offer == "full":
                if not quiet:
                    cell.box().count_lost()
                    self.letter(cell, entry, "full")
                return Refused("full", cell.path)
            if dropped is not None:
                self.lose(cell, dropped, "dropped")
        if cell.status != QUEUED and cell.runnable():
            self.dispatcher.schedule(cell)
        return True

    def _door(self, cell: Cell, entry: Entry) -> Refused | None:
        if cell.state in ("stopping", "stopped"):
            return Refused("dead", cell.path)
        if cell.kind is not None and type(message_of(entry)) not in cell.kind.handlers:
            return Refused("unknown", cell.path)
        return None

    async def post_when_room(self, cell: Cell, envelope: Entry, timeout: float) -> Literal[True] | Refused:
        """`post`, waiting for room at most `timeout` seconds."""
        if cell.far is not None:
            return await cell.far.post_when_room(envelope, timeout)
        check_seconds(cell, timeout)
        posted = self.post(cell, envelope, quiet=True)
        if posted or posted.reason != "full":
            return posted
        box = cell.box()
        room: asyncio.Future[bool] = self.loop.create_future()

        def settle(given: bool) -> bool:
            wanted = not room.done()
            if wanted:
                room.set_result(given)
            return wanted

        def give_up() -> None:
            settle(False)

        box.wait_for_room(envelope, settle)
        timer = self.timers.after(timeout, give_up)
        try:
            if await room:
                return True
        finally:
            timer.cancel()
            room.cancel()
            box.give_up(envelope)
        dead = cell.state in ("stopping", "stopped")
        if isinstance(envelope, Envelope) and envelope.reply is not None and envelope.reply.done():
            return Refused("dead", cell.path)  # it did not want to wait for a restart, and is a dead letter
        box.count_lost()
        self.letter(cell, envelope, "stopped" if dead else "full")
        return Refused("dead" if dead else "full", cell.path)

    def force(self, cell: Cell, message: Message[Any]) -> None:
        """Put accepted work into a mailbox whatever its size; a dead letter when the address is stopped."""
        if cell.state in ("stopping", "stopped"):
            self.lose(cell, (message, None), "stopped")
            return
        cell.box().force((message, None))
        self.wake(cell)

    def control(
        self, cell: Cell, message: Message[Any], *, bounded: bool = True, about: Cell | None = None
    ) -> Notice | None:
        """Put a notice into the control lane, if the address has a life and a handler for it; what was put there.

        `bounded=False` is for notices whose number something else bounds, and none of which may be lost.
        """
        if cell.life is None or (cell.kind is not None and type(message) not in cell.kind.handlers):
            return None
        notice = Notice(message, about=about)
        if not cell.box().put_control(notice, bounded=bounded):
            self.telemetry.dead(DeadLetter(cell.path, "", "full", message))
            return None
        self.wake(cell)
        return notice

    def cancel_request(self, cell: Cell, envelope: Envelope) -> None:
        """End the handler of one request, or let it never begin."""
        if cell.far is not None:
            cell.far.cancel(envelope)
            return
        envelope = envelope.last
        envelope.cancelled = True
        tasks = cell.life.tasks if cell.life is not None else None
        if tasks is not None and envelope in tasks:
            tasks[envelope].cancel()

    def timer(self, cell: Cell, seconds: float, message: Message[Any]) -> Timer:
        """Send `message` to the present incarnation later. Raises `NotHandled`; `UsageError` for endless seconds."""
        life = cell.life
        if life is None:
            raise ActorStopped(cell.path, cell.exit)
        if cell.kind is not None and type(message) not in cell.kind.handlers:
            raise NotHandled(cell.path, type(message), cell.takes())
        check_seconds(cell, seconds, "timer")

        def fire() -> None:
            self.control(cell, message, bounded=False)  # it was held before; none may be lost

        timers = life.timers
        if timers is None:
            timers = life.timers = []
        elif len(timers) % 64 == 63:
            timers = life.timers = [timer for timer in timers if timer.call is not None]
        timer = self.timers.after(seconds, fire)
        timers.append(timer)
        return timer

    def letter(self, cell: Cell, entry: Entry, reason: LetterReason, detail: str = "") -> None:
        """Make a dead letter of an entry."""
        self.telemetry.dead(DeadLetter(cell.path, path_of(sender_of(entry)), reason, message_of(entry), detail))

    def expire(self, cell: Cell, envelope: Envelope) -> None:
        """Make a dead letter of a request that nobody waits for; who asked at another node may forget it then."""
        self.letter(cell, envelope, "expired")
        reply: object = envelope.reply
        if not isinstance(reply, asyncio.Future):
            envelope.fail(AskTimeout(cell.path, 0.0))

    def lose(self, cell: Cell, entry: Entry, reason: LetterReason) -> None:
        """Make a dead letter of an entry that was accepted, and tell its asker."""
        if isinstance(entry, Envelope):
            full = reason == "dropped"
            entry.fail(MailboxFull(cell.path, cell.limit) if full else ActorStopped(cell.path, cell.exit))
            if entry.durable:
                return
        self.letter(cell, entry, reason)


def _checked(entry: Entry) -> Entry:
    """The entry as a link would have delivered it."""
    if isinstance(entry, Envelope):
        entry.message = round_trip(entry.message)
        return entry
    return round_trip(entry[0]), entry[1]
