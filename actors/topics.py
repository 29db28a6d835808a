"""Topics: publish a message to whoever subscribed, in this process.

    prices = system.topic(Price)                  # in an actor: self.context.topic(Price)
    prices.subscribe(ref)
    count = prices.publish(Price("A", 3))         # delivered to so many

`publish` is a `tell` to each subscriber, in the order they subscribed: it never waits, and order is kept between one
publisher and one subscriber. A subscriber that is full, dead or failing takes nothing from the others; what it refuses
is a dead letter. Its restarts do not end a subscription, the end of its address does. A publisher gets what it
publishes only if it has subscribed itself. Nothing is kept for those who subscribe later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from understudy.actors.delivery import current_life
from understudy.actors.errors import UsageError
from understudy.actors.messages import Down, Message, members
from understudy.actors.refs import Ref

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.kernel import Kernel

M = TypeVar("M")

SUBSCRIBERS: Final = 10_000
TOPICS: Final = 10_000
"""Topics of one system at most: they are kept as long as it runs, so a name for each request would not do."""


class Topic(Generic[M]):
    """One topic of one system; the same for the same message type and name. See the module.

    `limit`: subscribers at most, default 10,000.
    """

    # `accepts` is a type form such as `Add | Total`; there is no precise type for those before TypeForm.
    def __init__(self, kernel: Kernel, accepts: Any, name: str = "", *, limit: int = SUBSCRIBERS) -> None:
        kinds = members(accepts)
        if not kinds:
            raise UsageError(f"topic {name!r} of {accepts!r}: not a message class")
        if limit < 1:
            raise UsageError(f"topic {name!r}: limit {limit!r}; at least 1")
        self.name = name or " | ".join(kind.__name__ for kind in kinds)
        self.limit = limit
        self._kinds = kinds
        self._kernel = kernel
        self._subscribers: dict[Ref[Any], Cell | None] = {}

    def __repr__(self) -> str:
        return f"<topic {self.name}, {len(self)} subscribers>"

    def __len__(self) -> int:
        return len(self._subscribers)

    def subscribe(self, ref: Ref[M]) -> bool:
        """Deliver what is published from now on to `ref`; False when it has subscribed already, or has stopped.

        The address of a pool or of an agent may subscribe, too, and stays until it is taken off. Raises `UsageError`
        past the limit, and for an actor without a handler.
        """
        self._enter()
        if ref in self._subscribers:
            return False
        cell = ref.cell() if type(ref) is Ref else None
        if cell is not None:
            if cell.state in ("stopping", "stopped"):
                return False
            for kind in self._kinds:
                if cell.table is not None and kind not in cell.table:
                    raise UsageError(f"topic {self.name!r}: {cell.path} has no handler for {kind.__name__}")
        if len(self._subscribers) >= self.limit:
            raise UsageError(f"topic {self.name!r}: no room for {ref.path}, it has {self.limit} subscribers")
        self._subscribers[ref] = cell
        if cell is not None:
            cell.watch(self)
        return True

    def unsubscribe(self, ref: Ref[Any]) -> bool:
        """Deliver nothing more to `ref`; False when it had not subscribed. What is in its mailbox stays there."""
        self._enter()
        if ref not in self._subscribers:
            return False
        cell = self._subscribers.pop(ref)
        if cell is not None:
            cell.unwatch(self)
        return True

    def publish(self, message: M) -> int:
        """Tell every subscriber; how many took it. Raises `UsageError` for a message of another type."""
        self._enter()
        if type(message) not in self._kinds:
            raise UsageError(f"topic {self.name!r}: publish of {type(message).__name__}")
        return sum(1 for ref in list(self._subscribers) if ref.tell(message))

    def told(self, cell: Cell, down: Down) -> None:
        """For the kernel: an incarnation of a subscriber ended. Its address may go on."""
        if down.restarting:
            cell.watch(self)
        else:
            self._subscribers.pop(self._kernel.ref_of(cell), None)

    def _enter(self) -> None:
        current_life()
        self._kernel.check_thread()


class Topics:
    """The topics of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._topics: dict[tuple[tuple[type[Message[Any]], ...], str], Topic[Any]] = {}

    def find(self, accepts: Any, name: str = "", *, limit: int | None = None) -> Topic[Any]:
        """The topic of this type and name, made when first asked for. `UsageError`: another limit, or past 10,000."""
        key = (members(accepts), name)
        topic = self._topics.get(key)
        if topic is None:
            if len(self._topics) >= TOPICS:
                raise UsageError(f"topic {name!r}: no more than {TOPICS} topics in one system")
            topic = Topic(self._kernel, accepts, name, limit=SUBSCRIBERS if limit is None else limit)
            self._topics[key] = topic
        elif limit is not None and limit != topic.limit:
            raise UsageError(f"topic {topic.name!r} has a limit of {topic.limit}, not {limit}")
        return topic
