"""The office of a node: takes durable messages in, journals what handlers did, and delivers what is committed.

Everything that comes up while the journal is busy is one event: so many messages cost one commit. An event is put into
the journal whole, and what follows from it (a sender is told, a message is delivered, an asker gets the answer) is done
when it is committed, in the order of the journal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from understudy.actors.actor import Leave
from understudy.actors.delivery import DELIVERY, Envelope, Life, current_entry, current_life
from understudy.actors.durable.declared import Form
from understudy.actors.durable.desk import Desk, Posted, encoded
from understudy.actors.durable.segments import Segments
from understudy.actors.durable.turns import Committed, DeadPost, Turn
from understudy.actors.errors import JournalError, JournalFailed, SpecError, UsageError
from understudy.actors.journal.durable_events import ActorsWorked, Handled, Sent, Tried, packed
from understudy.actors.messages import tag_of
from understudy.actors.refs import Refused, check_seconds
from understudy.actors.tasks import new_task

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.cell import Cell
    from understudy.actors.durable.book import Book
    from understudy.actors.journal.journal import Journal
    from understudy.actors.kernel import Kernel

AHEAD: Final = 2
"""Events that may be on their way to the disk; what comes up then waits for the next one."""


class Office:
    """See the module. `refusal`: why this node takes no durable messages, "" when it does.

    `former`: ids of messages of a former process that were not tried in this one. `absent`: paths for which something
    waits and that are to be looked at when they start. `committed`: the number of the last turn that is.
    """

    def __init__(self, kernel: Kernel, journal: Journal, refusal: str = "") -> None:
        self.kernel = kernel
        self.segments = Segments(journal)
        self.refusal = refusal
        self.leave = Leave
        self.failure: JournalError | None = None
        self.former: set[int] = set()
        self.absent: set[str] = set()
        self.committed = 0
        self._journal = journal
        self._desks: dict[Cell, Desk] = {}
        self._paths: dict[str, Desk] = {}
        self._forms: dict[type, Form | None] = {}
        self._next = 1
        self._turn = Turn(1)
        self._armed = False
        self._under_way: deque[Turn] = deque()
        self._committer: asyncio.Task[None] | None = None
        self._cleaner: asyncio.Task[None] | None = None

    @property
    def book(self) -> Book:
        """What the journal says, and will say."""
        return self.segments.book

    async def load(self, streams: Mapping[str, int]) -> None:
        """Take up what a former process left. `streams`: the last number of each. Raises `JournalError`."""
        await self.segments.load(streams)
        self._next = self.book.next
        self.former = {id for waiting in self.book.waiting.values() for id in waiting}
        self.absent = set(self.book.waiting)
        if self.absent:
            self._watch()

    async def aclose(self) -> None:
        """Commit what came up last. What is being tried of a former process was not in vain."""
        for desk in self._desks.values():
            desk.rest()
        if self._armed:
            self._take_turn()
        while work := [task for task in (self._committer, self._cleaner) if task is not None]:
            await asyncio.wait(work)

    # -- addresses ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self.kernel.on_started = self._started

    def form(self, kind: type[Actor[Any]]) -> Form | None:
        """How the state of a class is kept; None if it declares none."""
        if kind not in self._forms:
            self._forms[kind] = Form(kind._keeps) if kind._keeps is not None else None
        return self._forms[kind]

    def begin(self, cell: Cell, actor: Actor[Any]) -> None:
        """A life of an actor with declared state begins. Raises `SpecError`, `UsageError`; then it has not started."""
        self._desk(cell).begin(actor)

    def _started(self, cell: Cell, life: Life) -> None:
        desk = self._desks.get(cell)
        if desk is None and self.absent and cell.path in self.absent:
            desk = self._desk(cell)
        if desk is not None:
            self.absent.discard(desk.path)
            desk.open(life)

    def _desk(self, cell: Cell) -> Desk:
        """The desk of an address, which takes up what waits for it. Raises `SpecError` for one that cannot have any."""
        desk = self._desks.get(cell)
        if desk is None:
            path = cell.path
            _check_address(cell, path)
            desk = self._desks[cell] = self._paths[path] = Desk(self, cell, path, self._turn.number)
            desk.take_up(self.book.of(path).values())
            self._watch()
        return desk

    def released(self, cell: Cell) -> None:
        """An address is gone."""
        desk = self._desks.pop(cell, None)
        if desk is None:
            return
        self._paths.pop(desk.path, None)
        desk.close()
        if self.failure is None and self._has_more():
            self._take_turn()  # whoever takes the address next must find what was done here
        if self.book.of(desk.path):
            self.absent.add(desk.path)

    # -- sending -----------------------------------------------------------------------------------------------

    def accept(self, cell: Cell, message: Any) -> asyncio.Future[Literal[True]] | None:
        """Take a message in at once: what is done when it is committed. None when `post` is to be asked."""
        desk = self._desks.get(cell)
        if desk is None or desk.taken >= desk.limit or desk.rooms or type(message) not in desk.takes:
            return None
        if cell.state == "stopping" or desk.closed:
            return None
        record = DELIVERY.get()
        if self.refusal or self.failure is not None or (record is not None and self._inside(record)):
            return None
        return self._accept(desk, message, None if record is None else current_life())

    def _accept(self, desk: Desk, message: Any, life: Life | None) -> asyncio.Future[Literal[True]]:
        envelope = self._envelope(desk, message, life)
        envelope.desk = desk
        told: asyncio.Future[Literal[True]] = asyncio.Future(loop=self.kernel.loop)
        envelope.told = told
        self._turn.sent.append(envelope)
        if not self._armed:
            self._arm()
        return told

    def _inside(self, record: Envelope | Life) -> bool:
        """Whether this is inside a handler whose end is journalled."""
        life = record if isinstance(record, Life) else record.life
        desk = life.kit.desk if life is not None and life.kit is not None else None
        return desk is not None and desk.handles(current_entry())

    async def post(self, cell: Cell, message: Any, timeout: float) -> Literal[True] | Refused:
        """See `Ref.post`."""
        check_seconds(cell, timeout, "post")
        record = DELIVERY.get()
        if record is not None and self._inside(record):
            raise UsageError(
                f"post to {cell.path} in a handler that is journalled: it would be out even if the handler fails;"
                " use self.context.post(ref, message)"
            )
        life = current_life()
        until = self.kernel.loop.time() + timeout
        desk = await self._wait_for_desk(cell, message, timeout)
        if isinstance(desk, Refused):
            return desk
        if desk.taken >= desk.limit or desk.rooms:
            if not await self._room(desk, until):
                return Refused("dead" if desk.closed else "full", desk.path)
            desk.taken -= 1  # the place that was kept for this one
        try:
            told = self._accept(desk, message, life)
        except UsageError:
            desk.grant()
            raise
        return await told

    async def _wait_for_desk(self, cell: Cell, message: Any, timeout: float) -> Desk | Refused:
        if self.refusal or self.failure is not None:
            raise self.failure or UsageError(f"post to {cell.path}: {self.refusal}")
        desk = self._desks.get(cell)
        if desk is None:
            if cell.kind is None and cell.state == "starting":
                started = asyncio.shield(self.kernel.when_started(cell))
                await asyncio.wait([started], timeout=timeout)
            return self._desk_for(cell, message)
        known = type(message) in desk.takes and not desk.closed and cell.state != "stopping"
        return desk if known else self._desk_for(cell, message)

    def _desk_for(self, cell: Cell, message: Any) -> Desk | Refused:
        """The desk of an address that takes the message."""
        if cell.state in ("stopping", "stopped"):
            return Refused("dead", cell.path)
        kind = cell.kind
        if kind is None:
            return Refused("full", cell.path)  # it has not started in time
        if type(message) not in kind.handlers:
            return Refused("unknown", cell.path)
        if kind.overflow == "drop_oldest":
            raise UsageError(
                f"post to {cell.path}: when it is full it drops the oldest message, which may not be this one"
            )
        fresh = cell not in self._desks
        desk = self._desk(cell)
        if fresh and cell.life is not None and cell.life.ready:
            desk.open(cell.life)
        return desk

    async def _room(self, desk: Desk, until: float) -> bool:
        """Wait for room, in turn."""
        room: asyncio.Future[bool] = self.kernel.loop.create_future()
        desk.rooms.append(room)
        timer = self.kernel.timers.at(until, partial(_give, room))
        try:
            return await room
        except asyncio.CancelledError:
            if room.done() and not room.cancelled() and room.result():
                desk.leave()
            raise
        finally:
            timer.cancel()

    def _envelope(self, desk: Desk, message: Any, life: Life | None) -> Posted:
        """A message as it waits in the mailbox. Raises `UsageError` for one that could not be read back."""
        body, copy = encoded(message)
        desk.taken += 1
        sender = None if life is None else life.cell
        sent = Sent(
            self._next,
            desk.path,
            "" if sender is None else sender.path,
            desk.takes.get(type(message)) or tag_of(type(message)),
            body,
        )
        self._next += 1
        return Posted(copy, sender, sent=sent)

    def ride(self, cell: Cell, message: Any) -> Literal[True] | Refused:
        """See `ActorContext.post`."""
        life = current_life()
        own = life.kit.desk if life is not None and life.kit is not None else None
        if own is None or not own.handles(current_entry()):
            where = life.cell.path if life is not None else "outside of an actor"
            raise UsageError(
                f"{where}: context.post rides with the end of a handler that is journalled: of an actor with declared"
                " `state`, or of a message that was posted; else use `await ref.post(message)`"
            )
        if self.refusal:
            raise UsageError(f"post to {cell.path}: {self.refusal}")
        desk = self._desk_for(cell, message)
        if isinstance(desk, Refused):
            return desk
        if desk.taken >= desk.limit:
            return Refused("full", desk.path)
        envelope = self._envelope(desk, message, life)
        envelope.desk = desk
        own.post(envelope)
        return True

    def withdraw(self, envelope: Posted) -> None:
        """A message is not sent after all: its handler failed."""
        if envelope.desk is not None:
            envelope.desk.leave()

    # -- dead messages -----------------------------------------------------------------------------------------

    def dead(self) -> tuple[DeadPost, ...]:
        """The messages that were given up, oldest first."""
        book = self.book
        return tuple(
            DeadPost(sent.id, sent.to, sent.by, sent.tag, sent.body, *book.why(id)) for id, sent in book.dead.items()
        )

    async def revive(self, id: int) -> None:
        """Let a dead message be handled again. Raises `UsageError` for an id that is none of those, `JournalError`."""
        sent = self._of_dead(id)
        self.tried(Tried(id, sent.to, 0))
        number = self._turn.number
        await self._settled()
        desk = self._desk_at(sent.to, number)
        if desk is not None:
            desk.come_back(sent)

    async def discard(self, id: int) -> None:
        """Forget a dead message. Raises as `revive`."""
        self._turn.dropped.append(self._of_dead(id))
        await self._settled()

    def _of_dead(self, id: int) -> Sent:
        sent = self.book.dead.get(id)
        turn = self._turn
        if sent is None or sent in turn.dropped or any(each.id == id for each in turn.tried):
            raise UsageError(f"there is no dead message {id}")
        return sent

    async def _settled(self) -> None:
        """Wait until everything so far is committed. Raises `JournalError`."""
        told: asyncio.Future[None] = self.kernel.loop.create_future()

        def committed(error: BaseException | None) -> None:
            if told.done():
                return
            if error is None:
                told.set_result(None)
            else:
                told.set_exception(error)

        self.after(committed)
        await told

    # -- what goes into the journal ------------------------------------------------------------------------------

    def worked(self, desk: Desk) -> None:
        """A desk has something for the next event."""
        self._turn.desks.append(desk)
        desk.turn = self._turn.number
        self._arm()

    def tried(self, tried: Tried) -> None:
        """A message was handled in vain, or is not to count as that any more."""
        self._turn.tried.append(tried)
        self._arm()

    def after(self, committed: Committed) -> None:
        """Tell when everything so far is committed."""
        self._turn.after.append(committed)
        self._arm()

    def _arm(self) -> None:
        if not self._armed and len(self._under_way) < AHEAD:
            self._armed = True
            self.kernel.loop.call_soon(self._take_turn, context=self.kernel.context.copy())

    def _take_turn(self) -> None:
        """Put what came up into the journal."""
        self._armed = False
        turn, self._turn = self._turn, Turn(self._turn.number + 1)
        try:
            self._write(turn)
        except Exception as error:  # nothing that came up is kept, and nothing that comes may be
            self._fail(error, [turn])
            return
        self._under_way.append(turn)
        if self._committer is None:
            self._committer = new_task(self._commit(), self.kernel.loop, name="understudy-durable")

    def _write(self, turn: Turn) -> None:
        done = [(desk, entry) for desk in turn.desks if (entry := desk.entry) is not None]
        sent = [each.sent for each in turn.sent if each.sent is not None]
        if not (sent or done or turn.tried or turn.dropped):
            return
        handled = [Handled(desk.path, *entry.kept()) for desk, entry in done]
        handled += [Handled(dropped.to, "", (dropped.id,)) for dropped in turn.dropped]
        self.segments.append(ActorsWorked(packed(sent), tuple(handled), tuple(turn.tried)))
        book = self.book
        book.take(sent)
        book.note(turn.tried)
        for desk, entry in done:
            desk.entry = None
            book.keep(desk.path, entry.state, entry.consumed)
            if entry.posted:
                book.take([each.sent for each in entry.posted if each.sent is not None])
                turn.posted += entry.posted
        for dropped in turn.dropped:
            book.keep(dropped.to, "", (dropped.id,))

    async def _commit(self) -> None:
        try:
            while self._under_way:
                last = self._under_way[-1].number
                await self._journal.barrier()
                while self._under_way and self._under_way[0].number <= last:
                    self._finish(self._under_way.popleft())
                if self._has_more():
                    self._arm()
                if self.segments.cluttered and self._cleaner is None:
                    self._cleaner = new_task(self._clear(), self.kernel.loop, name="understudy-durable-clear")
        except JournalError as error:
            self._fail(error, [])
        finally:
            self._committer = None

    async def _clear(self) -> None:
        """Remove the streams that are not needed any more."""
        try:
            await self.segments.clear()
        except JournalError as error:
            self._fail(error, [])
        finally:
            self._cleaner = None

    def _has_more(self) -> bool:
        turn = self._turn
        return bool(turn.sent or turn.desks or turn.tried or turn.dropped or turn.after)

    def _finish(self, turn: Turn) -> None:
        """A turn is committed: do what follows from it."""
        self.committed = turn.number
        for envelope in turn.sent:
            told, envelope.told = envelope.told, None
            self._deliver(envelope, turn.number)
            if told is not None and not told.done():
                told.set_result(True)
        for envelope in turn.posted:
            self._deliver(envelope, turn.number)
        for committed in turn.after:
            committed(None)

    def _deliver(self, envelope: Posted, number: int) -> None:
        """A message of a turn is committed."""
        desk, envelope.desk = envelope.desk, None
        if desk is None or desk.closed:
            assert envelope.sent is not None  # noqa: S101  # a posted message has one
            desk = self._desk_at(envelope.sent.to, number)
        if desk is not None:
            desk.deliver(envelope)

    def _desk_at(self, path: str, number: int) -> Desk | None:
        """The desk of a path, if it has not found a message of that turn when it was made."""
        desk = self._paths.get(path)
        if desk is None:
            self.absent.add(path)
            self._watch()
        return desk if desk is not None and desk.since <= number else None

    def _fail(self, error: Exception, turns: list[Turn]) -> None:
        """The journal takes nothing any more: everybody who waits is told."""
        if not isinstance(error, JournalError):
            error = JournalFailed(self._journal.store.path, f"{type(error).__name__}: {error}")
        self.failure = self.failure or error
        turns = [*self._under_way, *turns]
        self._under_way.clear()
        if self._has_more():
            turns.append(self._turn)
            self._turn = Turn(self._turn.number + 1)
        for turn in turns:
            for envelope in turn.sent:
                if envelope.told is not None and not envelope.told.done():
                    envelope.told.set_exception(error)
            for committed in turn.after:
                committed(error)


def _give(room: asyncio.Future[bool]) -> None:
    """There will be no room in time."""
    if not room.done():
        room.set_result(False)


def _check_address(cell: Cell, path: str) -> None:
    """Raise `SpecError` for an address that the next process would not know, or that handles several at once."""
    above: Cell | None = cell
    while above is not None:
        if isinstance(above.name, int):
            raise SpecError(f"{path}: what is kept is found by its path, and {above.label} is a name that nobody chose")
        above = above.parent
    if cell.concurrency != 1:
        raise SpecError(f"{path}: an actor with declared state or durable messages handles one message at a time")
