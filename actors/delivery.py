"""What reaches an actor, and the life it reaches.

A plain `tell` is a tuple of message and sender; an *envelope* has what a request has beside: a reply, a deadline, a
chain. A *life* is one incarnation: it owns the actor object, its timers and the tasks its suspended handlers run on.
Fencing a life cuts it off: every framework call made from it raises `Fenced`.

Every delivery runs in a context of its own, in which `DELIVERY` holds the record of it: the envelope for an
`async def` handler, so that tasks it starts know whose they are for as long as they live; the life for a `def` handler,
whose message is `life.current` while it runs and nothing afterwards, because what it leaves behind serves no asker.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from msgspec import Struct

from understudy.actors.errors import Fenced

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.cell import Cell
    from understudy.actors.kit import Kit
    from understudy.actors.messages import Message
    from understudy.actors.timers import Timer

CHAIN_LIMIT: Final = 32
"""Longest chain of asks that an envelope carries."""

Handler = Callable[[Any, Any], Any]
"""What is called with the actor and the message."""
Door = Mapping[type, tuple[Handler, bool]]
"""By message class: the handler, and whether it is an `async def`."""

CLOSED: Final[Door] = {}
"""The door of an address that takes nothing by the short way: whoever knocks is looked at by `Kernel.post`."""


START: Final = object()
"""What a life begins with, before any message: make the actor and call its `on_start`."""


class Envelope(Struct, eq=False):
    """A message on its way, with what a bare `tell` does not have: a reply, a deadline, a chain of asks.

    `chain` holds the requests that wait for this one, the first first.
    `sender` is None for code outside of actors; `life` is set when it is delivered.
    """

    message: Any  # any message class; the door has checked that there is a handler for it
    sender: Cell | None = None
    life: Life | None = None
    deadline: float | None = None
    chain: tuple[Envelope, ...] = ()
    reply: asyncio.Future[Any] | None = None
    tries: int = 0
    """Incarnations that failed while they handled it; see `Actor.redeliver`."""
    fail_fast: bool = False
    cancelled: bool = False
    first: Envelope | None = None
    """The envelope of the first delivery, None in that one."""
    newest: Envelope | None = None
    """In the first: that of the latest, if there were more. Those between are kept by nobody but who still runs."""

    durable: ClassVar[bool] = False
    """Whether it waits in the journal, too: then it is not lost with a mailbox or a handler."""

    def again(self) -> Envelope:
        """The envelope for another delivery of a message that was put aside, or is redelivered.

        What a delivery leaves behind goes on with its own record, and life.
        """
        following = copy.copy(self)
        following.life = following.newest = None
        following.first = first = self.first or self
        first.newest = following
        return following

    @property
    def where(self) -> str:
        """The path of who handles it, "" while nobody does."""
        return "" if self.life is None else self.life.cell.path

    @property
    def last(self) -> Envelope:
        """The envelope of the latest delivery."""
        return (self.first or self).newest or self

    def answer(self, value: object) -> bool:
        """Give the reply; False when nobody waits any more."""
        if self.reply is None:
            return True
        if self.reply.done():
            return False
        self.reply.set_result(value)
        return True

    def fail(self, error: BaseException) -> None:
        """Give an error as the reply."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


Entry = tuple[Any, "Cell | None"] | Envelope
"""What waits in a mailbox: message and sender of a `tell`, or an envelope."""


def message_of(entry: Entry) -> Any:
    """The message of an entry."""
    return entry[0] if isinstance(entry, tuple) else entry.message


def sender_of(entry: Entry) -> Cell | None:
    """Who sent an entry; None for code outside of actors."""
    return entry[1] if isinstance(entry, tuple) else entry.sender


def path_of(cell: Cell | None) -> str:
    """The path of a sender, "" for code outside of actors."""
    return "" if cell is None else cell.path


class Notice(Envelope, eq=False):
    """What the control lane carries: addressed to one incarnation, and forgotten with it. `about`: see `watching`."""

    about: Cell | None = None


class _More:
    """What few lives have: see `Life`."""

    __slots__ = ("base", "kit", "timers", "watching")

    def __init__(self) -> None:
        self.base: contextvars.Context | None = None
        self.timers: list[Timer] | None = None
        self.watching: dict[Cell, Message[Any] | None] | None = None
        self.kit: Kit | None = None


class Life:
    """One incarnation. `tasks` maps the envelopes of suspended handlers to the tasks they run on.

    `current` is the entry whose handler is in its first step right now. `context` is what `def` handlers run in a copy
    of: `DELIVERY` is this life there. It is made for busy actors, by `heat`, and taken away again (see `Dispatcher`).
    `base` is the context that deliveries start from, when it is not the kernel's.
    `ready` is set when `on_start` has returned; without it there is nothing for `on_stop` to undo. `kit` is what few
    incarnations use, None until then. `watching` maps what is watched to the message asked for, None for `Down`.
    """

    __slots__ = (
        "actor",
        "cell",
        "context",
        "current",
        "fenced",
        "heat",
        "more",
        "number",
        "ready",
        "tasks",
    )

    def __init__(self, cell: Cell, number: int) -> None:
        self.cell = cell
        self.number = number
        self.actor: Actor[Any] | None = None
        self.context: contextvars.Context | None = None
        self.heat = 0
        self.current: Entry | None = None
        self.ready = False
        self.fenced = False
        self.tasks: dict[Envelope, asyncio.Task[Any]] | None = None
        self.more: _More | None = None

    def _have_more(self) -> _More:
        if self.more is None:
            self.more = _More()
        return self.more

    @property
    def base(self) -> contextvars.Context | None:
        """The context that deliveries start from; None for the kernel's."""
        return None if self.more is None else self.more.base

    @base.setter
    def base(self, context: contextvars.Context) -> None:
        self._have_more().base = context

    @property
    def timers(self) -> list[Timer] | None:
        """What `after` has set."""
        return None if self.more is None else self.more.timers

    @timers.setter
    def timers(self, timers: list[Timer]) -> None:
        self._have_more().timers = timers

    @property
    def watching(self) -> dict[Cell, Message[Any] | None] | None:
        """What is watched, and the message asked for."""
        return None if self.more is None else self.more.watching

    @watching.setter
    def watching(self, watching: dict[Cell, Message[Any] | None]) -> None:
        self._have_more().watching = watching

    @property
    def kit(self) -> Kit | None:
        """What few incarnations use, None until then."""
        return None if self.more is None else self.more.kit

    @kit.setter
    def kit(self, kit: Kit) -> None:
        self._have_more().kit = kit

    def own(self, envelope: Envelope, task: asyncio.Task[Any]) -> None:
        """Note on which task a handler that has suspended goes on."""
        if self.tasks is None:
            self.tasks = {}
        self.tasks[envelope] = task

    def disown(self, envelope: Envelope) -> None:
        """A handler that had suspended has ended."""
        if self.tasks is not None:
            self.tasks.pop(envelope, None)
            self.tasks = self.tasks or None

    def cancel(self) -> None:
        """Ask every suspended handler to end."""
        for task in list(self.tasks.values()) if self.tasks else ():
            task.cancel()

    def end_timers(self) -> None:
        """Cancel what the incarnation has set."""
        if self.more is not None:
            for timer in self.more.timers or ():
                timer.cancel()
            self.more.timers = None


DELIVERY: Final[contextvars.ContextVar[Envelope | Life | None]] = contextvars.ContextVar(
    "understudy_delivery", default=None
)


def current_life() -> Life | None:
    """The life this code runs for, or None outside of handlers. Raises `Fenced` if it was cut off."""
    record = DELIVERY.get()
    if record is None:
        return None
    life = record if isinstance(record, Life) else record.life
    if life is not None and life.fenced:
        raise fenced(life)
    return life


def current_entry() -> Entry | None:
    """What this code handles, or None outside of handlers and in what a `def` handler left behind. Raises `Fenced`."""
    life = current_life()
    if life is None:
        return None
    record = DELIVERY.get()
    return life.current if isinstance(record, Life) else record


def fenced(life: Life) -> Fenced:
    """The error of a life that was cut off."""
    return Fenced(f"{life.cell.path} #{life.number} was killed")
