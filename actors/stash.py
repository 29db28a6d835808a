"""Messages put aside: what an actor cannot serve yet waits in its stash and comes back ahead of the mailbox.

A request in the stash goes on waiting: its asker, its deadline and its chain stay as they were, and what the handler
that put it aside returns answers nobody. The rules are those of Pekko's stash: bounded, an overflow raises and changes
nothing, `unstash_all` gives back what is there at the call. When the incarnation ends, what was put aside goes back
to the front of the mailbox, in order, and shares its fate: the next incarnation gets it, or it is a dead letter.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from understudy.actors.delivery import DELIVERY, START, Envelope, Life, Notice, current_life
from understudy.actors.errors import AskTimeout, SpecError, StashFull, UsageError
from understudy.actors.kit import kit_of

if TYPE_CHECKING:
    from understudy.actors.cell import Cell

# A reply is whatever a handler returned.
_Reply = asyncio.Future[Any]


class Held:
    """In place of the reply of a message that was put aside, until the handler that did so has ended.

    What that handler returns is dropped. What it raises ends the message: it was the one being handled, and would
    bring down the next incarnation, too.
    """

    __slots__ = ("_envelope", "_reply", "_stash")

    def __init__(self, stash: Stash, envelope: Envelope) -> None:
        self._stash = stash
        self._envelope = envelope
        self._reply = envelope.reply

    @property
    def asked(self) -> _Reply | None:
        """The reply that the asker waits for."""
        return self._reply

    def done(self) -> bool:
        """Always False: the handler's result has no meaning, also when the asker is gone."""
        return False

    def set_result(self, value: object) -> None:
        """The handler returned."""
        self._envelope.reply = self._reply
        self._stash.settled(self._envelope)
        self._stash.cell.heed()

    def set_exception(self, error: BaseException) -> None:
        """The deadline passed, or the handler failed."""
        if not isinstance(error, AskTimeout):
            self._envelope.reply = self._reply
            self._stash.forget(self._envelope)
            self._stash.cell.heed()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


class Stash:
    """The messages one incarnation has put aside, oldest first; at most `limit`. Raises `SpecError` below 1."""

    __slots__ = ("_kept", "_wanted", "cell", "limit")

    def __init__(self, cell: Cell, limit: int) -> None:
        if limit < 1:
            raise SpecError(f"{cell.path}: stash_limit {limit!r}; at least 1")
        self.limit = limit
        self.cell = cell
        self._kept: list[Envelope] = []
        self._wanted: list[Envelope] = []

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, envelope: Envelope) -> None:
        """Put aside what is being handled. Raises `StashFull`; `UsageError` the second time."""
        if _in_hand(envelope):
            raise UsageError(f"{self.cell.path}: stash() twice of one {type(envelope.message).__name__}")
        if len(self._kept) >= self.limit:
            self._drop_expired()
        if len(self._kept) >= self.limit:
            raise StashFull(self.cell.path, self.limit)
        if envelope.reply is None and envelope.deadline is not None:  # an ask that was stepped at once
            envelope.reply = self.cell.kernel.loop.create_future()
        envelope.reply = cast("_Reply", Held(self, envelope))
        self._kept.append(envelope)

    def give_all(self) -> int:
        """Put everything back ahead of the mailbox, in order; how many."""
        kept, self._kept = self._kept, []
        if self.cell.concurrency > 1:  # of several handlers one may still be busy with what it put aside
            self._wanted += [envelope for envelope in kept if _in_hand(envelope)]
        back = [envelope for envelope in kept if envelope not in self._wanted]
        self._put_back(back)
        return len(kept)

    def settled(self, envelope: Envelope) -> None:
        """The handler that put it aside has ended."""
        if envelope in self._wanted:
            self._wanted.remove(envelope)
            self._put_back([envelope])

    def forget(self, envelope: Envelope) -> None:
        """The handler that put it aside failed, and the message with it."""
        self._kept = [kept for kept in self._kept if kept is not envelope]
        self._wanted = [wanted for wanted in self._wanted if wanted is not envelope]
        self.cell.box().withdraw(lambda waiting: waiting is envelope)

    def give_back(self) -> None:
        """The incarnation ended: everything goes back to the mailbox but notices, which were for this one only."""
        self.cell.box().withdraw(lambda waiting: isinstance(waiting, Notice))
        both = self._wanted + self._kept
        back = [kept for kept in both if not isinstance(kept, Notice) and not _in_hand(kept)]
        self._kept, self._wanted = [], []
        self.cell.box().put_back(back)

    def _put_back(self, back: list[Envelope]) -> None:
        self.cell.box().put_back(back)
        self.cell.kernel.wake(self.cell)

    def _drop_expired(self) -> None:
        now = self.cell.kernel.loop.time()
        for envelope in list(self._kept):
            if envelope.deadline is not None and (envelope.cancelled or envelope.deadline <= now):
                self._kept.remove(envelope)
                self.cell.kernel.expire(self.cell, envelope)


def _in_hand(envelope: Envelope) -> bool:
    """Whether the handler that put it aside has not ended."""
    reply: object = envelope.reply
    return isinstance(reply, Held)


def put_aside(cell: Cell) -> None:
    """Put the message aside that `cell` handles here. See `ActorContext.stash`."""
    life = current_life()
    envelope = _handled(life) if life is not None and life.cell is cell and cell.running else None
    if life is None or envelope is None or envelope.message is START:
        raise UsageError(f"{cell.path}: stash() puts the message aside that is being handled, and here is none")
    kit = kit_of(life)
    if kit.stash is None:
        assert life.actor is not None  # noqa: S101  # it handles a message
        kit.stash = Stash(cell, life.actor.stash_limit)
    kit.stash.put(envelope)
    cell.plain = False  # the end of the handler is to be looked at


def _handled(life: Life) -> Envelope | None:
    """The envelope of what is being handled here; a bare message gets one."""
    record = DELIVERY.get()
    entry = life.current if isinstance(record, Life) else record
    if isinstance(entry, tuple):
        entry = life.current = Envelope(entry[0], entry[1], life)
    return entry


def take_up(cell: Cell) -> int:
    """Put back what `cell` has put aside; how many. See `ActorContext.unstash_all`."""
    kit = cell.life.kit if cell.life is not None else None
    return kit.stash.give_all() if kit is not None and kit.stash is not None else 0


def count(cell: Cell) -> int:
    """How many messages `cell` has put aside."""
    kit = cell.life.kit if cell.life is not None else None
    return len(kit.stash) if kit is not None and kit.stash is not None else 0
