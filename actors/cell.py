"""What the kernel keeps of one address: the cell, its present life, and the envelopes that reach it.

A cell is a slots object; mailbox and context are made when first needed. A *life* is one incarnation: it owns
the actor object, its base context, its timers and the tasks its suspended handlers run on. Fencing a life cuts
it off: every framework call made from it raises `Fenced`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from understudy.actors.errors import Fenced
from understudy.actors.lifecycle import GONE, Exit, LifeEvent, LifeState, advance
from understudy.actors.mailbox import DEFAULT_LIMIT, Mailbox, Overflow

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.kernel import Kernel
    from understudy.actors.kit import Kit
    from understudy.actors.messages import Down, Message
    from understudy.actors.timers import Timer

CHAIN_LIMIT: Final = 32
"""Longest chain of asks that an envelope carries."""


class Envelope:
    """A message on its way: who gets the reply, until when it is wanted, and the chain of asks it belongs to."""

    __slots__ = ("cancelled", "chain", "deadline", "fail_fast", "message", "reply", "sender")

    def __init__(
        self,
        message: Any,  # any message class; the door has checked that there is a handler for it
        sender: str = "",
        reply: asyncio.Future[Any] | None = None,
        deadline: float | None = None,
        chain: tuple[str, ...] = (),
        fail_fast: bool = False,
    ) -> None:
        self.message = message
        self.sender = sender
        self.reply = reply
        self.deadline = deadline
        self.chain = chain
        self.fail_fast = fail_fast
        self.cancelled = False

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


class Notice(Envelope):
    """What the control lane carries: addressed to one incarnation, and forgotten with it. `about`: see `watching`."""

    __slots__ = ("about",)

    def __init__(self, message: Any, about: Cell | None = None) -> None:  # any message class, as above
        super().__init__(message)
        self.about = about


class Life:
    """One incarnation. `tasks` maps the envelopes of suspended handlers to the tasks they run on.

    `ready` is set when `on_start` has returned; without it there is nothing for `on_stop` to undo. `kit` is what few
    incarnations use, None until then. `watching` maps what is watched to the message asked for, None for `Down`.
    """

    __slots__ = ("actor", "began", "context", "fenced", "kit", "number", "ready", "tasks", "timers", "watching")

    def __init__(self, number: int, context: contextvars.Context, began: float) -> None:
        self.number = number
        self.context = context
        self.began = began
        self.actor: Actor[Any] | None = None
        self.ready = False
        self.fenced = False
        self.tasks: dict[Envelope, asyncio.Task[Any]] = {}
        self.timers: list[Timer] = []
        self.watching: dict[Cell, Message[Any] | None] = {}
        self.kit: Kit | None = None

    def cancel(self) -> None:
        """Ask every suspended handler to end."""
        for task in list(self.tasks.values()):
            task.cancel()

    def end_timers(self) -> None:
        """Cancel what the incarnation has set."""
        for timer in self.timers:
            timer.cancel()
        self.timers.clear()


class Watcher(Protocol):
    """Whoever watches and is no actor."""

    def told(self, cell: Cell, down: Down) -> None:
        """The one notice of a watch of `cell`."""
        ...


START: Final = object()
"""What a life begins with, before any message: make the actor and call its `on_start`."""


class Cell:
    """One address. See `kernel` for who changes what."""

    __slots__ = (
        "children",
        "concurrency",
        "exit",
        "factory",
        "fresh",
        "idle",
        "kernel",
        "leaving",
        "life",
        "limit",
        "mailbox",
        "name",
        "number",
        "on_exit",
        "overflow",
        "parent",
        "path",
        "reaper",
        "running",
        "scheduled",
        "shutdown",
        "started",
        "state",
        "stopped",
        "table",
        "watchers",
    )

    def __init__(self, kernel: Kernel, path: str, name: str, factory: Callable[[], Actor[Any]]) -> None:
        self.kernel = kernel
        self.path = path
        self.name = name
        self.factory = factory
        self.state: LifeState = "new"
        self.number = 0
        self.life: Life | None = None
        self.mailbox: Mailbox[Envelope] | None = None
        self.limit = DEFAULT_LIMIT
        self.overflow: Overflow = "refuse"
        self.concurrency = 1
        self.running = 0
        self.scheduled = False
        self.fresh = False
        self.leaving = False
        self.table: dict[type, Callable[..., Any]] | None = None
        self.parent: Cell | None = None
        self.children: dict[str, Cell] = {}
        self.watchers: dict[Cell | Watcher, int] = {}
        self.on_exit: Callable[[Cell, int, Exit], None] | None = None
        self.exit: Exit = GONE
        self.shutdown = 5.0
        self.started: asyncio.Future[None] | None = None
        self.stopped: asyncio.Future[None] | None = None
        self.idle: asyncio.Future[None] | None = None
        self.reaper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Cell {self.path} {self.state} #{self.number}>"

    def advance(self, event: LifeEvent) -> None:
        """Follow the lifecycle table. Raises `IllegalTransition`."""
        self.state = advance(self.state, event)

    def box(self) -> Mailbox[Envelope]:
        """The mailbox, made when first needed."""
        if self.mailbox is None:
            self.mailbox = Mailbox(self.limit, self.overflow)
        return self.mailbox

    def takes(self) -> tuple[str, ...]:
        """Names of the message types there is a handler for, sorted."""
        return tuple(sorted(kind.__name__ for kind in self.table or ()))

    def runnable(self) -> bool:
        """Whether a worker could begin something now."""
        if self.running >= self.concurrency:
            return False
        if self.state == "running":
            return bool(self.mailbox)
        return self.fresh and self.state == "starting"

    def take(self) -> Envelope | None:
        """What may begin now: the start of a life before any message, then control, then work."""
        if self.running >= self.concurrency:
            return None
        if self.state == "running":
            return self.mailbox.take() if self.mailbox is not None else None
        if self.fresh and self.state == "starting":
            self.fresh = False
            return Envelope(START)
        return None


class Delivery:
    """The record of one delivery, read from the context by every framework call made in it."""

    __slots__ = ("cell", "envelope", "life")

    def __init__(self, cell: Cell, life: Life, envelope: Envelope) -> None:
        self.cell = cell
        self.life = life
        self.envelope = envelope


DELIVERY: Final[contextvars.ContextVar[Delivery | None]] = contextvars.ContextVar("understudy_delivery", default=None)


def current() -> Delivery | None:
    """The delivery this code runs in, or None outside of handlers. Raises `Fenced` if its life was cut off."""
    delivery = DELIVERY.get()
    if delivery is not None and delivery.life.fenced:
        raise Fenced(f"{delivery.cell.path} #{delivery.life.number} was killed")
    return delivery
