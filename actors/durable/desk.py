"""The desk of one address: its kept state, its durable messages that wait, and how its handlers are called.

While an address has a desk, its handlers are called through it: when one ends well, the state it left, the message it
consumed and the messages it posted are one entry; when it raises, nothing of it is kept. What a handler answers is
given when that entry is committed.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

import msgspec

from understudy.actors.cell import QUEUED
from understudy.actors.delivery import Envelope, Life, fenced
from understudy.actors.errors import JournalError, UsageError
from understudy.actors.journal.durable_events import Batch, Sent, Tried, packed
from understudy.actors.kit import kit_of
from understudy.actors.lifecycle import ALIVE
from understudy.actors.messages import tag_of
from understudy.actors.telemetry import DeadLetter

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.cell import Cell
    from understudy.actors.durable.declared import Form
    from understudy.actors.durable.office import Office

TOGETHER: Final = 64
"""Messages of a former process that are taken up together, as long as none of them was ever handled in vain."""

DETAIL: Final = 200
"""Characters of an error that are kept with a message that was handled in vain."""

_encode: Final = msgspec.json.Encoder().encode
_Handler = Callable[..., Any]


class Posted(Envelope, eq=False):
    """A durable message on its way: in the mailbox, the stash, or being handled."""

    sent: Sent | None = None
    desk: Desk | None = None
    """Where it goes, while it is being accepted, and `told`: whom to tell of that."""
    told: asyncio.Future[Literal[True]] | None = None

    durable: ClassVar[bool] = True


class Entry:
    """What the handlers of one actor have changed since the last entry was put into the journal."""

    __slots__ = ("consumed", "posted", "state")

    def __init__(self) -> None:
        self.state = ""
        self.consumed: list[int] = []
        self.posted: list[Posted] = []

    def kept(self) -> tuple[str, tuple[int, ...], tuple[Batch, ...]]:
        """As it is journalled: see `Handled`."""
        sent = packed([each.sent for each in self.posted if each.sent is not None]) if self.posted else ()
        return self.state, tuple(self.consumed), sent


class _Later:
    """In place of the reply of a request, until what its handler did is committed."""

    __slots__ = ("_office", "asked")

    def __init__(self, office: Office, asked: asyncio.Future[Any]) -> None:
        self._office = office
        self.asked = asked

    def done(self) -> bool:
        return self.asked.done()

    def set_result(self, value: object) -> None:
        def committed(error: BaseException | None) -> None:
            if self.asked.done():
                return
            if error is not None:
                self.asked.set_exception(error)
            else:
                self.asked.set_result(value)

        self._office.after(committed)

    def set_exception(self, error: BaseException) -> None:
        if not self.asked.done():
            self.asked.set_exception(error)


class Desk:
    """See the module. `taken` counts the messages that are accepted, or about to be, and not consumed.

    Those are in the mailbox, the stash or in hand; in `_again`, before the mailbox; or in `_queue`, behind it.
    `_careful` holds those of a former process that are being tried: nothing goes behind them before they are done.
    """

    def __init__(self, office: Office, cell: Cell, path: str, since: int) -> None:
        self.since = since
        """The first turn of the office whose messages it is told of; the others it has found in the book."""
        self.cell = cell
        self.path = path
        self.limit = cell.limit
        self.closed = False
        self.takes: dict[type, str] = {}
        """The tags of the message types that the actor handles."""
        self.entry: Entry | None = None
        """For the office: what goes into the next event."""
        self.turn = 0
        """For the office: in which event the last entry went."""
        self.taken = 0
        self.rooms: deque[asyncio.Future[bool]] = deque()
        self._office = office
        self._form: Form | None = None
        self._state: Any = None  # the actor's own struct
        self._again: list[Posted] = []
        self._queue: deque[Posted] = deque()
        self._careful: dict[int, Posted] = {}
        self._tries: dict[int, int] = {}
        self._in_hand: Envelope | None = None
        self._posting: list[Posted] = []
        self._calls: dict[_Handler, _Handler] = {}

    # -- a life begins, and the address ends -----------------------------------------------------------------

    def begin(self, actor: Actor[Any]) -> None:
        """A life of an actor with declared state begins: give it what is kept, else take what it begins with."""
        form = self._form = self._office.form(type(actor))
        if form is None:
            return
        pending = self.entry.state if self.entry is not None else ""
        kept = pending or self._office.book.states.get(self.path)
        if kept is not None:
            actor.state = form.decode(kept, self.path, type(actor))  # type: ignore[attr-defined]  # it declares one
        else:
            form.encode(actor.state, self.path)  # type: ignore[attr-defined]  # as above
        self._state = actor.state  # type: ignore[attr-defined]  # as above

    def open(self, life: Life) -> None:
        """The life takes messages: call its handlers through here, and take up what waits."""
        kit_of(life).desk = self
        self._calls = {}
        self.takes = {kind: tag_of(kind) for kind in (self.cell.kind.handlers if self.cell.kind is not None else ())}
        if isinstance(self._in_hand, Posted):  # of a life that was cut off in the middle of it
            self._vain(self._in_hand, "killed")
        self._in_hand = None
        self._posting = []
        again, self._again = sorted(self._again, key=_id), []
        if again:
            self.cell.box().put_back(again)
            self._office.kernel.wake(self.cell)
        self._feed()

    def close(self) -> None:
        """The address is gone. What waits goes on waiting in the journal."""
        self.closed = True
        for room in self.rooms:
            if not room.done():
                room.set_result(False)

    def rest(self) -> None:
        """The process ends in order: what is being tried was not in vain."""
        for id in self._careful:
            self._note(id, max(0, self._tried(id) - 1))
        self._careful = {}

    # -- messages that wait ------------------------------------------------------------------------------------

    def take_up(self, waiting: Iterable[Sent]) -> None:
        """Messages that were accepted before there was this desk."""
        self._queue.extend(Posted(None, sent=sent) for sent in sorted(waiting, key=lambda sent: sent.id))
        self.taken = len(self._queue)

    def come_back(self, sent: Sent) -> None:
        """A dead message waits again, behind all others."""
        self._tries.pop(sent.id, None)
        self.taken += 1
        self._queue.append(Posted(None, sent=sent))
        self._feed()

    def deliver(self, envelope: Posted) -> None:
        """A message is committed: put it into the mailbox, or behind those that wait for it."""
        if self._queue or self._careful or self.closed:
            self._queue.append(envelope)
        else:
            self._put(envelope)

    def _put(self, envelope: Posted) -> None:
        cell = self.cell
        cell.box().work.append(envelope)  # whatever its size: there is room, which was asked for before
        if cell.status != QUEUED:
            self._office.kernel.wake(cell)

    def _feed(self) -> None:
        """Put what waits into the mailbox; of a former process only so much that what kills a process is found."""
        queue, former = self._queue, self._office.former
        while queue and not self._careful:
            if queue[0].sent.id in former:  # type: ignore[union-attr]  # a posted message has one
                self._try_former()
            elif (envelope := self._readable(queue.popleft())) is not None:
                self._put(envelope)

    def _try_former(self) -> None:
        """Take up the next messages of a former process; one that was ever handled in vain is the first of them."""
        found: list[Posted] = []
        while self._queue and len(found) < TOGETHER:
            envelope = self._queue[0]
            id = _id(envelope)
            if id not in self._office.former or (found and self._tried(id)):
                break
            self._queue.popleft()
            if self._tried(id) >= self._limit:
                self.give_up(envelope, f"{self._tried(id)} processes ended while it was handled")
                continue
            if self._readable(envelope) is not None:
                found.append(envelope)
        if not found:
            return
        self._careful = {_id(envelope): envelope for envelope in found}
        for id in self._careful:
            self._note(id, self._tried(id) + 1, "taken up again")
        self._office.after(lambda error: self._try_them(found) if error is None else None)

    def _try_them(self, found: list[Posted]) -> None:
        """It is committed that these are being tried."""
        for envelope in found:
            if _id(envelope) in self._careful and not self.closed:
                self._put(envelope)

    def _readable(self, envelope: Posted) -> Posted | None:
        """The message, decoded; None, and a dead message, if the actor cannot take it any more."""
        sent = envelope.sent
        if envelope.message is None and sent is not None:
            kind = next((kind for kind, tag in self.takes.items() if tag == sent.tag), None)
            try:
                if kind is None:
                    raise UsageError(f"no handler for {sent.tag}")
                envelope.message = msgspec.json.decode(sent.body, type=kind)
            except (msgspec.MsgspecError, UsageError) as error:
                self.give_up(envelope, str(error))
                return None
            envelope.sender = self._office.kernel.registry.find(sent.by) if sent.by else None
        return envelope

    def leave(self) -> None:
        """A message does not wait any more, or was not sent after all."""
        self.taken -= 1
        self.grant()

    def grant(self) -> None:
        """Give room to those who wait for it, the longest waiting first."""
        free = self.limit - self.taken
        while self.rooms and free > 0:
            room = self.rooms.popleft()
            if not room.done():
                room.set_result(True)
                self.taken += 1  # until whoever waits for it comes to take it
                free -= 1

    def _gone(self, id: int) -> None:
        self._office.former.discard(id)
        self._tries.pop(id, None)
        self.taken -= 1
        if self.rooms:
            self.grant()
        if self._careful and self._careful.pop(id, None) is not None:
            self._feed()

    # -- handlers ----------------------------------------------------------------------------------------------

    def through(self, life: Life, handler: _Handler) -> _Handler:
        """The handler, with its end noted."""
        found = self._calls.get(handler)
        if found is not None:
            return found

        def call(actor: object, message: object) -> Any:  # what the handler returns
            envelope: Any = life.current  # by the long way it is an envelope
            self._in_hand = envelope
            try:
                value = handler(actor, message)
            except BaseException as error:
                self._failed(life, envelope, error)
                raise
            if type(value) is types.CoroutineType:
                return self._until(life, envelope, value)
            self._ended(life, envelope)
            return value

        self._calls[handler] = call
        return call

    async def _until(self, life: Life, envelope: Envelope, handling: Coroutine[Any, Any, Any]) -> Any:
        try:
            value = await handling
        except BaseException as error:
            self._failed(life, envelope, error)
            raise
        self._ended(life, envelope)
        return value

    def handles(self, entry: object) -> bool:
        """Whether this is what is being handled, so that what is posted now rides with its end."""
        return entry is not None and entry is self._in_hand and (self._form is not None or type(entry) is Posted)

    def post(self, envelope: Posted) -> None:
        """Send this when the handler has ended well."""
        self._posting.append(envelope)

    def _ended(self, life: Life, envelope: Envelope) -> None:
        """A handler has ended well: what it did is one entry."""
        if life.fenced:
            raise fenced(life)
        office = self._office
        state = self._changed(life, envelope) if self._form is not None else ""
        # With a reply, which a posted message has not, it was put aside.
        sent = envelope.sent if type(envelope) is Posted and envelope.reply is None else None
        if state or self._posting or sent is not None:
            if office.failure is not None:
                self._failed(life, envelope, office.failure)
                raise office.failure
            entry = self.entry
            if entry is None:
                entry = self.entry = Entry()
                office.worked(self)
            if state:
                entry.state = state
                self._state = life.actor.state  # type: ignore[union-attr]  # it handles, and declares one
            if self._posting:
                entry.posted += self._posting
                self._posting = []
            if sent is not None:
                entry.consumed.append(sent.id)
                self._gone(sent.id)
        self._in_hand = None
        reply: Any = envelope.reply
        if isinstance(reply, asyncio.Future) and (self.entry is not None or self.turn > office.committed):
            envelope.reply = cast("asyncio.Future[Any]", _Later(office, reply))

    def _changed(self, life: Life, envelope: Envelope) -> str:
        """The state as JSON if the handler has changed it. Raises `UsageError`."""
        now = life.actor.state  # type: ignore[union-attr]  # it handles, and declares one
        if now is self._state or self._form is None:
            return ""
        try:
            return self._form.encode(now, self.path)
        except UsageError as error:
            self._failed(life, envelope, error)
            raise

    def _failed(self, life: Life, envelope: Envelope, error: BaseException) -> None:
        """A handler has ended badly: nothing of it is kept, and a posted message is tried again, so many times."""
        if life.fenced:
            return
        if isinstance(error, self._office.leave):  # it ends its incarnation on purpose
            self._ended(life, envelope)
            return
        self._in_hand = None
        posting, self._posting = self._posting, []
        for each in posting:
            self._office.withdraw(each)
        if type(envelope) is not Posted:
            return
        cut = isinstance(error, asyncio.CancelledError) and self.cell.state not in ALIVE
        if not cut and not isinstance(error, JournalError):
            self._vain(envelope, f"{type(error).__name__}: {error}"[:DETAIL])
            return
        id = _id(envelope)
        if self._careful.pop(id, None) is not None:
            self._note(id, self._tried(id) - 1)
        self._back(envelope)

    def _back(self, envelope: Posted) -> None:
        """The message waits for the next life, before all others."""
        self._again.append(Posted(envelope.message, envelope.sender, sent=envelope.sent))

    def _vain(self, envelope: Posted, why: str) -> None:
        """A message was handled in vain; of one that is being tried that is noted already."""
        id = _id(envelope)
        tries = self._tried(id) + (id not in self._careful)
        if tries >= self._limit:
            self.give_up(envelope, why)
            return
        self._note(id, tries, why)
        self._back(envelope)

    @property
    def _limit(self) -> int:
        return self.cell.kind.durable_tries if self.cell.kind is not None else 1

    def _tried(self, id: int) -> int:
        return self._tries[id] if id in self._tries else self._office.book.tries(id)

    def _note(self, id: int, tries: int, why: str = "", *, dead: bool = False) -> None:
        self._tries[id] = tries
        self._office.tried(Tried(id, self.path, tries, why, dead))

    def give_up(self, envelope: Posted, why: str) -> None:
        """The message is a dead one, in the journal."""
        sent = envelope.sent
        assert sent is not None  # noqa: S101  # a posted message has one
        self._note(sent.id, self._tried(sent.id) + (sent.id not in self._careful), why, dead=True)
        self._gone(sent.id)
        self._office.kernel.telemetry.dead(DeadLetter(self.path, sent.by, "failed", envelope.message or sent, why))


def _id(envelope: Posted) -> int:
    assert envelope.sent is not None  # noqa: S101  # a posted message has one
    return envelope.sent.id


def encoded(message: Any) -> tuple[str, Any]:
    """A message as JSON, and as it will be read back. Raises `UsageError` for one that could not be."""
    try:
        data = _encode(message)
        if b"\n" in data:  # of a field that was JSON before; bodies are kept in lines
            data = msgspec.json.format(data, indent=-1)
        return data.decode(), msgspec.json.decode(data, type=type(message))
    except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{type(message).__qualname__} cannot be sent durably: {error}") from error
