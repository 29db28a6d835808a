"""What the kernel keeps of one address: the cell, its present life, and what reaches it.

Millions of messages pass through here, and a hundred thousand cells may rest at once, so both are small: a cell is a
slots object whose mailbox, children and watchers are made when first needed; a path is computed when somebody asks;
a plain `tell` is a tuple of message and sender. A *life* is one incarnation: it owns the actor object, its timers and
the tasks its suspended handlers run on. Fencing a life cuts it off: every framework call made from it raises `Fenced`.

Every delivery runs in a context of its own, in which `DELIVERY` holds the record of it: the envelope for an
`async def` handler, so that tasks it starts know whose they are for as long as they live; the life for a `def` handler,
whose message is `life.current` while it runs and nothing afterwards, because what it leaves behind serves no asker.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from msgspec import Struct

from understudy.actors.errors import Fenced
from understudy.actors.lifecycle import GONE, TABLE, Exit, IllegalTransition, LifeEvent, LifeState
from understudy.actors.mailbox import DEFAULT_LIMIT, Mailbox, Overflow

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.kernel import Kernel
    from understudy.actors.kit import Kit
    from understudy.actors.messages import Down, Message
    from understudy.actors.timers import Timer

CHAIN_LIMIT: Final = 32
"""Longest chain of asks that an envelope carries."""

Handler = Callable[[Any, Any], Any]
"""What is called with the actor and the message."""
Door = Mapping[type, tuple[Handler, bool]]
"""By message class: the handler, and whether it is an `async def`."""

CLOSED: Final[Door] = {}
"""The door of an address that takes nothing by the short way: whoever knocks is looked at by `Kernel.post`."""


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
    fail_fast: bool = False
    cancelled: bool = False

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
        "base",
        "cell",
        "context",
        "current",
        "fenced",
        "heat",
        "kit",
        "number",
        "ready",
        "tasks",
        "timers",
        "watching",
    )

    def __init__(self, cell: Cell, number: int) -> None:
        self.cell = cell
        self.number = number
        self.actor: Actor[Any] | None = None
        self.base: contextvars.Context | None = None
        self.context: contextvars.Context | None = None
        self.heat = 0
        self.current: Entry | None = None
        self.ready = False
        self.fenced = False
        self.tasks: dict[Envelope, asyncio.Task[Any]] | None = None
        self.timers: list[Timer] | None = None
        self.watching: dict[Cell, Message[Any] | None] | None = None
        self.kit: Kit | None = None

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
        for timer in self.timers or ():
            timer.cancel()
        self.timers = None


class Watcher(Protocol):
    """Whoever watches and is no actor."""

    def told(self, cell: Cell, down: Down) -> None:
        """The one notice of a watch of `cell`."""
        ...


START: Final = object()
"""What a life begins with, before any message: make the actor and call its `on_start`."""

IDLE: Final = 0
QUEUED: Final = 1
BUSY: Final = 2


class Cell:
    """One address. See `kernel` for who changes what.

    `status` is `IDLE` (nothing waits, a message may begin at once), `QUEUED` (in the run queue, or being served) or
    `BUSY` (it cannot take a message now: a handler is suspended, or the state is not `running`). `first` is the only
    message that waits, if it is one; then there is no mailbox. `plain` says that it is running and that messages are
    all there is to attend to.
    """

    __slots__ = (
        "_children",
        "_watchers",
        "concurrency",
        "door",
        "exit",
        "factory",
        "first",
        "fresh",
        "idle",
        "kernel",
        "kind",
        "leaving",
        "life",
        "mailbox",
        "name",
        "number",
        "on_exit",
        "parent",
        "plain",
        "reaper",
        "shutdown",
        "started",
        "state",
        "status",
        "stopped",
    )

    def __init__(
        self,
        kernel: Kernel,
        name: str | int,
        factory: Callable[[], Actor[Any]],
        parent: Cell | None = None,
        on_exit: Callable[[Cell, int, Exit], None] | None = None,
    ) -> None:
        self.kernel = kernel
        self.name = name
        self.factory = factory
        self.state: LifeState = "new"
        self.status: Literal[0, 1, 2] = BUSY
        self.plain = False
        self.number = 0
        self.life: Life | None = None
        self.first: Entry | None = None
        self.mailbox: Mailbox[Entry] | None = None
        self.kind: type[Actor[Any]] | None = None
        self.door: Door = CLOSED
        self.concurrency = 1
        self.fresh = False
        self.leaving = False
        self.parent = parent
        self._children: dict[str | int, Cell] | None = None
        self._watchers: dict[Cell | Watcher, int] | None = None
        self.on_exit = on_exit
        self.exit: Exit = GONE
        self.shutdown = 5.0
        self.started: asyncio.Future[None] | None = None
        self.stopped: asyncio.Future[None] | None = None
        self.idle: asyncio.Future[None] | None = None
        self.reaper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Cell {self.path} {self.state} #{self.number}>"

    @property
    def path(self) -> str:
        """The address, as "audit/inspector/2"; "$7" is a name that nobody chose."""
        return self.label if self.parent is None else f"{self.parent.path}/{self.label}"

    @property
    def label(self) -> str:
        """The name as text."""
        return self.name if isinstance(self.name, str) else f"${self.name}"

    @property
    def table(self) -> Mapping[type, Handler] | None:
        """Handlers by message class; None while they are not known, before the first start."""
        return None if self.kind is None else self.kind.handlers

    @property
    def limit(self) -> int:
        """Messages that wait at most."""
        return DEFAULT_LIMIT if self.kind is None else self.kind.mailbox_limit

    @property
    def overflow(self) -> Overflow:
        """What happens then."""
        return "refuse" if self.kind is None else self.kind.overflow

    @property
    def children(self) -> dict[str | int, Cell]:
        """By name, in start order; `adopt` and `disown` change it."""
        return self._children or {}

    @property
    def watchers(self) -> Mapping[Cell | Watcher, int]:
        """Who is to be told of the end of which incarnation."""
        return self._watchers or {}

    @property
    def running(self) -> int:
        """Handlers that have begun and not ended; what a fenced life still runs does not count."""
        life = self.life
        if life is None or life.fenced:
            return 0
        return (life.current is not None) + (len(life.tasks) if life.tasks else 0)

    @property
    def waiting(self) -> int:
        """Messages that wait."""
        return (self.first is not None) + (len(self.mailbox) if self.mailbox is not None else 0)

    @property
    def quiet(self) -> bool:
        """Whether there is nothing to wind up at the end of an incarnation: it can end at once."""
        life = self.life
        if life is None:
            return True
        busy = life.current is not None and not life.fenced
        stops = life.ready and self.kind is not None and self.kind.stops
        return not (busy or life.tasks or self._children or stops or life.kit is not None)

    def advance(self, event: LifeEvent) -> None:
        """Follow the lifecycle table. Raises `IllegalTransition`. The cell is not plain until `heed` says so."""
        state = TABLE[self.state].get(event)
        if state is None:
            raise IllegalTransition(self.state, event)
        self.state = state
        self.plain = False
        if self.status == IDLE:
            self.status = BUSY

    def heed(self) -> None:
        """Say anew whether the cell is plain. Called after a change to `running` and of what else that depends on."""
        life = self.life
        self.plain = (
            self.state == "running"
            and not self.leaving
            and self.idle is None
            and self.concurrency == 1
            and life is not None
            and life.ready
            and life.base is None
        )
        if not self.plain and self.status == IDLE:
            self.status = BUSY

    def know(self, kind: type[Actor[Any]], *, short_way: bool) -> None:
        """Learn the actor's class, and with it what the address takes.

        `short_way`: `Ref.tell` may put messages in without a look, because the cell is served until nothing waits, or
        will be when what keeps it busy ends. That holds for one that is plain whenever it runs.
        """
        self.kind = kind
        self.door = kind.door if short_way else CLOSED
        if self.mailbox is not None:
            self.mailbox.limit, self.mailbox.overflow = self.limit, self.overflow

    def box(self) -> Mailbox[Entry]:
        """The mailbox, made when first needed; what waited alone is the first in it."""
        box = self.mailbox
        if box is None:
            box = self.mailbox = self.kernel.dispatcher.take_box(self.limit, self.overflow)
        if self.first is not None:
            box.work.appendleft(self.first)
            self.first = None
        return box

    def takes(self) -> tuple[str, ...]:
        """Names of the message types there is a handler for, sorted."""
        return tuple(sorted(kind.__name__ for kind in self.table or ()))

    def runnable(self) -> bool:
        """Whether a worker could begin something now."""
        if self.state == "running":
            return (self.first is not None or bool(self.mailbox)) and self.running < self.concurrency
        if self.state == "suspended":
            return self.mailbox is not None and self.mailbox.has_control and self.running < self.concurrency
        return self.fresh and self.state == "starting"

    def take(self) -> Entry | None:
        """The entry that may begin now: control, then work; of a suspended actor control alone."""
        if self.running >= self.concurrency:
            return None
        if self.state != "running":
            suspended = self.state == "suspended" and self.mailbox is not None
            return self.mailbox.take_control() if suspended and self.mailbox is not None else None
        if self.first is not None:
            entry, self.first = self.first, None
            return entry
        return self.mailbox.take() if self.mailbox is not None else None

    def adopt(self, child: Cell) -> None:
        """Add a child."""
        if self._children is None:
            self._children = {}
        self._children[child.name] = child

    def disown(self, child: Cell) -> None:
        """Take a child out; its name is free again."""
        if self._children is not None and self._children.get(child.name) is child:
            del self._children[child.name]
            if not self._children:
                self._children = None

    def watch(self, watcher: Cell | Watcher) -> None:
        """Note who is to be told of the end of the present incarnation."""
        if self._watchers is None:
            self._watchers = {}
        self._watchers[watcher] = self.number

    def unwatch(self, watcher: Cell | Watcher) -> None:
        """Forget a watcher."""
        if self._watchers is not None:
            self._watchers.pop(watcher, None)

    def take_watchers(self) -> Iterator[Cell | Watcher]:
        """Everyone to be told, once."""
        watchers, self._watchers = self._watchers, None
        return iter(watchers or ())


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
