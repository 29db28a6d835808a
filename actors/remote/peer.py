"""Another node, as this one knows it: the addresses there that are used here, requests that wait, what is watched.

A peer outlives its links. When one is lost, every request that waits fails with `ActorStopped` (`no-connection`: it may
have been served), every watcher gets its one notice, and nothing of it comes back with the next link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from understudy.actors.delivery import Envelope, path_of
from understudy.actors.errors import (
    ActorStopped,
    AskError,
    AskTimeout,
    CallCycle,
    MailboxFull,
    NotHandled,
    ReplyLost,
    SpecError,
    UsageError,
)
from understudy.actors.lifecycle import Exit, ExitKind
from understudy.actors.messages import Down, reply_type, tag_of
from understudy.actors.remote.far import FarCell, FarHop
from understudy.actors.remote.items import (
    LONGEST_NAME,
    Cancel,
    Closed,
    Credit,
    Dropped,
    Ended,
    Fail,
    Find,
    Found,
    Opened,
    Unwatch,
    Watch,
)
from understudy.actors.remote.link import Hop, Link
from understudy.actors.telemetry import DeadLetter
from understudy.actors.timers import Timer

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel
    from understudy.actors.remote.nodes import Nodes

ADDRESSES: Final = 10_000
"""Addresses of one peer that are used here at most."""
_SWEEP: Final = 1_000
"""Requests that wait from which on those that nobody waits for are looked for."""
NEVER: Final = Exit("no-connection", "never connected")
_KINDS: Final[dict[str, ExitKind]] = {
    kind: kind for kind in ("normal", "shutdown", "error", "loop", "escalate", "start", "killed", "gone")
}
UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What reading something raises that is not what it should be. A text that is not UTF-8 is a ValueError."""


class Asked(NamedTuple):
    """A request that waits: the type of its message, and, if it has its own deadline or a chain, its envelope."""

    cell: FarCell
    message: type
    # Any: its value is of the type that the message declares
    reply: asyncio.Future[Any]
    envelope: Envelope | None


class Peer:
    """See the module. `link` is the present one; `exit` says why there is none; `held`: see `Session.weigh`."""

    def __init__(self, nodes: Nodes, kernel: Kernel, name: str) -> None:
        self.nodes = nodes
        self.kernel = kernel
        self.name = name
        self.epoch = 0
        self.link: Link | None = None
        self.exit = NEVER
        self._cells: dict[str, FarCell] = {}
        self._channels: dict[int, FarCell] = {}
        self._asks: dict[int, Asked] = {}
        self._deadlines: list[tuple[float, int, float]] = []
        self._armed = inf
        self._alarm: Timer | None = None
        self._watched: dict[int, FarCell] = {}
        self._watches: dict[FarCell, int] = {}
        self._finds: dict[int, asyncio.Future[Found]] = {}
        self._decoders: dict[type, Callable[[Any], Any]] = {}
        self.full = 0
        self.held = 0
        self._sweep = _SWEEP

    @property
    def asking(self) -> int:
        """Requests that wait."""
        return len(self._asks)

    def cell(self, name: str) -> FarCell:
        """The address of the actor `name` there. Raises `SpecError` for a malformed name."""
        cell = self._cells.get(name)
        if cell is None:
            if not name or name.startswith("@") or not all(name.split("/")):
                raise SpecError(f"{self.name}/{name}: {name!r} is no name of an actor")
            if len(name) > LONGEST_NAME:
                raise SpecError(f"{self.name}/{name[:50]}…: a name of {len(name)} characters; {LONGEST_NAME} at most")
            if len(self._cells) >= ADDRESSES:
                raise UsageError(f"{self.name}/{name}: {ADDRESSES} actors of one node are addressed already")
            cell = self._cells[name] = FarCell(self, name)
        return cell

    def known(self, name: str) -> FarCell | None:
        """The address of the actor `name` there, if it is used here."""
        return self._cells.get(name)

    def channel_for(self, cell: FarCell) -> int:
        """A channel of the present link for this address."""
        channel = len(self._channels) + 1
        while channel in self._channels:
            channel += 1
        self._channels[channel] = cell
        return channel

    def check_writable(self, message: Any) -> None:
        """Raise `UsageError` for a message that could not be sent: one that is kept is written later."""
        try:
            msgspec.msgpack.encode(message)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(f"{type(message).__qualname__} cannot be sent to another node: {error}") from error

    def count_full(self) -> None:
        """A message was refused for want of credit."""
        self.full += 1

    # -- the link ----------------------------------------------------------------------------------------------

    def connect(self, link: Link) -> None:
        """There is a link."""
        self.link, self.epoch = link, link.epoch
        for cell in self._cells.values():
            cell.set_state()

    def disconnect(self, reason: str) -> None:
        """The link is lost. See the module."""
        self.link = None
        self.exit = exit = Exit("no-connection", f"node {self.name}: {reason}")
        self._channels.clear()
        for cell in list(self._cells.values()):
            cell.disconnect()
        asks, self._asks = self._asks, {}
        for asked in asks.values():
            if not asked.reply.done():
                asked.reply.set_exception(ActorStopped(asked.cell.path, exit))
        self._deadlines.clear()
        watched, self._watched = self._watched, {}
        self._watches.clear()
        for cell in watched.values():
            self.kernel.tell_watchers(cell, Down(cell.path, 0, exit.kind, exit.detail, restarting=False))
        finds, self._finds = self._finds, {}
        for find in finds.values():
            if not find.done():
                find.set_result(Found(0, "", exit.detail))

    def uncrowded(self) -> None:
        """The link takes more."""
        for cell in list(self._channels.values()):
            cell.grant()

    # -- requests ----------------------------------------------------------------------------------------------

    def ask(self, cell: FarCell, envelope: Envelope, link: Link) -> None:
        """Send a request that somebody waits for with a deadline of his own."""
        id = self.nodes.next_id()
        assert envelope.deadline is not None  # noqa: S101  # a request has one
        assert envelope.reply is not None  # noqa: S101  # as well
        seconds = envelope.deadline - self.kernel.now()
        link.ask(cell.channel, id, seconds, envelope.message, self._hops(id, envelope) if envelope.chain else ())
        self._ask(id, Asked(cell, type(envelope.message), envelope.reply, envelope))

    def _ask(self, id: int, asked: Asked) -> None:
        self._asks[id] = asked
        if len(self._asks) >= self._sweep:
            for each in [each for each, one in self._asks.items() if one.reply.done()]:
                del self._asks[each]  # nobody waits for it any more, and it was never answered
            self._sweep = max(_SWEEP, 2 * len(self._asks))

    # Any: the message is of any type that can be written, and so is its reply
    def request(self, cell: FarCell, message: Any, seconds: float, link: Link) -> tuple[int, asyncio.Future[Any]]:
        """Send a request from outside of actors: its id and its reply, which fails after `seconds`."""
        id = self.nodes.next_id()
        # When nothing else is under way there is nothing that it could share a write with.
        link.ask(cell.channel, id, seconds, message, (), now=not self._asks)
        reply: asyncio.Future[Any] = self.kernel.loop.create_future()
        self._ask(id, Asked(cell, type(message), reply, None))
        until = self.kernel.now() + seconds
        heappush(self._deadlines, (until, id, seconds))
        if until < self._armed:
            self._arm(until)
        return id, reply

    def _arm(self, until: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._armed = until
        self._alarm = self.kernel.timers.at(until, self._expire)

    def _expire(self) -> None:
        """Fail the requests whose time is over. Their entries stay: a late reply is a dead letter."""
        self._alarm, self._armed = None, inf
        now, deadlines = self.kernel.now(), self._deadlines
        while deadlines and (deadlines[0][0] <= now or self._over(deadlines[0][1])):
            _, id, seconds = heappop(deadlines)
            asked = self._asks.get(id)
            if asked is not None and not asked.reply.done():
                asked.reply.set_exception(AskTimeout(asked.cell.path, seconds))
        if deadlines:
            self._arm(deadlines[0][0])

    def _over(self, id: int) -> bool:
        asked = self._asks.get(id)
        return asked is None or asked.reply.done()

    def forsake(self, id: int, reply: asyncio.Future[Any], *, cancel: bool) -> None:
        """The asker was cancelled."""
        if cancel and id in self._asks and self.link is not None:
            self.link.control(Cancel(id))
        if reply.done() and not reply.cancelled():
            reply.exception()  # both came at once; nobody else will look

    def _hops(self, id: int, envelope: Envelope) -> tuple[Hop, ...]:
        """The chain as it travels: what came from elsewhere, and this request for all that is ours."""
        foreign = tuple(each.hop for each in envelope.chain if isinstance(each, FarHop))
        return (*foreign, (self.nodes.name, self.nodes.epoch, id, path_of(envelope.sender)))

    def chain_of(self, id: int) -> tuple[Envelope, ...] | None:
        """The chain of a request of ours, which came back to us; None when it does not wait any more."""
        asked = self._asks.get(id)
        return None if asked is None or asked.envelope is None else asked.envelope.chain

    def id_of(self, envelope: Envelope) -> int:
        """The number of a request that waits, 0 for none."""
        return next((id for id, asked in self._asks.items() if asked.envelope is envelope), 0)

    def replied(self, replies: list[tuple[int, msgspec.Raw]]) -> None:
        """See `Hears`."""
        asks, decoders = self._asks, self._decoders
        for id, raw in replies:
            asked = asks.pop(id, None)
            if asked is None:
                self.nodes.count(self, "unasked")
                continue
            cell, message, reply, envelope = asked
            decode = decoders.get(message) or self._decoder(message)
            try:
                value = decode(raw)
            except Exception as error:  # also what a `__post_init__` raises
                text = f"its reply is not what {message.__name__} declares: {error}"
                if not reply.done():
                    reply.set_exception(ReplyLost(cell.path, text))
                continue
            if not reply.done():
                reply.set_result(value)
            else:
                sender = "" if envelope is None else path_of(envelope.sender)
                self.kernel.telemetry.dead(DeadLetter(sender, cell.path, "late", value))

    def _decoder(self, message: type) -> Callable[[Any], Any]:
        decoder = self._decoders[message] = msgspec.msgpack.Decoder(reply_type(message)).decode
        return decoder

    def failed(self, item: Fail) -> None:
        """A request failed there."""
        asked = self._asks.pop(item.id, None)
        if asked is None:
            self.nodes.count(self, "unasked")
        elif not asked.reply.done():
            asked.reply.set_exception(_error(asked.cell, asked.message, item, self.name))

    # -- channels ----------------------------------------------------------------------------------------------

    def opened(self, item: Opened) -> None:
        """A channel leads somewhere."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            cell.opened(item)

    def credited(self, item: Credit) -> None:
        """More may be sent."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        elif item.allowed > cell.allowed:
            cell.allowed = item.allowed
            cell.grant()

    def closed(self, item: Closed) -> None:
        """A channel leads nowhere. Its requests fail one by one."""
        cell = self._channels.pop(item.channel, None)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            cell.closed(item)

    def dropped(self, item: Dropped) -> None:
        """Messages that were sent were not taken."""
        cell = self._channels.get(item.channel)
        if cell is None:
            self.nodes.count(self, "channel")
        else:
            self.nodes.note(self, "dropped", f"{cell.path}: {item.count} messages were not taken: {item.reason}")

    # -- watching ----------------------------------------------------------------------------------------------

    def watch(self, cell: FarCell) -> None:
        """Somebody here watches. Without a link nobody comes here: see `watching`."""
        assert self.link is not None  # noqa: S101  # as above
        id = self.nodes.next_id()
        self._watched[id] = cell
        self._watches[cell] = id
        self.link.control(Watch(id, cell.label))

    def unwatch(self, cell: FarCell) -> None:
        """Nobody here does any more."""
        id = self._watches.pop(cell, 0)
        if self._watched.pop(id, None) is not None and self.link is not None:
            self.link.control(Unwatch(id))

    def ended(self, item: Ended) -> None:
        """The notice of a watch."""
        cell = self._watched.pop(item.id, None)
        if cell is None:
            self.nodes.count(self, "unasked")
        else:
            self._watches.pop(cell, None)
            kind = _KINDS.get(item.kind, "error")
            self.kernel.tell_watchers(cell, Down(cell.path, item.incarnation, kind, item.detail, item.restarting))

    # -- names -------------------------------------------------------------------------------------------------

    async def find(self, name: str, seconds: float) -> Found:
        """Ask for the path of a name. Raises `TimeoutError`."""
        if self.link is None:
            return Found(0, "", self.exit.detail)
        id = self.nodes.next_id()
        found: asyncio.Future[Found] = self.kernel.loop.create_future()
        self._finds[id] = found
        self.link.control(Find(id, name))
        try:
            async with asyncio.timeout(seconds):
                return await found
        finally:
            self._finds.pop(id, None)

    def found(self, item: Found) -> None:
        """The answer to `find`."""
        future = self._finds.pop(item.id, None)
        if future is None:
            self.nodes.count(self, "unasked")
        elif not future.done():
            future.set_result(item)


def _error(cell: FarCell, message: type, item: Fail, node: str) -> AskError:
    """The error of a failed request, as it would be in process; paths are those of here."""
    path = cell.path
    if item.kind == "stopped":
        return ActorStopped(path, Exit(_KINDS.get(item.exit, "error"), item.detail))
    if item.kind == "unknown":
        return NotHandled(path, message, item.names)
    if item.kind == "full":
        return MailboxFull(path, item.limit)
    if item.kind == "expired":
        return AskTimeout(path, 0.0)
    if item.kind == "cycle":
        return CallCycle(path, item.names)
    if item.kind == "refused" and hasattr(message, "__struct_config__") and tag_of(message) not in item.names:
        return NotHandled(path, message, item.names)
    return ReplyLost(path, f"node {node}: {item.detail}")
