"""What the kernel keeps of one address: the cell.

A hundred thousand cells may rest at once, so one is small: a slots object whose mailbox, children and watchers are
made when first needed, and whose path is computed when somebody asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from understudy.actors.delivery import CLOSED, Door, Entry, Handler, Life
from understudy.actors.lifecycle import GONE, TABLE, Exit, IllegalTransition, LifeEvent, LifeState
from understudy.actors.mailbox import DEFAULT_LIMIT, Mailbox, Overflow

if TYPE_CHECKING:
    from understudy.actors.actor import Actor
    from understudy.actors.kernel import Kernel
    from understudy.actors.messages import Down
    from understudy.actors.remote.far import FarCell


class Watcher(Protocol):
    """Whoever watches and is no actor."""

    def told(self, cell: Cell, down: Down) -> None:
        """The one notice of a watch of `cell`."""
        ...


IDLE: Final = 0
QUEUED: Final = 1
BUSY: Final = 2


class _Waits:
    """Who waits for what of a cell, while somebody does: see `Cell`."""

    __slots__ = ("idle", "reaper", "started", "stopped", "watchers")

    def __init__(self) -> None:
        self.started: asyncio.Future[None] | None = None
        self.stopped: asyncio.Future[None] | None = None
        self.idle: asyncio.Future[None] | None = None
        self.reaper: asyncio.Task[None] | None = None
        self.watchers: dict[Cell | Watcher, int] | None = None


class Cell:
    """One address. See `kernel` for who changes what.

    `status` is `IDLE` (nothing waits, a message may begin at once), `QUEUED` (in the run queue, or being served) or
    `BUSY` (it cannot take a message now: a handler is suspended, or the state is not `running`). `first` is the only
    message that waits, if it is one; then there is no mailbox. `plain` says that it is running and that messages are
    all there is to attend to.
    """

    __slots__ = (
        "_children",
        "concurrency",
        "door",
        "exit",
        "factory",
        "first",
        "fresh",
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
        "shutdown",
        "state",
        "status",
        "waits",
    )

    far: FarCell | None = None
    """Itself, if it is an address of another node."""

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
        self.on_exit = on_exit
        self.exit: Exit = GONE
        self.shutdown = 5.0
        self.waits: _Waits | None = None

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
        return (self.waits.watchers if self.waits is not None else None) or {}

    def _wait(self) -> _Waits:
        if self.waits is None:
            self.waits = _Waits()
        return self.waits

    @property
    def started(self) -> asyncio.Future[None] | None:
        """Done when the incarnation that is starting has started or ended."""
        return None if self.waits is None else self.waits.started

    @started.setter
    def started(self, future: asyncio.Future[None] | None) -> None:
        self._wait().started = future

    @property
    def stopped(self) -> asyncio.Future[None] | None:
        """Done when the address is gone."""
        return None if self.waits is None else self.waits.stopped

    @stopped.setter
    def stopped(self, future: asyncio.Future[None] | None) -> None:
        self._wait().stopped = future

    @property
    def idle(self) -> asyncio.Future[None] | None:
        """Done when the last handler has ended."""
        return None if self.waits is None else self.waits.idle

    @idle.setter
    def idle(self, future: asyncio.Future[None] | None) -> None:
        self._wait().idle = future

    @property
    def reaper(self) -> asyncio.Task[None] | None:
        """The task in which an end is under way."""
        return None if self.waits is None else self.waits.reaper

    @reaper.setter
    def reaper(self, task: asyncio.Task[None] | None) -> None:
        self._wait().reaper = task

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
        stops = life.ready and self.kind is not None and self.kind._stops
        return not (life.current is not None or life.tasks or self._children or stops or life.kit is not None)

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
        self.door = kind._door if short_way else CLOSED
        if self.mailbox is not None:
            self.mailbox.limit, self.mailbox.overflow = self.limit, self.overflow

    def box(self) -> Mailbox[Entry]:
        """The mailbox, made when first needed; what waited alone, while there was none, is the first in it."""
        box = self.mailbox
        if box is None:
            box = self.mailbox = self.kernel.dispatcher.take_box(self.limit, self.overflow)
        if self.first is not None:
            box.work.append(self.first)
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
        waits = self._wait()
        if waits.watchers is None:
            waits.watchers = {}
        waits.watchers[watcher] = self.number

    def unwatch(self, watcher: Cell | Watcher) -> None:
        """Forget a watcher."""
        if self.waits is not None and self.waits.watchers is not None:
            self.waits.watchers.pop(watcher, None)

    def take_watchers(self) -> Iterator[Cell | Watcher]:
        """Everyone to be told, once."""
        waits = self.waits
        if waits is None:
            return iter(())
        watchers, waits.watchers = waits.watchers, None
        return iter(watchers or ())
